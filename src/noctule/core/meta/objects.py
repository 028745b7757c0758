"""The objects of *meta*, decoded beside the keys that hold them, and the only ways in which they change.

What is kept here twice, as bytes and as a value, is written in one place each, so the two cannot drift apart; `check`
compares them. What may be asked, and when it is refused, is told in roster_operations.py and map_operations.py.
"""

from bisect import insort
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import msgspec

from noctule.base.ensure import ensure
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.meta.bookkeeping import Admission, Changes, Counters
from noctule.core.meta.records import Kind, read_record, read_records, record_key, write_record
from noctule.core.meta.registry_records import read_registry, write_registry
from noctule.core.meta.settings import ClusterSettings
from noctule.core.meta.tokens import Token
from noctule.core.migration.merges import MERGE_ENDED, Merge
from noctule.core.migration.splits import Split
from noctule.core.migration.stages import ENDED, Migration, Stage
from noctule.core.placement.partition_map import Partition, PartitionMap, PartitionState
from noctule.core.registry.changes import Change
from noctule.core.registry.registry import Answered, Registry
from noctule.core.roster.members import PRESENT, Member

HISTORY_MAX: Final = 200
"""Migrations, and merges, that are remembered after they have ended."""

Work: TypeAlias = Migration | Split | Merge
"""What keeps a partition busy; there is one at a time."""


