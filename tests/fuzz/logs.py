"""What logs, witnesses, people and their issuers hand in: rotations, checkpoints, rosters, backups, tokens."""

import functools
import io
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from tests.fuzz.samples import signer
from tests.fuzz.target import Target, of_text, text_of
from tests.support.key_service import MovableClock
from tests.support.platform import NOW

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import canonical_json, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConflictError,
    FormatError,
    InconsistentLogError,
    IntegrityError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.crypto.jose import seal_to_recipients, sign_jws
from strongroom.crypto.keys import ReceivingKey, SigningKey
from strongroom.crypto.x509 import new_identity, to_pem
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.local import LocalMasterKey
from strongroom.keys.store import backup
from strongroom.log.checkpoint import Checkpoint, sign_checkpoint
from strongroom.log.cosignature import cosign, verify_cosignatures, witness_key
from strongroom.log.merkle import MerkleTree
from strongroom.log.note import COSIGNATURE, ED25519, NoteKey, parse_note, parse_verification_key, verification_key
from strongroom.log.rotation import read_rotation, sign_rotation
from strongroom.log.witness import AddCheckpoint, appraise_checkpoint, parse_add_checkpoint
from strongroom.policy.roster import Roster, read_roster
from strongroom.receipts.statement import sign_statement, verify_statement
from strongroom.services.sign_in import OidcIssuerSettings, TokenIssuers
from strongroom.wire.approvals import ROSTER_TYP, SignedRoster
from strongroom.wire.receipt import DsseEnvelope
from strongroom.wire.rotation import ROTATION_TYP

_ORIGIN = "log.example/1"
_ISSUER, _AUDIENCE, _KID = "https://issuer.test", "https://keys.test", "a-key"
_SECRET = SecretBytes(bytes(range(32)))


@functools.cache
def _ed25519() -> SigningKey:
    return SigningKey.generate("Ed25519")


@functools.cache
def _successor() -> SigningKey:
    return SigningKey.generate("ES256")


# --- rotations -------------------------------------------------------------------------------------------------------


def _rotation_samples() -> Sequence[bytes]:
    key = _successor()
    der = new_identity(common_name="x", key=key, not_before=NOW - timedelta(1), not_after=NOW + timedelta(1))
    pem = to_pem(der)
    return [
        sign_rotation("owner", old=signer(), new=key, now=NOW).encode(),
        sign_rotation("attestation-service", old=signer(), new=key, certificate_pem=pem, now=NOW).encode(),
    ]


def _rotation_content(data: bytes) -> Any:
    """A statement that the old key rightly signs: what is refused is refused for what it says."""
    header = {"typ": ROTATION_TYP, "jwk": signer().verifying_key.to_jwk()}
    return read_rotation(sign_jws(data, key=signer(), header=header))


def _rotation_contents() -> Sequence[bytes]:
    return [read_rotation(sample.decode()).to_json() for sample in _rotation_samples()]


# --- checkpoints and witnesses ---------------------------------------------------------------------------------------


def _log() -> NoteKey:
    return NoteKey(name=_ORIGIN, kind=ED25519, key=_ed25519().verifying_key)


@functools.cache
def _tree() -> MerkleTree:
    return MerkleTree(bytes([number]) * 32 for number in range(7))


def _checkpoint(size: int) -> Checkpoint:
    return Checkpoint(origin=_ORIGIN, size=size, root=_tree().root(size))


def _add_checkpoint(data: bytes) -> Any:
    return appraise_checkpoint(parse_add_checkpoint(data), log=_log(), latest=_checkpoint(3))


def _add_checkpoints() -> Sequence[bytes]:
    note = sign_checkpoint(_checkpoint(7), key=_ed25519())
    proof = tuple(_tree().consistency_proof(3, 7))
    return [AddCheckpoint(old_size=3, proof=proof, note=note).to_bytes()]


def _cosigned() -> Sequence[bytes]:
    note = sign_checkpoint(_checkpoint(7), key=_ed25519())
    return [(note + cosign(parse_note(note).text, name="witness.example", key=_ed25519(), now=NOW)).encode()]


def _cosignatures(data: bytes) -> Any:
    witness = NoteKey(name="witness.example", kind=COSIGNATURE, key=_ed25519().verifying_key)
    return verify_cosignatures(text_of(data), witnesses=[witness])


def _key_line(text: str) -> Any:
    try:
        return witness_key(text)
    except FormatError:
        return parse_verification_key(text)


# --- people ----------------------------------------------------------------------------------------------------------


def _roster_of(data: bytes) -> Any:
    statement = sign_jws(data, key=signer(), header={"typ": ROSTER_TYP, "kid": signer().verifying_key.thumbprint})
    owners = {signer().verifying_key.thumbprint: signer().verifying_key}
    return read_roster(SignedRoster.from_object({"statement": statement}), before=None, owners=owners)


