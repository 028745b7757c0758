"""Snapshots on their way from and to the disk: what is held, what is let go, and what a crash leaves."""

from pathlib import Path

import pytest

from noctule.adapters.snapshots import Snapshot, SnapshotFiles
from noctule.base.ids import GroupId
from noctule.core.raft import events as raft
from noctule.node.snapshot_shelf import SnapshotShelf
from noctule.verify.sim.memory_disk import MemoryDisk

DIRECTORY = Path("/snapshots")
GROUP, OTHER = GroupId(1), GroupId(2)
CHUNKS = [b"membership", b"header", b"data" * 100]


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


@pytest.fixture
def files(disk: MemoryDisk) -> SnapshotFiles:
    return SnapshotFiles(DIRECTORY, files=disk)


def chunk(number: int, index: int = 5) -> raft.SaveChunk:
    return raft.SaveChunk(index, 2, number, len(CHUNKS), CHUNKS[number])


def test_chunks_become_a_file_with_the_last_one(files: SnapshotFiles) -> None:
    shelf = SnapshotShelf(files)
    told = [shelf.save_chunk(GROUP, chunk(number)) for number in range(3)]
    assert told == [raft.ChunkSaved(5, 2, 0), raft.ChunkSaved(5, 2, 1), raft.SnapshotSaved(5, 2)]
    assert files.read(GROUP) == Snapshot(5, 2, CHUNKS)


def test_what_begins_anew_or_is_dropped_leaves_nothing_behind(disk: MemoryDisk, files: SnapshotFiles) -> None:
    shelf = SnapshotShelf(files)
    shelf.save_chunk(GROUP, chunk(0, index=4))
    shelf.save_chunk(GROUP, chunk(0))
    shelf.save_chunk(GROUP, chunk(1))
    assert len(disk.paths) == 1, "only the one that was begun last"
    shelf.drop_chunks(GROUP)
    shelf.drop_chunks(GROUP)
    assert (list(disk.paths), list(disk.open_count)) == ([], [])


def test_a_crash_at_any_call_leaves_the_old_one_or_the_whole_new_one(disk: MemoryDisk, files: SnapshotFiles) -> None:
    files.write(GROUP, 3, 1, [b"old"])
    begun = len(disk.trace)
    shelf = SnapshotShelf(files)
    for number in range(3):
        shelf.save_chunk(GROUP, chunk(number))
    found = [SnapshotFiles(DIRECTORY, files=image).read(GROUP) for done, image in disk.crashes() if done >= begun]
    assert found[0] == Snapshot(3, 1, [b"old"])
    assert found[-1] == Snapshot(5, 2, CHUNKS)
    assert all(each in (found[0], found[-1]) for each in found)


def test_a_snapshot_that_is_sent_is_held_until_nobody_wants_it(disk: MemoryDisk, files: SnapshotFiles) -> None:
    shelf = SnapshotShelf(files)
    assert shelf.open(GROUP) == raft.SnapshotOpened(0, 0, 0, 0)
    files.write(GROUP, 5, 2, CHUNKS)
    total = sum(map(len, CHUNKS))
    assert shelf.open(GROUP) == shelf.open(GROUP) == raft.SnapshotOpened(5, 2, 3, total)
    files.write(GROUP, 9, 2, [b"newer"])
    shelf.open(GROUP)
    assert shelf.load_chunk(GROUP, raft.LoadChunk(5, 2)) == raft.ChunkLoaded(5, 2, CHUNKS[2])
    assert shelf.load_chunk(OTHER, raft.LoadChunk(5, 2)) == raft.ChunkLoaded(5, 2, None)
    shelf.keep(OTHER, ())
    shelf.keep(GROUP, (9,))
    assert shelf.load_chunk(GROUP, raft.LoadChunk(5, 2)) == raft.ChunkLoaded(5, 2, None)
    assert shelf.load_chunk(GROUP, raft.LoadChunk(9, 0)) == raft.ChunkLoaded(9, 0, b"newer")
    shelf.close()
    assert list(disk.open_count) == []
