"""kill -9 of the real key service under load, again and again.

After each kill: every acknowledged write is there, no approval opened more runs than it allows, no request works twice,
and the log extends every checkpoint that anybody saw. At the end the whole state is audited.
"""

import base64
import gc
import hashlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.support.key_runs import Node, approve, described, ticket_for
from tests.support.service_processes import CLOCK, Installation, installation

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import ConflictError, RefusedError, StrongroomError, UnavailableError
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.keys import ReceivingKey
from strongroom.crypto.random import random_id
from strongroom.log.merkle import verify_consistency
from strongroom.services.identity import open_identity
from strongroom.services.key_service import COMMON_NAME, open_state, read_settings
from strongroom.wire import key_service as wire

SEED = 5
KILLS = 40
TIME_S = 150.0
"""The usual number of kills ends earlier on a slow machine."""
CLIENTS = 4
LONGEST_S = 0.9
"""The latest moment of a kill after the service is ready, in seconds."""
V1 = "/strongroom/v1"

_T = TypeVar("_T")


@dataclass(kw_only=True)
class Acknowledged:
    """What the service said is done, and the newest requests and checkpoints."""

    datasets: set[str] = field(default_factory=set)
    approvals: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    opened: list[str] = field(default_factory=list)
    members: Counter[str] = field(default_factory=Counter)
    closed: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)
    notes: set[str] = field(default_factory=set)
    requests: list[tuple[Node, wire.JoinRequest]] = field(default_factory=list)

    def copy(self) -> "Acknowledged":
        kept = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: type(value)(value) for name, value in kept.items()})

    def count(self) -> int:
        return sum(len(each) for each in (self.datasets, self.approvals, self.revoked, self.closed, self.versions)) + (
            self.members.total()
        )


class Clients:
    """Threads that use the service as owners, drivers and executors do, and wait while it is down."""

    def __init__(self, installed: Installation) -> None:
        self.installed = installed
        self.done = Acknowledged()
        self.up, self.ended = threading.Event(), threading.Event()
        self.faults: list[BaseException] = []
        self._lock = threading.Lock()
        self._keys = [ReceivingKey.generate_rsa() for _ in range(2)]
        self.threads = [threading.Thread(target=self._work) for _ in range(CLIENTS)]
        for each in self.threads:
            each.start()

    def note(self, change: Callable[[Acknowledged], object]) -> None:
        with self._lock:
            change(self.done)

    def acknowledged(self) -> Acknowledged:
        """Return what is acknowledged now; later checkpoints are new ones."""
        with self._lock:
            copied = self.done.copy()
            self.done.notes.clear()
            return copied

    def stop(self) -> None:
        self.ended.set()
        self.up.set()
        for each in self.threads:
            each.join(60)

    def _work(self) -> None:
        try:
            while not self.ended.is_set():
                self._one_life()
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.faults.append(error)

    def _until_answered(self, ask: Callable[[], _T]) -> _T | None:
        """Ask until there is an answer; None when it was asked again and the first time had worked."""
        asked_again = False
        while True:
            self.up.wait()
            try:
                return ask()
            except UnavailableError:
                asked_again = True
                if self.ended.is_set():
                    raise _EndedError from None
                time.sleep(0.02)
            except (ConflictError, RefusedError):
                if not asked_again:
                    raise
                return None

    def _one_life(self) -> None:
        """A dataset from its making to its first version, or to its revocation."""
        installed, name = self.installed, f"d{random_id()[:12]}"
        owner = installed.owner_client()
        try:
            self._until_answered(lambda: owner.create_dataset(name))
            self.note(lambda done: done.datasets.add(name))
            application = described(installed, name)
            approval = self._until_answered(lambda: approve(installed, name, application))
            if approval is None:
                return  # it is stored, but its answer was lost
            self.note(lambda done: done.approvals.add(approval))
            opened = self._open(name, application.digest)
            if opened is None or int(name[1:3], 16) % 4 == 0:
                self._until_answered(lambda: owner.revoke(approval))
                self.note(lambda done: done.revoked.add(approval))
            elif opened is not None:
                self._finish(name, *opened)
        except _EndedError:
            return

    def _open(self, name: str, application: str) -> tuple[Node, wire.RunSecrets] | None:
        """Open runs under an approval of one, each with a ticket of its own, until one is refused."""
        first: tuple[Node, wire.RunSecrets] | None = None
        for _ in range(4):
            ticket = ticket_for(self.installed, name, application)
            node = Node(self.installed, ticket=ticket, application=application, receiving=self._keys[0])
            try:
                request, role = node.request()
                release, secrets = node.client.join(request, role=role)
            except (RefusedError, ConflictError):
                break
            except UnavailableError:  # nobody knows whether this one was opened
                self.up.wait()
                if self.ended.is_set():
                    raise _EndedError from None
                continue
            first = first or (node, secrets)

            def opened(done: Acknowledged, node: Node = node, request: Any = request, release: Any = release) -> None:
                done.opened.append(node.run)
                done.members[node.run] += 1
                done.notes.add(release.proof.checkpoint)
                done.requests = [*done.requests[-3:], (node, request)]

            self.note(opened)
        return first

    def _finish(self, name: str, driver: Node, secrets: wire.RunSecrets) -> None:
        executor = Node(self.installed, ticket=driver.ticket, application=driver.application, receiving=self._keys[1])
        thumbprint = driver.signing.verifying_key.thumbprint
        joined = self._until_answered(lambda: executor.join(role="executor", driver_key=thumbprint))
        if joined is not None:
            self.note(lambda done: done.members.update([driver.run]))
        write = secrets.writes[name]
        digest = sha256_hex(b"a manifest")

        def close() -> object:
            request = wire.CloseRequest(
                run=driver.run,
                issued_at=to_rfc3339(CLOCK.now()),
                outcome="succeeded",
                leaves=len(driver.client.record(now=CLOCK.now()).leaves),
                receipt=sha256_hex(b"a receipt"),
                commits=(wire.Commit(dataset=name, base=None, manifest_digest=digest, write_ids=(write.write_id,)),),
            )
            return driver.client.close(request)

        self._until_answered(close)
        self.note(lambda done: (done.closed.add(driver.run), done.versions.add(name)))


