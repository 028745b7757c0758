"""Ongaro's thesis on changing who belongs to a cluster (chapter 4), and on reads without a log entry (6.2, 6.4).

Each test is named by its section and tells the claim. The thesis' non-voting members are learners here.
"""

from dataclasses import replace

import pytest

from noctule.core.raft import events as raft
from noctule.core.raft.membership import Change, ChangeKind, Membership
from noctule.core.raft.messages import Append, Entry, VoteReply, VoteRequest
from noctule.verify.sim.driving import TINY, Group, chosen

VOTER, LEARNER, REMOVED = ChangeKind.VOTER, ChangeKind.LEARNER, ChangeKind.REMOVED
SIMPLE, JOINT, EXPLICIT = raft.Transition.SIMPLE, raft.Transition.JOINT, raft.Transition.JOINT_EXPLICIT


def beats(group: Group, leader: int, *among: int, count: int = 6) -> None:
    """Let the leader's time pass and everything arrive among these nodes, all by default."""
    for _ in range(count):
        group.tick(group.config.heartbeat_s, [leader])
        group.stabilise_among(*(among or group.members))


def led(voters: int = 3) -> Group:
    """Node 1 leads, and everyone has committed the no-op of its term."""
    group = Group(voters)
    group.elect(1)
    beats(group, 1, count=1)
    return group


def was_refused(effects: list[raft.Effect]) -> bool:
    """Whether a change was."""
    return any(isinstance(effect, raft.MembershipRefused) for effect in effects)


# 4.1 Safety -----------------------------------------------------------------------------------------------------------


def test_4_1_one_server_at_a_time() -> None:
    """“Raft restricts the types of changes that are allowed: only one server can be added or removed from the cluster
    at once.”"""
    group = led()
    assert was_refused(group.change(1, Change(VOTER, 4), Change(VOTER, 5), transition=SIMPLE))
    assert was_refused(group.change(1, Change(VOTER, 4), Change(REMOVED, 3), transition=SIMPLE))
    assert not was_refused(group.change(1, Change(VOTER, 4), transition=SIMPLE))


def test_4_1_the_new_configuration_takes_effect_as_soon_as_it_is_in_the_log() -> None:
    """“The new configuration takes effect on each server as soon as it is added to that server's log”"""
    group = led()
    group.change(1, Change(REMOVED, 3), transition=SIMPLE)
    assert group.state(1).membership == Membership(voters=(1, 2))
    group.deliver(chosen("Append", to=2))
    assert (group.state(2).membership, group.state(2).commit) == (Membership(voters=(1, 2)), 1)


def test_4_1_a_majority_of_the_new_configuration_commits_it() -> None:
    """“a majority of the new configuration is used to determine the Cnew entry's commitment.”"""
    group = led()
    group.join(4)
    group.change(1, Change(VOTER, 4), transition=SIMPLE)
    beats(group, 1, 1, 2)
    assert group.state(1).commit == 1
    beats(group, 1, 1, 2, 4)
    assert group.state(1).commit == 2


def test_4_1_a_server_falls_back_when_the_entry_is_removed() -> None:
    """“a server must be prepared to fall back to the previous configuration in its log.”"""
    group = led()
    group.change(1, Change(REMOVED, 3), transition=SIMPLE)
    group.mail.clear()
    group.elect(2, among=(2, 3))
    beats(group, 2)
    assert group.state(1).membership == Membership(voters=(1, 2, 3))


def test_4_1_the_next_change_waits_for_the_commit_of_this_one() -> None:
    """Commitment of Cnew allows that “further configuration changes can be started.”"""
    group = led()
    group.change(1, Change(LEARNER, 3), transition=SIMPLE)
    assert was_refused(group.change(1, Change(VOTER, 3), transition=SIMPLE))
    group.stabilise()
    assert not was_refused(group.change(1, Change(VOTER, 3), transition=SIMPLE))


def test_4_1_a_server_without_the_new_configuration_cannot_be_elected_once_it_is_committed() -> None:
    """Servers without Cnew can no longer form a majority, so the change is complete."""
    group = led()
    group.change(1, Change(REMOVED, 3), transition=SIMPLE)
    group.stabilise_among(1, 2)
    assert group.state(1).commit == 2
    group.crash(1)
    group.tick(2 * group.config.election_timeout_s_max, [])
    for _ in range(3):
        group.campaign(3)
        group.stabilise()
    assert group.state(3).role != "leader"


def test_4_1_entries_of_an_unknown_leader_are_accepted() -> None:
    """“A server accepts AppendEntries requests from a leader that is not part of the server's latest configuration.
    Otherwise, a new server could never be added to the cluster”"""
    group = led()
    group.join(4)
    group.give(4, raft.Received(1, Append(1, 0, 0, 1, [Entry(1, b"")])))
    assert (group.state(4).membership, group.state(4).commit, group.state(4).leader) == (Membership(), 1, 1)


