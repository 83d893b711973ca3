"""Promises 1, 2, 7 and 8 for TDX and SEV-SNP as for SGX: whole runs against real services, with one thing changed.

The evidence policy of these services looks at nothing but the measurement: all else is what approvals demand.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.receipts import verify_by_both
from tests.support.service_processes import CLOCK, Installation, installation
from tests.support.tee import PlatformDevice, Runner

from strongroom.agent import member as agent
from strongroom.attestation.attester import Quote
from strongroom.attestation.evidence.fields import read_fields
from strongroom.attestation.evidence.snp_report import GuestPolicy
from strongroom.attestation.evidence.td_report import TdAttributes
from strongroom.base.encoding import canonical_json, from_b64url, to_b64url
from strongroom.base.errors import ConfigurationError, NotFoundError, RefusedError, StrongroomError, VerificationError
from strongroom.simulation.amd import SimulatedAmd
from strongroom.wire.model import TEE_KINDS, TeeKind

VIRTUAL: tuple[TeeKind, ...] = ("tdx", "snp")
OTHER_KIND: dict[TeeKind, TeeKind] = {"sgx": "tdx", "tdx": "snp", "snp": "sgx"}
LAUNCHED_WITH = {
    "sgx": ("config_id", 64, "x-ms-sgx-config-id"),
    "tdx": ("mrconfigid", 48, "tdx_mrconfigid"),
    "snp": ("host_data", 32, "x-ms-sevsnpvm-hostdata"),
}
MEASURED = {"sgx": ("mrenclave", 32), "tdx": ("mrtd", 48), "snp": ("measurement", 48)}


class Bench:
    """An owner whose approvals name some kinds of TEE, and agents that run as any."""

    def __init__(self, services: Installation, folder: Path, *, tees: tuple[TeeKind, ...]) -> None:
        self.services = services
        self.runner = Runner(services, folder)
        self.runner.approve_all(tees=tees)

    def device(self, kind: TeeKind, **changed: Any) -> PlatformDevice:
        return PlatformDevice(services=self.services, kind=kind, changed=changed)

    def open(self, device: PlatformDevice) -> None:
        """Try to open a run."""
        self.runner.join(self.runner.descriptor(self.runner.ticket()), device=device)

    def run(self, driver: TeeKind, executor: TeeKind) -> bytes:
        """A run to its end, and its receipt."""
        runner = self.runner
        descriptor = runner.descriptor(runner.ticket())
        member = runner.join(descriptor, device=self.device(driver))
        runner.join(runner.descriptor(descriptor.ticket, driver=member), device=self.device(executor))
        runner.write(member)
        kept = runner.finish(member, descriptor)
        return (runner.folder / "out" / kept.receipt).read_bytes()


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Approvals that name every kind."""
    folder = tmp_path_factory.mktemp("every")
    with installation(folder) as services:
        yield Bench(services, folder, tees=TEE_KINDS)


@pytest.fixture(scope="module")
def receipts(every: Bench) -> dict[TeeKind, bytes]:
    """A receipt of a run whose TEEs are all of one kind."""
    return {kind: every.run(kind, kind) for kind in TEE_KINDS}


def names(refusal: pytest.ExceptionInfo[StrongroomError]) -> set[str]:
    return {mismatch.name for mismatch in refusal.value.mismatches}


# --- the good path ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEE_KINDS)
def test_a_run_has_a_receipt_that_verifies_offline(every: Bench, receipts: dict[TeeKind, bytes], kind: TeeKind) -> None:
    verified = verify_by_both(receipts[kind], trust=every.runner.trust())
    assert [(member["role"], member["tee"]) for member in verified.members] == [("driver", kind), ("executor", kind)]
    assert (verified.body.hardware, set(verified.outputs)) == ("simulated", {"report"})
    assert [name.partition(".")[0] for name in verified.body.endorsements] == [kind]


@pytest.mark.parametrize("kind", TEE_KINDS)
def test_driver_and_executor_may_be_of_two_kinds(every: Bench, kind: TeeKind) -> None:
    verified = verify_by_both(every.run(kind, OTHER_KIND[kind]), trust=every.runner.trust())
    assert [member["tee"] for member in verified.members] == [kind, OTHER_KIND[kind]]
    assert len(verified.body.endorsements) == 2


# --- keys ------------------------------------------------------------------------------------------------------------


def test_refuses_a_kind_of_tee_that_no_approval_names(tmp_path: Path) -> None:
    with installation(tmp_path) as services:
        bench = Bench(services, tmp_path, tees=("sgx",))
        for kind in VIRTUAL:
            with pytest.raises(RefusedError) as refusal:
                bench.open(bench.device(kind))
            assert {"x-ms-attestation-type", LAUNCHED_WITH["sgx"][2]} <= names(refusal)
        bench.open(bench.device("sgx"))


@pytest.mark.parametrize("kind", TEE_KINDS)
def test_an_agent_ends_in_a_tee_that_was_launched_for_another_application(every: Bench, kind: TeeKind) -> None:
    name, size, _ = LAUNCHED_WITH[kind]
    with pytest.raises(RefusedError, match="launched for another application"):
        every.open(every.device(kind, **{name: bytes(size)}))


