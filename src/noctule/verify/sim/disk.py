"""The disk of one machine: the real log and snapshot files, on files in memory, with the time that disks take.

`SimulatedDisk` outlives its machine's crashes. `DiskThreads` is what a node's two threads do in one life: one writes
batches to the log and tidies it, as `adapters.wal_writer` does; the other writes and reads snapshot files.
A job's system calls are all made when it begins, and its outcome is told when it ends; `faulty_files` sees to it that
a crash in between hits any point of it.
"""

import errno
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from noctule.adapters.snapshots import SnapshotFiles
from noctule.adapters.wal import Wal, WalPicture
from noctule.adapters.wal_format import WalIdentity
from noctule.adapters.wal_records import Record
from noctule.adapters.wal_recovery import recover
from noctule.base.errors import DamagedLogError, NoctuleError, StorageError
from noctule.base.ids import GroupId
from noctule.core.replica.replica import Replica
from noctule.node.address_book import AddressBook, load_address_book, save_address_book
from noctule.node.config import ClusterConfig, NodeConfig
from noctule.node.data_folder import OWNER_FILE, claim_data_folder
from noctule.node.recovery import ReplicaSettings, recover_or_return
from noctule.verify.sim.faulty_files import FaultyFiles
from noctule.verify.sim.memory_disk import MemoryDisk
from noctule.verify.sim.time import VirtualTime

_Result = TypeVar("_Result")

CLUSTER = "simulated"
DATA_DIRECTORY = Path("/data")
WAL_DIRECTORY = Path("/wal")
SNAPSHOT_DIRECTORY = DATA_DIRECTORY / "snapshots"

SYNC_S_MAX = 0.002
"""How long a healthy disk takes at most, but for the slow syncs."""

DISK_FAILURES = (
    ("write", errno.EIO),
    ("write", errno.ENOSPC),
    ("create", errno.ENOSPC),
    ("sync_data", errno.EIO),
    ("sync_data", errno.EIO),
    ("sync_data", errno.ENOSPC),
    ("sync", errno.EIO),
    ("rename", errno.EIO),
    ("remove", errno.EIO),
    ("sync_directory", errno.EIO),
)
"""What may fail from some moment on, until the machine is started anew; each as likely as the others."""


