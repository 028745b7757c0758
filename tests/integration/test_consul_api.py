"""Consul's API, asked by py-consul and by hand: one suite, run against a real Consul 1.8.7 and against Noctule."""

import asyncio
import base64
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import consul
import pytest
from cluster_processes import StartNodes
from consul.exceptions import ClientError
from consul_places import Answered, Place, ask, start_noctule

from noctule.servers.http_server import REQUESTS_RUNNING_MAX

pytest_plugins = ("engines", "cluster_processes", "consul_places")
pytestmark = pytest.mark.integration

SOON_S = 10.0


def until_seen(condition: Callable[[], object], what: str) -> None:
    """Poll until it holds: what an agent is told reaches the catalog a moment later."""
    end = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


# py-consul ------------------------------------------------------------------------------------------------------------


def test_agent(place: Place) -> None:
    client, name = place.client, place.fresh("web")
    told = client.agent.self()
    assert told["Config"]["NodeName"] == place.node
    assert told["Config"]["Version"] == "1.8.7"
    assert place.node in [member["Name"] for member in client.agent.members()]
    check = consul.Check.ttl("30s")
    assert client.agent.service.register(
        name,
        service_id=f"{name}-1",
        port=80,
        tags=["a"],
        meta={"v": "1"},
        weights={"Passing": 5, "Warning": 1},
        check=check,
    )
    service = client.agent.services()[f"{name}-1"]
    assert (service["Service"], service["Port"], service["Tags"], service["Meta"]) == (name, 80, ["a"], {"v": "1"})
    assert service["Weights"] == {"Passing": 5, "Warning": 1}
    check_id = f"service:{name}-1"
    assert client.agent.checks()[check_id]["Status"] == "critical"
    for tell, status in (
        (client.agent.check.ttl_pass, "passing"),
        (client.agent.check.ttl_warn, "warning"),
        (client.agent.check.ttl_fail, "critical"),
    ):
        assert tell(check_id, notes="said")
        told_check = client.agent.checks()[check_id]
        assert (told_check["Status"], told_check["Output"]) == (status, "said")
    assert client.agent.service.deregister(f"{name}-1")
    assert f"{name}-1" not in client.agent.services()
    assert check_id not in client.agent.checks()


def test_checks_of_the_node(place: Place) -> None:
    client, name = place.client, place.fresh("check")
    assert client.agent.check.register(name, consul.Check.ttl("30s"), check_id=name, notes="for people")
    assert client.agent.checks()[name]["Notes"] == "for people"
    assert client.agent.check.ttl_pass(name)
    until_seen(
        lambda: name in [each["CheckID"] for each in client.health.node(place.node)[1]], "the check in the catalog"
    )
    assert client.agent.check.deregister(name)
    until_seen(lambda: name not in [each["CheckID"] for each in client.health.node(place.node)[1]], "the check to go")


def test_maintenance(place: Place) -> None:
    client, name = place.client, place.fresh("web")
    client.agent.service.register(name)
    until_seen(lambda: client.health.service(name, passing=True)[1], "the service in the catalog")
    for enter, leave in (
        (
            lambda: client.agent.service.maintenance(name, "true", "why"),
            lambda: client.agent.service.maintenance(name, "false"),
        ),
        (lambda: client.agent.maintenance("true", "why"), lambda: client.agent.maintenance("false")),
    ):
        assert enter()
        until_seen(lambda: not client.health.service(name, passing=True)[1], "the service to be taken out")
        checks = client.health.service(name)[1][0]["Checks"]
        assert [(each["Status"], each["Notes"]) for each in checks if "maintenance" in each["CheckID"]] == [
            ("critical", "why")
        ]
        assert leave()
        until_seen(lambda: client.health.service(name, passing=True)[1], "the service to be back")
    client.agent.service.deregister(name)


