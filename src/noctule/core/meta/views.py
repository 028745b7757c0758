"""The cluster as whoever looks after it is shown it: members, partitions, and what is on its way, as plain values.

Made from what *meta* says and what the leaders have told of their groups, by any node alike. What one node says of
itself alone, such as what it has applied, is not here. The HTTP API sends these, and its client reads them.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from msgspec import Struct

from noctule.base.errors import RequestError
from noctule.base.ids import GroupId
from noctule.core.meta.state import MetaState
from noctule.core.migration.merges import Merge
from noctule.core.migration.splits import Split
from noctule.core.migration.stages import ENDED, Migration
from noctule.core.placement.partition_map import Partition, PartitionMap, PartitionState
from noctule.core.roster.loads import Compared, GroupLoad, LoadBoard
from noctule.core.roster.members import PRESENT, Member, MemberState

Kind = Literal["migration", "split", "merge"]


class Reach(Struct, frozen=True):
    """How one node reaches another at one moment."""

    node: int
    """The other one."""
    is_connected: bool
    """Whether frames leave for it."""
    is_trusted: bool
    """Whether the failure detector takes it for alive."""
    call_ms: float | None
    """There and back by a call to its control port; None when there was no answer."""
    problem: str = ""
    """Why not, in words."""


class MemberView(Struct, frozen=True):
    """One node that was ever let in."""

    id: int
    state: MemberState
    alive: bool
    """Whether the asked node's failure detector trusts it."""
    peer: str
    """host:port of its doors, as it last said; empty where it has none or has not said."""
    control: str
    http: str
    resp: str
    labels: dict[str, str]
    weight: float
    version: str
    features: tuple[str, ...]
    joined_ms: int
    leads: int
    """Partitions whose leader it last was, as far as anyone told."""
    replicas: int
    """Partitions that the map has a copy of there."""
    bytes: int
    """That these hold together, as their leaders last told."""
    memory_bytes: int
    """That its process takes; 0 while it has not told."""


class ReplicaView(Struct, frozen=True):
    """One copy of a partition."""

    node: int
    role: Literal["leader", "voter", "learner", "unknown"]
    """Unknown while no leader has told of it."""
    lag_entries: int | None
    """Entries of the log that it did not have when the leader last told; None while nobody did."""


class ComparedReplica(Struct, frozen=True):
    """One copy of a partition in a comparison."""

    node: int
    verdict: Literal["equal", "different", "silent"]
    """Equal to what most hold; where nothing is held by most, all that told are different. Silent: told nothing."""


class ComparedView(Struct, frozen=True):
    """What came of comparing the replicas of a partition, by their digests as of one entry."""

    partition: int
    index: int
    """Of the entry; 0 when no replica told anything."""
    replicas: tuple[ComparedReplica, ...]
    """By node."""


class PartitionView(Struct, frozen=True):
    """One partition of the map, with what its leader last told."""

    id: int
    first_slot: int
    """Both inclusive; a child that is not split off yet has none, and then the first is the greater one."""
    last_slot: int
    state: PartitionState
    epoch: int
    """The map's when this last changed."""
    leader: int
    """0 while nobody has told that it leads."""
    replicas: tuple[ReplicaView, ...]
    """The preferred leader first."""
    bytes: int
    keys: int
    requests_per_s: int
    differing: tuple[int, ...] = ()
    """The nodes whose replicas were found not to hold what most of them hold, when they were last compared."""


class ProgressView(Struct, frozen=True):
    """How a migration gets on, as the partition's leader told within the last second."""

    bytes_done: int
    bytes_total: int
    keys_done: int
    keys_total: int
    entries_left: int
    bytes_per_s: float
    seconds_left: float | None
    """None while nobody can tell."""


