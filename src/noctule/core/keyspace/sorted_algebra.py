"""The commands that make one sorted set of several: union, intersection, difference. A set counts, with scores of 1.

Sums of doubles depend on their order, so that is Redis': from the smallest set to the largest, those of one size as
they were given. Source: `zunionInterDiffGenericCommand` in Redis 7.0's t_zset.c, also for the order of arguments.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from math import isnan
from typing import TypeAlias

from noctule.core.keyspace.failures import NEGATIVE_LIMIT, NOT_AN_INTEGER, SYNTAX, WRONG_TYPE
from noctule.core.keyspace.numbers import parse_double, parse_int
from noctule.core.keyspace.reply import Failure, Pairs, Reply
from noctule.core.keyspace.set_value import SetValue
from noctule.core.keyspace.sorted_set_value import SortedSet
from noctule.core.keyspace.spec import GROW, NO_KEYS, ONE, READ, CommandSpec, Scope, counted_keys, rows
from noctule.core.keyspace.state import State

Scores: TypeAlias = Mapping[bytes, float]
_Aggregate: TypeAlias = Callable[[float, float], float]


@dataclass(frozen=True, slots=True)
class Operands:
    """The sets, the weight of each, how scores become one, and what else is wanted."""

    sets: list[Scores]
    weights: list[float]
    aggregate: _Aggregate
    with_scores: bool
    limit: int
    """0: none."""


def zunion(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZUNION numkeys key… [WEIGHTS weight…] [AGGREGATE SUM|MIN|MAX] [WITHSCORES]."""
    return _answer(state, args, _union)