def test_catalog(place: Place) -> None:
    client, node, name = place.client, place.fresh("machine"), place.fresh("db")
    service = {"Service": name, "ID": f"{name}-1", "Tags": ["primary"], "Port": 5432}
    check = {"Name": "up", "CheckID": f"{name}-up", "Status": "passing", "ServiceID": f"{name}-1"}
    assert client.catalog.register(node, "10.0.0.1", service=service, check=check)
    assert client.catalog.datacenters() == ["dc1"]
    assert node in [each["Node"] for each in client.catalog.nodes()[1]]
    assert client.catalog.nodes(node_meta={"rack": "r1"})[1] == []
    assert client.catalog.services()[1][name] == ["primary"]
    (found,) = client.catalog.service(name)[1]
    assert (found["Node"], found["Address"], found["ServicePort"]) == (node, "10.0.0.1", 5432)
    assert client.catalog.service(name, tag="primary")[1] == [found]
    assert client.catalog.service(name, tag="other")[1] == []
    assert client.catalog.node(node)[1]["Services"][f"{name}-1"]["Port"] == 5432
    (healthy,) = client.health.service(name, passing=True, tag="primary")[1]
    assert (healthy["Node"]["Node"], healthy["Service"]["ID"]) == (node, f"{name}-1")
    assert [each["CheckID"] for each in client.health.checks(name)[1]] == [f"{name}-up"]
    assert [each["CheckID"] for each in client.health.node(node)[1]] == [f"{name}-up"]
    assert f"{name}-up" in [each["CheckID"] for each in client.health.state("passing")[1]]
    assert client.catalog.deregister(node, check_id=f"{name}-up")
    assert client.health.checks(name)[1] == []
    assert client.catalog.deregister(node, service_id=f"{name}-1")
    assert client.catalog.service(name)[1] == []
    assert client.catalog.deregister(node)
    assert client.catalog.node(node)[1] is None


def test_keys(place: Place) -> None:
    client, root = place.client, place.fresh("root")
    assert client.kv.get(f"{root}/a")[1] is None
    assert client.kv.put(f"{root}/a", "1", flags=7) is True
    assert client.kv.put(f"{root}/b/c", b"\x00\xff") is True
    index, entry = client.kv.get(f"{root}/a")
    assert (entry["Value"], entry["Flags"]) == (b"1", 7)
    assert int(index) == entry["ModifyIndex"]
    assert [each["Key"] for each in client.kv.get(f"{root}/", recurse=True)[1]] == [f"{root}/a", f"{root}/b/c"]
    assert client.kv.get(f"{root}/", keys=True, separator="/")[1] == [f"{root}/a", f"{root}/b/"]
    assert client.kv.get(f"{root}/b/c", consistency="consistent")[1]["Value"] == b"\x00\xff"
    assert client.kv.put(f"{root}/a", "2", cas=0) is False
    assert client.kv.put(f"{root}/a", "2", cas=entry["ModifyIndex"]) is True
    assert client.kv.delete(f"{root}/a", cas=entry["ModifyIndex"]) is False
    assert client.kv.delete(f"{root}/a") is True
    assert client.kv.delete(f"{root}/", recurse=True) is True
    assert client.kv.get(f"{root}/", recurse=True)[1] is None


def test_sessions_and_locks(place: Place) -> None:
    client, key = place.client, place.fresh("leader")
    mine = client.session.create(name="mine", lock_delay=0, behavior="release", ttl=10)
    other = client.session.create(name="other", lock_delay=0, behavior="delete", ttl=10)
    assert client.session.info(mine)[1]["Name"] == "mine"
    assert {mine, other} <= {each["ID"] for each in client.session.list()[1]}
    assert {mine, other} <= {each["ID"] for each in client.session.node(place.node)[1]}
    assert client.session.renew(mine)["ID"] == mine
    assert client.kv.put(key, "mine", acquire=mine) is True
    assert client.kv.put(key, "other", acquire=other) is False
    assert client.kv.get(key)[1]["Session"] == mine
    assert client.session.destroy(mine) is True
    assert "Session" not in client.kv.get(key)[1]
    with pytest.raises(consul.NotFound):
        client.session.renew(mine)
    assert client.kv.put(key, "other", acquire=other) is True
    assert client.kv.put(key, "other", release=other) is True
    assert client.kv.put(key, "other", acquire=other) is True
    assert client.session.destroy(other) is True
    assert client.kv.get(key)[1] is None, "the key went with its session"


def test_a_lock_delay_keeps_others_away(place: Place) -> None:
    client, key = place.client, place.fresh("leader")
    lost = client.session.create(lock_delay=1)
    assert client.kv.put(key, "1", acquire=lost) is True
    client.session.destroy(lost)
    other = client.session.create(lock_delay=0)
    assert client.kv.put(key, "2", acquire=other) is False
    until_seen(lambda: client.kv.put(key, "2", acquire=other), "the lock-delay to pass")


