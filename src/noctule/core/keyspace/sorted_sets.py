"""The commands on the members of sorted sets: scores, ranks, and taking out the first or last.

A sorted set without members does not exist. Ranges of members are in sorted_ranges.py, unions and the like in
sorted_algebra.py. Source: Redis 7.0's t_zset.c, also for the order in which arguments are looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from noctule.core.keyspace.chance import Chance
from noctule.core.keyspace.failures import (
    NO_NUMBER_OF_KEYS,
    NOT_A_FLOAT,
    NOT_A_SCORE,
    NOT_POSITIVE,
    SYNTAX,
)
from noctule.core.keyspace.numbers import INT_MAX, parse_double, parse_int
from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Pairs, Reply
from noctule.core.keyspace.sets import parse_draws
from noctule.core.keyspace.sorted_set_value import SortedSet
from noctule.core.keyspace.spec import (
    GROW_FAST,
    NO_KEYS,
    ONE,
    READ,
    READ_FAST,
    WRITE,
    WRITE_FAST,
    CommandSpec,
    Scope,
    counted_keys,
    rows,
)
from noctule.core.keyspace.state import State

EMPTY = SortedSet()
"""Stands for an absent key; to be read only."""

_ADD_WORDS = (b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR")


def zadd(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZADD key [NX|XX] [GT|LT] [CH] [INCR] (score member)…; how many are new, with CH how many are new or changed.

    With INCR the score of the one member, or None when a condition was against it.
    """
    key = args[1]
    first = 2
    words: set[bytes] = set()
    while first < len(args) and (word := args[first].upper()) in _ADD_WORDS:
        words.add(word)
        first += 1
    problem = _add_problem(words, len(args) - first)
    if problem is not None:
        return problem
    items: list[tuple[bytes, float]] = []
    for position in range(first, len(args), 2):
        score = parse_double(args[position])
        if score is None:
            return NOT_A_FLOAT
        items.append((args[position + 1], score))
    held = state.find(key, SortedSet)
    if isinstance(held, Failure):
        return held
    if b"INCR" in words:
        return _increment(state, key, held, items[0], words)
    if held is None:
        if b"XX" in words:
            return 0
        new = SortedSet()
        count = _put(new, items, words)
        state.put(key, new)
    else:
        held = state.change(key, held)
        count = _put(held, items, words)
        state.changed(key, held)
    return count


