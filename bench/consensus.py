"""Proposals in a second through three nodes in one process, without disk or sockets, beside PySyncObj.

What is measured is the consensus itself: Noctule's Raft with all that keeps it safe switched on, and PySyncObj's, in
alternating rounds of the same work. The method stands in README.md beside this file.
"""

import argparse
import gc
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from machine import Machine, describe, look_at_machine
from noctule_trio import RaftTrio, Trio
from pysyncobj_trio import PySyncObjTrio
from script import add_json_option, positive_count, run_script, write_json
from subjects import bench_folder

from noctule.base.errors import UnavailableError
from noctule.cli import output
from noctule.servers.process import GARBAGE_THRESHOLDS

VALUE_BYTES = 200
BATCH_COMMANDS = 32
"""In one entry of Noctule's when it batches."""
READY_S_MAX = 30.0
APPLIED_S_MAX = 30.0
PROPOSAL_S_MAX = 0.01
"""A run that is slower than this for each value, and than `READY_S_MAX`, has stopped."""


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    proposals: int
    rounds: int
    window: int


class Case(msgspec.Struct, frozen=True):
    """What is done."""

    is_batching: bool
    is_encoded: bool
    """Whether messages travel as bytes."""
    window: int
    """Values that were proposed and are not acknowledged yet, at most."""


class Run(msgspec.Struct, frozen=True):
    """One round of one subject, from the first proposal to the last acknowledgement."""

    proposals: int
    seconds: float
    cpu_seconds: float
    """Of this process: on a busy machine less than `seconds`, and the better measure then."""
    proposals_per_s: float
    proposals_per_cpu_s: float


class Measured(msgspec.Struct, frozen=True):
    """All rounds of one subject, in order, and the medians of their rates."""

    proposals_per_s: float
    proposals_per_cpu_s: float
    rounds: list[Run]


class Row(msgspec.Struct, frozen=True):
    """Both subjects in one case."""

    case: Case
    noctule: Measured
    pysyncobj: Measured
    ratio: float
    """Noctule's proposals in a second, divided by PySyncObj's."""
    cpu_ratio: float
    """The same of those in a second of processor time."""


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    value_bytes: int
    batch_commands: int
    pysyncobj_version: str
    rows: list[Row]


def main() -> int:
    """Measure and report."""
    options, json_path = parse_arguments()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    with bench_folder() as folder:
        machine = look_at_machine(folder)
    output.say(describe(machine))
    rows = [measure_case(case, options) for case in all_cases(options.window)]
    report = Report(machine, options, VALUE_BYTES, BATCH_COMMANDS, importlib.metadata.version("pysyncobj"), rows)
    show(report)
    if json_path is not None:
        write_json(json_path, report)
    return 0


def parse_arguments() -> tuple[Options, Path | None]:
    """The options of this run, and where the JSON goes."""
    parser = argparse.ArgumentParser(description="Measure the consensus of three nodes in memory beside PySyncObj.")
    parser.add_argument("--proposals", type=positive_count, default=40_000, help="in each round (default 40000)")
    parser.add_argument("--rounds", type=positive_count, default=5, help="of each case (default 5)")
    parser.add_argument("--window", type=positive_count, default=64, help="entries not yet acknowledged (default 64)")
    add_json_option(parser)
    given = parser.parse_args()
    return Options(given.proposals, given.rounds, given.window), given.json


def all_cases(window: int) -> list[Case]:
    """One by one and batched, by objects and by bytes; a window of so many entries of Noctule's."""
    return [
        Case(is_batching, is_encoded, window * BATCH_COMMANDS if is_batching else window)
        for is_batching in (False, True)
        for is_encoded in (False, True)
    ]


