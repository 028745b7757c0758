"""What a leader does for partitions it leads that are being split or merged; what is next, core.migration decides.

Each of the commands may be logged twice, and any step may be lost: it is decided anew a moment later.
"""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, assert_never

from noctule.base.errors import RequestError
from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.reply import OK, Reply
from noctule.core.keyspace.snapshot import chain_digest
from noctule.core.keyspace.territory import TerritoryPicture
from noctule.core.meta import operations
from noctule.core.meta.objects import Work
from noctule.core.meta.state import MetaState
from noctule.core.migration.merger import (
    AdvanceMerge,
    CopyToLeft,
    MergeLimits,
    NeighbourView,
    next_merge_step,
    unfence_step,
)
from noctule.core.migration.merges import Merge, MergeStage
from noctule.core.migration.splits import Split
from noctule.core.migration.splitter import Finish, GiveUp, LogCommand, ParentView, next_split_step
from noctule.core.replica.events import Order
from noctule.core.replica.replica import Replica
from noctule.node.proposals import Proposals

if TYPE_CHECKING:
    from noctule.node.steward import Premises

log = logging.getLogger("noctule.node")

AGAIN_S = 0.2
"""A command that was logged has so long to be applied before it is logged once more."""


class Reshaper:
    """One node's."""

    def __init__(self, premises: "Premises", proposals: Proposals) -> None:
        self._premises = premises
        self._proposals = proposals
        self._not_before: dict[GroupId, float] = {}
        self._stage_since: dict[int, tuple[MergeStage, Instant]] = {}
        """By merge."""
        self._copies: dict[int, _Copy] = {}

    def tick(self, meta: MetaState, replica: Replica, work: Work, now: Instant) -> None:
        """Do what is next for a split or merge in which a partition that is led here takes part."""
        territory = replica.describe().territory
        if territory is None:
            return
        if isinstance(work, Split) and work.parent == replica.group:
            self._split(replica, territory, work, now)
        elif isinstance(work, Merge):
            self._merge(meta, replica, territory, work, now)

    def tidy(self, meta: MetaState, replica: Replica) -> None:
        """A partition that takes part in nothing answers again, should it be fenced for a merge that was given up."""
        territory = replica.describe().territory
        if territory is None or not territory.fenced:
            return
        step = unfence_step(
            NeighbourView(replica.group, fenced=territory.fenced),
            meta.merges.get(territory.fenced),
            merge_id_next=meta.counters.merge_id_next,
        )
        if step is not None:
            self._premises.take(replica.group, Order(list(step.command)))

    def _split(self, replica: Replica, territory: TerritoryPicture, split: Split, now: Instant) -> None:
        consensus = replica.raft
        view = ParentView(
            first_slot=territory.first,
            last_slot=territory.last,
            newest_child=territory.newest_child,
            is_settled=consensus.log.term_at(consensus.applied) == consensus.term,
        )
        match next_split_step(split, view):
            case LogCommand() as step:
                self._log(replica.group, step, now)
            case Finish():
                if self._proposals.propose(("split", split.child), operations.FinishSplit(split.child)):
                    fields = {"parent": split.parent, "child": split.child, "at_slot": split.at_slot}
                    log.info("partition_split", extra={"fields": fields})
            case GiveUp() as step:
                if self._proposals.propose(("split", split.child), operations.AbortSplit(split.child)):
                    reason = {"parent": split.parent, "child": split.child, "reason": step.note}
                    log.warning("split_given_up", extra={"fields": reason})
            case None:
                pass

    def _merge(
        self, meta: MetaState, replica: Replica, territory: TerritoryPicture, merge: Merge, now: Instant
    ) -> None:
        stage, since = self._stage_since.get(merge.id, (merge.stage, now))
        if stage is not merge.stage:
            since = now
        self._stage_since = {each: value for each, value in self._stage_since.items() if each in meta.merges}
        self._stage_since[merge.id] = (merge.stage, since)
        copy = self._copies.get(merge.id)
        view = NeighbourView(
            partition=replica.group,
            fenced=territory.fenced,
            fence_ended=territory.fence_ended,
            absorbed=territory.absorbed,
            absorb_ended=territory.absorb_ended,
            bytes=replica.keyspace.bytes_used,
            is_copying=copy is not None and not copy.has_ended,
            in_stage_s=now - since,
        )
        match next_merge_step(merge, view, MergeLimits()):
            case LogCommand() as step:
                self._log(replica.group, step, now)
            case CopyToLeft():
                self._copies = {each: held for each, held in self._copies.items() if not held.has_ended}
                self._copies[merge.id] = _Copy(self._premises, replica, merge, territory)
            case AdvanceMerge() as step:
                operation = operations.AdvanceMerge(merge.id, step.stage, step.to, step.note)
                if self._proposals.propose(("merge", merge.id), operation):
                    fields = {"left": merge.left, "right": merge.right, "stage": step.to, "note": step.note}
                    log.info("merge_advances", extra={"fields": fields})
            case None:
                pass
            case step:
                assert_never(step)

    def _log(self, group: GroupId, step: LogCommand, now: Instant) -> None:
        if self._not_before.get(group, 0.0) <= now:
            self._not_before[group] = now + AGAIN_S
            self._premises.take(group, Order(list(step.command)))


class _Copy:
    """What a fenced partition holds, on its way into the log of its left neighbour, one chunk after the other.

    Ends at the first refusal; the left one forgets what it was given when the merge is given up.
    """

    def __init__(self, premises: "Premises", replica: Replica, merge: Merge, territory: TerritoryPicture) -> None:
        self.has_ended = False
        self._premises = premises
        self._left = GroupId(merge.left)
        self._merge = b"%d" % merge.id
        self._range = (b"%d" % territory.first, b"%d" % territory.last)
        self._chunks: Iterator[bytes] = replica.dump_chunks(merge.id)
        self._count = 0
        self._digest = b""
        self._is_complete = False
        self._next()

    def deliver(self, reply: Reply) -> None:
        """The left one has answered."""
        if reply != OK or self._is_complete:
            self.has_ended = True
        else:
            self._next()

    def _next(self) -> None:
        try:
            chunk = next(self._chunks, None)
        except RequestError:  # Not fenced any more.
            self.has_ended = True
            return
        if chunk is None:
            self._is_complete = True
            args = [b"NOCTULE.ABSORB-END", self._merge, b"%d" % self._count, *self._range, self._digest]
        else:
            args = [b"NOCTULE.ABSORB", self._merge, b"%d" % self._count, chunk]
            self._count += 1
            self._digest = chain_digest(self._digest, chunk)
        self._premises.order(self._left, args, self)
