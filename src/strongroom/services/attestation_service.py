"""The attestation service: Azure Attestation's REST contract for SGX, TDX and SEV-SNP (step 4).

It verifies evidence, has the registered policy appraise it, and signs the result. It frees nothing: each key
service decides whose results it accepts and under which policy.

Source: Azure Attestation REST API 2025-06-01; Azure Attestation, "Claim sets", "Author and sign a policy".
"""

import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from pydantic import Field
from starlette.applications import Starlette

from strongroom.attestation.claims import demand_named, incoming_claims
from strongroom.attestation.endorsements.platforms import find_endorsements
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.base.clock import Clock, SystemClock
from strongroom.base.encoding import Json, canonical_json, from_any_b64, from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    FormatError,
    LimitError,
    NotFoundError,
    RefusedError,
    StrongroomError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws, unverified_header, verify_jws
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.random import random_bytes
from strongroom.crypto.x509 import parse_pem_chain, public_key
from strongroom.policy.evidence_policy import EvidencePolicy, parse_evidence_policy
from strongroom.services import azure_guest
from strongroom.services.endorsement_sources import EndorsementSettings, open_endorsements
from strongroom.services.errors import ErrorShape, Reply, strongroom_error
from strongroom.services.evidence import (
    PlatformSettings,
    ServiceEvidenceSource,
    configuration_digest,
    launch_platform,
)
from strongroom.services.evidence_kinds import EVIDENCE_KINDS, Anchors, EvidenceKind, read_attest_request
from strongroom.services.files import read_file, replace_file
from strongroom.services.http import (
    Call,
    application,
    authenticate_person,
    endpoint,
    json_reply,
    log_to_stderr,
    serve,
)
from strongroom.services.identity import ServiceIdentity, open_identity, tls_names
from strongroom.wire.model import Message, Url
from strongroom.wire.service import Mode
from strongroom.wire.trust import TrustedRootEntry

API_VERSIONS: Final = frozenset({"2020-10-01", "2022-08-01", "2025-06-01"})
DENY_ALL: Final = "version= 1.0;\nauthorizationrules\n{\n\t=> deny();\n};\nissuancerules\n{\n};\n"
_LIFETIME: Final = timedelta(hours=8)
COMMON_NAME: Final = "Strongroom attestation service"
_log = logging.getLogger(__name__)


