"""The commands on ranges of sorted sets: by rank, by score, or by the members themselves.

A range becomes a range of ranks at once, and all else is the same for the three. A range of members is meant for sets
whose scores are all equal; of others it is what stands from the first member that is not below the range up to the
first one above it. (Redis leaves open what it is.)
Source: `zrangeGenericCommand` in Redis 7.0's t_zset.c, also for the order in which arguments are looked at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import isnan
from typing import TypeAlias

from noctule.core.keyspace.failures import (
    NOT_A_LEX_RANGE,
    NOT_A_SCORE_RANGE,
    NOT_AN_INTEGER,
    SYNTAX,
)
from noctule.core.keyspace.numbers import parse_int, parse_limit
from noctule.core.keyspace.reply import Failure, Pairs, Reply
from noctule.core.keyspace.sorted_set_value import SortedSet
from noctule.core.keyspace.sorted_sets import remove_members, sorted_set
from noctule.core.keyspace.spec import GROW, ONE, READ, READ_FAST, TWO, WRITE, CommandSpec, Scope, rows
from noctule.core.keyspace.state import State

Ranks: TypeAlias = tuple[int, int]
"""From the first up to the second, exclusive; none when that is not greater."""


class By(Enum):
    """What a range is told by."""

    RANK = "rank"
    SCORE = "score"
    LEX = "lex"


@dataclass(frozen=True, slots=True)
class RangeOptions:
    """What follows the ends of a range."""

    by: By
    is_reverse: bool
    offset: int
    limit: int
    """Below zero: all."""
    with_scores: bool


def zrange(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZRANGE key start stop [BYSCORE|BYLEX] [REV] [LIMIT offset count] [WITHSCORES]."""
    return _range(state, args, None, None)


