"""One open log: what it takes, what it refuses, when it drops segments, and that a failure is final."""

import errno
import random
from pathlib import Path

import pytest

from noctule.adapters.wal import Wal, WalPicture
from noctule.adapters.wal_format import WalIdentity
from noctule.adapters.wal_groups import RecoveredGroup
from noctule.adapters.wal_records import Entries, Forgotten, HardState, SnapshotMark
from noctule.base.errors import ConfigError, InternalError, StorageError
from noctule.verify.sim.memory_disk import MemoryDisk

from .wal_model import IDENTITY, Model, make_batch

DIRECTORY = Path("/wal")


def open_log(disk: MemoryDisk, segment_bytes: int = 4096) -> tuple[Wal, dict[int, RecoveredGroup]]:
    return Wal.open(DIRECTORY, IDENTITY, segment_bytes_max=segment_bytes, files=disk)


def segments(disk: MemoryDisk) -> list[Path]:
    return sorted(path for path in disk.paths if path.name.endswith(".log"))


# What comes back ------------------------------------------------------------------------------------------------------


def test_everything_written_comes_back_from_a_real_directory(tmp_path: Path) -> None:
    model, chance = Model(), random.Random(5)
    for _restart in range(4):
        wal, groups = Wal.open(tmp_path / "data" / "wal", IDENTITY, segment_bytes_max=2048)
        assert groups == model.recovered()
        for _ in range(12):
            wal.write(make_batch(model, chance, b"copied" * 100))
            wal.tidy()
        wal.close()
    assert [path.stat().st_size >= 2048 for path in (tmp_path / "data" / "wal").glob("wal-*.log")].count(False) == 0


def test_entries_replace_the_end_of_the_log() -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk)
    wal.write([Entries(7, 1, [(1, b"one"), (1, b"two"), (1, b"three")])])
    wal.write([HardState(7, 2, 3, 1), Entries(7, 2, [(2, b"other")])])
    wal.close()
    _, groups = open_log(disk)
    assert groups == {7: RecoveredGroup(2, 3, 1, 0, 0, 1, [(1, b"one"), (2, b"other")])}


@pytest.mark.parametrize(
    ("mark", "kept"),
    [
        (SnapshotMark(1, 2, 5), [(5, b"c")]),  # the log has that entry: what follows stays
        (SnapshotMark(1, 2, 6), []),  # another term: nothing of this log is the leader's (figure 13, step 7)
        (SnapshotMark(1, 9, 6), []),  # beyond the log
    ],
)
def test_a_mark_forgets_what_it_covers(mark: SnapshotMark, kept: list[tuple[int, bytes]]) -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk)
    wal.write([Entries(1, 1, [(5, b"a"), (5, b"b"), (5, b"c")]), mark])
    wal.close()
    _, groups = open_log(disk)
    assert groups[1] == RecoveredGroup(0, 0, mark.index, mark.index, mark.term, mark.index + 1, kept)


def test_a_mark_that_lost_a_race_with_a_newer_one_changes_nothing() -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk)
    wal.write([SnapshotMark(1, 20, 4), SnapshotMark(1, 10, 3)])
    wal.close()
    _, groups = open_log(disk)
    assert (groups[1].snapshot_index, groups[1].snapshot_term, groups[1].first_index) == (20, 4, 21)


def test_a_saved_commit_index_ahead_of_the_log_is_held_back() -> None:
    """bakwc/PySyncObj#197, etcd-io/etcd#20426: an index beyond the log made the node refuse to start."""
    disk = MemoryDisk()
    wal, _ = open_log(disk)
    wal.write([Entries(1, 1, [(1, b"a")]), HardState(1, 1, 0, 99)])
    wal.close()
    assert open_log(disk)[1][1].commit == 1


def test_an_empty_batch_costs_nothing() -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk)
    before = len(disk.trace)
    wal.write([])
    assert len(disk.trace) == before


def test_one_batch_is_one_write_and_one_sync() -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk)
    before = len(disk.trace)
    wal.write([Entries(group, 1, [(1, b"x")]) for group in range(1, 20)])
    assert [operation.kind for operation in disk.trace[before:]] == ["write", "sync_data"]


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        Entries(1, 5, [(1, b"gap")]),
        Entries(1, 1, [(1, b"inside the snapshot")]),
        HardState(1, 2, 2, 0),  # a second vote in term 2
        HardState(1, 2, 0, 0),  # a vote taken back
        HardState(1, 1, 0, 0),  # the term falls
    ],
)
def test_records_that_raft_forbids_stop_the_log(record: Entries | HardState) -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk)
    wal.write([HardState(1, 2, 3, 0), Entries(1, 1, [(1, b"a"), (2, b"b"), (2, b"c")]), SnapshotMark(1, 1, 1)])
    before = len(disk.trace)
    with pytest.raises(InternalError):
        wal.write([record])
    assert len(disk.trace) == before, "nothing was written"
    with pytest.raises(StorageError, match="takes nothing more"):
        wal.write([HardState(1, 9, 0, 0)])


