"""A partition splits while it serves: what each replica does, and what it keeps until the child can do without."""

import pytest

from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.reply import MOVED, OK
from noctule.core.placement.slots import key_slot
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.events import ChangeMembership, Transition
from noctule.core.raft.membership import ChangeKind
from noctule.core.raft.messages import VoteRequest
from noctule.core.replica.events import Answer, ChildSaved, Order, SplitOff, WriteSnapshotNow
from noctule.core.replica.replica import Replica, SnapshotPolicy
from tests.unit.core.replica.colony import GROUP, POLICY, Colony, Machine, query, write

CHILD = GroupId(7)
LEFT, RIGHT = b"b", b"a"
"""Keys below and above the slot where everything here is split."""
AT = 10_000
SPLIT = Order([b"NOCTULE.SPLIT", b"7", b"%d" % AT])

assert key_slot(LEFT) < AT <= key_slot(RIGHT)


def results(machine: Machine) -> list[object]:
    return [answer.results for answer in machine.taken_answers() if isinstance(answer, Answer)]


def colony_with_keys(count: int = 3, *, policy: SnapshotPolicy = POLICY) -> Colony:
    """Node 1 leads the whole range; each side has a key."""
    colony = Colony(count, slots=(0, 16_383), policy=policy)
    leader = colony.elect(1)
    leader.take(write(1, 1, b"SET b left", b"SET a right"))
    colony.settle()
    assert results(leader) == [[OK, OK]]
    return colony


def split(colony: Colony) -> Machine:
    leader = colony.machines[1]
    leader.take(SPLIT)
    colony.settle()
    assert CHILD in leader.replicas
    for _ in range(3):
        colony.heartbeat(1)
    return leader


def get(machine: Machine, key: bytes, group: GroupId = GROUP) -> object:
    return machine.replicas[group].read_local([b"GET", key], 0)


# The child lives ------------------------------------------------------------------------------------------------------


def test_every_replica_cuts_its_state_and_the_child_is_led_by_the_parent_s_leader_at_once() -> None:
    """No timeout passes, nor even a heartbeat: the quickest follower and the leader are enough."""
    colony = colony_with_keys()
    leader = colony.machines[1]
    before = colony.now
    leader.take(SPLIT)
    colony.settle()
    assert leader.replicas[CHILD].raft.is_leader()
    assert colony.now == before
    colony.heartbeat(1)
    colony.settle()
    for machine in colony.machines.values():
        parent, child = machine.replica, machine.replicas[CHILD]
        assert (get(machine, LEFT), get(machine, RIGHT)) == (b"left", MOVED)
        assert (get(machine, LEFT, CHILD), get(machine, RIGHT, CHILD)) == (MOVED, b"right")
        territory, of_child = parent.describe().territory, child.describe().territory
        assert territory is not None
        assert of_child is not None
        assert (territory.first, territory.last, territory.newest_child) == (0, AT - 1, 7)
        assert (of_child.first, of_child.last, of_child.newest_child) == (AT, 16_383, 0)
        assert child.raft.log.snapshot_index == parent.raft.applied
        assert child.stamp_ms == parent.stamp_ms
    assert len({machine.replica.digest() for machine in colony.machines.values()}) == 1
    assert len({machine.replicas[CHILD].keyspace.digest() for machine in colony.machines.values()}) == 1


def test_the_child_takes_writes_and_begins_without_sessions() -> None:
    colony = colony_with_keys()
    leader = split(colony)
    leader.take(write(1, 2, b"SET a x"), group=CHILD)
    colony.settle()
    answers = results(leader)
    assert b"forgot this client's session" in repr(answers).encode()
    leader.take(Order([b"SET", b"a", b"new"]), group=CHILD)
    colony.settle()
    assert get(leader, RIGHT, CHILD) == b"new"


def test_a_split_that_is_ordered_twice_is_done_once() -> None:
    colony = colony_with_keys()
    leader = split(colony)
    child = leader.replicas[CHILD]
    split(colony)
    assert leader.replicas[CHILD] is child
    assert get(leader, RIGHT, CHILD) == b"right"


