"""A disk that fails at any call of a node's life: nothing more is acknowledged, the reason is told, nothing is lost."""

import asyncio
import errno
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from noctule.adapters.files import FileSystem
from noctule.adapters.snapshots import Snapshot, SnapshotFiles
from noctule.adapters.wal import Wal
from noctule.adapters.wal_groups import RecoveredGroup
from noctule.adapters.wal_records import Entries, HardState, Record, SnapshotMark
from noctule.adapters.wal_writer import WalWriter
from noctule.base.errors import StorageError
from noctule.verify.sim.memory_disk import MemoryDisk

from .failing_disk import FailingDisk
from .power_cuts import PowerCuts
from .wal_model import IDENTITY, Model

LOG = Path("/data/wal")
SNAPSHOTS = Path("/data/snapshots")
SEGMENT_BYTES = 1024
BATCHES_IN_A_LIFE = 9
REASONS = [errno.EIO, errno.ENOSPC]
Groups = dict[int, RecoveredGroup]

WORDS_FOR_CALLS = {
    "make_directory": {"making"},
    "lock_directory": {"locking"},
    "names": {"reading"},
    "read": {"reading"},
    "open": {"opening", "repairing"},
    "create": {"zeroing", "writing"},
    "write": {"zeroing", "making", "writing", "repairing"},
    "sync_data": {"zeroing", "syncing", "repairing"},
    "sync": {"making", "writing"},
    "close": {"closing", "repairing", "writing"},
    "rename": {"making", "writing"},
    "remove": {"removing"},
    "sync_directory": {"making", "removing", "repairing", "syncing", "writing"},
}
"""What a person may read of each call, before the file's path and the reason."""


def open_log(files: FileSystem) -> tuple[Wal, Groups]:
    return Wal.open(LOG, IDENTITY, segment_bytes_max=SEGMENT_BYTES, files=files, chance=random.Random(1))


