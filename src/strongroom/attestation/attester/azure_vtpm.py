"""What the guest of an Azure confidential VM reads: the vTPM's report and quotes, and Azure's metadata service.

Source: Azure guest attestation client library (`Tss2Wrapper.cpp`, `ImdsOperations.cpp`); kinvolk azure-cvm-tooling.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from typing_extensions import override

from strongroom.attestation.attester.device import BindingDevice
from strongroom.attestation.attester.tpm import Attested, Tpm
from strongroom.attestation.evidence.azure_vtpm import GUEST_PCRS, HclReport, parse_hcl_report, parse_tpm_quote
from strongroom.attestation.evidence.tpm import policy_of_registers
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm, UnverifiedEvidence, UnverifiedVtpm
from strongroom.base.encoding import Json, canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    LimitError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from strongroom.base.limits import LIMITS
from strongroom.base.secret import SecretBytes

AK_HANDLE: Final = 0x81000003
HCL_REPORT_INDEX: Final = 0x01400001
USER_DATA_INDEX: Final = 0x01400002
AIK_CERTIFICATE_INDEX: Final = 0x01C101D0

_TD_QUOTE: Final = "/acc/tdquote"
_SNP_CERTIFICATES: Final = "/metadata/THIM/amd/certification"
_REPORT_TRIES: Final = 20
_REPORT_PAUSE_S: Final = 0.5
_QUOTE_TRIES: Final = 5


class MetadataService(Protocol):
    """Azure's instance metadata service, which answers the VM only. The host runs it: nothing it says is trusted."""

    def get(self, path: str) -> bytes:
        """Return an answer's body.

        Raises:
            UnavailableError: It does not answer, or refuses.
        """

    def post(self, path: str, body: bytes) -> bytes:
        """Return the answer's body to a JSON request (see `get`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotedRegisters:
    """A quote, and the values that it covers, ascending by register."""

    attested: Attested
    values: dict[int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedKey:
    """A key of the vTPM, and the attestation key's word that it is one."""

    public: bytes
    attested: Attested


