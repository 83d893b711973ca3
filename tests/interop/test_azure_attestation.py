"""Azure's own attestation client, and PyJWT, against the real attestation service, with every validation left on.

The client's faults are walked around: it asks an elliptic key to sign in a way that its library no longer knows, and
`AttestationResult.policy_signer` fails where there is one.
"""

import hashlib
import json
import ssl
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.security.attestation import (
    AttestationAdministrationClient,
    AttestationClient,
    AttestationPolicyToken,
    AttestationType,
    CertificateModification,
    PolicyModification,
)
from tests.support.platform import MRENCLAVE
from tests.support.service_processes import CLOCK, POLICY, POLICY_HASH, Installation, installation

from strongroom.attestation.result import verify_result
from strongroom.base.encoding import canonical_json, from_b64url, parse_json_object
from strongroom.base.errors import VerificationError
from strongroom.cli.policies import registered_policy
from strongroom.clients.attestation import AttestationClient as OurClient
from strongroom.crypto.jose import sign_jws, unverified_header
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.crypto.x509 import new_identity, public_key, sha1_thumbprint, to_pem, to_x5c

RUNTIME = canonical_json({"keys": [], "job": "taxi"})
PERMIT = "version= 1.0;\nauthorizationrules\n{\n\t=> permit();\n};\nissuancerules\n{\n};\n"
SGX, OPEN_ENCLAVE = AttestationType.SGX_ENCLAVE, AttestationType.OPEN_ENCLAVE


class Credential:
    """Gives the owner's own token where Azure's would come from its directory."""

    def __init__(self, installed: Installation) -> None:
        self._installed = installed

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        return AccessToken(self._installed.attestation_token(), int(CLOCK.now().timestamp()) + 60)


class Azure:
    """Azure's clients of one installation, and what their tokens were checked with."""

    def __init__(self, installed: Installation) -> None:
        self.installed = installed
        self.ca = installed.folder / "attestation-ca.pem"
        self.ca.write_text(installed.attestation.certificate_pem)
        self.checked: list[str] = []
        options: dict[str, Any] = {
            "connection_verify": str(self.ca),
            "validate_token": True,
            "validate_signature": True,
            "validate_expiration": True,
            "validate_not_before": True,
            "validate_issuer": True,
            "issuer": installed.attestation.url,
            "validation_callback": lambda token, signer: self.checked.append(
                token.algorithm if signer is None else f"{token.algorithm} {signer.key_id == token.key_id}"
            ),
        }
        self.client = AttestationClient(installed.attestation.url, Credential(installed), **options)
        self.admin = AttestationAdministrationClient(installed.attestation.url, Credential(installed), **options)

    def quote(self, runtime: bytes = RUNTIME) -> bytes:
        return self.installed.evidence(runtime).quote

    def demand_signed(self) -> None:
        """Every token so far was checked with a published key of the service, and there was one."""
        assert set(self.checked) == {"RS256 True"}


@pytest.fixture(scope="module")
def isolated_installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("isolated")) as made:
        yield made


@pytest.fixture(scope="module")
def owners_installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("owner"), policy_management="owner") as made:
        yield made


@pytest.fixture
def isolated(isolated_installation: Installation) -> Azure:
    """New clients: Azure's asks for the signing keys once, and knows no others afterwards."""
    return Azure(isolated_installation)


@pytest.fixture
def by_owner(owners_installation: Installation) -> Azure:
    return Azure(owners_installation)


def certificate_of(key: SigningKey) -> str:
    now = datetime.now(tz=UTC)
    return to_pem(
        new_identity(common_name="policy signer", key=key, not_before=now - timedelta(1), not_after=now + timedelta(1))
    )


def signing(key: SigningKey, certificate_pem: str | None = None) -> dict[str, str]:
    """The arguments with which Azure's client signs."""
    pem = key.to_pem().reveal().decode()
    return {"signing_key": pem, "signing_certificate": certificate_pem or certificate_of(key)}


# --- attesting -------------------------------------------------------------------------------------------------------


