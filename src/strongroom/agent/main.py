"""`strongroom-agent`: the first process of a driver's or an executor's TEE."""

import ctypes
import logging
import os
import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from strongroom.agent.engine_run import application_of, end, resources_of, wait_for
from strongroom.agent.finish import Ended, Kept, abandon_run, finish_run
from strongroom.agent.key_socket import KeySocketServer
from strongroom.agent.lease import lost_lease, renew_everywhere
from strongroom.agent.member import Membership, become_member, launch_identity
from strongroom.agent.pod import PodFolders, begin_in_pod
from strongroom.agent.report import Report
from strongroom.agent.scratch import demand_memory, make_scratch, remove_scratch
from strongroom.agent.standalone import begin_on_machine
from strongroom.agent.start import Place, Start
from strongroom.agent.stop import Stop
from strongroom.attestation.attester import Device, Machine, open_device
from strongroom.base.clock import Clock, SystemClock
from strongroom.base.errors import ConfigurationError, EngineError, RefusedError, StrongroomError, UnavailableError
from strongroom.base.workflow import Step
from strongroom.clients.azure_guest import AzureMetadata
from strongroom.engine.enclave import is_enclave_device
from strongroom.engine.node import ProtectedNode
from strongroom.engine.runtime import find_runtime
from strongroom.engine.settings import guarded_settings
from strongroom.engine.spark import start_driver
from strongroom.wire.descriptor import Descriptor, DeviceSetting
from strongroom.wire.events import DriverReady, Finished, StepDone

_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_EXIT_FAILED: Final = 70
_EXIT_USAGE: Final = 64
_SIGNAL_BASE: Final = 128
_ARGUMENTS: Final = 2
_POD: Final = "--pod"
_USAGE: Final = """\
usage: strongroom-agent DESCRIPTOR
       strongroom-agent --pod ROLE [WORD ...]

Runs one TEE of a run: on one machine, where the host writes the descriptor, or as the first process of Spark's pods.
"""


def _open_device(setting: DeviceSetting) -> Device:
    return open_device(setting, machine=Machine(metadata=AzureMetadata))


def main(argv: Sequence[str] | None = None) -> None:
    """Run one TEE. Exit status: the application's; 128 + n for signal n; 70 where the agent refused."""
    arguments = list(sys.argv if argv is None else argv)
    in_pod = arguments[1:2] == [_POD]
    if not in_pod and (len(arguments) != _ARGUMENTS or arguments[1] in {"-h", "--help"}):
        sys.stderr.write(_USAGE)
        raise SystemExit(0 if arguments[1:] in (["-h"], ["--help"]) else _EXIT_USAGE)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    if in_pod:
        raise SystemExit(run_in_pod(arguments[2:], folders=PodFolders(), clock=SystemClock()))
    try:
        descriptor = Descriptor.from_json(_read(Path(arguments[1])))
    except StrongroomError as error:
        sys.stderr.write(f"strongroom-agent: {error.message}. {error.action}\n")
        raise SystemExit(_EXIT_USAGE) from None
    raise SystemExit(run_on_machine(descriptor, clock=SystemClock()))


def run_on_machine(descriptor: Descriptor, *, clock: Clock) -> int:
    """Run one TEE of a standalone cluster, from launch to end.

    Returns:
        The exit status for the process.
    """
    report = Report.in_file(Path(descriptor.report))
    tee = Tee(report=report, scratch=Path(descriptor.scratch), scratch_named_by_host=True, clock=clock)
    if descriptor.lifeline:
        tee.stop.watch_lifeline(sys.stdin.fileno())
    return tee.run(lambda: begin_on_machine(descriptor, report=report))


