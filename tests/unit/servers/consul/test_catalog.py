"""/v1/catalog as a real Consul 1.8 answers it."""

import pytest

from tests.unit.servers.consul.face import NODE, Face

DB = {
    "node": "n1",
    "address": "10.0.0.1",
    "nodemeta": {"zone": "a"},
    "service": {"service": "db", "id": "db1", "port": 5432, "tags": ["m"], "meta": {"x": "y"}},
    "check": {"checkid": "c1", "name": "cc", "serviceid": "db1", "status": "passing"},
}


async def face_with_db() -> Face:
    face = Face()
    await face.put("/v1/catalog/register", DB)
    return face


async def test_an_instance_with_its_node_in_one_object() -> None:
    face = await face_with_db()
    found = await face.get("/v1/catalog/service/db")
    assert isinstance(found, list)
    assert found == [
        {
            "ID": "",
            "Node": "n1",
            "Address": "10.0.0.1",
            "Datacenter": "dc1",
            "TaggedAddresses": None,
            "NodeMeta": {"zone": "a"},
            "ServiceKind": "",
            "ServiceID": "db1",
            "ServiceName": "db",
            "ServiceTags": ["m"],
            "ServiceAddress": "",
            "ServiceWeights": {"Passing": 1, "Warning": 1},
            "ServiceMeta": {"x": "y"},
            "ServicePort": 5432,
            "ServiceEnableTagOverride": False,
            "ServiceProxy": {"MeshGateway": {}, "Expose": {}},
            "ServiceConnect": {},
            "CreateIndex": found[0]["CreateIndex"],
            "ModifyIndex": found[0]["ModifyIndex"],
        }
    ]


async def test_a_node_with_its_services() -> None:
    face = await face_with_db()
    by_id, listed = await face.get("/v1/catalog/node/n1"), await face.get("/v1/catalog/node-services/n1")
    assert isinstance(by_id, dict)
    assert isinstance(listed, dict)
    assert list(by_id["Services"]) == ["db1"]
    assert listed["Services"] == [by_id["Services"]["db1"]]
    assert listed["Node"] == by_id["Node"]
    assert list(by_id["Services"]["db1"]) == [
        "ID",
        "Service",
        "Tags",
        "Address",
        "Meta",
        "Port",
        "Weights",
        "EnableTagOverride",
        "Proxy",
        "Connect",
        "CreateIndex",
        "ModifyIndex",
    ]
    assert await face.get("/v1/catalog/node/none") is None
    assert await face.get("/v1/catalog/node-services/none") == {"Node": None, "Services": None}


