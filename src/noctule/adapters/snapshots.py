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
        path = self._directory / _name(group, index, term)
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        with disk_errors("writing", temporary):
            descriptor = self._files.open(temporary, create=True)
            try:
                self._write_parts(descriptor, _HEADER.pack(_MAGIC, group, index, term), chunks)
                self._files.sync(descriptor)
            finally:
                self._files.close(descriptor)
            self._files.rename(temporary, path)
            self._files.sync_directory(self._directory)
        self.remove_older(group, index)
        return path

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

    def _write_parts(self, descriptor: int, header: bytes, chunks: Iterable[bytes]) -> None:
        crc = google_crc32c.value(header)
        self._files.write(descriptor, header + _CRC.pack(crc), 0)
        offset = _HEADER.size + _CRC.size
        count = total = 0
        for chunk in chunks:
            if len(chunk) > CHUNK_BYTES_MAX:
                raise StorageError(f"a snapshot chunk of {len(chunk)} bytes is over the bound of {CHUNK_BYTES_MAX}")
            crc = google_crc32c.extend(crc, chunk)
            self._files.write(descriptor, _CHUNK.pack(len(chunk), crc) + chunk, offset)
            offset += _CHUNK.size + len(chunk)
            count += 1
            total += len(chunk)
        footer = _FOOTER.pack(_FOOTER_MAGIC, count, total)
        self._files.write(descriptor, footer + _CRC.pack(google_crc32c.extend(crc, footer)), offset)

    def _list(self, group: int) -> list[tuple[int, int]]:
        """(index, term) of the group's files, oldest first."""
        with disk_errors("reading", self._directory):
            names = self._files.names(self._directory)
        matches = [match for match in map(_NAME.fullmatch, names) if match is not None]
        return sorted((int(match[2], 16), int(match[3], 16)) for match in matches if int(match[1], 16) == group)


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
