"""Bugs that other systems shipped and that no other file names: each goes red when the bug is put back."""

from dataclasses import replace

import pytest

from noctule.core.raft import events as raft
from noctule.core.raft.messages import Append, Entry, HardState, InstallSnapshot
from noctule.verify.sim.driving import TINY, Group, chosen, log_of


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


@pytest.mark.parametrize("synced", [0, 1, 2, 3])
def test_snapshot_and_log_meet_after_a_crash_at_any_point_of_an_install(synced: int) -> None:
    """RedisLabs/redisraft#43, camunda/camunda#13093: the log begins after the end of the snapshot, with a hole."""
    group = Group()
    group.start(3, log_of(1, 1, 1), HardState(1, 0))
    group.hold(3)
    group.give(3, raft.Received(1, InstallSnapshot(2, 5, 2, 0, 3, b"a b")))
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
    assert (state.applied == 5) == (synced >= 1)


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
    data = b"a b c d "

    def saved_after(*offsets: int) -> list[bytes]:
        for offset in offsets:
            chunk = InstallSnapshot(1, 5, 1, offset, len(data), data[offset : offset + 2])
            group.give(2, raft.Received(1, chunk))
        return [effect.data for effect in group.effects[2] if isinstance(effect, raft.SaveSnapshot)]

    assert saved_after(0, 2, 2, 6, 0) == []
    assert saved_after(4, 6) == [data]


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
