"""Client of an attestation service: Azure Attestation's contract, and what ours adds under `/strongroom/v1/`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias
from urllib.parse import quote

from typing_extensions import override

from strongroom.attestation.evidence.azure_vtpm import GUEST_PCRS, azure_vm_of
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm, UnverifiedEvidence
from strongroom.base.encoding import Json, canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.clients.pinned import ServiceHttp
from strongroom.wire.azure_guest import AzureVmRequest
from strongroom.wire.model import TeeKind

API_VERSION = "2025-06-01"
ATTESTATION_TYPES: Final[Mapping[TeeKind, str]] = {"sgx": "SgxEnclave", "tdx": "TdxVm", "snp": "SevSnpVm"}
"""Azure Attestation's names of the kinds of TEE."""
PolicyKind: TypeAlias = TeeKind | Literal["azure-vm"]
"""Evidence that has a policy of its own: of a kind of TEE, or of an Azure confidential VM whatever is below it."""
POLICY_KINDS: Final[Mapping[PolicyKind, str]] = {
    "sgx": "SgxEnclave",
    "tdx": "TdxVm",
    "snp": "SevSnpVm",
    "azure-vm": "AzureGuest",
}
"""Azure Attestation's names of these."""
_IDENTITY_CHAIN: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSigners:
    """The keys that signed attestation results, as a receipt shows them.

    Attributes:
        certificates: Of a service of ours: of all keys that sign results or did, the newest first, then the identity's;
            DER.
        keys: Of Azure Attestation: the certificate, DER, of each key that was used, by the key's id.
    """

    certificates: tuple[bytes, ...] = ()
    keys: Mapping[str, bytes] = field(default_factory=dict)


class AttestationService(Protocol):
    """What an agent asks of who appraises it: a service of ours, or Azure Attestation. Threads may share it."""

    def attest(self, evidence: UnverifiedEvidence) -> str:
        """Have evidence verified and appraised.

        What a confidential VM's vTPM says goes to a call of ours, a pod's initdata as initTimeData of a type of ours.

        Returns:
            The attestation result: a JWT signed by the service.

        Raises:
            ConfigurationError: The host gave an SEV-SNP guest no certificates.
            RefusedError: The evidence policy says no.
            VerificationError: The evidence does not verify, or what answers is not the service.
            UnavailableError: The service does not answer.
        """

    def signers(self, results: Collection[str]) -> ResultSigners:
        """Return the keys that signed these results of the service.

        Raises:
            FormatError: The service does not publish its keys as it should.
            VerificationError: It does not publish the key of a result.
            UnavailableError: It does not answer.
        """

    def endorsements(self, platform: str) -> str:
        """Return what a platform's evidence is verified with.

        Args:
            platform: The platform's name, from `attestation.endorsements.platforms.platform_of`.

        Returns:
            Of SGX and TDX the collateral, JSON text; of SEV-SNP the root's revocation list, hexadecimal text.

        Raises:
            NotFoundError: There are none.
            UnavailableError: Who has them does not answer.
        """


class AttestationClient(AttestationService):
    """Talks to one attestation service.

    Args:
        http: Connections to it: pinned to the identity of a service of ours, or vouched for by certificate authorities,
            as Azure Attestation is; `attest` is its contract.
    """

    def __init__(self, http: ServiceHttp) -> None:
        self._http = http

    @override
    def attest(self, evidence: UnverifiedEvidence) -> str:
        """Have evidence verified and appraised (see `AttestationService`).

        What a confidential VM's vTPM says goes to a call of ours, a pod's initdata as initTimeData of a type of ours.
        """
        path, body = _vm_request(evidence) if evidence.vtpm is not None else attest_request(evidence)
        return token_of(self._http.request("POST", path, body=body, content_type="application/json").require_success())

    @override
    def signers(self, results: Collection[str]) -> ResultSigners:
        """Return the certificates of all keys, whichever signed these results (see `certificates`)."""
        del results
        return ResultSigners(certificates=self.certificates())

    def certificates(self) -> tuple[bytes, ...]:
        """Return the certificates of all keys that sign results or did, the newest first, and then the identity's.

        Returns:
            DER; what a receipt needs so that the results in it can be verified (`GET /certs`).

        Raises:
            FormatError: The answer holds no such chains.
            UnavailableError: The service does not answer.
        """
        chains = published_keys(self._http.request("GET", "/certs").require_success()).values()
        if not chains:
            raise FormatError("the attestation service publishes no signing certificate")
        if any(len(chain) != _IDENTITY_CHAIN for chain in chains) or len({chain[1] for chain in chains}) != 1:
            raise FormatError("the attestation service's certificates are not all of one identity")
        return (*(chain[0] for chain in chains), next(iter(chains))[1])

    @override
    def endorsements(self, platform: str) -> str:
        """Return what the service verifies a platform's evidence with (see `AttestationService`)."""
        path = f"/strongroom/v1/endorsements?platform={quote(platform)}"
        return self._http.request("GET", path).require_success().decode()

    def get_policy(self, *, token: str, tee: PolicyKind = "sgx") -> str:
        """Return the stored policy answer token of one kind of evidence (`GET /policies/{type}`)."""
        reply = self._http.request(
            "GET",
            f"/policies/{POLICY_KINDS[tee]}?api-version={API_VERSION}",
            headers={"Authorization": f"Bearer {token}"},
        )
        return token_of(reply.require_success())

    def set_policy(self, policy_jws: str, *, token: str, tee: PolicyKind = "sgx") -> str:
        """Store the evidence policy of one kind of evidence, signed by a policy signer (`PUT /policies/{type}`).

        Returns:
            The service's signed answer.

        Raises:
            FormatError: The policy does not parse; the message says where.
            AuthenticationError: The token or the signer is not accepted.
        """
        reply = self._http.request(
            "PUT",
            f"/policies/{POLICY_KINDS[tee]}?api-version={API_VERSION}",
            body=policy_jws.encode(),
            content_type="text/plain",
            headers={"Authorization": f"Bearer {token}"},
        )
        return token_of(reply.require_success())


