"""Which pending operations may take effect next, the likeliest first: where the search looks, and where it need not.

An operation may be left out only when every order that has it next can have another, or have it later: that keeps the
search complete. Which comes first decides nothing but time. A search whose first guess is mostly right walks a history
once: nothing goes before it must, what ends first goes first, and what a later answer rules out does not go at all.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Protocol

from noctule.verify.checkers.timeline import Call

Moves = tuple[int, Sequence[Call]]
"""The bits of those that take effect at once, because they change nothing and never could do it better; and those that
may be next."""

NO_MOVES: Moves = (0, ())


class Mover(Protocol):
    """The moves of a model in one history."""

    def moves(self, state: Hashable, waiting: Sequence[Call]) -> Moves:
        """The moves in a state when the first of `waiting` is to be answered.

        `waiting` holds what has begun and has not taken effect, by their ends, those of unknown outcome last. What may
        be next is applicable in this state. No more is said once the first itself changes nothing and fits.
        """
        ...


class RegisterMover:
    """Moves of a register. A value that was written once must stay until the last who saw it has begun.

    That is what makes unique values easy to check (Gibbons and Korach, "Testing shared memories", 1997).
    """

    def __init__(self, calls: Sequence[Call], initial: Hashable) -> None:
        self._last_seen: dict[Hashable, float] = {}
        """When the last who saw a value began, for values that cannot come back once they are gone."""
        writes = Counter(
            call.last for call in calls if call.op == "write" or (call.op == "cas" and call.result is not False)
        )
        for call in calls:
            if call.is_ok and (call.op == "read" or (call.op == "cas" and call.result is True)):
                value = call.result if call.op == "read" else call.first
                if writes[value] == (value != initial):
                    self._last_seen[value] = call.start

    def moves(self, state: Hashable, waiting: Sequence[Call]) -> Moves:
        """A value that cannot come back and will be seen again stays."""
        target = waiting[0]
        if _fits_unchanged(target, state):
            return target.bit, ()
        if self._last_seen.get(state, -math.inf) > target.end:
            return NO_MOVES
        absorbed = 0
        changes: list[Call] = []
        for call in waiting:
            if call.op == "write" or (call.op == "cas" and call.first == state and _is_change(call)):
                changes.append(call)
            elif call.is_ok and _fits_unchanged(call, state):
                absorbed |= call.bit
        if not waiting[-1].is_ok:
            changes = _without_unseen(state, waiting, changes)
        changes = _first_alike(changes)
        return absorbed, changes if _is_within_reach(state, target, waiting, changes) else ()


class CounterMover:
    """Moves of a counter. One that only grows passes each value once, so most moves are forced."""

    def __init__(self, calls: Sequence[Call], initial: Hashable) -> None:
        self._grows = all(call.first >= 0 for call in calls if call.op == "increment")

    def moves(self, state: Hashable, waiting: Sequence[Call]) -> Moves:
        """Of increments that are alike the one that ends first stands for all."""
        assert isinstance(state, int)
        target = waiting[0]
        if target.op == "read" and target.result == state:
            return target.bit, ()
        absorbed = 0
        exact: dict[int, Call] = {}
        blind: dict[int, Call] = {}
        nearest = math.inf
        for call in waiting:
            amount = 0 if call.op == "read" else call.first
            if call.result is None:
                if amount:
                    blind.setdefault(amount, call)
                elif call.is_ok:
                    absorbed |= call.bit
                continue
            needed = call.result - amount
            if needed == state and not amount:
                absorbed |= call.bit
                continue
            if needed == state:
                exact.setdefault(amount, call)
            if call.is_ok and needed < nearest:
                nearest = needed
        if not self._grows:
            return absorbed, [*exact.values(), *blind.values()]
        if nearest < state:
            return NO_MOVES
        if forced := [call for call in exact.values() if call.is_ok]:
            return absorbed, forced
        changes = [*exact.values(), *blind.values()]
        return absorbed, [call for call in changes if state + call.first <= nearest]


class SetMover:
    """Moves of a set. Operations on different members meet in reads of the whole set only."""

    def __init__(self, calls: Sequence[Call], initial: Hashable) -> None:
        self._seen = {call.index: frozenset(call.result) for call in calls if call.op == "read" and call.is_ok}

    def moves(self, state: Hashable, waiting: Sequence[Call]) -> Moves:
        """The target's member, and for each read one member at a time.

        On the way to what a read saw the order of the members is free, so the first that differs goes first.
        """
        assert isinstance(state, frozenset)
        target = waiting[0]
        absorbed = 0
        changes: dict[object, list[Call]] = {}
        idle: dict[object, Call] = {}
        differences: list[frozenset[object]] = []
        for call in waiting:
            if call.op == "read":
                different = state ^ self._seen[call.index]
                if different:
                    differences.append(different)
                else:
                    absorbed |= call.bit
            elif call.op == "contains":
                if call.result is (call.first in state):
                    absorbed |= call.bit
            elif (call.first in state) is not (call.op == "remove"):
                if call.is_ok and call.result is False:
                    absorbed |= call.bit
                elif call.is_ok and call.result is None:
                    idle.setdefault(call.first, call)
            elif call.result is not False:
                alike = changes.setdefault(call.first, [])
                if not any(call.result is other.result for other in alike):
                    alike.append(call)
            if absorbed & target.bit:
                return absorbed, ()
        reachable = sorted((each for each in differences if each <= changes.keys()), key=len)
        members = []
        if target.op == "read":
            if differences[0] not in reachable:
                return absorbed, ()
        else:
            # A read that agrees about the target's member goes before it, or may not see that member so again.
            reachable = [each for each in reachable if target.first not in each]
            members = [target.first]
        reached = [next(member for member in changes if member in each) for each in reachable]
        members = [*dict.fromkeys(reached), *members]
        following = [call for member in members for call in changes.get(member, ())]
        return absorbed, following + [idle[member] for member in members if member in idle]


def _is_change(call: Call) -> bool:
    """Whether a cas may have changed something."""
    return call.result is not False and call.first != call.last


def _fits_unchanged(call: Call, state: Hashable) -> bool:
    """Whether a read or cas of a register may have been answered so in this state and left it as it is."""
    if call.op == "read":
        return bool(call.result == state)
    if call.op != "cas":
        return False
    return bool(call.first != state if call.result is False else call.first == call.last == state)


def _is_within_reach(state: Hashable, target: Call, waiting: Sequence[Call], changes: Sequence[Call]) -> bool:
    """Whether the changes may end in one after which the target is answered so, or which is the target."""
    if target in changes:
        return True
    if target.op == "cas" and target.result is False:
        return any(call.last != state for call in changes)
    wanted = {target.result if target.op == "read" else target.first}
    while not any(call.last in wanted for call in changes):
        earlier = {call.first for call in waiting if call.op == "cas" and call.last in wanted and _is_change(call)}
        if earlier <= wanted:
            return False
        wanted |= earlier
    return True


def _without_unseen(state: Hashable, waiting: Sequence[Call], changes: Sequence[Call]) -> list[Call]:
    """A change of unknown fate matters only when somebody sees its value, or that the value is another now."""
    answered = [call for call in waiting if call.is_ok and call.op != "write"]
    if any(call.op == "cas" and call.result is False and call.first == state for call in answered):
        return list(changes)
    seen = {call.result if call.op == "read" else call.first for call in answered}
    chain = [call for call in waiting if call.op == "cas" and not call.is_ok]
    while found := {call.first for call in chain if call.last in seen} - seen:
        seen |= found
    return [call for call in changes if call.is_ok or call.last in seen]


def _first_alike(calls: Sequence[Call]) -> list[Call]:
    """Of calls that do the same here the one that ends first: the others can do it in its place later."""
    firsts: dict[tuple[object, ...], Call] = {}
    for call in calls:
        firsts.setdefault((call.op, call.last), call)
    return list(firsts.values())
