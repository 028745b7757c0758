"""The registry of instances and the picture of the cluster over HTTP."""

from dataclasses import fields, replace

import msgspec
import pytest

from noctule.base.errors import UnavailableError
from noctule.core.registry.changes import PutService
from noctule.core.registry.dependencies import worst_status
from noctule.core.registry.objects import ServiceInstance
from noctule.core.registry.views import CATALOG_NODE
from noctule.node.api import NodePicture
from noctule.servers import http_instances
from noctule.servers.http_cluster import ClusterPicture
from noctule.servers.http_instances import Instance, InstanceList
from tests.unit.node.fake_registry import NODE

from .http_fakes import PICTURE, FakeNode, ask, error_of

WEB_1: dict[str, object] = {
    "id": "web-1",
    "service": "board",
    "address": "127.0.0.1:8101",
    "pid": 4711,
    "state": "healthy",
    "requests": 7,
    "ttl_s": 2.5,
}


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


async def put(node: FakeNode, instance_id: str, **changes: object) -> None:
    body = msgspec.json.encode({**WEB_1, "id": instance_id, **changes})
    assert (await ask(node, "PUT", f"/api/instances/{instance_id}", body)).status == 200


async def listed(node: FakeNode) -> list[Instance]:
    answer = await ask(node, "GET", "/api/instances")
    assert answer.status == 200
    return msgspec.json.decode(answer.body, type=InstanceList).instances


async def test_an_instance_is_registered_as_it_describes_itself(node: FakeNode) -> None:
    answer = await ask(node, "PUT", "/api/instances/web-1", msgspec.json.encode(WEB_1))
    assert (answer.status, msgspec.json.decode(answer.body)) == (200, WEB_1)
    assert msgspec.json.decode((await ask(node, "GET", "/api/instances")).body) == {"instances": [WEB_1]}


async def test_it_is_a_service_whose_health_is_what_it_says(node: FakeNode) -> None:
    await put(node, "web-1")
    instance = node.registry.view.instances[CATALOG_NODE, "web-1"]
    assert (instance.name, instance.address, instance.port) == ("board", "127.0.0.1", 8101)
    for state, status in (("healthy", "passing"), ("unhealthy", "critical"), ("draining", "critical")):
        await put(node, "web-1", state=state)
        assert worst_status(node.registry.view, CATALOG_NODE, "web-1") == status


async def test_the_same_again_wakes_nobody(node: FakeNode) -> None:
    """Each renewal of each instance woke all who watch."""
    await put(node, "web-1")
    index = node.registry.view.index
    await put(node, "web-1")
    assert node.registry.view.index == index


async def test_it_vanishes_unless_it_is_renewed(node: FakeNode) -> None:
    await put(node, "web-1")
    await put(node, "web-2")
    node.registry.pass_time(2000)
    await put(node, "web-2", state="draining")
    node.registry.pass_time(500)
    assert [(instance.id, instance.state) for instance in await listed(node)] == [("web-2", "draining")]
    node.registry.pass_time(1)
    assert (CATALOG_NODE, "web-1") not in node.registry.view.instances


async def test_one_that_says_it_is_ill_vanishes_too(node: FakeNode) -> None:
    """A check that is critical has no ttl that could pass, so whether it renews itself is another one."""
    await put(node, "web-1", state="unhealthy")
    node.registry.pass_time(2501)
    assert await listed(node) == []
    node.registry.pass_time(1)
    assert not node.registry.view.instances


async def test_what_may_be_left_out_has_its_default(node: FakeNode) -> None:
    body = b'{"service":"board","address":"[::1]:80","pid":1,"state":"starting"}'
    answer = await ask(node, "PUT", "/api/instances/a", body)
    instance = msgspec.json.decode(answer.body, type=Instance)
    assert (instance.id, instance.requests, instance.ttl_s) == ("a", 0, 15.0)


async def test_instances_are_sorted_and_other_services_left_out(node: FakeNode) -> None:
    for number in range(300):
        await put(node, f"web-{number}")
    node.registry.apply(PutService(ServiceInstance(CATALOG_NODE, "a", "other")))
    node.registry.apply(PutService(ServiceInstance(NODE, "b", "other")))
    ids = [instance.id for instance in await listed(node)]
    assert ids == sorted(f"web-{number}" for number in range(300))


async def test_a_registry_that_grew_out_of_bounds_is_not_listed(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_instances, "INSTANCES_MAX", 2)
    for number in range(3):
        await put(node, f"web-{number}")
    answer = await ask(node, "GET", "/api/instances")
    assert (answer.status, error_of(answer).code) == (413, "too_large")
    assert msgspec.json.decode((await ask(node, "GET", "/api/cluster")).body)["instances"] == []