def test_attests_an_enclave_with_runtime_json(isolated: Azure) -> None:
    isolated.installed.set_policy()
    result, token = isolated.client.attest_sgx_enclave(isolated.quote(), runtime_json=RUNTIME)
    assert result.issuer == isolated.installed.attestation.url
    assert result.runtime_claims == json.loads(RUNTIME)
    assert (result.mr_enclave, result.is_debuggable, result.verifier_type) == (MRENCLAVE.hex(), False, "sgx")
    assert (result.version, result.nonce) == ("1.0", None)
    assert set(result.sgx_collateral) >= {"quotehash", "qeidhash", "tcbinfohash"}
    assert bytes(result.policy_hash) == from_b64url(POLICY_HASH)
    assert public_key_of(result._policy_signer) == isolated.installed.owner.verifying_key.thumbprint
    assert token.key_url == f"{result.issuer}/certs"
    isolated.demand_signed()


def public_key_of(signer: Any) -> str:
    pem = signer.certificates[0].encode()
    return public_key(ssl.PEM_cert_to_DER_cert(pem.decode())).thumbprint


def test_attests_an_enclave_with_binary_runtime_data(isolated: Azure) -> None:
    result, _ = isolated.client.attest_sgx_enclave(isolated.quote(), runtime_data=RUNTIME)
    assert bytes(result.enclave_held_data) == RUNTIME
    assert result.runtime_claims is None


def test_refuses_runtime_data_that_is_not_bound_and_says_so_in_azures_shape(isolated: Azure) -> None:
    with pytest.raises(HttpResponseError) as refused:
        isolated.client.attest_sgx_enclave(isolated.quote(), runtime_json=b'{"job":"another"}')
    assert refused.value.status_code == 400
    assert refused.value.response is not None
    assert refused.value.response.headers["x-ms-error-code"] == "InvalidParameter"


def test_a_draft_policy_gives_a_token_that_nobody_accepts(isolated: Azure) -> None:
    draft = 'version= 1.0;authorizationrules{=> permit();};issuancerules{=> issue(type="x", value="draft");};'
    _, token = isolated.client.attest_sgx_enclave(isolated.quote(), runtime_json=RUNTIME, draft_policy=draft)
    text = token.to_jwt_string()
    assert isolated.checked == ["none"]
    assert unverified_header(text) == {"alg": "none"}
    assert text.endswith(".")
    with pytest.raises(jwt.InvalidTokenError):
        jwt.decode(text, jwks(isolated, token_kid(isolated)).key, algorithms=["RS256"])
    published = parse_json_object(isolated.installed.attestation.http().request("GET", "/certs").body)["keys"]
    key = VerifyingKey.from_jwk(published[0])
    with pytest.raises(VerificationError):
        verify_result(text, issuer=isolated.installed.attestation.url, verifying_key=key, now=CLOCK.now())
    with pytest.raises(HttpResponseError) as refused:
        isolated.client.attest_sgx_enclave(
            isolated.quote(), runtime_json=RUNTIME, draft_policy=draft.replace("permit", "deny")
        )
    assert refused.value.response is not None
    assert refused.value.response.headers["x-ms-error-code"] == "PolicyEvaluationError"


def test_attests_an_open_enclave_report_under_a_policy_of_its_own(by_owner: Azure) -> None:
    quote = by_owner.quote()
    report = struct.pack("<IIQ", 1, 2, len(quote)) + quote
    by_owner.admin.reset_policy(OPEN_ENCLAVE)
    with pytest.raises(HttpResponseError):
        by_owner.client.attest_open_enclave(report, runtime_data=RUNTIME)
    by_owner.admin.set_policy(OPEN_ENCLAVE, PERMIT)
    result, _ = by_owner.client.attest_open_enclave(report, runtime_data=RUNTIME)
    assert result.mr_enclave == MRENCLAVE.hex()
    for broken in (struct.pack("<IIQ", 1, 1, len(quote)) + quote, report + b"\0", report[:15]):
        with pytest.raises(HttpResponseError) as refused:
            by_owner.client.attest_open_enclave(broken, runtime_data=RUNTIME)
        assert refused.value.status_code == 400


