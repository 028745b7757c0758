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
TAGS_REQUESTS = 6_400
"""After so many each client of redis-benchmark has asked its node."""


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
    clients: int = CLIENTS
    """Of one subject, in all."""


class Subject(msgspec.Struct, frozen=True):
    """A server under test; one redis-benchmark runs for each of its doors, and they share the clients."""

    name: str
    ports: tuple[int, ...]
    is_cluster: bool = False
    """Whether redis-benchmark is to ask each key's own node, as a client of Redis Cluster."""

    tags: tuple[str, ...] = ()
    """Then the hash tags that it uses, one for each node: it writes to a single slot of each."""

    def numbers(self, options: "Options") -> int:
        """How many different numbers to draw from, so that there are `options.keys` keys, or a few less."""
        return options.keys // len(self.tags or ("",))

    def keys(self, options: "Options") -> list[str]:
        """All that redis-benchmark may draw."""
        prefixes = [f"key:{tag}:" for tag in self.tags] or ["key:"]
        return [f"{prefix}{number:012}" for prefix in prefixes for number in range(self.numbers(options))]

    def client(self) -> "redis.Redis | redis.RedisCluster":
        """A client of its first door."""
        return (redis.RedisCluster if self.is_cluster else redis.Redis)(host=HOST, port=self.ports[0])


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
    clients: int
    """Of one subject, in all."""
    subjects: list[Measured]
    """The one that the others are compared with first."""
    ratios: list[float]
    """The first one's requests in a second, divided by each one's."""


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
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
    report = Report(machine, options, VALUE_BYTES, redis_version, rows)
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
        subjects = [with_tags(subject, options) for subject in subjects]
        for subject in subjects:
            fill(subject, subject.keys(options))
        filled = [count_keys(subject) for subject in subjects]
        rows = [measure_case(case, subjects, options) for case in all_cases()]
        check_keys(subjects[2], filled[2])
        for subject, count in zip(subjects, filled, strict=True):
            if new := count_keys(subject) - count:
                output.say(
                    f"{subject.name}: {new} new keys; leaders moved, and redis-benchmark to other slots with them"
                )
        return rows, version_of(subjects[2])


def measure_partition_counts(folder: Path, options: Options) -> tuple[list[Row], str]:
    """Noctule with each number of partitions, one cluster after the other; the ratios are to the first number's."""
    found: dict[Case, list[Measured]] = {case: [] for case in all_cases()}
    for count in options.partitions:
        with noctule_cluster(folder / str(count), options.nodes, partitions=count) as cluster:
            doors = options.nodes if options.spread else 1
            subject = Subject(f"{count} partitions", tuple(node.resp_port for node in cluster.nodes)[:doors])
            fill(subject, subject.keys(options))
            for case in all_cases():
                found[case] += measure_case(case, [subject], options).subjects
            check_keys(subject, options.keys)
    return [row_of(case, measured, options) for case, measured in found.items()], ""


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
    """Every command with every pipeline by all clients, and by a single one that waits for each answer."""
    many = [Case(command, pipeline) for pipeline, command in product(PIPELINES, COMMANDS)]
    return [*many, *(Case(command, 1, clients=1) for command in COMMANDS)]


def with_tags(subject: Subject, options: Options) -> Subject:
    """The same with the tags for its nodes' slots, which redis-benchmark alone knows: it is watched using them."""
    if not subject.is_cluster:
        return subject
    run_once(subject, Case("SET", 1), TAGS_REQUESTS, options, numbers=1)
    with subject.client() as client:
        keys = sorted(key.decode() for key in client.scan_iter(match="key:{*"))
    return msgspec.structs.replace(subject, tags=tuple(key.split(":")[1] for key in keys))


def fill(subject: Subject, keys: Sequence[str]) -> None:
    """Write every key that redis-benchmark may ask for, so that each GET finds 100 bytes and no SET makes a new key."""
    before = count_keys(subject) - len(subject.tags)  # `with_tags` has left the first one of each.
    output.say(f"{subject.name}: writing {len(keys)} keys")
    with subject.client() as client:
        for start in range(0, len(keys), FILL_COMMANDS):
            pipeline = client.pipeline() if subject.is_cluster else client.pipeline(transaction=False)
            for key in keys[start : start + FILL_COMMANDS]:
                pipeline.set(key, b"x" * VALUE_BYTES)
            pipeline.execute()
    check_keys(subject, before + len(keys))


