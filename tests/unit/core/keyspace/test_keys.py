"""Deadlines, names and presence."""

import pytest

from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import OK, Failure, Reply, Status

NOW = 1_000_000


@pytest.fixture
def keyspace() -> Keyspace:
    return Keyspace()


def run(keyspace: Keyspace, line: str, now_ms: int = NOW) -> Reply:
    reply = keyspace.execute(line.encode().split(), now_ms)
    keyspace.check()
    return reply


def test_a_key_is_absent_from_its_deadline_on(keyspace: Keyspace) -> None:
    run(keyspace, "SET k v PX 10")
    assert run(keyspace, "GET k", NOW + 9) == b"v"
    assert run(keyspace, "GET k", NOW + 10) is None
    assert run(keyspace, "GET k", NOW) is None, "once purged it does not come back with a clock that is behind"


def test_a_write_meets_an_expired_key_as_an_absent_one(keyspace: Keyspace) -> None:
    for line, expected in (("SETNX k w", 1), ("APPEND k w", 1), ("HSET k f v", 1), ("PERSIST k", 0), ("DEL k", 0)):
        run(keyspace, "SET k v PX 10")
        assert run(keyspace, line, NOW + 10) == expected
        assert not keyspace.deadlines
        run(keyspace, "DEL k")


def test_time_left_is_rounded_as_in_redis(keyspace: Keyspace) -> None:
    run(keyspace, "SET k v PX 1500")
    assert run(keyspace, "TTL k") == 2
    assert run(keyspace, "TTL k", NOW + 1) == 1
    assert run(keyspace, "PTTL k", NOW + 1) == 1_499
    assert run(keyspace, "EXPIRETIME k") == 1_002
    assert run(keyspace, "PEXPIRETIME k") == NOW + 1_500
    assert run(keyspace, "TTL absent") == -2
    run(keyspace, "PERSIST k")
    assert run(keyspace, "PEXPIRETIME k") == -1


@pytest.mark.parametrize(
    ("condition", "without", "shorter", "longer"),
    [("NX", 1, 0, 0), ("XX", 0, 1, 1), ("GT", 0, 0, 1), ("LT", 1, 1, 0), ("XX GT", 0, 0, 1)],
)
def test_conditions_of_expire(keyspace: Keyspace, condition: str, without: int, shorter: int, longer: int) -> None:
    run(keyspace, "SET k v")
    assert run(keyspace, f"EXPIRE k 10 {condition}") == without
    for seconds, expected in ((5, shorter), (20, longer)):
        run(keyspace, "SET k v EX 10")
        assert run(keyspace, f"EXPIRE k {seconds} {condition}") == expected
        assert run(keyspace, "TTL k") == (seconds if expected else 10)


def test_a_time_in_the_past_removes_at_once(keyspace: Keyspace) -> None:
    for line in ("EXPIRE k 0", "EXPIRE k -1", "PEXPIREAT k 1", f"EXPIREAT k {NOW // 1000}"):
        run(keyspace, "SET k v")
        assert run(keyspace, line) == 1
        assert keyspace.key_count == 0


def test_a_time_that_does_not_fit(keyspace: Keyspace) -> None:
    run(keyspace, "SET k v")
    for line, name in ((f"EXPIRE k {2**63 // 1000}", b"expire"), (f"PEXPIRE k {2**63 - 1}", b"pexpire")):
        assert run(keyspace, line) == Failure(b"ERR invalid expire time in '%b' command" % name)
    assert run(keyspace, f"PEXPIREAT k {2**63 - 1}") == 1


def test_rename_takes_the_deadline_along(keyspace: Keyspace) -> None:
    run(keyspace, "SET a 1 PX 500")
    run(keyspace, "SET b 2 PX 900")
    assert run(keyspace, "RENAME a b") == OK
    assert run(keyspace, "PTTL b") == 500
    run(keyspace, "SET c 3")
    assert run(keyspace, "RENAME c b") == OK
    assert run(keyspace, "PTTL b") == -1
    assert run(keyspace, "RENAME b b") == OK
    assert run(keyspace, "RENAME absent b") == Failure(b"ERR no such key")
    assert run(keyspace, "RENAMENX b b") == 0


def test_rename_frees_a_name_that_has_expired(keyspace: Keyspace) -> None:
    run(keyspace, "SET a 1")
    run(keyspace, "SET b 2 PX 10")
    assert run(keyspace, "RENAMENX a b", NOW) == 0
    assert run(keyspace, "RENAMENX a b", NOW + 10) == 1
    assert run(keyspace, "PTTL b", NOW + 10) == -1


def test_a_copied_hash_is_its_own(keyspace: Keyspace) -> None:
    run(keyspace, "HSET a f 1")
    run(keyspace, "PEXPIRE a 500")
    assert run(keyspace, "COPY a b DB 0") == 1
    run(keyspace, "HSET b f 2")
    assert run(keyspace, "HGET a f") == b"1"
    assert run(keyspace, "PTTL b") == 500
    assert run(keyspace, "COPY a b") == 0
    assert run(keyspace, "COPY a b REPLACE") == 1
    assert run(keyspace, "HGET b f") == b"1"
    assert run(keyspace, "COPY a b DB 1") == Failure(b"ERR DB index is out of range")


def test_presence(keyspace: Keyspace) -> None:
    run(keyspace, "MSET a 1 b 2")
    run(keyspace, "HSET h f v")
    assert run(keyspace, "EXISTS a a b absent") == 3
    assert [run(keyspace, f"TYPE {key}") for key in ("a", "h", "x")] == [
        Status(b"string"),
        Status(b"hash"),
        Status(b"none"),
    ]
    assert run(keyspace, "DEL a a b") == 2
    assert run(keyspace, "UNLINK h") == 1
    assert keyspace.bytes_used == 0


def test_purge_removes_only_what_has_expired(keyspace: Keyspace) -> None:
    """A key that was set again between the leader's look and the log's entry stays."""
    run(keyspace, "SET a 1 PX 10")
    run(keyspace, "SET b 1 PX 10")
    assert keyspace.expired_keys(NOW + 10, 100) == [b"a", b"b"]
    run(keyspace, "SET b 2 PX 10", NOW + 5)
    assert run(keyspace, "NOCTULE.PURGE a b absent", NOW + 10) == OK
    assert run(keyspace, "GET b", NOW + 10) == b"2"
    assert keyspace.key_count == 1
