"""How long a partition takes to move, to be divided and to be joined with its neighbour, and what its clients notice.

Three nodes hold one partition; a fourth one joins, and a replica moves to it while clients write. Then the partition is
split. Two small ones of another cluster are merged. Every write is in a ledger. The method stands in README.md.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import redis
from ledger import LOSSES_SHOWN_MAX, Ledger, find_losses
from machine import Distribution, Machine, describe, distribution, look_at_machine
from nodes import NodeProcess, joining_node, load_average, node_processes, start_all, wait_ready
from script import add_json_option, positive_count, run_script, write_json
from subjects import HOST, bench_folder, wait_until
from writer import Writer

from noctule.base.errors import UnavailableError
from noctule.cli import output

NODES = 3
WRITERS = 4
VALUE_BYTES = (100, 1_024)
"""Of the partition that moves; drawn evenly between the two."""
SPLIT_VALUE_BYTES = 100
EXPIRING = 0.3
"""The part of the keys that has a deadline."""
MERGED_KEYS = 10_000
PIPELINE = 500
POLL_S = 0.01
BEFORE_S = 1.0
"""Of load before anything is begun, for comparison."""
MOVED_S_MAX = 120.0


class Noticed(msgspec.Struct, frozen=True):
    """What the clients noticed of one thing that was done."""

    seconds: float
    """From the request until it was done."""
    before: Distribution
    """Of a write, from sending to its answer, in the second before."""
    during: Distribution
    """Of the writes that were on their way at any moment of it."""
    update: Distribution | None
    """Of a migration: those that were on their way in the stage UPDATE."""
    writes: int
    """In the whole time, before included."""
    failed: int
    stages_s: dict[str, float]
    """Of a migration or merge: how long each stage was seen."""


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    megabytes: int
    split_keys: int
    moved: Noticed
    split: Noticed
    merged: Noticed
    losses: list[str]
    """Acknowledged writes that are gone or were applied twice."""
    load_average: float


class Load:
    """Clients that write, and what they were answered."""

    def __init__(self, nodes: Sequence[NodeProcess], tag: str) -> None:
        self.ledgers = [Ledger(f"{tag}{number}") for number in range(WRITERS)]
        self._writers = [
            Writer(HOST, nodes[number % len(nodes)].resp_port, ledger) for number, ledger in enumerate(self.ledgers)
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the block runs they write; all of their writes are answered at its end."""
        with ExitStack() as stack:
            for writer in self._writers:
                stack.enter_context(writer)
            time.sleep(BEFORE_S)
            yield

    def between(self, begin: float, end: float) -> Distribution:
        """Of the writes that were on their way at any moment of that span."""
        times = [
            (write.answered_at - write.sent_at) * 1000
            for writer in self._writers
            for write in list(writer.acknowledged)
            if write.answered_at >= begin and write.sent_at <= end
        ]
        return distribution(times or [0.0])

    def noticed(self, begun: float, ended: float, stages: list[tuple[str, float]]) -> Noticed:
        """Once it does not run any more: the summary. `stages` are those seen, and when each was first."""
        spans = {stage: (at, end) for (stage, at), (_, end) in pairwise([*stages, ("", ended)])}
        return Noticed(
            seconds=round(ended - begun, 3),
            before=self.between(begun - BEFORE_S / 2, begun),
            during=self.between(begun, ended),
            update=self.between(*spans["update"]) if "update" in spans else None,
            writes=sum(ledger.writes_acknowledged for ledger in self.ledgers),
            failed=sum(ledger.writes_failed for ledger in self.ledgers),
            stages_s={stage: round(end - at, 3) for stage, (at, end) in spans.items()},
        )


def main() -> int:
    """Measure, verify and report."""
    parser = argparse.ArgumentParser(description="Move, split and merge partitions under load.")
    parser.add_argument("--megabytes", type=positive_count, default=100, help="of the partition that moves")
    parser.add_argument("--split-keys", type=positive_count, default=1_000_000, help="in the partition that is split")
    add_json_option(parser)
    options = parser.parse_args()
    json_path: Path | None = options.json
    losses: list[str] = []
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        moved = measure_move(folder / "move", options.megabytes, losses)
        split = measure_split(folder / "split", options.split_keys, losses)
        merged = measure_merge(folder / "merge", losses)
    arguments = (options.megabytes, options.split_keys, moved, split, merged, losses, load_average())
    report = Report(machine, *arguments)
    show(report)
    if json_path is not None:
        write_json(json_path, report)
    return output.FAILED if losses else 0


