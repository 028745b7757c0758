"""A short part of a history that is wrong by itself.

Not every part of a wrong history proves it wrong: without its write, a correct read looks invented. An operation is
left out only where a history that can be explained can still be without it; models.py says when.
"""

from collections.abc import Sequence

import msgspec

from noctule.verify.checkers.history import Operation
from noctule.verify.checkers.linearizable import Unexplained, find_unexplained, in_order
from noctule.verify.checkers.models import SET, Model, State
from noctule.verify.checkers.violation import Violation, text_of, value_text

WALKED_OPERATIONS_MAX = 3_000_000
"""How much work goes into one violation: some seconds. What is left then is shown, longer than it could be."""

SHORT_ENOUGH = 8
"""A longer part begins at the latest moment with one possible state instead of at an untouched key."""


def shrink(model: Model, operations: Sequence[Operation]) -> Violation:
    """The violation in the operations of one key, as `in_order` gives them; one must be there."""
    found = _unexplained(model, operations, None)
    target = operations[found.index]
    part = _until(model, operations, target)
    if model is SET:
        part = _of_one_member(part, target, found.states)
    part = _Shrinking(model, None).run(part)
    initial: State = None
    if len(part) > SHORT_ENOUGH:
        part, initial = _since_checkpoint(model, part)
    found = _unexplained(model, part, initial)
    offending = part[found.index]
    states = " or ".join(value_text(state) for state in found.states)
    return Violation(
        kind="not-linearizable",
        key=offending.key or "",
        explanation=(
            f"process {offending.process} was answered {text_of(offending)}, which no order of operations explains: "
            f"what was answered before leaves the {model.name} as {states}"
        ),
        operations=tuple(part),
        offending=offending,
        initial="" if initial is None else value_text(initial),
    )


def _unexplained(model: Model, operations: Sequence[Operation], initial: State) -> Unexplained:
    found = find_unexplained(model, operations, initial, wants_checkpoints=True)
    assert found is not None, "a part is kept only while it is wrong"
    return found


def _until(model: Model, operations: Sequence[Operation], offending: Operation) -> list[Operation]:
    """The history as it was when the offending answer came; what had none yet may have taken effect, with its
    answer, or not."""
    assert offending.end is not None
    part = []
    for each in operations:
        if each.start > offending.end:
            break
        if each.outcome == "ok" and each.end is not None and each.end > offending.end:
            each = msgspec.structs.replace(each, outcome="unknown", end=None)
        part.append(each)
    return in_order(model, part)


def _of_one_member(operations: list[Operation], target: Operation, states: Sequence[State]) -> list[Operation]:
    """A set is wrong already if what its history says of one member is; reads become ``contains``."""
    members = set(target.arguments)
    if target.op == "read":
        for state in states:
            assert isinstance(state, frozenset)
            members |= state ^ set(target.result)
    for member in sorted(members, key=repr):
        part = [
            each
            if each.op != "read"
            else msgspec.structs.replace(each, op="contains", arguments=(member,), result=member in each.result)
            for each in operations
            if each.op == "read" or each.arguments[0] == member
        ]
        if find_unexplained(SET, part) is not None:
            return part
    return operations


def _since_checkpoint(model: Model, operations: list[Operation]) -> tuple[list[Operation], State]:
    """The operations since a moment with one possible state, a few before the offending one."""
    found = _unexplained(model, operations, None)
    context = SHORT_ENOUGH // 2
    fitting = [each for each in found.checkpoints if found.index - each.index >= context]
    if not fitting:
        return operations, None
    latest = fitting[-1]
    part = [*latest.open, *operations[latest.index : found.index + 1]]
    shorter = _Shrinking(model, latest.state)
    return (shorter.run(part), latest.state) if shorter.is_wrong(part) else (operations, None)


class _Shrinking:
    """Leaves out ever smaller runs of operations, while what remains is still wrong."""

    def __init__(self, model: Model, initial: State) -> None:
        self._model = model
        self._initial = initial
        self._walked = 0

    def is_wrong(self, operations: Sequence[Operation]) -> bool:
        self._walked += len(operations)
        return find_unexplained(self._model, operations, self._initial) is not None

    def run(self, operations: list[Operation]) -> list[Operation]:
        """Reads first: they can always go, and with them the reason to keep a change."""
        pure = self._model.pure
        without_reads = self._pass(operations, [each for each in operations if each.op in pure])
        return self._pass(without_reads, without_reads)

    def _pass(self, operations: list[Operation], candidates: list[Operation]) -> list[Operation]:
        size = len(candidates)
        while size and self._walked < WALKED_OPERATIONS_MAX:
            at = 0
            while at < len(candidates) and self._walked < WALKED_OPERATIONS_MAX:
                removed = candidates[at : at + size]
                names = {id(each) for each in removed}
                kept = [each for each in operations if id(each) not in names]
                self._walked += len(operations)
                if self._model.may_remove(removed, kept) and self.is_wrong(kept):
                    operations = kept
                    candidates = candidates[:at] + candidates[at + size :]
                else:
                    at += size
            size //= 2
        return operations
