"""What interrupts an agent while Spark computes: somebody asks it to end, or an orphan ends that it has to reap."""

import os
import signal
import threading
from collections.abc import Collection
from contextlib import suppress
from types import FrameType


class Stop:
    """Says whether somebody asked this agent to end: a signal, or the lifeline's end."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.signal_number: int | None = None

    def fileno(self) -> int:
        """Return a file descriptor that becomes readable when somebody asks."""
        return self._bell

    def install(self) -> None:
        """Take SIGTERM and SIGINT; call from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def watch_lifeline(self, descriptor: int) -> None:
        """Ask for the end when the file descriptor closes at its other side."""

        def watch() -> None:
            with suppress(OSError), open(descriptor, "rb", buffering=0, closefd=False) as lifeline:
                while lifeline.read(1):
                    pass
            self._ask()

        threading.Thread(target=watch, name="lifeline", daemon=True).start()

    @property
    def asked(self) -> bool:
        """Whether the agent should end."""
        return self._asked.is_set()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal_number = number
        self._ask()

    def _ask(self) -> None:
        self._asked.set()
        os.eventfd_write(self._bell, 1)


class Orphans:
    """Processes that became this one's children when their parents ended: it is their reaper, as PID 1 of a pod is."""

    def __init__(self) -> None:
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return a file descriptor that becomes readable when a child ends."""
        return self._bell

    def install(self) -> None:
        """Take SIGCHLD; call from the main thread."""
        signal.signal(signal.SIGCHLD, self._on_signal)

    def reap(self, *, own: Collection[int]) -> None:
        """Reap the children that have ended.

        Args:
            own: The processes that this one started itself: whoever started one wants its exit status.
        """
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        with suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in own:
                    return  # hides the others until it is reaped, which is next
                os.waitpid(ended.si_pid, 0)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        os.eventfd_write(self._bell, 1)
