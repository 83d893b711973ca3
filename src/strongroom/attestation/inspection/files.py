"""What files of evidence hold, parsed. Nothing of it is verified."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.azure_guest import UnverifiedAzureGuest
from strongroom.attestation.evidence.azure_vtpm import HclReport, TpmQuote
from strongroom.attestation.evidence.dcap_quote import SgxQuote, TdxQuote
from strongroom.attestation.evidence.snp_report import SnpReport
from strongroom.base.encoding import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedData:
    """Data whose hash should stand in the evidence, as the file gives them.

    Attributes:
        data: The exact bytes.
        kind: "JSON" becomes `x-ms-runtime` in the claims.
    """

    data: bytes
    kind: Literal["JSON", "Binary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteFile:
    """A DCAP quote of an enclave or a trust domain.

    Attributes:
        quote: The parsed quote.
        quote_bytes: The same as it stood in the file.
        runtime: What the file says the quote stands for; None where it says nothing.
    """

    quote: SgxQuote | TdxQuote
    quote_bytes: bytes
    runtime: AttestedData | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpFile:
    """An SEV-SNP report.

    Attributes:
        report: The parsed report.
        report_bytes: The same as it stood in the file.
        chain_der: The certificates that came with it; empty if none did.
        runtime: What the file says the report stands for; None where it says nothing.
    """

    report: SnpReport
    report_bytes: bytes
    chain_der: tuple[bytes, ...] = ()
    runtime: AttestedData | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmQuoteFile:
    """A TPM's quote.

    Attributes:
        quote: The parsed quote.
        quote_bytes: TPMS_ATTEST, as the TPM signed it.
        signature: Its signature; empty where it did not come with it.
        pcr_values: The quoted registers' values, ascending; empty where they did not come with it.
    """

    quote: TpmQuote
    quote_bytes: bytes
    signature: bytes = b""
    pcr_values: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureVmFile:
    """Evidence of an Azure confidential VM: the HCL report, perhaps with what belongs to it.

    Attributes:
        hcl: The parsed HCL report.
        hcl_bytes: The same as it stood in the file; empty where `guest` came instead.
        hardware: The hardware's report inside: of SEV-SNP, or None for a TDREPORT, which nobody signed.
        chain_der: SEV-SNP certificates that came with it.
        td_quote: On TDX, the quote of the hardware's report.
        tpm: The vTPM's quote.
        runtime: What the vTPM's quote stands for.
        guest: The same as Azure's own client sends it (`attestationInfo`); None where the HCL report came.
    """

    hcl: HclReport
    hcl_bytes: bytes
    hardware: SnpReport | None
    chain_der: tuple[bytes, ...] = ()
    td_quote: QuoteFile | None = None
    tpm: TpmQuoteFile | None = None
    runtime: AttestedData | None = None
    guest: UnverifiedAzureGuest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """An attestation result: its signature is not checked.

    Attributes:
        header: The JWT's header.
        claims: What it says.
    """

    header: Mapping[str, Json]
    claims: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsFile:
    """Claims that somebody recorded; nobody vouches for them."""

    claims: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTokenFile:
    """An evidence policy as Azure Attestation takes it: its signature is not checked.

    Attributes:
        header: The JWS's header.
        text: The policy.
    """

    header: Mapping[str, Json]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatesFile:
    """Certificates, DER, in the file's order."""

    chain_der: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlFile:
    """A certificate revocation list, DER."""

    crl_der: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralFile:
    """What a vendor says of platforms or chips."""

    endorsements: DcapEndorsements | SnpEndorsements


Content: TypeAlias = (
    QuoteFile
    | SnpFile
    | AzureVmFile
    | TpmQuoteFile
    | TokenFile
    | ClaimsFile
    | PolicyTokenFile
    | CertificatesFile
    | CrlFile
    | CollateralFile
)
