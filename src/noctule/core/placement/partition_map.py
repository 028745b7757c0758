"""Which partition has which slots, and which nodes hold it: the map that every node follows, versioned by its epoch.

The map is part of the replicated state of *meta*, so all nodes see the same maps in the same order, each at its own
time. Plain values here; who may change them is told in `core.meta`.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from operator import attrgetter

from msgspec import Struct

from noctule.base.ensure import ensure
from noctule.base.ids import GroupId
from noctule.core.placement.slots import SLOT_COUNT


class PartitionState(StrEnum):
    """What goes on with a partition. Clients are served in all of them but OFFLINE."""

    ACTIVE = "active"
    MIGRATING = "migrating"
    """A replica is on its way from one node to another, or the partition is one of two that are being merged."""
    SPLITTING = "splitting"
    """Its range is about to be divided; also of the child, which has no slots until that is done."""
    OFFLINE = "offline"
    """No majority of its replicas is on a node that belongs to the cluster: an operator is needed."""


class Promise(Struct, frozen=True):
    """What a replica that is gone had promised, and the next one on its node must keep, though it begins with nothing.

    Else members that have not heard of its leaving could elect with its help, and go on from before it left.
    """

    node: int
    term: int
    vote: int
    """Raft's, the vote in that term."""
    last_term: int
    last_index: int
    """Of the last entry that it held: nobody whose log is behind that gets a vote."""


class Partition(Struct, frozen=True):
    """One partition in the map. A child that is not split off yet has `first_slot` > `last_slot`: no slots."""

    id: int
    """The Raft group; never reused."""
    first_slot: int
    last_slot: int
    """Both inclusive."""
    replicas: tuple[int, ...]
    """The nodes that hold a copy, or are about to; the preferred leader first."""
    state: PartitionState = PartitionState.ACTIVE
    epoch: int = 0
    """The map's when this last changed."""
    initial: tuple[int, ...] = ()
    """The voters with which a replica that is made now begins. Empty once the group's membership has begun to change:
    a replica made then begins knowing nobody, and is told by the group."""
    parent: int = 0
    """The partition it was split off from, whose replicas make those of this one; 0 of those the cluster began with."""
    former: tuple[Promise, ...] = ()
    """Of each node where a replica was removed: what the last of them had promised."""

    def promise_of(self, node: int) -> Promise | None:
        """What the last replica had promised that was removed on this node, if there was one."""
        return next((promise for promise in self.former if promise.node == node), None)

    @property
    def slot_count(self) -> int:
        """How many slots it has."""
        return max(self.last_slot - self.first_slot + 1, 0)


class PartitionMap:
    """All partitions, by id, and the table from slots to them. Changed by `put` and `remove` only."""

    def __init__(self, partitions: Iterable[Partition] = ()) -> None:
        self.epoch = 0
        """Of the newest change."""
        self.partitions: dict[GroupId, Partition] = {}
        self.slot_table: list[GroupId] = [GroupId(0)] * SLOT_COUNT
        """For each slot the partition that holds it, 0 where none does. It is changed in place."""
        for partition in partitions:
            self.put(partition)

    def __iter__(self) -> Iterator[Partition]:
        return iter(self.partitions.values())

    def __len__(self) -> int:
        return len(self.partitions)

    def get(self, group: int) -> Partition | None:
        """The partition of that id, or None."""
        return self.partitions.get(GroupId(group))

    def put(self, partition: Partition) -> None:
        """Add or replace a partition; its slots are its own from now on, whoever had them."""
        group = GroupId(partition.id)
        before = self.partitions.get(group)
        if before is not None and (before.first_slot, before.last_slot) != (partition.first_slot, partition.last_slot):
            for slot in range(before.first_slot, before.last_slot + 1):
                if self.slot_table[slot] == group:
                    self.slot_table[slot] = GroupId(0)
        self.partitions[group] = partition
        count = partition.slot_count
        if count:
            self.slot_table[partition.first_slot : partition.last_slot + 1] = [group] * count
        self.epoch = max(self.epoch, partition.epoch)

    def remove(self, group: int) -> None:
        """Forget a partition; slots that are still its own belong to nobody."""
        gone = self.partitions.pop(GroupId(group))
        for slot in range(gone.first_slot, gone.last_slot + 1):
            if self.slot_table[slot] == group:
                self.slot_table[slot] = GroupId(0)

    def check(self) -> None:
        """Raise `InternalError` unless every slot has one partition and every partition its slots."""
        if not self.partitions:
            return
        held: list[int] = []
        for partition in sorted(self, key=attrgetter("first_slot")):
            if partition.slot_count:
                first = partition.first_slot
                ensure(first >= len(held), "a slot belongs to one partition", slot=first, partition=partition.id)
                ensure(first <= len(held), "every slot belongs to a partition", slot=len(held))
                held += [partition.id] * partition.slot_count
        ensure(len(held) == SLOT_COUNT, "every slot belongs to a partition", slot=len(held))
        ensure(held == self.slot_table, "the table of slots is true")
