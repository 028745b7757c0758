"""Power is lost at every moment of a run, and the log comes back with exactly what was acknowledged.

The one freedom: the batch that was being written may be there, but then all of it.
"""

import random
from pathlib import Path

import pytest

from noctule.adapters.wal import Wal
from noctule.adapters.wal_format import Entries, SnapshotMark
from noctule.adapters.wal_groups import RecoveredGroup
from noctule.base.errors import StorageError

from .memory_disk import MemoryDisk
from .wal_model import IDENTITY, Model, make_batch

DIRECTORY = Path("/wal")
SEGMENT_BYTES = 2048


def open_log(disk: MemoryDisk) -> tuple[Wal, dict[int, RecoveredGroup]]:
    return Wal.open(DIRECTORY, IDENTITY, segment_bytes_max=SEGMENT_BYTES, files=disk)


def run(disk: MemoryDisk, *, seed: int, batches: int) -> tuple[list[dict[int, RecoveredGroup]], list[int]]:
    """Expected state after each number of batches, and how many disk operations were done when each was durable."""
    chance = random.Random(seed)
    model = Model()
    wal, _ = open_log(disk)
    states, durable_at = [model.recovered()], [0]
    for _ in range(batches):
        copied = disk.read(max(path for path in disk.paths if path.name.endswith(".log")))
        wal.write(make_batch(model, chance, copied))
        states.append(model.recovered())
        durable_at.append(len(disk.trace))
        wal.tidy()
    wal.close()
    return states, durable_at


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_crash_leaves_the_acknowledged_batches(seed: int) -> None:
    disk = MemoryDisk()
    states, durable_at = run(disk, seed=seed, batches=200)
    kinds = {operation.kind for operation in disk.trace}
    assert {"write", "sync_data", "rename", "remove"} <= kinds, "the run must roll segments and drop some"
    acknowledged = images = torn = 0
    for done, image in disk.crashes():
        while acknowledged + 1 < len(durable_at) and durable_at[acknowledged + 1] <= done:
            acknowledged += 1
        before = image.files()
        wal, groups = open_log(image)
        wal.close()
        assert groups in states[acknowledged : acknowledged + 2], f"operation {done}, batch {acknowledged}"
        images += 1
        torn += groups == states[acknowledged] and any(
            image.files().get(path, data) != data for path, data in before.items()
        )
    assert acknowledged == len(states) - 1
    assert images > 1000
    assert torn > 50, "torn tails must have been met and cut"


def test_a_second_crash_during_recovery_and_a_third_run() -> None:
    disk = MemoryDisk()
    states, durable_at = run(disk, seed=4, batches=25)
    more = Entries(9, 1, [(1, b"after")])
    for done, image in disk.crashes():
        if done < durable_at[-2]:
            continue
        wal, first = open_log(image)
        wal.write([more])
        wal.close()
        acknowledged_at = len(image.trace)
        for done_again, second in image.crashes():
            wal, groups = open_log(second)
            wal.close()
            if done_again == acknowledged_at:
                assert groups[9].entries == [(1, b"after")]
            rest = {group: log for group, log in groups.items() if group != 9}
            assert rest == first, "what the first recovery promised, the second one keeps"
            assert rest in states


def test_a_batch_found_after_a_kill_is_durable_before_it_is_reported() -> None:
    """The process died between write and sync: the page cache has the batch, the disk has not."""
    disk = MemoryDisk()
    wal, _ = open_log(disk)
    disk.failing["sync_data"] = 5
    with pytest.raises(StorageError, match="Input/output"):
        wal.write([Entries(1, 1, [(1, b"only in memory")])])
    wal.close()
    disk.failing.clear()
    assert open_log(disk.after_power_cut())[1] == {}, "the disk never got it"

    reopened, groups = open_log(disk)
    reopened.close()
    assert groups[1].entries == [(1, b"only in memory")]
    assert open_log(disk.after_power_cut())[1] == groups


def test_a_segment_found_after_a_kill_is_in_its_directory_before_anything_is_reported() -> None:
    """The process died between rename and directory sync: the name was in memory only."""
    disk = MemoryDisk()
    disk.failing["sync_directory"] = 5
    with pytest.raises(StorageError, match=r"making /wal/wal-0+1\.log failed"):
        open_log(disk)
    disk.failing.clear()
    wal, _ = open_log(disk)
    wal.write([Entries(1, 1, [(1, b"acknowledged")])])
    wal.close()
    assert open_log(disk.after_power_cut())[1][1].entries == [(1, b"acknowledged")]


def test_a_batch_larger_than_a_segment_survives_every_tear() -> None:
    disk = MemoryDisk()
    wal, _ = open_log(disk)
    wal.write([Entries(1, 1, [(1, b"small")])])
    begun = len(disk.trace)
    wal.write([Entries(1, 2, [(1, bytes(range(256)) * 40)])])
    wal.close()
    for done, image in disk.crashes():
        if done < begun:
            continue
        wal, groups = open_log(image)
        wal.close()
        assert groups[1].entries[0] == (1, b"small")
        assert groups[1].entries[1:] in ([], [(1, bytes(range(256)) * 40)])
        if done == len(disk.trace):
            assert len(groups[1].entries) == 2


def test_a_torn_value_that_holds_frames_is_cut() -> None:
    """A value that is a copy of this very segment, salt and all: its frames are old ones, so they prove nothing."""
    disk = MemoryDisk()
    wal, _ = open_log(disk)
    for index in range(1, 6):
        wal.write([Entries(1, index, [(1, b"x" * index)])])
    (path,) = (path for path in disk.paths if path.name.endswith(".log"))
    copy = disk.read(path)[:640]
    for shift in range(8):
        wal.write([Entries(2, shift + 1, [(1, bytes(shift) + copy)])])
    wal.write([SnapshotMark(2, 7, 1)])
    wal.close()
    for _done, image in disk.crashes():
        again, groups = open_log(image)
        again.close()
        values = groups[2].entries if 2 in groups else []
        assert all(value.endswith(copy) for _term, value in values)
