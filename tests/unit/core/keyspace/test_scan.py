"""SCAN, HSCAN, KEYS: what is there all the time is found, in bounded pieces."""

from binascii import crc32
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.base.bounds import SCAN_COUNT_MAX
from noctule.core.keyspace import scan as scan_module
from noctule.core.keyspace.glob import PATTERN_BYTES_MAX
from noctule.core.keyspace.keyspace import Keyspace, ReadOutcome
from noctule.core.keyspace.reply import Failure, Reply

NOW = 1_000_000


def read(keyspace: Keyspace, *args: bytes, now_ms: int = NOW) -> Reply:
    reply = keyspace.read(args, now_ms)
    assert not isinstance(reply, ReadOutcome)
    return reply


def piece(keyspace: Keyspace, *args: bytes) -> tuple[bytes, list[bytes]]:
    reply = read(keyspace, *args)
    assert isinstance(reply, list)
    cursor, found = reply
    assert isinstance(cursor, bytes)
    assert isinstance(found, list)
    return cursor, found  # type: ignore[return-value]


def filled(keys: list[bytes]) -> Keyspace:
    keyspace = Keyspace()
    for key in keys:
        keyspace.execute([b"SET", key, b""], NOW)
    return keyspace


@pytest.mark.parametrize("tag", [b"", b"{tag}"])
def test_every_piece_is_bounded_and_the_cursor_advances(tag: bytes) -> None:
    """With one hash tag all keys stand in one slot; there too no piece is larger than COUNT."""
    keys = [b"%bkey%d" % (tag, number) for number in range(2_000)]
    keyspace = filled(keys)
    found: list[bytes] = []
    cursors = [0]
    while True:
        cursor, names = piece(keyspace, b"SCAN", b"%d" % cursors[-1], b"COUNT", b"50")
        assert len(names) <= 50
        found += names
        if cursor == b"0":
            break
        cursors.append(int(cursor))
    assert sorted(found) == sorted(keys)
    assert all(earlier < later for earlier, later in pairwise(cursors))
    keyspace.check()


