"""MULTI and WATCH at the door: what is held, what is bounded, and what comes of answers that do not come as wished.

Replies are compared with those of Redis itself in tests/integration/test_transactions_differential.py.
"""

from itertools import chain
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.base.bounds import PIPELINE_COMMANDS_MAX
from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.failures import CROSS_SLOT
from noctule.core.keyspace.reply import Failure
from noctule.servers import resp_connection, resp_transactions
from noctule.servers.resp_commands import HANDLERS
from noctule.servers.resp_errands import Errand
from noctule.servers.resp_transactions import TRANSACTION_BYTES_MAX, TRANSACTION_COMMANDS_MAX, WATCHED_KEYS_MAX

from .resp_fakes import HandTransport, World, command

ABORTED = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
QUEUED = b"+QUEUED\r\n"


@pytest.fixture
def world() -> World:
    return World()


def lines(*texts: bytes) -> bytes:
    return b"".join(command(*text.split()) for text in texts)


def answered(world: World, *texts: bytes) -> bytes:
    """Send all at once, answer until nothing is owed, and give what came."""
    world.send(lines(*texts))
    for _ in range(20):
        world.store.deliver_all()
        world.loop.turn()
    return world.take()


def test_a_transaction_is_one_command_of_the_store(world: World) -> None:
    world.send(lines(b"MULTI", b"SET a 1", b"INCR a", b"EXEC"))
    assert len(world.store.held) == 1
    assert answered(world) == b"+OK\r\n" + 2 * QUEUED + b"*2\r\n+OK\r\n:2\r\n"


def test_an_empty_one_and_one_the_server_can_answer_do_not_ask_the_store(world: World) -> None:
    world.send(lines(b"MULTI", b"EXEC", b"MULTI", b"PING", b"ECHO x", b"EXEC"))
    assert world.store.held == []
    assert world.take() == b"+OK\r\n*0\r\n+OK\r\n" + 2 * QUEUED + b"*2\r\n+PONG\r\n$1\r\nx\r\n"


def test_nothing_sent_behind_a_watch_begins_before_it_is_answered(world: World) -> None:
    """EXEC must know what was seen."""
    world.send(lines(b"WATCH w", b"MULTI", b"SET a 1", b"EXEC", b"GET a"))
    assert len(world.store.held) == 1
    assert world.server.commands_total == 1
    assert answered(world) == b"+OK\r\n+OK\r\n" + QUEUED + b"*1\r\n+OK\r\n$1\r\n1\r\n"
    assert world.server.commands_total == 5


def test_what_comes_while_a_watch_is_held_keeps_its_order(world: World) -> None:
    world.send(lines(b"WATCH w", b"ECHO 1"), lines(b"ECHO 2"), lines(b"ECHO 3"))
    assert answered(world) == b"+OK\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n"


def test_what_comes_in_a_later_chunk_waits_for_a_watch_too(world: World) -> None:
    world.send(lines(b"WATCH w"))
    world.send(lines(b"SET w 1", b"MULTI", b"PING", b"EXEC"))
    assert len(world.store.held) == 1
    assert answered(world).endswith(b"*-1\r\n")


def test_a_client_that_ends_its_side_still_gets_what_is_held(world: World) -> None:
    world.send(lines(b"WATCH w", b"MULTI", b"INCR a", b"EXEC"))
    world.connection.eof_received()
    assert answered(world) == b"+OK\r\n+OK\r\n" + QUEUED + b"*1\r\n:1\r\n"
    assert world.transport.is_closing()


def test_a_client_that_has_gone_changes_nothing_more(world: World) -> None:
    world.send(lines(b"MULTI", b"SET a 1", b"SELECT 3", b"EXEC"))
    world.connection.connection_lost(None)
    world.store.deliver_all()
    assert world.client.database == 0


def test_what_a_watch_of_several_keys_saw_is_compared_key_by_key(world: World) -> None:
    assert answered(world, b"WATCH a b a", b"SET b 1", b"MULTI", b"SET c 1", b"EXEC").endswith(b"*-1\r\n")
    assert world.store.keyspace.get(b"c") is None
    assert answered(world, b"MULTI", b"SET c 1", b"EXEC").endswith(b"*1\r\n+OK\r\n")


