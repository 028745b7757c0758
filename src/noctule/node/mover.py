"""What a leader does for the partitions it leads: migrations, one step after the other; splits and merges: reshaper.py.

What the next step is, core.migration decides from what the leader sees; here it is looked up and carried out. Any step
may be lost: it is decided anew a moment later.
"""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from noctule.base.ids import GroupId, Instant
from noctule.core.meta import operations
from noctule.core.meta.settings import ClusterSettings
from noctule.core.meta.state import MetaState
from noctule.core.migration.group_view import Digest, GroupView, view_group
from noctule.core.migration.mover import (
    Advance,
    ChangeMembership,
    MigrationLimits,
    Progress,
    ProposeDigest,
    Step,
    TransferLeadership,
    next_step,
    tidy_step,
    watch,
)
from noctule.core.migration.stages import Migration
from noctule.core.raft import events as raft
from noctule.core.replica.events import TakeDigest
from noctule.core.replica.replica import Replica
from noctule.node.proposals import Proposals
from noctule.node.reshaper import Reshaper

if TYPE_CHECKING:
    from noctule.node.steward import Premises

log = logging.getLogger("noctule.node")

TIDY_S = 1.0
"""How often groups led here, in which something happened, are compared with the map."""
AGAIN_S = 0.1
"""A change of membership or leadership that was asked for has so long to begin."""


class Mover:
    """One node's."""

    def __init__(self, node_id: int, premises: "Premises", proposals: Proposals) -> None:
        self.reshaper = Reshaper(premises, proposals)
        self._node_id = node_id
        self._premises = premises
        self._proposals = proposals
        self.progress: dict[GroupId, Progress] = {}
        """Of the migrations of partitions led here."""
        self.restless: set[GroupId] = set()
        """The groups in which something happened since they were last compared with the map."""
        self._digest_asked: dict[GroupId, bytes] = {}
        self._not_before: dict[GroupId, float] = {}
        self._tidy_at = Instant(0.0)

    def tick(self, meta: MetaState, now: Instant) -> None:
        """Look at what goes on with the partitions that are led here, and do what is next for each."""
        for partition, work in meta.busy.items():
            replica = self._led(GroupId(partition))
            if replica is None:
                continue
            if isinstance(work, Migration):
                self._move(meta, replica, work, now)
            else:
                self.reshaper.tick(meta, replica, work, now)
        for group in [group for group in self.progress if group not in meta.busy or self._led(group) is None]:
            del self.progress[group]
            self._digest_asked.pop(group, None)
        if now >= self._tidy_at:
            self._tidy_at = Instant(now + TIDY_S)
            self._tidy(meta, now)

    def _led(self, group: GroupId) -> Replica | None:
        replica = self._premises.replicas.get(group)
        return replica if replica is not None and replica.raft.is_leader() else None

    def _move(self, meta: MetaState, replica: Replica, migration: Migration, now: Instant) -> None:
        group = replica.group
        _heed(meta.settings, replica)
        view = self._view(meta, replica, migration.target, now)
        progress = self.progress[group] = watch(self.progress.get(group), migration, view, now)
        limits = MigrationLimits(timeout_s=meta.settings.migration_timeout_s)
        step = next_step(migration, view, progress, now, limits)
        if isinstance(step, Advance):
            operation = operations.AdvanceMigration(migration.id, step.stage, step.to, step.note)
            if self._proposals.propose(("advance", migration.id), operation):
                fields = {"migration": migration.id, "group": group, "stage": step.to, "note": step.note}
                log.info("migration_advances", extra={"fields": fields})
        elif step is not None:
            self._carry_out(group, step, now)

    def _tidy(self, meta: MetaState, now: Instant) -> None:
        restless, self.restless = self.restless, set()
        for group in sorted(restless):
            replica, partition = self._led(group), meta.map.get(group)
            if replica is None or partition is None or group in meta.busy:
                continue
            self.reshaper.tidy(meta, replica)
            if not partition.initial:
                step = tidy_step(partition, self._view(meta, replica, 0, now))
                if step is not None:
                    self._carry_out(group, step, now)

    def _carry_out(self, group: GroupId, step: Step, now: Instant) -> None:
        if self._not_before.get(group, 0.0) > now:
            return
        self._not_before[group] = now + AGAIN_S
        match step:
            case ChangeMembership():
                transition = raft.Transition.JOINT if step.joint else raft.Transition.SIMPLE
                self._premises.take(group, raft.ChangeMembership(step.changes, transition))
            case TransferLeadership():
                self._premises.take(group, raft.TransferLeadership(step.target))
            case ProposeDigest():
                self._digest_asked[group] = step.nonce
                self._premises.take(group, TakeDigest(step.nonce))
            case Advance():
                pass
            case _:
                assert_never(step)

    def _view(self, meta: MetaState, replica: Replica, target: int, now: Instant) -> GroupView:
        group = replica.group
        view = view_group(
            replica.raft,
            now,
            target=target,
            is_target_present=meta.is_present(target),
            state_bytes=replica.keyspace.bytes_used,
            keys=replica.keyspace.key_count,
            digest_asked=self._digest_asked.get(group, b""),
            digests=frozenset(
                Digest(node, told.nonce, told.index, told.digest)
                for node, told in self._premises.digests.get(group, {}).items()
            ),
        )
        assert view is not None  # It is asked for what is led here.
        return view


def _heed(settings: ClusterSettings, replica: Replica) -> None:
    """What may change while the cluster runs, for what is sent and written from now on."""
    consensus = replica.raft
    consensus.snapshot_bytes_per_s = settings.migration_bytes_per_s_max
    if consensus.config.chunk_bytes_max != settings.migration_chunk_bytes:
        consensus.config = replace(consensus.config, chunk_bytes_max=settings.migration_chunk_bytes)
