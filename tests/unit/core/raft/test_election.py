"""Elections: paper 5.2 and 5.4.1, thesis 4.2.3, 6.2 and 9.6, and bugs that others shipped."""

import pytest

from noctule.base.errors import InternalError
from noctule.base.ids import Instant
from noctule.core.raft import events as raft
from noctule.core.raft.messages import (
    Append,
    AppendReply,
    HardState,
    Heartbeat,
    HeartbeatReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from noctule.core.raft.node import Role
from noctule.verify.sim.driving import Group, log_of


def replies(group: Group, kind: type) -> list:
    return [message for _, _, message in group.mail if isinstance(message, kind)]


def test_a_group_elects_one_leader_which_commits_a_no_op() -> None:
    group = Group()
    leader = group.elect(1)
    assert (leader.role, leader.term, leader.commit) == (Role.LEADER, 1, 1)
    assert [group.nodes[voter].leader for voter in (2, 3)] == [1, 1]
    assert leader.log.between(1, 1)[0].data == b""


def test_a_single_voter_leads_once_its_own_vote_is_durable_and_commits_once_its_entry_is() -> None:
    group = Group(1)
    group.holds_disk = {1}
    group.tick(2.0)
    assert not group.nodes[1].is_leader()
    group.sync(1)
    assert group.nodes[1].is_leader()
    assert group.nodes[1].commit == 0
    group.sync(1)
    assert group.nodes[1].commit == 1


def test_the_only_voter_of_a_group_with_learners_leads_once_in_a_term() -> None:
    """It sent entries before its vote for itself was durable, crashed, and led again in the same term with others."""
    group = Group(1, learners=[2])
    group.hold(1)
    group.campaign(1)
    assert group.mail == []
    group.crash(1)
    group.start(1)
    group.campaign(1)
    group.release(1)
    group.stabilise()
    assert (group.state(1).role, group.state(2).log_terms) == ("leader", (1,))


def test_a_vote_leaves_only_when_it_is_durable() -> None:
    """bakwc/PySyncObj#202: term and vote not durable before the reply."""
    group = Group()
    group.holds_disk = {2}
    group.give(2, raft.Received(1, VoteRequest(5, 0, 0, False)))
    assert replies(group, VoteReply) == []
    group.sync(2)
    assert replies(group, VoteReply) == [VoteReply(5, True, False)]
    assert group.disk[2].hard_state == HardState(5, 1)


def test_one_vote_for_each_term_and_a_restart_does_not_forget_it() -> None:
    """camunda/camunda#5356: two votes given in one term."""
    group = Group()
    group.give(2, raft.Received(1, VoteRequest(5, 0, 0, False)))
    group.start(2)
    group.mail.clear()
    group.give(2, raft.Received(3, VoteRequest(5, 9, 4, False)))
    assert replies(group, VoteReply) == [VoteReply(5, False, False)]


def test_a_repeated_vote_request_gets_the_same_answer() -> None:
    """vesoft-inc/nebula#2419: a repeated vote request refused."""
    group = Group()
    for _ in range(2):
        group.give(2, raft.Received(1, VoteRequest(5, 0, 0, False)))
    assert replies(group, VoteReply) == [VoteReply(5, True, False)] * 2


def test_a_repeated_vote_counts_once() -> None:
    """butaneprotocol/oracles#18: one voter's answer counted twice makes a leader of a minority."""
    group = Group(5)
    group.tick(2.0, [1])
    for _ in range(3):
        group.give(1, raft.Received(2, VoteReply(1, True, True)))
    assert group.nodes[1].role is Role.PRE_CANDIDATE
    group.give(1, raft.Received(3, VoteReply(1, True, True)))
    for _ in range(3):
        group.give(1, raft.Received(2, VoteReply(1, True, False)))
    assert group.nodes[1].role is Role.CANDIDATE


def test_stepping_down_within_a_term_keeps_the_vote() -> None:
    """hazelcast/hazelcast#16643: own vote erased when stepping down in the same term."""
    group = Group()
    group.tick(2.0, [1])
    group.stabilise(lambda _s, _t, message: not isinstance(message, VoteReply) or message.pre)
    node = group.nodes[1]
    assert (node.role, node.term, node.vote) == (Role.CANDIDATE, 1, 1)
    group.give(1, raft.Received(2, Heartbeat(1, 0, 0)))
    assert (node.role, node.vote) == (Role.FOLLOWER, 1)


@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"),
    [(2, 2, False), (3, 2, True), (4, 2, True), (1, 3, True), (9, 1, False)],
)
def test_only_a_log_at_least_as_new_gets_the_vote(last_index: int, last_term: int, *, granted: bool) -> None:
    """Paper 5.4.1: the later last term wins, then the longer log."""
    for pre in (False, True):
        group = Group()
        group.start(2, log_of(1, 1, 2), HardState(2, 0))
        group.give(2, raft.Received(1, VoteRequest(7, last_index, last_term, pre)))
        assert [reply.granted for reply in replies(group, VoteReply)] == [granted]


