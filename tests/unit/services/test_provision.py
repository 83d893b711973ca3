"""Files as Kubernetes mounts them become files as a service takes them."""

import os
import socket
from pathlib import Path

import pytest
from tests.support.platform import NOW

from strongroom.base.encoding import canonical_json
from strongroom.base.errors import ConfigurationError, ConflictError, UnavailableError
from strongroom.services.identity import ServiceIdentity, open_identity
from strongroom.services.provision import copy_private, install_identity, make_private, wait_for_socket

KEYS = ("identity.key", "identity.pem", "signing.key", "statement.key")


def opened(folder: Path) -> ServiceIdentity:
    return open_identity(folder, common_name="a service", sans=["127.0.0.1"], now=NOW)


def mount(folder: Path, content: dict[str, bytes]) -> Path:
    """Show a Secret as the kubelet does: links, through a link, to files that a group may read."""
    data = folder / "..2026_01_01_00_00_00.1"
    data.mkdir(parents=True)
    (folder / "..data").symlink_to(data.name)
    for name, each in content.items():
        (data / name).write_bytes(each)
        (data / name).chmod(0o440)
        (folder / name).symlink_to(f"..data/{name}")
    return folder


def owners(tmp_path: Path) -> tuple[str, dict[str, bytes]]:
    """An identity that an owner made, and its files."""
    folder = tmp_path / "owner"
    identity = opened(folder).identity
    return identity, {name: (folder / name).read_bytes() for name in KEYS}


def test_the_service_has_the_identity_that_its_owner_made(tmp_path: Path) -> None:
    identity, files = owners(tmp_path)
    state = tmp_path / "volume" / "state"

    install_identity(mount(tmp_path / "secret", files), state=state)

    assert opened(state).identity == identity
    assert {path.stat().st_mode & 0o777 for path in state.iterdir()} == {0o600}


def test_the_secret_is_needed_once(tmp_path: Path) -> None:
    identity, files = owners(tmp_path)
    state = tmp_path / "state"
    install_identity(mount(tmp_path / "secret", files), state=state)
    (tmp_path / "gone").mkdir()

    install_identity(tmp_path / "gone", state=state)

    assert opened(state).identity == identity


def test_without_any_identity_no_service_starts(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    with pytest.raises(ConfigurationError, match="no identity"):
        install_identity(tmp_path / "gone", state=tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_a_volume_of_another_service_is_left_as_it_is(tmp_path: Path) -> None:
    _, files = owners(tmp_path)
    other = opened(tmp_path / "state").identity
    with pytest.raises(ConflictError, match=other):
        install_identity(mount(tmp_path / "secret", files), state=tmp_path / "state")
    assert opened(tmp_path / "state").identity == other


def test_a_rotated_identity_takes_the_place_of_its_predecessor_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    before = opened(state)
    identity, files = owners(tmp_path)
    foreign = mount(tmp_path / "foreign", {**files, "predecessors.json": canonical_json(["ab" * 32])})
    with pytest.raises(ConflictError):
        install_identity(foreign, state=state)

    named = mount(tmp_path / "named", {**files, "predecessors.json": canonical_json([before.identity])})
    install_identity(named, state=state)

    now = opened(state)
    assert (now.identity, now.predecessors) == (identity, (before.identity,))
    assert now.statement.thumbprint == before.statement.thumbprint, "the log's key is another"


def test_what_the_service_replaced_itself_stays(tmp_path: Path) -> None:
    _, files = owners(tmp_path)
    state, secret = tmp_path / "state", mount(tmp_path / "secret", files)
    install_identity(secret, state=state)
    other = tmp_path / "other"
    opened(other)
    (state / "signing.key").write_bytes((other / "signing.key").read_bytes())

    install_identity(secret, state=state)

    assert opened(state).signing.thumbprint == opened(other).signing.thumbprint


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_secret_without_a_key_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    secret = mount(tmp_path / "secret", {"identity.key": content, "identity.pem": b"x"})
    with pytest.raises(ConfigurationError, match=r"identity\.key does not hold a key"):
        install_identity(secret, state=tmp_path / "state")


def test_what_the_kubelet_opened_to_the_group_is_private_again(tmp_path: Path) -> None:
    state = tmp_path / "state"
    identity = opened(state).identity
    (state / "endorsements").mkdir()
    for path in (state, *state.rglob("*")):  # as with fsGroup
        path.chmod(0o2770 if path.is_dir() else 0o660)
    with pytest.raises(ConfigurationError, match="open to others"):
        opened(state)

    make_private(state)

    assert opened(state).identity == identity
    assert (state / "endorsements").stat().st_mode & 0o7777 == 0o700


def test_there_may_be_no_state_yet(tmp_path: Path) -> None:
    make_private(tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_mounted_files_are_copied_for_the_service_alone(tmp_path: Path) -> None:
    secret = mount(tmp_path / "secret", {"pgpass": b"db:5432:keys:keys:word", "root.crt": b"certificate"})

    copy_private(secret, into=tmp_path / "private")

    made = {path.name: path.read_bytes() for path in (tmp_path / "private").iterdir()}
    assert made == {"pgpass": b"db:5432:keys:keys:word", "root.crt": b"certificate"}
    for path in (tmp_path / "private").iterdir():
        assert not path.is_symlink()
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_uid == os.geteuid()


def test_waits_for_a_socket_and_says_whose_it_is(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as missing:
        wait_for_socket(tmp_path / "platform.sock", timeout_s=0)
    assert "DaemonSet" in missing.value.action
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        wait_for_socket(tmp_path / "s", timeout_s=0)


def test_a_socket_that_its_process_left_is_waited_for(tmp_path: Path) -> None:
    """With it lie documents of the process before: of another vendor, when another owner's platform was here."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
    with pytest.raises(UnavailableError, match="nobody answers"):
        wait_for_socket(tmp_path / "s", timeout_s=0)
