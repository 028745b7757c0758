"""The operations on one key as the search meets them: who is pending at each answer.

Only the order of starts and ends counts here; what operations mean is in models.py.
"""

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec

from noctule.verify.checkers.history import Operation


class Call(msgspec.Struct, gc=False, eq=False):
    """An operation as the search sees it; flat, because it is looked at some hundred times."""

    operation: Operation
    index: int
    """Its place among the operations, which are in order of their starts."""
    bit: int
    """Which bit of a configuration's mask says that it took effect already; used again once it is answered."""
    op: str
    first: Any
    """Its first argument; None when it has none."""
    last: Any
    """Its last argument, which may be the first; None when it has none."""
    result: Any
    start: float
    end: float
    """Infinite when the outcome is unknown."""
    is_ok: bool
    """It took effect before its end. Otherwise it may have, or may never."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The answers in order of time, and what is pending when each comes."""

    calls: list[Call]
    moments: list[tuple[Call, ...]]
    """For each answer the pending operations that will be answered, by their ends: the first is the one answered."""
    open_calls: list[Call]
    """Those of unknown outcome, by their starts; once begun they are pending for ever."""
    open_counts: list[int]
    """For each answer how many of these had begun."""
    unknown_mask: int
    """The bits of `open_calls`."""


def timeline_of(operations: Sequence[Operation]) -> Timeline:
    """The timeline of operations by start; none of them failed."""
    calls: list[Call] = []
    moments: list[tuple[Call, ...]] = []
    open_calls: list[Call] = []
    open_counts: list[int] = []
    pending: list[Call] = []
    free: list[int] = []
    open_bit = 1
    next_bit = 1 << sum(each.outcome != "ok" for each in operations)
    unknown_mask = next_bit - 1
    for index, operation in enumerate(operations):
        start = operation.start
        # Equal times are no order: an operation precedes another only when it ended before that began.
        while pending and pending[0].end < start:
            moments.append(tuple(pending))
            open_counts.append(len(open_calls))
            free.append(pending.pop(0).bit)
        arguments = operation.arguments
        first, last = (arguments[0], arguments[-1]) if arguments else (None, None)
        is_ok = operation.outcome == "ok"
        end = operation.end if is_ok and operation.end is not None else math.inf
        if not is_ok:
            bit, open_bit = open_bit, open_bit << 1
        elif free:
            bit = free.pop()
        else:
            bit, next_bit = next_bit, next_bit << 1
        call = Call(operation, index, bit, operation.op, first, last, operation.result, start, end, is_ok)
        calls.append(call)
        if is_ok:
            insort(pending, call, key=_END)
        else:
            open_calls.append(call)
    while pending:
        moments.append(tuple(pending))
        open_counts.append(len(open_calls))
        del pending[0]
    return Timeline(calls, moments, open_calls, open_counts, unknown_mask)


_END = attrgetter("end")