def measure_move(folder: Path, megabytes: int, losses: list[str]) -> Noticed:
    """A partition goes from node 1, or from whom leads it, to a node that has just joined."""
    with node_processes(folder, NODES, ["--partitions", "1"]) as nodes:
        start_all(nodes)
        nodes[0].ask("PATCH", "/api/settings", b'{"rebalance_enabled": false}')
        average = sum(VALUE_BYTES) // 2
        fill(nodes[0], megabytes * 1_000_000 // average, VALUE_BYTES)
        with joining_node(folder, NODES + 1, nodes[0]) as newcomer:
            begun = time.monotonic()
            newcomer.start()
            wait_ready([newcomer], since=begun)
            load = Load(nodes, "moved")
            with load.running():
                source = leader_of(nodes[0], 1)
                wish = msgspec.json.encode({"source": source, "target": newcomer.id})
                begun = time.monotonic()
                number = nodes[0].ask("POST", "/api/partitions/1/migrate", wish)["id"]
                stages = watch(lambda: nodes[0].ask("GET", f"/api/migrations/{number}"))
                ended = time.monotonic()
            losses += verify(nodes[0], load)
            return load.noticed(begun, ended, stages)


def measure_split(folder: Path, keys: int, losses: list[str]) -> Noticed:
    """One partition with so many keys becomes two."""
    with node_processes(folder, NODES, ["--partitions", "1"]) as nodes:
        start_all(nodes)
        fill(nodes[0], keys, (SPLIT_VALUE_BYTES, SPLIT_VALUE_BYTES))
        load = Load(nodes, "split")
        with load.running():
            begun = time.monotonic()
            nodes[0].ask("POST", "/api/partitions/1/split", b'{"at_slot": 8192}')
            wait_until(lambda: "" if is_done(nodes[0], 2) else "it is not done", "a split", MOVED_S_MAX)
            ended = time.monotonic()
            time.sleep(BEFORE_S)  # What is slow behind it counts, too.
        losses += verify(nodes[0], load)
        return load.noticed(begun, ended, [])


def measure_merge(folder: Path, losses: list[str]) -> Noticed:
    """Two partitions with few keys become one."""
    with node_processes(folder, NODES, ["--partitions", "2"]) as nodes:
        start_all(nodes)
        fill(nodes[0], MERGED_KEYS, VALUE_BYTES)
        load = Load(nodes, "merged")
        with load.running():
            begun = time.monotonic()
            nodes[0].ask("POST", "/api/partitions/1/merge")
            wait_until(lambda: "" if is_done(nodes[0], 1) else "it is not done", "a merge", MOVED_S_MAX)
            ended = time.monotonic()
        losses += verify(nodes[0], load)
        return load.noticed(begun, ended, [])


def fill(node: NodeProcess, keys: int, value_bytes: tuple[int, int]) -> None:
    """Write so many keys."""
    chance = random.Random(keys)
    begun = time.monotonic()
    with redis.Redis(HOST, node.resp_port) as client:
        for first in range(0, keys, PIPELINE):
            pipeline = client.pipeline(transaction=False)
            for number in range(first, min(first + PIPELINE, keys)):
                expires_s = 86_400 if chance.random() < EXPIRING else None
                pipeline.set(f"key:{number}", chance.randbytes(chance.randint(*value_bytes)), ex=expires_s)
            pipeline.execute()
    output.say(f"{keys} keys written in {time.monotonic() - begun:.1f} s")


def leader_of(node: NodeProcess, group: int) -> int:
    """Who leads the group."""
    found = next(each.leader for each in node.picture().groups if each.id == group)
    if not found:
        raise UnavailableError(f"group {group} has no leader")
    return found


def is_done(node: NodeProcess, partitions: int) -> bool:
    """Whether the map has so many partitions and nothing goes on with any of them."""
    page = node.ask("GET", "/api/partitions")
    running = node.ask("GET", "/api/migrations?running=true")["migrations"]
    return page["total"] == partitions and not running


def watch(ask: "Callable[[], dict[str, object]]") -> list[tuple[str, float]]:
    """Follow a migration to its end; its stages and when each was first seen."""
    stages: list[tuple[str, float]] = []
    end = time.monotonic() + MOVED_S_MAX
    while True:
        view = ask()
        stage = str(view["stage"])
        if not stages or stages[-1][0] != stage:
            stages.append((stage, time.monotonic()))
        if view["ended_ms"]:
            if stage != "done":
                raise UnavailableError(f"the migration went back: {view['note']}")
            return stages
        if time.monotonic() > end:
            raise UnavailableError(f"the migration was not over after {MOVED_S_MAX:g} s: {view}")
        time.sleep(POLL_S)


def verify(node: NodeProcess, load: Load) -> list[str]:
    """Read back what was written meanwhile."""
    with redis.Redis(HOST, node.resp_port) as client:
        return [loss for ledger in load.ledgers for loss in find_losses(client, ledger)]


def show(report: Report) -> None:
    """The table, the stages, and what was lost."""
    rows = []
    for name, noticed in (("move", report.moved), ("split", report.split), ("merge", report.merged)):
        update = noticed.update.cells()[1:] if noticed.update else ("", "")
        cells = (f"{noticed.seconds:.2f}", noticed.before.cells()[1], *noticed.during.cells()[1:], *update)
        rows.append((name, *cells, str(noticed.writes), str(noticed.failed)))
    columns = ("", "s", "before p99 ms", "p99 ms", "max ms", "update p99 ms", "max ms", "writes", "failed")
    title = f"A partition of {report.megabytes} MB moves, one of {report.split_keys:,} keys is split, two are merged"
    output.print_table(title, columns, rows)
    print("stages of the move: " + ", ".join(f"{stage} {took:.2f} s" for stage, took in report.moved.stages_s.items()))
    print(f"acknowledged writes lost or applied twice: {len(report.losses)}")
    for loss in report.losses[:LOSSES_SHOWN_MAX]:
        print(f"  {loss}")
    print(f"{describe(report.machine)}; load at the end {report.load_average:g}")


if __name__ == "__main__":
    run_script(main)