def test_nothing_of_the_child_leaves_before_its_beginning_is_durable() -> None:
    """Else a vote could be given, forgotten by a crash, and given again."""
    colony = colony_with_keys()
    follower = colony.machines[2]
    follower.holds_disk = True
    leader = colony.machines[1]
    leader.take(SPLIT)
    colony.settle_between(1, 3)
    colony.heartbeat(1)
    colony.heartbeat(1)
    voter = follower.replicas[CHILD]
    log = voter.raft.log
    assert voter.raft.durable < log.snapshot_index
    ask = VoteRequest(9, log.last_index, log.last_term, False)
    follower.take(raft.Received(3, ask), group=CHILD)
    follower.turn()
    assert voter.raft.vote == 3
    assert not [mail for mail in colony.mail if mail[0] == 2 and mail[2] == CHILD]
    follower.sync()
    assert voter.raft.durable == log.snapshot_index
    assert [mail[1] for mail in colony.mail if mail[0] == 2 and mail[2] == CHILD] == [3]


def test_the_parent_s_entries_stand_before_the_child_s_in_one_batch() -> None:
    """A follower may learn of entry and commit at once: recovery finds a child only behind its parent's log."""
    colony = colony_with_keys()
    leader, follower = colony.machines[1], colony.machines[3]
    leader.take(SPLIT)
    colony.settle_between(1, 2)
    follower.flushed.clear()
    colony.heartbeat(1)
    colony.heartbeat(1)
    colony.settle()
    order = [group for batch in follower.flushed for group, persist in batch if persist.entries or persist.mark]
    assert order.index(GROUP) < order.index(CHILD)


def test_a_child_of_a_group_in_a_joint_membership_leaves_it_by_itself() -> None:
    colony = colony_with_keys()
    leader = colony.machines[1]
    leader.take(ChangeMembership(((ChangeKind.LEARNER, 3),), Transition.JOINT_EXPLICIT))
    colony.settle()
    assert leader.replica.raft.log.membership.is_joint()
    split(colony)
    child = leader.replicas[CHILD]
    assert child.raft.is_leader()
    child_membership = child.raft.log.membership
    assert child_membership.is_joint()  # Explicit: it is kept until somebody wishes otherwise, as in the parent.
    leader.take(raft.LeaveJoint(), group=CHILD)
    colony.settle()
    assert child.raft.log.membership.voters == (1, 2)


def test_if_the_parent_s_leader_dies_the_others_elect_one_of_the_child() -> None:
    colony = colony_with_keys()
    leader = colony.machines[1]
    leader.take(SPLIT)
    for _ in range(3):
        colony.settle(lambda sender, to, message: not isinstance(message, VoteRequest))
        colony.now = Instant(colony.now + 0.05)
        leader.take(raft.Tick())
    assert not leader.replicas[CHILD].raft.is_leader()
    colony.now = Instant(colony.now + 20.0)
    colony.machines[2].take(raft.Tick(), group=CHILD)
    colony.settle_between(2, 3)
    assert colony.machines[2].replicas[CHILD].raft.is_leader()


# Requests that come late ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"SET a 2", b"MSET b 3 a 4", b"DBSIZE", b"FLUSHALL", b"GET a"])
def test_a_batch_of_an_old_map_is_carried_out_up_to_what_is_moved(line: bytes) -> None:
    """What is refused had no effect whatever; what follows waits for it, as the order within a connection wants."""
    colony = colony_with_keys()
    leader = split(colony)
    leader.taken_answers()
    leader.take(write(1, 2, b"SET b 1", line, b"SET b 5"))
    colony.settle()
    assert results(leader) == [[OK, MOVED, MOVED]]
    assert (get(leader, LEFT), get(leader, RIGHT, CHILD)) == (b"1", b"right")


def test_a_retry_of_a_batch_gives_what_it_gave_first_though_the_slots_have_come_back() -> None:
    colony = colony_with_keys()
    leader = split(colony)
    leader.take(write(1, 2, b"SET a 2"))
    colony.settle()
    leader.taken_answers()
    leader.take(write(1, 2, b"SET a 2"))
    leader.take(write(1, 1, b"SET b left", b"SET a right"))
    colony.settle()
    assert results(leader) == [[MOVED], []]  # What was acknowledged is forgotten.


def test_a_flush_by_an_old_map_flushes_nothing() -> None:
    """It would spare the child's keys, whoever sent it: a part of it says for which slots it is."""
    colony = colony_with_keys()
    leader = split(colony)
    leader.taken_answers()
    leader.take(write(1, 2, b"NOCTULE.WRITEWITHIN 0 16383 FLUSHALL"))
    leader.take(write(1, 3, b"NOCTULE.WRITEWITHIN 0 %d FLUSHALL" % (AT - 1)))
    colony.settle()
    assert results(leader) == [[MOVED], [OK]]
    assert (leader.replica.keyspace.key_count, leader.replicas[CHILD].keyspace.key_count) == (0, 1)


