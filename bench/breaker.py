"""What a circuit breaker costs a call that it guards, beside the same call without one, in this process.

With a store, what was counted is exchanged twice a second on the back of a call, so the first of these costs a round
trip and the others none; both figures are here.
"""

import argparse
import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from machine import Machine, describe, look_at_machine
from script import add_json_option, positive_count, run_script, write_json
from subjects import bench_folder

from noctule.cli import output
from noctule.kits.breaker import BreakerPolicy, CircuitBreaker
from noctule.kits.store import connect

POLICY = BreakerPolicy(slow_call_s=1.0)


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    calls: int
    rounds: int


class Row(msgspec.Struct, frozen=True):
    """One way of calling."""

    name: str
    nanoseconds: float
    """Of one call: the median of the rounds."""
    rounds: list[float]


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    rows: list[Row]
    exchange_microseconds: float | None
    """Of one exchange with the store, the median; None without a redis-server."""


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Time a guarded call beside a bare one.")
    parser.add_argument("--calls", type=positive_count, default=200_000, help="in each round (default 200000)")
    parser.add_argument("--rounds", type=positive_count, default=5, help="of each way of calling (default 5)")
    add_json_option(parser)
    arguments = parser.parse_args()
    options = Options(arguments.calls, arguments.rounds)
    with bench_folder() as folder:
        machine = look_at_machine(folder)
    output.say(describe(machine))
    report = asyncio.run(measure(machine, options))
    show(report)
    if arguments.json is not None:
        write_json(arguments.json, report)
    return 0


async def measure(machine: Machine, options: Options) -> Report:
    """Every way of calling, by turns."""
    local = CircuitBreaker("bench", None, POLICY)
    asynchronous = CircuitBreaker("bench-async", None, POLICY)
    guarded, guarded_async = local(nothing), asynchronous(nothing_async)
    ways: dict[str, Callable[[int], Awaitable[float]]] = {
        "bare function": lambda calls: time_function(nothing, calls),
        "guarded function": lambda calls: time_function(guarded, calls),
        "bare coroutine": lambda calls: time_coroutine(nothing_async, calls),
        "guarded coroutine": lambda calls: time_coroutine(guarded_async, calls),
    }
    with redis_url() as url:
        if url is None:
            output.say("no redis-server: the shared breaker is left out")
            return Report(machine, options, await rounds(ways, options), None)
        shared = CircuitBreaker("bench", url, POLICY)
        guarded_shared = shared(nothing_async)
        ways["guarded coroutine, shared by a store"] = lambda calls: time_coroutine(guarded_shared, calls)
        rows = await rounds(ways, options)
        exchange = await time_exchange(url)
        await shared.aclose()
    return Report(machine, options, rows, exchange)


async def rounds(ways: dict[str, Callable[[int], Awaitable[float]]], options: Options) -> list[Row]:
    """All ways in each round, so that a busy moment meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1, options.rounds + 1):
        for name, way in ways.items():
            times[name].append(await way(options.calls) / options.calls * 1e9)
        output.say(f"round {number} of {options.rounds}")
    return [Row(name, statistics.median(each), each) for name, each in times.items()]


def nothing() -> None:
    """What is called."""


async def nothing_async() -> None:
    """What is called."""


async def time_function(function: Callable[[], object], calls: int) -> float:
    """Seconds for so many calls."""
    begun = time.perf_counter()
    for _ in range(calls):
        function()
    return time.perf_counter() - begun


async def time_coroutine(function: Callable[[], Awaitable[object]], calls: int) -> float:
    """Seconds for so many calls, one after the other."""
    begun = time.perf_counter()
    for _ in range(calls):
        await function()
    return time.perf_counter() - begun


async def time_exchange(url: str) -> float:
    """The median of 200 exchanges, each of a fresh breaker's first call, on one open connection, in microseconds."""
    client = connect(url)
    times = []
    for number in range(201):
        breaker = CircuitBreaker("bench", client, POLICY)
        begun = time.perf_counter()
        async with breaker.guard():
            pass
        if number:  # The first one opens the connection and loads the script.
            times.append(time.perf_counter() - begun)
    await client.aclose()
    return statistics.median(times) * 1e6


@contextmanager
def redis_url() -> Iterator[str | None]:
    """The socket of a Redis without persistence; None where none is installed."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="redis") as folder:
        path = Path(folder, "socket")
        command = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                deadline = time.monotonic() + 10
                while not path.exists():
                    if time.monotonic() > deadline:
                        sys.exit("redis-server did not open its socket within 10 s")
                    time.sleep(0.02)
                yield f"unix://{path}"
            finally:
                process.kill()


def show(report: Report) -> None:
    """The table, to stdout."""
    bare = {row.name: row.nanoseconds for row in report.rows if row.name.startswith("bare")}
    print(f"{'a call that does nothing':<40} {'ns':>8} {'more than bare':>16}")
    for row in report.rows:
        base = bare["bare function" if "function" in row.name else "bare coroutine"]
        print(f"{row.name:<40} {row.nanoseconds:>8.0f} {row.nanoseconds - base:>16.0f}")
    if report.exchange_microseconds is not None:
        print(
            f"One exchange with the store, at most two a second in each process: {report.exchange_microseconds:.0f} µs"
        )


if __name__ == "__main__":
    run_script(main)
