"""The commands on lists. A list without items does not exist: its key is removed with the last item.

Those that wait are in blocking_lists.py; the list itself is in list_value.py.
"""

from collections.abc import Sequence
from itertools import count as numbers
from typing import NamedTuple

from noctule.core.keyspace.failures import NO_SUCH_KEY, NOT_AN_INTEGER, SYNTAX, WRONG_TYPE, wrong_arity
from noctule.core.keyspace.list_value import ListValue
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import NULL_ARRAY, OK, Failure, Reply
from noctule.core.keyspace.spec import (
    GROW,
    GROW_FAST,
    NO_KEYS,
    ONE,
    READ,
    READ_FAST,
    TWO,
    WRITE,
    WRITE_FAST,
    CommandSpec,
    Scope,
    counted_keys,
    rows,
)
from noctule.core.keyspace.state import State

_LEFT, _RIGHT = b"LEFT", b"RIGHT"
_OUT_OF_RANGE = Failure(b"ERR index out of range")
_NOT_POSITIVE = Failure(b"ERR value is out of range, must be positive")
_RANK_ZERO = Failure(
    b"ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... "
    b"or use negative to start from the end of the list"
)
_NO_KEY_COUNT = Failure(b"ERR numkeys should be greater than 0")
_NO_COUNT = Failure(b"ERR count should be greater than 0")


# Pushes ---------------------------------------------------------------------------------------------------------------


