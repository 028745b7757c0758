"""What a register, a counter and a set answer when operations come one after the other.

A model is pure: `step` takes a state and an operation and gives the state after it, or `REFUSED` when the operation
cannot have been answered so. Which orders are tried is moves.py's matter.
"""

from collections.abc import Hashable, Sequence
from itertools import chain, combinations
from typing import Final, Protocol

from noctule.verify.checkers.history import Operation
from noctule.verify.checkers.moves import CounterMover, Mover, RegisterMover, SetMover
from noctule.verify.checkers.timeline import Call

State = Hashable

REFUSED: Final = object()
"""No store in this state gives this answer."""

_ANSWERS_MAX = 40
_MEMBERS_CHOSEN_MAX = 4


class Model(Protocol):
    """A sequential specification of one key."""

    name: str
    initial: State
    pure: frozenset[str]
    """Operations that change nothing."""
    operations: frozenset[str]

    def problem(self, operation: Operation) -> str:
        """Why arguments or result are not of this model; empty when they are."""
        ...

    def step(self, state: State, operation: Operation) -> State:
        """The state after it, or `REFUSED`. A result of None is not compared, except a register's read."""
        ...

    def mover(self, calls: Sequence[Call], initial: State) -> Mover:
        """What may take effect next in a history that begins with this state; moves.py."""
        ...

    def may_remove(self, removed: Sequence[Operation], kept: Sequence[Operation]) -> bool:
        """Whether a history that can be explained can still be without `removed`: then `kept` proves what it shows."""
        ...

    def beginnings(self, operations: Sequence[Operation]) -> Sequence[State] | None:
        """States such that operations which none of them explains are explained by no state before; None when there
        are too many."""
        ...

    def answers(self, operations: Sequence[Operation], target: Operation) -> Sequence[object]:
        """Answers the target may have had instead, as far as one can list them; `operations` are those until then."""
        ...


class Register:
    """``read`` gives the value or null; ``write`` [value]; ``cas`` [old, new] gives whether it was old."""

    name = "register"
    initial: State = None
    pure = frozenset({"read"})
    operations = frozenset({"read", "write", "cas"})

    def problem(self, operation: Operation) -> str:
        """Values are JSON's scalars."""
        wanted = {"read": 0, "write": 1, "cas": 2}[operation.op]
        if len(operation.arguments) != wanted:
            return f"{operation.op} takes {wanted} arguments, not {len(operation.arguments)}"
        if not all(_is_scalar(value) for value in (*operation.arguments, operation.result)):
            return "values of a register are null, true, false, numbers or strings"
        if operation.op == "cas" and operation.outcome == "ok" and not isinstance(operation.result, bool):
            return "the result of cas is true or false"
        return ""

    def step(self, state: State, operation: Operation) -> State:
        """The value is the state."""
        if operation.op == "read":
            return state if operation.result == state else REFUSED
        if operation.op == "write":
            value: State = operation.arguments[0]
            return value
        old, new = operation.arguments
        matched = state == old
        if operation.result is not None and operation.result is not matched:
            return REFUSED
        return new if matched else state

    def mover(self, calls: Sequence[Call], initial: State) -> Mover:
        """Its moves."""
        return RegisterMover(calls, initial)

    def may_remove(self, removed: Sequence[Operation], kept: Sequence[Operation]) -> bool:
        """Changes whose values nobody kept has seen."""
        seen = _seen(kept)
        changes = [each for each in removed if each.op != "read" and each.result is not False]
        return not changes or (seen is not None and all(each.arguments[-1] not in seen for each in changes))

    def beginnings(self, operations: Sequence[Operation]) -> Sequence[State] | None:
        """Every value that is spoken of, and one that is none of these."""
        return [*dict.fromkeys(value for each in operations for value in (*each.arguments, each.result)), object()]

    def answers(self, operations: Sequence[Operation], target: Operation) -> Sequence[object]:
        """What was written last, or at the same time, or by somebody of whom nothing was heard."""
        if target.op == "cas":
            return [not target.result]
        written = [each for each in operations if each.op != "read" and each.result is not False]
        before = sorted((each for each in written if _ended_before(each, target)), key=lambda each: each.end or 0.0)
        near = [each for each in written if not _ended_before(each, target)]
        values = [each.arguments[-1] for each in (*before[-_ANSWERS_MAX:], *near[-_ANSWERS_MAX:])]
        return list(dict.fromkeys([*values, None]))


