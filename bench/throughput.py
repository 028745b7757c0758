"""Requests in a second of a Noctule cluster, of a redis-server that syncs every write, and of a Redis Cluster, side by
side; or of Noctule alone with several numbers of partitions.

Starts all of them, measures with redis-benchmark in alternating rounds, prints the medians and their ratios, and
removes everything. The method stands in README.md beside this file.
"""

import argparse
import csv
import statistics
import subprocess
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import msgspec
import redis
from machine import Machine, describe, look_at_machine
from script import add_json_option, positive_count, positive_seconds, run_script, write_json
from subjects import HOST, bench_folder, noctule_cluster, program, redis_cluster, redis_server

from noctule.base.errors import ConfigError, ProtocolError, UnavailableError
from noctule.cli import output

VALUE_BYTES = 100
CLIENTS = 64
PIPELINES = (1, 16)
COMMANDS = ("SET", "GET")

WARM_UP_S = 1.0
REQUESTS_MAX = 20_000_000
RUN_S_MAX = 60.0
"""On top of ten times what a run should take."""
RESOLUTION_S = 0.001
"""Of redis-benchmark."""
FILL_COMMANDS = 500
"""In one pipeline."""


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    nodes: int
    seconds: float
    rounds: int
    keys: int
    spread: bool
    partitions: list[int]
    """More than one: of Noctule alone, one cluster after the other."""


class Case(msgspec.Struct, frozen=True):
    """What redis-benchmark does."""

    command: str
    pipeline: int
    """Requests that a client sends before it waits for their answers."""


class Subject(msgspec.Struct, frozen=True):
    """A server under test; one redis-benchmark runs for each of its doors, and they share the clients."""

    name: str
    ports: tuple[int, ...]
    is_cluster: bool = False
    """Whether redis-benchmark is to ask each key's own node, as a client of Redis Cluster."""


class Run(msgspec.Struct, frozen=True):
    """What one run of redis-benchmark measured, or several at once taken together."""

    requests_count: int
    seconds: float
    """Of the slowest of several."""
    requests_per_s: float
    p50_ms: float
    """By redis-benchmark, of one request from the sending of its pipeline; of several the worst. The same for p99."""
    p99_ms: float


class Measured(msgspec.Struct, frozen=True):
    """All rounds of one subject, in order, and the median of each of their numbers."""

    subject: str
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    rounds: list[Run]


class Row(msgspec.Struct, frozen=True):
    """All subjects in one case."""

    command: str
    pipeline: int
    subjects: list[Measured]
    """The one that the others are compared with first."""
    ratios: list[float]
    """The first one's requests in a second, divided by each one's."""


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    clients: int
    """Of one subject, in all."""
    value_bytes: int
    redis_version: str
    rows: list[Row]


def main() -> int:
    """Measure and report."""
    options, json_path = parse_arguments()
    program("redis-benchmark")
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        measure = measure_beside_redis if len(options.partitions) == 1 else measure_partition_counts
        rows, redis_version = measure(folder, options)
    doors = options.nodes if options.spread else 1
    clients = CLIENTS // doors * doors
    report = Report(machine, options, clients, VALUE_BYTES, redis_version, rows)
    show(report)
    if json_path is not None:
        write_json(json_path, report)
    return 0


def measure_beside_redis(folder: Path, options: Options) -> tuple[list[Row], str]:
    """All cases, the subjects taking turns; and the version of Redis."""
    with (
        redis_server(folder) as redis_port,
        redis_cluster(folder) as cluster_port,
        noctule_cluster(folder, options.nodes, partitions=options.partitions[0]) as cluster,
    ):
        doors = options.nodes if options.spread else 1
        subjects = [
            Subject("Noctule", tuple(node.resp_port for node in cluster.nodes)[:doors]),
            Subject("Noctule, cluster face", (cluster.nodes[0].resp_cluster_port,), is_cluster=True),
            Subject("Redis, fsync always", (redis_port,) * doors),
            Subject("Redis Cluster 3+3, everysec", (cluster_port,), is_cluster=True),
        ]
        for subject in subjects:
            if subject.name != "Noctule, cluster face":
                fill(subject, options.keys)
        rows = [measure_case(case, subjects, options) for case in all_cases()]
        check_keys(subjects[0], options.keys)
        check_keys(subjects[2], options.keys)
        return rows, version_of(subjects[2])


