"""A disk in memory that fails on demand; and one that remembers every operation, to try a power cut at each of them.

Both stand at the `FileSystem` seam. test_files.py runs the same suite against them and the real one. The simulator's
disk, which loses power once and at random, is faulty_files.py.
"""

import errno
import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from noctule.adapters.files import FileSystem
from noctule.base.errors import ConfigError

SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""


class Operation(NamedTuple):
    """One call that changes something. `inode` is 0 for those on names only."""

    kind: str
    inode: int = 0
    path: Path = Path()
    target: Path = Path()
    data: bytes = b""
    offset: int = 0


class MemoryFiles(FileSystem):
    """The files as the running process sees them: `paths` name inodes, which have `contents`. Directories need none."""

    def __init__(self) -> None:
        self.contents: dict[int, bytearray] = {}
        self.paths: dict[Path, int] = {}
        self.failing: dict[str, int] = {}
        """Operation kind to the errno that it raises from now on."""
        self.open_count: Counter[int] = Counter()
        """How often each inode is open: it stays, though its name may be gone."""
        self._locked: set[Path] = set()
        self._inodes = itertools.count(1)

    def files(self) -> dict[Path, bytes]:
        """All files as the process sees them."""
        return {path: bytes(self.contents[inode]) for path, inode in self.paths.items()}

    def note(self, operation: Operation) -> None:
        """Called before each operation is done; raises `OSError` when its kind is to fail, and it is then not done."""
        if operation.kind in self.failing:
            number = self.failing[operation.kind]
            raise OSError(number, os.strerror(number))

    # The seam ---------------------------------------------------------------------------------------------------------

    def make_directory(self, directory: Path) -> None:
        """There is nothing to make: every directory is there, and durable."""
        self.note(Operation("make_directory", path=directory))

    def lock_directory(self, directory: Path) -> Callable[[], None]:
        """As `FileSystem.lock_directory`."""
        if directory in self._locked:
            raise ConfigError(f"{directory} is in use")
        self._locked.add(directory)
        return lambda: self._locked.discard(directory)

    def names(self, directory: Path) -> list[str]:
        """As `FileSystem.names`."""
        return [path.name for path in self.paths if path.parent == directory]

    def read(self, path: Path) -> bytes:
        """As `FileSystem.read`."""
        return bytes(self.contents[self._inode(path)])

    def open(self, path: Path, *, create: bool = False) -> int:
        """As `FileSystem.open`; the descriptor is the inode."""
        if create:
            inode = next(self._inodes)
            self.note(Operation("create", inode, path))
            self.contents[inode] = bytearray()
            self.paths[path] = inode
        self.open_count[self._inode(path)] += 1
        return self._inode(path)

    def size(self, descriptor: int) -> int:
        """As `FileSystem.size`."""
        return len(self.contents[descriptor])

    def read_at(self, descriptor: int, size: int, offset: int) -> bytes:
        """As `FileSystem.read_at`."""
        return bytes(self.contents[descriptor][offset : offset + size])

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """As `FileSystem.write`."""
        self.note(Operation("write", descriptor, data=data, offset=offset))
        overwrite(self.contents[descriptor], data, offset)

    def sync_data(self, descriptor: int) -> None:
        """As `FileSystem.sync_data`."""
        self.note(Operation("sync_data", descriptor))

    def sync(self, descriptor: int) -> None:
        """As `FileSystem.sync`."""
        self.note(Operation("sync", descriptor))

    def close(self, descriptor: int) -> None:
        """As `FileSystem.close`."""
        assert self.open_count[descriptor] > 0
        self.open_count -= Counter((descriptor,))

    def rename(self, source: Path, target: Path) -> None:
        """As `FileSystem.rename`."""
        self._inode(source)
        self.note(Operation("rename", path=source, target=target))
        self.paths[target] = self.paths.pop(source)

    def remove(self, path: Path) -> None:
        """As `FileSystem.remove`."""
        self._inode(path)
        self.note(Operation("remove", path=path))
        del self.paths[path]

    def sync_directory(self, directory: Path) -> None:
        """As `FileSystem.sync_directory`."""
        self.note(Operation("sync_directory", path=directory))

    def _inode(self, path: Path) -> int:
        if path not in self.paths:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return self.paths[path]


