"""One turn, one batch to the disk; and nothing is promised to anyone before it is durable."""

from noctule.core.raft import events as raft
from noctule.core.raft.messages import (
    Append,
    AppendReply,
    Entry,
    Heartbeat,
    HeartbeatReply,
    Message,
    VoteReply,
    VoteRequest,
)
from noctule.core.replica.events import Answer

from .colony import GROUP, OTHER_GROUP, Colony, Machine, entries_of, write


def append(index: int, *data: bytes, term: int = 1) -> raft.Received:
    """From node 1, the leader of the term: entries from `index` on."""
    previous_term = term if index > 1 else 0
    return raft.Received(1, Append(term, index - 1, previous_term, 0, [Entry(term, each) for each in data]))


def follower() -> Machine:
    """Node 2 of three, whose disk syncs when told, with an empty log in the leader's term."""
    colony = Colony(3, groups=(GROUP, OTHER_GROUP))
    machine = colony.machines[2]
    machine.take(append(1))
    machine.turn()
    machine.sync()
    colony.mail.clear()
    machine.flushed.clear()
    machine.numbers.clear()
    return machine


def sent(machine: Machine) -> list[Message]:
    """What left since the last call."""
    mail = machine._colony.mail
    messages = [message for sender, _, _, message in mail if sender == machine.node_id]
    mail.clear()
    return messages


def test_all_groups_of_a_turn_go_to_the_disk_together() -> None:
    """A sync for each group made sixteen partitions sixteen times slower than one."""
    machine = Colony(groups=(GROUP, OTHER_GROUP)).elect(1)
    machine.flushed.clear()
    for group in (GROUP, OTHER_GROUP):
        machine.take(write(7, 1, b"SET a 1"), write(8, 1, b"SET b 1"), group=group)
    assert machine.flushed == []  # The turn has not ended.
    machine.turn()
    assert [[(group, len(entries_of(persist))) for group, persist in batch] for batch in machine.flushed] == [
        [(GROUP, 1), (OTHER_GROUP, 1)]
    ]
    machine.sync()
    assert [(answer.origin, type(answer)) for answer in machine.answers] == [(7, Answer), (8, Answer)] * 2


def test_a_turn_without_anything_to_store_leaves_the_disk_alone() -> None:
    machine = follower()
    machine.take(raft.Tick())
    machine.turn()
    machine.turn()
    assert machine.flushed == []


def test_a_promise_leaves_only_when_its_batch_is_durable_and_in_order() -> None:
    """etcd-io/etcd#14370: acknowledged, then lost in a power cut."""
    machine = follower()
    machine.take(append(1, b""))
    machine.turn()
    machine.take(append(2, b""))
    machine.turn()
    assert sent(machine) == []
    first, second = machine.numbers
    machine.sync(first)
    assert sent(machine) == [AppendReply(1, True, 1)]
    machine.sync(second)
    assert sent(machine) == [AppendReply(1, True, 2)]


def test_one_sync_may_tell_of_several_batches() -> None:
    machine = follower()
    for index in (1, 2, 3):
        machine.take(append(index, b""))
        machine.turn()
    machine.sync(machine.numbers[-1])
    assert sent(machine) == [AppendReply(1, True, index) for index in (1, 2, 3)]
    assert machine.replica.raft.durable == 3
    machine.sync(machine.numbers[-1])  # Said again, it is no news.
    assert sent(machine) == []


def test_a_batch_that_is_not_durable_yet_keeps_later_ones_waiting_for_themselves_only() -> None:
    """Groups share a disk, not a fate: what one promised does not leave with the other's batch."""
    machine = follower()
    machine.take(append(1, b""), group=OTHER_GROUP)
    machine.turn()
    machine.sync()
    sent(machine)
    machine.take(append(1, b""), group=GROUP)
    machine.turn()
    machine.take(append(2, b""), group=OTHER_GROUP)
    machine.turn()
    machine.sync(machine.numbers[-2])
    assert [(sender, group) for sender, _, group, _ in machine._colony.mail] == [(2, GROUP)]


def test_a_promise_with_nothing_of_its_own_to_store_waits_for_what_it_rests_on() -> None:
    """The same Append twice: the second stores nothing, and was acknowledged while the first was still in memory."""
    machine = follower()
    machine.take(append(1, b""))
    machine.turn()
    machine.take(append(1, b""))
    machine.turn()
    assert sent(machine) == []
    (_, persist) = machine.flushed[1][0]
    assert (persist.hard_state, persist.entries, persist.mark) == (None, [], None)
    assert machine.numbers[0] == machine.numbers[1]
    machine.sync(machine.numbers[0])
    assert sent(machine) == [AppendReply(1, True, 1)] * 2


def test_a_vote_leaves_only_when_it_is_durable() -> None:
    """A voter that forgets its vote in a crash votes twice in one term (paper, figure 2)."""
    machine = Colony(3).machines[2]
    machine.take(raft.Received(3, VoteRequest(5, 0, 0, False)))
    machine.turn()
    assert sent(machine) == []
    machine.sync()
    assert sent(machine) == [VoteReply(5, True, False)]


def test_a_leader_sends_entries_before_its_own_disk_has_them_and_commits_after() -> None:
    """Thesis 10.2.1: the disks of leader and followers work at the same time."""
    colony = Colony(3)
    leader = colony.elect(1)
    leader.holds_disk = True
    leader.take(write(7, 1, b"SET a 1"))
    leader.turn()
    appended = [message for _, to, _, message in colony.mail if isinstance(message, Append) and to == 2]
    assert [len(message.entries) for message in appended] == [1]
    colony.settle_between(1, 2)  # With node 2 alone the leader's own disk is needed for a majority.
    assert leader.answers == []
    leader.sync()
    assert [answer.number for answer in leader.answers] == [1]


def test_messages_that_promise_nothing_leave_at_once() -> None:
    """A heartbeat's answer behind a slow sync looked like a dead follower."""
    machine = follower()
    machine.take(append(1, b""), raft.Received(1, Heartbeat(1, 0, 3)))
    machine.turn()
    assert sent(machine) == [HeartbeatReply(1, 3)]
    machine.sync()
    assert sent(machine) == [AppendReply(1, True, 1)]


def test_effects_of_a_durable_batch_end_the_turn_they_begin() -> None:
    """An answer that waited for the next message waited for the next heartbeat on a quiet node."""
    machine = Colony().elect(1)
    machine.take(write(7, 1, b"INCR a"))
    machine.turn()
    machine.take(write(7, 2, b"INCR a"))
    machine.turn()
    machine.sync()  # The first is answered, and the second, which waited for it, is proposed and flushed.
    assert [answer.number for answer in machine.taken_answers()] == [1]
    machine.sync()
    assert [answer.number for answer in machine.taken_answers()] == [2]
