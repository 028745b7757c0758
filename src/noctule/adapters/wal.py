"""The write-ahead log that all Raft groups of a node share: a batch of records becomes one frame and one fdatasync.

Everything here is synchronous and runs in one thread at a time; wal_writer.py is the door from the event loop.
Read wal_format.py for the bytes, wal_groups.py for what records mean, wal_recovery.py for the start; ADR 0003 for why.
"""

import os
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from noctule.adapters.files import TEMPORARY_SUFFIX, FileSystem, disk_errors
from noctule.adapters.wal_format import (
    FRAME_PAYLOAD_BYTES_MAX,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    WalIdentity,
    encode_frame,
    encode_records,
    frame_bytes,
    segment_name,
)
from noctule.adapters.wal_groups import GroupFacts, RecoveredGroup
from noctule.adapters.wal_records import Forgotten, Record
from noctule.adapters.wal_recovery import Recovery, Segment, follow, forget, recover
from noctule.base.ensure import ensure
from noctule.base.errors import InternalError, StorageError

SEGMENT_BYTES_MAX: Final = 64 * 1024 * 1024
"""The size of a segment, unless one batch alone is larger."""

_SLICE_BYTES_MAX: Final = 1024 * 1024
"""Zeroed and synced in one go: some milliseconds, where a whole segment would hold up every batch for a tenth of a
second."""


@dataclass(frozen=True)
class WalPicture:
    """The log's size, and who keeps it so."""

    segments: int
    bytes_on_disk: int
    """Of all segments, at their full size."""
    pinned_by: tuple[int, ...]
    """The groups that must take a snapshot before the oldest segment can be dropped; empty when it is the newest."""


