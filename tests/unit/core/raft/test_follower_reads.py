"""Linearizable reads on followers and learners, through the leader's ReadIndex: thesis 6.4."""

import pytest

from noctule.core.raft import events as raft
from noctule.core.raft.messages import Append, ReadReply, ReadRequest
from noctule.verify.sim.driving import Group, chosen


def answers(group: Group, node: int) -> list[raft.Effect]:
    """What became of the node's reads, in order."""
    return [effect for effect in group.effects[node] if isinstance(effect, raft.ReadReady | raft.ReadRefused)]


@pytest.mark.parametrize("node", [2, 3, 4])
def test_a_read_is_ready_once_the_node_has_applied_what_the_leader_had_committed(node: int) -> None:
    """Node 4 is a learner."""
    group = Group(3, learners=[4])
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise()
    assert (group.state(1).commit, group.applied[node]) == (2, [])
    assert group.read_index(node, 7) == [raft.Send(1, ReadRequest(1, 7))]
    group.stabilise(lambda _sender, to, message: not (to == node and type(message).__name__ == "Heartbeat"))
    assert answers(group, node) == []
    assert not any(isinstance(effect, raft.ReadReady) for effect in group.effects[1]), "it is not the leader's read"
    group.tick(group.config.heartbeat_s, [1])
    group.stabilise()
    assert answers(group, node) == [raft.ReadReady(7, 2)]
    assert group.applied[node] == [b"a"]


def test_the_leader_asks_a_majority_after_the_question_came() -> None:
    group = Group()
    group.elect(1)
    group.read_index(2, 7)
    group.deliver(chosen("ReadRequest"))
    assert not any(isinstance(letter.message, ReadReply) for letter in group.mail)
    group.deliver(chosen("Heartbeat"))
    group.deliver(chosen("HeartbeatReply"))
    assert [(to, message) for _, to, message in group.mail if isinstance(message, ReadReply)] == [
        (2, ReadReply(1, 7, 1))
    ]


def test_the_leader_answers_nobody_before_its_own_term_s_commit() -> None:
    group = Group()
    group.tick(2 * group.config.election_timeout_s_max, [1])
    group.stabilise(lambda _sender, _to, message: not isinstance(message, Append))
    assert (group.state(1).role, group.state(2).leader) == ("leader", 1)
    group.read_index(2, 7)
    group.stabilise(lambda _sender, _to, message: not isinstance(message, Append))
    assert answers(group, 2) == []
    for _ in range(3):
        group.tick(group.config.heartbeat_s, [1])
        group.stabilise()
    assert answers(group, 2) == [raft.ReadReady(7, 1)]


def test_a_leader_of_the_past_answers_nobody() -> None:
    group = Group(5)
    group.elect(1)
    group.elect(3, among=(3, 4, 5))
    group.propose(3, b"a")
    group.stabilise_among(3, 4, 5)
    group.read_index(2, 7)
    group.stabilise_among(1, 2)
    assert answers(group, 2) == []
    group.tick(group.config.election_timeout_s_min, [2])
    assert answers(group, 2) == [raft.ReadRefused(7, 1)]


def test_without_a_leader_a_read_is_refused_at_once() -> None:
    group = Group()
    assert group.read_index(2, 7) == [raft.ReadRefused(7, 0)]


@pytest.mark.parametrize("lost", ["ReadRequest", "Heartbeat", "HeartbeatReply", "ReadReply"])
def test_a_read_that_gets_no_answer_is_refused_within_the_shortest_election_timeout(lost: str) -> None:
    group = Group()
    group.elect(1)
    group.read_index(2, 7)
    group.stabilise(lambda _sender, _to, message: type(message).__name__ != lost)
    assert group.nodes[2].next_deadline() <= group.now + group.config.election_timeout_s_min
    group.tick(group.config.election_timeout_s_min * 0.99, [2])
    assert answers(group, 2) == []
    group.tick(group.config.election_timeout_s_min * 0.02, [2])
    assert answers(group, 2) == [raft.ReadRefused(7, 1)]


@pytest.mark.parametrize("answered", [False, True])
def test_a_change_of_leader_refuses_reads_at_once(*, answered: bool) -> None:
    """Also one that only waits for entries to be applied: they may be a long time coming."""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise()
    group.read_index(2, 7)
    if answered:
        group.stabilise(lambda _sender, to, message: not (to == 2 and type(message).__name__ == "Heartbeat"))
    group.mail.clear()
    group.transfer(1, 3)
    group.stabilise_among(1, 3)
    assert answers(group, 2) == []
    group.tick(group.config.heartbeat_s, [3])
    group.stabilise()
    assert answers(group, 2) == [raft.ReadRefused(7, 3)]


def test_answers_that_come_late_or_twice_count_once() -> None:
    group = Group()
    group.elect(1)
    for context in (7, 8):
        group.read_index(2, context)
    group.deliver(chosen("ReadRequest"))
    group.deliver(chosen("Heartbeat"))
    group.deliver(chosen("HeartbeatReply"))
    group.double(chosen("ReadReply"))
    group.deliver(chosen("Heartbeat"))
    early = [letter for letter in group.mail if isinstance(letter.message, ReadReply) and letter.message.context == 7]
    group.mail = [letter for letter in group.mail if letter not in early]
    group.stabilise()
    assert answers(group, 2) == [raft.ReadReady(8, 1)]
    group.tick(group.config.election_timeout_s_min, [2])
    assert answers(group, 2)[1:] == [raft.ReadRefused(7, 1)]
    group.mail = early
    group.stabilise()
    assert len(answers(group, 2)) == 2


def test_a_follower_that_becomes_the_leader_refuses_what_it_had_asked_another() -> None:
    group = Group()
    group.elect(1)
    group.read_index(2, 7)
    group.mail.clear()
    group.transfer(1, 2)
    group.stabilise()
    assert answers(group, 2) == [raft.ReadRefused(7, 0)]
    group.read_index(2, 8)
    group.stabilise()
    assert answers(group, 2)[1:] == [raft.ReadReady(8, 2)]
