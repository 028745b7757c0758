"""Snapshot files: whole or not there, damaged ones told, older ones kept until the newer one is durable."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from noctule.adapters.snapshots import CHUNK_BYTES_MAX, Snapshot, SnapshotFiles, SnapshotReader
from noctule.base.errors import StorageError
from noctule.verify.sim.memory_disk import MemoryDisk

DIRECTORY = Path("/snapshots")
CHUNKS = [b"first" * 30, b"", b"third", bytes(700)]


def snapshots(disk: MemoryDisk) -> SnapshotFiles:
    return SnapshotFiles(DIRECTORY, files=disk)


def test_a_snapshot_comes_back_from_a_real_directory(tmp_path: Path) -> None:
    files = SnapshotFiles(tmp_path / "snapshots")
    path = files.write(3, 17, 2, iter(CHUNKS))
    assert path == tmp_path / "snapshots" / "group-00000003-0000000000000011-0000000000000002.snapshot"
    again = SnapshotFiles(tmp_path / "snapshots")
    assert again.read(3) == Snapshot(17, 2, CHUNKS)
    assert again.read(4) is None
    assert again.read(3, index=16) is None


def test_a_snapshot_without_chunks_comes_back() -> None:
    files = snapshots(MemoryDisk())
    files.write(1, 1, 1, [])
    assert files.read(1) == Snapshot(1, 1, [])


def test_groups_do_not_see_each_other() -> None:
    files = snapshots(MemoryDisk())
    files.write(1, 5, 1, [b"one"])
    files.write(0x11, 4, 1, [b"seventeen"])
    files.write(1, 6, 1, [b"one again"])
    assert files.read(1) == Snapshot(6, 1, [b"one again"])
    assert files.read(0x11) == Snapshot(4, 1, [b"seventeen"])
    assert files.indexes(1) == [6]


def test_a_group_s_files_are_removed_durably_and_nobody_else_s() -> None:
    """A replica that is made here again must find none: it would take it for its own."""
    disk = MemoryDisk()
    files = snapshots(disk)
    assert files.groups() == set()
    for group, index in ((1, 5), (0x11, 4), (1, 3), (2**32 - 1, 2**64 - 1)):
        files.write(group, index, 1, [b"x"])
    assert files.groups() == {1, 0x11, 2**32 - 1}
    files.remove_all(1)
    assert files.groups() == {0x11, 2**32 - 1}
    after = snapshots(disk.after_power_cut())
    assert after.groups() == {0x11, 2**32 - 1}
    files.remove_all(1)
    files.remove_all(2**32 - 1)
    assert files.groups() == {0x11}


def test_what_is_no_snapshot_is_no_group(tmp_path: Path) -> None:
    files = SnapshotFiles(tmp_path)
    files.begin(4, 5, 1).close()
    (tmp_path / "damaged-1-group-00000003-0000000000000011-0000000000000002.snapshot").touch()
    (tmp_path / "group-3.snapshot").touch()
    assert files.groups() == set()


def test_a_snapshot_that_lost_a_race_does_not_remove_the_newer_one() -> None:
    files = snapshots(MemoryDisk())
    files.write(1, 20, 3, [b"installed"])
    files.write(1, 10, 2, [b"own, begun earlier"])
    assert files.indexes(1) == [10, 20]
    assert files.read(1) == Snapshot(20, 3, [b"installed"])
    assert files.read(1, index=10) == Snapshot(10, 2, [b"own, begun earlier"])
    files.remove_older(1, 20)
    assert files.indexes(1) == [20]


def test_every_crash_leaves_the_old_or_the_new_one_whole() -> None:
    disk = MemoryDisk()
    files = snapshots(disk)
    files.write(1, 5, 1, [b"old" * 100])
    begun = len(disk.trace)
    files.write(1, 9, 2, CHUNKS)
    seen = set()
    for done, image in disk.crashes():
        if done < begun:
            continue
        found = snapshots(image).read(1)
        assert found in (Snapshot(5, 1, [b"old" * 100]), Snapshot(9, 2, CHUNKS))
        assert not any(path.name.endswith(".tmp") for path in image.paths)
        seen.add(found.index)
    assert seen == {5, 9}
    kinds = [operation.kind for operation in disk.trace[begun:]]
    assert kinds[-5:] == ["sync", "rename", "sync_directory", "remove", "sync_directory"]


def test_any_shorter_or_longer_file_is_told() -> None:
    disk = MemoryDisk()
    path = snapshots(disk).write(1, 9, 2, CHUNKS)
    data = disk.read(path)
    for other in [*(data[:end] for end in range(len(data))), data + b"\0", data + data]:
        with pytest.raises(StorageError, match="is damaged at byte"):
            snapshots(MemoryDisk.of({path: other})).read(1)


def test_swapped_chunks_and_another_groups_file_are_told() -> None:
    disk = MemoryDisk()
    path = snapshots(disk).write(1, 9, 2, [b"aaaa", b"bbbb"])
    data = disk.read(path)
    start = 28 + 4
    swapped = data[:start] + data[start + 12 : start + 24] + data[start : start + 12] + data[start + 24 :]
    assert sorted(swapped) == sorted(data)
    with pytest.raises(StorageError, match="chunk 0 is not as it was written"):
        snapshots(MemoryDisk.of({path: swapped})).read(1)
    other = path.with_name("group-00000002-0000000000000009-0000000000000002.snapshot")
    with pytest.raises(StorageError, match="header is not that of its name"):
        snapshots(MemoryDisk.of({other: data})).read(2)


def test_a_damaged_newest_snapshot_is_never_passed_over_silently() -> None:
    disk = MemoryDisk()
    files = snapshots(disk)
    new = files.write(1, 20, 3, [b"new"])
    old = files.write(1, 10, 2, [b"old"])
    files = snapshots(MemoryDisk.of({old: disk.read(old), new: disk.read(new)[:-1]}))
    with pytest.raises(StorageError, match=r"0000000000000014-.* is damaged"):
        files.read(1)
    assert files.read(1, index=10) == Snapshot(10, 2, [b"old"])


def test_a_snapshot_found_after_a_kill_is_in_its_directory_before_the_log_relies_on_it() -> None:
    """The process died between rename and directory sync: the name was in memory only (etcd-io/etcd#6368)."""
    disk = MemoryDisk()
    files = snapshots(disk)
    disk.failing["sync_directory"] = 5
    with pytest.raises(StorageError, match="Input/output"):
        files.write(1, 5, 1, [b"state"])
    disk.failing.clear()
    assert snapshots(disk).read(1) == Snapshot(5, 1, [b"state"])
    assert snapshots(disk.after_power_cut()).read(1) == Snapshot(5, 1, [b"state"])


def test_an_interrupted_source_leaves_the_older_one() -> None:
    def broken() -> Iterator[bytes]:
        yield b"some"
        raise RuntimeError("the replica was closed")

    disk = MemoryDisk()
    files = snapshots(disk)
    files.write(1, 5, 1, [b"old"])
    with pytest.raises(RuntimeError):
        files.write(1, 9, 2, broken())
    assert files.read(1) == Snapshot(5, 1, [b"old"])


def test_a_chunk_over_its_bound_is_refused() -> None:
    with pytest.raises(StorageError, match=f"over the bound of {CHUNK_BYTES_MAX}"):
        snapshots(MemoryDisk()).write(1, 1, 1, [bytes(CHUNK_BYTES_MAX + 1)])


# Chunk by chunk -------------------------------------------------------------------------------------------------------


def read_all(reader: SnapshotReader | None) -> list[bytes]:
    assert reader is not None
    return [reader.read(number) for number in range(reader.count)]


def test_an_open_snapshot_is_read_in_any_order_also_after_a_newer_one_took_its_place(tmp_path: Path) -> None:
    """Under load a new one is written every few seconds, and a transfer would begin anew each time."""
    files = SnapshotFiles(tmp_path / "snapshots")
    assert files.open(1) is None
    files.write(1, 5, 1, CHUNKS)
    reader = files.open(1)
    assert reader is not None
    files.write(1, 9, 2, [b"newer"])
    assert files.indexes(1) == [9]
    assert (reader.index, reader.term, reader.count, reader.bytes_total) == (5, 1, 4, sum(map(len, CHUNKS)))
    assert reader.read(3) == CHUNKS[3]
    assert read_all(reader) == CHUNKS
    reader.close()


def test_no_flipped_bit_comes_out_of_an_open_snapshot() -> None:
    disk = MemoryDisk()
    path = snapshots(disk).write(1, 9, 2, CHUNKS)
    data = disk.read(path)
    for place in range(len(data)):
        flipped = data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :]
        files = snapshots(MemoryDisk.of({path: flipped}))
        with pytest.raises(StorageError, match="is damaged at byte"):
            read_all(files.open(1))


def test_a_snapshot_written_chunk_by_chunk_is_there_once_it_is_finished() -> None:
    disk = MemoryDisk()
    files = snapshots(disk)
    files.write(1, 5, 1, [b"old"])
    writer = files.begin(1, 9, 2)
    for chunk in CHUNKS:
        writer.append(chunk)
        assert files.read(1) == Snapshot(5, 1, [b"old"])
    writer.finish()
    assert snapshots(disk.after_power_cut()).read(1) == Snapshot(9, 2, CHUNKS)
    assert list(disk.open_count) == []


def test_one_that_is_abandoned_leaves_nothing() -> None:
    disk = MemoryDisk()
    writer = snapshots(disk).begin(1, 9, 2)
    writer.append(b"some")
    writer.abandon()
    assert (list(disk.paths), list(disk.open_count)) == ([], [])
