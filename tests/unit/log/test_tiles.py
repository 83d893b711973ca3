"""A tree over tiles is the tree over memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import IntegrityError
from strongroom.log.merkle import EdgeNodes, MerkleTree, leaf_hash
from strongroom.log.tiles import TILE_WIDTH, Place, TiledNodes


class Kept:
    """Tiles as a database keeps them."""

    def __init__(self) -> None:
        self.tiles: dict[Place, bytes] = {}

    def load(self, level: int, number: int) -> bytes:
        return self.tiles.get((level, number), b"")


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(count)]


@given(st.integers(0, 700), st.integers(0, 700), st.integers(1, 40))
def test_has_the_same_roots_and_proofs_as_a_tree_in_memory(first: int, more: int, step: int) -> None:
    kept, all_leaves = Kept(), leaves(first + more)
    plain = MerkleTree(all_leaves)
    tree, size = MerkleTree(nodes=TiledNodes(kept.load)), 0
    while size < len(all_leaves):  # every few leaves are stored, and taken up again from what is stored
        nodes = TiledNodes(kept.load)
        tree = MerkleTree(nodes=nodes, size=size)
        for leaf in all_leaves[size : size + step]:
            tree.append(leaf)
        kept.tiles.update(nodes.take_changed())
        size = tree.size
    tree = MerkleTree(nodes=TiledNodes(kept.load), size=size)
    assert tree.root() == plain.root()
    assert tree.root(first) == plain.root(first)
    assert tree.consistency_proof(first, size) == plain.consistency_proof(first, size)
    for index in {0, first - 1, size - 1} & set(range(size)):
        assert tree.inclusion_proof(index, size) == plain.inclusion_proof(index, size)


@given(st.integers(0, 100), st.integers(0, 100))
def test_goes_back_to_an_earlier_state(kept_leaves: int, undone: int) -> None:
    nodes = TiledNodes(Kept().load)
    tree = MerkleTree(leaves(kept_leaves), nodes=nodes)
    state = nodes.state()
    for leaf in leaves(undone):
        tree.append(leaf)
    nodes.go_back(state)
    again = MerkleTree(nodes=nodes, size=kept_leaves)
    again.append(leaf_hash(b"other"))
    assert again.root() == MerkleTree([*leaves(kept_leaves), leaf_hash(b"other")]).root()


def test_a_proof_reads_few_tiles_of_a_large_tree() -> None:
    kept, nodes = Kept(), TiledNodes(Kept().load)
    tree = MerkleTree(leaves(5000), nodes=nodes)
    kept.tiles = nodes.take_changed()
    asked: list[Place] = []

    def load(level: int, number: int) -> bytes:
        asked.append((level, number))
        return kept.load(level, number)

    MerkleTree(nodes=TiledNodes(load), size=tree.size).inclusion_proof(1234, tree.size)
    assert 0 < len(asked) <= 16
    assert len(kept.tiles) < 2 * 5000 / TILE_WIDTH


def test_a_missing_or_short_tile_is_an_error() -> None:
    kept, nodes = Kept(), TiledNodes(Kept().load)
    MerkleTree(leaves(100), nodes=nodes)
    kept.tiles = nodes.take_changed()
    for changed in (b"", kept.tiles[0, 2][:-1]):
        kept.tiles[0, 2] = changed
        with pytest.raises(IntegrityError, match="hole"):
            MerkleTree(nodes=TiledNodes(kept.load), size=100).inclusion_proof(40, 100)
    with pytest.raises(IntegrityError, match="hole"):
        MerkleTree(nodes=TiledNodes(Kept().load), size=100).append(leaf_hash(b"more"))


@given(st.integers(0, 300))
def test_the_edge_alone_gives_the_newest_root(count: int) -> None:
    assert MerkleTree(leaves(count), nodes=EdgeNodes()).root() == MerkleTree(leaves(count)).root()
