"""Entries in a second through the write-ahead log, synced batch by batch, beside the bare disk under it.

The bare disk takes the same bytes with pwrite and fdatasync and nothing else, in alternating rounds. The method stands
in README.md beside this file.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from machine import Machine, describe, look_at_machine, percentile
from script import add_json_option, positive_count, positive_seconds, run_script, write_json
from subjects import bench_folder

from noctule.adapters.wal import Wal
from noctule.adapters.wal_format import WalIdentity, encode_records, frame_bytes
from noctule.adapters.wal_records import Entries, Record, SnapshotMark
from noctule.cli import output

VALUE_BYTES = 200
BATCHES = (1, 32, 256)
GROUP = 1
TERM = 1
SNAPSHOT_ENTRIES = 20_000
"""As often a partition says that a snapshot covers its log, so that old segments go: by default, and here."""
WARM_UP_BATCHES = 20
FILE_BYTES = 16 << 20
"""Of the bare file, which is written from its beginning again when its end is reached."""


class Subject(NamedTuple):
    """Something that makes batches durable."""

    write: Callable[[], None]
    """One batch, durable on return."""
    tidy: Callable[[], None]
    """What is to be done before the next one, and nobody waits for."""


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    seconds: float
    rounds: int


class Run(msgspec.Struct, frozen=True):
    """One round of one subject."""

    batches: int
    seconds: float
    entries_per_s: float
    p50_ms: float
    """From the call that writes one batch until it is durable. The same for p99."""
    p99_ms: float


class Measured(msgspec.Struct, frozen=True):
    """All rounds of one subject, in order, and the median of each of their numbers."""

    entries_per_s: float
    p50_ms: float
    p99_ms: float
    rounds: list[Run]


class Row(msgspec.Struct, frozen=True):
    """Both subjects with batches of one size."""

    entries_in_batch: int
    bytes_in_batch: int
    """What one batch takes in the file."""
    wal: Measured
    disk: Measured
    ratio: float
    """The log's entries in a second, divided by the bare disk's."""


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    value_bytes: int
    rows: list[Row]


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Measure the write-ahead log beside the bare disk.")
    parser.add_argument("--seconds", type=positive_seconds, default=2.0, help="of each round (default 2)")
    parser.add_argument("--rounds", type=positive_count, default=5, help="of each size of batch (default 5)")
    add_json_option(parser)
    given = parser.parse_args()
    options = Options(given.seconds, given.rounds)
    json_path: Path | None = given.json
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        rows = [measure_batches(folder, count, options) for count in BATCHES]
    report = Report(machine, options, VALUE_BYTES, rows)
    show(report)
    if json_path is not None:
        write_json(json_path, report)
    return 0


def measure_batches(folder: Path, entries_in_batch: int, options: Options) -> Row:
    """Rounds that take turns; log and file are new for each size of batch."""
    bytes_in_batch = frame_bytes(len(encode_records([batch_of(1, entries_in_batch)])))
    rounds: dict[str, list[Run]] = {"log": [], "bare disk": []}
    with (
        log(folder / f"wal-{entries_in_batch}", entries_in_batch) as ours,
        bare_disk(folder / f"bare-{entries_in_batch}", bytes_in_batch) as bare,
    ):
        subjects = {"log": ours, "bare disk": bare}
        for subject in subjects.values():
            for _ in range(WARM_UP_BATCHES):
                subject.write()
                subject.tidy()
        for number in range(1, options.rounds + 1):
            for name, subject in subjects.items():
                run = measure(subject, entries_in_batch, options.seconds)
                rounds[name].append(run)
                output.say(
                    f"batches of {entries_in_batch}, round {number} of {options.rounds}: "
                    f"{name} {run.entries_per_s:,.0f} entries/s"
                )
    wal, disk = summarize(rounds["log"]), summarize(rounds["bare disk"])
    return Row(entries_in_batch, bytes_in_batch, wal, disk, ratio=round(wal.entries_per_s / disk.entries_per_s, 3))


def batch_of(first_index: int, count: int) -> Entries:
    """Entries of one group, as a leader of a partition writes them."""
    value = first_index.to_bytes(8, "big") + b"v" * (VALUE_BYTES - 8)
    return Entries(GROUP, first_index, [(TERM, value)] * count)


@contextmanager
def log(directory: Path, entries_in_batch: int) -> Iterator[Subject]:
    """A new log, used as the thread of a node uses it."""
    wal, _ = Wal.open(directory, WalIdentity("bench", 1))
    last_index = snapshot_index = 0

    def write() -> None:
        nonlocal last_index, snapshot_index
        records: list[Record] = []
        if last_index - snapshot_index >= SNAPSHOT_ENTRIES:
            snapshot_index = last_index
            records.append(SnapshotMark(GROUP, snapshot_index, TERM))
        wal.write([*records, batch_of(last_index + 1, entries_in_batch)])
        last_index += entries_in_batch

    try:
        yield Subject(write, wal.tidy)
    finally:
        wal.close()


@contextmanager
def bare_disk(path: Path, size: int) -> Iterator[Subject]:
    """A file of written zeros, so that it never grows; its next `size` bytes are overwritten and synced."""
    data = b"v" * size
    offset = 0
    path.write_bytes(bytes(FILE_BYTES))
    descriptor = os.open(path, os.O_WRONLY)

    def write() -> None:
        nonlocal offset
        if offset + size > FILE_BYTES:
            offset = 0
        os.pwrite(descriptor, data, offset)
        os.fdatasync(descriptor)
        offset += size

    try:
        os.fsync(descriptor)
        yield Subject(write, lambda: None)
    finally:
        os.close(descriptor)


def measure(subject: Subject, entries_in_batch: int, seconds: float) -> Run:
    """Write batch after batch for so long."""
    times_ms = []
    begun = time.perf_counter()
    end = begun + seconds
    while (before := time.perf_counter()) < end:
        subject.write()
        times_ms.append((time.perf_counter() - before) * 1000)
        subject.tidy()
    taken = time.perf_counter() - begun
    return Run(
        batches=len(times_ms),
        seconds=round(taken, 6),
        entries_per_s=round(len(times_ms) * entries_in_batch / taken, 3),
        p50_ms=round(percentile(times_ms, 50), 3),
        p99_ms=round(percentile(times_ms, 99), 3),
    )


def summarize(rounds: Sequence[Run]) -> Measured:
    """The median of each number over the rounds."""
    return Measured(
        entries_per_s=statistics.median(run.entries_per_s for run in rounds),
        p50_ms=statistics.median(run.p50_ms for run in rounds),
        p99_ms=statistics.median(run.p99_ms for run in rounds),
        rounds=list(rounds),
    )


def show(report: Report) -> None:
    """The table, and under it what the numbers were measured on."""
    output.print_table(
        "Entries in a second through the write-ahead log, beside the same bytes on the bare disk",
        ("batch", "bytes", "log /s", "p50 ms", "p99 ms", "disk /s", "p50 ms", "p99 ms", "log/disk"),
        [
            (row.entries_in_batch, f"{row.bytes_in_batch:,}", *cells(row.wal), *cells(row.disk), f"{row.ratio:.2f}")
            for row in report.rows
        ],
    )
    options = report.options
    print(
        f"medians; rounds: {options.rounds}, alternating, of {options.seconds:g} s; entries of {report.value_bytes} "
        "bytes; one write and one fdatasync for each batch"
    )
    print(describe(report.machine))


def cells(measured: Measured) -> tuple[str, str, str]:
    """One subject's part of a row."""
    return f"{measured.entries_per_s:,.0f}", f"{measured.p50_ms:.2f}", f"{measured.p99_ms:.2f}"


if __name__ == "__main__":
    run_script(main)
