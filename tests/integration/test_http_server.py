"""The HTTP door over real sockets: framing, bounds, malformed requests, draining. Bytes out, bytes in."""

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
import uvloop
from tests.unit.servers.http_fakes import PICTURE, FakeNode

from noctule.base.bounds import HTTP_BODY_BYTES_MAX, KEY_BYTES_MAX
from noctule.base.errors import ConfigError, RequestError
from noctule.client.api import NodeClient
from noctule.client.pictures import Instance
from noctule.core.meta.operations import SetMemberState
from noctule.core.roster.members import MemberState
from noctule.servers import http_body, http_events, http_server
from noctule.servers.http_body import BodyBudget
from noctule.servers.http_errors import ErrorBody, ErrorFacts
from noctule.servers.http_server import HEADER_BYTES_MAX, HEADERS_MAX, LINE_BYTES_MAX, HttpServer

pytestmark = pytest.mark.integration

DEADLINE_S = 10.0
HOST = b"Host: node\r\n"


@dataclass
class Response:
    """One response, read by hand so that nothing is forgiven."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> ErrorFacts:
        assert self.headers["content-type"] == "application/json"
        assert b"Traceback" not in self.body
        return msgspec.json.decode(self.body, type=ErrorBody).error


class Connection:
    """A plain TCP connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, *, head_only: bool = False) -> Response:
        async with asyncio.timeout(DEADLINE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head[:-4].split("\r\n")
            version, status, _ = status_line.split(" ", 2)
            assert version in ("HTTP/1.1", "HTTP/1.0")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            assert len(headers) == len(lines), "no header twice"
            length = int(headers.get("content-length", 0))
            body = b"" if head_only or status == "100" else await self.reader.readexactly(length)
            return Response(int(status), headers, body)

    async def ask(self, request: bytes, *, head_only: bool = False) -> Response:
        await self.send(request)
        return await self.receive(head_only=head_only)

    async def wait_closed(self) -> None:
        """The server has closed; whatever else it sent is a failure."""
        async with asyncio.timeout(DEADLINE_S):
            assert await self.reader.read() == b""


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
async def server(node: FakeNode) -> AsyncIterator[HttpServer]:
    server = HttpServer(node.door, "127.0.0.1", 0)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0.1)


@asynccontextmanager
async def connected(server: HttpServer) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


async def ask(server: HttpServer, request: bytes) -> Response:
    async with connected(server) as connection:
        return await connection.ask(request)


async def wait_until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            # A turn of the loop is what everything here happens in.
            await asyncio.sleep(0.001)


def request_of(method: str, target: str, body: bytes | None = None, *headers: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: node", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


async def test_one_connection_serves_request_after_request(server: HttpServer) -> None:
    async with connected(server) as connection:
        put = await connection.ask(request_of("PUT", "/api/kv/a/b", b"v\x00"))
        assert (put.status, put.body) == (200, b'{"key":"a/b","ok":true}')
        got = await connection.ask(request_of("GET", "/api/kv/a/b", None, "Accept: application/octet-stream"))
        assert (got.status, got.headers["content-type"], got.body) == (200, "application/octet-stream", b"v\x00")
        assert got.headers["server"] == "noctule"
        assert (got.headers["cache-control"], got.headers["x-content-type-options"]) == ("no-store", "nosniff")


async def test_pipelined_requests_are_answered_in_order(server: HttpServer) -> None:
    async with connected(server) as connection:
        await connection.send(b"".join(request_of("PUT", f"/api/kv/k{number}", b"v") for number in range(50)))
        bodies = [(await connection.receive()).body for _ in range(50)]
    assert [msgspec.json.decode(body)["key"] for body in bodies] == [f"k{number}" for number in range(50)]


@pytest.mark.parametrize(
    "path",
    ["/api/kv/k", "/api/kv", "/api/cluster", "/api/instances", "/api/openapi.json", "/health", "/health/live",
     "/health/ready", "/health/backend", "/metrics", "/api/kv/none", "/nothing"],
)  # fmt: skip
async def test_head_is_get_without_the_body(server: HttpServer, node: FakeNode, path: str) -> None:
    """RFC 9110 9.3.2. A body after all would be read as the beginning of the next response."""
    node.store.run(b"SET", b"k", b"v")
    async with connected(server) as connection:
        got = await connection.ask(request_of("GET", path))
        head = await connection.ask(request_of("HEAD", path), head_only=True)
        assert (await connection.ask(request_of("GET", "/health/live"))).body == b'{"status":"ok"}'
    assert head.status == got.status
    assert head.headers["content-type"] == got.headers["content-type"]
    if path not in ("/metrics", "/health/backend"):
        assert head.headers["content-length"] == str(len(got.body))


async def test_the_body_may_be_as_large_as_the_limit_and_no_larger(server: HttpServer, node: FakeNode) -> None:
    largest = b"x" * HTTP_BODY_BYTES_MAX
    assert (await ask(server, request_of("PUT", "/api/kv/k", largest))).status == 200
    assert node.store.run(b"STRLEN", b"k") == HTTP_BODY_BYTES_MAX
    chunked = request_of("PUT", "/api/kv/c", None, "Transfer-Encoding: chunked")
    assert (await ask(server, chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(largest), largest))).status == 200
    assert node.store.run(b"STRLEN", b"c") == HTTP_BODY_BYTES_MAX