def test_metadata_and_signing_certificates(isolated: Azure) -> None:
    metadata = isolated.client.get_open_id_metadata()
    assert metadata["jwks_uri"] == f"{metadata['issuer']}/certs"
    assert {len(signer.certificates) for signer in isolated.client.get_signing_certificates()} == {2}


# --- policies without signatures -------------------------------------------------------------------------------------


def test_sets_gets_and_resets_a_policy_without_a_signature(by_owner: Azure) -> None:
    by_owner.admin.set_policy(SGX, POLICY)
    assert by_owner.admin.get_policy(SGX)[0] == POLICY
    result, _ = by_owner.admin.set_policy(SGX, PERMIT)
    expected = hashlib.sha256(AttestationPolicyToken(PERMIT).to_jwt_string().encode()).digest()
    assert (result.policy_resolution, bytes(result.policy_token_hash)) == (PolicyModification.UPDATED, expected)
    assert result.policy_signer is None
    assert by_owner.admin.get_policy(SGX)[0] == PERMIT
    assert our_view(by_owner) == PERMIT
    attested, _ = by_owner.client.attest_sgx_enclave(by_owner.quote(), runtime_json=RUNTIME)
    assert attested._policy_signer is None
    result, _ = by_owner.admin.reset_policy(SGX)
    assert result.policy_resolution == PolicyModification.REMOVED
    assert "deny()" in by_owner.admin.get_policy(SGX)[0]
    assert our_view(by_owner) is None
    with pytest.raises(HttpResponseError) as refused:
        by_owner.client.attest_sgx_enclave(by_owner.quote(), runtime_json=RUNTIME)
    assert refused.value.status_code == 400
    by_owner.demand_signed()


def our_view(azure: Azure) -> str | None:
    """The policy as our own commands read it from the service."""
    client = OurClient(azure.installed.attestation.http())
    policy = registered_policy(client, token=azure.installed.attestation_token())
    return None if policy is None else policy.text


def test_takes_a_signature_of_anybody_on_an_owners_word(by_owner: Azure) -> None:
    key = SigningKey.generate("RS256")
    result, _ = by_owner.admin.set_policy(SGX, PERMIT, **signing(key))
    assert public_key_of(result.policy_signer) == key.verifying_key.thumbprint
    attested, _ = by_owner.client.attest_sgx_enclave(by_owner.quote(), runtime_json=RUNTIME)
    assert public_key_of(attested._policy_signer) == key.verifying_key.thumbprint


def test_there_are_no_policy_certificates_without_isolation(by_owner: Azure) -> None:
    assert by_owner.admin.get_policy_management_certificates()[0] == []
    key = SigningKey.generate("RS256")
    with pytest.raises(HttpResponseError) as refused:
        by_owner.admin.add_policy_management_certificate(certificate_of(key), **signing(key))
    assert refused.value.status_code == 403


def test_a_policy_with_a_fault_is_a_parsing_error(by_owner: Azure) -> None:
    with pytest.raises(HttpResponseError) as refused:
        by_owner.admin.set_policy(SGX, "version=1.0; nonsense")
    assert refused.value.response is not None
    assert refused.value.response.headers["x-ms-error-code"] == "PolicyParsingError"


# --- isolated: signed policies and policy certificates ---------------------------------------------------------------


def test_in_isolation_an_unsigned_policy_or_a_strangers_is_refused(isolated: Azure) -> None:
    for arguments in ({}, signing(SigningKey.generate("RS256"))):
        with pytest.raises(ClientAuthenticationError):
            isolated.admin.set_policy(SGX, PERMIT, **arguments)
        with pytest.raises(ClientAuthenticationError):
            isolated.admin.reset_policy(SGX, **arguments)
    assert isolated.admin.get_policy(SGX)[0] == POLICY


