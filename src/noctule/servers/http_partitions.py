"""The partitions of the cluster over HTTP: all of the map, whatever of it the asked node holds itself."""

from typing import Annotated

from msgspec import Meta, Struct

from noctule.adapters.system_clock import SystemClock
from noctule.base.errors import RequestError
from noctule.core.meta.operations import BeginMerge, BeginMigration, BeginSplit, PreferLeader
from noctule.core.meta.views import (
    OperationView,
    PartitionView,
    in_slot_order,
    right_neighbour,
    view_compared,
    view_operations,
    view_partition,
)
from noctule.core.placement.partition_map import Partition
from noctule.core.placement.slots import SLOT_COUNT
from noctule.node.api import Administration
from noctule.servers.http_errors import NotFoundError
from noctule.servers.http_parameters import AFTER, LIMIT, PARTITION_ID
from noctule.servers.http_route import Answer, Call, json_answer, load_body

REASON = "asked for by an operator"

_clock = SystemClock()

_NodeId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class PartitionPage(Struct, frozen=True):
    """Some partitions in the order of their slots, of one moment."""

    epoch: int
    """Of the map. If the next page tells another one, what was in between may have moved."""
    total: int
    partitions: list[PartitionView]


class SplitWish(Struct, frozen=True, forbid_unknown_fields=True):
    """Where to divide a partition."""

    at_slot: Annotated[int, Meta(ge=1, lt=SLOT_COUNT)] | None = None
    """The new partition's first slot; null: where the keys halve, or the slots."""


class LeaderWish(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is to lead."""

    node: _NodeId


class MoveWish(Struct, frozen=True, forbid_unknown_fields=True):
    """Which replica is to be moved, and where."""

    source: _NodeId = 0
    """The node that loses its replica; 0: one is added."""
    target: _NodeId = 0
    """The node that gets one; 0: one is dropped."""
    reason: Annotated[str, Meta(max_length=200)] = REASON


async def list_partitions(call: Call) -> Answer:
    """One page of the map."""
    cluster = call.node.cluster
    found = in_slot_order(cluster.meta.map)
    page = found[call.get(AFTER) :][: call.get(LIMIT)]
    views = [view_partition(cluster.board, partition) for partition in page]
    return json_answer(PartitionPage(cluster.meta.map.epoch, len(found), views))


async def get_partition(call: Call) -> Answer:
    """One partition."""
    return json_answer(view_partition(call.node.cluster.board, _partition(call)))


async def split_partition(call: Call) -> Answer:
    """Begin to divide it."""
    cluster, partition = call.node.cluster, _partition(call)
    wish = load_body(call, SplitWish)
    at_slot = wish.at_slot if wish.at_slot is not None else cluster.dividing_slot(partition)
    child = await cluster.operate(BeginSplit(partition.id, at_slot, REASON))
    return await begun(cluster, "split", child)


async def merge_partition(call: Call) -> Answer:
    """Begin to give it the slots and keys of its right neighbour."""
    cluster, partition = call.node.cluster, _partition(call)
    right = right_neighbour(cluster.meta, partition)
    merge = await cluster.operate(BeginMerge(partition.id, right.id, REASON))
    return await begun(cluster, "merge", merge)


async def prefer_leader(call: Call) -> Answer:
    """Have another of its replicas lead it; the leadership follows within moments."""
    partition, wish = _partition(call), load_body(call, LeaderWish)
    await call.node.cluster.operate(PreferLeader(partition.id, wish.node))
    return json_answer(view_partition(call.node.cluster.board, _partition(call)))


async def migrate_partition(call: Call) -> Answer:
    """Begin to move one of its replicas."""
    cluster, partition, wish = call.node.cluster, _partition(call), load_body(call, MoveWish)
    migration = await cluster.operate(BeginMigration(partition.id, wish.source, wish.target, wish.reason))
    return await begun(cluster, "migration", migration)


async def digest_partition(call: Call) -> Answer:
    """Have its replicas compared now."""
    partition = _partition(call)
    return json_answer(view_compared(partition.id, await call.node.cluster.compare(partition)))


async def begun(cluster: Administration, kind: str, number: object) -> Answer:
    """What was just begun, as this node sees it: of a split that is done already only the new partition is left."""
    found = [view for view in view_operations(cluster.meta, cluster.board) if (view.kind, view.id) == (kind, number)]
    if not found and kind == "split" and isinstance(number, int) and (child := cluster.meta.map.get(number)):
        found = [_finished_split(child)]
    if not found:
        raise RequestError(f"{kind} {number} was begun and is over already")
    view: OperationView = found[0]
    return json_answer(view)


def _finished_split(child: Partition) -> OperationView:
    return OperationView(
        kind="split",
        id=child.id,
        partition=child.parent,
        stage="done",
        other=child.id,
        at_slot=child.first_slot,
        reason=REASON,
        ended_ms=_clock.wall_ms(),
    )


def _partition(call: Call) -> Partition:
    number = call.get(PARTITION_ID)
    found = call.meta.map.get(number)
    if found is None:
        raise NotFoundError(f"there is no partition {number}")
    return found
