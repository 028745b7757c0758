"""Snapshots of a replica: when they are due, what is in them, and what is done with a damaged one."""

from collections.abc import Iterable

import msgspec
import pytest

from noctule.base.errors import StorageError
from noctule.core.keyspace.reply import OK
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.membership import Change, ChangeKind, Membership
from noctule.core.raft.messages import Heartbeat, InstallSnapshot
from noctule.core.replica.events import Answer, TakeDigest, WriteSnapshotNow
from noctule.core.replica.replica import Replica, SnapshotPolicy, membership_of

from .colony import GROUP, Colony, Machine, query, write


def work(machine: Machine, first: int, last: int, command: bytes = b"INCR a") -> None:
    """Batches first…last of one origin, an entry each."""
    for number in range(first, last + 1):
        machine.take(write(7, number, command))
        machine._colony.settle()


def restored(chunks: list[bytes]) -> Replica:
    """A fresh replica with a snapshot's state."""
    replica = Colony().machines[1].replica
    replica.load_state(chunks)
    return replica


# When -----------------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_due_every_so_many_entries() -> None:
    machine = Colony(policy=SnapshotPolicy(entries=4)).elect(1)
    work(machine, 1, 2)  # And the no-op: three entries.
    assert machine.written == []
    work(machine, 3, 3)
    assert [(snapshot.index, snapshot.term) for snapshot in machine.written] == [(4, 1)]
    machine.finish_snapshot()
    work(machine, 4, 6)
    assert machine.written == []
    work(machine, 7, 7)
    assert [snapshot.index for snapshot in machine.written] == [8]


def test_a_snapshot_is_due_when_the_log_is_large_on_followers_too() -> None:
    """A follower hears a leader all the time and so never ticks: its log of large values grew without a bound."""
    colony = Colony(3, policy=SnapshotPolicy(log_bytes=1_000))
    leader = colony.elect(1)
    work(leader, 1, 3, b"SET a " + b"x" * 400)
    colony.settle()
    leader.take(write(7, 4, b"SET a 1"))
    colony.settle()
    assert {node: len(machine.written) for node, machine in colony.machines.items()} == {1: 1, 2: 1, 3: 1}


def test_one_snapshot_at_a_time() -> None:
    """Two writers of one file, and twice the memory."""
    machine = Colony(policy=SnapshotPolicy(entries=2)).elect(1)
    work(machine, 1, 9)
    assert len(machine.written) == 1
    machine.finish_snapshot()
    machine.take(raft.Tick())
    machine.turn()
    assert [snapshot.index for snapshot in machine.written] == [10]


def test_the_log_goes_once_the_snapshot_is_saved_and_not_before() -> None:
    machine = Colony(policy=SnapshotPolicy(entries=4)).elect(1)
    work(machine, 1, 3)
    log = machine.replica.raft.log
    assert (log.snapshot_index, log.last_index) == (0, 4)
    machine.finish_snapshot()
    assert (log.snapshot_index, log.last_index) == (4, 4)
    assert machine.flushed[-1][0][1].mark == (4, 1)


def test_a_snapshot_for_space_is_written_at_once_and_keeps_no_log() -> None:
    """An idle group with two entries kept gigabytes of the shared log from being dropped."""
    config = RaftConfig(retained_entries=100)
    machine = Colony(policy=SnapshotPolicy(entries=4), config=config).elect(1)
    work(machine, 1, 3)
    machine.finish_snapshot()
    log = machine.replica.raft.log
    assert log.snapshot_index == 0  # All of it is kept for followers just behind.
    machine.take(WriteSnapshotNow(), WriteSnapshotNow())
    assert len(machine.written) == 1
    machine.finish_snapshot()
    assert log.snapshot_index == log.last_index == 4
    machine.take(WriteSnapshotNow())
    assert machine.written == []  # There is nothing to be gained.


# What -----------------------------------------------------------------------------------------------------------------


def test_the_chunks_are_the_state_of_that_moment_though_writes_go_on() -> None:
    """A snapshot that held later writes had them applied twice after a restart."""
    machine = Colony(policy=SnapshotPolicy(entries=4)).elect(1)
    work(machine, 1, 2, b"INCR a")
    machine.take(write(7, 3, b"HSET h f 1", b"SET b 1 PX 500"))
    machine._colony.settle()
    then = machine.replica.digest()
    machine._colony.wall_ms[1] = 1_400
    machine.take(write(7, 4, b"INCR a", b"HSET h f 2 g 3", b"PERSIST b", b"SET c 1"))
    machine._colony.settle()
    assert machine.replica.digest() != then
    replica = restored(machine.finish_snapshot())
    assert replica.digest() == then
    assert replica.stamp_ms == 1_000
    assert replica.read_local([b"HGETALL", b"h"], 0) == {b"f": b"1"}


