"""The gateway before clients and instances that mean no good: hand-made bytes, one case each.

Every case asks the same of the gateway: one answer or an end, nothing of it at an instance that must not have it, and
all that it held is free again.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from gateway_world import CONFIG, DEADLINE_S, MIB, MakeWorld, Toy, World, named, wait_until

pytestmark = pytest.mark.integration

HOST = b"Host: shop.example\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

Serve = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Wire:
    """A client of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def response(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of one response with a length."""
        async with asyncio.timeout(DEADLINE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                ),
                0,
            )
            return int(head.split(b" ")[1]), head, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """All that comes until the gateway closes; a reset is an end too."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def leave(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def wired(world: World) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


async def refused(world: World, toy: Toy, request: bytes, status: int) -> dict[str, object]:
    """The one answer to a request that reaches no instance and ends its connection; its error."""
    async with wired(world) as wire:
        wire.send(request)
        found, head, body = await wire.response()
        assert (found, await wire.rest()) == (status, b"")
    assert b"connection: close" in head.lower()
    assert toy.seen == []
    await wait_until(lambda: world.in_flight == 0)
    error = json.loads(body)["error"]
    assert error["outcome"] == "not_applied"
    assert isinstance(error, dict)
    return error


# --- Requests that two could read differently ---


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, id="CL.TE"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED, id="TE.CL"),
        pytest.param(POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", id="two lengths"),
        pytest.param(POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", id="the same length twice"),
        pytest.param(POST + b"Content-Length: +4\r\n\r\nabcd", id="a length with a sign"),
        pytest.param(POST + b"Content-Length: 4, 4\r\n\r\nabcd", id="a list of lengths"),
        pytest.param(POST + b"Content-Length: 0x4\r\n\r\nabcd", id="a length in base 16"),
        pytest.param(POST + b"Content-Length: 99999999999999999999\r\n\r\n", id="a length over 64 bits"),
        pytest.param(POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", id="chunked is not last"),
        pytest.param(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="another coding"),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="TE twice"
        ),
        pytest.param(b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="TE in 1.0"),
        pytest.param(POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", id="tab before the colon"),
        pytest.param(POST + b"Content-Length : 4\r\n\r\nabcd", id="space before the colon"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n folded\r\n\r\n", id="a folded line"),
        pytest.param(b"GET / HTTP/1.1\n" + HOST + b"\r\n", id="a bare LF after the version"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", id="a bare LF after a header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n", id="a bare CR"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n", id="NUL in a value"),
        pytest.param(b"GET /a\0b HTTP/1.1\r\n" + HOST + b"\r\n", id="NUL in the target"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X\0: a\r\n\r\n", id="NUL in a name"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b": a\r\n\r\n", id="no name"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", id="a host that is none"),
        pytest.param(b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", id="a space in the target"),
        pytest.param(b"GET http:///path HTTP/1.1\r\n" + HOST + b"\r\n", id="an absolute target without a host"),
    ],
)
async def test_what_two_could_read_differently_is_400(world: World, request_bytes: bytes) -> None:
    toy = await world.toy("a", named("a"))
    error = await refused(world, toy, request_bytes, 400)
    assert error["code"] == "bad_request"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"zz\r\nabcd\r\n0\r\n\r\n", id="no number"),
        pytest.param(b"-4\r\nabcd\r\n0\r\n\r\n", id="a sign"),
        pytest.param(b"0x4\r\nabcd\r\n0\r\n\r\n", id="a prefix"),
        pytest.param(b"4 \r\nabcd\r\n0\r\n\r\n", id="a space"),
        pytest.param(b"fffffffffffffffff\r\n", id="over 64 bits"),
        pytest.param(b"4\r\nabcde\r\n0\r\n\r\n", id="too short"),
        pytest.param(b"4\nabcd\n0\n\n", id="bare LFs"),
        pytest.param(b"4\r\nabcd\r\n0\r\nContent-Length: 9\r\n\r\n", id="a length in the trailers"),
        pytest.param(b"4;a\nb\r\nabcd\r\n0\r\n\r\n", id="a bare LF in an extension"),
    ],
)
async def test_a_bad_chunk_ends_the_connection(world: World, body: bytes) -> None:
    """The instance may have the head, for a chunked POST streams; it has no whole request."""
    whole: list[bytes] = []

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole.append(await reader.readuntil(b"0\r\n\r\n"))

    await world.raw("a", serve)
    async with wired(world) as wire:
        wire.send(CHUNKED + body + SMUGGLED)
        answer = await wire.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert whole == []
    await wait_until(lambda: world.in_flight == 0)
    assert world.gateway.picture().failures == 0


