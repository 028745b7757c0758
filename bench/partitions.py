"""What partitions cost: how soon all of them are led, what an idle one takes, how soon they serve after a kill.

Three nodes are three processes. For each number of partitions they are formed anew, watched while nothing happens,
lose a node to SIGKILL, get it back, and are all killed and started again. The method stands in README.md.
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import redis
from machine import Machine, describe, look_at_machine
from nodes import NodeProcess, cpu_s_of, load_average, node_processes, start_all, wait_ready
from script import add_json_option, positive_count, positive_seconds, run_script, write_json
from subjects import HOST, bench_folder, led_partitions

from noctule.base.errors import UnavailableError
from noctule.cli import output
from noctule.client.pictures import Cluster
from noctule.core.placement.slots import SLOT_COUNT, key_slot

NODES = 3
WRITES_S_MAX = 60.0
"""A write that is not acknowledged by then fails the bench."""
ANSWER_S_MAX = 15.0


class Measured(msgspec.Struct, frozen=True):
    """One number of partitions."""

    partitions: int
    formed_s: float
    """From the start of the processes until all nodes were ready for the first time."""
    restarted_s: float
    """The same after all were killed, with a key in every partition."""
    memory_bytes: float
    """Resident in a node while nothing happens, the median of the three."""
    bytes_per_replica: float
    """Of that, what is beyond a node with a single partition, for each replica."""
    idle_cpu_percent: float
    """Of one core, all three nodes together."""
    killed_led: int
    """Groups that the killed node led."""
    served_s: float
    """From the kill until a write to each of those was acknowledged."""
    returned_s: float
    """From the start of the killed node until it was ready."""
    load_average: float


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    idle_s: float
    rows: list[Measured]


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Measure what many partitions cost three nodes.")
    parser.add_argument("--partitions", type=positive_count, nargs="+", default=[16, 1_000, 10_000], metavar="N")
    parser.add_argument("--idle-s", type=positive_seconds, default=20.0, help="how long to watch it idle (default 20)")
    parser.add_argument("--rest-s", type=positive_seconds, default=5.0, help="after a start, for leaders to settle")
    add_json_option(parser)
    options = parser.parse_args()
    json_path: Path | None = options.json
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        empty_bytes = measure_empty(folder, options.rest_s)
        times_s = (options.rest_s, options.idle_s)
        rows = [measure(folder, count, *times_s, empty_bytes) for count in options.partitions]
    report = Report(machine, options.idle_s, rows)
    show(report)
    if json_path is not None:
        write_json(json_path, report)
    return 0


def measure_empty(folder: Path, rest_s: float) -> float:
    """The memory of a node with one partition."""
    with node_processes(folder / "empty", NODES, ["--partitions", "1"]) as nodes:
        start_all(nodes)
        time.sleep(rest_s)
        return memory_of(nodes)


def measure(folder: Path, count: int, rest_s: float, idle_s: float, empty_bytes: float) -> Measured:
    """One number of partitions, from the first start to the last."""
    with node_processes(folder / f"with-{count}", NODES, ["--partitions", str(count)]) as nodes:
        formed_s = start_all(nodes)
        output.say(f"{count} partitions: formed after {formed_s:.2f} s")
        time.sleep(rest_s)
        idle_cpu_s = cpu_s_of(nodes, lambda: time.sleep(idle_s))
        memory_bytes = memory_of(nodes)
        output.say(f"idle: {idle_cpu_s / idle_s:.1%} of a core, {memory_bytes / 1e6:.0f} MB in a node")
        killed_led, served_s = kill_one(nodes)
        output.say(f"{killed_led} groups lost their leader and served again after {served_s:.2f} s")
        begun = time.monotonic()
        nodes[-1].start()
        returned_s = wait_ready(nodes, since=begun)
        write_to(nodes[0], keys_of(nodes[0].picture()).values())
        for node in nodes:
            node.kill()
        restarted_s = start_all(nodes)
        output.say(f"the killed node was back after {returned_s:.2f} s, all of them after {restarted_s:.2f} s")
    return Measured(
        partitions=count,
        formed_s=round(formed_s, 3),
        restarted_s=round(restarted_s, 3),
        memory_bytes=memory_bytes,
        bytes_per_replica=round((memory_bytes - empty_bytes) / count, 1),
        idle_cpu_percent=round(100 * idle_cpu_s / idle_s, 2),
        killed_led=killed_led,
        served_s=round(served_s, 3),
        returned_s=round(returned_s, 3),
        load_average=load_average(),
    )


def memory_of(nodes: list[NodeProcess]) -> float:
    """The median of what the nodes take, in bytes."""
    return sorted(node.stats().resident_bytes for node in nodes)[len(nodes) // 2]


def kill_one(nodes: list[NodeProcess]) -> tuple[int, float]:
    """Kill the last node; how many groups it led, and after how many seconds a write to each was acknowledged."""
    *survivors, victim = nodes
    picture = victim.picture()
    led = set(led_partitions(picture))
    keys = [key for group, key in keys_of(picture).items() if group in led]
    victim.kill()
    begun = time.monotonic()
    write_to(survivors[0], keys)
    return len(keys), time.monotonic() - begun


def keys_of(picture: Cluster) -> dict[int, str]:
    """By partition, a key in its first slot."""
    by_slot: dict[int, str] = {}
    number = 0
    while len(by_slot) < SLOT_COUNT:
        by_slot.setdefault(key_slot(b"key:%d" % number), f"key:{number}")
        number += 1
    return {group.id: by_slot[group.first_slot] for group in picture.groups if group.first_slot >= 0}


def write_to(node: NodeProcess, keys: Iterable[str]) -> None:
    """Set each key, all in one pipeline and again what was refused, until all are acknowledged."""
    left, end = list(keys), time.monotonic() + WRITES_S_MAX
    with redis.Redis(HOST, node.resp_port, socket_timeout=ANSWER_S_MAX) as client:
        while left:
            pipeline = client.pipeline(transaction=False)
            for key in left:
                pipeline.set(key, "value")
            answers = pipeline.execute(raise_on_error=False)
            left = [key for key, answer in zip(left, answers, strict=True) if answer is not True]
            if left and time.monotonic() > end:
                raise UnavailableError(f"{len(left)} writes were not acknowledged within {WRITES_S_MAX:g} s")


def show(report: Report) -> None:
    """The table, and what it was measured on."""
    rows = [
        (
            f"{row.partitions:,}",
            f"{row.formed_s:.2f}",
            f"{row.restarted_s:.2f}",
            f"{row.bytes_per_replica / 1e3:.1f}",
            f"{row.idle_cpu_percent:.1f}",
            f"{row.killed_led:,}",
            f"{row.served_s:.2f}",
            f"{row.returned_s:.2f}",
            f"{row.load_average:g}",
        )
        for row in report.rows
    ]
    columns = (
        "partitions",
        "formed s",
        "restarted s",
        "KB/replica",
        "idle CPU %",
        "lost",
        "served s",
        "back s",
        "load",
    )
    output.print_table(f"Partitions on {NODES} nodes, three replicas each", columns, rows)
    print(describe(report.machine))


if __name__ == "__main__":
    run_script(main)