def test_a_pre_vote_moves_nobody_s_term() -> None:
    """Thesis 9.6."""
    group = Group()
    group.give(2, raft.Received(1, VoteRequest(8, 0, 0, True)))
    assert (group.nodes[2].term, group.nodes[2].vote) == (0, 0)
    assert replies(group, VoteReply) == [VoteReply(8, True, True)]


def test_a_node_that_was_cut_off_comes_back_without_disturbing_the_leader() -> None:
    """canonical/raft#137: with pre-vote its term does not run ahead."""
    group = Group()
    group.elect(1)
    for _ in range(5):
        group.tick(1.1, [3])
        group.mail.clear()
    assert group.nodes[3].term == 1
    group.tick(0.0)
    group.stabilise()
    group.tick(0.06, [1])
    group.stabilise()
    assert group.nodes[1].is_leader()
    assert group.nodes[3].leader == 1


def test_who_hears_a_leader_grants_no_vote_even_to_a_higher_term() -> None:
    """Thesis 4.2.3."""
    group = Group()
    group.elect(1)
    for pre in (True, False):
        group.give(2, raft.Received(3, VoteRequest(9, 99, 9, pre)))
    assert group.nodes[2].term == 1
    assert [reply.granted for reply in replies(group, VoteReply)] == [False]


def test_a_replica_whose_term_ran_ahead_makes_the_leader_step_down_instead_of_being_lost() -> None:
    group = Group()
    group.elect(1)
    group.start(3, log_of(1), HardState(4, 3))
    group.tick(0.06, [1])
    group.stabilise()
    assert not group.nodes[1].is_leader()
    assert group.nodes[1].term == 4


def test_a_leader_without_a_quorum_steps_down() -> None:
    """Thesis 6.2; its clients then ask elsewhere instead of waiting for ever."""
    group = Group()
    leader = group.elect(1)
    for _ in range(3):
        group.tick(1.01, [1])
        group.mail.clear()
    assert leader.role is not Role.LEADER


def test_a_leader_with_a_quorum_stays() -> None:
    group = Group()
    leader = group.elect(1)
    for _ in range(100):
        group.tick(0.05, [1, 2])
        group.stabilise_among(1, 2)
    assert leader.is_leader()


def test_suspicion_makes_the_group_elect_within_the_suspicion_bound() -> None:
    """A killed process is replaced in tens of milliseconds: its connections close at once."""
    group = Group()
    group.elect(1)
    for voter in (2, 3):
        group.give(voter, raft.Suspect(1))
    assert min(group.nodes[voter].next_deadline() for voter in (2, 3)) <= group.now + group.config.suspicion_s_max
    for _ in range(3):
        group.tick(group.config.suspicion_s_max, [2, 3])
        group.stabilise_among(2, 3)
    assert [group.nodes[voter].is_leader() for voter in (2, 3)].count(True) == 1


