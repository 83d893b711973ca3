"""Attestation from inside an Azure confidential VM: with Azure's own call, and with ours.

Azure's call is the same for Azure Attestation and for our service.

Source: Azure guest attestation client library (`AttestationClientImpl.cpp`, `TpmUnseal.cpp`).
"""

import base64
import hashlib
from dataclasses import dataclass
from typing import Final

import urllib3
from typing_extensions import override

from strongroom.attestation.attester.azure_vtpm import AzureVtpm, MetadataService
from strongroom.attestation.evidence.azure_vtpm import GUEST_PCRS, HclReport, parse_hcl_report
from strongroom.attestation.evidence.tcg_log import MAX_LOG_BYTES
from strongroom.base.encoding import Json, canonical_json, from_any_b64, from_b64url, to_b64url
from strongroom.base.errors import FormatError, LimitError, UnavailableError
from strongroom.base.limits import LIMITS
from strongroom.clients.attestation import azure_vm_request, token_of
from strongroom.clients.pinned import PinnedHttp
from strongroom.crypto.transport_key import Envelope, open_envelope
from strongroom.wire.azure_guest import (
    RUNTIME_DATA,
    AttestationInfo,
    GuestIsolationInfo,
    GuestTpmInfo,
    IsolationEvidence,
    PcrValue,
    SealedToken,
    SnpProof,
)

METADATA_URL: Final = "http://169.254.169.254"
_API_VERSION: Final = "2020-10-01"
"""What Azure's client asks for."""
_TIMEOUT_S: Final = 10.0
_ANSWERED: Final = 200
_JSON_TYPE: Final = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingSystem:
    """What is told of the guest's operating system, as `/etc/os-release` has it."""

    distribution: str = "Linux"
    major: int = 1
    minor: int = 0


class AzureMetadata(MetadataService):
    """Azure's instance metadata service, without any proxy.

    Args:
        url: Its address.
    """

    def __init__(self, url: str = METADATA_URL) -> None:
        self._url = url
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT_S, retries=False)

    @override
    def get(self, path: str) -> bytes:
        """Return an answer's body (see `MetadataService`)."""
        return self._request("GET", path, None)

    @override
    def post(self, path: str, body: bytes) -> bytes:
        """Return the answer's body to a JSON request (see `MetadataService`)."""
        return self._request("POST", path, body)

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        headers = {"Metadata": "true"} | ({} if body is None else {"content-type": _JSON_TYPE})
        try:
            answer = self._pool.request(
                method, self._url + path, body=body, headers=headers, redirect=False, preload_content=False
            )
            try:
                content = answer.read(LIMITS.token_bytes + 1)
            finally:
                answer.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise UnavailableError(
                "the VM's metadata service does not answer", action="Run in an Azure confidential VM."
            ) from error
        if len(content) > LIMITS.token_bytes:
            raise LimitError("the metadata service's answer is larger than allowed")
        if answer.status != _ANSWERED:
            raise UnavailableError(
                f"the VM's metadata service answers {answer.status} to {path}",
                action="Run in an Azure confidential VM.",
            )
        return content


def attest_guest(
    http: PinnedHttp,
    vtpm: AzureVtpm,
    *,
    runtime_data: bytes,
    system: OperatingSystem | None = None,
    event_log: bytes = b"",
) -> str:
    """Attest with Azure's own call, and have the vTPM open the answer.

    The runtime data are the client payload's entry `runtime-data`. Quote and certification carry their SHA-256, so that
    our service knows that the guest said them, and now; Azure Attestation passes them on and compares nothing.

    Args:
        http: The attestation service.
        vtpm: This VM's vTPM.
        runtime_data: What the result shall hold; a nonce of the relying party among it.
        system: What is told of the operating system.
        event_log: The firmware's, `/sys/kernel/security/tpm0/binary_bios_measurements`; may be empty.

    Returns:
        The attestation result: a JWT signed by the service.

    Raises:
        LimitError: More runtime data, or a larger event log, than a verifier accepts.
        RefusedError: The evidence policy says no.
        VerificationError: The evidence does not verify.
        IntegrityError: The answer is not for this vTPM.
        NotFoundError: This is no Azure confidential VM.
        UnavailableError: The service, the vTPM or the metadata service does not answer.
    """
    if len(runtime_data) > LIMITS.runtime_data_bytes:
        raise LimitError("there is more runtime data than allowed")
    if len(event_log) > MAX_LOG_BYTES:
        raise LimitError("the event log is larger than allowed", action="Attest without it.")
    info, values = attestation_info(
        vtpm, runtime_data=runtime_data, system=system or OperatingSystem(), event_log=event_log
    )
    body: Json = {"AttestationInfo": to_b64url(info.to_json())}
    reply = http.request(
        "POST",
        f"/attest/AzureGuest?api-version={_API_VERSION}",
        body=canonical_json(body),
        content_type=_JSON_TYPE,
    )
    return open_token(token_of(reply.require_success()), vtpm=vtpm, values=values)


