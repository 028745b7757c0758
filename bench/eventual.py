"""An eventual GET of a node of three beside a server that does nothing but parse and answer from a dict.

Both are driven by the same clients in this process, in alternating rounds. The method stands in README.md beside this
file.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import redis
import uvloop
from machine import Machine, describe, look_at_machine, percentile
from resp_load import VALUE, Tally, connect, encode, get_request, key_of, stop_all
from script import add_json_option, positive_count, positive_seconds, run_script, write_json
from subjects import HOST, bare_server, bench_folder, noctule_cluster

from noctule.adapters.process_stats import read_process_stats
from noctule.base.errors import UnavailableError
from noctule.cli import output

CLIENTS = 64
PIPELINES = (1, 16)
KEYS = 10_000
ROUNDS_OF_A_PIPELINE = 1_000
"""Made before, so that making them costs the clients nothing."""
FILL_COMMANDS = 500
"""In one pipeline."""
WARM_UP_S = 0.5
RUNS = 5


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    seconds: float
    rounds: int


class Subject(msgspec.Struct, frozen=True):
    """A server in one process."""

    name: str
    pid: int
    port: int


class Run(msgspec.Struct, frozen=True):
    """One round."""

    requests: int
    requests_per_s: float
    cpu_us: float
    """Processor time of the serving process, user and system, for one request."""
    p50_ms: float
    """From sending a pipeline to its last answer. The same for p99."""
    p99_ms: float


class Measured(msgspec.Struct, frozen=True):
    """The medians of one subject, and its rounds in order."""

    requests_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    rounds: list[Run]


class Row(msgspec.Struct, frozen=True):
    """Both subjects with one pipeline."""

    pipeline: int
    noctule: Measured
    bare: Measured
    rate_ratio: float
    """Noctule's requests in a second divided by those of the bare server."""
    cpu_ratio: float
    """The bare server's processor time for a request divided by Noctule's, so 0.8 is a fifth slower there, too."""


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    clients: int
    value_bytes: int
    rows: list[Row]


def main() -> int:
    """Measure and report."""
    options, json_path = parse_arguments()
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        with noctule_cluster(folder, 3) as cluster, bare_server(folder) as (bare_pid, bare_port):
            node = cluster.nodes[0]
            subjects = [Subject("Noctule", node.pid, node.resp_port), Subject("bare", bare_pid, bare_port)]
            for subject in subjects:
                fill(subject)
            cluster.wait_caught_up()
            rows = [measure(pipeline, subjects, options) for pipeline in PIPELINES]
    report = Report(machine, options, CLIENTS, len(VALUE), rows)
    show(report)
    if json_path is not None:
        write_json(json_path, report)
    return 0


def parse_arguments() -> tuple[Options, Path | None]:
    """The command line."""
    parser = argparse.ArgumentParser(description="Eventual reads beside a bare server.")
    parser.add_argument("--seconds", type=positive_seconds, default=3.0, help="of one round (default 3)")
    parser.add_argument("--rounds", type=positive_count, default=RUNS, help=f"of each, alternating (default {RUNS})")
    add_json_option(parser)
    found = parser.parse_args()
    return Options(found.seconds, found.rounds), found.json


def fill(subject: Subject) -> None:
    """Write every key."""
    with redis.Redis(HOST, subject.port, protocol=2) as client:
        for start in range(0, KEYS, FILL_COMMANDS):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, start + FILL_COMMANDS):
                pipeline.set(key_of(number), VALUE)
            pipeline.execute()


def measure(pipeline: int, subjects: Sequence[Subject], options: Options) -> Row:
    """All rounds with one pipeline, the subjects taking turns."""
    runs: dict[str, list[Run]] = {subject.name: [] for subject in subjects}
    for number in range(1, options.rounds + 1):
        for subject in subjects:
            run = uvloop.run(run_once(subject, pipeline, options.seconds))
            runs[subject.name].append(run)
            output.say(
                f"pipeline {pipeline}, round {number} of {options.rounds}, {subject.name}: "
                f"{run.requests_per_s:,.0f} requests/s, {run.cpu_us:.1f} us each"
            )
    noctule, bare = (summarize(runs[subject.name]) for subject in subjects)
    rate_ratio = round(noctule.requests_per_s / bare.requests_per_s, 3)
    return Row(pipeline, noctule, bare, rate_ratio, round(bare.cpu_us / noctule.cpu_us, 3))


