"""A node follows the map: which replicas it has, whom it knows, where requests go, all as *meta* says.

The steward looks at this node's own replica of *meta*, as far as that has applied, and makes what is here equal to what
is written there, again and again; it decides nothing. Synchronous and without a clock of its own: the real node and the
simulator call it alike. What a leader does for the partitions it leads is mover.py, what the leader of *meta* does for
all is governor.py.
"""

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.meta.operations import ReleaseReplica, UpdateMember
from noctule.core.meta.state import MetaState
from noctule.core.migration.mover import Progress
from noctule.core.placement.hotspots import SplitAdvice
from noctule.core.placement.partition_map import Partition, PartitionMap, Promise
from noctule.core.replica.events import Event, WriteSnapshotNow
from noctule.core.replica.replica import Replica
from noctule.core.roster.loads import Compared, GroupLoad, LoadBoard, LoadReport, MoveProgress
from noctule.core.roster.members import PRESENT, Member, farewell
from noctule.core.wire.messages import DigestTold, Hello
from noctule.node.api import ReplySink
from noctule.node.comparer import Comparer
from noctule.node.governor import Governor
from noctule.node.load_watch import LoadWatch
from noctule.node.mover import Mover
from noctule.node.proposals import Proposals

log = logging.getLogger("noctule.node")

REPLICAS_PER_TICK_MAX = 40
"""Made or removed in one go; each takes about a tenth of a millisecond, and the loop must go on."""
LEAD_S = 0.02
"""How often what is led here is looked at, while something moves."""
REPORT_S = 1.0
TOLD_AGAIN_MAX = 1_000
"""Groups in which nothing has happened that one report tells again for who has just connected: about 4 ms."""
MOVES_S = 0.25
"""How often it is told how migrations get on."""
NEWCOMERS_MAX = 100
"""Strangers that are dialled at a time. More of them would have joined while this node was away; they are met later."""
CHILD_S = 5.0
"""How long a child that this node's parent is to make may be missing before it is begun empty, to be told by others."""


class Premises(Protocol):
    """What a steward needs of the node it serves."""

    replicas: dict[GroupId, Replica]

    @property
    def active(self) -> set[GroupId]:
        """The groups that took an event since somebody last emptied this."""
        ...

    @property
    def requests(self) -> dict[GroupId, int]:
        """Commands that groups led here answered since somebody last emptied this."""
        ...

    @property
    def digests(self) -> Mapping[GroupId, Mapping[int, DigestTold]]:
        """Of groups led here: what each replica told last of its state."""
        ...

    def add_replica(self, partition: Partition) -> None:
        """Make a replica that is not here, and make it durable that it begins."""

    def mute_replica(self, group: GroupId, is_mute: bool) -> None:
        """Whether what other nodes say to a replica is not to reach it."""

    def remove_replica(self, group: GroupId) -> None:
        """Forget a replica for good, its log and its snapshots."""

    def take(self, group: GroupId, event: Event) -> None:
        """One event for one group."""

    def set_members(self, cluster_id: str, members: Mapping[int, Member]) -> None:
        """These are the present members, this node perhaps among them: connect to the others, and to nobody else."""

    def add_peer(self, member: Member) -> None:
        """Connect to this one too, until `set_members` says otherwise."""

    def is_alive(self, node: int) -> bool:
        """Whether the failure detector trusts that node; this one is always alive."""
        ...

    def order(self, group: GroupId, args: list[bytes], sink: ReplySink) -> None:
        """Have the leader of a group log a command about the group itself, wherever it is."""

    def broadcast(self, report: LoadReport) -> None:
        """To every node that is connected."""

    def memory_bytes(self) -> int:
        """That this process takes."""
        ...

    def wall_ms(self) -> int:
        """The time by this node's clock, in unix ms."""
        ...

    def retire(self, reason: str) -> None:
        """This node no longer belongs to the cluster: stop serving."""


class _Farewell:
    """A replica is about to be removed, from when it fell silent until then, or until the map gives it back."""

    def __init__(self) -> None:
        self.is_released = False

    def answered(self, reply: Reply) -> None:
        self.is_released |= not isinstance(reply, Failure)


