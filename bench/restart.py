"""How long a node with many keys takes to be back, and how long its loop is ever held while it writes snapshots.

A node runs in a child process, alone in its cluster, is filled through its router, writes snapshots of everything while
it goes on, is killed with SIGKILL, and started again. A timer of 1 ms in its loop tells how late it comes: that is how
long the loop was held, by its own work or by a thread that had the interpreter. The method stands in README.md.
"""

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import uvloop
from machine import Machine, describe, look_at_machine, percentile
from script import add_json_option, positive_count, run_script, write_json
from subjects import bench_folder

from noctule.adapters.system_clock import SystemClock
from noctule.base.errors import InternalError
from noctule.cli import output
from noctule.core.keyspace.reply import Reply
from noctule.core.replica.events import WriteSnapshotNow
from noctule.node.config import ClusterConfig, NodeConfig
from noctule.node.node import LocalNode
from noctule.servers.process import GARBAGE_THRESHOLDS, SWITCH_INTERVAL_S

TIMER_S = 0.001
COMMANDS_WAITING = 2_000
"""So many commands wait for their answers while the node is filled."""
LOAD_PAUSE_S = 0.001
"""Between two bursts of writes while snapshots are written."""
LOAD_COMMANDS = 20
SNAPSHOT_ENTRIES = 1_000_000
"""A snapshot is written when this bench asks for it, so that the log has a tail of known length."""


class Pauses(msgspec.Struct, frozen=True):
    """How much later than asked the loop's timer came."""

    p50_ms: float
    p999_ms: float
    max_ms: float
    busy_max_ms: float
    """As much of it as this process had a processor, in any of its threads; the rest is the machine's."""
    over_20_ms: int


class Filled(msgspec.Struct, frozen=True):
    """What the first life measured."""

    fill_s: float
    snapshot_s: float
    snapshot_bytes: int
    rest: Pauses
    """Under the same load while no snapshot was written."""
    snapshots: Pauses


class Restarted(msgspec.Struct, frozen=True):
    """What the second life measured."""

    recovered_s: float
    """From the start of recovery until the node was open."""
    back_s: float
    """From the same moment until a linearizable DBSIZE told all keys, so that every group had applied its log."""
    pauses: Pauses
    """Once it was open."""


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    keys: int
    value_bytes: int
    tail: int
    filled: Filled
    restarted: Restarted
    process_s: float
    """From the start of the second process, with its imports, until all keys were back."""


class Meter:
    """A timer in the running loop."""

    def __init__(self) -> None:
        self._late_ms: list[float] = []
        self._busy_ms: list[float] = []
        self._busy_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._set()

    def take(self) -> Pauses:
        """What was measured since the last call."""
        late, self._late_ms = self._late_ms or [0.0], []
        busy, self._busy_ms = self._busy_ms or [0.0], []
        over = sum(each > 20 for each in late)
        return Pauses(percentile(late, 50), percentile(late, 99.9), max(late), max(busy), over)

    def _set(self) -> None:
        self._due = time.perf_counter() + TIMER_S
        self._busy_at = time.process_time()
        self._loop.call_later(TIMER_S, self._come)

    def _come(self) -> None:
        late_ms = (time.perf_counter() - self._due) * 1000
        self._late_ms.append(late_ms)
        self._busy_ms.append(min(late_ms, (time.process_time() - self._busy_at) * 1000))
        self._set()


class Client:
    """Commands to the node's own router, a bounded number at a time."""

    def __init__(self, node: LocalNode) -> None:
        self._node = node
        self._free = asyncio.Semaphore(COMMANDS_WAITING)
        self.replies: list[Reply] = []

    async def send(self, *args: bytes) -> None:
        """Wait until there is room for it, not for its answer."""
        await self._free.acquire()
        self._node.store.submit(list(args), self)

    def deliver(self, reply: Reply) -> None:
        """As `node.api.ReplySink`."""
        self.replies.append(reply)
        self._free.release()

    async def settle(self) -> None:
        """Wait for all answers."""
        for _ in range(COMMANDS_WAITING):
            await self._free.acquire()
        for _ in range(COMMANDS_WAITING):
            self._free.release()


async def open_node(folder: Path) -> LocalNode:
    """The only node of its cluster."""
    cluster = ClusterConfig(voters={1: "127.0.0.1:0"})
    config = NodeConfig(cluster=cluster, node_id=1, data_dir=folder, peer_port=0, snapshot_entries=SNAPSHOT_ENTRIES)
    node = await LocalNode.open(config, SystemClock(), "bench")
    node.join("", "")
    while node.readiness():
        await asyncio.sleep(0.005)
    return node


