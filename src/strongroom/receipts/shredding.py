"""Verifying, offline, that the keys of a dataset were destroyed."""

from datetime import UTC, datetime

from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import Mismatch, RefusedError, VerificationError
from strongroom.clients.statements import ServiceStatements
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import unverified_payload
from strongroom.wire.data_keys import SHREDDING_TYP, Shredding, ShreddingProof
from strongroom.wire.trust import Trust

_ACTION = "do not rely on this file; ask the owner for the proof anew: strongroom dataset shredding"


def verify_shredding(proof_bytes: bytes, *, trust: Trust) -> Shredding:
    """Verify a proof of shredding with nothing but the trust file.

    1. The file is such a proof, and its statement names a key service of the trust file.
    2. The statement is signed by a key that the service's identity certified, valid when it was signed; the same key is
       the log's of the trust file.
    3. The leaf is in the service's log.
    4. The leaf says that the keys of this dataset were destroyed, at this time, by this person, and names these keys.

    What it proves: the service said for good that these keys are gone, and releases nothing of them. That no copy of
    them is left rests on whoever operates the service, and on what became of its backups.

    Args:
        proof_bytes: The file.
        trust: The reader's own anchors.

    Returns:
        What was destroyed.

    Raises:
        FormatError: Not such a proof.
        VerificationError: A signature, proof or digest does not hold.
        RefusedError: It is of a key service that the trust file does not know.
    """
    proof = ShreddingProof.from_json(proof_bytes)  # 1
    claimed = Shredding.from_json(unverified_payload(proof.statement))
    service = next(
        (each for each in trust.services if (each.service, each.identity) == ("key-service", claimed.key_service)), None
    )
    if service is None:
        raise RefusedError(
            "the key service of the proof is not in the trust file",
            action=_ACTION,
            mismatches=(Mismatch(name="key service", expected="one of the trust file's", actual=claimed.key_service),),
        )
    issued_at = datetime.strptime(claimed.issued_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    statements = ServiceStatements(identity=service.identity, now=lambda: issued_at)
    shredding = Shredding.from_json(statements.verify(proof.statement, typ=SHREDDING_TYP))  # 2
    if statements.log_key != service.log_key:
        raise _does_not_hold("log key", str(service.log_key), statements.log_key)
    statements.check_proof(proof.proof)  # 3
    _check_leaf(proof.proof.leaf, shredding)  # 4
    return shredding


def _check_leaf(leaf_text: str, shredding: Shredding) -> None:
    leaf = parse_json_object(leaf_text)
    said = {
        "event": ("key-shredded", leaf.get("event")),
        "dataset": (shredding.dataset, leaf.get("dataset")),
        "owner": (shredding.by, leaf.get("owner")),
        "time": (shredding.shredded_at, leaf.get("time")),
        "keys": ([key.model_dump(mode="json") for key in shredding.keys], leaf.get("keys")),
        "leaf": (shredding.leaf, sha256_hex(leaf_text.encode())),
    }
    for name, (expected, actual) in said.items():
        if expected != actual:
            raise _does_not_hold(name, str(expected), str(actual))


def _does_not_hold(name: str, expected: str, actual: str) -> VerificationError:
    return VerificationError(
        f"the proof of shredding does not hold: {name}",
        action=_ACTION,
        mismatches=(Mismatch(name=name, expected=expected[:200], actual=actual[:200]),),
    )
