"""Why an answer cannot be, in a sentence for a person: what could have been answered, and which fault would do this.

A fault is tried by making its history: if that can be explained, a store with this fault could have answered so. It is
a hint, since several faults may look alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from noctule.verify.checkers.history import Operation
from noctule.verify.checkers.linearizable import Budget, Finding, in_order, look_for_order
from noctule.verify.checkers.models import REGISTER, Model
from noctule.verify.checkers.violation import text_of, value_text

ANSWERS_TOLD_MAX = 5
FAULTS_TOLD_MAX = 2
SUSPECTS_MAX = 10
"""How many operations are tried for each fault: those that began last."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is wrong with an answer."""

    sentence: str
    failed: tuple[Operation, ...]
    """Operations that failed and seem to have taken effect; they are no part of what shows the violation."""


def explain(
    model: Model, history: Sequence[Operation], offending: Operation, failed: Sequence[Operation], budget: Budget
) -> Explanation:
    """What is wrong with the last answer of a history of one key that is explained without it.

    `failed` are the operations on this key that failed, in any order.
    """
    sentence = f"process {offending.process} was answered {text_of(offending)}"
    answers = _possible_answers(model, history, offending, budget)
    if answers:
        more = " or another" if len(answers) > ANSWERS_TOLD_MAX else ""
        sentence += f", but only {' or '.join(answers[:ANSWERS_TOLD_MAX])}{more} was possible"
    else:
        sentence += ", which no order of the operations explains"
    if model is REGISTER and not _was_written([*history, *failed], offending):
        return Explanation(f"{sentence}; nobody had written the value", ())
    faults: list[str] = []
    guilty: list[Operation] = []
    for fault, suspect, other_history in _faults(model, history, offending, failed):
        if look_for_order(model, in_order(model, other_history), budget) is Finding.LINEARIZABLE:
            faults.append(fault)
            # That something failed and was seen says all.
            if suspect.outcome == "fail":
                guilty.append(suspect)
                break
            if len(faults) == FAULTS_TOLD_MAX:
                break
    if faults:
        sentence += f"; it is as if {', or '.join(faults)}"
    return Explanation(sentence, tuple(guilty))


def _was_written(operations: Sequence[Operation], offending: Operation) -> bool:
    """Whether somebody tried to write what a read or cas has seen; null is there in the beginning."""
    seen = offending.arguments[0] if offending.arguments else offending.result
    return seen is None or any(
        each.op != "read" and each.result is not False and each.arguments[-1] == seen and each is not offending
        for each in operations
    )


def _possible_answers(model: Model, history: Sequence[Operation], offending: Operation, budget: Budget) -> list[str]:
    possible = []
    for answer in model.answers(history, offending):
        other = msgspec.structs.replace(offending, result=answer)
        instead = [other if each is offending else each for each in history]
        if look_for_order(model, instead, budget) is Finding.LINEARIZABLE:
            possible.append(value_text(answer))
    return possible


def _faults(
    model: Model, history: Sequence[Operation], offending: Operation, failed: Sequence[Operation]
) -> Iterator[tuple[str, Operation, list[Operation]]]:
    """Each fault that is looked for: in words, the operation that suffered it, and the history it would have made."""
    replace = msgspec.structs.replace
    begun = [each for each in failed if each.start <= offending.start and each.op not in model.pure]
    for each in begun[-SUSPECTS_MAX:]:
        fault = f"{_name(each)} had taken effect, which failed"
        yield fault, each, [*history, replace(each, outcome="unknown", result=None)]
    if offending.op in model.pure:
        stale = replace(offending, start=min(each.start for each in history))
        yield "it had seen an earlier state", offending, [*_without(history, offending), stale]
    changes = [
        each for each in history if each.op not in model.pure and each.result is not False and each is not offending
    ]
    for each in changes[: -SUSPECTS_MAX - 1 : -1]:
        yield f"{_name(each)} had taken effect twice", each, [*history, replace(each, outcome="unknown", result=None)]
    answered = [each for each in changes if each.outcome == "ok"]
    for each in answered[: -SUSPECTS_MAX - 1 : -1]:
        yield f"{_name(each)} had been lost", each, _without(history, each)
    for each in answered[: -SUSPECTS_MAX - 1 : -1]:
        late = replace(each, end=offending.end)
        yield f"{_name(each)} had taken effect after its answer", each, [*_without(history, each), late]


def _without(history: Sequence[Operation], operation: Operation) -> list[Operation]:
    return [each for each in history if each is not operation]


def _name(operation: Operation) -> str:
    return f"{text_of(msgspec.structs.replace(operation, outcome='ok', result=None))} of process {operation.process}"
