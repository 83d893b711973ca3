"""The members of a run as a receipt shows them: each one's result and evidence, verified anew; never in a TEE."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from strongroom.attestation.endorsements.dcap import DcapEndorsements, parse_endorsements
from strongroom.attestation.endorsements.platforms import platform_of
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.azure_vtpm import azure_vm_of
from strongroom.attestation.evidence.fields import EvidenceFields, launch_field, read_fields
from strongroom.attestation.evidence.initdata import Initdata, verify_initdata
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.result import AttestationResult
from strongroom.attestation.verifier import (
    TrustedRoot,
    TrustedRoots,
    verify_azure_vm,
    verify_sgx,
    verify_snp,
    verify_tdx,
)
from strongroom.base.encoding import from_b64url, parse_json_object
from strongroom.base.errors import Mismatch, RefusedError, VerificationError
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import unverified_payload
from strongroom.crypto.x509 import parse_pem_chain
from strongroom.policy.shapes import shape_of
from strongroom.policy.tee_claims import (
    HARDWARE,
    IMAGE,
    INITDATA,
    INITDATA_APPLICATION,
    POD_CONFIGURATION,
    POD_TEMPLATE,
    TEE_CLAIMS,
    measurement_of,
    quote_hash,
)
from strongroom.receipts.build import evidence_of
from strongroom.receipts.issuers import Issuer, find_issuer
from strongroom.wire.key_service import RunMember
from strongroom.wire.model import Shape
from strongroom.wire.receipt import ReceiptBody
from strongroom.wire.runtime_data import RuntimeData
from strongroom.wire.ticket import RunTicket
from strongroom.wire.trust import Anchors, PodReference, Trust

ACTION: Final = "do not rely on this run; ask the owner for the receipt that the key service logged"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedMember:
    """A member whose result and evidence hold and say the same.

    Attributes:
        result: Its attestation result.
        shape: The shape of its TEE.
        measurement: What was measured at launch.
        initdata: What a pod was launched with; None for other shapes.
    """

    result: AttestationResult
    shape: Shape
    measurement: str
    initdata: Initdata | None


def verify_member(body: ReceiptBody, member: RunMember, *, trust: Trust) -> VerifiedMember:
    """Verify one member of a run.

    1. A key of the pinned attestation service, ours or Azure's, signed its result, and it held when the member joined.
    2. Its evidence verifies under that party's roots, and binds the runtime data.
    3. Both say the same run, role, application, code and hardware, and the result was made from this evidence.
    4. Where the application digest stands in the evidence gives the TEE's shape, and the result is of that shape.
    5. As that shape, its code is trusted.

    Args:
        body: The receipt's body.
        member: The member.
        trust: The auditor's own anchors.

    Raises:
        FormatError: A part is malformed.
        VerificationError: A signature or digest does not hold, or two parts differ.
        RefusedError: The code is not trusted here.
    """
    joined_at = datetime.strptime(member.joined_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    issuer = find_issuer(trust, body.attestation_service)
    party, result = issuer.party, issuer.verify(member.result, body, now=joined_at)  # 1
    evidence, runtime_data = evidence_of(member.evidence), from_b64url(member.evidence.runtime_data)
    hardware = _verify_evidence(evidence, body=body, trust=party, now=joined_at)  # 2
    runtime = RuntimeData.from_json(runtime_data)  # 3
    application = RunTicket.from_json(unverified_payload(body.ticket)).application
    fields = read_fields(evidence.kind, evidence.quote)
    measurement = fields.measurement.hex()
    demand("runtime data", parse_json_object(runtime_data), result.runtime)
    demand("run of a member", body.run, runtime.run)
    demand("role of a member", member.role, runtime.role)
    demand("application of a member", application, runtime.application)
    shape, initdata = _shape(evidence, application=application)  # 4
    _demand_initdata(result.claims, evidence.initdata, initdata)
    demand("shape of a member", shape, shape_of(result.claims))
    demand("measurement of the result", measurement, measurement_of(result.claims, evidence.kind))
    demand("hardware of a member", trust.hardware, hardware)
    demand("hardware of a result", hardware, result.claims.get(HARDWARE))
    _demand_about(result, evidence, fields, issuer=issuer)
    found = VerifiedMember(result=result, shape=shape, measurement=measurement, initdata=initdata)
    _demand_trusted(found, evidence, party)  # 5
    return found


def demand(name: str, expected: object, actual: object) -> None:
    """Refuse a receipt in which two things differ that must be the same.

    Raises:
        VerificationError: They differ.
    """
    if expected != actual:
        raise VerificationError(
            f"the receipt does not hold: {name}",
            action=ACTION,
            mismatches=(Mismatch(name=name, expected=str(expected)[:200], actual=str(actual)[:200]),),
        )


def _demand_about(
    result: AttestationResult, evidence: UnverifiedEvidence, fields: EvidenceFields, *, issuer: Issuer
) -> None:
    """Refuse a result that was made from other evidence than the receipt shows.

    Azure Attestation names the quote for SGX alone; for the rest the report data have to do: the hash of keys that the
    TEE made for this run.
    """
    if issuer.is_azure:
        demand("what a vTPM signed, of which Azure Attestation says nothing", None, evidence.vtpm)
    claims, said = TEE_CLAIMS[evidence.kind], quote_hash(result.claims, evidence.kind)
    if said is None and issuer.is_azure and evidence.kind != "sgx":
        demand("kind of TEE of a result", claims.attestation_type, result.claims.get("x-ms-attestation-type"))
        demand("report data of a result", fields.report_data.hex(), result.claims.get(claims.report_data))
    else:
        demand("quote", said, sha256_hex(evidence.quote))


def _shape(evidence: UnverifiedEvidence, *, application: str) -> tuple[Shape, Initdata | None]:
    """Return the shape that verified evidence is of, for the application that its runtime data name."""
    if evidence.vtpm is not None:
        return "confidential-node", None
    launched_with = read_fields(evidence.kind, evidence.quote).launched_with
    if evidence.kind != "sgx" and evidence.initdata is not None:
        initdata = verify_initdata(evidence.initdata, kind=evidence.kind, launched_with=launched_with or b"")
        demand("application of the initdata", application, initdata.application)
        return "pod", initdata
    if evidence.kind != "sgx" and launched_with is not None and not any(launched_with):
        return "confidential-node", None
    expected = TEE_CLAIMS[evidence.kind].launch_value(application)
    demand(launch_field(evidence.kind), expected, launched_with.hex() if launched_with else None)
    return "process", None


def _demand_initdata(claims: Mapping[str, Any], document: bytes | None, initdata: Initdata | None) -> None:
    """Compare what a result says of initdata with the document: all of it, or nothing where there is none."""
    said = {name: claims.get(name) for name in (INITDATA, INITDATA_APPLICATION, POD_CONFIGURATION, POD_TEMPLATE, IMAGE)}
    found: dict[str, Any] = dict.fromkeys(said)
    if initdata is not None and document is not None:
        found = {
            INITDATA: sha256_hex(document),
            INITDATA_APPLICATION: initdata.application,
            POD_CONFIGURATION: initdata.configuration,
            POD_TEMPLATE: initdata.template,
            IMAGE: initdata.image,
        }
    demand("initdata of the result", found, said)


def _demand_trusted(member: VerifiedMember, evidence: UnverifiedEvidence, party: Anchors) -> None:
    """Refuse code that is not trusted as what it ran as: a node's image launched as a process is no agent."""
    if member.shape == "process":
        trusted = member.measurement in party.agents(evidence.kind)
        names = party.agents(evidence.kind)
    elif member.shape == "pod":
        pods = [each for each in party.pods if each.tee == evidence.kind]
        trusted = any(_is_pod(each, member) for each in pods)
        names = tuple(each.measurement for each in pods)
    else:
        names = tuple(each.measurement for each in party.nodes if each.tee == evidence.kind)
        trusted = member.measurement in names
    if trusted:
        return
    expected = " or ".join(dict.fromkeys(names)) or f"no {member.shape} of kind {evidence.kind}"
    mismatches = [Mismatch(name="measurement", expected=expected, actual=member.measurement)]
    if member.initdata is not None:
        configurations = " or ".join(each.configuration or str(each.template) for each in party.pods) or "none"
        actual = f"{member.initdata.configuration}, image {member.initdata.image or 'not named'}"
        mismatches.append(Mismatch(name="pod configuration", expected=configurations, actual=actual))
    raise RefusedError("the run used an agent that is not trusted here", action=ACTION, mismatches=tuple(mismatches))


