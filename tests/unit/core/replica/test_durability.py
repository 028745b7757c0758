"""`durability = leader`: what is said early, what is lost with the leader, and what nobody sees uncommitted."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.replica.batches import Batch
from noctule.core.replica.client_sessions import SESSION_EXPIRES_MS
from noctule.core.replica.durability import Durability, certain_reply
from noctule.core.replica.events import Answer, Refuse

from .colony import Colony, Machine, opening, query, write

ORIGIN = 7


@pytest.fixture
def colony() -> Colony:
    return Colony(3, durability=Durability.LEADER)


@pytest.fixture
def leader(colony: Colony) -> Machine:
    """Node 1, which leads, and of which nobody hears any more."""
    return colony.elect(1)


def alone(machine: Machine) -> None:
    """A turn, and the disk; what it sends stays in the mail."""
    machine.turn()
    machine.sync()


def value(machine: Machine) -> object:
    return machine.replica.read_local([b"GET", b"a"], 0)


def test_a_set_is_acknowledged_by_the_leader_s_disk_and_not_before(leader: Machine) -> None:
    leader.take(write(ORIGIN, 1, b"SET a 1"))
    leader.turn()
    assert leader.taken_answers() == []
    leader.sync()
    assert leader.taken_answers() == [Answer(1, ORIGIN, True, 1, [OK])]
    assert value(leader) is None  # It is not committed, so it is not there.


def test_with_a_quorum_it_is_not_acknowledged_so_early() -> None:
    leader = Colony(3).elect(1)
    leader.take(write(ORIGIN, 1, b"SET a 1"))
    alone(leader)
    assert leader.taken_answers() == []


@pytest.mark.parametrize(
    "line", [b"INCR a", b"SET a 1 NX", b"SET a 1 XX", b"SET a 1 get", b"DEL a", b"HSET h f v", b"FLUSHALL", b"GETDEL a"]
)
def test_what_depends_on_the_state_waits_for_the_quorum(colony: Colony, leader: Machine, line: bytes) -> None:
    leader.take(write(ORIGIN, 1, b"SET b 1", line))
    alone(leader)
    assert leader.taken_answers() == []
    colony.settle()
    (answer,) = leader.taken_answers()
    assert isinstance(answer, Answer)


def test_nothing_is_answered_twice(colony: Colony, leader: Machine) -> None:
    leader.take(write(ORIGIN, 1, b"SET a 1"))
    alone(leader)
    assert len(leader.taken_answers()) == 1
    colony.settle()
    colony.heartbeat(1)
    assert leader.taken_answers() == []
    assert [value(machine) for machine in colony.machines.values()] == [b"1"] * 3


def test_a_quorum_that_is_faster_than_the_disk_is_enough(colony: Colony, leader: Machine) -> None:
    leader.holds_disk = True
    leader.take(write(ORIGIN, 1, b"SET a 1"))
    colony.settle()
    assert leader.taken_answers() == [Answer(1, ORIGIN, True, 1, [OK])]
    leader.sync()
    assert leader.taken_answers() == []


def test_several_entries_are_on_their_way_at_once(leader: Machine) -> None:
    """With one, each would wait for the quorum of the one before, and nothing were gained."""
    for sequence in range(1, 6):
        leader.take(write(ORIGIN, sequence, b"SET a %d" % sequence))
        alone(leader)
        assert len(leader.taken_answers()) == 1


def test_what_was_acknowledged_is_gone_with_its_leader(colony: Colony, leader: Machine) -> None:
    """This is what `leader` costs. The client's next write must not wait for ever for the one that was lost."""
    leader.take(write(ORIGIN, 1, b"SET a kept"))
    colony.settle()
    leader.take(write(ORIGIN, 2, b"SET a lost"))
    alone(leader)
    assert len(leader.taken_answers()) == 2
    colony.mail.clear()
    heir = colony.elect(2, among=(2, 3))
    assert value(heir) == b"kept"
    heir.take(write(ORIGIN, 3, b"SET b 1", below=3))
    colony.settle_between(2, 3)
    assert heir.taken_answers() == [Answer(1, ORIGIN, True, 3, [OK])]
    assert heir.replica.read_local([b"GET", b"b"], 0) == b"1"
    colony.heartbeat(2)
    assert [value(machine) for machine in colony.machines.values()] == [b"kept"] * 3


