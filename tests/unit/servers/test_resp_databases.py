"""SELECT: keys go in with a prefix and come out without it."""

import pytest

from noctule.core.keyspace.databases import database_prefix
from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Named, Reply
from noctule.core.keyspace.spec import NO_KEYS, READ, Scope, counted_keys, rows
from noctule.core.placement.slots import key_slot
from noctule.servers.resp_databases import enter, leave_of

from .resp_fakes import World
from .test_resp_transactions import answered

PREFIX = database_prefix(3)


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("line", "entered"),
    [
        (b"GET a", b"GET {db:3}a"),
        (b"get {t}a", b"get {db:3}{t}a"),
        (b"MSET a a b b", b"MSET {db:3}a a {db:3}b b"),
        (b"DEL a b", b"DEL {db:3}a {db:3}b"),
        (b"RENAME a b", b"RENAME {db:3}a {db:3}b"),
        (b"COPY a b", b"COPY {db:3}a {db:3}b"),
        (b"COPY a b DB 0 REPLACE", b"COPY {db:3}a b REPLACE"),
        (b"COPY a DB replace db 5", b"COPY {db:3}a {db:5}DB replace"),
        (b"KEYS a*", b"NOCTULE.READDATABASE {db:3} KEYS a*"),
        (b"flushdb async", b"NOCTULE.WRITEDATABASE {db:3} flushdb async"),
        (b"FLUSHALL", b"FLUSHALL"),
        (b"PING a", b"PING a"),
    ],
)
def test_keys_enter(line: bytes, entered: bytes) -> None:
    assert enter(3, line.split()) == entered.split()


def test_keys_that_move_are_told_from_arguments_that_are_equal() -> None:
    (spec,) = rows(Scope.KEY, ("X", -3, READ, NO_KEYS, None, ""), find_keys=counted_keys(2, also_first=True))
    assert spec.places([b"X", b"2", b"2", b"2", b"a", b"2", b"a"]) == [1, 3, 4]
    assert spec.places([b"X", b"a", b"x"]) == [1]


def test_every_key_of_a_database_has_the_slot_of_the_database() -> None:
    for key in (b"a", b"{t}a", b"}", b""):
        match enter(3, [b"GET", key]):
            case [_, bytes(entered)]:
                assert key_slot(entered) == key_slot(PREFIX)
            case other:
                raise AssertionError(other)


@pytest.mark.parametrize(
    ("name", "reply", "left"),
    [
        (b"BLPOP", [PREFIX + b"a", b"v"], [b"a", b"v"]),
        (b"BLPOP", None, None),
        (b"BZPOPMIN", [PREFIX + b"a", PREFIX + b"m", 1.0], [b"a", PREFIX + b"m", 1.0]),
        (b"XREAD", Named([(PREFIX + b"a", [1])]), Named([(b"a", [1])])),
        (b"XREADGROUP", NULL_ARRAY, NULL_ARRAY),
        (b"GET", PREFIX + b"a", PREFIX + b"a"),
        (b"XACK", Failure(b"NOGROUP No such key '" + PREFIX + b"a'"), Failure(b"NOGROUP No such key 'a'")),
    ],
)
def test_keys_leave(name: bytes, reply: Reply, left: Reply) -> None:
    assert leave_of(name)(PREFIX, reply) == left


def test_databases_do_not_see_each_other(world: World) -> None:
    assert answered(world, b"SET a 0", b"SELECT 3", b"GET a", b"SET a 3", b"SELECT 4", b"GET a").endswith(b"$-1\r\n")
    assert answered(world, b"SELECT 0", b"GET a", b"SELECT 3", b"GET a").endswith(b"$1\r\n0\r\n+OK\r\n$1\r\n3\r\n")
    assert answered(world, b"DBSIZE", b"KEYS *", b"SCAN 0").endswith(b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n")


def test_keys_in_replies_are_those_of_the_client_inside_a_transaction_too(world: World) -> None:
    popped = b"*2\r\n$1\r\nz\r\n*1\r\n*2\r\n$1\r\nm\r\n$1\r\n1\r\n"
    add, pop = b"ZADD z 1 m", b"ZMPOP 2 a z MIN"
    assert answered(world, b"SELECT 3", add, pop).endswith(popped)
    assert answered(world, b"MULTI", add, pop, b"EXEC").endswith(b"*2\r\n:1\r\n" + popped)


def test_what_was_selected_holds_within_one_chunk_and_ends_with_reset(world: World) -> None:
    assert answered(world, b"SELECT 3", b"SET a 1", b"SELECT 0", b"GET a").endswith(b"+OK\r\n$-1\r\n")
    answered(world, b"SELECT 3")
    assert answered(world, b"GET a", b"RESET", b"GET a") == b"$1\r\n1\r\n+RESET\r\n$-1\r\n"


def test_a_wrong_number_changes_nothing(world: World) -> None:
    answered(world, b"SELECT 3")
    for number in (b"16", b"-1", b"x", b"99999999999999999999"):
        assert answered(world, b"SELECT " + number).startswith(b"-ERR ")
    assert world.client.database == 3


def test_what_would_need_two_partitions_is_refused(world: World) -> None:
    assert answered(world, b"MOVE a 0") == b"-ERR source and destination objects are the same\r\n"
    assert answered(world, b"MOVE a 99") == b"-ERR DB index is out of range\r\n"
    assert answered(world, b"MOVE a 1").startswith(b"-ERR MOVE is not supported")
    assert answered(world, b"SWAPDB 1 1") == b"+OK\r\n"
    assert answered(world, b"SWAPDB x 1") == b"-ERR invalid first DB index\r\n"
    assert answered(world, b"SWAPDB 0 1").startswith(b"-ERR SWAPDB is not supported")


def test_info_counts_the_keys_of_each_database(world: World) -> None:
    answered(world, b"SET a 1", b"SELECT 3", b"MSET a 1 b 2")
    assert answered(world, b"INFO keyspace").endswith(b"# Keyspace\r\ndb0:keys=1\r\ndb3:keys=2\r\n\r\n")


def test_failures_of_the_table_are_told_in_the_words_of_the_client(world: World) -> None:
    answered(world, b"SELECT 3")
    assert answered(world, b"NOPE a") == b"-ERR unknown command 'NOPE', with args beginning with: 'a' \r\n"
    assert answered(world, b"GET") == b"-ERR wrong number of arguments for 'get' command\r\n"


@pytest.mark.parametrize("protocol", [2, 3])
def test_streams_and_draws_of_a_database_answer_in_its_own_names(world: World, protocol: int) -> None:
    answered(world, b"HELLO %d" % protocol, b"SET other 1", b"SELECT 3", b"XADD s 1-1 f v")
    named = b"%1\r\n$1\r\ns\r\n" if protocol == 3 else b"*1\r\n*2\r\n$1\r\ns\r\n"
    assert answered(world, b"XREAD STREAMS s 0").startswith(named)
    assert answered(world, b"RANDOMKEY", b"OBJECT REFCOUNT s") == b"$1\r\ns\r\n:1\r\n"
    assert answered(world, b"SELECT 0", b"RANDOMKEY") == b"+OK\r\n$5\r\nother\r\n"
    assert b"{db:" not in answered(world, b"SELECT 3", b"XREADGROUP GROUP g c STREAMS s >")