class Steward:
    """One node's. `tick` is to be called every few milliseconds."""

    def __init__(
        self,
        node_id: int,
        partitions: PartitionMap,
        premises: Premises,
        proposals: Proposals,
        map_changed: Callable[[Iterable[GroupId]], None],
        features_changed: Callable[[frozenset[str]], None],
        chance: random.Random,
    ) -> None:
        self.node_id = node_id
        self.partitions = partitions
        """The map as others on this node follow it: one object for the whole life of the node, equal to that of *meta*
        after each `tick`. `map_changed` is told of each change, and `features_changed` before of what may be used."""
        self.board = LoadBoard()
        self.load_watch = LoadWatch(chance)
        self.proposals = proposals
        self.mover = Mover(node_id, premises, proposals)
        self.comparer = Comparer(premises)
        self.governor = Governor(node_id, self, premises, proposals)
        self.own: Member | None = None
        """What this node is to be in the roster; None until its doors are open."""
        self.changed: Callable[[], None] = lambda: None
        """Called when *meta* has changed here, after what follows from it has begun."""
        self._premises = premises
        self._map_changed = map_changed
        self._features_changed = features_changed
        self._features: frozenset[str] | None = None
        """As last told; None while no cluster is known."""
        self._pending: dict[GroupId, Instant] = {}
        """Partitions to be looked at, and since when."""
        self._farewells: dict[GroupId, _Farewell] = {}
        self._newcomers: dict[int, Member] = {}
        """Nodes that say they are members, with ids that *meta* has not given yet as far as it is applied here."""
        self._seen: tuple[int, int] = (0, -1)
        """Which state of *meta*, by identity and version, has been looked at."""
        self._lead_at = self._report_at = self._moves_at = Instant(0.0)
        self._busy_before: set[GroupId] = set()
        """The groups whose last report told of requests: without any since, that is news."""
        self._moved_before: set[GroupId] = set()
        """The groups whose last report told of a migration."""
        self._untold: set[GroupId] = set()
        """The groups led here of which a node that has just connected may have heard nothing."""

    @property
    def meta(self) -> MetaState:
        """What *meta* says, as far as it is applied here."""
        state = self._premises.replicas[META_GROUP].keyspace
        assert isinstance(state, MetaState)
        return state

    def tick(self, now: Instant) -> None:
        """Look at what has changed, and do a bounded piece of what is left to do."""
        meta = self.meta
        if self._seen != (id(meta), meta.version):
            self._seen = (id(meta), meta.version)
            self._take_changes(meta, now)
            self.changed()
        if self._pending:
            self._settle(meta, now)
        if now >= self._lead_at:
            self._lead_at = Instant(now + LEAD_S)
            self.mover.tick(meta, now)
            self.comparer.tick(meta, now)
            self.governor.tick(meta, now)
        if now >= self._report_at:
            self._report_at = Instant(now + REPORT_S)
            self._report(meta, now)
            self._tell_own(meta)
        elif self.mover.progress and now >= self._moves_at:
            self._moves_at = Instant(now + MOVES_S)
            self._report_moves(meta, now)

    @property
    def is_settled(self) -> bool:
        """Whether the replicas here are those that the map gives this node; not before the map was looked at once."""
        return self._features is not None and not self._pending

    def preferred_leader(self, group: GroupId) -> int:
        """Who should lead the group while all is well; 0: nobody in particular."""
        if group == META_GROUP:
            voters = self._premises.replicas[META_GROUP].raft.log.membership.voters
            return voters[0] if voters else 0
        partition = self.meta.map.get(group)
        return partition.replicas[0] if partition is not None and partition.replicas else 0

    def meet(self, hello: Hello) -> bool:
        """Whether a stranger may be a member of which this node, being behind, has not heard; connect to it then.

        It may be the one that leads *meta*, from which alone it could be heard. Ids only rise, so one that is known to
        have been given is no newcomer's.
        """
        if hello.node_id < self.meta.counters.member_id_next or not hello.peer:
            return False
        if hello.node_id not in self._newcomers and len(self._newcomers) >= NEWCOMERS_MAX:
            return False
        self._newcomers[hello.node_id] = hello.member(hello.peer)
        self._premises.add_peer(self._newcomers[hello.node_id])
        return True

    def farewell(self, node: int) -> str:
        """How a node ceased to be a member, in words; empty when it is one, or never was, as far as is known here."""
        member = self.meta.roster.get(node)
        return "" if member is None else farewell(member)

    def peer_connected(self, hello: Hello) -> None:
        """A node connected that may have heard nothing so far, and says what it is."""
        self.board.tell_again()
        self._untold.update(group for group, replica in self._premises.replicas.items() if replica.raft.is_leader())
        self.governor.met[hello.node_id] = hello

    # The map ---------------------------------------------------------------------------------------------------------

    def _take_changes(self, meta: MetaState, now: Instant) -> None:
        changes = meta.take_changes()
        if meta.cluster_id and meta.features != self._features:
            self._features = meta.features
            self._features_changed(meta.features)
        groups = {GroupId(group) for group in changes.partitions}
        if changes.everything:  # What is gone cannot be among them.
            groups |= self._premises.replicas.keys() - {META_GROUP} | self.partitions.partitions.keys()
        for group in sorted(groups):
            self._pending.setdefault(group, now)
            partition = meta.map.get(group)
            if partition is not None:
                self.partitions.put(partition)
            elif self.partitions.get(group) is not None:
                self.partitions.remove(group)
                self.board.forget(group)
        if groups:
            self._map_changed(sorted(groups))
        if changes.members and meta.roster:
            given = meta.counters.member_id_next
            self._newcomers = {node: member for node, member in self._newcomers.items() if node >= given}
            present = {node: member for node, member in meta.roster.items() if member.state in PRESENT}
            self._premises.set_members(meta.cluster_id, present | self._newcomers)
            own = meta.roster.get(self.node_id)
            if own is not None and own.state not in PRESENT:
                self._premises.retire(farewell(own))

    def _settle(self, meta: MetaState, now: Instant) -> None:
        left: dict[GroupId, Instant] = {}
        done = 0
        pending = iter(self._pending.items())
        for group, since in pending:
            partition = meta.map.get(group)
            is_mine = partition is not None and self.node_id in partition.replicas
            if is_mine == (group in self._premises.replicas):
                if is_mine and self._farewells.pop(group, None) is not None:
                    self._premises.mute_replica(group, False)
                continue
            done += 1
            if done > REPLICAS_PER_TICK_MAX:
                left |= {group: since, **dict(pending)}
                break
            if partition is None or not is_mine:
                if self._is_unheard_of(group, meta) or self._is_bound(group) or not self._is_released(group):
                    left[group] = since
                else:
                    del self._farewells[group]
                    self._premises.remove_replica(group)
            elif self._awaits_parent(partition, now - since):
                left[group] = since
            else:
                self._premises.add_replica(partition)
        self._pending = left

    def _is_released(self, group: GroupId) -> bool:
        """Whether the newest map that there is does not give the replica to this node either.

        Until *meta* has said so the replica keeps what it has promised, and promises nothing more: the group may have
        taken it in again, and would count on that.
        """
        farewell = self._farewells.get(group)
        if farewell is None:
            farewell = self._farewells[group] = _Farewell()
            self._premises.mute_replica(group, True)
        if not farewell.is_released:
            consensus = self._premises.replicas[group].raft
            last_term, last_index = consensus.log.last_term, consensus.log.last_index
            promise = Promise(self.node_id, consensus.term, consensus.vote, last_term, last_index)
            operation = ReleaseReplica(group, promise)
            self.proposals.propose(("release", group), operation, farewell.answered)
        return farewell.is_released

    def _is_unheard_of(self, group: GroupId, meta: MetaState) -> bool:
        """Whether the group was made after all that has been applied here: its parent's log came first."""
        return group >= meta.counters.partition_id_next

    def _is_bound(self, group: GroupId) -> bool:
        """Whether a replica here might split this one off again after a restart, without what it has promised since.

        That one is asked for a snapshot, and then does not.
        """
        parents = [each for each in self._premises.replicas.values() if each.may_split_off(group)]
        for parent in parents:
            self._premises.take(parent.group, WriteSnapshotNow())
        return bool(parents)

    def _awaits_parent(self, partition: Partition, waited_s: float) -> bool:
        """Whether the replica of this child is about to be made by the parent's, here, with all its data."""
        parent = self._premises.replicas.get(GroupId(partition.parent)) if partition.parent else None
        territory = parent.keyspace.territory if parent is not None else None
        return territory is not None and territory.newest_child < partition.id and waited_s < CHILD_S

    def _tell_own(self, meta: MetaState) -> None:
        """Have the roster say of this node what is so."""
        own, known = self.own, meta.roster.get(self.node_id)
        if own is None or known is None or known.state not in PRESENT:
            return
        # Once the roster has them, labels and weight are the operator's to change.
        is_new = not known.labels
        wanted = msgspec.structs.replace(
            known,
            peer=own.peer,
            control=own.control,
            http=own.http,
            resp=own.resp,
            labels=own.labels if is_new else known.labels,
            weight=own.weight if is_new else known.weight,
            version=own.version,
            features=own.features,
        )
        if wanted != known:
            operation = UpdateMember(
                self.node_id,
                own.peer,
                own.control,
                own.http,
                own.resp,
                own.version,
                own.features,
                # What is known here may be old by now, and must not undo what an operator has changed since.
                own.labels if is_new else None,
                own.weight if is_new else -1.0,
            )
            self.proposals.propose("own", operation)

    # Reports ---------------------------------------------------------------------------------------------------------

    def _report(self, meta: MetaState, now: Instant) -> None:
        premises = self._premises
        requests = dict(premises.requests)
        premises.requests.clear()
        stirred = premises.active | requests.keys() | self._busy_before | self._moved_before
        premises.active.clear()
        self.mover.restless |= stirred
        stirred |= self.comparer.fresh
        self.comparer.fresh.clear()
        self._busy_before = set(requests)
        self._moved_before = set()
        stirred.update(self._untold.pop() for _ in range(min(len(self._untold), TOLD_AGAIN_MAX)))
        self._tell(meta, {group: requests.get(group, 0) for group in sorted(stirred)}, now)

    def _report_moves(self, meta: MetaState, now: Instant) -> None:
        """Between two whole reports: only the groups of which a replica is on its way."""
        known = {group: self.board.load_of(group) for group in sorted(self.mover.progress)}
        requests = {group: load.requests_per_s if load is not None else 0 for group, load in known.items()}
        self._tell(meta, requests, now)

    def _tell(self, meta: MetaState, requests: Mapping[GroupId, int], now: Instant) -> None:
        """Tell everybody, this node too, of those of these groups that are led here."""
        progress = self.mover.progress
        self._moved_before |= progress.keys()
        loads = []
        for group, count in requests.items():
            replica = self._premises.replicas.get(group)
            if replica is not None and replica.raft.is_leader():
                advice = self.load_watch.look(replica, count, meta.settings, now) if group != META_GROUP else None
                loads.append(load_of(replica, count, progress.get(group), advice, self._compared(group)))
        report = self.board.report(loads, self._premises.memory_bytes())
        if report is not None:
            self.board.take(self.node_id, report)
            self._premises.broadcast(report)

    def _compared(self, group: GroupId) -> Compared | None:
        """What came of its newest comparison: until this leader has made one, what an earlier leader told."""
        known = self.board.load_of(group)
        return self.comparer.compared.get(group) or (known.compared if known is not None else None)


