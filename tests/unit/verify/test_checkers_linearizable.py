"""Registers, counters and sets: planted violations are found, and every verdict is that of trying all orders."""

import itertools
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from noctule.base.errors import ConfigError
from noctule.verify.checkers import judge as judging
from noctule.verify.checkers.history import Operation
from noctule.verify.checkers.judge import ModelName, judge
from noctule.verify.checkers.linearizable import Budget, Finding, in_order, look_for_order
from noctule.verify.checkers.models import COUNTER, REFUSED, REGISTER, SET, Model, State
from noctule.verify.checkers.sample import SampleShape, sample_history
from noctule.verify.checkers.violation import ANY_STATE, Violation, text_of


def ok(start: float, end: float, op: str, *arguments: Any, result: Any = None, process: int = 1) -> Operation:
    return Operation(process, op, start, "ok", "x", arguments, result, end)


def unknown(start: float, op: str, *arguments: Any, process: int = 9) -> Operation:
    return Operation(process, op, start, "unknown", "x", arguments)


def failed(start: float, end: float, op: str, *arguments: Any) -> Operation:
    return Operation(1, op, start, "fail", "x", arguments, None, end)


def violation_of(operations: Sequence[Operation], model: ModelName = ModelName.AUTO) -> Violation:
    verdict = judge(operations, model)
    assert not verdict.holds
    return verdict.violations[0]


def words(violation: Violation) -> list[str]:
    return [text_of(each) for each in violation.operations]


def test_concurrent_operations_may_be_seen_in_either_order() -> None:
    for seen in (1, 2):
        writes = [ok(0, 2, "write", 1), ok(1, 3, "write", 2, process=2)]
        assert judge([*writes, ok(4, 5, "read", result=seen)]).holds


def test_a_stale_read_is_found_and_shrunk_to_what_shows_it() -> None:
    history = [
        op for n in range(50) for op in (ok(4 * n, 4 * n + 1, "write", n), ok(4 * n + 2, 4 * n + 3, "read", result=n))
    ]
    stale = ok(1000, 1001, "read", result=48, process=7)
    found = violation_of([*history, stale])
    assert words(found) == ["write(48)", "write(49)", "read → 48"]
    assert found.offending is stale
    assert "process 7" in found.explanation
    assert "49" in found.explanation


def test_a_lost_write_is_found() -> None:
    history = [ok(0, 1, "write", 1), ok(2, 3, "write", 2), ok(4, 5, "read", result=1), ok(6, 7, "write", 3)]
    assert words(violation_of(history)) == ["write(1)", "write(2)", "read → 1"]


def test_reordered_writes_are_found() -> None:
    """Both were sent one after the other by one client, and took effect the other way round."""
    history = [ok(0, 1, "write", "a"), ok(2, 3, "write", "b"), ok(4, 5, "read", result="b", process=2)]
    assert judge(history).holds
    assert not judge([*history, ok(6, 7, "read", result="a", process=2)]).holds


def test_a_new_value_once_seen_is_never_unseen() -> None:
    history = [unknown(0, "write", 1), ok(1, 2, "read", result=1), ok(3, 4, "read", result=None)]
    assert words(violation_of(history)) == ["write(1) → ?", "read → 1", "read → null"]


def test_an_increment_applied_twice_is_found() -> None:
    history = [unknown(0, "increment", 1), ok(1, 2, "read", result=1), ok(3, 4, "read", result=2)]
    found = violation_of(history)
    assert found.offending.result == 2
    assert words(found) == ["increment(1) → ?", "read → 2"]


def test_a_failed_operation_that_took_effect_is_found() -> None:
    assert not judge([failed(0, 1, "write", 5), ok(2, 3, "read", result=5)]).holds
    assert judge([failed(0, 1, "write", 5), ok(2, 3, "read", result=None)]).holds


def test_an_unknown_write_takes_effect_late_or_never_but_not_before_its_start() -> None:
    late = [unknown(0, "write", 1), ok(1, 2, "write", 2), ok(50, 51, "read", result=1)]
    never = [unknown(0, "write", 1), ok(1, 2, "write", 2), ok(50, 51, "read", result=2)]
    early = [ok(0, 1, "read", result=1), unknown(2, "write", 1)]
    assert judge(late).holds
    assert judge(never).holds
    assert not judge(early).holds