def run_in_pod(
    words: Sequence[str],
    *,
    folders: PodFolders,
    clock: Clock,
    device_of: Callable[[DeviceSetting], Device] = _open_device,
) -> int:
    """Run one TEE in a pod, from launch to end.

    Args:
        words: The pod's arguments.
        folders: Where the host's files stand.
        clock: The time.
        device_of: Opens what quotes this TEE.

    Returns:
        The exit status for the process.
    """
    report = Report.on_descriptor(sys.stdout.fileno(), last_words=folders.last_words)
    tee = Tee(report=report, scratch=folders.scratch, scratch_named_by_host=False, clock=clock, device_of=device_of)
    return tee.run(lambda: begin_in_pod(words, environment=os.environ, folders=folders, report=report))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tee:
    """One TEE of a run; nothing of it stays in its scratch folder.

    Attributes:
        report: How the host is told what it must know.
        scratch: The TEE's memory; a folder that does not exist yet.
        scratch_named_by_host: Whether that folder is the host's word; otherwise it stands in measured code.
        clock: The time.
        device_of: Opens what quotes this TEE.
        stop: What interrupts the wait for Spark.
    """

    report: Report
    scratch: Path
    scratch_named_by_host: bool
    clock: Clock
    device_of: Callable[[DeviceSetting], Device] = _open_device
    stop: Stop = field(default_factory=Stop)

    def run(self, begin: Callable[[], Place]) -> int:
        """Launch, attest, join, run Spark, and end.

        Args:
            begin: Reads what the host says, once the scratch folder is there.

        Returns:
            The exit status for the process.
        """
        self.stop.install()
        made = False
        try:
            make_scratch(self.scratch)
            made = True
            place = begin()
            start = place.start
            demand_memory(self.scratch, device=start.device.kind, named_by_host=self.scratch_named_by_host)
            with self.report.step(Step.ATTEST, "TEE launched"):
                device = self.device_of(start.device)
                device.launch(launch_identity(start.application, start.device))
            _harden()  # after the launch, in which the simulated platform looks at this process from outside
            member = become_member(
                start,
                device=device,
                scratch=self.scratch,
                clock=self.clock,
                report=self.report,
                workload_token=place.workload_token,
            )
            status = self._drive(place, member) if start.role == "driver" else self._execute(place, member)
        except StrongroomError as error:
            self.report.fail(error)
            return _EXIT_FAILED
        except OSError as error:
            self.report.fail(_system_error(error))
            return _EXIT_FAILED
        finally:
            if made:
                remove_scratch(self.scratch)
        return status if status >= 0 else _SIGNAL_BASE - status

    def _drive(self, place: Place, member: Membership) -> int:
        started_at, log, own = self.clock.now(), self.scratch / "output", member.signing_key.verifying_key.thumbprint
        with ExitStack() as running:
            node = self._node(place, member, running)
            opened = running.enter_context(place.cluster(node, driver_key=own))
            self.report.tell(DriverReady(run=member.run, driver_key=own, master_url=opened.cluster.master_url))
            with log.open("wb") as output:
                driver = start_driver(
                    node,
                    cluster=opened.cluster,
                    application=application_of(member.application),
                    resources=resources_of(place.start.sizes),
                    stdout=output,
                    stderr=output,
                )
                running.callback(end, driver)
                with self.report.step(Step.COMPUTE, "application ended"):
                    try:
                        status = wait_for(driver, others=opened.processes, stop=self.stop)
                    except EngineError:
                        ended = Ended(exit_status=_EXIT_FAILED, started_at=started_at, log=log)
                        self._abandon(place, member, ended)
                        raise
        ended = Ended(exit_status=status, started_at=started_at, log=log)
        with self.report.step(
            Step.WRITE, "results committed, run closed" if status == 0 else "run closed without output"
        ):
            kept = self._finish(place, member, ended)
        self.report.tell(Finished(status=status, receipt=kept.receipt, output=kept.output, lines=kept.lines))
        return status

    def _finish(self, place: Place, member: Membership, ended: Ended) -> Kept:
        """Close the run. One that lost its lease is closed as failed, with a receipt, and ends with the reason.

        Raises:
            RefusedError: An approval was revoked or is over: nothing was committed.
            StrongroomError: The run could not be closed.
        """
        refusal = None if ended.exit_status == 0 else lost_lease(member.services.values(), clock=self.clock)
        try:
            kept = finish_run(member, start=place.start, ended=ended, clock=self.clock, keep=place.keep)
        except RefusedError as error:
            refusal = lost_lease(member.services.values(), clock=self.clock)
            if refusal is None:
                raise
            self._abandon(place, member, replace(ended, exit_status=ended.exit_status or _EXIT_FAILED))
            raise refusal from error
        if refusal is not None:
            raise refusal
        return kept

    def _abandon(self, place: Place, member: Membership, ended: Ended) -> None:
        abandon_run(member, start=place.start, ended=ended, clock=self.clock, keep=place.keep)

    def _execute(self, place: Place, member: Membership) -> int:
        with ExitStack() as running:
            node = self._node(place, member, running)
            executor = place.start_executor(node, settings=member.application.description.settings, stop=self.stop)
            running.callback(end, executor)
            return wait_for(executor, others=[], stop=self.stop)

    def _node(self, place: Place, member: Membership, running: ExitStack) -> ProtectedNode:
        key_socket, sizes = self.scratch / "keys", place.start.sizes
        running.enter_context(
            KeySocketServer(
                key_socket,
                datasets=member.datasets,
                required_settings=guarded_settings(place.start.scheduling),
                role=place.start.role,
                renew=lambda: renew_everywhere(
                    member.services.values(), now=self.clock.now, waiting=self._tell_of_waiting
                ),
            )
        )
        return ProtectedNode(
            runtime=find_runtime(),
            scratch=self.scratch,
            host=place.start.host,
            secret=member.secret,
            key_socket=key_socket,
            enclave_cores=sizes.executor_cores if _is_enclave(place.start, member) else None,
        )

    def _tell_of_waiting(self, error: UnavailableError) -> None:
        told = StepDone(step=Step.RELEASE.slug, detail=f"{error.message}: asking again", elapsed_ms=0)
        self.report.tell(told)


def _is_enclave(start: Start, member: Membership) -> bool:
    """Return whether this TEE is an enclave of a library operating system.

    The keys are here, so the evidence was verified and appraised: what it is of is no word of the host's any more.
    """
    return is_enclave_device(start.device.kind) and member.evidence.kind == "sgx"


def _harden() -> None:
    """Keep this process's memory from core files and other processes, and its descendants recognisable as such.

    An orphaned descendant becomes a child of this process, so that it never looks like one from outside the TEE.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the descriptor cannot be read: {error.strerror}") from error


def _system_error(error: OSError) -> StrongroomError:
    name = os.path.basename(str(error.filename)) if error.filename else "a file"  # noqa: PTH119 - maybe no path
    return ConfigurationError(
        f"the system refused {name}: {error.strerror}", action="look at free memory, disk and permissions"
    )
