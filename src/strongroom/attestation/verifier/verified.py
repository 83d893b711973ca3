"""What the verifier found to be true."""

from dataclasses import InitVar, dataclass
from datetime import datetime
from typing import Final, Literal

from strongroom.attestation.endorsements.sgx import SgxEndorsements
from strongroom.attestation.endorsements.tcb import TcbStatus
from strongroom.attestation.evidence.sgx_quote import SgxQuote
from strongroom.base.errors import VerificationError

VERIFIER: Final = object()
"""Proof that the verifier makes a `VerifiedEvidence`; only `verifier.sgx` uses it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEvidence:
    """An SGX quote whose every signature holds. Its claims MUST still be appraised against an evidence policy.

    Attributes:
        quote: The parsed quote.
        runtime_data: The exact bytes that the quote's report data binds.
        tcb_status: The vendor's word on platform and quoting enclave together.
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

    quote: SgxQuote
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
    endorsements: SgxEndorsements
    made_by: InitVar[object]

    def __post_init__(self, made_by: object) -> None:
        if made_by is not VERIFIER:
            raise VerificationError("only the verifier makes verified evidence")