def test_a_second_watch_of_a_key_does_not_forget_what_the_first_saw(world: World) -> None:
    assert answered(world, b"WATCH a", b"SET a 1", b"WATCH a", b"MULTI", b"PING", b"EXEC").endswith(b"*-1\r\n")


def test_a_null_array_is_a_null_in_resp3(world: World) -> None:
    assert answered(world, b"HELLO 3", b"WATCH a", b"SET a 1", b"MULTI", b"GET a", b"EXEC").endswith(b"_\r\n")


def test_a_watch_without_an_answer_stops_the_transaction(world: World) -> None:
    """Run as if nothing were watched, it could overwrite what the client has not seen."""
    world.send(lines(b"WATCH a"))
    sink, _ = world.store.held.pop()
    sink.deliver(Failure(b"CLUSTERDOWN no leader"))
    world.loop.turn()
    assert world.take() == b"-CLUSTERDOWN no leader\r\n"
    assert answered(world, b"MULTI", b"SET a 1", b"EXEC") == b"+OK\r\n" + QUEUED + ABORTED
    assert answered(world, b"MULTI", b"SET a 1", b"EXEC").endswith(b"*1\r\n+OK\r\n")


def test_keys_of_several_partitions_are_refused_with_a_way_out(world: World) -> None:
    world.send(lines(b"MULTI", b"SET a 1", b"SET b 1", b"EXEC"))
    sink, _ = world.store.held.pop()
    sink.deliver(CROSS_SLOT)
    world.loop.turn()
    last = world.take().split(b"\r\n")[-2]
    assert last.startswith(b"-CROSSSLOT Keys in request don't hash to the same slot;")
    assert b"SELECT" in last


def test_a_failure_of_the_whole_is_the_reply_to_exec(world: World) -> None:
    world.send(lines(b"MULTI", b"SET a 1", b"SELECT 2", b"EXEC"))
    sink, _ = world.store.held.pop()
    sink.deliver(Failure(b"UNKNOWN no answer"))
    world.loop.turn()
    assert world.take().endswith(b"\r\n-UNKNOWN no answer\r\n")
    assert world.client.database == 0


def test_what_the_server_answers_stands_in_its_place_and_happens_only_if_the_rest_does(world: World) -> None:
    replies = answered(world, b"MULTI", b"CLIENT SETNAME bob", b"SET a 1", b"SELECT 2", b"SET a 2", b"EXEC", b"GET a")
    assert replies.endswith(b"*4\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n$1\r\n2\r\n")
    assert (world.client.name, world.client.database) == (b"bob", 2)


@pytest.mark.parametrize("line", [b"DBSIZE", b"KEYS *", b"SCAN 0", b"FLUSHDB", b"FLUSHALL", b"BUCKET.LIST"])
def test_what_is_about_all_partitions_has_no_place_in_a_transaction(world: World, line: bytes) -> None:
    queued, aborted = answered(world, b"MULTI", line), answered(world, b"EXEC")
    assert queued.startswith(b"+OK\r\n-ERR " + line.split()[0] + b" inside MULTI")
    assert aborted == ABORTED


def test_in_a_database_of_one_partition_it_has(world: World) -> None:
    replies = answered(world, b"SET z 0", b"SELECT 4", b"MULTI", b"SET a 1", b"DBSIZE", b"KEYS *", b"FLUSHDB", b"EXEC")
    assert replies.endswith(b"*4\r\n+OK\r\n:1\r\n*1\r\n$1\r\na\r\n+OK\r\n")
    assert answered(world, b"SELECT 0", b"GET z").endswith(b"$1\r\n0\r\n")