@pytest.mark.parametrize("kind", TEE_KINDS)
def test_refuses_a_tee_that_was_launched_for_another_application(
    every: Bench, kind: TeeKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, size, claim = LAUNCHED_WITH[kind]
    monkeypatch.setattr(agent, "launch_value", lambda *_: bytes(size))  # an agent that does not look
    with pytest.raises(RefusedError) as refusal:
        every.open(every.device(kind, **{name: bytes(size)}))
    assert claim in names(refusal)


@pytest.mark.parametrize("kind", TEE_KINDS)
def test_refuses_another_agent(every: Bench, kind: TeeKind) -> None:
    name, size = MEASURED[kind]
    with pytest.raises(StrongroomError, match="policy"):
        every.open(every.device(kind, **{name: bytes(size)}))


@pytest.mark.parametrize(
    ("kind", "changed", "claim"),
    [
        ("snp", {"policy": GuestPolicy(migrate_ma=True)}, "x-ms-sevsnpvm-migration-allowed"),
        ("snp", {"vmpl": 1}, "x-ms-sevsnpvm-vmpl"),
        ("snp", {"vmpl": 3}, "x-ms-sevsnpvm-vmpl"),
    ],
    ids=["migratable", "vmpl-1", "vmpl-3"],
)
def test_refuses_a_guest_that_the_host_may_move_or_that_has_a_master(
    every: Bench, kind: TeeKind, changed: dict[str, Any], claim: str
) -> None:
    with pytest.raises(RefusedError) as refusal:
        every.open(every.device(kind, **changed))
    assert claim in names(refusal)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("tdx", {"td_attributes": TdAttributes(sept_ve_disable=True, debug=True)}),
        ("tdx", {"td_attributes": TdAttributes()}),
        ("tdx", {"td_attributes": TdAttributes(sept_ve_disable=True, migratable=True)}),
        ("snp", {"policy": GuestPolicy(debug=True)}),
    ],
    ids=["td-debug", "td-sept-ve", "td-migratable", "guest-debug"],
)
def test_a_tee_that_may_be_looked_into_or_moved_is_refused(
    every: Bench, kind: TeeKind, changed: dict[str, Any]
) -> None:
    with pytest.raises(RefusedError, match="not safe"):
        every.open(every.device(kind, **changed))


def test_a_guest_without_certificates_is_told_who_can_help(every: Bench) -> None:
    class Bare(PlatformDevice):
        def quote(self, report_data: bytes) -> Quote:
            return Quote(kind="snp", data=super().quote(report_data).data)

    with pytest.raises(ConfigurationError, match="no certificates") as refusal:
        every.open(Bare(services=every.services, kind="snp"))
    assert "operator" in refusal.value.action


def test_refuses_a_report_under_a_root_of_the_hosts_own(every: Bench) -> None:
    own = SimulatedAmd.create("Milan", now=CLOCK.now(), rsa_bits=2048)

    class Own(PlatformDevice):
        def quote(self, report_data: bytes) -> Quote:
            quote = super().quote(report_data)
            return Quote(kind="snp", data=quote.data, certificate_chain=own.certificate_chain("VCEK"))

    with pytest.raises(NotFoundError, match="no revocation list"):  # what the host signs is not even looked at
        every.open(Own(services=every.services, kind="snp"))


# --- receipts --------------------------------------------------------------------------------------------------------

Edit = Callable[[dict[str, Any]], None]


def members_of(receipt: dict[str, Any]) -> list[dict[str, Any]]:
    return [member for record in receipt["body"]["records"].values() for member in record["members"]]


def no_endorsements(receipt: dict[str, Any]) -> None:
    receipt["body"]["endorsements"] = {}


def another_kind(receipt: dict[str, Any]) -> None:
    evidence = members_of(receipt)[1]["evidence"]
    evidence["kind"] = "sgx" if evidence["kind"] != "sgx" else "tdx"


def exchanged_evidence(receipt: dict[str, Any]) -> None:
    driver, executor = members_of(receipt)
    driver["evidence"], executor["evidence"] = executor["evidence"], driver["evidence"]


@pytest.mark.parametrize("kind", VIRTUAL)
@pytest.mark.parametrize("edit", [no_endorsements, another_kind, exchanged_evidence])
def test_an_edit_of_a_receipts_evidence_shows(
    every: Bench, receipts: dict[TeeKind, bytes], kind: TeeKind, edit: Edit
) -> None:
    receipt = json.loads(receipts[kind])
    edit(receipt)
    with pytest.raises(StrongroomError):
        verify_by_both(canonical_json(receipt), trust=every.runner.trust())


@pytest.mark.parametrize("kind", TEE_KINDS)
def test_a_quote_that_is_not_the_results_shows(every: Bench, receipts: dict[TeeKind, bytes], kind: TeeKind) -> None:
    receipt = json.loads(receipts[kind])
    evidence = members_of(receipt)[1]["evidence"]
    device = every.device(kind)
    device.launch(agent.launch_identity(every.runner.description.digest))
    again = device.quote(read_fields(kind, from_b64url(evidence["quote"])).report_data)  # the same, signed anew
    evidence["quote"] = to_b64url(again.data)
    with pytest.raises(VerificationError, match="does not hold: quote"):
        verify_by_both(canonical_json(receipt), trust=every.runner.trust())


@pytest.mark.parametrize("kind", VIRTUAL)
def test_refuses_a_receipt_of_agents_that_the_auditor_does_not_trust(
    every: Bench, receipts: dict[TeeKind, bytes], kind: TeeKind
) -> None:
    for trusted in ((), ("0" * 96,)):
        trust = every.runner.trust(agent_mrtds=trusted, agent_launch_digests=trusted)
        with pytest.raises(RefusedError, match="agent that is not trusted here"):
            verify_by_both(receipts[kind], trust=trust)


@pytest.mark.parametrize("kind", VIRTUAL)
def test_refuses_a_receipt_under_roots_that_the_auditor_does_not_trust(
    every: Bench, receipts: dict[TeeKind, bytes], kind: TeeKind
) -> None:
    trust = every.runner.trust()
    other = trust.roots[1 if kind == "tdx" else 0]
    with pytest.raises(VerificationError):
        verify_by_both(receipts[kind], trust=trust.model_copy(update={"roots": (other,)}))
