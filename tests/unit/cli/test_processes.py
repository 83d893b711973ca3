import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from strongroom.base.clock import SystemClock
from strongroom.base.errors import ConfigurationError, UnavailableError
from strongroom.cli import processes
from strongroom.cli.processes import ProcessRecord, Program, read_table, write_table

READY = "print('ready', flush=True)"


def program(tmp_path: Path, source: str, *, timeout_s: float = 30.0) -> Program:
    return Program(
        name="the helper",
        command=[sys.executable, "-I", "-c", source],
        url="nowhere",
        log=tmp_path / "logs" / "helper.log",
        timeout_s=timeout_s,
    )


@pytest.fixture
def running(tmp_path: Path) -> Iterator[ProcessRecord]:
    record = processes.start(program(tmp_path, f"import time; {READY}; time.sleep(600)"), clock=SystemClock())
    yield record
    processes.stop(record)


def test_a_program_is_started_when_it_says_that_it_is_ready(tmp_path: Path) -> None:
    done = f"pathlib.Path({str(tmp_path / 'done')!r}).touch()"
    source = f"import pathlib, time; time.sleep(0.3); {done}; {READY}; time.sleep(600)"

    record = processes.start(program(tmp_path, source), clock=SystemClock())

    assert (tmp_path / "done").exists()
    assert record.is_running
    assert processes.stop(record)


def test_it_runs_in_a_session_of_its_own_so_that_no_terminal_ends_it(running: ProcessRecord) -> None:
    assert os.getsid(running.pid) == running.pid


def test_it_gets_nothing_of_this_process_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/tmp")
    record = processes.start(program(tmp_path, f"import time; {READY}; time.sleep(600)"), clock=SystemClock())

    names = {part.partition("=")[0] for part in Path(f"/proc/{record.pid}/environ").read_text().split("\0") if part}
    processes.stop(record)

    assert names <= {"PATH", "LANG", "LC_CTYPE"}


def test_a_program_that_ends_at_once_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    source = "import sys; sys.exit('the port is taken')"

    with pytest.raises(UnavailableError, match="the helper did not start: the port is taken") as failure:
        processes.start(program(tmp_path, source), clock=SystemClock())

    assert "helper.log" in failure.value.action


def test_last_words_of_an_earlier_start_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="old words"):
        processes.start(program(tmp_path, "import sys; sys.exit('old words')"), clock=SystemClock())
    with pytest.raises(UnavailableError, match="it said nothing"):
        processes.start(program(tmp_path, "import sys; sys.exit(1)"), clock=SystemClock())


def test_a_program_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    tell = f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))"
    source = f"import os, pathlib, time; {tell}; time.sleep(600)"

    with pytest.raises(UnavailableError, match="was not ready after 1 s"):
        processes.start(program(tmp_path, source, timeout_s=1.0), clock=SystemClock())

    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_stopping_ends_the_process_and_says_whether_it_ran(running: ProcessRecord) -> None:
    assert processes.stop(running)
    assert not running.is_running
    assert not processes.stop(running)


def test_another_process_that_got_the_same_number_is_left_alone(running: ProcessRecord) -> None:
    earlier = running.model_copy(update={"start_time": running.start_time - 1})

    assert not earlier.is_running
    assert not processes.stop(earlier)
    assert running.is_running


def test_a_process_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "_GRACE_S", 0.5)
    source = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}; time.sleep(600)"
    record = processes.start(program(tmp_path, source), clock=SystemClock())

    assert processes.stop(record)
    assert not record.is_running


def test_a_process_that_ended_but_was_not_waited_for_does_not_count_as_running(running: ProcessRecord) -> None:
    os.kill(running.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while running.is_running and time.monotonic() < deadline:
        time.sleep(0.01)

    assert not running.is_running


def test_the_table_survives_the_process_that_wrote_it(tmp_path: Path, running: ProcessRecord) -> None:
    table = tmp_path / "operator" / "services.json"
    write_table(table, [running])

    source = f"from strongroom.cli.processes import *; print(read_table(Path({str(table)!r}))[0].is_running)"
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)

    assert ended.stdout.strip() == "True"


def test_without_processes_there_is_no_table(tmp_path: Path, running: ProcessRecord) -> None:
    table = tmp_path / "services.json"
    write_table(table, [running])
    write_table(table, [])

    assert not table.exists()
    assert read_table(table) == ()


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense", b'{"version":1,"processes":[{"pid":1}]}'])
def test_a_damaged_table_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    table = tmp_path / "services.json"
    table.write_bytes(content)

    with pytest.raises(ConfigurationError, match="not a list of processes"):
        read_table(table)
