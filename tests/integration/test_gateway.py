"""The embedded gateway before real HTTP servers: toys in this process, and processes that are killed."""

import asyncio
import gzip
import json
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSCloseCode, WSMsgType, web
from gateway_world import CONFIG, DEADLINE_S, MIB, MakeWorld, Settings, World, named, wait_until
from yarl import URL

from noctule.base.errors import ConfigError, UnavailableError
from noctule.gateway.gateway import Gateway
from noctule.gateway.instances import Instance
from noctule.gateway.orders import Orders

pytestmark = pytest.mark.integration

# --- Choosing an instance ---


async def test_sequential_requests_are_spread_evenly(world: World) -> None:
    for instance_id in ("a", "b", "c"):
        await world.toy(instance_id, named(instance_id))
    answers = Counter([(await world.get())[1] for _ in range(30)])
    assert answers == {"a": 10, "b": 10, "c": 10}
    picture = world.gateway.picture()
    assert [(instance.requests, instance.failures) for instance in picture.instances] == [(10, 0)] * 3
    assert (picture.requests, picture.in_flight, picture.failures) == (30, 0, 0)


async def test_killing_an_instance_fails_no_get(world: World, tmp_path: Path) -> None:
    processes = {name: await world.process(name, tmp_path) for name in ("a", "b", "c")}
    answers: Counter[tuple[int, str]] = Counter()
    is_over = asyncio.Event()

    async def load() -> None:
        while not is_over.is_set():
            status, text, _ = await world.get("/page")
            answers[status, text] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(load())
        await wait_until(lambda: answers[200, "b"] > 20)
        assert any(i.in_flight for i in world.gateway.picture().instances if i.id == "b")
        processes["b"].send_signal(signal.SIGKILL)
        await wait_until(lambda: world.state("b") == "unhealthy")
        reached = answers.total()
        await wait_until(lambda: answers.total() > reached + 200)
        is_over.set()
    assert {status for status, _ in answers} == {200}
    assert world.state("a") == world.state("c") == "healthy"


async def test_a_refused_connection_takes_an_instance_out_at_once(make_world: MakeWorld) -> None:
    """The probes are too far apart to be the ones who notice; a POST may go on, for nothing of it was sent."""
    world = await make_world(replace(CONFIG, health_interval_s=600.0))
    gone = await world.toy("gone", named("gone"))
    await world.toy("here", named("here"))
    await gone.runner.cleanup()
    async with world.client.post(world.url, data=b"once") as response:
        assert (response.status, await response.text()) == (200, "here")
        assert response.headers["X-Noctule-Gateway"] == "2"
    assert world.state("gone") == "unhealthy"
    assert [(await world.get())[2]["X-Noctule-Gateway"] for _ in range(4)] == ["1"] * 4


async def test_failing_probes_take_an_instance_out_and_a_good_one_brings_it_back(world: World) -> None:
    toy = await world.toy("a", named("a"))
    toy.is_ready = False
    await wait_until(lambda: world.state("a") == "unhealthy")
    status, text, headers = await world.get()
    assert status == 503
    assert json.loads(text)["error"]["code"] == "unavailable"
    assert (headers["Retry-After"], headers["X-Noctule-Gateway"]) == ("1", "0")
    toy.is_ready = True
    await wait_until(lambda: world.state("a") == "healthy")
    assert (await world.get())[:2] == (200, "a")


async def test_without_instances_the_answer_is_503(world: World) -> None:
    async with world.client.post(world.url, data=b"x", headers={"X-Request-ID": "mine"}) as response:
        assert response.status == 503
        assert response.headers["X-Request-ID"] == "mine"
        assert await response.json() == {
            "error": {
                "code": "unavailable",
                "message": "no instance of the app is healthy",
                "retryable": True,
                "outcome": "not_applied",
            }
        }