def test_transactions(place: Place) -> None:
    client, key = place.client, place.fresh("key")
    value = base64.b64encode(b"v").decode()
    written = client.txn.put([{"KV": {"Verb": "set", "Key": key, "Value": value}}])
    assert [each["KV"]["Key"] for each in written["Results"]] == [key]
    read = client.txn.put([{"KV": {"Verb": "get", "Key": key}}])
    assert read["Results"][0]["KV"]["Value"] == value
    index = read["Results"][0]["KV"]["ModifyIndex"]
    stale = [
        {"KV": {"Verb": "set", "Key": f"{key}-2", "Value": value}},
        {"KV": {"Verb": "cas", "Key": key, "Value": value, "Index": index - 1}},
    ]
    with pytest.raises(ClientError):
        client.txn.put(stale)
    assert client.kv.get(f"{key}-2")[1] is None
    stale[1] = {"KV": {"Verb": "check-index", "Key": key, "Index": index}}
    assert len(client.txn.put(stale)["Results"]) == 2


def test_the_cluster_and_what_is_empty(place: Place) -> None:
    client = place.client
    assert client.status.leader() in client.status.peers()
    assert client.event.list()[1] == []
    assert place.ask("GET", "/v1/coordinate/datacenters").status == 200
    assert place.node in [each["Node"] for each in client.operator.raft_config()["Servers"]]


def test_a_blocking_query_ends_when_its_key_changes(place: Place) -> None:
    client, key = place.client, place.fresh("key")
    client.kv.put(key, "1")
    index = client.kv.get(key)[0]
    changed_at: list[float] = []

    def change() -> None:
        time.sleep(0.3)  # So that the other one waits by then, which nothing tells.
        changed_at.append(time.monotonic())
        place.client.kv.put(key, "2")

    thread = threading.Thread(target=change)
    thread.start()
    newer, entry = client.kv.get(key, index=index, wait="20s")
    seen_at = time.monotonic()
    thread.join()
    assert entry["Value"] == b"2"
    assert int(newer) > int(index)
    assert changed_at[0] <= seen_at < changed_at[0] + SOON_S
    began = time.monotonic()
    assert client.kv.get(key, index=newer, wait="300ms")[1]["Value"] == b"2"
    assert 0.3 <= time.monotonic() - began < SOON_S


# By hand, both side by side -------------------------------------------------------------------------------------------

