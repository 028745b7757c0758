"""A history and a model in, a verdict out: which keys are what, and which of them are wrong."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from noctule.base.errors import ConfigError
from noctule.verify.checkers import list_append
from noctule.verify.checkers.history import Operation
from noctule.verify.checkers.linearizable import Budget, Finding, in_order, look_for_order
from noctule.verify.checkers.models import COUNTER, REGISTER, SET, Model
from noctule.verify.checkers.shrink import shrink
from noctule.verify.checkers.violation import Violation

VIOLATIONS_TOLD_MAX = 3
"""Of how many violated keys a short part is looked for and shown; the others are named."""

CONFIGURATIONS_MAX = 1_000_000
"""Looked at for one key, besides one for each answer; then the key is undecided. Each undecided key leaves less to the
next, so that a hopeless history ends in a minute and not in hours."""


class ModelName(StrEnum):
    """What the keys of a history are."""

    AUTO = "auto"
    """Each key is what its operations say."""
    REGISTER = "register"
    COUNTER = "counter"
    SET = "set"
    LIST_APPEND = "list-append"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a history."""

    operations: int
    keys: dict[str, int]
    """Model to number of keys."""
    violated_keys: list[str]
    violations: list[Violation]
    """Of the first of `violated_keys`, at most `VIOLATIONS_TOLD_MAX`."""
    undecided_keys: list[str]
    """Keys for which the search was given up: nobody can say whether they are violated."""

    @property
    def holds(self) -> bool:
        """Every key was decided, and none is violated."""
        return not self.violated_keys and not self.undecided_keys


_MODELS: dict[ModelName, Model] = {
    ModelName.REGISTER: REGISTER,
    ModelName.COUNTER: COUNTER,
    ModelName.SET: SET,
}


def judge(operations: Sequence[Operation], model: ModelName = ModelName.AUTO) -> Verdict:
    """Whether a correct store could have answered so.

    `ConfigError` names the first operation that is not of the model.
    """
    lists, keys = _by_key(operations, model)
    counts: dict[str, int] = {}
    violated: list[str] = []
    violations: list[Violation] = []
    undecided: list[str] = []
    if lists:
        _check_each(lists, list_append.OPERATIONS, list_append.problem, ModelName.LIST_APPEND)
        counts[ModelName.LIST_APPEND.value] = len({key for each in lists for key in list_append.keys_of(each)})
        found = list_append.find_violation(lists)
        if found is not None:
            violated.append(found.key)
            violations.append(found)
    for key, mine in keys.items():
        chosen = _MODELS[_guess(key, mine) if model is ModelName.AUTO else model]
        counts[chosen.name] = counts.get(chosen.name, 0) + 1
        _check_each(mine, chosen.operations, chosen.problem, chosen.name)
        budget = Budget(len(mine) + CONFIGURATIONS_MAX // (1 + len(undecided)))
        finding, part = _find(chosen, mine, budget)
        if finding is Finding.UNDECIDED:
            undecided.append(key)
        elif finding is Finding.VIOLATED:
            violated.append(key)
            if len(violations) < VIOLATIONS_TOLD_MAX:
                failed = [each for each in mine if each.outcome == "fail"]
                violations.append(shrink(chosen, part, failed))
    return Verdict(len(operations), counts, violated, violations, undecided)


def _by_key(operations: Sequence[Operation], model: ModelName) -> tuple[list[Operation], dict[str, list[Operation]]]:
    """The operations on lists, and those on each other key."""
    if model is ModelName.LIST_APPEND:
        return list(operations), {}
    listed: set[str] = set()
    if model is ModelName.AUTO:
        listed = {
            key
            for each in operations
            if each.op in ("append", "txn") and not list_append.problem(each)
            for key in list_append.keys_of(each)
        }
    lists: list[Operation] = []
    keys: dict[str, list[Operation]] = {}
    for each in operations:
        if each.key in listed or (model is ModelName.AUTO and each.op in ("append", "txn")):
            lists.append(each)
        elif each.key is None:
            raise ConfigError(f"{_place(each)} has no key")
        elif (mine := keys.get(each.key)) is not None:
            mine.append(each)
        else:
            keys[each.key] = [each]
    return lists, keys


def _guess(key: str, operations: Iterable[Operation]) -> ModelName:
    """The model of a key by its operations' names; what is only read goes by its answers."""
    names = {each.op for each in operations}
    fitting = [name for name, model in _MODELS.items() if names <= model.operations]
    if not fitting:
        raise ConfigError(f"the operations on key {key!r} are of no one model: {', '.join(sorted(names))}")
    if len(fitting) == 1:
        return fitting[0]
    answer = next((each.result for each in operations if each.outcome == "ok"), None)
    if isinstance(answer, list):
        return ModelName.SET
    return ModelName.COUNTER if isinstance(answer, int) and not isinstance(answer, bool) else ModelName.REGISTER


def _check_each(
    operations: Iterable[Operation], names: Iterable[str], problem: Callable[[Operation], str], model: str
) -> None:
    for each in operations:
        if each.op not in names:
            raise ConfigError(
                f"{_place(each)}: a {model} has no operation {each.op!r}, only {', '.join(sorted(names))}"
            )
        if each.op != "txn" and each.key is None:
            raise ConfigError(f"{_place(each)} has no key")
        if sentence := problem(each):
            raise ConfigError(f"{_place(each)}: {sentence}")


def _find(model: Model, operations: Sequence[Operation], budget: Budget) -> tuple[Finding, list[Operation]]:
    """What can be said of a key, and the operations that show it: one part that is violated makes it violated."""
    worst: tuple[Finding, list[Operation]] = (Finding.LINEARIZABLE, [])
    for part in _independent(model, operations):
        finding = look_for_order(model, part, budget)
        if finding is Finding.VIOLATED:
            return finding, part
        if finding is Finding.UNDECIDED:
            worst = finding, part
    return worst


def _independent(model: Model, operations: Sequence[Operation]) -> Iterable[list[Operation]]:
    """The operations in parts that are linearizable if and only if all are: a set never read whole is its members."""
    ordered = in_order(model, operations)
    if model is not SET or any(each.op == "read" for each in ordered):
        return [ordered]
    members: dict[object, list[Operation]] = {}
    for each in ordered:
        members.setdefault(each.arguments[0], []).append(each)
    return members.values()


def _place(operation: Operation) -> str:
    return f"operation {operation.op!r} of process {operation.process} at {operation.start} s"