class Counter:
    """``increment`` [amount] gives the new value or null; ``read`` gives the value. It begins at 0."""

    name = "counter"
    initial: State = 0
    pure = frozenset({"read"})
    operations = frozenset({"read", "increment"})

    def problem(self, operation: Operation) -> str:
        """Whole numbers everywhere."""
        wanted = 1 if operation.op == "increment" else 0
        if len(operation.arguments) != wanted or not all(_is_whole(value) for value in operation.arguments):
            return f"{operation.op} of a counter takes {wanted or 'no'} whole number"
        may_be_null = operation.outcome != "ok" or operation.op == "increment"
        if not (_is_whole(operation.result) or (operation.result is None and may_be_null)):
            return f"the result of {operation.op} is a whole number"
        return ""

    def step(self, state: State, operation: Operation) -> State:
        """The value is the state."""
        assert isinstance(state, int)
        value: int = state + operation.arguments[0] if operation.op == "increment" else state
        return value if operation.result is None or operation.result == value else REFUSED

    def mover(self, calls: Sequence[Call], initial: State) -> Mover:
        """Its moves."""
        return CounterMover(calls, initial)

    def may_remove(self, removed: Sequence[Operation], kept: Sequence[Operation]) -> bool:
        """Reads only: every value depends on all increments before."""
        return all(each.op in self.pure for each in removed)

    def beginnings(self, operations: Sequence[Operation]) -> Sequence[State] | None:
        """Those from which every answer is within reach."""
        amounts = [each.arguments[0] for each in operations if each.op == "increment"]
        most, least = (sum(each for each in amounts if (each > 0) is up) for up in (True, False))
        seen = [
            each.result - sum(each.arguments) for each in operations if each.outcome == "ok" and each.result is not None
        ]
        if not seen:
            return None
        within_reach = range(max(seen) - most, min(seen) - least + 1)
        return within_reach if len(within_reach) <= _ANSWERS_MAX else None

    def answers(self, operations: Sequence[Operation], target: Operation) -> Sequence[object]:
        """From all increments that had ended to all that had begun."""
        least = most = sum(target.arguments)
        for each in operations:
            if each.op == "increment" and each is not target:
                amount = each.arguments[0]
                is_certain = _ended_before(each, target)
                least += amount if is_certain or amount < 0 else 0
                most += amount if is_certain or amount > 0 else 0
        return range(least, most + 1)[:_ANSWERS_MAX]


class Set:
    """``add`` and ``remove`` [member] give whether they changed it or null; ``contains`` [member]; ``read``: all."""

    name = "set"
    initial: State = frozenset()
    pure = frozenset({"read", "contains"})
    operations = frozenset({"add", "remove", "contains", "read"})

    def problem(self, operation: Operation) -> str:
        """Members are JSON's scalars."""
        wanted = 0 if operation.op == "read" else 1
        if len(operation.arguments) != wanted or not all(_is_scalar(value) for value in operation.arguments):
            return f"{operation.op} of a set takes {wanted or 'no'} member"
        if operation.outcome != "ok":
            return ""
        if operation.op == "read":
            if not isinstance(operation.result, list) or not all(_is_scalar(value) for value in operation.result):
                return "the result of read is a list of members"
        elif not isinstance(operation.result, bool) and (operation.result is not None or operation.op == "contains"):
            return f"the result of {operation.op} is true or false"
        return ""

    def step(self, state: State, operation: Operation) -> State:
        """The state is a frozen set."""
        assert isinstance(state, frozenset)
        if operation.op == "read":
            return state if state == set(operation.result) else REFUSED
        member = operation.arguments[0]
        present = member in state
        if operation.op == "contains":
            return state if operation.result is present else REFUSED
        changes = present is (operation.op == "remove")
        if operation.result is not None and operation.result is not changes:
            return REFUSED
        if not changes:
            return state
        return state | {member} if operation.op == "add" else state - {member}

    def mover(self, calls: Sequence[Call], initial: State) -> Mover:
        """Its moves."""
        return SetMover(calls, initial)

    def may_remove(self, removed: Sequence[Operation], kept: Sequence[Operation]) -> bool:
        """What changes nothing or did not, and every change of a member that nothing kept speaks of."""
        changed = {each.arguments[0] for each in removed if each.op not in self.pure and each.result is not False}
        if not changed:
            return True
        return not any(each.op == "read" or each.arguments[0] in changed for each in kept)

    def beginnings(self, operations: Sequence[Operation]) -> Sequence[State] | None:
        """Every choice of a few members."""
        members = {each.arguments[0] for each in operations if each.op != "read"}
        members.update(*(each.result for each in operations if each.op == "read"))
        if len(members) > _MEMBERS_CHOSEN_MAX:
            return None
        choices = (combinations(members, count) for count in range(len(members) + 1))
        return [frozenset(chosen) for chosen in chain.from_iterable(choices)]

    def answers(self, operations: Sequence[Operation], target: Operation) -> Sequence[object]:
        """The opposite; whole sets are not listed."""
        return [not target.result] if target.op != "read" else []


REGISTER, COUNTER, SET = Register(), Counter(), Set()


def _seen(operations: Sequence[Operation]) -> set[State] | None:
    """The values that somebody saw or may have seen; None when one saw only what the value was not."""
    seen: set[State] = set()
    for each in operations:
        if each.op == "read":
            seen.add(each.result)
        elif each.op == "cas":
            if each.result is False:
                return None
            seen.add(each.arguments[0])
    return seen


def _ended_before(operation: Operation, other: Operation) -> bool:
    return operation.outcome == "ok" and operation.end is not None and operation.end < other.start


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
