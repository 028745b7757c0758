"""The text of docs/reference/http.md, made from the route table and the OpenAPI document.

``python -m noctule.servers.http_reference`` writes it to stdout.
"""

import sys
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from noctule.base.bounds import HTTP_BODY_BYTES_MAX, KEY_BYTES_MAX
from noctule.servers.http_errors import ERROR_STATUS
from noctule.servers.http_route import JSON, RAW, Parameter, Route
from noctule.servers.http_routes import ROUTES
from noctule.servers.http_store import REPLY_S_MAX
from noctule.servers.openapi import error_statuses, openapi_document

_HEAD = f"""\
# HTTP API

Every node answers these, each for the whole cluster, on its HTTP port.
`GET /api/openapi.json` says the same for programs, as OpenAPI 3.1.
This page is written by `python -m noctule.servers.http_reference` from the table that the node routes by.

- Keys stand in the path percent-encoded, slashes as they are or as `%2F`; a key is at most {KEY_BYTES_MAX} bytes.
- A body is at most {HTTP_BODY_BYTES_MAX} bytes, of known length or chunked; a compressed one is refused.
- A request waits at most {REPLY_S_MAX:g} s for the store.
- `HEAD` works where `GET` does.
- What stands under `/v1/` is [Consul's HTTP API](consul-api.md), whose answers and errors are Consul's.
- A query parameter that `/api/` does not know is refused; `/health` and `/metrics` pass over them.
"""

_ERRORS_HEAD = """\
## Errors

Every error is JSON: `{"error": {"code", "message", "retryable", "outcome"}}`.
`outcome` is `not_applied` when nothing happened, and `unknown` when a write may have been applied.
A path that is not listed here answers `not_found`, a method that a path does not take `method_not_allowed`.

| code | status | retryable | outcome | meaning |
|---|---|---|---|---|
"""


def render_http_reference() -> str:
    """The whole page as Markdown, a newline at the end."""
    document = openapi_document(ROUTES, version="")
    sections = [_HEAD, _ERRORS_HEAD + "\n".join(_error_rows()) + "\n"]
    sections += [_route_section(route) for route in ROUTES]
    sections.append("## Types\n")
    sections += [_type_section(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return "\n".join(sections)


def _error_rows() -> Iterator[str]:
    for kind, status in ERROR_STATUS.items():
        meaning = (kind.__doc__ or "").partition("\n")[0].replace("``", "`")
        yield f"| `{kind.code}` | {status} | {'yes' if kind.retryable else 'no'} | `{kind.outcome}` | {meaning} |"


def _route_section(route: Route) -> str:
    lines = [f"## {route.method} {route.path}", "", f"{route.summary} (`{route.operation}`).", ""]
    if route.description:
        lines += [route.description, ""]
    if route.parameters:
        lines += ["| parameter | in | allowed | default | meaning |", "|---|---|---|---|---|"]
        lines += [_parameter_row(parameter) for parameter in route.parameters]
        lines.append("")
    if route.body is not None:
        lines.append(f"- Body: {_type_link(route.body) if route.body is not bytes else f'`{RAW}`, the value itself'}.")
    lines.append(f"- 200: {_success(route)}.")
    if route.unavailable_response and route.response is not None:
        lines.append(f"- 503: {_type_link(route.response)} too, with the reason.")
    for status, kinds in error_statuses(route).items():
        lines.append(f"- {status}: error {', '.join(f'`{kind.code}`' for kind in kinds)}.")
    return "\n".join(lines) + "\n"


def _parameter_row(parameter: Parameter[object]) -> str:
    default = parameter.default
    text = "" if default is None else default.decode() if isinstance(default, bytes) else str(default)
    shown_default = f"`{text}`" if text else "required" if parameter.place == "path" else ""
    return f"| `{parameter.name}` | {parameter.place} | {parameter.allowed} | {shown_default} | {parameter.summary} |"


def _success(route: Route) -> str:
    if route.response is not None:
        return _type_link(route.response) + (f", or the value itself as `{RAW}`" if route.raw_response else "")
    return "a JSON object" if route.content_type == JSON else f"`{route.content_type}`"


def _type_link(kind: type) -> str:
    if get_origin(kind) is list:
        return f"list of {_type_link(get_args(kind)[0])}"
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def _type_section(name: str, schema: dict[str, Any]) -> str:
    lines = [f"### {name}", "", schema.get("description", "").replace("``", "`"), ""]
    if "properties" in schema:
        required = schema.get("required", [])
        lines += ["| field | type | default |", "|---|---|---|"]
        for field, field_schema in schema["properties"].items():
            default = "" if field in required else f"`{field_schema.get('default', '{}')}`"
            lines.append(f"| `{field}` | {_schema_text(field_schema)} | {default} |")
    else:
        lines.append(f"{_schema_text(schema)}.")
    return "\n".join(lines) + "\n"


def _schema_text(schema: dict[str, Any]) -> str:
    """A schema in a few words, as a table's cell holds it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_schema_text(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_schema_text(schema['items'])}"
    if schema["type"] == "object":
        return f"object of {_schema_text(schema['additionalProperties'])}"
    bounds = [f"{word} {schema[key]}" for key, word in _BOUND_WORDS.items() if key in schema]
    return " ".join([schema["type"], *bounds])


_BOUND_WORDS = {"minimum": "from", "maximum": "to", "minLength": "of length from", "maxLength": "of length to"}


if __name__ == "__main__":
    sys.stdout.write(render_http_reference())
