"""Hashes: no empty ones, answers that follow from the fields alone."""

import pytest

from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import OK, Failure, Reply

WRONG_TYPE = Failure(b"WRONGTYPE Operation against a key holding the wrong kind of value")


@pytest.fixture
def keyspace() -> Keyspace:
    return Keyspace()


def run(keyspace: Keyspace, line: str) -> Reply:
    reply = keyspace.execute(line.encode().split(), 1)
    keyspace.check()
    return reply


def test_hset_counts_what_is_new(keyspace: Keyspace) -> None:
    assert run(keyspace, "HSET h a 1 b 2 a 3") == 2
    assert run(keyspace, "HSET h a 4 c 5") == 1
    assert run(keyspace, "HGETALL h") == {b"a": b"4", b"b": b"2", b"c": b"5"}
    assert run(keyspace, "HMSET h a 6") == OK


def test_the_last_field_takes_the_key_and_its_deadline_with_it(keyspace: Keyspace) -> None:
    run(keyspace, "HSET h a 1 b 2")
    run(keyspace, "EXPIRE h 100")
    assert run(keyspace, "HDEL h a b a") == 2
    assert run(keyspace, "EXISTS h") == 0
    assert not keyspace.deadlines
    assert keyspace.bytes_used == 0


def test_names_and_values_come_in_one_order_whatever_the_history(keyspace: Keyspace) -> None:
    run(keyspace, "HSET h b 1 a 2")
    run(keyspace, "HSET h2 a 2 b 1")
    for key in ("h", "h2"):
        assert run(keyspace, f"HKEYS {key}") == [b"a", b"b"]
        assert run(keyspace, f"HVALS {key}") == [b"2", b"1"]


def test_a_failed_increment_leaves_no_empty_hash(keyspace: Keyspace) -> None:
    assert run(keyspace, "HINCRBY h f x") == Failure(b"ERR value is not an integer or out of range")
    assert run(keyspace, "HINCRBYFLOAT h f inf") == Failure(b"ERR value is NaN or Infinity")
    assert keyspace.key_count == 0
    run(keyspace, f"HSET h f {2**63 - 1} g text")
    assert run(keyspace, "HINCRBY h f 1") == Failure(b"ERR increment or decrement would overflow")
    assert run(keyspace, "HINCRBY h g 1") == Failure(b"ERR hash value is not an integer")
    assert run(keyspace, "HINCRBYFLOAT h g 1") == Failure(b"ERR hash value is not a float")


def test_increments(keyspace: Keyspace) -> None:
    assert run(keyspace, "HINCRBY h f -5") == -5
    assert run(keyspace, "HINCRBYFLOAT h f 0.5") == b"-4.5"
    assert run(keyspace, "HGET h f") == b"-4.5"


def test_an_absent_key_is_an_empty_hash(keyspace: Keyspace) -> None:
    assert run(keyspace, "HGET h f") is None
    assert run(keyspace, "HGETALL h") == {}
    assert run(keyspace, "HMGET h f g") == [None, None]
    assert run(keyspace, "HSTRLEN h f") == 0
    assert run(keyspace, "HDEL h f") == 0
    assert run(keyspace, "HSETNX h f v") == 1
    assert run(keyspace, "HSETNX h f w") == 0


@pytest.mark.parametrize(
    "line",
    ["HSET s f v", "HMSET s f v", "HSETNX s f v", "HGET s f", "HMGET s f", "HDEL s f", "HGETALL s", "HKEYS s",
     "HVALS s", "HLEN s", "HEXISTS s f", "HSTRLEN s f", "HINCRBY s f 1", "HINCRBYFLOAT s f 1", "HSCAN s 0"],
)  # fmt: skip
def test_a_string_is_no_hash(keyspace: Keyspace, line: str) -> None:
    run(keyspace, "SET s v")
    assert run(keyspace, line) == WRONG_TYPE
