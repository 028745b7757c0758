"""A node that loses power at any moment around a split: nothing acknowledged is lost, nothing promised is forgotten.

One voter, so whatever it acknowledges is committed by it alone, and all that is needed must be on this one disk.
"""

import hashlib
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from noctule.adapters.snapshots import SnapshotFiles
from noctule.adapters.wal import Wal
from noctule.adapters.wal_format import WalIdentity
from noctule.adapters.wal_records import Record
from noctule.base.errors import DamagedLogError
from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.reply import MOVED
from noctule.core.placement.slots import key_slot
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.messages import Append, Message
from noctule.core.replica.carry_out import Carrier
from noctule.core.replica.events import (
    Answer,
    DigestReady,
    Event,
    Order,
    Publish,
    Ready,
    Refuse,
    WriteSnapshot,
    WriteSnapshotNow,
)
from noctule.core.replica.replica import Replica, SnapshotPolicy
from noctule.node.records import records_of
from noctule.node.recovery import ReplicaSettings, make_child, recover_replicas
from noctule.verify.sim.memory_disk import MemoryDisk

PARENT, CHILD, GRANDCHILD = GroupId(1), GroupId(7), GroupId(8)
IDENTITY = WalIdentity("bats", 1)
SETTINGS = ReplicaSettings(
    node_id=1,
    voters=(1,),
    raft=RaftConfig(retained_entries=0),
    policy=SnapshotPolicy(entries=1_000),
    first_timeout_s=0.25,
    first_partitions=1,
)
AT, AT_AGAIN = 10_000, 13_000
KEYS = {b"b": 3_300, b"a": 15_495, b"d": 11_298}
"""By slot: the parent's, the grandchild's, the child's."""
assert {key: key_slot(key) for key in KEYS} == KEYS
SPLIT = [b"NOCTULE.SPLIT", b"7", b"%d" % AT]
SPLIT_AGAIN = [b"NOCTULE.SPLIT", b"8", b"%d" % AT_AGAIN]


class Node:
    """A whole node on a disk in memory, whose jobs are done when the test says so."""

    def __init__(self, files: MemoryDisk, settings: ReplicaSettings = SETTINGS) -> None:
        self.now = Instant(100.0)
        self.chance = random.Random(1)
        self.wal: Wal
        self.snapshots: SnapshotFiles
        self.wal, self.snapshots, self.replicas = recover_replicas(
            Path("/data"),
            IDENTITY,
            Path("/wal"),
            [PARENT],
            settings,
            segment_bytes_max=4 << 10,
            now=self.now,
            chance=self.chance,
            files=files,
        )
        make = partial(make_child, settings=settings, chance=self.chance)
        self.carrier = Carrier(self.replicas, self, self, lambda split, now: make(split, now=now))
        self.jobs: deque[Callable[[], None]] = deque()
        """Of the snapshot thread."""
        self.is_newest_first = self.is_log_slow = False
        """In which order jobs are done: of snapshots the newest first; snapshots before the log."""
        self._records: list[Record] = []
        self._number = 0
        self.unwritten: deque[tuple[int, list[Record]]] = deque()
        """Batches that the log's thread has not begun."""

    # Ports ------------------------------------------------------------------------------------------------------------

    def send(self, to: int, group: GroupId, message: Message) -> None:
        pass

    def answer(self, group: GroupId, answer: Answer | Refuse) -> None:
        pass

    def ready(self, ready: Ready) -> None:
        pass

    def role_changed(self, group: GroupId, change: raft.RoleChanged) -> None:
        pass

    def membership_changed(self, group: GroupId, change: raft.MembershipChanged | raft.MembershipRefused) -> None:
        pass

    def persist(self, group: GroupId, persist: raft.Persist) -> None:
        self._records += records_of(group, persist)

    def flush(self) -> int:
        self._number += 1
        records, self._records = self._records, []
        self.unwritten.append((self._number, records))
        return self._number

    def write_snapshot(self, group: GroupId, snapshot: WriteSnapshot) -> None:
        self._save(group, snapshot.index, snapshot.term, list(snapshot.chunks))

    def save_chunk(self, group: GroupId, chunk: raft.SaveChunk) -> None:
        raise AssertionError("nobody sends one here")

    def load_chunk(self, group: GroupId, wanted: raft.LoadChunk) -> None:
        raise AssertionError("nobody needs one here")

    def open_snapshot(self, group: GroupId) -> None:
        raise AssertionError("nobody needs one here")

    def drop_chunks(self, group: GroupId) -> None:
        raise AssertionError("nobody sends one here")

    def keep_snapshots(self, group: GroupId, kept: raft.KeepSnapshots) -> None:
        raise AssertionError("nobody needs one here")

    def digest_ready(self, group: GroupId, digest: DigestReady) -> None:
        pass

    def publish(self, publish: Publish) -> None:
        raise AssertionError("nobody publishes here")

    def _save(self, group: GroupId, index: int, term: int, chunks: list[bytes]) -> None:
        def job() -> None:
            self.snapshots.write(group, index, term, chunks)
            self.take(raft.SnapshotSaved(index, term), group)

        self.jobs.append(job)

    # Doing ------------------------------------------------------------------------------------------------------------

    def take(self, event: Event, group: GroupId = PARENT) -> None:
        self.carrier.take(group, event, self.now)

    def work(self, *, snapshots: bool = True) -> None:
        """End turns and do the disk's work until all is quiet."""
        for _ in range(50):
            self.carrier.end_turn(self.now, 1_000)
            has_job = snapshots and bool(self.jobs)
            if self.unwritten and not (has_job and self.is_log_slow):
                number, records = self.unwritten.popleft()
                if records:
                    self.wal.write(records)
                self.carrier.durable(number, self.now)
            elif has_job:
                (self.jobs.pop if self.is_newest_first else self.jobs.popleft)()()
            else:
                break
        for replica in self.replicas.values():
            replica.check()

    def lead(self) -> None:
        """Let time pass, so that every group is led; whatever is in the logs is then applied."""
        for _ in range(3):
            self.now = Instant(self.now + 2.0)
            for group in list(self.replicas):
                self.take(raft.Tick(), group)
            self.work()

    def order(self, *command: bytes, group: GroupId = PARENT, snapshots: bool = True) -> None:
        self.take(Order(list(command)), group)
        self.work(snapshots=snapshots)

    def get(self, group: GroupId, key: bytes) -> object:
        return self.replicas[group].read_local([b"GET", key], 0)

    def contents(self) -> dict[bytes, object]:
        """The keys as their owners answer them; each key has one owner."""
        found = {}
        for key in KEYS:
            answers = [answer for group in self.replicas if (answer := self.get(group, key)) is not MOVED]
            assert len(answers) == 1, (key, answers)
            found[key] = answers[0]
        return found