def measure_partition_counts(folder: Path, options: Options) -> tuple[list[Row], str]:
    """Noctule with each number of partitions, one cluster after the other; the ratios are to the first number's."""
    found: dict[Case, list[Measured]] = {case: [] for case in all_cases()}
    for count in options.partitions:
        with noctule_cluster(folder / str(count), options.nodes, partitions=count) as cluster:
            doors = options.nodes if options.spread else 1
            subject = Subject(f"{count} partitions", tuple(node.resp_port for node in cluster.nodes)[:doors])
            fill(subject, options.keys)
            for case in all_cases():
                found[case] += measure_case(case, [subject], options).subjects
            check_keys(subject, options.keys)
    return [row_of(case, measured) for case, measured in found.items()], ""


def parse_arguments() -> tuple[Options, Path | None]:
    """The command line."""
    parser = argparse.ArgumentParser(description="Noctule beside redis-server, both syncing every write.")
    parser.add_argument("--nodes", type=positive_count, default=3, help="of the Noctule cluster (default 3)")
    parser.add_argument("--seconds", type=positive_seconds, default=6.0, help="that one run takes, about (default 6)")
    parser.add_argument("--rounds", type=positive_count, default=3, help="of each case, alternating (default 3)")
    parser.add_argument("--keys", type=positive_count, default=100_000, help="that exist and are used (default 100000)")
    parser.add_argument(
        "--partitions",
        type=positive_count,
        nargs="+",
        default=[16],
        help="of Noctule; several: of it alone",
    )
    parser.add_argument("--spread", action="store_true", help="drive all nodes at once, not the first alone")
    add_json_option(parser)
    found = parser.parse_args()
    if found.nodes > CLIENTS:
        parser.error(f"--nodes {found.nodes} is more than the {CLIENTS} clients that drive them")
    return Options(found.nodes, found.seconds, found.rounds, found.keys, found.spread, found.partitions), found.json


def all_cases() -> list[Case]:
    """Every command with every pipeline."""
    return [Case(command, pipeline) for pipeline, command in product(PIPELINES, COMMANDS)]


def fill(subject: Subject, keys: int) -> None:
    """Write every key that redis-benchmark may ask for, so that each GET finds 100 bytes and no SET makes a new key."""
    output.say(f"{subject.name}: writing {keys} keys")
    value = b"x" * VALUE_BYTES
    kind = redis.RedisCluster if subject.is_cluster else redis.Redis
    with kind(host=HOST, port=subject.ports[0]) as client:
        for start in range(0, keys, FILL_COMMANDS):
            pipeline = client.pipeline() if subject.is_cluster else client.pipeline(transaction=False)
            for number in range(start, min(keys, start + FILL_COMMANDS)):
                pipeline.set(f"key:{number:012}", value)
            pipeline.execute()


def check_keys(subject: Subject, keys: int) -> None:
    """Raise `ProtocolError` unless it holds the keys of `fill` and no others: then both did the same work."""
    with redis.Redis(HOST, subject.ports[0]) as client:
        found = client.dbsize()
    if found != keys:
        raise ProtocolError(f"{subject.name} holds {found} keys after the bench instead of {keys}")


def measure_case(case: Case, subjects: Sequence[Subject], options: Options) -> Row:
    """All rounds of one case, the subjects taking turns."""
    counts = {subject.name: count_requests(subject, case, options) for subject in subjects}
    runs: dict[str, list[Run]] = {subject.name: [] for subject in subjects}
    for number in range(1, options.rounds + 1):
        for subject in subjects:
            run = run_once(subject, case, counts[subject.name], options)
            runs[subject.name].append(run)
            output.say(
                f"{case.command}, pipeline {case.pipeline}, round {number} of {options.rounds}, {subject.name}: "
                f"{run.requests_per_s:,.0f} requests/s for {run.seconds:.1f} s"
            )
    return row_of(case, [summarize(name, rounds) for name, rounds in runs.items()])


def row_of(case: Case, measured: list[Measured]) -> Row:
    """With the ratios."""
    ratios = [round(measured[0].requests_per_s / other.requests_per_s, 3) for other in measured]
    return Row(case.command, case.pipeline, measured, ratios)


def count_requests(subject: Subject, case: Case, options: Options) -> int:
    """How many requests take `options.seconds`, found by ever longer runs, which warm the subject up too."""
    count = CLIENTS * case.pipeline
    while True:
        run = run_once(subject, case, count, options)
        if run.seconds >= min(WARM_UP_S, options.seconds) or count >= REQUESTS_MAX:
            return min(REQUESTS_MAX, round(run.requests_per_s * options.seconds))
        count *= 4