@pytest.mark.parametrize(
    "piece",
    [b"1;" + b"x" * 1000 + b"\r\na\r\n", b"0\r\n" + b"T: " + b"x" * 1000 + b"\r\n"],
    ids=["extensions", "trailers"],
)
async def test_chunks_that_are_mostly_framing_are_400(world: World, piece: bytes) -> None:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    await world.raw("a", serve)
    async with wired(world) as wire:
        wire.send(CHUNKED + piece)
        for _ in range(200):
            wire.send(piece if piece.startswith(b"1") else b"T: " + b"x" * 1000 + b"\r\n")
            await asyncio.sleep(0)
        answer = await wire.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"mostly framing" in answer


async def test_an_absolute_target_names_the_host_whatever_the_header_says(world: World) -> None:
    """RFC 9112 3.2.2: so no two readers can disagree on it."""
    toy = await world.toy("a", named("a"))
    async with wired(world) as wire:
        wire.send(b"GET http://real.example/page HTTP/1.1\r\nHost: other.example\r\n\r\n")
        assert (await wire.response())[0] == 200
    (seen,) = toy.seen
    assert (seen.raw_path, seen.headers.getall("Host")) == ("/page", ["real.example"])


async def test_connect_is_405(world: World) -> None:
    toy = await world.toy("a", named("a"))
    request = b"CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example\r\n\r\n" + SMUGGLED
    assert (await refused(world, toy, request, 405))["code"] == "method_not_allowed"


async def test_another_version_of_http_is_505(world: World) -> None:
    toy = await world.toy("a", named("a"))
    await refused(world, toy, b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505)


async def test_te_and_trailers_stay_between_client_and_gateway(world: World) -> None:
    toy = await world.toy("a", named("a"))
    async with wired(world) as wire:
        wire.send(
            POST + b"TE: gzip, trailers\r\nTrailer: X-Sum\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n"
        )
        assert (await wire.response())[0] == 200
    (seen,) = toy.seen
    assert not {"TE", "Trailer", "X-Sum", "Content-Length"} & set(seen.headers)


async def test_an_offered_upgrade_with_a_body_does_not_hide_a_request_in_it(world: World) -> None:
    """The parser gives the body up for the upgrade; whoever went on reading there would answer the smuggled request."""
    bodies: list[bytes] = []

    async def answer(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.Response(text="ok")

    toy = await world.toy("a", answer)
    for protocol in (b"h2c", b"websocket"):
        async with wired(world) as wire:
            wire.send(
                POST
                + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: "
                + protocol
                + b"\r\nHTTP2-Settings: AAMAAABk\r\n"
                b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED + b"GET /after HTTP/1.1\r\nHost: x\r\n\r\n"
            )
            answered = await wire.rest()
        assert answered.count(b"HTTP/1.1 ") == 1
    assert bodies == [SMUGGLED, SMUGGLED]
    assert {request.path for request in toy.seen} == {"/"}
    assert all("Upgrade" not in request.headers for request in toy.seen)


# --- Too much ---


async def test_oversized_heads_are_431_and_targets_414(world: World) -> None:
    toy = await world.toy("a", named("a"))
    get = b"GET / HTTP/1.1\r\n" + HOST
    await refused(world, toy, get + b"X: " + b"x" * 17_000 + b"\r\n\r\n", 431)
    await refused(world, toy, get + b"".join(b"X-%d: 1\r\n" % number for number in range(101)) + b"\r\n", 431)
    await refused(world, toy, get + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 9_000) for n in range(9)) + b"\r\n", 431)
    await refused(world, toy, b"GET /" + b"x" * 17_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414)


@pytest.mark.parametrize(("start", "status"), [(b"GET / HTTP/1.1\r\n" + HOST + b"X: ", 431), (b"GET /", 414)])
async def test_a_head_without_end_is_bounded_while_it_comes(world: World, start: bytes, status: int) -> None:
    toy = await world.toy("a", named("a"))
    await refused(world, toy, start + b"x" * 200_000, status)


async def test_a_body_over_the_bound_is_413_declared_or_chunked(make_world: MakeWorld) -> None:
    world = await make_world(replace(CONFIG, body_bytes_max=100_000))
    toy = await world.toy("a", named("a"))
    await refused(world, toy, POST + b"Content-Length: 100001\r\n\r\n", 413)
    async with wired(world) as wire:
        wire.send(CHUNKED + b"4\r\nhalf\r\n")
        await wait_until(lambda: len(toy.seen) == 1)
        wire.send(b"%x\r\n" % 100_001 + bytes(100_001) + b"\r\n0\r\n\r\n")
        status, _, body = await wire.response()
    # The instance had the beginning of it.
    assert (status, json.loads(body)["error"]["outcome"]) == (413, "unknown")


