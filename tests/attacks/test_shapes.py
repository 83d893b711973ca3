"""Shapes: whom a TEE trusts follows from its evidence, an owner names whom he trusts, and nobody talks a shape up.

Whole runs against real services: processes, pods whose initdata name the application, and confidential nodes, as plain
virtual machines and as Azure's with a paravisor below. Each test changes one thing.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
from tests.support import tee
from tests.support.platform import MRTD
from tests.support.receipts import single_file, verify_by_both
from tests.support.service_processes import LAUNCH_DIGEST, SNP_PARAVISOR, Installation, installation, start
from tests.support.tee import PlatformDevice, Runner, azure_node

from strongroom.agent import member as agent
from strongroom.agent.member import Membership
from strongroom.attestation.attester import Device, Quote
from strongroom.attestation.attester.azure_vtpm import AzureVtpmDevice
from strongroom.attestation.evidence.initdata import launch_value_of, parse_initdata, render_initdata
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.encoding import canonical_json, from_b64url, to_b64url
from strongroom.base.errors import ConfigurationError, FormatError, RefusedError, StrongroomError, VerificationError
from strongroom.cli.policies import default_policy
from strongroom.clients.attestation import POLICY_KINDS
from strongroom.crypto.random import random_id
from strongroom.policy.evidence_policy import EvidencePolicy
from strongroom.receipts.members import verify_member
from strongroom.simulation.azure_vm import PARAVISOR
from strongroom.wire.descriptor import DeviceSetting
from strongroom.wire.key_service import Evidence
from strongroom.wire.model import SHAPES, Shape, VirtualTeeKind
from strongroom.wire.receipt import ReceiptBody
from strongroom.wire.trust import NodeReference, PodReference, Trust

KINDS: Final[tuple[VirtualTeeKind, ...]] = ("tdx", "snp")
IMAGE, OTHER_IMAGE = "sha256:" + "c3" * 32, "sha256:" + "d4" * 32
PLACE: Final = {"tdx": "mrconfigid", "snp": "host_data"}
SIZE: Final = {"tdx": 48, "snp": 32}
CLAIM: Final = {"tdx": "tdx_mrconfigid", "snp": "x-ms-sevsnpvm-hostdata"}
MEASURED: Final = {"tdx": MRTD.hex(), "snp": LAUNCH_DIGEST.hex()}
BELOW: Final = {"tdx": PARAVISOR.hex(), "snp": SNP_PARAVISOR.hex()}
OTHER: Final = "ff" * 32


def rego(image: str = IMAGE, more: str = "") -> str:
    """What may run in a pod: one image, and what a host would like to add."""
    return (
        "package agent_policy\n\nimport rego.v1\n\ndefault CreateContainerRequest := false\n"
        f'strongroom_image := "registry.example/strongroom/spark@{image}"\n'
        f'CreateContainerRequest if input.OCI.Annotations["image"] == strongroom_image\n{more}'
    )


def initdata(application: str, **policy: str) -> bytes:
    return render_initdata({"policy.rego": rego(**policy)}, application=application)


KNOWN: Final = parse_initdata(initdata(OTHER))
"""What names these initdata, for whatever application."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """How a TEE is made.

    Attributes:
        shape: What that is.
        azure: Whether a paravisor is below.
    """

    shape: Shape
    kind: VirtualTeeKind
    azure: bool = False

    def __str__(self) -> str:
        return f"{self.shape}-{self.kind}{'-azure' if self.azure else ''}"


AZURE: Final = tuple(Made(shape="confidential-node", kind=kind, azure=True) for kind in KINDS)
ALL: Final = (*(Made(shape=shape, kind=kind) for shape in SHAPES for kind in KINDS), *AZURE)
NODES: Final = tuple(made for made in ALL if made.shape == "confidential-node")


class Bench:
    """Services, and agents of applications in TEEs of every shape."""

    def __init__(self, services: Installation, folder: Path) -> None:
        services.set_policy(kinds=POLICY_KINDS)
        self.services = services
        self.runner = Runner(services, folder)

    @property
    def application(self) -> str:
        return self.runner.description.digest

    def approve(self, *shapes: Shape, **changed: Any) -> None:
        """Have a new application approved for exactly these shapes: no earlier approval speaks of it."""
        self.runner.pack_again(random_id())
        fields: dict[str, Any] = {"shape": None, "shapes": shapes, "tees": KINDS, **changed}
        self.runner.approve_all(**fields)

    def device(self, made: Made, **changed: Any) -> Device:
        return azure_node(self.services, made.kind) if made.azure else self.plain(made.kind, **changed)

    def plain(self, kind: VirtualTeeKind, **changed: Any) -> PlatformDevice:
        return PlatformDevice(services=self.services, kind=kind, changed=changed)

    def setting(self, made: Made, document: bytes | None = None) -> DeviceSetting:
        """What the host tells an agent in such a TEE."""
        found = initdata(self.application) if document is None else document
        return DeviceSetting(
            kind="azure-vtpm" if made.azure else "tsm",
            shape=made.shape,
            initdata=to_b64url(found) if made.shape == "pod" else None,
        )

    def open(self, made: Made, *, device: Device | None = None, document: bytes | None = None) -> Membership:
        """Try to open a run."""
        descriptor = self.runner.descriptor(self.runner.ticket(), device=self.setting(made, document))
        return self.runner.join(descriptor, device=device or self.device(made))

    def run(self, made: Made, executor: Made) -> bytes:
        """A run to its end, and its receipt."""
        runner = self.runner
        descriptor = runner.descriptor(runner.ticket(), device=self.setting(made))
        member = runner.join(descriptor, device=self.device(made))
        joining = runner.descriptor(descriptor.ticket, driver=member, device=self.setting(executor))
        runner.join(joining, device=self.device(executor))
        runner.write(member)
        kept = runner.finish(member, descriptor)
        return (runner.folder / "out" / kept.receipt).read_bytes()

    def trust(self, **changed: Any) -> Trust:
        """The trust file of somebody who trusts these pods and nodes as well."""
        fields: dict[str, Any] = {
            "pods": tuple(
                PodReference(tee=kind, measurement=MEASURED[kind], configuration=KNOWN.configuration) for kind in KINDS
            ),
            "nodes": tuple(
                NodeReference(tee=kind, measurement=value) for kind in KINDS for value in (MEASURED[kind], BELOW[kind])
            ),
            **changed,
        }
        return self.runner.trust(**fields)

    def only(self, **trusted: Any) -> EvidencePolicy:
        """The default policy of somebody who trusts nothing but this."""
        nothing = ("agent_measurements", "agent_mrtds", "agent_launch_digests", "pods", "nodes")
        return default_policy(self.trust(**{**dict.fromkeys(nothing, ()), **trusted}))

    @contextmanager
    def appraised_by(self, policy: EvidencePolicy) -> Iterator[None]:
        """Another evidence policy, for the time of a test."""
        self.services.set_policy(policy.text, kinds=POLICY_KINDS)
        try:
            yield
        finally:
            self.services.set_policy(kinds=POLICY_KINDS)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("shapes")
    with installation(folder) as services:
        yield Bench(services, folder)


@pytest.fixture(scope="module")
def receipts(bench: Bench) -> dict[Made, bytes]:
    """A receipt of a run whose TEEs are all made alike."""
    bench.approve(*SHAPES)
    return {made: bench.run(made, made) for made in ALL}


def names(refusal: pytest.ExceptionInfo[StrongroomError]) -> set[str]:
    return {mismatch.name for mismatch in refusal.value.mismatches}


def leaves_of(receipt: bytes) -> list[dict[str, Any]]:
    records = json.loads(receipt)["body"]["records"].values()
    return [json.loads(proof["leaf"]) for record in records for proof in record["leaves"]]


# --- the good path ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", ALL, ids=str)
def test_a_receipt_says_each_members_shape(bench: Bench, receipts: dict[Made, bytes], made: Made) -> None:
    verified = verify_by_both(receipts[made], trust=bench.trust())
    assert [(member["role"], member["tee"], member["shape"]) for member in verified.members] == [
        ("driver", made.kind, made.shape),
        ("executor", made.kind, made.shape),
    ]
    expected = BELOW[made.kind] if made.azure else MEASURED[made.kind]
    assert {member["measurement"] for member in verified.members} == {expected}
    images = {member.get("image") for member in verified.members}
    assert images == ({IMAGE} if made.shape == "pod" else {None})
    entered = [leaf for leaf in leaves_of(receipts[made]) if leaf["event"] in {"run-opened", "member-joined"}]
    assert [leaf["shape"] for leaf in entered] == [made.shape] * 2


def test_a_run_may_be_of_several_shapes_where_all_are_approved(bench: Bench) -> None:
    bench.approve("pod", "confidential-node")
    receipt = bench.run(Made(shape="pod", kind="snp"), Made(shape="confidential-node", kind="tdx", azure=True))
    verified = verify_by_both(receipt, trust=bench.trust())
    assert [member["shape"] for member in verified.members] == ["pod", "confidential-node"]


# --- who lets which in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", ALL, ids=str)
def test_only_an_approval_that_names_its_shape_lets_a_tee_in(bench: Bench, made: Made) -> None:
    others = tuple(shape for shape in SHAPES if shape != made.shape)
    bench.approve(*others)
    with pytest.raises(RefusedError) as refusal:
        bench.open(made)
    assert "shape" in names(refusal)
    told = bench.runner.owner.refusals()["refusals"][0]["differences"]
    (shape,) = [each for each in told if each["name"] == "shape"]
    assert (shape["expected"], shape["actual"]) == (" or ".join(others), made.shape)
    bench.approve(made.shape)
    bench.open(made)


@pytest.mark.parametrize("made", NODES, ids=str)
def test_an_approval_from_before_there_were_shapes_lets_no_weaker_one_in(bench: Bench, made: Made) -> None:
    bench.approve(shape="process", shapes=())
    with pytest.raises(RefusedError) as refusal:
        bench.open(made)
    assert "shape" in names(refusal)
    bench.open(Made(shape="process", kind=made.kind))


def test_an_executor_is_looked_at_as_its_driver_is(bench: Bench) -> None:
    bench.approve("pod")
    pod, runner = Made(shape="pod", kind="snp"), bench.runner
    descriptor = runner.descriptor(runner.ticket(), device=bench.setting(pod))
    member = runner.join(descriptor, device=bench.device(pod))
    for made in NODES:
        joining = runner.descriptor(descriptor.ticket, driver=member, device=bench.setting(made))
        with pytest.raises(RefusedError) as refusal:
            runner.join(joining, device=bench.device(made))
        assert "shape" in names(refusal)


# --- hosts that talk a shape up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", ["process", "pod"])
def test_an_agent_ends_where_its_tee_was_not_launched_as_its_host_says(
    bench: Bench, kind: VirtualTeeKind, said: Shape
) -> None:
    bench.approve(*SHAPES)
    with pytest.raises(RefusedError, match="launched for another application"):
        bench.open(Made(shape=said, kind=kind), device=bench.plain(kind, **{PLACE[kind]: bytes(SIZE[kind])}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_is_a_node_whatever_its_agent_says(
    bench: Bench, kind: VirtualTeeKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "launch_value", lambda *_: bytes(SIZE[kind]))  # an agent that does not look
    node = bench.plain(kind, **{PLACE[kind]: bytes(SIZE[kind])})
    bench.approve("process", "pod")
    with pytest.raises(RefusedError) as refusal:
        bench.open(Made(shape="process", kind=kind), device=node)
    assert {"shape", CLAIM[kind]} <= names(refusal)
    with pytest.raises(VerificationError, match="not launched with this initdata"):
        bench.open(Made(shape="pod", kind=kind), device=node)


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_ends_in_a_pod_that_was_launched_for_another_application(bench: Bench, kind: VirtualTeeKind) -> None:
    bench.approve("pod")
    with pytest.raises(RefusedError, match="launched for another application"):
        bench.open(Made(shape="pod", kind=kind), document=initdata(OTHER))


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_a_pod_that_was_launched_for_another_application(
    bench: Bench, kind: VirtualTeeKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = initdata(OTHER)
    launched = launch_value_of(document, kind=kind, algorithm="sha256").ljust(64, b"\0")
    for module in (agent, tee):  # an agent, and a host, that do not look
        monkeypatch.setattr(module, "launch_identity", lambda *_: launched)
    bench.approve("pod")
    with pytest.raises(RefusedError) as refusal:
        bench.open(Made(shape="pod", kind=kind), document=document)
    assert "x-ms-strongroom-initdata-application" in names(refusal)
    assert "shape" not in names(refusal)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_that_shows_no_initdata_is_nothing(
    bench: Bench, kind: VirtualTeeKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = agent.collect_evidence
    monkeypatch.setattr(
        agent, "collect_evidence", lambda device, *, runtime_data, **_: collect(device, runtime_data=runtime_data)
    )
    bench.approve(*SHAPES)
    with pytest.raises(RefusedError) as refusal:
        bench.open(Made(shape="pod", kind=kind))
    assert CLAIM[kind] in names(refusal) or "x-ms-strongroom-initdata-application" in names(refusal)
    assert "shape" not in names(refusal)


def showing(monkeypatch: pytest.MonkeyPatch, edit: Callable[[Evidence], Evidence]) -> None:
    """Have the agent show the key service, and so every auditor, other evidence than it was appraised with."""
    made = agent._message
    monkeypatch.setattr(agent, "_message", lambda evidence: edit(made(evidence)))


@pytest.mark.parametrize("shown", [None, "another application's"])
def test_the_initdata_that_are_kept_are_those_that_were_appraised(
    bench: Bench, shown: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = None if shown is None else to_b64url(initdata(OTHER))
    bench.approve("pod")
    showing(monkeypatch, lambda each: each.model_copy(update={"initdata": other}))
    with pytest.raises(VerificationError, match="launched with other initdata"):
        bench.open(Made(shape="pod", kind="snp"))


def test_a_process_keeps_no_initdata(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.approve("process")
    showing(monkeypatch, lambda each: each.model_copy(update={"initdata": to_b64url(initdata(OTHER))}))
    with pytest.raises(VerificationError, match="launched with other initdata"):
        bench.open(Made(shape="process", kind="snp"))


@pytest.mark.parametrize("made", AZURE, ids=str)
def test_what_a_vtpm_said_is_kept_beside_its_result(bench: Bench, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.approve("confidential-node")
    showing(monkeypatch, lambda each: each.model_copy(update={"vtpm": None}))
    with pytest.raises(VerificationError, match="vTPM"):
        bench.open(made)


@pytest.mark.parametrize("made", AZURE, ids=str)
@pytest.mark.parametrize("part", ["tpm_quote", "tpm_signature", "hcl_report"])
def test_a_vtpms_word_about_something_else_is_not_kept(
    bench: Bench, made: Made, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is genuine; beside it stands what another VM said."""
    other = azure_node(bench.services, made.kind).evidence(b'{"other":1}').vtpm
    value = to_b64url(getattr(other, part))

    def exchange(evidence: Evidence) -> Evidence:
        assert evidence.vtpm is not None
        return evidence.model_copy(update={"vtpm": evidence.vtpm.model_copy(update={part: value})})

    bench.approve("confidential-node")
    showing(monkeypatch, exchange)
    with pytest.raises((VerificationError, FormatError)):
        bench.open(made)