def zincrby(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZINCRBY key increment member; the new score."""
    amount = parse_double(args[2])
    if amount is None:
        return NOT_A_FLOAT
    held = state.find(args[1], SortedSet)
    return held if isinstance(held, Failure) else _increment(state, args[1], held, (args[3], amount), set())


def _add_problem(words: set[bytes], left: int) -> Failure | None:
    """What is wrong with ZADD's options, of which so many arguments are left behind."""
    if left % 2 or not left:
        return SYNTAX
    if {b"NX", b"XX"} <= words:
        return Failure(b"ERR XX and NX options at the same time are not compatible")
    if len(words & {b"NX", b"GT", b"LT"}) > 1:
        return Failure(b"ERR GT, LT, and/or NX options at the same time are not compatible")
    if b"INCR" in words and left > 2:
        return Failure(b"ERR INCR option supports a single increment-element pair")
    return None


def _increment(state: State, key: bytes, held: SortedSet | None, item: tuple[bytes, float], words: set[bytes]) -> Reply:
    member, score = item
    old = None if held is None else held.scores.get(member)
    if old is not None and b"NX" not in words:
        score += old
        if isnan(score):
            return NOT_A_SCORE
    if not _is_wanted(old, score, words):
        return None
    if held is None:
        state.put(key, SortedSet([(member, score)]))
    else:
        held = state.change(key, held)
        held.put(member, score)
        state.changed(key, held)
    return score


def _put(held: SortedSet, items: list[tuple[bytes, float]], words: set[bytes]) -> int:
    """How many items are new, with CH how many are new or have another score now."""
    if not words:  # As nearly always.
        return sum(held.put(member, score) for member, score in items)
    new = changed = 0
    for member, score in items:
        old = held.scores.get(member)
        if _is_wanted(old, score, words):
            held.put(member, score)
            new += old is None
            changed += old is not None and old != score
    return new + changed if b"CH" in words else new


def _is_wanted(old: float | None, score: float, words: set[bytes]) -> bool:
    """Whether ZADD's options let the score of a member, None for a new one, become this."""
    if old is None:
        return b"XX" not in words
    return not (b"NX" in words or (b"GT" in words and score <= old) or (b"LT" in words and score >= old))


def zrem(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZREM key member…; how many were there."""
    held = state.find(args[1], SortedSet)
    if held is None or isinstance(held, Failure):
        return 0 if held is None else held
    return remove_members(state, args[1], held, args[2:])


def remove_members(state: State, key: bytes, held: SortedSet, members: Sequence[bytes]) -> int:
    """Remove members of the sorted set at a key, and the key with the last; how many were there."""
    held = state.change(key, held)
    removed = sum(map(held.discard, members))
    state.changed(key, held)
    return removed


def zcard(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZCARD key."""
    held = sorted_set(state, args[1])
    return held if isinstance(held, Failure) else len(held)


def zscore(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZSCORE key member."""
    held = sorted_set(state, args[1])
    return held if isinstance(held, Failure) else held.scores.get(args[2])


def zmscore(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZMSCORE key member…"""
    held = sorted_set(state, args[1])
    return held if isinstance(held, Failure) else [held.scores.get(member) for member in args[2:]]


def zrank(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZRANK key member; how many stand before it."""
    held = sorted_set(state, args[1])
    return held if isinstance(held, Failure) else held.rank(args[2])


def zrevrank(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZREVRANK key member; how many stand behind it."""
    held = sorted_set(state, args[1])
    if isinstance(held, Failure):
        return held
    rank = held.rank(args[2])
    return None if rank is None else len(held) - 1 - rank


def zpopmin(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZPOPMIN key [count]: removes those with the lowest scores; as pairs where a count is given."""
    return _zpop(state, args, is_max=False)


def zpopmax(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZPOPMAX key [count]: removes those with the highest scores, the highest first."""
    return _zpop(state, args, is_max=True)


def _zpop(state: State, args: Sequence[bytes], *, is_max: bool) -> Reply:
    if len(args) > 3:
        return SYNTAX
    count = parse_int(args[2]) if len(args) == 3 else 1
    if count is None or count < 0:
        return NOT_POSITIVE
    held = state.find(args[1], SortedSet)
    if held is None or isinstance(held, Failure):
        return [] if held is None else held
    items = pop_items(state, args[1], held, count, is_max=is_max)
    return Pairs([*items]) if len(args) == 3 else [*items[0]]


def pop_items(state: State, key: bytes, held: SortedSet, count: int, *, is_max: bool) -> list[tuple[bytes, float]]:
    """Take out the first items of the sorted set at a key, or the last ones, the last of all first."""
    items = held.items(max(len(held) - count, 0), len(held))[::-1] if is_max else held.items(0, count)
    if len(items) == len(held):
        state.remove(key)
    elif items:
        remove_members(state, key, held, [member for member, _ in items])
    return items


def zmpop(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZMPOP numkeys key… MIN|MAX [COUNT count]: items of the first key that has any; NULL_ARRAY without one."""
    return pop_first(state, args, 1)


@dataclass(frozen=True)
class ManyPop:
    """What ZMPOP is to do."""

    keys: Sequence[bytes]
    is_max: bool
    count: int


def parse_many_pop(args: Sequence[bytes], position: int) -> ManyPop | Failure:
    """The arguments of ZMPOP from numkeys on, which stands at `position`."""
    key_count = parse_int(args[position])
    if key_count is None or key_count < 1:
        return NO_NUMBER_OF_KEYS
    first = position + 1
    where = first + key_count
    if where >= len(args) or args[where].upper() not in (b"MIN", b"MAX"):
        return SYNTAX
    count: int | None = None
    for option in range(where + 1, len(args), 2):
        if count is not None or args[option].upper() != b"COUNT" or option + 1 == len(args):
            return SYNTAX
        count = parse_int(args[option + 1])
        if count is None or count < 1:
            return Failure(b"ERR count should be greater than 0")
    return ManyPop(args[first:where], args[where].upper() == b"MAX", count or 1)


def pop_first(state: State, args: Sequence[bytes], position: int) -> Reply:
    """ZMPOP whose numkeys stands at `position`."""
    wanted = parse_many_pop(args, position)
    if isinstance(wanted, Failure):
        return wanted
    for key in wanted.keys:
        held = state.find(key, SortedSet)
        if isinstance(held, Failure):
            return held
        if held is not None:
            return [key, [[*item] for item in pop_items(state, key, held, wanted.count, is_max=wanted.is_max)]]
    return NULL_ARRAY


def zrandmember(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """ZRANDMEMBER key [count [WITHSCORES]]: drawn as by SRANDMEMBER."""
    count = parse_draws(args[2]) if len(args) > 2 else 1
    if isinstance(count, Failure):
        return count
    with_scores = len(args) == 4 and args[3].upper() == b"WITHSCORES"
    if len(args) > 3 and not with_scores:
        return SYNTAX
    if with_scores and abs(count) > INT_MAX // 2:
        return Failure(b"ERR value is out of range")
    held = state.find(args[1], SortedSet)
    if isinstance(held, Failure):
        return held
    if held is None:
        return None if len(args) == 2 else []
    chance = Chance(now_ms, args[1], len(held))
    if count < 0:
        ranks = [chance.below(len(held)) for _ in range(-count)]
    elif count < len(held):
        ranks = chance.some_of(len(held), count)
    else:
        ranks = list(range(len(held)))
    drawn = [held.items(rank, rank + 1)[0] for rank in ranks]
    if with_scores:
        return Pairs([*drawn])
    return drawn[0][0] if len(args) == 2 else [member for member, _ in drawn]


def sorted_set(state: State, key: bytes) -> SortedSet | Failure:
    """The sorted set, to be read; an empty one for an absent key."""
    held = state.find(key, SortedSet)
    return EMPTY if held is None else held


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("ZADD", -4, GROW_FAST, ONE, zadd, "Adds members with scores: NX, XX, GT, LT, CH, INCR."),
        ("ZCARD", 2, READ_FAST, ONE, zcard, "How many members a sorted set has."),
        ("ZINCRBY", 4, GROW_FAST, ONE, zincrby, "Adds a number to the score of a member."),
        ("ZMSCORE", -3, READ_FAST, ONE, zmscore, "The scores of some members."),
        ("ZPOPMAX", -2, WRITE_FAST, ONE, zpopmax, "Removes the members with the highest scores."),
        ("ZPOPMIN", -2, WRITE_FAST, ONE, zpopmin, "Removes the members with the lowest scores."),
        ("ZRANDMEMBER", -2, READ, ONE, zrandmember, "Members of a sorted set that are drawn by lot: WITHSCORES."),
        ("ZRANK", 3, READ_FAST, ONE, zrank, "How many members stand before one."),
        ("ZREM", -3, WRITE_FAST, ONE, zrem, "Removes members of a sorted set."),
        ("ZREVRANK", 3, READ_FAST, ONE, zrevrank, "How many members stand behind one."),
        ("ZSCORE", 3, READ_FAST, ONE, zscore, "The score of a member."),
    ),
    *rows(
        Scope.KEY,
        (
            "ZMPOP",
            -4,
            (*WRITE, b"movablekeys"),
            NO_KEYS,
            zmpop,
            "Removes members of the first sorted set that has any: MIN, MAX, COUNT.",
        ),
        find_keys=counted_keys(1),
    ),
)
"""The rows of this file."""
