"""Both services in this process, as their handlers see calls: what they answer must never be their own fault."""

import base64
import functools
import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.fuzz.samples import bench, guest, new_folder, signer
from tests.support.amd import amd_bench
from tests.support.asgi import Answer, send
from tests.support.key_service import ISSUER, PLATFORM, POLICY_HASH, KeyBench, Tee
from tests.support.platform import NOW, RUNTIME_DATA

from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.base.errors import DisagreementError, FormatError, StrongroomError
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity, spki_sha256, to_pem
from strongroom.policy.signatures import detach
from strongroom.services.attestation_errors import attestation_error, management_error, policy_error
from strongroom.services.attestation_service import (
    AttestationService,
    AttestationServiceConfig,
    ServiceLimits,
    attestation_application,
)
from strongroom.services.attestation_store import open_attestation_store
from strongroom.services.azure_guest import AzureGuestDesk
from strongroom.services.endorsement_sources import FolderSettings
from strongroom.services.errors import ErrorShape, Reply, strongroom_error
from strongroom.services.evidence import ServiceEvidenceSource
from strongroom.services.http import Call
from strongroom.services.identity import open_identity
from strongroom.services.people import People, Role, configured_people
from strongroom.services.sign_in import TokenIssuers
from strongroom.wire.approvals import ROSTER_TYP, RevocationRequest, RosterUpload, SignatureUpload
from strongroom.wire.key_service import (
    JOIN_TYP,
    PERSON_TOKEN_TYP,
    ApprovalUpload,
    Evidence,
    JoinRequest,
    PersonToken,
)
from strongroom.wire.model import Message
from strongroom.wire.trust import TrustedRootEntry

POLICY = 'version= 1.0;authorizationrules{=> permit();};issuancerules{c:[type!="a"] => issue(claim=c);};'
_REFUSED, _OWN_FAULT = 400, 500
_NEWEST = "2025-06-01"


class FixedClock:
    def now(self) -> Any:
        return NOW


class AnsweredNoError(StrongroomError):
    """The service refused, in words that a client can read: what bad input shall lead to."""


def answer(handler: Callable[[Call], Reply], call: Call, shape: ErrorShape) -> bytes:
    """Return the answer of a handler, whose errors get their shape.

    A status of 500 and more is a finding, and so is a disagreement of the two verifiers.

    Raises:
        AnsweredNoError: The status is 4xx.
    """
    try:
        return handler(call).body
    except DisagreementError:
        raise
    except StrongroomError as error:
        reply = shape(error)
        parse_json_object(reply.body)
        assert reply.status < _OWN_FAULT, reply.body
        raise AnsweredNoError(error.message) from error


def answered(reply: Answer) -> bytes:
    """Return an HTTP answer's body. A status of 500 and more is a finding.

    Raises:
        AnsweredNoError: The status is 4xx.
    """
    assert reply.status < _OWN_FAULT, reply.body
    if reply.status >= _REFUSED:
        raise AnsweredNoError(str(parse_json_object(reply.body)["error"]["message"]))
    return reply.body


_LIMITS = ServiceLimits(requests_per_second=1 << 30, requests_per_second_per_address=1 << 30)


@functools.cache
def _signers_certificate() -> str:
    return _certificate(signer())


@functools.cache
def new_signers_certificate() -> str:
    """Return the certificate of somebody who may come to sign policies, base64."""
    return _certificate(guest("snp").ephemeral)


def _certificate(key: SigningKey) -> str:
    day = timedelta(days=1)
    shown = new_identity(common_name="signer", key=key, not_before=NOW - day, not_after=NOW + day)
    return base64.b64encode(shown).decode()


