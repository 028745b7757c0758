"""Who leads what is not here: hints that are never older than what is known, and questions that are not too many."""

import pytest

from noctule.base.ids import GroupId, Instant
from noctule.core.placement.partition_map import Partition
from noctule.node.leader_hints import ASK_INTERVAL_S, LeaderHints
from tests.unit.node.maps import even_map

GROUP, OTHER = GroupId(1), GroupId(2)


class Node:
    """Node 1, which holds nothing; partitions are on 2, 3 and 4."""

    def __init__(self) -> None:
        self.now = Instant(0.0)
        self.connected = {2, 3, 4}
        self.partitions = even_map(2, (2, 3, 4))
        self.hints = LeaderHints(1, self.partitions, lambda node: node in self.connected, lambda: self.now)


@pytest.fixture
def node() -> Node:
    return Node()


def test_an_earlier_term_is_no_news(node: Node) -> None:
    assert node.hints.learn(GROUP, 3, 7)
    assert not node.hints.learn(GROUP, 2, 6)
    assert not node.hints.learn(GROUP, 3, 7)
    assert node.hints.get(GROUP) == (3, 7)
    assert node.hints.learn(GROUP, 2, 8)
    assert (node.hints.get(GROUP), node.hints.get(OTHER)) == ((2, 8), (0, 0))


@pytest.mark.parametrize(("group", "leader", "term"), [(GROUP, 0, 7), (GROUP, 1, 7), (GROUP, 2, 0), (99, 2, 7)])
def test_what_cannot_be_a_hint_is_none(node: Node, group: int, leader: int, term: int) -> None:
    """Nobody, this node itself, no term, a group that is not in the map: no bound would hold for those."""
    assert not node.hints.learn(GroupId(group), leader, term)
    assert node.hints.get(GroupId(group)) == (0, 0)


def test_who_refuses_does_not_lead_unless_it_says_so(node: Node) -> None:
    node.hints.learn(GROUP, 3, 7)
    node.hints.refused(GROUP, 2, 0, 0)
    assert node.hints.get(GROUP) == (3, 7)
    node.hints.refused(GROUP, 3, 0, 0)
    assert node.hints.get(GROUP) == (0, 7)
    node.hints.refused(GROUP, 3, 4, 8)
    assert node.hints.get(GROUP) == (4, 8)


def test_after_a_refusal_the_same_leader_and_term_may_be_told_again(node: Node) -> None:
    """It may have refused for its load, and leads all the while."""
    node.hints.learn(GROUP, 3, 7)
    node.hints.refused(GROUP, 3, 3, 7)
    assert node.hints.get(GROUP) == (3, 7)


def test_a_leader_that_cannot_be_reached_is_none(node: Node) -> None:
    node.hints.learn(GROUP, 3, 7)
    node.connected.discard(3)
    assert node.hints.get(GROUP) == (0, 7)
    node.connected.add(3)
    assert node.hints.get(GROUP) == (3, 7)
    node.hints.peer_lost(3)
    assert node.hints.get(GROUP) == (0, 7)
    assert not node.hints.learn(GROUP, 2, 6)


def test_holders_are_asked_in_turn_and_not_too_often(node: Node) -> None:
    asked = []
    for _ in range(7):
        asked.append(node.hints.whom_to_ask(GROUP))
        node.now = Instant(node.now + ASK_INTERVAL_S * 0.6)
    assert asked == [2, 0, 3, 0, 4, 0, 2]


def test_only_holders_that_are_there_are_asked(node: Node) -> None:
    node.connected = {3}
    node.partitions.put(Partition(OTHER, 8_192, 16_383, (1, 2)))
    assert [node.hints.whom_to_ask(group) for group in (GROUP, OTHER, GroupId(99))] == [3, 0, 0]


def test_after_a_hint_the_next_question_need_not_wait(node: Node) -> None:
    node.hints.whom_to_ask(GROUP)
    node.hints.learn(GROUP, 3, 7)
    node.hints.peer_lost(3)
    assert node.hints.whom_to_ask(GROUP) == 2


def test_partitions_that_are_no_more_are_forgotten(node: Node) -> None:
    node.hints.learn(GROUP, 3, 7)
    node.hints.whom_to_ask(GROUP)
    node.partitions.remove(GROUP)
    node.hints.map_changed()
    assert node.hints.get(GROUP) == (0, 0)
    assert not node.hints._asked