async def test_connections_over_the_bound_are_told_503(make_world: MakeWorld) -> None:
    world = await make_world(replace(CONFIG, connections_max=2))
    await world.toy("a", named("a"))
    async with wired(world) as first, wired(world) as second:
        for wire in (first, second):
            wire.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await wire.response())[0] == 200
        async with wired(world) as third:
            assert (await third.response())[0] == 503
            assert await third.rest() == b""
        first.leave()
        await wait_until(lambda: world.plane.clients_count == 1)
        async with wired(world) as fourth:
            fourth.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await fourth.response())[0] == 200


async def test_pipelined_requests_wait_their_turn_and_have_a_bound(world: World) -> None:
    """What is beyond the bound is not answered, and the connection ends, so that the client knows."""
    in_flight = most = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0)
        in_flight -= 1
        return web.Response(text=request.path)

    toy = await world.toy("a", answer)
    async with wired(world) as wire:
        wire.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(200)))
        answered = await wire.rest()
    paths = [request.path for request in toy.seen]
    assert paths == [f"/{number}" for number in range(len(paths))]
    assert 1 < len(paths) < 100
    assert answered.count(b"HTTP/1.1 200") == len(paths)
    assert most == 1


async def test_after_an_error_nothing_that_was_pipelined_is_answered(world: World) -> None:
    toy = await world.toy("a", named("a"))
    async with wired(world) as wire:
        wire.send(b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\nGET /2 HTTP/1.1\r\nBad Header\r\n\r\n" + SMUGGLED * 3)
        answered = await wire.rest()
    assert re.findall(rb"HTTP/1.1 (\d+)", answered) == [b"200", b"400"]
    assert [request.path for request in toy.seen] == ["/1"]


async def test_after_connection_close_nothing_is_answered(world: World) -> None:
    toy = await world.toy("a", named("a"))
    async with wired(world) as wire:
        wire.send(b"GET /1 HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n" + SMUGGLED)
        assert (await wire.rest()).count(b"HTTP/1.1 ") == 1
    assert [request.path for request in toy.seen] == ["/1"]


# --- Too slow ---


async def test_a_head_that_drips_is_408(make_world: MakeWorld) -> None:
    world = await make_world(replace(CONFIG, head_timeout_s=0.3))
    toy = await world.toy("a", named("a"))
    began = time.monotonic()
    async with wired(world) as wire:
        answer = asyncio.create_task(wire.rest())
        for byte in b"GET / HTTP/1.1\r\nHost: shop.example\r\n" * 20:
            if answer.done():
                break
            wire.send(bytes([byte]))
            await asyncio.sleep(0.02)
        assert (await answer).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 5
    assert toy.seen == []


async def test_a_small_body_that_drips_is_408_and_reaches_nobody(make_world: MakeWorld) -> None:
    """Each byte comes in time; all of them have a bound, too."""
    world = await make_world(replace(CONFIG, idle_timeout_s=0.3))
    toy = await world.toy("a", named("a"))
    async with wired(world) as wire:
        wire.send(POST + b"Content-Length: 1000\r\n\r\n")
        answer = asyncio.create_task(wire.rest())
        while not answer.done():
            wire.send(b"x")
            await asyncio.sleep(0.05)
        assert (await answer).startswith(b"HTTP/1.1 408 ")
    assert toy.seen == []


async def test_a_body_that_stops_half_way_is_408_and_blames_nobody(make_world: MakeWorld) -> None:
    world = await make_world(replace(CONFIG, idle_timeout_s=0.3))
    await world.toy("a", named("a"))
    async with wired(world) as wire:
        wire.send(POST + b"Content-Length: 1000000\r\n\r\n" + bytes(10_000))
        assert (await wire.response())[0] == 408
    await wait_until(lambda: world.in_flight == 0)
    assert world.gateway.picture().failures == 0


# --- Leaving early ---


async def test_clients_that_leave_at_any_moment_leave_nothing(world: World) -> None:
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(bytes(1000))
        await release.wait()
        return response

    await world.toy("a", answer)
    beginnings = [
        b"",
        b"GET",
        POST,
        POST + b"Content-Length: 9\r\n\r\nhalf",
        CHUNKED + b"4\r\nhalf\r\n",
        CHUNKED + b"ff",
    ]
    beginnings += [b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", b"GET / HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED]
    for beginning in beginnings:
        async with wired(world) as wire:
            wire.send(beginning)
            await asyncio.sleep(0.02)
            wire.leave()
    await wait_until(lambda: world.in_flight == 0 and world.plane.clients_count == 0)
    assert world.gateway.picture().failures == 0
    release.set()


# --- Instances that mean no good ---


def saying(response: bytes) -> Serve:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response)

    return serve


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="CL and TE"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", id="an unknown coding"),
        pytest.param(b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n", id="a status of two digits"),
        pytest.param(b"HTTP/1.1 700 High\r\nContent-Length: 0\r\n\r\n", id="a status over 599"),
        pytest.param(b"HTTP/1.1 abc\r\nContent-Length: 0\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", id="bare LFs"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", id="a folded line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n", id="NUL"),
        pytest.param(
            b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", id="101"
        ),
        pytest.param(b"HTTP/1.1 103 Early\r\n\r\n" * 40, id="early hints without end"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"Content-Length: 0\r\n\r\n", id="too many headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 600_000, id="a header without end"),
        pytest.param(b"\x16\x03\x01", id="no HTTP"),
    ],
)
async def test_a_response_that_two_could_read_differently_is_502(world: World, response: bytes) -> None:
    await world.raw("a", saying(response))
    async with wired(world) as wire:
        wire.send(POST + b"Content-Length: 0\r\n\r\nGET /next HTTP/1.1\r\n" + HOST + b"\r\n")
        status, head, body = await wire.response()
        while status == 103:
            status, head, body = await wire.response()
        assert (status, json.loads(body)["error"]["code"]) == (502, "bad_gateway")
        assert b"X-Noctule-Gateway: 1" in head
        # The connection to the client is sound: the next request has an answer of its own.
        while (status := (await wire.response())[0]) == 103:
            pass
        assert status == 502


async def test_an_apps_own_unfit_header_takes_no_instance_out(world: World) -> None:
    """Nor is it tried elsewhere: another instance of the same app would hardly answer otherwise."""
    served = 0

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        writer.write(b"HTTP/1.1 200 OK\r\nX-Name: caf\xe9\r\nContent-Length: 0\r\n\r\n")

    for name in ("a", "b"):
        await world.raw(name, serve)
    for _ in range(5):
        status, text, _ = await world.get()
        assert (status, json.loads(text)["error"]["message"].count("X-Name is not valid UTF-8")) == (502, 1)
    assert served == 5
    assert (world.state("a"), world.state("b"), world.gateway.picture().failures) == ("healthy", "healthy", 0)


@pytest.mark.parametrize("length", [0, 20, 45])
async def test_a_response_in_waiting_answers_nobody_elses_request(world: World, length: int) -> None:
    """Two responses to one request, the second perhaps in part: it must not become the answer to the next request."""
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    connections: set[asyncio.StreamWriter] = set()

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        writer.write(response + b"mine" + (response + b"evil")[:length])

    await world.raw("a", serve)
    assert [(await world.get())[1] for _ in range(5)] == ["mine"] * 5
    assert len(connections) == (5 if length else 1)


async def test_bytes_that_come_late_end_the_kept_connection(world: World) -> None:
    connections = 0

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine")
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        assert await reader.read() == b""

    await world.raw("a", serve)
    for _ in range(3):
        assert (await world.get())[1] == "mine"
        await asyncio.sleep(0.1)
    assert connections == 3


async def test_the_response_to_head_leaves_no_doubt(world: World) -> None:
    """A length without a body, then the same connection again; and an instance that sends a body all the same."""

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b"" if head.startswith(b"HEAD /good") else b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        if head.startswith(b"GET"):
            body = b"m" * len(body)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) or 7) + body)

    await world.raw("a", serve)
    for path in ("/good", "/bad", "/good"):
        async with world.client.head(world.url + path) as response:
            assert response.status == 200
        assert set((await world.get())[1]) == {"m"}


