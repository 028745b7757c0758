"""Bugs that other systems shipped and that no other file names: each goes red when the bug is put back."""

from dataclasses import replace

import pytest

from noctule.base.errors import StorageError
from noctule.core.raft import events as raft
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import Change, ChangeKind, Membership, encode_membership
from noctule.core.raft.messages import Append, Entry, HardState, Heartbeat, VoteRequest
from noctule.verify.sim.driving import TINY, Group, chosen, installing, log_of, snapshot_of

VOTER, LEARNER, REMOVED = ChangeKind.VOTER, ChangeKind.LEARNER, ChangeKind.REMOVED
SIMPLE, JOINT, EXPLICIT = raft.Transition.SIMPLE, raft.Transition.JOINT, raft.Transition.JOINT_EXPLICIT


def heartbeats(group: Group, leader: int, count: int = 4) -> None:
    """Let the leader's time pass and everything arrive."""
    for _ in range(count):
        group.tick(group.config.heartbeat_s, [leader])
        group.stabilise()


def test_a_heartbeat_commits_nothing_on_a_follower_whose_log_differs() -> None:
    """scylladb/scylladb#10578: the leader's commit index taken over onto entries that it never sent."""
    group = Group()
    for voter in (1, 2):
        group.start(voter, log_of(1, 2, 2))
    group.start(3, log_of(1, 1, 1), HardState(2, 0))
    group.elect(1, among=(1, 2))
    assert group.state(1).commit == 4
    group.tick(group.config.heartbeat_s, [1])
    group.stabilise(chosen("Heartbeat", to=3))
    assert (group.state(3).leader, group.state(3).commit) == (1, 0)


@pytest.mark.parametrize("bytes_max", [1, 3, 7, 100])
def test_however_entries_are_packed_all_arrive_once_and_in_order(bytes_max: int) -> None:
    """logcabin/logcabin#160: packing a batch drops or miscounts entries."""
    group = Group(config=replace(TINY, append_bytes_max=bytes_max))
    group.elect(1, among=(1, 2))
    data = [b"%d" % number * (number % 5 + 1) for number in range(25)]
    for each in data:
        group.propose(1, each)
    group.stabilise_among(1, 2)
    for _ in range(40):
        heartbeats(group, 1, 1)
    assert group.applied == {1: data, 2: data, 3: data}


def test_a_conflict_is_cut_and_replaced_in_one_write() -> None:
    """baidu/braft#119: a suffix cut entry by entry from the front; a crash in between leaves a hole."""
    group = Group()
    group.start(2, log_of(1, 2, 2, 2), HardState(2, 0))
    group.hold(2)
    group.give(2, raft.Received(1, Append(3, 1, 1, 0, [Entry(3, b"new")])))
    writes = [effect for effect in group.effects[2] if isinstance(effect, raft.Persist)]
    assert [(write.first_index, write.entries) for write in writes] == [(2, [Entry(3, b"new")])]
    group.crash(2)
    group.start(2)
    assert group.terms(2) == [1, 2, 2, 2]
    group.give(2, raft.Received(1, Append(3, 1, 1, 0, [Entry(3, b"new")])))
    group.sync(2)
    group.crash(2)
    group.start(2)
    assert group.terms(2) == [1, 3]


def test_a_new_leader_reads_what_its_predecessor_acknowledged() -> None:
    """RedisLabs/redisraft#22: no no-op at the term's start, so reads stay behind what was committed."""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise()
    assert (group.applied[1], group.applied[2]) == ([b"a"], [])
    group.crash(1)
    group.campaign(2)
    group.stabilise()
    group.read_index(2, 7)
    group.stabilise()
    ready = [effect for effect in group.effects[2] if isinstance(effect, raft.ReadReady)]
    assert ready == [raft.ReadReady(7, 3)]
    assert group.applied[2] == [b"a"]


@pytest.mark.parametrize("synced", range(6))
def test_snapshot_and_log_meet_after_a_crash_at_any_point_of_an_install(synced: int) -> None:
    """RedisLabs/redisraft#43, camunda/camunda#13093: the log begins after the end of the snapshot, with a hole."""
    group = Group()
    group.start(3, log_of(1, 1, 1), HardState(1, 0))
    group.hold(3)
    group.install(3, snapshot_of(b"a", b"b"), term=2, index=5, index_term=2)
    for _ in range(synced):
        group.sync(3, 1)
    group.crash(3)
    group.start(3)
    state = group.state(3)
    group.nodes[3].check()
    if state.applied:
        assert (state.snapshot, state.log_terms, group.applied[3]) == ((5, 2), (), [b"a", b"b"])
    else:
        assert (state.snapshot, state.log_terms) == ((0, 0), (1, 1, 1))
    assert (state.applied == 5) == (synced >= 3)  # Two chunks, and the term between them.