def zinter(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZINTER numkeys key… [WEIGHTS weight…] [AGGREGATE SUM|MIN|MAX] [WITHSCORES]."""
    return _answer(state, args, _inter)


def zdiff(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZDIFF numkeys key… [WITHSCORES]: what only the first has."""
    return _answer(state, args, _diff)


def zunionstore(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZUNIONSTORE destination numkeys key… [WEIGHTS weight…] [AGGREGATE SUM|MIN|MAX]; how many members there are."""
    return _store(state, args, _union)


def zinterstore(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZINTERSTORE destination numkeys key… [WEIGHTS weight…] [AGGREGATE SUM|MIN|MAX]; how many members there are."""
    return _store(state, args, _inter)


def zdiffstore(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZDIFFSTORE destination numkeys key…; how many members there are."""
    return _store(state, args, _diff)


def zintercard(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZINTERCARD numkeys key… [LIMIT limit]; 0 is no limit."""
    operands = _operands(state, args, 1, (b"LIMIT",))
    if isinstance(operands, Failure):
        return operands
    smallest, *others = sorted(operands.sets, key=len)
    found = 0
    for member in smallest:
        if all(member in other for other in others):
            found += 1
            if found == operands.limit:
                break
    return found


_Operation: TypeAlias = Callable[[Operands], dict[bytes, float]]


def _answer(state: State, args: Sequence[bytes], operation: _Operation) -> Reply:
    operands = _operands(state, args, 1, (*_WORDS[operation], b"WITHSCORES"))
    if isinstance(operands, Failure):
        return operands
    items = sorted(operation(operands).items(), key=lambda item: (item[1], item[0]))
    return Pairs([*items]) if operands.with_scores else [member for member, _ in items]


def _store(state: State, args: Sequence[bytes], operation: _Operation) -> Reply:
    operands = _operands(state, args, 2, _WORDS[operation])
    if isinstance(operands, Failure):
        return operands
    new = SortedSet(operation(operands).items())
    if new:
        state.replace(args[1], new, None)
    else:
        state.remove(args[1])
    return len(new)


def _union(operands: Operands) -> dict[bytes, float]:
    scores: dict[bytes, float] = {}
    for held, weight in _by_size(operands):
        for member, score in held.items():
            weighted = _number(weight * score)
            old = scores.get(member)
            scores[member] = weighted if old is None else operands.aggregate(old, weighted)
    return scores


def _inter(operands: Operands) -> dict[bytes, float]:
    scores: dict[bytes, float] = {}
    (smallest, first_weight), *others = _by_size(operands)
    for member, score in smallest.items():
        total = _number(first_weight * score)
        for held, weight in others:
            other = held.get(member)
            if other is None:
                break
            total = operands.aggregate(total, other * weight)
        else:
            scores[member] = total
    return scores


def _diff(operands: Operands) -> dict[bytes, float]:
    first, *others = operands.sets
    return {member: score for member, score in first.items() if not any(member in other for other in others)}


def _by_size(operands: Operands) -> list[tuple[Scores, float]]:
    return sorted(zip(operands.sets, operands.weights, strict=True), key=lambda each: len(each[0]))


def _number(score: float) -> float:
    """0 for what is none, such as an infinity with the weight 0."""
    return 0.0 if isnan(score) else score


def _sum(old: float, new: float) -> float:
    return _number(old + new)


def _least(old: float, new: float) -> float:
    return new if new < old else old


def _greatest(old: float, new: float) -> float:
    return new if new > old else old


_AGGREGATES: dict[bytes, _Aggregate] = {b"SUM": _sum, b"MIN": _least, b"MAX": _greatest}
_WORDS: dict[_Operation, tuple[bytes, ...]] = {
    _union: (b"WEIGHTS", b"AGGREGATE"),
    _inter: (b"WEIGHTS", b"AGGREGATE"),
    _diff: (),
}
"""The options of each beside WITHSCORES."""


def _operands(state: State, args: Sequence[bytes], position: int, words: tuple[bytes, ...]) -> Operands | Failure:
    """What stands from the number of keys on, at `position`, where these words are allowed."""
    count = parse_int(args[position])
    if count is None:
        return NOT_AN_INTEGER
    if count < 1:
        return Failure(b"ERR at least 1 input key is needed for '%b' command" % args[0].lower())
    position += 1
    if count > len(args) - position:
        return SYNTAX
    sets: list[Scores] = []
    for key in args[position : position + count]:
        scores = _scores(state, key)
        if isinstance(scores, Failure):
            return scores
        sets.append(scores)
    return _parse_options(args[position + count :], sets, words)


def _parse_options(left: Sequence[bytes], sets: list[Scores], words: tuple[bytes, ...]) -> Operands | Failure:
    weights, with_scores, limit = [1.0] * len(sets), False, 0
    aggregate: _Aggregate = _sum
    position = 0
    while position < len(left):
        word = left[position].upper()
        values = left[position + 1 :]
        if word not in words:
            return SYNTAX
        if word == b"WITHSCORES":
            with_scores = True
            position += 1
        elif word == b"WEIGHTS" and len(values) >= len(sets):
            read = [parse_double(text) for text in values[: len(sets)]]
            weights = [weight for weight in read if weight is not None]
            if len(weights) < len(sets):
                return Failure(b"ERR weight value is not a float")
            position += 1 + len(sets)
        elif word == b"AGGREGATE" and values and values[0].upper() in _AGGREGATES:
            aggregate = _AGGREGATES[values[0].upper()]
            position += 2
        elif word == b"LIMIT" and values:
            number = parse_int(values[0])
            if number is None or number < 0:
                return NEGATIVE_LIMIT
            limit = number
            position += 2
        else:
            return SYNTAX
    return Operands(sets, weights, aggregate, with_scores, limit)


def _scores(state: State, key: bytes) -> Scores | Failure:
    """Member to score, to be read; nothing for an absent key, and 1 for each member of a set."""
    held = state.get(key)
    if held is None:
        return {}
    if isinstance(held, SortedSet):
        return held.scores
    return dict(zip(held, repeat(1.0))) if isinstance(held, SetValue) else WRONG_TYPE


_READ = (*READ, b"movablekeys")
_GROW = (*GROW, b"movablekeys")

COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("ZDIFF", -3, _READ, NO_KEYS, zdiff, "The members of the first sorted set that no other one has: WITHSCORES."),
        (
            "ZINTER",
            -3,
            _READ,
            NO_KEYS,
            zinter,
            "The members that all sorted sets have: WEIGHTS, AGGREGATE, WITHSCORES.",
        ),
        ("ZINTERCARD", -3, _READ, NO_KEYS, zintercard, "How many members all sorted sets have: LIMIT."),
        ("ZUNION", -3, _READ, NO_KEYS, zunion, "The members of several sorted sets: WEIGHTS, AGGREGATE, WITHSCORES."),
        find_keys=counted_keys(1),
    ),
    *rows(
        Scope.KEY,
        ("ZDIFFSTORE", -4, _GROW, ONE, zdiffstore, "As ZDIFF, into a key."),
        ("ZINTERSTORE", -4, _GROW, ONE, zinterstore, "As ZINTER, into a key: WEIGHTS, AGGREGATE."),
        ("ZUNIONSTORE", -4, _GROW, ONE, zunionstore, "As ZUNION, into a key: WEIGHTS, AGGREGATE."),
        find_keys=counted_keys(2, also_first=True),
    ),
)
"""The rows of this file."""
