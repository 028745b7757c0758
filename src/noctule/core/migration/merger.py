"""What the leaders of two neighbours do next while they are being merged: a pure decision, made anew each time.

Each of the two leaders decides for its own partition. The right one logs that it answers nothing, and copies what it
holds into the left one; one entry there makes the copy live. What must never be is that both answer for the same slots:
so the left one promises in its log never to take the copy in, before *meta* says that the merge is given up, and only
then does the right one answer again. As in mover.py any step may be lost or done twice, and a leader may know of *meta*
what was so some time ago.
"""

from typing import TypeAlias

from msgspec import Struct

from noctule.core.migration.merges import MERGE_ENDED, Merge, MergeStage
from noctule.core.migration.splitter import LogCommand


class NeighbourView(Struct, frozen=True):
    """What the leader of one of the two sees of its own replica, as far as it has applied the log."""

    partition: int
    """Which one it leads."""
    fenced: int = 0
    """The merge for which nothing is answered here; 0: none."""
    fence_ended: int = 0
    """The newest merge for which it will never be fenced (again)."""
    absorbed: int = 0
    """The newest merge by which it has grown."""
    absorb_ended: int = 0
    """The newest merge of which nothing (more) will be taken in."""
    bytes: int = 0
    """That it holds."""
    is_copying: bool = False
    """Whether this leader is copying to the left one right now."""
    in_stage_s: float = 0.0
    """Seconds since this leader first saw the merge in its stage."""
    is_cancelled: bool = False
    """Whether an operator wants it to be given up."""


class MergeLimits(Struct, frozen=True):
    """What bounds a merge."""

    bytes_max: int = 64 << 20
    """A right partition that holds more is not merged."""
    stage_s_max: float = 5.0
    """After so long in one stage it is given up: meanwhile the right one may be answering nothing."""


class CopyToLeft(Struct, frozen=True):
    """Copy what is fenced here to the left partition, chunk by chunk from the first one, and have it taken in."""


class AdvanceMerge(Struct, frozen=True):
    """Have *meta* log the next stage; it refuses unless the merge is still in `stage`."""

    stage: MergeStage
    to: MergeStage
    note: str = ""


MergeStep: TypeAlias = LogCommand | CopyToLeft | AdvanceMerge


def next_merge_step(merge: Merge, view: NeighbourView, limits: MergeLimits) -> MergeStep | None:
    """What the leader of one of the two is to do now; None when there is nothing but to wait."""
    if merge.stage in MERGE_ENDED:
        return None
    step = _STEPS[merge.stage, view.partition == merge.right]
    return step(merge, view, limits)


def unfence_step(view: NeighbourView, merge: Merge | None, *, merge_id_next: int) -> LogCommand | None:
    """For a partition that takes part in no merge: answer again, if the one it is fenced for was given up.

    `merge` is what *meta* remembers of that one, by its id, and `merge_id_next` the next id that *meta* will give. Who
    does not know of the merge yet must leave the fence alone, since the left one may have taken everything in already.
    """
    if not view.fenced or view.fenced >= merge_id_next:
        return None
    # One that is remembered no more has ended; and had it been done, this partition were not in the map.
    if merge is not None and merge.stage is not MergeStage.ABORTED:
        return None
    return LogCommand((b"NOCTULE.UNFENCE", b"%d" % view.fenced))


def _fence_right(merge: Merge, view: NeighbourView, limits: MergeLimits) -> MergeStep | None:
    note = _why_not(view, limits)
    if not note and view.bytes > limits.bytes_max:
        note = f"partition {merge.right} holds {view.bytes} bytes, and {limits.bytes_max} are the most"
    if not note and view.fence_ended >= merge.id:
        note = "the fence was taken back"
    if note:
        return AdvanceMerge(MergeStage.FENCE, MergeStage.ABORTED, note)
    if view.fenced == merge.id:
        return AdvanceMerge(MergeStage.FENCE, MergeStage.COPY)
    return LogCommand((b"NOCTULE.FENCE", b"%d" % merge.id))


def _fence_left(_merge: Merge, view: NeighbourView, limits: MergeLimits) -> MergeStep | None:
    # Nothing can have been copied yet, so nothing needs to be promised.
    note = _why_not(view, limits)
    return AdvanceMerge(MergeStage.FENCE, MergeStage.ABORTED, note) if note else None


def _copy_right(merge: Merge, view: NeighbourView, _limits: MergeLimits) -> MergeStep | None:
    return CopyToLeft() if view.fenced == merge.id and not view.is_copying else None


def _copy_left(merge: Merge, view: NeighbourView, limits: MergeLimits) -> MergeStep | None:
    if view.absorbed >= merge.id:
        return AdvanceMerge(MergeStage.COPY, MergeStage.DONE)
    if view.absorb_ended >= merge.id:
        return AdvanceMerge(MergeStage.COPY, MergeStage.ABORTED, "the copy was given up before it was whole")
    return LogCommand((b"NOCTULE.ABSORB-DROP", b"%d" % merge.id)) if _why_not(view, limits) else None


def _why_not(view: NeighbourView, limits: MergeLimits) -> str:
    """Why the merge is to be given up; empty when it is not."""
    if view.is_cancelled:
        return "cancelled"
    return f"not done in {limits.stage_s_max:g} s" if view.in_stage_s > limits.stage_s_max else ""


_STEPS = {
    (MergeStage.FENCE, True): _fence_right,
    (MergeStage.FENCE, False): _fence_left,
    (MergeStage.COPY, True): _copy_right,
    (MergeStage.COPY, False): _copy_left,
}
"""By stage and whether it is the right one's leader that decides."""
