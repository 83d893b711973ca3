"""An attested service's own keys lie on disk only wrapped by its master key."""

import stat
from pathlib import Path

import pytest
from tests.support.platform import NOW

from strongroom.base.errors import IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.local import LocalMasterKey
from strongroom.services.identity import ServiceIdentity, has_sealed_identity, open_identity

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
