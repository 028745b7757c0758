"""Snapshots of a replica: when they are due, what is in them, and what is done with a damaged one."""

import msgspec
import pytest

from noctule.base.errors import StorageError
from noctule.core.keyspace.reply import OK
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.membership import Change, ChangeKind, Membership
from noctule.core.replica.events import Answer, WriteSnapshotNow
from noctule.core.replica.replica import Replica, SnapshotPolicy, join_snapshot, membership_of, split_snapshot

from .colony import GROUP, Colony, Machine, write


def work(machine: Machine, first: int, last: int, command: bytes = b"INCR a") -> None:
    """Batches first…last of one origin, an entry each."""
    for number in range(first, last + 1):
        machine.take(write(7, number, command))
        machine._colony.settle()


def restored(data: bytes) -> Replica:
    """A fresh replica with a snapshot's state."""
    replica = Colony().machines[1].replica
    replica.load_state(split_snapshot(data))
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


def chunks_of_a_state() -> list[bytes]:
    machine = Colony(policy=SnapshotPolicy(entries=4)).elect(1)
    work(machine, 1, 3)
    return list(split_snapshot(machine.finish_snapshot()))


def header(results: bytes) -> bytes:
    return msgspec.msgpack.encode((1_000, (7, [(7, 900, 4, {3: results})])))


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


def test_a_joined_snapshot_that_is_cut_anywhere_is_refused() -> None:
    data = join_snapshot(chunks_of_a_state())
    expected = restored(data).digest()
    assert restored(data).digest() == expected
    for length in range(len(data)):
        with pytest.raises(StorageError):
            restored(data[:length])


def test_a_joined_snapshot_keeps_empty_chunks_and_their_order() -> None:
    chunks = [b"", b"one", b"", b"x" * 300]
    assert list(split_snapshot(join_snapshot(chunks))) == chunks
    assert list(split_snapshot(b"")) == []