class AzureVtpm:
    """The vTPM of an Azure confidential VM.

    Args:
        tpm: The TPM's commands.
        metadata: The VM's metadata service.
        pause: Waits for so many seconds.
    """

    def __init__(self, tpm: Tpm, metadata: MetadataService, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._tpm = tpm
        self._metadata = metadata
        self._pause = pause

    def is_there(self) -> bool:
        """Return whether the TPM is such a vTPM: it has the paravisor's report and the attestation key."""
        return HCL_REPORT_INDEX in self._tpm.handles("nv") and AK_HANDLE in self._tpm.handles("persistent")

    def hcl_report(self) -> bytes:
        """Return the paravisor's report as it stands.

        Raises:
            NotFoundError: This is no Azure confidential VM.
            UnavailableError: The TPM does not answer.
        """
        return self._tpm.nv_read(HCL_REPORT_INDEX)

    def hcl_report_with(self, user_data: bytes) -> bytes:
        """Have the paravisor make a report with these user data, and return it.

        Args:
            user_data: 64 bytes.

        Raises:
            UnavailableError: The paravisor made none in time.
        """
        self._tpm.nv_write(USER_DATA_INDEX, user_data)
        for _ in range(_REPORT_TRIES):
            report = self.hcl_report()
            if parse_hcl_report(report).user_data == user_data:
                return report
            self._pause(_REPORT_PAUSE_S)
        raise UnavailableError(
            "the paravisor made no report with the user data", action="Restart the VM and try again."
        )

    def evidence(self, runtime_data: bytes, *, pcrs: Sequence[int] = GUEST_PCRS) -> UnverifiedAzureVm:
        """Make evidence over runtime data, in our own form.

        Args:
            runtime_data: The exact bytes to bind, a JSON object.
            pcrs: The registers to quote.

        Raises:
            LimitError: More runtime data than a verifier accepts.
            NotFoundError: This is no Azure confidential VM.
            UnavailableError: The TPM, the paravisor or the metadata service does not answer.
        """
        if len(runtime_data) > LIMITS.runtime_data_bytes:
            raise LimitError("there is more runtime data than allowed")
        report = self.hcl_report_with(hashlib.sha512(runtime_data).digest())
        parsed = parse_hcl_report(report)
        quote = self.quote(hashlib.sha256(runtime_data).digest(), pcrs=pcrs)
        return UnverifiedAzureVm(
            hcl_report=report,
            td_quote=self.td_quote(parsed) if parsed.kind == "tdx" else None,
            tpm_quote=quote.attested.attest,
            tpm_signature=quote.attested.signature,
            pcr_values=tuple(quote.values.values()),
            runtime_data=runtime_data,
        )

    def quote(self, nonce: bytes, *, pcrs: Sequence[int] = GUEST_PCRS) -> QuotedRegisters:
        """Quote registers, and read the values that were quoted.

        Raises:
            UnavailableError: The registers change all the time, or the TPM does not answer.
        """
        for _ in range(_QUOTE_TRIES):
            values = self._tpm.pcr_values(pcrs)
            attested = self._tpm.quote(AK_HANDLE, pcrs=pcrs, nonce=nonce)
            if parse_tpm_quote(attested.attest).pcr_digest == _digest(values):
                return QuotedRegisters(attested=attested, values=values)
        raise UnavailableError("the TPM's registers change while they are read", action="Try again later.")

    def ephemeral_key(self, nonce: bytes, *, values: dict[int, bytes]) -> CertifiedKey:
        """Have the vTPM make and certify a key that decrypts only while registers have these values."""
        key = self._tpm.create_decryption_key(policy=policy_of_registers(tuple(values), _digest(values)))
        try:
            return CertifiedKey(public=key.public, attested=self._tpm.certify(key.handle, key=AK_HANDLE, nonce=nonce))
        finally:
            self._tpm.flush(key.handle)

    def decrypt(self, ciphertext: bytes, *, values: dict[int, bytes]) -> SecretBytes:
        """Decrypt what was encrypted to `ephemeral_key` of the same values.

        Raises:
            UnavailableError: The registers have other values by now, the TPM was reset, or it does not answer.
        """
        key = self._tpm.create_decryption_key(policy=policy_of_registers(tuple(values), _digest(values)))
        try:
            return self._tpm.rsa_decrypt(key.handle, ciphertext, pcrs=tuple(values))
        finally:
            self._tpm.flush(key.handle)

    def attestation_key(self) -> bytes:
        """Return TPM2B_PUBLIC of the attestation key."""
        return self._tpm.read_public(AK_HANDLE)

    def attestation_key_certificate(self) -> bytes:
        """Return the attestation key's certificate, DER, as its NV index holds it; empty if there is none."""
        try:
            return self._tpm.nv_read(AIK_CERTIFICATE_INDEX)
        except NotFoundError:
            return b""

    def td_quote(self, report: HclReport) -> bytes:
        """Have the host's quoting enclave quote the TDREPORT in the paravisor's report.

        Raises:
            FormatError: The answer is not what Azure describes.
            LimitError: It is larger than allowed.
            UnavailableError: The metadata service does not answer.
        """
        body: Json = {"report": to_b64url(report.hardware_report)}
        match parse_json_object(self._metadata.post(_TD_QUOTE, canonical_json(body))):
            case {"quote": str(quote)}:
                return from_any_b64(_bounded(quote))
            case _:
                raise FormatError("the metadata service's answer holds no quote")

    def snp_certificates(self) -> str:
        """Return the certificates of this chip's key, PEM: VCEK, ASK, ARK.

        Raises:
            FormatError: The answer is not what Azure describes.
            LimitError: It is larger than allowed.
            UnavailableError: The metadata service does not answer.
        """
        match parse_json_object(self._metadata.get(_SNP_CERTIFICATES)):
            case {"vcekCert": str(certificate), "certificateChain": str(chain)}:
                return _bounded(f"{certificate.strip()}\n{chain.strip()}\n")
            case _:
                raise FormatError("the metadata service's answer holds no certificates")


class AzureVtpmDevice(BindingDevice):
    """The vTPM as what attests a confidential node, in the place of a device that quotes.

    Args:
        vtpm: The VM's vTPM.
    """

    def __init__(self, vtpm: AzureVtpm) -> None:
        self._vtpm = vtpm

    @override
    def launch(self, config_id: bytes) -> None:
        """Refuse a configuration: nobody can fix one at this VM's launch (see `QuoteDevice`)."""
        if any(config_id):
            raise RefusedError(
                "an Azure confidential VM is launched for no application",
                action="Say in the descriptor that this is a confidential node, and have the owner approve that shape.",
            )
        if not self._vtpm.is_there():
            raise ConfigurationError(
                "the TPM here is not that of an Azure confidential VM",
                action="Name another device: docs/reference/devices.md",
            )

    @override
    def evidence(self, runtime_data: bytes) -> UnverifiedEvidence:
        """Return evidence of this VM (see `BindingDevice`)."""
        found = self._vtpm.evidence(runtime_data)
        report = parse_hcl_report(found.hcl_report)
        return UnverifiedEvidence(
            kind=report.kind,
            quote=report.hardware_report if found.td_quote is None else found.td_quote,
            runtime_data=runtime_data,
            certificate_chain=self._vtpm.snp_certificates() if report.kind == "snp" else None,
            vtpm=UnverifiedVtpm(
                hcl_report=found.hcl_report,
                tpm_quote=found.tpm_quote,
                tpm_signature=found.tpm_signature,
                pcrs=dict(zip(GUEST_PCRS, found.pcr_values, strict=True)),
            ),
        )


def _bounded(text: str) -> str:
    """Refuse what would not fit into a request: certificates stand there in base64 twice."""
    if len(text) > LIMITS.evidence_bytes // 2:
        raise LimitError("the metadata service's answer is larger than allowed")
    return text


def _digest(values: dict[int, bytes]) -> bytes:
    return hashlib.sha256(b"".join(value for _, value in sorted(values.items()))).digest()
