"""The TEE's memory file system: the only place this TEE's processes write to."""

import ctypes
import os
import shutil
from pathlib import Path
from typing import Final

from strongroom.base.errors import ConfigurationError
from strongroom.engine.enclave import is_enclave_device
from strongroom.wire.descriptor import DeviceKind

_TMPFS: Final = 0x0102_1994
_RAMFS: Final = 0x8584_58F6
_UNTOLD: Final = 0
"""What Gramine answers for every path."""
_STATFS_BYTES: Final = 512
"""More than `struct statfs` has; its first field, a long, is the type."""
_WORD: Final = (1 << 32) - 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def make_scratch(path: Path) -> None:
    """Make the TEE's private folder; `demand_memory` says whether anything may be written there.

    Raises:
        ConfigurationError: It exists already, or cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=False)
    except OSError as error:
        raise ConfigurationError(
            f"the scratch folder cannot be made: {error.strerror}",
            action="name a new folder on a memory file system, such as /dev/shm",
        ) from error


def demand_memory(path: Path, *, device: DeviceKind, named_by_host: bool) -> None:
    """Refuse a scratch folder that the host could read.

    1. In an enclave the host may not name the folder: Occlum asks the host of what type the host's file systems are.
       The folder of the enclave's image is mounted as the measured configuration says.
    2. The kernel, or Occlum of a file system of its own, says that it is memory.
    3. Gramine does not say. There the measured manifest counts, by which the image's folder is encrypted. Linux always
       says, so that a host that calls a machine an enclave gains nothing.

    Args:
        path: The folder.
        device: What quotes this TEE, the host's word: only one that is there yields keys.
        named_by_host: Whether the host chose the path; otherwise it stands in measured code.

    Raises:
        ConfigurationError: It does not lie on a memory file system, or nobody who is trusted says so.
    """
    if is_enclave_device(device) and named_by_host:  # 1
        raise ConfigurationError(
            "an enclave's scratch folder is its image's, not the host's to name", action="start it as a pod: --pod ROLE"
        )
    kind = file_system_of(path)
    if kind in (_TMPFS, _RAMFS):  # 2
        return
    if kind == _UNTOLD and device == "gramine":  # 3
        return
    raise ConfigurationError(
        f"the scratch folder lies on a file system of type {kind:#x}, which the host can read",
        action="name a folder on a memory file system (tmpfs), such as /dev/shm",
    )


def remove_scratch(path: Path) -> None:
    """Remove the folder and everything in it."""
    shutil.rmtree(path, ignore_errors=True)


def file_system_of(path: Path) -> int:
    """Return the type of the file system that holds a path, the number that Linux calls its magic.

    Raises:
        ConfigurationError: The system does not answer.

    Source: statfs(2).
    """
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _LIBC.statfs(os.fsencode(path), answer) != 0:
        raise ConfigurationError(
            f"the system does not say what the scratch folder lies on: {os.strerror(ctypes.get_errno())}"
        )
    return ctypes.c_long.from_buffer(answer).value & _WORD
