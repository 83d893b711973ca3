"""What a container's files are made into before its service starts.

Kubernetes shows a Secret as links to files that a group may read, and opens a volume's files to a group (`fsGroup`). A
service takes neither for its private files. What is mounted is therefore copied into files of the service's own.
"""

import socket
import stat
import time
from pathlib import Path
from typing import Final

from strongroom.base.encoding import parse_json
from strongroom.base.errors import ConfigurationError, ConflictError, FormatError, UnavailableError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.keys import SigningKey
from strongroom.services.files import prepare_folder, read_file, replace_file

_KEY: Final = "identity.key"
_PREDECESSORS: Final = "predecessors.json"
_OF_THE_IDENTITY: Final = (_KEY, "identity.pem", _PREDECESSORS)
"""Always as the owner gives them."""
_MADE_ONCE: Final = ("signing.key", "statement.key")
"""Only the first ones are the owner's: the service may have replaced them since."""
_LOOK_S: Final = 0.2


def make_private(folder: Path) -> None:
    """Take away what others may do with a state folder and the files in it, as far as there are any.

    The node's kubelet gives a volume's files to the pod's group whenever it mounts one anew. Nobody but this service's
    own processes is in that group.

    Raises:
        ConfigurationError: A file is another user's, or cannot be changed.
    """
    try:
        found = [folder, *folder.rglob("*")] if folder.exists() else []
        for path in found:
            mode = stat.S_IMODE(path.lstat().st_mode)
            if not path.is_symlink() and mode & 0o077:
                path.chmod(mode & 0o700)
    except OSError as error:
        raise ConfigurationError(
            f"the state folder {folder} cannot be made private: {error.strerror}",
            action="Give the volume's files to the service's user (1000), or set fsGroup.",
        ) from error


def install_identity(source: Path, *, state: Path) -> None:
    """Give a service the identity that its owner made for it, where it has none yet.

    1. Where nothing is mounted any more, the identity is in the state folder already.
    2. An identity that is there is the same one, or one that the new one's owner names as its predecessor.
    3. Identity, certificate and predecessors become what is mounted; the other keys only where there are none.

    Args:
        source: The mounted folder: `identity.key`, `identity.pem`, `signing.key`, `statement.key`, and
            `predecessors.json` after a rotation.
        state: The service's state folder.

    Raises:
        ConfigurationError: There is no identity at all, or what is mounted is none.
        ConflictError: The state folder is another service's.
    """
    given = {name: content for name in (*_OF_THE_IDENTITY, *_MADE_ONCE) if (content := read_file(source / name))}
    there = read_file(state / _KEY)
    if not given:  # 1
        if there is None:
            raise ConfigurationError(
                f"there is no identity for this service, neither in {source} nor in {state}",
                action="Make its Secret: strongroom chart values writes it, kubectl apply creates it.",
            )
        return
    identity = _identity(given.get(_KEY), source)
    if there is not None and (before := _identity(there, state)) != identity:  # 2
        _demand_predecessor(before, given.get(_PREDECESSORS), identity)
    prepare_folder(state)
    for name, content in given.items():  # 3
        if (read_file(state / name) != content) if name in _OF_THE_IDENTITY else not (state / name).exists():
            replace_file(state / name, content)


def copy_private(source: Path, *, into: Path) -> None:
    """Copy each mounted file into a private one of the same name.

    Raises:
        ConfigurationError: A file cannot be read.
        UnavailableError: It cannot be written.
    """
    into.mkdir(mode=0o700, parents=True, exist_ok=True)  # a volume's own folder is open; the files in it are not
    for path in sorted(source.iterdir()):
        if not path.name.startswith("..") and path.is_file():  # Kubernetes' own entries begin so
            replace_file(into / path.name, read_file(path) or b"")


def wait_for_socket(path: Path, *, timeout_s: float) -> None:
    """Wait until a process answers at a socket: one that has ended leaves its socket, and what else it wrote there.

    Raises:
        UnavailableError: None did.
    """
    end = time.monotonic() + timeout_s
    while not _answers(path):
        if time.monotonic() > end:
            raise UnavailableError(
                f"nobody answers at {path} after {timeout_s:.0f} s",
                action="Look at the simulated platform's pod on this node (DaemonSet, its own namespace).",
            )
        time.sleep(_LOOK_S)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


def _identity(key_pem: bytes | None, folder: Path) -> str:
    try:
        return SigningKey.from_pem(SecretBytes(key_pem or b"")).verifying_key.thumbprint
    except FormatError as error:
        raise ConfigurationError(
            f"{folder / _KEY} does not hold a key", action="Make the Secret anew: strongroom chart values"
        ) from error


def _demand_predecessor(before: str, predecessors: bytes | None, identity: str) -> None:
    try:
        named = parse_json(predecessors) if predecessors else []
    except FormatError:
        named = []
    if not isinstance(named, list) or before not in named:
        raise ConflictError(
            f"the volume belongs to the service {before}, and its Secret is of {identity}",
            action="Mount this service's own volume, or an empty one. (Rotated identities name the ones before them.)",
        )