@dataclass(kw_only=True)
class EarlierQuote:
    """One VM, whose vTPM said something else before: its word of then, beside its evidence of now."""

    now: AzureVtpmDevice

    def launch(self, config_id: bytes) -> None:
        self.now.launch(config_id)

    def evidence(self, runtime_data: bytes) -> UnverifiedEvidence:
        earlier, later = self.now.evidence(b'{"other":1}').vtpm, self.now.evidence(runtime_data)
        assert earlier is not None
        assert later.vtpm is not None
        vtpm = replace(later.vtpm, tpm_quote=earlier.tpm_quote, tpm_signature=earlier.tpm_signature)
        return replace(later, vtpm=vtpm)


@pytest.mark.parametrize("made", AZURE, ids=str)
def test_an_earlier_quote_of_the_same_vtpm_attests_nothing(bench: Bench, made: Made) -> None:
    bench.approve("confidential-node")
    with pytest.raises(VerificationError):
        bench.open(made, device=EarlierQuote(now=azure_node(bench.services, made.kind)))


@pytest.mark.parametrize("made", AZURE, ids=str)
def test_an_earlier_quote_of_the_same_vtpm_is_not_kept_either(
    bench: Bench, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attestation service saw the right one; the key service, and auditors, are shown the earlier one."""
    node = azure_node(bench.services, made.kind)
    earlier = node.evidence(b'{"other":1}').vtpm
    assert earlier is not None
    parts = {name: to_b64url(getattr(earlier, name)) for name in ("tpm_quote", "tpm_signature")}

    def exchange(evidence: Evidence) -> Evidence:
        assert evidence.vtpm is not None
        return evidence.model_copy(update={"vtpm": evidence.vtpm.model_copy(update=parts)})

    bench.approve("confidential-node")
    showing(monkeypatch, exchange)
    with pytest.raises(VerificationError, match="does not bind this runtime data"):
        bench.open(made, device=node)


def test_an_azure_vms_own_report_is_no_process(bench: Bench) -> None:
    """Its report data are the paravisor's: shown alone, as if it were a guest's, it binds nothing."""

    class Alone(PlatformDevice):
        def quote(self, report_data: bytes) -> Quote:
            evidence = azure_node(self.services, "snp").evidence(report_data)
            return Quote(kind="snp", data=evidence.quote, certificate_chain=evidence.certificate_chain)

    bench.approve(*SHAPES)
    with pytest.raises(StrongroomError) as refusal:
        bench.open(Made(shape="confidential-node", kind="snp"), device=Alone(services=bench.services, kind="snp"))
    assert isinstance(refusal.value, RefusedError | VerificationError)


# --- what runs in a pod, and evidence policies -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["configuration", "image"])
def test_a_pod_is_trusted_for_what_it_may_run(bench: Bench, kind: VirtualTeeKind, by: str) -> None:
    said = {
        "configuration": {"configuration": KNOWN.configuration},
        "image": {"template": KNOWN.template, "image": IMAGE},
    }
    trusted = PodReference.from_object({"tee": kind, "measurement": MEASURED[kind], **said[by]})
    policy, pod = bench.only(pods=(trusted,)), Made(shape="pod", kind=kind)
    bench.approve("pod", evidence_policy_hash=policy.hash)
    known = initdata(bench.application)
    with bench.appraised_by(policy):
        for document in (known, known + b"\n"):  # other bytes that say the same
            bench.open(pod, document=document)
        for document in (
            initdata(bench.application, image=OTHER_IMAGE),
            initdata(bench.application, more="CreateContainerRequest := true\n"),
            render_initdata({"policy.rego": rego(), "cdh.toml": ""}, application=bench.application),
            render_initdata({}, application=bench.application),
        ):
            with pytest.raises(RefusedError, match="policy"):
                bench.open(pod, document=document)
        other = "mrtd" if kind == "tdx" else "measurement"
        with pytest.raises(RefusedError, match="policy"):
            bench.open(pod, device=bench.plain(kind, **{other: bytes(48)}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["pod", "confidential-node"])
def test_what_is_trusted_as_one_shape_is_permitted_as_no_other(
    bench: Bench, kind: VirtualTeeKind, shape: Shape
) -> None:
    """A pod's guest image launched with the digest itself runs whatever its host likes: it is no measured agent."""
    trusted = bench.trust()
    policy = bench.only(pods=trusted.pods) if shape == "pod" else bench.only(nodes=trusted.nodes)
    bench.approve(*SHAPES, evidence_policy_hash=policy.hash)
    with bench.appraised_by(policy):
        for made in (made for made in ALL if made.kind == kind):
            if made.shape == shape:
                bench.open(made)
            else:
                with pytest.raises(RefusedError, match="policy"):
                    bench.open(made)


def test_a_default_policy_needs_somebody_to_trust(bench: Bench) -> None:
    with pytest.raises(ConfigurationError, match="names no agent"):
        bench.only()


# --- receipts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trusted",
    [
        None,
        {"tee": "snp", "measurement": MEASURED["snp"], "configuration": OTHER},
        {"tee": "snp", "measurement": "ff" * 48, "configuration": KNOWN.configuration},
        {"tee": "tdx", "measurement": MEASURED["snp"], "configuration": KNOWN.configuration},
        {"tee": "snp", "measurement": MEASURED["snp"], "template": KNOWN.template, "image": OTHER_IMAGE},
        {"tee": "snp", "measurement": MEASURED["snp"], "template": OTHER, "image": IMAGE},
    ],
)
def test_refuses_a_receipt_of_pods_that_the_auditor_does_not_trust(
    bench: Bench, receipts: dict[Made, bytes], trusted: dict[str, str] | None
) -> None:
    """Whatever the evidence policy was: that of these services looks at the measurement alone."""
    pods = () if trusted is None else (PodReference.from_object(trusted),)
    with pytest.raises(RefusedError, match="agent that is not trusted here"):
        verify_by_both(receipts[Made(shape="pod", kind="snp")], trust=bench.trust(pods=pods))