def test_a_snapshot_without_data_is_never_sent() -> None:
    """apache/hugegraph#3162: a snapshot registered with nothing in it replaces a follower's state by nothing."""
    group = Group()
    group.elect(1, among=(1, 2))
    group.propose(1, b"a")
    group.stabilise_among(1, 2)
    group.compact(1)
    snapshot, group.disk[1].snapshot = group.disk[1].snapshot, None
    heartbeats(group, 1)
    assert group.state(1).peers[3].state == "probe"
    assert not any(isinstance(effect, raft.Restore) for effect in group.effects[3])
    group.disk[1].snapshot = snapshot
    heartbeats(group, 1)
    assert group.applied[3] == [b"a"]


def test_half_a_snapshot_is_never_saved() -> None:
    """apache/hugegraph#3162, on the receiver's side: chunks that are doubled or early do not count."""
    group = Group()
    chunks = snapshot_of(b"a", b"b", bytes_max=2)
    messages = installing(1, 5, 1, chunks)

    def saved_after(*numbers: int) -> list[bytes]:
        for number in numbers:
            group.give(2, raft.Received(1, messages[number]))
        return [effect.data for effect in group.effects[2] if isinstance(effect, raft.SaveChunk)]

    assert saved_after(1, 2) == []
    assert saved_after(0, 0, 2, 0) == [chunks[0]]
    assert group.disk[2].snapshot is None
    assert saved_after(1, 2, 1, 2) == list(chunks)
    assert group.applied[2] == [b"a", b"b"]


@pytest.mark.parametrize("retained", [0, 2])
def test_entries_behind_a_snapshot_are_applied_once_after_a_restart(retained: int) -> None:
    """etcd-io/etcd#13766: state and "applied up to" saved apart; after a crash entries are skipped or applied twice."""
    group = Group(config=replace(TINY, retained_entries=retained))
    group.elect(1)
    for data in (b"a", b"b", b"c"):
        group.propose(1, data)
    group.stabilise()
    heartbeats(group, 1)
    for index, expected in ((2, [b"a"]), (3, [b"a", b"b"])):
        group.compact(2, index)
        group.crash(2)
        group.start(2)
        assert (group.state(2).applied, group.applied[2]) == (index, expected)
        heartbeats(group, 1)
        assert group.applied[2] == [b"a", b"b", b"c"]
    group.elect(2)
    heartbeats(group, 2)
    assert group.applied[2] == group.applied[1] == [b"a", b"b", b"c"]


def test_a_follower_applies_so_a_failover_shows_the_whole_state() -> None:
    """RedisLabs/redisraft#14: followers kept the log and never applied it."""
    group = Group()
    group.elect(1)
    for data in (b"a", b"b"):
        group.propose(1, data)
    group.stabilise()
    heartbeats(group, 1)
    assert group.applied[2] == group.applied[3] == [b"a", b"b"]
    group.crash(1)
    group.campaign(3)
    group.stabilise()
    assert (group.state(3).role, group.applied[3]) == ("leader", [b"a", b"b"])


# Membership -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("becomes", [REMOVED, LEARNER])
@pytest.mark.parametrize("knows", [False, True])
def test_who_was_removed_or_demoted_does_not_disturb_the_leader(becomes: ChangeKind, *, knows: bool) -> None:
    """canonical/raft#137, hashicorp/raft#524: it campaigns with ever higher terms, and the others follow."""
    group = Group()
    group.elect(1)
    group.change(1, Change(becomes, 3), transition=SIMPLE)
    group.stabilise_among(*((1, 2, 3) if knows else (1, 2)))
    assert (group.state(3).membership_index != 0) == knows
    for _ in range(20):
        group.tick(group.config.heartbeat_s, [1])
        group.stabilise_among(1, 2)
        group.tick(0.0, [3])
        group.stabilise()
        assert not (knows and group.state(3).role != "follower")
        for node in (1, 2):  # As from a release without pre-vote.
            group.give(node, raft.Received(3, VoteRequest(9, 9, 9, False)))
    assert [group.state(node).term for node in (1, 2, 3)] == [1, 1, 1]
    assert [group.state(node).leader for node in (1, 2)] == [1, 1]


