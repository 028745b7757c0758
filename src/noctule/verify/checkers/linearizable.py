"""Whether the operations on one key are linearizable, by looking for an order that explains every answer.

Just-in-time linearization (Wing and Gong, 1993; Lowe, "Testing for linearizability", 2017): an operation must have
taken effect when its answer comes, and only then it is asked what took effect before it. A configuration is the state
and a mask of those pending operations that took effect already. The search goes into depth, guessing well (moves.py),
and remembers what it met, so each configuration is looked at once. It ends with an order that the model has confirmed
step by step, or has seen that there is none, or gives up. Keys are independent (P-compositionality), so each is checked
alone.
"""

import math
from collections.abc import Sequence
from enum import Enum
from operator import attrgetter

from noctule.base.ensure import ensure
from noctule.base.errors import InternalError
from noctule.verify.checkers.history import Operation
from noctule.verify.checkers.models import REFUSED, Model, State
from noctule.verify.checkers.timeline import Call, timeline_of


class Finding(Enum):
    """What can be said of the operations on one key."""

    LINEARIZABLE = "linearizable"
    """An order was found that explains every answer."""
    VIOLATED = "violated"
    """There is none."""
    UNDECIDED = "undecided"
    """The search was given up: there may be one, or none."""


def in_order(model: Model, operations: Sequence[Operation]) -> list[Operation]:
    """What matters of a key's operations, by start: what failed never happened, an unanswered read tells nothing."""
    pure = model.pure
    matter = [
        each for each in operations if each.outcome == "ok" or (each.outcome == "unknown" and each.op not in pure)
    ]
    matter.sort(key=_START)
    return matter


class Budget:
    """How many answers and configurations may still be looked at; a million take some seconds and a few hundred
    megabytes. Searches share one by being given the same."""

    def __init__(self, left: int) -> None:
        self.left = left


def look_for_order(model: Model, operations: Sequence[Operation], budget: Budget, initial: State = None) -> Finding:
    """Whether some order explains every answer among operations as `in_order` gives them.

    `initial` is the state before them, the model's own when None. `InternalError` when the order that was found turns
    out to be none, which would be a bug.
    """
    return _Search(model, operations, budget, model.initial if initial is None else initial).run()


_Choice = tuple[int, State, int, int, list[Call]]
"""A moment, a configuration, how many steps led there, and what may take effect next and was not tried yet, the
likeliest last."""
_Step = tuple[list[Call], int, Call | None]
"""What was waiting, the bits of those that took effect without changing anything, and then the one that did."""


class _Search:
    """The search of one key for an order that explains all its answers."""

    def __init__(self, model: Model, operations: Sequence[Operation], budget: Budget, initial: State) -> None:
        self._timeline = timeline_of(operations)
        self._model = model
        self._mover = model.mover(self._timeline.calls, initial)
        self._initial = initial
        self._choices: list[_Choice] = []
        self._met: dict[tuple[int, State, int], list[int]] = {}
        """Moment and configuration, without spent operations of unknown outcome; and with which of those it was met."""
        self._steps: list[_Step] = []
        self._budget = budget

    def run(self) -> Finding:
        """Go on until all answers are explained or nothing is left to try."""
        step, moves, moments = self._model.step, self._mover.moves, self._timeline.moments
        open_calls, open_counts = self._timeline.open_calls, self._timeline.open_counts
        self._budget.left -= len(moments)
        moment, state, mask = 0, self._initial, 0
        while moment < len(moments):
            pending = moments[moment]
            bit = pending[0].bit
            if mask & bit:
                mask ^= bit
                moment += 1
                continue
            waiting = [call for call in pending if not mask & call.bit]
            if open_counts[moment]:
                waiting += [call for call in open_calls[: open_counts[moment]] if not mask & call.bit]
            absorbed, following = moves(state, waiting)
            mask |= absorbed
            if absorbed & bit:
                self._steps.append((waiting, absorbed, None))
                continue
            if following and (not self._choices or self._is_new(moment, state, mask)):
                call = following[0]
                self._steps.append((waiting, absorbed, call))
                if len(following) > 1:
                    self._choices.append((moment, state, mask, len(self._steps), list(following[:0:-1])))
            elif not self._choices:
                return Finding.VIOLATED
            elif self._budget.left < 0:
                return Finding.UNDECIDED
            else:
                moment, state, mask, step_count, others = self._choices[-1]
                call = others.pop()
                if not others:
                    self._choices.pop()
                waiting, absorbed, _ = self._steps[step_count - 1]
                self._steps[step_count - 1 :] = [(waiting, absorbed, call)]
            state = step(state, call.operation)
            mask |= call.bit
        self._check_witness()
        return Finding.LINEARIZABLE

    def _check_witness(self) -> None:
        """Nothing is believed of what moves.py said: the order that was found is gone through from its beginning."""
        step, state = self._model.step, self._initial
        calls = self._timeline.calls
        latest_start = -math.inf
        times = [0] * len(calls)
        for waiting, absorbed, changing in self._steps:
            order = [call for call in waiting if call.bit & absorbed] if absorbed else []
            if changing is not None:
                order.append(changing)
            for call in order:
                state = step(state, call.operation)
                if state is REFUSED or call.end < latest_start:
                    raise InternalError(f"the order that was found does not explain {call.operation}")
                if call.start > latest_start:
                    latest_start = call.start
                times[call.index] += 1
        once = all(count == 1 if call.is_ok else count <= 1 for call, count in zip(calls, times, strict=True))
        ensure(once, "every operation is in the order that was found, once")

    def _is_new(self, moment: int, state: State, mask: int) -> bool:
        """Whether no configuration that can do as much was met; of two alike that with less spent can do more."""
        unknown_mask = self._timeline.unknown_mask
        spent = mask & unknown_mask
        met = self._met.setdefault((moment, state, mask ^ spent), [])
        if any(spent & less == less for less in met):
            return False
        met.append(spent)
        self._budget.left -= 1
        return True


_START = attrgetter("start")