async def test_names_and_tags_of_all_services() -> None:
    face = await face_with_db()
    second = {"Node": "n2", "Address": "10.0.0.2", "Service": {"Service": "db", "Tags": ["s", "m"]}}
    await face.put("/v1/catalog/register", second)
    assert await face.get("/v1/catalog/services") == {"db": ["m", "s"]}
    assert await face.get("/v1/catalog/services?node-meta=zone:a") == {"db": ["m"]}
    assert await face.get("/v1/catalog/services?node-meta=zone:b") == {}
    assert await face.get("/v1/catalog/datacenters") == ["dc1"]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["db1", "db"]),
        ("tag=m", ["db1"]),
        ("tag=M", ["db1"]),
        ("tag=", ["db1", "db"]),
        ("tag=m&tag=zz", []),
        ("node-meta=zone:a", ["db1"]),
        ("node-meta=zone:a&node-meta=k:v", []),
        ("near=n2", ["db", "db1"]),
        ("near=_agent", ["db1", "db"]),
        ("near=nowhere", ["db1", "db"]),
        ("filter=ServiceMeta.x==y", ["db1"]),
        ("filter=ServicePort!=5432", ["db"]),
        ("cached&stale", ["db1", "db"]),
    ],
)
async def test_which_instances_are_asked_for(query: str, ids: list[str]) -> None:
    face = await face_with_db()
    await face.put("/v1/catalog/register", {"Node": "n2", "Address": "10.0.0.2", "Service": {"Service": "db"}})
    found = await face.get(f"/v1/catalog/service/db?{query}")
    assert isinstance(found, list)
    assert [each["ServiceID"] for each in found] == ids


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["n1", NODE]),
        (f"near={NODE}", [NODE, "n1"]),
        ("node-meta=zone:a", ["n1", NODE]),
        ("filter=Node==n1", ["n1"]),
    ],
)
async def test_which_nodes_are_asked_for(query: str, names: list[str]) -> None:
    found = await (await face_with_db()).get(f"/v1/catalog/nodes?{query}")
    assert isinstance(found, list)
    assert [each["Node"] for each in found] == names


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({}, (500, "Must provide node")),
        ({"Node": "n"}, (500, "Must provide address if SkipNodeUpdate is not set")),
        ({"Node": "n", "Address": "1.1.1.1", "ID": "zz"}, (500, "Bad node ID: uuid string is wrong length")),
        (
            {"Node": "n", "Address": "1.1.1.1", "Check": {"Node": "other", "Name": "c"}},
            (500, 'check node "other" does not match node "n"'),
        ),
        (
            {"Node": "n", "Address": "1.1.1.1", "Check": {"Name": "c", "ServiceID": "nope"}},
            (500, 'failed inserting check: Missing service registration on node "n"'),
        ),
        (
            {"Node": "n", "Address": "1.1.1.1", "Check": {"Name": "c", "Status": "bogus"}},
            (400, "Status for checks must 'passing', 'warning', 'critical'"),
        ),
        (
            {"Node": "n", "Address": "1.1.1.1", "Service": {"Service": "s", "Weights": {"Passing": 0}}},
            (400, "Invalid Weights: Passing must be greater than 0"),
        ),
        (
            {"Node": "n", "Address": "1.1.1.1", "Check": {"Name": "c", "Definition": {"TTL": "x"}}},
            (400, 'Request decode failed: time: invalid duration "x"'),
        ),
        ({"Node": "n", "Address": "1.1.1.1", "foo": 1}, (400, 'Request decode failed: json: unknown field "foo"')),
    ],
)
async def test_what_cannot_be_registered_leaves_nothing_behind(asked: object, answer: tuple[int, str]) -> None:
    face = Face()
    assert await face.sentence("PUT", "/v1/catalog/register", asked) == answer
    nodes = await face.get("/v1/catalog/nodes")
    assert isinstance(nodes, list)
    assert [each["Node"] for each in nodes] == [NODE]


async def test_a_ttl_lives_in_the_catalog() -> None:
    face = Face()
    definition = {"TTL": "5s", "DeregisterCriticalServiceAfter": "90m"}
    service = {"Service": "s", "ID": "s1"}
    check = {"Name": "t", "ServiceID": "s1", "Status": "passing", "Definition": definition}
    await face.put("/v1/catalog/register", {"Node": "n", "Address": "1.1.1.1", "Service": service, "Check": check})
    kept = face.registry.view.checks["n", "t"]
    assert (kept.type, kept.ttl_ms, kept.deregister_after_ms, kept.service_name) == ("ttl", 5_000, 5_400_000, "s")


async def test_a_node_that_is_not_to_be_touched_is_not() -> None:
    face = await face_with_db()
    asked = {"Node": "n1", "SkipNodeUpdate": True, "Service": {"Service": "db", "ID": "db2"}}
    await face.put("/v1/catalog/register", asked)
    node = face.registry.view.nodes["n1"]
    assert (node.address, node.meta) == ("10.0.0.1", {"zone": "a"})
    assert ("n1", "db2") in face.registry.view.instances


async def test_what_is_deregistered_is_gone_and_may_have_been_before() -> None:
    face = await face_with_db()
    for asked in ({"Node": "zz"}, {"Node": "n1", "CheckID": "zz"}, {"Node": "n1", "ServiceID": "zz"}):
        assert await face.put("/v1/catalog/deregister", asked) is True
    assert await face.put("/v1/catalog/deregister", {"Node": "n1", "CheckID": "c1"}) is True
    assert await face.get("/v1/health/checks/db") == []
    assert await face.put("/v1/catalog/deregister", {"Node": "n1", "ServiceID": "db1"}) is True
    assert await face.get("/v1/catalog/service/db") == []
    assert await face.put("/v1/catalog/deregister", {"Node": "n1"}) is True
    assert await face.get("/v1/catalog/node/n1") is None
    assert await face.sentence("PUT", "/v1/catalog/deregister", {}) == (500, "Must provide node")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("service/", "Missing service name"),
        ("node/", "Missing node name"),
        ("node-services/", "Missing node name"),
        ("connect/", "Missing service name"),
    ],
)
async def test_a_name_must_be_named(path: str, sentence: str) -> None:
    assert await Face().sentence("GET", f"/v1/catalog/{path}") == (400, sentence)
