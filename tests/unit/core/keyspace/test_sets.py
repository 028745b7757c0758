"""The commands on sets: no empty ones, answers that follow from the members alone, chance that replicas share."""

import pytest

from noctule.core.keyspace import sets
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import Failure, Members, Reply, Status

WRONG_TYPE = Failure(b"WRONGTYPE Operation against a key holding the wrong kind of value")


@pytest.fixture
def keyspace() -> Keyspace:
    return Keyspace()


def run(keyspace: Keyspace, line: str, now_ms: int = 1) -> Reply:
    reply = keyspace.execute(line.encode().split(), now_ms)
    keyspace.check()
    return reply


def test_members_come_in_one_order_whatever_the_history(keyspace: Keyspace) -> None:
    assert run(keyspace, "SADD s c a b a") == 3
    assert run(keyspace, "SADD s a d") == 1
    assert run(keyspace, "SREM s d e") == 1
    assert run(keyspace, "SMEMBERS s") == Members([b"a", b"b", b"c"])
    assert run(keyspace, "SCARD s") == 3
    assert run(keyspace, "SMISMEMBER s a e") == [1, 0]
    assert run(keyspace, "TYPE s") == Status(b"set")


def test_equal_sets_have_equal_digests(keyspace: Keyspace) -> None:
    """As replicas of which one has loaded a snapshot and the other has not."""
    other = Keyspace()
    for number in range(1_000):
        keyspace.execute([b"SADD", b"s", b"%d" % number], 1)
        other.execute([b"SADD", b"s", b"x%d" % number, b"%d" % (999 - number)], 1)
    assert keyspace.digest() != other.digest()
    other.execute([b"SREM", b"s", *(b"x%d" % number for number in range(1_000))], 1)
    assert keyspace.digest() == other.digest()
    pops = [[b"SPOP", b"s", b"7"]] * 100
    assert [keyspace.execute(pop, now_ms) for now_ms, pop in enumerate(pops)] == [
        other.execute(pop, now_ms) for now_ms, pop in enumerate(pops)
    ]
    assert keyspace.digest() == other.digest()


def test_the_last_member_takes_the_key_with_it(keyspace: Keyspace) -> None:
    for removing in ("SREM s a b", "SPOP s 2", "SPOP s 9", "SINTERSTORE s s absent", "SDIFFSTORE s s s"):
        run(keyspace, "SADD s a b")
        run(keyspace, "EXPIRE s 100")
        run(keyspace, removing)
        assert run(keyspace, "EXISTS s") == 0, removing
        assert (keyspace.bytes_used, len(keyspace.deadlines)) == (0, 0)


def test_spop_takes_what_the_time_says(keyspace: Keyspace) -> None:
    winners = set()
    for now_ms in range(1, 40):
        run(keyspace, "SADD s a b c")
        winner = run(keyspace, "SPOP s", now_ms)
        assert winner in (b"a", b"b", b"c")
        assert run(keyspace, f"SISMEMBER s {winner.decode()}") == 0
        winners.add(winner)
    assert len(winners) == 3
    assert run(keyspace, "SPOP s 0") == run(keyspace, "SPOP absent 3") == Members([])
    assert run(keyspace, "SPOP absent") is None
    assert run(keyspace, "SPOP s -1") == Failure(b"ERR value is out of range, must be positive")


def test_srandmember_takes_nothing(keyspace: Keyspace) -> None:
    run(keyspace, "SADD s a b c d e f")
    digest = keyspace.digest()
    drawn_alone = {run(keyspace, "SRANDMEMBER s", now_ms) for now_ms in range(100)}
    assert drawn_alone == {b"a", b"b", b"c", b"d", b"e", b"f"}
    for count in (1, 2, 5, 6, 100):
        drawn = run(keyspace, f"SRANDMEMBER s {count}")
        assert isinstance(drawn, list)
        assert len(drawn) == len(set(drawn)) == min(count, 6)
    assert len(run(keyspace, "SRANDMEMBER s -100")) == 100
    assert run(keyspace, "SRANDMEMBER absent -5") == []
    assert keyspace.digest() == digest


@pytest.mark.interpreted
def test_draws_are_bounded(keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes must not ask for an answer of any size."""
    monkeypatch.setattr(sets, "REPEATED_DRAWS_MAX", 10)
    run(keyspace, "SADD s a")
    run(keyspace, "ZADD z 1 a")
    for name in ("SRANDMEMBER s", "ZRANDMEMBER z"):
        assert len(run(keyspace, f"{name} -10")) == 10
        assert run(keyspace, f"{name} -11") == Failure(b"ERR count of 11, REPEATED_DRAWS_MAX is 10")
        assert run(keyspace, f"{name} 1000000000") == [b"a"]


def test_a_member_moves(keyspace: Keyspace) -> None:
    run(keyspace, "SADD {s}1 a b")
    assert run(keyspace, "SMOVE {s}1 {s}2 a") == 1
    assert run(keyspace, "SMOVE {s}1 {s}2 a") == 0
    assert run(keyspace, "SMOVE {s}1 {s}1 b") == 1
    assert run(keyspace, "SMEMBERS {s}2") == Members([b"a"])
    run(keyspace, "SET {s}3 text")
    assert run(keyspace, "SMOVE {s}1 {s}3 b") == WRONG_TYPE
    assert run(keyspace, "SMOVE absent {s}3 b") == 0


def test_sets_together(keyspace: Keyspace) -> None:
    run(keyspace, "SADD {s}1 a b c")
    run(keyspace, "SADD {s}2 b c d")
    assert run(keyspace, "SINTER {s}1 {s}2") == Members([b"b", b"c"])
    assert run(keyspace, "SUNION {s}1 {s}2 {s}3") == Members([b"a", b"b", b"c", b"d"])
    assert run(keyspace, "SDIFF {s}1 {s}2") == Members([b"a"])
    assert run(keyspace, "SINTERCARD 2 {s}1 {s}2") == 2
    assert run(keyspace, "SINTERCARD 2 {s}1 {s}2 LIMIT 1") == 1
    run(keyspace, "EXPIRE {s}1 100")
    assert run(keyspace, "SUNIONSTORE {s}1 {s}1 {s}2") == 4
    assert run(keyspace, "TTL {s}1") == -1


def test_a_picture_keeps_the_set_of_its_moment(keyspace: Keyspace) -> None:
    run(keyspace, "SADD s a b c")
    picture, digest = keyspace.picture(), keyspace.digest()
    run(keyspace, "SPOP s")
    run(keyspace, "SADD s d")
    assert Keyspace.load(picture.chunks()).digest() == digest


@pytest.mark.parametrize(
    "line",
    ["SADD h a", "SREM h a", "SCARD h", "SISMEMBER h a", "SMISMEMBER h a", "SMEMBERS h", "SMOVE h s a", "SPOP h",
     "SPOP h 3", "SRANDMEMBER h", "SRANDMEMBER h 3", "SINTER s h", "SUNION s h", "SDIFF s h", "SINTER absent h",
     "SINTERSTORE s s h", "SUNIONSTORE s s h", "SDIFFSTORE s s h", "SINTERCARD 2 s h", "SSCAN h 0"],
)  # fmt: skip
def test_a_hash_is_no_set(keyspace: Keyspace, line: str) -> None:
    run(keyspace, "HSET h f v")
    run(keyspace, "SADD s a")
    assert run(keyspace, line) == WRONG_TYPE