def test_a_copy_of_the_lost_write_that_comes_late_does_not_undo_what_came_after(
    colony: Colony, leader: Machine
) -> None:
    leader.take(write(ORIGIN, 1, b"SET a lost"))
    alone(leader)
    colony.mail.clear()
    heir = colony.elect(2, among=(2, 3))
    heir.take(write(ORIGIN, 2, b"SET a newer", below=2))
    colony.settle_between(2, 3)
    heir.take(write(ORIGIN, 1, b"SET a lost", below=1))
    colony.settle_between(2, 3)
    assert value(heir) == b"newer"


def test_a_leader_that_acknowledged_and_was_deposed_does_not_say_that_nothing_happened(
    colony: Colony, leader: Machine
) -> None:
    """The answer was lost, and a follower may have the entry."""
    term = leader.replica.raft.term
    leader.take(write(ORIGIN, 1, b"SET a 1", term=term))
    alone(leader)
    leader.taken_answers()
    colony.elect(2, among=(2, 3))
    colony.heartbeat(2)
    assert not leader.replica.raft.is_leader()
    leader.taken_answers()
    leader.take(write(ORIGIN, 1, b"SET a 1", term=term))
    assert leader.taken_answers() == [Refuse(1, ORIGIN, True, 1, 0)]


def test_a_read_sees_what_was_acknowledged_before_it_began(colony: Colony, leader: Machine) -> None:
    """Asked at once, the state does not have it yet: the read waits until it is committed."""
    leader.take(write(ORIGIN, 1, b"SET a 1"))
    alone(leader)
    leader.taken_answers()
    leader.take(query(9, 1, b"GET a"))
    held = list(colony.mail)
    colony.mail.clear()
    colony.settle()  # Heartbeats confirm the read; the entry itself is held back.
    assert leader.taken_answers() == []
    colony.mail.extend(held)
    colony.settle()
    assert leader.taken_answers() == [Answer(1, 9, False, 1, [b"1"])]


def test_a_read_that_waits_for_a_write_is_refused_when_the_write_is_lost(colony: Colony, leader: Machine) -> None:
    leader.take(write(ORIGIN, 1, b"SET a 1"))
    alone(leader)
    leader.taken_answers()
    colony.mail.clear()
    leader.take(query(9, 1, b"GET a"))
    colony.settle(lambda _sender, _to, message: "Heartbeat" in type(message).__name__)
    assert leader.taken_answers() == []
    colony.elect(2, among=(2, 3))
    colony.heartbeat(2)
    assert leader.taken_answers() == [Refuse(1, 9, False, 1)]


def test_a_follower_does_not_answer_reads_since_it_does_not_know_what_was_acknowledged(colony: Colony) -> None:
    colony.elect(1)
    follower = colony.machines[2]
    follower.take(query(9, 1, b"GET a", sender=2))
    assert follower.taken_answers() == [Refuse(2, 9, False, 1)]


def test_nothing_is_certain_while_a_bucket_is_being_declared(colony: Colony, leader: Machine) -> None:
    """Said early, SET would be OK, and refused once the declaration before it is applied."""
    leader.take(write(8, 1, b"BUCKET.CREATE a counter site"))
    leader.turn()
    leader.take(write(ORIGIN, 1, b"SET a:b 1"))
    alone(leader)
    assert leader.taken_answers() == []
    colony.settle()
    answers = leader.taken_answers()
    assert next(answer.results for answer in answers if isinstance(answer, Answer)) == [OK]
    refused = answers[1]
    assert isinstance(refused, Answer)
    assert isinstance(refused.results[0], Failure)
    leader.take(write(ORIGIN, 2, b"SET other 1"))
    alone(leader)
    assert leader.taken_answers() == [Answer(1, ORIGIN, True, 2, [OK])]


