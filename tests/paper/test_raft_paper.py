"""The Raft paper, claim by claim: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm".

The extended version. Each test is named by its section and quotes the claim. Where Noctule leaves the paper stands in
docs/concepts/divergences.md.
"""

from typing import Any

import pytest

from noctule.core.raft import events as raft
from noctule.core.raft.messages import (
    Append,
    AppendReply,
    Entry,
    HardState,
    Heartbeat,
    VoteReply,
    VoteRequest,
)
from noctule.verify.sim.driving import Delivered, Group, chosen, log_of, snapshot_of


def sent(group: Group, kind: type) -> list[tuple[int, int, Any]]:
    """Sender, receiver and message of the letters of this kind on their way."""
    return [(sender, to, message) for sender, to, message in group.mail if isinstance(message, kind)]


def candidate_of(group: Group, node: int) -> None:
    """Bring a node through the pre-vote; its requests for votes are on their way."""
    group.campaign(node)
    group.deliver(chosen("VoteRequest", sender=node))
    group.deliver(chosen("VoteReply", to=node))
    assert group.state(node).role == "candidate"


# 5.1 Raft basics ------------------------------------------------------------------------------------------------------


def test_5_1_a_term_is_taken_over() -> None:
    """“if one server's current term is smaller than the other's, then it updates its current term to the larger
    value.”"""
    group = Group()
    group.give(2, raft.Received(1, Heartbeat(7, 0, 0)))
    assert (group.state(2).term, group.disk[2].hard_state) == (7, HardState(7, 0))


def test_5_1_a_candidate_or_leader_of_an_old_term_reverts() -> None:
    """“If a candidate or leader discovers that its term is out of date, it immediately reverts to follower state.”"""
    group = Group()
    candidate_of(group, 1)
    group.give(1, raft.Received(2, VoteReply(5, False, False)))
    assert (group.state(1).role, group.state(1).term) == ("follower", 5)
    group = Group()
    group.elect(1)
    group.give(1, raft.Received(2, AppendReply(5, False, 0)))
    assert (group.state(1).role, group.state(1).term) == ("follower", 5)


@pytest.mark.parametrize("message", [VoteRequest(2, 9, 2, False), Append(2, 0, 0, 0, [Entry(2, b"a")])])
def test_5_1_a_stale_request_is_rejected(message: VoteRequest | Append) -> None:
    """“If a server receives a request with a stale term number, it rejects the request.”"""
    group = Group()
    group.start(2, log_of(1), HardState(3, 0))
    group.give(2, raft.Received(1, message))
    (_, _, answer) = group.mail[0]
    assert answer in (VoteReply(3, False, False), AppendReply(3, False, 0))
    assert (group.state(2).vote, group.terms(2)) == (0, [1])


# 5.2 Leader election --------------------------------------------------------------------------------------------------


def test_5_2_servers_start_as_followers() -> None:
    """“When servers start up, they begin as followers.”"""
    group = Group()
    group.elect(1)
    group.crash(1)
    group.start(1)
    assert [group.state(node).role for node in (1, 2, 3)] == ["follower"] * 3


def test_5_2_a_follower_that_hears_its_leader_stays_one() -> None:
    """“A server remains in follower state as long as it receives valid RPCs from a leader or candidate.”"""
    group = Group()
    group.elect(1)
    for _ in range(60):
        group.tick(0.05)
        group.stabilise()
    assert [group.state(node).role for node in (1, 2, 3)] == ["leader", "follower", "follower"]
    assert group.state(2).term == 1


def test_5_2_silence_for_an_election_timeout_begins_an_election() -> None:
    """“If a follower receives no communication over a period of time called the election timeout, then it assumes there
    is no viable leader and begins an election”"""
    group = Group()
    group.tick(group.config.election_timeout_s_min * 0.99)
    assert group.mail == []
    group.tick(group.config.election_timeout_s_max)
    assert {sender for sender, _, _ in sent(group, VoteRequest)} == {1, 2, 3}


def test_5_2_a_candidate_votes_for_itself_and_asks_all_others() -> None:
    """“a follower increments its current term and transitions to candidate state. It then votes for itself and issues
    RequestVote RPCs in parallel to each of the other servers”"""
    group = Group(5)
    candidate_of(group, 1)
    assert (group.state(1).term, group.state(1).vote) == (1, 1)
    assert {(to, message.pre) for _, to, message in sent(group, VoteRequest)} == {(to, False) for to in (2, 3, 4, 5)}


