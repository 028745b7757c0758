"""How long a client's writes wait when the leader of their partition is killed, and whether any of them is lost.

Starts a cluster, kills a leader with SIGKILL in each round while a client writes, and at the end looks for every write
that was acknowledged. The method stands in README.md beside this file. Exit code 1: a write was lost, or applied twice.
"""

import argparse
import itertools
import os
import signal
import time
from pathlib import Path

import msgspec
import redis
from ledger import LOSSES_SHOWN_MAX, Ledger, find_losses
from machine import Distribution, Machine, TimerLateness, describe, distribution, look_at_machine
from script import add_json_option, positive_count, run_script, write_json
from subjects import NoctuleCluster, bench_folder, led_partitions, noctule_cluster, wait_until
from writer import Writer

from noctule.base.ids import GroupId
from noctule.cli import output
from noctule.core.placement.slots import key_slot, partition_table

NODES = 3
WRITES_BEFORE_KILL = 100
WARM_UP_S_MAX = 30.0
FAILOVER_S_MAX = 60.0


class Round(msgspec.Struct, frozen=True):
    """One kill."""

    partition: int
    killed_node: int
    failover_ms: float
    """From the kill to the first acknowledgement of a write that was sent after it."""
    recovered_after_s: float
    """From the kill until all nodes were there and agreed on a leader of each group."""
    writes_acknowledged: int
    writes_failed: int
    """In the whole round, the return of the node included."""


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    nodes: int
    kills: int
    failover: Distribution
    timer_lateness: Distribution
    """Of this machine, over the whole run."""
    writes_acknowledged: int
    writes_failed: int
    losses: list[str]
    """Acknowledged writes that are gone or were applied twice, a sentence each; empty when all is as promised."""
    rounds: list[Round]


def main() -> int:
    """Measure, verify and report."""
    parser = argparse.ArgumentParser(description="Kill leaders under a writing client and time its way on.")
    parser.add_argument("--kills", type=positive_count, default=200, help="one in each round (default 200)")
    add_json_option(parser)
    options = parser.parse_args()
    kills: int = options.kills
    json_path: Path | None = options.json
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        with noctule_cluster(folder, NODES) as cluster:
            with TimerLateness() as timers:
                ledgers, rounds = run_rounds(cluster, kills)
            losses = verify(cluster, ledgers)
    report = Report(
        machine=machine,
        nodes=NODES,
        kills=kills,
        failover=distribution([measured.failover_ms for measured in rounds]),
        timer_lateness=distribution(timers.late_ms),
        writes_acknowledged=sum(ledger.writes_acknowledged for ledger in ledgers),
        writes_failed=sum(ledger.writes_failed for ledger in ledgers),
        losses=losses,
        rounds=rounds,
    )
    show(report)
    if json_path is not None:
        write_json(json_path, report)
    return output.FAILED if losses else 0


def run_rounds(cluster: NoctuleCluster, kills: int) -> tuple[list[Ledger], list[Round]]:
    """One kill after the other, of the process that has run for longest among those that lead."""
    partitions = cluster.partitions()
    ledgers = {partition: Ledger(tag_of(partition, len(partitions))) for partition in partitions}
    rounds: list[Round] = []
    for number in range(1, kills + 1):
        measured = run_round(cluster, ledgers)
        rounds.append(measured)
        output.say(
            f"kill {number} of {kills}: node {measured.killed_node}, leader of partition {measured.partition}; "
            f"writes went on after {measured.failover_ms:.0f} ms, {measured.writes_failed} failed; "
            f"all back after {measured.recovered_after_s:.1f} s"
        )
    return list(ledgers.values()), rounds


def run_round(cluster: NoctuleCluster, ledgers: dict[GroupId, Ledger]) -> Round:
    """Kill a leader while a partition of its is written to, and wait until no node and no entry is missing.

    The writer is connected to the node after the leader, so its own connection outlives the kill. Of the leader's
    partitions it takes the one that was written to least.
    """
    leader, picture = cluster.wait_victim()
    survivor = cluster.nodes[leader.id % len(cluster.nodes)]
    partition = min(led_partitions(picture), key=lambda led: ledgers[led].writes_acknowledged)
    ledger = ledgers[partition]
    acknowledged, failed = ledger.writes_acknowledged, ledger.writes_failed
    with Writer(survivor.host, survivor.resp_port, ledger) as writer:
        wait_until(
            lambda: "" if len(writer.acknowledged) >= WRITES_BEFORE_KILL else "too few writes are acknowledged",
            f"{WRITES_BEFORE_KILL} writes to partition {partition}",
            WARM_UP_S_MAX,
        )
        killed_at = time.monotonic()
        os.kill(picture.pid, signal.SIGKILL)
        dead_at = time.monotonic()
        wait_until(
            lambda: "" if writer.first_sent_after(dead_at) else "none that was sent after the kill is acknowledged",
            f"a write to partition {partition}",
            FAILOVER_S_MAX,
        )
        first = writer.first_sent_after(dead_at)
        assert first is not None
        cluster.wait_recovered()
        recovered_at = time.monotonic()
    cluster.wait_caught_up()
    return Round(
        partition=partition,
        killed_node=leader.id,
        failover_ms=round((first.answered_at - killed_at) * 1000, 3),
        recovered_after_s=round(recovered_at - killed_at, 3),
        writes_acknowledged=ledger.writes_acknowledged - acknowledged,
        writes_failed=ledger.writes_failed - failed,
    )


def tag_of(partition: GroupId, partition_count: int) -> str:
    """A hash tag whose keys are in this partition."""
    table = partition_table(partition_count)
    return next(tag for tag in map(str, itertools.count()) if table[key_slot(tag.encode())] == partition)


def verify(cluster: NoctuleCluster, ledgers: list[Ledger]) -> list[str]:
    """Read everything back, linearizably, and name what is not as it was acknowledged."""
    node = cluster.nodes[0]
    with redis.Redis(node.host, node.resp_port) as client:
        return [loss for ledger in ledgers for loss in find_losses(client, ledger)]


def show(report: Report) -> None:
    """The table, what the client saw, and what was lost."""
    output.print_table(
        f"{report.kills} leaders of {report.nodes} nodes killed with SIGKILL",
        ("", "p50 ms", "p99 ms", "max ms"),
        [
            ("kill to the next acknowledged write", *report.failover.cells()),
            ("lateness of a 10 ms timer meanwhile", *report.timer_lateness.cells()),
        ],
    )
    print(f"writes: {report.writes_acknowledged} acknowledged, {report.writes_failed} failed")
    print(f"acknowledged writes lost or applied twice: {len(report.losses)}")
    for loss in report.losses[:LOSSES_SHOWN_MAX]:
        print(f"  {loss}")
    print(describe(report.machine))


if __name__ == "__main__":
    run_script(main)