def test_compare_and_set_succeeds_for_one_of_two() -> None:
    both = [ok(0, 5, "cas", None, 1, result=True), ok(1, 4, "cas", None, 2, result=True, process=2)]
    assert not judge(both).holds
    one = [both[0], msgspec.structs.replace(both[1], result=False)]
    assert judge(one).holds


def test_a_lost_member_is_shown_by_its_own_operations() -> None:
    adds = [ok(2 * n, 2 * n + 1, "add", f"m{n}", result=True) for n in range(40)]
    members = [f"m{n}" for n in range(40) if n != 17]
    found = violation_of([*adds, ok(100, 101, "read", result=members)])
    assert words(found) == ['add("m17") → true', 'contains("m17") → false']


def test_of_a_long_counter_history_only_the_end_is_shown() -> None:
    """Two increments with the same answer cannot be, whatever the counter was before."""
    history = [ok(2 * n, 2 * n + 1, "increment", 1, result=n + 1) for n in range(300)]
    found = violation_of([*history, ok(1000, 1001, "increment", 1, result=300)])
    assert words(found) == ["increment(1) → 300", "increment(1) → 300"]
    assert found.initial == ANY_STATE


def test_a_counter_of_which_nothing_was_seen_begins_with_what_was_acknowledged() -> None:
    history = [ok(2 * n, 2 * n + 1, "increment", 1) for n in range(300)]
    found = violation_of([*history, ok(1000, 1001, "read", result=299)])
    assert words(found) == ["read → 299"]
    assert found.initial == "300"
    assert "only 300 was possible" in found.explanation


def test_operations_that_touch_in_time_are_concurrent() -> None:
    assert judge([ok(0, 1, "write", 1), ok(1, 2, "read", result=None)]).holds
    assert not judge([ok(0, 1, "write", 1), ok(1.001, 2, "read", result=None)]).holds


def test_many_unknown_operations_do_not_double_the_work_each() -> None:
    """Each is pending for ever; a checker that tries all subsets of sixty of them never ends."""
    adds = [unknown(n, "add", n) for n in range(60)]
    seen = [n for n in range(60) if n % 3]
    assert judge([*adds, ok(100, 101, "read", result=seen), ok(102, 103, "read", result=list(range(60)))]).holds
    assert not judge([*adds, ok(100, 101, "read", result=seen), ok(102, 103, "read", result=seen[1:])]).holds
    increments = [unknown(n, "increment", 1) for n in range(60)]
    assert judge([*increments, ok(100, 101, "read", result=33)]).holds
    assert not judge([*increments, ok(100, 101, "read", result=61)]).holds
    writes = [unknown(n, "write", n) for n in range(60)]
    assert judge([*writes, *(ok(100 + n, 100.5 + n, "read", result=59 - n) for n in range(60))]).holds


def test_unknown_writes_of_repeated_values_and_chains_of_cas_are_searched_by_what_was_seen() -> None:
    chain = [unknown(n, "cas", n - 1 if n else None, n) for n in range(30)]
    repeated = [unknown(30 + n, "write", n % 5 + 100) for n in range(60)]
    known = [ok(200 + 2 * n, 201 + 2 * n, "cas", -1, -2, result=False) for n in range(20)]
    assert judge([*chain, *repeated, *known, ok(300, 301, "read", result=29), ok(302, 303, "read", result=104)]).holds
    assert not judge([*chain[1:], *repeated, *known, ok(300, 301, "read", result=29)]).holds