def test_a_follower_that_comes_back_gets_the_snapshot_and_is_as_the_others() -> None:
    colony = Colony(3, policy=SnapshotPolicy(entries=5), config=RaftConfig(retained_entries=0, chunk_bytes_max=16))
    leader = colony.elect(1)
    for number in range(1, 10):
        leader.take(write(7, number, b"INCR a", b"SET k%d v PX %d" % (number, number)))
        colony.settle_between(1, 2)
    leader.finish_snapshot()
    late = colony.machines[3]
    assert late.replica.raft.log.last_index < leader.replica.raft.log.snapshot_index
    for _ in range(3):
        colony.heartbeat(1)
    assert late.files[GROUP] == leader.files[GROUP]
    assert late.replica.digest() == leader.replica.digest()
    late_leader = colony.elect(3)
    late_leader.take(write(7, 9, b"INCR a", b"SET k9 v PX 9", sender=3))
    colony.settle()
    # The sessions came with the snapshot: a retry gets the first result.
    assert late_leader.taken_answers() == [Answer(3, 7, True, 9, [9, OK])]


def test_a_membership_that_may_be_taken_back_is_in_no_snapshot() -> None:
    """canonical/raft#250: it would come back with the snapshot after its entry had been cut away."""
    colony = Colony(3)
    leader = colony.elect(1)
    work(leader, 1, 1)
    learner = raft.ChangeMembership((Change(ChangeKind.LEARNER, 4),), raft.Transition.SIMPLE)
    leader.take(learner)
    assert leader.replica.raft.log.membership.learners == (4,)
    leader.take(WriteSnapshotNow())
    leader.turn()
    (snapshot,) = leader.written
    assert membership_of(list(snapshot.chunks)) == Membership(voters=(1, 2, 3))


# Damage ---------------------------------------------------------------------------------------------------------------


def chunks_of_a_state(command: bytes = b"INCR a") -> list[bytes]:
    machine = Colony(policy=SnapshotPolicy(entries=4)).elect(1)
    work(machine, 1, 3, command)
    return machine.finish_snapshot()


def header(results: bytes) -> bytes:
    return msgspec.msgpack.encode((1_000, 7, [(7, 900, 4, {3: results})], True))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: [], id="nothing at all"),
        pytest.param(lambda chunks: chunks[:2], id="no data"),
        pytest.param(lambda chunks: [chunks[0], *chunks[2:]], id="no header"),
        pytest.param(lambda chunks: chunks[1:], id="no membership"),
        pytest.param(lambda chunks: [b"\xc1\xc1", *chunks[1:]], id="membership is no MessagePack"),
        pytest.param(lambda chunks: [chunks[0], b"\xc1", *chunks[2:]], id="header is no MessagePack"),
        pytest.param(lambda chunks: [chunks[0], header(b"\xc1"), *chunks[2:]], id="kept results are no MessagePack"),
        pytest.param(lambda chunks: [chunks[0], header(b"\x91\xd4\x63\x00"), *chunks[2:]], id="no replies are kept"),
        pytest.param(lambda chunks: [chunks[0], header(b"\x91" * 9_000), *chunks[2:]], id="kept results nest for ever"),
        pytest.param(lambda chunks: [*chunks, chunks[-1]], id="data twice"),
        pytest.param(lambda chunks: [*chunks[:2], b"noise", *chunks[2:]], id="noise between"),
        pytest.param(lambda chunks: [*chunks[:2], chunks[2][:-1]], id="cut short"),
    ],
)
def test_a_damaged_snapshot_is_refused_and_changes_nothing(damage: object) -> None:
    """Half a state that looks whole is worse than none."""
    machine = Colony().elect(1)
    work(machine, 1, 2, b"APPEND own x")
    before = machine.replica.digest()
    with pytest.raises(StorageError):
        machine.replica.load_state(damage(chunks_of_a_state()))  # type: ignore[operator]
    assert machine.replica.digest() == before
    machine.replica.check()


# On the way -----------------------------------------------------------------------------------------------------------


def receive(machine: Machine, chunks: list[bytes], index: int, numbers: Iterable[int]) -> None:
    """Chunks of a snapshot come from node 2, which leads in term 9."""
    for number in numbers:
        machine.take(raft.Received(2, InstallSnapshot(9, index, 1, number, len(chunks), chunks[number])))
        machine._colony.settle()


def test_a_snapshot_that_never_becomes_complete_leaves_nothing_behind() -> None:
    """Another leader takes over, and begins anew: neither the half file nor the half state may stay in memory."""
    chunks = chunks_of_a_state()
    machine = Colony(3).machines[1]
    receive(machine, chunks, 4, range(len(chunks) - 1))
    assert machine.received[GROUP]
    assert machine.replica._staged is not None
    machine.take(raft.Received(3, Heartbeat(10, 0, 1)))
    machine._colony.settle()
    assert (machine.received, machine.replica._staged) == ({}, None)
    assert machine.replica.keyspace.key_count == 0


