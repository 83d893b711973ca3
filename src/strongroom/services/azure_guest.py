"""Guests of Azure's confidential VMs: Azure's own call for them, and ours.

Both are appraised by the evidence policy of type `AzureGuest`.

Source: Azure Attestation REST API 2025-06-01, `POST /attest/AzureGuest`; Azure guest attestation client library.
"""

import base64
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from strongroom.attestation.claims import azure_guest_claims, azure_vm_claims
from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.azure_guest import parse_attestation_info
from strongroom.attestation.evidence.dcap_quote import parse_tdx_quote
from strongroom.attestation.evidence.pck import platform_kind
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm
from strongroom.attestation.verifier import VerifiedAzureGuest, VerifiedAzureVm, verify_azure_guest, verify_azure_vm
from strongroom.base.encoding import Json, from_any_b64, from_b64url, to_b64url
from strongroom.base.errors import FormatError
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.transport_key import seal_to_tpm
from strongroom.crypto.x509 import parse_pem_chain
from strongroom.services.errors import Reply
from strongroom.services.evidence_kinds import Anchors, VerifiedClaims
from strongroom.services.http import Call, json_reply
from strongroom.wire.azure_guest import AzureVmRequest, GuestEncryptionParams, SealedToken

POLICY_TYPE: Final = "AzureGuest"
_MEMBERS: Final = ("AttestationInfo", "attestationInfo")
"""How Azure's client, and Azure's REST specification, spell the request's only member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureGuestDesk:
    """The two calls.

    Attributes:
        anchors: Gives what evidence is verified with now, and a turn that lasts until the result is signed.
        appraise: Has the policy of type `AzureGuest` appraise what was verified, and returns the signed result; raises
            `RefusedError`.
    """

    anchors: Callable[[], AbstractContextManager[Anchors]]
    appraise: Callable[[VerifiedClaims], str]

    def attest_vm(self, call: Call) -> Reply:
        """`POST /strongroom/v1/attest/AzureVm`: HCL report and quote over runtime data of the guest's choice.

        1. Read the request.
        2. Verify the evidence, from the hardware to the runtime data.
        3. Appraise the claims, sign the result.
        """
        request = AzureVmRequest.from_json(call.body)  # 1
        pcrs = sorted((int(number), value) for number, value in request.pcrs.items())
        evidence = UnverifiedAzureVm(
            hcl_report=from_b64url(request.hcl_report),
            td_quote=None if request.td_quote is None else from_b64url(request.td_quote),
            tpm_quote=from_b64url(request.tpm_quote),
            tpm_signature=from_b64url(request.tpm_signature),
            pcr_values=tuple(bytes.fromhex(value) for _, value in pcrs),
            runtime_data=from_b64url(request.runtime_data),
        )
        chain = (request.certificates or "").encode("utf-8")
        with self.anchors() as anchors:
            endorsements = _endorsements(anchors, td_quote=evidence.td_quote, chain_pem=chain)
            anchors.turn.begin()
            verified = verify_azure_vm(  # 2
                evidence, trusted_roots=anchors.roots, endorsements=endorsements, now=anchors.now
            )
            if list(verified.pcr_values) != [number for number, _ in pcrs]:
                raise FormatError("the vTPM quoted other registers than those whose values came")
            return json_reply({"token": self.appraise(_verified(verified, azure_vm_claims(verified)))})  # 3

    def attest_guest(self, call: Call) -> Reply:
        """`POST /attest/AzureGuest`: as Azure's client calls it.

        1. Read the request.
        2. Verify the evidence, from the hardware to the key that the answer is sealed to.
        3. Appraise the claims, sign the result.
        4. Seal it to the vTPM.
        """
        evidence = parse_attestation_info(_attestation_info(call))  # 1
        with self.anchors() as anchors:
            endorsements = _endorsements(anchors, td_quote=evidence.td_quote, chain_pem=evidence.certificate_chain)
            anchors.turn.begin()
            verified = verify_azure_guest(  # 2
                evidence, trusted_roots=anchors.roots, endorsements=endorsements, now=anchors.now
            )
            token = self.appraise(_verified(verified, azure_guest_claims(verified)))  # 3
            return json_reply({"token": to_b64url(_seal(token, verified.ephemeral_key).to_json())})  # 4


def _attestation_info(call: Call) -> bytes:
    match list(call.json_object().items()):
        case [(str(name), str(encoded))] if name in _MEMBERS:
            return from_any_b64(encoded)
        case _:
            raise FormatError("the request has exactly one member, attestationInfo, base64 of JSON")


def _endorsements(anchors: Anchors, *, td_quote: bytes | None, chain_pem: bytes) -> SnpEndorsements | DcapEndorsements:
    """Return what the hardware's evidence is verified with: the guest's certificates, or the platform's documents."""
    if td_quote is not None:
        kind = platform_kind(parse_tdx_quote(td_quote))
        return anchors.endorsements.get(fmspc=kind.fmspc, ca=kind.ca, tee="TDX")
    chain_der = parse_pem_chain(chain_pem)
    return SnpEndorsements(
        certificate_chain=chain_pem.decode("ascii", errors="replace"), crl=anchors.revocations.crl(chain_der[-1]).hex()
    )


def _verified(evidence: VerifiedAzureVm | VerifiedAzureGuest, claims: dict[str, Json]) -> VerifiedClaims:
    return VerifiedClaims(claims=claims, newest_signed=evidence.hardware_evidence.newest_signed)


def _seal(token: str, recipient: VerifyingKey) -> SealedToken:
    envelope = seal_to_tpm(token.encode("ascii"), recipient=recipient)
    return SealedToken(
        EncryptedInnerKey=_b64(envelope.encrypted_key),
        EncryptionParams=GuestEncryptionParams(Iv=_b64(envelope.nonce)),
        AuthenticationData=_b64(envelope.tag),
        Jwt=_b64(envelope.ciphertext),
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
