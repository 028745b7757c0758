"""Buckets, and the commands on values that join, as a replica runs them."""

import msgspec
import pytest

from noctule.base.errors import StorageError
from noctule.core.keyspace.commands import find_command
from noctule.core.keyspace.crdt import CrdtKind, CrdtValue, LwwRegister, encode_crdt
from noctule.core.keyspace.failures import NOT_AN_INTEGER, OVERFLOW, WRONG_TYPE
from noctule.core.keyspace.keyspace import MUST_LOG, Keyspace
from noctule.core.keyspace.merging import BUCKETS_MAX, IN_BUCKET, NO_BUCKET, STATE_BYTES_MAX, TOO_LARGE
from noctule.core.keyspace.reply import OK, Failure, Reply, Status

NOW_MS = 1_700_000_000_000


class Copy:
    """A keyspace at one site, with a bucket of each kind."""

    def __init__(self, site: bytes) -> None:
        self.keyspace = Keyspace()
        for kind in CrdtKind:
            assert self.run(b"BUCKET.CREATE", kind.encode(), kind.encode(), site) == OK

    def run(self, *args: bytes, now_ms: int = NOW_MS) -> Reply:
        spec = find_command(args[0])
        assert spec is not None
        reply = self.keyspace.read(args, now_ms)
        assert (reply is MUST_LOG) == spec.is_write
        reply = self.keyspace.execute(args, now_ms) if reply is MUST_LOG else reply
        self.keyspace.check()
        return reply

    def take(self, key: bytes, other: "Copy") -> Reply:
        state = other.run(b"CRDT.STATE", key)
        assert isinstance(state, bytes)
        return self.run(b"CRDT.MERGE", key, state)


def test_two_sites_agree_once_each_has_the_other_s_state() -> None:
    east, west = Copy(b"east"), Copy(b"west")
    assert east.run(b"COUNTER.ADD", b"counter:hits", b"5") == 5
    assert west.run(b"COUNTER.ADD", b"counter:hits", b"-2") == -2
    assert east.run(b"ORSET.ADD", b"orset:bats", b"noctule", b"serotine", b"noctule") == 2
    assert west.run(b"ORSET.ADD", b"orset:bats", b"noctule") == 1
    assert east.run(b"ORSET.REM", b"orset:bats", b"noctule", b"pipistrelle") == 1
    assert east.run(b"LWW.SET", b"lww:name", b"early") == OK
    assert west.run(b"LWW.SET", b"lww:name", b"late", now_ms=NOW_MS + 1) == OK
    keys = (b"counter:hits", b"orset:bats", b"lww:name")
    for key in keys:
        assert east.take(key, west) == OK
        assert west.take(key, east) == OK
    for copy in (east, west):
        assert copy.run(b"COUNTER.GET", b"counter:hits") == 3
        assert copy.run(b"ORSET.MEMBERS", b"orset:bats") == [b"noctule", b"serotine"]
        assert copy.run(b"ORSET.CONTAINS", b"orset:bats", b"noctule") == 1
        assert copy.run(b"LWW.GET", b"lww:name") == b"late"
    assert [east.run(b"CRDT.STATE", key) for key in keys] == [west.run(b"CRDT.STATE", key) for key in keys]


def test_a_deletion_wins_over_what_was_set_before_wherever_it_was() -> None:
    east, west = Copy(b"east"), Copy(b"west")
    west.run(b"LWW.SET", b"lww:name", b"old")
    east.run(b"LWW.DEL", b"lww:name", now_ms=NOW_MS + 1)
    assert east.take(b"lww:name", west) == OK
    assert east.run(b"LWW.GET", b"lww:name") is None


def test_absent_keys_have_the_empty_value_and_are_not_made_by_reading() -> None:
    copy = Copy(b"east")
    assert copy.run(b"COUNTER.GET", b"counter:x") == 0
    assert copy.run(b"ORSET.MEMBERS", b"orset:x") == []
    assert copy.run(b"ORSET.CONTAINS", b"orset:x", b"m") == 0
    assert copy.run(b"LWW.GET", b"lww:x") is None
    assert copy.run(b"CRDT.STATE", b"lww:x") is None
    assert copy.keyspace.key_count == 0


