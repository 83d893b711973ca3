"""The attestation service in this process, an owner, and platforms whose evidence it is asked about."""

import functools
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp
from tests.support.amd import amd_bench
from tests.support.asgi import Answer, send
from tests.support.platform import MRENCLAVE, NOW, Bench

from strongroom.attestation.result import AttestationResult, verify_result
from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.crypto.x509 import new_identity, spki_sha256, to_pem, to_x5c
from strongroom.services.attestation_service import (
    AttestationService,
    AttestationServiceConfig,
    ServiceLimits,
    attestation_application,
)
from strongroom.services.attestation_store import open_attestation_store
from strongroom.services.endorsement_sources import FolderSettings
from strongroom.services.evidence import ServiceEvidenceSource
from strongroom.services.files import prepare_folder, replace_file
from strongroom.services.http import Call
from strongroom.services.identity import open_identity
from strongroom.wire.key_service import PERSON_TOKEN_TYP, PersonToken
from strongroom.wire.trust import TrustedRootEntry

RUNTIME = b'{"hello":"world"}'
BOUND = hashlib.sha256(RUNTIME).digest() + bytes(32)
URL = "https://127.0.0.1:8443"
POLICY = (
    "version= 1.0;\nauthorizationrules\n{\n"
    f'\t[type=="x-ms-sgx-mrenclave", value=="{MRENCLAVE.hex()}"] && [type=="x-ms-sgx-is-debuggable", value==false]'
    " => permit();\n};\nissuancerules\n{\n"
    '\tc:[type=="x-ms-sgx-svn"] => issue(type="svn", value=c.value);\n'
    '\t=> issue(type="iss", value="https://somebody.else");\n};\n'
)


class FixedClock:
    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        return self.at


@functools.cache
def _signing_key_pem() -> bytes:
    """One RSA key for all installations of a test process: making one takes a second."""
    return SigningKey.generate("RS256").to_pem().reveal()


def certificate(key: SigningKey, **validity: datetime) -> bytes:
    """A self-signed certificate, as policy signers have them."""
    times = {"not_before": NOW.replace(year=2025), "not_after": NOW.replace(year=2027), **validity}
    return new_identity(common_name="policy signer", key=key, **times)


def signed(payload: Mapping[str, Any] | bytes, *, key: SigningKey) -> str:
    """A token whose header carries the certificate of its key."""
    content = payload if isinstance(payload, bytes) else canonical_json(payload)
    return sign_jws(content, key=key, header={"x5c": to_x5c([certificate(key)])})


class Installation:
    def __init__(self, folder: Path, bench: Bench) -> None:
        self.bench = bench
        self.owner = SigningKey.generate("ES256")
        endorsements = folder / "endorsements"
        endorsements.mkdir()
        family = bench.platform.fmspc.hex()
        (endorsements / f"{family}.json").write_bytes(bench.endorsements.to_json())
        td = bench.platform.endorsements(now=NOW, tee="TDX")
        (endorsements / f"{family}-tdx.json").write_bytes(td.to_json())
        self.amd = amd_bench()
        self.crl = endorsements / f"{spki_sha256(self.amd.amd.root_der)}.crl"
        self.crl.write_bytes(bytes.fromhex(self.amd.endorsements().crl))
        self.config = AttestationServiceConfig(
            url=URL,
            host="127.0.0.1",
            port=1,
            state=str(folder / "state"),
            mode="owner-operated",
            owners=(self.owner.verifying_key.to_jwk(),),
            roots=tuple(
                TrustedRootEntry(certificate_pem=to_pem(root), simulated=True)
                for root in (bench.platform.root_der, self.amd.amd.root_der)
            ),
            endorsements=FolderSettings(path=str(endorsements)),
            platform=None,
        )
        self.clock = FixedClock()
        self.service = self.start()

    def snp_report(self, **fields: Any) -> bytes:
        report = self.amd.amd.sign(self.amd.report(report_data=BOUND, **fields))
        chain = self.amd.endorsements().certificate_chain.encode()
        return json.dumps({"SnpReport": to_b64url(report), "VcekCertChain": to_b64url(chain)}).encode()

    def start(self) -> AttestationService:
        state = Path(self.config.state)
        if not state.exists():
            prepare_folder(state)
            replace_file(state / "signing.key", _signing_key_pem())
        self.identity = open_identity(state, common_name="test", sans=("127.0.0.1",), now=self.clock.now())
        self.store = open_attestation_store(state / "attestation.db")
        return AttestationService(self.config, identity=self.identity, store=self.store, clock=self.clock)

    def restart(self, **changed: Any) -> None:
        self.store.close()
        self.config = self.config.model_copy(update=changed)
        self.service = self.start()

    def token(self, **changed: Any) -> str:
        now = int(self.clock.now().timestamp())
        subject = self.owner.verifying_key.thumbprint
        fields: dict[str, Any] = {"aud": self.identity.identity, "sub": subject, "iat": now, "exp": now + 60, **changed}
        payload = PersonToken(**fields).to_json()
        return sign_jws(payload, key=self.owner, header={"typ": PERSON_TOKEN_TYP, "kid": subject})

    def policy_token(self, text: str = POLICY, *, signer: SigningKey | None = None) -> str:
        key = signer or self.owner
        return signed({"AttestationPolicy": to_b64url(text.encode())}, key=key)

    def put(self, token: str, *, bearer: str | None = None, kind: str = "SgxEnclave") -> dict[str, Any]:
        call = self.call(token.encode(), bearer=bearer or self.token(), kind=kind)
        return parse_json_object(self.service.put_policy(call).body)

    def call(
        self,
        body: bytes = b"",
        *,
        bearer: str = "",
        kind: str = "SgxEnclave",
        **query: str,
    ) -> Call:
        return Call(
            path={"type": kind},
            query={"api-version": "2025-06-01", **query},
            authorization=f"Bearer {bearer}" if bearer else "",
            body=body,
        )

    def attest(self, *, runtime_data: bytes = RUNTIME, **changed: Any) -> str:
        return self.send("SgxEnclave", {"quote": self.bench.quote(report_data=BOUND, **changed)}, runtime_data)

    def send(
        self,
        kind: str,
        evidence: dict[str, bytes],
        runtime_data: bytes = RUNTIME,
        **more: Any,
    ) -> str:
        body = {name: to_b64url(value) for name, value in evidence.items()} | more
        body["runtimeData"] = {"data": to_b64url(runtime_data), "dataType": "JSON"}
        answer = parse_json_object(self.service.attest(self.call(json.dumps(body).encode(), kind=kind)).body)
        return str(answer["token"])

    def claims(self, token: str) -> AttestationResult:
        key = self.service.signer.published()[0]
        return verify_result(token, issuer=URL, verifying_key=VerifyingKey.from_jwk(key), now=self.clock.now())  # type: ignore[arg-type]

    def application(self, **limits: int) -> ASGIApp:
        evidence = ServiceEvidenceSource(
            service="attestation-service",
            mode="owner-operated",
            identity=self.identity,
            configuration=self.config.digest(),
            signing_key=lambda: self.service.signer.thumbprint,
            has_statement_key=False,
            platform=None,
        )
        return attestation_application(self.service, evidence, ServiceLimits(**limits))

    def ask(self, method: str, target: str, body: bytes = b"", *, version: str = "2025-06-01") -> Answer:
        """Send one request over the application, as the owner."""
        versioned = f"{target}{'&' if '?' in target else '?'}api-version={version}"
        return send(self.application(), method, versioned, body, headers={"authorization": f"Bearer {self.token()}"})
