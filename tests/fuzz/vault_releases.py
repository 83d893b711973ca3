"""What an agent reads where a key is in a vault: the vault's answer, storage's versions, the owner's approvals; and
what Azure Attestation publishes.
"""

import functools
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import keywrap
from tests.fuzz.target import Target, of_text, text_of

from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.base.errors import FormatError, IntegrityError, RefusedError, VerificationError
from strongroom.base.secret import SecretBytes
from strongroom.cli.vaults import describe_key
from strongroom.clients.attestation import published_keys
from strongroom.clients.azure_faults import read_fault
from strongroom.clients.https import Answered
from strongroom.clients.vault_release import ReleaseRequest, verify_release
from strongroom.crypto import x509
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.released_keys import check_value
from strongroom.datasets.vault_versions import next_version, sign_version, verify_version
from strongroom.keys.vault_hierarchy import accept_key, wrapped_by_vault
from strongroom.policy.approval import MAX_RUNS, Approval
from strongroom.policy.vault_approval import verify_vault_approval
from strongroom.wire.key_service import APPROVAL_TYP, VERSION_TYP
from strongroom.wire.ticket import RunTicket
from strongroom.wire.vault_key import VaultKey, parse_vault_key

_NOW = datetime(2026, 3, 1, tzinfo=UTC)
_KEY = SecretBytes(bytes(range(32)))
_ID, _HASH = "a5" * 16, "5a" * 32
_REQUEST = ReleaseRequest(api_version="7.4", nonce="n", enc="RSA_AES_KEY_WRAP_256")
_JWS = (FormatError, VerificationError)


class FuzzedVault:
    """A vault with an authority, a symmetric key, and an owner."""

    def __init__(self) -> None:
        self.signing, self.owner = SigningKey.generate("RS256"), SigningKey.generate("ES256")
        span = {"not_before": _NOW, "not_after": _NOW.replace(year=2027)}
        authority = SigningKey.generate("ES256")
        self.root = x509.new_identity(common_name="root", key=authority, **span)
        self.leaf = x509.issue_leaf(
            issuer_cert=self.root,
            issuer_key=authority,
            subject_public_key=self.signing.verifying_key,
            common_name="vault",
            sans=("a.managedhsm.azure.net",),
            usage=x509.LeafUsage.TLS,
            **span,
        )
        self.key = VaultKey(
            kind="azure-managed-hsm",
            url="https://a.managedhsm.azure.net",
            key="trips",
            key_version=_ID,
            kty="oct-HSM",
            public_jwk=None,
            check_value=check_value(_KEY),
            roots=(sha256_hex(self.root),),
            owners=(self.owner.verifying_key.thumbprint,),
        )
        self.ticket = RunTicket(
            run_id=_ID,
            application=_HASH,
            datasets={"trips": 1},
            max_executors=1,
            not_after="2026-03-01T12:00:00Z",
            submitter=_HASH,
            checkpoints={},
        )

    def answer(self, payload: bytes) -> str:
        header = {"x5c": x509.to_x5c([self.leaf, self.root])}
        return sign_jws(payload, key=self.signing, header=header)

    def payload(self) -> bytes:
        envelope = {"schema_version": "1.0.0", "header": {"alg": "dir", "enc": _REQUEST.enc}, "ciphertext": "AAAA"}
        key = {"kid": self.key.kid, "kty": self.key.kty, "key_hsm": to_b64url(canonical_json(envelope))}  # type: ignore[arg-type]
        request = {"api-version": "7.4", "enc": _REQUEST.enc, "kid": self.key.kid, "nonce": "n"}
        bundle = {"key": key, "release_policy": {"data": "AAAA", "immutable": False}}
        return canonical_json({"request": request, "response": {"key": bundle}})  # type: ignore[dict-item]

    def verify(self, token: str) -> Any:
        return verify_release(token, key=self.key, request=_REQUEST, roots_der=[self.root], now=_NOW)

    def version(self, data: bytes) -> Any:
        header = {"typ": VERSION_TYP, "jwk": self.owner.verifying_key.to_jwk()}
        text = text_of(data) if data.startswith(b"ey") else sign_jws(data, key=self.owner, header=header)
        return verify_version(text, key=self.key, run_key=None, dataset="trips")

    def good_version(self) -> str:
        writer = f"owner:{self.owner.verifying_key.thumbprint}"
        made = next_version(
            key=self.key,
            dataset="trips",
            base=None,
            manifest_digest=_HASH,
            write_ids=(_ID,),
            writer=writer,
            created_at=_NOW,
        )
        return sign_version(made, key=self.owner)

    def approval(self, token: str) -> Any:
        return verify_vault_approval(token, key=self.key, dataset="trips", access="read", ticket=self.ticket)

    def good_approval(self) -> str:
        made = Approval(
            dataset="trips",
            key_service=self.key.identity,
            application=_HASH,
            access="read",
            evidence_policy_hash="A" * 43,
            attestation_issuer="https://a.example",
            hardware="simulated",
            shape="process",
            max_runs=MAX_RUNS,
            submitters=(_HASH,),
            back_end="azure-managed-hsm",
            issued_at="2026-03-01T12:00:00Z",
        )
        header = {"typ": APPROVAL_TYP, "jwk": self.owner.verifying_key.to_jwk()}
        return sign_jws(made.to_json(), key=self.owner, header=header)


