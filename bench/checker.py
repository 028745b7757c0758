"""How long it takes to load and judge a history of 500,000 operations on 1,000 keys.

Histories are those of atomic objects, so each must hold; they are the same in every run. Each is judged by a process of
its own, as `noctule verify history` would.
"""

import argparse
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import msgspec
from machine import Machine, describe, look_at_machine
from script import add_json_option, positive_count, run_script, write_json
from subjects import bench_folder

from noctule.base.errors import UnavailableError
from noctule.cli import output
from noctule.verify.checkers.history import load_history, write_history
from noctule.verify.checkers.judge import ModelName, judge
from noctule.verify.checkers.models import COUNTER, REGISTER, SET, Model
from noctule.verify.checkers.sample import SampleShape, sample_history

SEED = 1
CLIENTS = (3, 10)
UNKNOWN_SHARES = (0.0, 0.01)
VALUES_AGAIN = 5
"""In the case of a register whose values are not written once each."""
JUDGE_S_MAX = 600.0
MODELS: dict[str, Model] = {model.name: model for model in (REGISTER, COUNTER, SET)}


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    operations: int
    keys: int
    rounds: int


class Case(msgspec.Struct, frozen=True):
    """One history."""

    model: str
    clients: int
    """On each key, all waiting for an answer nearly always."""
    unknown_share: float
    values: int = 0
    """How many values are written to a register again and again; 0: each value once."""


class Run(msgspec.Struct, frozen=True):
    """One process that loaded and judged."""

    holds: bool
    load_cpu_s: float
    judge_cpu_s: float
    seconds: float
    """Of the wall, for both, without the start of the process."""


class Row(msgspec.Struct, frozen=True):
    """One case; medians of the rounds, separately."""

    case: Case
    file_bytes: int
    load_cpu_s: float
    judge_cpu_s: float
    seconds: float
    rounds: list[Run]


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    rows: list[Row]


def main() -> int:
    """Measure and report; `FAILED` when a history does not hold, which is a bug of the checker."""
    parser = argparse.ArgumentParser(description="Time the checkers of histories.")
    parser.add_argument("--operations", type=positive_count, default=500_000, help="in each history (default 500000)")
    parser.add_argument("--keys", type=positive_count, default=1_000, help="which share them (default 1000)")
    parser.add_argument("--rounds", type=positive_count, default=3, help="of each case (default 3)")
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=ModelName, help=argparse.SUPPRESS)
    add_json_option(parser)
    arguments = parser.parse_args()
    if arguments.judge is not None:
        print(msgspec.json.encode(run_here(arguments.judge, arguments.model)).decode())
        return 0
    options = Options(arguments.operations, arguments.keys, arguments.rounds)
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        rows = [measure(case, options, folder / "history.jsonl") for case in cases()]
    report = Report(machine, options, rows)
    show(report)
    if arguments.json is not None:
        write_json(arguments.json, report)
    return 0 if all(run.holds for row in rows for run in row.rounds) else output.FAILED


def cases() -> list[Case]:
    """Every model with few clients on a key and with many, with and without operations of unknown outcome."""
    found = [Case(model, clients, share) for model in MODELS for share in UNKNOWN_SHARES for clients in CLIENTS]
    return [*found, Case(REGISTER.name, max(CLIENTS), 0.0, VALUES_AGAIN)]


def measure(case: Case, options: Options, path: Path) -> Row:
    """Write the history of a case and have it judged again and again."""
    shape = SampleShape(options.operations // options.keys, case.clients, case.unknown_share, case.values)
    chance = random.Random(SEED)
    operations = [
        each
        for key in range(options.keys)
        for each in sample_history(MODELS[case.model], f"{case.model}:{key}", shape, chance)
    ]
    operations.sort(key=lambda each: each.start)
    write_history(path, operations)
    file_bytes = path.stat().st_size
    runs = []
    for number in range(1, options.rounds + 1):
        run = run_apart(path, case.model)
        runs.append(run)
        output.say(
            f"{case.model}, {case.clients} clients on a key, {case.unknown_share:.0%} unknown, "
            f"round {number} of {options.rounds}: {run.seconds:.2f} s"
        )
    return Row(
        case,
        file_bytes,
        statistics.median(run.load_cpu_s for run in runs),
        statistics.median(run.judge_cpu_s for run in runs),
        statistics.median(run.seconds for run in runs),
        runs,
    )


def run_apart(path: Path, model: str) -> Run:
    """Judge in a fresh process: what was allocated to make the history would slow this one down."""
    command = [sys.executable, __file__, "--judge", str(path), "--model", model]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=JUDGE_S_MAX)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{path} was not judged within {JUDGE_S_MAX:g} s") from None
    if done.returncode:
        raise UnavailableError(f"{path} was not judged: {done.stderr.strip()}")
    return msgspec.json.decode(done.stdout, type=Run)


def run_here(path: Path, model: ModelName) -> Run:
    """Load and judge in this process."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    operations = load_history(path)
    loaded_cpu = time.process_time()
    verdict = judge(operations, model)
    return Run(
        holds=verdict.holds,
        load_cpu_s=round(loaded_cpu - begun_cpu, 3),
        judge_cpu_s=round(time.process_time() - loaded_cpu, 3),
        seconds=round(time.perf_counter() - begun, 3),
    )


def show(report: Report) -> None:
    """The table, and under it what the numbers were measured on."""
    options = report.options
    output.print_table(
        f"Judging {options.operations:,} operations on {options.keys:,} keys",
        ("", "clients on a key", "unknown", "values", "file MB", "load CPU s", "judge CPU s", "both s"),
        [
            (
                row.case.model,
                row.case.clients,
                f"{row.case.unknown_share:.0%}",
                values_of(row.case),
                f"{row.file_bytes / 1e6:.0f}",
                f"{row.load_cpu_s:.2f}",
                f"{row.judge_cpu_s:.2f}",
                f"{row.seconds:.2f}",
            )
            for row in report.rows
        ],
    )
    print(f"medians of {options.rounds} rounds; seconds of the wall, without the start of the process")
    print(describe(report.machine))


def values_of(case: Case) -> str:
    """What a register's clients write, as a cell of the table."""
    if case.model != REGISTER.name:
        return ""
    return f"{case.values} again and again" if case.values else "each once"


if __name__ == "__main__":
    run_script(main)
