"""The attestation service: Azure Attestation's REST contract, for SGX, TDX and SEV-SNP (step 4).

It verifies evidence, has the standing policy appraise it, and signs the result. It frees nothing: each key
service decides whose results it accepts and under which policy.

Source: Azure Attestation REST API 2020-10-01, 2022-08-01, 2025-06-01; Azure Attestation, "Claim sets".
"""

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from pydantic import Field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from strongroom import __version__
from strongroom.attestation.claims import demand_named, incoming_claims
from strongroom.attestation.ear import ear_claims
from strongroom.attestation.endorsements.dcap import Tee
from strongroom.attestation.endorsements.platforms import find_endorsements
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.base.clock import Clock, SystemClock, to_rfc3339
from strongroom.base.encoding import Json, canonical_json
from strongroom.base.errors import (
    FormatError,
    NotFoundError,
    UnavailableError,
)
from strongroom.base.limits import LIMITS
from strongroom.base.workflow import Step
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import parse_pem_chain
from strongroom.policy.claims import claims_to_json
from strongroom.policy.evidence_policy import EvidencePolicy
from strongroom.services import azure_guest
from strongroom.services.attestation_errors import attestation_error, management_error, policy_error
from strongroom.services.attestation_store import AttestationStore, open_attestation_store
from strongroom.services.azure_guest import AzureGuestDesk
from strongroom.services.connections import ConnectionLimits
from strongroom.services.endorsement_sources import EndorsementSettings, open_endorsements
from strongroom.services.errors import ErrorShape, Reply, strongroom_error
from strongroom.services.evidence import (
    PlatformSettings,
    ServiceEvidenceSource,
    configuration_digest,
    launch_platform,
)
from strongroom.services.evidence_kinds import EVIDENCE_KINDS, Anchors, Turns, VerifiedClaims, read_attest_request
from strongroom.services.evidence_policies import POLICY_TYPES, EvidencePolicies, PolicyManagement, read_draft
from strongroom.services.files import prepare_folder
from strongroom.services.http import (
    Call,
    application,
    endpoint,
    json_reply,
    serve,
)
from strongroom.services.identity import ServiceIdentity, open_identity, tls_names
from strongroom.services.metrics import AttestationMetrics
from strongroom.services.people import People, PeopleSettings, Role, configuration_of_people, configured_people
from strongroom.services.policy_tokens import token_of_body
from strongroom.services.process import run_configured
from strongroom.services.result_signing import (
    AZURE_FORM,
    ResultProperties,
    ResultSigner,
    TokenForm,
    Tokens,
    with_signing_key,
)
from strongroom.services.sign_in import TokenIssuers
from strongroom.services.sign_in_desk import SignInDesk
from strongroom.services.tcb_baselines import tcb_baselines
from strongroom.services.traffic import RateLimiter, Traffic
from strongroom.wire.model import Message, Url
from strongroom.wire.service import Mode
from strongroom.wire.trust import TrustedRootEntry

API_VERSIONS: Final = ("2020-10-01", "2022-08-01", "2025-06-01")
_NEWEST: Final = API_VERSIONS[-1]
_TYPES_SINCE: Final[Mapping[str, str]] = {"TdxVm": _NEWEST}
"""Types that older versions do not have. SEV-SNP guests use every version: Microsoft's own clients send the oldest."""
_WITHOUT_DRAFT: Final = frozenset({"TdxVm"})
"""Types whose contract has no draft policies."""
_BASELINE_TEES: Final[Mapping[str, Tee]] = {"SgxEnclave": "SGX", "OpenEnclave": "SGX", "TdxVm": "TDX"}
COMMON_NAME: Final = "Strongroom attestation service"
_DATABASE: Final = "attestation.db"
_EAR: Final = TokenForm(
    typ="eat+jwt",
    write=lambda claims: ear_claims(claims, permitted=True, developer="Strongroom", build=f"strongroom {__version__}"),
)
"""The service gives no result that its policy does not permit, hence `permitted`."""