def test_row_38_a_read_is_checked_against_the_range_when_it_is_answered_and_not_when_it_comes() -> None:
    """tikv/tikv#14699, #4125: a read waits for its index, the split is applied meanwhile, and the child writes."""
    colony = colony_with_keys()
    leader = colony.machines[1]
    leader.take(query(1, 1, b"GET a", b"GET b", b"DBSIZE"), SPLIT)
    leader.turn()
    leader.taken_answers()
    colony.settle()
    leader.take(Order([b"SET", b"a", b"new"]), group=CHILD)
    colony.settle()
    leader.take(query(1, 2, b"GET a", b"GET b", b"DBSIZE"))
    colony.settle()
    assert results(leader)[-1] == [MOVED, b"left", MOVED]


def test_row_38_a_read_that_must_be_logged_is_checked_when_it_is_applied() -> None:
    """It met an expired key, went into the log behind the split, and must not answer that the key is absent."""
    colony = colony_with_keys(1)
    leader = colony.machines[1]
    leader.take(write(1, 2, b"PEXPIRE a 1"))
    colony.settle()
    colony.wall_ms[1] += 10_000
    leader.replica._purge_at_ms = 10**15  # The read is to meet it, not the purge.
    leader.taken_answers()
    leader.holds_disk = True
    leader.take(SPLIT)
    leader.turn()
    leader.take(query(1, 1, b"GET a"))
    leader.turn()
    leader.holds_disk = False
    for _ in range(3):
        colony.heartbeat(1)
    assert results(leader) == [[MOVED]]


def test_a_follower_answers_no_eventual_read_of_what_went_away() -> None:
    colony = colony_with_keys()
    split(colony)
    follower = colony.machines[2].replica
    assert follower.read_local([b"NOCTULE.READWITHIN", b"0", b"%d" % (AT - 1), b"DBSIZE"], 0) == 1
    assert follower.read_local([b"NOCTULE.READWITHIN", b"0", b"16383", b"DBSIZE"], 0) is MOVED
    assert follower.read_local([b"DBSIZE"], 0) is MOVED


# What the parent keeps ------------------------------------------------------------------------------------------------


def test_the_child_asks_for_its_first_snapshot_at_once_and_the_parent_writes_none_before() -> None:
    colony = colony_with_keys(1)
    machine = split(colony)
    assert machine.written_of == [CHILD]
    machine.take(WriteSnapshotNow())
    machine.turn()
    assert machine.written_of == [CHILD]  # It would take the place of what makes the child once more.
    machine.finish_snapshot()
    machine.take(WriteSnapshotNow())
    assert machine.written_of == [GROUP]


def test_the_child_s_snapshot_is_asked_for_when_its_log_has_begun() -> None:
    """A file that came first would free the parent, and be taken for one that was left behind after a crash."""
    colony = colony_with_keys(1)
    machine = colony.machines[1]
    machine.take(SPLIT)
    machine.turn()
    machine.holds_disk = True
    machine.sync()  # The split is committed and the child made; what it begins with is on its way.
    machine.turn()
    assert CHILD in machine.replicas
    assert machine.written_of == []
    machine.sync()
    assert machine.written_of == [CHILD]


def test_a_received_snapshot_waits_for_the_child_s() -> None:
    colony = colony_with_keys()
    leader = split(colony)
    follower = colony.machines[3]
    assert follower.written_of == [CHILD]
    for number in range(2, 6):
        leader.take(write(1, number, b"SET b %d" % number))
        colony.settle_between(1, 2)
    leader.finish_snapshot()
    leader.take(WriteSnapshotNow())
    leader.finish_snapshot()
    colony.heartbeat(1)
    colony.heartbeat(1)
    assert GROUP not in follower.files
    assert follower.replica.raft.applied < leader.replica.raft.applied
    follower.finish_snapshot()
    colony.settle()
    assert follower.files[GROUP][0] == leader.files[GROUP][0]
    colony.heartbeat(1)
    assert follower.replica.digest() == leader.replica.digest()
    assert get(follower, RIGHT, CHILD) == b"right"


