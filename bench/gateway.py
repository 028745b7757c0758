"""The embedded gateway beside HAProxy and nginx before the same backends, and what it does with many connections.

Every subject has one worker or thread, so that requests in a second of its processor time compare what each makes of a
core. The method stands in README.md beside this file.
"""

import argparse
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from shutil import which

import msgspec
from gateway_load import Held, Survived, hold, survive
from gateway_subjects import Subject, backends, embedded, haproxy, nginx
from machine import Machine, describe, look_at_machine
from script import add_json_option, positive_count, positive_seconds, run_script, write_json
from subjects import HOST, bench_folder

from noctule.base.errors import UnavailableError
from noctule.cli import output

BUSY_CONNECTIONS = 32
WARM_UP_S = 1
WRK_S_MAX = 30.0
PAUSE_S = 10.0
"""Each of the held connections asks once in so long."""

SERVICE_MS, CONCURRENCY = 50.0, 10
"""A simulated instance: so many requests at once, each for so long; 200 requests a second."""
INSTANCES = (1, 3, 10)
"""Of the document's table (O-139 to O-141)."""
CONNECTIONS_PER_INSTANCE = 2 * CONCURRENCY
DOCUMENT_REQUESTS_PER_S = {1: 1_200, 3: 3_600, 10: 12_000}

TITLES = ("", "requests/s", "CPU µs", "p50 ms", "p99 ms", "added p50 ms", "added p99 ms", "of nginx, by time", "by CPU")
SCRIPT = Path(__file__).with_name("gateway.lua")


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    seconds: float
    rounds: int
    connections: int
    hold_s: float


class Run(msgspec.Struct, frozen=True):
    """One round of wrk."""

    requests_per_s: float
    cpu_us: float
    """Of the subject's processes, for each request."""
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Row(msgspec.Struct, frozen=True):
    """One subject: medians of its rounds."""

    subject: str
    busy: Run
    """32 connections without a pause."""
    quiet: Run
    """One connection: its latency is the way there and back."""
    added_p50_ms: float
    """Of the quiet rounds, beyond the backend's own."""
    added_p99_ms: float
    rate_ratio: float
    """Requests in a second divided by nginx's."""
    cpu_ratio: float
    """nginx's processor time for a request divided by this one's."""


class Step(msgspec.Struct, frozen=True):
    """So many simulated instances."""

    instances: int
    requests_per_s: float
    p95_ms: float
    of_ideal: float
    """Of so many times what one instance can do at most, whatever stands before it."""
    document_requests_per_s: int


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    rows: list[Row]
    held: Held
    resident_mb: float
    """Of the embedded gateway while it held them."""
    survived: Survived
    steps: list[Step]


def main() -> int:
    """Measure and report."""
    options, json_path = parse_arguments()
    if which("wrk") is None:
        print("skipped: wrk is not installed (make engines)")
        return 0
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        rows = compare(folder, options)
        held, resident_mb = hold_connections(folder, options)
        survived = kill_one(folder, options)
        steps = [scale(folder, count, options) for count in INSTANCES]
    report = Report(machine, options, rows, held, resident_mb, survived, steps)
    output.print_table("one worker each, three backends", TITLES, [cells(row) for row in rows])
    for line in sentences(report):
        print(line)
    print(describe(machine))
    if json_path is not None:
        write_json(json_path, report)
    return 0


def parse_arguments() -> tuple[Options, Path | None]:
    """The command line."""
    parser = argparse.ArgumentParser(description="The embedded gateway beside HAProxy and nginx.")
    parser.add_argument("--seconds", type=positive_seconds, default=6.0, help="of one round (default 6)")
    parser.add_argument("--rounds", type=positive_count, default=5, help="of each, alternating (default 5)")
    parser.add_argument("--connections", type=positive_count, default=10_000, help="that are held (default 10000)")
    parser.add_argument("--hold", type=positive_seconds, default=60.0, help="seconds they are held (default 60)")
    add_json_option(parser)
    found = parser.parse_args()
    return Options(found.seconds, found.rounds, found.connections, found.hold), found.json


def compare(folder: Path, options: Options) -> list[Row]:
    """A backend without a gateway, and each gateway, in turns."""
    with ExitStack() as stack:
        behind = stack.enter_context(backends(folder))
        gateways = [stack.enter_context(make(folder, behind)) for make in (embedded, haproxy, nginx)]
        subjects = [Subject("a backend, direct", behind[0].port, behind[0].pids), *gateways]
        busy: dict[str, list[Run]] = {each.name: [] for each in subjects}
        quiet: dict[str, list[Run]] = {each.name: [] for each in subjects}
        for each in subjects:
            run_wrk(each, BUSY_CONNECTIONS, WARM_UP_S)
        for number in range(1, options.rounds + 1):
            for each in subjects:
                busy[each.name].append(run_wrk(each, BUSY_CONNECTIONS, options.seconds))
                quiet[each.name].append(run_wrk(each, 1, max(1.0, options.seconds / 2)))
            rates = ", ".join(f"{name} {runs[-1].requests_per_s:,.0f}/s" for name, runs in busy.items())
            output.say(f"round {number} of {options.rounds}: {rates}")
    medians = {name: (median(busy[name]), median(quiet[name])) for name in busy}
    direct, reference = medians[subjects[0].name][1], medians["nginx"][0]
    return [row_of(name, *found, direct, reference) for name, found in medians.items()]