def count_keys(subject: Subject) -> int:
    """All keys of the store behind it; the faces of one store count the same."""
    with subject.client() as client:
        if isinstance(client, redis.RedisCluster):
            return int(client.dbsize(target_nodes=redis.RedisCluster.PRIMARIES))
        return int(client.dbsize())


def check_keys(subject: Subject, expected: int) -> None:
    """Raise `ProtocolError` unless it holds so many keys: those that were written before, and no others."""
    found = count_keys(subject)
    if found != expected:
        raise ProtocolError(f"{subject.name} holds {found} keys instead of {expected}")


def measure_case(case: Case, subjects: Sequence[Subject], options: Options) -> Row:
    """All rounds of one case, the subjects taking turns."""
    counts = {subject.name: count_requests(subject, case, options) for subject in subjects}
    runs: dict[str, list[Run]] = {subject.name: [] for subject in subjects}
    for number in range(1, options.rounds + 1):
        for subject in subjects:
            run = run_once(subject, case, counts[subject.name], options)
            runs[subject.name].append(run)
            output.say(
                f"{case.command}, {case.clients} clients, pipeline {case.pipeline}, "
                f"round {number} of {options.rounds}, {subject.name}: "
                f"{run.requests_per_s:,.0f} requests/s for {run.seconds:.1f} s"
            )
    return row_of(case, [summarize(name, rounds) for name, rounds in runs.items()], options)


def row_of(case: Case, measured: list[Measured], options: Options) -> Row:
    """With the ratios."""
    doors = options.nodes if options.spread else 1
    ratios = [round(measured[0].requests_per_s / other.requests_per_s, 3) for other in measured]
    return Row(case.command, case.pipeline, clients_of_a_door(case, doors) * doors, measured, ratios)


def clients_of_a_door(case: Case, doors: int) -> int:
    """They are shared out evenly, and none goes without."""
    return max(1, case.clients // doors)


def count_requests(subject: Subject, case: Case, options: Options) -> int:
    """How many requests take `options.seconds`, found by ever longer runs, which warm the subject up too."""
    count = max(case.clients, len(subject.ports)) * case.pipeline
    while True:
        run = run_once(subject, case, count, options)
        if run.seconds >= min(WARM_UP_S, options.seconds) or count >= REQUESTS_MAX:
            wanted = round(run.requests_per_s * options.seconds)
            return min(REQUESTS_MAX, max(wanted, clients_of_a_door(case, len(subject.ports)) * len(subject.ports)))
        count *= 4


def run_once(subject: Subject, case: Case, requests_count: int, options: Options, *, numbers: int = 0) -> Run:
    """Run redis-benchmark, one for each door at the same time; it ends at the first error reply, which is raised.

    Its keys have that many different numbers, unless given as many as the subject was filled with.
    """
    doors = len(subject.ports)
    command = [program("redis-benchmark"), "-h", HOST, "-t", case.command.lower(), "--csv", "-d", str(VALUE_BYTES)]
    command += ["-c", str(clients_of_a_door(case, doors)), "-n", str(requests_count // doors)]
    command += ["-r", str(numbers or subject.numbers(options)), "-P", str(case.pipeline)]
    command += ["--cluster"] if subject.is_cluster else []
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
    """Wait for one redis-benchmark and read its CSV, a header and one row, which with --cluster stand behind others."""
    try:
        stdout, stderr = run.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"redis-benchmark did not end within {timeout_s:g} s") from None
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
        ("", "clients", "pipeline", "", "requests/s", "p50 ms", "p99 ms", "the first / this"),
        [
            (row.command, row.clients, row.pipeline, measured.subject, *cells(measured), f"{ratio:.2f}")
            for row in report.rows
            for measured, ratio in zip(row.subjects, row.ratios, strict=True)
        ],
    )
    order = "alternating" if len(options.partitions) == 1 else "one cluster after the other"
    print(
        f"medians; rounds: {options.rounds}, {order}, of about {options.seconds:g} s; "
        f"values of {report.value_bytes} bytes, {options.keys} keys"
    )
    print(describe(report.machine))


def cells(measured: Measured) -> tuple[str, str, str]:
    """One subject's part of a row."""
    return f"{measured.requests_per_s:,.0f}", f"{measured.p50_ms:.2f}", f"{measured.p99_ms:.2f}"


if __name__ == "__main__":
    run_script(main)
