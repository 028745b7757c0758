"""One connection: replies in the order of commands, whatever the store does, and bounds that hold."""

from random import Random

import pytest

from noctule.base.bounds import PIPELINE_COMMANDS_MAX, VALUE_BYTES_MAX
from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import InternalError
from noctule.core.keyspace.reply import OK
from noctule.servers import resp_connection
from noctule.servers.resp_connection import OUTPUT_BYTES_HIGH, PIPELINE_BYTES_MAX

from .resp_fakes import HandTransport, World, command

HALF = PIPELINE_COMMANDS_MAX // 2

# The bounds on output, made small.
HIGH = 1_000
TARGET = 64_000
MAX = 512_000
LARGE = b"v" * 4_000


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def thrifty(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose bounds on output are small."""
    monkeypatch.setattr(resp_connection, "OUTPUT_BYTES_HIGH", HIGH)
    monkeypatch.setattr(resp_connection, "OUTPUT_BYTES_TARGET", TARGET)
    monkeypatch.setattr(resp_connection, "OUTPUT_BYTES_MAX", MAX)
    world = World()
    world.ask(b"SET", b"k", LARGE)
    return world


def numbers(first: int, end: int) -> bytes:
    return b"".join(b":%d\r\n" % number for number in range(first, end))


@pytest.mark.parametrize("seed", range(20))
def test_replies_keep_the_order_of_commands_whatever_order_the_store_answers_in(world: World, seed: int) -> None:
    chance = Random(seed)
    expected = b""
    increments = 0
    for number in range(200):
        if chance.random() < 0.3:
            world.connection.data_received(command(b"ECHO", b"%d" % number))
            expected += b"$%d\r\n%d\r\n" % (len(str(number)), number)
        else:
            world.connection.data_received(command(b"INCRBY", b"k", b"1"))
            increments += 1
            expected += b":%d\r\n" % increments
        if world.store.held and chance.random() < 0.5:
            world.store.deliver(chance.randrange(len(world.store.held)))
        if chance.random() < 0.2:
            world.loop.turn()
    while world.store.held:
        world.store.deliver(chance.randrange(len(world.store.held)))
    world.loop.turn()
    assert world.take() == expected


def test_a_reply_leaves_only_behind_the_earlier_ones(world: World) -> None:
    world.send(command(b"SET", b"k", b"v") + command(b"GET", b"k") + command(b"PING"))
    world.store.deliver(1)
    world.loop.turn()
    assert world.take() == b""
    world.store.deliver(0)
    world.loop.turn()
    assert world.take() == b"+OK\r\n$1\r\nv\r\n+PONG\r\n"


def test_one_write_for_all_replies_of_a_turn(world: World) -> None:
    world.send(command(b"INCR", b"k") * 500)
    for _ in range(500):
        world.store.deliver(Random(1).randrange(len(world.store.held)))
    assert world.transport.writes == [], "nothing leaves before the turn is over"
    world.loop.turn()
    assert world.transport.writes == [numbers(1, 501)]
    assert world.loop.ready == []


def test_the_same_pipeline_cut_at_every_byte_gives_the_same_replies() -> None:
    pipeline = (
        command(b"SET", b"k", b"1")
        + b"INCR k\r\n"
        + command(b"HELLO", b"3")
        + command(b"HSET", b"h", b"f", b"v")
        + command(b"HGETALL", b"h")
        + command(b"NOPE", b"x")
        + command(b"PING", b"bye")
    )
    results = set()
    for cut in range(len(pipeline)):
        world = World()
        world.send(pipeline[:cut], pipeline[cut:])
        world.store.deliver_all()
        world.loop.turn()
        results.add(world.take())
    (written,) = results
    assert written.startswith(b"+OK\r\n:2\r\n%7\r\n")
    unknown = b"-ERR unknown command 'NOPE', with args beginning with: 'x' \r\n"
    assert written.endswith(b":1\r\n%1\r\n$1\r\nf\r\n$1\r\nv\r\n" + unknown + b"$3\r\nbye\r\n")


def test_a_reply_has_the_protocol_of_its_command(world: World) -> None:
    """HELLO 3 takes effect at once; what was sent before it is still answered in RESP2."""
    world.send(command(b"GET", b"none") + command(b"HELLO", b"3") + command(b"GET", b"none"))
    world.store.deliver_all()
    world.loop.turn()
    written = world.take()
    assert written.startswith(b"$-1\r\n%7\r\n")
    assert written.endswith(b"_\r\n")


def test_a_store_that_answers_at_once_keeps_the_order_too(world: World) -> None:
    world.send(command(b"SET", b"k", b"1"))
    world.store.is_immediate = True
    world.send(command(b"GET", b"k") + command(b"PING"))
    assert world.take() == b""
    world.store.deliver_all()
    world.loop.turn()
    assert world.take() == b"+OK\r\n$1\r\n1\r\n+PONG\r\n"


def test_readonly_reads_are_eventual(world: World) -> None:
    world.send(b"GET k\r\nREADONLY\r\nGET k\r\nREADWRITE\r\nGET k\r\nREADONLY\r\nRESET\r\nGET k\r\n")
    exact, stale = ConsistencyLevel.LINEARIZABLE, ConsistencyLevel.EVENTUAL
    assert world.store.consistencies == [exact, stale, exact, exact]


# Bounds --------------------------------------------------------------------------------------------------------------


def test_a_full_pipeline_is_not_read_until_half_is_answered(world: World) -> None:
    world.send(command(b"INCR", b"k") * (PIPELINE_COMMANDS_MAX - 1))
    assert world.transport.is_reading()
    world.send(command(b"INCR", b"k"))
    assert not world.transport.is_reading()
    for _ in range(HALF - 1):
        world.store.deliver(0)
    world.loop.turn()
    assert not world.transport.is_reading()
    world.store.deliver(0)
    world.loop.turn()
    assert world.transport.is_reading()
    assert world.take() == numbers(1, HALF + 1)


def test_one_chunk_with_more_commands_than_the_pipeline_holds(world: World) -> None:
    total = 3 * PIPELINE_COMMANDS_MAX + 5
    world.send(command(b"INCR", b"k") * total)
    most = 0
    while world.store.held:
        most = max(most, len(world.store.held))
        assert not world.transport.is_reading() or len(world.store.held) <= HALF
        world.store.deliver(0)
        world.loop.turn()
    assert most == PIPELINE_COMMANDS_MAX
    assert world.take() == numbers(1, total + 1)
    assert world.transport.is_reading()
    assert world.server.commands_total == total


def test_garbage_behind_a_full_pipeline_is_answered_last(world: World) -> None:
    total = PIPELINE_COMMANDS_MAX + 5
    world.send(command(b"INCR", b"k") * total + b"*x\r\n")
    while world.store.held:
        world.store.deliver(0)
        world.loop.turn()
    world.loop.turn()
    assert world.take() == numbers(1, total + 1) + b"-ERR Protocol error: invalid multibulk length\r\n"
    assert world.transport.is_closing()


def test_large_commands_that_wait_stop_the_reading(world: World) -> None:
    world.send(command(b"APPEND", b"a", b""))
    value = b"v" * VALUE_BYTES_MAX
    sent = 0
    while world.transport.is_reading():
        world.send(command(b"SET", b"k", value))
        sent += 1
        assert sent <= PIPELINE_BYTES_MAX // VALUE_BYTES_MAX + 1
    world.store.deliver_all()
    world.loop.turn()
    assert world.transport.is_reading()
    assert world.take() == b":0\r\n" + b"+OK\r\n" * sent


def test_an_argument_far_over_its_bound_is_read_past_without_a_pause(world: World) -> None:
    """What is read past is owed no reply, so it must not count as a full pipeline, which would never empty."""
    world.send(b"*1\r\n$%d\r\n" % (3 * PIPELINE_BYTES_MAX))
    chunk = b"v" * (1024 * 1024)
    for _ in range(3 * PIPELINE_BYTES_MAX // len(chunk)):
        world.send(chunk)
        assert world.transport.is_reading()
    world.send(b"\r\nPING\r\n")
    text = b"-ERR argument of %d bytes, VALUE_BYTES_MAX is %d\r\n" % (3 * PIPELINE_BYTES_MAX, VALUE_BYTES_MAX)
    assert world.take() == text + b"+PONG\r\n"


@pytest.mark.interpreted
def test_a_client_that_does_not_read_is_not_read(thrifty: World) -> None:
    thrifty.ask(b"GET", b"k")
    assert not thrifty.transport.is_reading()
    thrifty.transport.client_reads()
    assert thrifty.transport.is_reading()
    assert thrifty.ask(b"PING") == b"+PONG\r\n"


@pytest.mark.interpreted
def test_a_client_that_does_not_read_has_nothing_more_begun(thrifty: World) -> None:
    """What waits behind a full pipeline goes on when the replies are read, and not before."""
    total = 2 * PIPELINE_COMMANDS_MAX
    thrifty.send(command(b"GET", b"k") + command(b"INCR", b"n") * (total - 1))
    thrifty.store.deliver_all()
    thrifty.loop.settle()
    assert thrifty.store.held == []
    assert thrifty.store.keyspace.execute([b"GET", b"n"], 0) == b"%d" % (PIPELINE_COMMANDS_MAX - 1)
    thrifty.transport.client_reads()
    thrifty.store.deliver_all()
    thrifty.loop.settle()
    assert thrifty.store.keyspace.execute([b"GET", b"n"], 0) == b"%d" % (total - 1)


@pytest.mark.interpreted
def test_a_client_that_never_reads_is_dropped_at_the_bound(thrifty: World) -> None:
    thrifty.send(command(b"GET", b"k") * 1_000)
    thrifty.store.deliver_all()
    thrifty.loop.settle()
    assert thrifty.transport.is_aborted
    assert MAX < thrifty.transport.unread <= MAX + 2 * len(LARGE), "the bound and one reply"
    assert thrifty.server.counters()["noctule_resp_clients_dropped_total"] == 1
    thrifty.connection.connection_lost(None)
    thrifty.loop.settle()
    assert list(thrifty.server.clients()) == []


@pytest.mark.interpreted
@pytest.mark.parametrize("is_read", [False, True])
def test_a_pipeline_of_large_replies_must_be_read_in_time(thrifty: World, is_read: bool) -> None:
    thrifty.send(command(b"GET", b"k") * 30)
    thrifty.store.deliver_all()
    thrifty.loop.settle()
    assert TARGET < thrifty.transport.unread < MAX
    assert not thrifty.transport.is_closing()
    if is_read:
        thrifty.transport.client_reads()
    thrifty.loop.time_passes()
    assert thrifty.transport.is_aborted is not is_read
    assert thrifty.server.clients_dropped_total == (0 if is_read else 1)


@pytest.mark.interpreted
def test_a_client_that_is_gone_is_not_looked_at_later(thrifty: World) -> None:
    thrifty.send(command(b"GET", b"k") * 30)
    thrifty.store.deliver_all()
    thrifty.loop.settle()
    (timer,) = thrifty.loop.timers
    thrifty.connection.connection_lost(None)
    assert timer.is_cancelled


@pytest.mark.interpreted
def test_others_have_their_turn_between_large_replies(thrifty: World) -> None:
    """Thousands of large values in one turn of the loop were seconds in which nobody else was answered."""
    thrifty.send(command(b"GET", b"k") * 30)
    thrifty.store.deliver_all()
    for count in range(1, 31):
        thrifty.loop.turn()
        assert len(thrifty.transport.writes) == count
        assert thrifty.transport.unread <= count * (HIGH + len(LARGE) + 20)


@pytest.mark.interpreted
def test_what_all_clients_leave_unread_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is owed the most is dropped, and the others are not."""
    monkeypatch.setattr(resp_connection, "OUTPUT_BYTES_HIGH", HIGH)
    world = World(output_bytes_all_max=10 * len(LARGE))
    world.ask(b"SET", b"k", LARGE)
    transports = [HandTransport() for _ in range(3)]
    for count, transport in zip((2, 5, 3), transports, strict=True):
        world.connect(transport).data_received(command(b"GET", b"k") * count)
        world.store.deliver_all()
        world.loop.settle()
    assert [transport.is_aborted for transport in transports] == [False, True, False]
    assert world.server.clients_dropped_total == 1


def test_one_reply_over_the_bound_is_sent(thrifty: World) -> None:
    """What the client asked for in one command is in memory anyway, and it may read."""
    thrifty.transport.client_reads()
    written = thrifty.ask(b"MGET", *[b"k"] * (MAX // len(LARGE) + 2))
    assert len(written) > MAX
    thrifty.loop.time_passes()
    assert not thrifty.transport.is_aborted


def test_one_connection_too_many_is_told_so() -> None:
    world = World(connections_max=2)
    second, third = HandTransport(), HandTransport()
    other = world.connect(second)
    world.connect(third)
    assert third.writes == [b"-ERR max number of clients reached\r\n"]
    assert third.is_closing()
    third.protocol.data_received(command(b"PING"))
    third.protocol.connection_lost(None)
    assert third.writes == [b"-ERR max number of clients reached\r\n"]
    other.connection_lost(None)
    fourth = HandTransport()
    world.connect(fourth).data_received(command(b"PING"))
    world.loop.turn()
    assert fourth.writes == [b"+PONG\r\n"]
    counters = world.server.counters()
    assert counters["noctule_resp_connections_total"] == 3
    assert counters["noctule_resp_connections_refused_total"] == 1


def test_each_connection_has_a_conversation_of_its_own(world: World) -> None:
    """It is what keeps the commands of one connection in order, and those of others out of its way."""
    before = world.store.conversations
    world.connect(HandTransport())
    assert world.store.conversations == before + 1 == 2


# Ends ----------------------------------------------------------------------------------------------------------------


def test_quit_answers_what_came_before_and_nothing_after(world: World) -> None:
    world.send(command(b"INCR", b"k") + command(b"QUIT") + command(b"INCR", b"k"), command(b"INCR", b"k"))
    assert not world.transport.is_reading()
    world.store.deliver_all()
    world.loop.turn()
    assert world.take() == b":1\r\n+OK\r\n"
    assert world.transport.is_closing()
    assert world.server.commands_total == 3, "counted when they came, though one did not run"
    assert world.store.keyspace.execute([b"GET", b"k"], 0) == b"1"


def test_garbage_answers_what_came_before_it(world: World) -> None:
    world.send(command(b"INCR", b"k") + b"*1\r\n+X\r\n" + command(b"INCR", b"k"))
    assert not world.transport.is_closing()
    world.store.deliver_all()
    world.loop.turn()
    assert world.take() == b":1\r\n-ERR Protocol error: expected '$', got '+'\r\n"
    assert world.transport.is_closing()
    assert world.server.counters()["noctule_resp_protocol_errors_total"] == 1


def test_a_client_that_sends_no_more_still_gets_its_replies(world: World) -> None:
    world.send(command(b"INCR", b"k"))
    assert world.connection.eof_received() is True
    assert not world.transport.is_closing()
    world.store.deliver_all()
    world.loop.turn()
    assert world.take() == b":1\r\n"
    assert world.transport.is_closing()


def test_a_client_that_is_owed_nothing_is_closed_when_it_sends_no_more(world: World) -> None:
    world.ask(b"PING")
    assert world.connection.eof_received() is False


def test_replies_for_a_client_that_is_gone_are_dropped(world: World) -> None:
    world.send(command(b"INCR", b"k") * 3)
    world.store.deliver(0)
    world.connection.connection_lost(ConnectionResetError())
    world.store.deliver_all()
    world.loop.turn()
    assert world.take() == b""
    assert len(world.connection.cells) == 0
    assert list(world.server.clients()) == []


def test_finish_begins_nothing_more_and_closes_once_all_is_answered(world: World) -> None:
    world.send(command(b"INCR", b"k") * (PIPELINE_COMMANDS_MAX + 10))
    world.connection.finish()
    assert not world.transport.is_closing()
    world.store.deliver_all()
    world.loop.turn()
    assert world.take() == numbers(1, PIPELINE_COMMANDS_MAX + 1)
    assert world.transport.is_closing()


def test_a_reply_without_an_encoding_ends_the_connection(world: World) -> None:
    """Were it left out, each later reply would be taken for the answer to the command before."""
    world.send(command(b"GET", b"k") + command(b"GET", b"k"))
    sink, _ = world.store.held.pop(0)
    sink.deliver(object())  # type: ignore[arg-type]
    world.store.held[0][0].deliver(OK)
    with pytest.raises(InternalError):
        world.loop.turn()
    assert world.transport.is_aborted
    assert world.take() == b""


# Reads that are answered at once -------------------------------------------------------------------------------------


@pytest.fixture
def copied() -> World:
    """A world with a copy of everything, and a client that reads eventually."""
    world = World()
    world.ask(b"SET", b"k", b"v")
    assert world.ask(b"READONLY") == b"+OK\r\n"
    world.store.has_copies = True
    return world


def test_an_eventual_read_of_the_copy_leaves_in_the_same_turn(copied: World) -> None:
    copied.send(2 * command(b"GET", b"k") + command(b"get", b"none"))
    assert copied.take() == b"$1\r\nv\r\n$1\r\nv\r\n$-1\r\n"
    assert not copied.store.held


def test_a_chunk_of_reads_is_answered_in_as_many_rows_as_it_takes(copied: World) -> None:
    copied.store.row_max = 2
    before = copied.server.commands_total
    copied.send(5 * command(b"GET", b"k") + command(b"get", b"none") + command(b"STRLEN", b"k"))
    assert copied.transport.writes == [5 * b"$1\r\nv\r\n" + b"$-1\r\n:1\r\n"]
    assert copied.server.commands_total == before + 7
    assert b" cmd=strlen " in copied.client.line(copied.clock.now())


def test_reads_of_much_are_answered_by_the_way_that_waits_for_the_client(copied: World) -> None:
    copied.ask(b"SET", b"long", b"v" * OUTPUT_BYTES_HIGH)
    copied.store.row_max = 1
    copied.connection.data_received(3 * command(b"GET", b"long"))
    assert len(copied.transport.writes) == 1
    assert len(copied.store.held) == 2
    assert not copied.transport.reads


def test_behind_anything_else_an_eventual_read_takes_its_turn(copied: World) -> None:
    copied.send(command(b"GET", b"k") + command(b"SET", b"k", b"w") + command(b"GET", b"k") + command(b"PING"))
    assert copied.take() == b"$1\r\nv\r\n"
    assert len(copied.store.held) == 2, "the second GET must not overtake the SET"
    copied.send(command(b"GET", b"k"))
    assert copied.take() == b""
    copied.store.deliver_all()
    copied.loop.turn()
    assert copied.take() == b"+OK\r\n$1\r\nw\r\n+PONG\r\n$1\r\nw\r\n"


def test_what_an_eventual_read_cannot_be_is_answered_as_ever(copied: World) -> None:
    copied.send(command(b"GET") + command(b"GET", b"k"))
    copied.store.deliver_all()
    copied.loop.turn()
    assert copied.take() == b"-ERR wrong number of arguments for 'get' command\r\n$1\r\nv\r\n"
    copied.send(command(b"GET", b"k") + b"*1\r\n+GET\r\n")
    copied.loop.turn()
    assert copied.take() == b"$1\r\nv\r\n-ERR Protocol error: expected '$', got '+'\r\n"


def test_after_readwrite_nothing_is_read_from_the_copy(copied: World) -> None:
    copied.ask(b"READWRITE")
    copied.send(command(b"GET", b"k"))
    assert copied.take() == b""
    assert len(copied.store.held) == 1