def test_a_pod_may_be_trusted_by_template_and_image(bench: Bench, receipts: dict[Made, bytes]) -> None:
    named = PodReference(tee="snp", measurement=MEASURED["snp"], template=KNOWN.template, image=IMAGE)
    assert verify_by_both(receipts[Made(shape="pod", kind="snp")], trust=bench.trust(pods=(named,)))


@pytest.mark.parametrize("made", NODES, ids=str)
def test_refuses_a_receipt_of_nodes_that_the_auditor_does_not_trust(
    bench: Bench, receipts: dict[Made, bytes], made: Made
) -> None:
    """Trust in a measured agent is no trust in a node of the same measurement."""
    for nodes in ((), (NodeReference(tee=made.kind, measurement="ff" * 48),)):
        with pytest.raises(RefusedError, match="agent that is not trusted here"):
            verify_by_both(receipts[made], trust=bench.trust(nodes=nodes))


@pytest.mark.parametrize("kind", KINDS)
def test_trust_in_pods_and_nodes_is_no_trust_in_a_process_of_that_measurement(
    bench: Bench, receipts: dict[Made, bytes], kind: VirtualTeeKind
) -> None:
    trust = bench.trust(agent_mrtds=(), agent_launch_digests=())
    with pytest.raises(RefusedError, match="agent that is not trusted here"):
        verify_by_both(receipts[Made(shape="process", kind=kind)], trust=trust)