TTL = "11s"
CALLS: tuple[tuple[str, str, object], ...] = (
    ("GET", "/v1/nope", None),
    ("POST", "/v1/kv/{k}", b"x"),
    ("OPTIONS", "/v1/kv/{k}", None),
    ("HEAD", "/v1/status/leader", None),
    ("GET", "/v1/kv", None),
    ("GET", "/v1/kv//{k}", None),
    ("GET", "/v1/kv/", None),
    ("PUT", "/v1/kv/", b"x"),
    ("DELETE", "/v1/kv/", None),
    ("GET", "/v1/kv/{k}", None),
    ("PUT", "/v1/kv/{k}?flags=42", b"v"),
    ("GET", "/v1/kv/{k}", None),
    ("GET", "/v1/kv/{k}?raw", None),
    ("GET", "/v1/kv/{k}?stale", None),
    ("GET", "/v1/kv/{k}?consistent", None),
    ("GET", "/v1/kv/{k}?stale&consistent", None),
    ("GET", "/v1/kv/{k}?dc=elsewhere", None),
    ("GET", "/v1/kv/{k}?index=x", None),
    ("GET", "/v1/kv/{k}?wait=x", None),
    ("GET", "/v1/kv/{k}?index=99999999&wait=10ms", None),
    ("PUT", "/v1/kv/{k}?flags=x", b"v"),
    ("PUT", "/v1/kv/{k}?cas=0", b"v"),
    ("PUT", "/v1/kv/{k}?acquire=", b"v"),
    ("PUT", "/v1/kv/{k}?acquire=none", b"v"),
    ("PUT", "/v1/kv/{k}?acquire=11111111-1111-1111-1111-111111111111", b"v"),
    ("PUT", "/v1/kv/{k}?release=none", b"v"),
    ("PUT", "/v1/kv/{k}?cas=0&acquire=x", b"v"),
    ("DELETE", "/v1/kv/{k}?recurse&cas=1", None),
    ("PUT", "/v1/kv/{k}/e", b""),
    ("GET", "/v1/kv/{k}/e", None),
    ("GET", "/v1/kv/{k}?keys", None),
    ("GET", "/v1/kv/{k}/?keys&separator=/", None),
    ("PUT", "/v1/session/create", {"ttl": "25h"}),
    ("PUT", "/v1/session/create", {"ttl": "x"}),
    ("PUT", "/v1/session/create", {"behavior": "x"}),
    ("PUT", "/v1/session/create", {"node": "none"}),
    ("PUT", "/v1/session/create", {"checks": ["none"]}),
    ("PUT", "/v1/session/create", {"foo": []}),
    ("PUT", "/v1/session/create", {"name": "n", "ttl": TTL, "lockdelay": "0.001s", "behavior": "delete"}),
    ("GET", "/v1/session/node/none", None),
    ("GET", "/v1/session/info/xx", None),
    ("GET", "/v1/session/info/11111111-1111-1111-1111-111111111111", None),
    ("PUT", "/v1/session/renew/11111111-1111-1111-1111-111111111111", None),
    ("PUT", "/v1/session/destroy/11111111-1111-1111-1111-111111111111", None),
    ("PUT", "/v1/session/renew/", None),
    ("PUT", "/v1/catalog/register", {}),
    ("PUT", "/v1/catalog/register", {"Node": "{k}"}),
    ("PUT", "/v1/catalog/register", {"Node": "{k}", "Address": "10.0.0.1", "foo": 1}),
    ("PUT", "/v1/catalog/register", {"Node": "{k}", "Address": "10.0.0.1", "ID": "zz"}),
    ("PUT", "/v1/catalog/register", {"Node": "{k}", "Address": "10.0.0.1", "Datacenter": "elsewhere"}),
    ("PUT", "/v1/catalog/register", {"Node": "{k}", "Address": "10.0.0.1", "Check": {"Node": "o", "Name": "c"}}),
    (
        "PUT",
        "/v1/catalog/register",
        {"Node": "{k}", "Address": "10.0.0.1", "Check": {"Name": "c", "ServiceID": "nope"}},
    ),
    (
        "PUT",
        "/v1/catalog/register",
        {
            "node": "{k}",
            "address": "10.0.0.1",
            "nodemeta": {"zone": "a"},
            "service": {"service": "{k}", "id": "{k}1", "port": 5432, "tags": ["m"], "meta": {"x": "y"}},
            "checks": [{"checkid": "{k}c", "name": "cc", "serviceid": "{k}1", "status": "passing", "notes": "n"}],
        },
    ),
    ("GET", "/v1/catalog/service/{k}", None),
    ("GET", "/v1/catalog/service/{k}?tag=M", None),
    ("GET", "/v1/catalog/service/{k}?tag=m&tag=z", None),
    ("GET", "/v1/catalog/service/{k}?filter=ServiceMeta.x==y", None),
    ("GET", "/v1/catalog/service/{k}?filter=Nope==y", None),
    ("GET", "/v1/catalog/service/", None),
    ("GET", "/v1/catalog/node/{k}", None),
    ("GET", "/v1/catalog/node/none", None),
    ("GET", "/v1/catalog/node-services/{k}", None),
    ("GET", "/v1/catalog/node-services/none", None),
    ("GET", "/v1/catalog/nodes?node-meta=zone:a&filter=Node=={k}", None),
    ("GET", "/v1/catalog/connect/{k}", None),
    ("GET", "/v1/health/service/{k}", None),
    ("GET", "/v1/health/service/{k}?passing", None),
    ("GET", "/v1/health/service/{k}?passing=zz", None),
    ("GET", "/v1/health/service/{k}?filter=Checks.Status==passing", None),
    ("GET", "/v1/health/service/none", None),
    ("GET", "/v1/health/checks/{k}", None),
    ("GET", "/v1/health/node/{k}", None),
    ("GET", "/v1/health/state/", None),
    ("GET", "/v1/health/state/nothing", None),
    ("PUT", "/v1/catalog/deregister", {}),
    ("PUT", "/v1/catalog/deregister", {"Node": "{k}", "CheckID": "{k}c"}),
    ("PUT", "/v1/catalog/deregister", {"Node": "{k}", "ServiceID": "nope"}),
    ("PUT", "/v1/catalog/deregister", {"Node": "{k}"}),
    ("PUT", "/v1/agent/service/register", {}),
    ("PUT", "/v1/agent/service/register", b""),
    ("PUT", "/v1/agent/service/register", {"name": "{k}", "foo": 1}),
    ("PUT", "/v1/agent/service/register", {"name": "{k}", "address": "0.0.0.0"}),
    ("PUT", "/v1/agent/service/register", {"name": "{k}", "weights": {"passing": 0}}),
    ("PUT", "/v1/agent/service/register", {"name": "{k}", "check": {"status": "passing"}}),
    ("PUT", "/v1/agent/service/register", {"name": "{k}", "check": {"ttl": "bad"}}),
    ("PUT", "/v1/agent/service/register", {"name": "{k}", "meta": {"bad key": "v"}}),
    (
        "PUT",
        "/v1/agent/service/register",
        {
            "name": "{k}",
            "tags": ["a"],
            "taggedaddresses": {"lan": {"address": "1.2.3.4", "port": 5}},
            "enable_tag_override": True,
            "checks": [{"ttl": "30s", "status": "passing"}, {"ttl": "30s", "checkid": "{k}mine", "name": "m"}],
        },
    ),
    ("GET", "/v1/agent/service/{k}", None),
    ("GET", "/v1/agent/service/none", None),
    ("GET", "/v1/agent/services?filter=Service=={k}", None),
    ("GET", "/v1/agent/checks?filter=ServiceID=={k}", None),
    ("PUT", "/v1/agent/check/pass/none", None),
    ("PUT", "/v1/agent/check/warn/{k}mine?note=hello", None),
    ("GET", "/v1/agent/health/service/id/{k}?format=text", None),
    ("PUT", "/v1/agent/check/update/{k}mine", {"Status": "bad"}),
    ("PUT", "/v1/agent/check/update/{k}mine", {"Status": "passing", "Output": "fine"}),
    ("GET", "/v1/agent/health/service/id/{k}?format=text", None),
    ("GET", "/v1/agent/health/service/id/none", None),
    ("GET", "/v1/agent/health/service/name/none", None),
    ("PUT", "/v1/agent/service/maintenance/{k}", None),
    ("PUT", "/v1/agent/service/maintenance/{k}?enable=x", None),
    ("PUT", "/v1/agent/service/maintenance/none?enable=true", None),
    ("PUT", "/v1/agent/service/maintenance/{k}?enable=true&reason=why", None),
    ("GET", "/v1/agent/health/service/id/{k}?format=text", None),
    ("PUT", "/v1/agent/service/maintenance/{k}?enable=false", None),
    ("PUT", "/v1/agent/check/register", {"TTL": "15s"}),
    ("PUT", "/v1/agent/check/register", {"Name": "x"}),
    ("PUT", "/v1/agent/check/register", {"Name": "x", "TTL": "15s", "ServiceID": "nope"}),
    ("PUT", "/v1/agent/check/register", {"Name": "x", "TTL": "15s", "Status": "nope"}),
    ("PUT", "/v1/agent/check/deregister/none", None),
    ("PUT", "/v1/agent/service/deregister/none", None),
    ("PUT", "/v1/agent/service/deregister/{k}", None),
    ("PUT", "/v1/txn", [{"KV": {"Verb": "set", "Key": "{k}/t", "Value": "eA==", "Flags": 3}}]),
    ("PUT", "/v1/txn", [{"KV": {"Verb": "get", "Key": "{k}/t"}}]),
    ("PUT", "/v1/txn", [{"KV": {"Verb": "get", "Key": "{k}/none"}}]),
    ("PUT", "/v1/txn", [{"KV": {"Verb": "cas", "Key": "{k}/t", "Value": "eA==", "Index": 1}}]),
    ("PUT", "/v1/txn", [{"KV": {"Verb": "lock", "Key": "{k}/t", "Session": "zz"}}]),
    ("PUT", "/v1/txn", [{"KV": {"Verb": "bogus", "Key": "{k}/t"}}]),
    ("PUT", "/v1/txn", [{"KV": {"Verb": "set", "Key": "{k}/t"}}, {"KV": {"Verb": "get", "Key": "{k}/none"}}]),
    ("PUT", "/v1/txn", [{"Node": {"Verb": "set", "Node": {"Node": "{k}t", "Address": "1.1.1.1"}}}]),
    ("PUT", "/v1/txn", [{"Node": {"Verb": "cas", "Node": {"Node": "{k}t", "Address": "2.2.2.2", "ModifyIndex": 1}}}]),
    ("PUT", "/v1/txn", [{"Service": {"Verb": "set", "Node": "none", "Service": {"Service": "s"}}}]),
    ("PUT", "/v1/txn", [{"Node": {"Verb": "delete", "Node": {"Node": "{k}t"}}}]),
    ("PUT", "/v1/txn", []),
    ("PUT", "/v1/txn", b""),
    ("GET", "/v1/txn", None),
    ("GET", "/v1/status/leader?dc=elsewhere", None),
    ("GET", "/v1/event/list", None),
    ("GET", "/v1/acl/tokens", None),
    ("PUT", "/v1/acl/bootstrap", b""),
    ("GET", "/v1/coordinate/node/none", None),
)
"""Each is asked of both; ``{k}`` is a name of their own."""

