"""The sockets of the DNS door, with clients that are unkind."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import dns.asyncquery
import dns.flags
import dns.message
import pytest
from scenarios import Run
from tests.unit.servers.dns.registries import FilledRegistry, zone_of

from noctule.base.errors import ConfigError
from noctule.servers.dns import server as server_module
from noctule.servers.dns.messages import QUERY_BYTES_MAX, Replier, Via
from noctule.servers.dns.server import (
    CONNECTIONS_MAX,
    IDLE_S_MAX,
    REFUSALS_PER_S_MAX,
    TIME_AT_ONCE_S_MAX,
    TIME_SHARE_MAX,
    UNREAD_BYTES_MAX,
    DnsServer,
)

pytestmark = pytest.mark.integration

HOST = "127.0.0.1"
QUERY = dns.message.make_query("web.service.consul", "SRV")
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def filled_registry(count: int) -> FilledRegistry:
    registry = FilledRegistry()
    for number in range(count):
        registry.add_node(f"n{number}", f"10.0.0.{number}")
        registry.add(f"n{number}", f"web{number}", "web", port=8000 + number)
    return registry


@asynccontextmanager
async def serving(count: int = 60) -> AsyncIterator[DnsServer]:
    server = DnsServer(Replier(zone_of(filled_registry(count))), HOST, 0)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def connected(server: DnsServer) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection(HOST, server.port)
    try:
        yield reader, writer
    finally:
        writer.close()


def framed(wire: bytes) -> bytes:
    return struct.pack("!H", len(wire)) + wire


async def read_reply(reader: asyncio.StreamReader) -> dns.message.Message:
    return dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2))))


async def has_closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side closes, sooner than all that are idle are closed; whether it said nothing before."""
    try:
        async with asyncio.timeout(IDLE_S_MAX / 2):
            return await reader.read() == b""
    except ConnectionError:
        return True