def test_nothing_is_certain_for_a_batch_that_its_session_may_not_take(colony: Colony, leader: Machine) -> None:
    leader.take(write(9_999, 1, b"SET a 1"))
    leader.take(write(ORIGIN, 5, b"SET a 1", below=1))
    leader.take(write(ORIGIN, 6, b"SET a 1", below=1))
    alone(leader)
    assert leader.taken_answers() == []
    colony.wall_ms[1] = SESSION_EXPIRES_MS // 2 + 1_000
    leader.take(write(8, 1, b"SET a 1"))
    alone(leader)
    assert leader.taken_answers() == []


def test_a_session_that_is_opened_on_the_way_is_known_once_it_is_applied(colony: Colony, leader: Machine) -> None:
    leader.take(opening(12345))
    colony.settle()
    (answer,) = leader.taken_answers()
    assert isinstance(answer, Answer)
    (origin,) = answer.results
    assert isinstance(origin, int)
    leader.take(write(origin, 1, b"SET a 1"))
    alone(leader)
    assert leader.taken_answers() == [Answer(1, origin, True, 1, [OK])]


LINES = (
    b"SET a 1", b"SET b:x 1", b"MSET a 1 b:y 2", b"MSET a", b"SETEX a 0 1", b"SET a 1 EX 10", b"INCR a", b"HSET h f v",
    b"BUCKET.CREATE b lww s", b"FLUSHALL", b"SET h 1", b"NOCTULE.PURGE a", b"APPEND a x", b"SET a 1 PX x",
)  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.integers(1, 3), st.lists(st.sampled_from(LINES), min_size=1, max_size=2), st.booleans(), st.booleans()
    ),
    max_size=25,
)


@pytest.mark.interpreted
@given(steps=STEPS)
def test_what_is_said_early_is_what_applying_gives(steps: list[tuple[int, list[bytes], bool, bool]]) -> None:
    colony = Colony(3, durability=Durability.LEADER)
    leader = colony.elect(1)
    sessions, given_results = leader.replica.sessions, {}
    apply = type(sessions).apply

    class Watched(type(sessions)):  # type: ignore[misc]
        __slots__ = ()

        def apply(self, batch: Batch, *rest: object) -> object:
            given_results[batch.origin, batch.sequence] = results = apply(self, batch, *rest)  # type: ignore[arg-type]
            return results

    sessions.__class__ = Watched
    sequences = {1: 0, 2: 0, 3: 0}
    answers = []
    for origin, lines, ends_turn, settles in steps:
        sequences[origin] += 1
        leader.take(write(origin, sequences[origin], *lines, below=1))
        if ends_turn:
            alone(leader)
        answers += leader.taken_answers()
        if settles:
            colony.settle()
    colony.settle()
    answers += leader.taken_answers()
    said = {(each.origin, each.number): each.results for each in answers if isinstance(each, Answer)}
    assert said == given_results
    assert len(answers) == len(said) == len(steps)


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"SET a 1", OK),
        (b"set a 1 ex 5 KEEPTTL", Failure(b"ERR syntax error")),
        (b"SET a 1 EXAT 1", OK),
        (b"MSET a 1 b", Failure(b"ERR wrong number of arguments for 'mset' command")),
        (b"SET a 1 NX", None),
        (b"GETSET a 1", None),
        (b"NONSENSE", None),
    ],
)
def test_only_answers_that_no_state_changes_are_certain(line: bytes, reply: Reply) -> None:
    for before in ([], [b"SET", b"a", b"0"], [b"HSET", b"a", b"f", b"v"]):
        machine = Colony(1).elect(1)
        if before:
            machine.replica.keyspace.execute(before, 1_000)
        assert certain_reply(line.split(), 1_000, machine.replica.keyspace) == reply
        if reply is not None:
            assert machine.replica.keyspace.execute(line.split(), 1_000) == reply


def test_a_batch_is_read_again_as_it_was_written() -> None:
    batch = msgspec.msgpack.decode(write(ORIGIN, 3, b"SET a 1", below=2).batch, type=Batch)
    assert batch == Batch(ORIGIN, 3, 2, [[b"SET", b"a", b"1"]])
