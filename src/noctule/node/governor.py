"""What the leader of *meta* sees to for all: the cluster's formation, who belongs to *meta*, and the plan.

It acts only while it leads *meta*, looks at everything anew each time, and keeps nothing that a successor would miss.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.meta import operations
from noctule.core.meta.settings import ClusterSettings
from noctule.core.meta.state import MetaState
from noctule.core.placement.picture import (
    ClusterPicture,
    LeaderMove,
    Move,
    NodePicture,
    PartitionPicture,
    Plan,
    PlannerLimits,
)
from noctule.core.placement.planner import plan
from noctule.core.placement.replicas import place_replicas
from noctule.core.placement.splits import MergeWish, PartitionLoad, SplitLimits, SplitPolicy
from noctule.core.raft import events as raft
from noctule.core.raft.membership import Change, ChangeKind, Membership
from noctule.core.raft.node import RaftNode
from noctule.core.roster.features import MERGE, MIGRATE, SPLIT
from noctule.core.roster.loads import LoadBoard
from noctule.core.roster.members import PRESENT, Member, MemberState
from noctule.core.wire.messages import Hello
from noctule.node.proposals import Proposals
from noctule.node.registry_keeper import end_what_is_due, keep_members

if TYPE_CHECKING:
    from noctule.node.steward import Premises, Steward

log = logging.getLogger("noctule.node")

META_VOTERS_MAX = 5
"""Voters of *meta*; all other members are learners of it. Five bear the loss of two, and more only slow it down."""
PLAN_S = 1.0
"""How often a plan is made."""
PLAN_ANYWAY_S = 5.0
"""A plan is made so often though nothing has changed: what has been so for a while may be due."""
WATCH_S = 0.1
"""How often it is looked at who is there, and who belongs to *meta*."""
MOVES_SHOWN_MAX = 300
"""Of a plan that is only to be shown: to find thousands of moves would hold up the loop for seconds."""
FORM_WAIT_S = 1.0
"""How long the first leader waits for the others' labels before it places replicas without them."""
DUE_AFTER_S = 2.0
"""A new leader ends nothing in the registry for so long: who could not renew without a leader is let in first."""
CAUGHT_UP_ENTRIES = 100
"""A learner that misses no more may be made a voter."""


class Founding(Struct, frozen=True):
    """What a cluster is formed with, as the settings of each first member say."""

    cluster_id: str
    """Drawn by each node anew; the first one that is logged holds."""
    members: tuple[Member, ...]
    """As far as known without having met them; none on a node that joined."""
    partition_count: int
    replication_factor: int
    settings: dict[str, int | float | str | bool] = {}


