"""What Raft asks to be kept as records of the log, and back: from the disk to replicas that may vote.

`recover_or_return` is the way of a node; what it does with damage is told in ADR 0013.
"""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from noctule.adapters.files import FileSystem, disk_errors
from noctule.adapters.snapshots import SnapshotFiles
from noctule.adapters.wal import Wal
from noctule.adapters.wal_format import WalIdentity, parse_segment_name
from noctule.adapters.wal_groups import RecoveredGroup
from noctule.adapters.wal_records import Entries, Record, SnapshotMark
from noctule.adapters.wal_records import HardState as HardStateRecord
from noctule.base.errors import DamagedLogError, StorageError
from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.keyspace.scripting import ScriptEngine
from noctule.core.meta.state import MetaState
from noctule.core.placement.partition_map import Partition, Promise
from noctule.core.placement.slots import slot_range
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import Membership, encode_membership
from noctule.core.raft.messages import Entry, HardState
from noctule.core.raft.node import RaftNode
from noctule.core.replica.carry_out import first_wait_s
from noctule.core.replica.durability import Durability
from noctule.core.replica.events import ChildSaved, SplitOff
from noctule.core.replica.family import find_split
from noctule.core.replica.replica import Replica, SnapshotPolicy, membership_of
from noctule.node.data_folder import SNAPSHOTS, VOTERS_TO_RETURN_MIN, DataFolder

KEPT_ASIDE = 3
"""Of damaged files those of so many times are kept, for whoever wants to know what happened."""