class SimulatedDisk:
    """Survives its machine's crashes."""

    def __init__(self, node_id: int, time: VirtualTime, chance: random.Random, count: Callable[[str], None]) -> None:
        self.time = time
        self.chance = chance
        self.count = count
        self.sync_s_min, self.sync_s_max = 0.0001, SYNC_S_MAX
        self.slow_sync = 0.0
        """How often a sync takes up to a hundred times as long."""
        self.segment_bytes_max = chance.choice((8, 16, 64, 256)) << 10
        self.files = FaultyFiles(chance)
        self.is_flipped = False
        """Whether bits of it were flipped since the last start; only then may that find damage."""
        self.is_replaced = False
        """Whether it is another disk than the one that the node began with."""
        self._identity = WalIdentity(CLUSTER, node_id)

    def open(
        self, groups: Iterable[GroupId], settings: ReplicaSettings, chance: random.Random
    ) -> tuple["DiskThreads", dict[GroupId, Replica]]:
        """Begin a life by the recovery of a real node, which heals what is damaged by the help of the others.

        The system calls of recovery may still be hit by a crash, until `settle`; not those of a first start or of a
        return, whose order over several directories the files know nothing of.
        """
        cluster = ClusterConfig(name=self._identity.cluster, voters=dict.fromkeys(settings.voters, "sim:1"))
        config = NodeConfig(
            cluster=cluster,
            node_id=self._identity.node_id,
            data_dir=DATA_DIRECTORY,
            wal_dir=WAL_DIRECTORY,
            rejoin=self.is_replaced,
        )
        is_new = OWNER_FILE not in self.files.names(DATA_DIRECTORY)
        folder = claim_data_folder(config, chance, self.files)
        directory = folder.directory
        wal, snapshots, replicas = recover_or_return(
            folder,
            self._identity,
            groups,
            settings,
            segment_bytes_max=self.segment_bytes_max,
            now=self.time.now(),
            chance=chance,
            on_damage=self._found_damage,
        )
        if is_new or folder.directory != directory:
            self.settle()
        elif self.is_flipped:
            self.count("damage harmless")
        self.is_flipped = False
        for operation, covered in self.files.operations(WAL_DIRECTORY):
            if operation.kind == "write" and covered.strip(b"\0") and not operation.data.strip(b"\0"):
                self.count("torn tail cut")
        return DiskThreads(self, wal, snapshots, folder.directory), replicas

    def book(self) -> AddressBook:
        """Whom the node knew when it last looked."""
        return load_address_book(DATA_DIRECTORY, self.files)

    def join(self, book: AddressBook) -> None:
        """What a node that was let in writes before it first starts."""
        self.files.make_directory(DATA_DIRECTORY)
        save_address_book(DATA_DIRECTORY, book, self.files)
        self.files.settle(DATA_DIRECTORY)

    def _found_damage(self, damage: DamagedLogError, _directory: int) -> None:
        if not self.is_flipped:
            raise damage
        self.count("damage detected")

    def replace(self) -> None:
        """Put an empty disk in its place, while the machine is down."""
        self.files = FaultyFiles(self.chance)
        self.is_flipped, self.is_replaced = False, True
        self.count("disk replaced")

    @property
    def may_fail(self) -> bool:
        """Whether the world has done anything to it for which an error would be the right answer."""
        return self.is_flipped or bool(self.files.failing)

    def is_writing(self) -> bool:
        """Whether a crash now would hit the log in a write."""
        return not self.files.is_settled(WAL_DIRECTORY)

    def settle(self) -> None:
        """All that was asked for so far has happened."""
        for directory in (DATA_DIRECTORY, WAL_DIRECTORY, SNAPSHOT_DIRECTORY):
            self.files.settle(directory)

    def fail(self) -> None:
        """From now on something fails."""
        kind, number = self.chance.choice(DISK_FAILURES)
        self.files.failing[kind] = number
        self.files.spares_one_sector = self.chance.random() < 0.5

    def kill(self) -> None:
        """The process dies; what it gave to the system stays."""
        self._begin_crash()
        self.files.kill()

    def cut_power(self) -> None:
        """The power fails; what was not synced may be gone."""
        self._begin_crash()
        if self.files.cut_power():
            self.count("unsynced data lost")

    def _begin_crash(self) -> None:
        if self.is_writing():
            self.count("crash during a write of the log")
        if not self.files.is_settled(SNAPSHOT_DIRECTORY):
            self.count("crash during a write of a snapshot")
        self.files.failing.clear()

    def flip_bits(self) -> None:
        """Damage the log or the snapshots, while the machine is down.

        The last frame of the log is spared: damage to it cannot be told from a tear, and that is a known limit
        (ADR 0003, "Consequences").
        """
        spared, start, stop = self._last_frame()
        paths = sorted(path for path in self.files.paths if path.parent != DATA_DIRECTORY and path.suffix != ".tmp")
        paths = [path for path in paths if not path.name.startswith("damaged-")]
        for _ in range(self.chance.choice((1, 1, 3)) if paths else 0):
            path = self.chance.choice(paths)
            data = self.files.read(path)
            # Most of a segment is zeros that nobody has written over yet; damage to them is possible, but dull.
            size = len(data.rstrip(b"\0")) if self.chance.random() < 0.9 else len(data)
            if not size:
                continue
            offset = self.chance.randrange(size)
            if path == spared and start <= offset < stop:
                continue
            self.files.flip_bit(path, offset)
            self.is_flipped = True
            self.count("bit flipped")

    def _last_frame(self) -> tuple[Path, int, int]:
        try:
            found = recover(WAL_DIRECTORY, self._identity, MemoryDisk.of(self.files.files()))
        except StorageError:
            return Path(), 0, 0  # Damaged already.
        if not found.segments:
            return Path(), 0, 0
        return found.segments[-1].path, found.last_frame, found.end