@pytest.mark.parametrize("identity", [WalIdentity("other", 1), WalIdentity("bats", 2)])
def test_a_foreign_log_is_refused_and_left_alone(identity: WalIdentity) -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk)
    wal.write([HardState(1, 2, 3, 0)])
    wal.close()
    before = disk.files()
    with pytest.raises(ConfigError, match="belongs to"):
        Wal.open(DIRECTORY, identity, files=disk)
    assert disk.files() == before
    assert open_log(disk)[1][1].term == 2, "the refusal gave the lock back"


def test_two_opens_of_one_directory_are_refused(tmp_path: Path) -> None:
    wal, _ = Wal.open(tmp_path, IDENTITY, segment_bytes_max=1024)
    with pytest.raises(ConfigError, match="is in use by the process with pid"):
        Wal.open(tmp_path, IDENTITY, segment_bytes_max=1024)
    wal.close()
    wal.close()
    again, _ = Wal.open(tmp_path, IDENTITY, segment_bytes_max=1024)
    again.close()


def test_a_closed_log_takes_nothing() -> None:
    wal, _ = open_log(MemoryDisk())
    wal.close()
    with pytest.raises(StorageError, match="is closed"):
        wal.write([HardState(1, 1, 0, 0)])


# A failing disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "number", "sentence"),
    [
        ("write", errno.ENOSPC, r"writing /wal/wal-0+1\.log failed: No space left on device \(errno 28\)"),
        ("sync_data", errno.EIO, r"syncing /wal/wal-0+1\.log failed: Input/output error \(errno 5\)"),
    ],
)
def test_a_failed_write_or_sync_is_final(kind: str, number: int, sentence: str) -> None:
    """cockroachdb/cockroach#37214: the second fsync succeeds, and the data is gone."""
    disk = MemoryDisk()
    wal, _ = open_log(disk)
    assert wal.failure is None
    disk.failing[kind] = number
    with pytest.raises(StorageError, match=sentence):
        wal.write([HardState(1, 1, 1, 0)])
    disk.failing.clear()
    before = len(disk.trace)
    with pytest.raises(StorageError, match=sentence):
        wal.write([HardState(1, 1, 1, 0)])
    with pytest.raises(StorageError, match=sentence):
        wal.tidy()
    assert len(disk.trace) == before, "the disk is not touched again"
    assert str(wal.failure).startswith(("writing", "syncing"))


def test_an_unreadable_directory_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"making .*file/wal failed"):
        Wal.open(tmp_path / "file" / "wal", IDENTITY)


# Segments -------------------------------------------------------------------------------------------------------------


def test_a_segment_is_durable_before_its_name_and_its_name_before_its_use() -> None:
    """etcd-io/etcd#6368: the directory was not synced after the rename."""
    disk = MemoryDisk()
    wal, _ = open_log(disk, segment_bytes=512)
    for index in range(1, 6):
        wal.write([Entries(1, index, [(1, bytes(300))])])
        wal.tidy()
    kinds = [operation.kind for operation in disk.trace]
    renames = [place for place, kind in enumerate(kinds) if kind == "rename"]
    assert len(renames) >= 5
    for place in renames:
        assert kinds[place - 1 : place + 2] == ["sync", "rename", "sync_directory"]


def test_segments_are_dropped_once_every_group_has_a_snapshot() -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk, segment_bytes=512)
    for index in range(1, 7):
        wal.write([Entries(1, index, [(1, bytes(150))]), Entries(2, index, [(1, bytes(20))])])
        wal.tidy()
    count = len(segments(disk))
    assert count >= 3
    assert wal.picture == WalPicture(count, 512 * count, (1, 2))

    oldest = segments(disk)[0]
    wal.write([SnapshotMark(1, 6, 1)])
    wal.tidy()
    assert segments(disk)[0] == oldest, "group 2 still needs it"
    assert wal.picture.pinned_by == (2,)

    wal.write([SnapshotMark(2, 5, 1)])
    wal.tidy()
    left = segments(disk)
    assert left[0] > oldest
    places = [place for place, operation in enumerate(disk.trace) if operation.kind == "remove"]
    assert len(places) >= 2
    assert {disk.trace[place + 1].kind for place in places} == {"sync_directory"}
    removed = [disk.trace[place].path for place in places]
    assert removed == sorted(removed), "from the oldest on"
    wal.close()
    _, groups = open_log(disk, 512)
    assert (groups[1].first_index, groups[1].entries) == (7, [])
    assert (groups[2].first_index, groups[2].entries) == (6, [(1, bytes(20))])