@pytest.mark.parametrize(("votes", "role"), [((2,), "candidate"), ((2, 3), "leader")])
def test_5_2_a_majority_of_the_full_cluster_wins(votes: tuple[int, ...], role: str) -> None:
    """“A candidate wins an election if it receives votes from a majority of the servers in the full cluster for the
    same term.”"""
    group = Group(5)
    candidate_of(group, 1)
    for voter in votes:
        group.give(1, raft.Received(voter, VoteReply(1, True, False)))
    assert group.state(1).role == role


def test_5_2_one_vote_in_a_term_first_come_first_served() -> None:
    """“Each server will vote for at most one candidate in a given term, on a first-come-first-served basis”"""
    group = Group()
    for candidate in (3, 1, 3):
        group.give(2, raft.Received(candidate, VoteRequest(4, 0, 0, False)))
    assert [(to, reply.granted) for _, to, reply in sent(group, VoteReply)] == [(3, True), (1, False), (3, True)]


def test_5_2_a_winner_tells_everyone_at_once() -> None:
    """“It then sends heartbeat messages to all of the other servers to establish its authority”"""
    group = Group()
    candidate_of(group, 1)
    group.give(1, raft.Received(2, VoteReply(1, True, False)))
    assert {to for _, to, _ in sent(group, Heartbeat)} == {2, 3}


@pytest.mark.parametrize(("term", "role"), [(1, "follower"), (2, "follower"), (0, "candidate")])
def test_5_2_a_candidate_recognises_a_legitimate_leader_only(term: int, role: str) -> None:
    """“If the leader's term […] is at least as large as the candidate's current term, then the candidate recognizes the
    leader as legitimate and returns to follower state. If the term in the RPC is smaller than the candidate's current
    term, then the candidate rejects the RPC and continues in candidate state.”"""
    group = Group()
    candidate_of(group, 1)
    group.give(1, raft.Received(2, Append(term, 0, 0, 0, [])))
    assert group.state(1).role == role


def test_5_2_after_a_split_vote_another_election_succeeds() -> None:
    """“each candidate will time out and start a new election by incrementing its term”"""
    group = Group(4)
    candidate_of(group, 1)
    group.campaign(2)
    group.deliver(chosen("VoteRequest", sender=2))
    group.drop(chosen("VoteReply", sender=1))
    group.deliver(chosen("VoteReply", to=2))
    group.deliver(chosen(sender=1, to=3))
    group.deliver(chosen(sender=2, to=4))
    group.stabilise()
    assert [group.state(node).role for node in group.members] == ["follower"] * 4
    group.campaign(1)
    group.stabilise()
    assert (group.state(1).role, group.state(1).term) == ("leader", 2)


def test_5_2_election_timeouts_differ() -> None:
    """“Raft uses randomized election timeouts to ensure that split votes are rare and that they are resolved
    quickly.”"""
    group = Group(9)
    waits = {group.nodes[node].next_deadline() for node in group.members}
    assert len(waits) == 9
    assert all(group.config.election_timeout_s_min <= wait <= group.config.election_timeout_s_max for wait in waits)


# 5.3 Log replication --------------------------------------------------------------------------------------------------


def test_5_3_a_command_is_appended_and_sent_to_all() -> None:
    """“The leader appends the command to its log as a new entry, then issues AppendEntries RPCs in parallel to each of
    the other servers”"""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    assert group.nodes[1].log.between(2, 2) == [Entry(1, b"a")]
    assert [(to, message.entries) for _, to, message in sent(group, Append)] == [
        (2, [Entry(1, b"a")]),
        (3, [Entry(1, b"a")]),
    ]


def test_5_3_appends_are_tried_again_for_ever() -> None:
    """“If followers crash or run slowly, or if network packets are lost, the leader retries AppendEntries RPCs
    indefinitely […] until all followers eventually store all log entries.”"""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    for _ in range(100):
        group.stabilise(lambda _sender, to, message: not (to == 3 and isinstance(message, Append)))
        group.tick(0.05, [1])
    assert group.terms(3) == [1]
    for _ in range(3):
        group.stabilise()
        group.tick(0.05, [1])
    assert group.applied[3] == [b"a"]


def test_5_3_a_majority_commits_and_the_leader_applies() -> None:
    """“A log entry is committed once the leader that created the entry has replicated it on a majority of the
    servers”"""
    group = Group(5)
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise_among(1, 2)
    assert group.applied[1] == []
    group.tick(0.05, [1])
    group.stabilise_among(1, 2, 3)
    group.tick(0.05, [1])
    group.stabilise_among(1, 2, 3)
    assert group.applied[1] == [b"a"]


def test_5_3_a_commit_takes_all_before_it_along() -> None:
    """“This also commits all preceding entries in the leader's log, including entries created by previous leaders.”"""
    group = Group()
    for node in (1, 2):
        group.start(node, log_of(1, 2))
    group.elect(1, among=(1, 2))
    assert group.state(1).commit == 3
    assert group.applied[1] == [b"1@1", b"2@2"]


