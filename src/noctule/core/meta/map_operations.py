"""Where partitions are and what becomes of them: the operations that change that, each checked first.

As in roster_operations.py: a function refuses by `RequestError` before it has changed anything. Objects change in an
order that lets a partition's state follow from them: first what keeps it busy, then the partition.
"""

from collections.abc import Sequence

import msgspec

from noctule.base.errors import RequestError
from noctule.core.meta.objects import Objects
from noctule.core.meta.operations import (
    AbortSplit,
    AdvanceMerge,
    AdvanceMigration,
    BeginMerge,
    BeginMigration,
    BeginSplit,
    FinishSplit,
    PreferLeader,
    ReleaseReplica,
)
from noctule.core.meta.roster_operations import require, require_feature
from noctule.core.meta.settings import REPLICAS_MAX
from noctule.core.migration.merges import MERGE_ENDED, MERGE_NEXT, Merge, MergeStage
from noctule.core.migration.splits import Split
from noctule.core.migration.stages import ENDED, NEXT, Migration, Stage
from noctule.core.placement.partition_map import Partition
from noctule.core.roster.features import MERGE, MIGRATE, SPLIT
from noctule.core.roster.members import MemberState


def begin_migration(objects: Objects, operation: BeginMigration, now_ms: int) -> int:
    """See `BeginMigration`."""
    require_feature(objects, MIGRATE)
    partition = _idle_partition(objects, operation.partition)
    source, target, replicas = operation.source, operation.target, partition.replicas
    require(source or target, "a migration has a source, a target, or both")
    require(not source or source in replicas, f"node {source} has no replica of partition {partition.id}")
    if target:
        member = objects.roster.get(target)
        is_active = member is not None and member.state is MemberState.ACTIVE
        require(is_active, f"node {target} is no active member and takes no replicas")
        require(target not in replicas, f"node {target} has a replica of partition {partition.id} already")
        require(source or len(replicas) < REPLICAS_MAX, f"{REPLICAS_MAX} replicas are the most")
    else:
        require(len(replicas) > 1, f"partition {partition.id} has no other replica than this one")
    limit = objects.settings.migrations_concurrent_max
    require(objects.migrations_running < limit, f"{limit} migrations are on their way, which is the limit")

    given = objects.counters.migration_id_next
    stage = Stage.PREPARE if target else Stage.UPDATE
    objects.set_counters(msgspec.structs.replace(objects.counters, migration_id_next=given + 1))
    objects.put_migration(
        Migration(given, partition.id, source, target, stage, operation.reason, begun_ms=now_ms, stage_ms=now_ms)
    )
    with_target = (*replicas, target) if target else replicas
    objects.put_partition(msgspec.structs.replace(partition, replicas=with_target, initial=()))
    return given


def advance_migration(objects: Objects, operation: AdvanceMigration, now_ms: int) -> None:
    """See `AdvanceMigration`."""
    migration = objects.migrations.get(operation.id)
    if migration is None:
        raise RequestError(f"there is no migration {operation.id}, or it ended long ago")
    stage, to = migration.stage, operation.to
    require(stage == operation.stage, f"migration {migration.id} is in {stage} and not in {operation.stage}")
    require(to in NEXT[stage], f"after {stage} a migration cannot be in {to}")
    partition = _partition(objects, migration.partition)

    objects.put_migration(
        msgspec.structs.replace(
            migration,
            stage=to,
            note=operation.note or migration.note,
            stage_ms=now_ms,
            ended_ms=now_ms if to in ENDED else 0,
        )
    )
    if to is Stage.CLEANUP:
        replicas = _without_source(partition.replicas, migration.source, migration.target)
        objects.put_partition(msgspec.structs.replace(partition, replicas=replicas))
    elif to is Stage.ROLLED_BACK:
        replicas = tuple(node for node in partition.replicas if node != migration.target)
        objects.put_partition(msgspec.structs.replace(partition, replicas=replicas))
    else:
        objects.refresh(partition.id)


def begin_split(objects: Objects, operation: BeginSplit, now_ms: int) -> int:
    """See `BeginSplit`."""
    require_feature(objects, SPLIT)
    parent = _idle_partition(objects, operation.partition)
    at_slot, limit = operation.at_slot, objects.settings.partitions_max
    fits = parent.first_slot < at_slot <= parent.last_slot
    require(fits, f"slot {at_slot} does not divide {parent.first_slot} to {parent.last_slot}")
    require(len(objects.map) < limit, f"there are {limit} partitions, which is the limit")

    child = objects.counters.partition_id_next
    objects.set_counters(msgspec.structs.replace(objects.counters, partition_id_next=child + 1))
    objects.put_split(Split(child, parent.id, at_slot, operation.reason, now_ms))
    objects.refresh(parent.id)
    objects.put_partition(Partition(child, at_slot, at_slot - 1, parent.replicas, parent=parent.id))
    return child


