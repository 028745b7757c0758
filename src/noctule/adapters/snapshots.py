"""Snapshot files: the state of one group at one index, durable before its name exists.

A file is a header, chunks, and a footer; every part carries the CRC32C of all that comes before it in the file, so
chunks that are damaged, swapped, doubled or missing are told apart from good ones. docs/reference/wal-format.md has
the layout. What is in the chunks is the business of `core.keyspace`.
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from noctule.adapters.files import TEMPORARY_SUFFIX, FileSystem, disk_errors
from noctule.base.errors import DamagedLogError, StorageError

CHUNK_BYTES_MAX = 64 * 1024 * 1024
"""A larger chunk is refused when writing; reading holds one file in memory in any case."""

_MAGIC = b"NOCTSNP1"  # the digit is the format's version
_HEADER = struct.Struct("<8sIQQ")  # magic, group, index, term
_CHUNK = struct.Struct("<II")  # bytes, crc of everything before it and of the chunk
_FOOTER = struct.Struct("<8sQQ")  # magic, chunks, bytes in them
_FOOTER_MAGIC = b"NOCTEND1"
_CRC = struct.Struct("<I")
_NAME = re.compile(r"group-([0-9a-f]{8})-([0-9a-f]{16})-([0-9a-f]{16})\.snapshot")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a group after the entry at `index`, whose term is `term`, in the chunks that were written."""

    index: int
    term: int
    chunks: list[bytes]


class SnapshotFiles:
    """The snapshot files of all groups of a node in one directory. One writer for each group at a time."""

    def __init__(self, directory: Path, *, files: FileSystem | None = None) -> None:
        """Make the directory if it is missing, remove what an interrupted write left, and make durable what is there.

        Raises `StorageError`.
        """
        self._directory = directory
        self._files = files or FileSystem()
        with disk_errors("making", directory):
            self._files.make_directory(directory)
        with disk_errors("reading", directory):
            names = self._files.names(directory)
        leftovers = [name for name in names if name.endswith(".snapshot" + TEMPORARY_SUFFIX)]
        for name in leftovers:
            with disk_errors("removing", directory / name):
                self._files.remove(directory / name)
        # A name that is found may be in memory only, its writer killed before the sync; the log soon relies on it.
        with disk_errors("syncing", directory):
            self._files.sync_directory(directory)

    def write(self, group: int, index: int, term: int, chunks: Iterable[bytes]) -> Path:
        """Write a snapshot and return its path once it is durable; then remove the group's older ones.

        Chunks are asked for one by one, so they may be made while this runs. Blocks for the disk. Raises
        `StorageError`, or what `chunks` raises; the older files are then all still there. Write the log's
        `SnapshotMark` after it, never before: so a snapshot may be newer than the mark, but not older.
        """
        writer = self.begin(group, index, term)
        try:
            for chunk in chunks:
                writer.append(chunk)
        except BaseException:
            writer.close()
            raise
        return writer.finish()

    def begin(self, group: int, index: int, term: int) -> "SnapshotWriter":
        """Make a file, under a temporary name, for a snapshot that comes chunk by chunk. Raises `StorageError`."""
        return SnapshotWriter(self, self._files, self._directory, group, index, term)

    def open(self, group: int) -> "SnapshotReader | None":
        """The group's newest snapshot, to be read chunk by chunk, also after a newer one has taken its place.

        None when there is none. Raises as `read`.
        """
        found = self._list(group)
        if not found:
            return None
        return SnapshotReader(self._files, self._directory, group, *found[-1])

    def read(self, group: int, *, index: int | None = None) -> Snapshot | None:
        """The group's newest snapshot, or the one at `index`; None when there is none. All of it is in memory then.

        Raises `DamagedLogError` when that file is damaged, `StorageError` when it cannot be read. An older one is never
        taken in its place, for the log between may be gone; whoever knows better asks for it by `index`.
        """
        found = [(at, term) for at, term in self._list(group) if index is None or at == index]
        if not found:
            return None
        at, term = found[-1]
        path = self._directory / _name(group, at, term)
        with disk_errors("reading", path):
            data = self._files.read(path)
        return Snapshot(at, term, _parse(path, data, _HEADER.pack(_MAGIC, group, at, term)))

    def groups(self) -> set[int]:
        """The groups that have a file. Raises `StorageError`."""
        with disk_errors("reading", self._directory):
            names = self._files.names(self._directory)
        return {int(match[1], 16) for match in map(_NAME.fullmatch, names) if match is not None}

    def remove_all(self, group: int) -> None:
        """Remove every snapshot of the group. Raises `StorageError`."""
        self.remove_older(group, 1 << 64)

    def indexes(self, group: int) -> list[int]:
        """The indexes at which the group has files, oldest first; usually one."""
        return [index for index, _term in self._list(group)]

    def remove_older(self, group: int, index: int) -> None:
        """Remove the group's snapshots before `index`. Raises `StorageError`."""
        older = [_name(group, at, term) for at, term in self._list(group) if at < index]
        for name in older:
            with disk_errors("removing", self._directory / name):
                self._files.remove(self._directory / name)
        if older:
            with disk_errors("syncing", self._directory):
                self._files.sync_directory(self._directory)

    def _list(self, group: int) -> list[tuple[int, int]]:
        """(index, term) of the group's files, oldest first."""
        with disk_errors("reading", self._directory):
            names = self._files.names(self._directory)
        matches = [match for match in map(_NAME.fullmatch, names) if match is not None]
        return sorted((int(match[2], 16), int(match[3], 16)) for match in matches if int(match[1], 16) == group)


