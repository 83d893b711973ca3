"""Azure's own key vault client against the real key service, its challenge check left on."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.keyvault.keys import ApiVersion, JsonWebKey, KeyClient, KeyReleasePolicy, KeyVaultKey
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm, SignatureAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from tests.support.azure_vault import ALGORITHMS, attested, opened, release_policy
from tests.support.service_processes import Installation

from strongroom.base.encoding import from_any_b64, parse_json_object
from strongroom.base.errors import IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.key_wrap import unwrap_with_rsa
from strongroom.crypto.keys import ReceivingKey


def test_creates_reads_lists_and_updates_keys(client: KeyClient) -> None:
    first = client.create_rsa_key("plain", size=2048, tags={"a": "b"})
    second = client.create_rsa_key("plain", size=3072)
    assert first.properties.version != second.properties.version
    assert client.get_key("plain").id == second.id
    assert client.get_key("plain", first.properties.version).key.n == first.key.n
    assert "plain" in {each.name for each in client.list_properties_of_keys()}
    versions = {each.version for each in client.list_properties_of_key_versions("plain")}
    assert versions == {first.properties.version, second.properties.version}
    updated = client.update_key_properties("plain", first.properties.version, enabled=False, tags={"c": "d"})
    assert (updated.properties.enabled, updated.properties.tags) == (False, {"c": "d"})
    assert client.get_key("plain", first.properties.version).properties.enabled is False
    with pytest.raises(ResourceNotFoundError) as missing:
        client.get_key("nothing")
    assert missing.value.error is not None
    assert missing.value.error.code == "KeyNotFound"


@pytest.mark.parametrize(("curve", "size"), [("P-256", 32), ("P-384", 48), ("P-521", 66)])
def test_creates_elliptic_keys(client: KeyClient, curve: str, size: int) -> None:
    key = client.create_ec_key("elliptic", curve=curve, hardware_protected=True)
    assert (key.key_type, key.key.crv, len(key.key.x or b"")) == ("EC-HSM", curve, size)


# The client never asks the vault about A128KW to A256KW: for want of the key it wraps with one it makes up. So the
# tests use Key Vault's own names for the same ciphers.


def test_wraps_and_unwraps_keys(client: KeyClient, options: dict[str, Any]) -> None:
    secret = os.urandom(32)
    asymmetric = client.create_rsa_key("wrapping", size=2048)
    symmetric = client.create_oct_key("wrapping-oct", size=256, hardware_protected=True)
    for key, algorithms in (
        (asymmetric, (KeyWrapAlgorithm.rsa_oaep, KeyWrapAlgorithm.rsa_oaep_256)),
        (symmetric, (KeyWrapAlgorithm.ckm_aes_key_wrap, KeyWrapAlgorithm.ckm_aes_key_wrap_pad)),
    ):
        with CryptographyClient(key.id, **options) as crypto:
            for algorithm in algorithms:
                wrapped = crypto.wrap_key(algorithm, secret)
                assert crypto.unwrap_key(algorithm, wrapped.encrypted_key).key == secret
                assert secret not in wrapped.encrypted_key
            with pytest.raises(HttpResponseError) as failed:
                crypto.unwrap_key(algorithms[0], b"x" * len(wrapped.encrypted_key))
            assert failed.value.status_code == 400


def test_refuses_operations_of_disabled_keys_and_for_which_a_key_is_not(
    client: KeyClient, options: dict[str, Any]
) -> None:
    key = client.create_oct_key("limited", size=256, key_operations=["wrapKey"])
    with CryptographyClient(key.id, **options) as crypto:
        wrapped = crypto.wrap_key(KeyWrapAlgorithm.ckm_aes_key_wrap, b"k" * 32)
        with pytest.raises(HttpResponseError) as refused:
            crypto.unwrap_key(KeyWrapAlgorithm.ckm_aes_key_wrap, wrapped.encrypted_key)
        assert refused.value.status_code == 403
    client.update_key_properties("limited", enabled=False)
    with CryptographyClient(key.id, **options) as crypto, pytest.raises(HttpResponseError) as disabled:
        crypto.wrap_key(KeyWrapAlgorithm.ckm_aes_key_wrap, b"k" * 32)
    assert disabled.value.status_code == 403


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("versioned", [True, False])
def test_releases_an_rsa_key_to_an_attested_tee(
    installed: Installation, client: KeyClient, algorithm: str | None, *, versioned: bool
) -> None:
    key = client.create_rsa_key(
        "released", hardware_protected=True, exportable=True, release_policy=release_policy(installed)
    )
    assert key.properties.exportable
    version = key.properties.version if versioned else None
    answer = client.release_key("released", attested(installed), version=version, algorithm=algorithm, nonce="abc")
    payload, secret = opened(installed, answer.value)
    assert payload["request"]["nonce"] == "abc"
    assert payload["request"]["kid"] == key.id
    assert payload["request"]["enc"] == algorithm or algorithm is None
    private = serialization.load_der_private_key(secret.reveal(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    assert private.public_key().public_numbers().n == int.from_bytes(key.key.n, "big")
    with pytest.raises(IntegrityError):
        opened(installed, answer.value, key=ReceivingKey.generate_rsa())


def test_releases_an_imported_symmetric_key(installed: Installation, client: KeyClient) -> None:
    secret = os.urandom(32)
    jwk = JsonWebKey(kty="oct-HSM", k=secret, key_ops=["wrapKey", "unwrapKey"])
    imported: KeyVaultKey = client.import_key(
        "imported", jwk, hardware_protected=True, exportable=True, release_policy=release_policy(installed)
    )
    assert imported.key.k is None
    assert opened(installed, client.release_key("imported", attested(installed)).value)[1].reveal() == secret


def octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


@pytest.mark.parametrize(
    ("name", "curve", "size"),
    [("P-256", ec.SECP256R1(), 32), ("P-521", ec.SECP521R1(), 66), ("P-256K", ec.SECP256K1(), 32)],
)
def test_imports_elliptic_keys(client: KeyClient, name: str, curve: ec.EllipticCurve, size: int) -> None:
    made = ec.generate_private_key(curve)
    numbers = made.private_numbers()
    x, y = (each.to_bytes(size, "big") for each in (numbers.public_numbers.x, numbers.public_numbers.y))
    jwk = JsonWebKey(kty="EC", crv=name, x=x, y=y, d=octets(numbers.private_value))
    imported = client.import_key("imported-ec", jwk, hardware_protected=True)
    assert (imported.key_type, imported.key.crv, imported.key.x, imported.key.d) == ("EC-HSM", name, x, None)
    digest = os.urandom(32) if size == 32 else os.urandom(64)
    algorithm = {"P-256": "ES256", "P-521": "ES512", "P-256K": "ES256K"}[name]
    signature = client.get_cryptography_client("imported-ec").sign(SignatureAlgorithm(algorithm), digest).signature
    r, s = (int.from_bytes(part, "big") for part in (signature[:size], signature[size:]))
    chosen = hashes.SHA256() if size == 32 else hashes.SHA512()
    made.public_key().verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(chosen)))


def test_imports_rsa_keys(client: KeyClient, shared: Path) -> None:
    pem = json.loads((shared / "vectors/key-release/skr_vector.json").read_text())["pem"]
    numbers = serialization.load_pem_private_key(pem.encode(), None).private_numbers()  # type: ignore[union-attr]
    jwk = JsonWebKey(
        kty="RSA",
        n=octets(numbers.public_numbers.n),
        e=octets(numbers.public_numbers.e),
        d=octets(numbers.d),
        p=octets(numbers.p),
        q=octets(numbers.q),
        dp=octets(numbers.dmp1),
        dq=octets(numbers.dmq1),
        qi=octets(numbers.iqmp),
    )
    assert client.import_key("microsofts", jwk).key.n == octets(numbers.public_numbers.n)
    jwk.d = octets(numbers.d + 2)
    with pytest.raises(HttpResponseError) as refused:
        client.import_key("microsofts", jwk)
    assert refused.value.status_code == 400


def expect_refusal(client: KeyClient, name: str, token: str, *, status: int = 403, **options: Any) -> str:
    with pytest.raises(HttpResponseError) as refused:
        client.release_key(name, token, **options)
    assert refused.value.status_code == status
    return str(refused.value)


def test_refuses_to_release(installed: Installation, client: KeyClient) -> None:
    good = attested(installed)
    client.create_rsa_key("strict", exportable=True, release_policy=release_policy(installed))
    assert client.release_key("strict", good).value
    header, payload, signature = good.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    expect_refusal(client, "strict", f"{header}.{payload}.{signature[:-8]}AAAAAAAA")
    expect_refusal(client, "strict", f"{none}.{payload}.{signature}")
    expect_refusal(client, "strict", "x.y.z", status=400)
    expect_refusal(client, "strict", good, algorithm="RSA1_5", status=400)
    for changed in (
        {"x-ms-sgx-mrenclave": "00" * 32},
        {"x-ms-runtime.job": "other"},
        {"x-ms-strongroom-hardware": "real"},
    ):
        client.create_rsa_key("other", exportable=True, release_policy=release_policy(installed, **changed))
        assert next(iter(changed)) in expect_refusal(client, "other", good)
    client.create_rsa_key("not-exportable")
    assert "not exportable" in expect_refusal(client, "not-exportable", good)
    keyless = attested(installed, b'{"job":"taxi","keys":[]}')
    assert "no RSA key" in expect_refusal(client, "strict", keyless)


@pytest.mark.parametrize(
    "document",
    [
        b"{}",
        b'{"version":"1.0.0","anyOf":[]}',
        b'{"version":"1.0.0","anyOf":[{"authority":"https://a","allOf":[{"claim":"c","greater":"1"}]}]}',
        b"not json",
    ],
)
def test_refuses_release_policies_outside_the_grammar(client: KeyClient, document: bytes) -> None:
    with pytest.raises(HttpResponseError) as refused:
        client.create_rsa_key("bad", exportable=True, release_policy=KeyReleasePolicy(document))
    assert refused.value.status_code == 400


def test_refuses_an_exportable_key_without_a_policy_and_a_changed_immutable_one(
    installed: Installation, client: KeyClient
) -> None:
    with pytest.raises(HttpResponseError) as refused:
        client.create_rsa_key("bare", exportable=True)
    assert "must have a release policy" in str(refused.value)
    fixed = release_policy(installed)
    fixed.immutable = True
    client.create_rsa_key("fixed", exportable=True, release_policy=fixed)
    with pytest.raises(HttpResponseError) as immutable:
        client.update_key_properties(
            "fixed", release_policy=release_policy(installed, **{"x-ms-sgx-is-debuggable": True})
        )
    assert immutable.value.status_code == 403


def test_refuses_an_unknown_persons_token(installed: Installation, options: dict[str, Any]) -> None:
    class Stranger:
        def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
            return AccessToken("a.b.c", 1 << 33)

    with (
        KeyClient(installed.keys.url, **{**options, "credential": Stranger()}) as client,
        pytest.raises(ClientAuthenticationError),
    ):
        client.get_key("plain")


def test_the_example_of_the_reference_runs(installed: Installation, options: dict[str, Any], tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "key-service.md"
    example = page.read_text("utf-8").split("```python\n")[1].split("```")[0]
    key_file = tmp_path / "owner.key"
    key_file.write_bytes(installed.owner.to_pem().reveal())
    names: dict[str, Any] = {
        "URL": installed.keys.url,
        "IDENTITY": installed.keys.identity,
        "CERTIFICATE": options["connection_verify"],
        "KEY_FILE": key_file,
    }
    exec(example, names)
    assert str(names["key"].id).startswith(f"{installed.keys.url}/keys/orders/")
    names["client"].close()


@pytest.mark.parametrize("version", list(ApiVersion))
def test_speaks_every_version_of_the_client(
    installed: Installation, options: dict[str, Any], version: ApiVersion
) -> None:
    if version.value < "7.3":  # Secure Key Release came with 7.3
        return
    with KeyClient(installed.keys.url, api_version=version, **options) as client:
        client.create_oct_key("versions", size=256)
        assert client.get_key("versions").name == "versions"


@pytest.mark.parametrize("query", ["", "?api-version=7.2", "?api-version=2031-01-01"])
def test_demands_an_api_version_that_is_spoken(installed: Installation, query: str) -> None:
    token = {"Authorization": f"Bearer {installed.person_token()}"}
    answer = installed.keys.http().request("GET", f"/keys{query}", headers=token)
    assert answer.status == 400
    message = parse_json_object(answer.body)["error"]["message"]
    assert "api-version" in message
    assert not query or "7.3, 7.4, 7.5, 7.6, 2025-07-01" in message


def test_microsofts_own_released_key_opens(shared: Path) -> None:
    vector = json.loads((shared / "vectors/key-release/skr_vector.json").read_text())
    key = ReceivingKey.from_pem(SecretBytes(vector["pem"].encode()))
    assert key.public_jwk["kty"] == "RSA"
    secret = unwrap_with_rsa(from_any_b64(vector["ct"]), key=key, algorithm="CKM_RSA_AES_KEY_WRAP")
    assert secret.reveal().hex() == vector["exp"]
