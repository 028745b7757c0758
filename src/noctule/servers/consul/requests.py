"""What a request says: the query that Consul's endpoints share, and JSON bodies whose names are in any case."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from noctule.servers.consul.durations import NS_PER_MS, NS_PER_S, parse_duration_ns
from noctule.servers.consul.errors import bad_request, refused

S = TypeVar("S", bound=Struct)

WAIT_S = 5 * 60.0
"""How long a blocking query waits when it does not say."""
WAIT_S_MAX = 10 * 60.0
"""However long it says."""
QUERY_PAIRS_MAX = 256
READING = ("index", "wait", "stale", "consistent", "cached", "max_stale")
"""What every blocking read takes."""
INDEX_MAX = 2**64 - 1

_INDEX = re.compile(r"[0-9]{1,20}", re.ASCII)
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


class Query:
    """The query of a request, decoded: for each name what it was given, in order. What nobody knows is passed over."""

    def __init__(self, raw: str) -> None:
        try:
            pairs = parse_qsl(raw, keep_blank_values=True, max_num_fields=QUERY_PAIRS_MAX)
        except ValueError:
            raise bad_request(f"the query has more than {QUERY_PAIRS_MAX} parameters, which is the limit") from None
        self._given: dict[str, list[str]] = {}
        for name, value in pairs:
            self._given.setdefault(name, []).append(value)

    def has(self, name: str) -> bool:
        """Whether it is there, with a value or without."""
        return name in self._given

    def get(self, name: str) -> str:
        """The first value; empty when there is none."""
        return self._given.get(name, [""])[0]

    def all(self, name: str) -> list[str]:
        """Every value, in order."""
        return self._given.get(name, [])

    def number(self, name: str) -> int | None:
        """An unsigned number of 64 bits; None when the name is not there. Refused as Consul refuses others."""
        if name not in self._given:
            return None
        text = self.get(name)
        if not text.isascii() or not text.isdigit():
            raise refused(f'strconv.ParseUint: parsing "{text}": invalid syntax')
        if len(text) > 20 or int(text) > INDEX_MAX:
            raise refused(f'strconv.ParseUint: parsing "{text}": value out of range')
        return int(text)

    def flag(self, name: str, *, otherwise: bool) -> bool | None:
        """Whether a flag is set; `otherwise` when it has no value, None when the value is none of Go's."""
        text = self.get(name)
        if not text:
            return otherwise
        return True if text in _TRUE else False if text in _FALSE else None

    def selecting(self) -> tuple[str, ...]:
        """All that has a part in what is shown, and not only in when and how surely it is."""
        named = sorted(name for name in self._given if name not in READING)
        return tuple(f"{name}={value}" for name in named for value in self._given[name])

    def conflicts(self) -> str:
        """The whole query as an error shows it, names in order."""
        return "&".join(f"{name}={value}" for name in sorted(self._given) for value in self._given[name])


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a read is to be answered."""

    is_stale: bool
    """By this node's own replica as it is."""
    is_consistent: bool
    """Asked for by name; what is asked for by no name is as good here."""
    index: int
    """Above 0: wait until there is something newer than it."""
    wait_s: float
    """For so long at most, without jitter."""
    max_stale_ms: float | None
    """A stale answer must not be older than so much."""

    @property
    def consistency(self) -> str:
        """As the header says it."""
        return "stale" if self.is_stale else "consistent" if self.is_consistent else "leader"


def load_read_options(query: Query) -> ReadOptions:
    """What the query says of reading. Raises `ConsulError` with Consul's sentence for what cannot be meant."""
    if query.get("ns"):
        raise bad_request('Bad request: Invalid query parameter: "ns" - Namespaces are a Consul Enterprise feature')
    wait_s = _load_wait_s(query.get("wait"))
    index = query.get("index")
    if index and (not _INDEX.fullmatch(index) or int(index) > INDEX_MAX):
        raise bad_request("Invalid index")
    is_stale, is_consistent = query.has("stale"), query.has("consistent")
    if is_stale and is_consistent:
        raise bad_request("Cannot specify ?stale with ?consistent, conflicting semantics.")
    if query.has("cached") and is_consistent:
        raise bad_request("Cannot specify ?cached with ?consistent, conflicting semantics.")
    max_stale = query.get("max_stale")
    max_stale_ms: float | None = None
    if max_stale:
        try:
            max_stale_ms = parse_duration_ns(max_stale) / NS_PER_MS
        except ValueError:
            raise bad_request(f'Invalid max_stale value "{max_stale}"') from None
    return ReadOptions(is_stale, is_consistent, int(index or 0), wait_s, max_stale_ms if is_stale else None)


