"""/v1/session as a real Consul 1.8 answers it, and what Patroni asks of it."""

import msgspec
import pytest

from tests.unit.servers.consul.face import NODE, Face

NOBODY = "11111111-1111-1111-1111-111111111111"
UUID_SENTENCE = (500, "failed session lookup: index error: UUID must be 36 characters")


async def create(face: Face, asked: object = b"") -> str:
    created = await face.put("/v1/session/create", asked)
    assert isinstance(created, dict)
    assert list(created) == ["ID"]
    assert len(created["ID"]) == 36
    return str(created["ID"])


async def info(face: Face, session: str) -> dict[str, object]:
    found = await face.get(f"/v1/session/info/{session}")
    assert isinstance(found, list)
    return dict(found[0])


async def test_what_patroni_sends_is_understood() -> None:
    """Names in lower case, a TTL with a decimal point, a lock-delay of a millisecond (captured from Patroni 4.1)."""
    face = Face()
    asked = {"name": "demo-pg1", "checks": [], "lockdelay": "0.001s", "ttl": "15.0s", "behavior": "delete"}
    session = await create(face, asked)
    shown = await info(face, session)
    assert shown == {
        "ID": session,
        "Name": "demo-pg1",
        "Node": NODE,
        "LockDelay": 1_000_000,
        "Behavior": "delete",
        "TTL": "15s",
        "NodeChecks": [],
        "ServiceChecks": None,
        "CreateIndex": shown["CreateIndex"],
        "ModifyIndex": shown["CreateIndex"],
    }
    assert await face.put(f"/v1/session/renew/{session}") == [shown]
    assert await face.get("/v1/session/list") == [shown]
    assert await face.get(f"/v1/session/node/{NODE}") == [shown]
    assert await face.get("/v1/session/node/none") == []
    assert await face.put(f"/v1/session/destroy/{session}") is True
    assert await face.get(f"/v1/session/info/{session}") == []


async def test_patroni_finds_the_least_ttl_where_it_looks() -> None:
    config = await Face().get("/v1/agent/self")
    assert isinstance(config, dict)
    assert config["Config"]["SessionTTLMin"] == 100_000_000
    assert config["DebugConfig"]["SessionTTLMin"] == "100ms"


@pytest.mark.parametrize(
    ("value", "delay_ns"),
    [
        (None, 15_000_000_000),
        ("20s", 20_000_000_000),
        (15, 15_000_000_000),
        (15_000_000_000, 15_000_000_000),
        (1.5, 1_000_000_000),
        ("-5s", 0),
        (-5, 0),
        (1_001, 1_000_000),
        ("61s", 60_000_000_000),
    ],
)
async def test_a_lock_delay_is_text_or_a_number(value: object, delay_ns: int) -> None:
    """Below 1000 a number is seconds, from there on ns, as at Consul; a part of a millisecond is one."""
    face = Face()
    session = await create(face, {} if value is None else {"LockDelay": value})
    assert (await info(face, session))["LockDelay"] == delay_ns


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({"TTL": "50ms"}, (500, "Invalid Session TTL '50000000', must be between [100ms=24h0m0s]")),
        ({"TTL": "25h"}, (500, "Invalid Session TTL '90000000000000', must be between [100ms=24h0m0s]")),
        ({"TTL": "x"}, (500, "Session TTL 'x' invalid: time: invalid duration \"x\"")),
        ({"Behavior": "x"}, (500, "Invalid Behavior setting 'x'")),
        ({"LockDelay": "x"}, (400, 'Request decode failed: time: invalid duration "x"')),
        ({"Node": "none"}, (500, "Missing node registration")),
        ({"Checks": ["none"]}, (500, "Missing check 'none' registration")),
        ({"NodeChecks": ["none"]}, (500, "Missing check 'none' registration")),
        ({"ServiceChecks": [{"ID": "none"}]}, (500, "Missing check 'none' registration")),
        ({"Checks": ["bad"]}, (500, "Check 'bad' is in critical state")),
        ({"Name": 1}, (400, "Request decode failed: json: Expected `str`, got `int` - at `$.Name`")),
    ],
)
async def test_a_session_that_cannot_be_is_refused(asked: dict[str, object], answer: tuple[int, str]) -> None:
    face = Face()
    await face.put("/v1/agent/check/register", {"Name": "bad", "TTL": "10s"})
    assert await face.sentence("PUT", "/v1/session/create", asked) == answer
    assert await face.get("/v1/session/list") == []


async def test_short_lived_ones_are_allowed() -> None:
    face = Face()
    await create(face, {"Foo": "is passed over"})
    for text, shown in (("100ms", "100ms"), ("0s", ""), ("", ""), ("24h", "24h0m0s")):
        assert (await info(face, await create(face, {"TTL": text})))["TTL"] == shown


async def test_which_checks_it_rests_on() -> None:
    face = Face()
    await face.put("/v1/agent/service/register", {"Name": "web", "Check": {"TTL": "10s", "Status": "passing"}})
    for asked, node_checks, service_checks in (
        ({}, ["serfHealth"], None),
        ({"Checks": []}, [], None),
        ({"NodeChecks": []}, [], None),
        ({"Checks": ["service:web"]}, ["serfHealth", "service:web"], None),
        ({"ServiceChecks": [{"ID": "service:web"}]}, ["serfHealth"], [{"ID": "service:web", "Namespace": ""}]),
    ):
        shown = await info(face, await create(face, asked))
        assert (shown["NodeChecks"], shown["ServiceChecks"]) == (node_checks, service_checks)
    await face.put("/v1/agent/check/fail/service:web")
    left = await face.get("/v1/session/list")
    assert isinstance(left, list)
    assert len(left) == 3, "those that rest on the check have ended"


async def test_who_is_not_there() -> None:
    face = Face()
    assert await face.sentence("PUT", f"/v1/session/renew/{NOBODY}") == (404, f"Session id '{NOBODY}' not found")
    assert await face.put(f"/v1/session/destroy/{NOBODY}") is True
    assert await face.get(f"/v1/session/info/{NOBODY}") == []
    for method, path in (("PUT", "renew"), ("PUT", "destroy"), ("GET", "info")):
        assert await face.sentence(method, f"/v1/session/{path}/xx") == UUID_SENTENCE
        assert await face.sentence(method, f"/v1/session/{path}/") == (400, "Missing session")
    assert await face.sentence("GET", "/v1/session/node/") == (400, "Missing node name")


async def test_a_key_goes_with_its_session_if_it_is_to() -> None:
    face = Face()
    session = await create(face, {"Behavior": "delete", "LockDelay": 0})
    await face.put(f"/v1/kv/l?acquire={session}", b"v")
    await face.put(f"/v1/session/destroy/{session}")
    assert (await face.ask("GET", "/v1/kv/l")).status == 404
    assert msgspec.json.decode((await face.ask("PUT", "/v1/kv/l?cas=0", b"w")).body) is True
