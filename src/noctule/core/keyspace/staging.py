"""What a partition is about to take in from its right neighbour, put aside chunk by chunk: part of the state.

The chunks are decoded as they come, so that taking everything in at the end moves dicts and reads nothing. They are
kept as they came as well, since a snapshot must hold them: memory twice for at most `MERGE_BYTES_MAX`, while a merge
lasts.
"""

from copy import copy
from typing import NamedTuple

from noctule.core.keyspace.snapshot import Loading, chain_digest
from noctule.core.keyspace.state import State
from noctule.core.keyspace.territory import Territory

MERGE_BYTES_MAX = 64 << 20
"""The chunks of one merge together: what is larger is not worth copying through a log."""


class Staging:
    """The chunks of one merge, so far."""

    __slots__ = ("_loading", "bytes", "chunks", "digest", "id", "state")

    def __init__(self, merge: int, state: State) -> None:
        self.id = merge
        self.chunks: list[bytes] = []
        self.bytes = 0
        self.digest = b""
        """`chain_digest` over the chunks."""
        self.state = state
        """What the chunks hold; nobody reads it before it is taken in."""
        self._loading = Loading(state)

    @property
    def is_complete(self) -> bool:
        """Whether the last chunk is there."""
        return self._loading.is_complete

    def take(self, chunk: bytes) -> None:
        """Add the next chunk. Raises `StorageError` when it is not; what is staged is then of no use any more."""
        self._loading.take(chunk)
        self.chunks.append(chunk)
        self.bytes += len(chunk)
        self.digest = chain_digest(self.digest, chunk)


class ShapePicture(NamedTuple):
    """The territory and the staged chunks of one moment."""

    territory: Territory | None
    staged_id: int
    staged: list[bytes]


def picture_shape(state: State) -> ShapePicture:
    """As they are now, whatever becomes of them."""
    staging = state.staging
    staged: list[bytes] = [] if staging is None else staging.chunks[:]
    return ShapePicture(copy(state.territory), 0 if staging is None else staging.id, staged)
