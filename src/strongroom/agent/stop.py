"""What wakes an agent while Spark computes: somebody asks it to end, or one of its processes ends.

All of it arrives as bytes in one pipe, which every system has that an agent runs under. Linux has finer means, such as
`pidfd_open` and `signalfd`; library operating systems have none of these (docs/how-to/enclaves.md). Whichever thread
takes a signal, Python writes its number into the pipe at once, so that none is slept through.
"""

import errno
import os
import select
import signal
import threading
from collections.abc import Collection
from contextlib import suppress
from types import FrameType
from typing import Final

_PIPE_BYTES: Final = 4096


class Stop:
    """Says whether somebody asked this agent to end: a signal, or the lifeline's end. Sleeps until there is news."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._news, self._bell = os.pipe()
        os.set_blocking(self._news, False)
        os.set_blocking(self._bell, False)
        self.signal_number: int | None = None

    def install(self) -> None:
        """Take SIGTERM, SIGINT and SIGCHLD; call from the main thread."""
        signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, _on_child)

    def watch_lifeline(self, descriptor: int) -> None:
        """Ask for the end when the file descriptor closes at its other side."""

        def watch() -> None:
            with suppress(OSError), open(descriptor, "rb", buffering=0, closefd=False) as lifeline:
                while lifeline.read(1):
                    pass
            self._asked.set()
            self._ring()

        threading.Thread(target=watch, name="lifeline", daemon=True).start()

    @property
    def asked(self) -> bool:
        """Whether the agent should end."""
        return self._asked.is_set()

    def wait(self) -> None:
        """Sleep until something happened since the last time: somebody asked, or a process ended; see which it was."""
        poller = select.poll()
        poller.register(self._news, select.POLLIN)
        poller.poll()
        with suppress(BlockingIOError):
            while os.read(self._news, _PIPE_BYTES):
                pass

    def _ring(self) -> None:
        with suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._bell, b"\0")

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal_number = number
        self._asked.set()
        self._ring()


def reap_orphans(*, own: Collection[int]) -> None:
    """Reap the children that have ended and that others left to this process, as PID 1 of a pod is left them.

    Args:
        own: The processes that this one started itself: whoever started one wants its exit status.
    """
    with suppress(ChildProcessError):
        while (ended := _ended_child()) is not None:
            if ended.si_pid in own:
                return  # hides the others until it is reaped, which is next
            os.waitpid(ended.si_pid, 0)


def _ended_child() -> os.waitid_result | None:
    """Return a child that has ended, and leave it to be reaped; None where there is none yet.

    Occlum has no `waitid`, and leaves orphans to a process of its own: there is nothing to reap.
    """
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return None


def _on_child(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: a signal that nobody takes writes nothing into the pipe."""