class Governor:
    """One node's; idle while another one leads *meta*."""

    def __init__(self, node_id: int, steward: "Steward", premises: "Premises", proposals: Proposals) -> None:
        self.founding: Founding | None = None
        """Set before the first tick on the first members of a cluster."""
        self.met: dict[int, Hello] = {}
        """What peers have said of themselves."""
        self._node_id = node_id
        self._steward = steward
        self._premises = premises
        self._proposals = proposals
        self._leads_since: Instant | None = None
        self._away_since: dict[int, Instant] = {}
        self._watch_at = self._plan_at = self._plan_anyway_at = Instant(0.0)
        self._nothing_to_do: tuple[int, int] | None = None
        """The versions of *meta* and of the board for which a plan was empty: with ten thousand partitions each plan
        costs tens of milliseconds."""
        self._policy = SplitPolicy(SplitLimits())

    def tick(self, meta: MetaState, now: Instant) -> None:
        """Do what is due; nothing unless this node leads *meta*."""
        if now < self._watch_at:
            return
        self._watch_at = Instant(now + WATCH_S)
        self._note_absences(meta, now)
        consensus = self._premises.replicas[META_GROUP].raft
        if not consensus.is_leader():
            self._leads_since = None
            return
        if self._leads_since is None:
            self._leads_since = now
        if not meta.cluster_id:
            self._form(now)
            return
        self._keep_membership(meta, consensus)
        keep_members(meta, self._premises.is_alive, self._proposals)
        if now - self._leads_since >= DUE_AFTER_S:
            end_what_is_due(meta, self._premises.wall_ms(), self._proposals)
        if now >= self._plan_at:
            self._plan_at = Instant(now + PLAN_S)
            self._open_features(meta)
            if now - self._leads_since >= PLAN_S:  # By then everybody has been heard, and has reported.
                self._govern(meta, now)

    def picture(self, meta: MetaState, now: Instant) -> ClusterPicture:
        """The cluster as the planner sees it from here."""
        board = self._steward.board
        nodes = tuple(
            NodePicture(
                id=member.id,
                labels=member.labels,
                weight=member.weight,
                state=member.state,
                is_alive=self._premises.is_alive(member.id),
                away_s=now - self._away_since.get(member.id, now),
                memory_bytes=board.memory_bytes.get(member.id, 0),
            )
            for member in meta.roster.values()
            if member.state in PRESENT or meta.held_by.get(member.id)
        )
        partitions = []
        for partition in meta.map:
            load = board.load_of(GroupId(partition.id))
            partitions.append(
                PartitionPicture(
                    id=partition.id,
                    replicas=partition.replicas,
                    leader=board.leader_of(GroupId(partition.id)),
                    bytes=load.bytes_used if load else 0,
                    keys=load.keys if load else 0,
                    requests_per_s=load.requests_per_s if load else 0.0,
                    state=partition.state,
                    has_operation=partition.id in meta.busy,
                )
            )
        running = tuple(
            Move(migration.partition, migration.source, migration.target)
            for migration in meta.migrations.values()
            if not migration.ended_ms
        )
        return ClusterPicture(nodes, tuple(partitions), meta.replication_factor, running)

    def plan(self, meta: MetaState, now: Instant, *, is_dry: bool = False, is_balancing: bool | None = None) -> Plan:
        """What would be done next; with `is_dry` up to `MOVES_SHOWN_MAX` moves, however many may run at a time."""
        settings = meta.settings
        limits = PlannerLimits(
            moves_max=MOVES_SHOWN_MAX if is_dry else settings.migrations_concurrent_max,
            node_replace_after_s=settings.node_replace_after_s or float("inf"),
            is_balancing=settings.rebalance_enabled if is_balancing is None else is_balancing,
        )
        return plan(self.picture(meta, now), limits)

    # Formation -------------------------------------------------------------------------------------------------------

    def _form(self, now: Instant) -> None:
        founding, since = self.founding, self._leads_since
        if founding is None or since is None:
            return
        if len(self.met) + 1 < len(founding.members) and now - since < FORM_WAIT_S:
            return
        known = [self._known(member) for member in founding.members]
        partitions = range(1, founding.partition_count + 1)
        self._proposals.propose(
            "form",
            operations.Form(
                cluster_id=founding.cluster_id,
                members=known,
                replicas=place_replicas(partitions, known, founding.replication_factor),
                replication_factor=founding.replication_factor,
                settings=founding.settings,
            ),
        )

    def _known(self, member: Member) -> Member:
        if member.id == self._node_id and self._steward.own is not None:
            return self._steward.own
        return self.met[member.id].member(member.peer) if member.id in self.met else member

    # The membership of meta ------------------------------------------------------------------------------------------

    def _keep_membership(self, meta: MetaState, consensus: RaftNode) -> None:
        """One change at a time towards: every present member is there, some of them vote, and nobody else."""
        membership = consensus.log.membership
        if membership.is_joint() or consensus.log.membership_index > consensus.commit:
            return
        matched = consensus.describe().match
        caught_up = {node for node, match in matched.items() if match + CAUGHT_UP_ENTRIES >= consensus.commit}
        change = next_change(
            membership,
            {node: member.state for node, member in meta.roster.items()},
            reliable={node for node in caught_up if self._premises.is_alive(node)} | {self._node_id},
            leader=self._node_id,
        )
        if change is not None:
            self._premises.take(META_GROUP, raft.ChangeMembership((change,), raft.Transition.SIMPLE))

    # The plan --------------------------------------------------------------------------------------------------------

    def _note_absences(self, meta: MetaState, now: Instant) -> None:
        """Since when each member is away, as this node noticed; so a new leader of *meta* need not begin to count."""
        for node, member in meta.roster.items():
            if member.state not in PRESENT or self._premises.is_alive(node):
                self._away_since.pop(node, None)
            else:
                self._away_since.setdefault(node, now)

    def _open_features(self, meta: MetaState) -> None:
        present = [member for member in meta.roster.values() if member.state in PRESENT]
        common = set(present[0].features).intersection(*(member.features for member in present)) if present else set()
        for name in sorted(common - meta.features):
            self._proposals.propose(("feature", name), operations.OpenFeature(name))

    def _govern(self, meta: MetaState, now: Instant) -> None:
        self._dismiss(meta, now)
        known = (meta.version, self._steward.board.version)
        if known == self._nothing_to_do and not self._away_since and now < self._plan_anyway_at:
            return
        self._plan_anyway_at = Instant(now + PLAN_ANYWAY_S)
        found = self.plan(meta, now)
        self._nothing_to_do = known if not found.moves and not found.leader_moves else None
        for move in found.moves if MIGRATE in meta.features else ():
            self._begin(move)
        for change in found.leader_moves:
            self._prefer(change)
        self._reshape(meta, now)

    def _reshape(self, meta: MetaState, now: Instant) -> None:
        """Begin the splits and merges that have been due for a while."""
        self._policy.limits = limits_of(meta.settings, len(meta.map))
        board = self._steward.board
        for wish in self._policy.look(loads_of(meta, board), now):
            if (MERGE if isinstance(wish, MergeWish) else SPLIT) not in meta.features:
                continue
            if isinstance(wish, MergeWish):
                self._policy.rest((wish.left, wish.right), now)
                merge = operations.BeginMerge(wish.left, wish.right, wish.reason)
                self._proposals.propose(("reshape", wish.left), merge)
                continue
            load = board.load_of(GroupId(wish.partition))
            self._policy.rest((wish.partition,), now)
            if load is not None and load.split_slot:
                reason = f"{wish.reason}; {load.split_note}"
                split = operations.BeginSplit(wish.partition, load.split_slot, reason)
                self._proposals.propose(("reshape", wish.partition), split)
            elif load is not None and load.split_note:
                fields = {"group": wish.partition, "reason": wish.reason, "note": load.split_note}
                log.warning("partition_hot", extra={"fields": fields})

    def _begin(self, move: Move) -> None:
        operation = operations.BeginMigration(move.partition, move.source, move.target, move.reason)
        self._proposals.propose(("begin", move.partition), operation)

    def _prefer(self, change: LeaderMove) -> None:
        self._proposals.propose(("prefer", change.partition), operations.PreferLeader(change.partition, change.to))

    def _dismiss(self, meta: MetaState, now: Instant) -> None:
        """A member that stays away too long and holds nothing any more is taken out of the roster."""
        limit_s = meta.settings.node_replace_after_s
        for node, since in self._away_since.items():
            if limit_s and now - since >= limit_s and not meta.held_by.get(node):
                self._proposals.propose(("remove", node), operations.SetMemberState(node, MemberState.REMOVED))


