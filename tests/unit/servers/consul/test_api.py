"""How a request finds its endpoint, and what all of them answer alike."""

import pytest

from noctule.base.errors import OutcomeUnknownError, StorageError, TooLargeError
from noctule.servers.consul.errors import error_answer
from noctule.servers.consul.routes import ENDPOINTS
from tests.unit.servers.consul.face import Face


async def test_each_endpoint_is_found_by_its_path() -> None:
    """A longer path wins: /v1/agent/check/register is no id of /v1/agent/check/…"""
    face = Face()
    for endpoint in ENDPOINTS:
        answer = await face.ask("OPTIONS", endpoint.path.replace("{", "").replace("}", ""))
        allowed = [each.method for each in ENDPOINTS if each.path == endpoint.path]
        assert answer.status == 200, endpoint.path
        assert answer.headers["Allow"] == ",".join(["OPTIONS", *allowed]), endpoint.path


@pytest.mark.parametrize("path", ["/v1/nope", "/v1/agent/self/", "/v1/health", "/v1/", "/v1/namespaces"])
async def test_what_is_not_there_is_404_without_a_word(path: str) -> None:
    assert await Face().sentence("GET", path) == (404, "")


async def test_another_method_is_refused_with_those_there_are() -> None:
    answer = await Face().ask("POST", "/v1/kv/a")
    assert (answer.status, answer.body) == (405, b"method POST not allowed")
    assert answer.headers == {"Allow": "OPTIONS,GET,PUT,DELETE"}
    assert (await Face().ask("HEAD", "/v1/status/leader")).status == 405


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/v1/kv//dd", "/v1/kv/dd"),
        ("/v1/kv", "/v1/kv/"),
        ("/v1/kv/a/../b", "/v1/kv/b"),
        ("/v1/kv/x%2F%2Fy?raw", "/v1/kv/x/y?raw"),
        ("/v1//status/leader", "/v1/status/leader"),
        ("/v1/kv/x//", "/v1/kv/x/"),
    ],
)
async def test_an_unclean_path_is_sent_on(path: str, location: str) -> None:
    answer = await Face().ask("GET", path)
    assert (answer.status, answer.headers) == (301, {"Location": location})


async def test_another_datacenter_is_out_of_reach() -> None:
    face = Face()
    for path in ("/v1/kv/a", "/v1/catalog/nodes", "/v1/health/service/web", "/v1/session/list", "/v1/status/leader"):
        assert await face.sentence("GET", f"{path}?dc=elsewhere") == (500, "No path to datacenter")
    assert (await face.ask("GET", "/v1/catalog/nodes?dc=DC1")).status == 200
    assert await face.get("/v1/catalog/datacenters?dc=elsewhere") == ["dc1"]
    assert await face.put("/v1/agent/service/register?dc=elsewhere", {"Name": "here"}) is None
    body = {"Node": "n", "Address": "1.1.1.1", "Datacenter": "elsewhere"}
    assert await face.sentence("PUT", "/v1/catalog/register", body) == (500, "No path to datacenter")


async def test_pretty_is_the_same_over_lines() -> None:
    face = Face()
    plain, pretty = await face.ask("GET", "/v1/catalog/nodes"), await face.ask("GET", "/v1/catalog/nodes?pretty")
    assert b"\n" not in plain.body
    assert pretty.body.startswith(b"[\n    {\n        ")
    assert b"".join(pretty.body.split()) == b"".join(plain.body.split())


async def test_tokens_are_taken_and_not_heeded() -> None:
    assert (await Face().ask("GET", "/v1/agent/self?token=x")).status == 200
    for method, path in (("GET", "/v1/acl/tokens"), ("PUT", "/v1/acl/bootstrap"), ("POST", "/v1/acl/login")):
        assert await Face().sentence(method, path) == (401, "ACL support disabled")


async def test_a_path_that_is_no_text_is_refused() -> None:
    assert await Face().sentence("GET", "/v1/kv/%ff") == (400, "the path is not UTF-8")
    assert (await Face().sentence("GET", "/v1/kv/a%00"))[0] == 400


async def test_without_a_quorum_only_stale_reads_are_answered() -> None:
    face = Face()
    face.registry.has_quorum, face.registry.contact_ms = False, 1234
    no_leader = (500, "No cluster leader")
    for path in ("/v1/kv/a", "/v1/kv/a?consistent", "/v1/catalog/nodes", "/v1/health/state/any", "/v1/session/list"):
        assert await face.sentence("GET", path) == no_leader, path
    assert await face.sentence("PUT", "/v1/kv/a", b"x") == no_leader
    assert await face.sentence("PUT", "/v1/session/create") == no_leader
    assert await face.sentence("PUT", "/v1/txn", [{"KV": {"Verb": "get", "Key": "a"}}]) == no_leader
    answer = await face.ask("GET", "/v1/catalog/nodes?stale")
    assert answer.status == 200
    assert answer.headers["X-Consul-KnownLeader"] == "false"
    assert answer.headers["X-Consul-LastContact"] == "1234"
    assert answer.headers["X-Consul-Effective-Consistency"] == "stale"
    assert await face.sentence("GET", "/v1/catalog/nodes?stale&max_stale=1s") == no_leader
    assert (await face.ask("GET", "/v1/catalog/nodes?stale&max_stale=2s")).status == 200


async def test_an_answer_says_at_which_index_and_how_sure_it_is() -> None:
    face = Face()
    before = int((await face.ask("GET", "/v1/catalog/nodes")).headers["X-Consul-Index"])
    await face.put("/v1/catalog/register", {"Node": "n", "Address": "1.1.1.1"})
    answer = await face.ask("GET", "/v1/catalog/nodes?consistent")
    assert int(answer.headers["X-Consul-Index"]) > before > 0
    assert answer.headers["X-Consul-KnownLeader"] == "true"
    assert answer.headers["X-Consul-LastContact"] == "0"
    assert answer.headers["X-Consul-Effective-Consistency"] == "consistent"


def test_what_goes_wrong_has_a_status_and_shows_nothing_of_the_inside() -> None:
    answers = {
        error: error_answer(error)
        for error in (
            TooLargeError("big"),
            OutcomeUnknownError("who knows"),
            StorageError("disk"),
            ValueError("secret"),
        )
    }
    assert [(answer.status, answer.body) for answer in answers.values()][:3] == [
        (413, b"big"),
        (500, b"who knows"),
        (500, b"disk"),
    ]
    last = list(answers.values())[-1]
    assert last.status == 500
    assert b"secret" not in last.body