async def fill(folder: Path, keys: int, value_bytes: int, tail: int) -> Filled:
    """The first life; the caller kills it."""
    node = await open_node(folder)
    client, meter = Client(node), Meter()
    value = os.urandom(value_bytes)
    begun = time.perf_counter()
    for number in range(keys):
        if number % 10:
            await client.send(b"SET", b"key:%d" % number, value)
        else:
            await client.send(b"SET", b"key:%d" % number, value, b"EX", b"86400")
    await client.settle()
    fill_s = time.perf_counter() - begun

    async def load() -> None:
        for number in range(keys):
            for offset in range(LOAD_COMMANDS):
                place = (number * LOAD_COMMANDS + offset) * 7919 % keys
                await client.send(b"SET", b"key:%d" % place, value)
            await asyncio.sleep(LOAD_PAUSE_S)

    loading = asyncio.create_task(load())
    await asyncio.sleep(1.0)
    meter.take()
    await asyncio.sleep(3.0)
    rest = meter.take()
    begun = time.perf_counter()
    before = node.host.snapshots_total
    groups = list(node.host.carrier.replicas)
    for group in groups:
        node.host.take(group, WriteSnapshotNow())
    while node.host.snapshots_total < before + len(groups):
        await asyncio.sleep(0.01)
    snapshot_s = time.perf_counter() - begun
    during = meter.take()
    loading.cancel()
    await client.settle()
    for number in range(tail):
        await client.send(b"SET", b"key:%d" % (number % keys), value)
    await client.settle()
    size = sum(path.stat().st_size for path in (folder / "snapshots").iterdir())
    return Filled(fill_s, snapshot_s, size, rest, during)


async def restart(folder: Path, keys: int) -> Restarted:
    """The second life."""
    begun = time.perf_counter()
    node = await open_node(folder)
    recovered_s = time.perf_counter() - begun
    client, meter = Client(node), Meter()
    await client.send(b"DBSIZE")
    await client.settle()
    if client.replies != [keys]:
        raise InternalError(f"{keys} keys were written, and DBSIZE tells {client.replies}")
    back_s = time.perf_counter() - begun
    await asyncio.sleep(1.0)
    return Restarted(recovered_s, back_s, meter.take())


def live(life: str, folder: Path, options: argparse.Namespace) -> int:
    """In the child: live, tell what was measured, and be killed."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    if life == "first":
        measured: msgspec.Struct = uvloop.run(fill(folder, options.keys, options.value_bytes, options.tail))
    else:
        measured = uvloop.run(restart(folder, options.keys))
    sys.stdout.buffer.write(msgspec.json.encode(measured) + b"\n")
    sys.stdout.flush()
    os.kill(os.getpid(), 9)
    return 0


def run_life(life: str, folder: Path, options: argparse.Namespace) -> bytes:
    """What the child told before it was killed."""
    command = [sys.executable, __file__, "--life", life, "--folder", str(folder), "--keys", str(options.keys)]
    command += ["--value-bytes", str(options.value_bytes), "--tail", str(options.tail)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if not ended.stdout.endswith(b"\n"):
        raise InternalError(f"the {life} life ended with {ended.returncode} and told nothing")
    return ended.stdout


def show(report: Report) -> None:
    """The numbers to stdout."""
    filled, restarted = report.filled, report.restarted
    rows = [
        ("filled", f"{report.keys} keys of {report.value_bytes} bytes in {filled.fill_s:.1f} s"),
        ("snapshots", f"{filled.snapshot_bytes / 1e6:.0f} MB in {filled.snapshot_s:.1f} s, under load"),
        ("loop at rest", pauses_text(filled.rest)),
        ("loop during snapshots", pauses_text(filled.snapshots)),
        ("open after", f"{restarted.recovered_s:.2f} s, with a log tail of {report.tail} writes"),
        ("all keys back after", f"{restarted.back_s:.2f} s ({report.process_s:.2f} s with the start of Python)"),
        ("loop once open", pauses_text(restarted.pauses)),
    ]
    for name, text in rows:
        print(f"{name:24}{text}")


def pauses_text(pauses: Pauses) -> str:
    """One line."""
    held = f"held {pauses.max_ms:.1f} ms at most (busy {pauses.busy_max_ms:.1f} ms), {pauses.p999_ms:.1f} ms at p99.9"
    return f"{held}, {pauses.over_20_ms} times over 20 ms"


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Restart a node with many keys, and watch its loop.")
    parser.add_argument("--keys", type=positive_count, default=1_000_000, help="default 1,000,000")
    parser.add_argument("--value-bytes", type=positive_count, default=100, help="default 100")
    parser.add_argument("--tail", type=positive_count, default=100_000, help="writes behind the snapshots")
    parser.add_argument("--life", choices=("first", "second"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    add_json_option(parser)
    options = parser.parse_args()
    if options.life:
        return live(options.life, options.folder, options)
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        filled = msgspec.json.decode(run_life("first", folder / "node", options), type=Filled)
        output.say(f"filled and killed after {filled.fill_s + filled.snapshot_s:.0f} s; starting again")
        begun = time.perf_counter()
        restarted = msgspec.json.decode(run_life("second", folder / "node", options), type=Restarted)
        process_s = time.perf_counter() - begun - 1.0  # The last second only watched the loop.
        report = Report(machine, options.keys, options.value_bytes, options.tail, filled, restarted, process_s)
    show(report)
    if options.json is not None:
        write_json(options.json, report)
    return 0


if __name__ == "__main__":
    run_script(main)
