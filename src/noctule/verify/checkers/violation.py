"""What a checker found wrong, for a person and for a program."""

from dataclasses import dataclass

import msgspec

from noctule.verify.checkers.history import Operation


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
    """The state before them as text, where the part does not begin with an untouched key."""


def text_of(operation: Operation) -> str:
    """An operation in one line, as in ``write(1)`` or ``read → null``; "later" when answered after what is shown."""
    arguments = ", ".join(_json(argument) for argument in operation.arguments)
    call = f"{operation.op}({arguments})" if arguments else operation.op
    if operation.outcome == "unknown":
        return f"{call} → ?" if operation.result is None else f"{call} → {_json(operation.result)} later"
    if operation.outcome == "fail":
        return f"{call} → failed"
    return f"{call} → {_json(operation.result)}" if operation.result is not None or operation.op == "read" else call


def value_text(value: object) -> str:
    """A state as text; a set as a list in order."""
    if isinstance(value, frozenset):
        return _json(sorted(value, key=repr))
    return _json(value)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
