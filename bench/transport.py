"""Frames between two nodes over the framed stream beside the same frames over gRPC, in alternating rounds.

Both ends are in this process and on one event loop, so its CPU time is that of sending and receiving together. The
method stands in README.md beside this file.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop
from machine import Machine, describe, look_at_machine, percentile
from script import add_json_option, positive_count, positive_seconds, run_script, write_json
from subjects import bench_folder

from noctule.adapters.grpc_transport import GrpcTransport
from noctule.adapters.peer_connections import PeerConnections
from noctule.adapters.transport import PeerTransport
from noctule.cli import output
from noctule.core.wire.frames import PROTOCOL_VERSION, encode_frame
from noctule.core.wire.messages import Envelope, Forward, Hello

HOST = "127.0.0.1"
SIZES = (200, 16_384, 262_144)
"""Bytes of the one message in a frame: a small batch, a busy turn's, a piece of a snapshot."""
WINDOW = 64
"""Frames that are sent and have not arrived yet."""
CONNECT_S_MAX = 10.0
KINDS: dict[str, type[PeerTransport | GrpcTransport]] = {"framed": PeerTransport, "gRPC": GrpcTransport}


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    seconds: float
    rounds: int


class Run(msgspec.Struct, frozen=True):
    """One round of one transport."""

    frames_per_s: float
    cpu_us: float
    """Of this process for one frame, both ends together."""
    p50_ms: float
    """There and back, one at a time. The same for p99."""
    p99_ms: float


class Measured(msgspec.Struct, frozen=True):
    """All rounds of one transport, in order, and the median of each of their numbers."""

    frames_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    rounds: list[Run]


class Row(msgspec.Struct, frozen=True):
    """Both with frames of one size."""

    bytes_in_message: int
    framed: Measured
    grpc: Measured
    rate_ratio: float
    """gRPC's frames in a second, divided by the framed stream's. The others are alike."""
    cpu_ratio: float
    p50_ratio: float


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    rows: list[Row]


class Ear:
    """A receiver that passes on what comes."""

    def __init__(self) -> None:
        self.heard: Callable[[], None] = lambda: None

    def frame_received(self, sender: int, envelopes: list[Envelope]) -> None:
        """A frame came."""
        self.heard()

    def peer_connected(self, hello: Hello) -> None:
        """Nothing depends on it here."""

    def peer_disconnected(self, node: int) -> None:
        """Nothing depends on it here."""


class Pair(NamedTuple):
    """Two transports that are connected, and their ears."""

    one: PeerConnections
    two: PeerConnections
    ear_one: Ear
    ear_two: Ear


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Measure the framed stream beside gRPC.")
    parser.add_argument("--seconds", type=positive_seconds, default=1.0, help="of each half of a round (default 1)")
    parser.add_argument("--rounds", type=positive_count, default=5, help="of each size (default 5)")
    add_json_option(parser)
    given = parser.parse_args()
    options = Options(given.seconds, given.rounds)
    json_path: Path | None = given.json
    with bench_folder() as folder:
        machine = look_at_machine(folder)
    output.say(describe(machine))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = [runner.run(measure_size(size, options)) for size in SIZES]
    report = Report(machine, options, rows)
    show(report)
    if json_path is not None:
        write_json(json_path, report)
    return 0


async def measure_size(size: int, options: Options) -> Row:
    """Rounds that take turns, on connections that stand all the time."""
    frame = encode_frame([(1, Forward(1, 1, random.Random(size).randbytes(size)))])
    rounds: dict[str, list[Run]] = {name: [] for name in KINDS}
    async with connected(PeerTransport) as framed, connected(GrpcTransport) as grpc:
        pairs = {"framed": framed, "gRPC": grpc}
        for pair in pairs.values():
            await stream(pair, frame, options.seconds / 10)
        for number in range(1, options.rounds + 1):
            for name, pair in pairs.items():
                rate, cpu_us = await stream(pair, frame, options.seconds)
                times_ms = await ping(pair, frame, options.seconds)
                p50_ms, p99_ms = (round(percentile(times_ms, percent), 4) for percent in (50, 99))
                rounds[name].append(Run(round(rate, 1), round(cpu_us, 2), p50_ms, p99_ms))
                output.say(f"{size} bytes, round {number} of {options.rounds}: {name} {rate:,.0f} frames/s")
    ours, theirs = summarize(rounds["framed"]), summarize(rounds["gRPC"])
    return Row(
        size,
        ours,
        theirs,
        rate_ratio=round(theirs.frames_per_s / ours.frames_per_s, 3),
        cpu_ratio=round(theirs.cpu_us / ours.cpu_us, 3),
        p50_ratio=round(theirs.p50_ms / ours.p50_ms, 3),
    )