def test_4_1_an_unknown_candidate_gets_the_vote() -> None:
    """“A server also grants its vote to a candidate that is not part of the server's latest configuration (if the
    candidate has a sufficiently up-to-date log and a current term).”"""
    group = Group()
    group.give(2, raft.Received(9, VoteRequest(3, 5, 2, False)))
    assert [letter.message for letter in group.mail] == [VoteReply(3, True, False)]


# 4.2.1 Catching up new servers ----------------------------------------------------------------------------------------


def test_4_2_1_a_new_server_joins_as_a_non_voting_member() -> None:
    """“The leader replicates log entries to it, but it is not yet counted towards majorities for voting or commitment
    purposes.”"""
    group = led()
    group.join(4)
    group.change(1, Change(LEARNER, 4), transition=SIMPLE)
    beats(group, 1)
    group.propose(1, b"a")
    beats(group, 1, 1, 4)
    assert (group.state(4).log_terms, group.state(1).commit) == ((1, 1, 1), 2)
    group.crash(1)
    group.start(1)
    group.campaign(1)
    group.stabilise_among(1, 4)
    assert group.state(1).role == "pre-candidate"


def test_4_2_1_then_it_becomes_a_voter() -> None:
    """“Once the new server has caught up with the rest of the cluster, the reconfiguration can proceed”"""
    group = led()
    group.join(4)
    group.change(1, Change(LEARNER, 4), transition=SIMPLE)
    beats(group, 1)
    group.change(1, Change(VOTER, 4), transition=SIMPLE)
    beats(group, 1)
    group.propose(1, b"a")
    beats(group, 1, 1, 3, 4)
    assert (group.state(4).membership, group.applied[1]) == (Membership(voters=(1, 2, 3, 4)), [b"a"])


# 4.2.2 Removing the current leader ------------------------------------------------------------------------------------


def test_4_2_2_a_removed_leader_steps_down_once_that_is_committed() -> None:
    """“a leader that is removed from the configuration steps down once the Cnew entry is committed.”"""
    group = led()
    group.change(1, Change(REMOVED, 1), transition=SIMPLE)
    beats(group, 1, 1, 2)
    assert group.state(1).role == "leader"
    beats(group, 1)
    assert (group.state(1).role, group.state(2).membership) == ("follower", Membership(voters=(2, 3)))


def test_4_2_2_until_then_it_replicates_and_does_not_count_itself() -> None:
    """“it replicates log entries but does not count itself in majorities.”"""
    group = led()
    group.change(1, Change(REMOVED, 1), transition=SIMPLE)
    group.propose(1, b"a")
    beats(group, 1, 1, 2)
    assert (group.state(2).log_terms, group.state(1).commit) == ((1, 1, 1), 1)


def test_4_2_2_who_is_not_in_its_own_latest_configuration_still_starts_elections() -> None:
    """It “might still be needed until the Cnew entry is committed”, and does not count its own vote."""
    group = led(2)
    group.change(1, Change(REMOVED, 1), transition=SIMPLE)
    group.mail.clear()
    group.crash(1)
    group.start(1)
    group.tick(2 * group.config.election_timeout_s_max, [])
    group.campaign(2)
    group.stabilise()
    assert group.state(2).role != "leader", "the log of node 1 is longer"
    group.campaign(1)
    assert group.state(1).role == "pre-candidate", "one of one would win, were it counted"
    group.stabilise()
    assert (group.state(2).role, group.state(2).membership) == ("leader", Membership(voters=(2,)))


# 4.2.3 Disruptive servers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre", [True, False])
def test_4_2_3_a_removed_server_that_does_not_know_it_disrupts_nobody(*, pre: bool) -> None:
    """“it will not receive the Cnew entry or learn of that entry's commitment, so it will not know that it has been
    removed from the cluster.”"""
    group = led()
    group.change(1, Change(REMOVED, 3), transition=SIMPLE)
    group.stabilise_among(1, 2)
    beats(group, 1, 1, 2, count=60)
    for node in (1, 2):
        group.give(node, raft.Received(3, VoteRequest(7, 1, 1, pre)))
    group.stabilise()
    assert [(group.state(node).term, group.state(node).leader) for node in (1, 2)] == [(1, 1), (1, 1)]


# 4.3 Arbitrary configuration changes using joint consensus ------------------------------------------------------------


def joint_of_nine() -> Group:
    """The thesis' example: from three servers to nine others, in the joint phase."""
    group = led()
    changes = [Change(VOTER, node) for node in range(4, 13)] + [Change(REMOVED, node) for node in (1, 2, 3)]
    for node in range(4, 13):
        group.join(node)
    group.change(1, *changes, transition=EXPLICIT)
    return group