class FuzzedService:
    """The service over simulated hardware, with a policy that permits everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._write_endorsements(folder)
        roots = (bench().platform.root_der, amd_bench().amd.root_der)
        config = AttestationServiceConfig(
            url="https://127.0.0.1:8443",
            host="127.0.0.1",
            port=1,
            state=str(folder / "state"),
            mode="owner-operated",
            owners=(signer().verifying_key.to_jwk(),),
            roots=tuple(TrustedRootEntry(certificate_pem=to_pem(root), simulated=True) for root in roots),
            endorsements=FolderSettings(path=str(folder)),
            platform=None,
        )
        self.identity = open_identity(folder / "state", common_name="test", sans=("127.0.0.1",), now=NOW)
        store = open_attestation_store(folder / "state" / "attestation.db")
        self.service = AttestationService(config, identity=self.identity, store=store, clock=FixedClock())
        self.bearer = self.person_token()
        for kind in ("SgxEnclave", "OpenEnclave", "TdxVm", "SevSnpVm", "AzureGuest"):
            self.service.put_policy(self._call(kind, self.policy_tokens()[0], bearer=self.bearer))
        self._guests = AzureGuestDesk(anchors=self.service.anchors, appraise=self.service.appraise_guest)
        self._application = attestation_application(self.service, self._own_evidence(config), _LIMITS)

    def _own_evidence(self, config: AttestationServiceConfig) -> ServiceEvidenceSource:
        return ServiceEvidenceSource(
            service="attestation-service",
            mode=config.mode,
            identity=self.identity,
            configuration=config.digest(),
            signing_key=lambda: self.service.signer.thumbprint,
            has_statement_key=False,
            platform=None,
        )

    @staticmethod
    def _write_endorsements(folder: Path) -> None:
        platform, chip = bench().platform, amd_bench()
        family = platform.fmspc.hex()
        (folder / f"{family}.json").write_bytes(platform.endorsements(now=NOW).to_json())
        (folder / f"{family}-tdx.json").write_bytes(platform.endorsements(now=NOW, tee="TDX").to_json())
        (folder / f"{spki_sha256(chip.amd.root_der)}.crl").write_bytes(bytes.fromhex(chip.endorsements().crl))

    def body(self, kind: str, evidence: bytes) -> bytes:
        field = "report" if kind in {"SevSnpVm", "OpenEnclave"} else "quote"
        runtime = {"data": to_b64url(RUNTIME_DATA), "dataType": "JSON"}
        return canonical_json({field: to_b64url(evidence), "runtimeData": runtime, "nonce": "n"})

    def attest(self, kind: str, body: bytes) -> bytes:
        return answer(self.service.attest, self._call(kind, body), attestation_error)

    def attest_guest(self, info: bytes) -> bytes:
        """Call as Azure's client does, with these bytes for the JSON text inside."""
        call = self._call("AzureGuest", canonical_json({"AttestationInfo": to_b64url(info)}))
        return answer(self._guests.attest_guest, call, attestation_error)

    def attest_vm(self, body: bytes) -> bytes:
        return answer(self._guests.attest_vm, self._call("AzureVm", body), strongroom_error)

    def attest_with_draft(self, draft: bytes) -> bytes:
        """Have good evidence appraised by a draft policy."""
        body = parse_json_object(self.body("SgxEnclave", bench().quote()))
        body["draftPolicyForAttestation"] = draft.decode("utf-8", errors="surrogateescape")
        return self.attest("SgxEnclave", json.dumps(body).encode())

    def put_policy(self, token: bytes) -> bytes:
        call = self._call("SgxEnclave", token, bearer=self.bearer)
        return answer(self.service.put_policy, call, policy_error)

    def reset_policy(self, token: bytes) -> bytes:
        call = self._call("SgxEnclave", token, bearer=self.bearer)
        return answer(self.service.reset_policy, call, policy_error)

    def add_certificate(self, body: bytes) -> bytes:
        call = self._call("", body, bearer=self.bearer)
        return answer(self.service.add_policy_certificate, call, management_error)

    def remove_certificate(self, body: bytes) -> bytes:
        call = self._call("", body, bearer=self.bearer)
        return answer(self.service.remove_policy_certificate, call, management_error)

    def endorsements(self, platform: bytes) -> bytes:
        """Ask for a platform's endorsements by any name."""
        query = {"platform": platform.decode("utf-8", errors="surrogateescape")}
        call = Call(path={}, query=query, authorization="", body=b"")
        return answer(self.service.endorsements, call, strongroom_error)

    def request(self, data: bytes) -> bytes:
        """Send an owner's HTTP request: method and target, a line end, the body.

        Raises:
            AnsweredNoError: The status is 4xx.
        """
        line, _, body = data.partition(b"\n")
        method, _, target = line.decode("ascii", errors="replace").partition(" ")
        reply = send(self._application, method, target, body, headers={"authorization": f"Bearer {self.bearer}"})
        return answered(reply)

    def authenticate(self, bearer: str) -> str:
        call = self._call("SgxEnclave", b"", bearer=bearer)
        issuers = TokenIssuers([], clock=FixedClock())
        owners = configured_people([signer().verifying_key.to_jwk()], [])
        people = People(owners, audience=self.identity.identity, issuers=issuers, clock=FixedClock())
        return people.caller(call, *Role).identity

    def person_token(self) -> str:
        at, subject = int(NOW.timestamp()), signer().verifying_key.thumbprint
        token = PersonToken(aud=self.identity.identity, sub=subject, iat=at, exp=at + 60)
        return sign_jws(token.to_json(), key=signer(), header={"typ": PERSON_TOKEN_TYP, "kid": subject})

    def requests(self) -> list[bytes]:
        """Return a request to each address; what changes policies asks for what stands."""
        version = f"?api-version={_NEWEST}"
        kinds = {"SgxEnclave": bench().quote(), "TdxVm": bench().td_quote()}
        attesting = [f"POST /attest/{kind}{version}\n".encode() + self.body(kind, kinds[kind]) for kind in kinds]
        asking = [
            f"GET /policies/SevSnpVm{version}",
            f"GET /certificates{version}",
            f"GET /tcbbaselines/TdxVm{version}",
            "GET /certs",
            "GET /.well-known/openid-configuration",
            "GET /strongroom/v1/evidence?nonce=AAAA",
            f"GET /strongroom/v1/endorsements?platform=sgx.{bench().platform.fmspc.hex()}.platform",
            "GET /healthz",
            "GET /readyz",
            "GET /metrics",
        ]
        return [*attesting, *map(str.encode, asking)]

    def reset_tokens(self) -> list[bytes]:
        return self._signed(b"") + self._signed(b"{}")

    def certificate_tokens(self) -> list[bytes]:
        """Return tokens that name a certificate: bare, and in the newest version's JSON objects."""
        claim: dict[str, Any] = {"kty": "RSA", "alg": "RS256", "use": "sig", "x5c": [new_signers_certificate()]}
        bare = self._signed(canonical_json({"policyCertificate": claim}))
        members = ("policyCertificateToAdd", "policyCertificateToRemove")
        return bare + [canonical_json({member: bare[0].decode()}) for member in members]

    @staticmethod
    def _signed(payload: bytes) -> list[bytes]:
        return [sign_jws(payload, key=signer(), header={"x5c": [_signers_certificate()]}).encode()]

    def policy_tokens(self) -> list[bytes]:
        body = canonical_json({"AttestationPolicy": to_b64url(POLICY.encode())})
        x5c = [_signers_certificate()]
        return [
            sign_jws(body, key=signer(), header={"x5c": x5c}).encode(),
            sign_jws(body, key=signer(), header={"jwk": {"x5c": x5c}}).encode(),
            f"{to_b64url(canonical_json({'alg': 'none'}))}.{to_b64url(body)}.".encode(),
        ]

    @staticmethod
    def _call(kind: str, body: bytes, *, bearer: str = "") -> Call:
        authorization = f"Bearer {bearer}" if bearer else ""
        return Call(path={"type": kind}, query={"api-version": _NEWEST}, authorization=authorization, body=body)