class MemoryDisk(MemoryFiles):
    """Remembers all operations in `trace`, from which it works out what each power cut leaves. For short runs."""

    def __init__(self) -> None:
        super().__init__()
        self.trace: list[Operation] = []
        self.gate: threading.Event | None = None
        """While set to an event that is clear, `sync_data` blocks on it."""
        self.syncs_begun = 0
        self._initial_contents: dict[int, bytes] = {}
        self._initial_paths: dict[Path, int] = {}

    @classmethod
    def of(cls, files: dict[Path, bytes]) -> "MemoryDisk":
        """A disk on which these files are durable."""
        disk = cls()
        for path, data in files.items():
            inode = next(disk._inodes)
            disk.contents[inode], disk._initial_contents[inode] = bytearray(data), data
            disk.paths[path] = disk._initial_paths[path] = inode
        return disk

    def note(self, operation: Operation) -> None:
        """Into the trace, unless it fails."""
        super().note(operation)
        self.trace.append(operation)

    def sync_data(self, descriptor: int) -> None:
        """As `FileSystem.sync_data`, once the gate is open."""
        self.syncs_begun += 1
        if self.gate is not None and not self.gate.wait(timeout=10):
            raise TimeoutError("nobody opened the gate")
        try:
            super().sync_data(descriptor)
        except OSError:
            # Linux marks the pages clean all the same: they are in memory, not on the disk, and never will be.
            self.trace.append(Operation("lost", descriptor))
            raise

    # The power cut ----------------------------------------------------------------------------------------------------

    def crashes(self) -> Iterator[tuple[int, "MemoryDisk"]]:
        """For every number of operations done, each disk that a power cut at that moment may leave."""
        contents = {inode: bytearray(data) for inode, data in self._initial_contents.items()}
        paths = dict(self._initial_paths)
        writes: list[Operation] = []
        renames: list[Operation] = []
        yield 0, _disk(contents, paths)
        for done, operation in enumerate(self.trace, start=1):
            match operation.kind:
                case "write":
                    writes.append(operation)
                case "create" | "rename" | "remove":
                    contents.setdefault(operation.inode, bytearray())
                    renames.append(operation)
                case "sync" | "sync_data":
                    for write in writes:
                        if write.inode == operation.inode:
                            overwrite(contents[write.inode], write.data, write.offset)
                    writes = [write for write in writes if write.inode != operation.inode]
                case "lost":
                    writes = [write for write in writes if write.inode != operation.inode]
                case "sync_directory":
                    for rename in renames:
                        _apply_rename(paths, rename)
                    renames = []
            for torn in _torn(writes):
                after = {inode: bytearray(data) for inode, data in contents.items()}
                for write in torn:
                    overwrite(after[write.inode], write.data, write.offset)
                names = dict(paths)
                yield done, _disk(after, names)
                for rename in renames:  # a journal keeps the order of names
                    _apply_rename(names, rename)
                    yield done, _disk(after, names)

    def after_power_cut(self) -> "MemoryDisk":
        """What is left when nothing reached the disk but what was synced."""
        first_of: dict[int, MemoryDisk] = {}
        for done, disk in self.crashes():
            first_of.setdefault(done, disk)
        return first_of[len(self.trace)]


def overwrite(content: bytearray, data: bytes, offset: int) -> None:
    """As pwrite(2): a gap before `offset` reads as zeros."""
    content.extend(bytes(max(0, offset + len(data) - len(content))))
    content[offset : offset + len(data)] = data


def _torn(writes: list[Operation]) -> Iterator[list[Operation]]:
    """Which sectors of the unsynced writes arrived: every subset of a few; of many each beginning and each one lost."""
    sectors: list[Operation] = []
    for write in writes:
        start = write.offset
        while start < write.offset + len(write.data):
            stop = min((start // SECTOR_BYTES + 1) * SECTOR_BYTES, write.offset + len(write.data))
            data = write.data[start - write.offset : stop - write.offset]
            sectors.append(write._replace(data=data, offset=start))
            start = stop
    if len(sectors) <= 3:
        for count in range(len(sectors) + 1):
            yield from map(list, itertools.combinations(sectors, count))
    else:
        yield from (sectors[:count] for count in range(len(sectors) + 1))
        yield from (sectors[:lost] + sectors[lost + 1 :] for lost in range(len(sectors) - 1))


def _apply_rename(paths: dict[Path, int], operation: Operation) -> None:
    if operation.kind == "create":
        paths[operation.path] = operation.inode
    elif operation.kind == "rename":
        paths[operation.target] = paths.pop(operation.path)
    else:
        paths.pop(operation.path)


def _disk(contents: dict[int, bytearray], paths: dict[Path, int]) -> MemoryDisk:
    return MemoryDisk.of({path: bytes(contents[inode]) for path, inode in paths.items()})