def wants_replica(partitions: PartitionMap, group: GroupId, node_id: int) -> bool:
    """Whether a node that follows this map is to have a replica of a group that is split off there.

    A map that does not know the child is behind the log of the parent: whatever is wrong by then is put right later.
    """
    partition = partitions.get(group)
    return partition is None or node_id in partition.replicas


def load_of(
    replica: Replica,
    requests: int,
    moving: Progress | None = None,
    advice: SplitAdvice | None = None,
    compared: Compared | None = None,
) -> GroupLoad:
    """What a leader tells of a group, of the migration of one of its replicas, of where it would be split, and of what
    came of comparing its replicas."""
    consensus = replica.raft
    membership = consensus.log.membership
    last = consensus.log.last_index
    progress = consensus.leadership.progress if consensus.leadership is not None else {}
    return GroupLoad(
        group=replica.group,
        term=consensus.term,
        bytes_used=replica.keyspace.bytes_used,
        keys=replica.keyspace.key_count,
        requests_per_s=requests,
        voters=membership.voters,
        learners=membership.learners,
        lag_entries={peer: last - each.match for peer, each in sorted(progress.items()) if each.match < last},
        move=move_of(moving) if moving is not None else None,
        split_slot=advice.at_slot if advice is not None else 0,
        split_note=advice.sentence if advice is not None else "",
        compared=compared,
    )


def move_of(progress: Progress) -> MoveProgress:
    """What is told of it; rounded, so that a rate that wavers is not news."""
    left = progress.seconds_left
    return MoveProgress(
        migration=progress.migration,
        stage=progress.stage,
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        keys_done=progress.keys_done,
        keys_total=progress.keys_total,
        entries_left=progress.entries_left,
        bytes_per_s=float(round(progress.bytes_per_s)),
        seconds_left=None if left is None else round(left, 1),
    )
