"""A vault's answer down to a pinned root, with an authority and a vault that are made here: names, uses, algorithms."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.crypto.test_released_keys import pkcs8
from tests.unit.crypto.test_web_pki import BELOW, NOW, ROOT, Authority

from strongroom.base.encoding import canonical_json, from_any_b64, from_b64url, to_b64url
from strongroom.base.errors import FormatError, IntegrityError, StrongroomError, VerificationError
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.clients.vault_release import ReleaseRequest, SignedRelease, open_release, verify_release
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.key_wrap import wrap_to_rsa
from strongroom.crypto.keys import ReceivingKey, SigningKey, VerifyingKey
from strongroom.crypto.released_keys import check_value
from strongroom.crypto.x509 import to_x5c
from strongroom.wire.vault_key import VaultKey

HOST = "strongroom.vault.azure.net"
VAULT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
TEE = ReceivingKey.generate_rsa()
SIGNER = SigningKey.generate("RS256")
POLICY = b'{"version":"1.0.0","anyOf":[{"authority":"https://a","allOf":[{"claim":"a","equals":true}]}]}'
KEY = VaultKey(
    kind="azure-key-vault",
    url=f"https://{HOST}",
    key="trips",
    key_version="0a" * 16,
    kty="RSA-HSM",
    public_jwk=VerifyingKey(VAULT_KEY.public_key()).to_jwk(),
    check_value=None,
    roots=(sha256_hex(ROOT.der),),
    owners=("55" * 32,),
)
ALGORITHMS = ["CKM_RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_256", "RSA_AES_KEY_WRAP_384"]


def asked(enc: str = "RSA_AES_KEY_WRAP_256") -> ReleaseRequest:
    return ReleaseRequest(api_version="7.4", nonce="n0", enc=enc)


def chain(*sans: str, key: SigningKey = SIGNER, issuer: Authority = BELOW, **changed: Any) -> list[bytes]:
    leaf = issuer.leaf(*(sans or (HOST,)), public_key=key.verifying_key, **changed)
    return [leaf, BELOW.der]


def answered(
    enc: str = "RSA_AES_KEY_WRAP_256",
    *,
    signer: SigningKey = SIGNER,
    certificates: Sequence[bytes] | None = None,
    material: SecretBytes | None = None,
    **policy: Any,
) -> str:
    """What a vault answers, in Azure's own form: members that nobody reads included."""
    wrapped = wrap_to_rsa(material or pkcs8(VAULT_KEY), recipient_jwk=TEE.public_jwk, algorithm=enc)
    envelope = {
        "schema_version": "1.0.0",
        "header": {"kid": "TpmEphemeralEncryptionKey", "alg": "dir", "enc": enc},
        "ciphertext": to_b64url(wrapped),
    }
    payload = {
        "request": {"api-version": "7.4", "enc": enc, "kid": KEY.kid, "nonce": "n0"},
        "response": {
            "key": {
                "key": {
                    "kid": KEY.kid,
                    "kty": "RSA-HSM",
                    "key_ops": ["encrypt", "decrypt"],
                    "n": "AA",
                    "e": "AQAB",
                    "key_hsm": to_b64url(canonical_json(envelope)),  # type: ignore[arg-type]
                },
                "attributes": {"enabled": True, "exportable": True, "recoveryLevel": "Recoverable+Purgeable"},
                "tags": {},
                "release_policy": {"data": to_b64url(POLICY), "immutable": False, **policy},
            }
        },
    }
    header = {"typ": "JWT", "x5c": to_x5c(certificates or chain(key=signer))}
    return sign_jws(canonical_json(payload), key=signer, header=header)  # type: ignore[arg-type]


def verify(token: str, **changed: Any) -> Any:
    fields: dict[str, Any] = {"key": KEY, "request": asked(), "roots_der": [ROOT.der], "now": NOW, **changed}
    return verify_release(token, **fields)


@pytest.mark.parametrize("enc", ALGORITHMS)
def test_opens_each_of_azures_envelopes(enc: str) -> None:
    signed = verify(answered(enc, immutable=True), request=asked(enc))
    assert (signed.policy, signed.policy_immutable) == (POLICY, True)
    released = open_release(signed, key=KEY, request=asked(enc), receiving_key=TEE)
    assert released.material == pkcs8(VAULT_KEY)