def test_a_segment_that_holds_uncovered_entries_is_never_dropped() -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk, segment_bytes=512)
    for index in range(1, 9):
        wal.write([Entries(1, index, [(1, bytes(150))])])
        wal.write([SnapshotMark(1, index - 1, 1)] if index > 1 else [])
        wal.tidy()
        again, groups = open_log(disk.after_power_cut(), 512)
        again.close()
        assert groups[1].entries == [(1, bytes(150))]
    assert len(segments(disk)) <= 2


def test_entries_cut_off_by_a_conflict_do_not_pin_a_segment() -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk, segment_bytes=512)
    wal.write([Entries(1, 1, [(1, b"a"), (1, b"b"), (1, bytes(300))])])
    wal.write([HardState(1, 2, 0, 1), Entries(1, 2, [(2, bytes(300))])])
    oldest, second = segments(disk)
    wal.close()
    wal, _ = open_log(disk, 512)  # as much after a restart
    assert wal.picture.pinned_by == (1,)
    wal.write([SnapshotMark(1, 1, 1)])
    wal.tidy()
    assert segments(disk)[0] == second, f"{oldest} has only entry 1 that counts"
    wal.close()
    assert open_log(disk, 512)[1][1] == RecoveredGroup(2, 0, 1, 1, 1, 2, [(2, bytes(300))])


def test_a_forgotten_group_pins_nothing() -> None:
    """Its replica was removed, so it takes no snapshot any more, and the log would grow for ever."""
    disk = MemoryDisk()
    wal, _ = open_log(disk, segment_bytes=512)
    for index in range(1, 7):
        wal.write([Entries(1, index, [(1, bytes(150))]), Entries(2, index, [(1, bytes(20))])])
    wal.write([SnapshotMark(1, 6, 1)])
    wal.tidy()
    assert (len(segments(disk)) >= 3, wal.picture.pinned_by) == (True, (2,))
    wal.write([Forgotten(2)])
    wal.tidy()
    assert wal.picture.pinned_by == ()
    assert len(segments(disk)) <= 2
    wal.close()
    wal, groups = open_log(disk, 512)
    assert groups.keys() == {1}
    wal.write([Forgotten(2)])  # As a node does that was killed before it knew of the first one.
    wal.close()
    assert open_log(disk, 512)[1].keys() == {1}


def test_a_group_that_is_made_anew_begins_with_nothing_of_the_one_before() -> None:
    """Terms may begin below, votes may differ, and entry 1 follows no gap; in the same batch and in a later segment."""
    disk = MemoryDisk()
    wal, _ = open_log(disk, segment_bytes=512)
    wal.write([HardState(1, 9, 3, 4), Entries(1, 1, [(9, b"old")] * 5), SnapshotMark(1, 4, 9)])
    wal.write([Forgotten(1), HardState(1, 1, 0, 0), Entries(1, 1, [(1, b"new")])])
    again = {1: RecoveredGroup(1, 0, 0, 0, 0, 1, [(1, b"new")])}
    for _ in range(2):
        wal.close()
        wal, groups = open_log(disk, 512)
        assert groups == again
        wal.write([Entries(2, 1, [(1, bytes(400))])])  # Begins a segment, with a summary of what is left.
        again[2] = RecoveredGroup(0, 0, 0, 0, 0, 1, [(1, bytes(400))])
    assert wal.picture.pinned_by == (1,)
    wal.write([SnapshotMark(1, 1, 1), SnapshotMark(2, 1, 1)])
    wal.tidy()
    assert wal.picture.pinned_by == ()


def test_votes_outlive_the_segments_they_were_written_in() -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk, segment_bytes=512)
    wal.write([HardState(5, 7, 2, 0)])
    for index in range(1, 9):
        wal.write([Entries(1, index, [(1, bytes(200))]), SnapshotMark(1, index, 1)])
        wal.tidy()
    assert segments(disk)[0].name != "wal-0000000000000001.log"
    wal.close()
    assert open_log(disk, 512)[1][5] == RecoveredGroup(7, 2, 0, 0, 0, 1, [])


def test_the_next_segment_is_zeroed_a_slice_at_a_time() -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk, segment_bytes=5 << 20)
    biggest = []
    index = 0
    while len(segments(disk)) < 2:
        index += 1
        before = len(disk.trace)
        wal.write([Entries(1, index, [(1, bytes(400_000))])])
        biggest.append(sum(len(operation.data) for operation in disk.trace[before:]))
        wal.tidy()
    assert max(biggest) < 1_000_000, "no batch waited for the zeroing of a segment"
    assert {len(disk.read(path)) for path in segments(disk)} == {5 << 20}


def test_leftovers_of_an_interrupted_start_are_removed() -> None:
    disk = MemoryDisk.of({DIRECTORY / "wal-next.log.tmp": b"half", DIRECTORY / "notes.txt": b"mine"})
    wal, _ = open_log(disk)
    wal.close()
    assert DIRECTORY / "wal-next.log.tmp" not in disk.paths
    assert disk.read(DIRECTORY / "notes.txt") == b"mine"
