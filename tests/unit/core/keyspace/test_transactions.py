"""A transaction is applied as a whole or not at all, and fingerprints tell values apart."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.keyspace import transactions
from noctule.core.keyspace.keyspace import MUST_LOG, Keyspace
from noctule.core.keyspace.reply import MOVED, NULL_ARRAY, OK, Failure, Reply
from noctule.core.keyspace.territory import Territory
from noctule.core.keyspace.transactions import ABSENT, EXEC, EXEC_READ, FINGERPRINT, Watched, transaction
from noctule.core.placement.slots import key_slot

NOW_MS = 1_000
KEYS = [b"a", b"b", b"{a}c"]


def run(keyspace: Keyspace, *lines: bytes, watched: dict[bytes, bytes] | None = None, now_ms: int = NOW_MS) -> Reply:
    commands = [line.split() for line in lines]
    keys = [command[1] for command in commands]
    return carry_out(keyspace, [Watched(*item) for item in (watched or {}).items()], commands, keys, now_ms)


def carry_out(
    keyspace: Keyspace, watched: list[Watched], commands: list[list[bytes]], keys: list[bytes], now_ms: int = NOW_MS
) -> Reply:
    """As it is logged."""
    return keyspace.execute([EXEC, *transaction(watched, commands, keys, is_write=True)[1:]], now_ms)


def seen(keyspace: Keyspace, key: bytes, now_ms: int = NOW_MS) -> bytes:
    reply = keyspace.execute([FINGERPRINT, key, b"token"], now_ms)
    assert isinstance(reply, bytes)
    return reply


def test_each_command_has_its_reply_and_a_failure_stops_nothing() -> None:
    keyspace = Keyspace()
    replies = run(keyspace, b"SET a x", b"INCR a", b"HSET a f v", b"APPEND a y")
    assert isinstance(replies, list)
    assert [replies[0], replies[3]] == [OK, 2]
    assert [type(reply) for reply in replies[1:3]] == [Failure, Failure]
    assert keyspace.get(b"a") == b"xy"


def test_a_key_that_has_changed_since_it_was_watched_stops_everything() -> None:
    keyspace = Keyspace()
    watched = {b"w": seen(keyspace, b"w"), b"a": seen(keyspace, b"a")}
    keyspace.execute([b"SET", b"w", b"1"], NOW_MS)
    assert run(keyspace, b"SET a 1", watched=watched) is NULL_ARRAY
    assert keyspace.get(b"a") is None
    assert run(keyspace, b"SET a 1", watched={b"w": seen(keyspace, b"w")}) == [OK]


def test_a_watched_key_that_has_expired_meanwhile_is_another_one() -> None:
    keyspace = Keyspace()
    keyspace.execute([b"SET", b"w", b"1", b"PX", b"100"], NOW_MS)
    watched = {b"w": seen(keyspace, b"w")}
    assert run(keyspace, b"SET a 1", watched=watched, now_ms=NOW_MS + 99) == [OK]
    assert run(keyspace, b"SET a 1", watched=watched, now_ms=NOW_MS + 100) is NULL_ARRAY


def test_a_key_that_was_watched_when_it_had_expired_and_was_not_purged_counts_as_absent() -> None:
    keyspace = Keyspace()
    keyspace.execute([b"SET", b"w", b"1", b"PX", b"100"], NOW_MS)
    assert keyspace.read([FINGERPRINT, b"w", b"token"], NOW_MS + 100) is MUST_LOG
    assert seen(keyspace, b"w", NOW_MS + 100) == ABSENT
    assert run(keyspace, b"SET w 2", watched={b"w": ABSENT}, now_ms=NOW_MS + 100) == [OK]


def test_a_deadline_is_part_of_what_is_watched() -> None:
    keyspace = Keyspace()
    keyspace.execute([b"SET", b"w", b"1"], NOW_MS)
    before = seen(keyspace, b"w")
    keyspace.execute([b"EXPIRE", b"w", b"100"], NOW_MS)
    assert seen(keyspace, b"w") != before


def test_the_order_in_which_fields_came_is_not_watched() -> None:
    """It differs between a replica that applied them and one that was given a snapshot."""
    one, other = Keyspace(), Keyspace()
    one.execute([b"HSET", b"h", b"a", b"1", b"b", b"2"], NOW_MS)
    other.execute([b"HSET", b"h", b"b", b"2", b"a", b"1"], NOW_MS)
    assert seen(one, b"h") == seen(other, b"h")


def test_what_is_too_large_is_not_watched_and_has_changed_when_it_grew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "WATCHED_BYTES_MAX", 1_000)
    keyspace = Keyspace()
    keyspace.execute([b"SET", b"w", b"x"], NOW_MS)
    watched = {b"w": seen(keyspace, b"w")}
    keyspace.execute([b"SET", b"w", b"x" * 1_001], NOW_MS)
    assert keyspace.execute([FINGERPRINT, b"w", b"token"], NOW_MS) is transactions.TOO_LARGE
    assert run(keyspace, b"SET a 1", watched=watched) is NULL_ARRAY
    keyspace.execute([b"HSET", b"h", *(b"%d" % number for number in range(20))], NOW_MS)
    assert keyspace.execute([FINGERPRINT, b"h", b"token"], NOW_MS) is transactions.TOO_LARGE


def test_one_of_reads_only_is_a_read_and_changes_nothing() -> None:
    keyspace = Keyspace()
    keyspace.execute([b"SET", b"a", b"1", b"PX", b"100"], NOW_MS)
    command = transaction([], [[b"GET", b"a"], [b"TTL", b"b"]], [b"a", b"b"], is_write=False)
    assert command[0] == EXEC_READ
    assert keyspace.read(command, NOW_MS) == [b"1", -2]
    assert keyspace.read(command, NOW_MS + 100) is MUST_LOG
    assert keyspace.execute(command, NOW_MS + 100) == [None, -2]


def test_nothing_happens_where_one_of_its_keys_is_not_at_home() -> None:
    keyspace = Keyspace()
    slots = sorted([key_slot(b"a"), key_slot(b"b")])
    keyspace.hold(Territory(0, slots[0]))
    assert run(keyspace, b"SET a 1", b"SET b 1") is MOVED
    assert run(keyspace, b"SET a 1", watched={b"b": ABSENT}) is MOVED
    assert keyspace.key_count == 0
    keyspace.hold(Territory(0, slots[1]))
    assert run(keyspace, b"SET a 1", b"SET b 1") == [OK, OK]


def test_a_bucket_refuses_inside_what_it_refuses_outside() -> None:
    keyspace = Keyspace()
    keyspace.execute([b"BUCKET.CREATE", b"hits", b"counter", b"here"], NOW_MS)
    replies = run(keyspace, b"COUNTER.ADD hits:1 5", b"SET hits:1 x", b"COUNTER.GET hits:1")
    assert isinstance(replies, list)
    assert replies[0] == replies[2] == 5
    assert isinstance(replies[1], Failure)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([[], [[b"SET", 1]]]),
        msgspec.msgpack.encode([[]]),
        msgspec.msgpack.encode(7),
    ],
)
def test_nonsense_is_refused(payload: bytes) -> None:
    keyspace = Keyspace()
    assert isinstance(keyspace.execute([EXEC, payload, b"a"], NOW_MS), Failure)


def test_a_transaction_in_a_transaction_is_refused() -> None:
    """They could be nested as deep as an entry is long."""
    inner = transaction([], [[b"SET", b"a", b"1"]], [b"a"], is_write=True)
    keyspace = Keyspace()
    replies = keyspace.execute(transaction([], [inner, []], [b"a"], is_write=True), NOW_MS)
    assert isinstance(replies, list)
    assert [type(reply) for reply in replies] == [Failure, Failure]
    assert keyspace.key_count == 0


def held(keyspace: Keyspace) -> list[tuple[object, int | None]]:
    """The keys that are watched, for comparison; hashes change in place."""
    values = [(keyspace.get(key), keyspace.deadlines.get(key)) for key in KEYS[:2]]
    return [(dict(value) if isinstance(value, dict) else value, deadline) for value, deadline in values]


WRITES = st.one_of(
    st.builds(lambda key, value: [b"SET", key, value], st.sampled_from(KEYS), st.sampled_from([b"1", b"2"])),
    st.builds(lambda key: [b"INCR", key], st.sampled_from(KEYS)),
    st.builds(lambda key: [b"DEL", key], st.sampled_from(KEYS)),
    st.builds(lambda key, value: [b"HSET", key, value, value], st.sampled_from(KEYS), st.sampled_from([b"1", b"2"])),
    st.builds(lambda key, ms: [b"PEXPIREAT", key, b"%d" % ms], st.sampled_from(KEYS), st.sampled_from([900, 1_500])),
)


@given(
    st.lists(WRITES, max_size=8), st.lists(WRITES, max_size=6), st.lists(WRITES, max_size=8), st.integers(900, 1_600)
)
def test_it_is_its_commands_in_a_row_if_nothing_watched_has_changed_and_else_nothing(
    before: list[list[bytes]], between: list[list[bytes]], inside: list[list[bytes]], later_ms: int
) -> None:
    keyspace = Keyspace()
    for command in before:
        keyspace.execute(command, NOW_MS)
    watched = [Watched(key, seen(keyspace, key)) for key in KEYS[:2]]
    values = held(keyspace)
    for command in between:
        keyspace.execute(command, NOW_MS)
    for key in KEYS:
        keyspace.execute([b"EXISTS", key], later_ms)  # So that the model begins without what has expired.
    model = Keyspace.load(keyspace.picture().chunks())
    is_same = values == held(keyspace)
    reply = carry_out(keyspace, watched, inside, [command[1] for command in inside], later_ms)
    if is_same:
        assert reply == [model.execute(command, later_ms) for command in inside]
    else:
        assert reply is NULL_ARRAY
    keyspace.check()
    assert keyspace.digest() == model.digest()
