"""A short part of a history that is wrong by itself, and what is wrong with it.

Not every part of a wrong history proves it wrong: without its write, a correct read looks invented. An operation is
left out only where a history that can be explained can still be without it; models.py says when.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence

import msgspec

from noctule.verify.checkers.explain import explain
from noctule.verify.checkers.history import Operation
from noctule.verify.checkers.linearizable import Budget, Finding, in_order, look_for_order
from noctule.verify.checkers.models import COUNTER, SET, Model, State
from noctule.verify.checkers.violation import ANY_STATE, Violation, value_text

WORK_MAX = 2_000_000
"""How much of a `Budget` goes into one violation: some seconds. What is left then is shown, longer than it could be."""

SHORT_ENOUGH = 5
"""A longer part begins at a later moment instead of at an untouched key, if it is wrong all the same."""

STEPS_BACK_MAX = 40
"""How many moments before the offending answer are tried one by one; those before by doubling."""


def shrink(model: Model, operations: Sequence[Operation], failed: Sequence[Operation] = ()) -> Violation:
    """The violation in the operations of one key, as `in_order` gives them; one must be there.

    `failed` are those on this key that failed, for the explanation.
    """
    budget = Budget(WORK_MAX + len(operations))
    history = _until_first_wrong(model, operations, budget)
    if model is SET:
        history = _of_one_member(history, budget)
    offending = _last_answered(history)
    # What a counter is depends on all increments ever, so little of it can be left out from the beginning.
    part, initial, earlier = history, "", 0
    if model is not COUNTER or len(history) <= SHORT_ENOUGH:
        part = _without_needless(model, history, offending, _untouched(model), budget)
    if len(part) > SHORT_ENOUGH:
        shorter, since, began_before = _since_later(model, history, offending, budget)
        if len(shorter) < len(part):
            part, initial, earlier = shorter, since, began_before
    explanation = explain(model, history, offending, failed, Budget(WORK_MAX))
    if earlier:
        earlier += sum(each.start < part[earlier - 1].start for each in explanation.failed)
    return Violation(
        kind="not-linearizable",
        key=offending.key or "",
        explanation=explanation.sentence,
        operations=tuple(sorted([*part, *explanation.failed], key=lambda each: each.start)),
        offending=offending,
        initial=initial,
        earlier=earlier,
    )


_Beginnings = Callable[[Sequence[Operation]], Sequence[State] | None]
"""The states that may have been before some operations; None when they cannot be listed."""


def _is_wrong(model: Model, operations: Sequence[Operation], beginnings: _Beginnings, budget: Budget) -> bool:
    """Whether no order explains the operations, whichever of the states was before them."""
    initials = beginnings(operations)
    return initials is not None and all(
        look_for_order(model, operations, budget, initial) is Finding.VIOLATED for initial in initials
    )


def _untouched(model: Model) -> _Beginnings:
    return lambda _: [model.initial]


def _until_first_wrong(model: Model, operations: Sequence[Operation], budget: Budget) -> list[Operation]:
    """The history until the first answer that no order explains; a longer one is as wrong, so halving finds it."""
    answered = sorted((each for each in operations if each.outcome == "ok"), key=_end)

    def is_wrong(number: int) -> bool:
        return _is_wrong(model, _until(model, operations, answered[number]), _untouched(model), budget)

    first = bisect_left(range(len(answered) - 1), True, key=is_wrong)
    return _until(model, operations, answered[first])


def _until(model: Model, operations: Sequence[Operation], last: Operation) -> list[Operation]:
    """The history as it was when the last answer came; what had none yet may have taken effect, with its answer, or
    not."""
    part = []
    for each in operations:
        if each.start > _end(last):
            break
        if each.outcome == "ok" and _end(each) > _end(last):
            each = msgspec.structs.replace(each, outcome="unknown", end=None)
        part.append(each)
    return in_order(model, part)


def _last_answered(operations: Sequence[Operation]) -> Operation:
    return max((each for each in operations if each.outcome == "ok"), key=_end)


def _of_one_member(operations: list[Operation], budget: Budget) -> list[Operation]:
    """A set is wrong already if what its history says of one member is; reads become ``contains``."""
    last = _last_answered(operations)
    speaking = operations if last.op == "read" else [last]
    members = {member for each in speaking for member in (*each.arguments, *(each.result if each.op == "read" else ()))}
    for member in sorted(members, key=repr):
        part = [
            each
            if each.op != "read"
            else msgspec.structs.replace(each, op="contains", arguments=(member,), result=member in each.result)
            for each in operations
            if each.op == "read" or each.arguments[0] == member
        ]
        if _is_wrong(SET, part, _untouched(SET), budget):
            return part
    return operations


def _since_later(
    model: Model, history: list[Operation], offending: Operation, budget: Budget
) -> tuple[list[Operation], str, int]:
    """The operations since the latest moment that still shows them wrong, what the state was then, and how many of
    them began before."""
    ways = [_since_any_state, _since_known_sum] if model is COUNTER else [_since_any_state]
    starts = [each.start for each in history if each.start <= offending.start]
    back = [*range(1, STEPS_BACK_MAX), *(STEPS_BACK_MAX << power for power in range(len(starts).bit_length()))]
    moments = [starts[-count] for count in back if count <= len(starts)]
    for way in ways:
        for since in moments:
            shorter, beginnings = way(model, history, since)
            if not _is_wrong(model, shorter, beginnings, budget):
                continue
            shorter = _without_needless(model, shorter, offending, beginnings, budget)
            if way is _since_known_sum:
                return shorter, value_text((beginnings(shorter) or [0])[0]), 0
            # As they were, for a person; for the search those that began before were of unknown outcome.
            shown = {(each.start, each.process) for each in shorter}
            shorter = [each for each in history if (each.start, each.process) in shown]
            return shorter, ANY_STATE, sum(each.start < since for each in shorter)
    return history, "", 0


def _since_any_state(model: Model, part: Sequence[Operation], since: float) -> tuple[list[Operation], _Beginnings]:
    """Without all that had ended; what was pending may take effect yet, or may have. No state explains it if wrong."""
    kept = [
        each if each.outcome != "ok" or each.start >= since else msgspec.structs.replace(each, outcome="unknown")
        for each in part
        if each.outcome != "ok" or _end(each) >= since
    ]
    return in_order(model, kept), model.beginnings


def _since_known_sum(model: Model, part: Sequence[Operation], since: float) -> tuple[list[Operation], _Beginnings]:
    """A counter begins with the sum of what had ended; what was pending adds to it, and tells nothing of it."""
    changes = [each for each in part if each.op not in model.pure]
    ended = [each for each in changes if each.outcome == "ok" and _end(each) < since]
    pending = [each for each in changes if each.start < since and not (each.outcome == "ok" and _end(each) < since)]
    begun = [each for each in part if each.start >= since]
    silent = [msgspec.structs.replace(each, result=None) for each in pending]
    known = [sum(each.arguments[0] for each in ended)]
    return [*silent, *begun], lambda _: known


def _without_needless(
    model: Model, operations: list[Operation], offending: Operation, beginnings: _Beginnings, budget: Budget
) -> list[Operation]:
    """Leave out ever smaller runs of operations, while what remains is still wrong.

    First what only saw something: it can always go, and with it the reason to keep a change. Then the latest first, as
    a change is seen by later ones.
    """
    for may_change in (False, True):
        candidates = [
            each
            for each in reversed(operations)
            if each is not offending and (may_change or each.op in model.pure or each.result is False)
        ]
        size = len(candidates)
        while size and budget.left > 0:
            at = 0
            while at < len(candidates):
                removed = candidates[at : at + size]
                names = {id(each) for each in removed}
                kept = [each for each in operations if id(each) not in names]
                if model.may_remove(removed, kept) and _is_wrong(model, kept, beginnings, budget):
                    operations = kept
                    del candidates[at : at + size]
                else:
                    at += size
            size //= 2
    return operations


def _end(operation: Operation) -> float:
    assert operation.end is not None
    return operation.end