def test_commands_of_a_transaction_are_bounded(world: World) -> None:
    room = TRANSACTION_COMMANDS_MAX
    world.store.is_immediate = True
    replies = answered(world, b"MULTI", *[b"SET a 1"] * (room + 1))
    for _ in range(10):
        replies += answered(world)
    assert replies.count(QUEUED) == room
    assert b"-ERR over 16384 commands, TRANSACTION_COMMANDS_MAX" in replies
    assert answered(world, b"EXEC") == ABORTED


def test_bytes_of_a_transaction_are_bounded(world: World) -> None:
    large = b"v" * (TRANSACTION_BYTES_MAX // 3)
    world.send(lines(b"MULTI"))
    for _ in range(3):
        world.send(command(b"SET", b"k", large))
    assert world.take().split(b"\r\n")[-2].startswith(b"-ERR over 16777216 bytes, TRANSACTION_BYTES_MAX")
    assert answered(world, b"EXEC") == ABORTED


def test_watched_keys_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = b" ".join(b"k%d" % number for number in range(WATCHED_KEYS_MAX))
    assert answered(world, b"WATCH " + keys) == b"+OK\r\n"
    assert answered(world, b"WATCH k0") == b"+OK\r\n"
    assert answered(world, b"WATCH other").startswith(b"-ERR over 1024 keys, WATCHED_KEYS_MAX")
    assert answered(world, b"UNWATCH", b"WATCH other") == b"+OK\r\n+OK\r\n"
    monkeypatch.setattr(resp_transactions, "WATCHED_KEY_BYTES_MAX", 10)
    assert answered(world, b"WATCH " + b"x" * 6).startswith(b"-ERR watched keys are over 10 bytes")


def test_reads_only_are_a_read_as_fresh_as_the_connection_wants_unless_something_is_watched(world: World) -> None:
    answered(world, b"READONLY", b"MULTI", b"GET a", b"EXEC")
    assert world.store.consistencies == [ConsistencyLevel.EVENTUAL]
    answered(world, b"WATCH a", b"MULTI", b"GET a", b"EXEC")
    assert world.store.consistencies[1:] == [ConsistencyLevel.LINEARIZABLE] * 2


def test_client_list_shows_the_database_and_what_is_queued(world: World) -> None:
    assert b" db=0 " in answered(world, b"CLIENT INFO")
    answered(world, b"SELECT 7", b"MULTI", b"SET a 1")
    line = world.client.line(world.clock.now())
    assert b" flags=x db=7 " in line
    assert b" multi=1 " in line


def test_what_needs_the_store_for_itself_is_refused_inside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HANDLERS, b"TIME", lambda _door, _client, _args: Errand([[b"GET", b"a"]], lambda got: got[0]))
    assert answered(world, b"MULTI", b"TIME", b"EXEC").endswith(b"*1\r\n-ERR TIME inside MULTI is not supported\r\n")


def test_http_closes_inside_a_transaction_too(world: World) -> None:
    assert answered(world, b"MULTI", b"POST / HTTP/1.1").startswith(b"+OK\r\n-ERR this is the RESP port")
    assert world.transport.is_closing()


def test_what_is_published_inside_leaves_once_the_rest_is_applied_and_what_was_sent_before_is_answered(
    world: World,
) -> None:
    """Whoever hears it may look at once for what was written."""
    listener = HandTransport()
    other = world.connect(listener)
    other.data_received(command(b"SUBSCRIBE", b"news"))
    world.loop.turn()
    listener.writes.clear()
    world.send(lines(b"SET before 1", b"MULTI", b"SET a 1", b"PUBLISH news x", b"EXEC"))
    world.store.deliver(1)
    world.loop.turn()
    world.loop.turn()
    assert listener.writes == []
    assert answered(world).endswith(b"*2\r\n+OK\r\n:1\r\n")
    assert b"".join(listener.writes).endswith(b"$4\r\nnews\r\n$1\r\nx\r\n")
    world.send(lines(b"SET before 2", b"MULTI", b"PUBLISH news y", b"EXEC"))
    assert not b"".join(listener.writes).endswith(b"y\r\n")
    assert answered(world).endswith(b"*1\r\n:1\r\n")


