"""Who may change which policy, and what Azure's answers say."""

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.attestation_service import POLICY, Installation, certificate, signed
from tests.support.platform import NOW, Bench

from strongroom.base.encoding import parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConflictError,
    FormatError,
    IntegrityError,
    RefusedError,
    VerificationError,
)
from strongroom.crypto.jose import insecure_unsigned_jws, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import to_x5c
from strongroom.services.evidence_policies import DENY_ALL, MAX_POLICY_CERTIFICATES, POLICY_TYPES
from strongroom.services.policy_tokens import unsigned_policy

PERMIT = "version= 1.0;\nauthorizationrules\n{\n\t=> permit();\n};\nissuancerules\n{\n};\n"


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path, Bench.new())
    yield made
    made.store.close()


def answer(reply: Any) -> dict[str, Any]:
    return json.loads(unverified_payload(parse_json_object(reply.body)["token"]))  # type: ignore[no-any-return]


def put(installed: Installation, token: str, kind: str = "SgxEnclave") -> dict[str, Any]:
    return answer(installed.service.put_policy(installed.call(token.encode(), bearer=installed.token(), kind=kind)))


def reset(installed: Installation, token: str, kind: str = "SgxEnclave") -> dict[str, Any]:
    return answer(installed.service.reset_policy(installed.call(token.encode(), bearer=installed.token(), kind=kind)))


def get(installed: Installation, kind: str = "SgxEnclave") -> str:
    shown = answer(installed.service.get_policy(installed.call(bearer=installed.token(), kind=kind)))
    return str(shown["x-ms-policy"])


def certificate_token(key: SigningKey, *, signer: SigningKey, **validity: Any) -> bytes:
    body = {"policyCertificate": {"kty": "RSA", "x5c": to_x5c([certificate(key, **validity)])}}
    return signed(body, key=signer).encode()


def add(installed: Installation, key: SigningKey, *, signer: SigningKey, **validity: Any) -> dict[str, Any]:
    body = certificate_token(key, signer=signer, **validity)
    return answer(installed.service.add_policy_certificate(installed.call(body, bearer=installed.token())))


def remove(installed: Installation, body: bytes) -> dict[str, Any]:
    return answer(installed.service.remove_policy_certificate(installed.call(body, bearer=installed.token())))


def listed(installed: Installation) -> list[str]:
    shown = answer(installed.service.policy_certificates(installed.call(bearer=installed.token())))
    return [key["x5c"][0] for key in shown["x-ms-policy-certificates"]["keys"]]


@pytest.mark.parametrize("kind", POLICY_TYPES)
def test_every_type_has_a_policy_of_its_own_that_denies_until_one_is_set(installed: Installation, kind: str) -> None:
    assert get(installed, kind) == unsigned_policy(DENY_ALL)
    token = installed.policy_token(PERMIT)
    put(installed, token, kind)
    assert get(installed, kind) == token
    assert all(get(installed, other) == unsigned_policy(DENY_ALL) for other in POLICY_TYPES if other != kind)


def test_a_reset_restores_the_denying_default_and_says_so(installed: Installation) -> None:
    put(installed, installed.policy_token())
    assert installed.attest()
    token = signed(b"", key=installed.owner)
    said = reset(installed, token)
    assert said["x-ms-policy-result"] == "Removed"
    assert said["x-ms-policy-token-hash"] == to_b64url(hashlib.sha256(token.encode()).digest())
    assert said["x-ms-policy-signer"]["x5c"]
    assert said["x-ms-strongroom-default-policy"] == "denies everything"
    assert get(installed) == unsigned_policy(DENY_ALL)
    with pytest.raises(RefusedError):
        installed.attest()
    installed.restart()
    with pytest.raises(RefusedError):
        installed.attest()


def test_a_reset_takes_no_policy_and_a_policy_no_empty_body(installed: Installation) -> None:
    put(installed, installed.policy_token())
    with pytest.raises(FormatError, match="empty body"):
        reset(installed, installed.policy_token())
    with pytest.raises(FormatError):
        put(installed, signed(b"", key=installed.owner))
    assert installed.attest()


def test_in_isolation_only_policy_signers_change_policies(installed: Installation) -> None:
    stranger = SigningKey.generate("ES256")
    for token in (unsigned_policy(PERMIT), installed.policy_token(PERMIT, signer=stranger)):
        with pytest.raises(AuthenticationError, match="policy signer"):
            put(installed, token)
    for token in (insecure_unsigned_jws(b""), signed(b"", key=stranger)):
        with pytest.raises(AuthenticationError, match="policy signer"):
            reset(installed, token)


def test_nobody_changes_anything_without_an_owners_token(installed: Installation) -> None:
    service, key = installed.service, installed.owner
    calls = {
        service.get_policy: b"",
        service.put_policy: installed.policy_token().encode(),
        service.reset_policy: signed(b"", key=key).encode(),
        service.policy_certificates: b"",
        service.add_policy_certificate: certificate_token(key, signer=key),
        service.remove_policy_certificate: certificate_token(key, signer=key),
        service.rotate_signing_key: b"",
    }
    for call, body in calls.items():
        with pytest.raises(AuthenticationError):
            call(installed.call(body))