async def test_deleting_tells_whether_it_was_there(node: FakeNode) -> None:
    await put(node, "web-1")
    for was_there in (True, False):
        answer = await ask(node, "DELETE", "/api/instances/web-1")
        assert msgspec.json.decode(answer.body) == {"id": "web-1", "deleted": was_there}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"service": ""}, "`$.service`"),
        ({"service": 5}, "Expected `str`, got `int` - at `$.service`"),
        ({"service": None}, "`$.service`"),
        ({"address": "somewhere"}, "`$.address`"),
        ({"address": "host:"}, "`$.address`"),
        ({"address": "host:0"}, "port is not from 1 to 65535"),
        ({"address": "host:65536"}, "port is not from 1 to 65535"),
        ({"address": "http://host:80"}, "`$.address`"),
        ({"address": "a" * 300 + ":80"}, "`$.address`"),
        ({"pid": -1}, "`$.pid`"),
        ({"pid": "4711"}, "`$.pid`"),
        ({"pid": 2**80}, "`$.pid`"),
        ({"state": "fine"}, "one of starting, healthy, unhealthy, draining"),
        ({"requests": 1.5}, "`$.requests`"),
        ({"requests": -1}, "`$.requests`"),
        ({"ttl_s": 0.5}, "`$.ttl_s`"),
        ({"ttl_s": 3601}, "`$.ttl_s`"),
        ({"ttl_s": 1e400}, "body"),
        ({"ttl": 5}, "unknown field `ttl`"),
        ({"id": "web-2"}, 'the id is "web-2", and the path says "web-1"'),
    ],
    ids=str,
)
async def test_a_field_that_is_wrong_is_named(node: FakeNode, changes: dict[str, object], words: str) -> None:
    answer = await ask(node, "PUT", "/api/instances/web-1", msgspec.json.encode({**WEB_1, **changes}))
    facts = error_of(answer)
    assert (answer.status, facts.code) == (400, "bad_request")
    assert facts.message.startswith("body: ")
    assert words in facts.message
    assert node.registry.lists == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"service": "\xff"}', "body: "),
        (b"\xff", "not JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b'{"service":"s"}', "missing required field `address`"),
        (b"[" * 100_000, "body: "),
        (b'{"pid":' + b"1" * 10_000 + b"}", "body: "),
    ],
    ids=range(9),
)
async def test_a_body_that_is_not_an_instance_is_refused(node: FakeNode, body: bytes, words: str) -> None:
    answer = await ask(node, "PUT", "/api/instances/web-1", body)
    assert (answer.status, error_of(answer).code) == (400, "bad_request")
    assert words in error_of(answer).message


@pytest.mark.parametrize("instance_id", ["", "a/b", "a%2Fb", "a%20b", "a%0A", "%C3%A4", "%FF", "x" * 129])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_an_id_that_could_not_be_shown_is_refused(node: FakeNode, method: str, instance_id: str) -> None:
    answer = await ask(node, method, f"/api/instances/{instance_id}", msgspec.json.encode(WEB_1))
    assert answer.status == 400
    assert "1 to 128 of the characters" in error_of(answer).message


@pytest.mark.parametrize(("method", "code"), [("GET", 503), ("PUT", 503), ("DELETE", 503)])
async def test_without_a_leader_of_meta_the_registry_is_unavailable(node: FakeNode, method: str, code: int) -> None:
    node.registry.failure = UnavailableError("no leader")
    target = "/api/instances" if method == "GET" else "/api/instances/web-1"
    answer = await ask(node, method, target, msgspec.json.encode(WEB_1))
    assert (answer.status, error_of(answer).retryable) == (code, True)


async def test_the_cluster_is_the_picture_and_the_instances(node: FakeNode) -> None:
    await put(node, "web-1")
    answer = await ask(node, "GET", "/api/cluster")
    shown = msgspec.json.decode(answer.body)
    assert set(shown) == {field.name for field in fields(NodePicture)} | {"instances"}
    assert shown["instances"] == [WEB_1]
    assert shown["nodes"][2]["last_contact_ms"] == 9_500
    assert shown["groups"][0]["lag"] == {"2": 0, "3": 17}
    decoded = msgspec.json.decode(answer.body, type=ClusterPicture)
    assert replace(PICTURE) == NodePicture(**{field.name: getattr(decoded, field.name) for field in fields(PICTURE)})


async def test_the_picture_comes_without_a_quorum_too(node: FakeNode) -> None:
    """When the cluster is broken is when somebody asks for the picture."""
    await put(node, "web-1")
    node.registry.failure = UnavailableError("no leader")
    answer = await ask(node, "GET", "/api/cluster")
    assert answer.status == 200
    assert msgspec.json.decode(answer.body)["instances"] == [WEB_1]
