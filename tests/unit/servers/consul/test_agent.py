"""/v1/agent as a real Consul 1.8 answers it."""

import msgspec
import pytest

from tests.unit.servers.consul.face import NODE, NODE_ID, Face

WEB = {"name": "web", "id": "web1", "port": 80, "tags": ["a", "b"], "meta": {"v": "1"}, "check": {"ttl": "30s"}}


async def face_with_web() -> Face:
    face = Face()
    assert await face.put("/v1/agent/service/register", WEB) is None
    return face


async def test_a_service_of_this_node() -> None:
    face = await face_with_web()
    shown = {
        "ID": "web1",
        "Service": "web",
        "Tags": ["a", "b"],
        "Meta": {"v": "1"},
        "Port": 80,
        "Address": "",
        "Weights": {"Passing": 1, "Warning": 1},
        "EnableTagOverride": False,
    }
    assert await face.get("/v1/agent/services") == {"web1": shown}
    one = await face.get("/v1/agent/service/web1")
    assert isinstance(one, dict)
    assert one == {**shown, "ContentHash": one["ContentHash"]}
    assert await face.get("/v1/agent/services?filter=Service!=web") == {}
    assert await face.sentence("GET", "/v1/agent/service/nope") == (404, "unknown service ID: nope")
    in_catalog = await face.get("/v1/catalog/service/web")
    assert isinstance(in_catalog, list)
    assert [each["Node"] for each in in_catalog] == [NODE]


async def test_its_hash_is_of_what_is_shown() -> None:
    face = await face_with_web()
    before = (await face.ask("GET", "/v1/agent/service/web1")).headers["X-Consul-ContentHash"]
    await face.put("/v1/agent/service/register", {**WEB, "check": {"ttl": "31s"}})
    assert (await face.ask("GET", "/v1/agent/service/web1")).headers["X-Consul-ContentHash"] == before
    await face.put("/v1/agent/service/register", {**WEB, "port": 81})
    assert (await face.ask("GET", "/v1/agent/service/web1")).headers["X-Consul-ContentHash"] != before


async def test_checks_get_consuls_names() -> None:
    face = await face_with_web()
    checks = [{"ttl": "1s"}, {"tcp": "127.0.0.1:1", "interval": "1s", "checkid": "mine", "name": "m", "notes": "n"}]
    await face.put("/v1/agent/service/register", {"name": "x", "checks": checks})
    await face.put("/v1/agent/check/register", {"Name": "mem", "TTL": "15s"})
    shown = await face.get("/v1/agent/checks")
    assert isinstance(shown, dict)
    assert {key: (each["Name"], each["Type"], each["ServiceID"], each["Status"]) for key, each in shown.items()} == {
        "mem": ("mem", "ttl", "", "critical"),
        "mine": ("m", "tcp", "x", "critical"),
        "service:web1": ("Service 'web' check", "ttl", "web1", "critical"),
        "service:x:1": ("Service 'x' check", "ttl", "x", "critical"),
    }
    assert shown["mine"]["Notes"] == "n"
    only = await face.get("/v1/agent/checks?filter=Name==mem")
    assert isinstance(only, dict)
    assert list(only) == ["mem"]


async def test_a_check_is_told() -> None:
    face = await face_with_web()
    for verb, status in (("pass", "passing"), ("warn", "warning"), ("fail", "critical")):
        assert await face.put(f"/v1/agent/check/{verb}/service:web1?note=hello") is None
        shown = await face.get("/v1/health/checks/web")
        assert isinstance(shown, list)
        assert (shown[0]["Status"], shown[0]["Output"]) == (status, "hello")
    update = {"Status": "passing", "Output": "fine"}
    assert await face.put("/v1/agent/check/update/service:web1", update) is None
    assert face.registry.view.checks[NODE, "service:web1"].output == "fine"


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("pass/nope", b"", (500, 'CheckID "nope" does not have associated TTL')),
        ("pass/", b"", (500, 'CheckID "" does not have associated TTL')),
        ("update/service:web1", {"Status": "bad"}, (400, "Invalid check status: 'bad'")),
        ("update/service:web1", {"output": "x"}, (400, "Invalid check status: ''")),
        ("update/service:web1", b"", (400, "Request decode failed: EOF")),
        ("register", b"", (400, "Request decode failed: EOF")),
        ("register", {"TTL": "15s"}, (400, "Missing check name")),
        ("register", {"Name": "x"}, (400, "Invalid check: TTL must be > 0 for TTL checks")),
        ("register", {"Name": "x", "TTL": "1s", "Status": "zz"}, (400, "Bad check status")),
        ("register", {"Name": "x", "TTL": "1s", "ServiceID": "nope"}, (500, 'ServiceID "nope" does not exist')),
        (
            "register",
            {"Name": "x", "HTTP": "http://127.0.0.1/"},
            (400, "Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks"),
        ),
        (
            "register",
            {"Name": "x", "TCP": "h:1", "Interval": "1s", "TTL": "1s"},
            (400, "Invalid check: Interval and TTL cannot both be specified"),
        ),
        ("deregister/", b"", (500, "CheckID missing")),
    ],
)
async def test_what_a_check_cannot_be_told(path: str, body: object, answer: tuple[int, str]) -> None:
    assert await (await face_with_web()).sentence("PUT", f"/v1/agent/check/{path}", body) == answer


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({}, (400, "Missing service name")),
        ({"id": "only"}, (400, "Missing service name")),
        ({"name": "x", "address": "0.0.0.0"}, (400, "Invalid service address")),
        ({"name": "x", "weights": {"passing": 0}}, (400, "Invalid Weights: Passing must be greater than 0")),
        ({"name": "x", "check": {"status": "passing"}}, (400, "Invalid check: TTL must be > 0 for TTL checks")),
        (
            {"name": "x", "check": {"ttl": "1s", "status": "zz"}},
            (400, "Status for checks must 'passing', 'warning', 'critical'"),
        ),
        (
            {"name": "x", "meta": {"bad key": "v"}},
            (
                400,
                "Invalid Service Meta: Couldn't load metadata pair ('bad key', 'v'): Key contains invalid characters",
            ),
        ),
        ({"name": "x", "port": -1}, (400, "Invalid port -1: must be from 0 to 65535")),
        (
            {"name": "x", "kind": "connect-proxy"},
            (400, "this cluster has no service mesh: Kind, Proxy and Connect cannot be registered"),
        ),
    ],
)
async def test_what_cannot_be_a_service(asked: object, answer: tuple[int, str]) -> None:
    face = Face()
    assert await face.sentence("PUT", "/v1/agent/service/register", asked) == answer
    assert await face.get("/v1/agent/services") == {}


