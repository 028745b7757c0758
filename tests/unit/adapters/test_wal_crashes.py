"""Power is lost at every moment of a run, and the log comes back with exactly what was acknowledged.

The one freedom: the batch that was being written may be there, but then all of it.
"""

import functools
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from noctule.adapters.wal import Wal
from noctule.adapters.wal_groups import RecoveredGroup
from noctule.adapters.wal_records import Entries, Record, SnapshotMark
from noctule.base.errors import StorageError
from noctule.verify.sim.memory_disk import MemoryDisk, Operation

from .power_cuts import PowerCuts
from .wal_model import IDENTITY, Model, make_batch

DIRECTORY = Path("/wal")
SEGMENT_BYTES = 1536
BATCHES_BETWEEN_RESTARTS = 100
BATCHES_BETWEEN_SNAPSHOTS = 8
Groups = dict[int, RecoveredGroup]


def open_log(disk: MemoryDisk) -> tuple[Wal, Groups]:
    return Wal.open(DIRECTORY, IDENTITY, segment_bytes_max=SEGMENT_BYTES, files=disk)


class Run:
    """A log in use: batches, restarts, snapshots of all groups now and then so that few segments live."""

    def __init__(self, seed: int) -> None:
        self.disk = MemoryDisk()
        self.writes = 0
        """At the seam: batches, and the zeros and beginnings of segments."""
        self._chance = random.Random(seed)
        self._model = Model()
        self._wal, _ = open_log(self.disk)
        self._batches = 0
        self._told = 0

    def steps(self) -> Iterator[tuple[list[Operation], list[Groups]]]:
        """Without end: the operations since the last step, and what a crash after any of them may leave.

        The last operation of a batch is the sync that makes it durable, and is a step of its own.
        """
        empty: Groups = {}
        yield self._new_operations(), [empty]
        while True:
            before = self._model.recovered()
            self._wal.write(self._next_batch())
            after = self._model.recovered()
            *writing, sync = self._new_operations()
            assert sync.kind == "sync_data"
            yield writing, [before, after]
            yield [sync], [after]
            self._wal.tidy()
            if self._batches % BATCHES_BETWEEN_RESTARTS == 0:
                self._wal.close()
                self._wal, found = open_log(self.disk)
                assert found == after
            yield self._new_operations(), [after]

    def _next_batch(self) -> list[Record]:
        self._batches += 1
        if self._batches % BATCHES_BETWEEN_SNAPSHOTS:
            newest = max(path for path in self.disk.paths if path.name.endswith(".log"))
            return make_batch(self._model, self._chance, self.disk.read(newest))
        marks: list[Record] = [
            SnapshotMark(number, group.last_index, group.log[group.last_index][0])
            for number, group in self._model.groups.items()
            if group.log
        ]
        self._model.write(marks)
        return marks or make_batch(self._model, self._chance, b"")

    def _new_operations(self) -> list[Operation]:
        operations = self.disk.trace[self._told :]
        self._told += len(operations)
        self.writes += sum(operation.kind == "write" for operation in operations)
        return operations


@functools.lru_cache(maxsize=64)
def recover(image: frozenset[tuple[Path, bytes]]) -> tuple[Groups, bool]:
    """What a start on these files finds, and whether it cut a torn tail.

    Remembered for a while, as many moments leave the same files: all sectors arrived and the sync came, for one.
    """
    disk = MemoryDisk.of(dict(image))
    wal, groups = open_log(disk)
    wal.close()
    after = disk.files()
    return groups, any(after.get(path, data) != data for path, data in image)


@pytest.mark.timeout(1200)
def test_every_crash_leaves_the_acknowledged_batches(request: pytest.FixtureRequest) -> None:
    """About 0.4 ms of processor time for each write: 8 images in the mean, of which 2.7 differ from the last ones."""
    writes_wanted: int = request.config.getoption("--wal-writes")
    run, cuts = Run(seed=1), PowerCuts()
    kinds: Counter[str] = Counter()
    images = tails_cut = 0
    for operations, allowed in run.steps():
        for operation in operations:
            kinds[operation.kind] += 1
            cuts.follow(operation)
            for image in cuts.images():
                images += 1
                groups, is_tail_cut = recover(frozenset(image.items()))
                assert groups in allowed, f"image {images}, after operation {kinds.total()}, a {operation.kind}"
                tails_cut += is_tail_cut
        if run.writes >= writes_wanted:
            break
    assert kinds["write"] >= writes_wanted
    assert kinds["rename"] > writes_wanted / 20, "segments roll"
    assert kinds["remove"] > writes_wanted / 20, "and are dropped"
    assert images > 5 * writes_wanted
    assert tails_cut > writes_wanted / 4, "torn tails are met and cut"


def test_the_images_of_these_tests_are_those_of_the_disk() -> None:
    run, cuts = Run(seed=2), PowerCuts()
    operations = [operation for step, _ in itertools.islice(run.steps(), 90) for operation in step]
    assert {operation.kind for operation in operations} >= {"create", "write", "sync_data", "sync", "rename", "remove"}
    plain = [(done, image.files()) for done, image in run.disk.crashes() if 0 < done <= len(operations)]
    quick = []
    for done, operation in enumerate(operations, start=1):
        cuts.follow(operation)
        quick.extend((done, image) for image in cuts.images())
    assert quick == plain


def test_a_second_crash_during_recovery_and_a_third_run() -> None:
    run, cuts = Run(seed=4), PowerCuts()
    images: dict[frozenset[tuple[Path, bytes]], list[Groups]] = {}
    for operations, allowed in itertools.islice(run.steps(), 150):
        for operation in operations:
            cuts.follow(operation)
            images.update((frozenset(image.items()), allowed) for image in cuts.images())
    assert len(images) > 100
    for image, allowed in images.items():
        disk = MemoryDisk.of(dict(image))
        wal, first = open_log(disk)
        assert first in allowed
        wal.write([Entries(9, 1, [(1, b"after")])])
        wal.close()
        for done, second in disk.crashes():
            wal, groups = open_log(second)
            wal.close()
            if done == len(disk.trace):
                assert groups[9].entries == [(1, b"after")]
            rest = {group: log for group, log in groups.items() if group != 9}
            assert rest == first, "what the first recovery promised, the second one keeps"


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
