"""Scripts on replicas: the leader evaluates, all carry out; once, in order, and only on what is applied."""

from collections.abc import Sequence

import pytest

from noctule.core.keyspace.effects import EFFECTS, EVAL, ScriptCall
from noctule.core.keyspace.failures import CROSS_SLOT
from noctule.core.keyspace.reply import MOVED, OK, Failure, Reply
from noctule.core.raft import events as raft
from noctule.core.replica.batches import encode_batch
from noctule.core.replica.durability import Durability
from noctule.core.replica.events import Answer, Query, Submit

from .colony import Colony, Machine, write

TAKE = b"redis.call('append', KEYS[1], ARGV[1]) return redis.call('get', KEYS[1])"


def call(body: bytes, *arguments: bytes, key: bytes = b"k", prefix: bytes = b"", is_read: bool = False) -> list[bytes]:
    return ScriptCall(prefix + key, prefix, body, [key], arguments, is_read).command()


def script(origin: int, sequence: int, *commands: Sequence[bytes], below: int | None = None, sender: int = 1) -> Submit:
    """A batch with scripts among its commands."""
    acknowledged_below = sequence if below is None else below
    batch = encode_batch(origin, sequence, acknowledged_below, [[*command] for command in commands])
    return Submit(sender, origin, sequence, batch, has_scripts=True)


def results(machine: Machine) -> dict[tuple[int, int], list[Reply] | None]:
    """By origin and number what was answered since the last call; None where it was refused."""
    return {
        (answer.origin, answer.number): (answer.results if isinstance(answer, Answer) else None)
        for answer in machine.taken_answers()
    }


def value(machine: Machine, key: bytes = b"k") -> object:
    return machine.replica.read_local([b"GET", key], 0)


def leading_alone(slots: tuple[int, int] | None = None) -> Machine:
    """A group of one whose leader has applied the first entry of its term."""
    machine = Colony(slots=slots).elect(1)
    machine.sync()
    return machine


@pytest.fixture
def alone() -> Machine:
    return leading_alone()


@pytest.fixture
def colony() -> Colony:
    return Colony(3)


@pytest.fixture
def leader(colony: Colony) -> Machine:
    return colony.elect(1)


def test_the_log_holds_what_a_script_did_and_not_the_script(alone: Machine) -> None:
    alone.take(script(7, 1, call(TAKE, b"a"), [b"INCR", b"n"], call(TAKE, b"b")))
    alone.turn()
    (body,) = alone.bodies()
    (batch,) = body.batches
    assert [command[0] for command in batch.commands] == [EFFECTS, b"INCR", EFFECTS]
    assert value(alone) is None  # Evaluated, and taken back.
    alone.sync()
    assert results(alone) == {(7, 1): [b"a", 1, b"ab"]}
    assert value(alone) == b"ab"


def test_every_replica_has_what_the_leader_has(colony: Colony, leader: Machine) -> None:
    for sequence in range(1, 6):
        body = b"redis.call('hset', KEYS[1], ARGV[1], math.random()) redis.call('expire', KEYS[1], 100)"
        leader.take(script(7, sequence, call(body, b"f%d" % sequence), call(TAKE, b"x", key=b"other")))
        colony.settle()
    colony.heartbeat(1)
    assert len({machine.replica.digest() for machine in colony.machines.values()}) == 1
    assert value(colony.machines[3], b"other") == b"xxxxx"


def test_nothing_is_evaluated_while_anything_is_on_its_way(alone: Machine) -> None:
    """What is on its way would change what the script sees."""
    alone.take(write(8, 1, b"SET k first-"))
    alone.turn()
    alone.take(script(7, 1, call(TAKE, b"a")))
    alone.turn()
    assert len(alone.bodies()) == 1
    alone.sync()
    assert len(alone.bodies()) == 2
    alone.sync()
    assert results(alone) == {(8, 1): [OK], (7, 1): [b"first-a"]}