async def test_an_instance_that_closes_early_is_never_taken_for_whole(world: World) -> None:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")
        await writer.drain()
        writer.transport.abort()

    await world.raw("a", serve)
    with pytest.raises(aiohttp.ClientError):
        await world.get()
    async with wired(world) as wire:
        wire.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert b"\r\n0\r\n\r\n" not in await wire.rest()


async def test_a_refused_upgrade_goes_on_as_http(world: World) -> None:
    """What the client sent after its handshake, believing in it, is a request again; no tunnel was opened."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=426 if request.path == "/ws" else 200, text=request.path)

    toy = await world.toy("a", answer)
    handshake = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    handshake += b"Sec-WebSocket-Version: 777\r\n\r\n"
    async with wired(world) as wire:
        wire.send(handshake + b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [(await wire.response())[0] for _ in range(2)] == [426, 200]
    assert [request.path for request in toy.seen] == ["/ws", "/next"]
    assert world.plane.tunnels_count == 0


async def test_a_great_response_to_a_client_that_leaves_is_not_read_to_its_end(world: World) -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 512 * MIB:
            await response.write(bytes(MIB))
            sent += MIB
        return response

    await world.toy("a", answer)
    async with wired(world) as wire:
        wire.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        await wire.reader.readline()
        wire.leave()
    await wait_until(lambda: world.in_flight == 0)
    assert sent < 128 * MIB
