"""What of the whole cluster is measured on every node: members, partitions, and what is on its way."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from noctule.core.meta.views import ProgressView, running_operations
from noctule.core.placement.partition_map import PartitionState
from noctule.core.roster.members import MemberState
from noctule.node.api import Administration

MIGRATIONS_SHOWN_MAX = 50
"""Migrations with samples of their own; `noctule_migrations_running` counts all."""

Labels: TypeAlias = dict[str, str | int]
Sample: TypeAlias = tuple[Labels, float]


@dataclass(frozen=True, slots=True)
class ClusterMetric:
    """One family of gauges."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Administration], Iterator[Sample]]


def _members(cluster: Administration) -> Iterator[Sample]:
    counts = Counter(member.state for member in cluster.meta.roster.values())
    for state in MemberState:
        yield {"state": state}, counts[state]


def _partitions(cluster: Administration) -> Iterator[Sample]:
    counts = Counter(partition.state for partition in cluster.meta.map)
    for state in PartitionState:
        yield {"state": state}, counts[state]


def _running(cluster: Administration) -> Iterator[Sample]:
    counts = Counter(view.kind for view in running_operations(cluster.meta, cluster.board))
    for kind in ("migration", "split", "merge"):
        yield {"kind": kind}, counts[kind]


def _each_migration(value: Callable[[ProgressView], float | None]) -> Callable[[Administration], Iterator[Sample]]:
    def samples(cluster: Administration) -> Iterator[Sample]:
        views = [each for each in running_operations(cluster.meta, cluster.board) if each.kind == "migration"]
        for view in views[:MIGRATIONS_SHOWN_MAX]:
            figure = None if view.progress is None else value(view.progress)
            if figure is not None:
                yield {"migration": view.id, "partition": view.partition, "stage": view.stage}, figure

    return samples


_MIGRATION = ("migration", "partition", "stage")

CLUSTER_METRICS: tuple[ClusterMetric, ...] = (
    ClusterMetric("noctule_map_epoch", "Epoch of the map of partitions, as far as this node has it.", (),
                  lambda cluster: iter([({}, cluster.meta.map.epoch)])),
    ClusterMetric("noctule_members", "Nodes that were ever let in, by state.", ("state",), _members),
    ClusterMetric("noctule_partitions", "Partitions by state.", ("state",), _partitions),
    ClusterMetric("noctule_migrations_running", "Migrations, splits and merges on their way.", ("kind",), _running),
    ClusterMetric("noctule_migration_bytes_done", "Bytes of a migration that the target has.", _MIGRATION,
                  _each_migration(lambda progress: progress.bytes_done)),
    ClusterMetric("noctule_migration_bytes", "Bytes of a migration in all.", _MIGRATION,
                  _each_migration(lambda progress: progress.bytes_total)),
    ClusterMetric("noctule_migration_entries_left", "Committed entries that the target does not have yet.", _MIGRATION,
                  _each_migration(lambda progress: progress.entries_left)),
    ClusterMetric("noctule_migration_bytes_per_second", "How fast a migration gets on.", _MIGRATION,
                  _each_migration(lambda progress: progress.bytes_per_s)),
    ClusterMetric("noctule_migration_seconds_left", "How long a migration may take; absent while nobody can tell.",
                  _MIGRATION, _each_migration(lambda progress: progress.seconds_left)),
)  # fmt: skip
"""What every node shows of the cluster, in the order shown."""