def _load_wait_s(text: str) -> float:
    if not text:
        return WAIT_S
    try:
        wait_s = parse_duration_ns(text) / NS_PER_S
    except ValueError:
        raise bad_request("Invalid wait time") from None
    return min(wait_s, WAIT_S_MAX) if wait_s > 0 else WAIT_S


def load_body(body: bytes, kind: type[S], failed: str = "Request decode failed", *, is_lenient: bool = False) -> S:
    """The body as JSON of this type: names in any case, null as if it were not there, other names refused unless it
    `is_lenient`.

    Raises `ConsulError` that begins with `failed`.
    """
    return _convert(_decode(body, failed), kind, failed, is_lenient=is_lenient)


def load_bodies(body: bytes, kind: type[S], failed: str) -> list[S]:
    """The same for a list of them."""
    value = _decode(body, failed)
    if not isinstance(value, list):
        raise bad_request(f"{failed}: json: cannot unmarshal {_json_type(value)} into a list")
    return [_convert(each, kind, failed) for each in value]


def _decode(body: bytes, failed: str) -> object:
    if not body.strip():
        raise bad_request(f"{failed}: EOF")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"{failed}: {_one_line(error)}") from None


def _convert(value: object, kind: type[S], failed: str, *, is_lenient: bool = False) -> S:
    try:
        return msgspec.convert(_folded({} if value is None else value, kind, is_lenient=is_lenient), kind)
    except msgspec.ValidationError as error:
        raise bad_request(f"{failed}: json: {_one_line(error)}") from None
    except _UnknownFieldError as error:
        raise bad_request(f'{failed}: json: unknown field "{error.args[0]}"') from None


class _UnknownFieldError(Exception):
    pass


def _folded(value: object, kind: object, *, is_lenient: bool) -> object:
    """The value with the names of its fields as `kind` spells them; what does not fit is left for msgspec to refuse."""
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, Struct):
        names = _names(kind)
        folded: dict[str, object] = {}
        for name, each in value.items():
            found = names.get(str(name).lower())
            if found is None and not is_lenient:
                raise _UnknownFieldError(name)
            if found is not None and each is not None:
                spelling, field_kind = found
                folded[spelling] = _folded(each, field_kind, is_lenient=is_lenient)
        return folded
    arguments = get_args(kind)
    if isinstance(value, list) and arguments:
        return [_folded(each, arguments[0], is_lenient=is_lenient) for each in value]
    if isinstance(value, dict) and len(arguments) == 2:
        return {name: _folded(each, arguments[1], is_lenient=is_lenient) for name, each in value.items()}
    return value


_known_names: dict[type[Struct], Mapping[str, tuple[str, object]]] = {}


def _names(kind: type[Struct]) -> Mapping[str, tuple[str, object]]:
    """For each name in lower case, with and without underscores, how it is spelled and what stands there."""
    known = _known_names.get(kind)
    if known is None:
        hints = get_type_hints(kind)
        known = _known_names[kind] = {
            name: (field.encode_name, _present(hints[field.name]))
            for field in msgspec.structs.fields(kind)
            for name in (field.encode_name.lower(), field.name)
        }
    return known


def _present(kind: object) -> object:
    """The type without its None."""
    if get_origin(kind) in (UnionType, Union):
        present = [each for each in get_args(kind) if each is not type(None)]
        if len(present) == 1:
            return present[0]
    return kind


def _json_type(value: object) -> str:
    names = {dict: "object", str: "string", bool: "bool", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), "value")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