def test_more_ways_than_fit_are_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sum of even numbers is odd, which only trying all sums shows."""
    amounts = [unknown(n, "increment", 2**n) for n in range(1, 10)]
    history = [*amounts, ok(100, 101, "read", result=1021)]
    assert judge(history).violated_keys == ["x"]
    monkeypatch.setattr(judging, "CONFIGURATIONS_MAX", 50)
    verdict = judge(history)
    assert not verdict.holds
    assert verdict.undecided_keys == ["x"]
    assert verdict.violated_keys == []
    assert judge([*amounts, ok(100, 101, "read", result=1022)]).holds, "the first guess needs no budget"


@pytest.mark.parametrize(
    ("operation", "sentence"),
    [
        (ok(0, 1, "write"), "write takes 1 arguments, not 0"),
        (ok(0, 1, "write", [1]), "values of a register"),
        (ok(0, 1, "cas", 1, 2), "the result of cas is true or false"),
        (ok(0, 1, "increment", "1"), "increment of a counter takes 1 whole number"),
        (ok(0, 1, "contains", 1), "the result of contains is true or false"),
        (ok(0, 1, "pop"), "of no one model: pop"),
        (Operation(1, "write", 0, "ok", None, (1,), None, 1), "has no key"),
    ],
)
def test_what_is_of_no_model_is_refused(operation: Operation, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("(", "\\(")):
        judge([operation])


def test_a_named_model_refuses_the_operations_of_others() -> None:
    with pytest.raises(ConfigError, match="a counter has no operation 'write', only increment, read"):
        judge([ok(0, 1, "write", 1)], ModelName.COUNTER)


# Against all orders --------------------------------------------------------------------------------------------------


def explained_by_some_order(model: Model, operations: list[Operation]) -> bool:
    """The definition itself, for a few operations."""
    known = [each for each in operations if each.outcome == "ok"]
    open_ones = [each for each in operations if each.outcome == "unknown"]
    for count in range(len(open_ones) + 1):
        for chosen in itertools.combinations(open_ones, count):
            if any(is_explained(model, order) for order in itertools.permutations([*known, *chosen])):
                return True
    return False


def is_explained(model: Model, order: tuple[Operation, ...]) -> bool:
    for earlier, later in itertools.combinations(order, 2):
        if later.outcome == "ok" and later.end is not None and later.end < earlier.start:
            return False
    state = model.initial
    for each in order:
        state = model.step(state, each)
        if state is REFUSED:
            return False
    return True


def explained_by_searching(model: Model, operations: list[Operation], initial: State) -> bool:
    """Every order of a few more operations, without any thought of which is likely (Wing and Gong, 1993)."""
    tried: set[tuple[State, frozenset[int]]] = set()

    def search(state: State, left: frozenset[int]) -> bool:
        answered = [operations[index] for index in left if operations[index].outcome == "ok"]
        if not answered:
            return True
        if (state, left) in tried:
            return False
        tried.add((state, left))
        first_end = min(each.end for each in answered if each.end is not None)
        return any(
            after is not REFUSED and search(after, left - {index})
            for index in left
            if operations[index].start <= first_end
            for after in [model.step(state, operations[index])]
        )

    return search(initial, frozenset(range(len(operations))))


def random_operation(chance: random.Random, model: Model, process: int) -> Operation:
    start = float(chance.randrange(12))
    op = chance.choice(sorted(model.operations))
    values = (None, 1, 2)
    arguments: tuple[Any, ...] = ()
    result: Any = None
    if model is REGISTER:
        arguments = {"read": (), "write": (chance.choice(values),)}.get(
            op, (chance.choice(values), chance.choice(values))
        )
        result = {"read": chance.choice(values), "cas": chance.random() < 0.5}.get(op)
    elif model is COUNTER:
        arguments = (chance.choice((1, 1, 2)),) if op == "increment" else ()
        result = chance.choice((None, 1, 2, 3)) if op == "increment" else chance.randrange(4)
    else:
        arguments = () if op == "read" else (chance.choice("ab"),)
        result = chance.choice(([], ["a"], ["b"], ["a", "b"])) if op == "read" else chance.random() < 0.5
        if op in ("add", "remove") and chance.random() < 0.3:
            result = None
    if chance.random() < 0.25:
        return Operation(process, op, start, "unknown", "x", arguments)
    return Operation(process, op, start, "ok", "x", arguments, result, start + chance.randrange(6))


@pytest.mark.parametrize("model", [REGISTER, COUNTER, SET], ids=lambda model: str(model.name))
def test_verdicts_are_those_of_trying_all_orders(model: Model) -> None:
    chance = random.Random(7)
    verdicts = {True: 0, False: 0}
    for _ in range(700):
        operations = [random_operation(chance, model, process) for process in range(chance.randrange(2, 6))]
        ordered = in_order(model, operations)
        expected = explained_by_some_order(model, ordered)
        verdicts[expected] += 1
        assert (look_for_order(model, ordered, Budget(100_000)) is Finding.LINEARIZABLE) is expected, operations
        if not expected:
            verdict = judge(operations, ModelName(model.name))
            part = in_order(model, verdict.violations[0].operations)
            assert not explained_by_some_order(model, part), "what is shown is wrong by itself"
    assert min(verdicts.values()) > 100


def spoiled(chance: random.Random, model: Model, history: list[Operation]) -> list[Operation]:
    """With the answer of one operation given to another of its kind, perhaps without a third, and some say nothing."""
    op = chance.choice(sorted(model.operations))
    alike = [index for index, each in enumerate(history) if each.op == op and each.outcome == "ok"]
    if len(alike) >= 2:
        giver, taker = chance.sample(alike, 2)
        history[taker] = msgspec.structs.replace(history[taker], result=history[giver].result)
    for index, each in enumerate(history):
        if each.op in ("increment", "add", "remove") and chance.random() < 0.3:
            history[index] = msgspec.structs.replace(each, result=None)
    if chance.random() < 0.3:
        del history[chance.randrange(len(history))]
    return history


@pytest.mark.parametrize("model", [REGISTER, COUNTER, SET], ids=lambda model: str(model.name))
def test_verdicts_on_spoiled_histories_are_those_of_searching_without_guesses(model: Model) -> None:
    """What is likely, and what may be left out, is worked out from the whole history; here it is rich enough."""
    chance = random.Random(11)
    verdicts = {True: 0, False: 0}
    for _ in range(250):
        shape = SampleShape(
            operations_count=chance.randrange(8, 15),
            clients_count=chance.randrange(2, 6),
            unknown_share=chance.choice((0.0, 0.2)),
            values_count=chance.choice((0, 2, 3)),
            members_count=chance.choice((1, 3)),
        )
        history = spoiled(chance, model, sample_history(model, "x", shape, chance))
        ordered = in_order(model, history)
        expected = explained_by_searching(model, ordered, model.initial)
        verdicts[expected] += 1
        assert (look_for_order(model, ordered, Budget(100_000)) is Finding.LINEARIZABLE) is expected, history
        if not expected:
            assert_wrong_by_itself(model, judge(history, ModelName(model.name)).violations[0])
    assert min(verdicts.values()) > 20


def assert_wrong_by_itself(model: Model, found: Violation) -> None:
    shown = in_order(model, found.operations)
    initials: Sequence[State] = [model.initial]
    if found.initial == ANY_STATE:
        before = {id(each) for each in found.operations[: found.earlier]}
        shown = [msgspec.structs.replace(each, outcome="unknown") if id(each) in before else each for each in shown]
        initials = model.beginnings(shown) or ()
        assert initials or model is COUNTER
    elif found.initial:
        initials = [msgspec.json.decode(found.initial)]
    assert not any(explained_by_searching(model, shown, initial) for initial in initials), found


@pytest.mark.parametrize("unknown_share", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("values_count", [0, 5])
@pytest.mark.parametrize("model", [REGISTER, COUNTER, SET], ids=lambda model: str(model.name))
def test_ten_clients_on_a_key_need_few_configurations(model: Model, values_count: int, unknown_share: float) -> None:
    """The first guess is mostly right; trying all that may be takes some hundred times as many."""
    shape = SampleShape(500, 10, unknown_share, values_count)
    for seed in range(5):
        ordered = in_order(model, sample_history(model, "x", shape, random.Random(seed)))
        budget = Budget(5_000)
        assert look_for_order(model, ordered, budget) is Finding.LINEARIZABLE
        assert budget.left > 0
