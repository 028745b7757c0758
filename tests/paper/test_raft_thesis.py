"""Ongaro's thesis, "Consensus: Bridging Theory and Practice", where the core uses more of it than the paper has.

Each test is named by its section and quotes the claim.
"""

from noctule.core.raft import events as raft
from noctule.core.raft.messages import Append, Heartbeat, HeartbeatReply, TimeoutNow, VoteReply, VoteRequest
from noctule.verify.sim.driving import Group, chosen, log_of


def answers(group: Group, kind: type) -> list[raft.Effect]:
    """The effects of this kind that node 1 asked for."""
    return [effect for effect in group.effects[1] if isinstance(effect, kind)]


# 3.10 Leadership transfer extension -----------------------------------------------------------------------------------


def test_3_10_the_prior_leader_takes_no_requests() -> None:
    """“The prior leader stops accepting new client requests.”"""
    group = Group()
    group.elect(1)
    group.transfer(1, 2)
    assert group.propose(1, b"a") == [raft.ProposalRefused(0)]
    assert group.terms(1) == [1]


def test_3_10_the_target_is_brought_up_to_date_first() -> None:
    """“The prior leader fully updates the target server's log to match its own, using the normal log replication
    mechanism”"""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.transfer(1, 2)
    assert not any(isinstance(letter.message, TimeoutNow) for letter in group.mail)
    group.deliver(chosen("Append", to=2))
    group.deliver(chosen("AppendReply"))
    assert [(letter.to, letter.message) for letter in group.mail if isinstance(letter.message, TimeoutNow)] == [
        (2, TimeoutNow(1))
    ]


def test_3_10_the_target_campaigns_at_once_and_wins() -> None:
    """“The prior leader sends a TimeoutNow request to the target server. This request has the same effect as the target
    server's election timer firing: the target server starts a new election”"""
    group = Group()
    group.elect(1)
    before = group.now
    group.transfer(1, 2)
    group.stabilise()
    assert (group.state(2).role, group.state(2).term, group.now) == ("leader", 2, before)


def test_3_10_a_transfer_that_takes_too_long_is_given_up() -> None:
    """“If leadership transfer does not complete after about an election timeout, the prior leader aborts the transfer
    and resumes accepting client requests.”"""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.transfer(1, 3)
    group.stabilise_among(1, 2)
    group.tick(group.config.election_timeout_s_min * 0.9, [1])
    assert group.propose(1, b"b") == [raft.ProposalRefused(0)]
    group.tick(group.config.election_timeout_s_min * 0.2, [1])
    assert group.propose(1, b"b")[0] == raft.Proposed(3, 1)


# 4.2.3 Disruptive servers ---------------------------------------------------------------------------------------------


def test_4_2_3_who_hears_a_leader_disregards_requests_for_votes() -> None:
    """“if a server receives a RequestVote request within the minimum election timeout of hearing from a current leader,
    it does not update its term or grant its vote.”"""
    group = Group()
    group.elect(1)
    group.give(2, raft.Received(3, VoteRequest(9, 99, 9, False)))
    assert (group.state(2).term, group.mail) == (1, [])
    group.tick(group.config.election_timeout_s_min * 1.01, [])
    group.give(2, raft.Received(3, VoteRequest(9, 99, 9, False)))
    assert [letter.message for letter in group.mail] == [VoteReply(9, True, False)]


def test_4_2_3_unless_the_leader_hands_over() -> None:
    """The requests of a leadership transfer carry a flag that says the leader asked to be disturbed."""
    group = Group()
    group.elect(1)
    group.give(2, raft.Received(3, VoteRequest(2, 1, 1, False, True)))
    assert [letter.message for letter in group.mail] == [VoteReply(2, True, False)]


# 6.2 Routing requests to the leader -----------------------------------------------------------------------------------


def test_6_2_a_leader_without_a_majority_steps_down() -> None:
    """“a leader in Raft steps down if an election timeout elapses without a successful round of heartbeats to a
    majority of its cluster; this allows clients to retry their requests with another server.”"""
    group = Group(5)
    group.elect(1)
    group.read_index(1, 7)
    for _ in range(50):
        group.tick(0.05, [1])
        group.stabilise_among(1, 2)
    assert group.state(1).role == "follower"
    assert answers(group, raft.ReadRefused) == [raft.ReadRefused(7, 0)]


def test_6_2_a_leader_with_a_majority_does_not() -> None:
    """The other half: three of five are enough."""
    group = Group(5)
    group.elect(1)
    for _ in range(50):
        group.tick(0.05, [1])
        group.stabilise_among(1, 2, 3)
    assert group.state(1).role == "leader"


# 6.4 Processing read-only queries more efficiently --------------------------------------------------------------------


