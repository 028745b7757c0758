"""The history format: JSON lines, one operation a line; docs/reference/history.md describes it for people.

Here it is read, checked and recorded. What operations mean is in models.py and list_append.py.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from noctule.base.bounds import HTTP_BODY_BYTES_MAX
from noctule.base.errors import ConfigError

LINE_BYTES_MAX = HTTP_BODY_BYTES_MAX
"""A longer line is not a history."""

Outcome = Literal["ok", "fail", "unknown"]


class Operation(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One operation of one client: a line of a history."""

    process: int | str
    """Who did it; a row of the picture. Order comes from the times alone."""
    op: str
    """Its name in the model, such as ``read``."""
    start: float
    """When it was sent, in seconds of a clock that all processes share."""
    outcome: Outcome
    """``ok``: took effect between start and end. ``fail``: never did. ``unknown``: once after start, or never."""
    key: str | None = None
    """None for a transaction only."""
    arguments: tuple[Any, ...] = ()
    result: Any = None
    """What was answered; None where nothing was, or where the answer is not to be checked."""
    end: float | None = None
    """When the answer came. Ignored unless ok."""


def load_history(path: Path) -> list[Operation]:
    """Every operation of a file, in its order; empty lines are skipped.

    `ConfigError` names the file, and the first line that is not an operation.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the history {path}: {error.strerror}") from error
    try:
        operations = msgspec.json.Decoder(Operation).decode_lines(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        operations = _decode_slowly(path, data)
    for number, operation in enumerate(operations):
        problem = problem_of(operation)
        if problem:
            line = _line_of(data, number)
            raise ConfigError(f"history {path} line {line}: {problem}")
    return operations


def write_history(path: Path, operations: Iterable[Operation]) -> None:
    """Write a history that `load_history` reads. `ConfigError` when the file cannot be written."""
    try:
        path.write_bytes(msgspec.json.Encoder().encode_lines(operations))
    except OSError as error:
        raise ConfigError(f"cannot write the history {path}: {error.strerror}") from error


def problem_of(operation: Operation) -> str:
    """What is wrong with the times or the outcome of an operation; empty when nothing is."""
    start, end = operation.start, operation.end
    if operation.outcome == "ok":
        if end is None:
            return "an operation that is ok needs its end"
        if end < start:
            return f"it ends at {end}, before its start {start}"
    elif operation.outcome == "unknown" and operation.result is not None:
        return "an operation of unknown outcome has no result"
    if not math.isfinite(start):
        return f"start {start} is not a time"
    return ""


class Recorder:
    """Gathers the history of running clients. What was begun and never ended is of unknown outcome."""

    def __init__(self) -> None:
        self._operations: list[Operation] = []

    def begin(self, process: int | str, key: str | None, op: str, arguments: Sequence[Any], start: float) -> int:
        """An operation is about to be sent; the number to end it with."""
        self._operations.append(Operation(process, op, start, "unknown", key, tuple(arguments)))
        return len(self._operations) - 1

    def end(self, number: int, outcome: Outcome, end: float, result: object = None) -> None:
        """It ended; the result counts only when it is ok."""
        begun = self._operations[number]
        known = result if outcome == "ok" else None
        self._operations[number] = msgspec.structs.replace(begun, outcome=outcome, end=end, result=known)

    def operations(self) -> list[Operation]:
        """All so far, in the order in which they began."""
        return list(self._operations)


def _decode_slowly(path: Path, data: bytes) -> list[Operation]:
    """Line by line, to name the line that is wrong."""
    decoder = msgspec.json.Decoder(Operation)
    operations = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        if len(line) > LINE_BYTES_MAX:
            raise ConfigError(f"history {path} line {number}: longer than {LINE_BYTES_MAX} bytes")
        try:
            operations.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"history {path} line {number}: {error}") from error
    return operations


def _line_of(data: bytes, number: int) -> int:
    """The line, from 1, of the operation with an index."""
    filled = (line for line, text in enumerate(data.split(b"\n"), start=1) if text.strip())
    return next(line for index, line in enumerate(filled) if index == number)