def test_5_3_followers_learn_of_a_commit_from_the_leader() -> None:
    """“it includes that index in future AppendEntries RPCs (including heartbeats) so that the other servers eventually
    find out.”"""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise()
    assert group.applied[2] == []
    group.tick(0.05, [1])
    group.stabilise()
    assert group.applied[2] == group.applied[3] == [b"a"]


@pytest.mark.parametrize(("index", "term"), [(3, 1), (2, 2), (9, 1)])
def test_5_3_entries_that_do_not_follow_are_refused(index: int, term: int) -> None:
    """“If the follower does not find an entry in its log with the same index and term, then it refuses the new
    entries.”"""
    group = Group()
    group.start(2, log_of(1, 1))
    group.give(2, raft.Received(1, Append(3, index, term, 0, [Entry(3, b"x")])))
    assert [reply.accepted for _, _, reply in sent(group, AppendReply)] == [False]
    assert group.terms(2) == [1, 1]


def test_5_3_the_leader_forces_its_log_on_followers() -> None:
    """“the leader handles inconsistencies by forcing the followers' logs to duplicate its own.”"""
    group = Group()
    group.start(1, log_of(1, 4, 4))
    group.start(2, log_of(1, 4, 4))
    group.start(3, log_of(1, 2, 2, 3, 3, 3))
    group.elect(1, among=(1, 2))
    for _ in range(3):
        group.tick(0.05, [1])
        group.stabilise()
    assert group.terms(3) == group.terms(1) == [1, 4, 4, 5]
    assert group.disk[3].entries == group.disk[1].entries


def test_5_3_a_leader_only_appends() -> None:
    """“A leader never overwrites or deletes entries in its own log (the Leader Append-Only Property)”"""
    group = Group()
    group.start(1, log_of(1, 1, 2))
    before = group.nodes[1].log.between(1, 3)
    group.start(3, log_of(1, 1, 1, 1, 1))
    group.elect(1)
    group.propose(1, b"a")
    for _ in range(3):
        group.tick(0.05, [1])
        group.stabilise()
    log = group.nodes[1].log
    assert log.between(1, 3) == before
    assert group.terms(1) == group.terms(3) == [1, 1, 2, 3, 3]


def test_5_3_conflicts_are_skipped_by_term() -> None:
    """“the protocol can be optimized to reduce the number of rejected AppendEntries RPCs. […] one AppendEntries RPC
    will be required for each term with conflicting entries, rather than one RPC per entry.”"""
    group = Group()
    for node in (1, 2):
        group.start(node, log_of(1, *[4] * 20))
    group.start(3, log_of(1, *[2] * 10, *[3] * 10))
    group.elect(1, among=(1, 2))
    for _ in range(3):
        group.tick(0.05, [1])
        group.stabilise()
    assert group.terms(3) == group.terms(1)
    refusals = [
        happening
        for happening in group.journal
        if isinstance(happening, Delivered)
        and isinstance(happening.letter.message, AppendReply)
        and not happening.letter.message.accepted
    ]
    assert len(refusals) <= 2


# 5.4 Safety -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "wins"), [((1, 1, 2), True), ((1, 2), False), ((1, 1, 1, 1), False), ((1, 3), True)]
)
def test_5_4_1_only_an_up_to_date_log_wins(candidate: tuple[int, ...], *, wins: bool) -> None:
    """“the voter denies its vote if its own log is more up-to-date than that of the candidate. […] If the logs have
    last entries with different terms, then the log with the later term is more up-to-date. If the logs end with the
    same term, then whichever log is longer is more up-to-date.”"""
    group = Group()
    group.start(1, log_of(*candidate), HardState(3, 0))
    for voter in (2, 3):
        group.start(voter, log_of(1, 1, 2), HardState(3, 0))
    group.campaign(1)
    group.stabilise()
    assert (group.state(1).role == "leader") == wins


def test_5_4_2_entries_of_earlier_terms_are_not_committed_by_counting() -> None:
    """“Raft never commits log entries from previous terms by counting replicas. Only log entries from the leader's
    current term are committed by counting replicas” (figure 8; raft-rs test_cannot_commit_without_new_term_entry)"""
    group = Group(5)
    for voter in group.members:
        group.start(voter, log_of(1, 2) if voter <= 3 else log_of(1), HardState(3, 0))
    candidate_of(group, 1)
    group.deliver(chosen("VoteRequest"))
    group.deliver(chosen("VoteReply"))
    group.drop(chosen("Append"))
    for voter in (2, 3):
        group.give(1, raft.Received(voter, AppendReply(4, True, 2)))
    assert (group.state(1).peers[2].match, group.state(1).commit) == (2, 0)
    for voter in (2, 3):
        group.give(1, raft.Received(voter, AppendReply(4, True, 3)))
    assert group.state(1).commit == 3


