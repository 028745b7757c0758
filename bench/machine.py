"""The machine a number was measured on: what it is, how fast its disk syncs, how late its timers are."""

import math
import os
import platform
import statistics
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import msgspec

from noctule.base.form import IS_COMPILED

SYNCS_COUNT = 200
SYNC_BYTES = 4096
"""One page: about what a write-ahead log syncs for one small write."""
TIMER_PERIOD_S = 0.01


class Machine(msgspec.Struct, frozen=True):
    """What a reader needs to judge a number by."""

    date: str
    """Of the measurement, UTC, as 2026-01-31."""
    processor: str
    """As the kernel names it; empty where it does not."""
    cores: int
    """That this process may run on."""
    kernel: str
    python: str
    load_average: float
    """Over the minute before the bench: anything far from 0 was somebody else."""
    fdatasync_p50_ms: float
    compiled: bool = False
    """Whether Noctule's hot path was (ADR 0040)."""


def look_at_machine(folder: Path) -> Machine:
    """Describe this machine, after `SYNCS_COUNT` syncs in `folder`, which is to be where servers keep their data."""
    load_average, _, _ = os.getloadavg()
    return Machine(
        date=datetime.now(UTC).date().isoformat(),
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        python=platform.python_version(),
        load_average=round(load_average, 2),
        fdatasync_p50_ms=round(statistics.median(_sync_times_ms(folder)), 3),
        compiled=IS_COMPILED,
    )


def describe(machine: Machine) -> str:
    """The machine in one line."""
    return (
        f"{machine.cores} cores, kernel {machine.kernel}, Python {machine.python}, "
        f"load before {machine.load_average:g}, fdatasync p50 {machine.fdatasync_p50_ms:.2f} ms, "
        f"Noctule {'compiled' if machine.compiled else 'interpreted'}"
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that is not exceeded by `percent` of them (nearest rank); never between two."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


class Distribution(msgspec.Struct, frozen=True):
    """Many measurements of one thing, in milliseconds; percentiles by nearest rank."""

    p50_ms: float
    p99_ms: float
    max_ms: float

    def cells(self) -> tuple[str, str, str]:
        """One row's numbers in a table."""
        return f"{self.p50_ms:.1f}", f"{self.p99_ms:.1f}", f"{self.max_ms:.1f}"


def distribution(values_ms: Sequence[float]) -> Distribution:
    """Summarize measurements, of which there must be one at least."""
    p50_ms, p99_ms = (round(percentile(values_ms, percent), 3) for percent in (50, 99))
    return Distribution(p50_ms, p99_ms, round(max(values_ms), 3))


class TimerLateness:
    """Measures, in a thread while the ``with`` block runs, how much later than asked a sleep of 10 ms ends.

    Time that a busy machine takes from everybody shows here, so a slow number beside late timers is the machine's.
    """

    def __init__(self) -> None:
        self.late_ms: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="timer lateness")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._stop.is_set():
            due = time.monotonic() + TIMER_PERIOD_S
            # The sleep itself is what is measured.
            time.sleep(TIMER_PERIOD_S)
            self.late_ms.append((time.monotonic() - due) * 1000)


def _processor() -> str:
    """The first processor's name; they are all alike where this runs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _sync_times_ms(folder: Path) -> list[float]:
    """Overwrite a page of zeros and sync it, again and again: the file does not grow, as in a preallocated log."""
    path = folder / "fdatasync"
    path.write_bytes(bytes(SYNC_BYTES * SYNCS_COUNT))
    times_ms = []
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.fsync(descriptor)
        for _ in range(SYNCS_COUNT):
            os.write(descriptor, b"\x01" * SYNC_BYTES)
            begun = time.perf_counter()
            os.fdatasync(descriptor)
            times_ms.append((time.perf_counter() - begun) * 1000)
    finally:
        os.close(descriptor)
        path.unlink()
    return times_ms
