"""The registry with ten thousand instances: how fast they are registered, and how soon a change reaches who watches.

Three nodes and the clients, which are this process. The method stands in README.md beside this file.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec
import uvloop
from machine import Machine, describe, look_at_machine, percentile
from nodes import NodeProcess, load_average, node_processes, start_all
from script import add_json_option, positive_count, run_script, write_json
from subjects import HOST, bench_folder

from noctule.base.errors import UnavailableError
from noctule.cli import output
from noctule.client.services import ServicesClient
from noctule.core.registry.views import ServiceList, ServiceRegistration, ServiceView
from noctule.embed.service_discovery import ServiceDiscovery

NODES = 3
CLIENTS = 64
"""Registrations on their way at once."""
INSTANCES_PER_SERVICE = 20
WATCHED = "watched"
WATCHED_INSTANCES = 5
HEARD_S_MAX = 10.0
"""By then every watcher has heard of a change, or the bench fails."""
KNOWN_S_MAX = 30.0


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    instances: int
    changes: int
    watchers: int


class Registered(msgspec.Struct, frozen=True):
    """One way to register."""

    way: str
    instances: int
    seconds: float
    per_s: float
    p50_ms: float
    p99_ms: float


class Heard(msgspec.Struct, frozen=True):
    """One way to watch: from sending a change to each watcher having it."""

    way: str
    changes: int
    watchers: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    load_average: float


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    registered: list[Registered]
    heard: list[Heard]
    memory_bytes_before: list[int]
    """Resident, of each node, when it served and knew of nothing."""
    memory_bytes_after: list[int]


class Ear:
    """What one watcher has heard: up to which change, and when."""

    def __init__(self) -> None:
        self.number = -1
        self.heard_at: dict[int, float] = {}
        self.rung = asyncio.Event()

    def hear(self, services: Sequence[ServiceView]) -> None:
        """Take in a list; what it says of a change it says of all before it."""
        now = time.monotonic()
        newest = max((int(each.meta.get("n", "-1")) for each in services), default=-1)
        for number in range(self.number + 1, newest + 1):
            self.heard_at[number] = now
        self.number = max(self.number, newest)
        self.rung.set()

    async def until(self, number: int) -> None:
        """Return once it has heard of that change."""
        while self.number < number:
            self.rung.clear()
            await self.rung.wait()


def main() -> int:
    """Measure and report."""
    options, json_path = parse_arguments()
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        with node_processes(folder / "registry", NODES, ["--partitions", "4"]) as nodes:
            start_all(nodes)
            report = uvloop.run(measure(machine, options, nodes))
    show(report)
    if json_path is not None:
        write_json(json_path, report)
    return 0


def parse_arguments() -> tuple[Options, Path | None]:
    """The command line."""
    parser = argparse.ArgumentParser(description="Registrations, and the latency from a change to who watches.")
    parser.add_argument("--instances", type=positive_count, default=10_000, help="in all (default 10000)")
    parser.add_argument("--changes", type=positive_count, default=500, help="that are watched (default 500)")
    parser.add_argument("--watchers", type=positive_count, default=100, help="over three nodes (default 100)")
    add_json_option(parser)
    found = parser.parse_args()
    return Options(found.instances, found.changes, found.watchers), found.json


async def measure(machine: Machine, options: Options, nodes: Sequence[NodeProcess]) -> Report:
    """Everything, in order."""
    urls = [f"http://{HOST}:{node.http_port}" for node in nodes]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(ServicesClient(url)) for url in urls]
        for client in clients:
            await until_known(client)
        before = [node.stats().resident_bytes for node in nodes]
        half = options.instances // 2
        kept = await register("kept by the nodes", half, clients, ttl_s=None)
        renewing = await register("renewing themselves", options.instances - half, clients, ttl_s=3_600.0)
        heard = [
            await watch("server-sent events", options, clients, streams(urls, options.watchers)),
            await watch("ServiceDiscovery.watch", options, clients, discoveries(urls, options.watchers)),
        ]
        after = [node.stats().resident_bytes for node in nodes]
    return Report(machine, options, [kept, renewing], heard, before, after)


async def until_known(client: ServicesClient) -> None:
    """Return once the node is in the registry, so that what it keeps is there at once."""
    async with asyncio.timeout(KNOWN_S_MAX):
        while not (await client.register_service(ServiceRegistration("probe", id="probe"))).modify_index:
            await asyncio.sleep(0.1)
    await client.deregister_service("probe")


async def register(way: str, count: int, clients: Sequence[ServicesClient], *, ttl_s: float | None) -> Registered:
    """So many instances, through all nodes in turn."""
    output.say(f"registering {count} instances {way}")
    prefix = "r" if ttl_s else "k"
    numbers = iter(range(count))
    took_s: list[float] = []

    async def work() -> None:
        for number in numbers:
            service = ServiceRegistration(
                f"{prefix}-{number // INSTANCES_PER_SERVICE}",
                id=f"{prefix}-{number}",
                address=f"10.0.{number // 250 % 250}.{number % 250}",
                port=8000,
                tags=("v1", "blue"),
                meta={"zone": "a", "version": "1.2.3"},
                ttl_s=ttl_s,
            )
            begun = time.monotonic()
            await clients[number % len(clients)].register_service(service)
            took_s.append(time.monotonic() - begun)

    begun = time.monotonic()
    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    seconds = time.monotonic() - begun
    found = 0
    for number in range(-(-count // INSTANCES_PER_SERVICE)):
        found += len((await clients[0].services(f"{prefix}-{number}")).services)
    if found != count:
        raise UnavailableError(f"{count} instances were registered, and {found} are there")
    return Registered(
        way,
        count,
        round(seconds, 3),
        round(count / seconds, 1),
        round(percentile(took_s, 50) * 1000, 3),
        round(percentile(took_s, 99) * 1000, 3),
    )


Listen = Callable[[Ear], Awaitable[None]]


def streams(urls: Sequence[str], count: int) -> list[Listen]:
    """Watchers by ``/api/services/{name}/watch``, spread over the nodes."""

    def listener(url: str) -> Listen:
        async def listen(ear: Ear) -> None:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), read_bufsize=1 << 20) as session,
                session.get(f"{url}/api/services/{WATCHED}/watch") as answer,
            ):
                async for line in answer.content:
                    if line.startswith(b"data: "):
                        ear.hear(msgspec.json.decode(line[6:], type=ServiceList).services)

        return listen

    return [listener(urls[number % len(urls)]) for number in range(count)]


def discoveries(urls: Sequence[str], count: int) -> list[Listen]:
    """Watchers as programs are, each with a node that it asks first."""

    def listener(url: str) -> Listen:
        async def listen(ear: Ear) -> None:
            async with ServicesClient(url) as client:
                lists: AsyncIterator[list[ServiceView]] = ServiceDiscovery(client).watch(WATCHED, passing=False)
                async for found in lists:
                    ear.hear(found)

        return listen

    return [listener(urls[number % len(urls)]) for number in range(count)]


async def watch(way: str, options: Options, clients: Sequence[ServicesClient], listeners: Sequence[Listen]) -> Heard:
    """Change one service again and again, and take the time until each watcher knows."""
    output.say(f"{options.changes} changes, watched by {len(listeners)} by {way}")
    for number in range(WATCHED_INSTANCES):
        await clients[0].register_service(watched(number, -1))
    ears = [Ear() for _ in listeners]
    tasks = [asyncio.ensure_future(listen(ear)) for listen, ear in zip(listeners, ears, strict=True)]
    try:
        await asyncio.sleep(1.0)  # All of them are there by then; one that is not is heard to be late below.
        sent_at = []
        for number in range(options.changes):
            sent_at.append(time.monotonic())
            await clients[number % len(clients)].register_service(watched(number % WATCHED_INSTANCES, number))
            async with asyncio.timeout(HEARD_S_MAX):
                await asyncio.gather(*(ear.until(number) for ear in ears))
        took_ms = [1000 * (ear.heard_at[number] - at) for ear in ears for number, at in enumerate(sent_at)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for number in range(WATCHED_INSTANCES):
        await clients[0].deregister_service(f"{WATCHED}-{number}")
    p50, p99 = percentile(took_ms, 50), percentile(took_ms, 99)
    rounded = round(p50, 3), round(p99, 3), round(max(took_ms), 3)
    return Heard(way, options.changes, len(listeners), *rounded, load_average())


def watched(instance: int, number: int) -> ServiceRegistration:
    """One of the instances that are watched, which says the number of the change."""
    return ServiceRegistration(
        WATCHED, id=f"{WATCHED}-{instance}", address=HOST, port=80, ttl_s=3_600.0, meta={"n": str(number)}
    )


def show(report: Report) -> None:
    """Tables for a person."""
    output.print_table(
        f"registering, {CLIENTS} at once",
        ("instances", "count", "seconds", "per second", "p50 ms", "p99 ms"),
        [(each.way, each.instances, each.seconds, each.per_s, each.p50_ms, each.p99_ms) for each in report.registered],
    )
    output.print_table(
        "from a change to who watches",
        ("watched by", "changes", "watchers", "p50 ms", "p99 ms", "longest ms", "load"),
        [
            (each.way, each.changes, each.watchers, each.p50_ms, each.p99_ms, each.max_ms, each.load_average)
            for each in report.heard
        ],
    )
    rows = [
        (number, f"{before / 2**20:.0f} MiB", f"{after / 2**20:.0f} MiB")
        for number, (before, after) in enumerate(
            zip(report.memory_bytes_before, report.memory_bytes_after, strict=True), start=1
        )
    ]
    output.print_table("memory", ("node", "before", "after"), rows)


if __name__ == "__main__":
    run_script(main)
