"""The client of the nodes' HTTP API against servers on the loopback: what it sends, and which node it goes on to."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from verification_toys import serving

from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import OutcomeUnknownError, ProtocolError, RequestError, UnavailableError
from noctule.client.api import NodeClient
from noctule.client.pictures import Entry, Instance, KeyPage

pytestmark = pytest.mark.integration

NOBODY = "http://127.0.0.1:1"
WEB_1 = Instance("web-1", "board", "127.0.0.1:9001", 4711, "healthy", 12, 15.0)


def error(status: int, code: str) -> web.Response:
    body = {"error": {"code": code, "message": "in words", "retryable": False, "outcome": "not_applied"}}
    return web.json_response(body, status=status)


async def break_off(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@dataclass
class FakeNode:
    """Answers what it is told to and remembers what it was asked."""

    reply: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    url: str = ""
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append((request.method, request.raw_path, await request.read()))
        return await self.reply(request)


StartNode = Callable[..., Awaitable[FakeNode]]


@pytest.fixture
async def start_node() -> AsyncIterator[StartNode]:
    async with AsyncExitStack() as stack:

        async def start(reply: Any) -> FakeNode:
            async def give(request: web.BaseRequest) -> web.StreamResponse:
                return web.json_response(reply)

            node = FakeNode(reply if callable(reply) else give)
            address, _ = await stack.enter_async_context(serving(node.answer))
            node.url = f"http://{address}"
            return node

        yield start


async def test_keys_are_sent_as_they_are(start_node: StartNode) -> None:
    node = await start_node({"key": "k", "ok": True})
    async with NodeClient(node.url) as client:
        for key in ("a/b c?d#e%2F", "..", b"\xff\x00"):
            await client.kv_set(key, b"\x00\xff", ttl_s=1.5)
        await client.kv_set("plain", b"")
    assert node.asked == [
        ("PUT", "/api/kv/a%2Fb%20c%3Fd%23e%252F?ttl=1.5", b"\x00\xff"),
        ("PUT", "/api/kv/%2E%2E?ttl=1.5", b"\x00\xff"),
        ("PUT", "/api/kv/%FF%00?ttl=1.5", b"\x00\xff"),
        ("PUT", "/api/kv/plain", b""),
    ]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (
            {"key": "k", "value": "grün", "value_base64": None, "ttl_ms": None, "staleness_ms": 12},
            Entry("k", "grün".encode(), None, 12),
        ),
        (
            {"key": "k", "value": None, "value_base64": "AP8=", "ttl_ms": 1500, "staleness_ms": None},
            Entry("k", b"\x00\xff", 1500, None),
        ),
    ],
)
async def test_values_come_back_as_bytes(start_node: StartNode, reply: Any, expected: Entry) -> None:
    node = await start_node(reply)
    async with NodeClient(node.url) as client:
        assert await client.kv_get("k", ConsistencyLevel.EVENTUAL) == expected
    assert node.asked == [("GET", "/api/kv/k?consistency=eventual", b"")]


async def test_a_missing_key_is_none_and_a_wrong_type_an_error(start_node: StartNode) -> None:
    async def reply(request: web.BaseRequest) -> web.StreamResponse:
        return error(404, "not_found") if request.path.endswith("missing") else error(400, "bad_request")

    node = await start_node(reply)
    async with NodeClient(node.url) as client:
        assert await client.kv_get("missing") is None
        with pytest.raises(RequestError, match="in words"):
            await client.kv_get("hash")


async def test_the_other_calls_ask_and_decode(start_node: StartNode) -> None:
    instance = {"id": "web-1", "service": "board", "address": "127.0.0.1:9001", "pid": 4711, "state": "healthy"}
    instance |= {"requests": 12, "ttl_s": 15.0}

    async def reply(request: web.BaseRequest) -> web.StreamResponse:
        match request.method, request.path:
            case "GET", "/api/kv":
                return web.json_response({"keys": ["a", "b"], "cursor": "7"})
            case "GET", "/api/instances":
                return web.json_response({"instances": [instance]})
            case "PUT", "/api/instances/web-1":
                return web.json_response(await request.json())
            case "DELETE", _:
                return web.json_response({"id": "x", "key": "x", "deleted": request.path.endswith("web-1")})
        return error(404, "not_found")

    node = await start_node(reply)
    async with NodeClient(node.url) as client:
        assert await client.kv_scan("a&b", cursor="3", count=5) == KeyPage(["a", "b"], "7")
        assert await client.instances() == [WEB_1]
        assert await client.put_instance(WEB_1) == WEB_1
        assert await client.delete_instance("web-1") is True
        assert await client.kv_delete("k") is False
    assert node.asked[0][1] == "/api/kv?prefix=a%26b&cursor=3&count=5"
    assert json.loads(node.asked[2][2]) == instance


async def test_a_node_that_is_gone_is_passed_over_and_then_left_for_last(start_node: StartNode) -> None:
    first, second = await start_node(break_off), await start_node({"instances": []})
    async with NodeClient([NOBODY, first.url, second.url]) as client:
        assert await client.instances() == []
        assert await client.instances() == []
    assert (len(first.asked), len(second.asked)) == (1, 2)


async def test_a_node_that_cannot_serve_is_passed_over_by_writes_too(start_node: StartNode) -> None:
    async def reply(request: web.BaseRequest) -> web.StreamResponse:
        return error(503, "unavailable")

    first, second = await start_node(reply), await start_node({"key": "k", "ok": True})
    async with NodeClient([NOBODY, first.url, second.url]) as client:
        await client.kv_set("k", b"v")
    assert (len(first.asked), len(second.asked)) == (1, 1)


async def test_a_write_whose_answer_was_lost_is_never_sent_again(start_node: StartNode) -> None:
    first, second = await start_node(break_off), await start_node({"key": "k", "ok": True, "deleted": True})
    async with NodeClient([first.url, second.url]) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.kv_set("k", b"v")
        with pytest.raises(OutcomeUnknownError):
            await client.kv_delete("k")
    # aiohttp by itself would have sent each of them twice.
    assert [method for method, _, _ in first.asked] == ["PUT", "DELETE"]
    assert second.asked == []


async def test_a_registration_goes_on_after_a_lost_answer(start_node: StartNode) -> None:
    async def reply(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(await request.json())

    first, second = await start_node(break_off), await start_node(reply)
    async with NodeClient([first.url, second.url]) as client:
        assert await client.put_instance(WEB_1) == WEB_1
        assert len(first.asked) == 1
    async with NodeClient([first.url, NOBODY]) as client:
        with pytest.raises(OutcomeUnknownError, match="none of 2 nodes"):
            await client.put_instance(WEB_1)


async def test_a_read_without_any_answer_is_unavailable(start_node: StartNode) -> None:
    node = await start_node(break_off)
    async with NodeClient([node.url, NOBODY]) as client:
        with pytest.raises(UnavailableError, match=r"none of 2 nodes could serve it; the last: .* cannot connect"):
            await client.cluster()


async def test_a_silent_node_leaves_time_for_the_next(start_node: StartNode) -> None:
    node = await start_node({"instances": []})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with NodeClient([f"http://127.0.0.1:{silent.getsockname()[1]}", node.url], deadline_s=1.0) as client:
            assert await client.instances() == []
        assert 0.4 < loop.time() - begun < 5.0


async def test_no_call_outlives_its_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with NodeClient(f"http://127.0.0.1:{silent.getsockname()[1]}", deadline_s=0.2) as client:
            with pytest.raises(UnavailableError, match=r"no answer within 0\.2 s"):
                await client.instances()
            with pytest.raises(OutcomeUnknownError):
                await client.kv_set("k", b"v")


async def test_whoever_is_no_node_is_told_apart(start_node: StartNode) -> None:
    async def page(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=404, text="<h1>nginx</h1>")

    async def not_http(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"-ERR unknown command\r\n")
        return await break_off(request)

    node, other, redis = await start_node(page), await start_node({"keys": 3}), await start_node(not_http)
    async with NodeClient(node.url) as client:
        with pytest.raises(ProtocolError, match="404 without Noctule's error body"):
            await client.kv_get("k")
    async with NodeClient(other.url) as client:
        with pytest.raises(ProtocolError, match="not what a node answers"):
            await client.kv_scan()
    async with NodeClient(redis.url) as client:
        with pytest.raises(ProtocolError, match="the answer is not HTTP"):
            await client.instances()