def test_whether_a_policy_is_immutable_is_only_true_where_it_is_said() -> None:
    assert verify(answered(immutable="true")).policy_immutable is False
    assert verify(answered()).policy_immutable is False


def test_takes_wildcards_as_azures_certificates_have_them() -> None:
    verify(answered(certificates=chain("*.vault.azure.net", "*.vault.azure.com")))


def test_refuses_an_answer_of_another_name_root_time_or_use() -> None:
    other = Authority()
    for certificates, changed in (
        (chain("other.vault.azure.net"), {}),
        (chain("vault.azure.net"), {}),
        (chain(issuer=other), {}),
        (chain(), {"roots_der": [other.der]}),
        (chain(), {"roots_der": []}),
        (chain(usage=None), {}),
        (chain(not_after=NOW), {"now": NOW.replace(hour=1)}),
    ):
        with pytest.raises(VerificationError) as error:
            verify(answered(certificates=certificates), **changed)
        assert error.value.step == Step.RELEASE


def test_refuses_a_signature_by_another_key_than_the_certificates() -> None:
    with pytest.raises(VerificationError):
        verify(answered(signer=SigningKey.generate("RS256"), certificates=chain()))


def test_refuses_every_algorithm_but_rs256() -> None:
    with pytest.raises(VerificationError, match="RS256"):
        verify(answered(signer=SigningKey.generate("ES256")))
    head, payload, signature = answered().split(".")
    header = {**json.loads(from_b64url(head)), "alg": "none"}
    with pytest.raises(StrongroomError):
        verify(f"{to_b64url(json.dumps(header).encode())}.{payload}.")
    header["alg"] = "RS512"
    with pytest.raises(StrongroomError):
        verify(f"{to_b64url(json.dumps(header).encode())}.{payload}.{signature}")


def test_refuses_a_key_that_is_for_another_tee_or_is_another_one() -> None:
    request = asked()
    with pytest.raises(IntegrityError):
        open_release(verify(answered()), key=KEY, request=request, receiving_key=ReceivingKey.generate_rsa())
    another = pkcs8(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    with pytest.raises(IntegrityError, match="pinned"):
        open_release(verify(answered(material=another)), key=KEY, request=request, receiving_key=TEE)
    with pytest.raises(FormatError) as error:
        open_release(verify(answered(material=SecretBytes(b"x"))), key=KEY, request=request, receiving_key=TEE)
    assert error.value.step == Step.RELEASE


@given(st.binary(max_size=200))
def test_any_text_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        verify(data.decode("latin-1"))


@given(position=st.integers(min_value=0), bit=st.sampled_from([1, 2, 64]))
def test_any_changed_byte_is_refused(position: int, bit: int) -> None:
    changed = bytearray(GOOD.encode())
    changed[position % len(changed)] ^= bit
    text = changed.decode("latin-1")
    if from_parts(text) != from_parts(GOOD):  # the last character of a part may have spare bits
        with pytest.raises(StrongroomError):
            verify(text)


GOOD = answered()


def from_parts(token: str) -> list[bytes | str]:
    def decoded(part: str) -> bytes | str:
        try:
            return from_any_b64(part)
        except FormatError:
            return part

    return [decoded(part) for part in token.split(".")]


def test_microsofts_own_envelope_gives_the_symmetric_key_that_is_pinned(shared: Path) -> None:
    vector = json.loads((shared / "vectors/key-release/skr_vector.json").read_text())
    secret = SecretBytes(bytes.fromhex(vector["exp"]))
    changed = {"kty": "oct-HSM", "public_jwk": None, "check_value": check_value(secret)}
    key = VaultKey(**{**KEY.model_dump(), **changed})
    signed = SignedRelease(ciphertext=from_any_b64(vector["ct"]), policy=POLICY, policy_immutable=False)
    tee = ReceivingKey.from_pem(SecretBytes(vector["pem"].encode()))
    released = open_release(signed, key=key, request=asked("CKM_RSA_AES_KEY_WRAP"), receiving_key=tee)
    assert released.material == secret