class OperationView(Struct, frozen=True):
    """Something that goes on with a partition, or did: a migration, a split or a merge."""

    kind: Kind
    id: int
    """Of its kind; of a split the id of the partition that is split off."""
    partition: int
    """Of a merge the left one, which stays."""
    stage: str
    """A split says only ``splitting``, or ``done`` to who has just begun it: no record is kept of an ended one."""
    source: int = 0
    """The node that loses its replica; 0: one is added."""
    target: int = 0
    """The node that gets one; 0: one is dropped."""
    other: int = 0
    """Of a split the new partition, of a merge the right one, which goes."""
    at_slot: int = 0
    """Of a split the new partition's first slot."""
    reason: str = ""
    note: str = ""
    """Why it went back."""
    begun_ms: int = 0
    """Unix time by the stamps of *meta*; 0 where it has not come to that. The same for the end."""
    ended_ms: int = 0
    progress: ProgressView | None = None
    """Of a migration on its way."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.ended_ms > 0


def view_members(meta: MetaState, board: LoadBoard, is_alive: Callable[[int], bool]) -> list[MemberView]:
    """Every member, by id. Costs a look at every partition."""
    leads: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for partition in meta.map:
        group = GroupId(partition.id)
        load, leader = board.load_of(group), board.leader_of(group)
        leads[leader] = leads.get(leader, 0) + 1
        if load is not None:
            for node in partition.replicas:
                sizes[node] = sizes.get(node, 0) + load.bytes_used
    return [
        _member(
            meta.roster[node],
            is_alive=meta.roster[node].state in PRESENT and is_alive(node),
            leads=leads.get(node, 0),
            replicas=len(meta.held_by.get(node, ())),
            size=sizes.get(node, 0),
            memory=board.memory_bytes.get(node, 0),
        )
        for node in sorted(meta.roster)
    ]


def _member(member: Member, *, is_alive: bool, leads: int, replicas: int, size: int, memory: int) -> MemberView:
    return MemberView(
        id=member.id,
        state=member.state,
        alive=is_alive,
        peer=member.peer,
        control=member.control,
        http=member.http,
        resp=member.resp,
        labels=member.labels,
        weight=member.weight,
        version=member.version,
        features=member.features,
        joined_ms=member.joined_ms,
        leads=leads,
        replicas=replicas,
        bytes=size,
        memory_bytes=memory,
    )


def view_partition(board: LoadBoard, partition: Partition) -> PartitionView:
    """One partition."""
    group = GroupId(partition.id)
    load, leader = board.load_of(group), board.leader_of(group)
    return PartitionView(
        id=partition.id,
        first_slot=partition.first_slot,
        last_slot=partition.last_slot,
        state=partition.state,
        epoch=partition.epoch,
        leader=leader,
        replicas=tuple(_replica(node, leader, load) for node in partition.replicas),
        bytes=load.bytes_used if load else 0,
        keys=load.keys if load else 0,
        requests_per_s=load.requests_per_s if load else 0,
        differing=_differing(partition, load),
    )


def _differing(partition: Partition, load: GroupLoad | None) -> tuple[int, ...]:
    """A node that has lost its replica since does not count any more."""
    if load is None or load.compared is None:
        return ()
    return tuple(node for node in load.compared.different if node in partition.replicas)


def differing_replicas(partitions: PartitionMap, board: LoadBoard) -> dict[int, tuple[int, ...]]:
    """Of each partition whose replicas were found to differ, the nodes that do not hold what most of them hold.

    Costs a look at every partition of which anything was told.
    """
    found: dict[int, tuple[int, ...]] = {}
    for load in board:
        partition = partitions.get(GroupId(load.group))
        if partition is not None and (nodes := _differing(partition, load)):
            found[partition.id] = nodes
    return dict(sorted(found.items()))


def view_compared(partition: int, compared: Compared) -> ComparedView:
    """What came of one comparison."""
    replicas = [ComparedReplica(node, "equal") for node in compared.equal]
    replicas += [ComparedReplica(node, "different") for node in compared.different]
    replicas += [ComparedReplica(node, "silent") for node in compared.silent]
    return ComparedView(partition, compared.index, tuple(sorted(replicas, key=lambda each: each.node)))


def _replica(node: int, leader: int, load: GroupLoad | None) -> ReplicaView:
    if load is None:
        return ReplicaView(node, "unknown", None)
    if node == leader:
        return ReplicaView(node, "leader", 0)
    if node in load.voters or node in load.learners:
        return ReplicaView(node, "voter" if node in load.voters else "learner", load.lag_entries.get(node, 0))
    return ReplicaView(node, "unknown", None)


def view_operations(meta: MetaState, board: LoadBoard) -> list[OperationView]:
    """What is on its way, and what of the past is remembered, the newest last."""
    views = [view_migration(board, each) for each in meta.migrations.values()]
    views += [view_split(each) for each in meta.splits.values()]
    views += [view_merge(each) for each in meta.merges.values()]
    return sorted(views, key=lambda view: (view.begun_ms, view.kind, view.id))


def running_operations(meta: MetaState, board: LoadBoard) -> Iterator[OperationView]:
    """Only what is on its way, each once; costs what that is."""
    for work in {id(work): work for work in meta.busy.values()}.values():
        if isinstance(work, Migration):
            yield view_migration(board, work)
        else:
            yield view_split(work) if isinstance(work, Split) else view_merge(work)


def view_migration(board: LoadBoard, migration: Migration) -> OperationView:
    """One migration, with how it gets on as far as that was told."""
    return OperationView(
        kind="migration",
        id=migration.id,
        partition=migration.partition,
        stage=migration.stage,
        source=migration.source,
        target=migration.target,
        reason=migration.reason,
        note=migration.note,
        begun_ms=migration.begun_ms,
        ended_ms=migration.ended_ms,
        progress=None if migration.stage in ENDED else _progress(board, migration),
    )


def _progress(board: LoadBoard, migration: Migration) -> ProgressView | None:
    load = board.load_of(GroupId(migration.partition))
    move = load.move if load is not None else None
    if move is None or move.migration != migration.id:
        return None
    return ProgressView(
        bytes_done=move.bytes_done,
        bytes_total=move.bytes_total,
        keys_done=move.keys_done,
        keys_total=move.keys_total,
        entries_left=move.entries_left,
        bytes_per_s=move.bytes_per_s,
        seconds_left=move.seconds_left,
    )


def view_split(split: Split) -> OperationView:
    """One split on its way."""
    return OperationView(
        kind="split",
        id=split.child,
        partition=split.parent,
        stage="splitting",
        other=split.child,
        at_slot=split.at_slot,
        reason=split.reason,
        begun_ms=split.begun_ms,
    )


def view_merge(merge: Merge) -> OperationView:
    """One merge."""
    return OperationView(
        kind="merge",
        id=merge.id,
        partition=merge.left,
        stage=merge.stage,
        other=merge.right,
        reason=merge.reason,
        note=merge.note,
        begun_ms=merge.begun_ms,
        ended_ms=merge.ended_ms,
    )


def in_slot_order(partitions: Iterable[Partition]) -> list[Partition]:
    """By their first slot; a child without slots stands behind its parent."""
    return sorted(partitions, key=lambda each: (each.first_slot, each.id))


def middle_slot(partition: Partition) -> int:
    """Where a split leaves half of the slots on each side. `RequestError` when there are not two."""
    if partition.slot_count < 2:
        raise RequestError(f"partition {partition.id} has {partition.slot_count} slots and cannot be divided")
    return partition.first_slot + partition.slot_count // 2


def right_neighbour(meta: MetaState, partition: Partition) -> Partition:
    """The one that begins where this one ends. `RequestError` for the last one, and for one without slots."""
    if not partition.slot_count or partition.last_slot + 1 >= len(meta.map.slot_table):
        raise RequestError(f"partition {partition.id} has no right neighbour")
    found = meta.map.get(meta.map.slot_table[partition.last_slot + 1])
    if found is None:
        raise RequestError(f"partition {partition.id} has no right neighbour")
    return found