def row_of(name: str, busy: Run, quiet: Run, direct: Run, reference: Run) -> Row:
    """One subject beside the backend itself and beside nginx."""
    return Row(
        name,
        busy,
        quiet,
        round(quiet.p50_ms - direct.p50_ms, 3),
        round(quiet.p99_ms - direct.p99_ms, 3),
        round(busy.requests_per_s / reference.requests_per_s, 3),
        round(reference.cpu_us / busy.cpu_us, 3),
    )


def hold_connections(folder: Path, options: Options) -> tuple[Held, float]:
    """Many connections that mostly rest (N-96), and the memory they take."""
    with backends(folder) as behind, embedded(folder, behind) as gateway:
        output.say(f"{options.connections:,} connections for {options.hold_s:g} s")
        held = hold(gateway.port, options.connections, options.hold_s, PAUSE_S)
        return held, round(gateway.resident_bytes() / 2**20, 1)


def kill_one(folder: Path, options: Options) -> Survived:
    """kill -9 of one backend of three while GETs come without a pause."""
    with backends(folder) as behind, embedded(folder, behind) as gateway:
        output.say("kill -9 of a backend under load")

        def kill() -> None:
            os.kill(behind[0].pids[0], signal.SIGKILL)

        return survive(gateway.port, BUSY_CONNECTIONS, 2 * options.seconds, kill)


def scale(folder: Path, count: int, options: Options) -> Step:
    """So many simulated instances, each asked for twice what it does at once."""
    with ExitStack() as stack:
        behind = stack.enter_context(backends(folder, count, service_ms=SERVICE_MS, concurrency=CONCURRENCY))
        gateway = stack.enter_context(embedded(folder, behind))
        run_wrk(gateway, count * CONNECTIONS_PER_INSTANCE, WARM_UP_S)
        # The instances still work on what the warm-up asked for last.
        time.sleep(CONNECTIONS_PER_INSTANCE / CONCURRENCY * SERVICE_MS / 1000)
        found = run_wrk(gateway, count * CONNECTIONS_PER_INSTANCE, options.seconds)
    ideal_per_s = count * CONCURRENCY * 1000 / SERVICE_MS
    output.say(f"{count} simulated instances: {found.requests_per_s:,.0f}/s of {ideal_per_s:,.0f}/s")
    of_ideal = round(found.requests_per_s / ideal_per_s, 3)
    return Step(count, found.requests_per_s, found.p95_ms, of_ideal, DOCUMENT_REQUESTS_PER_S[count])


def run_wrk(subject: Subject, connections: int, seconds: float) -> Run:
    """One round; wrk counts whole seconds. Raises `UnavailableError` when any request failed."""
    whole_s = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{whole_s}s", "-s", str(SCRIPT), f"http://{HOST}:{subject.port}/"]
    began_s = subject.cpu_s()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=whole_s + WRK_S_MAX)
    cpu_s = subject.cpu_s() - began_s
    numbers = next((line.split()[1:] for line in ended.stdout.splitlines() if line.startswith("numbers ")), [])
    if ended.returncode or len(numbers) != 6 or numbers[5] != "0":
        raise UnavailableError(f"wrk of {subject.name} ended with {ended.returncode}: {ended.stdout} {ended.stderr}")
    requests, lasted_s = int(numbers[0]), float(numbers[1])
    return Run(round(requests / lasted_s, 1), round(cpu_s * 1e6 / requests, 2), *map(float, numbers[2:5]))


def median(runs: Sequence[Run]) -> Run:
    """Of each number by itself."""
    return Run(*(round(statistics.median(getattr(run, name) for run in runs), 3) for name in Run.__struct_fields__))


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    busy = row.busy
    numbers = f"{busy.requests_per_s:,.0f}", f"{busy.cpu_us:.1f}", f"{busy.p50_ms:.2f}", f"{busy.p99_ms:.2f}"
    added = f"{row.added_p50_ms:.2f}", f"{row.added_p99_ms:.2f}"
    return row.subject, *numbers, *added, f"{row.rate_ratio:.2f}", f"{row.cpu_ratio:.2f}"


def sentences(report: Report) -> list[str]:
    """What else was measured, a line each."""
    held, survived = report.held, report.survived
    steps = "; ".join(
        f"{step.instances}: {step.requests_per_s:,.0f} requests/s, {step.of_ideal:.0%} of the ideal, "
        f"p95 {step.p95_ms:.0f} ms (the document's table: {step.document_requests_per_s:,})"
        for step in report.steps
    )
    holding = (
        f"{held.connections:,} keep-alive connections held for {held.seconds:g} s: {held.errors} errors in "
        f"{held.requests:,} requests, p50 {held.p50_ms:.1f} ms, p99 {held.p99_ms:.1f} ms; "
        f"the gateway took {report.resident_mb:.0f} MB."
    )
    killing = (
        f"kill -9 of one of three backends under load: {survived.failed} of {survived.requests:,} GETs failed, "
        f"the slowest took {survived.longest_ms:.0f} ms."
    )
    scaling = (
        f"Simulated backends of limited capacity ({CONCURRENCY} requests at once, {SERVICE_MS:g} ms each): {steps}."
    )
    return [holding, killing, scaling]


if __name__ == "__main__":
    run_script(main)