def attest_request(evidence: UnverifiedEvidence, *, nonce: str | None = None) -> tuple[str, bytes]:
    """Return path and body of the request that has evidence appraised, in Azure Attestation's form.

    Args:
        evidence: The evidence; its runtime data come back in the result as JSON.
        nonce: What the result shall repeat, or None.

    Raises:
        ConfigurationError: The host gave an SEV-SNP guest no certificates.

    Source: Azure Attestation REST API 2025-06-01, `POST /attest/{SgxEnclave,TdxVm,SevSnpVm}`.
    """
    body: dict[str, Json] = _evidence(evidence)
    if evidence.runtime_data is not None:
        body["runtimeData"] = {"data": to_b64url(evidence.runtime_data), "dataType": "JSON"}
    if evidence.initdata is not None:
        body["initTimeData"] = {"data": to_b64url(evidence.initdata), "dataType": "TOML"}
    if nonce is not None:
        body["nonce"] = nonce
    return f"/attest/{ATTESTATION_TYPES[evidence.kind]}?api-version={API_VERSION}", canonical_json(body)


def token_of(body: bytes) -> str:
    """Return the token in a service's answer.

    Raises:
        FormatError: It holds none.
    """
    match parse_json_object(body):
        case {"token": str(token)}:
            return token
        case _:
            raise FormatError("the attestation service's answer has no token")


def published_keys(body: bytes) -> dict[str, tuple[bytes, ...]]:
    """Read the keys that an attestation service publishes (`GET /certs`).

    Returns:
        The certificates of each key, its own first, DER, by the key's id, in the order of the answer.

    Raises:
        FormatError: Not such an answer.
    """
    match parse_json_object(body):
        case {"keys": [*keys]}:
            return dict(published_key(key) for key in keys)
        case _:
            raise FormatError("the attestation service does not publish its keys as a JSON Web Key Set")


def published_key(jwk: object) -> tuple[str, tuple[bytes, ...]]:
    """Return the id of a published key, and its certificates, its own first.

    Raises:
        FormatError: It names no id, or shows no certificates.
    """
    match jwk:
        case {"kid": str(kid), "x5c": [*chain]} if chain and all(isinstance(each, str) for each in chain):
            return kid, tuple(from_any_b64(each) for each in chain)
        case _:
            raise FormatError("a published key of the attestation service has no certificate chain")


def azure_vm_request(
    evidence: UnverifiedAzureVm, *, certificates: str | None, pcrs: Sequence[int] = GUEST_PCRS
) -> AzureVmRequest:
    """Return the body of our call for Azure confidential VMs.

    Args:
        evidence: The evidence.
        certificates: On SEV-SNP PEM text of VCEK, ASK and ARK; None on TDX.
        pcrs: Numbers of the quoted registers, ascending.
    """
    return AzureVmRequest(
        hcl_report=to_b64url(evidence.hcl_report),
        td_quote=None if evidence.td_quote is None else to_b64url(evidence.td_quote),
        certificates=certificates,
        tpm_quote=to_b64url(evidence.tpm_quote),
        tpm_signature=to_b64url(evidence.tpm_signature),
        pcrs={str(pcr): value.hex() for pcr, value in zip(pcrs, evidence.pcr_values, strict=True)},
        runtime_data=to_b64url(evidence.runtime_data),
    )


def _vm_request(evidence: UnverifiedEvidence) -> tuple[str, bytes]:
    """Return path and body of our call for evidence with what a vTPM says."""
    pcrs = sorted(evidence.vtpm.pcrs) if evidence.vtpm is not None else GUEST_PCRS
    request = azure_vm_request(azure_vm_of(evidence), certificates=evidence.certificate_chain, pcrs=pcrs)
    return "/strongroom/v1/attest/AzureVm", request.to_json()


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
