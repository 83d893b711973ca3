"""What the verifier found to be true."""

import hashlib
from dataclasses import InitVar, dataclass
from datetime import datetime
from typing import Final, Generic, Literal, TypeAlias

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.dcap_quote import Body, DcapQuote
from strongroom.attestation.evidence.pck import PckExtension
from strongroom.attestation.evidence.sgx_report import SgxReportBody
from strongroom.attestation.evidence.snp_report import Product, SnpReport, TcbVersion
from strongroom.attestation.evidence.td_report import TdReportBody
from strongroom.attestation.verifier.tcb import PlatformStatus
from strongroom.base.errors import VerificationError

_DIGEST_BYTES: Final = 32
VERIFIER: Final = object()
"""Proof that the verifier makes verified evidence; only the modules of this package use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedDcap(Generic[Body]):
    """A DCAP quote whose every signature holds. Its claims MUST still be appraised against an evidence policy.

    Attributes:
        quote: The parsed quote: an enclave's (`VerifiedSgx`) or a trust domain's (`VerifiedTdx`).
        runtime_data: The exact bytes that the quote's report data binds; None: it binds nothing that is known here.
        verifiers: Who verified it: both, or only ours where dcap-qvl cannot read such evidence.
        tcb_status: The vendor's word on platform, quoting enclave and TDX module together.
        advisory_ids: The vendor's advisories that apply, sorted.
        tcb_evaluation_data_number: Of the TCB info; grows with the vendor's knowledge.
        tcb_date: Date of the platform's TCB level (RFC 3339).
        crl_number: Of the PCK CA's revocation list; grows with each list.
        root_crl_number: Of the root's revocation list.
        newest_signed: The latest time that one of the vendor's documents was signed at: now is no earlier.
        pck: The platform, as its certificate says.
        hardware: "simulated" protects nothing.
        earliest_expiration: When the first of the certificates, lists and documents used runs out.
        endorsements: What it was verified with.
    """

    quote: DcapQuote[Body]
    runtime_data: bytes | None
    verifiers: tuple[str, ...]
    tcb_status: PlatformStatus
    advisory_ids: tuple[str, ...]
    tcb_evaluation_data_number: int
    tcb_date: str
    crl_number: int
    root_crl_number: int
    newest_signed: datetime
    pck: PckExtension
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
        runtime_data: The exact bytes that the report's report data binds; None: it binds nothing that is known here.
        crl_number: Of the root's revocation list; grows with each list.
        newest_signed: When that list was signed: now is no earlier.
        product: The product line, as the certificate says.
        tcb: The TCB version that the signing key was derived for.
        csp_id: The cloud provider whose key signed; None where the chip's did.
        hardware: "simulated" protects nothing.
        earliest_expiration: When the first of the certificates and lists used runs out.
        endorsements: What it was verified with.
    """

    report: SnpReport
    runtime_data: bytes | None
    crl_number: int | None
    newest_signed: datetime
    product: Product
    tcb: TcbVersion
    csp_id: str | None
    hardware: Literal["simulated", "real"]
    earliest_expiration: datetime
    endorsements: SnpEndorsements
    made_by: InitVar[object]

    def __post_init__(self, made_by: object) -> None:
        demand_verifier(made_by)


def demand_bound(report_data: bytes, *, runtime_data: bytes | None) -> None:
    """Refuse evidence whose report data is not SHA-256 of the runtime data, followed by 32 zero bytes.

    Without runtime data nothing is claimed to be bound, and nothing is checked.

    Raises:
        VerificationError: It is not.

    Source: Azure Attestation, runtime data of enclaves and confidential VMs.
    """
    if runtime_data is not None and report_data != hashlib.sha256(runtime_data).digest() + bytes(_DIGEST_BYTES):
        raise VerificationError("the evidence does not bind this runtime data")


def demand_verifier(made_by: object) -> None:
    """Refuse verified evidence that something else made.

    Raises:
        VerificationError: It was not made by the verifier.
    """
    if made_by is not VERIFIER:
        raise VerificationError("only the verifier makes verified evidence")
