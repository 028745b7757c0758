"""A member that lost its disk comes back under another directory (KIP-853, ADR 0013): a learner, then a voter again."""

import pytest

from noctule.core.raft import events as raft
from noctule.core.raft.membership import Change, ChangeKind, Membership
from noctule.core.raft.messages import AppendReply, HeartbeatReply, TimeoutNow, VoteReply, VoteRequest
from noctule.verify.sim.driving import Group, chosen

VOTER, LEARNER, REMOVED = ChangeKind.VOTER, ChangeKind.LEARNER, ChangeKind.REMOVED
SIMPLE, EXPLICIT = raft.Transition.SIMPLE, raft.Transition.JOINT_EXPLICIT

THREE = Membership(voters=(1, 2, 3))
OUT = Membership(voters=(1, 2), learners=(3,), returning=(3,), directories=((3, 7),))
BACK = Membership(voters=(1, 2, 3), directories=((3, 7),))


def beats(group: Group, leader: int, *among: int, count: int = 6) -> None:
    """Let the leader's time pass and everything arrive among these nodes, all by default."""
    for _ in range(count):
        group.tick(group.config.heartbeat_s, [leader])
        group.stabilise_among(*(among or group.members))


def lost(entries: int = 1, node: int = 3) -> Group:
    """Node 1 leads; the node has lost its disk, with so many proposals on it, and came back as directory 7."""
    group = Group()
    group.elect(1)
    for _ in range(entries):
        group.propose(1, b"x")
        group.stabilise()
    beats(group, 1)
    group.crash(node)
    group.lose_disk(node, 7)
    return group


def readmitted(entries: int = 1) -> Group:
    """As `lost`, and the leader has heard of it once: the readmission is committed, node 3 has nothing yet."""
    group = lost(entries)
    group.tick(group.config.heartbeat_s, [1])
    group.deliver(chosen("Heartbeat"))
    group.deliver(chosen("HeartbeatReply"))
    group.stabilise_among(1, 2)
    assert (group.state(1).membership, group.state(3).log_terms) == (OUT, ())
    assert group.state(1).commit == group.state(1).membership_index
    return group


def memberships(group: Group, node: int) -> list[Membership]:
    """Those that the node committed, in order."""
    return [e.membership for e in group.effects[node] if isinstance(e, raft.MembershipChanged) and e.committed]


def test_it_is_a_learner_and_once_it_has_caught_up_a_voter_again() -> None:
    group = lost()
    beats(group, 1)
    assert memberships(group, 1) == memberships(group, 3) == [OUT, BACK]
    assert group.applied[3] == [b"x"]
    group.propose(1, b"y")
    beats(group, 1, 1, 3)
    assert group.applied[1] == [b"x", b"y"], "its disk counts again"
    group.crash(1)
    group.elect(3, among=(2, 3))


# While it is not back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre", [True, False])
def test_it_does_not_vote_for_it_may_have_voted_in_that_term(*, pre: bool) -> None:
    group = lost()
    group.tick(5.0, [])
    group.give(3, raft.Received(2, VoteRequest(9, 99, 9, pre)))
    assert [letter.message.granted for letter in group.mail if isinstance(letter.message, VoteReply)] == [False]


def test_it_does_not_campaign_not_even_when_told() -> None:
    group = lost()
    group.tick(100.0, [3])
    group.give(3, raft.Received(1, TimeoutNow(0)))
    assert (group.state(3).role, group.state(3).term) == ("follower", 0)


def test_it_does_not_vote_while_its_readmission_may_be_taken_back() -> None:
    group = lost()
    group.tick(group.config.heartbeat_s, [1])
    group.deliver(chosen("Heartbeat"))
    group.deliver(chosen("HeartbeatReply"))
    for _ in range(4):
        group.stabilise(chosen("Append", to=3))
        group.give(1, raft.Received(3, AppendReply(1, False, group.state(1).peers[3].next - 1, 0, 0, 7)))
    assert (group.state(3).membership, group.state(3).commit) == (OUT, 2)
    group.mail.clear()
    group.tick(5.0, [])
    group.give(3, raft.Received(2, VoteRequest(9, 99, 9, False)))
    assert [letter.message for letter in group.mail] == [VoteReply(9, False, False, 7)]


def test_what_the_lost_directory_said_counts_no_more() -> None:
    """Acknowledgements and votes that are late on their way from before."""
    group = readmitted()
    group.propose(1, b"y")
    last = len(group.state(1).log_terms)
    for _ in range(2):
        group.give(1, raft.Received(3, AppendReply(1, True, last)))
        group.give(1, raft.Received(3, HeartbeatReply(1, 99)))
    assert group.state(1).peers[3].match == 0
    assert group.state(1).membership == OUT
    group.crash(1)
    group.campaign(2)
    group.give(2, raft.Received(3, VoteReply(2, True, True)))
    assert group.state(2).role == "pre-candidate"