def test_a_bucket_is_declared_once_and_keeps_its_kind() -> None:
    copy = Keyspace()
    assert copy.execute([b"BUCKET.CREATE", b"likes", b"COUNTER", b"s"], NOW_MS) == OK
    assert copy.execute([b"BUCKET.CREATE", b"likes", b"counter", b"another"], NOW_MS) == OK
    assert copy.buckets[b"likes"].site == b"s"
    changed = copy.execute([b"BUCKET.CREATE", b"likes", b"lww", b"s"], NOW_MS)
    assert changed == Failure(b"ERR the bucket is of kind counter")
    assert copy.read([b"BUCKET.LIST"], NOW_MS) == {b"likes": b"counter"}
    assert copy.execute([b"FLUSHALL"], NOW_MS) == OK
    assert copy.read([b"BUCKET.LIST"], NOW_MS) == {b"likes": b"counter"}


@pytest.mark.parametrize(
    "words", [(b"a:b", b"lww", b"s"), (b"", b"lww", b"s"), (b"a", b"map", b"s"), (b"a", b"lww"), (b"a", b"lww", b"")]
)
def test_a_declaration_that_is_wrong_changes_nothing(words: tuple[bytes, ...]) -> None:
    copy = Keyspace()
    assert isinstance(copy.execute([b"BUCKET.CREATE", *words], NOW_MS), Failure)
    assert copy.buckets == {}


def test_buckets_are_bounded() -> None:
    copy = Keyspace()
    replies = [copy.execute([b"BUCKET.CREATE", b"%d" % n, b"lww", b"s"], NOW_MS) for n in range(BUCKETS_MAX + 1)]
    assert replies.count(OK) == BUCKETS_MAX
    assert replies[-1] != OK


@pytest.mark.parametrize(
    "line", [b"COUNTER.ADD k 1", b"COUNTER.ADD other:k 1", b"COUNTER.ADD lww:k 1", b"LWW.SET counter:k 1"]
)
def test_a_change_needs_a_key_in_a_bucket_of_its_kind(line: bytes) -> None:
    copy = Copy(b"east")
    assert copy.run(*line.split()) == NO_BUCKET
    assert copy.keyspace.key_count == 0


@pytest.mark.parametrize(
    "line",
    [
        b"SET counter:k v",
        b"HSET counter:k f v",
        b"MSET a 1 counter:k 2",
        b"DEL a counter:k",
        b"UNLINK counter:k",
        b"EXPIRE counter:k 10",
        b"GETDEL counter:k",
        b"RENAME counter:k a",
        b"RENAME a counter:new",
        b"RENAMENX a counter:new",
        b"COPY counter:k a",
        b"COPY a counter:new",
        b"SET counter:new v",
        b"INCR counter:new",
    ],
)
def test_nothing_else_changes_a_key_of_a_bucket(line: bytes) -> None:
    copy = Copy(b"east")
    copy.run(b"SET", b"a", b"v")
    copy.run(b"COUNTER.ADD", b"counter:k", b"1")
    before = copy.keyspace.digest()
    assert copy.run(*line.split()) == IN_BUCKET
    assert copy.keyspace.digest() == before


def test_what_was_there_before_the_bucket_may_go_and_is_not_taken_for_a_value_of_its_kind() -> None:
    copy = Keyspace()
    copy.execute([b"SET", b"likes:old", b"v", b"EX", b"10"], NOW_MS)
    copy.execute([b"BUCKET.CREATE", b"likes", b"counter", b"s"], NOW_MS)
    assert copy.execute([b"COUNTER.ADD", b"likes:old", b"1"], NOW_MS) == WRONG_TYPE
    assert copy.execute([b"SET", b"likes:old", b"w"], NOW_MS) == IN_BUCKET
    assert copy.read([b"GET", b"likes:old"], NOW_MS) == b"v"
    assert copy.execute([b"COUNTER.ADD", b"likes:old", b"1"], NOW_MS + 10_001) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"GET counter:k", b"STRLEN counter:k", b"GETRANGE counter:k 0 1", b"HGET counter:k f", b"HGETALL counter:k",
        b"HSCAN counter:k 0", b"LWW.GET counter:k", b"ORSET.MEMBERS counter:k", b"CRDT.STATE text",
    ],
)  # fmt: skip
def test_commands_of_other_types_are_told_so(line: bytes) -> None:
    copy = Copy(b"east")
    copy.run(b"COUNTER.ADD", b"counter:k", b"1")
    copy.run(b"SET", b"text", b"v")
    assert copy.run(*line.split()) == WRONG_TYPE


