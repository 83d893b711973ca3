"""How long it takes one node to attest and to receive its keys: real agents, without Spark.

A driver's agent opens a run of its own. When its TEE is a member it is ended, and agents of executors join that run
one after the other, each a new process; none of them ever starts Spark, because no master answers. The times are those
that the agents tell; an agent makes its keys before.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sessions import BenchmarkError

from strongroom.attestation.evidence.simulated import entry_command
from strongroom.base.clock import to_rfc3339
from strongroom.cli.owner_keys import load_signing_key
from strongroom.cli.state import State
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.crypto.random import random_id
from strongroom.wire.descriptor import Descriptor, DriverAddress
from strongroom.wire.ticket import TICKET_TYP, RunTicket

_MEMORY = Path("/dev/shm")  # noqa: S108 - a memory file system
_TIMEOUT_S = 60.0
_POLL_S = 0.02
_ATTEST = ("attest", "evidence verified and appraised")
_RELEASE = ("release", "keys released")
_DECRYPT = ("decrypt", "manifests opened")


@dataclass(frozen=True, slots=True, kw_only=True)
class Joins:
    """What the agents told, in milliseconds, one entry for each node.

    Attributes:
        attest_ms: Nonce, quote, verification and appraisal.
        release_ms: Joining the run: the key service's checks, its log, the sealed share of the run's secret.
        decrypt_ms: Write keys of the bound versions, and their manifests read and opened.
    """

    attest_ms: tuple[int, ...]
    release_ms: tuple[int, ...]
    decrypt_ms: tuple[int, ...]


def measure_joins(state: State, *, nodes: int) -> Joins:
    """Let nodes join a run, one after the other.

    Args:
        state: An installation whose services run and in which an application has run that may run again.
        nodes: How many.

    Raises:
        BenchmarkError: There was no run yet, or an agent was refused.
    """
    template = _newest_descriptor(state)
    with tempfile.TemporaryDirectory(prefix="strongroom-joins-") as folder:
        driver = template.model_copy(update={"ticket": _ticket(template, state, nodes=nodes), "lifeline": True})
        with _agent(driver, Path(folder, "driver")) as events:
            ready = _wait_for(events, lambda event: event["event"] == "driver-ready")
        address = DriverAddress(master_url=_nobody(ready["master_url"]), driver_key=ready["driver_key"])
        executor = driver.model_copy(update={"role": "executor", "driver": address})
        told = [_join(executor, Path(folder, f"executor-{index}")) for index in range(nodes)]
    return Joins(
        attest_ms=tuple(times[_ATTEST] for times in told),
        release_ms=tuple(times[_RELEASE] for times in told),
        decrypt_ms=tuple(times[_DECRYPT] for times in told),
    )


def _join(executor: Descriptor, place: Path) -> dict[tuple[str, str], int]:
    with _agent(executor, place) as events:
        _wait_for(events, lambda event: (event.get("step"), event.get("detail")) == _DECRYPT)
    return {
        (event["step"], event["detail"]): event["elapsed_ms"] for event in _read(events) if event["event"] == "step"
    }


def _newest_descriptor(state: State) -> Descriptor:
    found = sorted(state.runs.glob("*/driver.descriptor.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise BenchmarkError("no application has run yet, so there is no run to repeat")
    return Descriptor.from_json(found[-1].read_bytes())


def _ticket(template: Descriptor, state: State, *, nodes: int) -> str:
    key = load_signing_key(state.submitter_key)
    earlier = RunTicket.from_json(unverified_payload(template.ticket))
    not_after = to_rfc3339(datetime.now(tz=UTC) + timedelta(hours=1))
    fresh = {"run_id": random_id(), "max_executors": nodes, "not_after": not_after}
    ticket = earlier.model_copy(update=fresh)
    return sign_jws(ticket.to_json(), key=key, header={"typ": TICKET_TYP, "jwk": key.verifying_key.to_jwk()})


def _nobody(master_url: str) -> str:
    """Return the URL of a port where nothing listens any more."""
    host, _, _ = master_url.rpartition(":")
    return f"{host}:1"


@contextlib.contextmanager
def _agent(descriptor: Descriptor, place: Path) -> Iterator[Path]:
    """Start an agent as the supervisor does; yield the file in which it tells what happens; end it."""
    place.mkdir()
    events, scratch = place / "events.jsonl", _MEMORY / f"sr-{random_id()[:6]}"
    own = descriptor.model_copy(update={"scratch": str(scratch), "report": str(events), "output": str(place)})
    (place / "descriptor.json").write_bytes(own.to_json())
    with (place / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [*entry_command(sys.executable, "strongroom.agent"), str(place / "descriptor.json")],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )
    try:
        yield events
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _wait_for(events: Path, wanted: Any) -> dict[str, Any]:  # noqa: ANN401 - a predicate
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        for event in _read(events):
            if wanted(event):
                return event
            if event["event"] == "failed":
                raise BenchmarkError(f"an agent gave up: {event['message']}")
        time.sleep(_POLL_S)
    raise BenchmarkError(f"an agent said nothing for {_TIMEOUT_S:.0f} s")


def _read(events: Path) -> list[dict[str, Any]]:
    text = events.read_text(encoding="utf-8") if events.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]