def test_a_leader_that_a_joint_membership_makes_a_learner_can_win_again() -> None:
    """scylladb/scylladb#10618: nobody else has a log that is long enough, so the group was dead."""
    group = Group(2)
    group.elect(1)
    group.change(1, Change(LEARNER, 1), transition=EXPLICIT)
    group.stabilise()
    heartbeats(group, 1)
    assert group.state(2).commit == 2
    group.propose(1, b"nobody else has it")
    for _ in range(50):
        group.tick(group.config.heartbeat_s, [1])
        group.stabilise_among(1)
    assert (group.state(1).role, group.state(1).log_terms) == ("follower", (1, 1, 1))
    group.campaign(2)
    group.stabilise()
    assert group.state(2).role != "leader"
    group.elect(1)
    group.leave_joint(1)
    group.stabilise()
    assert (group.state(2).role, group.state(2).membership) == ("leader", Membership(voters=(2,), learners=(1,)))
    assert group.applied[2] == [b"nobody else has it"]


def test_a_new_leader_changes_nothing_before_its_own_term_has_a_commit() -> None:
    """Ongaro on raft-dev, 2015, "bug in single-server membership changes": two majorities that do not overlap.

    Node 1 has {1, 2, 3, 4, 5} in its log, and nobody else has. Node 2 leads the next term and removes node 1: with
    {2, 3, 4} it would commit by 2 and 3 alone what node 1 overwrites with 4 and 5. `Group` watches over that.
    """
    group = Group(4)
    group.elect(1)
    heartbeats(group, 1, 1)
    group.join(5)
    group.change(1, Change(VOTER, 5), transition=SIMPLE)
    group.mail.clear()
    group.tick(2 * group.config.election_timeout_s_max, [])
    group.campaign(2)
    group.stabilise(lambda _sender, to, message: to != 1 and not isinstance(message, Append))
    assert (group.state(2).role, group.state(2).term, group.state(2).commit) == ("leader", 2, 1)

    effects = group.change(2, Change(REMOVED, 1), transition=SIMPLE)
    for _ in range(6):
        group.tick(group.config.heartbeat_s, [2])
        group.stabilise_among(2, 3)
    group.tick(2 * group.config.election_timeout_s_max, [])
    for _ in range(3):
        if group.state(1).role != "leader":
            group.campaign(1)
            group.stabilise_among(1, 4, 5)
    assert group.state(1).role == "leader"
    assert effects == [raft.MembershipRefused("nothing of this term is committed yet: try again", 2)]


def test_the_majority_of_a_change_is_known_to_whoever_has_its_entry() -> None:
    """etcd-io/etcd#12359, cockroachdb/cockroach#42251: in force only when applied, so that after the loss of the leader
    those who are left take themselves for too few, or for no members at all."""
    group = Group()
    group.elect(1)
    group.join(4)
    group.join(5)
    group.change(1, Change(VOTER, 4), Change(VOTER, 5))
    group.stabilise(lambda _sender, _to, message: not isinstance(message, Heartbeat))
    five = Membership(voters=(1, 2, 3, 4, 5))
    assert (group.state(1).membership, group.state(1).commit) == (five, 3)
    for node in (3, 4, 5):
        assert (group.state(node).membership_index, group.state(node).applied) == (3, 2)
    group.crash(1)
    group.crash(2)
    group.mail.clear()
    group.tick(2 * group.config.election_timeout_s_max, [])
    group.campaign(4)
    group.stabilise()
    assert (group.state(4).role, group.state(4).commit) == ("leader", 4)


def test_a_received_snapshot_takes_back_a_membership_that_was_never_committed() -> None:
    """databendlabs/openraft#1808: log gone, its uncommitted membership still in force."""
    group = Group()
    stale = Membership(voters=(1, 2, 3, 9))
    group.start(3, RaftLog(entries=[Entry(1, b""), Entry(1, encode_membership(stale))]), HardState(1, 0))
    assert group.state(3).membership == stale
    group.install(3, snapshot_of(b"state"), term=2, index=5, index_term=2)
    for _ in range(2):
        assert (group.state(3).membership, group.state(3).membership_index) == (Membership(voters=(1, 2, 3)), 5)
        assert group.nodes[3].log.membership_at(5) == Membership(voters=(1, 2, 3))
        group.crash(3)
        group.start(3)


