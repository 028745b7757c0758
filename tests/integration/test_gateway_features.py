"""What the data plane does beside passing requests on: compression, logs, limits, rules, and connections that stay."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import brotli
import pytest
import zstandard
from aiohttp import web
from gateway_world import CONFIG, DEADLINE_S, MakeWorld, World, named, wait_until

from noctule.gateway.access_log import AccessLog
from noctule.gateway.model import Compression, HeaderRules

pytestmark = pytest.mark.integration

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def wired(world: World) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)


# --- Connections ---


async def test_connections_are_kept_on_both_sides(world: World) -> None:
    peers: set[object] = set()

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(text="a")

    await world.toy("a", answer)
    async with wired(world) as (reader, writer):
        for _ in range(20):
            writer.write(GET)
            assert b"200 OK" in await head_of(reader)
            assert await reader.readexactly(1) == b"a"
    assert len(peers) == 1


@pytest.mark.parametrize(("keep", "is_kept"), [(b"Connection: keep-alive\r\n", True), (b"", False)])
async def test_http_1_0_is_kept_when_it_asks(world: World, keep: bytes, is_kept: bool) -> None:
    await world.toy("a", named("a"))
    async with wired(world) as (reader, writer):
        writer.write(b"GET / HTTP/1.0\r\n" + keep + b"\r\n")
        head = await head_of(reader)
        assert (b"Connection: keep-alive" in head, b"Connection: close" in head) == (is_kept, not is_kept)
        assert await reader.readexactly(1) == b"a"
        if is_kept:
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert b"200 OK" in await head_of(reader)
        assert (await reader.read()) in (b"", b"a")


async def test_a_stop_ends_idle_connections_at_once_and_busy_ones_after_their_answer(world: World) -> None:
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response(text="a")

    toy = await world.toy("a", answer)
    async with wired(world) as (idle, _), wired(world) as (busy, writer):
        writer.write(GET)
        await wait_until(lambda: len(toy.seen) == 1)
        stopping = asyncio.create_task(world.gateway.stop(drain_s=5.0))
        assert await asyncio.wait_for(idle.read(), DEADLINE_S) == b""
        release.set()
        assert b"Connection: close" in await head_of(busy)
        assert await asyncio.wait_for(busy.read(), DEADLINE_S) == b"a"
        await asyncio.wait_for(stopping, DEADLINE_S)


async def test_a_stop_within_a_response_ends_the_connection_behind_it(world: World) -> None:
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 4
        await response.prepare(request)
        await response.write(b"ha")
        await release.wait()
        await response.write(b"lf")
        return response

    await world.toy("a", answer)
    async with wired(world) as (reader, writer):
        writer.write(GET)
        assert b"Content-Length: 4" in await head_of(reader)
        assert await reader.readexactly(2) == b"ha"
        stopping = asyncio.create_task(world.gateway.stop(drain_s=5.0))
        await asyncio.sleep(0.05)
        release.set()
        # Long before the drain time is over.
        assert await asyncio.wait_for(reader.read(), 2.5) == b"lf"
        await asyncio.wait_for(stopping, 2.5)


async def test_thousands_of_idle_connections_cost_nothing_but_themselves(world: World) -> None:
    await world.toy("a", named("a"))
    connections = [await asyncio.open_connection("127.0.0.1", world.gateway.port) for _ in range(500)]
    for reader, writer in connections:
        writer.write(GET)
        assert b"200 OK" in await head_of(reader)
    assert world.plane.clients_count == 500
    assert world.plane.upstream.open_count <= 32
    for _, writer in connections:
        writer.close()
    await wait_until(lambda: world.plane.clients_count == 0)


async def test_early_hints_pass_and_100_does_not(world: World) -> None:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    await world.raw("a", serve)
    async with wired(world) as (reader, writer):
        writer.write(GET)
        assert await head_of(reader) == b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        assert (await head_of(reader)).startswith(b"HTTP/1.1 200 OK")
    answer = await world.exchange(b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_an_answer_before_the_body_is_whole_is_passed_and_ends_the_connection(world: World) -> None:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    await world.raw("a", serve)
    answer = await world.exchange(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"Connection: close" in answer
    assert answer.endswith(b"\r\n\r\nno")


# --- Compression ---


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
async def test_text_is_compressed_for_who_takes_it(make_world: MakeWorld, encoding: str) -> None:
    world = await make_world(replace(CONFIG, compression=Compression()))
    text = "line\n" * 10_000

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text, headers={"ETag": '"1"'})

    await world.toy("a", answer)
    request = f"GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {encoding}\r\nConnection: close\r\n\r\n"
    head, _, body = (await world.exchange(request.encode())).partition(b"\r\n\r\n")
    assert f"Content-Encoding: {encoding}".encode() in head
    assert b'ETag: W/"1"' in head
    packed = b"".join(re.findall(rb"(?s)[0-9a-f]+\r\n(.*?)\r\n(?=[0-9a-f]+\r\n)", body))
    unpack = {"gzip": gzip.decompress, "br": brotli.decompress, "zstd": _unpack_zstd}[encoding]
    assert len(packed) < 2_000
    assert unpack(packed).decode() == text
    plain = await world.exchange(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"Content-Length: 50000" in plain
    assert b"Vary: Accept-Encoding" in plain


def _unpack_zstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


async def test_a_stream_is_compressed_as_it_comes(make_world: MakeWorld) -> None:
    """The app waits with each piece until the client has unpacked the one before."""
    world = await make_world(replace(CONFIG, compression=Compression()))
    received = ""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        for number in range(5):
            await response.write(b"line %d\n" % number)
            await wait_until(lambda: received.count("\n") == number + 1)  # noqa: B023 - awaited at once
        return response

    await world.toy("a", answer)
    async with world.client.get(world.url, headers={"Accept-Encoding": "gzip"}) as response:
        async for piece in response.content.iter_any():
            received += piece.decode()
    assert received == "".join(f"line {number}\n" for number in range(5))


# --- Rules, limits, the log ---


async def test_header_rules_of_a_route_are_applied(make_world: MakeWorld) -> None:
    settings = replace(
        CONFIG,
        request_headers=HeaderRules(remove=("Cookie",), set={"X-Tenant": "shop"}),
        response_headers=HeaderRules(remove=("Server",), add={"Strict-Transport-Security": "max-age=63072000"}),
    )
    world = await make_world(settings)
    toy = await world.toy("a", named("a"))
    _, _, headers = await world.get(headers={"Cookie": "a=1", "X-Tenant": "mine"})
    assert toy.seen[0].headers.getall("X-Tenant") == ["shop"]
    assert "Cookie" not in toy.seen[0].headers
    assert headers["Strict-Transport-Security"] == "max-age=63072000"
    assert "Server" not in headers


@pytest.mark.parametrize("is_awaited", [False, True])
async def test_a_rate_limit_answers_429(make_world: MakeWorld, is_awaited: bool) -> None:
    asked: list[tuple[str, str, str, str]] = []

    async def later(wait_s: float) -> float:
        await asyncio.sleep(0)
        return wait_s

    def limit(client: str, method: str, host: str, path: str) -> object:
        asked.append((client, method, host, path))
        wait_s = 1.2 if path == "/often" else 0.0
        return later(wait_s) if is_awaited else wait_s

    world = await make_world(CONFIG, rate_limit=limit)
    toy = await world.toy("a", named("a"))
    assert (await world.get("/seldom?x=1"))[0] == 200
    async with world.client.post(world.url + "/often", data=b"x" * 1000) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "2")
        assert (await response.json())["error"]["code"] == "rate_limited"
    assert [request.path for request in toy.seen] == ["/seldom"]
    host = f"127.0.0.1:{world.gateway.port}"
    assert asked == [("127.0.0.1", "GET", host, "/seldom"), ("127.0.0.1", "POST", host, "/often")]


async def test_a_rate_limit_behind_a_proxy_is_asked_for_its_client(make_world: MakeWorld) -> None:
    asked: list[str] = []

    def limit(client: str, method: str, host: str, path: str) -> float:
        asked.append(client)
        return 0.0

    world = await make_world(replace(CONFIG, trusted_proxies=("127.0.0.1",)), rate_limit=limit)
    await world.toy("a", named("a"))
    await world.get(headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.5"})
    assert asked == ["203.0.113.5"]


async def test_a_rate_limit_that_fails_lets_requests_pass(make_world: MakeWorld) -> None:
    async def limit(client: str, method: str, host: str, path: str) -> float:
        raise ConnectionError("the store is gone")

    world = await make_world(CONFIG, rate_limit=limit)
    await world.toy("a", named("a"))
    assert (await world.get())[0] == 200


async def test_the_access_log_tells_of_each_request(make_world: MakeWorld, tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    world = await make_world(CONFIG, access_log=AccessLog.open(path))
    await world.toy("a", named("a"))
    await world.get("/page?secret=1", headers={"X-Request-ID": "mine"})
    await world.exchange(b"GARBAGE\r\n\r\n")
    host = world.url.removeprefix("http://")
    await world.gateway.stop(1.0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    passed = next(line for line in lines if line["request_id"] == "mine")
    times = [passed.pop(name) for name in ("connect_ms", "first_byte_ms", "total_ms")]
    assert times == sorted(times)
    assert times[0] > 0
    assert datetime.fromisoformat(passed.pop("time")).year >= 2025
    assert passed == {
        "request_id": "mine",
        "client": "127.0.0.1",
        "method": "GET",
        "host": host,
        "path": "/page",
        "status": 200,
        "bytes": 1,
        "instance": "a",
        "attempts": 1,
        "route": "app",
        "service": "app",
    }
    assert [line["status"] for line in lines] == [200, 400]


async def test_a_log_that_cannot_keep_up_drops_lines_and_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    log = AccessLog.open(path)
    for number in range(20_000):
        log.add({"number": number})
    assert log.dropped == 20_000 - 16_384
    await log.close()
    lines = path.read_text().splitlines()
    assert len(lines) == 16_384 + 1
    assert json.loads(lines[-1])["dropped_lines"] == log.dropped


async def test_a_log_on_a_full_disk_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog.open(Path("/dev/full"))
    for number in range(10):
        log.add({"number": number})
    await wait_until(lambda: log.dropped == 10)
    assert [record.msg for record in caplog.records] == ["access_log_failed"]
    await log.close()


async def test_every_request_has_an_id_and_a_trace_that_carries_it(world: World) -> None:
    toy = await world.toy("a", named("a"))
    for _ in range(3):
        await world.get()
    ids = [request.headers["X-Request-ID"] for request in toy.seen]
    traces = [request.headers["traceparent"] for request in toy.seen]
    assert len(set(ids)) == 3
    assert [trace.split("-")[1] for trace in traces] == ids
