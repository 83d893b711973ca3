"""What the verifier found to be true."""

import hashlib
from dataclasses import InitVar, dataclass
from datetime import datetime
from typing import Final, Generic, Literal, TypeAlias

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.endorsements.tcb import TcbStatus
from strongroom.attestation.evidence.dcap_quote import Body, DcapQuote
from strongroom.attestation.evidence.sgx_report import SgxReportBody
from strongroom.attestation.evidence.snp_report import Product, SnpReport, TcbVersion
from strongroom.attestation.evidence.td_report import TdReportBody
from strongroom.base.errors import VerificationError

_DIGEST_BYTES: Final = 32
VERIFIER: Final = object()
"""Proof that the verifier makes verified evidence; only the modules of this package use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedDcap(Generic[Body]):
    """A DCAP quote whose every signature holds. Its claims MUST still be appraised against an evidence policy.

    Attributes:
        quote: The parsed quote: an enclave's (`VerifiedSgx`) or a trust domain's (`VerifiedTdx`).
        runtime_data: The exact bytes that the quote's report data binds.
        tcb_status: The vendor's word on platform, quoting enclave and TDX module together.
        advisory_ids: The vendor's advisories that apply, sorted.
        tcb_evaluation_data_number: Of the TCB info; grows with the vendor's knowledge.
        tcb_date: Date of the platform's TCB level (RFC 3339).
        fmspc: Platform family, 12 lower-case hexadecimal digits.
        ppid: 16 bytes; the processor package.
        platform_instance_id: 16 bytes; only from a Platform CA.
        hardware: "simulated" protects nothing.
        earliest_expiration: When the first of the certificates, lists and documents used runs out.
        endorsements: What it was verified with.
    """

    quote: DcapQuote[Body]
    runtime_data: bytes
    tcb_status: TcbStatus
    advisory_ids: tuple[str, ...]
    tcb_evaluation_data_number: int
    tcb_date: str
    fmspc: str
    ppid: bytes
    platform_instance_id: bytes | None
    hardware: Literal["simulated", "real"]
    earliest_expiration: datetime
    endorsements: DcapEndorsements
    made_by: InitVar[object]

    def __post_init__(self, made_by: object) -> None:
        demand_verifier(made_by)


VerifiedSgx: TypeAlias = VerifiedDcap[SgxReportBody]
VerifiedTdx: TypeAlias = VerifiedDcap[TdReportBody]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedSnp:
    """An SEV-SNP report whose signature and certificates hold. Its claims MUST still be appraised against a policy.

    Attributes:
        report: The parsed report.
        runtime_data: The exact bytes that the report's report data binds.
        product: The product line, as the certificate says.
        tcb: The TCB version that the signing key was derived for.
        csp_id: The cloud provider whose key signed; None where the chip's did.
        hardware: "simulated" protects nothing.
        earliest_expiration: When the first of the certificates and lists used runs out.
        endorsements: What it was verified with.
    """

    report: SnpReport
    runtime_data: bytes
    product: Product
    tcb: TcbVersion
    csp_id: str | None
    hardware: Literal["simulated", "real"]
    earliest_expiration: datetime
    endorsements: SnpEndorsements
    made_by: InitVar[object]

    def __post_init__(self, made_by: object) -> None:
        demand_verifier(made_by)


def demand_bound(report_data: bytes, *, runtime_data: bytes) -> None:
    """Refuse evidence whose report data is not SHA-256 of the runtime data, followed by 32 zero bytes.

    Raises:
        VerificationError: It is not.

    Source: Azure Attestation, runtime data of enclaves and confidential VMs.
    """
    if report_data != hashlib.sha256(runtime_data).digest() + bytes(_DIGEST_BYTES):
        raise VerificationError("the evidence does not bind this runtime data")


def demand_verifier(made_by: object) -> None:
    """Refuse verified evidence that something else made.

    Raises:
        VerificationError: It was not made by the verifier.
    """
    if made_by is not VERIFIER:
        raise VerificationError("only the verifier makes verified evidence")
