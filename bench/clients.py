"""Ten thousand connected clients, a thousand of them active, on three nodes: errors, memory, and how long they wait.

The clients live in processes of their own. The method stands in README.md beside this file.
"""

import argparse
import asyncio
import multiprocessing
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import redis
import uvloop
from machine import Distribution, Machine, describe, distribution, look_at_machine
from nodes import load_average
from resp_load import VALUE, LoadClient, Tally, connect, encode, get_request, key_of, set_request, stop_all
from script import add_json_option, positive_count, positive_seconds, run_script, write_json
from subjects import HOST, NoctuleCluster, bench_folder, noctule_cluster

from noctule.adapters.open_files import raise_open_files_max
from noctule.adapters.process_stats import read_process_stats
from noctule.base.errors import ConfigError, UnavailableError
from noctule.cli import output

KEYS = 10_000
FILL_COMMANDS = 500
"""In one pipeline."""
OPENING_MAX = 100
"""Connections that one process opens at once."""
FILES_RESERVED = 64
SETTLE_S = 2.0
"""Before memory is read."""
ANSWER_S_MAX = 300.0
"""How long a process with clients may take for one thing, besides what it was told to take."""
ERRORS_SHOWN = 5


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    clients: int
    active: int
    think_ms: float
    """From an answer to the next request of an active client."""
    seconds: float
    processes: int


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    connects_per_s: float
    """Of all processes together, until the last of all clients was answered its first command, a PING."""
    idle_bytes: int
    """Resident memory of all nodes for each connection that was answered one PING."""
    active_bytes: int
    """The same for each of all connections at the end, when the active ones have sent a lot."""
    requests_per_s: float
    latency: Distribution
    """Of one request of an active client."""
    errors: list[str]
    load_average: float
    """At the end."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one process has to do."""

    ports: tuple[int, ...]
    clients: int
    active: int
    think_s: float
    seconds: float
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How long it took, and what it has seen."""

    seconds: float
    latencies_ms: list[float]
    errors: list[str]


def main() -> int:
    """Measure and report; exit code 1 after any error."""
    options, json_path = parse_arguments()
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        with noctule_cluster(folder, 3) as cluster:
            report = measure(cluster, options, machine)
    show(report)
    if json_path is not None:
        write_json(json_path, report)
    return 1 if report.errors else 0


def parse_arguments() -> tuple[Options, Path | None]:
    """The command line."""
    parser = argparse.ArgumentParser(description="Many clients, some of them active.")
    parser.add_argument("--clients", type=positive_count, default=10_000, help="connected (default 10000)")
    parser.add_argument("--active", type=positive_count, default=1_000, help="of them (default 1000)")
    parser.add_argument(
        "--think-ms", type=float, default=100.0, help="from an answer to that client's next request (default 100)"
    )
    parser.add_argument("--seconds", type=positive_seconds, default=20.0, help="of activity (default 20)")
    parser.add_argument("--processes", type=positive_count, default=2, help="that hold the clients (default 2)")
    add_json_option(parser)
    found = parser.parse_args()
    if not 0 <= found.think_ms <= 60_000:
        parser.error(f"--think-ms {found.think_ms:g} is not a number of milliseconds from 0 to 60000")
    if not found.processes <= found.active <= found.clients:
        parser.error("there must be an active client for each process, and no more active ones than clients")
    return Options(found.clients, found.active, found.think_ms, found.seconds, found.processes), found.json


def measure(cluster: NoctuleCluster, options: Options, machine: Machine) -> Report:
    """Open all, let them rest, have some of them work."""
    fill(cluster)
    time.sleep(SETTLE_S)
    before = resident_bytes(cluster)
    ports = tuple(node.resp_port for node in cluster.nodes)
    with ExitStack() as stack:
        crowds = [stack.enter_context(crowd(share)) for share in shares(ports, options)]
        connected_s = max(answer_of(pipe, ANSWER_S_MAX).seconds for pipe in crowds)
        output.say(f"{options.clients} clients connected in {connected_s:.1f} s")
        time.sleep(SETTLE_S)
        idle = resident_bytes(cluster)
        for pipe in crowds:
            pipe.send("begin")
        outcomes = [answer_of(pipe, options.seconds + ANSWER_S_MAX) for pipe in crowds]
        active = resident_bytes(cluster)
        load = load_average()
    latencies_ms = [latency for outcome in outcomes for latency in outcome.latencies_ms]
    return Report(
        machine=machine,
        options=options,
        connects_per_s=round(options.clients / connected_s, 1),
        idle_bytes=round((idle - before) / options.clients),
        active_bytes=round((active - before) / options.clients),
        requests_per_s=round(len(latencies_ms) / max(outcome.seconds for outcome in outcomes), 1),
        latency=distribution(latencies_ms),
        errors=[error for outcome in outcomes for error in outcome.errors],
        load_average=load,
    )


def fill(cluster: NoctuleCluster) -> None:
    """Write every key, so that each GET finds a value and the nodes have done all they do for the first time."""
    with redis.Redis(HOST, cluster.nodes[0].resp_port) as client:
        for start in range(0, KEYS, FILL_COMMANDS):
            client.mset({key_of(number): VALUE for number in range(start, start + FILL_COMMANDS)})


def resident_bytes(cluster: NoctuleCluster) -> int:
    """Of all nodes."""
    stats = [read_process_stats(Path(f"/proc/{node.pid}")) for node in cluster.nodes]
    return sum(each.resident_bytes for each in stats if each is not None)


def shares(ports: tuple[int, ...], options: Options) -> Iterator[Share]:
    """As even as they can be."""
    for number in range(options.processes):
        clients, active = (
            total // options.processes + (number < total % options.processes)
            for total in (options.clients, options.active)
        )
        yield Share(ports, clients, active, options.think_ms / 1000, options.seconds, seed=number)


@contextmanager
def crowd(share: Share) -> Iterator[Connection]:
    """A process with clients: it sends an `Outcome` once all are connected, and one after it was told to begin."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=run_crowd, args=(theirs, share), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.kill()
        process.join()