class _EndedError(Exception):
    """The test is over."""


class Checker:
    """Compares what was acknowledged with what the service says after it came back."""

    def __init__(self, installed: Installation, clients: Clients) -> None:
        self.installed, self.clients = installed, clients
        self.checked = 0
        self._newest: str | None = None

    def check(self) -> None:
        owner, done = self.installed.owner_client(), self.clients.acknowledged()
        self._check_log(done)
        for node, request in done.requests:
            with pytest.raises((ConflictError, RefusedError)):
                node.client.join(request, role="driver")
        datasets = {each["dataset"]: each for each in owner.datasets()["datasets"]}
        assert done.datasets <= set(datasets)
        assert done.versions <= {name for name, each in datasets.items() if each["head"] == 1}
        approvals = {each["approval"]: each for each in owner.approvals()["approvals"]}
        assert done.approvals <= set(approvals)
        assert done.revoked <= {name for name, each in approvals.items() if each["revoked"]}
        assert max((each["runs_opened"] - each["max_runs"] for each in approvals.values()), default=0) <= 0
        runs = {each["run"]: each for each in owner.runs()["runs"]}
        assert set(done.opened) <= set(runs)
        opened = Counter(approval for run in done.opened for approval in runs[run]["approvals"].values())
        assert all(number <= approvals[approval]["max_runs"] for approval, number in opened.items())
        assert all(runs[run]["members"] >= number for run, number in done.members.items())
        assert done.closed <= {run for run, each in runs.items() if each["outcome"] == "succeeded"}
        self.checked = done.count()

    def _check_log(self, done: Acknowledged) -> None:
        http = self.installed.keys.http()
        note = http.request("GET", f"{V1}/log/checkpoint").require_success().decode()
        size, root = parts(note)
        for seen in done.notes | ({self._newest} if self._newest else set()):
            old_size, old_root = parts(seen)
            answer = http.request("GET", f"{V1}/log/consistency?first={old_size}&second={size}")
            path = parse_json_object(answer.require_success())["path"]
            verify_consistency(
                old_size=old_size,
                old_root=old_root,
                new_size=size,
                new_root=root,
                proof=[bytes.fromhex(each) for each in path],
            )
        self._newest = note


def parts(note: str) -> tuple[int, bytes]:
    lines = note.split("\n")
    return int(lines[1]), base64.b64decode(lines[2])


def moments() -> Iterator[float]:
    """Moments of kills, in seconds after the service is ready: the same in each run of this test."""
    number = 0
    while True:
        digest = hashlib.sha256(f"{SEED}/{number}".encode()).digest()
        yield int.from_bytes(digest[:4], "big") / (1 << 32) * LONGEST_S
        number += 1


# Python's ssl forgets a socket whose peer is gone between the connection and the handshake (a killed service): no code
# of ours ever holds it.
@pytest.mark.filterwarnings(r"ignore:unclosed <ssl\.SSLSocket (?!.*raddr):ResourceWarning")
@pytest.mark.timeout(7200)
def test_survives_kills_at_any_moment_under_load(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    given = pytestconfig.getoption("--kills")
    kills, end = given or KILLS, None if given else time.monotonic() + TIME_S
    done = 0
    with installation(tmp_path) as installed:
        clients = Clients(installed)
        checker = Checker(installed, clients)
        try:
            for moment in moments():
                clients.up.set()
                time.sleep(moment)
                clients.up.clear()
                os.kill(installed.keys.process.pid, signal.SIGKILL)
                installed.keys.stop()
                installed.keys = installed.start_keys(installed.keys.config)
                checker.check()
                done += 1
                assert not clients.faults, clients.faults
                if done == kills or (end is not None and time.monotonic() > end):
                    break
        finally:
            clients.stop()
        assert not clients.faults, clients.faults
        checker.check()
        installed.keys.stop()
        leaves = audit(installed)
    gc.collect()
    sys.stdout.write(f"{done} kills; {checker.checked} acknowledged writes, none lost; {leaves} log entries audited\n")
    assert checker.checked > 0


def audit(installed: Installation) -> int:
    settings = read_settings(installed.keys.config)
    identity = open_identity(Path(settings.state), common_name=COMMON_NAME, sans=["127.0.0.1"], now=CLOCK.now())
    store = open_state(settings, identity)
    try:
        audited = store.audit()
    except StrongroomError as error:
        pytest.fail(str(error))
    finally:
        store.close()
    assert audited is not None
    return audited.leaves
