"""What a register, a counter and a set answer when operations come one after the other.

A model is pure: `step` takes a state and an operation and gives the state after it, or `REFUSED` when the operation
cannot have been answered so. Which orders are tried is linearizable.py's matter.
"""

from collections.abc import Hashable, Sequence
from typing import Final, Protocol

from noctule.verify.checkers.history import Operation

State = Hashable

REFUSED: Final = object()
"""No store in this state gives this answer."""


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

    def useful(self, state: State, target: Operation, pending: Sequence[Operation]) -> Sequence[bool]:
        """For each pending operation, whether it may have to take effect before `target` does.

        False only when every order that has it there can do with it later. That keeps operations of unknown outcome,
        which are pending for ever, from doubling the search each.
        """
        ...

    def may_remove(self, removed: Sequence[Operation], kept: Sequence[Operation]) -> bool:
        """Whether a history that can be explained can still be without `removed`: then `kept` proves what it shows."""
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

    def useful(self, state: State, target: Operation, pending: Sequence[Operation]) -> Sequence[bool]:
        """A change of unknown fate matters only when somebody sees its value, or that the value is another now."""
        if all(each.outcome == "ok" for each in pending):
            return [True] * len(pending)
        answered = [target, *(each for each in pending if each.outcome == "ok")]
        if any(each.op == "cas" and each.result is False and each.arguments[0] == state for each in answered):
            return _first_alike(pending)
        seen = {each.result if each.op == "read" else each.arguments[0] for each in answered if each.op != "write"}
        chain = [each for each in pending if each.op == "cas" and each.outcome != "ok"]
        while found := {each.arguments[0] for each in chain if each.arguments[1] in seen} - seen:
            seen |= found
        return [
            first and (each.outcome == "ok" or each.arguments[-1] in seen)
            for each, first in zip(pending, _first_alike(pending), strict=True)
        ]

    def may_remove(self, removed: Sequence[Operation], kept: Sequence[Operation]) -> bool:
        """Changes whose values nobody kept has seen."""
        seen = _seen(kept)
        changes = [each for each in removed if each.op != "read" and each.result is not False]
        return not changes or (seen is not None and all(each.arguments[-1] not in seen for each in changes))


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

    def useful(self, state: State, target: Operation, pending: Sequence[Operation]) -> Sequence[bool]:
        """Any increment changes what all others are answered."""
        return _first_alike(pending)

    def may_remove(self, removed: Sequence[Operation], kept: Sequence[Operation]) -> bool:
        """Reads only: every value depends on all increments before."""
        return all(each.op in self.pure for each in removed)


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

    def useful(self, state: State, target: Operation, pending: Sequence[Operation]) -> Sequence[bool]:
        """Operations on different members commute: the target's member, and for each read one member at a time.

        On the way to what a read saw the order of the members is free, so the first that differs goes first.
        """
        assert isinstance(state, frozenset)
        wanted: set[object] = set() if target.op == "read" else {target.arguments[0]}
        changeable = dict.fromkeys(each.arguments[0] for each in pending if each.op not in self.pure)
        for each in (target, *pending):
            if each.op == "read":
                different = state ^ set(each.result)
                if different <= changeable.keys():
                    wanted.update([member for member in changeable if member in different][:1])
        return [
            first and (each.op == "read" or each.arguments[0] in wanted)
            for each, first in zip(pending, _first_alike(pending), strict=True)
        ]

    def may_remove(self, removed: Sequence[Operation], kept: Sequence[Operation]) -> bool:
        """What changes nothing, and every change of a member that nothing kept speaks of."""
        changed = {each.arguments[0] for each in removed if each.op not in self.pure}
        if not changed:
            return True
        return not any(each.op == "read" or each.arguments[0] in changed for each in kept)


REGISTER, COUNTER, SET = Register(), Counter(), Set()


def _first_alike(pending: Sequence[Operation]) -> list[bool]:
    """False for a repetition: of equal operations of unknown fate, which never end, the first stands for all."""
    met: set[tuple[object, ...]] = set()
    answer = []
    for each in pending:
        if each.outcome == "ok":
            answer.append(True)
            continue
        alike = (each.op, each.arguments, each.result)
        answer.append(alike not in met)
        met.add(alike)
    return answer


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


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
