"""Services over HTTP: what is registered how, what is refused and why, and who is told of changes."""

import asyncio
from typing import Any

import msgspec
import pytest

from noctule.base.errors import UnavailableError
from noctule.core.registry.changes import PutCheck, PutNode, PutService, RemoveService
from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance
from noctule.core.registry.views import CATALOG_NODE, ServiceList
from noctule.servers import http_services
from noctule.servers.http_services import stream_lists
from tests.unit.node.fake_registry import NODE

from .http_fakes import FakeNode, ask, error_of

WEB: dict[str, Any] = {"name": "web", "address": "10.0.0.7", "port": 8000, "ttl_s": 10}
TCP = {"id": "c", "tcp": "127.0.0.1:1"}


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


async def put(node: FakeNode, instance: str = "web-1", **fields: object) -> dict[str, Any]:
    """What is answered to a registration that is to be done; None takes a field out."""
    body = {key: value for key, value in {**WEB, **fields}.items() if value is not None}
    answer = await ask(node, "PUT", f"/api/services/{instance}", msgspec.json.encode(body))
    assert answer.status == 200, answer.body
    return msgspec.json.decode(answer.body, type=dict[str, Any])


async def listed(node: FakeNode, query: str = "") -> ServiceList:
    answer = await ask(node, "GET", f"/api/services{query}")
    assert answer.status == 200, answer.body
    return msgspec.json.decode(answer.body, type=ServiceList)


async def test_one_that_renews_itself_is_in_the_catalog(node: FakeNode) -> None:
    said = await put(node, tags=["blue"], meta={"a": "b"}, depends_on=["db"], weights={"passing": 3})
    assert said["node"] == CATALOG_NODE
    assert (said["status"], said["ttl_s"], said["tags"], said["weights"]["passing"]) == ("passing", 10.0, ["blue"], 3)
    node.registry.pass_time(10_001)
    (found,) = (await listed(node)).services
    assert found.status is CheckStatus.CRITICAL
    await put(node)
    (found,) = (await listed(node)).services
    assert found.status is CheckStatus.PASSING, "renewing heals"
    node.registry.pass_time(10_001)
    node.registry.pass_time(60_000)
    assert (await listed(node)).services == ()


async def test_what_it_says_of_itself_counts_until_it_says_nothing(node: FakeNode) -> None:
    said = await put(node, status="warning", output="slow")
    assert said["status"] == "warning"
    node.registry.pass_time(9_000)
    assert (await put(node))["status"] == "passing"


async def test_the_same_again_wakes_nobody(node: FakeNode) -> None:
    await put(node, status="warning", output="slow")
    index = node.registry.view.index
    await put(node, status="warning", output="slow")
    assert node.registry.view.index == index


async def test_every_other_one_is_kept_by_the_node(node: FakeNode) -> None:
    said = await put(node, ttl_s=None, checks=[TCP])
    assert said["node"] == NODE
    assert node.agent.known["web-1"].checks[0].tcp == "127.0.0.1:1"
    assert type(node.agent.known["web-1"].checks[0]).__name__ == "CheckDefinition"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": None}, "missing required field `name`"),
        ({"name": ""}, "is empty"),
        ({"id": "other"}, 'the id is "other", and the path says "web-1"'),
        ({"port": 70_000}, "a port is 0 to 65535"),
        ({"ttl_s": 0.1}, "`$.ttl_s`"),
        ({"ttl": 5}, "unknown field `ttl`"),
        ({"address": None}, "must say at which address it serves"),
        ({"checks": [TCP]}, "renews itself, and nobody makes checks of it"),
        ({"ttl_s": None, "status": "passing"}, "a status is told by an instance that renews itself"),
        ({"ttl_s": None, "checks": [{"id": "c"}]}, "exactly one of ttl, http, tcp, grpc, alias"),
        ({"ttl_s": None, "checks": [{"id": "c", "script": "rm"}]}, "let the program report to a check with a ttl"),
        ({"ttl_s": None, "checks": [{"id": "c", "args": ["rm"]}]}, "would run programs on this machine"),
        ({"status": "fine"}, "`$.status`"),
        ({"weights": {"passing": 0}}, "1 to 65535"),
    ],
    ids=str,
)
async def test_what_is_wrong_is_named_and_nothing_changes(
    node: FakeNode, fields: dict[str, object], words: str
) -> None:
    body = {key: value for key, value in {**WEB, **fields}.items() if value is not None}
    answer = await ask(node, "PUT", "/api/services/web-1", msgspec.json.encode(body))
    assert (answer.status, error_of(answer).code) == (400, "bad_request")
    assert words in error_of(answer).message
    assert not node.registry.view.instances


async def test_lists_are_chosen_by_service_tag_and_health(node: FakeNode) -> None:
    await put(node, "web-1", tags=["blue"])
    await put(node, "web-2", status="critical")
    await put(node, "db-1", name="db")

    async def ids(query: str) -> list[str]:
        return [each.id for each in (await listed(node, query)).services]

    assert await ids("") == ["db-1", "web-1", "web-2"]
    assert await ids("?name=web") == ["web-1", "web-2"]
    assert await ids("?tag=blue") == ["web-1"]
    assert await ids("?name=web&passing=true") == ["web-1"]
    assert await ids("?name=none") == []


