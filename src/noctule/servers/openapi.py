"""The HTTP API as an OpenAPI 3.1 document, made from the route table.

Source: OpenAPI Specification 3.1.0; the schemas are JSON Schema 2020-12 as msgspec derives them from the types
that the answers are encoded from, so document and answers cannot disagree.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from noctule.base.errors import NoctuleError
from noctule.servers.http_errors import ERROR_STATUS, ErrorBody
from noctule.servers.http_route import JSON, RAW, Parameter, Route

_REFERENCES = "#/components/schemas/{name}"


def openapi_document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """The whole document as plain values, ready to be encoded as JSON."""
    routes = tuple(routes)
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCES)
    references = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Noctule node",
            "version": version,
            "summary": "The HTTP API of one node of a Noctule cluster; any node answers for all.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def error_statuses(route: Route) -> dict[int, list[type[NoctuleError]]]:
    """The errors that a route may answer, by status in rising order."""
    statuses: dict[int, list[type[NoctuleError]]] = {}
    for kind in sorted(route.errors, key=ERROR_STATUS.__getitem__):
        statuses.setdefault(ERROR_STATUS[kind], []).append(kind)
    return statuses


def _types(routes: tuple[Route, ...]) -> list[type]:
    bodies = [route.body for route in routes if route.body not in (None, bytes)]
    responses = [route.response for route in routes]
    return list(dict.fromkeys(kind for kind in (ErrorBody, *responses, *bodies) if kind is not None))


def _operation(route: Route, references: dict[type, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": [_parameter(parameter) for parameter in route.parameters],
        "responses": _responses(route, references),
    }
    if route.description:
        operation["description"] = route.description
    if route.body is bytes:
        operation["requestBody"] = {"required": True, "content": {RAW: {}}}
    elif route.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": references[route.body]}}}
    return operation


def _parameter(parameter: Parameter[object]) -> dict[str, Any]:
    schema = dict(parameter.schema)
    if parameter.default is not None:
        default = parameter.default
        schema["default"] = default.decode() if isinstance(default, bytes) else default
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.summary,
        "schema": schema,
    }


def _responses(route: Route, references: dict[type, dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any]
    if route.response is not None:
        content = {JSON: {"schema": references[route.response]}}
    elif route.content_type == JSON:
        content = {JSON: {"schema": {"type": "object"}}}
    else:
        content = {route.content_type: {"schema": {"type": "string"}}}
    responses = {
        "200": {"description": route.summary + ".", "content": {**content, **({RAW: {}} if route.raw_response else {})}}
    }
    if route.unavailable_response:
        responses["503"] = {"description": "It is not so; the reason says why.", "content": content}
    error = {JSON: {"schema": references[ErrorBody]}}
    for status, kinds in error_statuses(route).items():
        codes = ", ".join(kind.code for kind in kinds)
        responses[str(status)] = {"description": f"Error: {codes}.", "content": error}
    return responses
