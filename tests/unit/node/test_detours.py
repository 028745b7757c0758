"""Commands held back around a change of the map: in order, not for ever, and never in the way of what is not theirs."""

import pytest

from noctule.base.ids import GroupId
from noctule.core.keyspace.reply import MOVED, OK, Failure
from noctule.core.placement.partition_map import Partition
from noctule.core.placement.slots import SLOT_COUNT, key_slot
from noctule.node.detours import Detours
from noctule.node.lanes import Command, Flight
from noctule.node.router import GONE_S_MAX, LANE_IDLE_S_MAX, MOVED_RETRY_S, SESSION_IDLE_S_MAX

from .fake_dispatch import DEADLINE_S, FakeDispatch, Sink, group_of

ONE, TWO = group_of(b"a"), group_of(b"b")
TABLE = [GroupId(1)] * SLOT_COUNT
NO_LEADER, UNKNOWN = b"CLUSTERDOWN", b"UNKNOWN"


def command(number: int, line: bytes, *, logged: bool = True) -> Command:
    made = Command(line.split(), Sink(), None, logged=logged)
    made.number, made.deadline = number, DEADLINE_S
    return made


def numbers(commands: list[Command]) -> list[int]:
    return [each.number for each in commands]


def start_of(sink: Sink) -> bytes:
    """The first word of the failure it was told."""
    (reply,) = sink.replies
    assert isinstance(reply, Failure)
    return reply.text.split()[0]


# The machine ----------------------------------------------------------------------------------------------------------


def test_what_waits_on_one_slot_leaves_in_the_order_in_which_it_came() -> None:
    detours = Detours()
    detours.add([command(3, b"SET a 3"), command(1, b"SET a 1")])
    detours.add([command(2, b"SET b 2")])
    assert detours.blocked == {key_slot(b"a"), key_slot(b"b")}
    assert numbers(detours.admit(0.0, TABLE)) == [1, 2, 3]
    assert (len(detours), detours.blocked) == (0, set())


def test_a_write_waits_for_one_before_it_that_waits_and_a_read_for_nothing() -> None:
    detours = Detours()
    detours.add([command(1, b"SET a 1")], not_before=5.0)
    detours.add([command(2, b"SET a 2"), command(3, b"SET b 3"), command(4, b"GET a", logged=False)])
    assert numbers(detours.admit(0.0, TABLE)) == [3, 4]
    detours.hurry()
    assert numbers(detours.admit(0.0, TABLE)) == [1, 2]


def test_a_slot_that_nobody_has_is_waited_for() -> None:
    detours, table = Detours(), TABLE.copy()
    table[key_slot(b"a")] = GroupId(0)
    detours.add([command(1, b"SET a 1"), command(2, b"MSET {a}1 x {a}2 y")])
    assert detours.admit(0.0, table) == []
    assert numbers(detours.admit(0.0, TABLE)) == [1, 2]


def test_nothing_passes_a_batch_that_may_hold_what_came_before() -> None:
    detours = Detours()
    flights = [Flight(number, [command(number, b"SET a 0")], b"", 9.0) for number in (1, 2)]
    for flight in flights:
        detours.unsettle(flight)
    detours.add([command(3, b"SET a 3"), command(4, b"SET b 4")])
    assert numbers(detours.admit(0.0, TABLE)) == [4]
    assert detours.settle(flights[0])
    assert not detours.settle(flights[0])
    assert detours.admit(0.0, TABLE) == []
    detours.settle(flights[1])
    assert numbers(detours.admit(0.0, TABLE)) == [3]


def test_what_is_over_its_deadline_is_taken_out_and_what_was_behind_it_may_go() -> None:
    detours = Detours()
    late = command(1, b"SET a 1")
    late.deadline = 1.0
    detours.add([late], not_before=5.0)
    detours.add([command(2, b"SET a 2")])
    assert detours.expire(0.5) == []
    assert numbers(detours.expire(1.0)) == [1]
    assert numbers(detours.admit(1.0, TABLE)) == [2]


def test_all_of_it_can_be_given_up() -> None:
    detours = Detours()
    detours.unsettle(Flight(1, [command(1, b"SET a 1")], b"", 9.0))
    detours.add([command(2, b"SET a 2")])
    assert numbers(detours.clear()) == [2]
    assert (len(detours), detours.blocked) == (0, set())


# Under a router -------------------------------------------------------------------------------------------------------


@pytest.fixture
def node() -> FakeDispatch:
    node = FakeDispatch()
    node.open_sessions()
    return node


def give_slot(node: FakeDispatch, key: bytes) -> GroupId:
    """From now on a partition of its own has the slot of this key, and those behind it in its old one."""
    old, slot, new = group_of(key), key_slot(key), GroupId(77)
    last = node.partitions.partitions[old].last_slot
    node.partitions.put(Partition(old, node.partitions.partitions[old].first_slot, slot - 1, (1,)))
    node.partitions.put(Partition(new, slot, last, (1,)))
    node.router.map_changed([old, new])
    return new


def test_what_a_partition_refused_goes_to_the_one_that_has_it_by_the_next_map(node: FakeDispatch) -> None:
    first, second = node.submit(b"SET a 1", b"SET a 2")
    (write,), _ = node.turn()
    node.answer(write, OK, MOVED)
    assert (first.replies, second.replies) == ([OK], [])
    new = give_slot(node, b"a")
    (again,), _ = node.turn()
    assert (again.group, again.lines) == (new, [b"SET a 2"])
    node.answer(again, OK)
    assert (second.replies, node.router.waiting) == ([OK], 0)