def test_4_3_entries_go_to_all_servers_of_both_configurations() -> None:
    """“Log entries are replicated to all servers in both configurations.”"""
    group = joint_of_nine()
    beats(group, 1)
    assert {group.state(node).log_terms for node in range(1, 13)} == {(1, 1)}


@pytest.mark.parametrize(
    ("reached", "agree"),
    [((2, 4, 5, 6, 7), False), ((2, 4, 5, 6, 7, 8), True), ((4, 5, 6, 7, 8, 9, 10, 11, 12), False), ((2, 3), False)],
)
def test_4_3_agreement_requires_both_majorities(reached: tuple[int, ...], *, agree: bool) -> None:
    """“when changing from a cluster of 3 servers to a different cluster of 9 servers, agreement requires both 2 of
    the 3 servers in the old configuration and 5 of the 9 servers in the new configuration.”"""
    group = joint_of_nine()
    beats(group, 1, 1, *reached)
    assert (group.state(1).commit == 2) == agree


@pytest.mark.parametrize("leader", [2, 4])
def test_4_3_any_server_of_either_configuration_may_lead(leader: int) -> None:
    """“Any server from either configuration may serve as leader.”"""
    group = joint_of_nine()
    beats(group, 1)
    group.crash(1)
    group.elect(leader)


def test_4_3_then_the_new_configuration_alone_takes_over() -> None:
    """Once Cold,new is committed, “it is now safe for the leader to create a log entry describing Cnew”."""
    group = led()
    group.join(4)
    group.join(5)
    group.change(1, Change(VOTER, 4), Change(VOTER, 5), Change(REMOVED, 2), Change(REMOVED, 3), transition=JOINT)
    beats(group, 1, 1, 4, 5)
    assert group.state(1).membership.is_joint()
    beats(group, 1, 1, 2, 4, 5)
    assert group.state(1).membership == Membership(voters=(1, 4, 5))
    group.propose(1, b"a")
    beats(group, 1, 1, 4)
    assert group.applied[1] == [b"a"]


# 6.2 Routing requests to the leader -----------------------------------------------------------------------------------


def test_6_2_a_joint_leader_needs_both_majorities_to_stay() -> None:
    """A leader steps down without “a successful round of heartbeats to a majority of its cluster”; here there are two
    majorities."""
    group = joint_of_nine()
    beats(group, 1)
    beats(group, 1, 1, *range(4, 13), count=50)
    assert group.state(1).role == "follower"


# 6.4 Processing read-only queries more efficiently --------------------------------------------------------------------


def test_6_4_a_follower_asks_the_leader_for_a_read_index_only() -> None:
    """“the leader would execute steps 1–3 above”, and the follower waits until its own state machine is as far."""
    group = led()
    group.propose(1, b"a")
    group.deliver(chosen("Append", to=2))
    group.deliver(chosen("AppendReply"))
    assert (group.state(1).commit, group.state(3).commit) == (2, 1)
    group.read_index(3, 7)
    group.stabilise(lambda _sender, to, message: not (to == 3 and isinstance(message, Append)))
    assert not any(isinstance(effect, raft.ReadReady) for effect in group.effects[3])
    beats(group, 1)
    assert raft.ReadReady(7, 2) in group.effects[3]
    assert group.applied[3] == [b"a"]


# 6.4.1 Using clocks to reduce messaging for read-only queries ---------------------------------------------------------

LEASED = replace(TINY, lease_s=0.4, clock_drift_max=0.1)


def test_6_4_1_with_a_lease_the_leader_answers_without_communication() -> None:
    """“While the leader held its lease, it would service read-only queries without communication.”"""
    group = Group(config=LEASED)
    group.elect(1)
    assert group.read_index(1, 7, lease=True) == [raft.ReadReady(7, 1)]


def test_6_4_1_the_lease_is_counted_from_the_start_of_the_round_and_allows_for_drift() -> None:
    """It is extended to the start of the round plus what followers wait, shortened by the bound on clock drift."""
    group = Group(config=LEASED)
    group.elect(1)
    group.tick(0.5, [1])
    letters, group.mail = group.mail, []
    group.tick(0.3, [])
    group.mail = letters
    group.stabilise_among(1, 2)
    group.tick(0.055, [])
    assert group.read_index(1, 7, lease=True) == [raft.ReadReady(7, 1)]
    group.tick(0.01, [])
    assert not any(isinstance(effect, raft.ReadReady) for effect in group.read_index(1, 8, lease=True))


def test_6_4_1_a_leadership_transfer_ends_the_lease() -> None:
    """It makes another server lead before an election timeout has passed."""
    group = Group(config=LEASED)
    group.elect(1)
    group.transfer(1, 2)
    assert not any(isinstance(effect, raft.ReadReady) for effect in group.read_index(1, 7, lease=True))