def test_suspicion_of_one_alone_does_not_depose_a_living_leader() -> None:
    group = Group()
    group.elect(1)
    group.give(2, raft.Suspect(1))
    group.tick(group.config.suspicion_s_max, [2])
    group.stabilise()
    group.tick(0.05, [1])
    group.stabilise()
    assert group.nodes[1].is_leader()
    assert group.nodes[2].leader == 1


def test_leadership_goes_over_to_a_follower_that_has_everything() -> None:
    """Thesis 3.10: without waiting for a timeout, though everyone hears the leader."""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.give(1, raft.TransferLeadership(2))
    assert any(isinstance(effect, raft.ProposalRefused) for effect in group.propose(1, b"b"))
    group.stabilise()
    assert group.nodes[2].is_leader()
    assert group.applied[2] == [b"a"]


def test_a_transfer_to_a_silent_follower_is_given_up() -> None:
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.give(1, raft.TransferLeadership(3))
    for _ in range(12):
        group.stabilise_among(1, 2)
        group.tick(0.05, [1, 2])
    assert any(isinstance(effect, raft.Proposed) for effect in group.propose(1, b"b"))


def test_timeout_now_of_an_earlier_term_is_ignored() -> None:
    group = Group()
    group.elect(1)
    group.elect(2)
    group.give(3, raft.Received(1, TimeoutNow(1)))
    assert group.nodes[3].role is Role.FOLLOWER


def test_two_leaders_in_one_term_are_an_invariant_broken() -> None:
    group = Group()
    group.elect(1)
    with pytest.raises(InternalError, match="one leader for each term"):
        group.give(1, raft.Received(2, Append(1, 0, 0, 0, [])))


def test_a_candidate_of_a_membership_unknown_here_gets_the_vote() -> None:
    """Thesis 4.1: servers process requests of servers that are not in their own, perhaps outdated configuration."""
    group = Group()
    group.give(1, raft.Received(9, VoteRequest(5, 9, 9, False)))
    assert (group.nodes[1].term, group.nodes[1].vote) == (5, 9)


def test_what_a_stranger_says_to_a_leader_counts_nothing() -> None:
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    for stranger in (8, 9):
        group.give(1, raft.Received(stranger, AppendReply(1, True, 2)))
        group.give(1, raft.Received(stranger, HeartbeatReply(1, 9)))
    assert (group.state(1).commit, sorted(group.state(1).peers)) == (1, [2, 3])


def test_waits_are_drawn_anew_within_their_bounds() -> None:
    """Paper 9.3: randomised, or votes split for ever."""
    group = Group()
    waits = set()
    for _ in range(50):
        group.now = Instant(group.now + 0.01)
        group.give(2, raft.Received(1, Heartbeat(1, 0, 0)))
        waits.add(round(group.nodes[2].next_deadline() - group.now, 6))
    assert len(waits) > 40
    assert all(0.5 <= wait <= 1.0 for wait in waits)


def test_a_replica_in_the_place_of_an_earlier_one_elects_nobody_who_lacks_what_that_had() -> None:
    group = Group()
    group.nodes[2].promised = (1, 5)
    group.give(2, raft.Received(1, VoteRequest(2, 4, 1, False)))
    assert not replies(group, VoteReply)[-1].granted
    group.give(2, raft.Received(3, VoteRequest(3, 5, 1, False)))
    assert replies(group, VoteReply)[-1].granted


def test_a_replica_in_the_place_of_an_earlier_one_does_not_campaign_before_it_has_what_that_had() -> None:
    group = Group()
    group.nodes[2].promised = (1, 5)
    group.tick(2.0, [2])
    assert group.nodes[2].role is Role.FOLLOWER
    group.tick(2.0, [3])
    assert group.nodes[3].role is not Role.FOLLOWER
