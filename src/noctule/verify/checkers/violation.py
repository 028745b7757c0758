"""What a checker found wrong, for a person and for a program."""

from dataclasses import dataclass

import msgspec

from noctule.verify.checkers.history import Operation

ANY_STATE = "any"
"""The beginning of a part that no state before it explains."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that no correct store would have answered."""

    kind: str
    """One of the names in docs/reference/history.md, such as ``not-linearizable``."""
    key: str
    explanation: str
    """One sentence."""
    operations: tuple[Operation, ...]
    """A part of the history that shows it alone, by start; as short as could be found."""
    offending: Operation
    """The one of them whose answer cannot be."""
    initial: str = ""
    """The state before them as text, where the part does not begin with an untouched key; or `ANY_STATE`."""
    earlier: int = 0
    """How many of the operations, the first ones, began before that: they may have taken effect before it or after."""


def begins(violation: Violation) -> str:
    """What the key was before the part that is shown, as a sentence; empty when it was untouched."""
    if violation.initial == ANY_STATE:
        first = {0: "", 1: "; the first operation may be part of that"}.get(
            violation.earlier, f"; the first {violation.earlier} operations may be part of that"
        )
        return f"Whatever the key was before, this cannot be{first}."
    return f"The key begins as {violation.initial}." if violation.initial else ""


def text_of(operation: Operation) -> str:
    """An operation in one line, as in ``write(1)`` or ``read → null``; "later" when answered after what is shown."""
    if operation.op == "txn":
        return _text_of_transaction(operation)
    arguments = ", ".join(_json(argument) for argument in operation.arguments)
    call = f"{operation.op}({arguments})" if arguments else operation.op
    if operation.outcome == "unknown":
        return f"{call} → ?" if operation.result is None else f"{call} → {_json(operation.result)} later"
    if operation.outcome == "fail":
        return f"{call} → failed"
    return f"{call} → {_json(operation.result)}" if operation.result is not None or operation.op == "read" else call


def _text_of_transaction(operation: Operation) -> str:
    """Its parts, each with its answer."""
    answers = operation.result if operation.outcome == "ok" else [None] * len(operation.arguments)
    parts = []
    for (op, *arguments), answer in zip(operation.arguments, answers, strict=True):
        call = f"{op}({', '.join(_json(argument) for argument in arguments)})"
        parts.append(call if answer is None else f"{call} → {_json(answer)}")
    end = {"ok": "", "unknown": " → ?", "fail": " → failed"}[operation.outcome]
    return "; ".join(parts) + end


def value_text(value: object) -> str:
    """A state as text; a set as a list in order."""
    if isinstance(value, frozenset):
        return _json(sorted(value, key=repr))
    return _json(value)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
