"""The commands on lists that wait. What stands here never does: it answers null at once when there is nothing.

A connection's command waits in its node's waiting room, which tries these when a list is there (waits.py).
"""

from collections.abc import Sequence

from noctule.core.keyspace.failures import SYNTAX
from noctule.core.keyspace.list_value import ListValue
from noctule.core.keyspace.lists import move, parse_first, parse_side, pop, pop_first
from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Reply
from noctule.core.keyspace.spec import NO_KEYS, CommandSpec, Scope, counted_keys, rows
from noctule.core.keyspace.state import State
from noctule.core.keyspace.waits import parse_timeout, wait_for_counted, wait_for_each, wait_for_source


def blpop(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BLPOP key… timeout: the first list that is there, and its head."""
    return _pop_one(state, args, is_left=True)


def brpop(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BRPOP key… timeout: the first list that is there, and its tail."""
    return _pop_one(state, args, is_left=False)


def _pop_one(state: State, args: Sequence[bytes], *, is_left: bool) -> Reply:
    timeout_ms = parse_timeout(args[-1])
    if isinstance(timeout_ms, Failure):
        return timeout_ms
    for key in args[1:-1]:
        held = state.find(key, ListValue)
        if isinstance(held, Failure):
            return held
        if held is not None:
            return [key, *pop(state, key, held, 1, is_left=is_left)]
    return NULL_ARRAY


def blmpop(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BLMPOP timeout numkeys key… LEFT|RIGHT [COUNT count]."""
    failure = _blmpop_problem(args, 2)
    if failure is not None:
        return failure
    timeout_ms = parse_timeout(args[1])
    return timeout_ms if isinstance(timeout_ms, Failure) else pop_first(state, args, 2)


def _blmpop_problem(args: Sequence[bytes], position: int) -> Failure | None:
    wanted = parse_first(args, position)
    return wanted if isinstance(wanted, Failure) else None


def brpoplpush(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BRPOPLPUSH source destination timeout."""
    timeout_ms = parse_timeout(args[3])
    if isinstance(timeout_ms, Failure):
        return timeout_ms
    return move(state, args[1], args[2], from_left=False, to_left=True)


def blmove(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BLMOVE source destination LEFT|RIGHT LEFT|RIGHT timeout."""
    from_left, to_left = parse_side(args[3]), parse_side(args[4])
    if from_left is None or to_left is None:
        return SYNTAX
    timeout_ms = parse_timeout(args[5])
    if isinstance(timeout_ms, Failure):
        return timeout_ms
    return move(state, args[1], args[2], from_left=from_left, to_left=to_left)


def _blmove_problem(args: Sequence[bytes]) -> Failure | None:
    return SYNTAX if parse_side(args[3]) is None or parse_side(args[4]) is None else None


def _no_problem(_args: Sequence[bytes]) -> Failure | None:
    return None


_LIST = ListValue.type_name
_BUT_LAST = (1, -2, 1)
_TWO = (1, 2, 1)
_WAITS = (b"write", b"noscript", b"blocking")
_WAITS_GROWS = (b"write", b"denyoom", b"noscript", b"blocking")

COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("BLPOP", -3, _WAITS, _BUT_LAST, blpop, "Takes the head of the first list that exists, or waits for one."),
        ("BRPOP", -3, _WAITS, _BUT_LAST, brpop, "Takes the tail of the first list that exists, or waits for one."),
        blocking=wait_for_each(_LIST),
    ),
    *rows(
        Scope.KEY,
        ("BLMOVE", 6, _WAITS_GROWS, _TWO, blmove, "LMOVE that waits for the source."),
        blocking=wait_for_source(_LIST, _blmove_problem),
    ),
    *rows(
        Scope.KEY,
        ("BRPOPLPUSH", 4, _WAITS_GROWS, _TWO, brpoplpush, "RPOPLPUSH that waits for the source."),
        blocking=wait_for_source(_LIST, _no_problem),
    ),
    *rows(
        Scope.KEY,
        ("BLMPOP", -5, (b"write", b"blocking"), NO_KEYS, blmpop, "LMPOP that waits for the first list: COUNT."),
        find_keys=counted_keys(2),
        blocking=wait_for_counted(_LIST, _blmpop_problem),
    ),
)
"""The rows of this file."""