def test_with_early_answers_a_script_waits_for_all_of_them() -> None:
    """Several entries are on their way then; what follows them waits behind the script, or it would wait for ever."""
    colony = Colony(3, durability=Durability.LEADER)
    leader = colony.elect(1)
    leader.take(write(8, 1, b"SET k first-"))
    leader.turn()
    leader.sync()
    assert results(leader) == {(8, 1): [OK]}
    leader.take(script(7, 1, call(TAKE, b"a")))
    leader.turn()
    leader.take(write(9, 1, b"SET other x"))
    leader.turn()
    assert len(leader.bodies()) == 1
    colony.settle()
    colony.heartbeat(1)
    assert results(leader) == {(7, 1): [b"first-a"], (9, 1): [OK]}


def test_batches_without_scripts_go_in_the_same_entry(alone: Machine) -> None:
    alone.take(write(8, 1, b"SET k x"), script(7, 1, call(TAKE, b"a")), write(9, 1, b"GET k"))
    alone.turn()
    alone.sync()
    assert len(alone.bodies()) == 1
    # The script was evaluated on what was applied, so it is carried out before the others.
    assert results(alone) == {(7, 1): [b"a"], (8, 1): [OK], (9, 1): [b"x"]}


def test_two_batches_of_one_client_are_done_in_their_order(alone: Machine) -> None:
    alone.take(
        write(7, 1, b"SET k x", below=1),
        script(7, 2, call(TAKE, b"a"), below=1),
        script(7, 3, call(TAKE, b"b"), below=1),
        write(7, 4, b"GET k", below=1),
    )
    for _ in range(4):
        alone.turn()
        alone.sync()
    assert results(alone) == {(7, 1): [OK], (7, 2): [b"xa"], (7, 3): [b"xab"], (7, 4): [b"xab"]}


def test_a_retry_is_answered_and_not_evaluated_again(alone: Machine) -> None:
    alone.take(script(7, 1, call(TAKE, b"a")))
    alone.turn()
    alone.sync()
    assert results(alone) == {(7, 1): [b"a"]}
    alone.take(script(7, 1, call(TAKE, b"a")))
    alone.turn()
    alone.sync()
    assert results(alone) == {(7, 1): [b"a"]}
    assert value(alone) == b"a"


def test_a_batch_that_comes_too_early_is_refused_and_does_nothing(alone: Machine) -> None:
    alone.take(script(7, 2, call(TAKE, b"a"), below=1))
    alone.turn()
    alone.sync()
    assert results(alone) == {(7, 2): None}
    assert value(alone) is None


def test_a_batch_of_a_forgotten_session_does_nothing(alone: Machine) -> None:
    alone.take(script(5_000, 1, call(TAKE, b"a")))
    alone.turn()
    alone.sync()
    (answered,) = results(alone).values()
    assert answered is not None
    (reply,) = answered
    assert isinstance(reply, Failure)
    assert reply.text.startswith(b"UNKNOWN")
    assert value(alone) is None


def test_what_was_proposed_and_lost_is_evaluated_by_the_next_leader(colony: Colony, leader: Machine) -> None:
    """On what that one has: the first evaluation was of a state that never came to be."""
    leader.take(write(8, 1, b"SET k lost-"))
    leader.turn()
    leader.sync()
    colony.mail.clear()
    heir = colony.elect(2, among=(2, 3))
    heir.take(script(7, 1, call(TAKE, b"a")))
    colony.settle_between(2, 3)
    assert results(heir) == {(7, 1): [b"a"]}
    for _ in range(3):
        colony.heartbeat(2)
    assert [value(machine) for machine in colony.machines.values()] == [b"a"] * 3


def test_what_was_refused_and_yet_committed_happens_once(colony: Colony, leader: Machine) -> None:
    """The old leader's entry reached a majority; the retry comes to the new one, which has it in its log already."""
    leader.take(script(7, 1, call(TAKE, b"a")))
    leader.turn()
    leader.sync()
    mail, colony.mail = colony.mail, []
    for sender, to, group, message in mail:
        if to == 2:
            colony.machines[2].take(raft.Received(sender, message), group=group)
    colony.machines[2].turn()
    colony.machines[2].sync()
    colony.mail.clear()
    heir = colony.elect(2, among=(2, 3))
    heir.take(script(7, 1, call(TAKE, b"a")))
    colony.settle_between(2, 3)
    assert results(heir) == {(7, 1): [b"a"]}
    assert value(heir) == b"a"


