"""Writes and linearizable reads of a three-member etcd beside those of a three-node Noctule, in alternating rounds.

etcd is driven by wrk through its JSON gateway, since neither has a common protocol: read the caveat beside the numbers.
Where etcd or wrk is not installed it says so and measures nothing. The method stands in README.md beside this file.
"""

import argparse
import os
import statistics
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which

import msgspec
import throughput
from machine import Machine, describe, look_at_machine
from script import add_json_option, positive_count, positive_seconds, run_script, write_json
from subjects import HOST, START_S_MAX, bench_folder, noctule_cluster, server_process, wait_until

from noctule.base.errors import UnavailableError
from noctule.cli import output
from noctule.deploy.local.checks import free_ports

MEMBERS = 3
WRK_THREADS = 2
WARM_UP_S = 1.0
VERBS = {"SET": "put", "GET": "range"}
TITLES = ("", "", "requests/s", "p50 ms", "p99 ms", "Noctule / this")
CAVEAT = (
    "Each of wrk's requests is HTTP with JSON and base64, which the gateway turns into a gRPC call: part of the "
    "difference is that, and not etcd's store."
)
SCRIPT = Path(__file__).with_name("etcd.lua")


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    seconds: float
    rounds: int
    keys: int


class Row(msgspec.Struct, frozen=True):
    """One subject with one command: the medians of its rounds."""

    command: str
    subject: str
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    ratio: float
    """Noctule's requests in a second divided by this one's."""


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    etcd_version: str
    clients: int
    value_bytes: int
    rows: list[Row]


def main() -> int:
    """Measure and report; nothing is an error that is not installed."""
    options, json_path = parse_arguments()
    missing = [name for name in ("etcd", "wrk", "redis-benchmark") if which(name) is None]
    if missing:
        print(f"skipped: {' and '.join(missing)} not installed (make engines; Debian: etcd-server, wrk, redis-tools)")
        return 0
    version = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        with etcd_cluster(folder) as port, noctule_cluster(folder, 3) as cluster:
            subject = throughput.Subject("Noctule", (cluster.nodes[0].resp_port,))
            rows = [row for command in VERBS for row in measure(command, subject, port, options)]
    report = Report(machine, options, version, throughput.CLIENTS, throughput.VALUE_BYTES, rows)
    output.print_table(f"three nodes each, etcd {version}", TITLES, [cells(row) for row in rows])
    print(CAVEAT)
    print(f"medians of {options.rounds} alternating rounds of {options.seconds:g} s; {throughput.CLIENTS} clients")
    print(describe(machine))
    if json_path is not None:
        write_json(json_path, report)
    return 0


def parse_arguments() -> tuple[Options, Path | None]:
    """The command line."""
    parser = argparse.ArgumentParser(description="Noctule beside etcd, three nodes each.")
    parser.add_argument("--seconds", type=positive_seconds, default=6.0, help="of one round (default 6)")
    parser.add_argument("--rounds", type=positive_count, default=3, help="of each, alternating (default 3)")
    parser.add_argument("--keys", type=positive_count, default=10_000, help="that are written (default 10000)")
    add_json_option(parser)
    found = parser.parse_args()
    return Options(found.seconds, found.rounds, found.keys), found.json


@contextmanager
def etcd_cluster(folder: Path) -> Iterator[int]:
    """Three members with their defaults, so each write is synced by two before it is acknowledged; a client port."""
    ports = list(free_ports(HOST, 2 * MEMBERS, avoid=set()))
    doors = list(zip(ports[::2], ports[1::2], strict=True))
    members = ",".join(f"m{number}=http://{HOST}:{peer}" for number, (_, peer) in enumerate(doors))
    with ExitStack() as stack:
        for number, (client, peer) in enumerate(doors):
            client_url, peer_url = f"http://{HOST}:{client}", f"http://{HOST}:{peer}"
            command = ["etcd", "--name", f"m{number}", "--data-dir", str(folder / f"etcd-{number}")]
            command += ["--listen-client-urls", client_url, "--advertise-client-urls", client_url]
            command += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
            command += ["--initial-cluster", members, "--initial-cluster-state", "new"]
            stack.enter_context(server_process(command, folder / f"etcd-{number}.log"))
        wait_until(lambda: _why_not_healthy(doors[0][0]), "etcd", START_S_MAX)
        yield doors[0][0]


def _why_not_healthy(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=1) as answer:
            said = answer.read().decode()
    except OSError as error:
        return str(error)
    return "" if '"true"' in said else said


def measure(command: str, subject: throughput.Subject, etcd_port: int, options: Options) -> list[Row]:
    """Noctule and etcd take turns with one command; the SETs come first, so that the GETs find what they wrote."""
    case = throughput.Case(command, 1)
    settings = throughput.Options(3, options.seconds, options.rounds, options.keys, spread=False, partitions=[16])
    count = throughput.count_requests(subject, case, settings)
    run_wrk(command, etcd_port, WARM_UP_S, options)
    runs: dict[str, list[throughput.Run]] = {"Noctule": [], "etcd": []}
    for number in range(1, options.rounds + 1):
        runs["Noctule"].append(throughput.run_once(subject, case, count, settings))
        runs["etcd"].append(run_wrk(command, etcd_port, options.seconds, options))
        rates = ", ".join(f"{name} {rounds[-1].requests_per_s:,.0f} requests/s" for name, rounds in runs.items())
        output.say(f"{command}, round {number} of {options.rounds}: {rates}")
    rates_per_s = {name: statistics.median(run.requests_per_s for run in rounds) for name, rounds in runs.items()}
    return [row_of(command, name, rounds, rates_per_s["Noctule"]) for name, rounds in runs.items()]


def row_of(command: str, name: str, rounds: Sequence[throughput.Run], noctule_per_s: float) -> Row:
    """The medians."""
    measured = throughput.summarize(name, rounds)
    ratio = round(noctule_per_s / measured.requests_per_s, 3)
    return Row(command, name, measured.requests_per_s, measured.p50_ms, measured.p99_ms, ratio)


def run_wrk(command: str, port: int, seconds: float, options: Options) -> throughput.Run:
    """One round; wrk counts whole seconds. Raises `UnavailableError` when any request failed."""
    whole_s = max(1, round(seconds))
    words = ["wrk", "-t", str(WRK_THREADS), "-c", str(throughput.CLIENTS), "-d", f"{whole_s}s", "-s", str(SCRIPT)]
    settings = {"VERB": VERBS[command], "KEYS": str(options.keys), "VALUE_BYTES": str(throughput.VALUE_BYTES)}
    ended = subprocess.run(
        [*words, f"http://{HOST}:{port}"],
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
        timeout=whole_s + throughput.RUN_S_MAX,
    )
    numbers = next((line.split()[1:] for line in ended.stdout.splitlines() if line.startswith("numbers ")), [])
    if ended.returncode or len(numbers) != 5 or numbers[4] != "0":
        raise UnavailableError(f"wrk of etcd ended with exit code {ended.returncode}: {ended.stdout} {ended.stderr}")
    requests, lasted_s = int(numbers[0]), float(numbers[1])
    return throughput.Run(requests, lasted_s, round(requests / lasted_s, 1), float(numbers[2]), float(numbers[3]))


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    numbers = f"{row.requests_per_s:,.0f}", f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}", f"{row.ratio:.2f}"
    return row.command, row.subject, *numbers


if __name__ == "__main__":
    run_script(main)