class ServiceLimits(Message):
    """What the service bears; beyond it, callers are told to come again later.

    Attributes:
        request_s: A request must have arrived completely after so many seconds.
        connections: Connections open at once.
        connections_per_address: Of them, from one address.
        requests_per_second: Of all addresses together; twice as many in one go after a pause.
        requests_per_second_per_address: Of one address.
    """

    request_s: int = Field(default=30, gt=0)
    connections: int = Field(default=512, gt=0)
    connections_per_address: int = Field(default=256, gt=0)
    requests_per_second: int = Field(default=2000, gt=0)
    requests_per_second_per_address: int = Field(default=500, gt=0)


class AttestationServiceConfig(PeopleSettings):
    """The configuration file. Of the people, owners may change policy and are policy signers; auditors read it.

    Attributes:
        url: Where clients reach it, the issuer of its results; its host stands in the TLS certificate.
        host: Address to listen on.
        port: Port to listen on.
        names: Further host names and addresses for the TLS certificate.
        state: Folder for the identity, and for the database where that is no other; the owner's alone.
        state_database: `postgresql://…` of a database that several replicas share, without a password; null for SQLite
            in the state folder.
        policy_management: `isolated`: a policy must be signed by an owner's key, or by the key of a registered policy
            certificate. `owner`: an owner's token is enough.
        roots: Hardware roots; a simulated one must be named so.
        endorsements: Where the platforms' collateral comes from: a folder, a bundle, or the vendors' servers.
        platform: The simulated platform this service itself runs on; None for a service outside any TEE.
        signing_key_max_age_days: After so many days a new key signs the results (a certificate: ten years).
        limits: What the service bears.
    """

    version: Literal[1] = 1
    url: Url
    host: str
    port: int = Field(ge=1, le=65535)
    names: tuple[str, ...] = ()
    state: str
    state_database: str | None = None
    mode: Mode
    policy_management: PolicyManagement = "isolated"
    roots: tuple[TrustedRootEntry, ...] = Field(min_length=1)
    endorsements: EndorsementSettings
    platform: PlatformSettings | None
    signing_key_max_age_days: int = Field(default=365, ge=1, le=3000)
    limits: ServiceLimits = ServiceLimits()

    def digest(self) -> str:
        """Return the digest of what decides whom this service believes; paths and addresses to listen on left out."""
        people = configuration_of_people(self.owners, self.people, self.issuers)
        owners = people.pop("owners")
        roots: list[Json] = [
            {"certificate": sha256_hex(parse_pem_chain(root.certificate_pem.encode())[0]), "simulated": root.simulated}
            for root in self.roots
        ]
        return configuration_digest(
            {
                "service": "attestation-service",
                "issuer": self.url,
                "mode": self.mode,
                "policy_signers": owners,
                **people,
                "policy_management": self.policy_management,
                "roots": roots,
            }
        )


