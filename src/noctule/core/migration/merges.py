"""Two neighbouring partitions become one: the stages of that, and the record of it.

The right one is fenced, so nothing is answered there any more; what it holds is copied through the log of the left
one, chunk by chunk, put aside; one entry in the left log then makes it live, and the map gives the left one the slots.
Until that entry everything can be taken back.
"""

from enum import StrEnum

from msgspec import Struct


class MergeStage(StrEnum):
    """Where a merge is."""

    FENCE = "fence"
    """The right partition logs that it answers nothing any more."""
    COPY = "copy"
    """Its leader logs what it holds into the left partition, which keeps it aside, and then takes it in at once."""
    DONE = "done"
    """The left partition has the slots, the right one is no more."""
    ABORTED = "aborted"
    """Nothing was taken in; the right partition logs that it answers again."""


MERGE_NEXT: dict[MergeStage, tuple[MergeStage, ...]] = {
    MergeStage.FENCE: (MergeStage.COPY, MergeStage.ABORTED),
    MergeStage.COPY: (MergeStage.DONE, MergeStage.ABORTED),
    MergeStage.DONE: (),
    MergeStage.ABORTED: (),
}

MERGE_ENDED = (MergeStage.DONE, MergeStage.ABORTED)


class Merge(Struct, frozen=True):
    """One merge on its way."""

    id: int
    left: int
    right: int
    stage: MergeStage
    reason: str = ""
    note: str = ""
    """Why it was given up, in words for an operator."""
    begun_ms: int = 0
    ended_ms: int = 0