HEADERS = ("allow", "location", "x-consul-reason")
READ_HEADERS = ("x-consul-index", "x-consul-knownleader", "x-consul-lastcontact", "x-consul-effective-consistency")
OF_THEIR_OWN = {"CreateIndex", "ModifyIndex", "ID", "ContentHash"}
"""What may be another value, but must be there and of the same type."""


def comparable(answer: Answered, name: str) -> object:
    """What must be the same of two answers."""
    headers = {header: answer.headers.get(header, "").replace(name, "{k}") for header in HEADERS}
    if answer.status < 500:  # Of a read that failed Consul says that it knows no leader, whatever the reason.
        headers |= {header: "there" if header in answer.headers else "missing" for header in READ_HEADERS}
    is_json = "json" in answer.headers.get("content-type", "")
    text = answer.body.decode().replace(name, "{k}")
    value = shape(json.loads(text)) if is_json else sentence(text)
    return answer.status, headers, value


def shape(value: Any) -> Any:
    """The value without what is each one's own."""
    if isinstance(value, dict):
        return {
            name: type(each).__name__
            if name in OF_THEIR_OWN
            else "{node}"
            if name == "Node" and is_node(each)
            else shape(each)
            for name, each in sorted(value.items())
        }
    if isinstance(value, list):
        return [shape(each) for each in value]
    return value


