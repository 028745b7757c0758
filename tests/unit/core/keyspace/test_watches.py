"""Who watches which keys: the first change of a key breaks its tokens, and how many are known is bounded."""

import pytest

from noctule.core.keyspace import watches
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.transactions import FINGERPRINT
from noctule.core.keyspace.watches import WATCH_COST_BYTES, Watches

NOW_MS = 1_000


def watching(*texts: bytes) -> Keyspace:
    """After these commands, with a watch on the key `k`."""
    keyspace = Keyspace()
    for text in texts:
        keyspace.execute(text.split(), NOW_MS)
    keyspace.execute([FINGERPRINT, b"k", b"one"], NOW_MS)
    return keyspace


def test_a_change_of_the_key_breaks_all_its_tokens_and_no_other() -> None:
    held = Watches()
    for key, token in [(b"a", b"1"), (b"a", b"2"), (b"b", b"1")]:
        assert held.add(key, token)
    assert not held.add(b"a", b"1")
    assert held.break_(b"a") == {b"1", b"2"}
    assert not held.break_(b"a")
    assert [held.is_broken(b"a", b"1"), held.is_broken(b"b", b"1"), held.is_broken(b"c", b"1")] == [True, False, False]
    assert not held.add(b"a", b"1"), "a read that was sent twice must not mend what is broken"
    assert held.is_broken(b"a", b"1")
    held.end(b"b", b"other")
    held.end(b"b", b"1")
    assert not held.unbroken
    assert len(held) == 2
    held.mend(b"a", {b"1", b"gone"})
    assert list(held.unbroken) == [b"a"]
    assert [held.is_broken(b"a", token) for token in (b"1", b"2", b"gone")] == [False, True, False]


@pytest.mark.interpreted
def test_over_the_bound_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "WATCHES_BYTES_MAX", 3 * (WATCH_COST_BYTES + 1))
    held = Watches()
    for key in (b"a", b"b", b"c"):
        held.add(key, b"1")
    assert len(held) == 3
    held.break_(b"b")
    held.add(b"d", b"1")
    assert list(held.unbroken) == [b"c", b"d"]
    assert held.is_broken(b"b", b"1")
    held.add(b"e", b"1")
    assert not held.is_broken(b"b", b"1")
    assert len(held) == 3


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (b"PING", b"SET k x"),
        (b"SET k x", b"SET k x"),
        (b"SET k x", b"DEL k"),
        (b"SET k x", b"APPEND k y"),
        (b"SET k x", b"PEXPIREAT k 5000"),
        (b"SET k x PXAT 5000", b"PEXPIREAT k 5000"),
        (b"SET k x PXAT 5000", b"PERSIST k"),
        (b"SET k x", b"RENAME k other"),
        (b"SET other x", b"RENAME other k"),
        (b"SET k x", b"FLUSHALL"),
        (b"HSET k f v", b"HSET k f v"),
        (b"HSET k f v g w", b"HDEL k f"),
        (b"HSET k f v", b"HDEL k f"),
        (b"RPUSH k a b", b"LPOP k"),
        (b"RPUSH k a", b"LPOP k"),
        (b"SADD k a", b"SADD k b"),
        (b"ZADD k 1 a", b"ZADD k 2 a"),
        (b"XADD k 1-1 f v", b"XADD k 1-2 f v"),
    ],
)
def test_what_touches_a_key_in_redis_breaks_its_token(before: bytes, change: bytes) -> None:
    keyspace = watching(before)
    keyspace.execute(change.split(), NOW_MS)
    assert keyspace.watches.is_broken(b"k", b"one")


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (b"PING", b"FLUSHALL"),
        (b"PING", b"DEL k"),
        (b"SET k x", b"SET other x"),
        (b"SET k x", b"SET k y NX"),
        (b"SET k x", b"PERSIST k"),
        (b"SET k x", b"GET k"),
        (b"HSET k f v", b"HDEL k g"),
        (b"SADD k a", b"SADD k a"),
        (b"SADD k a", b"SREM k b"),
        (b"ZADD k 1 a", b"ZADD k 1 a"),
        (b"ZADD k 1 a", b"ZREM k b"),
        (b"RPUSH k a", b"LREM k 0 b"),
        (b"SET k x", b"LPUSH k a"),
    ],
)
def test_what_changes_nothing_in_redis_breaks_no_token(before: bytes, change: bytes) -> None:
    keyspace = watching(before)
    keyspace.execute(change.split(), NOW_MS)
    assert not keyspace.watches.is_broken(b"k", b"one")


def test_a_key_that_expires_is_changed() -> None:
    keyspace = watching(b"SET k x PX 100")
    keyspace.execute([b"GET", b"k"], NOW_MS + 100)
    assert keyspace.watches.is_broken(b"k", b"one")


def test_what_is_cut_off_knows_of_no_watches() -> None:
    keyspace = watching(b"SET k x")
    assert not keyspace.cut(0).watches.unbroken
