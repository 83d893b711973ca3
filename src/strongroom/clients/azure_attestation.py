"""Azure Attestation as who appraises this TEE: a public server, which publishes the keys that it signs with.

What it says frees nothing by itself: vault, key service and auditor each verify the result with keys that they know
from elsewhere. It is verified here as well, so that the receipt holds the key that signed it, and so that an answer
that is none is an error at once. The provider hands out no endorsements; they come from the hardware's vendors.

Source: Azure Attestation REST API 2025-06-01; Azure Attestation, "Workflow", validation of the attestation token.
"""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from typing_extensions import override

from strongroom.attestation.endorsements.documents import DocumentSource
from strongroom.attestation.endorsements.platforms import find_endorsements, root_of
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.result import verify_result
from strongroom.base.clock import Clock
from strongroom.base.encoding import parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    FormatError,
    NotFoundError,
    RateError,
    RefusedError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.base.workflow import Step
from strongroom.clients.amd_kds import AMD_KDS, KdsClient
from strongroom.clients.attestation import AttestationService, ResultSigners, attest_request, published_keys, token_of
from strongroom.clients.azure_faults import read_fault
from strongroom.clients.https import Answered, Https, patiently
from strongroom.clients.intel_pcs import INTEL_PCS, PcsClient, lacks_root_crl, root_crl_address
from strongroom.crypto.jose import unverified_header
from strongroom.crypto.random import random_bytes
from strongroom.crypto.x509 import public_key
from strongroom.wire.azure_attestation import AzureAttestationAddress

_NONCE_BYTES: Final = 24
_KID_CHARACTERS: Final = 200
_FIRST_SERVER_ERROR: Final = 500
_LOOK_AT: Final = "Check the provider's address, the authorities that are accepted there, and this machine's clock."


