"""How long elections take in a running cluster: from the first pre-vote until a majority knows the new leader.

Kills a node with SIGKILL in each round; every group that it led then elects another leader. Times are those that the
nodes write into their own logs, all by this machine's clock. The method stands in README.md beside this file.
"""

import argparse
import os
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from machine import Distribution, Machine, TimerLateness, describe, distribution, look_at_machine
from script import add_json_option, positive_count, run_script, write_json
from subjects import NoctuleCluster, bench_folder, led_groups, noctule_cluster

from noctule.base.errors import UnavailableError
from noctule.cli import output
from noctule.core.raft.quorum import majority

NODES = 3


class RoleChange(msgspec.Struct, frozen=True):
    """One event ``role_changed`` of a node's log."""

    time: datetime
    group: int
    role: str
    term: int
    leader: int
    node: int = 0
    """Whose log it stood in."""


class Election(msgspec.Struct, frozen=True):
    """How one group got another leader."""

    group: int
    killed_node: int
    leader: int
    terms: int
    """That it took; more than one when votes were split."""
    noticed_ms: float
    """From the kill to the first pre-vote."""
    elected_ms: float
    """From the first pre-vote until a majority knew the leader."""


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    nodes: int
    kills: int
    noticed: Distribution
    elected: Distribution
    timer_lateness: Distribution
    """Of this machine, over the whole run."""
    elections: list[Election]


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Kill leaders and time the elections that follow.")
    parser.add_argument("--elections", type=positive_count, default=100, help="at least so many (default 100)")
    add_json_option(parser)
    options = parser.parse_args()
    wanted: int = options.elections
    json_path: Path | None = options.json
    elections: list[Election] = []
    kills = 0
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        # Only at this level do nodes tell of pre-votes.
        with noctule_cluster(folder, NODES, log_level="debug") as cluster, TimerLateness() as timers:
            while len(elections) < wanted:
                found = run_round(cluster)
                kills += 1
                elections += found
                slowest_ms = max(election.elected_ms for election in found)
                output.say(
                    f"kill {kills}: node {found[0].killed_node}, {len(found)} elections, the slowest in "
                    f"{slowest_ms:.1f} ms; {len(elections)} of {wanted}"
                )
    report = Report(
        machine=machine,
        nodes=NODES,
        kills=kills,
        noticed=distribution([election.noticed_ms for election in elections]),
        elected=distribution([election.elected_ms for election in elections]),
        timer_lateness=distribution(timers.late_ms),
        elections=elections,
    )
    show(report)
    if json_path is not None:
        write_json(json_path, report)
    return 0


def run_round(cluster: NoctuleCluster) -> list[Election]:
    """Kill a node that leads, wait until it is back, and read what its groups did meanwhile.

    Raises `UnavailableError` when none of them held an election.
    """
    victim, picture = cluster.wait_victim()
    groups = led_groups(picture)
    killed_at = datetime.now(UTC)
    os.kill(picture.pid, signal.SIGKILL)
    cluster.wait_recovered()
    cluster.wait_caught_up()
    changes = [change for node in cluster.nodes for change in role_changes(cluster.log_of(node), node.id, killed_at)]
    found = [
        election_of([change for change in changes if change.group == group], victim.id, killed_at) for group in groups
    ]
    elections = [election for election in found if election is not None]
    if not elections:
        raise UnavailableError(f"node {victim.id} was killed, and none of the groups that it led held an election")
    return elections


def role_changes(path: Path, node: int, since: datetime) -> Iterator[RoleChange]:
    """The changes of role in a log from an instant on, in order."""
    for line in path.read_bytes().splitlines():
        if b'"event":"role_changed"' in line:
            change = msgspec.json.decode(line, type=RoleChange)
            if change.time >= since:
                yield msgspec.structs.replace(change, node=node)


def election_of(changes: Sequence[RoleChange], killed_node: int, killed_at: datetime) -> Election | None:
    """The first election among one group's changes of role; None when it got its leader without a pre-vote.

    It does when the killed node had just handed it over. Raises `UnavailableError` when the leader stayed unknown to a
    majority, though the cluster has recovered.
    """
    in_order = sorted(changes, key=lambda change: change.time)
    first = next((change for change in in_order if change.role == "pre-candidate"), None)
    won = next((change for change in in_order if change.role == "leader"), None)
    if first is None or won is None or won.time < first.time:
        return None
    known_at: dict[int, datetime] = {}
    for change in in_order:
        if change.leader == won.node and change.term == won.term:
            known_at.setdefault(change.node, change.time)
    needed = majority(NODES)
    if len(known_at) < needed:
        raise UnavailableError(f"a majority did not learn that node {won.node} leads group {won.group}")
    known_by_majority_at = sorted(known_at.values())[needed - 1]
    return Election(
        group=won.group,
        killed_node=killed_node,
        leader=won.node,
        terms=won.term - first.term,
        noticed_ms=milliseconds(killed_at, first.time),
        elected_ms=milliseconds(first.time, known_by_majority_at),
    )


def milliseconds(begin: datetime, end: datetime) -> float:
    """Between two instants."""
    return round((end - begin).total_seconds() * 1000, 3)


def show(report: Report) -> None:
    """The table, and under it what the numbers were measured on."""
    output.print_table(
        f"{len(report.elections)} elections after {report.kills} kills in a cluster of {report.nodes} nodes",
        ("", "p50 ms", "p99 ms", "max ms"),
        [
            ("first pre-vote to leader known by a majority", *report.elected.cells()),
            ("kill to first pre-vote", *report.noticed.cells()),
            ("lateness of a 10 ms timer meanwhile", *report.timer_lateness.cells()),
        ],
    )
    print(f"elections that took more than one term: {sum(election.terms > 1 for election in report.elections)}")
    print(describe(report.machine))


if __name__ == "__main__":
    run_script(main)