Edit = Callable[[dict[str, Any]], None]


def members_of(receipt: dict[str, Any]) -> list[dict[str, Any]]:
    return [member["evidence"] for record in receipt["body"]["records"].values() for member in record["members"]]


def demand_refused(receipt: bytes, edit: Edit, trust: Trust) -> None:
    """Have both verifiers refuse an edited receipt, and its member even where everything around it were signed anew."""
    edited = json.loads(receipt)
    edit(edited)
    with pytest.raises(StrongroomError):
        verify_by_both(canonical_json(edited), trust=trust)
    body = ReceiptBody.from_object(edited["body"])
    ticket = single_file.verify_ticket(edited["body"])
    anchors = json.loads(trust.to_json())
    for record, said in zip(body.records.values(), edited["body"]["records"].values(), strict=True):
        with pytest.raises(StrongroomError):
            [verify_member(body, member, trust=trust) for member in record.members]
        with pytest.raises((single_file.DoesNotHoldError, *single_file.MALFORMED)):
            single_file.verify_members(edited["body"], said, ticket, anchors)


def no_initdata(receipt: dict[str, Any]) -> None:
    del members_of(receipt)[1]["initdata"]


def other_initdata(receipt: dict[str, Any]) -> None:
    members_of(receipt)[1]["initdata"] = to_b64url(initdata(OTHER))