class AttestationService:
    """The service without HTTP.

    Args:
        config: The configuration.
        identity: The service's keys.
        store: Its state.
        clock: The time.

    Raises:
        IntegrityError: A stored policy is not what was stored.
        UnavailableError: The store cannot be used.
    """

    def __init__(
        self, config: AttestationServiceConfig, *, identity: ServiceIdentity, store: AttestationStore, clock: Clock
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self.people: Final = People(
            configured_people(config.owners, config.people),
            audience=identity.identity,
            issuers=TokenIssuers(config.issuers, clock=clock),
            clock=clock,
        )
        self._roots = TrustedRoots(
            roots=tuple(
                TrustedRoot(certificate_der=parse_pem_chain(root.certificate_pem.encode())[0], simulated=root.simulated)
                for root in config.roots
            )
        )
        self._turns = Turns(len(os.sched_getaffinity(0)))
        self._endorsements = open_endorsements(config.endorsements, trusted_roots=self._roots, clock=clock)
        self.metrics: Final = AttestationMetrics()
        self.signer: Final = ResultSigner(
            Tokens(issuer=config.url, signing_key_max_age=timedelta(days=config.signing_key_max_age_days)),
            identity=identity,
            folder=Path(config.state),
            store=store,
            clock=clock,
        )
        self._policies = EvidencePolicies(
            management=config.policy_management, owners=self.people.keys(Role.OWNER), store=store, clock=clock
        )

    # --- attesting ---------------------------------------------------------------------------------------------------

    def attest(self, call: Call) -> Reply:
        """`POST /attest/{SgxEnclave,OpenEnclave,TdxVm,SevSnpVm}`.

        1. Read evidence and runtime data; the runtime data's exact bytes are what the evidence binds.
        2. Verify the evidence; SGX's and TDX's with both verifiers.
        3. Appraise the claims and answer with the result (`result`).
        """
        version, name = _version(call), _type(call, EVIDENCE_KINDS)
        with self.metrics.attestation(name) as counted:
            body = call.json_object()
            draft = body.pop("draftPolicyForAttestation", None)
            counted.is_draft = draft is not None
            _demand_in_version(body, draft=draft, name=name, version=version)
            kind = EVIDENCE_KINDS[name]
            request = read_attest_request(body, kind)  # 1
            with self.anchors() as anchors:
                verified = kind.verify(request, anchors)  # 2
                return json_reply({"token": self.result(name, verified, nonce=request.nonce, draft=draft)})  # 3

    def attest_ear(self, call: Call) -> Reply:
        """`POST /strongroom/v1/ear/{type}`: the same, answered with an EAT Attestation Result (EAR)."""
        name = _type(call, EVIDENCE_KINDS)
        with self.metrics.attestation(name):
            kind = EVIDENCE_KINDS[name]
            request = read_attest_request(call.json_object(), kind)
            with self.anchors() as anchors:
                verified = kind.verify(request, anchors)
                return json_reply({"token": self.result(name, verified, nonce=request.nonce, form=_EAR)})

    @contextlib.contextmanager
    def anchors(self) -> Iterator[Anchors]:
        """Give what evidence is verified with now, and a turn that lasts until the result is signed.

        Raises:
            UnavailableError: This machine's clock stands behind a time that a vendor signed, or the store is gone.
        """
        now, newest = self._clock.now(), self._store.newest_signed_time.get()
        if newest is not None and now < newest:
            raise UnavailableError(
                f"this service's clock stands behind {to_rfc3339(newest)}, when a vendor signed endorsements",
                action="Set the machine's clock; evidence is not verified at a time that is over.",
                step=Step.ATTEST,
            )
        with self._turns.one() as turn:
            yield Anchors(
                roots=self._roots,
                endorsements=self._endorsements.dcap,
                revocations=self._endorsements.snp,
                now=now,
                turn=turn,
            )

    def result(
        self,
        name: str,
        verified: VerifiedClaims,
        *,
        nonce: str | None = None,
        draft: object = None,
        form: TokenForm = AZURE_FORM,
    ) -> str:
        """Appraise the claims of verified evidence and return the attestation result.

        1. Appraise them with the standing policy, or with the draft; what is not safe it must name.
        2. Names that the service sets itself win over the policy's.
        3. Sign the result; what a draft permitted is not signed.

        Args:
            name: The evidence's type, whose policy decides.
            verified: What the evidence says.
            nonce: What the client wants to see in the result.
            draft: A draft policy, or None.
            form: In which form the result is written.

        Raises:
            RefusedError: The policy says no.
            FormatError: The draft is not a policy, or the form has no words for such evidence.
            UnavailableError: The store cannot be written.
        """
        claims = verified.claims
        self._store.newest_signed_time.advance(verified.newest_signed)
        standing = self._policies.standing(name)
        policy = standing.policy if draft is None else _draft(draft)
        evaluation = policy.evaluate(incoming_claims(claims))  # 1
        demand_named(claims, named=evaluation.named)
        properties = ResultProperties.of_policy(
            evaluation.properties, tcb_evaluation_data_number=claims.get("x-ms-strongroom-tcb-evaluation-data-number")
        )
        result: dict[str, Json] = {**claims_to_json(evaluation.issued), **claims, "x-ms-policy-hash": policy.hash}  # 2
        for own in ("nonce", "x-ms-policy-signer"):
            result.pop(own, None)
        if nonce is not None:
            result["nonce"] = nonce
        if draft is not None:
            return self.signer.draft(result, properties)
        if standing.signer is not None:
            result["x-ms-policy-signer"] = standing.signer
        return self.signer.sign(result, properties, form=form)  # 3

    def appraise_guest(self, verified: VerifiedClaims) -> str:
        """Appraise a guest of an Azure confidential VM (see `result`)."""
        with self.metrics.attestation(azure_guest.POLICY_TYPE):
            return self.result(azure_guest.POLICY_TYPE, verified)

    # --- policies ----------------------------------------------------------------------------------------------------

    def get_policy(self, call: Call) -> Reply:
        """`GET /policies/{type}`: the standing policy's token, inside a token of this service."""
        name = self._policy_call(call, Role.AUDITOR)
        return self._answer({"x-ms-policy": self._policies.standing(name).jws})

    def put_policy(self, call: Call) -> Reply:
        """`PUT /policies/{type}`: set a policy."""
        name = self._policy_call(call)
        with self.metrics.change("policy-put"):
            return self._answer(self._policies.put(name, token_of_body(call.body)))

    def reset_policy(self, call: Call) -> Reply:
        """`POST /policies/{type}:reset`: remove a policy; the default denies everything."""
        name = self._policy_call(call)
        with self.metrics.change("policy-reset"):
            return self._answer(self._policies.reset(name, token_of_body(call.body)))

    def policy_certificates(self, call: Call) -> Reply:
        """`GET /certificates`: the registered policy certificates."""
        _version(call)
        self._person(call, Role.AUDITOR)
        return self._answer(self._policies.certificates())

    def add_policy_certificate(self, call: Call) -> Reply:
        """`POST /certificates:add`."""
        token = self._certificate_call(call, "policyCertificateToAdd")
        with self.metrics.change("certificate-add"):
            return self._answer(self._policies.add_certificate(token))

    def remove_policy_certificate(self, call: Call) -> Reply:
        """`POST /certificates:remove`."""
        token = self._certificate_call(call, "policyCertificateToRemove")
        with self.metrics.change("certificate-remove"):
            return self._answer(self._policies.remove_certificate(token))

    def _policy_call(self, call: Call, *more: Role) -> str:
        version, name = _version(call), _type(call, POLICY_TYPES)
        self._person(call, *more)
        _demand_type_in_version(name, version)
        return name

    def _certificate_call(self, call: Call, member: str) -> str:
        """Return the token of a call: bare, or in the JSON object of the newest version."""
        version = _version(call)
        self._person(call)
        if not call.body.lstrip().startswith(b"{"):
            return token_of_body(call.body)
        if version != _NEWEST:
            raise FormatError(f"api-version {version} takes the bare token as its body")
        match call.json_object():
            case {**members} if set(members) == {member} and isinstance(members[member], str):
                return str(members[member])
            case _:
                raise FormatError(f"the body needs {member}, and nothing else")

    # --- keys and metadata -------------------------------------------------------------------------------------------

    def certificates(self, call: Call) -> Reply:
        """`GET /certs`: the keys whose tokens may still be good, the newest first."""
        del call
        return json_reply({"keys": self.signer.published()})

    def rotate_signing_key(self, call: Call) -> Reply:
        """`POST /strongroom/v1/signing-keys:rotate`: make a new signing key; tokens of the old ones stay good."""
        self._person(call)
        with self.metrics.change("signing-key-rotate"):
            return json_reply({"kid": self.signer.rotate()})

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

    def tcb_baselines(self, call: Call) -> Reply:
        """`GET /tcbbaselines/{type}`: the vendor's evaluation data sets that evidence is verified with."""
        version = _version(call)
        if version != _NEWEST:
            raise FormatError(f"api-version {version} has no TCB baselines", action=f"use {_NEWEST}")
        tee = _BASELINE_TEES.get(_type(call, POLICY_TYPES))
        found = [] if tee is None else tcb_baselines(self._endorsements.tcb_infos(), tee=tee)
        return json_reply({"tcbBaselines": found})

    def endorsements(self, call: Call) -> Reply:
        """`GET /strongroom/v1/endorsements?platform=`: what this service verifies a platform's evidence with."""
        found = find_endorsements(
            call.required("platform"),
            dcap=self._endorsements.dcap,
            revocations=self._endorsements.snp,
            roots_der=[root.certificate_der for root in self._roots.roots],
        )
        return Reply(body=found.encode("ascii"), content_type="text/plain")

    def ready(self, call: Call) -> Reply:
        """`GET /readyz`: whether the store can be read, endorsements are here and the clock is not behind."""
        del call
        checks = {"store": False, "endorsements": self._endorsements.can_answer(), "clock": False}
        with contextlib.suppress(UnavailableError):
            self._store.check()
            newest = self._store.newest_signed_time.get()
            checks |= {"store": True, "clock": newest is None or self._clock.now() >= newest}
        is_ready = all(checks.values())
        shown: dict[str, Json] = {name: "ok" if holds else "failed" for name, holds in checks.items()}
        return json_reply(
            {"status": "ready" if is_ready else "not ready", "checks": shown}, status=200 if is_ready else 503
        )

    def _answer(self, claims: Mapping[str, Json]) -> Reply:
        return json_reply({"token": self.signer.sign(claims)})

    def _person(self, call: Call, *more: Role) -> None:
        """Refuse a call that is no owner's, and of nobody with one of the other roles."""
        self.people.caller(call, Role.OWNER, *more)


def attestation_application(
    service: AttestationService, evidence: ServiceEvidenceSource, limits: ServiceLimits
) -> Starlette:
    """Return the ASGI application."""

    def health(call: Call) -> Reply:
        del call
        return json_reply({"status": "ok"})

    def metrics(call: Call) -> Reply:
        del call
        return service.metrics.reply()

    def own_evidence(call: Call) -> Reply:
        return json_reply(evidence.answer(call.required("nonce")))

    def shape_for(path: str) -> ErrorShape:
        return strongroom_error if path.startswith("/strongroom/") else attestation_error

    limiter = RateLimiter(
        per_second=limits.requests_per_second, per_second_and_address=limits.requests_per_second_per_address
    )
    traffic = Middleware(Traffic, limiter=limiter, counters=service.metrics, shape_for=shape_for)
    guests = AzureGuestDesk(anchors=service.anchors, appraise=service.appraise_guest)
    routes = [
        *_azure_routes(service, guests),
        _ours(
            "/strongroom/v1/attest/AzureVm", guests.attest_vm, method="POST", max_body_bytes=LIMITS.attest_body_bytes
        ),
        _ours("/strongroom/v1/ear/{type}", service.attest_ear, method="POST", max_body_bytes=LIMITS.attest_body_bytes),
        _ours("/strongroom/v1/endorsements", service.endorsements),
        _ours("/strongroom/v1/signing-keys:rotate", service.rotate_signing_key, method="POST"),
        _ours("/strongroom/v1/evidence", own_evidence),
        *SignInDesk(service.people).routes(),
        _ours("/healthz", health),
        _ours("/readyz", service.ready),
        _ours("/metrics", metrics),
    ]
    return application(routes, shape_for=shape_for, middleware=[traffic])


def _azure_routes(service: AttestationService, guests: AzureGuestDesk) -> list[BaseRoute]:
    def attest_guest(call: Call) -> Reply:
        _version(call)
        return guests.attest_guest(call)

    def route(
        path: str,
        handler: Callable[[Call], Reply],
        method: str = "GET",
        *,
        errors: ErrorShape = attestation_error,
        max_body_bytes: int = LIMITS.token_bytes,
    ) -> BaseRoute:
        return endpoint(path, handler, methods=[method], errors=errors, max_body_bytes=max_body_bytes)

    return [
        route("/attest/AzureGuest", attest_guest, "POST", max_body_bytes=LIMITS.attest_body_bytes),
        route("/attest/{type}", service.attest, "POST", max_body_bytes=LIMITS.attest_body_bytes),
        route("/certs", service.certificates),
        route("/.well-known/openid-configuration", service.metadata),
        route("/policies/{type}:reset", service.reset_policy, "POST", errors=policy_error),
        route("/policies/{type}", service.get_policy),
        route("/policies/{type}", service.put_policy, "PUT", errors=policy_error),
        route("/certificates", service.policy_certificates, errors=management_error),
        route("/certificates:add", service.add_policy_certificate, "POST", errors=management_error),
        route("/certificates:remove", service.remove_policy_certificate, "POST", errors=management_error),
        route("/tcbbaselines/{type}", service.tcb_baselines),
    ]


def _ours(
    path: str,
    handler: Callable[[Call], Reply],
    *,
    method: str = "GET",
    max_body_bytes: int = LIMITS.token_bytes,
) -> BaseRoute:
    return endpoint(path, handler, methods=[method], errors=strongroom_error, max_body_bytes=max_body_bytes)


def run(config: AttestationServiceConfig, *, clock: Clock) -> None:
    """Serve until SIGTERM. Prints one JSON line when the port is open."""
    folder = Path(config.state)
    prepare_folder(folder)
    with contextlib.closing(open_attestation_store(config.state_database or folder / _DATABASE)) as store:
        identity = open_identity(
            folder, common_name=COMMON_NAME, sans=tls_names(config.url, config.names), now=clock.now()
        )
        if store.is_shared:  # replicas have one identity, and each its own signing key, which lies on no disk
            identity = with_signing_key(identity, SigningKey.generate("RS256"), now=clock.now())
        configuration = config.digest()
        platform = launch_platform(config.platform, configuration=configuration)
        service = AttestationService(config, identity=identity, store=store, clock=clock)
        evidence = ServiceEvidenceSource(
            service="attestation-service",
            mode=config.mode,
            identity=identity,
            configuration=configuration,
            signing_key=lambda: service.signer.thumbprint,
            has_statement_key=False,
            platform=platform,
        )

        def ready() -> None:
            line = {"ready": "attestation-service", "url": config.url, "identity": identity.identity}
            sys.stdout.write(canonical_json(line).decode() + "\n")
            sys.stdout.flush()

        serve(
            attestation_application(service, evidence, config.limits),
            host=config.host,
            port=config.port,
            certificate_chain_pem=identity.tls_chain_pem,
            key_pem=identity.tls.key.to_pem(),
            ready=ready,
            limits=ConnectionLimits(
                request_s=config.limits.request_s,
                connections=config.limits.connections,
                per_address=config.limits.connections_per_address,
            ),
        )


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m strongroom.services.attestation_service --config FILE`."""
    run_configured(
        "attestation-service",
        argv,
        lambda content: run(AttestationServiceConfig.from_json(content), clock=SystemClock()),
    )


def _version(call: Call) -> str:
    version = call.required("api-version")
    if version not in API_VERSIONS:
        raise FormatError("this api-version is not supported", action=f"use one of {', '.join(API_VERSIONS)}")
    return version


def _type(call: Call, known: Collection[str]) -> str:
    name = call.path["type"]
    if name not in known:
        raise NotFoundError(f"evidence of type {name[:40]} is not supported", action=f"use one of {', '.join(known)}")
    return name


def _demand_type_in_version(name: str, version: str) -> None:
    since = _TYPES_SINCE.get(name, version)
    if version < since:
        raise FormatError(f"api-version {version} has no {name}", action=f"use {since}")


def _demand_in_version(body: Mapping[str, object], *, draft: object, name: str, version: str) -> None:
    _demand_type_in_version(name, version)
    if "nonce" in body and version < _NEWEST:
        raise FormatError(f"api-version {version} has no nonce", action=f"use {_NEWEST}")
    if draft is not None and name in _WITHOUT_DRAFT:
        raise FormatError(f"draft policies are not supported for {name}")


def _draft(draft: object) -> EvidencePolicy:
    if not isinstance(draft, str):
        raise FormatError("draftPolicyForAttestation is a policy's text, or a token that holds it")
    return read_draft(draft)


if __name__ == "__main__":
    main()
