"""Log replication, commit and reads: paper 5.3, 5.4.2 and 8, thesis 6.4, and bugs that others shipped."""

from dataclasses import replace
from itertools import pairwise

import pytest

from noctule.base.errors import InternalError
from noctule.base.ids import Instant
from noctule.core.raft import events as raft
from noctule.core.raft.messages import Append, AppendReply, Entry, HardState, Heartbeat, HeartbeatReply, InstallSnapshot
from noctule.verify.sim.driving import TINY, Group, chosen, log_of, snapshot_of


def replies(group: Group) -> list[AppendReply]:
    return [message for _, _, message in group.mail if isinstance(message, AppendReply)]


def effects_of(group: Group, voter: int, kind: type) -> list:
    return [effect for effect in group.effects[voter] if isinstance(effect, kind)]


def test_an_entry_is_committed_when_a_majority_has_it_and_applied_everywhere() -> None:
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise_among(1, 2)
    assert group.applied[1] == [b"a"]
    group.tick(0.06, [1])
    group.stabilise()
    group.tick(0.06, [1])
    group.stabilise()
    assert group.applied[2] == group.applied[3] == [b"a"]


def test_an_append_is_acknowledged_only_when_it_is_durable() -> None:
    """etcd-io/etcd#14370: a write acknowledged before fsync."""
    group = Group()
    group.elect(1)
    group.holds_disk = {2}
    append = Append(1, 1, 1, 1, [Entry(1, b"a")])
    group.give(2, raft.Received(1, append))
    assert replies(group) == []
    group.give(2, raft.Received(1, append))  # Doubled on the way: nothing new to store, and still not durable.
    assert replies(group) == []
    group.sync(2)
    assert [(reply.accepted, reply.index) for reply in replies(group)] == [(True, 2), (True, 2)]


def test_the_leader_counts_itself_only_when_its_own_disk_has_it() -> None:
    group = Group()
    group.elect(1)
    group.holds_disk = {1}
    group.propose(1, b"a")
    group.stabilise_among(1, 2)
    assert group.nodes[1].commit == 1
    group.sync(1)
    assert group.applied[1] == [b"a"]


def test_the_leader_sends_before_its_own_sync_ends() -> None:
    """Thesis 10.2.1: the disks of leader and followers work at the same time."""
    group = Group()
    group.elect(1)
    group.mail.clear()
    group.holds_disk = {1}
    group.propose(1, b"a")
    assert [to for _, to, message in group.mail if isinstance(message, Append)] == [2, 3]


def test_an_entry_of_an_older_term_is_not_committed_by_counting_copies() -> None:
    """Paper 5.4.2, figure 8: (c) an entry of term 2 stands on a majority and may still be overwritten."""
    group = Group(5)
    for voter, terms in {1: (1, 2), 2: (1, 2), 3: (1, 2), 4: (1,), 5: (1,)}.items():
        group.start(voter, log_of(*terms), HardState(3, 0))
    group.now = Instant(5.0)
    group.give(1, raft.Tick())
    group.stabilise(lambda _s, _t, message: not isinstance(message, Append))
    leader = group.nodes[1]
    assert (leader.term, leader.is_leader()) == (4, True)
    for voter in (2, 3):
        group.give(1, raft.Received(voter, AppendReply(4, True, 2)))
    assert leader.commit == 0
    for voter in (2, 3):
        group.give(1, raft.Received(voter, AppendReply(4, True, 3)))
    assert leader.commit == 3


@pytest.mark.parametrize(
    "follower",
    [
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
        (),
    ],
)
def test_every_follower_of_figure_7_ends_with_the_leader_s_log(follower: tuple[int, ...]) -> None:
    """Paper, figure 7; where the logs part is found in a round for each term, not for each entry."""
    group = Group(3)
    group.start(1, log_of(1, 1, 1, 4, 4, 5, 5, 6, 6, 6), HardState(7, 0))
    group.start(2, log_of(1, 1, 1, 4, 4, 5, 5, 6, 6, 6), HardState(7, 0))
    group.start(3, log_of(*follower), HardState(7, 0))
    group.elect(1, among=(1, 2))
    refused = 0
    for _ in range(6):
        group.tick(0.05, [1])
        refused += sum(not reply.accepted for reply in replies(group))
        group.stabilise()
    assert group.terms(3) == group.terms(1)
    group.nodes[3].check()