class FuzzedKeyService:
    """The key service with datasets, approvals and a key; a TEE that is attested says what it likes."""

    def __init__(self, folder: Path) -> None:
        self.bench = KeyBench(folder)
        self.approval, _ = self.bench.prepare()
        self.tee, self.ticket = Tee(), self.bench.ticket()
        for name in ("update", "wrap", "release"):
            self.vault("create", b'{"kty":"oct","key_size":256,"key_ops":["wrapKey","unwrapKey"]}', name=name)
        self.vault("create", b'{"kty":"RSA","key_size":2048,"key_ops":["wrapKey","unwrapKey"]}', name="wrap-rsa")
        self.vault("create", b'{"kty":"oct","key_ops":["encrypt","decrypt","sign","verify"]}', name="crypt")
        self.vault("create", b'{"kty":"RSA"}', name="crypt-rsa")
        self.vault("create", b'{"kty":"EC"}', name="sign-ec")

    def vault(self, operation: str, body: bytes, *, name: str, skiptoken: str = "") -> bytes:
        """Call Key Vault's contract as an owner, about the key of that name."""
        path = {"name": name} if name else {}
        query = {"api-version": "7.4", "$skiptoken": skiptoken}
        call = Call(path=path, query=query, authorization=self._bearer, body=body)
        return answer(self.bench.vault._answering(operation), call, self.bench.vault.error)

    def people(self, operation: str, body: bytes) -> bytes:
        """Call what people ask about approvals and rosters, as the owner."""
        approvals, rosters = self.bench.approvals, self.bench.rosters
        handler, path = {
            "approve": (approvals.approve, {}),
            "sign-approval": (approvals.sign, {"approval": self.approval}),
            "revoke": (approvals.revoke, {"approval": "f" * 64}),
            "propose-roster": (rosters.propose, {"name": "trips"}),
            "sign-roster": (rosters.sign, {"roster": "f" * 64}),
        }[operation]
        call = Call(path=path, query={}, authorization=self._bearer, body=body)
        return answer(handler, call, strongroom_error)

    def people_body(self, operation: str) -> bytes:
        """Return a body as the owner sends it."""
        bench = self.bench
        approval, roster = bench.approval("trips", "read", max_runs=2), bench.roster(bench.owner, threshold=1)
        description = bench.description().to_json().decode()
        messages: dict[str, Message] = {
            "approve": ApprovalUpload(approval=bench.signed(approval), application=description),
            "sign-approval": SignatureUpload(signature=detach(bench.signed(approval))),
            "revoke": RevocationRequest(reason="a reason"),
            "propose-roster": RosterUpload(roster=bench.signed(roster, typ=ROSTER_TYP)),
            "sign-roster": SignatureUpload(signature=detach(bench.signed(roster, typ=ROSTER_TYP))),
        }
        return messages[operation].to_json()

    @property
    def _bearer(self) -> str:
        return f"Bearer {self.bench.token()}"

    def request(self) -> bytes:
        """Return a driver's request to open a run."""
        return unverified_payload(self.bench.join_request(self.tee, self.ticket))

    def runtime_data(self) -> bytes:
        return self.bench.runtime(self.tee, self.ticket).to_json()

    def open_run(self, request: bytes) -> bytes:
        """Open a run with a request that the TEE signed."""
        token = sign_jws(request, key=self.tee.signing, header={"typ": JOIN_TYP})
        return answer(self.bench.runs.open, self.bench.tee_call(token), strongroom_error)

    def open_attested(self, runtime_data: bytes) -> bytes:
        """Open a run with runtime data that the evidence binds and a trusted attestation service signed."""
        config_id = bytes.fromhex(self.bench.description().digest).ljust(64, b"\0")
        bound = hashlib.sha256(runtime_data).digest() + bytes(32)
        quote = PLATFORM.platform.quote(PLATFORM.report(config_id=config_id, report_data=bound))
        evidence = Evidence(kind="sgx", quote=to_b64url(quote), runtime_data=to_b64url(runtime_data))
        at = int(NOW.timestamp())
        claims = {
            "x-ms-attestation-type": "sgx",
            "x-ms-sgx-is-debuggable": False,
            "x-ms-sgx-config-id": config_id.hex(),
            "x-ms-strongroom-hardware": "simulated",
            "x-ms-sgx-collateral": {"quotehash": sha256_hex(quote)},
        }
        said = {"iss": ISSUER, "nbf": at, "exp": at + 600, "x-ms-policy-hash": POLICY_HASH, **claims}
        try:
            payload = canonical_json({**said, "x-ms-runtime": parse_json_object(runtime_data)})
        except FormatError as error:
            raise AnsweredNoError("the attestation service gives no result for these") from error
        result = sign_jws(payload, key=self.bench.issuer, header={"typ": "JWT", "kid": "issuer"})
        return self.open_run(JoinRequest(ticket=self.ticket, result=result, evidence=evidence).to_json())


@functools.cache
def KEY_SERVICE() -> FuzzedKeyService:  # noqa: N802 - one for the process
    return FuzzedKeyService(new_folder())


@functools.cache
def SERVICE() -> FuzzedService:  # noqa: N802 - one for the process
    return FuzzedService(new_folder())


@functools.cache
def MANAGED_SERVICE() -> FuzzedService:  # noqa: N802 - one for the process, whose policies change
    return FuzzedService(new_folder())