def add_on_the_owners_word(isolated: Azure, certificate_pem: str) -> None:
    """Register the first certificate: the owner's key of the configuration signs, in the body's form of 2025."""
    installed = isolated.installed
    body = {"policyCertificate": {"kty": "RSA", "x5c": to_x5c([ssl.PEM_cert_to_DER_cert(certificate_pem)])}}
    header = {"x5c": to_x5c([installed.owner_certificate()])}
    token = sign_jws(canonical_json(body), key=installed.owner, header=header)
    answer = installed.ask_attestation(
        "POST", "/certificates:add?api-version=2025-06-01", canonical_json({"policyCertificateToAdd": token})
    )
    assert answer.status == 200, answer.body


def test_policy_certificates_are_added_used_and_removed(isolated: Azure) -> None:
    first, second = SigningKey.generate("RS256"), SigningKey.generate("RS256")
    certificates = {key.verifying_key.thumbprint: certificate_of(key) for key in (first, second)}
    first_pem, second_pem = certificates.values()
    admin = isolated.admin
    with pytest.raises(ClientAuthenticationError):
        admin.add_policy_management_certificate(first_pem, **signing(first, first_pem))
    add_on_the_owners_word(isolated, first_pem)
    result, _ = admin.add_policy_management_certificate(first_pem, **signing(first, first_pem))
    assert result.certificate_resolution == CertificateModification.IS_PRESENT
    assert result.certificate_thumbprint == sha1_thumbprint(ssl.PEM_cert_to_DER_cert(first_pem)).hex()
    admin.add_policy_management_certificate(second_pem, **signing(first, first_pem))
    listed = [ssl.PEM_cert_to_DER_cert(chain[0]) for chain in admin.get_policy_management_certificates()[0]]
    assert listed == [ssl.PEM_cert_to_DER_cert(pem) for pem in (first_pem, second_pem)]
    result, _ = admin.set_policy(SGX, POLICY, **signing(second, second_pem))
    assert public_key_of(result.policy_signer) == second.verifying_key.thumbprint
    result, _ = admin.remove_policy_management_certificate(first_pem, **signing(second, second_pem))
    assert result.certificate_resolution == CertificateModification.IS_ABSENT
    with pytest.raises(ClientAuthenticationError):
        admin.set_policy(SGX, PERMIT, **signing(first, first_pem))
    with pytest.raises(HttpResponseError) as refused:
        admin.remove_policy_management_certificate(second_pem, **signing(second, second_pem))
    assert refused.value.status_code == 409
    result, _ = admin.reset_policy(OPEN_ENCLAVE, **signing(second, second_pem))
    assert result.policy_resolution == PolicyModification.REMOVED
    isolated.demand_signed()


# --- PyJWT -----------------------------------------------------------------------------------------------------------


def jwks(azure: Azure, kid: str) -> jwt.PyJWK:
    context = ssl.create_default_context(cafile=azure.ca)
    return jwt.PyJWKClient(f"{azure.installed.attestation.url}/certs", ssl_context=context).get_signing_key(kid)


def token_kid(azure: Azure) -> str:
    return str(unverified_header(azure.installed.attest(azure.installed.evidence(RUNTIME)))["kid"])


def test_pyjwt_validates_results_of_the_new_and_of_the_old_signing_key(isolated: Azure) -> None:
    installed = isolated.installed
    old = installed.attest(installed.evidence(RUNTIME))
    kid = installed.rotate_signing_key()
    new = installed.attest(installed.evidence(RUNTIME))
    assert unverified_header(new)["kid"] == kid != unverified_header(old)["kid"]
    for token in (old, new):
        key = jwks(isolated, unverified_header(token)["kid"]).key
        claims = jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            issuer=installed.attestation.url,
            options={"require": ["exp", "iat", "nbf"]},
        )
        assert claims["x-ms-runtime"] == json.loads(RUNTIME)
    isolated.client.attest_sgx_enclave(isolated.quote(), runtime_json=RUNTIME)
    isolated.demand_signed()
