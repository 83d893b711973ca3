"""The TEE's memory file system: the only place this TEE's processes write to."""

import os
import shutil
from pathlib import Path
from typing import Final

from strongroom.base.errors import ConfigurationError

_MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})


def make_scratch(path: Path) -> None:
    """Make the TEE's private folder.

    Raises:
        ConfigurationError: It exists already, or does not lie on a memory file system.
    """
    try:
        path.mkdir(mode=0o700, parents=False)
    except OSError as error:
        raise ConfigurationError(
            f"the scratch folder cannot be made: {error.strerror}",
            action="name a new folder on a memory file system, such as /dev/shm",
        ) from error
    kind = file_system_of(path)
    if kind not in _MEMORY_FILE_SYSTEMS:
        path.rmdir()
        raise ConfigurationError(
            f"the scratch folder lies on {kind}, which the host can read",
            action="name a folder on a memory file system (tmpfs), such as /dev/shm",
        )


def remove_scratch(path: Path) -> None:
    """Remove the folder and everything in it."""
    shutil.rmtree(path, ignore_errors=True)


def file_system_of(path: Path) -> str:
    """Return the type of the file system that holds a path, as /proc/self/mountinfo names it.

    Raises:
        ConfigurationError: The mount table does not say.
    """
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0]
    raise ConfigurationError("the mount table does not name the scratch folder's file system")