def test_nothing_is_published_by_what_does_not_run(world: World) -> None:
    listener = HandTransport()
    world.connect(listener).data_received(command(b"SUBSCRIBE", b"news"))
    answered(world, b"WATCH w", b"SET w 1", b"MULTI", b"PUBLISH news x", b"EXEC", b"MULTI", b"PUBLISH news x", b"NOPE")
    answered(world, b"EXEC", b"MULTI", b"PUBLISH news x", b"DISCARD")
    assert b"message" not in b"".join(listener.writes)


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_subscription_inside_holds_for_what_comes_behind_it(world: World, protocol: int) -> None:
    replies = answered(world, b"HELLO %d" % protocol, b"MULTI", b"SUBSCRIBE news", b"GET a", b"EXEC", b"GET a")
    confirmation = b"3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
    if protocol == 2:
        assert b"*2\r\n*" + confirmation + b"$-1\r\n" in replies
        assert replies.split(b"\r\n")[-2].startswith(b"-ERR Can't execute 'get'")
    else:
        assert replies.endswith(b"*2\r\n>" + confirmation + b"_\r\n_\r\n")


def test_a_wrong_subcommand_breaks_it_when_it_is_queued(world: World) -> None:
    replies = answered(world, b"MULTI", b"CLIENT NOPE", b"CLIENT ID", b"EXEC")
    assert replies == b"+OK\r\n-ERR unknown subcommand 'NOPE'. Try CLIENT HELP.\r\n" + QUEUED + ABORTED


LINES = [
    *[b"MULTI", b"EXEC", b"EXEC", b"DISCARD", b"WATCH a b", b"WATCH a", b"UNWATCH", b"SELECT 0", b"SELECT 2", b"RESET"],
    *[b"SET a 1", b"INCR a", b"GET a", b"DEL a", b"APPEND b x", b"GET b", b"DBSIZE", b"COPY a b DB 2 REPLACE"],
    *[b"PING", b"ECHO x", b"PUBLISH c x", b"NOPE", b"GET", b"CLIENT SETNAME bob", b"CLIENT GETNAME"],
]

PHRASES = [
    *[[line] for line in LINES],
    *[[b"WATCH a", b"APPEND a x", b"MULTI", b"INCR b", b"EXEC"], [b"MULTI", b"SELECT 2", b"GET a", b"EXEC"]],
    *[[b"MULTI", b"APPEND a y", b"GET b", b"EXEC"], [b"WATCH b", b"MULTI", b"SET b 1", b"PING", b"EXEC"]],
]
SCRIPTS = st.lists(st.sampled_from(PHRASES), max_size=8).flatmap(
    lambda phrases: st.tuples(*[st.tuples(st.just(line), st.sampled_from([0, 0, 1, 3])) for line in chain(*phrases)])
)


@settings(max_examples=300)
@given(SCRIPTS, st.randoms(use_true_random=False), st.sampled_from([3, PIPELINE_COMMANDS_MAX]))
def test_replies_are_the_same_however_the_commands_arrive_and_in_whatever_order_they_are_answered(
    script: tuple[tuple[bytes, int], ...], chance: Random, pipeline_max: int
) -> None:
    patient, hasty = World(), World()
    expected = b"".join(answered(patient, line) for line, _ in script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resp_connection, "PIPELINE_COMMANDS_MAX", pipeline_max)
        chunk = b""
        for line, after in script:
            chunk += lines(line)
            if after:
                hasty.connection.data_received(chunk)
                chunk = b""
            for _ in range(chance.randrange(after + 1)):
                if hasty.store.held and chance.random() < 0.7:
                    hasty.store.deliver(chance.randrange(len(hasty.store.held)))
                else:
                    hasty.loop.turn()
        hasty.connection.data_received(chunk)
        for _ in range(3 * len(script) + 2):
            while hasty.store.held:
                hasty.store.deliver(chance.randrange(len(hasty.store.held)))
            hasty.loop.turn()
    assert hasty.take() == expected
    assert hasty.client.database == patient.client.database
