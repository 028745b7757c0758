"""What an operation costs as nodes are added, and what a node costs that has nothing to do.

The same load goes to clusters of more and more nodes, all on this machine, so seconds of processor are counted and not
operations in a second. Then a large cluster is formed and left alone. The method stands in README.md.
"""

import argparse
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

import msgspec
from machine import Machine, describe, look_at_machine
from nodes import NodeProcess, cpu_s_of, load_average, node_processes, start_all
from script import add_json_option, positive_count, positive_seconds, run_script, write_json
from subjects import HOST, bench_folder, program

from noctule.base.errors import UnavailableError
from noctule.cli import output

CLIENTS = 48
"""Shared evenly by all nodes: the same number whatever their number, if that divides it."""
CLIENTS_PER_NODE = 16
"""For the other question: what an operation costs when the load grows with the cluster."""
PIPELINE = 8
VALUE_BYTES = 100
COMMANDS = ("SET", "GET")
PLAIN = "plain"
CLUSTER = "cluster"
FACES = (PLAIN, CLUSTER)
"""Clients that ask any node, which passes most commands on; and clients that ask the one that leads the key's slot."""


class Cost(msgspec.Struct, frozen=True):
    """Of one number of nodes under one load."""

    nodes: int
    face: str
    clients: int
    """Of all nodes together."""
    operations: int
    cpu_us: dict[str, float]
    """By command: microseconds of processor for one, all nodes together."""
    load_average: float


class Idle(msgspec.Struct, frozen=True):
    """A cluster that is left alone."""

    nodes: int
    formed_s: float
    memory_bytes: float
    """Of one node, the median."""
    cpu_percent: float
    """Of one core, for one node, on average."""
    frames_per_s: float
    """That one node sends with something in them, on average; heartbeats between nodes come on top."""
    load_average: float


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    costs: list[Cost]
    idle: Idle


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Measure what an operation, and an idle node, costs.")
    parser.add_argument("--sizes", type=positive_count, nargs="+", default=[3, 6, 9], metavar="N")
    parser.add_argument("--operations", type=positive_count, default=200_000, help="of each kind (default 200,000)")
    parser.add_argument("--nodes", type=positive_count, default=30, help="in the idle cluster (default 30)")
    parser.add_argument("--idle-s", type=positive_seconds, default=20.0, help="how long to watch it idle (default 20)")
    parser.add_argument("--rest-s", type=positive_seconds, default=5.0, help="after a start, for leaders to settle")
    add_json_option(parser)
    options = parser.parse_args()
    json_path: Path | None = options.json
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        costs = [cost for size in options.sizes for cost in measure(folder, size, options.operations, options.rest_s)]
        idle = measure_idle(folder, options.nodes, options.rest_s, options.idle_s)
    report = Report(machine, costs, idle)
    show(report)
    if json_path is not None:
        write_json(json_path, report)
    return 0


def measure(folder: Path, size: int, operations: int, rest_s: float) -> list[Cost]:
    """Both loads on a cluster of that size, after a short one to warm up."""
    with node_processes(folder / f"of-{size}", size) as nodes:
        start_all(nodes)
        time.sleep(rest_s)
        run_load(nodes, PLAIN, "SET", CLIENTS, max(operations // 10, CLIENTS))
        return [
            measure_load(nodes, face, clients, operations)
            for face, clients in product(FACES, sorted({CLIENTS, CLIENTS_PER_NODE * size}))
        ]


def measure_load(nodes: Sequence[NodeProcess], face: str, clients: int, operations: int) -> Cost:
    """One load on a running cluster."""
    cpu_us: dict[str, float] = {}
    for command in COMMANDS:
        cpu_s = cpu_s_of(nodes, partial(run_load, nodes, face, command, clients, operations))
        cpu_us[command] = round(cpu_s / operations * 1_000_000, 3)
    told = ", ".join(f"{command} {cost:.1f} us" for command, cost in cpu_us.items())
    output.say(f"{len(nodes)} nodes, {face} face, {clients} clients: {told}")
    return Cost(len(nodes), face, clients, operations, cpu_us, load_average())


def run_load(nodes: Sequence[NodeProcess], face: str, command: str, clients: int, operations: int) -> None:
    """One redis-benchmark for each node, all at once, or one that knows where each slot is led; raises
    `UnavailableError` when one of them fails."""
    doors = [["-p", str(node.resp_port)] for node in nodes]
    if face == CLUSTER:
        doors = [["--cluster", "-p", str(nodes[0].resp_cluster_port)]]
    share = max(clients // len(doors), 1)
    each = str(max(operations // len(doors), share))
    words = [program("redis-benchmark"), "-h", HOST, "-t", command.lower(), "-n", each, "-c", str(share)]
    words += ["-P", str(PIPELINE), "-d", str(VALUE_BYTES), "-r", "100000", "-q"]
    running = [
        subprocess.Popen([*words, *door], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for door in doors
    ]
    codes = [process.wait() for process in running]
    if any(codes):
        raise UnavailableError(f"redis-benchmark ended with {codes}")


def measure_idle(folder: Path, size: int, rest_s: float, idle_s: float) -> Idle:
    """A cluster of that size that is left alone."""
    with node_processes(folder / "idle", size) as nodes:
        formed_s = start_all(nodes)
        output.say(f"{size} nodes formed a cluster after {formed_s:.1f} s")
        time.sleep(rest_s)
        before = sum(frames_of(node) for node in nodes)
        cpu_s = cpu_s_of(nodes, lambda: time.sleep(idle_s))
        frames = sum(frames_of(node) for node in nodes) - before
        memory = sorted(node.stats().resident_bytes for node in nodes)[size // 2]
    return Idle(
        nodes=size,
        formed_s=round(formed_s, 3),
        memory_bytes=memory,
        cpu_percent=round(100 * cpu_s / idle_s / size, 3),
        frames_per_s=round(frames / idle_s / size, 1),
        load_average=load_average(),
    )


def frames_of(node: NodeProcess) -> int:
    """Frames that it has sent."""
    return node.picture().counters["noctule_peer_frames_total"]


def show(report: Report) -> None:
    """Both tables."""
    firsts = {cost.face: cost for cost in reversed(report.costs) if cost.nodes == report.costs[0].nodes}
    rows = [
        (
            str(cost.nodes),
            cost.face,
            str(cost.clients),
            *(f"{cost.cpu_us[command]:.1f}" for command in COMMANDS),
            *(f"{cost.cpu_us[command] / firsts[cost.face].cpu_us[command] - 1:+.0%}" for command in COMMANDS),
            f"{cost.load_average:g}",
        )
        for cost in report.costs
    ]
    fewest = report.costs[0].nodes
    columns = ("nodes", "face", "clients", "SET CPU us", "GET CPU us", f"SET to {fewest}", f"GET to {fewest}", "load")
    output.print_table("Processor time of one operation, all nodes together", columns, rows)
    idle = report.idle
    cells = (f"{idle.formed_s:.1f}", f"{idle.memory_bytes / 1e6:.0f}", f"{idle.cpu_percent:.2f}")
    idle_row = (str(idle.nodes), *cells, f"{idle.frames_per_s:.1f}", f"{idle.load_average:g}")
    idle_columns = ("nodes", "formed s", "MB/node", "CPU %/node", "frames/s/node", "load")
    output.print_table("A cluster that has nothing to do", idle_columns, [idle_row])
    print(describe(report.machine))


if __name__ == "__main__":
    run_script(main)
