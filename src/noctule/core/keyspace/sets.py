"""The commands on sets. A set without members does not exist: its key is removed with the last one.

What several members are answered is sorted, since replicas with the same members must answer the same. SPOP draws by a
chance that all replicas share: the leader's time, the key and the members decide. SRANDMEMBER draws likewise, so within
one millisecond it draws the same from a set that does not change.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from noctule.core.keyspace.chance import Chance
from noctule.core.keyspace.failures import (
    NEGATIVE_LIMIT,
    NO_NUMBER_OF_KEYS,
    NOT_AN_INTEGER,
    NOT_POSITIVE,
    SYNTAX,
    TOO_MANY_KEYS,
)
from noctule.core.keyspace.numbers import INT_MAX, INT_MIN, parse_int
from noctule.core.keyspace.reply import Failure, Members, Reply
from noctule.core.keyspace.set_value import SetValue
from noctule.core.keyspace.spec import (
    GROW,
    GROW_FAST,
    MANY,
    NO_KEYS,
    ONE,
    READ,
    READ_FAST,
    TWO,
    WRITE_FAST,
    CommandSpec,
    Scope,
    counted_keys,
    rows,
)
from noctule.core.keyspace.state import State

REPEATED_DRAWS_MAX: Final = 100_000
"""How often SRANDMEMBER and ZRANDMEMBER draw when a member may come again; more than there are, otherwise."""

_EMPTY = SetValue()
"""Stands for an absent key; to be read only."""


def sadd(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SADD key member…; how many are new."""
    held = state.find(args[1], SetValue)
    if isinstance(held, Failure):
        return held
    if held is None:
        new = SetValue(args[2:])
        state.put(args[1], new)
        return len(new)
    held = state.change(args[1], held)
    added = sum(map(held.add, args[2:]))
    state.changed(args[1], held)
    return added


