"""Lists: each anomaly is planted and found under its name; what is serializable passes."""

import random
from typing import Any

import pytest

from noctule.base.errors import ConfigError
from noctule.verify.checkers.graph import Edge, Graph, add_edge, shortest_cycle
from noctule.verify.checkers.history import Operation, Outcome
from noctule.verify.checkers.judge import judge
from noctule.verify.checkers.violation import Violation


def txn(start: float, end: float, *parts: tuple[Any, ...], process: int = 1, outcome: Outcome = "ok") -> Operation:
    """A part is ("a", key, value), or ("r", key, list)."""
    arguments = tuple(["append", part[1], part[2]] if part[0] == "a" else ["read", part[1]] for part in parts)
    if outcome != "ok":
        return Operation(process, "txn", start, outcome, None, arguments, None, end)
    return Operation(process, "txn", start, "ok", None, arguments, [p[2] if p[0] == "r" else None for p in parts], end)


def violation_of(*operations: Operation) -> Violation:
    """The one violation; what it shows is wrong by itself."""
    verdict = judge(operations)
    assert not verdict.holds
    assert len(verdict.violations) == 1
    found = verdict.violations[0]
    assert not judge(found.operations).holds
    assert found.offending in found.operations
    return found


def test_what_happened_one_after_the_other_holds() -> None:
    chance = random.Random(3)
    lists: dict[str, list[int]] = {"x": [], "y": [], "z": []}
    history = []
    for number in range(500):
        parts: list[tuple[Any, ...]] = []
        for step in range(chance.randrange(1, 4)):
            key = chance.choice("xyz")
            if chance.random() < 0.5:
                lists[key].append(number * 10 + step)
                parts.append(("a", key, number * 10 + step))
            else:
                parts.append(("r", key, list(lists[key])))
        # All overlap their neighbours, so real time leaves several orders open.
        history.append(txn(number, number + chance.uniform(0.5, 3), *parts, process=number % 4))
    verdict = judge(history)
    assert verdict.holds
    assert verdict.keys == {"list-append": 3}


def test_a_stale_read_is_a_cycle_with_real_time() -> None:
    found = violation_of(txn(0, 1, ("a", "x", 1)), txn(2, 3, ("r", "x", [])), txn(4, 5, ("r", "x", [1])))
    assert found.kind == "G-single-realtime"
    assert len(found.operations) == 3, "the two, and the read that shows the append"
    assert "did not see 1, appended to 'x' by" in found.explanation


def test_write_skew_is_found() -> None:
    found = violation_of(
        txn(0, 5, ("r", "x", []), ("a", "y", 1)),
        txn(1, 4, ("r", "y", []), ("a", "x", 2), process=2),
        txn(6, 7, ("r", "x", [2]), ("r", "y", [1])),
    )
    assert found.kind == "G2-item"
    assert len(found.operations) == 3, "the two, and the reads that show the appends"


def test_appends_in_opposite_orders_are_found() -> None:
    found = violation_of(
        txn(0, 5, ("a", "x", 1), ("a", "y", 1)),
        txn(1, 4, ("a", "x", 2), ("a", "y", 2), process=2),
        txn(6, 7, ("r", "x", [1, 2]), ("r", "y", [2, 1])),
    )
    assert found.kind == "G0"


def test_two_that_saw_each_other_are_found() -> None:
    found = violation_of(
        txn(0, 5, ("a", "x", 1), ("r", "y", [1])), txn(1, 4, ("a", "y", 1), ("r", "x", [1]), process=2)
    )
    assert found.kind == "G1c"


def test_reordered_appends_are_found() -> None:
    found = violation_of(txn(0, 1, ("a", "x", 1)), txn(2, 3, ("a", "x", 2)), txn(4, 5, ("r", "x", [2, 1])))
    assert found.kind == "G0-realtime"


def test_an_aborted_read_is_found() -> None:
    append = txn(0, 1, ("a", "x", 1), outcome="fail")
    found = violation_of(append, txn(2, 3, ("r", "x", [1])))
    assert found.kind == "aborted-read"
    assert append in found.operations