@pytest.mark.parametrize("target", ["/api/kv/k", "/api/instances/a", "/health"])
async def test_an_announced_length_over_the_limit_is_refused_unread(server: HttpServer, target: str) -> None:
    head = f"PUT {target} HTTP/1.1\r\nHost: node\r\nContent-Length: {HTTP_BODY_BYTES_MAX + 1}\r\n\r\n"
    response = await ask(server, head.encode())
    assert (response.status, response.error.code) == (413, "too_large")
    assert str(HTTP_BODY_BYTES_MAX) in response.error.message


async def test_a_chunked_body_over_the_limit_is_refused_while_it_comes(server: HttpServer, node: FakeNode) -> None:
    async with connected(server) as connection:
        await connection.send(request_of("PUT", "/api/kv/k", None, "Transfer-Encoding: chunked"))
        chunk = b"%x\r\n%b\r\n" % (1 << 20, b"x" * (1 << 20))
        for _ in range(HTTP_BODY_BYTES_MAX // (1 << 20) + 1):
            await connection.send(chunk)
        response = await connection.receive()
    assert (response.status, response.error.code) == (413, "too_large")
    assert node.store.submitted == []
    await wait_until(lambda: server._budget.held_bytes == 0)


@pytest.mark.parametrize(
    "body", [b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcdef\r\n0\r\n\r\n", b"-1\r\n\r\n", b"fffffffffffffffff\r\nx"]
)
async def test_broken_chunks_are_a_bad_request(server: HttpServer, node: FakeNode, body: bytes) -> None:
    response = await ask(server, request_of("PUT", "/api/kv/k", None, "Transfer-Encoding: chunked") + body)
    assert (response.status, response.error.code) == (400, "bad_request")
    assert node.store.submitted == []


async def test_a_client_that_asks_first_is_told_to_go_on_or_not(server: HttpServer) -> None:
    """RFC 9110 10.1.1; curl asks for bodies over a megabyte."""
    async with connected(server) as connection:
        head = b"PUT /api/kv/k HTTP/1.1\r\nHost: node\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
        assert (await connection.ask(head)).status == 100
        assert (await connection.ask(b"v")).status == 200
    too_long = head.replace(b"Length: 1", b"Length: 99999999")
    assert (await ask(server, too_long)).status == 413
    bad_key = head.replace(b"/k ", b"/%zz ")
    assert (await ask(server, bad_key)).status == 400
    other = head.replace(b"100-continue", b"200-ok")
    assert (await ask(server, other)).error.message == "header Expect: only 100-continue is understood"


async def test_a_body_that_does_not_come_is_not_waited_for(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_body, "BODY_READ_S_MAX", 0.05)
    response = await ask(server, b"PUT /api/kv/k HTTP/1.1\r\nHost: node\r\nContent-Length: 5\r\n\r\nab")
    assert response.status == 400
    assert "did not arrive within 0.05 s" in response.error.message


async def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_nothing(
    server: HttpServer, node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(server) as connection:
        await connection.send(b"PUT /api/kv/k HTTP/1.1\r\nHost: node\r\nContent-Length: 100\r\n\r\nabc")
        await wait_until(lambda: server._budget.held_bytes == 3)
    await wait_until(lambda: server._running == 0)
    assert server._budget.held_bytes == 0
    assert node.store.submitted == []
    assert caplog.records == []


@pytest.mark.parametrize(
    ("request_bytes", "status", "words"),
    [
        (b"NONSENSE\r\n\r\n", 400, "malformed HTTP request"),
        (b"GET /health HTTP/9.9\r\n\r\n", 400, "malformed HTTP request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed HTTP request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "malformed HTTP request"),
        (b"G\x00T /health HTTP/1.1\r\n\r\n", 400, "malformed HTTP request"),
        (b"GET /health HTTP/1.1\r\nno colon\r\n\r\n", 400, "malformed HTTP request"),
        (b"GET /health HTTP/1.1\r\nA b: c\r\n\r\n", 400, "malformed HTTP request"),
        (b"GET /health HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "malformed HTTP request"),
        (b"GET /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "malformed HTTP request"),
        (
            b"PUT /api/kv/k HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "malformed HTTP request",
        ),
        (b"GET /health HTTP/1.1\r\nX: " + b"x" * (HEADER_BYTES_MAX + 1) + b"\r\n\r\n", 413, "over 8192"),
        (b"GET /" + b"x" * (LINE_BYTES_MAX + 1) + b" HTTP/1.1\r\n\r\n", 413, f"over {LINE_BYTES_MAX} bytes"),
        (b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * (HEADERS_MAX + 1) + b"\r\n", 400, "malformed HTTP request"),
        (b"GET /api/kv/\xe2\x98\x83 HTTP/1.1\r\n\r\n", 400, "malformed HTTP request"),
        (b"GET api/kv/k HTTP/1.1\r\n\r\n", 400, ""),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", 400, ""),
        (b"CONNECT host:443 HTTP/1.1\r\n\r\n", 400, ""),
    ],
    ids=range(17),
)
async def test_what_is_not_a_request_is_answered_by_the_contract(
    server: HttpServer, request_bytes: bytes, status: int, words: str
) -> None:
    response = await ask(server, request_bytes)
    assert response.status == status
    assert response.error.code == ("bad_request" if status == 400 else "too_large")
    assert words in response.error.message
    assert "\n" not in response.error.message
    assert len(response.error.message) < 300
    assert (await ask(server, request_of("GET", "/health/live"))).status == 200


async def test_errors_come_with_their_headers(server: HttpServer, node: FakeNode) -> None:
    response = await ask(server, request_of("POST", "/api/kv/k", b"v"))
    assert (response.status, response.headers["allow"]) == (405, "DELETE, GET, HEAD, PUT")
    node.store.crash = RuntimeError("a secret of the code")
    response = await ask(server, request_of("GET", "/api/kv/k"))
    assert (response.status, response.error.code) == (500, "internal")
    assert b"secret" not in response.body


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (quote(b"\xff" * KEY_BYTES_MAX).encode(), b"\xff" * KEY_BYTES_MAX),
        (b"a/./../b//c", b"a/./../b//c"),
        (b"%2e%2E%2f", b"../"),
        (b"%E2%98%83", b"\xe2\x98\x83"),
    ],
    ids=range(4),
)
async def test_a_key_comes_through_unchanged(server: HttpServer, node: FakeNode, path: bytes, key: bytes) -> None:
    response = await ask(server, b"PUT /api/kv/" + path + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nv")
    assert response.status == 200, response.body
    assert node.store.run(b"GET", key) == b"v"


async def test_http_1_0_is_answered_and_closed(server: HttpServer) -> None:
    async with connected(server) as connection:
        assert (await connection.ask(b"GET /health/live HTTP/1.0\r\n\r\n")).status == 200
        await connection.wait_closed()


async def test_too_many_requests_at_once_are_told_so_and_health_still_answers(
    server: HttpServer, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "REQUESTS_RUNNING_MAX", 1)
    node.store.is_silent = True
    async with connected(server) as first:
        await first.send(request_of("GET", "/api/kv/k"))
        await wait_until(lambda: node.store.held)
        refused = await ask(server, request_of("GET", "/api/kv/k"))
        assert (refused.status, refused.error.code, refused.headers["retry-after"]) == (503, "unavailable", "1")
        assert (await ask(server, request_of("GET", "/health"))).status == 200
        node.store.release()
        assert (await first.receive()).status == 404
    assert (await ask(server, request_of("GET", "/api/kv/k"))).status == 404


async def test_bodies_of_all_requests_together_are_bounded(server: HttpServer, node: FakeNode) -> None:
    server._budget = BodyBudget(10)
    node.store.is_silent = True
    async with connected(server) as first:
        await first.send(request_of("PUT", "/api/kv/k", b"12345678"))
        await wait_until(lambda: node.store.held)
        refused = await ask(server, request_of("PUT", "/api/kv/k", b"123"))
        assert (refused.status, refused.error.code, refused.error.retryable) == (503, "unavailable", True)
        node.store.release()
        assert (await first.receive()).status == 200
    assert (await ask(server, request_of("PUT", "/api/kv/k", b"123"))).status == 200


async def test_stopping_lets_running_requests_end_and_takes_no_new_ones(node: FakeNode) -> None:
    server = HttpServer(node.door, "127.0.0.1", 0)
    await server.start()
    node.store.is_silent = True
    async with connected(server) as running, connected(server) as idle:
        assert (await idle.ask(request_of("GET", "/health/live"))).status == 200
        await running.send(request_of("PUT", "/api/kv/k", b"v"))
        await wait_until(lambda: node.store.held)
        stopping = asyncio.create_task(server.stop(DEADLINE_S))
        await wait_until(lambda: refuses(server.port))
        assert not stopping.done()
        node.store.release()
        response = await running.receive()
        assert (response.status, response.headers["connection"]) == (200, "close")
        async with asyncio.timeout(DEADLINE_S / 2):
            await stopping
        await running.wait_closed()
        await idle.wait_closed()
    await server.stop(DEADLINE_S)


async def test_stopping_does_not_wait_longer_than_told(node: FakeNode) -> None:
    server = HttpServer(node.door, "127.0.0.1", 0)
    await server.start()
    node.store.is_silent = True
    async with connected(server) as running:
        await running.send(request_of("PUT", "/api/kv/k", b"v"))
        await wait_until(lambda: node.store.held)
        async with asyncio.timeout(5):
            await server.stop(0.05)
        await running.wait_closed()
    node.store.release()


async def test_a_stopped_server_leaves_no_task_behind(node: FakeNode) -> None:
    before = asyncio.all_tasks()
    server = HttpServer(node.door, "127.0.0.1", 0)
    await server.start()
    async with connected(server) as connection:
        await connection.ask(request_of("GET", "/metrics"))
        await server.stop(1)
    await wait_until(lambda: asyncio.all_tasks() <= before)
    assert refuses(server.port)


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_a_port_in_use_is_named_with_what_to_do(server: HttpServer, node: FakeNode) -> None:
    second = HttpServer(node.door, "127.0.0.1", server.port)
    with pytest.raises(ConfigError, match=rf"http port {server.port} on 127\.0\.0\.1 is in use: .*http_port") as caught:
        await second.start()
    assert "\n" not in str(caught.value)
    assert second.port == server.port
    await second.stop(1)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "::1%nowhere"])
async def test_a_host_that_is_not_ours_is_a_config_error(node: FakeNode, host: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot serve HTTP on .*: .*; set host"):
        await HttpServer(node.door, host, 0).start()


async def test_the_typed_client_and_the_server_mean_the_same(server: HttpServer, node: FakeNode) -> None:
    """Two sides written apart, from the contract alone."""
    async with NodeClient(f"http://127.0.0.1:{server.port}") as client:
        await client.kv_set(b"a/\xff?", b"\x00\xff", ttl_s=5)
        entry = await client.kv_get(b"a/\xff?")
        assert entry is not None
        assert (entry.value, entry.ttl_ms) == (b"\x00\xff", 5000)
        assert await client.kv_get("none") is None
        assert (await client.kv_scan("a/")).keys == ["a/\\xff?"]
        assert await client.kv_delete(b"a/\xff?") is True
        node.store.run(b"HSET", b"h", b"f", b"v")
        with pytest.raises(RequestError, match="wrong kind of value"):
            await client.kv_get("h")
        instance = Instance("web-1", "board", "127.0.0.1:8101", 4711, "healthy", 3)
        assert await client.put_instance(instance) == instance
        assert await client.instances() == [instance]
        cluster = await client.cluster()
        assert (cluster.node_id, cluster.instances) == (PICTURE.node_id, [instance])
        assert cluster.groups[0].lag == {2: 0, 3: 17}
        assert await client.delete_instance("web-1") is True


async def test_an_http_client_nobody_here_wrote_gets_through(server: HttpServer) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        async with session.put("/api/kv/some key", data=chunks(), expect100=True) as response:
            assert response.status == 200
        async with session.get("/api/kv/some key") as response:
            assert (await response.json())["value"] == "one two"
        async with session.get("/api/kv", params={"prefix": "some k"}) as response:
            assert (await response.json())["keys"] == ["some key"]


@pytest.mark.parametrize(
    "scenario",
    [
        test_pipelined_requests_are_answered_in_order,
        test_a_chunked_body_over_the_limit_is_refused_while_it_comes,
        test_a_port_in_use_is_named_with_what_to_do,
        test_an_http_client_nobody_here_wrote_gets_through,
    ],
    ids=lambda scenario: scenario.__name__.removeprefix("test_"),
)
def test_it_is_so_on_the_loop_of_production(scenario: Callable[..., Awaitable[None]]) -> None:
    """Nodes run on uvloop, whose sockets fail, pause and close in their own way."""

    async def run() -> None:
        node = FakeNode()
        server = HttpServer(node.door, "127.0.0.1", 0)
        await server.start()
        try:
            wanted = inspect.signature(scenario).parameters
            await scenario(**{name: value for name, value in (("server", server), ("node", node)) if name in wanted})
        finally:
            await server.stop(0.1)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize(
    "scenario",
    [
        test_stopping_lets_running_requests_end_and_takes_no_new_ones,
        test_stopping_does_not_wait_longer_than_told,
        test_a_stopped_server_leaves_no_task_behind,
    ],
    ids=lambda scenario: scenario.__name__.removeprefix("test_"),
)
def test_it_stops_so_on_the_loop_of_production(scenario: Callable[[FakeNode], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario(FakeNode())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_hosts_that_are_not_ours_on_the_loop_of_production(host: str) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_a_host_that_is_not_ours_is_a_config_error(FakeNode(), host))


async def test_events_flow_until_the_server_stops(node: FakeNode, server: HttpServer) -> None:
    async with connected(server) as connection:
        await connection.send(b"GET /api/events HTTP/1.1\r\n" + HOST + b"\r\n")
        async with asyncio.timeout(DEADLINE_S):
            head = await connection.reader.readuntil(b"\r\n\r\n")
            assert b"Content-Type: text/event-stream" in head
            assert b"event: cluster" in await connection.reader.readuntil(b'"epoch":1}\n\n')
            await node.cluster.operate(SetMemberState(2, MemberState.DRAINING))
            assert b"event: member" in await connection.reader.readuntil(b'"state":"draining"')
            begun = asyncio.get_running_loop().time()
            await server.stop(DEADLINE_S)
            assert asyncio.get_running_loop().time() - begun < 2, "a stream holds up no stop"


async def test_a_stream_ends_when_its_client_has_gone_and_so_many_are_served(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "STREAMS_MAX", 1)
    monkeypatch.setattr(http_events, "LOOK_S", 0.01)
    monkeypatch.setattr(http_events, "PAUSE_S", 0.01)
    monkeypatch.setattr(http_events, "HEARTBEAT_S", 0.01)
    request = b"GET /api/events HTTP/1.1\r\n" + HOST + b"\r\n"
    async with asyncio.timeout(DEADLINE_S):
        async with connected(server) as first:
            await first.send(request)
            await first.reader.readuntil(b"event: cluster")
            refused = await ask(server, request)
            assert (refused.status, refused.error.code) == (503, "unavailable")
        while (again := await head_of(server, request)) != 200:
            assert again == 503


async def head_of(server: HttpServer, request: bytes) -> int:
    async with connected(server) as connection:
        await connection.send(request)
        return int((await connection.reader.readuntil(b"\r\n")).split()[1])


async def test_head_of_a_stream_is_a_head_alone(server: HttpServer) -> None:
    async with connected(server) as connection:
        await connection.send(b"HEAD /api/events HTTP/1.1\r\n" + HOST + b"\r\n")
        assert b"text/event-stream" in await connection.reader.readuntil(b"\r\n\r\n")
        await connection.wait_closed()