def test_a_leader_that_is_lost_refuses_what_waited(colony: Colony, leader: Machine) -> None:
    leader.take(write(8, 1, b"SET k x"))
    leader.turn()
    leader.take(script(7, 1, call(TAKE, b"a")))
    leader.turn()
    colony.mail.clear()
    colony.elect(2, among=(2, 3))
    colony.heartbeat(2)
    assert results(leader)[7, 1] is None
    assert value(leader) is None


def test_an_expired_key_is_absent_for_a_script_and_gone_for_all(colony: Colony, leader: Machine) -> None:
    leader.take(write(8, 1, b"SET k old PX 100"))
    colony.settle()
    colony.wall_ms = dict.fromkeys(colony.machines, 5_000)
    leader.taken_answers()
    leader.take(script(7, 1, call(TAKE, b"new")))
    colony.settle()
    colony.heartbeat(1)
    assert results(leader) == {(7, 1): [b"new"]}
    assert [value(machine) for machine in colony.machines.values()] == [b"new"] * 3
    assert len({machine.replica.digest() for machine in colony.machines.values()}) == 1


def test_time_stands_still_in_a_script_and_is_that_of_its_entry(alone: Machine) -> None:
    alone.take(script(7, 1, call(b"local a = redis.call('time') local b = redis.call('time') return {a, b}")))
    alone.turn()
    alone.sync()
    (body,) = alone.bodies()
    time = [b"%d" % (body.stamp_ms // 1_000), b"%d" % (body.stamp_ms % 1_000 * 1_000)]
    assert results(alone) == {(7, 1): [[time, time]]}


def test_a_script_that_is_stopped_takes_its_own_work_back_and_no_other(alone: Machine) -> None:
    endless = b"redis.call('set', KEYS[1], 'x') redis.call('del', 'kept') while true do end"
    alone.take(script(7, 1, call(TAKE, b"a"), [b"SET", b"kept", b"1"], call(endless), call(TAKE, b"b")))
    alone.turn()
    alone.sync()
    ((first, second, third, fourth),) = [each for each in results(alone).values() if each is not None]
    assert (first, second, fourth) == (b"a", OK, b"ab")
    assert isinstance(third, Failure)
    assert b"over its budget" in third.text
    assert value(alone, b"kept") == b"1"


def test_a_script_that_fails_keeps_what_it_wrote_before_as_in_redis(alone: Machine) -> None:
    alone.take(script(7, 1, call(b"redis.call('set', KEYS[1], 'x') error('no')")))
    alone.turn()
    alone.sync()
    assert value(alone) == b"x"


def test_the_first_entry_of_a_term_comes_before_any_evaluation() -> None:
    """Before that is applied a leader does not know what earlier ones have acknowledged."""
    alone = Colony().elect(1)
    alone.take(script(7, 1, call(TAKE, b"a")))
    alone.turn()
    assert alone.replica.raft.applied < alone.replica.raft.log.last_index
    assert alone.bodies() == []
    alone.sync()
    assert len(alone.bodies()) == 1


def test_many_long_scripts_are_spread_over_turns(alone: Machine) -> None:
    """Thirty scripts that each take all they may would hold the node for seconds; the rest is to be sent again."""
    endless = call(b"while true do end")
    alone.take(script(7, 1, *[endless] * 30), script(8, 1, call(TAKE, b"a")))
    alone.turn()
    alone.sync()
    answered = results(alone)[7, 1]
    assert answered is not None
    assert len(answered) == 30
    done = sum(reply is not MOVED for reply in answered)
    assert 1 <= done < 30
    assert answered[done:] == [MOVED] * (30 - done)
    alone.turn()
    alone.sync()
    assert value(alone) == b"a"


def test_a_script_whose_home_is_elsewhere_is_moved_with_all_behind_it() -> None:
    alone = leading_alone(slots=(0, 8_191))
    # Slots 12739 and 5061 of the keys 123456789 and bar.
    alone.take(script(7, 1, call(TAKE, b"a", key=b"bar"), call(TAKE, b"b", key=b"123456789"), [b"SET", b"bar", b"x"]))
    alone.turn()
    alone.sync()
    assert results(alone) == {(7, 1): [b"a", MOVED, MOVED]}
    assert value(alone, b"bar") == b"a"


def test_keys_that_are_not_here_are_refused() -> None:
    alone = leading_alone(slots=(0, 8_191))
    both = ScriptCall(b"bar", b"", b"return 1", [b"bar", b"123456789"], []).command()
    undeclared = call(b"return redis.pcall('set', '123456789', 'x')", key=b"bar")
    alone.take(script(7, 1, both, undeclared, call(b"return redis.call('keys', '*')", key=b"bar")))
    alone.turn()
    alone.sync()
    (answered,) = results(alone).values()
    assert answered is not None
    assert answered[0] == CROSS_SLOT
    assert answered[1] == Failure(b"ERR Script attempted to access a non local key in a cluster node")
    assert answered[2] == []


def test_a_script_of_a_database_never_sees_its_prefix(alone: Machine) -> None:
    body = b"redis.call('mset', KEYS[1], 'a', 'b', 'b')"
    body += b" return {KEYS[1], redis.call('mget', 'k', 'b'), redis.call('keys', '*')}"
    alone.take(write(8, 1, b"SET outside x"), script(7, 1, call(body, prefix=b"{db:3}")))
    alone.turn()
    alone.sync()
    assert results(alone)[7, 1] == [[b"k", [b"a", b"b"], [b"b", b"k"]]]
    assert value(alone, b"{db:3}k") == b"a"
    assert value(alone) is None


# Scripts that only read -----------------------------------------------------------------------------------------------


def test_a_script_that_may_not_write_is_read_without_the_log(alone: Machine) -> None:
    alone.take(write(8, 1, b"SET k x"))
    alone.turn()
    alone.sync()
    entries = alone.replica.raft.log.last_index
    alone.take(Query(1, 5, 1, [call(b"return redis.call('get', KEYS[1])", is_read=True)]))
    alone.turn()
    assert results(alone)[5, 1] == [b"x"]
    assert alone.replica.raft.log.last_index == entries
    alone.take(Query(1, 5, 2, [call(b"return redis.pcall('set', KEYS[1], 'y')", is_read=True)]))
    alone.turn()
    assert results(alone)[5, 2] == [Failure(b"ERR Write commands are not allowed from read-only scripts.")]
    assert alone.replica.raft.log.last_index == entries


def test_a_reading_script_that_meets_an_expired_key_goes_through_the_log(alone: Machine) -> None:
    alone.take(write(8, 1, b"SET k x PX 100"))
    alone.turn()
    alone.sync()
    alone.taken_answers()
    alone._colony.wall_ms[1] = 1_101
    alone.take(Query(1, 5, 1, [call(b"return redis.call('exists', KEYS[1])", is_read=True)]))
    for _ in range(3):
        alone.take(raft.Tick())
        alone.turn()
        alone.sync()
    assert results(alone) == {(5, 1): [0]}
    assert alone.bodies()[-1].batches[-1].commands[0][0] == EFFECTS


def test_an_unevaluated_script_in_the_log_does_nothing(alone: Machine) -> None:
    """A sender that did not say that its batch has scripts; replicas must not run them, each on its own."""
    command = call(TAKE, b"a")
    assert command[0] == EVAL
    alone.take(Submit(1, 7, 1, encode_batch(7, 1, 1, [command])))
    alone.turn()
    alone.sync()
    assert results(alone) == {(7, 1): [MOVED]}
    assert value(alone) is None


def test_a_replica_without_an_engine_says_so(alone: Machine) -> None:
    alone.replica._engine = None
    alone.take(script(7, 1, call(TAKE, b"a")))
    alone.turn()
    alone.sync()
    (answered,) = results(alone).values()
    assert answered == [Failure(b"ERR this node cannot run scripts; nothing was applied")]
