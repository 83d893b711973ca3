"""A lock file, under which one process and thread at a time works on what lies beside it."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from strongroom.base.errors import StrongroomError


@contextmanager
def exclusive(path: Path, *, failed: Callable[[OSError], StrongroomError]) -> Iterator[None]:
    """Wait until nobody else has the lock, and hold it.

    Args:
        path: The lock's file; it is made if need be, mode 600, and stays.
        failed: Makes the error that is raised when it cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise failed(error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
