"""Whether the operations on one key are linearizable, by following every order that can still explain them.

Just-in-time linearization (Wing and Gong, 1993; Lowe, "Testing for linearizability", 2017): the history is walked in
order of time, with the set of all configurations that explain it so far. A configuration is the state and a mask of
those pending operations that took effect already. An operation must have taken effect when its answer comes; only then
are orders tried, and equal configurations meet in the set. Keys are independent (P-compositionality), so each is
checked alone.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from noctule.base.errors import RequestError
from noctule.verify.checkers.history import Operation
from noctule.verify.checkers.models import REFUSED, Model, State

CONFIGURATIONS_MAX = 200_000
"""Of one key at one moment; over it nobody can say, in reasonable memory, whether the history is linearizable."""

_Configuration = tuple[State, int]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A moment at which only one configuration was left and no operation was waiting for its answer."""

    index: int
    """The first operation after it."""
    state: State
    open: tuple[Operation, ...]
    """Operations of unknown outcome before it that may still take effect."""


@dataclass(frozen=True, slots=True)
class Unexplained:
    """The first answer, in order of time, that no order of the operations explains."""

    index: int
    states: tuple[State, ...]
    """What the state may have been when its answer came, if nothing else took effect; a few of them."""
    checkpoints: list[Checkpoint] = field(default_factory=list)


def in_order(model: Model, operations: Sequence[Operation]) -> list[Operation]:
    """What matters of a key's operations, by start: what failed never happened, an unanswered read tells nothing."""
    matter = [each for each in operations if each.outcome == "ok" or _may_matter(model, each)]
    matter.sort(key=lambda each: each.start)
    return matter


def find_unexplained(
    model: Model, operations: Sequence[Operation], initial: State = None, *, wants_checkpoints: bool = False
) -> Unexplained | None:
    """The first unexplained answer among operations as `in_order` gives them; None when all are linearizable.

    `initial` is the state before them, the model's own when None. `RequestError` over `CONFIGURATIONS_MAX`.
    """
    return _Walk(model, operations, model.initial if initial is None else initial, wants_checkpoints).run()


def _may_matter(model: Model, operation: Operation) -> bool:
    return operation.outcome == "unknown" and operation.op not in model.pure


class _Walk:
    """One pass over the operations of a key."""

    def __init__(self, model: Model, operations: Sequence[Operation], initial: State, wants_checkpoints: bool) -> None:
        self._model = model
        self._operations = operations
        self._frontier: set[_Configuration] = {(initial, 0)}
        self._pending: dict[int, int] = {}
        """Slot, which is the bit in the mask, to index; also the operations of unknown outcome, for ever."""
        self._ends: list[tuple[float, int]] = []
        """When pending operations are answered, with their slots; a heap."""
        self._free: list[int] = []
        self._unknown_mask = 0
        self._checkpoints: list[Checkpoint] | None = [] if wants_checkpoints else None

    def run(self) -> Unexplained | None:
        operations, ends = self._operations, self._ends
        count = len(operations)
        for index, operation in enumerate(operations):
            # Equal times are no order: an operation precedes another only when it ended before that began.
            while ends and ends[0][0] < operation.start:
                if (stuck := self._answer()) is not None:
                    return stuck
            if self._checkpoints is not None and not ends and len(self._frontier) == 1:
                self._checkpoints.append(self._checkpoint(index))
            if operation.outcome != "ok":
                self._unknown_mask |= 1 << self._begin(index)
            elif not self._pending and (index + 1 == count or _ends_before(operation, operations[index + 1])):
                if (stuck := self._alone(index)) is not None:
                    return stuck
            else:
                assert operation.end is not None
                heapq.heappush(ends, (operation.end, self._begin(index)))
        while ends:
            if (stuck := self._answer()) is not None:
                return stuck
        return None

    def _begin(self, index: int) -> int:
        slot = self._free.pop() if self._free else len(self._pending)
        self._pending[slot] = index
        return slot

    def _alone(self, index: int) -> Unexplained | None:
        """An operation beside which nothing runs takes effect at once: the common case, without any search."""
        step, operation = self._model.step, self._operations[index]
        after = {(state, 0) for before, _ in self._frontier if (state := step(before, operation)) is not REFUSED}
        if not after:
            return self._stuck(index)
        self._frontier = after
        return None

    def _answer(self) -> Unexplained | None:
        """The answer of a pending operation comes: it took effect in every configuration that is to remain."""
        _, slot = heapq.heappop(self._ends)
        after = self._with_effect(slot)
        index = self._pending.pop(slot)
        if not after:
            return self._stuck(index)
        self._free.append(slot)
        self._frontier = self._without_dominated(after)
        return None

    def _with_effect(self, slot: int) -> set[_Configuration]:
        """All configurations after the operation, with any others before it; its bit is cleared."""
        model, operations, pending = self._model, self._operations, self._pending
        bit, target = 1 << slot, operations[pending[slot]]
        after: set[_Configuration] = set()
        reached = set(self._frontier)
        stack = list(reached)
        others = [(1 << other, operations[index]) for other, index in pending.items() if other != slot]
        while stack:
            state, mask = stack.pop()
            if mask & bit:
                after.add((state, mask & ~bit))
                continue
            waiting = []
            for other_bit, other in others:
                if mask & other_bit:
                    continue
                if other.op in model.pure and model.step(state, other) is not REFUSED:
                    # Seeing what is there now never hurts: this configuration can do all that the other could.
                    mask |= other_bit
                else:
                    waiting.append((other_bit, other))
            result = model.step(state, target)
            if result is not REFUSED:
                after.add((result, mask))
                if target.op in model.pure:
                    continue
            useful = model.useful(state, target, [other for _, other in waiting])
            for (other_bit, other), is_useful in zip(waiting, useful, strict=True):
                if not is_useful or other.op in model.pure:
                    continue
                changed = model.step(state, other)
                if changed is REFUSED or (changed == state and other.outcome != "ok"):
                    continue
                configuration = (changed, mask | other_bit)
                if configuration not in reached:
                    reached.add(configuration)
                    stack.append(configuration)
            if len(reached) > CONFIGURATIONS_MAX:
                raise RequestError(
                    f"key {target.key!r}: more than {CONFIGURATIONS_MAX} ways to explain what happened until "
                    f"{target.end} s; record fewer operations of unknown outcome, or more keys"
                )
        return after

    def _without_dominated(self, configurations: set[_Configuration]) -> set[_Configuration]:
        """Of configurations that differ in spent operations of unknown outcome, those that spent least can do most."""
        if len(configurations) == 1 or not self._unknown_mask:
            return configurations
        groups: dict[_Configuration, list[int]] = {}
        for state, mask in configurations:
            groups.setdefault((state, mask & ~self._unknown_mask), []).append(mask)
        kept = set()
        for (state, _), masks in groups.items():
            least: list[int] = []
            for mask in sorted(masks, key=int.bit_count):
                if not any(mask & smaller == smaller for smaller in least):
                    least.append(mask)
                    kept.add((state, mask))
        return kept

    def _checkpoint(self, index: int) -> Checkpoint:
        ((state, mask),) = self._frontier
        still = (self._operations[at] for slot, at in self._pending.items() if not mask >> slot & 1)
        return Checkpoint(index, state, tuple(still))

    def _stuck(self, index: int) -> Unexplained:
        states = list(dict.fromkeys(state for state, _ in self._frontier))[:3]
        return Unexplained(index, tuple(states), self._checkpoints or [])


def _ends_before(operation: Operation, other: Operation) -> bool:
    return operation.end is not None and operation.end < other.start
