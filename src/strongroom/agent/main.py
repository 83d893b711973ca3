"""`strongroom-agent DESCRIPTOR`: the first process of a driver's or an executor's TEE."""

import ctypes
import logging
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from strongroom.agent.engine_run import Stop, application_of, end, resources_of, wait_for, wait_for_master
from strongroom.agent.finish import Ended, Kept, abandon_run, finish_run
from strongroom.agent.key_socket import KeySocketServer
from strongroom.agent.lease import lost_lease, renew_everywhere
from strongroom.agent.member import Membership, become_member, launch_identity
from strongroom.agent.report import Report
from strongroom.agent.scratch import make_scratch, remove_scratch
from strongroom.attestation.attester import open_device
from strongroom.base.clock import Clock, SystemClock
from strongroom.base.errors import ConfigurationError, EngineError, RefusedError, StrongroomError
from strongroom.base.workflow import Step
from strongroom.engine.runtime import find_runtime
from strongroom.engine.settings import guarded_settings
from strongroom.engine.spark import ProtectedNode, start_driver, start_master, start_worker
from strongroom.wire.descriptor import Descriptor
from strongroom.wire.events import DriverReady, Finished

_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_EXIT_FAILED: Final = 70
_EXIT_USAGE: Final = 64
_SIGNAL_BASE: Final = 128
_ARGUMENTS: Final = 2

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one TEE. Exit status: the application's; 128 + n for signal n; 70 where the agent refused."""
    arguments = list(sys.argv if argv is None else argv)
    if len(arguments) != _ARGUMENTS or arguments[1] in {"-h", "--help"}:
        sys.stderr.write(
            "usage: strongroom-agent DESCRIPTOR\n\nRuns one TEE of a run; the host writes the descriptor.\n"
        )
        raise SystemExit(0 if arguments[1:] in (["-h"], ["--help"]) else _EXIT_USAGE)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    try:
        descriptor = Descriptor.from_json(_read(Path(arguments[1])))
    except StrongroomError as error:
        sys.stderr.write(f"strongroom-agent: {error.message}. {error.action}\n")
        raise SystemExit(_EXIT_USAGE) from None
    raise SystemExit(run(descriptor, clock=SystemClock()))


def run(descriptor: Descriptor, *, clock: Clock) -> int:
    """Run one TEE from launch to end; nothing of it stays in its scratch folder.

    Returns:
        The exit status for the process.
    """
    report = Report(Path(descriptor.report))
    scratch = Path(descriptor.scratch)
    stop = Stop()
    stop.install()
    if descriptor.lifeline:
        stop.watch_lifeline(sys.stdin.fileno())
    made = False
    try:
        make_scratch(scratch)
        made = True
        with report.step(Step.ATTEST, "TEE launched"):
            device = open_device(descriptor.device)
            device.launch(launch_identity(descriptor.application))
        _harden()  # after the launch, in which the simulated platform looks at this process from outside
        member = become_member(
            descriptor,
            device=device,
            scratch=scratch,
            clock=clock,
            report=report,
        )
        tee = _drive if descriptor.role == "driver" else _execute
        status = tee(descriptor, member, scratch=scratch, clock=clock, report=report, stop=stop)
    except StrongroomError as error:
        report.fail(error)
        return _EXIT_FAILED
    except OSError as error:
        report.fail(_system_error(error))
        return _EXIT_FAILED
    finally:
        if made:
            remove_scratch(scratch)
    return status if status >= 0 else _SIGNAL_BASE - status


def _drive(
    descriptor: Descriptor, member: Membership, *, scratch: Path, clock: Clock, report: Report, stop: Stop
) -> int:
    started_at, log = clock.now(), scratch / "output"
    with ExitStack() as running:
        node = _node(descriptor, member, scratch, running, clock=clock)
        with report.step(Step.EXECUTORS, "Spark master started"):
            master, url = start_master(node)
        running.callback(end, master)
        report.tell(DriverReady(run=member.run, driver_key=member.signing_key.verifying_key.thumbprint, master_url=url))
        with log.open("wb") as output:
            driver = start_driver(
                node,
                master_url=url,
                application=application_of(member),
                resources=resources_of(descriptor.sizes),
                stdout=output,
                stderr=output,
            )
            running.callback(end, driver)
            with report.step(Step.COMPUTE, "application ended"):
                try:
                    status = wait_for(driver, others=[master], stop=stop)
                except EngineError:
                    ended = Ended(exit_status=_EXIT_FAILED, started_at=started_at, log=log)
                    abandon_run(member, descriptor=descriptor, ended=ended, clock=clock)
                    raise
    ended = Ended(exit_status=status, started_at=started_at, log=log)
    with report.step(Step.WRITE, "results committed, run closed" if status == 0 else "run closed without output"):
        kept = _finish(descriptor, member, ended=ended, clock=clock)
    report.tell(Finished(status=status, receipt=kept.receipt, output=kept.output, lines=kept.lines))
    return status


def _finish(descriptor: Descriptor, member: Membership, *, ended: Ended, clock: Clock) -> Kept:
    """Close the run. One that lost its lease is closed as failed, with a receipt, and ends with the reason.

    Raises:
        RefusedError: An approval was revoked or is over: nothing was committed.
        StrongroomError: The run could not be closed.
    """
    refusal = None if ended.exit_status == 0 else lost_lease(member.services.values(), clock=clock)
    try:
        kept = finish_run(member, descriptor=descriptor, ended=ended, clock=clock)
    except RefusedError as error:
        refusal = lost_lease(member.services.values(), clock=clock)
        if refusal is None:
            raise
        failed = replace(ended, exit_status=ended.exit_status or _EXIT_FAILED)
        abandon_run(member, descriptor=descriptor, ended=failed, clock=clock)
        raise refusal from error
    if refusal is not None:
        raise refusal
    return kept


def _execute(
    descriptor: Descriptor, member: Membership, *, scratch: Path, clock: Clock, report: Report, stop: Stop
) -> int:
    if descriptor.driver is None:
        raise ConfigurationError("an executor's descriptor names its driver")
    with ExitStack() as running:
        node = _node(descriptor, member, scratch, running, clock=clock)
        with report.step(Step.EXECUTORS, "Spark worker started"):
            wait_for_master(descriptor.driver.master_url, stop=stop)
            worker = start_worker(
                node,
                master_url=descriptor.driver.master_url,
                cores=descriptor.sizes.executor_cores,
                memory=f"{descriptor.sizes.executor_memory_mb}m",
            )
        running.callback(end, worker)
        return wait_for(worker, others=[], stop=stop)


def _node(
    descriptor: Descriptor, member: Membership, scratch: Path, running: ExitStack, *, clock: Clock
) -> ProtectedNode:
    key_socket = scratch / "keys"
    running.enter_context(
        KeySocketServer(
            key_socket,
            datasets=member.datasets,
            required_settings=guarded_settings(),
            role=descriptor.role,
            renew=lambda: renew_everywhere(member.services.values(), now=clock.now),
        )
    )
    return ProtectedNode(
        runtime=find_runtime(),
        scratch=scratch,
        host=descriptor.host,
        secret=member.secret,
        key_socket=key_socket,
    )


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
