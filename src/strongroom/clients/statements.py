"""Checking what a key service signs: statements (JWS) and log proofs (signed notes), down to its identity."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from strongroom.base.encoding import from_any_b64
from strongroom.base.errors import VerificationError
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.x509 import LeafUsage, spki_sha256, verify_leaf
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint
from strongroom.log.merkle import leaf_hash, verify_inclusion
from strongroom.log.note import verification_key
from strongroom.log.witness import unverified_origin
from strongroom.wire.key_service import CLOSING_TYP, Closing, LogProof

_LOG: Final = "strongroom-key-service/"
LOG_NAME: Final = re.compile(rf"{_LOG}[0-9a-f]{{64}}")
"""What a key service's log is called, after its first identity."""


class ServiceStatements:
    """What one key service says, checked against its pinned identity.

    Every statement carries its signing certificate and the identity's (`x5c`); the same Ed25519 key signs the
    log's checkpoints.

    Args:
        identity: SHA-256 of the identity key's SubjectPublicKeyInfo, hexadecimal.
        now: The time at which certificates must be valid.
        predecessors: The identities that the service is known to have had before, oldest first: what they certified
            holds as well. The oldest one names the log.
        knows_predecessors: False for who knows the service by its present identity alone, as a TEE does: the log may
            then have the name of an earlier one, which is the same in all of its checkpoints. The key is what counts.
    """

    def __init__(
        self,
        *,
        identity: str,
        now: Callable[[], datetime],
        predecessors: Sequence[str] = (),
        knows_predecessors: bool = True,
    ) -> None:
        self.identity = identity
        self.identities = (*predecessors, identity)
        self._now = now
        self._key: VerifyingKey | None = None
        self._origin = f"{_LOG}{self.identities[0]}" if knows_predecessors else None

    @property
    def origin(self) -> str:
        """The log's name in its checkpoints."""
        return self._origin or f"{_LOG}{self.identity}"

    def verify(self, token: str, *, typ: str) -> bytes:
        """Return a statement's payload.

        Raises:
            VerificationError: Not signed by a key that the identity certified, or of another type.
        """
        key = self._statement_key(token)
        payload = verify_jws(token, key=key, typ=typ).payload
        self._key = key
        return payload

    def closing(self, token: str) -> Closing:
        """Return a closing statement, checked with the leaf that it proves.

        Raises:
            FormatError: Not a closing statement.
            VerificationError: Not this service's, or its proof does not hold.
        """
        closing = Closing.from_json(self.verify(token, typ=CLOSING_TYP))
        self.check_proof(closing.proof)
        return closing

    @property
    def log_key(self) -> str:
        """The key of the checked statements as a log's verification key line (C2SP).

        Raises:
            VerificationError: No statement was checked yet.
        """
        if self._key is None:
            raise VerificationError("no statement of the key service was checked yet")
        return verification_key(self.origin, self._key)

    def checkpoint(self, note: str) -> Checkpoint:
        """Return a checkpoint of this service's log.

        Raises:
            VerificationError: Not signed by the key of the checked statements, or no statement came before it.
        """
        if self._key is None:
            raise VerificationError("no statement of the key service was checked yet")
        origin = self._origin or unverified_origin(note)
        if not LOG_NAME.fullmatch(origin):
            raise VerificationError("the checkpoint is not of a key service's log")
        checkpoint = parse_and_verify_checkpoint(note, origin=origin, key=self._key)
        self._origin = origin
        return checkpoint

    def check_proof(self, proof: LogProof) -> Checkpoint:
        """Check a leaf's inclusion under a signed checkpoint.

        Raises:
            VerificationError: The proof does not hold, or no statement came before it.
        """
        checkpoint = self.checkpoint(proof.checkpoint)
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
                certificates = [from_any_b64(item) for item in chain]
                if self._key is not None and certificates and spki_sha256(certificates[0]) == self._key.thumbprint:
                    return self._key  # of this service, whatever identity certified it when the statement was made
                issuer = spki_sha256(certificates[-1]) if certificates else ""
                leaf = verify_leaf(
                    certificates,
                    identity=issuer if issuer in self.identities else self.identity,
                    usage=LeafUsage.SIGNING,
                    now=self._now(),
                )
                return leaf.public_key
            case _:
                raise VerificationError("the statement carries no certificate")
