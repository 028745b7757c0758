"""How long a client of each kind of store goes without an acknowledged write when what serves its key is killed.

The client is the kits' own, by another URL: ``kits/store.py`` with ``retrying_idempotent``. Each kill has stores of its
own, which notice a silent master after ``--detect-ms``, but for Noctule, which has no such setting: it notices a closed
connection at once. The method stands in README.md beside this file.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import redis
from machine import Distribution, Machine, describe, distribution, look_at_machine
from script import add_json_option, positive_count, run_script, write_json
from subjects import (
    HOST,
    START_S_MAX,
    bench_folder,
    led_partitions,
    noctule_cluster,
    program,
    server_process,
    wait_until,
)

from noctule.base.errors import NoctuleError
from noctule.cli import output
from noctule.core.placement.slots import key_slot
from noctule.deploy.local.checks import free_ports
from noctule.kits.store import connect, retrying_idempotent

KEY = "gap"
WRITES_BEFORE_KILL = 50
PAUSE_S = 0.002
BUDGET_S = 60.0
ANSWER_TIMEOUT_S = 1.0
TITLES = ("store", "kills", "p50 ms", "max ms", "acknowledged and lost")


class Row(msgspec.Struct, frozen=True):
    """One kind of store."""

    store: str
    gap: Distribution
    """From the kill to the first acknowledgement of a write that was begun after it; ms."""
    lost: int
    """Acknowledged writes that were not there any more after a kill: each writes the next higher number."""


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    kills: int
    detect_ms: int
    rows: list[Row]


class Subject(msgspec.Struct, frozen=True):
    """A running store."""

    url: str
    kill: Callable[[], None]
    """SIGKILL to the process that serves `KEY`."""


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Failover of each kind of store, as a client sees it.")
    parser.add_argument("--kills", type=positive_count, default=5, help="of each kind (default 5)")
    parser.add_argument("--detect-ms", type=positive_count, default=5_000, help="of Redis' kinds (default 5000)")
    add_json_option(parser)
    arguments = parser.parse_args()
    rows = []
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        for name, start in (
            ("Noctule, three nodes", _noctule),
            ("Redis with two replicas, three Sentinels", _sentinels),
            ("Redis Cluster, three masters with a replica each", _cluster),
        ):
            gaps, lost = [], 0
            for number in range(1, arguments.kills + 1):
                home = folder / f"{len(rows)}-{number}"
                home.mkdir()
                with start(home, arguments.detect_ms) as subject:
                    gap_ms, lost_now = asyncio.run(measure(subject))
                output.say(f"{name}, kill {number} of {arguments.kills}: {gap_ms:,.0f} ms, {lost_now} lost")
                gaps.append(gap_ms)
                lost += lost_now
            rows.append(Row(name, distribution(gaps), lost))
    report = Report(machine, arguments.kills, arguments.detect_ms, rows)
    output.print_table("from a kill to the next acknowledged write", TITLES, [cells(report, row) for row in rows])
    if arguments.json is not None:
        write_json(arguments.json, report)
    return 0


def cells(report: Report, row: Row) -> tuple[object, ...]:
    """A row of the table."""
    return row.store, report.kills, f"{row.gap.p50_ms:,.0f}", f"{row.gap.max_ms:,.0f}", row.lost


async def measure(subject: Subject) -> tuple[float, int]:
    """One kill: the gap in ms, and how many acknowledged numbers the store went back by."""
    store = connect(subject.url, answer_timeout_s=ANSWER_TIMEOUT_S)
    acknowledged = 0

    async def write(number: int) -> None:
        await retrying_idempotent(lambda: store.set(KEY, number), writes=True, budget_s=BUDGET_S, attempts_max=10_000)

    try:
        for acknowledged in range(1, WRITES_BEFORE_KILL + 1):
            await write(acknowledged)
            await asyncio.sleep(PAUSE_S)
        subject.kill()
        killed_at = time.perf_counter()
        found = await retrying_idempotent(
            lambda: store.incrby(KEY, 0), writes=True, budget_s=BUDGET_S, attempts_max=10_000
        )
        gap_ms = (time.perf_counter() - killed_at) * 1000
        return gap_ms, max(acknowledged - int(found), 0)
    finally:
        try:
            await store.aclose()
        except NoctuleError as error:
            output.say(f"closing: {error}")


@contextmanager
def _noctule(folder: Path, _: int) -> Iterator[Subject]:
    with noctule_cluster(folder, 3) as cluster:
        hosts = ",".join(f"{node.host}:{node.resp_port}" for node in cluster.nodes)

        def kill() -> None:
            slot = key_slot(KEY.encode())
            for node in cluster.nodes:
                picture = cluster.picture(node)
                slots = {group.id: (group.first_slot, group.last_slot) for group in picture.groups}
                if any(slots[group][0] <= slot <= slots[group][1] for group in led_partitions(picture)):
                    os.kill(node.pid, signal.SIGKILL)
                    return

        yield Subject(f"redis://{hosts}/0", kill)


@contextmanager
def _sentinels(folder: Path, detect_ms: int) -> Iterator[Subject]:
    with ExitStack() as stack:
        ports = list(free_ports(HOST, 6, avoid=set()))
        fast = ["--repl-diskless-sync-delay", "0"]
        master = _redis(stack, folder, ports[0], *fast)
        for port in ports[1:3]:
            _redis(stack, folder, port, *fast, "--replicaof", HOST, str(ports[0]))
        for port in ports[3:]:
            conf = folder / f"{port}.conf"
            conf.write_text(
                f"port {port}\nbind {HOST}\ndir {folder}\nsentinel monitor bats {HOST} {ports[0]} 2\n"
                f"sentinel down-after-milliseconds bats {detect_ms}\nsentinel failover-timeout bats {2 * detect_ms}\n"
            )
            stack.enter_context(
                server_process([program("redis-server"), str(conf), "--sentinel"], folder / f"{port}.log")
            )

        def why_not() -> str:
            for port in ports[3:]:
                with redis.Redis(HOST, port, socket_timeout=1) as client:
                    facts = client.sentinel_master("bats")
                if facts["num-slaves"] < 2 or facts["num-other-sentinels"] < 2:
                    return f"sentinel {port} does not know all yet"
            return ""

        wait_until(_quietly(why_not), "the Sentinels", START_S_MAX)
        hosts = ",".join(f"{HOST}:{port}" for port in ports[3:])
        yield Subject(f"redis+sentinel://{hosts}/bats", master.kill)


@contextmanager
def _cluster(folder: Path, detect_ms: int) -> Iterator[Subject]:
    with ExitStack() as stack:
        chosen = list(free_ports(HOST, 12, avoid=set()))
        servers = {}
        for port, bus in zip(chosen[:6], chosen[6:], strict=True):
            options = ["--cluster-enabled", "yes", "--cluster-port", str(bus)]
            options += ["--cluster-config-file", f"{port}.nodes", "--cluster-node-timeout", str(detect_ms)]
            options += ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]
            servers[port] = _redis(stack, folder, port, *options)
        addresses = [f"{HOST}:{port}" for port in servers]
        create = [program("redis-cli"), "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(create, check=True, capture_output=True, timeout=START_S_MAX)

        def why_not() -> str:
            for port in servers:
                with redis.Redis(HOST, port, socket_timeout=1) as client:
                    info = client.info("replication")
                    state = str(client.execute_command("CLUSTER INFO"))
                if info["role"] == "slave" and info["master_link_status"] != "up":
                    return f"replica {port} is not linked"
                if info["role"] == "master" and not info["connected_slaves"]:
                    return f"master {port} has no replica"
                if "ok" not in state:
                    return state
            return ""

        wait_until(_quietly(why_not), "the Redis Cluster", START_S_MAX)

        def kill() -> None:
            with redis.Redis(HOST, chosen[0]) as client:
                slot = key_slot(KEY.encode())
                for first, last, master, *_ in client.execute_command("CLUSTER", "SLOTS"):
                    if int(first) <= slot <= int(last):
                        servers[int(master[1])].kill()

        yield Subject("redis+cluster://" + ",".join(addresses), kill)


def _redis(stack: ExitStack, folder: Path, port: int, *options: str) -> "subprocess.Popen[bytes]":
    """A redis-server that syncs once a second, which answers."""
    data = folder / str(port)
    data.mkdir()
    command = [program("redis-server"), "--bind", HOST, "--port", str(port), "--dir", str(data), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", *options]
    server = stack.enter_context(server_process(command, folder / f"{port}.log"))

    def why_not() -> str:
        with redis.Redis(HOST, port, socket_timeout=1) as client:
            return "" if client.ping() else "no answer"

    wait_until(_quietly(why_not), "redis-server", START_S_MAX)
    return server


def _quietly(why_not: Callable[[], str]) -> Callable[[], str]:
    """The same, with an error of redis-py as a reason."""

    def quiet() -> str:
        try:
            return why_not()
        except redis.RedisError as error:
            return str(error) or type(error).__name__

    return quiet


if __name__ == "__main__":
    run_script(main)
