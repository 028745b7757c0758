"""Both sides of a merge at the level of replicas: fenced, staged through the log, in snapshots, and live at once."""

import pytest

from noctule.base.errors import StorageError
from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.reply import MOVED
from noctule.core.keyspace.snapshot import chain_digest
from noctule.core.placement.slots import key_slot
from noctule.core.replica.events import Answer, Order, SplitOff, WriteSnapshotNow
from noctule.core.replica.replica import Replica
from tests.unit.core.replica.colony import GROUP, Colony, Machine, query, write

RIGHT = GroupId(7)
AT = 10_000
LOW, HIGH = b"b", b"a"
assert key_slot(LOW) < AT <= key_slot(HIGH)


def order(colony: Colony, *command: bytes, group: GroupId = GROUP) -> None:
    colony.machines[1].take(Order(list(command)), group=group)
    for _ in range(3):
        colony.heartbeat(1)
        for child in colony.machines[1].replicas:
            if child != GROUP and colony.machines[1].replicas[child].raft.leadership is not None:
                colony.machines[1].replicas[child].raft.leadership.tell_commit()
    colony.settle()


def divided(count: int = 3) -> tuple[Colony, Machine]:
    """Two partitions that node 1 leads, each with a key; the right one's has a deadline."""
    colony = Colony(count, slots=(0, 16_383))
    leader = colony.elect(1)
    leader.take(write(1, 1, b"SET b low", b"SET a high PX 500"))
    colony.settle()
    order(colony, b"NOCTULE.SPLIT", b"7", b"%d" % AT)
    assert leader.replicas[RIGHT].raft.is_leader()
    return colony, leader


def stage(colony: Colony, merge: bytes) -> list[bytes]:
    leader = colony.machines[1]
    order(colony, b"NOCTULE.FENCE", merge, group=RIGHT)
    chunks = list(leader.replicas[RIGHT].dump_chunks(int(merge)))
    for number, chunk in enumerate(chunks):
        order(colony, b"NOCTULE.ABSORB", merge, b"%d" % number, chunk)
    return chunks


def finish(colony: Colony, merge: bytes, chunks: list[bytes]) -> None:
    digest = b""
    for chunk in chunks:
        digest = chain_digest(digest, chunk)
    order(colony, b"NOCTULE.ABSORB-END", merge, b"%d" % len(chunks), b"%d" % AT, b"16383", digest)


def get(replica: Replica, key: bytes) -> object:
    return replica.read_local([b"GET", key], 0)


def test_a_merge_is_live_on_every_replica_by_one_entry() -> None:
    colony, leader = divided()
    chunks = stage(colony, b"3")
    territory = leader.replica.describe().territory
    assert territory is not None
    assert (territory.staged_id, territory.staged_chunks, territory.staged_bytes) == (3, 1, len(chunks[0]))
    assert (get(leader.replica, HIGH), get(leader.replicas[RIGHT], HIGH)) == (MOVED, MOVED)
    finish(colony, b"3", chunks)
    assert len({machine.replica.digest() for machine in colony.machines.values()}) == 1
    for machine in colony.machines.values():
        assert (get(machine.replica, LOW), get(machine.replica, HIGH)) == (b"low", b"high")
        machine.replica.check()
    after = leader.replica.describe().territory
    assert after is not None
    assert (after.last, after.absorbed, after.staged_id) == (16_383, 3, 0)


def test_a_fenced_partition_answers_nothing_and_purges_nothing() -> None:
    """A purge would change what is copied; a read that meets an expired key would log one."""
    colony, leader = divided(1)
    right = leader.replicas[RIGHT]
    order(colony, b"NOCTULE.FENCE", b"3", group=RIGHT)
    territory = right.describe().territory
    assert territory is not None
    assert territory.fenced == 3
    before = right.digest()
    leader.taken_answers()
    colony.wall_ms[1] += 60_000
    leader.take(query(1, 1, b"GET a"), group=RIGHT)
    for _ in range(5):
        order(colony, b"SET", b"a", b"new", group=RIGHT)
    assert [answer.results for answer in leader.taken_answers() if isinstance(answer, Answer)] == [[MOVED]]
    assert right.keyspace.digest() == before[:16]
    assert right.keyspace.key_count == 1
    order(colony, b"NOCTULE.UNFENCE", b"3", group=RIGHT)
    order(colony, b"SET", b"a", b"new", group=RIGHT)
    assert get(right, HIGH) == b"new"


def test_what_is_staged_is_part_of_snapshots_and_of_the_digest() -> None:
    """A follower that comes by snapshot in the middle of a merge must take it in as the others do."""
    colony, leader = divided(1)
    before = leader.replica.digest()
    chunks = stage(colony, b"3")
    assert leader.replica.digest() != before
    while leader.written:  # The child's first one, for which the parent's waits.
        leader.finish_snapshot()
    leader.take(WriteSnapshotNow())
    data = leader.finish_snapshot()
    effect = SplitOff(RIGHT, leader.replica.keyspace, 1, 1, leader.replica.raft.log.membership, 0, False)
    loaded = leader._make_child(effect, Instant(0.0))
    loaded.load_state(data)
    loaded.check()
    assert loaded.digest() == leader.replica.digest()
    assert loaded.describe().territory == leader.replica.describe().territory
    for each in (loaded, leader.replica):
        digest = chain_digest(b"", chunks[0])
        numbers = (b"3", b"1", b"%d" % AT, b"16383")
        each.keyspace.execute([b"NOCTULE.ABSORB-END", *numbers, digest], 5)
        assert each.keyspace.key_count == 2
    with pytest.raises(StorageError):
        loaded.load_state([data[0], data[1], *data[3:]])


def test_row_39_a_merge_that_is_taken_back_leaves_both_sides_as_they_were() -> None:
    """tikv/tikv#6460. The left side promises first; only then does the right one answer again."""
    colony, leader = divided()
    left, right = leader.replica.keyspace.digest(), leader.replicas[RIGHT].keyspace.digest()
    chunks = stage(colony, b"3")
    order(colony, b"NOCTULE.ABSORB-DROP", b"3")
    order(colony, b"NOCTULE.UNFENCE", b"3", group=RIGHT)
    finish(colony, b"3", chunks)  # Comes late, by another leader of the right side.
    assert (leader.replica.keyspace.digest(), leader.replicas[RIGHT].keyspace.digest()) == (left, right)
    assert (get(leader.replica, HIGH), get(leader.replicas[RIGHT], HIGH)) == (MOVED, b"high")
    again = stage(colony, b"4")
    finish(colony, b"4", again)
    assert get(leader.replica, HIGH) == b"high"
