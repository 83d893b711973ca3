"""A Merkle tree's nodes as tiles: 16 neighbours of one height in one piece, which a database keeps as one row.

Level n of the tiles holds the nodes of height 4 * n; those of the heights between are computed from at most 8 of them.
So a tree of ten million leaves is 667,000 pieces of at most 512 bytes, and a proof reads about a dozen of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from strongroom.base.errors import IntegrityError
from strongroom.log.merkle import HASH_BYTES, node_hash

TILE_HEIGHT: Final = 4
TILE_WIDTH: Final = 1 << TILE_HEIGHT
Place: TypeAlias = tuple[int, int]
"""A tile's level and number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileState:
    """Tiles as they were at one moment, to go back to."""

    tiles: Mapping[Place, bytes]
    changed: frozenset[Place]


class TiledNodes:
    """The nodes of a tree, over tiles that are loaded when they are needed.

    Args:
        load: Returns a tile as it is stored; empty bytes for one that is not.
    """

    def __init__(self, load: Callable[[int, int], bytes]) -> None:
        self._load = load
        self._tiles: dict[Place, bytes] = {}
        self._changed: set[Place] = set()

    def read(self, height: int, index: int) -> bytes:
        """Return the hash of a complete subtree.

        Raises:
            IntegrityError: The tile does not hold it.
        """
        level, above = divmod(height, TILE_HEIGHT)
        first = index << above
        tile = self._tile((level, first // TILE_WIDTH))
        start = first % TILE_WIDTH * HASH_BYTES
        piece = tile[start : start + (HASH_BYTES << above)]
        if len(piece) != HASH_BYTES << above:
            raise IntegrityError(
                "the log's tree has a hole", action="Restore the newest copy of the key service's state."
            )
        hashes = [piece[at : at + HASH_BYTES] for at in range(0, len(piece), HASH_BYTES)]
        while len(hashes) > 1:
            hashes = [node_hash(*hashes[at : at + 2]) for at in range(0, len(hashes), 2)]
        return hashes[0]

    def write(self, height: int, index: int, node: bytes) -> None:
        """Keep the hash of the next complete subtree of a height; what stood there and after it is replaced.

        Raises:
            IntegrityError: The tile does not reach to its place.
        """
        level, above = divmod(height, TILE_HEIGHT)
        if above:
            return
        place = level, index // TILE_WIDTH
        end = index % TILE_WIDTH * HASH_BYTES
        before = self._tile(place)[:end] if end else b""
        if len(before) != end:
            raise IntegrityError(
                "the log's tree has a hole", action="Restore the newest copy of the key service's state."
            )
        self._tiles[place] = before + node
        self._changed.add(place)

    def state(self) -> TileState:
        """Return what is in memory, to go back to."""
        return TileState(tiles=dict(self._tiles), changed=frozenset(self._changed))

    def go_back(self, state: TileState) -> None:
        """Forget what was written since."""
        self._tiles, self._changed = dict(state.tiles), set(state.changed)

    def take_changed(self) -> dict[Place, bytes]:
        """Return the tiles that were written, which the caller stores now; keep the last of each level in memory."""
        changed = {place: self._tiles[place] for place in sorted(self._changed)}
        last: dict[int, int] = {}
        for level, number in self._tiles:
            last[level] = max(number, last.get(level, 0))
        self._tiles = {place: tile for place, tile in self._tiles.items() if last[place[0]] == place[1]}
        self._changed = set()
        return changed

    def _tile(self, place: Place) -> bytes:
        if place not in self._tiles:
            self._tiles[place] = self._load(*place)
        return self._tiles[place]