def srem(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SREM key member…; how many were there."""
    held = state.find(args[1], SetValue)
    if held is None or isinstance(held, Failure):
        return 0 if held is None else held
    held = state.change(args[1], held)
    removed = sum(map(held.discard, args[2:]))
    state.changed(args[1], held)
    return removed


def scard(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SCARD key."""
    held = _members(state, args[1])
    return held if isinstance(held, Failure) else len(held)


def sismember(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SISMEMBER key member."""
    held = _members(state, args[1])
    return held if isinstance(held, Failure) else int(args[2] in held)


def smismember(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SMISMEMBER key member…"""
    held = _members(state, args[1])
    return held if isinstance(held, Failure) else [int(member in held) for member in args[2:]]


def smembers(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SMEMBERS key, sorted."""
    held = _members(state, args[1])
    return held if isinstance(held, Failure) else Members([*sorted(held)])


def smove(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """SMOVE source destination member; whether it was in the source."""
    _, source, destination, member = args
    if state.get(source) is None:
        return 0
    held, other = _members(state, source), _members(state, destination)
    if isinstance(held, Failure):
        return held
    if isinstance(other, Failure):
        return other
    if source != destination and member in held:
        srem(state, (b"", source, member), now_ms)
        sadd(state, (b"", destination, member), now_ms)
        return 1
    return int(member in held)


def spop(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """SPOP key [count]: removes members, each as likely as any other, and answers them."""
    if len(args) > 3:
        return SYNTAX
    count = parse_int(args[2]) if len(args) == 3 else 1
    if count is None or count < 0:
        return NOT_POSITIVE
    held = state.find(args[1], SetValue)
    if isinstance(held, Failure):
        return held
    if held is None or not count:
        return None if len(args) == 2 else Members([])
    chance = Chance(now_ms, args[1], len(held))
    drawn: list[Reply] = []
    if count >= len(held):
        drawn += sorted(held)
        state.remove(args[1])
    else:
        held = state.change(args[1], held)
        for _ in range(count):
            member = held.draw(chance)
            held.discard(member)
            drawn.append(member)
        state.changed(args[1], held)
    return drawn[0] if len(args) == 2 else Members(drawn)


def srandmember(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """SRANDMEMBER key [count]: members as SPOP draws them; below zero: so many, among which one may come again."""
    if len(args) > 3:
        return SYNTAX
    count = parse_draws(args[2]) if len(args) == 3 else 1
    if isinstance(count, Failure):
        return count
    held = state.find(args[1], SetValue)
    if isinstance(held, Failure):
        return held
    if held is None:
        return None if len(args) == 2 else []
    chance = Chance(now_ms, args[1], len(held))
    if len(args) == 2:
        return held.draw(chance)
    if count < 0:
        return [held.draw(chance) for _ in range(-count)]
    return [*held.draw_some(chance, count)]


def parse_draws(text: bytes) -> int | Failure:
    """How many to draw: below zero, of which no more than REPEATED_DRAWS_MAX are allowed, with repetitions."""
    count = parse_int(text)
    if count is None:
        return NOT_AN_INTEGER
    if count == INT_MIN:
        return Failure(b"ERR value is out of range, value must between %d and %d" % (-INT_MAX, INT_MAX))
    if count < -REPEATED_DRAWS_MAX:
        return Failure(b"ERR count of %d, REPEATED_DRAWS_MAX is %d" % (-count, REPEATED_DRAWS_MAX))
    return count


def sinter(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SINTER key…, sorted."""
    sets = _all_members(state, args[1:])
    return sets if isinstance(sets, Failure) else Members([*sorted(_common(sets))])


def sunion(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SUNION key…, sorted."""
    sets = _all_members(state, args[1:])
    return sets if isinstance(sets, Failure) else Members([*sorted(set().union(*sets))])


def sdiff(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SDIFF key…: what only the first has, sorted."""
    sets = _all_members(state, args[1:])
    return sets if isinstance(sets, Failure) else Members([*sorted(_only_first(sets))])


def sinterstore(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SINTERSTORE destination key…; how many members there are."""
    sets = _all_members(state, args[2:])
    return sets if isinstance(sets, Failure) else _store(state, args[1], _common(sets))


def sunionstore(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SUNIONSTORE destination key…; how many members there are."""
    sets = _all_members(state, args[2:])
    return sets if isinstance(sets, Failure) else _store(state, args[1], (each for held in sets for each in held))


def sdiffstore(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SDIFFSTORE destination key…; how many members there are."""
    sets = _all_members(state, args[2:])
    return sets if isinstance(sets, Failure) else _store(state, args[1], _only_first(sets))


def sintercard(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SINTERCARD numkeys key… [LIMIT limit]; 0 is no limit."""
    count = parse_int(args[1])
    if count is None or count < 1:
        return NO_NUMBER_OF_KEYS
    if count > len(args) - 2:
        return TOO_MANY_KEYS
    limit: int | None = 0
    for position in range(2 + count, len(args), 2):
        if args[position].upper() != b"LIMIT" or position + 1 == len(args):
            return SYNTAX
        limit = parse_int(args[position + 1])
        if limit is None or limit < 0:
            return NEGATIVE_LIMIT
    sets = _all_members(state, args[2 : 2 + count])
    if isinstance(sets, Failure):
        return sets
    found = 0
    for _ in _common(sets):
        found += 1
        if found == limit:
            break
    return found


def _members(state: State, key: bytes) -> SetValue | Failure:
    """The set, to be read; an empty one for an absent key."""
    held = state.find(key, SetValue)
    return _EMPTY if held is None else held


def _all_members(state: State, keys: Iterable[bytes]) -> list[SetValue] | Failure:
    sets: list[SetValue] = []
    for key in keys:
        held = _members(state, key)
        if isinstance(held, Failure):
            return held
        sets.append(held)
    return sets


def _common(sets: list[SetValue]) -> Iterable[bytes]:
    """What all have, each once; looks at the members of the smallest."""
    smallest, *others = sorted(sets, key=len)
    return (member for member in smallest if all(member in other for other in others))


def _only_first(sets: list[SetValue]) -> Iterable[bytes]:
    first, *others = sets
    return (member for member in first if not any(member in other for other in others))


def _store(state: State, key: bytes, members: Iterable[bytes]) -> int:
    """Put a set in the place of whatever is at the key, with its deadline, or nothing for no members."""
    new = SetValue(members)
    if new:
        state.replace(key, new, None)
    else:
        state.remove(key)
    return len(new)


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("SADD", -3, GROW_FAST, ONE, sadd, "Adds members to a set."),
        ("SCARD", 2, READ_FAST, ONE, scard, "How many members a set has."),
        ("SDIFF", -2, READ, MANY, sdiff, "The members of the first set that no other one has."),
        ("SDIFFSTORE", -3, GROW, MANY, sdiffstore, "The same, into a key."),
        ("SINTER", -2, READ, MANY, sinter, "The members that all sets have."),
        ("SINTERSTORE", -3, GROW, MANY, sinterstore, "The same, into a key."),
        ("SISMEMBER", 3, READ_FAST, ONE, sismember, "Whether a set has a member."),
        ("SMEMBERS", 2, READ, ONE, smembers, "All members of a set."),
        ("SMISMEMBER", -3, READ_FAST, ONE, smismember, "Which of some members a set has."),
        ("SMOVE", 4, WRITE_FAST, TWO, smove, "Moves a member from one set to another."),
        ("SPOP", -2, WRITE_FAST, ONE, spop, "Removes members of a set that are drawn by lot."),
        ("SRANDMEMBER", -2, READ, ONE, srandmember, "Members of a set that are drawn by lot."),
        ("SREM", -3, WRITE_FAST, ONE, srem, "Removes members of a set."),
        ("SUNION", -2, READ, MANY, sunion, "The members that any of the sets has."),
        ("SUNIONSTORE", -3, GROW, MANY, sunionstore, "The same, into a key."),
    ),
    *rows(
        Scope.KEY,
        (
            "SINTERCARD",
            -3,
            (*READ, b"movablekeys"),
            NO_KEYS,
            sintercard,
            "How many members all sets have: LIMIT.",
        ),
        find_keys=counted_keys(1),
    ),
)
"""The rows of this file."""
