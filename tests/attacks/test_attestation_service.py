"""Promise 1: no result that the attestation service did not sign, and none under a policy that no policy signer set."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.support.service_processes import CLOCK, POLICY, Installation, installation

from strongroom.base.encoding import canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import AuthenticationError, FormatError, RefusedError, VerificationError
from strongroom.crypto.jose import insecure_unsigned_jws, sign_jws, unverified_header, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import LeafUsage, new_identity, to_x5c
from strongroom.services.http import _tls_context
from strongroom.services.identity import CertifiedKey, ServiceIdentity, open_identity
from strongroom.services.issuers import AttestationServiceSettings, configured_issuers
from strongroom.services.policy_tokens import unsigned_policy

RUNTIME = b'{"job":"taxi"}'
V = "api-version=2025-06-01"
PERMIT = "version= 1.0;authorizationrules{=> permit();};issuancerules{};"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("installation")) as made:
        yield made


# --- who signed a result ---------------------------------------------------------------------------------------------


def test_a_result_of_a_draft_policy_is_believed_by_nobody(installed: Installation) -> None:
    evidence = installed.evidence(RUNTIME)
    body = {
        "quote": to_b64url(evidence.quote),
        "runtimeData": {"data": to_b64url(RUNTIME), "dataType": "JSON"},
        "draftPolicyForAttestation": PERMIT,
    }
    answer = installed.ask_attestation("POST", f"/attest/SgxEnclave?{V}", canonical_json(body))
    draft = parse_json_object(answer.require_success())["token"]
    good = installed.attest(evidence)
    believed = installed.issuers()
    believed.verify(good)
    header, _, signature = good.split(".")
    payload = draft.split(".")[1]
    for token in (draft, f"{header}.{payload}.", f"{header}.{payload}.{signature}", insecure_unsigned_jws(b"{}")):
        with pytest.raises((VerificationError, FormatError)):
            believed.verify(token)


def test_a_key_that_the_identity_did_not_certify_is_not_believed(installed: Installation) -> None:
    believed = installed.issuers()
    good = installed.attest(installed.evidence(RUNTIME))
    believed.verify(good)
    forger = SigningKey.generate("RS256")
    now = CLOCK.now()
    own = new_identity(
        common_name="forger", key=forger, not_before=now.replace(year=2020), not_after=now.replace(year=2040)
    )
    identity = from_any_b64(unverified_header(good)["x5c"][1])
    kid = forger.verifying_key.thumbprint
    for header in ({"kid": kid}, {"kid": kid, "x5c": to_x5c([own, identity])}, {"kid": kid, "x5c": to_x5c([own, own])}):
        forged = sign_jws(unverified_payload(good), key=forger, header={"typ": "JWT", **header})
        with pytest.raises(VerificationError, match="publish"):
            believed.verify(forged)


def test_a_certified_chain_does_not_help_another_key(installed: Installation) -> None:
    believed = installed.issuers()
    good = installed.attest(installed.evidence(RUNTIME))
    header = {name: value for name, value in unverified_header(good).items() if name != "alg"}
    forged = sign_jws(unverified_payload(good), key=SigningKey.generate("RS256"), header=header)
    with pytest.raises(VerificationError):
        believed.verify(forged)


@contextmanager
def lying_service(identity: ServiceIdentity, jwks: list[dict[str, Any]]) -> Iterator[str]:
    """Something that has the service's TLS key, and publishes what it likes."""

    class Certs(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"keys": jwks}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Certs)
    context: ssl.SSLContext = _tls_context(identity.tls_chain_pem, identity.tls.key.to_pem())
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("certified_by", ["itself", "another identity", "the identity, for TLS"])
def test_a_published_key_must_be_certified_by_the_identity_for_signing(
    installed: Installation, tmp_path: Path, certified_by: str
) -> None:
    now = CLOCK.now()
    identity, other = (
        open_identity(tmp_path / name, common_name="x", sans=["127.0.0.1"], now=now) for name in ("pinned", "other")
    )
    key = SigningKey.generate("RS256")
    own = new_identity(common_name="x", key=key, not_before=now.replace(year=2020), not_after=now.replace(year=2040))
    forged = {
        "itself": CertifiedKey(key=key, chain_der=(own, identity.certificate_der)),
        "another identity": other.authority.certify(key, usage=LeafUsage.SIGNING, now=now),
        "the identity, for TLS": identity.authority.certify(key, usage=LeafUsage.TLS, now=now),
    }[certified_by]
    claims = parse_json_object(unverified_payload(installed.attest(installed.evidence(RUNTIME))))
    for certified, is_believed in ((identity.signing, True), (forged, False)):
        with lying_service(identity, [{"kid": certified.thumbprint, "x5c": certified.x5c}]) as url:
            settings = AttestationServiceSettings(
                url=url, identity=identity.identity, certificate_pem=identity.certificate_pem
            )
            believed = configured_issuers([settings], clock=CLOCK)
            token = certified.sign(canonical_json({**claims, "iss": url}), header={"typ": "JWT"})
            if is_believed:
                assert believed.verify(token).issuer == url
            else:
                with pytest.raises(VerificationError):
                    believed.verify(token)


# --- who set a policy ------------------------------------------------------------------------------------------------


def test_no_stranger_sets_resets_or_registers(installed: Installation) -> None:
    stranger = SigningKey.generate("ES256")
    now = CLOCK.now()
    der = new_identity(
        common_name="x", key=stranger, not_before=now.replace(year=2020), not_after=now.replace(year=2040)
    )

    def signed(payload: bytes) -> str:
        return sign_jws(payload, key=stranger, header={"x5c": to_x5c([der])})

    policy = unverified_payload(unsigned_policy(PERMIT))
    certificate = canonical_json({"policyCertificate": {"x5c": to_x5c([der])}})
    calls = [
        ("PUT", f"/policies/SgxEnclave?{V}", policy),
        ("POST", f"/policies/SgxEnclave:reset?{V}", b""),
        ("POST", f"/certificates:add?{V}", certificate),
        ("POST", f"/certificates:remove?{V}", certificate),
    ]
    for method, target, payload in calls:
        for token in (signed(payload), insecure_unsigned_jws(payload)):
            with pytest.raises(AuthenticationError, match="policy signer"):
                installed.ask_attestation(method, target, token.encode()).require_success()
            with pytest.raises(AuthenticationError, match="bearer"):
                installed.attestation.http().request(method, target, body=token.encode()).require_success()
    assert installed.attest(installed.evidence(RUNTIME))


def test_the_owners_signature_does_not_carry_over_to_another_policy(installed: Installation) -> None:
    header, _, signature = installed.policy_token(POLICY).split(".")
    payload = unsigned_policy(PERMIT).split(".")[1]
    answer = installed.ask_attestation("PUT", f"/policies/SgxEnclave?{V}", f"{header}.{payload}.{signature}".encode())
    with pytest.raises(AuthenticationError, match="does not hold"):
        answer.require_success()


def test_without_a_policy_everything_is_denied(installed: Installation) -> None:
    reset = sign_jws(b"", key=installed.owner, header={"x5c": to_x5c([installed.owner_certificate()])})
    installed.ask_attestation("POST", f"/policies/SgxEnclave:reset?{V}", reset.encode()).require_success()
    try:
        with pytest.raises(RefusedError):
            installed.attest(installed.evidence(RUNTIME))
    finally:
        installed.set_policy()