def test_a_late_short_append_cuts_nothing() -> None:
    """ktoso/akka-raft#66: an Append truncates only at a real conflict."""
    group = Group()
    group.start(2, log_of(1, 1, 1, 1), HardState(1, 0))
    group.give(2, raft.Received(1, Append(1, 1, 1, 0, [Entry(1, b"2@1")])))
    assert group.terms(2) == [1, 1, 1, 1]
    assert replies(group)[-1] == AppendReply(1, True, 2)


def test_a_conflict_cuts_the_whole_tail() -> None:
    """mofa-org/mofa#1151: a conflict overwritten in place, the stale tail kept."""
    group = Group()
    group.start(2, log_of(1, 1, 2, 2, 2), HardState(2, 0))
    group.give(2, raft.Received(1, Append(3, 2, 1, 0, [Entry(3, b"x")])))
    assert group.terms(2) == [1, 1, 3]
    assert [entry.term for entry in group.disk[2].entries] == [1, 1, 3]


def test_only_what_the_append_verified_is_committed() -> None:
    """atomix/copycat#265: the commit index moved past what the request verified, onto a stale tail."""
    group = Group()
    group.start(2, log_of(1, 1, 1), HardState(1, 0))
    group.give(2, raft.Received(1, Append(2, 1, 1, 3, [])))
    assert group.nodes[2].commit == 1


def test_a_committed_entry_is_never_replaced() -> None:
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise()
    node = group.nodes[1]
    node._become_follower(2, 2)
    with pytest.raises(InternalError, match="committed entry is never replaced"):
        node._accept(1, [Entry(2, b"other")])


def test_an_append_that_begins_before_the_log_does_is_no_conflict() -> None:
    """databendlabs/openraft#511: a purged previous entry taken for a conflict, the log deleted."""
    group = Group()
    group.elect(1)
    for number in range(5):
        group.propose(1, b"%d" % number)
    group.stabilise()
    group.tick(0.06, [1])
    group.stabilise()
    follower = group.nodes[2]
    group.give(2, raft.SnapshotSaved(4, 1))
    assert follower.log.first_index == 5
    group.mail.clear()
    group.give(2, raft.Received(1, Append(1, 1, 1, 6, [Entry(1, b"0"), Entry(1, b"1")])))
    assert follower.log.last_index == 6
    assert replies(group) == [AppendReply(1, True, 6)]


def test_lost_appends_are_found_and_sent_again() -> None:
    group = Group()
    group.elect(1)
    for number in range(3):
        group.propose(1, b"%d" % number)
    group.mail.clear()  # All lost.
    for _ in range(8):
        group.tick(0.05, [1])
        group.stabilise()
    assert group.applied[2] == [b"0", b"1", b"2"]


def test_no_more_than_a_few_appends_are_in_flight_and_each_is_bounded() -> None:
    group = Group()
    group.elect(1)
    group.tick(0.06, [1])
    group.stabilise()
    group.mail.clear()
    for number in range(20):
        group.propose(1, b"%02d" % number * 25)
    sent = [message for _, to, message in group.mail if to == 2 and isinstance(message, Append)]
    assert len(sent) == group.config.in_flight_max
    group.stabilise()
    for _ in range(3):
        group.tick(0.05, [1])
        group.stabilise()
    assert len(group.applied[2]) == 20
    follower_appends = [e for e in effects_of(group, 1, raft.Send) if isinstance(e.message, Append)]
    assert all(sum(len(entry.data) for entry in e.message.entries) <= 100 for e in follower_appends)


def test_too_much_uncommitted_is_refused_and_nothing_happened() -> None:
    group = Group()
    leader = group.elect(1)
    outcomes = [group.propose(1, b"x" * 300)[0] for _ in range(5)]
    assert [type(outcome) for outcome in outcomes] == [raft.Proposed] * 3 + [raft.ProposalRefused] * 2
    assert leader.log.last_index == 4
    group.stabilise()
    assert isinstance(group.propose(1, b"x" * 300)[0], raft.Proposed)