def test_6_4_step_1_a_read_waits_for_a_commit_of_the_term() -> None:
    """“If the leader has not yet marked an entry from its current term committed, it waits until it has done so.”"""
    group = Group()
    for node in (1, 2, 3):
        group.start(node, log_of(1, 1))
    group.campaign(1)
    group.stabilise(lambda _sender, _to, message: not isinstance(message, Append))
    group.read_index(1, 7)
    group.stabilise(lambda _sender, _to, message: not isinstance(message, Append))
    assert group.state(1).role == "leader"
    assert answers(group, raft.ReadReady) == []
    for _ in range(3):
        group.tick(0.05, [1])
        group.stabilise()
    assert answers(group, raft.ReadReady) == [raft.ReadReady(7, 3)]


def test_6_4_step_2_the_read_index_is_the_commit_index_of_its_arrival() -> None:
    """“The leader saves its current commit index in a local variable readIndex. This will be used as a lower bound for
    the version of the state that the query operates against.”"""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise()
    group.read_index(1, 7)
    group.propose(1, b"b")
    group.deliver(chosen("Append"))
    group.deliver(chosen("AppendReply"))
    assert group.state(1).commit == 3
    group.stabilise()
    assert answers(group, raft.ReadReady) == [raft.ReadReady(7, 2)]


def test_6_4_step_3_only_answers_to_a_later_heartbeat_count() -> None:
    """“It issues a new round of heartbeats and waits for their acknowledgments from a majority of the cluster.”"""
    group = Group()
    group.elect(1)
    group.tick(0.05, [1])
    group.deliver(chosen("Heartbeat"))
    group.read_index(1, 7)
    group.drop(chosen("Heartbeat"))
    group.deliver(chosen("HeartbeatReply"))
    assert answers(group, raft.ReadReady) == []
    group.tick(0.05, [1])
    group.stabilise()
    assert answers(group, raft.ReadReady) == [raft.ReadReady(7, 1)]


def test_6_4_one_round_serves_all_reads_that_wait() -> None:
    """“it can use a single round of heartbeats for any number of read-only queries that it has accumulated.”"""
    group = Group()
    group.elect(1)
    for context in (7, 8, 9):
        group.read_index(1, context)
    newest = max(letter.message.round for letter in group.mail if isinstance(letter.message, Heartbeat))
    group.mail.clear()
    group.give(1, raft.Received(2, HeartbeatReply(1, newest)))
    assert [ready.context for ready in answers(group, raft.ReadReady) if isinstance(ready, raft.ReadReady)] == [7, 8, 9]


# 9.6 Preventing disruptions when a server rejoins the cluster ---------------------------------------------------------


def test_9_6_a_term_grows_only_after_a_majority_would_vote() -> None:
    """“a candidate only increments its term if it first learns from a majority of the cluster that they would be
    willing to grant the candidate their votes”"""
    group = Group(5)
    for _ in range(3):
        group.campaign(1)
        group.stabilise_among(1, 2)
        assert group.state(1).term == 0
    group.campaign(1)
    group.stabilise_among(1, 2, 3)
    assert (group.state(1).role, group.state(1).term) == ("leader", 1)


def test_9_6_the_log_decides_in_a_pre_vote_as_in_a_vote() -> None:
    """“(if the candidate's log is sufficiently up-to-date …)”"""
    group = Group()
    group.start(1, log_of(1), group.disk[1].hard_state._replace(term=2))
    for voter in (2, 3):
        group.start(voter, log_of(1, 2))
    group.campaign(1)
    group.stabilise()
    assert (group.state(1).role, group.state(1).term) == ("follower", 2)


def test_9_6_a_node_that_rejoins_does_not_disturb() -> None:
    """“The Pre-Vote algorithm solves the issue of a partitioned server disrupting the cluster when it rejoins.”"""
    group = Group()
    group.elect(1)
    for _ in range(5):
        group.campaign(3)
        group.drop(chosen(sender=3))
        group.tick(0.05, [1])
        group.stabilise_among(1, 2)
    group.tick(0.05, [1])
    group.stabilise()
    assert [(group.state(node).term, group.state(node).leader) for node in (1, 2, 3)] == [(1, 1)] * 3


# 10.2.1 Writing to the leader's disk in parallel ----------------------------------------------------------------------


def test_10_2_1_the_leader_may_be_the_last_to_have_it_on_disk() -> None:
    """“The leader may even commit an entry before it has been written to its own disk, if a majority of followers have
    written it to their disks; this is still safe.”"""
    group = Group()
    group.elect(1)
    group.hold(1)
    group.propose(1, b"a")
    group.stabilise()
    assert (group.state(1).durable, group.applied[1]) == (1, [b"a"])
    group.crash(1)
    group.start(1)
    assert group.terms(1) == [1]
    group.release(1)
    group.elect(2)
    assert group.applied[2] == [b"a"]
