"""Evidence as it arrives: nothing in it is known to be true."""

from collections.abc import Mapping
from dataclasses import dataclass

from strongroom.base.errors import LimitError
from strongroom.base.limits import LIMITS
from strongroom.wire.model import TeeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedVtpm:
    """What the vTPM of an Azure confidential VM says, beside the hardware's evidence.

    Attributes:
        hcl_report: The vTPM's NV index 0x01400001.
        tpm_quote: TPMS_ATTEST.
        tpm_signature: The AK's signature over it, RSASSA-PKCS1-v1_5 with SHA-256.
        pcrs: The quoted registers' values, SHA-256 bank, by number.
    """

    hcl_report: bytes
    tpm_quote: bytes
    tpm_signature: bytes
    pcrs: Mapping[int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedEvidence:
    """What an attester sent.

    Attributes:
        kind: The evidence format: "sgx" and "tdx" are DCAP quotes, "snp" an SEV-SNP report.
        quote: The bytes of the quote, or of the report.
        runtime_data: The exact bytes whose SHA-256 should stand in the report data; None where the sender says nothing.
        certificate_chain: On SEV-SNP, where the attester's host hands it out: PEM of VCEK or VLEK, ASK or ASVK, ARK.
        initdata: The document whose hash should have been fixed at launch; None for a TEE launched without one.
        vtpm: In an Azure confidential VM: what should bind the runtime data there, where the report data is the
            paravisor's.

    Raises:
        LimitError: One of them is larger than `LIMITS` allows.
    """

    kind: TeeKind
    quote: bytes
    runtime_data: bytes | None
    certificate_chain: str | None = None
    initdata: bytes | None = None
    vtpm: UnverifiedVtpm | None = None

    def __post_init__(self) -> None:
        sizes = [len(self.quote), len(self.certificate_chain or "")]
        if self.vtpm is not None:
            sizes += map(len, (self.vtpm.hcl_report, self.vtpm.tpm_quote, self.vtpm.tpm_signature))
        if (
            max(sizes) > LIMITS.evidence_bytes
            or len(self.runtime_data or b"") > LIMITS.runtime_data_bytes
            or len(self.initdata or b"") > LIMITS.initdata_bytes
        ):
            raise LimitError("the evidence is larger than allowed")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedAzureVm:
    """What a guest of an Azure confidential VM sends.

    Attributes:
        hcl_report: The vTPM's NV index 0x01400001.
        td_quote: On TDX the quote of the hardware report; None on SEV-SNP.
        tpm_quote: TPMS_ATTEST.
        tpm_signature: The AK's signature over it, RSASSA-PKCS1-v1_5 with SHA-256.
        pcr_values: The quoted registers' values, SHA-256 bank, ascending.
        runtime_data: The exact bytes whose SHA-256 the quote's nonce should be.

    Raises:
        LimitError: A part is larger than `LIMITS` allows.
    """

    hcl_report: bytes
    td_quote: bytes | None
    tpm_quote: bytes
    tpm_signature: bytes
    pcr_values: tuple[bytes, ...]
    runtime_data: bytes

    def __post_init__(self) -> None:
        parts = (self.hcl_report, self.td_quote or b"", self.tpm_quote, self.tpm_signature)
        if max(map(len, parts)) > LIMITS.evidence_bytes or len(self.runtime_data) > LIMITS.runtime_data_bytes:
            raise LimitError("the evidence is larger than allowed")