async def until(condition: Callable[[], bool], timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def test_what_is_cut_by_udp_is_whole_by_tcp_on_the_same_port(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as server:
            cut = await dns.asyncquery.udp(QUERY, HOST, port=server.port, timeout=5)
            assert cut.flags & dns.flags.TC
            whole = await dns.asyncquery.tcp(QUERY, HOST, port=server.port, timeout=5)
            assert len(whole.answer[0]) == 60
            assert server.counters()['noctule_dns_answers_total{type="SRV",rcode="NOERROR"}'] == 2

    run(scenario())


def test_queries_sent_at_once_are_answered_in_order(run: Run) -> None:
    async def scenario() -> None:
        queries = [dns.message.make_query("web.service.consul", "A", id=number) for number in range(200)]
        async with serving() as server, connected(server) as (reader, writer):
            writer.write(b"".join(framed(query.to_wire()) for query in queries))
            writer.write_eof()
            assert [(await read_reply(reader)).id for _ in queries] == list(range(200))
            assert await has_closed(reader)

    run(scenario())


def test_a_query_may_come_byte_by_byte(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as server, connected(server) as (reader, writer):
            for byte in framed(QUERY.to_wire()):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            assert (await read_reply(reader)).id == QUERY.id

    run(scenario())


@pytest.mark.parametrize(
    "what",
    [framed(bytes(QUERY_BYTES_MAX + 1)), framed(b""), framed(b"short"), framed(QUERY.to_wire())[:2] + b"\xff" * 99],
    ids=["long", "empty", "short", "reply"],
)
def test_who_sends_no_queries_by_tcp_is_cut_off(run: Run, what: bytes) -> None:
    async def scenario() -> None:
        async with serving() as server, connected(server) as (reader, writer):
            writer.write(what)
            assert await has_closed(reader)
            assert server.counters()["noctule_dns_connections_cut_total"] == 1

    run(scenario())


def test_bytes_that_make_no_query_do_not_keep_a_connection(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "IDLE_S_MAX", 0.2)

    async def scenario() -> None:
        async with serving() as server, connected(server) as (reader, writer):
            closed = asyncio.create_task(has_closed(reader))
            while not closed.done():
                writer.write(b"\x08")  # Of a query of 2056 bytes, which at this pace takes 20 seconds.
                await asyncio.sleep(0.01)
            assert await closed

    run(scenario())


def test_who_does_not_read_is_not_answered_without_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "IDLE_S_MAX", 0.3)
    monkeypatch.setattr(server_module, "TIME_SHARE_MAX", 1.0)

    async def scenario() -> None:
        # With a small window, so that little is under way.
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.setblocking(False)
        async with serving() as server:
            reply = (await dns.asyncquery.tcp(QUERY, HOST, port=server.port, timeout=5)).to_wire()
            await asyncio.get_running_loop().sock_connect(small, (HOST, server.port))
            _, writer = await asyncio.open_connection(sock=small, limit=1)
            writer.write(framed(QUERY.to_wire()) * 20_000)
            await until(lambda: server.counters()["noctule_dns_connections_cut_total"] == 1, 15)
            answered = server.counters()['noctule_dns_answers_total{type="SRV",rcode="NOERROR"}']
            assert answered * len(reply) < 4 * UNREAD_BYTES_MAX, "what waits here, in the kernel, and in the client"
            writer.close()

    run(scenario())


def test_one_connection_too_many_costs_the_idlest(run: Run) -> None:
    async def scenario() -> None:
        async with serving(3) as server:
            connections = [await asyncio.open_connection(HOST, server.port) for _ in range(CONNECTIONS_MAX)]
            await until(lambda: server.counters()["noctule_dns_connections_total"] == CONNECTIONS_MAX)
            first, second = connections[0], connections[1]
            first[1].write(framed(QUERY.to_wire()))
            await read_reply(first[0])
            connections.append(await asyncio.open_connection(HOST, server.port))
            assert await has_closed(second[0])
            first[1].write(framed(QUERY.to_wire()))
            assert (await read_reply(first[0])).id == QUERY.id
            for _, writer in connections:
                writer.close()

    run(scenario())


class _Flood(asyncio.DatagramProtocol):
    """Counts what comes back."""

    def __init__(self) -> None:
        self.replies = 0

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.replies += 1


async def flood(server: DnsServer, query: bytes, seconds: float) -> int:
    """Send as fast as can be; gives the number of replies."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(_Flood, remote_addr=(HOST, server.port))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(50):
            transport.sendto(query)
        await asyncio.sleep(0)
    transport.close()
    return protocol.replies


class _TimedReplier(Replier):
    """Knows how long its replies took."""

    spent_s = longest_s = 0.0

    def reply(self, query: bytes, via: Via) -> bytes | None:
        begun = time.monotonic()
        reply = super().reply(query, via)
        took_s = time.monotonic() - begun
        self.spent_s += took_s
        self.longest_s = max(self.longest_s, took_s)
        return reply


def test_a_flood_by_udp_takes_a_share_of_the_time(run: Run) -> None:
    """The rest of it is dropped and counted, and who asks afterwards is answered."""

    async def scenario() -> None:
        replier = _TimedReplier(zone_of(filled_registry(60)))
        server = DnsServer(replier, HOST, 0)
        begun = time.monotonic()
        await server.start()
        try:
            assert await flood(server, QUERY.to_wire(), 1.0) > 0
            share_s = TIME_SHARE_MAX * (time.monotonic() - begun)
            assert replier.spent_s <= share_s + TIME_AT_ONCE_S_MAX + replier.longest_s
            assert server.counters()["noctule_dns_queries_dropped_total"] > 0
            await until(server.has_time)
        finally:
            await server.stop()

    run(scenario())


def test_who_asks_for_other_names_is_refused_so_many_times_only(run: Run) -> None:
    """Else whoever forges its sender has us send for it."""

    async def scenario() -> None:
        async with serving() as server:
            begun = time.monotonic()
            replies = await flood(server, dns.message.make_query("example.com", "A").to_wire(), 0.5)
            assert 0 < replies <= REFUSALS_PER_S_MAX * (1 + time.monotonic() - begun) + 1

    run(scenario())


def test_it_stops_while_clients_are_connected(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as server, connected(server) as (reader, _):
            await server.stop()
            assert await has_closed(reader)
            await server.stop()

    run(scenario())


def test_a_port_that_is_taken_is_told(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as server:
            other = DnsServer(Replier(zone_of(FilledRegistry())), HOST, server.port)
            with pytest.raises(ConfigError, match=rf"DNS cannot listen on {HOST}:{server.port}: the port is in use"):
                await other.start()

    run(scenario())