def lpush(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LPUSH key item…; the length."""
    return _push(state, args, is_left=True, may_create=True)


def rpush(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """RPUSH key item…; the length."""
    return _push(state, args, is_left=False, may_create=True)


def lpushx(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LPUSHX key item…; 0 without the list."""
    return _push(state, args, is_left=True, may_create=False)


def rpushx(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """RPUSHX key item…; 0 without the list."""
    return _push(state, args, is_left=False, may_create=False)


def _push(state: State, args: Sequence[bytes], *, is_left: bool, may_create: bool) -> Reply:
    held = state.find(args[1], ListValue)
    if isinstance(held, Failure):
        return held
    if held is None and not may_create:
        return 0
    return push(state, args[1], held, args[2:], is_left=is_left)


def push(state: State, key: bytes, held: ListValue | None, items: Sequence[bytes], *, is_left: bool) -> int:
    """Add items to the list at `key`, which is `held`, or make it; the length."""
    if held is None:
        held = ListValue(reversed(items) if is_left else items)
        state.put(key, held)
    else:
        held = state.change(key, held)
        (held.push_left if is_left else held.push_right)(items)
        state.changed(key, held)
    return len(held)


# Pops -----------------------------------------------------------------------------------------------------------------


def lpop(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LPOP key [count]."""
    return _pop(state, args, is_left=True)


def rpop(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """RPOP key [count]."""
    return _pop(state, args, is_left=False)


def _pop(state: State, args: Sequence[bytes], *, is_left: bool) -> Reply:
    if len(args) > 3:
        return wrong_arity(args[0])
    has_count, count = len(args) == 3, 1
    if has_count:
        number = parse_int(args[2])
        if number is None or number < 0:
            return _NOT_POSITIVE
        count = number
    held = state.find(args[1], ListValue)
    if isinstance(held, Failure):
        return held
    if held is None:
        return NULL_ARRAY if has_count else None
    if not count:
        return []
    popped = pop(state, args[1], held, count, is_left=is_left)
    return [*popped] if has_count else popped[0]


def pop(state: State, key: bytes, held: ListValue, count: int, *, is_left: bool) -> list[bytes]:
    """Take at most `count` items from one end of the list at `key`, which is `held`."""
    held = state.change(key, held)
    popped = (held.pop_left if is_left else held.pop_right)(count)
    state.changed(key, held)
    return popped


def lmpop(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LMPOP numkeys key… LEFT|RIGHT [COUNT count]: from the first list that is there."""
    return pop_first(state, args, 1)


def pop_first(state: State, args: Sequence[bytes], position: int) -> Reply:
    """LMPOP whose numkeys stands at `position`."""
    wanted = parse_first(args, position)
    if isinstance(wanted, Failure):
        return wanted
    for key in wanted.keys:
        held = state.find(key, ListValue)
        if isinstance(held, Failure):
            return held
        if held is not None:
            return [key, [*pop(state, key, held, wanted.count_max, is_left=wanted.is_left)]]
    return NULL_ARRAY


class FirstWanted(NamedTuple):
    """What LMPOP asks for."""

    keys: Sequence[bytes]
    is_left: bool
    count_max: int


def parse_first(args: Sequence[bytes], position: int) -> FirstWanted | Failure:
    """The arguments of LMPOP from numkeys on, which stands at `position`."""
    key_count = parse_int(args[position])
    if key_count is None or key_count <= 0:
        return _NO_KEY_COUNT
    end = position + 1 + key_count
    if end >= len(args):
        return SYNTAX
    is_left = parse_side(args[end])
    if is_left is None:
        return SYNTAX
    options = args[end + 1 :]
    if not options:
        return FirstWanted(args[position + 1 : end], is_left, 1)
    if len(options) == 1 or options[0].upper() != b"COUNT":
        return SYNTAX
    count = parse_int(options[1])
    if count is None or count <= 0:
        return _NO_COUNT
    return SYNTAX if len(options) > 2 else FirstWanted(args[position + 1 : end], is_left, count)


def parse_side(word: bytes) -> bool | None:
    """Whether it says LEFT; None when it says neither that nor RIGHT."""
    side = word.upper()
    return side == _LEFT if side in (_LEFT, _RIGHT) else None


# From list to list ----------------------------------------------------------------------------------------------------


def rpoplpush(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """RPOPLPUSH source destination."""
    return move(state, args[1], args[2], from_left=False, to_left=True)


def lmove(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LMOVE source destination LEFT|RIGHT LEFT|RIGHT."""
    from_left, to_left = parse_side(args[3]), parse_side(args[4])
    if from_left is None or to_left is None:
        return SYNTAX
    return move(state, args[1], args[2], from_left=from_left, to_left=to_left)


def move(state: State, source: bytes, destination: bytes, *, from_left: bool, to_left: bool) -> Reply:
    """Take an item from one end of a list and put it at one end of another, or of the same; the item, or null."""
    taken_from = state.find(source, ListValue)
    if taken_from is None or isinstance(taken_from, Failure):
        return taken_from
    if isinstance(state.find(destination, ListValue), Failure):
        return WRONG_TYPE
    if source == destination:
        # In one go: a list of one item must not go and come back, for its deadline would go with it.
        held = state.change(source, taken_from)
        (item,) = held.pop_left(1) if from_left else held.pop_right(1)
        (held.push_left if to_left else held.push_right)((item,))
        state.changed(source, held)
        return item
    (item,) = pop(state, source, taken_from, 1, is_left=from_left)
    put_to = state.find(destination, ListValue)
    assert not isinstance(put_to, Failure)
    push(state, destination, put_to, (item,), is_left=to_left)
    return item


# By index -------------------------------------------------------------------------------------------------------------


def llen(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LLEN key."""
    held = state.find(args[1], ListValue)
    return held if isinstance(held, Failure) else len(held or ())


def lindex(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LINDEX key index; below zero it counts from the tail, which is -1."""
    held = state.find(args[1], ListValue)
    if held is None or isinstance(held, Failure):
        return held
    index = parse_int(args[2])
    if index is None:
        return NOT_AN_INTEGER
    return held.items[index] if -len(held) <= index < len(held) else None


def lrange(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LRANGE key first last, both inclusive."""
    first, last = parse_int(args[2]), parse_int(args[3])
    if first is None or last is None:
        return NOT_AN_INTEGER
    held = state.find(args[1], ListValue)
    if isinstance(held, Failure):
        return held
    return [] if held is None else [*held.between(_from_head(first, held), _from_head(last, held))]


def ltrim(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LTRIM key first last: keeps what LRANGE answers."""
    first, last = parse_int(args[2]), parse_int(args[3])
    if first is None or last is None:
        return NOT_AN_INTEGER
    held = state.find(args[1], ListValue)
    if held is None:
        return OK
    if isinstance(held, Failure):
        return held
    length = len(held)
    first, last = max(_from_head(first, held), 0), min(_from_head(last, held), length - 1)
    held = state.change(args[1], held)
    if first > last:
        held.pop_left(length)
    else:
        held.pop_left(first)
        held.pop_right(length - 1 - last)
    state.changed(args[1], held)
    return OK


def lset(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LSET key index item."""
    held = state.find(args[1], ListValue)
    if held is None:
        return NO_SUCH_KEY
    if isinstance(held, Failure):
        return held
    index = parse_int(args[2])
    if index is None:
        return NOT_AN_INTEGER
    if not -len(held) <= index < len(held):
        return _OUT_OF_RANGE
    held = state.change(args[1], held)
    held.put_at(_from_head(index, held), args[3])
    state.changed(args[1], held)
    return OK


def _from_head(index: int, held: ListValue) -> int:
    return index if index >= 0 else index + len(held)


# By value -------------------------------------------------------------------------------------------------------------


def linsert(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LINSERT key BEFORE|AFTER pivot item: by the first one equal to the pivot; the length, -1 when none is."""
    where = args[2].upper()
    if where not in (b"BEFORE", b"AFTER"):
        return SYNTAX
    held = state.find(args[1], ListValue)
    if isinstance(held, Failure):
        return held
    if held is None:
        return 0
    try:
        index = held.items.index(args[3])
    except ValueError:
        return -1
    held = state.change(args[1], held)
    held.insert_at(index + (where == b"AFTER"), args[4])
    state.changed(args[1], held)
    return len(held)


def lrem(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LREM key count item: the first `count` equal to it, the last when below zero, all when zero; how many."""
    count = parse_int(args[2])
    if count is None:
        return NOT_AN_INTEGER
    held = state.find(args[1], ListValue)
    if isinstance(held, Failure):
        return held
    if held is None:
        return 0
    held = state.change(args[1], held)
    removed = held.remove_equal(args[3], count)
    state.changed(args[1], held)
    return removed


def lpos(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LPOS key item [RANK rank] [COUNT count] [MAXLEN length]: where items are equal to it; with COUNT, an array."""
    rank, count, length = 1, -1, 0
    position = 3
    while position < len(args):
        option = args[position].upper()
        if position + 1 == len(args) or option not in _LPOS_PROBLEMS:
            return SYNTAX
        number = parse_int(args[position + 1])
        if number is None or (number < 0 and option != b"RANK"):
            return _LPOS_PROBLEMS[option]
        if option == b"RANK":
            if not number:
                return _RANK_ZERO
            rank = number
        elif option == b"COUNT":
            count = number
        else:
            length = number
        position += 2
    held = state.find(args[1], ListValue)
    if isinstance(held, Failure):
        return held
    if held is None:
        return None if count < 0 else []
    found = _positions(held, args[2], rank, count if count >= 0 else 1, length or len(held))
    if count < 0:
        return found[0] if found else None
    return [*found]


_LPOS_PROBLEMS = {
    b"RANK": NOT_AN_INTEGER,
    b"COUNT": Failure(b"ERR COUNT can't be negative"),
    b"MAXLEN": Failure(b"ERR MAXLEN can't be negative"),
}


def _positions(held: ListValue, item: bytes, rank: int, count: int, length: int) -> list[int]:
    """Where items are equal to `item`, from the match `rank` on: `count` of them, all for 0; looking at `length`."""
    last = len(held) - 1
    from_head = rank > 0
    skipped = abs(rank) - 1
    found: list[int] = []
    for step, each in zip(numbers(), held.items if from_head else reversed(held.items), strict=False):
        if step >= length:
            break
        if each != item:
            continue
        if skipped:
            skipped -= 1
            continue
        found.append(step if from_head else last - step)
        if len(found) == count:
            break
    return found


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("LINDEX", 3, READ, ONE, lindex, "An item of a list, by its index."),
        ("LINSERT", 5, GROW, ONE, linsert, "Puts an item beside another one of a list."),
        ("LLEN", 2, READ_FAST, ONE, llen, "How many items a list has."),
        ("LMOVE", 5, GROW, TWO, lmove, "Moves an item from an end of a list to an end of a list."),
        ("LPOP", -2, WRITE_FAST, ONE, lpop, "Takes items from the head of a list."),
        ("LPOS", -3, READ, ONE, lpos, "Where a list has an item: RANK, COUNT, MAXLEN."),
        ("LPUSH", -3, GROW_FAST, ONE, lpush, "Puts items before the head of a list."),
        ("LPUSHX", -3, GROW_FAST, ONE, lpushx, "Puts items before the head of a list that exists."),
        ("LRANGE", 4, READ, ONE, lrange, "The items of a list between two indices."),
        ("LREM", 4, WRITE, ONE, lrem, "Removes items from a list, by their value."),
        ("LSET", 4, GROW, ONE, lset, "Replaces an item of a list."),
        ("LTRIM", 4, WRITE, ONE, ltrim, "Keeps the items of a list between two indices."),
        ("RPOP", -2, WRITE_FAST, ONE, rpop, "Takes items from the tail of a list."),
        ("RPOPLPUSH", 3, GROW, TWO, rpoplpush, "Moves an item from the tail of a list to the head of a list."),
        ("RPUSH", -3, GROW_FAST, ONE, rpush, "Puts items behind the tail of a list."),
        ("RPUSHX", -3, GROW_FAST, ONE, rpushx, "Puts items behind the tail of a list that exists."),
    ),
    *rows(
        Scope.KEY,
        ("LMPOP", -4, WRITE, NO_KEYS, lmpop, "Takes items from an end of the first list that exists: COUNT."),
        find_keys=counted_keys(1),
    ),
)
"""The rows of this file."""
