"""What a logged transaction answers is kept with the client's session, and so is the same on every replica: also on
one that has its data from a snapshot, in which keys and fields stand in another order than the one they came in."""

from hypothesis import given
from hypothesis import strategies as st

from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import Reply
from noctule.core.keyspace.transactions import transaction
from noctule.core.keyspace.values import encode_values

NOW_MS = 1_000_000
PREFIX = b"{db:1}"
NAMES = [b"m%d" % number for number in range(40)]

READS: list[list[bytes]] = [
    [b"HGETALL", b"hash"],
    [b"HKEYS", b"hash"],
    [b"HVALS", b"hash"],
    [b"HRANDFIELD", b"hash"],
    [b"HRANDFIELD", b"hash", b"3"],
    [b"HRANDFIELD", b"hash", b"-3", b"WITHVALUES"],
    [b"HRANDFIELD", b"hash", b"1000"],
    [b"HSCAN", b"hash", b"0"],
    [b"SMEMBERS", b"set"],
    [b"SRANDMEMBER", b"set", b"3"],
    [b"SPOP", b"set", b"2"],
    [b"SSCAN", b"set", b"0"],
    [b"ZRANGE", b"zset", b"0", b"-1", b"WITHSCORES"],
    [b"ZRANDMEMBER", b"zset", b"-4"],
    [b"ZSCAN", b"zset", b"0"],
    [b"LRANGE", b"list", b"0", b"-1"],
    [b"OBJECT", b"ENCODING", b"hash"],
    [b"MEMORY", b"USAGE", b"zset"],
    [b"NOCTULE.READDATABASE", PREFIX, b"RANDOMKEY"],
    [b"NOCTULE.READDATABASE", PREFIX, b"KEYS", b"*"],
    [b"NOCTULE.READDATABASE", PREFIX, b"SCAN", b"0"],
    [b"NOCTULE.READDATABASE", PREFIX, b"DBSIZE"],
]


def filled(names: list[bytes]) -> Keyspace:
    keyspace = Keyspace()
    for place, name in enumerate(names):
        keyspace.execute([b"HSET", b"hash", name, name], NOW_MS)
        keyspace.execute([b"SADD", b"set", name], NOW_MS)
        keyspace.execute([b"ZADD", b"zset", b"%d" % (place % 3), name], NOW_MS)
        keyspace.execute([b"SET", PREFIX + name, name, *([b"PX", b"50"] if place % 3 == 0 else [])], NOW_MS)
    keyspace.execute([b"RPUSH", b"list", *names], NOW_MS)
    return keyspace


def answers(keyspace: Keyspace, now_ms: int) -> list[Reply]:
    commands = [[b"SET", b"written", b"1"], *READS]
    reply = keyspace.execute(transaction((), commands, [b"written"], is_write=True), now_ms)
    assert isinstance(reply, list)
    return reply


@given(st.permutations(NAMES), st.integers(0, 60))
def test_a_transaction_answers_the_same_on_a_replica_that_came_by_a_snapshot(names: list[bytes], later_ms: int) -> None:
    keyspace = filled(names)
    copy = Keyspace.load(keyspace.picture().chunks(500))
    mine, theirs = answers(keyspace, NOW_MS + later_ms), answers(copy, NOW_MS + later_ms)
    for command, left, right in zip([[b"SET"], *READS], mine, theirs, strict=True):
        assert encode_values([left]) == encode_values([right]), command
    assert keyspace.digest() == copy.digest()
    assert not keyspace.answers_alike