def measure_case(case: Case, options: Options) -> Row:
    """Rounds that take turns, each with new nodes."""
    subjects: dict[str, Callable[[], Trio]] = {
        "Noctule": lambda: RaftTrio(
            entry_commands=BATCH_COMMANDS if case.is_batching else 1, is_encoded=case.is_encoded
        ),
        "PySyncObj": lambda: PySyncObjTrio(is_batching=case.is_batching, is_encoded=case.is_encoded),
    }
    values = [number.to_bytes(8, "big") + b"v" * (VALUE_BYTES - 8) for number in range(options.proposals)]
    rounds: dict[str, list[Run]] = {name: [] for name in subjects}
    for number in range(1, options.rounds + 1):
        for name, make in subjects.items():
            run = measure(name, make(), values, case.window)
            rounds[name].append(run)
            output.say(f"{words_of(case)}, round {number} of {options.rounds}: {name} {run.proposals_per_s:,.0f} /s")
    noctule, pysyncobj = (summarize(rounds[name]) for name in subjects)
    return Row(
        case,
        noctule,
        pysyncobj,
        ratio=round(noctule.proposals_per_s / pysyncobj.proposals_per_s, 3),
        cpu_ratio=round(noctule.proposals_per_cpu_s / pysyncobj.proposals_per_cpu_s, 3),
    )


def measure(name: str, trio: Trio, values: Sequence[bytes], window: int) -> Run:
    """Propose all values, as many at a time as the window lets; then see that each node has applied all, in order."""
    try:
        turn_until(trio, trio.is_ready, READY_S_MAX, f"{name} has a leader")
        # Not the round before's garbage, nor the check's.
        gc.collect()
        stalled_at = time.monotonic() + READY_S_MAX + PROPOSAL_S_MAX * len(values)
        begun, cpu_begun = time.perf_counter(), time.process_time()
        proposed = 0
        while trio.acknowledged_count < len(values):
            room = trio.acknowledged_count + window
            if proposed < room:
                trio.propose(values[proposed:room])
                proposed = min(room, len(values))
            trio.turn()
            if time.monotonic() > stalled_at:
                raise UnavailableError(f"{name} acknowledged {trio.acknowledged_count} of {len(values)} values")
        seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
        turn_until(
            trio,
            lambda: all(len(applied) >= len(values) for applied in trio.applied),
            APPLIED_S_MAX,
            f"{name} has applied everything everywhere",
        )
        if any(applied != values for applied in trio.applied):
            raise UnavailableError(f"a node of {name} applied other values than were proposed, or in another order")
    finally:
        trio.close()
    count = len(values)
    return Run(
        count, round(seconds, 6), round(cpu_seconds, 6), round(count / seconds, 1), round(count / cpu_seconds, 1)
    )


def turn_until(trio: Trio, condition: Callable[[], bool], deadline_s: float, what: str) -> None:
    """Turn until the condition holds; `UnavailableError` that says what does not after `deadline_s` seconds."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise UnavailableError(f"not within {deadline_s:g} s: {what}")
        trio.turn()


def summarize(rounds: Sequence[Run]) -> Measured:
    """The medians over the rounds."""
    return Measured(
        proposals_per_s=statistics.median(run.proposals_per_s for run in rounds),
        proposals_per_cpu_s=statistics.median(run.proposals_per_cpu_s for run in rounds),
        rounds=list(rounds),
    )


def words_of(case: Case) -> str:
    """The case for a person."""
    return f"{'batched' if case.is_batching else 'one by one'}, messages as {'bytes' if case.is_encoded else 'objects'}"


def show(report: Report) -> None:
    """The table, and under it what the numbers were measured on."""
    options = report.options
    output.print_table(
        f"Proposals through three nodes in one process, in memory, beside PySyncObj {report.pysyncobj_version}",
        ("", "window", "Noctule /s", "PySyncObj /s", "Noctule/PySyncObj", "by CPU time"),
        [
            (
                words_of(row.case),
                row.case.window,
                f"{row.noctule.proposals_per_s:,.0f}",
                f"{row.pysyncobj.proposals_per_s:,.0f}",
                f"{row.ratio:.2f}",
                f"{row.cpu_ratio:.2f}",
            )
            for row in report.rows
        ],
    )
    print(
        f"medians; rounds: {options.rounds}, alternating, of {options.proposals} values of {report.value_bytes} bytes; "
        f"batched: {report.batch_commands} values in an entry of Noctule's"
    )
    print(describe(report.machine))


if __name__ == "__main__":
    run_script(main)
