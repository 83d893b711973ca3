"""Commands that start at once: a process that has loaded the command line, and becomes each command by forking.

Loading takes most of what a short command takes, and tests give hundreds of them to get to what they test. What a
command does is the same: it runs in a process, a session and an environment of its own, and ends as the interpreter
ends. Where a test looks at a command's process, it starts the program itself (`Installation.started`).
"""

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

COMMANDS: Final = frozenset({"app", "approve", "approvals", "chart", "dataset", "keys", "policy", "receipt", "runs"})
"""Those that start at once wherever a test waits for their end; others start as users start them."""
SUBMIT: Final = "submit"
"""Loaded as well, for tests that look at what is on a cluster, and not at the command."""
_MODULES: Final = tuple(f"strongroom.cli.commands.{name}" for name in sorted(COMMANDS | {SUBMIT}))
_STREAMS: Final = 3
_MESSAGE_BYTES: Final = 1 << 17
_END_S: Final = 60.0


class WarmCommands:
    """The process, from this side."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                start_new_session=True,
            )
        self._sending = threading.Lock()

    def run(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        timeout_s: float,
        java: tuple[int, str] | None = None,
    ) -> tuple[int, str, str]:
        """Run a command to its end.

        Args:
            arguments: Its arguments.
            environment: All of its environment.
            folder: Where it runs.
            timeout_s: For how long, in seconds.
            java: Where a Java listens in which it runs Spark's submission client, in the place of one of its own.

        Returns:
            Its exit status, and what it wrote to its standard output and standard error.

        Raises:
            TimeoutError: It did not end; it was interrupted.
        """
        request = {
            "argv": [str(self._program), *arguments],
            "environment": dict(environment),
            "folder": str(folder),
            "java": java,
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output, error = (os.pipe() for _ in range(2))
        nothing = os.open(os.devnull, os.O_RDONLY)
        passed = [theirs.fileno(), nothing, output[1], error[1]]
        with self._sending:
            socket.send_fds(self._control, [json.dumps(request).encode()], passed)
        theirs.close()
        for descriptor in (nothing, output[1], error[1]):
            os.close(descriptor)
        with ours:
            ours.settimeout(_END_S)
            pid = int(ours.recv(100))
            try:
                read = _read_all((output[0], error[0]), deadline=time.monotonic() + timeout_s)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
                raise
            return int(ours.recv(100)), *(each.decode() for each in read)  # type: ignore[return-value]

    def close(self) -> None:
        """End the process."""
        self._control.close()
        self._process.wait(_END_S)


@cache
def warm_commands(program: Path) -> WarmCommands:
    """Return the process that becomes the commands of a program; it ends with this one."""
    return WarmCommands(program)


def _read_all(descriptors: tuple[int, int], *, deadline: float) -> list[bytes]:
    read = {each: bytearray() for each in descriptors}
    with contextlib.ExitStack() as opened, selectors.DefaultSelector() as selector:
        for each in descriptors:
            opened.callback(os.close, each)
            selector.register(each, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(deadline - time.monotonic())
            if not ready:
                raise TimeoutError("the command does not end")
            for key, _ in ready:
                if content := os.read(key.fd, 1 << 16):
                    read[key.fd] += content
                else:
                    selector.unregister(key.fd)
    return [bytes(each) for each in read.values()]


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork for each request; return it in the process that is to be the command, or exit."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 1 + _STREAMS)
        if not message:
            sys.exit(0)
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            request: dict[str, Any] = json.loads(message)
            _attend(request, socket.socket(fileno=descriptors[0]), descriptors[1:])
            return request
        for descriptor in descriptors:
            os.close(descriptor)


def _attend(request: dict[str, Any], caller: socket.socket, streams: Sequence[int]) -> None:
    """Fork once more: tell the caller how the command ended, and return in the process that is to be it."""
    pid = os.fork()
    if pid:
        for descriptor in (0, 1, 2, *streams):
            os.close(descriptor)
        caller.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        caller.send(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    caller.close()
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(str(request["folder"]))
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = list(request["argv"])


def _main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in _MODULES:
        import_module(name)
    gc.collect()
    gc.freeze()  # or a collection would write to every page, and so copy it
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads: a fork would have one of them"
    request = _serve(control)
    if request["java"] is not None:
        _submit_through(tuple(request["java"]))
    from strongroom.cli.main import main  # noqa: PLC0415 - as the program does

    main()


def _submit_through(java: tuple[int, str]) -> None:
    sys.path.append(str(Path(__file__).parents[2]))
    from tests.support.kubernetes.spark_client import SparkClient  # noqa: PLC0415 - for these commands alone

    from strongroom.cluster.kubernetes import spark_submit  # noqa: PLC0415

    spark_submit._run = SparkClient(java).run


if __name__ == "__main__":
    _main()
