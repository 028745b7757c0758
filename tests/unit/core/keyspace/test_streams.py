"""Streams against plain models, and the rules that no comparison with Redis at one moment can show."""

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from noctule.core.keyspace.commands import COMMANDS
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Named, Reply
from noctule.core.keyspace.spec import CommandSpec
from noctule.core.keyspace.stream_ids import LARGEST_ID, format_id, next_id, parse_end, parse_id, parse_start
from noctule.core.keyspace.stream_reads import find_stream_keys

IDS = st.integers(0, 2**128 - 1)


@given(IDS)
def test_an_id_is_read_as_it_was_written(id_: int) -> None:
    assert parse_id(format_id(id_)) == parse_start(format_id(id_)) == parse_end(format_id(id_)) == id_


@given(st.integers(0, LARGEST_ID - 1), st.integers(0, 2**50))
def test_the_next_id_never_goes_back(last_id: int, now_ms: int) -> None:
    """Not even when the new leader's clock does."""
    id_ = next_id(last_id, now_ms)
    assert id_ > last_id
    assert id_ >> 64 >= now_ms


@given(st.binary(max_size=20))
def test_what_is_no_id_is_refused(text: bytes) -> None:
    for parsed in (parse_id(text), parse_start(text), parse_end(text)):
        assert parsed is None or isinstance(parsed, Failure) or 0 <= parsed <= LARGEST_ID


class SharingMachine(RuleBasedStateMachine):
    """Entries given out to a group: each to one consumer, until it is acknowledged or claimed."""

    def __init__(self) -> None:
        super().__init__()
        self.keyspace = Keyspace()
        self.now_ms = 1_000
        self.run(b"XGROUP", b"CREATE", b"s", b"g", b"0", b"MKSTREAM")
        self.waiting: list[bytes] = []
        self.owner: dict[bytes, bytes] = {}
        self.times: dict[bytes, int] = {}
        self.given_ms: dict[bytes, int] = {}

    def run(self, *args: bytes) -> Reply:
        return self.keyspace.execute(args, self.now_ms)

    @rule(count=st.integers(1, 5))
    def add(self, count: int) -> None:
        for number in range(count):
            self.waiting.append(cast("bytes", self.run(b"XADD", b"s", b"*", b"n", b"%d" % number)))

    @rule(ms=st.integers(-500, 2_000))
    def wait(self, ms: int) -> None:
        """Below zero: another leader, whose clock is behind."""
        self.now_ms += ms

    @rule(consumer=st.sampled_from([b"alice", b"bob"]), count=st.integers(1, 4))
    def read(self, consumer: bytes, count: int) -> None:
        reply = self.run(b"XREADGROUP", b"GROUP", b"g", consumer, b"COUNT", b"%d" % count, b"STREAMS", b"s", b">")
        expected, self.waiting = self.waiting[:count], self.waiting[count:]
        if not expected:
            assert reply is NULL_ARRAY
            return
        assert isinstance(reply, Named)
        assert [entry[0] for entry in cast("list[list[bytes]]", reply.items[0][1])] == expected
        for id_ in expected:
            self.owner[id_], self.times[id_], self.given_ms[id_] = consumer, 1, self.now_ms

    @rule(consumer=st.sampled_from([b"alice", b"bob"]))
    def read_again(self, consumer: bytes) -> None:
        reply = self.run(b"XREADGROUP", b"GROUP", b"g", consumer, b"STREAMS", b"s", b"0")
        assert isinstance(reply, Named)
        own = [
            id_
            for id_, owner in sorted(self.owner.items(), key=lambda item: parse_id(item[0]) or 0)
            if owner == consumer
        ]
        assert [entry[0] for entry in cast("list[list[bytes]]", reply.items[0][1])] == own
        for id_ in own:
            self.times[id_] += 1
            self.given_ms[id_] = self.now_ms

    @rule(consumer=st.sampled_from([b"alice", b"bob"]), idle_ms=st.integers(1, 3_000))
    def claim(self, consumer: bytes, idle_ms: int) -> None:
        reply = self.run(b"XAUTOCLAIM", b"s", b"g", consumer, b"%d" % idle_ms, b"0", b"COUNT", b"1000")
        assert isinstance(reply, list)
        old = {id_ for id_ in self.owner if self.now_ms - self.given_ms[id_] >= idle_ms}
        assert {entry[0] for entry in cast("list[list[bytes]]", reply[1])} == old
        for id_ in old:
            self.owner[id_], self.given_ms[id_] = consumer, self.now_ms
            self.times[id_] += 1

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        if self.owner:
            id_ = data.draw(st.sampled_from(sorted(self.owner)))
            assert self.run(b"XACK", b"s", b"g", id_, id_) == 1
            del self.owner[id_]

    @rule()
    def compare(self) -> None:
        reply = self.run(b"XPENDING", b"s", b"g", b"-", b"+", b"1000")
        expected = [
            [id_, owner, max(self.now_ms - self.given_ms[id_], 0), self.times[id_]]
            for id_, owner in sorted(self.owner.items(), key=lambda item: parse_id(item[0]) or 0)
        ]
        assert reply == expected
        self.keyspace.check()


