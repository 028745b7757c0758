"""The slots that a partition holds, and what its log has decided about them; part of the replicated state.

Changed by the commands in reshape.py only. Numbers of children and of merges are given by *meta*, rise, and are never
given again: that is how a command which comes late, after what it belonged to was done or taken back, is told apart.
"""

from dataclasses import dataclass

from msgspec import Struct


class Territory(Struct, array_like=True, gc=False):
    """Slots `first`…`last`, both inclusive. Fields are only added at the end, with defaults: it stands in snapshots."""

    first: int
    last: int
    newest_child: int = 0
    """The partition that was split off last. Any with a smaller number was, too, or never will be."""
    fenced: int = 0
    """The merge for which nothing is answered or changed here; 0: none."""
    fence_ended: int = 0
    """The newest merge for which it was fenced, or was to be, and is not to be any more."""
    absorbed: int = 0
    """The newest merge by which it has grown."""
    absorb_ended: int = 0
    """The newest merge by which it has grown, or which was taken back."""


@dataclass(frozen=True, slots=True)
class TerritoryPicture:
    """What `describe()` shows of a partition's territory and of what it is about to take in."""

    first: int
    last: int
    newest_child: int
    fenced: int
    """The merge, or 0."""
    staged_id: int
    """The merge whose chunks are put aside, or 0; how many there are, numbered from 0, and their bytes."""
    staged_chunks: int
    staged_bytes: int
    absorbed: int
    """The newest merge by which it has grown."""
    fence_ended: int = 0
    """The newest merge for which it will not be fenced any more; and the newest of which nothing more is taken in."""
    absorb_ended: int = 0