def begin(files: MemoryDisk) -> Node:
    """A node that leads, with the keys written."""
    node = Node(files)
    node.lead()
    for key in KEYS:
        node.order(b"SET", key, b"old")
    return node


def images_of(disk: MemoryDisk, since: int) -> list[MemoryDisk]:
    """Every disk that a power cut since then may leave, each once."""
    seen: dict[bytes, MemoryDisk] = {}
    for done, image in disk.crashes():
        if done >= since:
            digest = hashlib.blake2b(repr(sorted(image.files().items())).encode(), digest_size=16).digest()
            seen.setdefault(digest, image)
    return list(seen.values())


# Every moment ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["in order", "newest first", "log is slow", "no snapshots", "late snapshots"])
def test_rows_35_and_37_no_power_cut_around_a_split_loses_or_doubles_a_key(schedule: str) -> None:
    """redis/redis#4937, #2969: a half-finished move leaves keys on both sides, or on none."""
    disk = MemoryDisk()
    node = begin(disk)
    since = len(disk.trace)
    node.is_newest_first, node.is_log_slow = schedule == "newest first", schedule == "log is slow"
    order = partial(node.order, snapshots=schedule in ("in order", "log is slow"))
    does_snapshots = schedule != "no snapshots"
    order(*SPLIT)
    order(b"SET", b"d", b"new", group=CHILD)
    order(b"SET", b"b", b"new")
    node.take(WriteSnapshotNow())
    node.work(snapshots=does_snapshots)
    order(*SPLIT_AGAIN, group=CHILD)
    order(b"SET", b"a", b"new", group=GRANDCHILD)
    node.take(WriteSnapshotNow(), CHILD)
    node.take(WriteSnapshotNow())
    node.work(snapshots=does_snapshots)
    expected = {b"a": b"new", b"b": b"new", b"d": b"new"}
    assert node.contents() == expected
    children = set()
    for image in images_of(disk, since):
        after = Node(image)
        after.lead()
        contents = after.contents()
        assert set(contents.values()) <= {b"old", b"new"}
        children.add(frozenset(after.replicas))
        # It is a life like any other: the same again, from wherever it was.
        after.order(*SPLIT)
        after.order(*SPLIT_AGAIN, group=CHILD)
        for key, group in ((b"a", GRANDCHILD), (b"b", PARENT), (b"d", CHILD)):
            after.order(b"SET", key, b"new", group=group)
        assert after.contents() == expected
        for group in after.replicas:
            after.take(WriteSnapshotNow(), group)
        after.work()
        assert all(after.replicas[group]._family.may_snapshot for group in after.replicas)
    assert len(children) == 3  # Each stage was met.
    last = Node(disk.after_power_cut())
    last.lead()
    assert last.contents() == expected


