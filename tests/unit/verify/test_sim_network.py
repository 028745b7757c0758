"""Which frames a cut network lets through."""

import pytest

from noctule.verify.sim.network import cuts_around, cuts_to_ring


@pytest.mark.parametrize(
    ("directions", "cuts"),
    [
        ("out", {(2, 1), (2, 3)}),
        ("in", {(1, 2), (3, 2)}),
        ("both", {(2, 1), (2, 3), (1, 2), (3, 2)}),
    ],
)
def test_a_node_is_isolated_in_one_direction_or_in_both(directions: str, cuts: set[tuple[int, int]]) -> None:
    assert cuts_around(2, [1, 3], directions) == cuts


@pytest.mark.parametrize("count", [4, 5, 7])
def test_in_a_ring_each_node_reaches_two_neighbours(count: int) -> None:
    nodes = range(1, count + 1)
    cuts = cuts_to_ring(nodes)
    for node in nodes:
        reached = {other for other in nodes if other != node and (node, other) not in cuts}
        assert reached == {(node - 2) % count + 1, node % count + 1}
        assert all((other, node) not in cuts for other in reached), "both ways"


def test_three_nodes_are_a_row() -> None:
    assert cuts_to_ring([1, 2, 3]) == {(1, 3), (3, 1)}
