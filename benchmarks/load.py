"""The attestation service as a process of its own, and callers who ask it over HTTPS."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Final

from appraisals import pinned
from busy import Taken, undisturbed
from figures import Spread, arrivals, latencies
from machines import Machines, Request, policy
from memory import process_mb
from sessions import BenchmarkError
from typing_extensions import override

from strongroom.attestation.result import verify_result
from strongroom.base.clock import SystemClock
from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.clients.attestation import API_VERSION
from strongroom.clients.owner import person_token
from strongroom.clients.pinned import PinnedHttp, Response
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.crypto.random import random_bytes
from strongroom.crypto.x509 import new_identity, to_pem, to_x5c
from strongroom.services.evidence_policies import POLICY_TYPES

CONNECTIONS: Final = 8
"""Open in the closed loop."""
OPEN_LOOP_CONNECTIONS: Final = 64
"""At most so many requests are under way in the open loop; more would not be late because of the service."""
RATE_LIMIT: Final = 1_000_000
"""Requests a second that the service is configured to bear: not its limits are measured."""
VERIFIED_SHARE: Final = 20
"""Of so many answers, the signature of one is verified; nonce and runtime data are compared in each."""
_CLOCK: Final = SystemClock()
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_FINAL_S: Final = 30
_TURN_S: Final = 0.0005
"""How long one caller computes before another may; Python's 5 ms would be measured as the service's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What the closed loop told of one kind of request.

    Attributes:
        per_second: Complete answers a second, the median of the rounds.
        cpu_ms: Processor time of the service for one, the median of the rounds.
        rounds: Both, of each round.
    """

    per_second: float
    cpu_ms: float
    rounds: Sequence[Taken[tuple[float, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """What the open loop told of one kind of request, from the moment that each request was to be sent.

    Attributes:
        per_second: How many were sent a second.
        spread: Of each percentile the median of the rounds.
        together: Of the times of all rounds together.
        rounds: Of each round.
    """

    per_second: float
    spread: Spread
    together: Spread
    rounds: Sequence[Taken[Spread]]


LOAD_HEAD: Final = (
    "a second",
    "processor time, ms",
    "half: a second",
    "p50, ms",
    "p99, ms",
    "p99 of all rounds, ms",
)
"""What `load_cells` returns, for the head of a table."""


def load_cells(rate: Rate, latency: Latency) -> tuple[str, ...]:
    """Return what a table says of both loops of one kind of request."""
    spread = latency.spread
    figures = (
        rate.per_second,
        rate.cpu_ms,
        latency.per_second,
        spread.p50_ms,
        spread.p99_ms,
        latency.together.p99_ms,
    )
    return tuple(f"{figure:.1f}" for figure in figures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Resident memory of the service after so many attestations, in MB."""

    attestations: int
    resident_mb: float


class Service:
    """A running service.

    Args:
        folder: Its configuration, state and log.
        process: The process.
        url: Its address.
    """

    def __init__(self, folder: Path, process: "subprocess.Popen[str]", *, url: str) -> None:
        self._process, self.url = process, url
        self.identity: str = _ready(process)["identity"]
        self.certificate_pem = (folder / "state" / "identity.pem").read_text(encoding="ascii")

    @property
    def resident_mb(self) -> float:
        """Its resident memory."""
        return process_mb(self._process.pid)

    @property
    def cpu_s(self) -> float:
        """Processor time that it used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime

    def http(self) -> PinnedHttp:
        """Return a connection that is kept alive; one for each thread."""
        return PinnedHttp(self.url, self.certificate_pem, self.identity, service="the service")

    def signing_key(self) -> VerifyingKey:
        """Return the key that signs its results."""
        answer = parse_json_object(self.http().request("GET", "/certs").require_success())
        return VerifyingKey.from_jwk({name: answer["keys"][0][name] for name in ("kty", "n", "e")})

    def set_policy(self, name: str, text: str, *, owner: SigningKey) -> None:
        """Set the policy of one type of evidence."""
        now = _CLOCK.now()
        certificate = new_identity(
            common_name="owner", key=owner, not_before=now - timedelta(1), not_after=now + timedelta(1)
        )
        body = canonical_json({"AttestationPolicy": to_b64url(text.encode())})
        self.http().request(
            "PUT",
            f"/policies/{name}?api-version={API_VERSION}",
            body=sign_jws(body, key=owner, header={"x5c": to_x5c([certificate])}).encode(),
            content_type="text/plain",
            headers={"Authorization": f"Bearer {person_token(owner, audience=self.identity, clock=_CLOCK)}"},
        ).require_success()

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        with self._process:
            self._process.wait(timeout=_FINAL_S)


@contextmanager
def running_service(
    machines: Machines, folder: Path, *, core: int, policy_of: Callable[[str], str] = policy
) -> Iterator[Service]:
    """Start an attestation service on one core, with a policy for each type of evidence; end it afterwards.

    Args:
        machines: Whose roots it trusts.
        folder: For its configuration and state.
        core: The core.
        policy_of: Returns the policy of a type of evidence.

    Raises:
        BenchmarkError: It did not start.
    """
    owner, config = SigningKey.generate("ES256"), folder / "attestation.json"
    machines.write_endorsements(folder / "endorsements")
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    config.write_text(json.dumps(_config(machines, folder, owner=owner, url=url, port=port)), encoding="utf-8")
    command = [sys.executable, "-I", "-m", "strongroom.services.attestation_service", "--config", str(config)]
    with (folder / "service.log").open("wb") as log, pinned(core):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    service = Service(folder, process, url=url)
    try:
        for name in POLICY_TYPES:
            if name != "OpenEnclave":
                service.set_policy(name, policy_of(name), owner=owner)
        yield service
    finally:
        service.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A POST request that is ready to be sent.

    Attributes:
        number: The how-many-eth it is.
        target: Path and query.
        body: Its body.
        content_type: Of the body.
        headers: Further headers.
        expected: What the answer is compared with, however its loop does that.
    """

    number: int
    target: str
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    expected: object = None