class AttestationServiceConfig(Message):
    """The configuration file.

    Attributes:
        url: Where clients reach it, the issuer of its results; its host stands in the TLS certificate.
        host: Address to listen on.
        port: Port to listen on.
        names: Further host names and addresses for the TLS certificate.
        state: Folder for identity and policy, the owner's alone.
        owners: Public JWKs of the people who may change policy; their signature is also the policy signature.
        roots: Hardware roots; a simulated one must be named so.
        endorsements: Where the platforms' collateral comes from: a folder, a bundle, or the vendors' servers.
        platform: The simulated platform this service itself runs on; None for a service outside any TEE.
    """

    version: Literal[1] = 1
    url: Url
    host: str
    port: int = Field(ge=1, le=65535)
    names: tuple[str, ...] = ()
    state: str
    mode: Mode
    owners: tuple[dict[str, str], ...] = Field(min_length=1)
    roots: tuple[TrustedRootEntry, ...] = Field(min_length=1)
    endorsements: EndorsementSettings
    platform: PlatformSettings | None

    def digest(self) -> str:
        """Return the digest of what decides whom this service believes; paths and addresses to listen on left out."""
        owners = sorted(VerifyingKey.from_jwk(jwk).thumbprint for jwk in self.owners)
        roots: list[Json] = [
            {"certificate": sha256_hex(parse_pem_chain(root.certificate_pem.encode())[0]), "simulated": root.simulated}
            for root in self.roots
        ]
        return configuration_digest(
            {
                "service": "attestation-service",
                "issuer": self.url,
                "mode": self.mode,
                "policy_signers": list(owners),
                "roots": roots,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredPolicy:
    """An evidence policy, and the signed token in which it came."""

    jws: str
    policy: EvidencePolicy

    @classmethod
    def read(cls, path: Path) -> "_StoredPolicy":
        """Read the policy of one kind of evidence; without a stored one everything is denied."""
        stored = read_file(path)
        jws = stored.decode("ascii") if stored is not None else _unsigned(DENY_ALL)
        return cls(jws=jws, policy=parse_evidence_policy(_policy_text(jws)))


class AttestationService:
    """The service without HTTP."""

    def __init__(self, config: AttestationServiceConfig, *, identity: ServiceIdentity, clock: Clock) -> None:
        self._config = config
        self._identity = identity
        self._clock = clock
        self._owners = {key.thumbprint: key for key in map(VerifyingKey.from_jwk, config.owners)}
        self._roots = TrustedRoots(
            roots=tuple(
                TrustedRoot(certificate_der=parse_pem_chain(root.certificate_pem.encode())[0], simulated=root.simulated)
                for root in config.roots
            )
        )
        sources = open_endorsements(config.endorsements, trusted_roots=self._roots, clock=clock)
        self._endorsements, self._revocations = sources.dcap, sources.snp
        self._lock = threading.Lock()
        self._policies = {
            name: _StoredPolicy.read(self._policy_file(name)) for name in (*EVIDENCE_KINDS, azure_guest.POLICY_TYPE)
        }

    def attest(self, call: Call) -> Reply:
        """`POST /attest/{SgxEnclave,TdxVm,SevSnpVm}`.

        1. Read evidence and runtime data; the runtime data's exact bytes are what the evidence binds.
        2. Verify the evidence; SGX's and TDX's with both verifiers.
        3. Appraise the claims with the registered policy.
        4. Sign the result; names that the service sets itself win over the policy's.
        """
        _demand_version(call)
        name, kind = _kind(call)
        request = read_attest_request(call.json_object(), kind)  # 1
        claims = kind.verify(request, self.anchors())  # 2
        return json_reply({"token": self.appraise(name, claims, nonce=request.nonce)})  # 3, 4

    def anchors(self) -> Anchors:
        """Return what evidence is verified with, now."""
        return Anchors(
            roots=self._roots,
            endorsements=self._endorsements,
            revocations=self._revocations,
            now=self._clock.now(),
        )

    def appraise(self, name: str, claims: Mapping[str, Json], *, nonce: str | None = None) -> str:
        """Have the registered policy appraise verified claims, and return the signed result.

        Args:
            name: The policy's type.
            claims: From verified evidence.
            nonce: What the client wants to see in the result.

        Raises:
            RefusedError: The policy says no.
        """
        policy = self._current(name).policy
        evaluation = policy.evaluate(incoming_claims(claims))
        demand_named(claims, named=evaluation.named)
        issued: dict[str, Json] = {}
        for claim in evaluation.issued:
            before = issued.get(claim.type)
            if before is None:
                issued[claim.type] = claim.value
            else:
                issued[claim.type] = [*(before if isinstance(before, list) else [before]), claim.value]
        refused = sorted(set(evaluation.properties) - {"x-ms-sgx-tcbidentifier"})
        if refused:
            raise RefusedError(f"the evidence policy sets {refused[0]}, which this service does not honour")
        result: dict[str, Json] = {**issued, **claims, "x-ms-policy-hash": policy.hash}
        if nonce is not None:
            result["nonce"] = nonce
        return self._sign(result)

    def certificates(self, call: Call) -> Reply:
        """`GET /certs`: the signing key, with n and e beside Azure's x5c."""
        del call
        signing = self._identity.signing
        key: dict[str, Json] = {
            **signing.key.verifying_key.to_jwk(),
            "alg": "RS256",
            "use": "sig",
            "kid": signing.thumbprint,
            "x5c": list(signing.x5c),
        }
        return json_reply({"keys": [key]})

    def metadata(self, call: Call) -> Reply:
        """`GET /.well-known/openid-configuration`."""
        del call
        return json_reply(
            {
                "issuer": self._config.url,
                "jwks_uri": f"{self._config.url}/certs",
                "response_types_supported": ["token", "none"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "claims_supported": ["is-debuggable", "sgx-mrsigner", "sgx-mrenclave", "product-id", "svn", "tee"],
            }
        )

    def get_policy(self, call: Call) -> Reply:
        """`GET /policies/{type}`: the stored policy token, inside a token of this service."""
        _demand_version(call)
        self._person(call)
        name = self._policy_type(call)
        return json_reply({"token": self._sign({"x-ms-policy": self._current(name).jws})})

    def put_policy(self, call: Call) -> Reply:
        """`PUT /policies/{type}`: store a policy that a policy signer signed."""
        _demand_version(call)
        self._person(call)
        name = self._policy_type(call)
        token = call.text().strip()
        if token.startswith('"'):  # as Azure's Python client sends it
            token = token.strip('"')
        signer, policy = self._signed_policy(token)
        with self._lock:
            replace_file(self._policy_file(name), token.encode("ascii"))
            self._policies[name] = _StoredPolicy(jws=token, policy=policy)
        _log.info("evidence policy %s stored for %s", policy.hash, name)
        return json_reply(
            {
                "token": self._sign(
                    {
                        "x-ms-policy-result": "Updated",
                        "x-ms-policy-token-hash": to_b64url(bytes.fromhex(sha256_hex(token.encode()))),
                        "x-ms-policy-signer": {**signer.to_jwk(), "kid": signer.thumbprint},
                    }
                )
            }
        )

    def endorsements(self, call: Call) -> Reply:
        """`GET /strongroom/v1/endorsements?platform=`: what this service verifies a platform's evidence with."""
        found = find_endorsements(
            call.required("platform"),
            dcap=self._endorsements,
            revocations=self._revocations,
            roots_der=[root.certificate_der for root in self._roots.roots],
        )
        return Reply(body=found.encode("ascii"), content_type="text/plain")

    def _policy_type(self, call: Call) -> str:
        name = call.path["type"]
        if name not in self._policies:
            raise NotFoundError(
                f"policies of type {name[:40]} are not supported", action=f"use one of {', '.join(self._policies)}"
            )
        return name

    def _current(self, name: str) -> "_StoredPolicy":
        with self._lock:
            return self._policies[name]

    def _policy_file(self, name: str) -> Path:
        return Path(self._config.state) / f"policy-{name}.jws"

    def _signed_policy(self, token: str) -> tuple[VerifyingKey, EvidencePolicy]:
        header = unverified_header(token)
        if header.get("alg") == "none":
            raise AuthenticationError("the policy is not signed", action="sign it with an owner's key")
        match header:
            case {"x5c": [str(certificate), *_]} | {"jwk": {"x5c": [str(certificate), *_]}}:
                shown = public_key(from_any_b64(certificate))
            case _:
                raise AuthenticationError("the policy carries no signing certificate (x5c)")
        signer = self._owners.get(shown.thumbprint)
        if signer is None:
            raise AuthenticationError("the policy is not signed by a policy signer of this service")
        try:
            verify_jws(token, key=signer)
        except VerificationError as error:
            raise AuthenticationError("the policy's signature does not hold") from error
        return signer, parse_evidence_policy(_policy_text(token))

    def _person(self, call: Call) -> None:
        authenticate_person(call, owners=self._owners, audience=self._identity.identity, clock=self._clock)

    def _sign(self, claims: Mapping[str, Json]) -> str:
        now = int(self._clock.now().timestamp())
        body: dict[str, Json] = {
            **claims,
            "iss": self._config.url,
            "iat": now,
            "nbf": now,
            "exp": now + int(_LIFETIME.total_seconds()),
            "jti": random_bytes(32).hex(),
            "x-ms-ver": "1.0",
        }
        signing = self._identity.signing
        header = {"typ": "JWT", "jku": f"{self._config.url}/certs", "kid": signing.thumbprint}
        return sign_jws(canonical_json(body), key=signing.key, header=header)


def attestation_application(service: AttestationService, evidence: ServiceEvidenceSource) -> Starlette:
    """Return the ASGI application."""

    def health(call: Call) -> Reply:
        del call
        return json_reply({"status": "ok"})

    def own_evidence(call: Call) -> Reply:
        return json_reply(evidence.answer(call.required("nonce")))

    def attest_guest(call: Call) -> Reply:
        _demand_version(call)
        return guests.attest_guest(call)

    guests = azure_guest.AzureGuestDesk(anchors=service.anchors, appraise=service.appraise)
    azure, ours = _azure_error, strongroom_error
    routes = [
        endpoint("/attest/AzureGuest", attest_guest, methods=["POST"], errors=azure),
        endpoint("/strongroom/v1/attest/AzureVm", guests.attest_vm, methods=["POST"], errors=ours),
        endpoint("/attest/{type}", service.attest, methods=["POST"], errors=azure),
        endpoint("/certs", service.certificates, errors=azure),
        endpoint("/.well-known/openid-configuration", service.metadata, errors=azure),
        endpoint("/policies/{type}", service.get_policy, errors=azure),
        endpoint("/policies/{type}", service.put_policy, methods=["PUT"], errors=_policy_error),
        endpoint("/strongroom/v1/endorsements", service.endorsements, errors=ours),
        endpoint("/strongroom/v1/evidence", own_evidence, errors=ours),
        endpoint("/healthz", health, errors=ours),
    ]

    def shape_for(path: str) -> ErrorShape:
        return ours if path.startswith("/strongroom/") else azure

    return application(routes, shape_for=shape_for)


def run(config: AttestationServiceConfig, *, clock: Clock) -> None:
    """Serve until SIGTERM. Prints one JSON line when the port is open."""
    identity = open_identity(
        Path(config.state),
        common_name=COMMON_NAME,
        sans=tls_names(config.url, config.names),
        now=clock.now(),
    )
    configuration = config.digest()
    platform = launch_platform(config.platform, configuration=configuration)
    service = AttestationService(config, identity=identity, clock=clock)
    evidence = ServiceEvidenceSource(
        service="attestation-service",
        mode=config.mode,
        identity=identity,
        configuration=configuration,
        has_statement_key=False,
        platform=platform,
    )

    def ready() -> None:
        line = {"ready": "attestation-service", "url": config.url, "identity": identity.identity}
        sys.stdout.write(canonical_json(line).decode() + "\n")
        sys.stdout.flush()

    serve(
        attestation_application(service, evidence),
        host=config.host,
        port=config.port,
        certificate_chain_pem=identity.tls_chain_pem,
        key_pem=identity.tls.key.to_pem(),
        ready=ready,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m strongroom.services.attestation_service --config FILE`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 2 or arguments[0] != "--config":  # noqa: PLR2004 - the option and its value
        sys.stderr.write("usage: attestation_service --config FILE\n")
        raise SystemExit(2)
    log_to_stderr()
    try:
        content = read_file(Path(arguments[1]))
        if content is None:
            raise ConfigurationError(f"there is no configuration at {arguments[1]}")
        run(AttestationServiceConfig.from_json(content), clock=SystemClock())
    except StrongroomError as error:
        sys.stderr.write(f"attestation-service: {error.message}. {error.action}\n")
        raise SystemExit(1) from None


def _kind(call: Call) -> tuple[str, EvidenceKind]:
    name = call.path["type"]
    kind = EVIDENCE_KINDS.get(name)
    if kind is None:
        raise NotFoundError(
            f"evidence of type {name[:40]} is not supported", action=f"use one of {', '.join(EVIDENCE_KINDS)}"
        )
    return name, kind


def _policy_text(token: str) -> str:
    """Return the policy text of a policy token: `{"AttestationPolicy": base64url(text)}`."""
    match parse_json_object(from_b64url(token.split(".")[1])):
        case {"AttestationPolicy": str(encoded)}:
            pass
        case _:
            raise FormatError("the policy token holds no AttestationPolicy")
    text = from_any_b64(encoded)
    if len(text) > LIMITS.policy_text_bytes:
        raise LimitError("the policy is too large")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("the policy is not UTF-8 text") from error


def _unsigned(text: str) -> str:
    body = to_b64url(canonical_json({"AttestationPolicy": to_b64url(text.encode())}))
    return f"{to_b64url(canonical_json({'alg': 'none'}))}.{body}."


def _demand_version(call: Call) -> None:
    if call.required("api-version") not in API_VERSIONS:
        raise FormatError("this api-version is not supported", action=f"use one of {', '.join(sorted(API_VERSIONS))}")


def _azure_error(error: StrongroomError) -> Reply:
    """Answer as Azure Attestation does; our own code, action and mismatches ride in `innererror`."""
    match error:
        case RefusedError():
            return _shaped(error, status=400, code="PolicyEvaluationError")
        case FormatError() | VerificationError():
            return _shaped(error, status=400, code="InvalidParameter")
        case AuthenticationError():
            return _shaped(error, status=401, code="Unauthorized")
        case NotFoundError():
            return _shaped(error, status=404, code="NotFound")
        case LimitError():
            return _shaped(error, status=413, code="RequestTooLarge")
        case _:
            return _shaped(error, status=500, code="InternalError")


def _policy_error(error: StrongroomError) -> Reply:
    if isinstance(error, FormatError):
        return _shaped(error, status=400, code="PolicyParsingError")
    return _azure_error(error)


def _shaped(error: StrongroomError, *, status: int, code: str) -> Reply:
    inner = parse_json_object(strongroom_error(error).body)["error"]
    body: Json = {"error": {"code": code, "message": error.message, "innererror": inner}}
    return Reply(body=canonical_json(body), status=status, headers={"x-ms-error-code": code})


if __name__ == "__main__":
    main()