def _rosters() -> Sequence[bytes]:
    roster = Roster(
        number=1,
        previous=None,
        dataset="trips",
        key_service="5a" * 32,
        members=tuple(key.verifying_key.to_jwk() for key in (signer(), _successor())),
        threshold=2,
        issued_at=to_rfc3339(NOW),
    )
    return [roster.to_json()]


@functools.cache
def _issuers() -> TokenIssuers:
    """An issuer whose keys are known, and that nobody asks."""
    settings = OidcIssuerSettings(issuer=_ISSUER, audience=_AUDIENCE, clients=("a-client",), algorithms=("ES256",))
    issuers = TokenIssuers([settings], clock=MovableClock())
    keys = issuers._keys[_ISSUER]
    keys._keys, keys._fetched_at = {_KID: signer().verifying_key}, NOW
    return issuers


def _access_token(data: bytes) -> Any:
    header = {"typ": "at+jwt", "kid": _KID}
    return _issuers().verify(sign_jws(data, key=signer(), header=header))


def _access_tokens() -> Sequence[bytes]:
    at = int(NOW.timestamp())
    claims = {"iss": _ISSUER, "aud": _AUDIENCE, "client_id": "a-client", "sub": "ann", "iat": at, "exp": at + 600}
    return [canonical_json(claims)]


# --- backups, statements ---------------------------------------------------------------------------------------------


@functools.cache
def _recipient() -> ReceivingKey:
    return ReceivingKey.generate_p256()


@functools.cache
def _master_key() -> LocalMasterKey:
    return LocalMasterKey(_SECRET, algorithm=WrapAlgorithm.FILE_A256GCM)


@functools.cache
def _backup_header() -> bytes:
    sealed = seal_to_recipients(_SECRET.reveal(), recipient_jwks=[_recipient().public_jwk])
    return backup.BackupHeader(
        version=1,
        made_at=to_rfc3339(NOW),
        schema_version=1,
        checkpoint="a checkpoint",
        wrapped=to_b64url(_master_key().wrap(_SECRET, context=backup._KEY_CONTEXT)),
        sealed=to_b64url(sealed),
    ).to_json()


def _backup(lines: Sequence[bytes]) -> bytes:
    out = io.BytesIO()
    pieces = backup._Pieces(out, key=_SECRET, header=_backup_header())
    pieces._lines = list(lines)
    pieces.end()
    return out.getvalue()


_BACKUP_LINES = (
    b'{"store_key":"AAAA"}',
    b'{"file":"identity.key","content":"AAAA"}',
    b'{"table":"keys","row":{"name":"a","number":1,"sealed":{"b64":"AAAA"},"gone":null}}',
)


def _opened(data: bytes) -> Any:
    opened = backup.open_backup(io.BytesIO(data), master_key=_master_key(), recipient=None)
    return list(opened.rows)


def _opened_content(data: bytes) -> Any:
    """Somebody who knows the recipient's public key makes a backup for it: the pieces open, and say anything."""
    opened = backup.open_backup(io.BytesIO(_backup(data.split(b"\n"))), master_key=None, recipient=_recipient())
    return list(opened.rows)


def _envelopes() -> Sequence[bytes]:
    return [sign_statement(b'{"_type":"https://in-toto.io/Statement/v1"}', key=signer()).to_json()]


_VERIFIED = (FormatError, VerificationError)

LOGS: tuple[Target, ...] = (
    Target(name="rotation", parse=of_text(read_rotation), samples=_rotation_samples, refusals=_VERIFIED),
    Target(name="rotation-content", parse=_rotation_content, samples=_rotation_contents, refusals=_VERIFIED),
    Target(
        name="add-checkpoint",
        parse=_add_checkpoint,
        samples=_add_checkpoints,
        refusals=(*_VERIFIED, ConflictError, InconsistentLogError),
    ),
    Target(name="cosigned-note", parse=_cosignatures, samples=_cosigned, refusals=_VERIFIED),
    Target(
        name="verification-key",
        parse=of_text(_key_line),
        samples=lambda: [verification_key(_ORIGIN, _ed25519().verifying_key).encode()],
    ),
    Target(name="roster", parse=_roster_of, samples=_rosters, refusals=_VERIFIED),
    Target(
        name="access-token",
        parse=_access_token,
        samples=_access_tokens,
        refusals=(*_VERIFIED, AuthenticationError),
    ),
    Target(
        name="state-backup",
        parse=_opened,
        samples=lambda: [_backup(_BACKUP_LINES)],
        refusals=(FormatError, IntegrityError),
    ),
    Target(
        name="state-backup-content",
        parse=_opened_content,
        samples=lambda: [b"\n".join((b"", *_BACKUP_LINES))],
        refusals=(FormatError, IntegrityError),
    ),
    Target(
        name="statement-envelope",
        parse=lambda data: verify_statement(DsseEnvelope.from_json(data), key=signer().verifying_key),
        samples=_envelopes,
        refusals=_VERIFIED,
    ),
)
