"""An attested service's own keys lie on disk only wrapped by its master key."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.platform import NOW

from strongroom.base.errors import IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.local import LocalMasterKey
from strongroom.services import identity
from strongroom.services.identity import (
    ServiceIdentity,
    has_sealed_identity,
    has_successor,
    install_successor,
    open_identity,
    prepare_successor,
)

NAMES = ("identity.key", "signing.key", "statement.key")


def master_key(byte: int = 1) -> LocalMasterKey:
    return LocalMasterKey(SecretBytes(bytes([byte]) * 32), algorithm=WrapAlgorithm.CUSTODY_A256GCM)


def opened(folder: Path, *, sealing: LocalMasterKey | None) -> ServiceIdentity:
    return open_identity(folder, common_name="test", sans=["localhost"], now=NOW, sealing=sealing)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_its_keys_are_sealed_and_come_back(folder: Path) -> None:
    assert not has_sealed_identity(folder)
    first = opened(folder, sealing=master_key())
    assert has_sealed_identity(folder)
    files = {path.name: path for path in folder.iterdir()}
    assert {"state.key.sealed", *(f"{name}.sealed" for name in NAMES)} <= set(files)
    assert not set(NAMES) & set(files)
    assert b"PRIVATE" not in b"".join(path.read_bytes() for path in files.values())
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in files.values())
    again = opened(folder, sealing=master_key())
    assert again.identity == first.identity
    assert again.signing.thumbprint == first.signing.thumbprint
    assert again.statement.thumbprint == first.statement.thumbprint


def test_another_master_key_does_not_open_them(folder: Path) -> None:
    opened(folder, sealing=master_key())
    with pytest.raises(IntegrityError):
        opened(folder, sealing=master_key(2))


@pytest.mark.parametrize("name", [*NAMES, "state.key"])
def test_an_edited_or_exchanged_key_is_noticed(folder: Path, name: str) -> None:
    opened(folder, sealing=master_key())
    others = (*NAMES, "state.key")
    path, other = folder / f"{name}.sealed", folder / f"{others[others.index(name) - 1]}.sealed"
    good = path.read_bytes()
    for content in (other.read_bytes(), good[:-1], good[:-1] + bytes((good[-1] ^ 1,)), b""):
        path.write_bytes(content)
        with pytest.raises(IntegrityError):
            opened(folder, sealing=master_key())
    path.write_bytes(good)
    assert opened(folder, sealing=master_key())


def test_a_key_in_the_clear_is_never_taken_for_a_sealed_one(folder: Path) -> None:
    """The operator puts keys that he knows into the state folder."""
    theirs = opened(folder, sealing=None)
    (folder / "identity.pem").unlink()
    ours = opened(folder, sealing=master_key())
    assert ours.identity != theirs.identity


def prepared(folder: Path) -> str:
    key, _ = prepare_successor(folder, common_name="test", now=NOW, sealing=master_key())
    return key.verifying_key.thumbprint


def test_a_successor_is_sealed_too_and_takes_the_identitys_place(folder: Path) -> None:
    first = opened(folder, sealing=master_key())
    new = prepared(folder)
    assert prepared(folder) == new
    assert not (folder / "identity-next.key").exists()
    assert b"PRIVATE" not in b"".join(path.read_bytes() for path in folder.iterdir())
    assert has_successor(folder, new=new, sealing=master_key())
    assert not has_successor(folder, new=first.identity, sealing=master_key())
    assert opened(folder, sealing=master_key()).identity == first.identity, "nothing uses it before it is installed"

    install_successor(folder, old=first.identity, sealing=master_key())
    after = opened(folder, sealing=master_key())
    assert (after.identity, after.predecessors) == (new, (first.identity,))
    assert after.statement.thumbprint == first.statement.thumbprint
    assert not list(folder.glob("identity-next*"))
    assert not has_successor(folder, new=new, sealing=master_key())


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("written", range(5))
def test_a_crash_at_any_point_of_installing_leaves_a_service_that_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, written: int, sealed: bool
) -> None:
    sealing = master_key() if sealed else None
    first = opened(folder, sealing=sealing)
    new, _ = prepare_successor(folder, common_name="test", now=NOW, sealing=sealing)
    todo = written

    class PowerCutError(Exception): ...

    def until_the_cut(act: Callable[..., None]) -> Callable[..., None]:
        def cut(*args: Any, **options: Any) -> None:
            nonlocal todo
            if todo == 0:
                raise PowerCutError
            todo -= 1
            act(*args, **options)

        return cut

    with monkeypatch.context() as patched:
        patched.setattr(identity, "replace_file", until_the_cut(identity.replace_file))
        patched.setattr(Path, "unlink", until_the_cut(Path.unlink))
        with pytest.raises(PowerCutError):
            install_successor(folder, old=first.identity, sealing=sealing)
    after = opened(folder, sealing=sealing)
    if written == 0:  # it was not begun
        assert after.identity == first.identity
        install_successor(folder, old=first.identity, sealing=sealing)
        after = opened(folder, sealing=sealing)
    assert (after.identity, after.predecessors) == (new.verifying_key.thumbprint, (first.identity,))
    assert not list(folder.glob("identity-next*"))


def test_the_operators_own_successor_is_not_taken(folder: Path) -> None:
    """The operator of an attested service prepares a key that he knows."""
    first = opened(folder, sealing=master_key())
    prepare_successor(folder, common_name="test", now=NOW)
    (folder / "predecessors.json").write_text(f'["{first.identity}"]')
    assert opened(folder, sealing=master_key()).identity == first.identity


def test_the_master_keys_holder_sees_none_of_them(folder: Path) -> None:
    """A vault sees what it wraps: one random key, which opens nothing without the state folder."""

    class Holder:
        def __init__(self) -> None:
            self.seen: list[SecretBytes] = []

        def wrap(self, key: SecretBytes, *, context: bytes) -> bytes:
            self.seen.append(key)
            return master_key().wrap(key, context=context)

        def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
            return master_key().unwrap(wrapped, context=context)

    holder = Holder()
    open_identity(folder, common_name="test", sans=["localhost"], now=NOW, sealing=holder)
    assert [len(key) for key in holder.seen] == [32]
