"""What the embedded gateway's own code takes for a small GET: µs a request, without sockets, an event loop's turn or load.

Both sides' protocols are given bytes over transports that keep them, so on a busy machine the least of many rounds is
still the code's own time. ``bench/gateway.py`` is the measure of the whole; this one tells whether a change was worth it.
"""

import argparse
import asyncio
import gc
import random
import time
from collections.abc import Callable

import uvloop
from script import add_json_option, positive_count, run_script, write_json

from noctule.adapters.system_clock import SystemClock
from noctule.gateway.downstream import ClientConnection
from noctule.gateway.model import ActiveCheck, Compression, GatewayModel, Route, Service, Share
from noctule.gateway.orders import Orders
from noctule.gateway.plane import DataPlane
from noctule.gateway.traffic import Plan, Traffic
from noctule.gateway.upstream import InstanceConnection

INSTANCES = 3
BATCH = 1_000
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024


class Wire(asyncio.Transport):
    """Keeps what was written last."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written = b""
        self.writes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.written = bytes(data)
        self.writes += 1

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing waits here."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits here."""
        return 0

    def is_closing(self) -> bool:
        """Never."""
        return False

    def abort(self) -> None:
        """Stay."""


class Bench:
    """One plane, one client's connection, and a kept connection to each of the instances."""

    def __init__(self) -> None:
        service = Service(
            name="app",
            instances=tuple(f"127.0.0.1:{9001 + number}" for number in range(INSTANCES)),
            check=ActiveCheck(enabled=False),
        )
        model = GatewayModel(
            services=(service,),
            routes=(Route(name="app", shares=(Share("app"),)),),
            compression=Compression(enabled=False),
        )
        self.traffic = Traffic(Orders(model), SystemClock(), random.Random(0))
        self.plane = DataPlane(self.traffic)
        self.client, self.client_wire = ClientConnection(self.plane), Wire()
        self.client.connection_made(self.client_wire)
        self.connections: list[tuple[InstanceConnection, Wire]] = []
        for instance in service.fixed_instances:
            connection, wire = InstanceConnection(self.plane.upstream, instance), Wire()
            connection.connection_made(wire)
            connection.kept_max = 1
            self.plane.upstream.keep(connection)
            self.connections.append((connection, wire))

    def whole(self) -> None:
        """A request and its response."""
        self.client.data_received(REQUEST)
        for connection, wire in self.connections:
            if wire.writes:
                wire.writes = 0
                connection.data_received(RESPONSE)

    def decide(self) -> None:
        """What `traffic` is asked and told for it."""
        plan = self.traffic.plan("127.0.0.1:8080", "/", _no_header, "127.0.0.1")
        assert isinstance(plan, Plan)
        flight = plan.next()
        assert flight is not None
        flight.succeeded(0.001, 200)
        plan.done(200, 0.001)
        flight.end()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=positive_count, default=40, help=f"of {BATCH} requests (default 40)")
    add_json_option(parser)
    options = parser.parse_args()
    found = uvloop.run(measure(options.rounds))
    for name, us in found.items():
        print(f"{name:<10} {us:6.2f} µs")
    if options.json is not None:
        write_json(options.json, found)
    return 0


async def measure(rounds: int) -> dict[str, float]:
    """µs a request, of the whole and of the decisions in it: the least of the rounds."""
    bench = Bench()
    bench.whole()
    assert bench.client_wire.written.startswith(b"HTTP/1.1 200 OK\r\n"), bench.client_wire.written
    gc.freeze()
    gc.set_threshold(10_000, 10, 1_000)
    found = {"whole": least(bench.whole, rounds), "decisions": least(bench.decide, rounds)}
    await bench.plane.close()
    return found


def least(step: Callable[[], None], rounds: int) -> float:
    """µs of one step, the least of the rounds' means."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(BATCH):
            step()
        best = min(best, time.process_time() - began)
    return round(best / BATCH * 1e6, 2)


def _no_header(_: str) -> str | None:
    return None


if __name__ == "__main__":
    run_script(main)