def batch(number: int) -> list[Record]:
    entry = (1 + number // 4, bytes([number]) * 150)
    return [Entries(1, number, [entry]), Entries(2, number, [entry]), HardState(1, entry[0], 0, number)]


class Node:
    """What a node does with its disk, from start to stop and again; it has stopped acknowledging once that raises."""

    def __init__(self) -> None:
        self.acknowledged = Model()
        self.begun = Model()
        """The same, or with the one batch more that was being written."""
        self.snapshots: list[Snapshot | None] = [None]
        """The newest that is durable, and after it one that was being written."""
        self.wal: Wal | None = None
        """Until it is being closed."""
        self._batches = 0

    def live_twice(self, disk: FailingDisk) -> None:
        self._live(disk)
        self._live(disk)

    def check_recovered(self, files: FileSystem) -> None:
        """A restart finds all that was acknowledged, and what was being written whole or not at all."""
        wal, groups = open_log(files)
        wal.close()
        assert groups in (self.acknowledged.recovered(), self.begun.recovered())
        snapshot = SnapshotFiles(SNAPSHOTS, files=files).read(1)
        assert snapshot in self.snapshots
        marked = groups[1].snapshot_index if 1 in groups else 0
        assert marked <= (snapshot.index if snapshot else 0), "the log forgot only what a snapshot has"

    def _live(self, disk: FailingDisk) -> None:
        files = SnapshotFiles(SNAPSHOTS, files=disk)
        self.wal, found = open_log(disk)
        assert found == self.acknowledged.recovered()
        for _ in range(BATCHES_IN_A_LIFE):
            self._batches += 1
            self._write(self.wal, batch(self._batches))
            if self._batches % 4 == 0:
                index, term = self._batches - 1, self._batches // 4
                self._write_snapshot(files, Snapshot(index, term, [b"state" * 50, b"rest"]))
                self._write(self.wal, [SnapshotMark(group, index, term) for group in (1, 2)])
        assert files.read(1) == self.snapshots[-1]
        wal, self.wal = self.wal, None
        wal.close()

    def _write(self, wal: Wal, records: list[Record]) -> None:
        self.begun.write(records)
        wal.write(records)
        self.acknowledged.write(records)
        wal.tidy()

    def _write_snapshot(self, files: SnapshotFiles, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        files.write(1, snapshot.index, snapshot.term, snapshot.chunks)
        self.snapshots = [snapshot]


def images_after_a_power_cut(disk: FailingDisk) -> Iterator[MemoryDisk]:
    cuts = PowerCuts()
    for operation in disk.trace:
        cuts.follow(operation)
    return map(MemoryDisk.of, cuts.images())


def check_a_failure_at(call: int, reason: int) -> tuple[str, str]:
    """Which call it was, and the word for it."""
    disk, node = FailingDisk(call, reason), Node()
    with pytest.raises(StorageError) as failed:
        node.live_twice(disk)
    assert type(failed.value) is StorageError, "a disk that fails has not damaged what is on it"
    sentence = str(failed.value)
    match = re.fullmatch(rf"(\w+) (/\S+) failed: {os.strerror(reason)} \(errno {reason}\)", sentence)
    assert match is not None, sentence
    word, path = match[1], Path(match[2])
    assert disk.failed_path in (path, path.parent) or disk.failed_path.parent == path.parent, sentence
    if node.wal is not None:
        if disk.failed_path.is_relative_to(LOG):
            check_refused(node.wal, sentence, disk)
        node.wal.close()
    for image in images_after_a_power_cut(disk):
        node.check_recovered(image)
    node.check_recovered(disk)
    return disk.failed_call, word


def check_refused(wal: Wal, reason: str, disk: FailingDisk) -> None:
    """It takes nothing more, says why, and leaves the disk alone."""
    calls = disk.calls
    assert str(wal.failure) == reason
    for attempt in (lambda: wal.write([HardState(9, 1, 1, 0)]), wal.tidy):
        with pytest.raises(StorageError, match=re.escape(reason)):
            attempt()
    assert disk.calls == calls


@pytest.mark.parametrize("reason", REASONS)
def test_a_failure_at_any_call_is_final_told_and_loses_nothing(reason: int) -> None:
    """cockroachdb/cockroach#37214 and the like: the disk works again at once, so a second try would be believed."""
    healthy = FailingDisk()
    Node().live_twice(healthy)
    words = defaultdict(set)
    for call in range(1, healthy.calls + 1):
        kind, word = check_a_failure_at(call, reason)
        words[kind].add(word)
    assert words == WORDS_FOR_CALLS


@pytest.mark.parametrize("reason", REASONS)
async def test_the_writer_acknowledges_nothing_after_a_failure_at_any_call(reason: int) -> None:
    healthy = FailingDisk()
    await check_the_writer_on(healthy)
    assert healthy.calls > 50
    for call in range(1, healthy.calls + 1):
        await check_the_writer_on(FailingDisk(call, reason))


async def check_the_writer_on(disk: FailingDisk) -> None:
    told: asyncio.Queue[int | StorageError] = asyncio.Queue()
    acknowledged, begun = Model(), Model()
    failures: list[StorageError] = []
    try:
        wal, _ = open_log(disk)
    except StorageError:
        assert disk.failed_call, "it failed, and was never open"
        return
    writer = WalWriter(wal, told.put_nowait, told.put_nowait)
    for number in range(1, BATCHES_IN_A_LIFE + 1):
        records = batch(number) if number % 4 else [SnapshotMark(group, number, number) for group in (1, 2)]
        try:
            writer.submit(records)
        except StorageError:
            break  # the failure came with the acknowledgement of the batch before
        begun.write(records)
        answer = await told.get()
        if isinstance(answer, StorageError):
            failures.append(answer)
            break
        assert answer == number
        acknowledged.write(records)
    await writer.close()
    while not told.empty():
        failures.append(told.get_nowait())  # type: ignore[arg-type]  # held to be one below
    if failures:
        assert failures == [writer.failure], "it is told once, and nothing after it"
        with pytest.raises(StorageError, match=re.escape(str(writer.failure))):
            writer.submit([HardState(9, 1, 1, 0)])
    try:
        wal.close()
    except StorageError as error:
        failures.append(error)
    assert len(failures) == (1 if disk.failed_call else 0)
    for image in images_after_a_power_cut(disk):
        assert open_log(image)[1] in (acknowledged.recovered(), begun.recovered())
