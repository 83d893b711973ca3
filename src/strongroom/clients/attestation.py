"""Client of an attestation service: Azure Attestation's contract, and what ours adds under `/strongroom/v1/`."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.encoding import Json, canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.clients.pinned import ServiceHttp
from strongroom.wire.model import TeeKind

API_VERSION = "2025-06-01"
ATTESTATION_TYPES: Final[Mapping[TeeKind, str]] = {"sgx": "SgxEnclave", "tdx": "TdxVm", "snp": "SevSnpVm"}
"""Azure Attestation's names of the kinds of TEE."""


class AttestationClient:
    """Talks to one attestation service.

    Args:
        http: Connections to it: pinned to the identity of a service of ours, or vouched for by certificate authorities,
            as Azure Attestation is; `attest` is its contract.
    """

    def __init__(self, http: ServiceHttp) -> None:
        self._http = http

    def attest(self, evidence: UnverifiedEvidence) -> str:
        """Have evidence verified and appraised.

        Returns:
            The attestation result: a JWT signed by the service.

        Raises:
            ConfigurationError: The host gave an SEV-SNP guest no certificates.
            RefusedError: The evidence policy says no.
            VerificationError: The evidence does not verify.
            UnavailableError: The service does not answer.

        Source: Azure Attestation REST API 2025-06-01, `POST /attest/{SgxEnclave,TdxVm,SevSnpVm}`.
        """
        body: dict[str, Json] = _evidence(evidence)
        if evidence.runtime_data is not None:
            body["runtimeData"] = {"data": to_b64url(evidence.runtime_data), "dataType": "JSON"}
        reply = self._http.request(
            "POST",
            f"/attest/{ATTESTATION_TYPES[evidence.kind]}?api-version={API_VERSION}",
            body=canonical_json(body),
            content_type="application/json",
        )
        return _token(reply.require_success())

    def certificates(self) -> tuple[bytes, ...]:
        """Return the certificates of all keys that sign results or did, the newest first, and then the identity's.

        Returns:
            DER; what a receipt needs so that the results in it can be verified (`GET /certs`).

        Raises:
            FormatError: The answer holds no such chains.
            UnavailableError: The service does not answer.
        """
        match parse_json_object(self._http.request("GET", "/certs").require_success()):
            case {"keys": [*keys]} if keys:
                chains = [_chain(key) for key in keys]
            case _:
                raise FormatError("the attestation service publishes no signing certificate")
        if len({identity for _, identity in chains}) != 1:
            raise FormatError("the attestation service's certificates are not all of one identity")
        return (*(leaf for leaf, _ in chains), chains[0][1])

    def endorsements(self, platform: str) -> str:
        """Return what the service verifies a platform's evidence with.

        Args:
            platform: The platform's name, from `attestation.endorsements.platforms.platform_of`.

        Returns:
            Of SGX and TDX the collateral, JSON text; of SEV-SNP the root's revocation list, hexadecimal text.
        """
        path = f"/strongroom/v1/endorsements?platform={quote(platform)}"
        return self._http.request("GET", path).require_success().decode()

    def get_policy(self, *, token: str, tee: TeeKind = "sgx") -> str:
        """Return the stored policy answer token of one kind of TEE (`GET /policies/{type}`)."""
        reply = self._http.request(
            "GET",
            f"/policies/{ATTESTATION_TYPES[tee]}?api-version={API_VERSION}",
            headers={"Authorization": f"Bearer {token}"},
        )
        return _token(reply.require_success())

    def set_policy(self, policy_jws: str, *, token: str, tee: TeeKind = "sgx") -> str:
        """Store the evidence policy of one kind of TEE, signed by a policy signer (`PUT /policies/{type}`).

        Returns:
            The service's signed answer.

        Raises:
            FormatError: The policy does not parse; the message says where.
            AuthenticationError: The token or the signer is not accepted.
        """
        reply = self._http.request(
            "PUT",
            f"/policies/{ATTESTATION_TYPES[tee]}?api-version={API_VERSION}",
            body=policy_jws.encode(),
            content_type="text/plain",
            headers={"Authorization": f"Bearer {token}"},
        )
        return _token(reply.require_success())


def _evidence(evidence: UnverifiedEvidence) -> dict[str, Json]:
    if evidence.kind != "snp":
        return {"quote": to_b64url(evidence.quote)}
    if evidence.certificate_chain is None:
        raise ConfigurationError(
            "the host gives this guest no certificates for its SEV-SNP reports",
            action="Ask the operator to load VCEK or VLEK, ASK and ARK into the host (SNP_SET_EXT_CONFIG or the VMM).",
        )
    report: Json = {
        "SnpReport": to_b64url(evidence.quote),
        "VcekCertChain": to_b64url(evidence.certificate_chain.encode("ascii")),
    }
    return {"report": to_b64url(canonical_json(report))}


def _chain(key: object) -> tuple[bytes, bytes]:
    match key:
        case {"x5c": [str(leaf), str(identity)]}:
            return from_any_b64(leaf), from_any_b64(identity)
        case _:
            raise FormatError("a signing key of the attestation service has no certificate chain")


def _token(body: bytes) -> str:
    match parse_json_object(body):
        case {"token": str(token)}:
            return token
        case _:
            raise FormatError("the attestation service's answer has no token")
