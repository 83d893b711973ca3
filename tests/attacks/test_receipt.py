"""Promise 7: every run leaves a trace that is checked offline, and every edit of it shows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.platform import Bench
from tests.support.service_processes import installation
from tests.support.tee import Runner

from strongroom.base.encoding import canonical_json, from_b64url, to_b64url
from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    FormatError,
    RefusedError,
    StrongroomError,
    VerificationError,
)
from strongroom.crypto.jose import open_as_recipient
from strongroom.crypto.x509 import to_pem
from strongroom.receipts.verify import verify_receipt
from strongroom.wire.trust import Trust, TrustedRootEntry

EDITS = 400


class Finished:
    """A run with one executor, its receipt, and the auditor's trust file; the services are stopped."""

    def __init__(self, runner: Runner, receipt: bytes, other: bytes) -> None:
        self.trust = runner.trust()
        self.receipt = receipt
        self.other = other
        self.parsed: dict[str, Any] = json.loads(receipt)

    def edited(self, edit: Callable[[dict[str, Any]], None]) -> bytes:
        copy = json.loads(self.receipt)
        edit(copy)
        return canonical_json(copy)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("receipt")
    with installation(folder) as services:
        runner = Runner(services, folder)
        for name, access in (("trips", "read"), ("report", "write")):
            runner.approve(name, access)
        receipts = []
        for _ in range(2):
            descriptor = runner.descriptor(runner.ticket())
            driver = runner.join(descriptor)
            runner.join(runner.descriptor(descriptor.ticket, driver=driver))
            runner.write(driver)
            kept = runner.finish(driver, descriptor)
            receipts.append((folder / "out" / kept.receipt).read_bytes())
            assert kept.output is not None
            sealed = (folder / "out" / kept.output).read_bytes()
            assert open_as_recipient(sealed, key=runner.recipient) == b"hello\nauditor\n"
            assert b"auditor" not in sealed
    return Finished(runner, *receipts)


def test_holds_with_everything_stopped_and_names_what_ran(finished: Finished) -> None:
    verified = verify_receipt(finished.receipt, trust=finished.trust)
    assert [member["role"] for member in verified.members] == ["driver", "executor"]
    assert verified.body.outcome == "succeeded"
    assert verified.body.hardware == "simulated"
    assert set(verified.outputs) == {"report"}
    assert verified.inputs["trips"].number == 1
    assert set(verified.approvals) == {"trips", "report"}
    assert set(verified.modes.values()) == {"owner-operated"}


def test_any_one_byte_edit_shows(finished: Finished) -> None:
    step = max(1, len(finished.receipt) // EDITS)
    for position in range(0, len(finished.receipt), step):
        for flip in (0x01, 0x20):
            changed = bytearray(finished.receipt)
            changed[position] ^= flip
            with pytest.raises(StrongroomError):
                verify_receipt(bytes(changed), trust=finished.trust)


@pytest.mark.parametrize("add", [b"\n", b" ", b"{}"])
def test_bytes_around_it_show(finished: Finished, add: bytes) -> None:
    for changed in (finished.receipt + add, add + finished.receipt):
        with pytest.raises(FormatError):
            verify_receipt(changed, trust=finished.trust)


def _drop_executor(receipt: dict[str, Any]) -> None:
    for record in receipt["body"]["records"].values():
        record["members"].pop()


def _drop_leaf(receipt: dict[str, Any]) -> None:
    for record in receipt["body"]["records"].values():
        record["leaves"].pop()


def _fail(receipt: dict[str, Any]) -> None:
    receipt["body"]["outcome"] = "failed"


def _drop_closing(receipt: dict[str, Any]) -> None:
    receipt["closings"] = {}


@pytest.mark.parametrize("edit", [_drop_executor, _drop_leaf, _fail, _drop_closing])
def test_nothing_can_be_left_out(finished: Finished, edit: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(StrongroomError):
        verify_receipt(finished.edited(edit), trust=finished.trust)


def test_parts_of_two_runs_do_not_mix(finished: Finished) -> None:
    other = json.loads(finished.other)

    def swap_closing(receipt: dict[str, Any]) -> None:
        receipt["closings"] = other["closings"]

    def swap_members(receipt: dict[str, Any]) -> None:
        for identity, record in receipt["body"]["records"].items():
            record["members"] = other["body"]["records"][identity]["members"]

    def swap_signature(receipt: dict[str, Any]) -> None:
        receipt["signature"] = other["signature"]

    for edit in (swap_closing, swap_members, swap_signature):
        with pytest.raises(VerificationError):
            verify_receipt(finished.edited(edit), trust=finished.trust)


def test_a_driver_that_signs_another_story_is_caught_by_the_log(finished: Finished) -> None:
    """Even with a body that its own signature covers, the key service logged another one."""

    def tell(receipt: dict[str, Any]) -> None:
        receipt["body"]["exit_status"] = 1
        receipt["signature"] = to_b64url(from_b64url(receipt["signature"]))

    with pytest.raises(VerificationError):
        verify_receipt(finished.edited(tell), trust=finished.trust)


def _other_root(trust: Trust) -> Trust:
    root = TrustedRootEntry(certificate_pem=to_pem(Bench.new().platform.root_der), simulated=True)
    return trust.model_copy(update={"roots": (root,)})


def _other_owner(trust: Trust) -> Trust:
    return trust.model_copy(update={"owners": ("0" * 64,)})


def _other_agent(trust: Trust) -> Trust:
    return trust.model_copy(update={"agent_measurements": ("0" * 64,)})


def _real_hardware(trust: Trust) -> Trust:
    return trust.model_copy(update={"hardware": "real"})


def _no_services(trust: Trust) -> Trust:
    return trust.model_copy(update={"services": ()})


def _other_identities(trust: Trust) -> Trust:
    return trust.model_copy(
        update={"services": tuple(each.model_copy(update={"identity": "0" * 64}) for each in trust.services)}
    )


@pytest.mark.parametrize(
    "change", [_other_root, _other_owner, _other_agent, _real_hardware, _no_services, _other_identities]
)
def test_anchors_come_from_the_auditor_never_from_the_receipt(
    finished: Finished, change: Callable[[Trust], Trust]
) -> None:
    with pytest.raises(StrongroomError) as refused:
        verify_receipt(finished.receipt, trust=change(finished.trust))
    assert isinstance(refused.value, VerificationError | RefusedError | ConfigurationError)


def test_a_late_executor_cannot_hide_from_the_receipt(tmp_path: Path) -> None:
    """A member that joins while the driver closes is counted: the closing waits for it, and the receipt names it."""
    with installation(tmp_path) as services:
        runner = Runner(services, tmp_path)
        for name, access in (("trips", "read"), ("report", "write")):
            runner.approve(name, access)
        descriptor = runner.descriptor(runner.ticket())
        driver = runner.join(descriptor)
        service = next(iter(driver.services.values()))
        original, late = service.close, []

        def close_late(request: Any) -> Any:
            if not late:
                late.append(runner.join(runner.descriptor(descriptor.ticket, driver=driver)))
            return original(request)

        service.close = close_late  # type: ignore[method-assign]
        kept = runner.finish(driver, descriptor)
        receipt = (tmp_path / "out" / kept.receipt).read_bytes()
        assert len(verify_receipt(receipt, trust=runner.trust()).members) == 2
        with pytest.raises((RefusedError, ConflictError)):
            runner.join(runner.descriptor(descriptor.ticket, driver=driver))