class Wal:
    """One open log. Its directory is locked until `close`. Not for two threads at once, but for `picture`."""

    def __init__(
        self,
        directory: Path,
        identity: WalIdentity,
        recovery: Recovery,
        segment_bytes_max: int,
        files: FileSystem,
        chance: random.Random,
        unlock: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._identity = identity
        self._segment_bytes_max = segment_bytes_max
        self._files = files
        self._chance = chance
        self._segments = recovery.segments
        self._groups = {group: log.facts for group, log in recovery.groups.items()}
        self._sequence = recovery.sequence
        self._crc = recovery.crc
        self._offset = recovery.end
        self._descriptor = -1
        self._spare = self._new_spare()
        self._may_drop = True
        self.failure: StorageError | None = None
        """The first failed write or sync, after which the log takes nothing more; None while all is well."""
        self._unlock = unlock
        self.picture = WalPicture(0, 0, ())
        """Replaced as a whole after each change, so any thread may read it."""

    @classmethod
    def open(
        cls,
        directory: Path,
        identity: WalIdentity,
        *,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        files: FileSystem | None = None,
        chance: random.Random | None = None,
    ) -> tuple["Wal", dict[int, RecoveredGroup]]:
        """The log in `directory`, made if it is missing, and every group that has records in it.

        What is returned is durable: votes may be answered and entries acknowledged on it. Raises `ConfigError` when
        another process has it open or it is another node's, `StorageError` when it is damaged or cannot be read; the
        lock is then given back and the log is as it was. `chance` draws the segments' salts; it should be one that
        whoever stores values cannot foresee, and is the system's when none is given.
        """
        files = files or FileSystem()
        with disk_errors("making", directory):
            files.make_directory(directory)
        unlock = files.lock_directory(directory)
        try:
            recovery = recover(directory, identity, files)
        except BaseException:
            unlock()
            raise
        wal = cls(directory, identity, recovery, segment_bytes_max, files, chance or random.SystemRandom(), unlock)
        try:
            wal._start()
        except BaseException:
            wal.close()
            raise
        return wal, {group: log.recovered() for group, log in recovery.groups.items()}

    def write(self, records: Sequence[Record]) -> None:
        """Make one batch durable, as a whole or not at all, in one write and one fdatasync.

        Blocks for the disk. Raises `StorageError`; the batch may then be found after a restart or not, and every later
        call raises, too: a failed sync is never tried again, because the second one would succeed without the data
        (USENIX ATC '20). Raises `InternalError` with the same finality when records contradict what is in the log.
        """
        if not records:
            return
        descriptor = self.begin(records)
        with _Final(self), disk_errors("syncing", self._segments[-1].path):
            self._files.sync_data(descriptor)

    def has_room(self, size: int) -> bool:
        """Whether a batch of so many bytes of records goes into the segment that is open, so `begin` takes no time."""
        return self._offset + frame_bytes(size) <= self._segments[-1].header.segment_bytes

    def begin(self, records: Sequence[Record]) -> int:
        """Write one batch, at least one record, and leave the sync to the caller; the descriptor to be synced.

        Nothing of it may be acknowledged, nor anything else be written, before that sync has succeeded; if it fails,
        `fail` must be told. Otherwise as `write`.
        """
        with _Final(self):
            payload = encode_records(records)
            ensure(len(payload) <= FRAME_PAYLOAD_BYTES_MAX, "a batch fits a frame", payload_bytes=len(payload))
            needed = frame_bytes(len(payload))
            if self._offset + needed > self._segments[-1].header.segment_bytes:
                self._begin_segment(needed)
            for record in records:
                if isinstance(record, Forgotten):
                    forget(self._segments, self._groups, record)
                    self._may_drop = True
                    continue
                facts = self._groups.get(record.group)
                if facts is None:
                    facts = self._groups[record.group] = GroupFacts(record.group)
                before = facts.snapshot_index
                follow(self._segments, facts, record)
                self._may_drop = self._may_drop or facts.snapshot_index > before
            self._append(payload)
        return self._descriptor

    def fail(self, error_number: int) -> StorageError:
        """The sync of what `begin` wrote failed: the log takes nothing more. What is to be told."""
        try:
            with _Final(self), disk_errors("syncing", self._segments[-1].path):
                raise OSError(error_number, os.strerror(error_number))
        except StorageError as failure:
            return failure

    @property
    def has_chores(self) -> bool:
        """Whether `tidy` has something to do."""
        return self._may_drop or self._spare.zeroed < min(2 * self._offset, self._spare.size)

    def tidy(self) -> None:
        """The work that no batch has to wait for: call it after each write, once the batch is acknowledged.

        Drops the segments that snapshots cover, and zeroes a slice (1 MiB at most) of the next segment. Skipping it
        costs disk space and a longer pause at the next segment. Raises `StorageError` as `write` does.
        """
        with _Final(self):
            self._drop_covered()
            if self._spare.zeroed < min(2 * self._offset, self._spare.size):
                self._spare.zero_slice()

    def close(self) -> None:
        """Give files and lock back. Everything written is durable already. Harmless the second time.

        Raises `StorageError` when a file cannot be closed; all others and the lock are given back all the same.
        """
        self.failure = self.failure or StorageError(f"the log in {self._directory} is closed")
        with ExitStack() as given_back:
            given_back.callback(self._unlock)
            given_back.callback(self._turn_to, -1)
            self._spare.close()

    def _start(self) -> None:
        if not self._segments:
            self._begin_segment(0)
            return
        path = self._segments[-1].path
        with disk_errors("opening", path):
            self._descriptor = self._files.open(path)
        self._drop_covered()

    def _append(self, payload: bytes) -> None:
        segment = self._segments[-1]
        salt = segment.header.salt
        frame, crc = encode_frame(payload, salt=salt, sequence=self._sequence + 1, previous_crc=self._crc)
        with disk_errors("writing", segment.path):
            self._files.write(self._descriptor, frame, self._offset)
        self._offset += len(frame)
        self._sequence += 1
        self._crc = crc

    def _begin_segment(self, needed: int) -> None:
        """Make a segment that holds the summary of all groups and `needed` bytes more, and turn to it.

        Its header and summary are durable before it has its name, so the first frame of a segment is never torn.
        """
        summary = encode_records([facts.summary() for facts in self._groups.values()])
        begin = SEGMENT_HEADER_BYTES + frame_bytes(len(summary))
        salt = self._chance.getrandbits(64)
        sequence = self._sequence + 1
        frame, crc = encode_frame(summary, salt=salt, sequence=sequence, previous_crc=self._crc)
        path = self._directory / segment_name(sequence)
        file = self._spare
        if begin + needed > file.size:
            file = ZeroedFile(path.with_name(path.name + TEMPORARY_SUFFIX), begin + needed, self._files)
        header = SegmentHeader(self._identity.cluster_hash(), self._identity.node_id, salt, sequence, file.size)
        descriptor = file.publish(path, header.encode() + frame)
        if file is self._spare:
            self._spare = self._new_spare()
        self._turn_to(descriptor)
        self._segments.append(Segment(path, header))
        self._sequence, self._crc, self._offset = sequence, crc, begin
        self._may_drop = True
        self._take_picture()

    def _turn_to(self, descriptor: int) -> None:
        """Write there from now on. The one before is given back once: its number may soon be another file's."""
        before, self._descriptor = self._descriptor, descriptor
        if before >= 0:
            with disk_errors("closing", self._segments[-1].path):
                self._files.close(before)

    def _drop_covered(self) -> None:
        """Remove segments from the oldest on while snapshots cover all entries in them.

        The names go one by one, each durably: were a later one to vanish first, the chain would have a hole.
        """
        if not self._may_drop:
            return
        while len(self._segments) > 1 and not self._pinned_by():
            with disk_errors("removing", self._segments[0].path):
                self._files.remove(self._segments[0].path)
                self._files.sync_directory(self._directory)
            del self._segments[0]
        self._may_drop = False
        self._take_picture()

    def _pinned_by(self) -> tuple[int, ...]:
        if len(self._segments) == 1:
            return ()
        oldest = self._segments[0].last_indexes.items()
        return tuple(group for group, last_index in oldest if last_index > self._groups[group].snapshot_index)

    def _take_picture(self) -> None:
        bytes_on_disk = sum(segment.header.segment_bytes for segment in self._segments)
        self.picture = WalPicture(len(self._segments), bytes_on_disk, self._pinned_by())

    def _new_spare(self) -> "ZeroedFile":
        name = f"wal-next.log{TEMPORARY_SUFFIX}"
        return ZeroedFile(self._directory / name, self._segment_bytes_max, self._files)


class _Final:
    """A block that needs a log without failure, and whose own failure is the log's last."""

    __slots__ = ("_wal",)

    def __init__(self, wal: Wal) -> None:
        self._wal = wal

    def __enter__(self) -> None:
        if self._wal.failure is not None:
            raise StorageError(f"the log takes nothing more since: {self._wal.failure}")

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, StorageError):
            self._wal.failure = error
        elif isinstance(error, InternalError):
            self._wal.failure = StorageError(str(error))


