"""Statements about vaults' keys: one digest for one key, and nothing that identifies no key."""

from typing import Any

import pytest
from tests.unit.keys.test_vault_hierarchy import rsa_statement, statement

from strongroom.base.encoding import canonical_json, parse_json_object
from strongroom.base.errors import FormatError
from strongroom.crypto.derive import sha256_hex
from strongroom.wire.vault_key import ManagedIdentity, VaultAddress, VaultKey, parse_vault_key


@pytest.mark.parametrize("key", [statement(), rsa_statement()], ids=["oct", "RSA"])
def test_a_statement_is_its_canonical_text(key: VaultKey) -> None:
    text = key.to_json().decode()
    assert parse_vault_key(text) == key
    assert key.identity == sha256_hex(text.encode())
    assert key.kid == "https://hsm.managedhsm.azure.net/keys/trips/" + "0a" * 16
    for other in (text + "\n", " " + text, text.replace('"key":', '"key" :')):
        with pytest.raises(FormatError):
            parse_vault_key(other)


@pytest.mark.parametrize("left_out", ["version", "check_value", "public_jwk", "roots", "owners", "kty", "key_version"])
def test_every_field_is_written_out(left_out: str) -> None:
    fields = parse_json_object(statement().to_json())
    del fields[left_out]
    with pytest.raises(FormatError):
        parse_vault_key(canonical_json(fields).decode())


RSA_JWK = rsa_statement().public_jwk
assert RSA_JWK is not None


@pytest.mark.parametrize(
    "changed",
    [
        {"surprise": 1},
        {"version": 2},
        {"kind": "strongroom"},
        {"url": "http://hsm.managedhsm.azure.net"},
        {"url": "https://hsm.managedhsm.azure.net/"},
        {"url": "https://HSM.managedhsm.azure.net"},
        {"url": "https://user@hsm.managedhsm.azure.net"},
        {"url": "https://hsm.managedhsm.azure.net\n"},
        {"key": "a/b"},
        {"key": ""},
        {"key_version": ""},
        {"key_version": "0A" * 16},
        {"kty": "EC-HSM"},
        {"roots": []},
        {"owners": []},
        {"check_value": None},
        {"public_jwk": RSA_JWK},
        {"kty": "RSA-HSM"},
        {"kty": "RSA-HSM", "check_value": None},
        {"kty": "RSA-HSM", "check_value": None, "public_jwk": {**RSA_JWK, "kid": "x"}},
        {"kty": "RSA-HSM", "check_value": None, "public_jwk": {"kty": "RSA"}},
        {"kty": "RSA-HSM", "public_jwk": RSA_JWK},
    ],
)
def test_refuses_what_identifies_no_key(changed: dict[str, Any]) -> None:
    fields = {**parse_json_object(statement().to_json()), **changed}
    with pytest.raises(FormatError):
        parse_vault_key(canonical_json(fields).decode())


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1", "http://169.254.169.254:80", "https://169.254.169.254", "http://metadata", "http://127.0.0.1"],
)
def test_plain_http_is_for_the_metadata_service_alone(url: str) -> None:
    with pytest.raises(FormatError):
        ManagedIdentity.from_object({"url": url})


def test_an_address_says_which_kind_of_identity() -> None:
    fields: dict[str, Any] = {"statement": "{}", "roots_pem": "", "approvals": {}}
    made = VaultAddress.from_object({**fields, "credential": {"kind": "managed-identity"}})
    assert isinstance(made.credential, ManagedIdentity)
    for credential in ({}, {"kind": "password"}, {"kind": "workload-identity"}, {"kind": "managed-identity", "x": 1}):
        with pytest.raises(FormatError):
            VaultAddress.from_object({**fields, "credential": credential})