def answer_of(pipe: Connection, timeout_s: float) -> Outcome:
    """What a crowd sends next; `UnavailableError` when it sends nothing, or ended."""
    try:
        if pipe.poll(timeout_s):
            return pipe.recv()  # type: ignore[no-any-return]
    except EOFError:
        raise UnavailableError("a process with clients has ended; its last words stand above") from None
    raise UnavailableError(f"a process with clients said nothing for {timeout_s:g} s")


def run_crowd(pipe: Connection, share: Share) -> None:
    """The whole life of such a process."""
    if raise_open_files_max() < share.clients + FILES_RESERVED:
        raise ConfigError(f"a process may not open {share.clients} connections here; ask for more --processes")
    uvloop.run(_crowd(pipe, share))


async def _crowd(pipe: Connection, share: Share) -> None:
    tally = Tally()
    begun = time.monotonic()
    clients = [client async for client in _connected(share, tally)]
    # Connected by the kernel is not served by the node: each is answered once.
    for client in clients:
        client.begin(lambda: (1, encode(b"PING")))
    await stop_all(clients, tally)
    tally.latencies_ms.clear()
    pipe.send(Outcome(time.monotonic() - begun, [], []))
    pipe.recv()  # Nobody has anything to do until then.
    chance = random.Random(share.seed)

    def next_request() -> tuple[int, bytes]:
        request = set_request if chance.random() < 0.5 else get_request
        return 1, request(chance.randrange(KEYS))

    # Spread over all that were opened, and so over all nodes.
    active = clients[:: max(1, share.clients // share.active)][: share.active]
    begun = time.monotonic()
    loop = asyncio.get_running_loop()
    for client in active:
        # Not all in the same instant: they are strangers to each other.
        begin = partial(client.begin, next_request, pause_s=share.think_s)
        loop.call_later(chance.random() * share.think_s, begin)
    await asyncio.sleep(share.seconds)
    await stop_all(active, tally)
    pipe.send(Outcome(time.monotonic() - begun, tally.latencies_ms, tally.errors))
    for client in clients:
        client.close()


async def _connected(share: Share, tally: Tally) -> AsyncIterator[LoadClient]:
    waiting = iter([share.ports[number % len(share.ports)] for number in range(share.clients)])
    while ports := list(islice(waiting, OPENING_MAX)):
        for client in await asyncio.gather(*(connect(HOST, port, tally) for port in ports)):
            yield client


def show(report: Report) -> None:
    """The numbers, and under them what they were measured on."""
    options = report.options
    output.print_table(
        f"{options.clients} clients on three nodes, {options.active} of them active",
        ("connects/s", "bytes/idle client", "bytes/client", "requests/s", "p50 ms", "p99 ms", "max ms", "errors"),
        [
            (
                f"{report.connects_per_s:,.0f}",
                f"{report.idle_bytes:,}",
                f"{report.active_bytes:,}",
                f"{report.requests_per_s:,.0f}",
                *report.latency.cells(),
                len(report.errors),
            )
        ],
    )
    print(f"{options.seconds:g} s, half SET and half GET, {options.think_ms:g} ms from an answer to the next request")
    for error in report.errors[:ERRORS_SHOWN]:
        print(f"error: {error}")
    print(describe(report.machine))


if __name__ == "__main__":
    run_script(main)
