"""Checking what a key service signs: statements (JWS) and log proofs (signed notes), down to its identity."""

from collections.abc import Callable
from datetime import datetime

from strongroom.base.encoding import from_any_b64
from strongroom.base.errors import VerificationError
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.x509 import LeafUsage, verify_leaf
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint
from strongroom.log.merkle import leaf_hash, verify_inclusion
from strongroom.log.note import verification_key
from strongroom.wire.key_service import LogProof


class ServiceStatements:
    """What one key service says, checked against its pinned identity.

    Every statement carries its signing certificate and the identity's (`x5c`); the same Ed25519 key signs the
    log's checkpoints.

    Args:
        identity: SHA-256 of the identity key's SubjectPublicKeyInfo, hexadecimal.
        now: The time at which certificates must be valid.
    """

    def __init__(self, *, identity: str, now: Callable[[], datetime]) -> None:
        self.identity = identity
        self._now = now
        self._key: VerifyingKey | None = None

    @property
    def origin(self) -> str:
        """The log's name in its checkpoints."""
        return f"strongroom-key-service/{self.identity}"

    def verify(self, token: str, *, typ: str) -> bytes:
        """Return a statement's payload.

        Raises:
            VerificationError: Not signed by a key that the identity certified, or of another type.
        """
        key = self._statement_key(token)
        payload = verify_jws(token, key=key, typ=typ).payload
        self._key = key
        return payload

    @property
    def log_key(self) -> str:
        """The key of the checked statements as a log's verification key line (C2SP).

        Raises:
            VerificationError: No statement was checked yet.
        """
        if self._key is None:
            raise VerificationError("no statement of the key service was checked yet")
        return verification_key(self.origin, self._key)

    def check_proof(self, proof: LogProof) -> Checkpoint:
        """Check a leaf's inclusion under a signed checkpoint.

        Raises:
            VerificationError: The proof does not hold, or no statement came before it.
        """
        if self._key is None:
            raise VerificationError("no statement of the key service was checked yet")
        checkpoint = parse_and_verify_checkpoint(proof.checkpoint, origin=self.origin, key=self._key)
        verify_inclusion(
            leaf_hash(proof.leaf.encode()),
            index=proof.index,
            size=checkpoint.size,
            proof=tuple(bytes.fromhex(item) for item in proof.path),
            root=checkpoint.root,
        )
        return checkpoint

    def _statement_key(self, token: str) -> VerifyingKey:
        match unverified_header(token):
            case {"x5c": [*chain]} if all(isinstance(item, str) for item in chain):
                leaf = verify_leaf(
                    [from_any_b64(item) for item in chain],
                    identity=self.identity,
                    usage=LeafUsage.SIGNING,
                    now=self._now(),
                )
                return leaf.public_key
            case _:
                raise VerificationError("the statement carries no certificate")