class Loop:
    """Callers of a service, each thread with a connection of its own that is kept alive.

    Args:
        connect: Makes a connection.
    """

    def __init__(self, connect: Callable[[], PinnedHttp]) -> None:
        self._new_connection = connect
        self._local = threading.local()

    def prepare(self) -> Prepared:
        """Make the next request."""
        raise NotImplementedError

    def check(self, prepared: Prepared, answer: Response) -> None:
        """Check an answer.

        Raises:
            BenchmarkError: It is not what it must be.
            StrongroomError: The service refused, or its signature does not hold.
        """
        raise NotImplementedError

    def ask(self) -> None:
        """Send the next request and check its answer.

        Raises:
            BenchmarkError: The answer is not what it must be.
            StrongroomError: The service refused, or its signature does not hold.
        """
        prepared = self.prepare()
        self.check(prepared, self.send(prepared))

    def closed_loop(self, service: Service, *, duration_s: float) -> tuple[float, float]:
        """Ask on eight connections, on each as soon as the answer is there.

        Returns:
            Answers a second, and the service's processor time for one in milliseconds.
        """
        before = service.cpu_s
        started = time.perf_counter()
        end = started + duration_s

        def ask(_: int) -> tuple[int, float]:
            done = 0
            while time.perf_counter() < end:
                self.ask()
                done += 1
            return done, time.perf_counter()

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            done = list(pool.map(ask, range(CONNECTIONS)))
        answers = sum(number for number, _ in done)
        cpu_ms = 1000 * (service.cpu_s - before) / answers
        return answers / (max(ended for _, ended in done) - started), cpu_ms

    def open_loop(self, *, per_second: float, duration_s: float) -> list[float]:
        """Ask when independent callers would, whether or not earlier answers are there.

        Requests are made before and answers checked afterwards: while the clock runs the callers only send and receive,
        so that one's computing does not stand in the way of another's answer.

        Returns:
            How long each waited, in seconds.
        """
        planned = arrivals(per_second=per_second, duration_s=duration_s)
        requests = [self.prepare() for _ in planned]
        turn_s = sys.getswitchinterval()
        sys.setswitchinterval(_TURN_S)
        try:
            answers = self._send_at(planned, requests)
        finally:
            sys.setswitchinterval(turn_s)
        for prepared, (answer, _) in zip(requests, answers, strict=True):
            self.check(prepared, answer)
        return latencies(planned, [received for _, received in answers])

    def count(self, requests: int) -> None:
        """Have so many requests answered, on eight connections."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for done in [pool.submit(self.ask) for _ in range(requests)]:
                done.result()

    def http(self) -> PinnedHttp:
        """Return this thread's connection."""
        found: PinnedHttp | None = getattr(self._local, "http", None)
        if found is None:
            found = self._local.http = self._new_connection()
        return found

    def send(self, prepared: Prepared) -> Response:
        """Send a request on this thread's connection; return the answer, whatever it is."""
        return self.http().request(
            "POST",
            prepared.target,
            body=prepared.body,
            content_type=prepared.content_type,
            headers=dict(prepared.headers),
        )

    def _send_at(self, planned: Sequence[float], requests: Sequence[Prepared]) -> list[tuple[Response, float]]:
        """Send each request at its moment; return the answers and when they were there, in seconds from the start."""
        with ThreadPoolExecutor(OPEN_LOOP_CONNECTIONS) as pool:
            ready = threading.Barrier(OPEN_LOOP_CONNECTIONS + 1, timeout=_FINAL_S)
            connected = [pool.submit(self._connect, ready) for _ in range(OPEN_LOOP_CONNECTIONS)]
            ready.wait()  # so each thread has one
            for each in connected:
                each.result()
            started = time.perf_counter()
            answers = []
            for moment, prepared in zip(planned, requests, strict=True):
                time.sleep(max(0.0, started + moment - time.perf_counter()))
                answers.append(pool.submit(self._send_timed, prepared, started))
            return [answer.result() for answer in answers]

    def _send_timed(self, prepared: Prepared, started: float) -> tuple[Response, float]:
        answer = self.send(prepared)
        return answer, time.perf_counter() - started

    def _connect(self, ready: threading.Barrier) -> None:
        self.http().request("GET", "/healthz").require_success()
        ready.wait()


