"""Azure's own cryptography client: what the service does, and what the client does itself with the public key."""

import hashlib
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.keyvault.keys import KeyClient, KeyVaultKey
from azure.keyvault.keys.crypto import CryptographyClient, EncryptionAlgorithm, KeyWrapAlgorithm, SignatureAlgorithm
from tests.support.azure_vault import ALGORITHMS, attested, opened, release_policy
from tests.support.service_processes import Installation

SIZES = {"256": 32, "384": 48, "512": 64, "256K": 32}
ASYMMETRIC = [
    *(("RSA", name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    ("P-256", "ES256"),
    ("P-384", "ES384"),
    ("P-521", "ES512"),
    ("P-256K", "ES256K"),
]


@pytest.fixture(scope="module")
def keys(client: KeyClient) -> dict[str, KeyVaultKey]:
    everything = ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"]
    curves = {name: client.create_ec_key(name, curve=name) for name in ("P-256", "P-384", "P-521", "P-256K")}
    symmetric = {
        f"oct{size}": client.create_oct_key(f"oct{size}", size=size, hardware_protected=True, key_operations=everything)
        for size in (128, 192, 256)
    }
    return {"RSA": client.create_rsa_key("RSA", size=2048), **curves, **symmetric}


class Remote(CryptographyClient):
    """Has the service do everything: the client itself would verify and encrypt with the public key."""

    def _initialize(self, **_kwargs: Any) -> None:
        self._initialized = True


def digest_for(algorithm: str) -> bytes:
    return os.urandom(SIZES[algorithm[2:]])


@pytest.mark.parametrize(("name", "algorithm"), ASYMMETRIC)
def test_signs_and_verifies(keys: dict[str, KeyVaultKey], options: dict[str, Any], name: str, algorithm: str) -> None:
    chosen, digest = SignatureAlgorithm(algorithm), digest_for(algorithm)
    with Remote(keys[name].id, **options) as remote, CryptographyClient(keys[name], **options) as local:
        signature = remote.sign(chosen, digest).signature
        for verifier in (remote, local):
            assert verifier.verify(chosen, digest, signature).is_valid
            assert not verifier.verify(chosen, digest_for(algorithm), signature).is_valid


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_authenticates_with_symmetric_keys(
    keys: dict[str, KeyVaultKey], options: dict[str, Any], algorithm: str
) -> None:
    chosen, digest = SignatureAlgorithm(algorithm), digest_for(algorithm)
    with Remote(keys["oct256"].id, **options) as remote:
        tag = remote.sign(chosen, digest).signature
        assert len(tag) == SIZES[algorithm[2:]]
        assert remote.verify(chosen, digest, tag).is_valid
        assert not remote.verify(chosen, digest, tag[:-1]).is_valid


@pytest.mark.parametrize("algorithm", ["RSA-OAEP", "RSA-OAEP-256"])
def test_encrypts_and_decrypts_with_rsa_here_and_there(
    keys: dict[str, KeyVaultKey], options: dict[str, Any], algorithm: str
) -> None:
    chosen = EncryptionAlgorithm(algorithm)
    with Remote(keys["RSA"].id, **options) as remote, CryptographyClient(keys["RSA"], **options) as local:
        for encrypter in (remote, local):
            ciphertext = encrypter.encrypt(chosen, b"a value").ciphertext
            assert remote.decrypt(chosen, ciphertext).plaintext == b"a value"


@pytest.mark.parametrize("size", [128, 192, 256])
def test_encrypts_and_decrypts_with_aes(keys: dict[str, KeyVaultKey], options: dict[str, Any], size: int) -> None:
    with Remote(keys[f"oct{size}"].id, **options) as remote:
        gcm = EncryptionAlgorithm(f"A{size}GCM")
        made = remote.encrypt(gcm, b"a value", additional_authenticated_data=b"context")
        parts = {"iv": made.iv, "authentication_tag": made.tag}
        opened_value = remote.decrypt(gcm, made.ciphertext, additional_authenticated_data=b"context", **parts)
        assert opened_value.plaintext == b"a value"
        with pytest.raises(HttpResponseError) as refused:
            remote.decrypt(gcm, made.ciphertext, additional_authenticated_data=b"other", **parts)
        assert refused.value.status_code == 400
        vector = os.urandom(16)
        for name, value in ((f"A{size}CBC", b"v" * 32), (f"A{size}CBCPAD", b"a value")):
            chosen = EncryptionAlgorithm(name)
            made = remote.encrypt(chosen, value, iv=vector)
            assert made.iv == vector
            assert remote.decrypt(chosen, made.ciphertext, iv=vector).plaintext == value
        with pytest.raises(HttpResponseError):
            remote.encrypt(EncryptionAlgorithm(f"A{size}CBC"), b"v" * 31, iv=vector)


@pytest.mark.parametrize("size", [128, 192, 256])
def test_wraps_with_aes(keys: dict[str, KeyVaultKey], options: dict[str, Any], size: int) -> None:
    names = {128: KeyWrapAlgorithm.aes_128, 192: KeyWrapAlgorithm.aes_192, 256: KeyWrapAlgorithm.aes_256}
    secret = os.urandom(32)
    with Remote(keys[f"oct{size}"].id, **options) as remote:
        for algorithm in (names[size], KeyWrapAlgorithm.ckm_aes_key_wrap, KeyWrapAlgorithm.ckm_aes_key_wrap_pad):
            wrapped = remote.wrap_key(algorithm, secret).encrypted_key
            assert remote.unwrap_key(algorithm, wrapped).key == secret
        with pytest.raises(HttpResponseError) as refused:
            remote.wrap_key(names[256 if size == 128 else 128], secret)
        assert refused.value.status_code == 400


def test_refuses_rsa1_5_by_name(keys: dict[str, KeyVaultKey], options: dict[str, Any]) -> None:
    with Remote(keys["RSA"].id, **options) as remote:
        for attempt in (
            lambda: remote.encrypt(EncryptionAlgorithm.rsa1_5, b"a value"),
            lambda: remote.wrap_key(KeyWrapAlgorithm.rsa1_5, b"k" * 32),
        ):
            with pytest.raises(HttpResponseError, match="RSA1_5 is refused") as refused:
                attempt()
            assert refused.value.status_code == 400


def test_refuses_a_digest_of_another_length_and_an_algorithm_of_another_kind(
    keys: dict[str, KeyVaultKey], options: dict[str, Any]
) -> None:
    with Remote(keys["RSA"].id, **options) as remote:
        for algorithm, digest in (("RS256", b"d" * 31), ("RS512", b"d" * 32), ("ES256", b"d" * 32)):
            with pytest.raises(HttpResponseError) as refused:
                remote.sign(SignatureAlgorithm(algorithm), digest)
            assert refused.value.status_code == 400


def test_an_expired_key_still_opens_and_makes_nothing_new(client: KeyClient, options: dict[str, Any]) -> None:
    now = datetime.now(tz=UTC)
    key = client.create_oct_key("expiring", size=256, hardware_protected=True)
    with Remote(key.id, **options) as remote:
        wrapped = remote.wrap_key(KeyWrapAlgorithm.aes_256, b"k" * 32).encrypted_key
        client.update_key_properties("expiring", not_before=now - timedelta(days=2), expires_on=now - timedelta(days=1))
        assert remote.unwrap_key(KeyWrapAlgorithm.aes_256, wrapped).key == b"k" * 32
        with pytest.raises(HttpResponseError, match="expired") as refused:
            remote.wrap_key(KeyWrapAlgorithm.aes_256, b"k" * 32)
        assert refused.value.status_code == 403


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", ["EC-HSM", "oct-HSM", "RSA-HSM"])
def test_releases_every_kind_of_key(
    installed: Installation, client: KeyClient, options: dict[str, Any], kind: str, algorithm: str | None
) -> None:
    name = f"released-{kind}"
    if name not in {each.name for each in client.list_properties_of_keys()}:
        client.create_key(name, kind, exportable=True, release_policy=release_policy(installed))
    answer = client.release_key(name, attested(installed), algorithm=algorithm, nonce="once")
    payload, secret = opened(installed, answer.value)
    assert payload["request"]["nonce"] == "once"
    assert payload["response"]["key"]["key"]["kty"] == kind
    assert len(secret) == 32 or secret.reveal().startswith(b"\x30")
    assert hashlib.sha256(secret.reveal()).hexdigest() not in answer.value