def test_without_news_it_is_tried_again_after_a_moment_where_it_was(node: FakeDispatch) -> None:
    """The partition may only have been behind, and the map right."""
    (sink,) = node.submit(b"SET a 1")
    (write,), _ = node.turn()
    node.answer(write, MOVED)
    assert node.after(MOVED_RETRY_S / 2) == ([], [])
    (again,), _ = node.after(MOVED_RETRY_S)
    assert (again.group, again.lines) == (ONE, [b"SET a 1"])
    node.answer(again, OK)
    assert sink.replies == [OK]


def test_a_write_that_comes_while_another_waits_on_its_slot_stands_behind_it(node: FakeDispatch) -> None:
    node.submit(b"SET a 1")
    (write,), _ = node.turn()
    node.answer(write, MOVED)
    node.submit(b"SET a 2", b"SET b 3")
    (other,), _ = node.turn()
    assert other.lines == [b"SET b 3"]
    (again,), _ = node.after(MOVED_RETRY_S)
    assert again.lines == [b"SET a 1", b"SET a 2"]


def test_over_its_deadline_what_was_held_back_did_not_happen(node: FakeDispatch) -> None:
    """It was refused, so nothing was applied; and it must not be sent again after its client was told so."""
    sinks = node.submit(b"SET a 1")
    (write,), _ = node.turn()
    node.answer(write, MOVED)
    for _ in range(int(DEADLINE_S / MOVED_RETRY_S) + 2):
        for again in node.after(MOVED_RETRY_S)[0]:
            node.answer(again, MOVED)
    assert start_of(sinks[0]) == NO_LEADER
    assert node.router.waiting == 0
    give_slot(node, b"a")
    assert node.turn() == ([], [])


def test_a_write_behind_a_batch_that_is_lost_goes_once_that_has_been_given_up(node: FakeDispatch) -> None:
    (lost,) = node.submit(b"SET a 1")
    node.turn()
    new = give_slot(node, b"a")
    node.now = type(node.now)(DEADLINE_S / 2)
    (behind,) = node.submit(b"SET a 2")
    assert node.turn() == ([], [])
    writes, _ = node.after(DEADLINE_S / 2)
    assert start_of(lost) == UNKNOWN
    sent = [write for write in writes if write.lines]
    assert [(write.group, write.lines) for write in sent] == [(new, [b"SET a 2"])]
    node.answer(sent[0], OK)
    assert behind.replies == [OK]


def test_what_was_sent_to_a_partition_that_is_gone_is_awaited_for_a_while_and_then_unknown(
    node: FakeDispatch,
) -> None:
    (sent,) = node.submit(b"SET a 1")
    node.turn()
    (waiting,) = node.submit(b"SET a 2")
    gone, neighbour = node.partitions.partitions[ONE], GroupId(ONE - 1)
    left = node.partitions.partitions[neighbour]
    assert left.last_slot + 1 == gone.first_slot
    node.partitions.remove(ONE)
    node.partitions.put(Partition(neighbour, left.first_slot, gone.last_slot, (1,)))
    node.router.map_changed([ONE, neighbour])
    assert node.after(GONE_S_MAX / 2)[0] == []
    (again,), _ = node.after(GONE_S_MAX / 2)
    assert start_of(sent) == UNKNOWN
    assert (again.group, again.lines) == (neighbour, [b"SET a 2"])
    node.answer(again, OK)
    assert (waiting.replies, node.router.waiting) == ([OK], 0)


def test_a_stopped_node_answers_what_it_holds_back(node: FakeDispatch) -> None:
    (sink,) = node.submit(b"SET a 1")
    (write,), _ = node.turn()
    node.answer(write, MOVED)
    node.router.stop("test")
    assert start_of(sink) == NO_LEADER
    assert node.router.waiting == 0


# Lanes that nobody needs ----------------------------------------------------------------------------------------------


def test_a_lane_is_forgotten_once_it_was_idle_for_long_and_its_session_is_of_no_use(node: FakeDispatch) -> None:
    """Ten thousand partitions must not cost a node a lane each for ever, nor an active one its session."""
    idle_s = max(LANE_IDLE_S_MAX, SESSION_IDLE_S_MAX)
    node.after(1.0)
    node.after(idle_s / 2)
    assert ONE in node.router._lanes
    (sink,) = node.submit(b"SET a 1")
    node.answer(node.turn()[0][0], OK)
    assert sink.replies == [OK]
    node.after(1.0)
    node.after(idle_s / 2 + LANE_IDLE_S_MAX)
    assert (ONE in node.router._lanes, TWO in node.router._lanes) == (True, False)
    node.after(idle_s + LANE_IDLE_S_MAX)
    assert not node.router._lanes


def test_a_lane_with_something_on_its_way_is_not_forgotten() -> None:
    node = FakeDispatch(deadline_s=10 * SESSION_IDLE_S_MAX)
    node.opens_sessions = False
    (sink,) = node.submit(b"SET a 1")
    node.turn()
    for _ in range(5):
        node.after(LANE_IDLE_S_MAX)
    assert ONE in node.router._lanes
    assert sink.replies == []
