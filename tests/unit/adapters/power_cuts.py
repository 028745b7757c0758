"""Every disk that a power cut may leave, moment by moment, for runs too long to copy the whole disk at each.

The same images as `MemoryDisk.crashes`, which is quadratic; a test holds the two to each other.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from noctule.verify.sim.memory_disk import Operation

SECTOR_BYTES = 512
SECTORS_MAX_FOR_SUBSETS = 3
Image: TypeAlias = dict[Path, bytes]
"""The files on a disk."""


class PowerCuts:
    """Follows the operations of one run. Files that were never written share their bytes from image to image."""

    def __init__(self) -> None:
        self._durable: dict[int, bytes] = {}
        self._names: dict[Path, int] = {}
        self._writes: list[Operation] = []
        self._name_changes: list[Operation] = []

    def follow(self, operation: Operation) -> None:
        """One more operation was done."""
        match operation.kind:
            case "write":
                self._writes.append(operation)
            case "create" | "rename" | "remove":
                if operation.kind == "create":
                    self._durable[operation.inode] = b""
                self._name_changes.append(operation)
            case "sync" | "sync_data":
                for write in self._writes:
                    if write.inode == operation.inode:
                        self._durable[write.inode] = overwritten(self._durable[write.inode], write.offset, write.data)
                self._forget_writes(operation.inode)
            case "lost":
                self._forget_writes(operation.inode)
            case "sync_directory":
                for change in self._name_changes:
                    rename(self._names, change)
                self._name_changes.clear()
                named = set(self._names.values())
                self._durable = {inode: data for inode, data in self._durable.items() if inode in named}
                self._writes = [write for write in self._writes if write.inode in named]

    def images(self) -> Iterator[Image]:
        """Each image that a power cut now may leave."""
        for arrived in torn(self._writes):
            contents = dict(self._durable)
            for inode, offset, data in arrived:
                contents[inode] = overwritten(contents[inode], offset, data)
            names = dict(self._names)
            yield {path: contents[inode] for path, inode in names.items()}
            for change in self._name_changes:  # a journal keeps the order of names
                rename(names, change)
                yield {path: contents[inode] for path, inode in names.items()}

    def _forget_writes(self, inode: int) -> None:
        self._writes = [write for write in self._writes if write.inode != inode]


def torn(writes: list[Operation]) -> Iterator[list[tuple[int, int, bytes]]]:
    """Which sectors (inode, offset, data) arrived: every subset of a few; of many each beginning and each one lost."""
    sectors: list[tuple[int, int, bytes]] = []
    for write in writes:
        start, end = write.offset, write.offset + len(write.data)
        while start < end:
            stop = min((start // SECTOR_BYTES + 1) * SECTOR_BYTES, end)
            sectors.append((write.inode, start, write.data[start - write.offset : stop - write.offset]))
            start = stop
    if len(sectors) <= SECTORS_MAX_FOR_SUBSETS:
        for count in range(len(sectors) + 1):
            yield from map(list, itertools.combinations(sectors, count))
    else:
        yield from (sectors[:count] for count in range(len(sectors) + 1))
        yield from (sectors[:lost] + sectors[lost + 1 :] for lost in range(len(sectors) - 1))


def overwritten(content: bytes, offset: int, data: bytes) -> bytes:
    """As pwrite(2): a gap before `offset` reads as zeros."""
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]


def rename(names: dict[Path, int], change: Operation) -> None:
    """Follow one creation, renaming or removal."""
    if change.kind == "create":
        names[change.path] = change.inode
    elif change.kind == "rename":
        names[change.target] = names.pop(change.path)
    else:
        del names[change.path]
