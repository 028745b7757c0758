"""The route table and the document made from it: whole, consistent, and true of what the routes answer."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from noctule.base.errors import NoctuleError
from noctule.core.keyspace.reply import Failure
from noctule.core.meta.operations import Admit, BeginMigration, CreateToken, Operation, SetMemberState
from noctule.core.registry.changes import PutCheck, PutService
from noctule.core.registry.objects import Check, CheckStatus, ServiceInstance
from noctule.core.roster.features import FEATURES
from noctule.core.roster.members import Member, MemberState
from noctule.servers.http_errors import ERROR_STATUS, MethodNotAllowedError
from noctule.servers.http_route import JSON, Answer, Route
from noctule.servers.http_routes import ROUTES, match_route
from tests.unit.core.meta.formed import ask as ask_meta
from tests.unit.node.fake_registry import NODE

from .http_fakes import FakeNode, ask, error_of
from .test_http_instances import WEB_1

SCHEMA_WORDS = {
    "$ref", "additionalProperties", "anyOf", "default", "description", "enum", "exclusiveMaximum", "exclusiveMinimum",
    "items",
    "maximum", "maxLength", "minimum", "minLength", "pattern", "properties", "required", "title", "type",
}  # fmt: skip
TYPES = {"string", "number", "integer", "boolean", "object", "array", "null"}


BODIES: dict[str, object] = {
    "putInstance": WEB_1,
    "putService": {"name": "web", "address": "127.0.0.1", "port": 80, "ttl_s": 10},
    "patchNode": {"weight": 2.0},
    "createToken": {},
    "patchSettings": {"rebalance_enabled": False},
    "splitPartition": {"at_slot": 100},
    "preferLeader": {"node": 2},
    "migratePartition": {"source": 1, "target": 4},
}
"""By operation what is sent, where the answer depends on it."""
BEFORE: dict[str, tuple[Operation, ...]] = {
    "activateNode": (SetMemberState(1, MemberState.DRAINING),),
    "getMigration": (BeginMigration(1, 1, 4),),
    "cancelMigration": (BeginMigration(1, 1, 4),),
    "leaveNode": (
        Admit(Member(0, "host6:7601", features=FEATURES), "a" * 64, "n"),
        SetMemberState(6, MemberState.DRAINING),
    ),
}
"""What has happened before."""


async def asked(route: Route, node: FakeNode) -> Answer:
    """What the route answers to a good request."""
    node.store.run(b"SET", b"k", b"v")
    ask_meta(node.cluster.meta, CreateToken("a" * 64, reusable=True))
    for operation in BEFORE.get(route.operation, ()):
        ask_meta(node.cluster.meta, operation)
    node.registry.apply(PutService(ServiceInstance(NODE, "1", "web", tags=("blue",), depends_on=("db",))))
    node.registry.apply(PutCheck(Check(NODE, "serfHealth", "alive", CheckStatus.PASSING)))
    number = "web-1" if "instances" in route.path else "6" if route.operation == "leaveNode" else "1"
    target = route.path.replace("{key}", "k").replace("{id}", number).replace("{hash}", "a" * 64)
    body = BODIES.get(route.operation)
    return await ask(node, route.method, target, msgspec.json.encode(body) if body is not None else b"")


@pytest.fixture
async def document() -> dict[str, Any]:
    answer = await ask(FakeNode(), "GET", "/api/openapi.json")
    assert (answer.status, answer.content_type) == (200, JSON)
    decoded = msgspec.json.decode(answer.body)
    assert isinstance(decoded, dict)
    return decoded


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def schemas_in(value: object) -> Iterator[dict[str, Any]]:
    """Every schema object under a place that holds schemas."""
    if isinstance(value, dict):
        if "schema" in value:
            yield from nested(value["schema"])
        for child in value.values():
            yield from schemas_in(child)
    elif isinstance(value, list):
        for child in value:
            yield from schemas_in(child)


def nested(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for child in (*schema.get("properties", {}).values(), *schema.get("anyOf", [])):
        yield from nested(child)
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            yield from nested(schema[word])


async def test_the_document_has_what_openapi_3_1_demands(document: dict[str, Any]) -> None:
    """OpenAPI 3.1.0, sections 4.8.1 (root), 4.8.2 (info) and 4.8.10 (operation)."""
    assert document["openapi"] == "3.1.0"
    assert document["info"]["title"]
    assert document["info"]["version"] == "1.2.3"
    assert document.keys() <= {"openapi", "info", "servers", "paths", "components"}
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids)) == len(ROUTES)
    for path, method, operation in operations(document):
        assert path.startswith("/")
        assert method in ("get", "put", "delete", "post", "patch")
        assert operation["summary"]
        assert "200" in operation["responses"]
        for status, response in operation["responses"].items():
            assert 200 <= int(status) < 600
            assert response["description"]
            assert response["content"]


async def test_each_path_parameter_is_declared_and_no_parameter_twice(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        in_path = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        declared = [(parameter["in"], parameter["name"]) for parameter in operation["parameters"]]
        assert len(declared) == len(set(declared))
        assert {name for place, name in declared if place == "path"} == in_path
        for parameter in operation["parameters"]:
            assert parameter["required"] is (parameter["in"] == "path")
            assert parameter["description"]
            default = parameter["schema"].get("default")
            assert default is None or default in parameter["schema"].get("enum", [default])


async def test_every_schema_is_one_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """JSON Schema 2020-12: the words that we use, used as they may be."""
    components = document["components"]["schemas"]
    found = [*schemas_in(document["paths"])]
    for schema in components.values():
        found += nested(schema)
    referenced = set()
    for schema in found:
        assert schema.keys() <= SCHEMA_WORDS, schema
        assert schema.get("type", "object") in TYPES
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/components/schemas/")
            assert name in components
            referenced.add(name)
        if "enum" in schema:
            assert len(schema["enum"]) == len(set(schema["enum"])) > 0
        assert set(schema.get("required", [])) <= set(schema.get("properties", {}))
    assert referenced == set(components), "a type that nothing refers to"


async def test_errors_are_declared_with_their_statuses(document: dict[str, Any]) -> None:
    for route in ROUTES:
        responses = document["paths"][route.path][route.method.lower()]["responses"]
        for kind in route.errors:
            response = responses[str(ERROR_STATUS[kind])]
            assert kind.code in response["description"]
            assert response["content"][JSON]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}


def test_the_table_names_each_thing_once() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    for route in ROUTES:
        assert route.path.count("{") <= 1
        assert route.path.count("{") == sum(parameter.place == "path" for parameter in route.parameters)
        # Where both are answered with the same status, a client could not tell which of the two bodies it is.
        assert not (route.unavailable_response and 503 in {ERROR_STATUS[kind] for kind in route.errors})
        assert route.path in match_route(route.method, route.path.replace("{", "").replace("}", "")).route.path


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
async def test_each_route_answers_what_it_declares(route: Route) -> None:
    """Strictly: no field that the type lacks, none missing, each of its type."""
    for unready in ("", "starting"):
        node = FakeNode()
        node.unready = unready
        answer = await asked(route, node)
        assert answer.status == (503 if unready and route.unavailable_response else 200)
        assert answer.content_type == route.content_type
        if route.response is not None:
            decoded: object = msgspec.json.decode(answer.body, type=route.response)
            assert msgspec.json.decode(msgspec.json.encode(decoded)) == msgspec.json.decode(answer.body)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method == "GET"], ids=lambda r: r.operation)
async def test_head_goes_where_get_does(route: Route) -> None:
    assert match_route("HEAD", route.path.replace("{key}", "k")).route is route


async def test_errors_that_a_route_can_meet_are_among_those_declared() -> None:
    undeclared: list[str] = []
    for text in (b"CLUSTERDOWN x", b"MISCONF x", b"ERR x", b"TOOLARGE x", b"UNKNOWN x", b"ODD x"):
        for route in ROUTES:
            kind = await error_met(route, text)
            if kind is not None and kind not in route.errors:
                undeclared.append(f"{route.operation}: {text!r}")
    assert undeclared == []


async def error_met(route: Route, text: bytes) -> type[NoctuleError] | None:
    node = FakeNode()
    node.store.failure = node.meta.failure = Failure(text)
    answer = await asked(route, node)
    if answer.status == 200 or route.unavailable_response:
        return None
    code = error_of(answer).code
    return next(kind for kind in ERROR_STATUS if kind.code == code and kind is not MethodNotAllowedError)