def _is_pod(reference: PodReference, member: VerifiedMember) -> bool:
    initdata = member.initdata
    if initdata is None or reference.measurement != member.measurement:
        return False
    if reference.template is None:
        return reference.configuration == initdata.configuration
    return (reference.template, reference.image) == (initdata.template, initdata.image)


def _verify_evidence(evidence: UnverifiedEvidence, *, body: ReceiptBody, trust: Anchors, now: datetime) -> str:
    """Verify a member's evidence and return the kind of its hardware."""
    text = body.endorsements.get(platform_of(evidence))
    if text is None:
        raise VerificationError("the receipt holds no endorsements of a member's platform", action=ACTION)
    roots = _roots(trust)
    snp = SnpEndorsements(certificate_chain=evidence.certificate_chain or "", crl=text)
    if evidence.vtpm is not None:
        endorsements: SnpEndorsements | DcapEndorsements = snp
        if evidence.kind != "snp":
            endorsements = parse_endorsements(text.encode())
        verified = verify_azure_vm(azure_vm_of(evidence), trusted_roots=roots, endorsements=endorsements, now=now)
        demand("registers of a member", sorted(evidence.vtpm.pcrs), list(verified.pcr_values))
        return verified.hardware
    match evidence.kind:
        case "snp":
            return verify_snp(evidence, trusted_roots=roots, endorsements=snp, now=now).hardware
        case "tdx":
            dcap = parse_endorsements(text.encode())
            return verify_tdx(evidence, trusted_roots=roots, endorsements=dcap, now=now).hardware
        case "sgx":
            dcap = parse_endorsements(text.encode())
            return verify_sgx(evidence, trusted_roots=roots, endorsements=dcap, now=now).hardware


def _roots(trust: Anchors) -> TrustedRoots:
    return TrustedRoots(
        roots=tuple(
            TrustedRoot(certificate_der=parse_pem_chain(root.certificate_pem.encode())[0], simulated=root.simulated)
            for root in trust.roots
        )
    )