class DiskThreads:
    """One life's work on a disk. After `stop` nothing is told any more.

    The owner sets `durable` and `failed` before it submits anything. `failed` is told at most once for the log.
    """

    def __init__(self, disk: SimulatedDisk, wal: Wal, snapshots: SnapshotFiles, directory: int) -> None:
        self.durable: Callable[[int], None]
        """Told the number up to which all batches are durable."""
        self.failed: Callable[[NoctuleError], None]
        """Told that the log or a snapshot could not be written or read: final."""
        self.snapshots = snapshots
        self.directory = directory
        """Under which this life promises things."""
        self._disk = disk
        self._wal = wal
        self._segments = wal.picture.segments
        self._is_stopped = False
        self._batches: deque[tuple[int, Sequence[Record]]] = deque()
        self._number = 0
        self._is_writing = False
        self._jobs: deque[Callable[[], None]] = deque()
        self._is_working = False

    @property
    def picture(self) -> WalPicture:
        """What the log holds."""
        return self._wal.picture

    def stop(self) -> None:
        """This life is over."""
        self._is_stopped = True

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        def unless_stopped() -> None:
            if not self._is_stopped:
                call()

        self._disk.time.after(delay_s, unless_stopped)

    # The log's thread ------------------------------------------------------------------------------------------------

    def submit(self, records: Sequence[Record]) -> int:
        """Queue a batch; returns the number that `durable` will tell."""
        self._number += 1
        self._batches.append((self._number, records))
        if not self._is_writing:
            self._write()
        return self._number

    def _write(self) -> None:
        """Everything that waits becomes one frame."""
        if not self._batches:
            self._is_writing = False
            return
        self._is_writing = True
        number = self._batches[-1][0]
        records = [record for _, records in self._batches for record in records]
        self._batches.clear()
        failure: StorageError | None = None
        try:
            self._wal.write(records)
        except StorageError as error:
            failure = error

        self._count_segments()

        def synced() -> None:
            self._disk.files.settle(WAL_DIRECTORY)
            if failure is not None:
                self.failed(failure)
                return
            self._tidy()
            self.durable(number)

        self._later(self._sync_s(), synced)

    def _tidy(self) -> None:
        try:
            self._wal.tidy()
        except StorageError as error:
            failure = error
            self._later(self._sync_s(), lambda: self.failed(failure))
            return
        self._count_segments()
        if self._disk.files.is_settled(WAL_DIRECTORY):
            self._write()
            return

        def tidied() -> None:
            self._disk.files.settle(WAL_DIRECTORY)
            self._write()

        self._later(self._sync_s(), tidied)

    def _count_segments(self) -> None:
        segments = self._wal.picture.segments
        if segments != self._segments:
            self._disk.count("segment begun" if segments > self._segments else "segment dropped")
            self._segments = segments

    def _sync_s(self) -> float:
        disk = self._disk
        delay_s = disk.chance.uniform(disk.sync_s_min, disk.sync_s_max)
        if disk.chance.random() < disk.slow_sync:
            disk.count("slow sync")
            delay_s *= disk.chance.uniform(1, 100)
        return delay_s

    # The snapshots' thread -------------------------------------------------------------------------------------------

    def in_snapshot_thread(self, work: Callable[[], _Result], done: Callable[[_Result], None]) -> None:
        """Do a job with the snapshot files after those that wait already, and tell its result; or `failed`."""

        def begin() -> None:
            failure: NoctuleError | None = None
            result: _Result
            try:
                result = work()
            except NoctuleError as error:
                failure = error

            def finish() -> None:
                self._disk.files.settle(SNAPSHOT_DIRECTORY)
                self._disk.files.settle(DATA_DIRECTORY)
                if failure is not None:
                    self.failed(failure)
                else:
                    done(result)
                self._begin_next_job()

            self._later(self._disk.chance.uniform(0.001, 0.05 + 5 * self._disk.sync_s_max), finish)

        self._jobs.append(begin)
        if not self._is_working:
            self._begin_next_job()

    def _begin_next_job(self) -> None:
        self._is_working = bool(self._jobs)
        if self._jobs:
            self._jobs.popleft()()
