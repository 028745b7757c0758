"""Files on a disk that loses power, fails and rots: one random outcome of each, cheap enough for long simulations.

Only what may still be lost is remembered: each operation since its directory was last known to be durable, with what
undoes it. A power cut leaves any subset of the unsynced sectors of 512 bytes, and of the unsynced names the first few,
for a file system's journal keeps their order. Which moments of a multi-step write a crash can hit is decided here, too:
whoever runs such a write in virtual time calls `settle` when all of it has happened, and a crash before that takes back
the steps from some point on.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noctule.verify.sim.memory_disk import SECTOR_BYTES, MemoryFiles, Operation, overwrite

STEPS_MAX = 10_000
"""Operations of one directory that are not durable. More are a file system call that nobody syncs: a bug."""


@dataclass(slots=True)
class _Step:
    """An operation that is done, and what was there before it."""

    operation: Operation
    old: bytes = b""
    """What a write covered; shorter than it where the file ended."""
    replaced: int = 0
    """The inode that the name had."""
    is_lost: bool = False
    """A write whose sync failed: memory has it, the disk will not get it by any later sync."""


@dataclass(slots=True)
class _Journal:
    """The steps of one directory. Those before `settled` have happened; of the others a crash takes back the last."""

    steps: list[_Step]
    settled: int = 0


class FaultyFiles(MemoryFiles):
    """The files of one machine. Directories are independent: each may be written by a thread of its own."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._journals: dict[Path, _Journal] = {}
        self._homes: dict[int, Path] = {}
        """The directory of each inode."""
        self.spares_one_sector = False
        """Whether a sync that is to fail does so only where a write reaches over two sectors or more: what stays within
        one is written once more, and so saved, together with what is appended next."""

    def note(self, operation: Operation) -> None:
        """Remember how to undo it. A write that fails may have been taken in part, a sync that fails loses all."""
        try:
            super().note(operation)
        except OSError:
            if not self._is_spared(operation):
                self._failed(operation)
                raise
        kind = operation.kind
        if kind == "write":
            old = self.contents[operation.inode][operation.offset : operation.offset + len(operation.data)]
            step = _Step(operation, bytes(old))
            self._steps(self._homes[operation.inode]).append(step)
        elif kind in ("sync", "sync_data"):
            self._steps(self._homes[operation.inode]).append(_Step(operation))
        elif kind == "sync_directory":
            self._steps(operation.path).append(_Step(operation))
        elif kind == "create":
            self._homes[operation.inode] = operation.path.parent
            self._steps(operation.path.parent).append(_Step(operation, replaced=self.paths.get(operation.path, 0)))
        elif kind == "remove":
            self._steps(operation.path.parent).append(_Step(operation, replaced=self.paths[operation.path]))
        elif kind == "rename":
            step = _Step(operation, replaced=self.paths.get(operation.target, 0))
            self._steps(operation.path.parent).append(step)

    def _steps(self, directory: Path) -> list[_Step]:
        journal = self._journals.get(directory)
        if journal is None:
            journal = self._journals[directory] = _Journal([])
        assert len(journal.steps) < STEPS_MAX, f"{STEPS_MAX} operations in {directory} were never synced"
        return journal.steps

    def _is_spared(self, operation: Operation) -> bool:
        if not self.spares_one_sector or operation.kind not in ("sync", "sync_data"):
            return False
        steps = self._steps(self._homes[operation.inode])
        return not any(
            each.operation.kind == "write"
            and each.operation.inode == operation.inode
            and len(_sectors(each.operation)) > 1
            for each in steps
        )

    def _failed(self, operation: Operation) -> None:
        if operation.kind == "write":
            part = operation._replace(data=operation.data[: self._chance.randrange(len(operation.data) + 1)])
            old = self.contents[part.inode][part.offset : part.offset + len(part.data)]
            self._steps(self._homes[part.inode]).append(_Step(part, bytes(old)))
            overwrite(self.contents[part.inode], part.data, part.offset)
        elif operation.kind in ("sync", "sync_data"):
            # Linux marks the pages clean all the same ("Can Applications Recover from fsync Failures?", ATC 2020).
            for step in reversed(self._steps(self._homes[operation.inode])):
                if step.operation.inode == operation.inode:
                    if step.operation.kind != "write":
                        break  # What is before the last sync that succeeded is durable.
                    step.is_lost = True

    def settle(self, directory: Path) -> None:
        """All that was done in the directory has happened; forget of it what is durable."""
        journal = self._journals.get(directory)
        if journal is not None and journal.steps:
            journal.steps = _undurable(journal.steps)
            journal.settled = len(journal.steps)
            self._forget_nameless()

    def is_settled(self, directory: Path) -> bool:
        """Whether a crash now would hit nothing halfway."""
        journal = self._journals.get(directory)
        return journal is None or journal.settled == len(journal.steps)

    def operations(self, directory: Path) -> Iterator[tuple[Operation, bytes]]:
        """What was done there since it was last settled, each with the bytes that a write covered."""
        journal = self._journals.get(directory)
        if journal is not None:
            for step in journal.steps[journal.settled :]:
                yield step.operation, step.old

    # Crashes ---------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """The process dies at some step of what it was doing. The system lives, with all that the files were given."""
        self._locked.clear()
        self.open_count.clear()
        for directory, journal in self._journals.items():
            stop = self._chance.randint(journal.settled, len(journal.steps))
            for step in reversed(journal.steps[stop:]):
                self._undo(step)
            del journal.steps[stop:]
            self.settle(directory)

    def cut_power(self) -> int:
        """Also the system dies, and what was not synced may be gone. Returns how many sectors and names are."""
        self.kill()
        # Between a disk that wrote nothing back by itself and one that wrote everything.
        kept = self._chance.choice((0.0, 0.5, 0.9, 1.0))
        gone = 0
        for journal in self._journals.values():
            names = [step for step in journal.steps if step.operation.kind in ("create", "rename", "remove")]
            survivors = self._chance.randint(0, len(names))
            for step in reversed(names[survivors:]):
                self._undo(step)
            gone += len(names) - survivors
            writes: dict[int, list[_Step]] = {}
            for step in journal.steps:
                if step.operation.kind == "write":
                    writes.setdefault(step.operation.inode, []).append(step)
            for inode, steps in writes.items():
                gone += self._lose_sectors(self.contents[inode], steps, kept)
            journal.steps, journal.settled = [], 0
        self._forget_nameless()
        return gone

    def _undo(self, step: _Step) -> None:
        operation = step.operation
        match operation.kind:
            case "write":
                _restore(self.contents[operation.inode], step, operation.offset, operation.offset + len(operation.data))
            case "create":
                self._name(operation.path, step.replaced)
            case "remove":
                self._name(operation.path, step.replaced)
            case "rename":
                self._name(operation.path, self.paths[operation.target])
                self._name(operation.target, step.replaced)

    def _name(self, path: Path, inode: int) -> None:
        if inode:
            self.paths[path] = inode
        else:
            del self.paths[path]

    def _lose_sectors(self, content: bytearray, writes: list[_Step], kept: float) -> int:
        """Give each sector the state that it had after some number of the writes to it, in no order between sectors."""
        gone = 0
        sectors: dict[int, list[_Step]] = {}
        for step in writes:
            for sector in _sectors(step.operation):
                sectors.setdefault(sector, []).append(step)
        for sector, steps in sectors.items():
            survivors = len(steps) if self._chance.random() < kept else self._chance.randrange(len(steps))
            first_lost = next((at for at, step in enumerate(steps) if step.is_lost), len(steps))
            if survivors > first_lost and all(step.is_lost for step in steps[first_lost:]):
                survivors = first_lost
            for step in reversed(steps[survivors:]):
                _restore(content, step, sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
            gone += survivors < len(steps)
        return gone

    def _forget_nameless(self) -> None:
        """Drop contents that no name and no step can bring back."""
        if len(self.contents) <= len(self.paths):
            return
        needed = {*self.paths.values(), *self.open_count}
        for journal in self._journals.values():
            for step in journal.steps:
                needed.update((step.operation.inode, step.replaced))
        for inode in [inode for inode in self.contents if inode not in needed]:
            del self.contents[inode], self._homes[inode]

    # Rot -------------------------------------------------------------------------------------------------------------

    def flip_bit(self, path: Path, offset: int) -> None:
        """Change one bit of what the disk holds; meant for the files of a machine that is down."""
        self.contents[self.paths[path]][offset] ^= 1 << self._chance.randrange(8)


def _sectors(operation: Operation) -> range:
    """The sectors that a write touches."""
    return range(operation.offset // SECTOR_BYTES, -(-(operation.offset + len(operation.data)) // SECTOR_BYTES))


def _restore(content: bytearray, step: _Step, start: int, stop: int) -> None:
    """Take a write back between two offsets. The file keeps its size and reads as zeros where it was longer."""
    offset, data = step.operation.offset, step.operation.data
    start, stop = max(start, offset), min(stop, offset + len(data))
    old = step.old[start - offset : stop - offset]
    content[start:stop] = old + bytes(stop - start - len(old))


def _undurable(steps: list[_Step]) -> list[_Step]:
    """The writes and names among the steps that no later sync has made durable, in their order."""
    kept: list[_Step] = []
    synced: set[int] = set()
    rewritten: dict[int, set[int]] = {}
    is_directory_synced = False
    for step in reversed(steps):
        operation = step.operation
        match operation.kind:
            case "sync" | "sync_data":
                synced.add(operation.inode)
            case "sync_directory":
                is_directory_synced = True
            case "write":
                touched = set(_sectors(operation))
                again = rewritten.setdefault(operation.inode, set())
                if step.is_lost:
                    if not touched <= again:
                        kept.append(step)
                elif operation.inode in synced:
                    again |= touched
                else:
                    kept.append(step)
            case _:
                if not is_directory_synced:
                    kept.append(step)
    return kept[::-1]