class ZeroedFile:
    """A file on its way to being a segment: zeros a slice at a time, then its beginning, then its name.

    Real zeros, not a hole: a later fdatasync has then only data to write, no allocation for the file system's journal.
    """

    def __init__(self, path: Path, size: int, files: FileSystem) -> None:
        self.size = size
        self.zeroed = 0
        """Bytes from the start that are zeros, durably."""
        self._path = path
        self._files = files
        self._descriptor = -1

    def zero_slice(self) -> None:
        """Zero the next bytes, 1 MiB at most. The first call makes the file. Raises `StorageError`."""
        with disk_errors("zeroing", self._path):
            if self._descriptor < 0:
                self._descriptor = self._files.open(self._path, create=True)
            count = min(_SLICE_BYTES_MAX, self.size - self.zeroed)
            self._files.write(self._descriptor, bytes(count), self.zeroed)
            self._files.sync_data(self._descriptor)
        self.zeroed += count

    def publish(self, path: Path, beginning: bytes) -> int:
        """Give it its beginning and its name, durably; the descriptor is the caller's. Raises `StorageError`."""
        while self.zeroed < self.size:
            self.zero_slice()
        with disk_errors("making", path):
            self._files.write(self._descriptor, beginning, 0)
            self._files.sync(self._descriptor)
            self._files.rename(self._path, path)
            self._files.sync_directory(path.parent)
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor

    def close(self) -> None:
        """Give the descriptor back; the file stays and is removed at the next start. Raises `StorageError`."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with disk_errors("closing", self._path):
                self._files.close(descriptor)
