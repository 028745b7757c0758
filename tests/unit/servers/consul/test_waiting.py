"""Blocking queries: woken by what they wait for, bounded in number and time, let go when they should be."""

import asyncio

import msgspec
import pytest

from noctule.servers.consul import waiting
from noctule.servers.http_route import Answer
from tests.unit.servers.consul.face import Face

SOON_S = 5.0


async def index_of(face: Face, path: str) -> int:
    return int((await face.ask("GET", path)).headers["X-Consul-Index"])


async def begin(face: Face, target: str) -> "asyncio.Task[Answer]":
    """A query that waits by now."""
    count = face.api.waiting.count
    task = asyncio.create_task(face.ask("GET", target))
    while face.api.waiting.count == count:
        await asyncio.sleep(0)
        assert not task.done(), task.result()
    return task


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("/v1/kv/a", ("/v1/kv/a", b"x")),
        ("/v1/kv/a?recurse", ("/v1/kv/ab", b"x")),
        ("/v1/kv/a?keys", ("/v1/kv/ab", b"x")),
        ("/v1/catalog/nodes", ("/v1/catalog/register", {"Node": "n", "Address": "1.1.1.1"})),
        ("/v1/catalog/services", ("/v1/agent/service/register", {"Name": "web"})),
        ("/v1/catalog/service/web", ("/v1/agent/service/register", {"Name": "web"})),
        ("/v1/catalog/node/node-1", ("/v1/agent/service/register", {"Name": "web"})),
        ("/v1/catalog/node-services/node-1", ("/v1/agent/service/register", {"Name": "web"})),
        ("/v1/health/service/web", ("/v1/agent/service/register", {"Name": "web"})),
        ("/v1/health/checks/web", ("/v1/agent/service/register", {"Name": "web", "Check": {"TTL": "10s"}})),
        ("/v1/health/node/node-1", ("/v1/agent/check/register", {"Name": "c", "TTL": "10s"})),
        ("/v1/health/state/any", ("/v1/agent/check/register", {"Name": "c", "TTL": "10s"})),
        ("/v1/session/list", ("/v1/session/create", b"")),
        ("/v1/session/node/node-1", ("/v1/session/create", b"")),
    ],
)
async def test_a_query_waits_until_what_it_asks_for_changes(path: str, change: tuple[str, object]) -> None:
    face = Face()
    index = await index_of(face, path)
    separator = "&" if "?" in path else "?"
    task = await begin(face, f"{path}{separator}index={index}")
    await face.put("/v1/kv/other", b"x")
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    await face.put(*change)
    answer = await asyncio.wait_for(task, SOON_S)
    assert int(answer.headers["X-Consul-Index"]) > index
    assert face.api.waiting.count == 0


async def test_a_wait_ends_with_what_there_is() -> None:
    """Also one that asks for more than there ever was, as after a reset: Consul waits just so."""
    face = Face()
    await face.put("/v1/kv/a", b"x")
    for index in (await index_of(face, "/v1/kv/a"), 99_999):
        answer = await face.ask("GET", f"/v1/kv/a?index={index}&wait=5ms")
        assert msgspec.json.decode(answer.body)[0]["Key"] == "a"


async def test_an_older_index_does_not_wait() -> None:
    face = Face()
    await face.put("/v1/kv/a", b"x")
    assert (await face.ask("GET", "/v1/kv/a?index=1")).status == 200
    assert (await face.ask("GET", "/v1/kv/a?index=0")).status == 200


async def test_a_crowd_counts_as_waiting_from_the_beginning() -> None:
    """Else as many as come back at once, after a node was away, would keep everybody else out."""
    face = Face()
    go_on = asyncio.Event()

    async def catch_up() -> None:
        await go_on.wait()

    face.registry.catch_up = catch_up  # type: ignore[method-assign]
    tasks = [await begin(face, "/v1/kv/a?index=1") for _ in range(3)]
    assert face.api.waiting.count == 3
    await face.api.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks), "closing makes no answer older than it may be"
    go_on.set()
    assert {answer.status for answer in await asyncio.wait_for(asyncio.gather(*tasks), SOON_S)} == {404}


async def test_no_more_wait_than_may() -> None:
    face = Face(waiting_max=2)
    tasks = [await begin(face, "/v1/kv/a?index=99") for _ in range(2)]
    status, sentence = await face.sentence("GET", "/v1/kv/a?index=99&wait=50ms")
    assert (status, sentence.split()[0]) == (429, "2")
    assert (await face.ask("GET", "/v1/kv/a")).status == 404, "what does not wait is answered"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert face.api.waiting.count == 0


async def test_who_has_gone_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK_S", 0.001)
    face = Face()
    task = await begin(face, "/v1/kv/a?index=99")
    face.is_gone = True
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(task, SOON_S)
    assert face.api.waiting.count == 0


async def test_a_node_that_stops_answers_those_who_wait() -> None:
    face = Face()
    await face.put("/v1/kv/a", b"x")
    await face.put("/v1/agent/service/register", {"Name": "web"})
    shown = await face.ask("GET", "/v1/agent/service/web")
    tasks = [
        await begin(face, "/v1/kv/a?index=99"),
        await begin(face, f"/v1/agent/service/web?hash={shown.headers['X-Consul-ContentHash']}"),
    ]
    await face.api.close()
    for task in tasks:
        assert (await asyncio.wait_for(task, SOON_S)).status == 200
    assert (await asyncio.wait_for(face.ask("GET", "/v1/kv/a?index=99"), SOON_S)).status == 200, "nobody waits now"


async def test_a_service_of_this_node_is_waited_for_by_its_hash() -> None:
    face = Face()
    await face.put("/v1/agent/service/register", {"Name": "web", "Port": 1})
    known = (await face.ask("GET", "/v1/agent/service/web")).headers["X-Consul-ContentHash"]
    assert (await face.ask("GET", "/v1/agent/service/web?hash=other")).status == 200
    task = await begin(face, f"/v1/agent/service/web?hash={known}")
    await face.put("/v1/agent/service/register", {"Name": "web", "Port": 2})
    face.node.cluster.watch.ring()
    answer = await asyncio.wait_for(task, SOON_S)
    assert answer.headers["X-Consul-ContentHash"] != known
    assert msgspec.json.decode(answer.body)["Port"] == 2
    gone = await begin(face, f"/v1/agent/service/web?hash={answer.headers['X-Consul-ContentHash']}")
    await face.put("/v1/agent/service/deregister/web")
    face.node.cluster.watch.ring()
    assert (await asyncio.wait_for(gone, SOON_S)).status == 404
