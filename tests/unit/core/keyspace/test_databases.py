"""What walks over keys sees one database, and the others are left alone."""

import pytest

from noctule.core.keyspace.databases import DATABASE_SLOTS, DATABASES, database_prefix, is_foreign
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import OK, Reply
from noctule.core.placement.slots import SLOT_COUNT, key_slot

NOW_MS = 1_000
PREFIX = database_prefix(3)
NAMES = [b"", b"a", b"{tag}b", b"a}"]


@pytest.fixture
def keyspace() -> Keyspace:
    keyspace = Keyspace()
    for name in NAMES:
        for prefix in (b"", PREFIX, database_prefix(4)):
            keyspace.execute([b"SET", prefix + name, b"v"], NOW_MS)
    return keyspace


def ask(keyspace: Keyspace, *args: bytes) -> Reply:
    name = b"NOCTULE.WRITEDATABASE" if args[0] == b"FLUSHDB" else b"NOCTULE.READDATABASE"
    return keyspace.execute([name, PREFIX, *args], NOW_MS)


def test_each_database_has_a_slot_of_its_own_whatever_its_keys_are_called() -> None:
    assert len(DATABASE_SLOTS) == DATABASES - 1
    for name in NAMES:
        assert DATABASE_SLOTS[key_slot(PREFIX + name)] == 3


def test_a_database_begins_with_its_whole_prefix() -> None:
    assert is_foreign(b"{db:15}")
    assert is_foreign(b"{db:1}x")
    assert not any(map(is_foreign, [b"", b"{db:", b"{db:0}x", b"{db:16}x", b"{db:1", b"x{db:1}", b"{db:01}x"]))


def test_keys_scan_and_dbsize_of_a_database(keyspace: Keyspace) -> None:
    assert ask(keyspace, b"KEYS", b"*") == sorted(NAMES)
    assert ask(keyspace, b"KEYS", b"a*") == [b"a", b"a}"]
    assert ask(keyspace, b"DBSIZE") == len(NAMES)
    found: list[Reply] = []
    cursor: Reply = b"0"
    for _ in range(20):
        assert isinstance(cursor, bytes)
        match ask(keyspace, b"SCAN", cursor, b"COUNT", b"1", b"MATCH", b"*"):
            case [bytes(cursor), [*names]]:
                found += names
        if cursor == b"0":
            break
    assert sorted(found, key=repr) == sorted(NAMES, key=repr)


def test_database_0_does_not_show_the_keys_of_others(keyspace: Keyspace) -> None:
    assert keyspace.execute([b"KEYS", b"*"], NOW_MS) == sorted(NAMES)
    assert keyspace.execute([b"DBSIZE"], NOW_MS) == len(NAMES)
    match keyspace.execute([b"SCAN", b"0", b"COUNT", b"100"], NOW_MS):
        case [b"0", [*names]]:
            assert sorted(names, key=repr) == sorted(NAMES, key=repr)
        case other:
            raise AssertionError(other)


def test_a_key_of_database_0_in_the_slot_of_another_database_is_not_of_that(keyspace: Keyspace) -> None:
    """Two tags may share a slot."""
    neighbour = next(key for key in (b"k%d" % number for number in range(200_000)) if key_slot(key) == key_slot(PREFIX))
    keyspace.execute([b"SET", neighbour, b"v"], NOW_MS)
    assert ask(keyspace, b"DBSIZE") == len(NAMES)
    assert keyspace.execute([b"DBSIZE"], NOW_MS) == len(NAMES) + 1
    assert ask(keyspace, b"FLUSHDB") == OK
    assert keyspace.get(neighbour) == b"v"


def test_flushdb_empties_one_database_and_flushall_all(keyspace: Keyspace) -> None:
    ask(keyspace, b"FLUSHDB")
    assert ask(keyspace, b"DBSIZE") == 0
    assert keyspace.key_count == 2 * len(NAMES)
    keyspace.execute([b"NOCTULE.WRITEWITHIN", b"0", b"%d" % (SLOT_COUNT - 1), b"FLUSHDB"], NOW_MS)
    assert keyspace.key_count == len(NAMES)
    assert all(key.startswith(database_prefix(4)) for key in keyspace.live_keys(NOW_MS))
    keyspace.execute([b"FLUSHALL"], NOW_MS)
    assert keyspace.key_count == 0
    keyspace.check()