def finish_split(objects: Objects, operation: FinishSplit, _now_ms: int) -> None:
    """See `FinishSplit`."""
    split = _split(objects, operation.child)
    parent, child = _partition(objects, split.parent), _partition(objects, split.child)
    objects.remove_split(child.id)
    # The parent gives its slots away before the child takes them.
    objects.put_partition(msgspec.structs.replace(parent, last_slot=split.at_slot - 1))
    objects.put_partition(msgspec.structs.replace(child, last_slot=parent.last_slot))


def abort_split(objects: Objects, operation: AbortSplit, _now_ms: int) -> None:
    """See `AbortSplit`."""
    split = _split(objects, operation.child)
    objects.remove_split(split.child)
    objects.remove_partition(split.child)
    objects.refresh(split.parent)


def begin_merge(objects: Objects, operation: BeginMerge, now_ms: int) -> int:
    """See `BeginMerge`."""
    require_feature(objects, MERGE)
    left, right = _idle_partition(objects, operation.left), _idle_partition(objects, operation.right)
    are_neighbours = left.last_slot + 1 == right.first_slot
    require(are_neighbours, f"partition {right.id} does not begin where partition {left.id} ends")

    given = objects.counters.merge_id_next
    objects.set_counters(msgspec.structs.replace(objects.counters, merge_id_next=given + 1))
    objects.put_merge(Merge(given, left.id, right.id, MergeStage.FENCE, operation.reason, begun_ms=now_ms))
    objects.refresh(left.id)
    objects.refresh(right.id)
    return given


def advance_merge(objects: Objects, operation: AdvanceMerge, now_ms: int) -> None:
    """See `AdvanceMerge`."""
    merge = objects.merges.get(operation.id)
    if merge is None:
        raise RequestError(f"there is no merge {operation.id}, or it ended long ago")
    stage, to = merge.stage, operation.to
    require(stage == operation.stage, f"merge {merge.id} is in {stage} and not in {operation.stage}")
    require(to in MERGE_NEXT[stage], f"after {stage} a merge cannot be in {to}")
    left, right = _partition(objects, merge.left), _partition(objects, merge.right)

    ended_ms = now_ms if to in MERGE_ENDED else 0
    objects.put_merge(msgspec.structs.replace(merge, stage=to, note=operation.note or merge.note, ended_ms=ended_ms))
    if to is MergeStage.DONE:
        objects.put_partition(msgspec.structs.replace(left, last_slot=right.last_slot))
        objects.remove_partition(right.id)
    else:
        objects.refresh(left.id)
        objects.refresh(right.id)


def prefer_leader(objects: Objects, operation: PreferLeader, _now_ms: int) -> None:
    """See `PreferLeader`."""
    partition, node = _partition(objects, operation.partition), operation.node
    work = objects.busy.get(partition.id)
    require(node in partition.replicas, f"node {node} has no replica of partition {partition.id}")
    require(node != partition.replicas[0], f"node {node} is preferred already")
    if isinstance(work, Migration) and work.stage is not Stage.CLEANUP:
        require(node != work.target, f"node {node} has no whole replica of partition {partition.id} yet")
    others = tuple(each for each in partition.replicas if each != node)
    objects.put_partition(msgspec.structs.replace(partition, replicas=(node, *others)))


def release_replica(objects: Objects, operation: ReleaseReplica, _now_ms: int) -> None:
    """See `ReleaseReplica`."""
    partition = objects.map.get(operation.partition)
    if partition is None:
        return  # It was merged into another one, and no group will have its id.
    node = operation.promise.node
    require(node not in partition.replicas, f"partition {partition.id} has a replica on node {node}")
    others = [each for each in partition.former if each.node != node and objects.is_present(each.node)]
    objects.put_partition(msgspec.structs.replace(partition, former=(*others, operation.promise)))


def _without_source(replicas: Sequence[int], source: int, target: int) -> tuple[int, ...]:
    """The replicas once the source is out. If it was to lead, the target is, so that leaders stay spread as they were.

    A replica that is only added stays last, and one that is only dropped hands over to the next.
    """
    if source and target and replicas[0] == source:
        return (target, *(node for node in replicas if node not in (source, target)))
    return tuple(node for node in replicas if node != source)


def _partition(objects: Objects, group: int) -> Partition:
    partition = objects.map.get(group)
    if partition is None:
        raise RequestError(f"there is no partition {group}")
    return partition


def _idle_partition(objects: Objects, group: int) -> Partition:
    partition, work = _partition(objects, group), objects.busy.get(group)
    if isinstance(work, Migration):
        raise RequestError(f"partition {group} is busy: it takes part in migration {work.id}")
    if isinstance(work, Split):
        raise RequestError(f"partition {group} is busy: partition {work.child} is split off from {work.parent}")
    if work is not None:
        raise RequestError(f"partition {group} is busy: it takes part in merge {work.id}")
    return partition


def _split(objects: Objects, child: int) -> Split:
    split = objects.splits.get(child)
    if split is None:
        raise RequestError(f"partition {child} is not being split off")
    return split