def test_a_snapshot_that_is_superseded_gives_way_to_the_other() -> None:
    old, new = chunks_of_a_state(), chunks_of_a_state(b"SET b 2")
    machine = Colony(3).machines[1]
    receive(machine, old, 4, range(len(old) - 1))
    receive(machine, new, 5, [*range(len(new)), *range(len(new))])
    assert machine.files[GROUP] == (5, 1, new)
    assert machine.replica.read_local([b"GET", b"b"], 0) == b"2"
    assert machine.replica._staged is None
    assert machine.replica.raft.applied == 5


def test_chunks_of_the_client_sessions_are_bounded_too() -> None:
    """A header with thousands of kept results was one chunk, larger than a frame may be."""
    machine = Colony(config=RaftConfig(chunk_bytes_max=100)).elect(1)
    for origin in range(1, 50):
        machine.take(write(origin, 1, b"APPEND a %d" % origin, b"GETDEL a"))
        machine._colony.settle()
    machine.take(WriteSnapshotNow())
    chunks = list(machine.written[0].chunks)
    assert max(map(len, chunks)) < 250
    assert restored(chunks).digest() == machine.replica.digest()


# Slices ---------------------------------------------------------------------------------------------------------------


def test_a_long_commit_is_applied_in_slices_and_reads_wait_for_it() -> None:
    """A log tail of a million entries applied in one go held the loop for seconds."""
    colony = Colony(3, config=RaftConfig(apply_entries_max=2))
    leader, late = colony.elect(1), colony.machines[3]
    late.is_busy = True
    for number in range(1, 8):
        leader.take(write(7, number, b"INCR a"))
        colony.settle_between(1, 2)
    for _ in range(3):
        colony.heartbeat(1)
    consensus = late.replica.raft
    assert (consensus.commit, late.replica.has_work) == (8, True)
    assert consensus.applied < 8
    late.take(query(5, 1, b"GET a", sender=3))
    colony.settle()
    assert late.taken_answers() == []
    late.is_busy = False
    colony.settle()
    assert (consensus.applied, late.replica.has_work) == (8, False)
    assert late.taken_answers() == [Answer(3, 5, False, 1, [b"7"])]


def test_digests_are_equal_where_the_state_is_whatever_was_applied_meanwhile() -> None:
    colony = Colony(3)
    leader, slow = colony.elect(1), colony.machines[3]
    slow.is_busy = True
    work(leader, 1, 3, b"SET a 1 PX 50")
    leader.take(TakeDigest(b"first"))
    colony.settle()
    colony.heartbeat(1)
    work(leader, 4, 5)
    leader.take(TakeDigest(b"second"))
    slow.is_busy = False
    colony.settle()
    colony.heartbeat(1)
    first, second = leader.digests
    assert (first.nonce, second.nonce, first.index + 3) == (b"first", b"second", second.index)
    assert first.digest != second.digest
    assert all(machine.digests == [first, second] for machine in colony.machines.values())


def test_a_digest_asked_of_a_follower_is_nothing() -> None:
    colony = Colony(3)
    colony.elect(1)
    colony.machines[2].take(TakeDigest(b"n"))
    colony.settle()
    assert all(machine.digests == [] for machine in colony.machines.values())


def test_a_digest_ordered_by_way_of_another_node_is_taken_too() -> None:
    colony = Colony(3)
    leader = colony.elect(1)
    leader.take(write(1, 1, b"SET a 1", b"NOCTULE.DIGEST n", b"SET b 2"))
    leader.take(TakeDigest(b"m"))
    colony.settle()
    colony.heartbeat(1)
    assert [digest.nonce for digest in leader.digests] == [b"n", b"m"]
    assert all(machine.digests == leader.digests for machine in colony.machines.values())


def test_a_digest_that_an_earlier_leader_asked_for_is_not_taken() -> None:
    """A log that is replayed has one for each sample; whoever asked waits for none of them."""
    colony = Colony(3)
    leader = colony.elect(1)
    colony.machines[2].holds_disk = colony.machines[3].holds_disk = True
    leader.take(TakeDigest(b"n"))
    colony.settle()
    colony.machines[2].holds_disk = colony.machines[3].holds_disk = False
    colony.settle_between(2, 3)
    successor = colony.elect(2, among=(2, 3))
    for _ in range(4):
        colony.heartbeat(2)
    assert successor.replica.raft.applied == leader.replica.raft.applied > 2
    assert all(machine.digests == [] for machine in colony.machines.values())