# 5.5 Follower and candidate crashes -----------------------------------------------------------------------------------


def test_5_5_requests_are_idempotent() -> None:
    """“Raft RPCs are idempotent, so this causes no harm. For example, if a follower receives an AppendEntries request
    that includes log entries already present in its log, it ignores those entries in the new request.”"""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.propose(1, b"b")
    group.stabilise()
    stored = len([effect for effect in group.effects[2] if isinstance(effect, raft.Persist) and effect.entries])
    for entries in ([Entry(1, b"a")], [Entry(1, b"a"), Entry(1, b"b")], [Entry(1, b"a")]):
        group.give(2, raft.Received(1, Append(1, 1, 1, 1, entries)))
    assert group.terms(2) == [1, 1, 1]
    again = len([effect for effect in group.effects[2] if isinstance(effect, raft.Persist) and effect.entries])
    assert again == stored


def test_5_5_a_crash_after_the_sync_and_before_the_answer_does_no_harm() -> None:
    """“If a server crashes after completing an RPC but before responding, then it will receive the same RPC again after
    it restarts.”"""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.deliver(chosen("Append"))
    group.drop(chosen("AppendReply"))
    group.crash(2)
    group.start(2)
    for _ in range(4):
        group.tick(0.05, [1])
        group.stabilise()
    assert group.applied[1] == group.applied[2] == [b"a"]
    assert group.terms(2) == [1, 1]


# 7 Log compaction -----------------------------------------------------------------------------------------------------


def test_7_a_snapshot_takes_the_place_of_the_log() -> None:
    """“the leader must occasionally send snapshots to followers that lag behind. This happens when the leader has
    already discarded the next log entry that it needs to send to a follower.”"""
    group = Group()
    group.elect(1, among=(1, 2))
    for data in (b"a", b"b", b"c"):
        group.propose(1, data)
    group.stabilise_among(1, 2)
    group.compact(1)
    for _ in range(4):
        group.tick(0.05, [1])
        group.stabilise()
    assert group.applied[3] == [b"a", b"b", b"c"]
    assert group.state(3).snapshot == (4, 1)


def test_7_a_snapshot_supersedes_a_log_that_conflicts() -> None:
    """“the follower discards its entire log; it is all superseded by the snapshot and may possibly have uncommitted
    entries that conflict with the snapshot.”"""
    group = Group()
    group.start(2, log_of(1, 2, 2, 2, 2))
    group.install(2, snapshot_of(b"a", b"b"), term=3, index=4, index_term=3)
    assert (group.state(2).snapshot, group.terms(2), group.applied[2]) == ((4, 3), [], [b"a", b"b"])
    assert (group.disk[2].mark, group.disk[2].entries) == ((4, 3), [])


def test_7_entries_after_a_snapshot_of_a_prefix_stay() -> None:
    """“log entries covered by the snapshot are deleted but entries following the snapshot are still valid and must be
    retained.”"""
    group = Group()
    group.start(2, log_of(1, 1, 1, 1, 1))
    group.install(2, snapshot_of(b"1@1", b"2@1", b"3@1"), term=1, index=3, index_term=1)
    assert (group.state(2).snapshot, group.terms(2)) == ((3, 1), [1, 1])
    assert group.disk[2].entries == [Entry(1, b"4@1"), Entry(1, b"5@1")]


# 8 Client interaction -------------------------------------------------------------------------------------------------


def test_8_a_leader_begins_its_term_with_a_no_op() -> None:
    """“Raft handles this by having each leader commit a blank no-op entry into the log at the start of its term.”"""
    group = Group()
    for term in (1, 2):
        group.elect(term)
        log = group.nodes[term].log
        assert log.between(term, log.last_index) == [Entry(term, b"")]
        assert group.state(term).commit == term


def test_8_a_read_needs_a_majority_s_heartbeats() -> None:
    """“the leader exchange[s] heartbeat messages with a majority of the cluster before responding to read-only
    requests.”"""
    group = Group(5)
    group.elect(1)
    group.read_index(1, 7)
    group.deliver(chosen("Heartbeat", to=2))
    group.deliver(chosen("HeartbeatReply"))
    assert not any(isinstance(effect, raft.ReadReady) for effect in group.effects[1])
    group.deliver(chosen("Heartbeat", to=3))
    group.deliver(chosen("HeartbeatReply"))
    assert group.effects[1][-1] == raft.ReadReady(7, 1)
