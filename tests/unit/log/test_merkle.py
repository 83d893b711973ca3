import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError, NotFoundError, VerificationError
from strongroom.log.merkle import EMPTY_ROOT, MerkleTree, leaf_hash, verify_consistency, verify_inclusion

# The vectors of Certificate Transparency's implementations (transparency-dev/merkle, proof/verify_test.go).
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
INCLUSION = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CONSISTENCY = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
    (
        6,
        7,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
]
SIZES = range(1, 34)


def tree_of(entries: Sequence[bytes]) -> MerkleTree:
    return MerkleTree(leaf_hash(entry) for entry in entries)


def numbered(size: int) -> MerkleTree:
    return tree_of([str(number).encode() for number in range(size)])


def root_by_definition(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + root_by_definition(leaves[:split]) + root_by_definition(leaves[split:])).digest()


def test_published_roots() -> None:
    tree = tree_of(ENTRIES)
    assert [tree.root(size) for size in range(9)] == [EMPTY_ROOT, *ROOTS]
    assert tree.root() == ROOTS[-1]
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_published_inclusion_proofs(index: int, size: int, path: list[str]) -> None:
    proof = tree_of(ENTRIES).inclusion_proof(index, size)
    assert [each.hex() for each in proof] == path
    verify_inclusion(leaf_hash(ENTRIES[index]), index=index, size=size, proof=proof, root=ROOTS[size - 1])


@pytest.mark.parametrize(("old", "new", "path"), CONSISTENCY)
def test_published_consistency_proofs(old: int, new: int, path: list[str]) -> None:
    proof = tree_of(ENTRIES).consistency_proof(old, new)
    assert [each.hex() for each in proof] == path
    verify_consistency(old_size=old, old_root=ROOTS[old - 1], new_size=new, new_root=ROOTS[new - 1], proof=proof)


def test_roots_and_proofs_of_every_size() -> None:
    tree = numbered(max(SIZES))
    leaves = [leaf_hash(str(number).encode()) for number in SIZES]
    leaves = [leaf_hash(b"0"), *leaves[:-1]]
    for size in SIZES:
        assert tree.root(size) == root_by_definition(leaves[:size])
        for index in range(size):
            verify_inclusion(
                leaves[index], index=index, size=size, proof=tree.inclusion_proof(index, size), root=tree.root(size)
            )
        for old in range(size + 1):
            verify_consistency(
                old_size=old,
                old_root=tree.root(old),
                new_size=size,
                new_root=tree.root(size),
                proof=tree.consistency_proof(old, size),
            )


def test_appending_returns_the_index_and_keeps_earlier_roots() -> None:
    tree = MerkleTree()
    assert [tree.append(leaf_hash(entry)) for entry in ENTRIES] == list(range(8))
    assert tree.size == 8
    assert tree.root(3) == ROOTS[2]


@given(st.data())
def test_no_other_statement_passes_an_inclusion_proof(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 40))
    index = data.draw(st.integers(0, size - 1))
    tree, leaf = numbered(size), leaf_hash(str(index).encode())
    proof, root = list(tree.inclusion_proof(index, size)), tree.root()
    other = data.draw(st.binary(min_size=32, max_size=32))
    at = data.draw(st.integers(0, len(proof) - 1))
    wrong_index = data.draw(st.integers(-1, size).filter(lambda each: each != index))
    changed = [*proof[:at], other, *proof[at + 1 :]]
    for leaf_, index_, proof_, root_ in (
        (other, index, proof, root),
        (leaf, wrong_index, proof, root),
        (leaf, index, changed, root),
        (leaf, index, [*proof[:at], *proof[at + 1 :]], root),
        (leaf, index, [*proof, other], root),
        (leaf, index, [other, *proof], root),
        (leaf, index, [*proof, b""], root),
        (leaf, index, proof, other),
        (leaf[:31], index, proof, root),
    ):
        with pytest.raises(VerificationError):
            verify_inclusion(leaf_, index=index_, size=size, proof=proof_, root=root_)