class AzureAttestation(AttestationService):
    """One TEE's conversation with a provider of Azure Attestation.

    Args:
        address: How the host says to reach it.
        clock: The time; in a TEE the host's word.
        wait: Waits some seconds, where the provider asks for it.

    Raises:
        ConfigurationError: The address or the authorities are none.
    """

    def __init__(
        self, address: AzureAttestationAddress, *, clock: Clock, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._address = address
        self._https = Https(address.url, service="Azure Attestation", authorities_pem=address.authorities_pem)
        self._clock = clock
        self._wait = wait
        self._keys: Mapping[str, bytes] = {}
        self._roots: tuple[bytes, ...] = ()

    @override
    def attest(self, evidence: UnverifiedEvidence) -> str:
        """Have evidence verified and appraised (see `AttestationService`).

        1. Send it, with its runtime data as JSON and a fresh nonce.
        2. Verify the result with the key that the provider publishes under its id: this issuer's, valid now.
        3. It repeats nonce and runtime data.

        Raises:
            RefusedError: This TEE is a pod's or a confidential node's as well, of which Azure has no claims that count.
            AuthenticationError: The provider wants to know who asks.
            RateError: The provider wants to be asked later.
        """
        if evidence.vtpm is not None or evidence.initdata is not None:
            raise RefusedError(
                f"{self._address.url} does not say what is launched in a pod, or what a vTPM signed",
                action="Have pods and confidential nodes appraised by an attestation service of Strongroom's.",
                step=Step.ATTEST,
            )
        nonce = to_b64url(random_bytes(_NONCE_BYTES))
        path, body = attest_request(evidence, nonce=nonce)
        try:
            token = token_of(self._post(path, body))  # 1
            self._verify(token, nonce=nonce, runtime_data=evidence.runtime_data or b"{}")
            self._roots = (*self._roots, root_of(evidence))
        except StrongroomError as error:
            error.step = Step.ATTEST  # whichever step these checks usually belong to
            error.action = error.action or _LOOK_AT
            raise
        return token

    @override
    def signers(self, results: Collection[str]) -> ResultSigners:
        """Return the keys that signed these results (see `AttestationService`)."""
        return ResultSigners(keys={kid: self._certificate(kid) for kid in sorted(set(map(_kid, results)))})

    @override
    def endorsements(self, platform: str) -> str:
        """Return what a platform's evidence is verified with, asked of its vendor (see `AttestationService`)."""
        return find_endorsements(platform, dcap=self._intel(platform), revocations=self._amd(), roots_der=self._roots)

    def _post(self, path: str, body: bytes) -> bytes:
        headers = {"content-type": "application/json"}
        answer = patiently(
            lambda: self._https.request("POST", path, body=body, headers=headers, max_bytes=LIMITS.token_bytes),
            wait=self._wait,
        )
        if not answer.is_success:
            raise _refused(answer, self._address.url)
        return answer.body

    def _verify(self, token: str, *, nonce: str, runtime_data: bytes) -> None:
        key = public_key(self._certificate(_kid(token)))
        result = verify_result(token, issuer=self._address.url, verifying_key=key, now=self._clock.now())  # 2
        if result.claims.get("nonce") != nonce or result.runtime != parse_json_object(runtime_data):  # 3
            raise VerificationError(
                "Azure Attestation's answer is not one to this request",
                action="Submit again; if it happens again, what answers at the address repeats old answers.",
            )

    def _certificate(self, kid: str) -> bytes:
        if kid not in self._keys:
            found = published_keys(self._https.get("/certs").body)
            self._keys = {**self._keys, **{name: chain[0] for name, chain in found.items()}}
        if kid not in self._keys:
            raise VerificationError(
                "the attestation result is signed with a key that Azure Attestation does not publish",
                action="Check the provider's address, and the authorities that are accepted there.",
            )
        return self._keys[kid]

    def _intel(self, platform: str) -> DocumentSource:
        servers = self._address.endorsements
        url, root_crl = servers.pcs or INTEL_PCS, None
        if lacks_root_crl(url) and not platform.startswith("snp."):
            if not self._roots:
                raise NotFoundError("there is no evidence yet whose root could name its revocation list")
            root_crl = Https(root_crl_address(self._roots[-1]), service="the root's revocation list")
        server = Https(url, service="Intel's certification service", authorities_pem=servers.authorities_pem)
        return PcsClient(server, clock=self._clock, root_crl=root_crl)

    def _amd(self) -> DocumentSource:
        servers = self._address.endorsements
        server = Https(
            servers.kds or AMD_KDS, service="AMD's key distribution service", authorities_pem=servers.authorities_pem
        )
        return KdsClient(server, clock=self._clock)


def _kid(token: str) -> str:
    match unverified_header(token):
        case {"kid": str(kid)} if (
            0 < len(kid) <= _KID_CHARACTERS and kid.isascii() and kid.isprintable() and " " not in kid
        ):
            return kid
        case _:
            raise FormatError("the attestation result does not name the key that signed it")


def _refused(answer: Answered, url: str) -> StrongroomError:
    fault = read_fault(answer)
    match answer.status, fault.code:
        case _, "PolicyEvaluationError":
            return RefusedError(
                f"the policy of {url} does not accept this TEE: {fault.said}",
                action="Compare the provider's policy with what `strongroom policy azure` prints, and this TEE with the"
                " agents of the trust file.",
            )
        case 401 | 403, _:
            return AuthenticationError(
                f"{url} wants to know who asks: {fault.said}",
                action="Give the address of a provider that attests for everybody, as Azure's do.",
            )
        case 429, _:
            return RateError(f"{url} is asked too often", action="Submit again later.")
        case status, _ if status >= _FIRST_SERVER_ERROR:
            return UnavailableError(f"{url} failed with status {status}: {fault.said}", action="Submit again later.")
        case status, _:
            return VerificationError(
                f"{url} does not accept the evidence of this TEE (status {status}): {fault.said}",
                action="See that the platform is one that Azure Attestation knows, and that its firmware is current.",
            )