@asynccontextmanager
async def connected(kind: type[PeerTransport | GrpcTransport]) -> AsyncIterator[Pair]:
    """Two nodes on this machine which hear each other."""
    ears = Ear(), Ear()
    one, two = (
        kind(Hello(PROTOCOL_VERSION, "bench", "", node, node), ear, random.Random(node))
        for node, ear in enumerate(ears, start=1)
    )
    try:
        ports = await one.listen(HOST, 0), await two.listen(HOST, 0)
        one.set_peers({2: (HOST, ports[1])})
        two.set_peers({1: (HOST, ports[0])})
        one.dial()
        two.dial()
        async with asyncio.timeout(CONNECT_S_MAX):
            while not (one.is_connected(2) and two.is_connected(1)):
                await asyncio.sleep(0.01)
        yield Pair(one, two, *ears)
    finally:
        await one.close()
        await two.close()


async def stream(pair: Pair, frame: bytes, seconds: float) -> tuple[float, float]:
    """Frames in a second from one to two with `WINDOW` on their way, and microseconds of CPU for each."""
    end = time.perf_counter() + seconds
    is_over = asyncio.Event()
    sent = arrived = 0

    def send_one() -> None:
        nonlocal sent
        if not pair.one.send(2, frame):
            raise RuntimeError("a frame was dropped")
        sent += 1

    def heard() -> None:
        nonlocal arrived
        arrived += 1
        if time.perf_counter() < end:
            send_one()
        elif arrived == sent:
            is_over.set()

    pair.ear_two.heard = heard
    begun, cpu_begun = time.perf_counter(), time.process_time()
    for _ in range(WINDOW):
        send_one()
    await is_over.wait()
    return arrived / (time.perf_counter() - begun), (time.process_time() - cpu_begun) * 1e6 / arrived


async def ping(pair: Pair, frame: bytes, seconds: float) -> list[float]:
    """Milliseconds from sending a frame until one of the same size is back, one after the other."""
    times_ms: list[float] = []
    is_over = asyncio.Event()
    end = time.perf_counter() + seconds
    begun = 0.0

    def there() -> None:
        pair.two.send(1, frame)

    def back() -> None:
        nonlocal begun
        now = time.perf_counter()
        times_ms.append((now - begun) * 1000)
        if now >= end:
            is_over.set()
            return
        begun = now
        pair.one.send(2, frame)

    pair.ear_two.heard, pair.ear_one.heard = there, back
    begun = time.perf_counter()
    pair.one.send(2, frame)
    await is_over.wait()
    return times_ms


def summarize(rounds: Sequence[Run]) -> Measured:
    """The median of each number over the rounds."""
    return Measured(
        frames_per_s=statistics.median(run.frames_per_s for run in rounds),
        cpu_us=statistics.median(run.cpu_us for run in rounds),
        p50_ms=statistics.median(run.p50_ms for run in rounds),
        p99_ms=statistics.median(run.p99_ms for run in rounds),
        rounds=list(rounds),
    )


def show(report: Report) -> None:
    """The table, and under it what the numbers were measured on."""
    output.print_table(
        "Frames between two nodes: the framed stream, and gRPC",
        ("bytes", "framed /s", "CPU µs", "p50 ms", "p99 ms", "gRPC /s", "CPU µs", "p50 ms", "p99 ms", "rate", "CPU"),
        [
            (
                f"{row.bytes_in_message:,}",
                *cells(row.framed),
                *cells(row.grpc),
                f"{row.rate_ratio:.2f}",
                f"{row.cpu_ratio:.2f}",
            )
            for row in report.rows
        ],
    )
    options = report.options
    print(
        f"medians; rounds: {options.rounds}, alternating, of twice {options.seconds:g} s; {WINDOW} frames on their "
        "way; the last two columns are gRPC divided by framed"
    )
    print(describe(report.machine))


def cells(measured: Measured) -> tuple[str, str, str, str]:
    """One transport's part of a row."""
    return (
        f"{measured.frames_per_s:,.0f}",
        f"{measured.cpu_us:,.0f}",
        f"{measured.p50_ms:.2f}",
        f"{measured.p99_ms:.2f}",
    )


if __name__ == "__main__":
    run_script(main)
