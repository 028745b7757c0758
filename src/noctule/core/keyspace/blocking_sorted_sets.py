"""The commands on sorted sets that wait. As those in blocking_lists.py, none of what stands here ever does."""

from collections.abc import Sequence

from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Reply
from noctule.core.keyspace.sorted_set_value import SortedSet
from noctule.core.keyspace.sorted_sets import parse_many_pop, pop_first, pop_items
from noctule.core.keyspace.spec import NO_KEYS, CommandSpec, Scope, counted_keys, rows
from noctule.core.keyspace.state import State
from noctule.core.keyspace.waits import parse_timeout, wait_for_counted, wait_for_each


def bzpopmin(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BZPOPMIN key… timeout: the first key that has any, the member with the lowest score, and that."""
    return _pop_one(state, args, is_max=False)


def bzpopmax(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BZPOPMAX key… timeout: likewise with the highest score."""
    return _pop_one(state, args, is_max=True)


def _pop_one(state: State, args: Sequence[bytes], *, is_max: bool) -> Reply:
    timeout_ms = parse_timeout(args[-1])
    if isinstance(timeout_ms, Failure):
        return timeout_ms
    for key in args[1:-1]:
        held = state.find(key, SortedSet)
        if isinstance(held, Failure):
            return held
        if held is not None:
            ((member, score),) = pop_items(state, key, held, 1, is_max=is_max)
            return [key, member, score]
    return NULL_ARRAY


def bzmpop(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BZMPOP timeout numkeys key… MIN|MAX [COUNT count]."""
    failure = _problem(args, 2)
    if failure is not None:
        return failure
    timeout_ms = parse_timeout(args[1])
    return timeout_ms if isinstance(timeout_ms, Failure) else pop_first(state, args, 2)


def _problem(args: Sequence[bytes], position: int) -> Failure | None:
    wanted = parse_many_pop(args, position)
    return wanted if isinstance(wanted, Failure) else None


_SORTED_SET = SortedSet.type_name
_BUT_LAST = (1, -2, 1)
_WAITS = (b"write", b"noscript", b"blocking", b"fast")

COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("BZPOPMAX", -3, _WAITS, _BUT_LAST, bzpopmax, "ZPOPMAX of the first sorted set that exists, or waits for one."),
        ("BZPOPMIN", -3, _WAITS, _BUT_LAST, bzpopmin, "ZPOPMIN of the first sorted set that exists, or waits for one."),
        blocking=wait_for_each(_SORTED_SET),
    ),
    *rows(
        Scope.KEY,
        ("BZMPOP", -5, (b"write", b"blocking"), NO_KEYS, bzmpop, "ZMPOP that waits for the first sorted set: COUNT."),
        find_keys=counted_keys(2),
        blocking=wait_for_counted(_SORTED_SET, _problem),
    ),
)
"""The rows of this file."""