def test_a_read_waits_for_a_commit_in_the_leader_s_own_term() -> None:
    """etcd-io/etcd#7331: a read index given before the no-op is behind what was acknowledged."""
    group = Group()
    group.start(1, log_of(1, 1), HardState(1, 0))
    group.start(2, log_of(1, 1), HardState(1, 0))
    group.tick(2.0, [1])
    group.stabilise(lambda _s, _t, message: not isinstance(message, AppendReply))
    assert group.nodes[1].is_leader()
    group.give(1, raft.ReadIndex(7))
    group.stabilise(lambda _s, _t, message: not isinstance(message, AppendReply))
    assert effects_of(group, 1, raft.ReadReady) == []
    for _ in range(3):
        group.tick(0.05, [1])
        group.stabilise()
    assert effects_of(group, 1, raft.ReadReady) == [raft.ReadReady(7, 3)]


def test_a_read_needs_a_majority_s_word_given_after_it() -> None:
    """Thesis 6.4: an earlier heartbeat's answer proves nothing about now."""
    group = Group()
    group.elect(1)
    group.mail.clear()
    group.tick(0.06, [1])
    early = group.mail
    group.mail = []
    group.give(1, raft.ReadIndex(7))
    group.mail.clear()
    for sender, to, message in early:
        group.give(to, raft.Received(sender, message))
    group.stabilise()
    assert effects_of(group, 1, raft.ReadReady) == []
    group.tick(0.06, [1])
    group.stabilise()
    assert [ready.context for ready in effects_of(group, 1, raft.ReadReady)] == [7]


def test_a_deposed_leader_refuses_its_reads() -> None:
    group = Group()
    group.elect(1)
    group.give(1, raft.ReadIndex(7))
    group.mail.clear()
    group.elect(2, among=(2, 3))
    group.tick(0.06, [2])
    group.stabilise()
    assert effects_of(group, 1, raft.ReadReady) == []
    assert [refused.context for refused in effects_of(group, 1, raft.ReadRefused)] == [7]


def test_a_follower_refuses_proposals_and_names_the_leader() -> None:
    group = Group()
    group.elect(1)
    assert group.propose(2, b"a") == [raft.ProposalRefused(1)]


def test_a_replica_without_a_leader_refuses_reads() -> None:
    assert Group().give(2, raft.ReadIndex(3)) == [raft.ReadRefused(3, 0)]


def test_a_heartbeat_does_not_commit_what_the_follower_is_not_known_to_have() -> None:
    group = Group()
    group.elect(1)
    group.start(3, log_of(1, 9, 9), HardState(9, 0))
    group.give(3, raft.Received(1, Heartbeat(9, 0, 1)))
    assert group.nodes[3].commit == 0
    assert HeartbeatReply(9, 1) in [message for _, _, message in group.mail]


def test_a_follower_behind_the_log_s_begin_gets_the_snapshot_in_chunks_and_then_the_log() -> None:
    group = Group()
    group.elect(1, among=(1, 2))
    for number in range(6):
        group.propose(1, b"%d" % number)
        group.stabilise_among(1, 2)
    group.compact(1, 5)
    assert group.nodes[1].log.first_index == 6
    for _ in range(6):
        group.tick(0.05, [1])
        group.stabilise()
    assert group.applied[3] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    chunks = [e.message for e in effects_of(group, 1, raft.Send) if type(e.message).__name__ == "InstallSnapshot"]
    assert [chunk.number for chunk in chunks] == [0, 1]
    assert all(len(chunk.data) <= group.config.chunk_bytes_max for chunk in chunks)


def test_a_lost_chunk_is_sent_again() -> None:
    group = Group()
    group.elect(1, among=(1, 2))
    for number in range(6):
        group.propose(1, b"%d" % number)
        group.stabilise_among(1, 2)
    group.compact(1, 5)
    lost = iter([True, False, True, True] + [False] * 1000)
    for _ in range(120):
        group.tick(0.05, [1])
        group.stabilise(lambda _s, _t, message: type(message).__name__ != "InstallSnapshot" or not next(lost))
    assert group.applied[3] == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_a_snapshot_older_than_the_state_changes_nothing() -> None:
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise()
    group.tick(0.06, [1])
    group.stabilise()
    group.install(2, snapshot_of(b"old"), term=1, index=1, index_term=1)
    assert group.applied[2] == [b"a"]
    assert effects_of(group, 2, raft.Restore) == []


