"""Every bit of a 64 KiB log and of a snapshot is flipped, one after another, and nothing is ever misread.

Of the log, all bits of every ninth byte, of all headers and of both ends of each payload; the rest by --every-bit.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import pytest

from noctule.adapters.snapshots import SnapshotFiles
from noctule.adapters.wal import Wal
from noctule.adapters.wal_format import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    FrameHeader,
    decode_segment_header,
    read_frame_header,
)
from noctule.adapters.wal_groups import RecoveredGroup
from noctule.adapters.wal_records import Entries, HardState, Record, SnapshotMark
from noctule.base.errors import DamagedLogError
from noctule.verify.sim.memory_disk import MemoryDisk

from .power_cuts import Image
from .wal_model import IDENTITY, Model

DIRECTORY = Path("/wal")
SEGMENT_BYTES = 16 * 1024
SEGMENTS = 4
VALUE_BYTES = (0, 1, 30, 700, 3000)
STEP = 9
"""Prime to the eight bytes at which frames begin, so that each place in a word is met."""

Groups: TypeAlias = dict[int, RecoveredGroup]
Outcome = Literal["refused", "changed", "cut as a torn tail", "harmless", "misread"]


@dataclass(frozen=True, slots=True)
class Log:
    """Four segments with batches of three groups; the newest has free space at its end."""

    files: Image
    frames: dict[Path, list[FrameHeader]]
    before_the_last_batch: Groups
    everything: Groups


def open_log(disk: MemoryDisk) -> tuple[Wal, Groups]:
    return Wal.open(DIRECTORY, IDENTITY, segment_bytes_max=SEGMENT_BYTES, files=disk, chance=random.Random(2))


def frames_of(data: bytes) -> list[FrameHeader]:
    salt = decode_segment_header(data, "the segment").salt
    frames: list[FrameHeader] = []
    while (frame := read_frame_header(data, frames[-1].end if frames else SEGMENT_HEADER_BYTES, salt)) is not None:
        frames.append(frame)
    return frames


def next_batch(model: Model, chance: random.Random) -> list[Record]:
    number = len(model.groups[1].log) if 1 in model.groups else 0
    batch: list[Record] = []
    for group in (1, 2, 3):
        last_index = model.groups[group].last_index if group in model.groups else 0
        values = [chance.randbytes(chance.choice(VALUE_BYTES)) for _ in range(chance.choice((0, 0, 1, 2)))]
        if values:
            batch.append(Entries(group, last_index + 1, [(number // 5, value) for value in values]))
    batch.append(HardState(1, number // 5, 0, number))
    if number > 8 and 1 in model.groups[2].log:
        batch.append(SnapshotMark(2, 1, model.groups[2].log[1][0]))
    model.write(batch)
    return batch


@pytest.fixture(scope="module")
def log() -> Log:
    disk, model, chance = MemoryDisk(), Model(), random.Random(3)
    wal, _ = open_log(disk)
    while True:
        before = model.recovered()
        wal.write(next_batch(model, chance))
        files = {path: data for path, data in disk.files().items() if path.name.endswith(".log")}
        frames = {path: frames_of(data) for path, data in sorted(files.items())}
        newest = frames[max(frames)]
        if len(files) == SEGMENTS and newest[-1].end > SEGMENT_BYTES * 2 / 3 and newest[-1].payload_bytes > 1000:
            break
    wal.close()
    return Log(files, frames, before, model.recovered())


def test_the_log_of_these_tests_is_as_described(log: Log) -> None:
    assert sum(map(len, log.files.values())) == 64 * 1024
    assert all(len(frames) >= 4 for frames in log.frames.values())
    assert [log.everything[group].snapshot_index for group in (1, 2, 3)] == [0, 1, 0]
    assert log.everything != log.before_the_last_batch
    assert 1000 < SEGMENT_BYTES - log.frames[max(log.files)][-1].end < 6000


def promised(log: Log, path: Path, place: int) -> Outcome:
    """What docs/reference/wal-format.md says of damage there."""
    newest = max(log.files)
    last = log.frames[newest][-1]
    if path != newest or place < last.payload_offset - FRAME_HEADER_BYTES:
        return "refused"
    return "cut as a torn tail" if place < last.end else "harmless"


def places(log: Log, path: Path, *, every: bool) -> Iterator[int]:
    size = len(log.files[path])
    if every:
        return iter(range(size))
    chosen = {*range(0, size, STEP), *range(SEGMENT_HEADER_BYTES)}
    for frame in log.frames[path]:
        payload_end = frame.payload_offset + frame.payload_bytes
        chosen.update(range(frame.payload_offset - FRAME_HEADER_BYTES, frame.payload_offset + 1))
        chosen.update(range(payload_end - 1, frame.end))
    return iter(sorted(chosen))


def outcome_of(log: Log, flipped: Image) -> Outcome:
    """What a start does with it; "changed" and "misread" are never promised."""
    disk = MemoryDisk.of(flipped)
    try:
        wal, groups = open_log(disk)
    except DamagedLogError:
        return "refused" if disk.files() == flipped else "changed"
    wal.close()
    if groups == log.everything and disk.files() == log.files:  # what was behind the end is zeros again
        return "harmless"
    return "cut as a torn tail" if groups == log.before_the_last_batch else "misread"


@pytest.mark.timeout(600)
def test_a_flipped_bit_of_the_log_is_noticed_or_changes_nothing(request: pytest.FixtureRequest, log: Log) -> None:
    """Only the last batch can be lost by one, for it cannot be told from one that was being written (ADR 0003)."""
    every: bool = request.config.getoption("--every-bit")
    outcomes: Counter[Outcome] = Counter()
    for path, data in log.files.items():
        for place in places(log, path, every=every):
            for bit in range(8):
                flipped = b"".join((data[:place], bytes((data[place] ^ 1 << bit,)), data[place + 1 :]))
                outcome = outcome_of(log, {**log.files, path: flipped})
                assert outcome == promised(log, path, place), f"bit {bit} of byte {place} of {path}"
                outcomes[outcome] += 1
    assert outcomes.total() == 8 * 64 * 1024 if every else outcomes.total() > 64 * 1024
    assert set(outcomes) == {"refused", "cut as a torn tail", "harmless"}
    print(f"{outcomes.total()} bits flipped: {dict(outcomes)}")


def test_every_flipped_bit_of_a_snapshot_is_told() -> None:
    chance = random.Random(4)
    disk = MemoryDisk()
    chunks = [chance.randbytes(size) for size in (1, 700, 0, 3000, 30)]
    path = SnapshotFiles(DIRECTORY, files=disk).write(1, 9, 2, chunks)
    data = disk.read(path)
    for place, byte in enumerate(data):
        for bit in range(8):
            flipped = b"".join((data[:place], bytes((byte ^ 1 << bit,)), data[place + 1 :]))
            files = SnapshotFiles(DIRECTORY, files=MemoryDisk.of({path: flipped}))
            with pytest.raises(DamagedLogError):
                files.read(1)