@given(st.data())
def test_no_other_statement_passes_a_consistency_proof(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 40))
    old = data.draw(st.integers(1, new - 1))
    tree = numbered(new)
    proof, old_root, new_root = list(tree.consistency_proof(old, new)), tree.root(old), tree.root(new)
    other = data.draw(st.binary(min_size=32, max_size=32))
    at = data.draw(st.integers(0, len(proof) - 1))
    changed = [*proof[:at], other, *proof[at + 1 :]]
    for old_size, old_root_, new_size, new_root_, proof_ in (
        (old, other, new, new_root, proof),
        (old, old_root, new, other, proof),
        (old, new_root, new, old_root, proof),
        (old, old_root, new, new_root, changed),
        (old, old_root, new, new_root, [*proof[:at], *proof[at + 1 :]]),
        (old, old_root, new, new_root, [*proof, other]),
        (old, old_root, new, new_root, [other, *proof]),
        (old, old_root, new, new_root, []),
        (new, new_root, old, old_root, proof),
        (old, old_root, old, old_root, proof),
        (0, EMPTY_ROOT, new, new_root, proof),
        (0, other, new, new_root, []),
        (old, old_root, old, other, []),
        (-1, old_root, new, new_root, proof),
    ):
        with pytest.raises(VerificationError):
            verify_consistency(
                old_size=old_size, old_root=old_root_, new_size=new_size, new_root=new_root_, proof=proof_
            )


@given(
    st.integers(-1, 70),
    st.integers(-1, 70),
    st.lists(st.binary(min_size=31, max_size=32), max_size=8),
    st.binary(max_size=32),
)
def test_any_proof_verifies_or_raises_verification_error(
    first: int, second: int, proof: list[bytes], root: bytes
) -> None:
    with pytest.raises(VerificationError):
        verify_inclusion(b"x" * 32, index=first, size=second, proof=proof, root=root)
    with pytest.raises(VerificationError):
        verify_consistency(old_size=first, old_root=root, new_size=second, new_root=b"x" * 32, proof=proof)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 9])
def test_a_proof_holds_only_for_its_trees_size(size: int) -> None:
    tree = numbered(4)
    inclusion, consistency = tree.inclusion_proof(0, 4), tree.consistency_proof(1, 4)
    with pytest.raises(VerificationError):
        verify_inclusion(leaf_hash(b"0"), index=0, size=size, proof=inclusion, root=tree.root())
    with pytest.raises(VerificationError):
        verify_consistency(old_size=1, old_root=tree.root(1), new_size=size, new_root=tree.root(), proof=consistency)


def test_a_longer_path_of_a_larger_tree_is_no_proof() -> None:
    tree = numbered(2)
    with pytest.raises(VerificationError):
        verify_inclusion(leaf_hash(b"1"), index=0, size=1, proof=[leaf_hash(b"0")], root=tree.root())


def test_a_leaf_never_passes_for_a_node() -> None:
    tree = tree_of(ENTRIES[:2])
    forged = leaf_hash(ENTRIES[0]) + leaf_hash(ENTRIES[1])
    with pytest.raises(VerificationError):
        verify_inclusion(leaf_hash(forged), index=0, size=1, proof=[], root=tree.root())


def test_unknown_sizes_and_entries_are_not_found() -> None:
    tree = numbered(3)
    for ask in (
        lambda: tree.root(4),
        lambda: tree.root(-1),
        lambda: tree.inclusion_proof(3, 3),
        lambda: tree.inclusion_proof(-1, 3),
        lambda: tree.inclusion_proof(0, 4),
        lambda: tree.consistency_proof(3, 2),
        lambda: tree.consistency_proof(-1, 2),
        lambda: tree.consistency_proof(1, 4),
    ):
        with pytest.raises(NotFoundError):
            ask()
    with pytest.raises(FormatError):
        tree.append(b"short")