class Callers(Loop):
    """Callers of the attestation service.

    Every answer is checked: it must be a result over the request's runtime data and with its nonce.

    Args:
        service: Whom they ask.
        requests: What they send, in turn; each time with a new nonce.
    """

    def __init__(self, service: Service, requests: Sequence[Request]) -> None:
        super().__init__(service.http)
        self._service = service
        self._requests = requests
        self._runtime_data = [parse_json_object(request.runtime_data) for request in requests]
        self._key = service.signing_key()
        self._numbers = count()

    @override
    def prepare(self) -> Prepared:
        number = next(self._numbers)
        place = number % len(self._requests)
        request, nonce = self._requests[place], random_bytes(16).hex()
        return Prepared(
            number=number,
            target=request.target,
            body=request.with_nonce(nonce),
            content_type="application/json",
            expected=(self._runtime_data[place], None if request.type == "AzureVm" else nonce),
        )

    @override
    def check(self, prepared: Prepared, answer: Response) -> None:
        token = parse_json_object(answer.require_success())["token"]
        claims = parse_json_object(unverified_payload(token))
        if (claims.get("x-ms-runtime"), claims.get("nonce")) != prepared.expected:
            raise BenchmarkError("the service answered with a result for something else")
        if prepared.number % VERIFIED_SHARE == 0:
            verify_result(token, issuer=self._service.url, verifying_key=self._key, now=_CLOCK.now())


def measure_rate(service: Service, requests: Sequence[Request], *, rounds: int, duration_s: float) -> Rate:
    """Measure how many complete attestations a second the service makes on its core."""
    callers = Callers(service, requests)
    return rate_of(callers, service, warm_up=min(len(requests), CONNECTIONS * 4), rounds=rounds, duration_s=duration_s)


def rate_of(loop: Loop, service: Service, *, warm_up: int, rounds: int, duration_s: float) -> Rate:
    """Measure how many answers a second a service gives on its core.

    Args:
        loop: Who asks.
        service: Whose processor time counts.
        warm_up: Requests before: the first ones are slower.
        rounds: Of the closed loop.
        duration_s: How long each takes, in seconds.
    """
    loop.count(warm_up)
    found = [undisturbed(lambda: loop.closed_loop(service, duration_s=duration_s)) for _ in range(rounds)]
    per_second, cpu_ms = (median(each.value[place] for each in found) for place in (0, 1))
    return Rate(per_second=round(per_second, 1), cpu_ms=round(cpu_ms, 2), rounds=found)


def measure_latency(
    service: Service, requests: Sequence[Request], *, per_second: float, rounds: int, duration_s: float
) -> Latency:
    """Measure how long callers wait at a given rate."""
    return latency_of(Callers(service, requests), per_second=per_second, rounds=rounds, duration_s=duration_s)


def latency_of(loop: Loop, *, per_second: float, rounds: int, duration_s: float) -> Latency:
    """Measure how long callers wait at a given rate.

    Args:
        loop: Who asks.
        per_second: How often, on average.
        rounds: Of the open loop; their median counts.
        duration_s: How long each takes, in seconds.
    """
    found = [undisturbed(lambda: loop.open_loop(per_second=per_second, duration_s=duration_s)) for _ in range(rounds)]
    spreads = [replace(each, value=Spread.of(each.value)) for each in found]
    return Latency(
        per_second=round(per_second, 1),
        spread=Spread.middle([each.value for each in spreads]),
        together=Spread.of([time_s for each in found for time_s in each.value]),
        rounds=spreads,
    )


def measure_memory(
    service: Service, requests: Sequence[Request], *, attestations: int, step: int, tell: Callable[[Memory], None]
) -> list[Memory]:
    """Watch the service's memory over many attestations.

    Args:
        service: A service that has answered nothing yet.
        requests: What it is asked.
        attestations: How many.
        step: After how many of them its memory is read.
        tell: Called with each sample.
    """
    callers, samples = Callers(service, requests), []
    for done in range(step, attestations + 1, step):
        callers.count(step)
        samples.append(Memory(attestations=done, resident_mb=service.resident_mb))
        tell(samples[-1])
    return samples


def _config(machines: Machines, folder: Path, *, owner: SigningKey, url: str, port: int) -> dict[str, Any]:
    return {
        "version": 1,
        "url": url,
        "host": "127.0.0.1",
        "port": port,
        "state": str(folder / "state"),
        "mode": "owner-operated",
        "owners": [owner.verifying_key.to_jwk()],
        "roots": [{"certificate_pem": to_pem(root), "simulated": True} for root in machines.roots_der],
        "endorsements": {"kind": "folder", "path": str(folder / "endorsements")},
        "platform": None,
        "limits": {"requests_per_second": RATE_LIMIT, "requests_per_second_per_address": RATE_LIMIT},
    }


def _ready(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise BenchmarkError(f"the service ended with status {process.wait()}; see its log")
    return parse_json_object(line)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