async def test_waiting_for_health_says_who_is_missing(world: World) -> None:
    await world.toy("a", named("a"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        world.list(Instance("b", *closed.getsockname()))
        await world.gateway.wait_healthy(1, 5.0)
        with pytest.raises(UnavailableError, match=r"1 of 2 instances are healthy after 0.1 s: .*b is starting"):
            await world.gateway.wait_healthy(2, 0.1)
        world.remove("b")
    assert [instance.id for instance in world.gateway.picture().instances] == ["a"]


# --- Trying again, and not trying again ---


class Swallower:
    """Reads each request whole and closes the connection without an answer."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    async def serve(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                await reader.readexactly(int(line.split(b":")[1]))
        self.methods.append(head.split(b" ")[0].decode())
        writer.close()


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_post_is_executed_once_though_its_connection_breaks(world: World, method: str) -> None:
    swallower = Swallower()
    for instance_id in ("a", "b", "c"):
        await world.raw(instance_id, swallower.serve)
    async with world.client.request(method, world.url, data=b"x" * 1000) as response:
        error = (await response.json())["error"]
        assert response.status == 502
        assert response.headers["X-Noctule-Gateway"] == "1"
        assert (error["code"], error["retryable"], error["outcome"]) == ("bad_gateway", False, "unknown")
    assert swallower.methods == [method]


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "PUT", "DELETE"])
async def test_an_idempotent_request_goes_to_each_instance_once(world: World, method: str) -> None:
    """Exactly three: aiohttp's own second attempt on the same instance must not come on top."""
    swallower = Swallower()
    for instance_id in ("a", "b", "c", "d"):
        await world.raw(instance_id, swallower.serve)
    async with world.client.request(method, world.url, data=b"body") as response:
        error = (await response.json())["error"]
        assert response.status == 502
        assert response.headers["X-Noctule-Gateway"] == "3"
        assert (error["retryable"], error["outcome"]) == (
            True,
            "unknown" if method in ("PUT", "DELETE") else "not_applied",
        )
    assert swallower.methods == [method] * 3
    assert [instance.requests for instance in world.gateway.picture().instances] == [1, 1, 1, 0]


async def test_a_put_arrives_whole_at_the_second_instance(world: World) -> None:
    swallower = Swallower()
    await world.raw("a", swallower.serve)

    async def length(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    await world.toy("b", length)
    for data in (b"x" * 60_000, _pieces(b"x" * 30_000, 2)):
        async with world.client.put(world.url, data=data) as response:
            assert (response.status, await response.text()) == (200, "60000")
    assert swallower.methods.count("PUT") >= 1


async def test_a_long_put_is_not_sent_again(world: World) -> None:
    """Over 64 KiB the body is not held, so there is nothing to send to a second instance."""
    swallower = Swallower()
    for instance_id in ("a", "b"):
        await world.raw(instance_id, swallower.serve)
    async with world.client.put(world.url, data=b"x" * 70_000) as response:
        assert response.status == 502
        assert response.headers["X-Noctule-Gateway"] == "1"
    assert swallower.methods == ["PUT"]


async def test_an_instance_that_closed_a_kept_connection_is_not_blamed(world: World) -> None:
    """It answers the first request of each connection, and closes at the second; it is the only instance."""
    connections: Counter[asyncio.StreamWriter] = Counter()
    methods: list[str] = []

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[writer] += 1
        if connections[writer] > 1:
            writer.close()
            return
        if head.startswith(b"POST"):
            await reader.readexactly(4)
        methods.append(head.split(b" ")[0].decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    await world.raw("a", serve)
    assert (await world.get())[2]["X-Noctule-Gateway"] == "1"
    assert max(connections.values()) == 1
    status, text, headers = await world.get()
    assert (status, text, headers["X-Noctule-Gateway"]) == (200, "ok", "2")
    assert max(connections.values()) == 2
    for _ in range(3):
        async with world.client.post(world.url, data=b"data") as response:
            assert (response.status, response.headers["X-Noctule-Gateway"]) == (200, "1")
    assert methods == ["GET", "GET", "POST", "POST", "POST"]
    assert world.gateway.picture().failures == 0


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_an_apps_own_5xx_is_passed_on(world: World, status: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, reason="So It Is", text="mine")

    toys = [await world.toy(instance_id, answer) for instance_id in ("a", "b")]
    async with world.client.get(world.url) as response:
        assert (response.status, response.reason, await response.text()) == (status, "So It Is", "mine")
    assert sum(len(toy.seen) for toy in toys) == 1
    assert world.gateway.picture().failures == 0


async def test_a_slow_instance_is_504(make_world: MakeWorld) -> None:
    world = await make_world(replace(CONFIG, response_timeout_s=0.2))
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    toys = [await world.toy(instance_id, answer) for instance_id in ("a", "b")]
    for method, outcome in (("POST", "unknown"), ("GET", "not_applied")):
        async with world.client.request(method, world.url) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"], error["outcome"]) == (504, "outcome_unknown", outcome)
    assert sum(len(toy.seen) for toy in toys) == 2
    assert world.gateway.picture().failures == 2
    release.set()


async def test_an_instance_that_does_not_take_the_body_is_504(make_world: MakeWorld) -> None:
    world = await make_world(replace(CONFIG, response_timeout_s=0.3))
    release = asyncio.Event()

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    await world.raw("a", serve)
    async with world.client.post(world.url, data=_pieces(bytes(MIB), 60)) as response:
        assert (response.status, (await response.json())["error"]["outcome"]) == (504, "unknown")
    release.set()


async def test_a_slow_client_is_not_the_instances_fault(make_world: MakeWorld) -> None:
    world = await make_world(replace(CONFIG, response_timeout_s=0.2))
    toy = await world.toy("a", mirror)

    async def hesitate() -> AsyncIterator[bytes]:
        yield b"one"
        await wait_until(lambda: len(toy.seen) == 1)
        # Longer than the instance would have.
        await asyncio.sleep(0.5)
        yield b"two"

    async with world.client.post(world.url, data=hesitate()) as response:
        assert (response.status, (await response.json())["length"]) == (200, 6)


async def test_a_client_that_leaves_ends_its_request(world: World) -> None:
    is_ended = asyncio.Event()

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Nothing is answered; the end of the gateway's connection is awaited.
        assert await reader.read() == b""
        is_ended.set()

    await world.raw("a", serve)
    _, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await wait_until(lambda: world.gateway.picture().in_flight == 1)
    writer.close()
    await asyncio.wait_for(is_ended.wait(), DEADLINE_S)
    await wait_until(lambda: world.gateway.picture().in_flight == 0)
    assert world.gateway.picture().failures == 0


async def test_a_response_that_breaks_off_is_not_passed_off_as_whole(world: World) -> None:
    """A part of a long one, or of one of no known length, is with the client by then; a short one is held."""
    await world.raw("a", BreakingOff().serve)
    for path in ("/long", "/chunked"):
        with pytest.raises(aiohttp.ClientError):
            await world.get(path)
    assert (await world.get("/short"))[0] == 502
    await wait_until(lambda: world.gateway.picture().in_flight == 0)
    assert world.gateway.picture().failures == 3


class BreakingOff:
    """Closes each connection within its answer, and counts those that were short."""

    def __init__(self) -> None:
        self.short = 0

    async def serve(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match head.split(b" ")[1]:
            case b"/long":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\npart")
            case b"/chunked":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")
            case _:
                self.short += 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
                await writer.drain()
                writer.write(b"part")
        await writer.drain()
        writer.close()


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_short_answer_that_breaks_off_is_given_by_another_instance(world: World, method: str) -> None:
    breaking = BreakingOff()
    for instance_id in ("a", "b"):
        await world.raw(instance_id, breaking.serve)
    await world.toy("c", named("c"))
    for _ in range(3):
        async with world.client.request(method, world.url, data=b"body") as response:
            assert (response.status, await response.text()) == (200, "c")
            assert 1 <= int(response.headers["X-Noctule-Gateway"]) <= 3
    assert breaking.short >= 2
    assert world.gateway.picture().failures == breaking.short


# --- Draining and stopping ---


async def test_draining_finishes_what_is_there_and_refuses_nobody(world: World) -> None:
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/slow":
            await release.wait()
        return web.Response(text="a")

    slow_toy = await world.toy("a", answer)
    slow = asyncio.create_task(world.get("/slow"))
    await wait_until(lambda: len(slow_toy.seen) == 1)
    other = await world.toy("b", named("b"))
    assert await world.drain("a", timeout_s=0.05) is False
    draining = asyncio.create_task(world.drain("a"))
    await wait_until(lambda: world.state("a") == "draining")
    assert {(await world.get())[:2] for _ in range(20)} == {(200, "b")}
    assert (len(slow_toy.seen), len(other.seen)) == (1, 20)
    assert not draining.done()
    release.set()
    assert (await slow)[:2] == (200, "a")
    assert await draining is True
    world.remove("a")
    assert [instance.id for instance in world.gateway.picture().instances] == ["b"]


async def test_a_503_of_a_draining_instance_is_tried_elsewhere(world: World) -> None:
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response(status=503, text="shutting down")

    toy = await world.toy("a", answer)
    get = asyncio.create_task(world.get())
    post = asyncio.create_task(world.client.post(world.url, data=b"x"))
    await wait_until(lambda: len(toy.seen) == 2)
    other = await world.toy("b", named("b"))
    draining = asyncio.create_task(world.drain("a"))
    await wait_until(lambda: world.state("a") == "draining")
    release.set()
    status, text, headers = await get
    assert (status, text, headers["X-Noctule-Gateway"]) == (200, "b", "2")
    async with await post as response:
        assert (response.status, await response.text()) == (503, "shutting down")
    assert await draining
    assert [request.method for request in other.seen] == ["GET"]


async def test_stopping_finishes_requests_and_cuts_websockets(world: World) -> None:
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/ws":
            return await echo(request)
        await release.wait()
        return web.Response(text="done")

    toy = await world.toy("a", answer)
    slow = asyncio.create_task(world.get("/slow"))
    async with world.client.ws_connect(world.url + "/ws") as websocket:
        await wait_until(lambda: len(toy.seen) == 2)
        address = ("127.0.0.1", world.gateway.port)
        stopping = asyncio.create_task(world.gateway.stop(drain_s=0.5))
        await wait_until(lambda: not _accepts(address))
        await websocket.send_str("still here")
        assert await websocket.receive_str() == "still here"
        release.set()
        status, text, headers = await slow
        assert (status, text, headers["Connection"]) == (200, "done", "close")
        assert (await websocket.receive(timeout=DEADLINE_S)).type is WSMsgType.CLOSE
        assert websocket.close_code == WSCloseCode.GOING_AWAY
        await asyncio.wait_for(stopping, DEADLINE_S)
    await world.gateway.stop()


def _accepts(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


async def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        gateway = Gateway(Orders(Settings(port=port).model()))
        with pytest.raises(ConfigError, match=rf"^gateway: 127\.0\.0\.1:{port} is in use .* choose another port .*$"):
            await gateway.start()
    await gateway.start()
    assert gateway.port == port
    await gateway.stop(0.0)


# --- Heads and bodies ---


async def mirror(request: web.Request) -> web.Response:
    """What came, as JSON."""
    body = await request.read()
    return web.json_response(
        {
            "target": request.raw_path,
            "headers": [[name, value] for name, value in request.headers.items()],
            "length": len(body),
        }
    )


@pytest.mark.parametrize("target", ["/", "/?", "/a%2Fb%zz?x=%20&y=a+b&&z", "//x//../y/./", "/~me;v=1/%E2%82%AC?q=a?b"])
async def test_the_target_passes_byte_for_byte(world: World, target: str) -> None:
    await world.toy("a", mirror)
    answer = await world.exchange(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["target"] == target


async def test_headers_reach_the_app_as_the_client_sent_them(world: World) -> None:
    await world.toy("a", mirror)
    request = (
        b'POST / HTTP/1.1\r\nHost: shop.example\r\nCookie: a=1; b="2"\r\nX-Two: 1\r\nX-Two: 2\r\n'
        b"X-Forwarded-For: 10.0.0.1\r\nX-Request-ID: mine\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n"
        b"Content-Length: 2\r\n\r\nhi"
    )
    answer = await world.exchange(request)
    head, _, body = answer.partition(b"\r\n\r\n")
    seen = sorted(json.loads(body)["headers"])
    traces = [value for name, value in seen if name == "traceparent"]
    assert [bool(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", trace)) for trace in traces] == [True]
    # Neither a User-Agent, an Accept-Encoding nor a Content-Type that the client did not send.
    assert [pair for pair in seen if pair[0] != "traceparent"] == [
        ["Content-Length", "2"],
        ["Cookie", 'a=1; b="2"'],
        ["Host", "shop.example"],
        ["X-Forwarded-For", "127.0.0.1"],
        ["X-Forwarded-Host", "shop.example"],
        ["X-Forwarded-Proto", "http"],
        ["X-Real-IP", "127.0.0.1"],
        ["X-Request-ID", "mine"],
        ["X-Two", "1"],
        ["X-Two", "2"],
    ]
    assert b"X-Noctule-Gateway: 1" in head
    assert b"X-Request-ID: mine" in head


async def test_a_trusted_proxy_is_believed(make_world: MakeWorld) -> None:
    world = await make_world(replace(CONFIG, trusted_proxies=("127.0.0.0/8",)))
    await world.toy("a", mirror)
    _, text, _ = await world.get(headers={"X-Forwarded-For": "203.0.113.5", "X-Forwarded-Proto": "https"})
    headers = dict(json.loads(text)["headers"])
    assert headers["X-Forwarded-For"] == "203.0.113.5, 127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "https"


async def test_the_response_is_the_apps_own(world: World) -> None:
    """Compressed bytes, several cookies and a redirect pass untouched; nothing is added but what is promised."""
    packed = gzip.compress(b"hello")

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 303 Over There\r\nLocation: /elsewhere\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2; Path=/\r\n"
            b"Content-Encoding: gzip\r\nConnection: X-Hop\r\nX-Hop: 1\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(packed), packed)
        )

    await world.raw("a", serve)
    answer = await world.exchange(b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: r\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == packed
    assert sorted(head.split(b"\r\n")) == [
        b"Connection: close",
        b"Content-Encoding: gzip",
        b"Content-Length: %d" % len(packed),
        b"Date: Mon, 01 Jan 2024 00:00:00 GMT",
        b"HTTP/1.1 303 Over There",
        b"Location: /elsewhere",
        b"Set-Cookie: a=1",
        b"Set-Cookie: b=2; Path=/",
        b"X-Noctule-Gateway: 1",
        b"X-Request-ID: r",
    ]


async def test_responses_without_a_body(world: World) -> None:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status = {b"/204": b"204 No Content", b"/304": b"304 Not Modified"}.get(head.split(b" ")[1], b"200 OK")
        length = b"" if status.startswith(b"204") else b"Content-Length: 12345\r\n"
        writer.write(b"HTTP/1.1 " + status + b"\r\nETag: W/1\r\n" + length + b"\r\n")

    await world.raw("a", serve)
    for method, path, status in (("HEAD", "/", 200), ("GET", "/204", 204), ("GET", "/304", 304)):
        async with world.client.request(method, world.url + path) as response:
            assert (response.status, await response.read()) == (status, b"")
            assert response.headers["ETag"] == "W/1"
            assert response.headers.get("Content-Length") == ("12345" if method == "HEAD" else None)
            assert "Transfer-Encoding" not in response.headers


async def test_http_1_0_gets_no_chunks(world: World) -> None:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    await world.raw("a", serve)
    head, _, body = (await world.exchange(b"GET / HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")
    assert body == b"hello"
    assert b"transfer-encoding" not in head.lower()


async def _pieces(piece: bytes, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield piece


async def test_an_upload_streams(world: World) -> None:
    """The client sends each piece only when the app has the one before, so nobody can hold them back."""
    received = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal received
        async for piece in request.content.iter_any():
            received += len(piece)
        return web.Response(text=str(received))

    await world.toy("a", answer)

    async def upload(method: str) -> AsyncIterator[bytes]:
        for number in range(8):
            yield bytes(MIB)
            # A PUT may be read ahead by 64 KiB, which is less than a piece.
            await wait_until(lambda: received == (number + 1) * MIB)  # noqa: B023 - awaited at once

    for method in ("POST", "PUT"):
        received = 0
        async with world.client.request(method, world.url, data=upload(method)) as response:
            assert await response.text() == str(8 * MIB)


async def test_a_download_streams(world: World) -> None:
    """The app sends each piece only when the client has the one before."""
    received = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(8):
            await response.write(bytes(MIB))
            await wait_until(lambda: received == (number + 1) * MIB)  # noqa: B023 - awaited at once
        return response

    await world.toy("a", answer)
    async with world.client.get(world.url) as response:
        async for piece in response.content.iter_any():
            received += len(piece)
    assert received == 8 * MIB


async def test_a_client_that_does_not_read_stops_the_instance_and_its_leaving_frees_it(world: World) -> None:
    """What is sent and not read stands in the kernel's buffers and two of 64 KiB here: far from all of it."""
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
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readline()
    before = -1
    while sent != before:
        before = sent
        # It has stopped when a time in which it would send many pieces brings none.
        await asyncio.sleep(0.3)
    assert sent < 64 * MIB
    assert world.gateway.picture().in_flight == 1
    writer.transport.abort()
    await wait_until(lambda: world.gateway.picture().in_flight == 0)
    assert world.gateway.picture().failures == 0


async def test_a_body_over_the_bound_is_413(make_world: MakeWorld) -> None:
    world = await make_world(replace(CONFIG, body_bytes_max=100_000))
    toy = await world.toy("a", mirror)
    async with world.client.post(world.url, data=bytes(100_000)) as response:
        assert (response.status, (await response.json())["length"]) == (200, 100_000)
    toy.seen.clear()
    declared = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    writer.write(declared)
    assert await reader.readline() == b"HTTP/1.1 413 Request Entity Too Large\r\n"
    writer.close()
    assert toy.seen == []
    async with world.client.post(world.url, data=_pieces(bytes(10_000), 11)) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (413, "too_large")


async def test_a_client_that_asks_is_told_to_continue(world: World) -> None:
    await world.toy("a", mirror)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    writer.write(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hello")
    answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert seen["length"] == 5
    assert "Expect" not in dict(seen["headers"])


async def test_a_client_that_stops_sending_is_408(make_world: MakeWorld) -> None:
    world = await make_world(replace(CONFIG, idle_timeout_s=0.2))
    toy = await world.toy("a", mirror)
    for framing in (b"Content-Length: 10\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing)
        assert (await asyncio.wait_for(reader.readline(), DEADLINE_S)).startswith(b"HTTP/1.1 408 ")
        writer.close()
    await wait_until(lambda: world.gateway.picture().in_flight == 0)
    assert world.gateway.picture().failures == 0
    assert len(toy.seen) <= 1


# --- Clients that mean no good, or no HTTP ---

INNER = b"0\r\n\r\nGET /in HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLED = [
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + INNER,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + INNER,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 4\r\n\r\nabcd",
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n",
]


@pytest.mark.parametrize("request_bytes", SMUGGLED)
async def test_a_request_that_two_could_read_differently_is_refused(world: World, request_bytes: bytes) -> None:
    toy = await world.toy("a", mirror)
    answer = await world.exchange(request_bytes)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert answer.count(b"HTTP/1.") == 1
    assert toy.seen == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Latin: caf\xe9\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
async def test_garbage_is_400_in_json_and_others_do_not_notice(world: World, garbage: bytes) -> None:
    toy = await world.toy("a", mirror)
    is_over = asyncio.Event()

    async def neighbour() -> set[int]:
        statuses = {(await world.get())[0]}
        while not is_over.is_set():
            statuses.add((await world.get())[0])
        return statuses

    others = asyncio.create_task(neighbour())
    head, _, body = (await world.exchange(garbage)).partition(b"\r\n\r\n")
    is_over.set()
    assert b" 400 " in head.split(b"\r\n")[0]
    error = json.loads(body)["error"]
    assert (error["code"], error["outcome"], "\n" in error["message"]) == ("bad_request", "not_applied", False)
    assert await others == {200}
    assert all(request.path == "/" and "X-Latin" not in request.headers for request in toy.seen)


async def test_a_body_that_turns_to_garbage_ends_at_once_and_blames_no_instance(world: World) -> None:
    toy = await world.toy("a", mirror)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    await wait_until(lambda: len(toy.seen) == 1)
    writer.write(b"zz\r\nGET /in HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.") == 1
    assert [request.path for request in toy.seen] == ["/"]
    await wait_until(lambda: world.gateway.picture().in_flight == 0)
    assert world.gateway.picture().failures == 0


async def test_over_the_bound_in_flight_is_503(make_world: MakeWorld) -> None:
    world = await make_world(replace(CONFIG, in_flight_max=2))
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response(text="a")

    toy = await world.toy("a", answer)
    held = [asyncio.create_task(world.get()) for _ in range(2)]
    await wait_until(lambda: len(toy.seen) == 2)
    assert (await world.get())[0] == 503
    release.set()
    assert [(await task)[0] for task in held] == [200, 200]


# --- WebSockets ---


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Sends back what comes; the text ``close`` closes with 4002."""
    websocket = web.WebSocketResponse(protocols=("chat.v2", "chat.v1"), autoping=False, max_msg_size=0)
    websocket.headers["Set-Cookie"] = "seen=1"
    await websocket.prepare(request)
    async for message in websocket:
        match message.type:
            case WSMsgType.TEXT if message.data == "close":
                await websocket.close(code=4002, message=b"as you wish")
            case WSMsgType.TEXT:
                await websocket.send_str(message.data)
            case WSMsgType.BINARY:
                await websocket.send_bytes(message.data)
            case WSMsgType.PING:
                await websocket.pong(b"re:" + message.data)
    return websocket


async def test_websocket_messages_pass_both_ways(world: World) -> None:
    await world.toy("a", echo)
    url = world.url + "/ws?room=%2f"
    async with world.client.ws_connect(
        URL(url, encoded=True), protocols=("chat.v1", "chat.v2"), autoping=False
    ) as websocket:
        assert websocket.protocol == "chat.v1"
        await websocket.send_str("grüße")
        assert (await websocket.receive_str()) == "grüße"
        await websocket.send_bytes(bytes(MIB))
        assert (await websocket.receive_bytes()) == bytes(MIB)
        # The instance's own pong comes back, not one made by the gateway.
        await websocket.ping(b"hello")
        pong = await websocket.receive()
        assert (pong.type, bytes(pong.data)) == (WSMsgType.PONG, b"re:hello")
        assert world.gateway.picture().in_flight == 1
    await wait_until(lambda: world.gateway.picture().in_flight == 0)


async def test_websocket_handshake_headers_pass(world: World) -> None:
    toy = await world.toy("a", echo)
    handshake = (
        b"GET /ws?room=%2f HTTP/1.1\r\nHost: shop.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: a=1\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    writer.write(handshake)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
    writer.close()
    assert head.startswith(b"HTTP/1.1 101 ")
    # The key's answer is RFC 6455's own example (1.3).
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    assert b"Set-Cookie: seen=1" in head
    assert b"X-Noctule-Gateway: 1" in head
    (seen,) = toy.seen
    assert seen.raw_path == "/ws?room=%2f"
    assert (seen.headers["Host"], seen.headers["Cookie"]) == ("shop.example", "a=1")
    assert seen.headers["X-Forwarded-For"] == "127.0.0.1"


async def test_a_handshake_waits_its_turn_and_frames_sent_with_it_are_not_lost(world: World) -> None:
    """A client may pipeline all of it: a request, a handshake, and a masked text frame "hi"."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await echo(request) if request.path == "/ws" else web.Response(text="first")

    await world.toy("a", answer)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x82\0\0\0\0hi"
    )
    async with asyncio.timeout(DEADLINE_S):
        assert b" 200 OK" in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(5) == b"first"
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(4) == b"\x81\x02hi"
    writer.close()


async def test_close_codes_pass_both_ways(world: World) -> None:
    closed: list[int | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        websocket = await echo(request)
        closed.append(websocket.close_code)
        return websocket

    await world.toy("a", answer)
    async with world.client.ws_connect(world.url) as websocket:
        await websocket.send_str("close")
        message = await websocket.receive(timeout=DEADLINE_S)
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4002, "as you wish")
    # This client answers each close with 1000, and that is what its peer sees.
    await wait_until(lambda: closed == [WSCloseCode.OK])
    async with world.client.ws_connect(world.url) as websocket:
        await websocket.close(code=4001, message=b"bye")
    await wait_until(lambda: closed == [WSCloseCode.OK, 4001])


async def test_a_client_that_vanishes_ends_the_instances_side(world: World) -> None:
    closed: list[int | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        websocket = await echo(request)
        closed.append(websocket.close_code)
        return websocket

    await world.toy("a", answer)
    websocket = await world.client.ws_connect(world.url)
    found = websocket.get_extra_info("socket")
    assert found is not None
    with socket.socket(fileno=os.dup(found.fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)
    await wait_until(lambda: closed == [WSCloseCode.GOING_AWAY])
    await wait_until(lambda: world.gateway.picture().in_flight == 0)
    await websocket.close()


async def test_an_instance_that_is_killed_ends_the_clients_side(world: World, tmp_path: Path) -> None:
    process = await world.process("a", tmp_path)
    async with world.client.ws_connect(world.url + "/ws") as websocket:
        await websocket.send_str("hello")
        assert await websocket.receive_str() == "hello"
        process.send_signal(signal.SIGKILL)
        message = await websocket.receive(timeout=DEADLINE_S)
        assert (message.type, message.data) == (WSMsgType.CLOSE, WSCloseCode.BAD_GATEWAY)
    await wait_until(lambda: world.state("a") == "unhealthy")


async def test_a_large_message_passes_whole_both_ways(world: World) -> None:
    """The tunnel holds no message, so it bounds none."""
    await world.toy("a", echo)
    async with world.client.ws_connect(world.url, max_msg_size=0) as websocket:
        message = os.urandom(16 * MIB)
        await websocket.send_bytes(message)
        assert await websocket.receive_bytes() == message


async def test_a_denied_handshake_is_the_apps_own_answer(world: World) -> None:
    async def deny(request: web.Request) -> web.Response:
        return web.Response(status=403, text="members only", headers={"X-Why": "rules"})

    await world.toy("a", deny)
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    status, text, answered = await world.get("/ws", headers={**headers, **key})
    assert (status, text, answered["X-Why"]) == (403, "members only", "rules")
    assert (await world.get("/again"))[0] == 403


async def test_a_websocket_handshake_is_tried_elsewhere(world: World) -> None:
    swallower = Swallower()
    await world.raw("a", swallower.serve)
    await world.toy("b", echo)
    async with world.client.ws_connect(world.url) as websocket:
        await websocket.send_str("hello")
        assert await websocket.receive_str() == "hello"
    assert swallower.methods == ["GET"]


async def test_draining_waits_for_websockets(world: World) -> None:
    await world.toy("a", echo)
    async with world.client.ws_connect(world.url) as websocket:
        await world.toy("b", echo)
        assert await world.drain("a", timeout_s=0.05) is False
        await websocket.send_str("still here")
        assert await websocket.receive_str() == "still here"
        draining = asyncio.create_task(world.drain("a"))
    assert await asyncio.wait_for(draining, DEADLINE_S) is True