def test_the_commands_on_keys_of_any_type_know_these() -> None:
    copy = Copy(b"east")
    copy.run(b"COUNTER.ADD", b"counter:k", b"1")
    assert copy.run(b"TYPE", b"counter:k") == Status(b"counter")
    assert copy.run(b"EXISTS", b"counter:k") == 1
    assert copy.run(b"TTL", b"counter:k") == -1
    assert copy.run(b"SCAN", b"0", b"TYPE", b"counter") == [b"0", [b"counter:k"]]
    assert copy.run(b"MGET", b"counter:k") == [None]


def test_amounts_and_sums_stay_within_64_bits() -> None:
    copy = Copy(b"east")
    for text in (b"1.5", b"", b"-9223372036854775808"):
        assert copy.run(b"COUNTER.ADD", b"counter:k", text) == NOT_AN_INTEGER
    copy.run(b"COUNTER.ADD", b"counter:k", b"9223372036854775807")
    assert copy.run(b"COUNTER.ADD", b"counter:k", b"1") == OVERFLOW
    other = Copy(b"west")
    other.run(b"COUNTER.ADD", b"counter:k", b"9223372036854775807")
    assert copy.take(b"counter:k", other) == OK
    assert copy.run(b"COUNTER.GET", b"counter:k") == OVERFLOW


def test_a_set_that_grows_too_large_is_refused_and_keeps_what_it_had() -> None:
    copy = Copy(b"east")
    copy.run(b"ORSET.ADD", b"orset:k", b"m")
    assert copy.run(b"ORSET.ADD", b"orset:k", b"x" * STATE_BYTES_MAX) == TOO_LARGE
    assert copy.run(b"ORSET.MEMBERS", b"orset:k") == [b"m"]


@pytest.mark.parametrize("state", [b"", b"nonsense", msgspec.msgpack.encode(["counter", {b"a": -1}, {}])])
def test_what_is_no_state_is_not_merged(state: bytes) -> None:
    copy = Copy(b"east")
    reply = copy.run(b"CRDT.MERGE", b"counter:k", state)
    assert isinstance(reply, Failure)
    assert reply.text.startswith(b"ERR not the state of a value that can be joined: ")
    assert copy.keyspace.key_count == 0


def test_a_state_of_another_kind_is_not_merged() -> None:
    copy = Copy(b"east")
    assert copy.run(b"CRDT.MERGE", b"counter:k", encode_crdt(LwwRegister(1, b"a", b"x")).data) == NO_BUCKET


def test_values_and_buckets_come_back_from_a_snapshot() -> None:
    copy = Copy(b"east")
    copy.run(b"SET", b"text", b"v")
    copy.run(b"HSET", b"hash", b"f", b"v")
    for number in range(50):
        copy.run(b"COUNTER.ADD", b"counter:%d" % number, b"1")
        copy.run(b"ORSET.ADD", b"orset:%d" % number, b"m" * number)
    chunks = list(copy.keyspace.picture().chunks(bytes_target=200))
    assert len(chunks) > 10
    loaded = Keyspace.load(chunks)
    loaded.check()
    assert (loaded.buckets, loaded.bytes_used, loaded.digest()) == (
        copy.keyspace.buckets,
        copy.keyspace.bytes_used,
        copy.keyspace.digest(),
    )
    assert isinstance(loaded.get(b"counter:1"), CrdtValue)
    assert (
        Keyspace.load(Keyspace().picture().chunks()).digest()
        != Keyspace.load(Copy(b"a").keyspace.picture().chunks()).digest()
    )


def test_a_picture_keeps_the_buckets_it_was_taken_with() -> None:
    copy = Keyspace()
    picture = copy.picture()
    copy.execute([b"BUCKET.CREATE", b"likes", b"counter", b"s"], NOW_MS)
    assert Keyspace.load(picture.chunks()).buckets == {}


def test_a_snapshot_without_buckets_is_as_an_earlier_release_reads_it() -> None:
    plain = Keyspace()
    plain.execute([b"SET", b"a", b"1"], NOW_MS)
    (chunk,) = plain.picture().chunks()
    assert msgspec.msgpack.decode(chunk) == [1, 0, True, [[b"a", b"1", None]]]


def test_a_value_of_a_kind_that_is_not_known_stops_the_loading() -> None:
    chunk = msgspec.msgpack.encode([2, 0, True, [[b"a", ["map", b"x"], None]], {}])
    with pytest.raises(StorageError, match="cannot be read"):
        Keyspace.load([chunk])