def is_node(value: object) -> bool:
    """Whether it is the name of the node that was asked, which they do not share."""
    return value == "consul" or (isinstance(value, str) and value.startswith("node-"))


def sentence(text: str) -> str:
    """What is said, without what each says in its own words."""
    for beginning in ("Failed to create boolean expression evaluator", "Invalid Session TTL '90000000000000', must be"):
        if text.startswith(beginning):
            return beginning
    return "" if text.startswith("<a href") else text


def placed(value: object, name: str) -> Any:
    """The same with the name in its place."""
    if isinstance(value, str):
        return value.replace("{k}", name)
    if isinstance(value, dict):
        return {key: placed(each, name) for key, each in value.items()}
    return [placed(each, name) for each in value] if isinstance(value, list) else value


def test_both_answer_the_same(real: Place, ours: Place) -> None:
    """Status, headers, sentences, and JSON but for ids and indexes, call for call."""
    name, differing = "both", []
    for method, target, body in CALLS:
        target, body = target.replace("{k}", name), placed(body, name)
        theirs, mine = (comparable(each.ask(method, target, body), name) for each in (real, ours))
        if theirs != mine:
            differing.append(f"{method} {target} {body}\n  consul:  {theirs}\n  noctule: {mine}")
    session = {"Name": "n", "TTL": TTL, "LockDelay": 5, "Behavior": "delete"}
    theirs, mine = (info_of_new_session(each, session) for each in (real, ours))
    assert theirs == mine
    assert not differing, "\n".join(differing)


@pytest.mark.parametrize("seed", range(4))
def test_both_answer_the_same_to_calls_at_random(real: Place, ours: Place, seed: int) -> None:
    """Few keys and sessions, so that calls meet; after each the same keys are there, and moved or not alike."""
    chance, root = random.Random(seed), f"random-{seed}"
    sessions: list[dict[str, str]] = []
    before = {place.name: keys_of(place, root) for place in (real, ours)}
    for step in range(80):
        call = random_call(chance, root, len(sessions), step)
        answers = []
        for place in (real, ours):
            method, target, body = call(place.name, sessions, before[place.name])
            answers.append(place.ask(method, target, body))
        theirs, mine = answers
        told = f"seed {seed}, step {step}: {method} {target} {body!r}"
        if target == "/v1/session/create":
            sessions.append(
                {place.name: answer.json["ID"] for place, answer in zip((real, ours), answers, strict=True)}
            )
        else:
            assert said(theirs, "consul", sessions) == said(mine, "noctule", sessions), told
        after = {place.name: keys_of(place, root) for place in (real, ours)}
        shown = [
            {key: (entry["Value"], entry["Flags"], holder(entry, name, sessions)) for key, entry in after[name].items()}
            for name in ("consul", "noctule")
        ]
        assert shown[0] == shown[1], told
        # Consul sets LockIndex to 0 where a key is written plainly, and so moves one that is written as it was.
        reset = {key for key, entry in after["consul"].items() if entry["LockIndex"] < lock_index(before, key)}
        moved = [
            {key for key, entry in after[name].items() if entry != before[name].get(key)} - reset
            for name in ("consul", "noctule")
        ]
        assert moved[0] == moved[1], told
        before = after


