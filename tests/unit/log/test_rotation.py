"""Rotations of identity keys: chains that hold, and one edit of them for each refusal."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity, to_pem
from strongroom.log.checkpoint import Checkpoint, sign_checkpoint
from strongroom.log.merkle import MerkleTree, leaf_hash
from strongroom.log.note import ED25519, NoteKey
from strongroom.log.rotation import follow, read_rotation, rotation_leaf, sign_rotation
from strongroom.wire.key_service import LogProof
from strongroom.wire.rotation import ROTATION_TYP, LoggedRotation

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEYS = [SigningKey.generate("ES256") for _ in range(4)]
LOG_KEY = SigningKey.generate("Ed25519")
LOG = NoteKey(name=f"strongroom-key-service/{'a' * 64}", kind=ED25519, key=LOG_KEY.verifying_key)


def identity(number: int) -> str:
    return KEYS[number].verifying_key.thumbprint


def certificate(number: int) -> str:
    key = KEYS[number]
    der = new_identity(common_name="x", key=key, not_before=NOW - timedelta(1), not_after=NOW + timedelta(1))
    return to_pem(der)


def step(old: int, new: int) -> str:
    return sign_rotation("key-service", old=KEYS[old], new=KEYS[new], certificate_pem=certificate(new), now=NOW)


def logged(*tokens: str, key: SigningKey = LOG_KEY, leaf_of: str | None = None) -> list[LoggedRotation]:
    """A log that holds these rotations, and their proofs."""
    leaves = []
    for token in tokens:
        said = leaf_of or token
        what = rotation_leaf(read_rotation(said), said)
        leaves.append(canonical_json({"version": 1, "event": "identity-rotated", "time": "t", **what}))
    tree = MerkleTree(leaf_hash(leaf) for leaf in leaves)
    note = sign_checkpoint(Checkpoint(origin=LOG.name, size=tree.size, root=tree.root()), key=key)
    return [
        LoggedRotation(
            statement=token,
            proof=LogProof(
                leaf=leaf.decode(),
                index=index,
                checkpoint=note,
                path=tuple(node.hex() for node in tree.inclusion_proof(index, tree.size)),
            ),
        )
        for index, (token, leaf) in enumerate(zip(tokens, leaves, strict=True))
    ]


def news(rotations: list[LoggedRotation], start: int = 0) -> list[str]:
    return [each.new for each in follow(rotations, kind="key-service", start=identity(start), log=LOG)]


def test_follows_a_chain_from_any_identity_in_it() -> None:
    chain = logged(step(0, 1), step(1, 2), step(2, 3))
    assert news(chain) == [identity(1), identity(2), identity(3)]
    assert news(chain, start=1) == [identity(2), identity(3)]
    assert news(chain, start=3) == []
    assert follow(chain, kind="owner", start=identity(0), log=LOG) == ()


def test_a_gap_is_refused() -> None:
    chain = logged(step(0, 1), step(1, 2), step(2, 3))
    with pytest.raises(VerificationError, match="gap"):
        news([chain[0], chain[2]])
    with pytest.raises(VerificationError, match="gap"):
        news([chain[0], chain[0]])


def test_two_successors_of_one_identity_are_refused() -> None:
    with pytest.raises(VerificationError, match="gap"):
        news(logged(step(0, 1), step(0, 2)))


def test_only_what_is_logged_is_followed() -> None:
    token = step(0, 1)
    with pytest.raises(VerificationError, match="signed by the known key"):
        news(logged(token, key=SigningKey.generate("Ed25519")))
    with pytest.raises(VerificationError, match="not about this rotation"):
        news(logged(token, leaf_of=step(0, 2)))
    (good,) = logged(token)
    for changed in ({"index": 1}, {"leaf": good.proof.leaf.replace('"t"', '"u"')}, {"path": ("0" * 64,)}):
        with pytest.raises(VerificationError):
            news([good.model_copy(update={"proof": good.proof.model_copy(update=changed)})])


def signed(edit: Callable[[dict[str, Any]], None], *, by: int = 0, named: int = 0) -> str:
    payload = parse_json_object(unverified_payload(step(0, 1)))
    edit(payload)
    header = {"typ": ROTATION_TYP, "jwk": KEYS[named].verifying_key.to_jwk()}
    return sign_jws(canonical_json(payload), key=KEYS[by], header=header)


def changed(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda payload: payload.update(fields)


def test_the_good_one_is_read() -> None:
    assert read_rotation(signed(changed())).new == identity(1)


REFUSED: list[tuple[Callable[[], str], str]] = [
    (lambda: signed(changed(), by=2, named=2), "not signed by the key that it replaces"),
    (lambda: signed(changed(), by=2), "signature"),
    (lambda: signed(changed(old=identity(2))), "not signed by the key that it replaces"),
    (lambda: signed(changed(new=identity(2))), "not the one that it names"),
    (lambda: signed(changed(key=KEYS[2].verifying_key.to_jwk())), "not the one that it names"),
    (lambda: signed(changed(accepted=to_b64url(bytes(64)))), "signature"),
    (lambda: signed(changed(certificate_pem=None)), "certificate"),
    (lambda: signed(changed(kind="owner")), "signature"),
    (lambda: signed(changed(certificate_pem=certificate(2))), "not the new key's"),
    (lambda: signed(changed(certificate_pem=certificate(1) + certificate(2))), "not the new key's"),
    (lambda: sign_rotation("key-service", old=KEYS[0], new=KEYS[0], now=NOW), "not the one that it names"),
]


@pytest.mark.parametrize(("token", "says"), REFUSED, ids=map(str, range(len(REFUSED))))
def test_refuses_a_rotation_that_does_not_hold(token: Callable[[], str], says: str) -> None:
    with pytest.raises(VerificationError, match=says):
        read_rotation(token())


@pytest.mark.parametrize("payload", [{}, {"version": 2}, json.loads('{"kind":"x"}')])
def test_refuses_other_messages(payload: dict[str, Any]) -> None:
    header = {"typ": ROTATION_TYP, "jwk": KEYS[0].verifying_key.to_jwk()}
    with pytest.raises(FormatError):
        read_rotation(sign_jws(canonical_json(payload), key=KEYS[0], header=header))
    with pytest.raises(VerificationError, match="another type"):
        read_rotation(sign_jws(unverified_payload(step(0, 1)), key=KEYS[0], header={**header, "typ": "x"}))
