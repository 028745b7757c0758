"""SORT and SORT_RO: the items of a list, set or sorted set in order, by what they are themselves.

What other keys hold is not looked at, as in Redis Cluster: BY takes a constant only, which leaves the order as it is,
and GET takes ``#``, the item itself. Source: `sortCommandGeneric` in Redis 7.0's sort.c, also for the order of checks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from noctule.core.keyspace.failures import NOT_AN_INTEGER, SYNTAX, WRONG_TYPE, until_zero
from noctule.core.keyspace.list_value import ListValue
from noctule.core.keyspace.numbers import is_infinite, parse_double, parse_int
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.set_value import SetValue
from noctule.core.keyspace.sorted_set_value import SortedSet
from noctule.core.keyspace.spec import ONE, CommandSpec, Scope, rows
from noctule.core.keyspace.state import State, Value

_NO_BY = Failure(b"ERR BY option of SORT denied in cluster mode.")
_NO_GET = Failure(b"ERR GET option of SORT denied in cluster mode.")
_NOT_NUMBERS = Failure(b"ERR One or more scores can't be converted into double")

_ARGUMENTS = {b"BY": 1, b"GET": 1, b"LIMIT": 2, b"STORE": 1}
"""How many follow an option."""


@dataclass(slots=True)
class SortOptions:
    """What the arguments say."""

    is_descending: bool = False
    is_alphabetic: bool = False
    keeps_order: bool = False
    """BY with a constant: as a list or a sorted set has it; a set, which has none, is sorted by bytes."""
    start: int = 0
    count: int = -1
    """Below 0: all from `start` on."""
    copies: int = 0
    """How often GET asks for the item itself; 0, as 1, is once."""
    destination: bytes | None = None


def sort(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SORT key [BY constant] [LIMIT start count] [GET #…] [ASC|DESC] [ALPHA] [STORE destination]."""
    options = _parse(args, may_store=True)
    if isinstance(options, Failure):
        return options
    items = _sorted(state.get(args[1]), options)
    if isinstance(items, Failure):
        return items
    if options.destination is None:
        return [*items]
    if items:
        state.replace(options.destination, ListValue(items), None)
    else:
        state.remove(options.destination)
    return len(items)


def sort_ro(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SORT_RO key [BY constant] [LIMIT start count] [GET #…] [ASC|DESC] [ALPHA]."""
    options = _parse(args, may_store=False)
    if isinstance(options, Failure):
        return options
    items = _sorted(state.get(args[1]), options)
    return items if isinstance(items, Failure) else [*items]


def find_sort_keys(args: Sequence[bytes]) -> Sequence[bytes]:
    """What is sorted, and where the outcome goes: the last STORE holds."""
    destination: Sequence[bytes] = ()
    position = 2
    while position < len(args):
        word = args[position].upper()
        if word == b"STORE":
            destination = args[position + 1 : position + 2]
        position += 1 + _ARGUMENTS.get(word, 0)
    return [*args[1:2], *destination]


def _parse(args: Sequence[bytes], *, may_store: bool) -> SortOptions | Failure:
    options = SortOptions()
    position = 2
    while position < len(args):
        word = args[position].upper()
        values = args[position + 1 : position + 1 + _ARGUMENTS.get(word, 0)]
        position += 1 + len(values)
        if len(values) < _ARGUMENTS.get(word, 0):
            return SYNTAX
        match word, values:
            case b"ASC" | b"DESC", _:
                options.is_descending = word == b"DESC"
            case b"ALPHA", _:
                options.is_alphabetic = True
            case b"LIMIT", [first, second]:
                start, count = parse_int(first), parse_int(second)
                if start is None or count is None:
                    return NOT_AN_INTEGER
                options.start, options.count = max(start, 0), count
            case b"STORE", [destination] if may_store:
                options.destination = destination
            case b"BY", [pattern]:
                if b"*" in until_zero(pattern):
                    return _NO_BY
                options.keeps_order = True
            case b"GET", [pattern]:
                if pattern != b"#":
                    return _NO_GET
                options.copies += 1
            case _:
                return SYNTAX
    return options


def _sorted(value: Value | None, options: SortOptions) -> list[bytes] | Failure:
    """What is wanted of the items, in the order wanted."""
    items = _items(value)
    if isinstance(items, Failure):
        return items
    if options.keeps_order and not isinstance(value, SetValue):
        if options.is_descending:
            items.reverse()
    elif options.is_alphabetic or options.keeps_order:
        items.sort(reverse=options.is_descending)
    else:
        scored = [(score, item) for item in items if (score := _score(item)) is not None]
        if len(scored) < len(items):
            return _NOT_NUMBERS
        scored.sort(reverse=options.is_descending)
        items = [item for _, item in scored]
    end = len(items) if options.count < 0 else options.start + options.count
    chosen = items[options.start : end]
    return chosen if options.copies <= 1 else [item for item in chosen for _ in range(options.copies)]


def _items(value: Value | None) -> list[bytes] | Failure:
    if value is None:
        return []
    if isinstance(value, ListValue):
        return list(value.items)
    if isinstance(value, SetValue):
        return list(value)
    if isinstance(value, SortedSet):
        return [member for member, _ in value.items(0, len(value))]
    return WRONG_TYPE


def _score(item: bytes) -> float | None:
    """The item as C's `strtod` reads it, blanks before it, nothing at all as 0; None for what is no number."""
    text = until_zero(item)
    if not text:
        return 0.0
    text = text.lstrip(b" \t\n\v\f\r")
    if is_infinite(text):
        return -inf if text.startswith(b"-") else inf
    return parse_double(text)


_SORT = (b"write", b"denyoom", b"movablekeys")
_SORT_RO = (b"readonly", b"movablekeys")

COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("SORT", -2, _SORT, ONE, sort, "Items in order: LIMIT, ASC, DESC, ALPHA, STORE; BY nosort; GET #."),
        find_keys=find_sort_keys,
    ),
    *rows(
        Scope.KEY,
        ("SORT_RO", -2, _SORT_RO, ONE, sort_ro, "SORT without STORE, which only reads."),
    ),
)
"""The rows of this file."""