def test_on_an_owners_word_unsigned_policies_are_taken(installed: Installation) -> None:
    installed.restart(policy_management="owner")
    said = put(installed, unsigned_policy(POLICY))
    assert "x-ms-policy-signer" not in said
    assert "x-ms-policy-signer" not in installed.claims(installed.attest()).claims
    put(installed, installed.policy_token(POLICY, signer=SigningKey.generate("ES256")))
    assert "x-ms-policy-signer" in installed.claims(installed.attest()).claims
    broken = installed.policy_token(POLICY).rsplit(".", 1)[0] + "." + to_b64url(bytes(64))
    with pytest.raises(AuthenticationError):
        put(installed, broken)
    for call in (installed.service.add_policy_certificate, installed.service.remove_policy_certificate):
        with pytest.raises(RefusedError, match="owner's word"):
            call(installed.call(certificate_token(installed.owner, signer=installed.owner), bearer=installed.token()))


def test_an_unsigned_policy_does_not_survive_isolation(installed: Installation) -> None:
    installed.restart(policy_management="owner")
    put(installed, unsigned_policy(POLICY))
    installed.restart(policy_management="isolated")
    assert get(installed) == unsigned_policy(DENY_ALL)
    with pytest.raises(RefusedError):
        installed.attest()


def test_a_policy_that_was_edited_on_the_disk_stops_the_service(installed: Installation) -> None:
    token = installed.policy_token()
    put(installed, token)
    header, _, signature = token.split(".")
    payload = to_b64url(json.dumps({"AttestationPolicy": to_b64url(PERMIT.encode())}).encode())
    installed.store.put_policy("SgxEnclave", f"{header}.{payload}.{signature}")
    with pytest.raises(IntegrityError):
        installed.restart()


# --- policy certificates ---------------------------------------------------------------------------------------------


def test_a_registered_certificates_key_signs_policies_and_registers_others(installed: Installation) -> None:
    first, second = SigningKey.generate("ES256"), SigningKey.generate("ES384")
    with pytest.raises(AuthenticationError):
        add(installed, first, signer=first)
    said = add(installed, first, signer=installed.owner)
    assert said["x-ms-policycertificates-result"] == "IsPresent"
    assert len(said["x-ms-certificate-thumbprint"]) == 40
    add(installed, second, signer=first)
    put(installed, installed.policy_token(signer=second))
    assert installed.attest()
    installed.restart()
    put(installed, installed.policy_token(PERMIT, signer=second))


def test_a_certificate_is_registered_once_and_listed_with_its_key(installed: Installation) -> None:
    key = SigningKey.generate("RS256", rsa_bits=2048)
    token = certificate_token(key, signer=installed.owner)
    for _ in range(2):
        said = answer(installed.service.add_policy_certificate(installed.call(token, bearer=installed.token())))
        assert said["x-ms-policycertificates-result"] == "IsPresent"
    assert len(listed(installed)) == 1


def test_a_removed_certificate_signs_no_more_and_the_last_one_stays(installed: Installation) -> None:
    keys = [SigningKey.generate("ES256") for _ in range(2)]
    tokens = [certificate_token(key, signer=installed.owner) for key in keys]
    for token in tokens:
        installed.service.add_policy_certificate(installed.call(token, bearer=installed.token()))
    said = remove(installed, tokens[0])
    assert said["x-ms-policycertificates-result"] == "IsAbsent"
    with pytest.raises(AuthenticationError):
        put(installed, installed.policy_token(signer=keys[0]))
    assert remove(installed, tokens[0])["x-ms-policycertificates-result"] == "IsAbsent"
    with pytest.raises(ConflictError, match="last"):
        remove(installed, tokens[1])
    assert len(listed(installed)) == 1
    put(installed, installed.policy_token(signer=keys[1]))


def test_a_certificate_counts_while_it_is_valid(installed: Installation) -> None:
    key = SigningKey.generate("ES256")
    with pytest.raises(VerificationError):
        add(installed, key, signer=installed.owner, not_after=NOW - timedelta(days=1))
    add(installed, key, signer=installed.owner, not_after=NOW + timedelta(days=1))
    put(installed, installed.policy_token(signer=key))
    installed.clock.at += timedelta(days=2)
    with pytest.raises(AuthenticationError):
        put(installed, installed.policy_token(PERMIT, signer=key))


def test_there_are_so_many_certificates_and_no_more(installed: Installation) -> None:
    key = SigningKey.generate("ES256")
    for days in range(MAX_POLICY_CERTIFICATES):
        add(installed, key, signer=installed.owner, not_after=NOW + timedelta(days=days + 1))
    with pytest.raises(ConflictError, match="certificates"):
        add(installed, key, signer=installed.owner, not_after=NOW + timedelta(days=900))
    assert len(listed(installed)) == MAX_POLICY_CERTIFICATES


@pytest.mark.parametrize(
    "body", [b"{}", b'{"policyCertificateToAdd":1}', b'{"policyCertificateToRemove":"a.b.c"}', b"", b"{"]
)
def test_malformed_certificate_calls_are_format_errors(installed: Installation, body: bytes) -> None:
    with pytest.raises(FormatError):
        installed.service.add_policy_certificate(installed.call(body, bearer=installed.token()))


def test_the_object_around_a_certificates_token_is_of_the_newest_version(installed: Installation) -> None:
    token = certificate_token(SigningKey.generate("ES256"), signer=installed.owner).decode()
    body = json.dumps({"policyCertificateToAdd": token}).encode()
    assert installed.ask("POST", "/certificates:add", body, version="2022-08-01").status == 400
    assert installed.ask("POST", "/certificates:add", body).status == 200
    assert installed.ask("POST", "/certificates:add", json.dumps(token).encode(), version="2020-10-01").status == 200