async def test_nobody_runs_programs_through_a_check() -> None:
    for check in ({"args": ["ls"]}, {"script": "ls"}, {"docker_container_id": "x"}):
        status, sentence = await Face().sentence(
            "PUT", "/v1/agent/service/register", {"name": "x", "check": {**check, "interval": "1s"}}
        )
        assert status == 500
        assert sentence.startswith("Scripts are disabled on this agent from remote calls; ")


async def test_every_way_to_spell_a_check_comes_to_its_definition() -> None:
    face = Face()
    check = {
        "HTTP": "http://127.0.0.1:8000/h",
        "Method": "post",
        "Header": {"X-A": ["b"]},
        "Body": "q",
        "Interval": "10s",
        "Timeout": 2_000_000_000,
        "deregister_critical_service_after": "90m",
        "TLSSkipVerify": True,
        "SuccessBeforePassing": 2,
        "FailuresBeforeCritical": 3,
        "Status": "passing",
    }
    await face.put("/v1/agent/service/register", {"Name": "x", "DependsOn": ["db"], "Check": check})
    service = face.agent.services()["x"]
    (kept,) = service.checks
    assert service.depends_on == ("db",)
    assert (kept.http, kept.method, kept.headers, kept.body) == (check["HTTP"], "POST", {"X-A": ("b",)}, "q")
    assert (kept.interval_s, kept.timeout_s, kept.deregister_after_s) == (10, 2, 5400)
    assert (kept.tls_skip_verify, kept.success_before_passing, kept.failures_before_critical) == (True, 2, 3)
    assert kept.status == "passing"


async def test_checks_stay_unless_they_are_to_be_replaced() -> None:
    face = await face_with_web()
    again = {**WEB, "check": {"ttl": "5s", "checkid": "second"}}
    await face.put("/v1/agent/service/register", again)
    assert sorted(face.agent.checks()) == ["second", "service:web1"]
    await face.put("/v1/agent/service/register?replace-existing-checks=false", again)
    assert sorted(face.agent.checks()) == ["second", "service:web1"]
    await face.put("/v1/agent/service/register?replace-existing-checks", again)
    assert sorted(face.agent.checks()) == ["second"]


async def test_what_is_not_here_is_gone_already() -> None:
    face = await face_with_web()
    for path in ("service/deregister/nope", "check/deregister/nope", "check/deregister/service:web1"):
        assert await face.put(f"/v1/agent/{path}") is None
    assert await face.sentence("PUT", "/v1/agent/service/deregister/") == (500, "ServiceID missing")
    assert await face.put("/v1/agent/service/deregister/web1") is None
    assert await face.get("/v1/agent/services") == {}
    assert await face.get("/v1/catalog/services") == {}