@pytest.mark.parametrize("accepted", [True, False])
def test_by_what_an_unknown_directory_says_the_leader_learns_of_it_and_nothing_else(*, accepted: bool) -> None:
    group = lost()
    group.propose(1, b"y")
    group.mail.clear()
    group.give(1, raft.Received(3, AppendReply(1, accepted, 3, 0, 0, 7)))
    assert (group.state(1).commit, group.state(1).membership) == (2, OUT)
    assert group.state(1).peers[3].match == 0


def test_until_the_leader_may_change_the_membership_it_waits() -> None:
    group = lost()
    group.change(1, Change(LEARNER, 4), transition=SIMPLE)
    reply = raft.Received(3, HeartbeatReply(1, 0, 7))
    group.give(1, reply)
    assert group.state(1).membership == Membership(voters=(1, 2, 3), learners=(4,))
    group.mail = [letter for letter in group.mail if letter.to != 4]
    group.stabilise_among(1, 2)
    group.give(1, reply)
    assert group.state(1).membership.returning == (3,)


@pytest.mark.parametrize("returned", [False, True])
def test_only_votes_of_the_directory_that_the_candidate_knows_count(*, returned: bool) -> None:
    group = lost()
    if returned:
        beats(group, 1)
    known, other = (7, 0) if returned else (0, 7)
    group.crash(1)
    group.mail.clear()
    group.tick(2 * group.config.election_timeout_s_max, [])
    for pre, role in ((True, "pre-candidate"), (False, "candidate")):
        if pre:
            group.campaign(2)
        group.give(2, raft.Received(3, VoteReply(2, True, pre, other)))
        assert group.state(2).role == role
        group.give(2, raft.Received(3, VoteReply(2, True, pre, known)))
    assert group.state(2).role == "leader"


# On its way back ------------------------------------------------------------------------------------------------------


def test_it_returns_only_when_it_has_nearly_everything() -> None:
    """Thesis 4.2.1. It has its own readmission here, and still misses so much that it would hold up commits."""
    group = readmitted()
    for _ in range(130):
        group.propose(1, b"x" * 90)
        group.stabilise_among(1, 2)
    group.tick(group.config.heartbeat_s, [1])
    while group.state(1).peers[3].match < group.state(1).membership_index:
        group.deliver()
        group.tick(group.config.heartbeat_s, [1])
    assert group.state(1).membership == OUT
    for _ in range(200):
        group.deliver()
        group.tick(group.config.heartbeat_s, [1])
    assert group.state(1).membership == BACK


def test_it_returns_though_the_group_is_idle_once_nothing_stands_in_the_way() -> None:
    """It caught up while leadership was being handed over, which failed; nothing was sent to it afterwards."""
    group = readmitted()
    group.propose(1, b"y")
    group.transfer(1, 2)
    beats(group, 1, 1, 3)
    assert group.state(1).peers[3].match == group.nodes[1].log.last_index
    assert group.state(1).membership == OUT
    group.tick(group.config.election_timeout_s_min, [1])
    beats(group, 1)
    assert group.state(1).membership == BACK


def test_it_returns_while_the_group_is_never_idle() -> None:
    """It is always a few entries behind then."""
    group = readmitted()
    for _ in range(12):
        for _ in range(3):
            group.propose(1, b"more")
        group.tick(group.config.heartbeat_s, [1])
        group.deliver()
    assert group.state(1).membership == BACK
    assert group.state(3).log_terms != group.state(1).log_terms


def test_it_gets_a_snapshot_when_the_log_begins_too_late() -> None:
    group = lost()
    group.compact(1)
    beats(group, 1)
    assert group.state(3).snapshot == (2, 1)
    assert (group.applied[3], group.state(3).membership) == ([b"x"], BACK)


@pytest.mark.parametrize("entries", [1, 130])
def test_it_waits_while_the_group_is_joint_and_returns_afterwards(entries: int) -> None:
    """Its answer made the leader change a joint membership in a simple step, which is refused by an exception."""
    group = readmitted(entries)
    group.join(4)
    group.change(1, Change(VOTER, 4), transition=EXPLICIT)
    group.stabilise_among(1, 2, 4)
    beats(group, 1, count=30)
    assert (group.state(1).role, group.state(1).membership.is_joint()) == ("leader", True)
    assert group.state(1).membership.returning == (3,)
    group.leave_joint(1)
    beats(group, 1)
    assert group.state(3).membership == Membership(voters=(1, 2, 3, 4), directories=((3, 7),))


