"""Client of an attestation service: Azure Attestation's contract, and what ours adds under `/strongroom/v1/`."""

from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.encoding import Json, canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import FormatError
from strongroom.clients.pinned import PinnedHttp

API_VERSION = "2025-06-01"


class AttestationClient:
    """Talks to one attestation service.

    Args:
        http: A connection pinned to the service's identity.
    """

    def __init__(self, http: PinnedHttp) -> None:
        self._http = http

    def attest(self, evidence: UnverifiedEvidence) -> str:
        """Have SGX evidence verified and appraised.

        Returns:
            The attestation result: a JWT signed by the service.

        Raises:
            RefusedError: The evidence policy says no.
            VerificationError: The evidence does not verify.
            UnavailableError: The service does not answer.

        Source: Azure Attestation REST API 2025-06-01, `POST /attest/SgxEnclave`.
        """
        body: dict[str, Json] = {"quote": to_b64url(evidence.quote)}
        if evidence.runtime_data is not None:
            body["runtimeData"] = {"data": to_b64url(evidence.runtime_data), "dataType": "JSON"}
        reply = self._http.request(
            "POST",
            f"/attest/SgxEnclave?api-version={API_VERSION}",
            body=canonical_json(body),
            content_type="application/json",
        )
        return _token(reply.require_success())

    def certificates(self) -> tuple[bytes, ...]:
        """Return the newest signing certificate's chain, DER, leaf first (`GET /certs`).

        Raises:
            FormatError: The answer holds no chain.
            UnavailableError: The service does not answer.
        """
        match parse_json_object(self._http.request("GET", "/certs").require_success()):
            case {"keys": [{"x5c": [*chain]}, *_]} if chain and all(isinstance(item, str) for item in chain):
                return tuple(from_any_b64(item) for item in chain)
            case _:
                raise FormatError("the attestation service publishes no signing certificate")

    def endorsements(self, fmspc: str) -> str:
        """Return the collateral with which the service verifies a platform's quotes, JSON text.

        Args:
            fmspc: The platform's FMSPC, 12 hexadecimal digits.
        """
        return self._http.request("GET", f"/strongroom/v1/endorsements?fmspc={fmspc}").require_success().decode()

    def get_policy(self, *, token: str) -> str:
        """Return the stored policy answer token of SGX enclaves (`GET /policies/SgxEnclave`)."""
        reply = self._http.request(
            "GET", f"/policies/SgxEnclave?api-version={API_VERSION}", headers={"Authorization": f"Bearer {token}"}
        )
        return _token(reply.require_success())

    def set_policy(self, policy_jws: str, *, token: str) -> str:
        """Store an evidence policy, signed by a policy signer (`PUT /policies/SgxEnclave`).

        Returns:
            The service's signed answer.

        Raises:
            FormatError: The policy does not parse; the message says where.
            AuthenticationError: The token or the signer is not accepted.
        """
        reply = self._http.request(
            "PUT",
            f"/policies/SgxEnclave?api-version={API_VERSION}",
            body=policy_jws.encode(),
            content_type="text/plain",
            headers={"Authorization": f"Bearer {token}"},
        )
        return _token(reply.require_success())


def _token(body: bytes) -> str:
    match parse_json_object(body):
        case {"token": str(token)}:
            return token
        case _:
            raise FormatError("the attestation service's answer has no token")