def test_an_append_applied_twice_is_found() -> None:
    found = violation_of(txn(0, 1, ("a", "x", 1), outcome="unknown"), txn(2, 3, ("r", "x", [1, 1])))
    assert found.kind == "duplicate-append"


def test_a_lost_append_is_found() -> None:
    found = violation_of(txn(0, 1, ("a", "x", 1)), txn(2, 3, ("a", "x", 2)), txn(4, 5, ("r", "x", [2])))
    assert found.kind == "lost-append"
    assert "appended 1 to 'x'" in found.explanation


def test_lists_that_disagree_are_found() -> None:
    appends = [txn(0, 9, ("a", "x", 1)), txn(0, 9, ("a", "x", 2), process=2)]
    found = violation_of(*appends, txn(1, 2, ("r", "x", [1, 2]), process=3), txn(3, 4, ("r", "x", [2]), process=3))
    assert found.kind == "incompatible-order"


def test_a_transaction_sees_itself_and_one_state() -> None:
    assert violation_of(txn(0, 1, ("a", "x", 1), ("r", "x", []))).kind == "internal"
    append = txn(0, 9, ("a", "x", 1))
    assert violation_of(append, txn(0, 9, ("r", "x", []), ("r", "x", [1]), process=2)).kind == "internal"


def test_a_value_of_nobody_is_found() -> None:
    assert violation_of(txn(0, 1, ("a", "x", 1)), txn(2, 3, ("r", "x", [1, 7]))).kind == "invented-value"


def test_half_a_transaction_is_found() -> None:
    found = violation_of(
        txn(0, 9, ("a", "x", 1), ("a", "x", 2)), txn(1, 2, ("r", "x", [1]), process=2), txn(10, 11, ("r", "x", [1, 2]))
    )
    assert found.kind == "G-single"


def test_an_unknown_append_may_be_there_or_not() -> None:
    append = txn(0, 1, ("a", "x", 1), outcome="unknown")
    assert judge([append, txn(2, 3, ("r", "x", [])), txn(4, 5, ("r", "x", [1]))]).holds
    assert judge([append, txn(2, 3, ("r", "x", []))]).holds
    assert not judge([append, txn(2, 3, ("r", "x", [1])), txn(4, 5, ("r", "x", []))]).holds


def test_single_operations_are_transactions_of_one_step() -> None:
    append = Operation(1, "append", 0, "ok", "x", (1,), None, 1)
    assert judge([append, Operation(1, "read", 2, "ok", "x", (), [1], 3)]).holds
    assert not judge([append, Operation(1, "read", 2, "ok", "x", (), [], 3)]).holds


def test_a_value_appended_twice_tells_nothing() -> None:
    with pytest.raises(ConfigError, match="two appends of 1 to key 'x': values must be unique"):
        judge([txn(0, 1, ("a", "x", 1)), txn(2, 3, ("a", "x", 1))])


@pytest.mark.parametrize(
    ("arguments", "result", "sentence"),
    [
        ((["append", "x", 1],), None, "a list with one answer for each part"),
        ((["push", "x", 1],), [None], "each part of txn is"),
        ((["read", "x"],), [1], "the answer to a read is a list"),
    ],
)
def test_malformed_transactions_are_refused(arguments: tuple[Any, ...], result: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        judge([Operation(1, "txn", 0, "ok", None, arguments, result, 1)])


def test_the_cycle_with_the_plainest_edges_is_told() -> None:
    graph: Graph = [{} for _ in range(6)]
    for before, after in ((0, 1), (1, 2), (2, 0)):
        add_edge(graph, before, after, Edge.WRITE_WRITE)
    add_edge(graph, 3, 4, Edge.READ_WRITE)
    add_edge(graph, 4, 3, Edge.READ_WRITE)
    assert sorted(shortest_cycle(graph)) == [0, 1, 2]
    del graph[2][0]
    assert sorted(shortest_cycle(graph)) == [3, 4]
    del graph[4][3]
    assert shortest_cycle(graph) == []