def lock_index(keys: dict[str, dict[str, Any]], key: str) -> int:
    """Of a key at Consul; 0 of one that is not there."""
    return int(keys["consul"][key]["LockIndex"]) if key in keys["consul"] else 0


RandomCall = Callable[[str, list[dict[str, str]], dict[str, Any]], tuple[str, str, object]]


def random_call(chance: random.Random, root: str, sessions: int, step: int) -> RandomCall:
    """A call that is the same of both, but for the ids and indexes that each has given."""
    key = f"{root}/{chance.choice('abc')}"
    value = chance.choice((b"same", b"%d" % step))
    kind = chance.choice(
        ("set", "set", "cas", "acquire", "acquire", "release", "delete", "delete-cas", "tree", "session", "end")
    )
    which, is_now = chance.randrange(max(1, sessions)), chance.random() < 0.6
    asked = {"LockDelay": "0s", "Behavior": chance.choice(("release", "delete"))}

    def call(place: str, ids: list[dict[str, str]], keys: dict[str, Any]) -> tuple[str, str, object]:
        index = keys[key]["ModifyIndex"] if key in keys and is_now else 0
        session = ids[which][place] if ids else ""
        if kind == "session" or (kind in ("acquire", "release", "end") and not session):
            return "PUT", "/v1/session/create", asked
        if kind == "end":
            return "PUT", f"/v1/session/destroy/{session}", None
        if kind in ("delete", "delete-cas", "tree"):
            query = {"delete": "", "delete-cas": f"?cas={index or 1}", "tree": "?recurse"}[kind]
            return "DELETE", f"/v1/kv/{root if kind == 'tree' else key}{query}", None
        query = {"set": f"?flags={which}", "cas": f"?cas={index}"}.get(kind, f"?{kind}={session}")
        return "PUT", f"/v1/kv/{key}{query}", value

    return call


def said(answer: Answered, place: str, sessions: list[dict[str, str]]) -> tuple[int, str]:
    """An answer with numbers for the ids of sessions."""
    text = answer.body.decode().strip()
    for number, ids in enumerate(sessions):
        text = text.replace(ids[place], f"session {number}")
    return answer.status, text


def keys_of(place: Place, root: str) -> dict[str, Any]:
    """Each key with all that is told of it."""
    answer = place.ask("GET", f"/v1/kv/{root}?recurse")
    return {entry["Key"]: entry for entry in answer.json} if answer.status == 200 else {}


def holder(entry: dict[str, Any], place: str, sessions: list[dict[str, str]]) -> int | None:
    """Which session holds a key, by its number."""
    return next((number for number, ids in enumerate(sessions) if ids[place] == entry.get("Session")), None)


def info_of_new_session(place: Place, asked: dict[str, object]) -> Any:
    """The session as it is shown."""
    session = place.ask("PUT", "/v1/session/create", asked).json["ID"]
    try:
        return shape(place.ask("GET", f"/v1/session/info/{session}").json)
    finally:
        place.ask("PUT", f"/v1/session/destroy/{session}")


# Noctule alone --------------------------------------------------------------------------------------------------------


def test_every_node_answers_for_all(ours: Place) -> None:
    """Registered at one, seen at once at another; a query that waits at a third is woken."""
    first, second = ours.others
    name = ours.fresh("web")
    began = ask(second, "GET", f"/v1/health/service/{name}")
    found: list[Answered] = []
    waiting = threading.Thread(
        target=lambda: found.append(ask(second, "GET", f"/v1/health/service/{name}?index={began.index}&wait=20s"))
    )
    waiting.start()
    assert ours.ask("PUT", "/v1/agent/service/register", {"Name": name, "Port": 1}).status == 200
    assert [each["Service"]["Port"] for each in ask(first, "GET", f"/v1/health/service/{name}").json] == [1]
    waiting.join(SOON_S)
    assert [each["Node"]["Node"] for each in found[0].json] == [ours.node]
    assert found[0].index > began.index


