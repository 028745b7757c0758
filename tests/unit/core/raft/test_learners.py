"""Learners get the log and have no voice: thesis 4.2.1."""

import pytest

from noctule.core.raft import events as raft
from noctule.core.raft.membership import Change, ChangeKind, Membership
from noctule.core.raft.messages import AppendReply, HeartbeatReply, TimeoutNow, VoteReply, VoteRequest
from noctule.verify.sim.driving import Group, chosen

VOTER, LEARNER, REMOVED = ChangeKind.VOTER, ChangeKind.LEARNER, ChangeKind.REMOVED
SIMPLE, EXPLICIT = raft.Transition.SIMPLE, raft.Transition.JOINT_EXPLICIT


def beats(group: Group, leader: int, *among: int, count: int = 4) -> None:
    """Let the leader's time pass and everything arrive among these nodes, all by default."""
    for _ in range(count):
        group.tick(group.config.heartbeat_s, [leader])
        group.stabilise_among(*(among or group.members))


def test_a_learner_applies_what_is_committed() -> None:
    group = Group(3, learners=[4])
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise()
    beats(group, 1)
    assert group.applied[4] == [b"a"]


def test_its_disk_counts_for_nothing() -> None:
    group = Group(3, learners=[4, 5])
    group.elect(1)
    group.propose(1, b"a")
    beats(group, 1, 1, 4, 5)
    assert (group.state(1).commit, group.state(1).peers[4].match, group.state(1).peers[5].match) == (1, 2, 2)
    group.give(1, raft.Received(2, AppendReply(1, True, 2)))
    assert group.state(1).commit == 2


def test_its_word_keeps_no_leader_and_confirms_no_read() -> None:
    group = Group(3, learners=[4, 5])
    group.elect(1)
    group.read_index(1, 7)
    beats(group, 1, 1, 4, 5, count=50)
    assert group.state(1).role == "follower"
    assert not any(isinstance(effect, raft.ReadReady) for effect in group.effects[1])


@pytest.mark.parametrize("pre", [True, False])
def test_its_vote_counts_for_nothing(*, pre: bool) -> None:
    group = Group(3, learners=[4, 5])
    group.campaign(1)
    if not pre:
        group.stabilise(lambda _sender, _to, message: not isinstance(message, VoteReply) or message.pre)
    role = group.state(1).role
    assert role == ("pre-candidate" if pre else "candidate")
    for learner in (4, 5):
        group.give(1, raft.Received(learner, VoteReply(1, True, pre)))
    assert group.state(1).role == role


def test_nobody_asks_a_learner_for_its_vote() -> None:
    group = Group(3, learners=[4])
    group.campaign(1)
    group.deliver()
    group.deliver()
    asked = [letter.to for letter in group.mail if isinstance(letter.message, VoteRequest)]
    assert (group.state(1).role, asked) == ("candidate", [2, 3])


def test_a_learner_never_campaigns_and_is_never_handed_the_lead() -> None:
    group = Group(3, learners=[4])
    group.elect(1)
    group.transfer(1, 4)
    assert raft.Proposed(2, 1) in group.propose(1, b"a")
    group.stabilise()
    group.give(4, raft.Received(1, TimeoutNow(1)))
    group.suspect(4, 1)
    group.tick(100.0, [4])
    assert (group.state(4).role, group.state(4).term, group.mail) == ("follower", 1, [])


def test_a_learner_that_is_asked_votes() -> None:
    """It may be a voter of a membership that has not come here yet."""
    group = Group(3, learners=[4])
    group.give(4, raft.Received(1, VoteRequest(5, 0, 0, False)))
    assert [letter.message for letter in group.mail] == [VoteReply(5, True, False)]


def test_a_new_server_catches_up_as_a_learner_and_counts_from_then_on() -> None:
    group = Group(2)
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise()
    group.join(3)
    group.change(1, Change(LEARNER, 3), transition=SIMPLE)
    group.stabilise()
    beats(group, 1)
    assert group.applied[3] == [b"a"]
    group.change(1, Change(VOTER, 3), transition=SIMPLE)
    group.stabilise()
    group.propose(1, b"b")
    beats(group, 1, 1, 3)
    assert group.applied[1] == [b"a", b"b"]
    group.crash(1)
    group.elect(3, among=(2, 3))
    assert group.applied[3] == [b"a", b"b"]


def test_a_new_server_gets_the_snapshot_and_with_it_the_membership() -> None:
    group = Group(2)
    group.elect(1)
    for data in (b"a", b"b"):
        group.propose(1, data)
    group.stabilise()
    group.compact(1)
    group.join(3)
    group.change(1, Change(LEARNER, 3), transition=SIMPLE)
    group.stabilise(chosen("Append", to=2))
    group.give(1, raft.Received(2, AppendReply(1, True, 4)))
    group.stabilise_among(1, 3)
    beats(group, 1, 1, 3)
    assert group.state(3).snapshot == (3, 1)
    assert (group.applied[3], group.state(3).membership) == ([b"a", b"b"], Membership(voters=(1, 2), learners=(3,)))
    assert group.nodes[3].log.membership_at(3) == Membership(voters=(1, 2))


def test_a_voter_that_is_to_be_a_learner_has_its_vote_until_the_group_leaves() -> None:
    group = Group()
    group.elect(1)
    group.join(4)
    group.change(1, Change(LEARNER, 3), Change(VOTER, 4), transition=EXPLICIT)
    group.stabilise()
    assert group.state(1).membership.learners_next == (3,)
    group.propose(1, b"a")
    beats(group, 1, 1, 3, 4)
    assert group.applied[1] == [b"a"], "a majority of 1, 2, 3 and one of 1, 2, 4"
    group.leave_joint(1)
    beats(group, 1)
    assert group.state(3).membership == Membership(voters=(1, 2, 4), learners=(3,))
    group.propose(1, b"b")
    beats(group, 1, 1, 3)
    assert group.applied[1] == [b"a"]
    group.tick(100.0, [3])
    assert group.state(3).role == "follower"


def test_a_leader_that_becomes_a_learner_hands_over_and_follows() -> None:
    group = Group()
    group.elect(1)
    before = group.now
    group.change(1, Change(LEARNER, 1))
    group.stabilise()
    assert [group.state(node).role for node in (1, 2, 3)] == ["follower", "leader", "follower"]
    assert group.now == before
    group.propose(2, b"a")
    group.stabilise()
    beats(group, 2)
    assert (group.applied[1], group.state(1).leader) == ([b"a"], 2)


def test_a_learner_that_is_removed_is_told_and_forgotten() -> None:
    group = Group(3, learners=[4])
    group.elect(1)
    group.change(1, Change(REMOVED, 4), transition=SIMPLE)
    group.stabilise()
    assert set(group.state(1).peers) == {2, 3}
    assert group.state(4).commit == 2
    group.give(1, raft.Received(4, HeartbeatReply(1, 9)))
    assert set(group.state(1).peers) == {2, 3}