_ASIDE = re.compile(r"damaged-([0-9]+)-.*")


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What every replica of a node is made with."""

    node_id: int
    voters: tuple[int, ...]
    """Who votes in the fixed groups until their logs say otherwise; nobody on a node that joined a cluster."""
    raft: RaftConfig
    policy: SnapshotPolicy
    first_timeout_s: float
    """How long the preferred leader of a group waits before it first campaigns."""
    durability: Durability = Durability.QUORUM
    """Of the partitions; *meta* has its quorum always."""
    directory: int = 0
    """Under which the node came back after it had lost what it had promised; 0 if it never did."""
    first_partitions: int = 0
    """With how many partitions the cluster began, the groups 1 to that number: each then held the slots that
    `slot_range` says, and its log is to be applied from there, whatever became of it since. With 0 no group has a
    range, and nothing is checked."""
    engine: ScriptEngine | None = None
    """What runs scripts where this node leads; all replicas share it."""


FIRST_TERM = 1
"""Of the entry that every replica of a new group begins with; nobody leads in it."""


def preferred_leader(group: GroupId, voters: tuple[int, ...]) -> int:
    """The voter that leads the group while nothing else is wished: groups take turns; 0 when nobody votes."""
    return voters[group % len(voters)] if voters else 0


def make_replica(
    partition: Partition, settings: ReplicaSettings, now: Instant, chance: random.Random
) -> tuple[Replica, list[Record]]:
    """A replica of a partition that has none here, and what must be in the log before anything else of it.

    In a new group it begins as all of its first voters do: with entries that say who they are, as if they had been
    agreed on. In one that has changed since, it knows nobody, and the group will tell it who belongs.
    """
    group, initial = GroupId(partition.id), partition.initial
    log, hard_state = RaftLog(), HardState()
    records: list[Record] = []
    wait_s = None
    if initial:
        # They are made one after the other, so each node's are at about the same place.
        is_first = partition.replicas[:1] == (settings.node_id,)
        rank = sum(other < settings.node_id for other in initial)
        wait_s = first_wait_s(is_first=is_first, rank=rank, place=0, count=settings.first_partitions)
        entry = Entry(FIRST_TERM, encode_membership(Membership(voters=tuple(sorted(initial)))))
        log, hard_state = RaftLog(entries=[entry]), HardState(FIRST_TERM)
        records = [HardStateRecord(group, FIRST_TERM, 0, 0), Entries(group, 1, [entry])]
    promise = partition.promise_of(settings.node_id)
    if promise is not None:
        hard_state = HardState(promise.term, promise.vote)
        records = [HardStateRecord(group, promise.term, promise.vote, 0)]
    replica = _replica(group, settings, now, chance, hard_state=hard_state, log=log, applied=0, wait_s=wait_s)
    _keep_promise(replica, promise)
    return replica, records


def _keep_promise(replica: Replica, promise: Promise | None) -> None:
    if promise is not None:
        replica.raft.promised = (promise.last_term, promise.last_index)


def make_child(split: SplitOff, settings: ReplicaSettings, now: Instant, chance: random.Random) -> Replica:
    """The replica of a group that is split off here; the `Carrier` gives it its state and has it begin."""
    log = RaftLog(split.index, split.term, membership=split.membership, membership_index=split.index)
    hard_state = HardState(split.term)
    return _replica(split.child, settings, now, chance, hard_state=hard_state, log=log, applied=split.index)


def recover_or_return(
    folder: DataFolder,
    identity: WalIdentity,
    groups: Iterable[GroupId],
    settings: ReplicaSettings,
    *,
    segment_bytes_max: int,
    now: Instant,
    chance: random.Random,
    on_damage: Callable[[DamagedLogError, int], None],
    members_known: int = 0,
) -> tuple[Wal, SnapshotFiles, dict[GroupId, Replica]]:
    """`recover_replicas` as the folder's directory, or as another one without what is damaged.

    `groups` are the fixed ones, which every node has from its first start. `members_known` is how many members a node
    that joined has last heard of, itself included: its settings name no voters.

    The order of steps is what makes each of them safe to be the last before a crash: another directory is durable
    before anything is set aside, and the log is open before anything may be promised. `on_damage` is told of the damage
    and the new directory in between. Raises `StorageError` when the disk fails, or when the log is damaged and the
    others are too few to take the node back; `ConfigError` when something belongs to somebody else.
    """
    groups = list(groups)
    try:
        return _recover(folder, identity, groups, settings, segment_bytes_max, now, chance)
    except DamagedLogError as damage:
        count = len(settings.voters) or members_known
        if count < VOTERS_TO_RETURN_MIN:
            raise StorageError(
                f"{damage}, and in a cluster of {count} nobody can give it the rest: restore the whole "
                "data folder as it was at that moment, or start a new cluster (docs/concepts/divergences.md)"
            ) from damage
        folder.change_directory()
        on_damage(damage, folder.directory)
    _set_log_aside(folder)
    _set_snapshots_aside(folder)
    return _recover(folder, identity, groups, settings, segment_bytes_max, now, chance)


def _recover(
    folder: DataFolder,
    identity: WalIdentity,
    groups: Sequence[GroupId],
    settings: ReplicaSettings,
    segment_bytes_max: int,
    now: Instant,
    chance: random.Random,
) -> tuple[Wal, SnapshotFiles, dict[GroupId, Replica]]:
    folder.check_log()
    wal, snapshots, replicas = recover_replicas(
        folder.path,
        identity,
        folder.log_path,
        groups,
        replace(settings, directory=folder.directory),
        segment_bytes_max=segment_bytes_max,
        now=now,
        chance=chance,
        files=folder.files,
    )
    try:
        folder.log_is_made()
    except BaseException:
        wal.close()
        raise
    return wal, snapshots, replicas


def _keep_promises(replicas: Mapping[GroupId, Replica], node_id: int) -> None:
    """Of replicas that are not the first ones of their groups here; *meta* knew of that before they were made."""
    meta = replicas[META_GROUP].keyspace if META_GROUP in replicas else None
    if isinstance(meta, MetaState):
        for group, replica in replicas.items():
            partition = meta.map.get(group)
            if partition is not None:
                _keep_promise(replica, partition.promise_of(node_id))


def _set_log_aside(folder: DataFolder) -> None:
    with disk_errors("reading", folder.log_path):
        names = folder.files.names(folder.log_path)
    _set_aside(folder.log_path, [name for name in names if parse_segment_name(name) is not None], folder.files)


def _set_snapshots_aside(folder: DataFolder) -> None:
    """Those that are damaged: an intact one spares the leader from sending it, and promises nothing by itself."""
    snapshots = SnapshotFiles(folder.path / SNAPSHOTS, files=folder.files)
    damaged = []
    for group in sorted(snapshots.groups()):
        for index in reversed(snapshots.indexes(group)):
            try:
                snapshots.read(group, index=index)
            except DamagedLogError as damage:
                damaged.append(Path(damage.file).name)
            else:
                break
    _set_aside(folder.path / SNAPSHOTS, damaged, folder.files)


def _set_aside(directory: Path, names: Sequence[str], files: FileSystem) -> None:
    """Rename them within their directory, which may be a whole disk, to ``damaged-<n>-…`` with the next n."""
    if not names:
        return
    with disk_errors("setting aside what is damaged in", directory):
        before = {name: int(match[1]) for name in files.names(directory) if (match := _ASIDE.fullmatch(name))}
        number = max(before.values(), default=0) + 1
        for name in names:
            files.rename(directory / name, directory / f"damaged-{number}-{name}")
        files.sync_directory(directory)
        for name, earlier in before.items():
            if earlier <= number - KEPT_ASIDE:
                files.remove(directory / name)


def recover_replicas(
    directory: Path,
    identity: WalIdentity,
    wal_directory: Path,
    groups: Iterable[GroupId],
    settings: ReplicaSettings,
    *,
    segment_bytes_max: int,
    now: Instant,
    chance: random.Random,
    files: FileSystem | None = None,
) -> tuple[Wal, SnapshotFiles, dict[GroupId, Replica]]:
    """The node's log, its snapshot files, and a replica of each group with what they held; on `files`, else the disk.

    Of the `groups`, the fixed ones, there is a replica in any case. In a log that has begun, a group that is not
    mentioned has no replica here any more, or none that has promised anything: a snapshot of it is removed.
    Raises `DamagedLogError` when something is damaged: the node must then not take part with it. Raises `StorageError`
    when the disk fails, `ConfigError` when the directories belong to another cluster or node.
    """
    salts = random.Random(chance.getrandbits(128))
    wal, recovered = Wal.open(wal_directory, identity, segment_bytes_max=segment_bytes_max, files=files, chance=salts)
    try:
        snapshots = SnapshotFiles(directory / SNAPSHOTS, files=files)
        fixed = list(groups)
        with_snapshot = snapshots.groups()
        if recovered:
            for gone in with_snapshot - recovered.keys() - set(fixed):
                snapshots.remove_all(gone)
                with_snapshot.discard(gone)
        replicas: dict[GroupId, Replica] = {}
        born: dict[GroupId, tuple[GroupId, SplitOff]] = {}
        marks: list[Record] = []
        for group in sorted({*fixed, *map(GroupId, with_snapshot), *map(GroupId, recovered)}):
            found = snapshots.read(group) if group in with_snapshot else None
            snapshot = (found.index, found.term, found.chunks) if found is not None else None
            if snapshot is None and group in recovered and recovered[group].snapshot_index:
                # Children have greater numbers than their parents, so those are here already.
                child = _split_off_again(group, recovered[group], replicas, born, settings, now, chance)
                if child is not None:
                    replicas[group] = child
                    continue
            voters = settings.voters if group in fixed else ()
            replica, mark = meet(group, recovered.get(group), snapshot, settings, now, chance, voters)
            replicas[group] = replica
            if mark is not None:
                if replica.raft.term != (recovered[group].term if group in recovered else 0):
                    # With the mark: else a second crash would leave a log that ends in a later term than the replica's.
                    marks.append(HardStateRecord(group, replica.raft.term, replica.raft.vote, 0))
                marks.append(mark)
        for group, (parent, _) in born.items():
            replicas[parent].handle(ChildSaved(group), now)
        if META_GROUP in replicas and META_GROUP in recovered:
            followed = recovered[META_GROUP].commit
            if followed > replicas[META_GROUP].raft.applied:
                replicas[META_GROUP].replay(followed)
        _keep_promises(replicas, settings.node_id)
        if marks:
            wal.write(marks)
    except BaseException:
        wal.close()
        raise
    return wal, snapshots, replicas


def _split_off_again(
    group: GroupId,
    recovered: RecoveredGroup,
    replicas: dict[GroupId, Replica],
    born: dict[GroupId, tuple[GroupId, SplitOff]],
    settings: ReplicaSettings,
    now: Instant,
    chance: random.Random,
) -> Replica | None:
    """The replica of a child that was killed before its first snapshot was durable, made by its parent once more.

    None when no parent here can. The log of the child is durable only behind that of its parent up to the split, and
    it was begun when the split was committed, so the parent may apply its log up to there. What else it has split off
    meanwhile is added to `born`.
    """
    at = (recovered.snapshot_index, recovered.snapshot_term)
    for parent, replica in replicas.items():
        log = replica.raft.log
        is_here = replica.raft.applied < at[0] <= log.last_index and log.term_at(at[0]) == at[1]
        if is_here and find_split(log, at[0] - 1, group) == at[0]:
            born |= {split.child: (parent, split) for split in replica.replay(at[0])}
    parent, split = born.pop(group, (GroupId(0), None))
    if split is None or (split.index, split.term) != at:
        return None
    entries = [Entry(*entry) for entry in recovered.entries]
    log = RaftLog(*at, entries, membership=split.membership, membership_index=split.index)
    hard_state = HardState(recovered.term, recovered.vote)
    child = _replica(group, settings, now, chance, hard_state=hard_state, log=log, applied=split.index)
    child.become_child(split, parent)
    return child


def meet(
    group: GroupId,
    recovered: RecoveredGroup | None,
    snapshot: tuple[int, int, Sequence[bytes]] | None,
    settings: ReplicaSettings,
    now: Instant,
    chance: random.Random,
    voters: Sequence[int] = (),
) -> tuple[Replica, SnapshotMark | None]:
    """A replica from its log and its newest snapshot (index, term, chunks), and the mark that the log still lacks.

    `voters` are those who vote until the snapshot, or the log behind it, says otherwise.
    The mark must be durable before the replica takes part. Raises `DamagedLogError` when log and snapshot do not
    meet, `StorageError` when the snapshot is none that this release can read.
    """
    membership = Membership(voters=tuple(sorted(voters)))
    covered = covered_term = 0
    if snapshot is not None:
        covered, covered_term, chunks = snapshot
        membership = membership_of(chunks)
    log = RaftLog(membership=membership)
    hard_state = HardState()
    if recovered is not None:
        hard_state = HardState(recovered.term, recovered.vote)
        entries = [Entry(*entry) for entry in recovered.entries]
        base = (recovered.snapshot_index, recovered.snapshot_term)
        log = RaftLog(*base, entries, membership=membership, membership_index=covered)
    if covered < log.snapshot_index:
        why = f"it begins after entry {log.snapshot_index}, and the newest snapshot covers only {covered}"
        raise DamagedLogError.at(f"the log of group {group}", 0, f"{why}: a snapshot file is missing")
    mark = None
    if log.term_at(covered) != covered_term:
        # Killed after a received snapshot was saved and before the log said so: it takes the log's place now
        # (Raft paper, figure 13, step 7).
        log.reset(covered, covered_term, membership)
        mark = SnapshotMark(group, covered, covered_term)
        if hard_state.term < covered_term:
            # The snapshot's own term was heard of in the same turn and did not reach the disk. Nothing was promised
            # in it then, for a vote leaves only when it is durable.
            hard_state = HardState(covered_term)
    is_first = preferred_leader(group, log.membership.voters) == settings.node_id
    wait_s = settings.first_timeout_s if is_first else None
    replica = _replica(group, settings, now, chance, hard_state=hard_state, log=log, applied=covered, wait_s=wait_s)
    if snapshot is not None:
        replica.load_state(snapshot[2])
        replica.snapshot_restored(covered)
    return replica, mark


def _replica(
    group: GroupId,
    settings: ReplicaSettings,
    now: Instant,
    chance: random.Random,
    *,
    hard_state: HardState,
    log: RaftLog,
    applied: int,
    wait_s: float | None = None,
) -> Replica:
    """`wait_s` is how long it waits for a leader first, if not as long as always."""
    consensus = RaftNode(
        node_id=settings.node_id,
        config=settings.raft,
        chance=chance,
        now=now,
        hard_state=hard_state,
        log=log,
        applied=applied,
        directory=settings.directory,
        first_timeout_s=wait_s,
    )
    keyspace = MetaState() if group == META_GROUP else None
    # What *meta* decides cannot be taken back.
    durability = settings.durability if group != META_GROUP else Durability.QUORUM
    began = slot_range(group, settings.first_partitions) if 1 <= group <= settings.first_partitions else None
    policy, engine = settings.policy, settings.engine
    return Replica(group, consensus, policy, chance, keyspace, durability, slots=began, engine=engine)
