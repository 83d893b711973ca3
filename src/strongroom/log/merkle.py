"""Merkle trees of a log: hashes, proofs, and their verification.

Source: RFC 9162, section 2.1 (the same tree as RFC 6962's, with SHA-256).
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from strongroom.base.errors import FormatError, NotFoundError, VerificationError

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256().digest()
_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a log entry.

    Source: RFC 9162, section 2.1.1.
    """
    return hashlib.sha256(_LEAF + entry).digest()


class Nodes(Protocol):
    """Where a tree keeps the hashes of its complete subtrees: of the leaves `index * 2**height` up to the next such."""

    def read(self, height: int, index: int) -> bytes:
        """Return the hash of a complete subtree that was written."""

    def write(self, height: int, index: int, node: bytes) -> None:
        """Keep the hash of a complete subtree; at each height they come in order."""


class MemoryNodes:
    """Nodes in this process's memory: twice the leaves' size."""

    def __init__(self) -> None:
        self._levels: list[list[bytes]] = []

    def read(self, height: int, index: int) -> bytes:
        """Return the hash of a complete subtree."""
        return self._levels[height][index]

    def write(self, height: int, _index: int, node: bytes) -> None:
        """Keep the hash of the next complete subtree of a height."""
        if height == len(self._levels):
            self._levels.append([])
        self._levels[height].append(node)


class EdgeNodes:
    """The last two nodes of each height: enough to append, and for the newest root. No proof can be made."""

    def __init__(self) -> None:
        self._edge: dict[tuple[int, int], bytes] = {}

    def read(self, height: int, index: int) -> bytes:
        """Return the hash of one of the last two complete subtrees of a height."""
        return self._edge[height, index]

    def write(self, height: int, index: int, node: bytes) -> None:
        """Keep the hash of the next complete subtree of a height, and forget the one before the last."""
        self._edge[height, index] = node
        self._edge.pop((height, index - 2), None)


