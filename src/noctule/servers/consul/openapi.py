"""Consul's API as an OpenAPI 3.1 document, made from the table of endpoints and the bodies they read.

It stands beside the document of Noctule's own API, for the two share neither errors nor names.
"""

from typing import Any

import msgspec
from msgspec import Struct

from noctule.servers.consul.requests import READING
from noctule.servers.consul.routes import ENDPOINTS, Endpoint
from noctule.servers.http_route import JSON, RAW

_REFERENCES = "#/components/schemas/{name}"
_COMMON = ("dc", "token", "pretty")
_ERRORS = {
    "400": "What was sent cannot be meant; the body is a sentence.",
    "401": "Access control is off.",
    "404": "There is nothing of that name.",
    "405": "Another method; `Allow` names those there are.",
    "409": "The transaction was not done.",
    "413": "A body or a list is over its limit.",
    "429": "Too many blocking queries wait, or a service of this node warns.",
    "500": "It cannot be done as things stand, such as `No cluster leader`.",
    "501": "There is no such thing here.",
    "503": "A service of this node is critical, or the node answers as many requests as it may.",
}


def consul_document(version: str) -> dict[str, Any]:
    """The whole document as plain values, ready to be encoded as JSON."""
    bodies = [each.body for each in ENDPOINTS if isinstance(each.body, type) and issubclass(each.body, Struct)]
    schemas, components = msgspec.json.schema_components(bodies, ref_template=_REFERENCES)
    references = dict(zip(bodies, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Consul's HTTP API at a Noctule node",
            "version": version,
            "summary": "As of Consul 1.8; any node answers for all.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(endpoint: Endpoint, references: dict[type[Struct], dict[str, Any]]) -> dict[str, Any]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.method} {endpoint.path}",
        "summary": endpoint.summary,
        "parameters": _parameters(endpoint),
        "responses": {
            "200": {"description": "Done.", "content": {JSON: {}, **text}},
            "301": {"description": "The path has empty parts; it is clean at `Location`."},
            **{status: {"description": why, "content": {**text, JSON: {}}} for status, why in _ERRORS.items()},
        },
    }
    if endpoint.differs:
        operation["description"] = endpoint.differs
    if endpoint.body is bytes:
        operation["requestBody"] = {"content": {RAW: {}}}
    elif endpoint.body is not None and issubclass(endpoint.body, Struct):
        schema = references[endpoint.body]
        schema = {"type": "array", "items": schema} if endpoint.is_list else schema
        operation["requestBody"] = {"content": {JSON: {"schema": schema}}}
    return operation


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    if endpoint.has_value:
        name = endpoint.path.partition("{")[2].rstrip("}")
        parameters.append({"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
    for name in (*endpoint.query, *_COMMON):
        schema = {"type": "integer", "minimum": 0} if name == "index" and name in READING else {"type": "string"}
        parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    return parameters
