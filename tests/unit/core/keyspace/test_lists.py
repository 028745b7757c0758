"""Lists against a plain list of bytes, and what the commands answer to bad arguments, as Redis 7.0.15 does."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.list_value import ListValue
from noctule.core.keyspace.reply import NULL_ARRAY, OK, Failure, Reply, Status

NOW_MS = 1_000
ITEMS = st.sampled_from([b"a", b"b", b"c", b""])
INDICES = st.integers(-8, 8)
LISTS = st.lists(ITEMS, max_size=8)


def run(keyspace: Keyspace, line: bytes) -> Reply:
    return keyspace.execute(line.split(), NOW_MS)


def holding(items: list[bytes], key: bytes = b"l") -> Keyspace:
    keyspace = Keyspace()
    if items:
        keyspace.execute([b"RPUSH", key, *items], NOW_MS)
    return keyspace


def items_of(keyspace: Keyspace, key: bytes = b"l") -> list[bytes]:
    found = keyspace.execute([b"LRANGE", key, b"0", b"-1"], NOW_MS)
    assert isinstance(found, list)
    return [item for item in found if isinstance(item, bytes)]


def checked(keyspace: Keyspace, expected: list[bytes], key: bytes = b"l") -> None:
    keyspace.check()
    assert items_of(keyspace, key) == expected
    assert keyspace.execute([b"LLEN", key], NOW_MS) == len(expected)
    assert keyspace.execute([b"EXISTS", key], NOW_MS) == bool(expected)


# Each command against the model ---------------------------------------------------------------------------------------


@given(LISTS, st.lists(ITEMS, min_size=1, max_size=4), st.sampled_from([b"LPUSH", b"RPUSH", b"LPUSHX", b"RPUSHX"]))
def test_push(before: list[bytes], pushed: list[bytes], name: bytes) -> None:
    keyspace = holding(before)
    after = pushed[::-1] + before if name.startswith(b"L") else before + pushed
    if name.endswith(b"X") and not before:
        after = []
    assert keyspace.execute([name, b"l", *pushed], NOW_MS) == len(after)
    checked(keyspace, after)


@given(LISTS, st.none() | st.integers(0, 9), st.booleans())
def test_pop(before: list[bytes], count: int | None, is_left: bool) -> None:
    keyspace = holding(before)
    command = [b"LPOP" if is_left else b"RPOP", b"l", *([] if count is None else [b"%d" % count])]
    reply = keyspace.execute(command, NOW_MS)
    ordered = before if is_left else before[::-1]
    taken = ordered[: 1 if count is None else count]
    if count is None:
        assert reply == (taken[0] if taken else None)
    else:
        assert reply == (taken if before else NULL_ARRAY)
    rest = ordered[len(taken) :]
    checked(keyspace, rest if is_left else rest[::-1])


@given(LISTS, INDICES, INDICES)
def test_range_and_trim(before: list[bytes], first: int, last: int) -> None:
    keyspace = holding(before)
    size = len(before)
    start, end = max(first if first >= 0 else first + size, 0), last if last >= 0 else last + size
    expected = before[start : end + 1] if end >= 0 else []
    assert keyspace.execute([b"LRANGE", b"l", b"%d" % first, b"%d" % last], NOW_MS) == expected
    assert keyspace.execute([b"LTRIM", b"l", b"%d" % first, b"%d" % last], NOW_MS) == OK
    checked(keyspace, expected)


@given(LISTS, INDICES, ITEMS)
def test_index_and_set(before: list[bytes], index: int, item: bytes) -> None:
    keyspace = holding(before)
    is_there = -len(before) <= index < len(before)
    assert keyspace.execute([b"LINDEX", b"l", b"%d" % index], NOW_MS) == (before[index] if is_there else None)
    reply = keyspace.execute([b"LSET", b"l", b"%d" % index, item], NOW_MS)
    if is_there:
        before[index] = item
    assert (reply == OK) == is_there
    checked(keyspace, before)


@given(LISTS, st.integers(-4, 4), ITEMS)
def test_remove(before: list[bytes], count: int, item: bytes) -> None:
    keyspace = holding(before)
    expected = before[::-1] if count < 0 else before[:]
    removed = 0
    while item in expected and (not count or removed < abs(count)):
        expected.remove(item)
        removed += 1
    assert keyspace.execute([b"LREM", b"l", b"%d" % count, item], NOW_MS) == removed
    checked(keyspace, expected[::-1] if count < 0 else expected)


@given(LISTS, st.sampled_from([b"before", b"AFTER"]), ITEMS)
def test_insert(before: list[bytes], where: bytes, pivot: bytes) -> None:
    keyspace = holding(before)
    reply = keyspace.execute([b"LINSERT", b"l", where, pivot, b"new"], NOW_MS)
    if pivot not in before:
        assert reply == (-1 if before else 0)
    else:
        before.insert(before.index(pivot) + (where == b"AFTER"), b"new")
        assert reply == len(before)
    checked(keyspace, before)


@given(LISTS, ITEMS, st.integers(-4, 4).filter(bool), st.none() | st.integers(0, 4), st.integers(0, 9))
def test_positions(before: list[bytes], item: bytes, rank: int, count: int | None, length: int) -> None:
    keyspace = holding(before)
    options = [b"RANK", b"%d" % rank, b"MAXLEN", b"%d" % length]
    if count is not None:
        options += [b"COUNT", b"%d" % count]
    order = list(enumerate(before))
    looked_at = (order if rank > 0 else order[::-1])[: length or None]
    found = [index for index, each in looked_at if each == item][abs(rank) - 1 :]
    reply = keyspace.execute([b"LPOS", b"l", item, *options], NOW_MS)
    if count is None:
        assert reply == (found[0] if found else None)
    else:
        assert reply == found[: count or None]


@given(LISTS, LISTS, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([b"LMOVE", b"BLMOVE"]))
def test_move(one: list[bytes], other: list[bytes], from_left: bool, to_left: bool, is_same: bool, name: bytes) -> None:
    keyspace = holding(one)
    if other:
        keyspace.execute([b"RPUSH", b"{l}m", *other], NOW_MS)
    goal, target = (one, b"l") if is_same else (other, b"{l}m")
    sides = [b"LEFT" if from_left else b"right", b"LEFT" if to_left else b"RIGHT"]
    moved = one.pop(0 if from_left else -1) if one else None
    if moved is not None:
        goal.insert(0 if to_left else len(goal), moved)
    command = [name, b"l", target, *sides, *([b"0"] if name == b"BLMOVE" else [])]
    assert keyspace.execute(command, NOW_MS) == moved
    checked(keyspace, one)
    checked(keyspace, other, b"{l}m")


@given(LISTS, LISTS, st.integers(1, 5), st.booleans())
def test_pop_from_the_first_that_is_there(one: list[bytes], other: list[bytes], count: int, is_left: bool) -> None:
    keyspace = holding(one)
    if other:
        keyspace.execute([b"RPUSH", b"{l}m", *other], NOW_MS)
    chosen, key = (one, b"l") if one else (other, b"{l}m")
    ordered = chosen if is_left else chosen[::-1]
    side = b"left" if is_left else b"RIGHT"
    reply = keyspace.execute([b"LMPOP", b"2", b"l", b"{l}m", side, b"COUNT", b"%d" % count], NOW_MS)
    assert reply == ([key, ordered[:count]] if chosen else NULL_ARRAY)
    rest = ordered[count:]
    checked(keyspace, rest if is_left else rest[::-1], key)


def test_moving_within_a_list_of_one_keeps_its_deadline() -> None:
    keyspace = holding([b"a"])
    run(keyspace, b"PEXPIRE l 5000")
    assert run(keyspace, b"RPOPLPUSH l l") == b"a"
    assert run(keyspace, b"PTTL l") == 5_000


def test_the_last_pop_takes_the_deadline_along() -> None:
    keyspace = holding([b"a"])
    run(keyspace, b"PEXPIRE l 5000")
    run(keyspace, b"LPOP l")
    run(keyspace, b"RPUSH l b")
    assert run(keyspace, b"PTTL l") == -1


def test_a_key_that_has_expired_holds_nothing() -> None:
    keyspace = holding([b"a"])
    run(keyspace, b"PEXPIRE l 5")
    assert keyspace.execute([b"RPUSH", b"l", b"b"], NOW_MS + 5) == 1


def test_type_copy_and_rename() -> None:
    keyspace = holding([b"a", b"b"])
    assert run(keyspace, b"TYPE l") == Status(b"list")
    assert run(keyspace, b"COPY l {l}m") == 1
    run(keyspace, b"RPUSH {l}m c")
    assert items_of(keyspace) == [b"a", b"b"]
    run(keyspace, b"RENAME {l}m l")
    checked(keyspace, [b"a", b"b", b"c"])


# Bad arguments --------------------------------------------------------------------------------------------------------

POSITIVE = b"ERR value is out of range, must be positive"
INTEGER = b"ERR value is not an integer or out of range"
SYNTAX = b"ERR syntax error"
WRONG = b"WRONGTYPE Operation against a key holding the wrong kind of value"
KEYS = b"ERR numkeys should be greater than 0"
NOT_A_FLOAT = b"ERR timeout is not a float or out of range"
NEGATIVE = b"ERR timeout is negative"
REFUSED = [
    (b"LPOP l x", POSITIVE),
    (b"LPOP l -1", POSITIVE),
    (b"LPOP s x", POSITIVE),
    (b"LPOP l 1 2", b"ERR wrong number of arguments for 'lpop' command"),
    (b"LPOP s", WRONG),
    (b"LPUSH s a", WRONG),
    (b"LPUSHX s a", WRONG),
    (b"LLEN s", WRONG),
    (b"LINDEX l x", INTEGER),
    (b"LINDEX s x", WRONG),
    (b"LSET no x x", b"ERR no such key"),
    (b"LSET l x x", INTEGER),
    (b"LSET l 9 x", b"ERR index out of range"),
    (b"LRANGE s x 1", INTEGER),
    (b"LTRIM no 1 x", INTEGER),
    (b"LREM s x a", INTEGER),
    (b"LINSERT s foo a b", SYNTAX),
    (b"LINSERT s before a b", WRONG),
    (b"LPOS l a RANK", SYNTAX),
    (b"LPOS l a FOO 1", SYNTAX),
    (b"LPOS s a RANK x", INTEGER),
    (b"LPOS l a COUNT x", b"ERR COUNT can't be negative"),
    (b"LPOS l a MAXLEN -1", b"ERR MAXLEN can't be negative"),
    (b"LMOVE l {l}m up LEFT", SYNTAX),
    (b"LMOVE s {s}m LEFT LEFT", WRONG),
    (b"RPOPLPUSH {s}l s", WRONG),
    (b"LMPOP 0 l LEFT", KEYS),
    (b"LMPOP x l LEFT", KEYS),
    (b"LMPOP 2 l LEFT", SYNTAX),
    (b"LMPOP 1 l LEFT COUNT", SYNTAX),
    (b"LMPOP 1 l LEFT COUNT 0", b"ERR count should be greater than 0"),
    (b"LMPOP 1 l LEFT COUNT 1 COUNT 1", SYNTAX),
    (b"LMPOP 1 s LEFT", WRONG),
    (b"BLPOP s x", NOT_A_FLOAT),
    (b"BLPOP s 1", WRONG),
    (b"BRPOP l -1", NEGATIVE),
    (b"BRPOP l inf", NEGATIVE),
    (b"BRPOP l 1e17", NEGATIVE),
    (b"BRPOP l nan", NOT_A_FLOAT),
    (b"BLMOVE l l up LEFT x", SYNTAX),
    (b"BLMOVE l l LEFT LEFT x", NOT_A_FLOAT),
    (b"BRPOPLPUSH l l x", NOT_A_FLOAT),
    (b"BLMPOP x 0 l LEFT", KEYS),
    (b"BLMPOP x 1 l LEFT", NOT_A_FLOAT),
]


@pytest.mark.parametrize(("line", "text"), REFUSED)
def test_what_is_refused_changes_nothing(line: bytes, text: bytes) -> None:
    keyspace = holding([b"a", b"b"])
    keyspace.execute([b"RPUSH", b"{s}l", b"a"], NOW_MS)
    run(keyspace, b"SET s x")
    before = keyspace.digest()
    assert run(keyspace, line) == Failure(text)
    assert keyspace.digest() == before


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"LINDEX no x", None),
        (b"LPOP no", None),
        (b"LPOP no 0", NULL_ARRAY),
        (b"LPOS no a", None),
        (b"LPOS no a COUNT 1", []),
        (b"LMOVE no s LEFT LEFT", None),
        (b"LMPOP 2 no l LEFT", [b"l", [b"a"]]),
        (b"BLPOP no l 0.5", [b"l", b"a"]),
        (b"BLPOP no 0", NULL_ARRAY),
        (b"BRPOP l no 0", [b"l", b"b"]),
        (b"BRPOPLPUSH no l 0", None),
        (b"BLMOVE no l LEFT LEFT 0", None),
        (b"BLMPOP 0 2 no l RIGHT COUNT 5", [b"l", [b"b", b"a"]]),
        (b"BLMPOP 0 1 no RIGHT", NULL_ARRAY),
    ],
)
def test_what_is_not_there_is_null_of_the_right_kind(line: bytes, reply: Reply) -> None:
    keyspace = holding([b"a", b"b"])
    run(keyspace, b"SET s x")
    assert run(keyspace, line) == reply


# Snapshots and sharing ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=9), min_size=1, max_size=60), st.integers(1, 200))
def test_a_list_goes_over_as_many_chunks_as_it_takes(items: list[bytes], bytes_target: int) -> None:
    keyspace = holding(items)
    run(keyspace, b"SET a before")
    run(keyspace, b"RPUSH z behind")
    run(keyspace, b"PEXPIRE l 5000")
    loaded = Keyspace.load(keyspace.picture().chunks(bytes_target))
    loaded.check()
    assert loaded.digest() == keyspace.digest()
    assert loaded.bytes_used == keyspace.bytes_used
    assert items_of(loaded) == items


def test_a_list_larger_than_a_chunk_is_cut() -> None:
    keyspace = holding([b"%d" % number for number in range(1_000)])
    assert len(list(keyspace.picture().chunks(1_000))) > 2


@given(
    LISTS.filter(bool), st.lists(st.sampled_from([b"RPUSH l x", b"LPOP l", b"LSET l 0 y", b"LREM l 0 a"]), max_size=5)
)
def test_a_picture_does_not_see_what_comes_after_it(before: list[bytes], lines: list[bytes]) -> None:
    keyspace = holding(before)
    digest, picture = keyspace.digest(), keyspace.picture()
    for line in lines:
        run(keyspace, line)
    keyspace.check()
    assert Keyspace.load(picture.chunks()).digest() == digest


def test_the_size_is_about_what_python_takes() -> None:
    keyspace = Keyspace()
    count = 20_000
    tracemalloc.start()
    for number in range(count):
        keyspace.execute([b"RPUSH", b"l", b"item %d" % number], NOW_MS)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken * 0.75 < keyspace.bytes_used < taken * 1.25


def test_what_is_not_there_is_left_out_of_a_range() -> None:
    held = ListValue(b"%d" % number for number in range(200_000))
    assert held.between(-1, 0) == [b"0"]
    assert held.between(200_000, 200_001) == held.between(5, 4) == []
    assert held.between(199_998, 500_000) == [b"199998", b"199999"]