def run_once(subject: Subject, case: Case, requests_count: int, options: Options) -> Run:
    """Run redis-benchmark, one for each door at the same time; it ends at the first error reply, which is raised."""
    doors = len(subject.ports)
    command = [program("redis-benchmark"), "-h", HOST, "-t", case.command.lower(), "--csv", "-d", str(VALUE_BYTES)]
    command += ["-c", str(CLIENTS // doors), "-n", str(max(1, requests_count // doors))]
    command += ["-r", str(options.keys), "-P", str(case.pipeline), *(["--cluster"] if subject.is_cluster else [])]
    runs = [
        subprocess.Popen(
            [*command, "-p", str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
        )
        for port in subject.ports
    ]
    try:
        parts = [read_run(run, requests_count // doors, 10 * options.seconds + RUN_S_MAX) for run in runs]
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    seconds = max(part.seconds for part in parts)
    return Run(
        requests_count=sum(part.requests_count for part in parts),
        seconds=round(seconds, 3),
        requests_per_s=round(sum(part.requests_count for part in parts) / seconds, 1),
        p50_ms=max(part.p50_ms for part in parts),
        p99_ms=max(part.p99_ms for part in parts),
    )


def read_run(run: "subprocess.Popen[str]", requests_count: int, timeout_s: float) -> Run:
    """Wait for one redis-benchmark and read its CSV, a header and one row."""
    try:
        stdout, stderr = run.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"redis-benchmark did not end within {timeout_s:g} s") from None
    # With --cluster it first tells the nodes.
    lines = stdout[max(stdout.find('"test"'), 0) :].splitlines()
    rows = list(csv.DictReader(lines))
    if run.returncode or len(rows) != 1:
        said = " ".join(stderr.split()) or "no row of numbers"
        raise UnavailableError(f"redis-benchmark ended with exit code {run.returncode}: {said}")
    try:
        per_s, p50_ms, p99_ms = (float(rows[0][name]) for name in ("rps", "p50_latency_ms", "p99_latency_ms"))
    except (KeyError, ValueError) as error:
        raise ConfigError(f"this redis-benchmark prints another CSV than that of Redis 7: {error}") from None
    seconds = max(requests_count / per_s, RESOLUTION_S)  # What took less is told as an infinite rate.
    return Run(requests_count, seconds, per_s, p50_ms, p99_ms)


def summarize(name: str, rounds: Sequence[Run]) -> Measured:
    """The median of each number over the rounds of one subject."""
    return Measured(
        subject=name,
        requests_per_s=statistics.median(run.requests_per_s for run in rounds),
        p50_ms=statistics.median(run.p50_ms for run in rounds),
        p99_ms=statistics.median(run.p99_ms for run in rounds),
        rounds=list(rounds),
    )


def version_of(subject: Subject) -> str:
    """The version of the redis-server."""
    with redis.Redis(HOST, subject.ports[0]) as client:
        return str(client.info("server")["redis_version"])


def show(report: Report) -> None:
    """The table, and under it what the numbers were measured on."""
    options = report.options
    nodes = f"{options.nodes} node{'s' if options.nodes > 1 else ''}"
    driven = "all at once" if options.spread else "through the first"
    beside = f", beside Redis {report.redis_version}" if report.redis_version else ""
    output.print_table(
        f"Noctule on {nodes}, driven {driven}{beside}",
        ("", "pipeline", "", "requests/s", "p50 ms", "p99 ms", "the first / this"),
        [
            (row.command, row.pipeline, measured.subject, *cells(measured), f"{ratio:.2f}")
            for row in report.rows
            for measured, ratio in zip(row.subjects, row.ratios, strict=True)
        ],
    )
    print(
        f"medians; rounds: {options.rounds}, alternating, of about {options.seconds:g} s; {report.clients} clients, "
        f"values of {report.value_bytes} bytes, {options.keys} keys"
    )
    print(describe(report.machine))


def cells(measured: Measured) -> tuple[str, str, str]:
    """One subject's part of a row."""
    return f"{measured.requests_per_s:,.0f}", f"{measured.p50_ms:.2f}", f"{measured.p99_ms:.2f}"


if __name__ == "__main__":
    run_script(main)