def test_a_ttl_of_the_catalog_ends_by_itself(ours: Place) -> None:
    name = ours.fresh("short")
    check = {"Name": "t", "CheckID": name, "ServiceID": name, "Status": "passing", "Definition": {"TTL": "300ms"}}
    body = {"Node": name, "Address": "10.0.0.9", "Service": {"Service": name}, "Check": check}
    assert ours.ask("PUT", "/v1/catalog/register", body).status == 200
    assert len(ours.ask("GET", f"/v1/health/service/{name}?passing").json) == 1
    until_seen(lambda: not ours.ask("GET", f"/v1/health/service/{name}?passing").json, "the TTL to pass")


def test_a_session_ends_by_itself_and_its_key_with_it(ours: Place) -> None:
    key = ours.fresh("leader")
    asked = {"TTL": "100ms", "Behavior": "delete", "LockDelay": "0s"}
    session = ours.ask("PUT", "/v1/session/create", asked).json["ID"]
    assert ours.ask("PUT", f"/v1/kv/{key}?acquire={session}", b"me").json is True
    until_seen(lambda: ours.ask("GET", f"/v1/kv/{key}").status == 404, "the session to end")
    assert ours.ask("GET", f"/v1/session/info/{session}").json == []


async def test_more_wait_than_are_answered_at_once(ours: Place) -> None:
    """Those that wait take no place from those that do something, and one change wakes them all."""
    key, count = ours.fresh("crowd"), REQUESTS_RUNNING_MAX + 200
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(ours.url, connector=connector, timeout=timeout) as session:
        async with session.get(f"/v1/kv/{key}") as answer:
            index = int(answer.headers["X-Consul-Index"])

        async def wait_for_news() -> int:
            async with session.get(f"/v1/kv/{key}?index={index}&wait=30s") as answer:
                return answer.status

        tasks = [asyncio.create_task(wait_for_news()) for _ in range(count)]
        await asyncio.sleep(1)  # Nothing tells from outside that they wait.
        assert not any(task.done() for task in tasks)
        async with session.get("/v1/catalog/nodes") as answer:
            assert answer.status == 200
        async with session.put(f"/v1/kv/{key}", data=b"news") as answer:
            assert await answer.json() is True
        assert set(await asyncio.gather(*tasks)) == {200}


def test_a_node_that_stops_answers_those_who_wait(start_nodes: StartNodes) -> None:
    """With what there is, and soon: a client that is answered asks another node, one that is cut off has an error."""
    cluster = start_nodes(partitions=1, nodes=1)
    place = start_noctule(cluster)
    assert place.ask("PUT", "/v1/kv/a", b"v").json is True
    index = place.ask("GET", "/v1/kv/a").index
    found: list[Answered] = []
    waiting = threading.Thread(
        target=lambda: found.append(place.ask("GET", f"/v1/kv/a?index={index}&wait={SOON_S:.0f}s"))
    )
    waiting.start()
    time.sleep(0.5)  # So that it waits by then, which nothing tells.
    began = time.monotonic()
    cluster.life_of[1].stop()
    waiting.join(SOON_S)
    assert time.monotonic() - began < SOON_S / 2
    assert (found[0].status, found[0].index) == (200, index)


def test_without_a_quorum_only_stale_reads_are_answered(start_nodes: StartNodes) -> None:
    cluster = start_nodes(partitions=1)
    place = start_noctule(cluster)
    assert place.ask("PUT", "/v1/kv/a", b"v").json is True
    for node in (1, 2):
        cluster.life_of[node].kill()
    until_seen(lambda: place.ask("GET", "/v1/kv/a").status == 500, "the quorum to be missed")
    answer = place.ask("PUT", "/v1/kv/a", b"w")
    assert (answer.status, answer.body) == (500, b"No cluster leader")

    def is_stale() -> bool:
        answer = place.ask("GET", "/v1/kv/a?stale")
        return answer.status == 200 and answer.headers["x-consul-knownleader"] == "false"

    until_seen(is_stale, "the node to know that nobody leads")
    answer = place.ask("GET", "/v1/kv/a?stale")
    assert base64.b64decode(answer.json[0]["Value"]) == b"v"
    assert int(answer.headers["x-consul-lastcontact"]) > 0
    assert place.ask("GET", "/v1/kv/a?stale&max_stale=1ms").status == 500
    for node in (1, 2):
        cluster.start(node)
    until_seen(lambda: place.ask("PUT", "/v1/kv/a", b"w").status == 200, "the quorum to be back")
