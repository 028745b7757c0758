"""What Raft asks to be kept as records of the log, and back: from the disk to replicas that may vote."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from noctule.adapters.snapshots import SnapshotFiles
from noctule.adapters.wal import Wal
from noctule.adapters.wal_format import Entries, Record, SnapshotMark, WalIdentity
from noctule.adapters.wal_format import HardState as HardStateRecord
from noctule.adapters.wal_groups import RecoveredGroup
from noctule.base.errors import StorageError
from noctule.base.ids import GroupId, Instant
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.events import Persist
from noctule.core.raft.log import RaftLog
from noctule.core.raft.messages import Entry, HardState
from noctule.core.raft.node import RaftNode
from noctule.core.replica.replica import Replica, SnapshotPolicy


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What every replica of a node is made with."""

    node_id: int
    voters: tuple[int, ...]
    raft: RaftConfig
    policy: SnapshotPolicy
    first_timeout_s: float
    """How long the preferred leader of a group waits before it first campaigns."""


def preferred_leader(group: GroupId, voters: tuple[int, ...]) -> int:
    """The voter that leads the group while all is well: groups take turns, so leaders are spread evenly."""
    return voters[group % len(voters)]


def records_of(group: GroupId, persist: Persist) -> list[Record]:
    """What the log must hold for Raft to find it again by `meet`."""
    records: list[Record] = []
    if persist.hard_state is not None:
        records.append(HardStateRecord(group, persist.hard_state.term, persist.hard_state.vote, 0))
    if persist.mark is not None:
        records.append(SnapshotMark(group, *persist.mark))
    if persist.entries:
        records.append(Entries(group, persist.first_index, persist.entries))
    return records


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
) -> tuple[Wal, SnapshotFiles, dict[GroupId, Replica]]:
    """The node's log, its snapshot files, and a replica of each group with what they held.

    Raises `StorageError` when something is damaged: the node must then not take part. Raises `ConfigError` when the
    directories belong to another cluster or node.
    """
    wal, recovered = Wal.open(wal_directory, identity, segment_bytes_max=segment_bytes_max)
    try:
        snapshots = SnapshotFiles(directory / "snapshots")
        replicas: dict[GroupId, Replica] = {}
        marks: list[Record] = []
        for group in groups:
            found = snapshots.read(group)
            snapshot = (found.index, found.term, found.chunks) if found is not None else None
            replica, mark = meet(group, recovered.get(group), snapshot, settings, now, chance)
            replicas[group] = replica
            if mark is not None:
                marks.append(mark)
        if marks:
            wal.write(marks)
    except BaseException:
        wal.close()
        raise
    return wal, snapshots, replicas


def meet(
    group: GroupId,
    recovered: RecoveredGroup | None,
    snapshot: tuple[int, int, Iterable[bytes]] | None,
    settings: ReplicaSettings,
    now: Instant,
    chance: random.Random,
) -> tuple[Replica, SnapshotMark | None]:
    """A replica from its log and its newest snapshot (index, term, chunks), and the mark that the log still lacks.

    The mark must be durable before the replica takes part. Raises `StorageError` when log and snapshot do not meet.
    """
    log = RaftLog()
    hard_state = HardState()
    if recovered is not None:
        hard_state = HardState(recovered.term, recovered.vote)
        entries = [Entry(*entry) for entry in recovered.entries]
        log = RaftLog(recovered.snapshot_index, recovered.snapshot_term, entries)
    covered, covered_term, chunks = snapshot if snapshot is not None else (0, 0, ())
    if covered < log.snapshot_index:
        raise StorageError(
            f"the log of group {group} begins after entry {log.snapshot_index}, "
            f"and the newest snapshot covers only {covered}: a snapshot file is missing"
        )
    mark = None
    if log.term_at(covered) != covered_term:
        # Killed after a received snapshot was saved and before the log said so: it takes the log's place now
        # (Raft paper, figure 13, step 7).
        log.reset(covered, covered_term)
        mark = SnapshotMark(group, covered, covered_term)
        if hard_state.term < covered_term:
            # The snapshot's own term was heard of in the same turn and did not reach the disk. Nothing was promised
            # in it then, for a vote leaves only when it is durable.
            hard_state = HardState(covered_term)
    is_preferred = preferred_leader(group, settings.voters) == settings.node_id
    consensus = RaftNode(
        node_id=settings.node_id,
        voters=settings.voters,
        config=settings.raft,
        chance=random.Random(chance.getrandbits(64)),
        now=now,
        hard_state=hard_state,
        log=log,
        applied=covered,
        first_timeout_s=settings.first_timeout_s if is_preferred else None,
    )
    replica = Replica(group, consensus, settings.policy, random.Random(chance.getrandbits(64)))
    if snapshot is not None:
        replica.load_state(chunks)
        replica.snapshot_restored(covered)
    return replica, mark
