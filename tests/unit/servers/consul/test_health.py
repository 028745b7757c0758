"""/v1/health as a real Consul 1.8 answers it."""

import pytest

from tests.unit.servers.consul.face import NODE, Face


async def face_with_web() -> Face:
    """Three instances of web: one that passes, one that warns, one that fails."""
    face = Face()
    for number, status in enumerate(("passing", "warning", "critical"), 1):
        node, service = f"n{number}", {"Service": "web", "ID": f"web{number}", "Tags": ["a", f"t{number}"]}
        check = {"Name": "c", "ServiceID": f"web{number}", "Status": status}
        asked = {"Node": node, "Address": f"10.0.0.{number}", "Service": service, "Check": check}
        await face.put("/v1/catalog/register", asked)
    return face


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["web1", "web2", "web3"]),
        ("passing", ["web1"]),
        ("passing=true", ["web1"]),
        ("passing=1", ["web1"]),
        ("passing=false", ["web1", "web2", "web3"]),
        ("tag=a&tag=t2", ["web2"]),
        ("passing&tag=t2", []),
        ("near=n3", ["web3", "web1", "web2"]),
        ("filter=Checks.Status==critical", ["web3"]),
        ("filter=Node.Node==n1 and Service.ID==web1", ["web1"]),
    ],
)
async def test_which_instances_are_asked_for(query: str, ids: list[str]) -> None:
    face = await face_with_web()
    found = await face.get(f"/v1/health/service/web?{query.replace(' ', '%20')}")
    assert isinstance(found, list)
    assert [each["Service"]["ID"] for each in found] == ids
    for each in found:
        assert list(each) == ["Node", "Service", "Checks"]


async def test_a_sick_node_makes_all_on_it_sick() -> None:
    face = await face_with_web()
    await face.put("/v1/catalog/register", {"Node": "n1", "Address": "10.0.0.1", "Check": {"Name": "disk"}})
    assert await face.get("/v1/health/service/web?passing") == []
    found = await face.get("/v1/health/service/web")
    assert isinstance(found, list)
    assert [check["CheckID"] for check in found[0]["Checks"]] == ["c", "disk"]
    checks = await face.get("/v1/health/checks/web")
    assert isinstance(checks, list)
    assert [check["CheckID"] for check in checks] == ["c", "c", "c"], "those of the services alone"


async def test_checks_by_node_and_by_state() -> None:
    face = await face_with_web()
    on_node = await face.get("/v1/health/node/n2")
    assert isinstance(on_node, list)
    assert on_node == [
        {
            "Node": "n2",
            "CheckID": "c",
            "Name": "c",
            "Status": "warning",
            "Notes": "",
            "Output": "",
            "ServiceID": "web2",
            "ServiceName": "web",
            "ServiceTags": ["a", "t2"],
            "Type": "",
            "Definition": {},
            "CreateIndex": on_node[0]["CreateIndex"],
            "ModifyIndex": on_node[0]["ModifyIndex"],
        }
    ]
    for state, nodes in (
        ("any", ["n1", "n2", "n3", NODE]),
        ("passing", ["n1", NODE]),
        ("warning", ["n2"]),
        ("critical", ["n3"]),
        ("unheard", []),
    ):
        found = await face.get(f"/v1/health/state/{state}")
        assert isinstance(found, list)
        assert [each["Node"] for each in found] == nodes
    assert await face.get("/v1/health/node/none") == []
    assert await face.get("/v1/health/service/none?passing") == []
    assert await face.get("/v1/health/connect/web") == []


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("service/", "Missing service name"),
        ("checks/", "Missing service name"),
        ("node/", "Missing node name"),
        ("state/", "Missing check state"),
        ("service/web?passing=zz", "Invalid value for ?passing"),
    ],
)
async def test_what_cannot_be_asked(path: str, sentence: str) -> None:
    assert await Face().sentence("GET", f"/v1/health/{path}") == (400, sentence)