class Objects(Keyspace):
    """The views, for reading by anyone; only the methods below change them, and only operations call those."""

    def __init__(self) -> None:
        super().__init__()
        self.counters = Counters()
        self.roster: dict[int, Member] = {}
        """Every node that was ever let in."""
        self.map = PartitionMap()
        self.migrations: dict[int, Migration] = {}
        """Those on their way, and the last `HISTORY_MAX` that have ended."""
        self.splits: dict[int, Split] = {}
        """Those on their way, by the child."""
        self.merges: dict[int, Merge] = {}
        """As the migrations."""
        self.tokens: dict[str, Token] = {}
        """By hash."""
        self.settings = ClusterSettings()
        self.busy: dict[int, Work] = {}
        """By partition, what goes on with it; of a split also by the child, of a merge by both."""
        self.held_by: dict[int, set[int]] = {}
        """By node, the partitions in whose replicas it is."""
        self.migrations_running = 0
        self.registry = Registry()
        self._ended: dict[Kind, list[tuple[int, int]]] = {Kind.MIGRATION: [], Kind.MERGE: []}
        """(when, id) in ascending order of what has ended and is remembered."""
        self._changed: dict[Kind, set[int]] = {kind: set() for kind in _COUNTED}
        self._changed_settings = self._changed_features = self._changed_registry = self._changed_all = False

    # What others read -------------------------------------------------------------------------------------------------

    @property
    def cluster_id(self) -> str:
        """Empty until the cluster is formed."""
        return self.counters.cluster_id

    @property
    def version(self) -> int:
        """Rises by one with every operation that is applied, and with nothing else."""
        return self.counters.version

    @property
    def features(self) -> frozenset[str]:
        """What every present member can do and the cluster therefore does; none is ever taken back."""
        return frozenset(self.counters.features)

    @property
    def replication_factor(self) -> int:
        """How many replicas each partition is to have."""
        return self.settings.replication_factor

    def is_present(self, node: int) -> bool:
        """Whether the node belongs to the cluster."""
        member = self.roster.get(node)
        return member is not None and member.state in PRESENT

    def admission(self, nonce: str) -> Admission | None:
        """Which id this nonce was given, if any."""
        return read_record(self, Kind.ADMISSION, nonce, Admission)

    def take_changes(self) -> Changes:
        """What has changed since the last call; costs what changed. False when nothing has."""
        changed, self._changed = self._changed, {kind: set() for kind in _COUNTED}
        changes = Changes(
            everything=self._changed_all,
            partitions=frozenset(changed[Kind.PARTITION]),
            members=frozenset(changed[Kind.MEMBER]),
            migrations=frozenset(changed[Kind.MIGRATION]),
            splits=frozenset(changed[Kind.SPLIT]),
            merges=frozenset(changed[Kind.MERGE]),
            settings=self._changed_settings,
            features=self._changed_features,
            registry=self._changed_registry,
        )
        self._changed_settings = self._changed_features = self._changed_registry = self._changed_all = False
        return changes

    # What operations change -------------------------------------------------------------------------------------------

    def set_counters(self, counters: Counters) -> None:
        """The numbers, the name, the features."""
        self._changed_features |= counters.features != self.counters.features
        self.counters = counters
        write_record(self, Kind.CLUSTER, "", counters)

    def set_settings(self, settings: ClusterSettings) -> None:
        """All settings at once."""
        self.settings = settings
        self._changed_settings = True
        write_record(self, Kind.SETTINGS, "", settings)

    def put_member(self, member: Member) -> None:
        """Add or replace a member, and see which partitions are offline by that."""
        was_present = self.is_present(member.id)
        self.roster[member.id] = member
        self._changed[Kind.MEMBER].add(member.id)
        write_record(self, Kind.MEMBER, member.id, member)
        if was_present != self.is_present(member.id):
            for partition in sorted(self.held_by.get(member.id, ())):
                self.refresh(partition)

    def put_admission(self, admission: Admission) -> None:
        """Remember who was let in by which nonce."""
        write_record(self, Kind.ADMISSION, admission.nonce, admission)

    def put_token(self, token: Token) -> None:
        """Add a token."""
        self.tokens[token.token] = token
        write_record(self, Kind.TOKEN, token.token, token)

    def remove_token(self, token: str) -> None:
        """Forget a token that is there."""
        del self.tokens[token]
        self.remove(record_key(Kind.TOKEN, token))

    def put_partition(self, partition: Partition) -> None:
        """Add or replace a partition, with its state as it follows from all else; the map has a new epoch by that."""
        epoch = self.map.epoch = self._epoch_of_operation()
        partition = msgspec.structs.replace(partition, state=self._state_of(partition), epoch=epoch)
        before = self.map.get(partition.id)
        self._index_replicas(partition.id, () if before is None else before.replicas, partition.replicas)
        self.map.put(partition)
        self._changed[Kind.PARTITION].add(partition.id)
        write_record(self, Kind.PARTITION, partition.id, partition)

    def remove_partition(self, group: int) -> None:
        """Take a partition out of the map, which has a new epoch by that."""
        self.map.epoch = self._epoch_of_operation()
        gone = self.map.get(group)
        self._index_replicas(group, () if gone is None else gone.replicas, ())
        self.map.remove(group)
        self._changed[Kind.PARTITION].add(group)
        self.remove(record_key(Kind.PARTITION, group))

    def refresh(self, group: int) -> None:
        """Put a partition again if its state does not follow from all else any more."""
        partition = self.map.get(group)
        if partition is not None and partition.state != self._state_of(partition):
            self.put_partition(partition)

    def put_migration(self, migration: Migration) -> None:
        """Add or replace a migration; the partition is busy with it until it has ended. Refresh the partition after."""
        before = self.migrations.get(migration.id)
        self.migrations_running += (migration.stage not in ENDED) - (before is not None and before.stage not in ENDED)
        self.migrations[migration.id] = migration
        self._set_work((migration.partition,), migration, is_over=migration.stage in ENDED)
        self._changed[Kind.MIGRATION].add(migration.id)
        write_record(self, Kind.MIGRATION, migration.id, migration)
        if migration.stage in ENDED:
            for gone in self._remember(Kind.MIGRATION, migration.ended_ms, migration.id):
                del self.migrations[gone]

    def put_split(self, split: Split) -> None:
        """Add a split; both partitions are busy with it."""
        self.splits[split.child] = split
        self._set_work((split.parent, split.child), split, is_over=False)
        self._changed[Kind.SPLIT].add(split.child)
        write_record(self, Kind.SPLIT, split.child, split)

    def remove_split(self, child: int) -> None:
        """Forget a split, which is finished or given up."""
        split = self.splits.pop(child)
        self._set_work((split.parent, split.child), split, is_over=True)
        self._changed[Kind.SPLIT].add(child)
        self.remove(record_key(Kind.SPLIT, child))

    def put_merge(self, merge: Merge) -> None:
        """Add or replace a merge; both partitions are busy with it until it has ended."""
        self.merges[merge.id] = merge
        self._set_work((merge.left, merge.right), merge, is_over=merge.stage in MERGE_ENDED)
        self._changed[Kind.MERGE].add(merge.id)
        write_record(self, Kind.MERGE, merge.id, merge)
        if merge.stage in MERGE_ENDED:
            for gone in self._remember(Kind.MERGE, merge.ended_ms, merge.id):
                del self.merges[gone]

    def change_registry(self, changes: Sequence[Change], now_ms: int, *, all_done: bool) -> list[Answered]:
        """As `Registry.apply`; what has changed by it is written."""
        index = self.registry.index
        answers = self.registry.apply(changes, now_ms, all_done=all_done)
        write_registry(self, self.registry, index)
        self._changed_registry |= self.registry.index != index
        return answers

    # Loading and checking ---------------------------------------------------------------------------------------------

    def loaded(self) -> None:
        """Decode the views, with everything changed. Raises `StorageError` when a record cannot be read."""
        self.counters = read_record(self, Kind.CLUSTER, "", Counters) or self.counters
        self.settings = read_record(self, Kind.SETTINGS, "", ClusterSettings) or self.settings
        self.roster = {member.id: member for member in read_records(self, Kind.MEMBER, Member)}
        self.tokens = {token.token: token for token in read_records(self, Kind.TOKEN, Token)}
        self.map = PartitionMap(read_records(self, Kind.PARTITION, Partition))
        self.map.epoch = self.counters.epoch
        self.migrations = {each.id: each for each in read_records(self, Kind.MIGRATION, Migration)}
        self.splits = {each.child: each for each in read_records(self, Kind.SPLIT, Split)}
        self.merges = {each.id: each for each in read_records(self, Kind.MERGE, Merge)}
        self.registry = read_registry(self)
        self._index()
        self._changed = {
            Kind.PARTITION: set(self.map.partitions),
            Kind.MEMBER: set(self.roster),
            Kind.MIGRATION: set(self.migrations),
            Kind.SPLIT: set(self.splits),
            Kind.MERGE: set(self.merges),
        }
        self._changed_all = self._changed_settings = self._changed_features = self._changed_registry = True

    def check(self) -> None:
        """Raise `InternalError` unless the views are what the keys say and fit each other. Costs everything."""
        super().check()
        self.map.check()
        told = type(self)()
        told.slots, told.deadlines = self.slots, self.deadlines
        told.loaded()
        for name in ("counters", "settings", "roster", "tokens", "migrations", "splits", "merges", "busy", "held_by"):
            ensure(getattr(self, name) == getattr(told, name), "a view of meta is what its keys say", view=name)
        self.registry.check()
        ensure(self.registry.contents() == told.registry.contents(), "the registry is what its keys say")
        ensure(self.map.partitions == told.map.partitions, "the map is what its keys say")
        ensure(self.map.epoch == self.counters.epoch, "the map's epoch is kept", epoch=self.map.epoch)
        ensure((self._ended, self.migrations_running) == (told._ended, told.migrations_running), "the ended are kept")
        for partition in self.map:
            ensure(partition.state == self._state_of(partition), "a partition's state is true", partition=partition.id)
            ensure(set(partition.replicas) <= set(self.roster), "replicas are members", partition=partition.id)
            ensure(len(set(partition.replicas)) == len(partition.replicas) > 0, "each replica stands once")

    # Inside -----------------------------------------------------------------------------------------------------------

    def _epoch_of_operation(self) -> int:
        """The same for all partitions that one operation touches: its version makes `counters.epoch` follow."""
        return self.counters.epoch + 1

    def _state_of(self, partition: Partition) -> PartitionState:
        work = self.busy.get(partition.id)
        voters = partition.replicas
        if isinstance(work, Migration) and work.stage in _TARGET_IS_NO_VOTER:
            voters = tuple(node for node in voters if node != work.target)
        if 2 * sum(map(self.is_present, voters)) <= len(voters):
            return PartitionState.OFFLINE
        if work is None:
            return PartitionState.ACTIVE
        return PartitionState.SPLITTING if isinstance(work, Split) else PartitionState.MIGRATING

    def _index(self) -> None:
        self.busy, self.held_by, self.migrations_running = {}, {}, 0
        for migration in self.migrations.values():
            self.migrations_running += migration.stage not in ENDED
            self._set_work((migration.partition,), migration, is_over=migration.stage in ENDED)
        for split in self.splits.values():
            self._set_work((split.parent, split.child), split, is_over=False)
        for merge in self.merges.values():
            self._set_work((merge.left, merge.right), merge, is_over=merge.stage in MERGE_ENDED)
        for partition in self.map:
            self._index_replicas(partition.id, (), partition.replicas)
        self._ended = {
            Kind.MIGRATION: sorted(
                (each.ended_ms, each.id) for each in self.migrations.values() if each.stage in ENDED
            ),
            Kind.MERGE: sorted((each.ended_ms, each.id) for each in self.merges.values() if each.stage in MERGE_ENDED),
        }

    def _index_replicas(self, group: int, before: Iterable[int], after: Iterable[int]) -> None:
        for node in before:
            self.held_by[node].discard(group)
            if not self.held_by[node]:
                del self.held_by[node]
        for node in after:
            self.held_by.setdefault(node, set()).add(group)

    def _set_work(self, partitions: Iterable[int], work: Work, *, is_over: bool) -> None:
        for partition in partitions:
            if not is_over:
                self.busy[partition] = work
            elif _is_same(self.busy.get(partition), work):
                del self.busy[partition]

    def _remember(self, kind: Kind, ended_ms: int, number: int) -> list[int]:
        """Add one that has ended; the ids of those that are too many now, whose keys are gone by then.

        Who goes follows from the data alone, so that a replica that loaded a snapshot forgets the same.
        """
        ended = self._ended[kind]
        insort(ended, (ended_ms, number))
        gone = [number for _, number in ended[: max(len(ended) - HISTORY_MAX, 0)]]
        del ended[: len(gone)]
        for each in gone:
            self._changed[kind].discard(each)
            self.remove(record_key(kind, each))
        return gone


_COUNTED = (Kind.PARTITION, Kind.MEMBER, Kind.MIGRATION, Kind.SPLIT, Kind.MERGE)
_TARGET_IS_NO_VOTER: Final = (
    Stage.PREPARE,
    Stage.TRANSFER,
    Stage.VERIFY,
    Stage.UPDATE,
    Stage.ROLLBACK,
)


def _is_same(one: Work | None, other: Work) -> bool:
    if isinstance(one, Split) and isinstance(other, Split):
        return one.child == other.child
    if isinstance(one, Migration) and isinstance(other, Migration):
        return one.id == other.id
    return isinstance(one, Merge) and isinstance(other, Merge) and one.id == other.id