@functools.cache
def AZURE() -> FuzzedVault:  # noqa: N802 - one for the process
    return FuzzedVault()


def _shown() -> bytes:
    jwk = SigningKey.generate("RS256").verifying_key.to_jwk()
    key = {**jwk, "kid": f"https://a.vault.azure.net/keys/trips/{_ID}", "kty": "RSA-HSM"}
    return canonical_json({"key": key, "attributes": {"enabled": True}})


def _published() -> bytes:
    key = {"kid": "fAFUDjo0=", "kty": "RSA", "use": "sig", "alg": "RS256", "x5c": x509.to_x5c([AZURE().root])}
    return canonical_json({"keys": [key]})


def _describe(data: bytes) -> Any:
    parse_json_object(data)
    return describe_key(data, kind="azure-key-vault", roots_der=[b""], owners=[_HASH], check_value=None)


VAULT_RELEASES: tuple[Target, ...] = (
    Target(
        name="azure-key-statement",
        parse=of_text(parse_vault_key),
        samples=lambda: [AZURE().key.to_json()],
        write=lambda value: bytes(value.to_json()),
        exact=True,
    ),
    Target(name="azure-key-shown", parse=_describe, samples=lambda: [_shown()]),
    Target(
        name="azure-answer",
        parse=of_text(lambda text: AZURE().verify(text)),
        samples=lambda: [AZURE().answer(AZURE().payload()).encode()],
        refusals=_JWS,
    ),
    Target(
        name="azure-answer-payload",
        parse=lambda data: AZURE().verify(AZURE().answer(data)),
        samples=lambda: [AZURE().payload()],
        refusals=_JWS,
    ),
    Target(
        name="azure-released-key",
        parse=lambda data: accept_key(AZURE().key, SecretBytes(data)),
        samples=lambda: [_KEY.reveal()],
        refusals=(FormatError, IntegrityError),
    ),
    Target(
        name="azure-wrapped-write-key",
        parse=lambda data: accept_key(AZURE().key, _KEY).unwrap(data, dataset="trips", write_id=_ID),
        samples=lambda: [wrapped_by_vault(AZURE().key, keywrap.aes_key_wrap(_KEY.reveal(), bytes(32)))],
        refusals=(FormatError, IntegrityError),
    ),
    Target(
        name="azure-version",
        parse=lambda data: AZURE().version(data),
        samples=lambda: [AZURE().good_version().encode()],
        refusals=_JWS,
    ),
    Target(
        name="azure-approval",
        parse=of_text(lambda text: AZURE().approval(text)),
        samples=lambda: [AZURE().good_approval().encode()],
        refusals=(*_JWS, RefusedError),
    ),
    Target(name="azure-published-keys", parse=published_keys, samples=lambda: [_published()]),
    Target(
        name="azure-fault",
        parse=lambda data: read_fault(Answered(status=400, body=data, headers={})),
        samples=lambda: [b'{"error":{"code":"Forbidden","message":"no","innererror":{"code":"AKV.SKR.1002"}}}'],
        refusals=(),
    ),
)