def test_row_40_a_half_is_dropped_when_a_snapshot_is_about_to_replace_what_makes_it() -> None:
    """tikv/tikv#9108: the file is durable, the log behind it is gone, and the child has nothing on the disk."""
    replica = colony_with_keys().machines[2].replica
    replica._family.receive(raft.SaveChunk(90, 1, 2, 3, b""))
    replica.keyspace.execute(SPLIT.command, 0)
    replica._split_off(5, 1)
    assert not [effect for effect in replica.handle(raft.Tick(), Instant(0.0)) if isinstance(effect, SplitOff)]
    assert replica._family.may_snapshot


def test_a_half_is_dropped_where_the_child_is_already() -> None:
    """The map made an empty one, which its leader has filled; or it was here before a restart."""
    colony = colony_with_keys()
    machine = colony.machines[3]
    machine.replicas[CHILD] = other = _empty(machine)
    split(colony)
    colony.heartbeat(1)
    assert machine.replicas[CHILD] is other
    assert get(machine, RIGHT) is MOVED
    machine.take(WriteSnapshotNow())
    assert machine.written_of == [GROUP]  # Nobody needs the parent's log.


def test_a_child_that_was_removed_does_not_come_back_by_a_parent_that_lags() -> None:
    colony = colony_with_keys()
    machine = colony.machines[3]
    machine.replicas[CHILD] = _empty(machine)
    machine.carrier.remove(CHILD)
    split(colony)
    colony.heartbeat(1)
    assert CHILD not in machine.replicas
    assert get(machine, RIGHT) is MOVED


def test_removing_a_child_frees_its_parent() -> None:
    colony = colony_with_keys(1)
    machine = split(colony)
    machine.carrier.remove(CHILD)
    machine.written_of.clear()
    machine.take(WriteSnapshotNow())
    assert machine.written_of == [GROUP]


def test_a_child_must_not_be_forgotten_while_its_parent_may_split_it_off_once_more() -> None:
    """After a restart it would be made anew, without the votes it has given."""
    colony = colony_with_keys(1)
    machine = colony.machines[1]
    assert not machine.replica.may_split_off(CHILD)
    split(colony)
    machine.finish_snapshot()
    assert machine.replica.may_split_off(CHILD)
    assert not machine.replica.may_split_off(GroupId(8))
    machine.take(WriteSnapshotNow())
    machine.finish_snapshot()
    assert not machine.replica.may_split_off(CHILD)


# Snapshots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [GROUP, CHILD])
def test_a_snapshot_carries_the_territory(group: GroupId) -> None:
    colony = colony_with_keys(1)
    machine = split(colony)
    child = machine.finish_snapshot()
    machine.take(WriteSnapshotNow())
    data = {CHILD: child, GROUP: machine.finish_snapshot()}[group]
    loaded = _empty(machine)
    loaded.load_state(data)
    assert loaded.describe().territory == machine.replicas[group].describe().territory
    assert loaded.keyspace.digest() == machine.replicas[group].keyspace.digest()
    loaded.check()


def test_child_saved_of_a_stranger_changes_nothing() -> None:
    colony = colony_with_keys(1)
    machine = split(colony)
    machine.take(ChildSaved(GroupId(99)))
    assert not machine.replica._family.may_snapshot


def test_leases_do_not_hold_up_the_child() -> None:
    """Nobody can have promised anything to a leader of the child: there was none."""
    config = RaftConfig(retained_entries=0, lease_s=0.4)
    colony = Colony(3, slots=(0, 16_383), config=config)
    colony.elect(1)
    assert split(colony).replicas[CHILD].raft.is_leader()


def _empty(machine: Machine) -> Replica:
    """A replica as the map makes it."""
    effect = SplitOff(CHILD, machine.replica.keyspace, 0, 0, Colony().machines[1].replica.raft.log.membership, 0, False)
    return machine._make_child(effect, Instant(0.0))


def test_both_halves_are_counted_in_ticks_and_not_at_the_split() -> None:
    colony = colony_with_keys()
    leader = split(colony)
    halves = [leader.replicas[group].keyspace for group in (GROUP, CHILD)]
    assert all(half.is_counting for half in halves)
    for _ in range(4):
        leader.carrier.tick(colony.now)
        leader.turn()
    assert not any(half.is_counting for half in halves)
    for half in halves:
        half.check()