def loads_of(meta: MetaState, board: LoadBoard) -> list[PartitionLoad]:
    """What each partition has to bear, in the order of their slots."""
    loads = []
    for partition in sorted(meta.map, key=lambda each: each.first_slot):
        if partition.slot_count:
            load = board.load_of(GroupId(partition.id))
            loads.append(
                PartitionLoad(
                    partition=partition.id,
                    first_slot=partition.first_slot,
                    last_slot=partition.last_slot,
                    bytes=load.bytes_used if load else 0,
                    requests_per_s=load.requests_per_s if load else 0.0,
                    has_operation=partition.id in meta.busy,
                )
            )
    return loads


def limits_of(settings: ClusterSettings, partition_count: int) -> SplitLimits:
    """When the policy splits and merges, by the cluster's settings."""
    return SplitLimits(
        bytes_max=settings.split_bytes or 1 << 62,
        requests_per_s_max=settings.split_requests_per_s or float("inf"),
        over_for_s=settings.split_after_s,
        merge_bytes_max=settings.merge_bytes,
        merge_after_s=settings.merge_after_s,
        partitions_min=1 if settings.merge_enabled else partition_count,
        partitions_max=settings.partitions_max,
    )


def next_change(
    membership: Membership, states: Mapping[int, MemberState], *, reliable: set[int], leader: int
) -> Change | None:
    """The next single change of *meta*'s membership; None when it is as it should be.

    `reliable` are the nodes that are alive and have caught up. First those who belong come in as learners, then voters
    are made, since more voters bear more losses; those that should not vote are taken back only when enough others do,
    and never so that a majority of those who are left is not there.
    """
    members, voters = set(membership.members()), set(membership.voters)
    present = {node for node, state in states.items() if state in PRESENT}
    for node in sorted(present - members):
        return Change(ChangeKind.LEARNER, node)
    active = {node for node in present if states[node] is MemberState.ACTIVE}
    wanted = min(len(active), META_VOTERS_MAX)
    wanted -= wanted % 2 == 0 and wanted > 2
    steady = voters & active & reliable
    candidates = sorted((active & reliable) - voters)
    unsteady = sorted(voters - steady, key=lambda node: (node in present, node in active, node))
    if candidates and (len(steady) < wanted or (len(voters) < wanted)):
        return Change(ChangeKind.VOTER, candidates[0])
    gone = [node for node in unsteady if node not in present]
    spare = gone or [node for node in unsteady if node not in active]
    if not spare and len(voters) > wanted:
        spare = unsteady or [node for node in sorted(voters, reverse=True) if node != leader]
    for node in spare:
        left = voters - {node}
        if 2 * len(left & reliable) > len(left):  # Else what is agreed on next would wait for whoever is away.
            return Change(ChangeKind.LEARNER if node in present else ChangeKind.REMOVED, node)
    for node in sorted(members - voters - present):
        return Change(ChangeKind.REMOVED, node)
    return None
