"""Faults planted behind a busy, sound history of ten clients on a key: each is found, shown and named."""

import random
from typing import Any

import pytest

from noctule.verify.checkers.history import Operation, Outcome
from noctule.verify.checkers.judge import ModelName, judge
from noctule.verify.checkers.linearizable import Budget, Finding, in_order, look_for_order
from noctule.verify.checkers.models import COUNTER, REGISTER, SET, Model
from noctule.verify.checkers.sample import SampleShape, sample_history
from noctule.verify.checkers.violation import text_of

MODELS = [REGISTER, COUNTER, SET]
SHAPE = SampleShape(operations_count=300, clients_count=10)
FAULTS = ["stale read", "lost write", "double apply", "reordering", "aborted read"]

Step = tuple[Outcome, str, tuple[Any, ...], Any]


def ok(op: str, *arguments: Any, gives: Any = None) -> Step:
    return "ok", op, arguments, gives


def failed(op: str, *arguments: Any) -> Step:
    return "fail", op, arguments, None


def register_steps(fault: str) -> list[Step]:
    return {
        "stale read": [ok("write", "a"), ok("read", gives="a"), ok("write", "b"), ok("read", gives="a")],
        "lost write": [ok("write", "a"), ok("write", "b"), ok("read", gives="a")],
        "double apply": [ok("cas", "a", "b", gives=True), ok("write", "a"), ok("read", gives="b")],
        "reordering": [ok("write", "a"), ok("write", "b"), ok("read", gives="b"), ok("read", gives="a")],
        "aborted read": [failed("write", "b"), ok("read", gives="b")],
    }[fault]


def counter_steps(fault: str, before: int) -> list[Step]:
    return {
        "stale read": [ok("increment", 1, gives=before + 1), ok("read", gives=before)],
        "lost write": [ok("increment", 1), ok("increment", 1), ok("read", gives=before + 1)],
        "double apply": [ok("increment", 1), ok("read", gives=before + 2)],
        "reordering": [ok("increment", 2, gives=before + 2), ok("increment", 1, gives=before + 1)],
        "aborted read": [failed("increment", 4), ok("read", gives=before + 4)],
    }[fault]


def set_steps(fault: str, before: list[Any]) -> list[Step]:
    return {
        "stale read": [ok("add", "m", gives=True), ok("read", gives=before)],
        "lost write": [ok("add", "m", gives=True), ok("contains", "m", gives=False)],
        "double apply": [
            *(ok("add", "m", gives=True), ok("remove", "m", gives=True)),
            *(ok("add", "m", gives=True), ok("contains", "m", gives=False)),
        ],
        "reordering": [ok("add", "m"), ok("remove", "m"), ok("contains", "m", gives=True)],
        "aborted read": [failed("add", "m"), ok("contains", "m", gives=True)],
    }[fault]


def planted(model: Model, fault: str, seed: int) -> list[Operation]:
    """A sound history, then what shows the fault, one after the other; before it a register is set to ``a``."""
    history = sample_history(model, "x", SHAPE, random.Random(seed))
    time = max(each.end or each.start for each in history)
    if model is REGISTER:
        steps = [ok("write", "a"), *register_steps(fault)]
    elif model is COUNTER:
        before = sum(each.arguments[0] for each in history if each.op == "increment")
        steps = [ok("read", gives=before), *counter_steps(fault, before)]
    else:
        before_members = [member for member in range(SHAPE.members_count) if may_have(history, member, time + 0.5)]
        steps = [ok("read", gives=before_members), *set_steps(fault, before_members)]
    for outcome, op, arguments, result in steps:
        time += 1
        history.append(Operation("planted", op, time, outcome, "x", arguments, result, time + 0.25))
    return history


def may_have(history: list[Operation], member: int, time: float) -> bool:
    asked = Operation("asking", "contains", time, "ok", "x", (member,), True, time)
    return look_for_order(SET, in_order(SET, [*history, asked]), Budget(10_000)) is Finding.LINEARIZABLE


@pytest.mark.parametrize("model", MODELS, ids=lambda model: str(model.name))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_where_it_shows(model: Model, fault: str) -> None:
    history = planted(model, fault, seed=1)
    assert judge(history[:-1], ModelName(model.name)).holds, "all but the last answer is sound"
    verdict = judge(history, ModelName(model.name))
    assert verdict.violated_keys == ["x"]
    found = verdict.violations[0]
    assert (found.offending.process, found.offending.start) == ("planted", history[-1].start)
    assert len(found.operations) <= 5, [text_of(each) for each in found.operations]


@pytest.mark.parametrize(
    ("model", "fault", "words"),
    [
        (REGISTER, "stale read", 'only "b" was possible; it is as if it had seen an earlier state'),
        (REGISTER, "lost write", 'it is as if it had seen an earlier state, or write("a") of process planted'),
        (REGISTER, "double apply", 'only "a" was possible; it is as if it had seen an earlier state'),
        (REGISTER, "aborted read", 'it is as if write("b") of process planted had taken effect, which failed'),
        (COUNTER, "lost write", "increment(1) of process planted had been lost"),
        (COUNTER, "double apply", "increment(1) of process planted had taken effect twice"),
        (COUNTER, "reordering", "only "),
        (COUNTER, "aborted read", "increment(4) of process planted had taken effect, which failed"),
        (SET, "lost write", "only true was possible; it is as if it had seen an earlier state"),
        (SET, "double apply", 'remove("m") of process planted had taken effect twice'),
        (SET, "reordering", "only false was possible"),
        (SET, "aborted read", 'add("m") of process planted had taken effect, which failed'),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_planted_fault_is_named(model: Model, fault: str, words: str) -> None:
    assert words in judge(planted(model, fault, seed=2), ModelName(model.name)).violations[0].explanation