async def test_the_check_of_a_node_counts_for_everything_on_it(node: FakeNode) -> None:
    node.registry.apply(PutService(ServiceInstance(NODE, "web-1", "web", port=80)))
    node.registry.apply(PutCheck(Check(NODE, "serfHealth", "alive", CheckStatus.CRITICAL)))
    (found,) = (await listed(node)).services
    assert (found.status, found.address, found.checks[0].of_node) == (CheckStatus.CRITICAL, "127.0.0.1", True)


async def test_a_list_is_answered_once_there_is_news_of_it(node: FakeNode) -> None:
    await put(node)
    index = (await listed(node, "?name=web")).index
    waiting = asyncio.create_task(listed(node, f"?name=web&index={index}&wait=5"))
    await asyncio.sleep(0.01)
    await put(node, "db-1", name="db")
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await put(node, "web-2")
    assert len((await waiting).services) == 2
    assert len((await listed(node, f"?name=web&index={index}&wait=5")).services) == 2, "what is newer is there at once"
    async with asyncio.timeout(1):
        assert len((await listed(node, "?name=web&index=99999&wait=5")).services) == 2, "an index of another life"
    now = (await listed(node, "?name=web")).index
    assert (await listed(node, f"?name=web&index={now}&wait=0.01")).index == now


async def test_a_node_that_is_cut_off_does_not_say_for_ever_that_there_is_no_news(node: FakeNode) -> None:
    """It waits with its client, and then cannot say that nothing has happened."""
    await put(node)
    index = (await listed(node, "?name=web")).index
    node.registry.failure, node.registry.contact_ms = UnavailableError("no leader"), 1234
    answer = await ask(node, "GET", f"/api/services?name=web&index={index}&wait=0.01")
    assert (answer.status, error_of(answer).retryable) == (503, True)
    found = await listed(node, "?name=web&consistency=eventual")
    assert (len(found.services), found.staleness_ms) == (1, 1234)


async def test_too_many_for_one_answer_are_refused(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_services, "SERVICES_SHOWN_MAX", 2)
    for number in range(2):
        await put(node, f"web-{number}")
    await put(node, "db-1", name="db")
    answer = await ask(node, "GET", "/api/services")
    assert (answer.status, "name a service" in error_of(answer).message) == (413, True)
    assert len((await listed(node, "?name=web")).services) == 2


async def test_one_is_found_by_its_id_and_its_node(node: FakeNode) -> None:
    node.registry.apply(PutNode(RegistryNode("a", "h")), PutService(ServiceInstance("a", "web-1", "web")))
    answer = await ask(node, "GET", "/api/services/web-1")
    assert msgspec.json.decode(answer.body)["node"] == "a"
    await put(node)
    answer = await ask(node, "GET", "/api/services/web-1")
    assert msgspec.json.decode(answer.body)["node"] == CATALOG_NODE
    answer = await ask(node, "GET", "/api/services/web-1?node=a")
    assert msgspec.json.decode(answer.body)["node"] == "a"
    answer = await ask(node, "GET", "/api/services/nobody")
    assert (answer.status, error_of(answer).code) == (404, "not_found")


async def test_removing_goes_to_who_keeps_it(node: FakeNode) -> None:
    await put(node)
    await put(node, "kept", ttl_s=None)
    node.registry.apply(PutNode(RegistryNode("node-2", "h")), PutService(ServiceInstance("node-2", "far", "web")))
    for instance in ("web-1", "kept"):
        for was_there in (True, False):
            answer = await ask(node, "DELETE", f"/api/services/{instance}")
            assert msgspec.json.decode(answer.body) == {"id": instance, "deleted": was_there}
    assert not node.agent.known
    answer = await ask(node, "DELETE", "/api/services/far")
    assert (answer.status, "kept by node-2" in error_of(answer).message) == (400, True)


async def test_of_several_with_one_id_none_is_removed_until_it_is_said_which(node: FakeNode) -> None:
    """`noctule services deregister web-1` took out the app's own instance, when another node's was meant."""
    await put(node)
    node.registry.apply(PutNode(RegistryNode("a", "h")), PutService(ServiceInstance("a", "web-1", "web")))
    answer = await ask(node, "DELETE", "/api/services/web-1")
    assert (answer.status, f"kept by a, {CATALOG_NODE}" in error_of(answer).message) == (400, True)
    answer = await ask(node, "DELETE", "/api/services/web-1?node=a")
    assert msgspec.json.decode(answer.body) == {"id": "web-1", "deleted": True}
    assert [each.node for each in (await listed(node)).services] == [CATALOG_NODE]


async def test_a_stream_tells_the_list_at_once_and_after_each_change(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_services, "HEARTBEAT_S", 0.01)
    await put(node)
    stream = stream_lists(node.door, "web")
    async with asyncio.timeout(2):
        first = await anext(stream)
        assert first.startswith(b"event: services\ndata: ")
        assert b'"web-1"' in first
        assert await anext(stream) == b": still here\n\n"
        node.registry.apply(RemoveService(CATALOG_NODE, "web-1"))
        told = await anext(stream)
        while told.startswith(b":"):
            told = await anext(stream)
        assert msgspec.json.decode(told.partition(b"data: ")[2], type=ServiceList).services == ()
    await stream.aclose()  # type: ignore[attr-defined]


async def test_the_graph_is_answered(node: FakeNode) -> None:
    await put(node, depends_on=["db"])
    answer = await ask(node, "GET", "/api/dependencies")
    graph = msgspec.json.decode(answer.body)
    assert (graph["missing"], graph["cycles"]) == (["db"], [])
    assert [each["name"] for each in graph["services"]] == ["db", "web"]
