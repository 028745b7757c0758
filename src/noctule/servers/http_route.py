"""What one route of the HTTP API is made of, and the checking of what a client sends to it.

A `Route` says everything about an operation once: the router, the OpenAPI document and the reference page are
made from it. This file knows nothing of aiohttp and of no route in particular; see http_routes.py for the table.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeAlias, TypeVar, cast
from urllib.parse import unquote_to_bytes

import msgspec

from noctule.base.errors import NoctuleError, RequestError, UnavailableError
from noctule.core.meta.state import MetaState
from noctule.node.api import Node

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

JSON = "application/json"
RAW = "application/octet-stream"

_BROKEN_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SHOWN_CHARACTERS_MAX = 60


@dataclass(frozen=True, slots=True)
class Parameter(Generic[T_co]):
    """One value in the path or the query."""

    name: str
    place: Literal["path", "query"]
    summary: str
    schema: Mapping[str, object]
    """JSON Schema of the value, for the OpenAPI document."""
    allowed: str
    """The same in words, for a person: how an error and the reference page say it."""
    parse: Callable[[bytes], T_co]
    """From decoded bytes to the value; raises ValueError when it is not allowed, or the `NoctuleError` to answer."""
    default: T_co | None = None
    """Used when a parameter of the query is absent."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request that has passed every check of its route."""

    node: Node
    values: Mapping[str, object]
    body: bytes
    wants_raw: bool
    """Whether the client asked for `RAW` rather than JSON."""

    @property
    def meta(self) -> MetaState:
        """What this node knows of its cluster. Raises `UnavailableError` while that is nothing."""
        meta = self.node.cluster.meta
        if not meta.cluster_id:
            raise UnavailableError("this node knows nothing of its cluster yet: it was started just now, or is in none")
        return meta

    def get(self, parameter: Parameter[T]) -> T:
        """The value of a parameter of this route."""
        return cast("T", self.values[parameter.name])

    def get_optional(self, parameter: Parameter[T]) -> T | None:
        """The value of a parameter that has no default, or None when it was not given."""
        return cast("T | None", self.values[parameter.name])


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, before it is framed as HTTP."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None
    """What follows the body, piece by piece, for as long as the client stays."""


Handler: TypeAlias = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation: a method on a path."""

    method: str
    path: str
    """With at most one parameter in braces; as the last part it may hold slashes."""
    operation: str
    """The OpenAPI operationId."""
    summary: str
    handler: Handler
    response: type | None
    """What the JSON answer holds; None when the answer is not JSON of ours."""
    description: str = ""
    parameters: tuple[Parameter[object], ...] = ()
    content_type: str = JSON
    raw_response: bool = False
    """Whether `RAW` may be asked for instead of JSON."""
    unavailable_response: bool = False
    """Whether a 503 carries the same JSON as a 200, as health checks do."""
    body: type | None = None
    """What the request's body holds: a type for JSON, `bytes` for raw bytes, None when it is not read."""
    errors: tuple[type[NoctuleError], ...] = ()
    ignores_query: bool = False
    """Probes and scrapers add parameters of their own to an address; those are passed over."""


def load_body(call: Call, kind: type[T]) -> T:
    """The body as JSON of this type; an empty body is an object without fields. Raises `RequestError`."""
    try:
        return msgspec.json.decode(call.body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise RequestError(f"body: {' '.join(str(error).split())}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"body: not JSON: {' '.join(str(error).split())}") from None


def json_answer(value: object, status: int = 200) -> Answer:
    """An answer holding `value` as JSON."""
    return Answer(status, msgspec.json.encode(value))


def load_parameters(route: Route, path_value: str, query: str) -> dict[str, object]:
    """Every parameter of the route by name, decoded and checked; `path_value` and `query` are as they came.

    Raises `RequestError` (or `TooLargeError`) that names the parameter, what came, and what is allowed.
    """
    given = {} if route.ignores_query else _split_query(route, query)
    values: dict[str, object] = {}
    for parameter in route.parameters:
        raw = path_value if parameter.place == "path" else given.get(parameter.name)
        values[parameter.name] = parameter.default if raw is None else _load_parameter(parameter, raw)
    return values


def wants_raw(accept: str) -> bool:
    """Whether an Accept header prefers raw bytes: it names them, and JSON not at least as much (RFC 9110 12.5.1)."""
    weights = dict(_media_range(part) for part in accept.lower().split(","))
    return weights.get(RAW, 0.0) > weights.get(JSON, 0.0)


def shown(text: str) -> str:
    """A client's text inside a sentence: quoted, escaped, cut to a length that fits one line."""
    cut = text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "…"
    return '"' + cut.encode("unicode_escape").decode("ascii").replace("\\u2026", "…") + '"'


def _split_query(route: Route, query: str) -> dict[str, str]:
    names = [parameter.name for parameter in route.parameters if parameter.place == "query"]
    given: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, raw = part.partition("=")
        if name not in names:
            known = "it takes " + ", ".join(names) if names else "it takes none"
            raise RequestError(f"query parameter {shown(name)} is not known to {route.method} {route.path}: {known}")
        if name in given:
            raise RequestError(f'query parameter "{name}" is given more than once')
        # A form writes a space as "+" (WHATWG URL, application/x-www-form-urlencoded), and so do HTTP clients.
        given[name] = raw.replace("+", " ")
    return given


def _load_parameter(parameter: Parameter[object], raw: str) -> object:
    where = f'{parameter.place} parameter "{parameter.name}"'
    if broken := _BROKEN_PERCENT.search(raw):
        bad = shown(raw[broken.start() : broken.start() + 3])
        raise RequestError(f'{where}: {bad} is not a percent-encoded byte; write "%" itself as "%25"')
    value = unquote_to_bytes(raw.encode("utf-8", "surrogateescape"))
    try:
        return parameter.parse(value)
    except ValueError:
        came = shown(value.decode("utf-8", "backslashreplace"))
        raise RequestError(f"{where}: must be {parameter.allowed}, not {came}") from None


def _media_range(part: str) -> tuple[str, float]:
    media, *options = (piece.strip() for piece in part.split(";"))
    weight = next((option[2:] for option in options if option.startswith("q=")), "1")
    try:
        return media, float(weight)
    except ValueError:
        return media, 0.0