def attestation_info(
    vtpm: AzureVtpm, *, runtime_data: bytes, system: OperatingSystem, event_log: bytes
) -> tuple[AttestationInfo, dict[int, bytes]]:
    """Collect what Azure's call sends.

    Args:
        vtpm: This VM's vTPM.
        runtime_data: What the vTPM shall attest.
        system: What is told of the operating system.
        event_log: The firmware's event log; may be empty.

    Returns:
        The message, and the registers' values in which the vTPM opens the answer.

    Raises:
        NotFoundError: This is no Azure confidential VM.
        UnavailableError: The vTPM or the metadata service does not answer.
    """
    nonce = hashlib.sha256(runtime_data).digest()
    report = parse_hcl_report(vtpm.hcl_report())
    quote = vtpm.quote(nonce, pcrs=GUEST_PCRS)
    key = vtpm.ephemeral_key(nonce, values=quote.values)
    tpm_info = GuestTpmInfo(
        AikCert=_b64(vtpm.attestation_key_certificate()),
        AikPub=_b64(vtpm.attestation_key()),
        PcrQuote=_b64(quote.attested.attest),
        PcrSignature=_b64(quote.attested.signature),
        EncKeyPub=_b64(key.public),
        EncKeyCertifyInfo=_b64(key.attested.attest),
        EncKeyCertifyInfoSignature=_b64(key.attested.signature),
        PcrSet=tuple(quote.values),
        PCRs=tuple(PcrValue(Index=number, Digest=_b64(value)) for number, value in quote.values.items()),
    )
    info = AttestationInfo(
        AttestationProtocolVersion="2.0",
        OSType=_b64(b"Linux"),
        OSDistro=_b64(system.distribution.encode()),
        OSBuild=_b64(b"NotApplication"),  # what Azure's client sends for Linux
        OSVersionMajor=system.major,
        OSVersionMinor=system.minor,
        TcgLogs=_b64(event_log),
        ClientPayload={RUNTIME_DATA: _b64(runtime_data)},
        TpmInfo=tpm_info,
        IsolationInfo=_isolation(vtpm, report),
    )
    return info, quote.values


def open_token(sealed: str, *, vtpm: AzureVtpm, values: dict[int, bytes]) -> str:
    """Open a sealed attestation result.

    Args:
        sealed: base64url of a `SealedToken`.
        vtpm: The vTPM that it was sealed to.
        values: The registers' values that were attested.

    Raises:
        FormatError: Not such a message.
        IntegrityError: Changed, or for another TPM.
        UnavailableError: The registers have other values by now, or the TPM was reset.
    """
    token = SealedToken.from_json(from_b64url(sealed))
    envelope = Envelope(
        encrypted_key=from_any_b64(token.EncryptedInnerKey),
        nonce=from_any_b64(token.EncryptionParams.Iv),
        ciphertext=from_any_b64(token.Jwt),
        tag=from_any_b64(token.AuthenticationData),
    )
    key = vtpm.decrypt(envelope.encrypted_key, values=values)
    try:
        return open_envelope(envelope, key=key).decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError("the sealed result is not a JWT") from error


def attest_vm(http: PinnedHttp, vtpm: AzureVtpm, *, runtime_data: bytes) -> str:
    """Attest with our own call: the runtime data, a JSON object, become the result's `x-ms-runtime`.

    Args:
        http: Our attestation service.
        vtpm: This VM's vTPM.
        runtime_data: The exact bytes to bind.

    Returns:
        The attestation result: a JWT signed by the service.

    Raises:
        LimitError: More runtime data than a verifier accepts.
        RefusedError: The evidence policy says no.
        VerificationError: The evidence does not verify.
        NotFoundError: This is no Azure confidential VM.
        UnavailableError: The service, the vTPM, the paravisor or the metadata service does not answer.
    """
    evidence = vtpm.evidence(runtime_data, pcrs=GUEST_PCRS)
    certificates = vtpm.snp_certificates() if evidence.td_quote is None else None
    reply = http.request(
        "POST",
        "/strongroom/v1/attest/AzureVm",
        body=azure_vm_request(evidence, certificates=certificates).to_json(),
        content_type=_JSON_TYPE,
    )
    return token_of(reply.require_success())


def _isolation(vtpm: AzureVtpm, report: HclReport) -> GuestIsolationInfo:
    document = _b64(report.runtime_data)
    if report.kind == "tdx":
        return GuestIsolationInfo(
            Type="Tdx", Evidence=IsolationEvidence(Proof=_b64(vtpm.td_quote(report)), RunTimeData=document)
        )
    proof = SnpProof(
        SnpReport=to_b64url(report.hardware_report),
        VcekCertChain=_b64(vtpm.snp_certificates().encode("ascii", errors="replace")),
    )
    return GuestIsolationInfo(
        Type="SevSnp", Evidence=IsolationEvidence(Proof=_b64(proof.to_json()), RunTimeData=document)
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