TestSharing = SharingMachine.TestCase
TestSharing.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_ids_come_from_the_stamp() -> None:
    keyspace = Keyspace()
    add = [b"XADD", b"s", b"*", b"f", b"v"]
    assert [keyspace.execute(add, now_ms) for now_ms in (5, 5, 7, 3)] == [b"5-0", b"5-1", b"7-0", b"7-1"]


def test_an_entry_is_claimed_once_it_was_idle_for_as_long_as_asked() -> None:
    keyspace = Keyspace()
    for line in (b"XGROUP CREATE s g 0 MKSTREAM", b"XADD s 1-1 f v", b"XREADGROUP GROUP g a STREAMS s >"):
        keyspace.execute(line.split(), 100)
    claim = b"XAUTOCLAIM s g b 10 0 JUSTID".split()
    assert keyspace.execute(claim, 109) == [b"0-0", [], []]
    assert keyspace.execute(claim, 110) == [b"0-0", [b"1-1"], []]


def test_an_approximate_trim_keeps_no_fewer_and_removes_no_more_than_its_limit() -> None:
    keyspace = Keyspace()
    for number in range(50):
        keyspace.execute([b"XADD", b"s", b"1-%d" % (number + 1), b"f", b"v"], 0)
    assert keyspace.execute([b"XTRIM", b"s", b"MAXLEN", b"~", b"10", b"LIMIT", b"15"], 0) == 15
    assert keyspace.execute([b"XTRIM", b"s", b"MAXLEN", b"~", b"10"], 0) == 25
    assert keyspace.execute([b"XTRIM", b"s", b"MINID", b"~", b"1-45", b"LIMIT", b"0"], 0) == 4
    assert keyspace.execute([b"XLEN", b"s"], 0) == 6


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("XREAD STREAMS a b 0 0", ["a", "b"]),
        ("XREAD COUNT 2 BLOCK 0 STREAMS a 0", ["a"]),
        ("XREAD COUNT STREAMS STREAMS a 0", ["a"]),
        ("XREAD STREAMS a b 0", []),
        ("XREAD bogus STREAMS a 0", []),
        ("XREAD COUNT 2 a 0", []),
        ("XREADGROUP GROUP STREAMS me NOACK streams a b > >", ["a", "b"]),
    ],
)
def test_keys_stand_behind_the_word_streams(line: str, keys: list[str]) -> None:
    assert [key.decode() for key in find_stream_keys(line.encode().split())] == keys


@pytest.mark.parametrize("name", [b"XGROUP", b"XINFO", b"OBJECT", b"MEMORY"])
def test_a_subcommand_stands_before_its_key(name: bytes) -> None:
    spec = COMMANDS[name]
    assert isinstance(spec, CommandSpec)
    assert list(spec.keys([name, b"CREATE", b"key", b"more"])) == [b"key"]
    assert list(spec.keys([name, b"HELP"])) == []


def test_an_expired_stream_is_gone_for_commands_with_keys_elsewhere() -> None:
    keyspace = Keyspace()
    keyspace.execute([b"XADD", b"s", b"1-1", b"f", b"v"], 0)
    keyspace.execute([b"PEXPIREAT", b"s", b"10"], 0)
    assert keyspace.execute([b"XREAD", b"STREAMS", b"s", b"0"], 11) is NULL_ARRAY
    assert keyspace.key_count == 0