async def test_health_is_told_by_the_status() -> None:
    face = await face_with_web()
    for verb, status, word in (("pass", 200, "passing"), ("warn", 429, "warning"), ("fail", 503, "critical")):
        await face.put(f"/v1/agent/check/{verb}/service:web1")
        for path in ("id/web1", "name/web"):
            text = await face.ask("GET", f"/v1/agent/health/service/{path}?format=text")
            assert (text.status, text.body.decode(), text.headers["X-Consul-Reason"]) == (status, word, word)
            answer = await face.ask("GET", f"/v1/agent/health/service/{path}")
            shown = msgspec.json.decode(answer.body)
            one = shown[0] if isinstance(shown, list) else shown
            assert answer.status == status
            assert one["AggregatedStatus"] == word
            assert one["Service"]["ID"] == "web1"
            assert [each["CheckID"] for each in one["Checks"]] == ["service:web1"]
    nobody = await face.ask("GET", "/v1/agent/health/service/id/none")
    assert nobody.status == 404
    assert msgspec.json.decode(nobody.body) == {"AggregatedStatus": "critical", "Service": None, "Checks": None}
    assert await face.sentence("GET", "/v1/agent/health/service/name/none") == (404, "[]")
    assert await face.sentence("GET", "/v1/agent/health/service/id/") == (500, "Bad request: Missing serviceID")
    assert await face.sentence("GET", "/v1/agent/health/service/name/") == (500, "Bad request: Missing service Name")


@pytest.mark.parametrize("path", ["id", "name"])
async def test_what_a_client_sends_makes_no_header_of_its_own(path: str) -> None:
    """Found by requests made at random: the answer could not be framed, and the connection was lost."""
    answer = await Face().ask("GET", f"/v1/agent/health/service/{path}/x%0D%0ASet-Cookie:%20a%C3%A9")
    assert answer.headers["X-Consul-Reason"].split(" ", 1)[1].startswith("x..Set-Cookie: a. ")


async def test_maintenance_takes_out_and_puts_back() -> None:
    face = await face_with_web()
    await face.put("/v1/agent/check/pass/service:web1")
    assert await face.put("/v1/agent/service/maintenance/web1?enable=true&reason=why") is None
    check = (await face.get("/v1/agent/checks"))["_service_maintenance:web1"]  # type: ignore[index]
    assert (check["Name"], check["Notes"], check["Type"]) == ("Service Maintenance Mode", "why", "maintenance")
    answer = await face.ask("GET", "/v1/agent/health/service/id/web1?format=text")
    assert (answer.status, answer.body) == (503, b"maintenance")
    assert await face.get("/v1/health/service/web?passing") == []
    assert await face.put("/v1/agent/service/maintenance/web1?enable=false") is None
    assert (await face.ask("GET", "/v1/agent/health/service/id/web1")).status == 200
    assert await face.put("/v1/agent/maintenance?enable=true") is None
    assert await face.get("/v1/health/service/web?passing") == []
    assert await face.put("/v1/agent/maintenance?enable=0") is None
    assert len(await face.get("/v1/health/service/web?passing")) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("maintenance", (400, "Missing value for enable")),
        ("maintenance?enable=x", (400, 'Invalid value for enable: "x"')),
        ("service/maintenance/?enable=true", (400, "Missing service ID")),
        ("service/maintenance/web1", (400, "Missing value for enable")),
        ("service/maintenance/none?enable=true", (404, 'No service registered with ID "none"')),
    ],
)
async def test_what_cannot_be_taken_out(path: str, answer: tuple[int, str]) -> None:
    assert await (await face_with_web()).sentence("PUT", f"/v1/agent/{path}") == answer


async def test_who_this_is() -> None:
    face = Face()
    shown = await face.get("/v1/agent/self")
    assert isinstance(shown, dict)
    assert list(shown) == ["Config", "DebugConfig", "Coord", "Member", "Stats", "Meta"]
    config = shown["Config"]
    assert (config["Datacenter"], config["NodeName"], config["NodeID"]) == ("dc1", NODE, NODE_ID)
    assert (config["Version"], config["Revision"]) == ("1.8.7", "noctule-1.2.3")
    members = await face.get("/v1/agent/members")
    assert isinstance(members, list)
    assert shown["Member"] == members[0]
    assert {each["Status"] for each in members} == {1}
    face.node.cluster.silent.add(2)
    members = await face.get("/v1/agent/members")
    assert isinstance(members, list)
    assert [each["Name"] for each in members if each["Status"] == 4] == ["node-2"]


async def test_the_rest_of_the_cluster_in_consuls_words() -> None:
    face = Face()
    assert await face.get("/v1/status/leader") == "127.0.0.1:7601"
    peers = await face.get("/v1/status/peers")
    assert isinstance(peers, list)
    raft = await face.get("/v1/operator/raft/configuration")
    assert isinstance(raft, dict)
    assert [server["Address"] for server in raft["Servers"]] == peers
    events = await face.ask("GET", "/v1/event/list")
    assert (events.body, events.headers) == (b"[]", {"X-Consul-Index": "1"})
    assert (await face.ask("PUT", "/v1/event/fire/deploy", b"x")).status == 501
    assert await face.sentence("PUT", "/v1/event/fire/") == (400, "Missing name")
    assert await face.get("/v1/coordinate/nodes") == []
    assert await face.get("/v1/coordinate/datacenters") == []
    assert await face.sentence("GET", "/v1/coordinate/node/none") == (404, "")