class MerkleTree:
    """An append-only tree over leaf hashes: roots and proofs of its present and of every earlier size.

    Appending and proving read and write a logarithmic number of nodes.

    Args:
        leaf_hashes: Appended at once.
        nodes: Where the hashes of complete subtrees are; this process's memory without one.
        size: How many leaves the nodes already stand for.
    """

    def __init__(self, leaf_hashes: Iterable[bytes] = (), *, nodes: Nodes | None = None, size: int = 0) -> None:
        self._nodes = MemoryNodes() if nodes is None else nodes
        self._size = size
        for each in leaf_hashes:
            self.append(each)

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    def append(self, leaf: bytes) -> int:
        """Add a leaf hash.

        Args:
            leaf: What `leaf_hash` returned, 32 bytes.

        Returns:
            The leaf's index.

        Raises:
            FormatError: Not 32 bytes.
        """
        if len(leaf) != HASH_BYTES:
            raise FormatError("a leaf hash has 32 bytes")
        place, height, node = self._size, 0, leaf
        self._nodes.write(0, place, node)
        while place & 1:
            node = node_hash(self._nodes.read(height, place - 1), node)
            place, height = place >> 1, height + 1
            self._nodes.write(height, place, node)
        self._size += 1
        return self._size - 1

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first `size` leaves; of all without a size.

        Raises:
            NotFoundError: There are fewer leaves.

        Source: RFC 9162, section 2.1.1.
        """
        leaves = self._known_size(self.size if size is None else size)
        return self._subtree(0, leaves) if leaves else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the path from a leaf to the root of the first `size` leaves, from the leaf upwards.

        Raises:
            NotFoundError: There are fewer leaves, or the leaf is not among them.

        Source: RFC 9162, section 2.1.3.1.
        """
        if not 0 <= index < self._known_size(size):
            raise NotFoundError("the log has no such entry at that size")
        path: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        return tuple(reversed(path))

    def consistency_proof(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Return the proof that the first `old_size` leaves are a prefix of the first `new_size`.

        Raises:
            NotFoundError: There are fewer leaves, or the old size is larger than the new.

        Source: RFC 9162, section 2.1.4.1.
        """
        if not 0 <= old_size <= self._known_size(new_size):
            raise NotFoundError("the log has no such pair of sizes")
        if old_size in {0, new_size}:
            return ()
        path: list[bytes] = []
        start, end = 0, new_size
        while end != old_size:
            middle = start + _split(end - start)
            if old_size <= middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        if start > 0:  # the old tree is not one complete subtree, so its verifier does not know this hash
            path.append(self._subtree(start, end))
        return tuple(reversed(path))

    def _known_size(self, size: int) -> int:
        if not 0 <= size <= self.size:
            raise NotFoundError("the log has not reached that size")
        return size

    def _subtree(self, start: int, end: int) -> bytes:
        """Return MTH(D[start:end]); `start` is a multiple of a power of two that is at least the length."""
        length = end - start
        if length & (length - 1) == 0:
            height = length.bit_length() - 1
            return self._nodes.read(height, start >> height)
        middle = start + _split(length)
        return node_hash(self._subtree(start, middle), self._subtree(middle, end))


def verify_inclusion(leaf: bytes, *, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf stands at an index of the tree with this size and root.

    1. Compare the index with the size.
    2. Start with fn = index, sn = size - 1, r = the leaf's hash.
    3. For each hash of the proof: hash it to the left or to the right of r, and move up; the proof ends at sn = 0.
    4. Compare r with the root.

    Args:
        leaf: What `leaf_hash` of the entry returned.
        index: The leaf's position, zero-based.
        size: The tree's size.
        proof: The path, from the leaf upwards.
        root: The root, from a verified checkpoint.

    Raises:
        VerificationError: The proof does not hold.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:  # 1
        raise VerificationError("the log entry's index is beyond the tree")
    _demand_hashes(leaf, root, *proof)
    computed = leaf  # 2
    for sibling, left in zip(proof, _sides(index, size - 1, len(proof)), strict=True):  # 3
        computed = node_hash(sibling, computed) if left else node_hash(computed, sibling)
    if computed != root:  # 4
        raise VerificationError("the inclusion proof does not lead to the tree's root")


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that a log only appended between two checkpoints.

    1. Trees of the same size have the same root, an empty one has the root of nothing; neither needs a proof.
    2. When the old size is a power of two, its root is the proof's first hash, left out.
    3. Start with fn = old size - 1, sn = new size - 1; move up while fn is odd; fr = sr = the first hash.
    4. For each further hash: hash it to the left of both, or to the right of sr, and move up; the proof ends at sn = 0.
    5. Compare fr with the old root and sr with the new.

    Args:
        old_size: The earlier tree's size.
        old_root: The earlier tree's root, from a verified checkpoint.
        new_size: The later tree's size.
        new_root: The later tree's root, from a verified checkpoint.
        proof: The consistency proof.

    Raises:
        VerificationError: The proof does not hold, or the log shrank.

    Source: RFC 9162, section 2.1.4.2.
    """
    _demand_hashes(old_root, new_root, *proof)
    if not 0 <= old_size <= new_size:
        raise VerificationError("the log became shorter")
    if old_size in {0, new_size}:  # 1
        expected = EMPTY_ROOT if old_size == 0 else new_root
        if proof or old_root != expected or (new_size == 0 and new_root != EMPTY_ROOT):
            raise VerificationError("the log's two checkpoints contradict each other")
        return
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)  # 2
    if not proof:
        raise VerificationError("the consistency proof is empty")
    position, last = old_size - 1, new_size - 1  # 3
    while position & 1:
        position, last = position >> 1, last >> 1
    old_computed = new_computed = path[0]
    for node, left in zip(path[1:], _sides(position, last, len(path) - 1), strict=True):  # 4
        old_computed = node_hash(node, old_computed) if left else old_computed
        new_computed = node_hash(node, new_computed) if left else node_hash(new_computed, node)
    if old_computed != old_root or new_computed != new_root:  # 5
        raise VerificationError("the consistency proof does not lead from one root to the other")


def _sides(position: int, last: int, count: int) -> list[bool]:
    """Return, for each of a proof's hashes from the leaf upwards, whether it stands to the left.

    Args:
        position: The starting node's index on its level (fn of the specification).
        last: The last index on that level (sn).
        count: The number of hashes, which has to lead exactly to the root.
    """
    sides: list[bool] = []
    for _ in range(count):
        if last == 0:
            raise VerificationError("the proof is too long for the tree")
        sides.append(bool(position & 1) or position == last)
        if position == last:  # a node without a right sibling moves up until it is one itself
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        position, last = position >> 1, last >> 1
    if last != 0:
        raise VerificationError("the proof is too short for the tree")
    return sides


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over its two children's.

    Source: RFC 9162, section 2.1.1.
    """
    return hashlib.sha256(_NODE + left + right).digest()


def _split(length: int) -> int:
    """Return the largest power of two smaller than a length of at least 2."""
    return 1 << ((length - 1).bit_length() - 1)


def _demand_hashes(*values: bytes) -> None:
    if any(len(value) != HASH_BYTES for value in values):
        raise VerificationError("a hash of the proof has not 32 bytes")