def zrevrange(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZREVRANGE key start stop [WITHSCORES]."""
    return _range(state, args, By.RANK, True)


def zrangebyscore(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZRANGEBYSCORE key min max [WITHSCORES] [LIMIT offset count]."""
    return _range(state, args, By.SCORE, False)


def zrevrangebyscore(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZREVRANGEBYSCORE key max min [WITHSCORES] [LIMIT offset count]."""
    return _range(state, args, By.SCORE, True)


def zrangebylex(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZRANGEBYLEX key min max [LIMIT offset count]."""
    return _range(state, args, By.LEX, False)


def zrevrangebylex(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZREVRANGEBYLEX key max min [LIMIT offset count]."""
    return _range(state, args, By.LEX, True)


def zrangestore(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZRANGESTORE destination key start stop […] as ZRANGE, without WITHSCORES; how many members there are."""
    options = _parse_options(args[5:], None, None, stores=True)
    if isinstance(options, Failure):
        return options
    items = _items(state, args[2:5], options)
    if isinstance(items, Failure):
        return items
    if items:
        state.replace(args[1], SortedSet(items), None)
    else:
        state.remove(args[1])
    return len(items)


def zcount(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZCOUNT key min max."""
    return _count(state, args, _score_ranks)


def zlexcount(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZLEXCOUNT key min max."""
    return _count(state, args, _lex_ranks)


def zremrangebyrank(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZREMRANGEBYRANK key start stop; how many were removed."""
    return _remove(state, args, _rank_ranks)


def zremrangebyscore(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZREMRANGEBYSCORE key min max; how many were removed."""
    return _remove(state, args, _score_ranks)


def zremrangebylex(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZREMRANGEBYLEX key min max; how many were removed."""
    return _remove(state, args, _lex_ranks)


def _range(state: State, args: Sequence[bytes], by: By | None, is_reverse: bool | None) -> Reply:
    options = _parse_options(args[4:], by, is_reverse, stores=False)
    if isinstance(options, Failure):
        return options
    items = _items(state, args[1:4], options)
    if isinstance(items, Failure):
        return items
    return Pairs([*items]) if options.with_scores else [member for member, _ in items]


def _parse_options(
    words: Sequence[bytes], by: By | None, is_reverse: bool | None, *, stores: bool
) -> RangeOptions | Failure:
    """None stands for what the command's name does not tell."""
    chosen, reverse = by, is_reverse
    offset, limit, with_scores = 0, -1, False
    position = 0
    while position < len(words):
        word = words[position].upper()
        if word == b"WITHSCORES" and not stores:
            with_scores = True
        elif word == b"LIMIT" and position + 2 < len(words):
            numbers = [parse_int(text) for text in words[position + 1 : position + 3]]
            if numbers[0] is None or numbers[1] is None:
                return NOT_AN_INTEGER
            offset, limit = numbers[0], numbers[1]
            position += 2
        elif word == b"REV" and reverse is None:
            reverse = True
        elif word in (b"BYLEX", b"BYSCORE") and chosen is None:
            chosen = By.LEX if word == b"BYLEX" else By.SCORE
        else:
            return SYNTAX
        position += 1
    chosen = chosen or By.RANK
    if limit != -1 and chosen is By.RANK:
        return Failure(b"ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")
    if with_scores and chosen is By.LEX:
        return Failure(b"ERR syntax error, WITHSCORES not supported in combination with BYLEX")
    return RangeOptions(chosen, bool(reverse), offset, limit, with_scores)


def _items(state: State, args: Sequence[bytes], options: RangeOptions) -> list[tuple[bytes, float]] | Failure:
    """What is in the range, in the order asked for: of the key, between the two ends."""
    key, first, second = args
    if options.is_reverse and options.by is not By.RANK:
        first, second = second, first
    find = _RANKS[options.by](first, second)
    if isinstance(find, Failure):
        return find
    held = sorted_set(state, key)
    if isinstance(held, Failure):
        return held
    if options.by is By.RANK and options.is_reverse:
        start, stop = find(held)
        start, stop = len(held) - stop, len(held) - start
    else:
        start, stop = find(held)
    if options.by is not By.RANK:
        start, stop = _limited(start, stop, options)
    if start >= stop:
        return []
    items = held.items(start, stop)
    return items[::-1] if options.is_reverse else items


def _limited(start: int, stop: int, options: RangeOptions) -> Ranks:
    """What LIMIT leaves of the ranks: a negative offset nothing, a negative count everything."""
    if options.offset < 0:
        return 0, 0
    if options.is_reverse:
        stop -= options.offset
        return (start if options.limit < 0 else max(start, stop - options.limit)), stop
    start += options.offset
    return start, (stop if options.limit < 0 else min(stop, start + options.limit))


_Find: TypeAlias = Callable[[SortedSet], Ranks]
"""Finds the ranks of a range in a sorted set."""
_Parse: TypeAlias = Callable[[bytes, bytes], _Find | Failure]


def _count(state: State, args: Sequence[bytes], parse: _Parse) -> Reply:
    find = parse(args[2], args[3])
    if isinstance(find, Failure):
        return find
    held = sorted_set(state, args[1])
    if isinstance(held, Failure):
        return held
    start, stop = find(held)
    return max(stop - start, 0)


def _remove(state: State, args: Sequence[bytes], parse: _Parse) -> Reply:
    find = parse(args[2], args[3])
    if isinstance(find, Failure):
        return find
    held = state.find(args[1], SortedSet)
    if held is None or isinstance(held, Failure):
        return 0 if held is None else held
    start, stop = find(held)
    if start >= stop:
        return 0
    if stop - start == len(held):
        state.remove(args[1])
        return stop - start
    return remove_members(state, args[1], held, [member for member, _ in held.items(start, stop)])


def _rank_ranks(start_text: bytes, stop_text: bytes) -> _Find | Failure:
    """Both inclusive; below zero: counted from the end."""
    start, stop = parse_int(start_text), parse_int(stop_text)
    if start is None or stop is None:
        return NOT_AN_INTEGER
    return lambda held: (
        max(start + len(held), 0) if start < 0 else start,
        min((stop + len(held) if stop < 0 else stop) + 1, len(held)),
    )


def _score_ranks(least_text: bytes, most_text: bytes) -> _Find | Failure:
    """Both inclusive without a parenthesis before them."""
    least, most = (parse_limit(text.removeprefix(b"(")) for text in (least_text, most_text))
    if least is None or most is None or isnan(least) or isnan(most):
        return NOT_A_SCORE_RANGE
    return lambda held: (
        held.rank_through(least) if least_text.startswith(b"(") else held.rank_below(least),
        held.rank_below(most) if most_text.startswith(b"(") else held.rank_through(most),
    )


def _lex_ranks(least_text: bytes, most_text: bytes) -> _Find | Failure:
    """``[`` before an end that is inclusive, ``(`` before one that is not; ``-`` is below all and ``+`` above."""
    least, most = _lex_end(least_text, is_most=False), _lex_end(most_text, is_most=True)
    if isinstance(least, Failure) or isinstance(most, Failure):
        return NOT_A_LEX_RANGE
    return lambda held: _lex_ranks_in(held, least, most)


def _lex_end(text: bytes, *, is_most: bool) -> bytes | Failure | None:
    """What the members of the range are not below, or, of its other end, are below; None is above all members."""
    if text == b"-":
        return b""
    if text == b"+":
        return None
    if text[:1] not in (b"(", b"["):
        return NOT_A_LEX_RANGE
    # Nothing stands between a text and the same with a zero byte behind it.
    return text[1:] + b"\0" if (text[:1] == b"[") is is_most else text[1:]


def _lex_ranks_in(held: SortedSet, least: bytes | None, most: bytes | None) -> Ranks:
    count = len(held)
    if not count:
        return 0, 0
    (_, low), (_, high) = held.items(0, 1)[0], held.items(count - 1, count)[0]
    if low == high:
        start = count if least is None else held.rank_below(low, least)
        return start, (count if most is None else held.rank_below(low, most))
    # What is not in order cannot be divided: each member is looked at, as Redis does in small sets.
    members = [member for member, _ in held.items(0, count)]
    start = next((rank for rank, member in enumerate(members) if least is not None and member >= least), count)
    return start, next((rank for rank in range(start, count) if most is not None and members[rank] >= most), count)


_RANKS: dict[By, _Parse] = {By.RANK: _rank_ranks, By.SCORE: _score_ranks, By.LEX: _lex_ranks}

COMMANDS: tuple[CommandSpec, ...] = rows(
    Scope.KEY,
    ("ZCOUNT", 4, READ_FAST, ONE, zcount, "How many scores are in a range."),
    ("ZLEXCOUNT", 4, READ_FAST, ONE, zlexcount, "How many members are in a range of members."),
    ("ZRANGE", -4, READ, ONE, zrange, "A range of members: BYSCORE, BYLEX, REV, LIMIT, WITHSCORES."),
    ("ZRANGEBYLEX", -4, READ, ONE, zrangebylex, "A range by the members themselves: LIMIT."),
    ("ZRANGEBYSCORE", -4, READ, ONE, zrangebyscore, "A range by scores: WITHSCORES, LIMIT."),
    ("ZRANGESTORE", -5, GROW, TWO, zrangestore, "A range of members into a key: BYSCORE, BYLEX, REV, LIMIT."),
    ("ZREMRANGEBYLEX", 4, WRITE, ONE, zremrangebylex, "Removes a range by the members themselves."),
    ("ZREMRANGEBYRANK", 4, WRITE, ONE, zremrangebyrank, "Removes a range by ranks."),
    ("ZREMRANGEBYSCORE", 4, WRITE, ONE, zremrangebyscore, "Removes a range by scores."),
    ("ZREVRANGE", -4, READ, ONE, zrevrange, "A range by ranks from the end: WITHSCORES."),
    ("ZREVRANGEBYLEX", -4, READ, ONE, zrevrangebylex, "A range by the members, backwards: LIMIT."),
    ("ZREVRANGEBYSCORE", -4, READ, ONE, zrevrangebyscore, "A range by scores, backwards: WITHSCORES, LIMIT."),
)
"""The rows of this file."""
