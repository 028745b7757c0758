"""Properties of the whole: snapshots, digests, reads that change nothing, expiry that does not flicker."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.core.keyspace.commands import COMMANDS
from noctule.core.keyspace.keyspace import Keyspace, ReadOutcome
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.snapshot import KeyspacePicture
from noctule.core.keyspace.state import HEAP_SLACK
from noctule.core.placement.slots import key_slot

Step = tuple[list[bytes], int]

NAMES = [
    line.encode().split()
    for line in (
        "SET K V", "SET K V PX N", "SET K V NX", "SET K V KEEPTTL", "GET K", "GETEX K PX N", "GETDEL K", "APPEND K V",
        "SETRANGE K N V", "INCR K", "INCRBYFLOAT K V", "MGET K K", "MSET K V K V", "MSETNX K V K V", "DEL K K",
        "EXISTS K K", "TYPE K", "PEXPIRE K N", "PEXPIREAT K N", "PEXPIRE K N GT", "PTTL K", "PERSIST K", "RENAME K K",
        "RENAMENX K K", "COPY K K REPLACE", "KEYS *", "SCAN N", "DBSIZE", "HSET K F V F V", "HDEL K F F", "HGETALL K",
        "HKEYS K", "HVALS K", "HINCRBY K F N", "HINCRBYFLOAT K F V", "HSETNX K F V", "HSCAN K N", "HGET K F",
        "SADD K F V", "SREM K F F", "SMOVE K K F", "SPOP K", "SPOP K N", "SRANDMEMBER K N", "SUNIONSTORE K K K",
        "SINTERSTORE K K K", "SDIFF K K", "SMEMBERS K", "SSCAN K N", "ZADD K N F N V", "ZADD K GT CH N F", "ZREM K F F",
        "ZINCRBY K N F", "ZPOPMIN K", "ZPOPMAX K N", "ZRANGE K 0 N WITHSCORES", "ZREMRANGEBYRANK K 0 N",
        "ZREMRANGEBYSCORE K N N", "ZRANGESTORE K K 0 N", "ZUNIONSTORE K 2 K K", "ZRANK K F", "ZRANDMEMBER K N",
        "ZREMRANGEBYLEX K - (x", "ZSCAN K N", "NOCTULE.PURGE K K", "FLUSHALL",
    )
]  # fmt: skip

WORDS = {
    b"K": st.sampled_from([b"a", b"b", b"c", b"{a}d", b""]),
    b"F": st.sampled_from([b"f", b"g", b""]),
    b"V": st.sampled_from([b"1", b"2.5", b"text", b""]),
    b"N": st.integers(0, 40).map(lambda number: b"%d" % number),
}


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    """Commands with times that mostly rise, as leaders stamp them, and sometimes fall, as clocks of new leaders do."""
    now = 10
    drawn = []
    for shape in draw(st.lists(st.sampled_from(NAMES), max_size=40)):
        now = max(1, now + draw(st.integers(-3, 8)))
        drawn.append(([draw(WORDS[word]) if word in WORDS else word for word in shape], now))
    return drawn


def replay(history: list[Step]) -> Keyspace:
    keyspace = Keyspace()
    for args, now_ms in history:
        keyspace.execute(args, now_ms)
    return keyspace


@settings(max_examples=150, deadline=None)
@given(steps(), steps(), st.integers(1, 60))
def test_a_loaded_replica_goes_on_as_the_other(before: list[Step], after: list[Step], bytes_target: int) -> None:
    """Same state, same bytes, and from there the same replies and the same state."""
    keyspace = replay(before)
    chunks = list(keyspace.picture().chunks(bytes_target))
    loaded = Keyspace.load(chunks)
    loaded.check()
    assert list(loaded.picture().chunks(bytes_target)) == chunks
    assert (loaded.bytes_used, loaded.key_count) == (keyspace.bytes_used, keyspace.key_count)
    for args, now_ms in after:
        assert keyspace.execute(args, now_ms) == loaded.execute(args, now_ms), args
        assert keyspace.expired_keys(now_ms, 100) == loaded.expired_keys(now_ms, 100)
    keyspace.check()
    assert keyspace.digest() == loaded.digest()
    assert keyspace.slots == loaded.slots
    assert keyspace.deadlines == loaded.deadlines


@settings(max_examples=150, deadline=None)
@given(steps(), steps())
def test_a_read_changes_nothing_and_agrees_with_the_log(before: list[Step], reads: list[Step]) -> None:
    keyspace = replay(before)
    for args, now_ms in reads:
        digest = keyspace.digest()
        reply = keyspace.read(args, now_ms)
        assert keyspace.digest() == digest
        if isinstance(reply, ReadOutcome):
            expired = [key for key in COMMANDS[args[0]].keys(args) if keyspace.deadlines.get(key, now_ms + 1) <= now_ms]
            assert expired or COMMANDS[args[0]].is_write
            keyspace.execute(args, now_ms)
            assert not any(key in keyspace.deadlines for key in expired) or COMMANDS[args[0]].is_write
        else:
            assert keyspace.execute(args, now_ms) == reply
            assert keyspace.digest() == digest
    keyspace.check()


@settings(max_examples=100, deadline=None)
@given(st.permutations([(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"{a}x", b"4"), (b"{a}y", b"5")]), steps())
def test_the_digest_tells_the_state_and_not_how_it_came_about(
    pairs: list[tuple[bytes, bytes]], history: list[Step]
) -> None:
    keyspace = replay(history)
    keyspace.execute([b"FLUSHALL"], 1)
    for key, value in pairs:
        keyspace.execute([b"SET", key, value], 1)
        keyspace.execute([b"HSET", b"h", key, value], 1)
        keyspace.execute([b"PEXPIREAT", key, b"1000"], 1)
    straight = Keyspace()
    for key, value in sorted(pairs):
        straight.execute([b"SET", key, value, b"PXAT", b"1000"], 1)
        straight.execute([b"HSET", b"h", key, value], 1)
    assert keyspace.digest() == straight.digest()
    assert len(keyspace.digest()) == 16


@pytest.mark.parametrize(
    "line",
    ["SET k w", "SET k v PXAT 1001", "PERSIST k", "DEL k", "HSET h f w", "HSET h g v", "SET new v", "APPEND k x"],
)
def test_the_digest_sees_every_difference(line: str) -> None:
    keyspace = Keyspace()
    keyspace.execute([b"SET", b"k", b"v", b"PXAT", b"1000"], 1)
    keyspace.execute([b"HSET", b"h", b"f", b"v"], 1)
    before = keyspace.digest()
    keyspace.execute(line.encode().split(), 1)
    assert keyspace.digest() != before


def test_an_expired_key_never_flickers_back() -> None:
    """A reader saw it gone by a fast leader's clock; the next leader's clock is behind, and it stays gone."""
    keyspace = Keyspace()
    keyspace.execute([b"SET", b"k", b"v", b"PX", b"10"], 100)
    assert keyspace.read([b"GET", b"k"], 109) == b"v"
    assert keyspace.read([b"GET", b"k"], 110) is ReadOutcome.MUST_LOG
    assert keyspace.read([b"MGET", b"other", b"k"], 110) is ReadOutcome.MUST_LOG
    assert keyspace.execute([b"GET", b"k"], 110) is None
    assert keyspace.read([b"GET", b"k"], 50) is None


def test_a_write_is_not_run_by_read() -> None:
    keyspace = Keyspace()
    assert keyspace.read([b"SET", b"k", b"v"], 1) is ReadOutcome.MUST_LOG
    assert keyspace.key_count == 0


def test_what_cannot_be_run_is_a_failure() -> None:
    keyspace = Keyspace()
    for run in (keyspace.execute, keyspace.read):
        replies: list[Reply | ReadOutcome] = [run([b"GET"], 1), run([b"nonsense", b"x"], 1), run([b"PING"], 1)]
        assert all(isinstance(reply, Failure) for reply in replies)


def test_a_picture_is_untouched_by_later_writes() -> None:
    keyspace = Keyspace()
    keyspace.execute([b"SET", b"k", b"v", b"PXAT", b"1000"], 1)
    keyspace.execute([b"HSET", b"h", b"f", b"v"], 1)
    before = list(keyspace.picture().chunks())
    picture = keyspace.picture()
    for line in ("HSET h f w g x", "SET k w", "SET new v", "PERSIST k", "DEL h"):
        keyspace.execute(line.encode().split(), 1)
    assert list(picture.chunks()) == before


def test_a_picture_outlives_the_removal_of_everything() -> None:
    """A deadline that is set after FLUSHALL was noted as what the key had before it."""
    keyspace = Keyspace()
    keyspace.execute([b"SET", b"k", b"v", b"PXAT", b"1000"], 1)
    before = list(keyspace.picture().chunks())
    picture = keyspace.picture()
    keyspace.execute([b"FLUSHALL"], 1)
    keyspace.execute([b"SET", b"k", b"v", b"PXAT", b"2000"], 1)
    assert list(picture.chunks()) == before


def test_expired_keys_come_in_order_and_again_until_they_are_purged() -> None:
    keyspace = Keyspace()
    for number in (5, 3, 9, 1):
        keyspace.execute([b"SET", b"k%d" % number, b"", b"PXAT", b"%d" % (100 + number)], 1)
    keyspace.execute([b"PERSIST", b"k1"], 1)
    assert keyspace.expired_keys(102, 10) == []
    assert keyspace.expired_keys(105, 10) == [b"k3", b"k5"]
    assert keyspace.expired_keys(200, 2) == [b"k3", b"k5"]
    keyspace.execute([b"NOCTULE.PURGE", b"k3", b"k5"], 200)
    assert keyspace.expired_keys(200, 2) == [b"k9"]


def test_the_heap_is_bounded_when_deadlines_are_set_again_and_again() -> None:
    """A session that is touched on every request must not leave an entry for each touch."""
    keyspace = Keyspace()
    for number in range(5_000):
        keyspace.execute([b"SET", b"k%d" % (number % 10), b"", b"PXAT", b"%d" % (1_000_000 + number)], 1)
        keyspace.execute([b"PEXPIREAT", b"k0", b"%d" % (1_000_000 + number % 2)], 1)
    assert len(keyspace._heap) <= 2 * 10 + HEAP_SLACK
    keyspace.check()
    assert len(keyspace.expired_keys(9_000_000, 100)) == 10


def test_the_size_follows_the_data_and_returns_to_zero() -> None:
    keyspace = Keyspace()
    keyspace.execute([b"SET", b"k", bytes(10_000)], 1)
    assert 10_000 < keyspace.bytes_used < 11_000
    keyspace.execute([b"EXPIRE", b"k", b"100"], 1)
    keyspace.execute([b"HSET", b"h", b"f", bytes(5_000)], 1)
    keyspace.execute([b"COPY", b"h", b"h2"], 1)
    assert keyspace.bytes_used > 20_000
    keyspace.execute([b"DEL", b"k", b"h", b"h2"], 1)
    assert keyspace.bytes_used == 0


@settings(max_examples=150, deadline=None)
@given(steps(), steps(), steps(), st.integers(1, 60))
def test_pictures_stay_as_they_were_whatever_comes(
    before: list[Step], between: list[Step], after: list[Step], bytes_target: int
) -> None:
    """Two of them at once, one read while commands are applied: what they share with the state is never written."""
    keyspace = replay(before)
    first_digest, first = keyspace.digest(), keyspace.picture()
    for args, now_ms in between:
        keyspace.execute(args, now_ms)
    second_digest, second = keyspace.digest(), keyspace.picture()
    expected = list(KeyspacePicture(keyspace.slots, keyspace.deadlines, keyspace.buckets).chunks(bytes_target))
    chunks = second.chunks(bytes_target)
    read = []
    for args, now_ms in after:
        read += [chunk for chunk in [next(chunks, None)] if chunk is not None]
        keyspace.execute(args, now_ms)
    assert [*read, *chunks] == expected
    keyspace.check()
    assert Keyspace.load(first.chunks()).digest() == first_digest
    assert Keyspace.load(expected).digest() == second_digest


def test_a_picture_costs_slots_and_a_write_copies_one() -> None:
    keyspace = Keyspace()
    for number in range(20_000):
        keyspace.execute([b"SET", b"k%d" % number, b"v", b"PXAT", b"1000000"], 1)
    picture = keyspace.picture()
    shared = keyspace.slots.copy()
    keyspace.execute([b"SET", b"k7", b"w"], 1)
    changed = [slot for slot, values in keyspace.slots.items() if shared[slot] is not values]
    assert changed == [key_slot(b"k7")]
    del picture
    keyspace.execute([b"PERSIST", b"k8"], 1)
    keyspace.picture()
    assert [looker() for looker in keyspace._lookers] == [None], "one that nobody looks at any more is let go"


def test_keys_of_one_crowded_slot_are_in_order() -> None:
    keyspace = Keyspace()
    for number in range(20_000):
        keyspace.put(b"{t}%d" % number, b"")
    loaded = Keyspace.load(keyspace.picture().chunks())
    keys = [key for values in loaded.slots.values() for key in values]
    assert keys == sorted(keys)
    assert len(keys) == 20_000