def test_row_39_what_is_acknowledged_in_the_child_survives_though_only_the_log_has_it() -> None:
    """The child has entries in the log and no snapshot: its parent makes what they follow, at recovery, and is not
    asked to wait for a leader."""
    disk = MemoryDisk()
    node = begin(disk)
    node.order(*SPLIT, snapshots=False)
    node.order(b"SET", b"d", b"new", group=CHILD, snapshots=False)
    node.order(b"SET", b"b", b"later", snapshots=False)
    assert node.snapshots.groups() == set()
    before = node.replicas[CHILD].describe().raft
    after = Node(disk.after_power_cut())
    parent, child = after.replicas[PARENT].describe().raft, after.replicas[CHILD].describe().raft
    assert (child.term, child.vote, child.last_index) == (before.term, before.vote, before.last_index)
    assert child.applied_index == child.snapshot_index == parent.applied_index
    assert after.get(CHILD, b"d") == b"old"
    assert not after.replicas[PARENT]._family.may_snapshot
    after.lead()
    assert after.contents() == {b"a": b"old", b"b": b"later", b"d": b"new"}
    assert after.snapshots.groups() == {CHILD}
    assert after.replicas[PARENT]._family.may_snapshot


def test_children_and_grandchildren_are_all_made_once_more() -> None:
    disk = MemoryDisk()
    node = begin(disk)
    node.order(*SPLIT, snapshots=False)
    node.order(*SPLIT_AGAIN, group=CHILD, snapshots=False)
    node.order(b"SET", b"a", b"new", group=GRANDCHILD, snapshots=False)
    after = Node(disk.after_power_cut())
    assert set(after.replicas) == {PARENT, CHILD, GRANDCHILD}
    after.lead()
    assert after.contents() == {b"a": b"new", b"b": b"old", b"d": b"old"}


def test_two_children_of_one_parent_are_made_once_more() -> None:
    disk = MemoryDisk()
    node = begin(disk)
    node.order(b"NOCTULE.SPLIT", b"7", b"%d" % AT_AGAIN, snapshots=False)
    node.order(b"NOCTULE.SPLIT", b"8", b"%d" % AT, snapshots=False)
    after = Node(disk.after_power_cut())
    assert set(after.replicas) == {PARENT, CHILD, GRANDCHILD}
    after.lead()
    assert after.contents() == {b"a": b"old", b"b": b"old", b"d": b"old"}
    assert after.replicas[PARENT]._family.may_snapshot


def test_a_child_with_its_own_snapshot_does_not_need_its_parent() -> None:
    """The parent's replay comes to the split again: that half is dropped, and its snapshots go on."""
    disk = MemoryDisk()
    node = begin(disk)
    node.order(*SPLIT)
    node.order(b"SET", b"d", b"new", group=CHILD)
    assert node.snapshots.groups() == {CHILD}
    after = Node(disk.after_power_cut())
    assert after.replicas[PARENT].raft.applied == 0
    after.lead()
    assert after.get(CHILD, b"d") == b"new"
    assert after.replicas[PARENT]._family.may_snapshot
    after.take(WriteSnapshotNow())
    after.work()
    assert after.snapshots.groups() == {PARENT, CHILD}
    last = Node(disk.after_power_cut())
    last.lead()
    assert last.get(CHILD, b"d") == b"new"


def test_a_split_whose_child_is_nowhere_on_the_disk_is_done_when_it_is_known_to_be_committed() -> None:
    disk = MemoryDisk()
    node = begin(disk)
    node.take(Order(SPLIT))
    while CHILD not in node.replicas:
        node.carrier.end_turn(node.now, 1_000)
        number, records = node.unwritten.popleft()
        if records:
            node.wal.write(records)
        node.carrier.durable(number, node.now)
    after = Node(disk.after_power_cut())
    assert set(after.replicas) == {PARENT}
    after.lead()
    assert set(after.replicas) == {PARENT, CHILD}
    assert after.contents() == {b"a": b"old", b"b": b"old", b"d": b"old"}


def test_row_40_a_child_that_nobody_can_make_is_damage_and_not_an_empty_group() -> None:
    """Its log says that it had promised something, and the parent's snapshot is past the split: a file was lost."""
    disk = MemoryDisk()
    node = begin(disk)
    node.order(*SPLIT)
    node.take(WriteSnapshotNow())
    node.work()
    image = disk.after_power_cut()
    for path in [path for path in image.paths if "group-00000007" in path.name]:
        image.remove(path)
    with pytest.raises(DamagedLogError, match="group 7"):
        Node(image)


def test_a_parent_restored_past_the_split_leaves_the_child_to_the_map() -> None:
    """It lagged, and its leader's snapshot knows of the split: no half comes about here."""
    disk = MemoryDisk()
    node = begin(disk)
    node.order(*SPLIT)
    replica: Replica = node.replicas[PARENT]
    chunks = list(replica._chunks(replica.raft.applied, 1_000))
    other = Node(MemoryDisk())
    other.replicas[PARENT].load_state(chunks)
    territory = other.replicas[PARENT].describe().territory
    assert territory is not None
    assert (territory.last, territory.newest_child) == (AT - 1, 7)
    other.take(raft.Received(2, Append(5, 0, 0, 0, [])))
    other.work()
    assert set(other.replicas) == {PARENT}