class SnapshotWriter:
    """One snapshot on its way to its file. After an error, or when nobody goes on with it, `close` or `abandon` it."""

    def __init__(
        self, owner: SnapshotFiles, files: FileSystem, directory: Path, group: int, index: int, term: int
    ) -> None:
        self._owner = owner
        self._files = files
        self._group, self._index = group, index
        self._path = directory / _name(group, index, term)
        self._temporary = self._path.with_name(self._path.name + TEMPORARY_SUFFIX)
        self._count = self._total = 0
        header = _HEADER.pack(_MAGIC, group, index, term)
        self._crc = google_crc32c.value(header)
        with disk_errors("writing", self._temporary):
            self._descriptor = files.open(self._temporary, create=True)
            files.write(self._descriptor, header + _CRC.pack(self._crc), 0)
        self._offset = _HEADER.size + _CRC.size

    def append(self, chunk: bytes) -> None:
        """Write the next chunk; durable only after `finish`. Raises `StorageError`."""
        if len(chunk) > CHUNK_BYTES_MAX:
            raise StorageError(f"a snapshot chunk of {len(chunk)} bytes is over the bound of {CHUNK_BYTES_MAX}")
        self._crc = google_crc32c.extend(self._crc, chunk)
        self._write(_CHUNK.pack(len(chunk), self._crc) + chunk)
        self._count += 1
        self._total += len(chunk)

    def finish(self) -> Path:
        """Make the file durable under its name, remove the group's older ones, and return the path."""
        footer = _FOOTER.pack(_FOOTER_MAGIC, self._count, self._total)
        try:
            self._write(footer + _CRC.pack(google_crc32c.extend(self._crc, footer)))
            with disk_errors("writing", self._temporary):
                self._files.sync(self._descriptor)
        finally:
            self.close()
        with disk_errors("writing", self._path):
            self._files.rename(self._temporary, self._path)
            self._files.sync_directory(self._path.parent)
        self._owner.remove_older(self._group, self._index)
        return self._path

    def abandon(self) -> None:
        """Remove what was written. Raises `StorageError`."""
        self.close()
        with disk_errors("removing", self._temporary):
            self._files.remove(self._temporary)

    def close(self) -> None:
        """Go no further; what was written is removed at the next start. Harmless the second time."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with disk_errors("writing", self._temporary):
                self._files.close(descriptor)

    def _write(self, data: bytes) -> None:
        with disk_errors("writing", self._temporary):
            self._files.write(self._descriptor, data, self._offset)
        self._offset += len(data)


class SnapshotReader:
    """One snapshot file, held open. Chunks are checked as they are read, against all that came before them."""

    def __init__(self, files: FileSystem, directory: Path, group: int, index: int, term: int) -> None:
        self.index = index
        self.term = term
        self._files = files
        self._path = path = directory / _name(group, index, term)
        header = _HEADER.pack(_MAGIC, group, index, term)
        crc = google_crc32c.value(header)
        start = _HEADER.size + _CRC.size
        with disk_errors("reading", path):
            self._descriptor = files.open(path)
            try:
                self._end = files.size(self._descriptor) - _FOOTER.size - _CRC.size
                if self._end < start or files.read_at(self._descriptor, start, 0) != header + _CRC.pack(crc):
                    raise _damaged(path, 0, "its header is not that of its name")
                self._footer = files.read_at(self._descriptor, _FOOTER.size + _CRC.size, self._end)
                magic, self.count, self.bytes_total = _FOOTER.unpack(self._footer[: _FOOTER.size])
                if magic != _FOOTER_MAGIC:
                    raise _damaged(path, self._end, "its footer is not one")
            except BaseException:
                files.close(self._descriptor)
                raise
        self._places: list[tuple[int, int]] = [(start, crc)]
        """For each chunk whose beginning is known, and for the footer, its offset and the crc of all before it."""

    def read(self, number: int) -> bytes:
        """A chunk, 0 to `count` - 1. Raises `DamagedLogError`, or `StorageError` when it cannot be read."""
        while len(self._places) <= number:
            self._read(len(self._places) - 1)
        return self._read(number)

    def close(self) -> None:
        """Let the file go."""
        with disk_errors("reading", self._path):
            self._files.close(self._descriptor)

    def _read(self, number: int) -> bytes:
        offset, crc = self._places[number]
        with disk_errors("reading", self._path):
            size, expected = _CHUNK.unpack(self._files.read_at(self._descriptor, _CHUNK.size, offset))
            end = offset + _CHUNK.size + size
            chunk = self._files.read_at(self._descriptor, size, offset + _CHUNK.size) if end <= self._end else b""
        crc = google_crc32c.extend(crc, chunk)
        if end > self._end or crc != expected:
            raise _damaged(self._path, offset, f"chunk {number} is not as it was written")
        is_last = number + 1 == self.count
        footer_crc = _CRC.pack(google_crc32c.extend(crc, self._footer[: _FOOTER.size]))
        if is_last and (end != self._end or self._footer[_FOOTER.size :] != footer_crc):
            raise _damaged(self._path, self._end, "its footer does not fit its chunks")
        if number + 1 == len(self._places):
            self._places.append((end, crc))
        return chunk


def _name(group: int, index: int, term: int) -> str:
    return f"group-{group:08x}-{index:016x}-{term:016x}.snapshot"


def _parse(path: Path, data: bytes, header: bytes) -> list[bytes]:
    """The chunks of a file that must begin with `header`; `DamagedLogError` on any byte that is not as written."""
    footer_offset = len(data) - _FOOTER.size - _CRC.size
    crc = google_crc32c.value(header)
    offset = len(header) + _CRC.size
    if footer_offset < offset or not data.startswith(header + _CRC.pack(crc)):
        raise _damaged(path, 0, "its header is not that of its name")
    chunks: list[bytes] = []
    while offset < footer_offset:
        size, expected = _CHUNK.unpack_from(data, offset)
        chunk = data[offset + _CHUNK.size : offset + _CHUNK.size + size]
        crc = google_crc32c.extend(crc, chunk)
        if offset + _CHUNK.size + size > footer_offset or crc != expected:
            raise _damaged(path, offset, f"chunk {len(chunks)} is not as it was written")
        chunks.append(chunk)
        offset += _CHUNK.size + size
    footer = _FOOTER.pack(_FOOTER_MAGIC, len(chunks), sum(map(len, chunks)))
    if data[footer_offset:] != footer + _CRC.pack(google_crc32c.extend(crc, footer)):
        raise _damaged(path, footer_offset, "its footer does not fit its chunks")
    return chunks


def _damaged(path: Path, offset: int, why: str) -> DamagedLogError:
    return DamagedLogError.at(str(path), offset, why)
