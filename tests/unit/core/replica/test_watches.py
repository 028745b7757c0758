"""WATCH on replicas: the leader knows of every change, even one that was taken back, and stops the transaction."""

import pytest

from noctule.core.keyspace.effects import EFFECTS
from noctule.core.keyspace.reply import NULL_ARRAY, OK, Reply
from noctule.core.keyspace.transactions import EXEC, FINGERPRINT, Watched, transaction
from noctule.core.replica.durability import Durability
from noctule.core.replica.events import Query

from .colony import Colony, Machine, write
from .test_scripts import call, results, script, value

RUN = [[b"SET", b"done", b"yes"]]


def watch(colony: Colony, leader: Machine, key: bytes = b"k", token: bytes = b"token") -> Watched:
    """As a node does it for its client."""
    leader.take(Query(1, 900, 1, [[FINGERPRINT, key, token]]))
    colony.settle()
    colony.heartbeat(leader.node_id)
    (replies,) = [replies for replies in results(leader).values() if replies is not None]
    assert isinstance(replies[0], bytes)
    return Watched(key, replies[0], token)


def exec_(*watched: Watched, commands: list[list[bytes]] = RUN, has_scripts: bool = False) -> list[bytes]:
    return transaction(watched, commands, [b"done"], is_write=True, has_scripts=has_scripts)


def done(colony: Colony, leader: Machine, *commands: list[bytes], sequence: int = 1) -> list[Reply] | None:
    """One batch through the log."""
    leader.take(script(7, sequence, *commands))
    colony.settle()
    colony.heartbeat(leader.node_id)
    return results(leader)[7, sequence]


@pytest.fixture
def colony() -> Colony:
    return Colony(3)


@pytest.fixture
def leader(colony: Colony) -> Machine:
    leader = colony.elect(1)
    colony.settle()
    return leader


def test_a_transaction_runs_where_nobody_came_between(colony: Colony, leader: Machine) -> None:
    watched = watch(colony, leader)
    done(colony, leader, [b"SET", b"other", b"x"])
    assert done(colony, leader, exec_(watched), sequence=2) == [[OK]]
    assert [value(machine, b"done") for machine in colony.machines.values()] == [b"yes"] * 3
    assert leader.bodies()[-1].batches[0].commands[0][0] == EXEC
    assert len(leader.replica.keyspace.watches) == 0


@pytest.mark.parametrize("has_scripts", [False, True])
def test_what_was_changed_and_changed_back_stops_it(colony: Colony, leader: Machine, has_scripts: bool) -> None:
    watched = watch(colony, leader)
    done(colony, leader, [b"SET", b"k", b"x"])
    done(colony, leader, [b"DEL", b"k"], sequence=2)
    commands = [call(b"redis.call('set', KEYS[1], 'yes')", key=b"done")] if has_scripts else RUN
    assert done(colony, leader, exec_(watched, commands=commands, has_scripts=has_scripts), sequence=3) == [NULL_ARRAY]
    assert [value(machine, b"done") for machine in colony.machines.values()] == [None] * 3
    assert leader.bodies()[-1].batches[0].commands[0][0] == EFFECTS
    assert len({machine.replica.digest() for machine in colony.machines.values()}) == 1


def test_so_it_does_within_one_batch(colony: Colony, leader: Machine) -> None:
    watched, other = watch(colony, leader), watch(colony, leader, b"other", b"second")
    replies = done(colony, leader, [b"SET", b"k", b"x"], [b"DEL", b"k"], exec_(watched), exec_(other))
    assert replies == [OK, 1, NULL_ARRAY, [OK]]


def test_so_does_another_transaction_in_the_same_entry(colony: Colony, leader: Machine) -> None:
    first, second = watch(colony, leader), watch(colony, leader, token=b"second")
    back_and_forth = [[b"SET", b"k", b"x"], [b"DEL", b"k"]]
    leader.take(script(7, 1, exec_(first, commands=back_and_forth)), script(8, 1, exec_(second)))
    colony.settle()
    colony.heartbeat(1)
    assert results(leader) == {(7, 1): [[OK, 1]], (8, 1): [NULL_ARRAY]}


def test_what_is_applied_by_a_retry_is_answered_as_it_was(colony: Colony, leader: Machine) -> None:
    watched = watch(colony, leader)
    assert done(colony, leader, exec_(watched)) == [[OK]]
    assert done(colony, leader, exec_(watched)) == [[OK]]


@pytest.mark.parametrize("change", [None, b"SET k x"])
def test_at_another_leader_the_value_decides(colony: Colony, leader: Machine, change: bytes | None) -> None:
    """arq takes a nil for "somebody else has enqueued it": one that means nothing would lose a job."""
    watched = watch(colony, leader)
    heir = colony.elect(2, among=(2, 3))
    if change is not None:
        heir.take(write(8, 1, change))
        colony.settle_between(2, 3)
        results(heir)
    heir.take(script(7, 1, exec_(watched)))
    colony.settle_between(2, 3)
    assert results(heir) == {(7, 1): [[OK] if change is None else NULL_ARRAY]}


def test_a_watch_that_went_through_the_log_behind_a_write_is_known(colony: Colony, leader: Machine) -> None:
    """A client that sends SET and WATCH at once has both in one batch; every replica knows of it then."""
    replies = done(colony, leader, [b"SET", b"k", b"x"], [FINGERPRINT, b"k", b"token"])
    assert replies is not None
    assert isinstance(replies[1], bytes)
    assert done(colony, leader, exec_(Watched(b"k", replies[1], b"token")), sequence=2) == [[OK]]
    assert len({machine.replica.digest() for machine in colony.machines.values()}) == 1


def test_a_token_that_came_in_an_evaluated_batch_is_not_broken_by_taking_that_back(
    colony: Colony, leader: Machine
) -> None:
    other = watch(colony, leader, b"other", b"second")
    replies = done(colony, leader, [b"SET", b"k", b"x"], [FINGERPRINT, b"k", b"token"], exec_(other))
    assert replies is not None
    assert isinstance(replies[1], bytes)
    assert replies[2] == [OK]
    assert done(colony, leader, exec_(Watched(b"k", replies[1], b"token")), sequence=2) == [[OK]]


def test_with_early_answers_it_waits_for_what_was_acknowledged() -> None:
    colony = Colony(3, durability=Durability.LEADER)
    leader = colony.elect(1)
    colony.settle()
    watched = watch(colony, leader)
    leader.take(write(8, 1, b"SET k x"))
    leader.turn()
    leader.sync()
    assert results(leader) == {(8, 1): [OK]}
    assert done(colony, leader, exec_(watched)) == [NULL_ARRAY]