def same_words(receipt: dict[str, Any]) -> None:
    found = members_of(receipt)[1]
    found["initdata"] = to_b64url(from_b64url(found["initdata"]) + b"\n")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edit", [no_initdata, other_initdata, same_words])
def test_an_edit_of_a_pods_initdata_shows(
    bench: Bench, receipts: dict[Made, bytes], kind: VirtualTeeKind, edit: Edit
) -> None:
    demand_refused(receipts[Made(shape="pod", kind=kind)], edit, bench.trust())


def no_vtpm(receipt: dict[str, Any]) -> None:
    del members_of(receipt)[1]["vtpm"]


def other_register(receipt: dict[str, Any]) -> None:
    members_of(receipt)[1]["vtpm"]["pcrs"]["0"] = "00" * 32


def register_left_out(receipt: dict[str, Any]) -> None:
    del members_of(receipt)[1]["vtpm"]["pcrs"]["7"]


def register_renamed(receipt: dict[str, Any]) -> None:
    pcrs = members_of(receipt)[1]["vtpm"]["pcrs"]
    pcrs["8"] = pcrs.pop("7")


def another_members_vtpm(receipt: dict[str, Any]) -> None:
    first, second = members_of(receipt)
    first["vtpm"], second["vtpm"] = second["vtpm"], first["vtpm"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edit", [no_vtpm, other_register, register_left_out, register_renamed, another_members_vtpm])
def test_an_edit_of_what_a_vtpm_said_shows(
    bench: Bench, receipts: dict[Made, bytes], kind: VirtualTeeKind, edit: Edit
) -> None:
    demand_refused(receipts[Made(shape="confidential-node", kind=kind, azure=True)], edit, bench.trust())


def test_a_key_service_that_logs_a_stronger_shape_is_caught(tmp_path: Path) -> None:
    """Its operator has every TEE logged as a process; the evidence in the receipt says what each was."""
    lie = (
        "from strongroom.services import key_service, runs\n"
        "runs.shape_of = lambda claims: 'process'\n"
        "key_service.main()\n"
    )
    with installation(tmp_path) as services:
        services.keys.stop()
        config, url = services.keys.config, services.keys.url
        services.keys = start("key_service", config, url=url, state=tmp_path / "keys", program=lie)
        bench, node = Bench(services, tmp_path), Made(shape="confidential-node", kind="snp")
        bench.approve("confidential-node")
        receipt = bench.run(node, node)
        assert leaves_of(receipt)[0]["shape"] == "process"
        with pytest.raises(VerificationError, match="shape in the log"):
            verify_by_both(receipt, trust=bench.trust())
