"""What a witness is asked, and what it may cosign."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError, InconsistentLogError, VerificationError
from strongroom.crypto.keys import SigningKey
from strongroom.log.checkpoint import Checkpoint, sign_checkpoint
from strongroom.log.merkle import MerkleTree, leaf_hash
from strongroom.log.note import ED25519, NoteKey, sign_note
from strongroom.log.witness import AddCheckpoint, OtherSizeError, appraise_checkpoint, parse_add_checkpoint

ORIGIN = "log.example"
KEY = SigningKey.generate("Ed25519")
LOG = NoteKey(name=ORIGIN, kind=ED25519, key=KEY.verifying_key)
TREE = MerkleTree(leaf_hash(bytes([number])) for number in range(40))
FORK = MerkleTree(leaf_hash(bytes([number, 1])) for number in range(40))


def at(size: int, tree: MerkleTree = TREE) -> Checkpoint:
    return Checkpoint(origin=ORIGIN, size=size, root=tree.root(size))


def asked(size: int, *, old: int, tree: MerkleTree = TREE, proof: tuple[bytes, ...] | None = None) -> AddCheckpoint:
    path = tree.consistency_proof(old, size) if proof is None else proof
    return AddCheckpoint(old_size=old, proof=path, note=sign_checkpoint(at(size, tree), key=KEY))


@given(st.integers(1, 40), st.integers(1, 40))
def test_cosigns_what_extends_the_last_one_and_nothing_else(old: int, new: int) -> None:
    small, large = sorted((old, new))
    assert appraise_checkpoint(asked(large, old=small), log=LOG, latest=at(small)) == at(large)
    if small != large:
        with pytest.raises(InconsistentLogError):
            appraise_checkpoint(asked(large, old=small, tree=FORK), log=LOG, latest=at(small))
        with pytest.raises((OtherSizeError, FormatError)):  # a shorter one
            appraise_checkpoint(asked(small, old=small, proof=()), log=LOG, latest=at(large))


def test_the_first_checkpoint_needs_no_proof_and_a_fork_of_the_same_size_is_refused() -> None:
    assert appraise_checkpoint(asked(5, old=0), log=LOG, latest=None) == at(5)
    with pytest.raises(InconsistentLogError):
        appraise_checkpoint(asked(5, old=5, tree=FORK, proof=()), log=LOG, latest=at(5))


def test_says_which_size_it_cosigned_last() -> None:
    with pytest.raises(OtherSizeError) as refused:
        appraise_checkpoint(asked(9, old=4), log=LOG, latest=at(7))
    assert refused.value.size == 7
    with pytest.raises(OtherSizeError) as refused:
        appraise_checkpoint(asked(9, old=4), log=LOG, latest=None)
    assert refused.value.size == 0


def test_refuses_an_old_size_that_is_larger() -> None:
    with pytest.raises(FormatError):
        appraise_checkpoint(asked(4, old=9, proof=()), log=LOG, latest=at(9))


def test_refuses_what_the_log_did_not_sign() -> None:
    forged = AddCheckpoint(old_size=0, proof=(), note=sign_checkpoint(at(3), key=SigningKey.generate("Ed25519")))
    with pytest.raises(VerificationError):
        appraise_checkpoint(forged, log=LOG, latest=None)
    other = Checkpoint(origin="other.example", size=3, root=TREE.root(3))
    disguised = AddCheckpoint(old_size=0, proof=(), note=sign_note(other.text, name=ORIGIN, key=KEY))
    with pytest.raises(VerificationError):
        appraise_checkpoint(disguised, log=LOG, latest=None)


@given(st.integers(1, 40), st.integers(1, 40))
def test_requests_are_read_back(old: int, new: int) -> None:
    request = asked(max(old, new), old=min(old, new))
    assert parse_add_checkpoint(request.to_bytes()) == request


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 1",
        b"old -1\n\nx",
        b"old 01\n\nx",
        b"old 1\nx\n\nx",
        b"old 1\n" + b"A" * 43 + b"\n\nx",
        b"new 1\n\nx",
        b"old 1\n" + (b"A" * 43 + b"=\n") * 64 + b"\nx",
        b"\xff\n\n",
    ],
)
def test_refuses_other_requests(body: bytes) -> None:
    with pytest.raises(FormatError):
        parse_add_checkpoint(body)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        request = parse_add_checkpoint(body)
        appraise_checkpoint(request, log=LOG, latest=None)
    except (FormatError, VerificationError, OtherSizeError):
        return
    raise AssertionError("nobody signed this")
