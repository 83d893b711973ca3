"""Device control calls (ioctl): bytes and addresses handed to a driver, and what it says when it refuses."""

import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from strongroom.base.errors import ConfigurationError, UnavailableError

Argument: TypeAlias = ctypes.Structure | ctypes.c_uint32
Ioctl: TypeAlias = Callable[[int, int, Argument], object]
"""Calls a driver: file descriptor, request, argument, which the driver may change. May raise `OSError`."""

ATTEMPTS: Final = 20
PAUSE_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """How drivers are called.

    Attributes:
        ioctl: The system's call.
        sleep: Waits so many seconds.
    """

    ioctl: Ioctl = fcntl.ioctl
    sleep: Callable[[float], None] = time.sleep

    def call_patiently(self, device: int, request: int, argument: Argument, *, busy: Callable[[OSError], bool]) -> None:
        """Call a driver until it is not busy, at most `ATTEMPTS` times.

        Args:
            device: The open device.
            request: The request's number.
            argument: The same one at each attempt.
            busy: Whether a refusal means that the device is busy.

        Raises:
            UnavailableError: It was busy each time.
            OSError: It refused for another reason.
        """
        for _ in range(ATTEMPTS):
            try:
                self.ioctl(device, request, argument)
            except OSError as error:
                if not busy(error):
                    raise
                self.sleep(PAUSE_S)
            else:
                return
        raise UnavailableError(
            f"the quoting device was busy at each of {ATTEMPTS} attempts",
            action="Start fewer TEEs at once on this machine, and try again.",
        )


@contextmanager
def opened(path: Path, *, action: str) -> Iterator[int]:
    """Open a device for control calls.

    Args:
        path: The device's file.
        action: What a person does where it cannot be opened.

    Yields:
        The file descriptor.

    Raises:
        ConfigurationError: It cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"{path.name} cannot be opened: {error.strerror}", action=action) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_busy(error: OSError) -> bool:
    """Whether a driver says that it is busy, in the usual way."""
    return error.errno in (errno.EBUSY, errno.EAGAIN)