def test_a_disk_lost_while_the_group_is_joint_is_readmitted_afterwards() -> None:
    group = lost()
    group.join(4)
    group.change(1, Change(VOTER, 4), transition=EXPLICIT)
    group.stabilise_among(1, 2, 4)
    beats(group, 1)
    assert group.state(1).membership.directories == ()
    group.leave_joint(1)
    beats(group, 1)
    assert group.state(3).membership == Membership(voters=(1, 2, 3, 4), directories=((3, 7),))


@pytest.mark.parametrize("reached", [(), (2,)])
def test_the_next_leader_completes_it_whether_it_knows_of_it_or_not(reached: tuple[int, ...]) -> None:
    group = Group(5)
    group.elect(1)
    group.crash(5)
    group.lose_disk(5, 7)
    group.tick(group.config.heartbeat_s, [1])
    group.deliver(chosen("Heartbeat"))
    group.deliver(chosen("HeartbeatReply"))
    group.deliver(lambda _sender, to, _message: to in reached)
    assert [group.state(node).membership.returning for node in (1, 2)] == [(5,), (5,) if reached else ()]
    group.crash(1)
    group.mail.clear()
    group.elect(2, among=(2, 3, 4))
    beats(group, 2, 2, 3, 4, 5)
    assert group.state(5).membership == Membership(voters=(1, 2, 3, 4, 5), directories=((5, 7),))
    assert len(memberships(group, 2)) == 2
    group.start(1)
    beats(group, 2)
    assert group.state(1).membership == group.state(5).membership


def test_a_leader_that_lost_its_own_disk_is_taken_back_by_the_next() -> None:
    group = lost(node=1)
    group.elect(2, among=(2, 3))
    beats(group, 2)
    assert group.state(1).membership == Membership(voters=(1, 2, 3), directories=((1, 7),))
    assert group.applied[1] == [b"x"]


def test_a_disk_lost_twice() -> None:
    group = readmitted()
    group.deliver()
    group.crash(3)
    group.lose_disk(3, 8)
    beats(group, 1)
    assert group.state(3).membership == Membership(voters=(1, 2, 3), directories=((3, 8),))
    assert memberships(group, 1)[-2].returning == (3,)


def test_a_late_word_of_an_earlier_lost_directory_costs_a_detour_and_counts_nothing() -> None:
    """Ids have no order, so the leader cannot know which of two was lost first: it takes the other one back, and then
    this one again."""
    group = lost()
    beats(group, 1)
    group.crash(3)
    group.lose_disk(3, 8)
    beats(group, 1)
    group.propose(1, b"y")
    group.stabilise_among(1)
    last = group.nodes[1].log.last_index
    group.give(1, raft.Received(3, AppendReply(1, True, last, 0, 0, 7)))
    assert group.state(1).commit < last
    beats(group, 1)
    assert group.state(3).membership == Membership(voters=(1, 2, 3), directories=((3, 8),))
    assert group.applied[3] == [b"x", b"y"]


def test_a_learner_that_lost_its_disk_stays_a_learner() -> None:
    group = Group(2, learners=[3])
    group.elect(1)
    group.crash(3)
    group.lose_disk(3, 7)
    beats(group, 1)
    assert group.state(3).membership == Membership(voters=(1, 2), learners=(3,), directories=((3, 7),))


def test_a_node_that_lost_its_disk_while_it_was_out_is_not_mistaken_when_it_is_added_again() -> None:
    group = Group()
    group.elect(1)
    group.change(1, Change(REMOVED, 3), transition=SIMPLE)
    group.stabilise()
    group.crash(3)
    group.lose_disk(3, 7)
    beats(group, 1)
    assert group.state(1).membership == Membership(voters=(1, 2))
    group.change(1, Change(VOTER, 3), transition=SIMPLE)
    beats(group, 1)
    assert group.state(3).membership == BACK
    assert OUT in memberships(group, 1)


def test_the_only_voter_cannot_be_readmitted_by_anyone() -> None:
    group = Group(1, learners=[2])
    group.elect(1)
    group.crash(1)
    group.lose_disk(1, 7)
    group.tick(100.0)
    group.stabilise()
    assert [group.state(node).role for node in (1, 2)] == ["follower", "follower"]


def test_it_is_still_back_after_a_restart_of_everyone() -> None:
    group = lost()
    beats(group, 1)
    group.compact(1)
    for node in (1, 2, 3):
        group.crash(node)
    for node in (1, 2, 3):
        group.start(node)
    assert [group.state(node).membership for node in (1, 2, 3)] == [BACK] * 3
    group.elect(3, among=(2, 3))