def test_a_log_compacted_behind_the_snapshot_that_is_being_sent_leads_to_the_next_one() -> None:
    """The leader asked for ever whether the old one was installed, which it was, and never went on."""
    group = Group(config=replace(TINY, retained_bytes_max=0))
    group.elect(1, among=(1, 2))
    group.propose(1, b"a")
    group.stabilise_among(1, 2)
    group.compact(1)
    for _ in range(2):
        group.tick(0.06, [1])
        group.deliver(chosen("Heartbeat"))
        group.deliver(chosen("HeartbeatReply"))
    assert group.state(1).peers[3].state == "snapshot"
    group.propose(1, b"b")
    for kind in ("Append", "AppendReply"):
        group.deliver(chosen(kind))
    group.compact(1)
    assert group.state(1).snapshot == (3, 1)
    for _ in range(3):
        group.tick(1.0, [1])
        group.stabilise()
    assert group.applied[3] == [b"a", b"b"]


def test_entries_behind_a_snapshot_that_is_being_sent_stay() -> None:
    """Under load the log was compacted while the snapshot was on its way, and so the next one was needed, for ever."""
    group = Group()
    group.elect(1, among=(1, 2))
    group.propose(1, b"a")
    group.stabilise_among(1, 2)
    group.compact(1)
    for _ in range(2):
        group.tick(0.06, [1])
        group.stabilise(lambda _s, _t, message: not isinstance(message, InstallSnapshot))
    assert group.state(1).peers[3].state == "snapshot"
    group.propose(1, b"b")
    group.stabilise_among(1, 2)
    group.compact(1)
    assert group.state(1).snapshot == (2, 1)
    for _ in range(3):
        group.tick(1.0, [1])
        group.stabilise()
    assert group.applied[3] == [b"a", b"b"]
    assert [effect.index for effect in effects_of(group, 3, raft.Restore)] == [2]


def test_a_rate_spaces_the_chunks_and_is_heeded_when_it_changes() -> None:
    group = Group(config=replace(TINY, chunk_bytes_max=10, snapshot_bytes_per_s=100))
    group.elect(1, among=(1, 2))
    group.propose(1, b"x" * 90)
    group.stabilise_among(1, 2)
    group.compact(1)
    times: list[float] = []
    while len(times) < 5:
        group.tick(0.01, [1])
        times += [group.now for letter in group.mail if isinstance(letter.message, InstallSnapshot)]
        group.stabilise()
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.09, "ten bytes take a tenth of a second"
    assert group.applied[3] == []
    group.nodes[1].snapshot_bytes_per_s = 0
    for _ in range(3):
        group.tick(0.06, [1])
        group.stabilise()
    assert group.applied[3] == [b"x" * 90], "without a bound there is nothing to wait for"


def test_progress_of_a_snapshot_is_told() -> None:
    group = Group(config=replace(TINY, chunk_bytes_max=10))
    group.elect(1, among=(1, 2))
    group.propose(1, b"x" * 90)
    group.stabilise_among(1, 2)
    group.compact(1)
    for _ in range(2):
        group.tick(0.06, [1])
        group.stabilise(lambda _s, _t, message: not isinstance(message, InstallSnapshot) or message.number < 3)
    progress = group.nodes[1].describe().snapshots[3]
    assert (progress.index, progress.chunks_taken, progress.chunks_total) == (2, 3, 10)
    assert 0 < progress.bytes_sent < progress.bytes_total
    for _ in range(3):
        group.tick(1.0, [1])
        group.stabilise()
    assert group.nodes[1].describe().snapshots == {}
    assert group.opened[1] == {}, "and its file is let go"


def test_a_follower_that_lost_its_process_is_asked_anew() -> None:
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise()
    group.give(1, raft.Suspect(3))
    assert group.nodes[1].describe().match[3] == 0
    for _ in range(3):
        group.tick(0.05, [1])
        group.stabilise()
    assert group.nodes[1].describe().match[3] == 2
