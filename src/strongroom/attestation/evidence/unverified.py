"""Evidence as it arrives: nothing in it is known to be true."""

from dataclasses import dataclass
from typing import Literal

from strongroom.base.errors import LimitError
from strongroom.base.limits import LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedEvidence:
    """What an attester sent.

    Attributes:
        kind: The evidence format: "sgx" and "tdx" are DCAP quotes, "snp" an SEV-SNP report.
        quote: The bytes of the quote, or of the report.
        runtime_data: The exact bytes whose SHA-256 should stand in the report data.

    Raises:
        LimitError: One of the two is larger than `LIMITS` allows.
    """

    kind: Literal["sgx", "tdx", "snp"]
    quote: bytes
    runtime_data: bytes

    def __post_init__(self) -> None:
        if len(self.quote) > LIMITS.evidence_bytes or len(self.runtime_data) > LIMITS.runtime_data_bytes:
            raise LimitError("the evidence is larger than allowed")