def test_keys_that_share_a_position_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the cursor could not tell how far it is, and one of them would be lost."""
    keyspace = filled([b"{tag}%d" % number for number in range(20)])
    order = [(number // 7, b"{tag}%d" % number) for number in range(20)]
    monkeypatch.setattr(scan_module, "scan_order", lambda _values: order)
    cursor, found = piece(keyspace, b"SCAN", b"0", b"COUNT", b"3")
    assert found == [name for _, name in order[:7]]
    cursor, found = piece(keyspace, b"SCAN", cursor, b"COUNT", b"8")
    assert found == [name for _, name in order[7:]]
    assert cursor == b"0"


@settings(max_examples=60, deadline=None)
@given(
    steady=st.sets(st.integers(0, 400), min_size=1),
    changes=st.lists(st.tuples(st.booleans(), st.integers(401, 800)), max_size=300),
    count=st.integers(1, 40),
    is_tagged=st.booleans(),
    reload_after=st.integers(0, 20),
)
def test_what_is_present_during_the_whole_scan_is_found(
    steady: set[int], changes: list[tuple[bool, int]], count: int, is_tagged: bool, reload_after: int
) -> None:
    """Others come and go between the calls, and the scan goes on at another replica that loaded a snapshot."""
    name = b"{t}%d" if is_tagged else b"k%d"
    keyspace = filled([name % number for number in [*steady, *range(801, 801 + 300 * is_tagged)]])
    found: set[bytes] = set()
    cursor = b"0"
    upcoming = iter(changes)
    for call in range(2_000):
        cursor, names = piece(keyspace, b"SCAN", cursor, b"COUNT", b"%d" % count)
        found.update(names)
        if cursor == b"0":
            break
        for is_set, number in [change for change, _ in zip(upcoming, range(9), strict=False)]:
            keyspace.execute([b"SET", name % number, b""] if is_set else [b"DEL", name % number], NOW)
        if call == reload_after:
            keyspace = Keyspace.load(keyspace.picture().chunks())
    assert cursor == b"0"
    assert {name % number for number in steady} <= found
    keyspace.check()


def test_expired_keys_are_skipped_without_being_purged() -> None:
    keyspace = filled([b"a"])
    keyspace.execute([b"SET", b"b", b"", b"PX", b"5"], NOW)
    assert read(keyspace, b"KEYS", b"*", now_ms=NOW + 5) == [b"a"]
    assert read(keyspace, b"SCAN", b"0", now_ms=NOW + 5) == [b"0", [b"a"]]
    assert read(keyspace, b"DBSIZE", now_ms=NOW + 5) == 2


def test_options_of_scan() -> None:
    keyspace = filled([b"a1", b"a2", b"b1"])
    keyspace.execute([b"HSET", b"a3", b"f", b"v"], NOW)
    found = piece(keyspace, b"SCAN", b"0", b"MATCH", b"a*", b"type", b"STRING", b"COUNT", b"100")[1]
    assert sorted(found) == [b"a1", b"a2"]
    assert piece(keyspace, b"SCAN", b"0", b"TYPE", b"list")[1] == []
    assert piece(keyspace, b"SCAN", b"%d" % (2**64 - 1)) == (b"0", [])
    for cursor in (b"x", b"-1", b"%d" % 2**64):
        assert read(keyspace, b"SCAN", cursor) == Failure(b"ERR invalid cursor")


def test_count_is_bounded() -> None:
    keyspace = filled([b"{tag}%d" % number for number in range(SCAN_COUNT_MAX + 10)])
    assert len(piece(keyspace, b"SCAN", b"0", b"COUNT", b"9999999")[1]) == SCAN_COUNT_MAX


def test_a_long_pattern_is_refused() -> None:
    pattern = b"x" * (PATTERN_BYTES_MAX + 1)
    refused = Failure(b"ERR pattern exceeds PATTERN_BYTES_MAX (1024 bytes)")
    assert read(Keyspace(), b"KEYS", pattern) == refused
    assert read(Keyspace(), b"SCAN", b"0", b"MATCH", pattern) == refused


def test_hscan_finds_every_field_in_bounded_pieces() -> None:
    keyspace = Keyspace()
    fields = {b"f%d" % number: b"%d" % number for number in range(300)}
    for field, value in fields.items():
        keyspace.execute([b"HSET", b"h", field, value], NOW)
    cursor, found = piece(keyspace, b"HSCAN", b"h", b"0", b"COUNT", b"7")
    while cursor != b"0":
        cursor, more = piece(keyspace, b"HSCAN", b"h", cursor, b"COUNT", b"7")
        assert len(more) <= 14
        found += more
    assert dict(zip(found[::2], found[1::2], strict=True)) == fields
    assert len(found) == 600


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([b"HSCAN", b"SSCAN", b"ZSCAN"]),
    st.sets(st.integers(0, 400), min_size=1),
    st.lists(st.lists(st.tuples(st.booleans(), st.integers(500, 900)), max_size=120), max_size=6),
    st.integers(1, 40),
)
def test_what_is_in_a_container_during_the_whole_scan_is_found_once(
    name: bytes, kept: set[int], comings: list[list[tuple[bool, int]]], count: int
) -> None:
    """Others come and go between the calls, by which a set gets more or fewer shelves."""
    adding = {b"HSCAN": b"HSET k %d v", b"SSCAN": b"SADD k %d", b"ZSCAN": b"ZADD k 1 %d"}[name]
    removing = {b"HSCAN": b"HDEL k %d", b"SSCAN": b"SREM k %d", b"ZSCAN": b"ZREM k %d"}[name]
    keyspace = Keyspace()
    for number in kept:
        keyspace.execute((adding % number).split(), NOW)
    cursor, found = piece(keyspace, name, b"k", b"0", b"COUNT", b"%d" % count)
    while cursor != b"0":
        for adds, number in comings.pop() if comings else []:
            keyspace.execute(((adding if adds else removing) % number).split(), NOW)
        cursor, more = piece(Keyspace.load(keyspace.picture().chunks()), name, b"k", cursor, b"COUNT", b"%d" % count)
        found += more
    names = found if name == b"SSCAN" else found[::2]
    assert len(names) == len(set(names))
    assert {b"%d" % number for number in kept} <= set(names)


@pytest.mark.parametrize("line", ["HSET k %b v", "SADD k %b", "ZADD k 1 %b"])
def test_names_of_one_position_in_a_container_come_together(line: str) -> None:
    """These two have one CRC32; a cursor cannot stand between them."""
    keyspace = Keyspace()
    for name in (b"plumless", b"buckeroo", b"other"):
        keyspace.execute((line.encode() % name).split(), NOW)
    scan = {"H": b"HSCAN", "S": b"SSCAN", "Z": b"ZSCAN"}[line[0]]
    cursor, found = piece(keyspace, scan, b"k", b"0", b"COUNT", b"1")
    for _ in range(3):
        if cursor != b"0":
            cursor, more = piece(keyspace, scan, b"k", cursor, b"COUNT", b"1")
            found += more
    names = found if scan == b"SSCAN" else found[::2]
    assert cursor == b"0"
    assert sorted(names) == [b"buckeroo", b"other", b"plumless"]


@pytest.mark.parametrize("line", ["HSET k %b v", "SADD k %b", "ZADD k 1 %b"])
def test_names_whose_positions_are_close_are_found(line: str) -> None:
    keyspace = Keyspace()
    names = [name for name in (b"%d" % number for number in range(2_000)) if crc32(name) >> 27 == 29]
    for name in names:
        keyspace.execute((line.encode() % name).split(), NOW)
    scan = {"H": b"HSCAN", "S": b"SSCAN", "Z": b"ZSCAN"}[line[0]]
    cursor, found = piece(keyspace, scan, b"k", b"0", b"COUNT", b"3")
    while cursor != b"0":
        cursor, more = piece(keyspace, scan, b"k", cursor, b"COUNT", b"3")
        found += more
    assert len(names) > 40
    assert sorted(found if scan == b"SSCAN" else found[::2]) == sorted(names)


def test_options_of_scans_in_containers() -> None:
    keyspace = Keyspace()
    for number in range(200):
        keyspace.execute([b"SADD", b"s", b"%d" % number], NOW)
        keyspace.execute([b"ZADD", b"z", b"%d.5" % number, b"%d" % number], NOW)
    keyspace.execute([b"ZADD", b"y", b"1e17", b"a"], NOW)
    assert len(piece(keyspace, b"SSCAN", b"s", b"0")[1]) == 10
    assert sorted(piece(keyspace, b"SSCAN", b"s", b"0", b"MATCH", b"*77", b"COUNT", b"200")[1]) == [b"177", b"77"]
    assert piece(keyspace, b"ZSCAN", b"z", b"0", b"MATCH", b"77", b"COUNT", b"200") == (b"0", [b"77", b"77.5"])
    assert piece(keyspace, b"ZSCAN", b"y", b"0") == (b"0", [b"a", b"100000000000000000"])
    assert piece(keyspace, b"SSCAN", b"s", b"%d" % (2**32 + 5)) == (b"0", [])
    assert piece(keyspace, b"SSCAN", b"absent", b"0", b"COUNT") == (b"0", [])
    assert (
        read(keyspace, b"ZSCAN", b"z", b"x") == read(keyspace, b"SSCAN", b"s", b"x") == Failure(b"ERR invalid cursor")
    )
    assert read(keyspace, b"SSCAN", b"s", b"0", b"TYPE", b"set") == Failure(b"ERR syntax error")


def test_flush() -> None:
    for name in (b"FLUSHALL", b"FLUSHDB"):
        keyspace = filled([b"a", b"b"])
        keyspace.execute([b"EXPIRE", b"a", b"10"], NOW)
        picture = keyspace.picture()
        keyspace.execute([name, b"async"], NOW)
        assert keyspace.digest() == Keyspace().digest()
        assert keyspace.bytes_used == 0
        keyspace.check()
        assert Keyspace.load(picture.chunks()).key_count == 2