async def run_once(subject: Subject, pipeline: int, seconds: float) -> Run:
    """One round with new clients; raises `UnavailableError` when anything is answered but the value."""
    tally = Tally()
    clients = [await connect(HOST, subject.port, tally) for _ in range(CLIENTS)]
    for client in clients:
        client.begin(lambda: (1, encode(b"READONLY")))
    await stop_all(clients, tally)
    requests = rounds_of(pipeline)
    for client in clients:
        client.begin(requests)
    await asyncio.sleep(min(WARM_UP_S, seconds))
    tally.requests, tally.latencies_ms = 0, []
    cpu_s, begun = cpu_s_of(subject), time.monotonic()
    await asyncio.sleep(seconds)
    cpu_s, lasted_s = cpu_s_of(subject) - cpu_s, time.monotonic() - begun
    count, latencies_ms = tally.requests, tally.latencies_ms
    await stop_all(clients, tally)
    for client in clients:
        client.close()
    if tally.errors or not count:
        raise UnavailableError(f"{subject.name} answered {(tally.errors or ['nothing'])[0]}")
    return Run(
        requests=count,
        requests_per_s=round(count / lasted_s, 1),
        cpu_us=round(cpu_s / count * 1e6, 3),
        p50_ms=round(percentile(latencies_ms, 50), 3),
        p99_ms=round(percentile(latencies_ms, 99), 3),
    )


def rounds_of(pipeline: int) -> Callable[[], tuple[int, bytes]]:
    """Gives one pipeline of GETs after the other; the same ones again for each run."""
    chance = random.Random(pipeline)
    made = [b"".join(get_request(chance.randrange(KEYS)) for _ in range(pipeline)) for _ in range(ROUNDS_OF_A_PIPELINE)]
    at = 0

    def next_round() -> tuple[int, bytes]:
        nonlocal at
        at = (at + 1) % ROUNDS_OF_A_PIPELINE
        return pipeline, made[at]

    return next_round


def cpu_s_of(subject: Subject) -> float:
    """Processor time that it has taken so far; raises `UnavailableError` when it has ended."""
    stats = read_process_stats(Path(f"/proc/{subject.pid}"))
    if stats is None:
        raise UnavailableError(f"{subject.name} has ended, or this system has no procfs")
    return stats.cpu_s


def summarize(runs: Sequence[Run]) -> Measured:
    """The median of each number."""
    return Measured(
        requests_per_s=statistics.median(run.requests_per_s for run in runs),
        cpu_us=statistics.median(run.cpu_us for run in runs),
        p50_ms=statistics.median(run.p50_ms for run in runs),
        p99_ms=statistics.median(run.p99_ms for run in runs),
        rounds=list(runs),
    )


def show(report: Report) -> None:
    """The table, and under it what the numbers were measured on."""
    output.print_table(
        "Eventual GET of a node of three, beside a server that only parses and answers from a dict",
        (
            "pipeline",
            "Noctule /s",
            "CPU us",
            "p50 ms",
            "p99 ms",
            "bare /s",
            "CPU us",
            "p50 ms",
            "p99 ms",
            "rate",
            "CPU",
        ),
        [
            (
                row.pipeline,
                *cells(row.noctule),
                *cells(row.bare),
                f"{row.rate_ratio:.2f}",
                f"{row.cpu_ratio:.2f}",
            )
            for row in report.rows
        ],
    )
    options = report.options
    print(
        f"medians of {options.rounds} alternating rounds of {options.seconds:g} s; {report.clients} clients, values of "
        f"{report.value_bytes} bytes"
    )
    print(describe(report.machine))


def cells(measured: Measured) -> tuple[str, ...]:
    """One subject's part of a row."""
    return (
        f"{measured.requests_per_s:,.0f}",
        f"{measured.cpu_us:.1f}",
        f"{measured.p50_ms:.2f}",
        f"{measured.p99_ms:.2f}",
    )


if __name__ == "__main__":
    run_script(main)