def test_a_membership_that_may_be_taken_back_is_in_no_snapshot() -> None:
    """canonical/raft#250: it came back with the snapshot after its entry had been cut away."""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise()
    group.change(1, Change(VOTER, 4), transition=SIMPLE)
    group.mail.clear()
    assert group.state(1).membership.voters == (1, 2, 3, 4)
    group.compact(1)
    snapshot = group.disk[1].snapshot
    assert snapshot is not None
    assert snapshot.membership == Membership(voters=(1, 2, 3))
    group.crash(1)
    group.elect(2, among=(2, 3))
    group.start(1)
    heartbeats(group, 2)
    assert (group.state(1).membership, group.state(1).log_terms) == (Membership(voters=(1, 2, 3)), (2,))


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (1, Membership(voters=(1, 2))),
        (2, Membership(voters=(1, 2), learners=(3,))),
        (3, Membership(voters=(1, 2), learners=(3,))),
        (4, Membership(voters=(1, 2, 3))),
    ],
)
def test_a_snapshot_carries_the_membership_as_of_its_index(index: int, expected: Membership) -> None:
    """async-raft/async-raft#133: the wrong one, or none; whoever begins with it does not know whom it belongs to."""
    group = Group(2)
    group.elect(1)
    group.join(3)
    group.change(1, Change(LEARNER, 3), transition=SIMPLE)
    group.stabilise()
    group.propose(1, b"a")
    group.change(1, Change(VOTER, 3), transition=SIMPLE)
    group.stabilise()
    assert group.state(1).applied == 4
    group.compact(1, index)
    snapshot = group.disk[1].snapshot
    assert snapshot is not None
    group.join(9)
    group.install(9, snapshot.chunks, term=1, index=index, index_term=1)
    for _ in range(2):
        assert (group.state(9).membership, group.state(9).membership_index) == (expected, index)
        group.crash(9)
        group.start(9)


@pytest.mark.parametrize("data", [b"", b"state", b"\x00\x00\x00\x05state", snapshot_of()[0][1:]])
def test_a_snapshot_without_a_membership_is_refused_and_never_saved(data: bytes) -> None:
    """moby/swarmkit#238: whoever began with it was a group of its own, or of nobody."""
    group = Group()
    with pytest.raises(StorageError, match="membership"):
        group.install(3, [data, b"state"], term=1, index=5, index_term=1)
    assert not any(isinstance(effect, raft.SaveChunk | raft.Restore) for effect in group.effects[3])
    assert (group.disk[3].snapshot, group.state(3).applied) == (None, 0)


@pytest.mark.parametrize("compacted", [False, True])
def test_a_restart_takes_the_membership_from_snapshot_and_log(*, compacted: bool) -> None:
    """deventlab/d-engine#431: rebuilt from the settings, so that a removed node was asked and a new one was not."""
    group = Group()
    group.elect(1)
    group.join(4)
    group.change(1, Change(VOTER, 4), Change(REMOVED, 3))
    group.stabilise()
    heartbeats(group, 1)
    for node in (1, 2, 4):
        if compacted:
            group.compact(node)
        group.crash(node)
        group.start(node)
        assert group.state(node).membership == Membership(voters=(1, 2, 4))
    group.elect(4, among=(2, 4))
    assert set(group.state(4).peers) == {1, 2}


@pytest.mark.parametrize("transition", [JOINT, EXPLICIT])
@pytest.mark.parametrize("lost", range(9))
def test_a_group_of_one_moves_to_another_node_whenever_the_old_one_dies(lost: int, transition: raft.Transition) -> None:
    """redpanda-data/redpanda#3055: {1} becomes {2}; the old leader left before the new one knew of it, and nobody
    could win. From the letter with this number on, all are lost, and node 1 starts anew."""
    group = Group(1)
    group.elect(1)
    group.propose(1, b"a")
    group.join(2)
    group.change(1, Change(VOTER, 2), Change(REMOVED, 1), transition=transition)
    for _ in range(lost):
        if group.mail:
            letter = group.mail.pop(0)
            group.give(letter.to, raft.Received(letter.sender, letter.message))
        elif group.state(1).membership.is_joint() and group.state(1).role == "leader":
            group.leave_joint(1)
    group.mail.clear()
    group.crash(1)
    group.start(1)
    for _ in range(80):
        group.tick(0.1)
        group.stabilise()
        for node in (1, 2):
            if group.state(node).role == "leader" and group.state(node).membership.is_joint():
                group.leave_joint(node)
    assert (group.state(2).role, group.state(2).membership) == ("leader", Membership(voters=(2,)))
    assert (group.state(1).role, group.applied[2]) == ("follower", [b"a"])
