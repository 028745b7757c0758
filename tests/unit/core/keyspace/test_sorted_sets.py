"""The commands on sorted sets, against plain dicts; what Redis says of their arguments is compared with Redis."""

from math import inf, isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Pairs, Reply, Status

WRONG_TYPE = Failure(b"WRONGTYPE Operation against a key holding the wrong kind of value")

Model = dict[bytes, float]
MEMBERS = st.sampled_from([b"", b"\xff", *(b"%d" % number for number in range(12))])
SCORES = st.one_of(st.floats(allow_nan=False), st.integers(-3, 3).map(float))
MODELS = st.dictionaries(MEMBERS, SCORES, max_size=14)


@pytest.fixture
def keyspace() -> Keyspace:
    return Keyspace()


def run(keyspace: Keyspace, line: str, now_ms: int = 1) -> Reply:
    reply = keyspace.execute(line.encode().split(), now_ms)
    keyspace.check()
    return reply


def execute(keyspace: Keyspace, *args: bytes | int | float) -> Reply:
    reply = keyspace.execute([arg if isinstance(arg, bytes) else repr(arg).encode() for arg in args], 1)
    keyspace.check()
    return reply


def filled(**sets: Model) -> Keyspace:
    keyspace = Keyspace()
    for key, model in sets.items():
        for member, score in model.items():
            execute(keyspace, b"ZADD", key.encode(), score, member)
    return keyspace


def in_order(model: Model) -> list[tuple[bytes, float]]:
    return sorted(model.items(), key=lambda item: (item[1], item[0]))


@given(MODELS, st.integers(-16, 16), st.integers(-16, 16))
def test_ranges_by_rank(model: Model, start: int, stop: int) -> None:
    keyspace = filled(z=model)
    items = in_order(model)
    first = max(start + len(items), 0) if start < 0 else start
    end = (stop + len(items) if stop < 0 else stop) + 1
    expected = items[first : max(end, 0)]
    assert execute(keyspace, b"ZRANGE", b"z", start, stop, b"WITHSCORES") == Pairs([*expected])
    backwards = items[::-1][first : max(end, 0)]
    assert execute(keyspace, b"ZREVRANGE", b"z", start, stop) == [member for member, _ in backwards]
    assert execute(keyspace, b"ZRANGE", b"z", start, stop, b"REV") == [member for member, _ in backwards]
    assert execute(keyspace, b"ZREMRANGEBYRANK", b"z", start, stop) == len(expected)
    left = [item for item in items if item not in expected]
    assert execute(keyspace, b"ZRANGE", b"z", 0, -1, b"WITHSCORES") == Pairs([*left])


@given(MODELS, SCORES, SCORES, st.booleans(), st.booleans(), st.integers(-1, 5), st.integers(-1, 5))
def test_ranges_by_score(
    model: Model, least: float, most: float, past_least: bool, before_most: bool, offset: int, count: int
) -> None:
    keyspace = filled(z=model)
    expected = [
        (member, score)
        for member, score in in_order(model)
        if (least < score or (least == score and not past_least))
        and (score < most or (score == most and not before_most))
    ]
    low, high = b"(" * past_least + repr(least).encode(), b"(" * before_most + repr(most).encode()
    limited = expected[offset:][: None if count < 0 else count] if offset >= 0 else []
    backwards = expected[::-1][offset:][: None if count < 0 else count] if offset >= 0 else []
    limit = (b"LIMIT", offset, count)
    assert execute(keyspace, b"ZCOUNT", b"z", low, high) == len(expected)
    assert execute(keyspace, b"ZRANGEBYSCORE", b"z", low, high, *limit, b"WITHSCORES") == Pairs([*limited])
    assert execute(keyspace, b"ZREVRANGEBYSCORE", b"z", high, low, b"WITHSCORES", *limit) == Pairs([*backwards])
    assert execute(keyspace, b"ZRANGE", b"z", high, low, b"BYSCORE", b"REV", b"WITHSCORES") == Pairs([*expected[::-1]])
    assert execute(keyspace, b"ZRANGESTORE", b"y", b"z", low, high, b"BYSCORE") == len(expected)
    assert execute(keyspace, b"ZRANGE", b"y", 0, -1, b"WITHSCORES") == Pairs([*expected])
    assert execute(keyspace, b"ZREMRANGEBYSCORE", b"z", low, high) == len(expected)
    assert execute(keyspace, b"ZCARD", b"z") == len(model) - len(expected)


ENDS = st.one_of(st.just(b"-"), st.just(b"+"), st.tuples(st.sampled_from([b"(", b"["]), MEMBERS).map(b"".join))


def is_within(member: bytes, least: bytes, most: bytes) -> bool:
    return (
        least != b"+"
        and most != b"-"
        and (least == b"-" or member > least[1:] or (member == least[1:] and least[:1] == b"["))
        and (most == b"+" or member < most[1:] or (member == most[1:] and most[:1] == b"["))
    )


@given(st.sets(MEMBERS), ENDS, ENDS, st.integers(0, 5), st.integers(-1, 5))
def test_ranges_by_member(members: set[bytes], least: bytes, most: bytes, offset: int, count: int) -> None:
    keyspace = filled(z=dict.fromkeys(members, 2.5))
    expected = [member for member in sorted(members) if is_within(member, least, most)]
    limit = (b"LIMIT", offset, count)
    part = slice(offset, None if count < 0 else offset + count)
    assert execute(keyspace, b"ZLEXCOUNT", b"z", least, most) == len(expected)
    assert execute(keyspace, b"ZRANGEBYLEX", b"z", least, most, *limit) == expected[part]
    assert execute(keyspace, b"ZREVRANGEBYLEX", b"z", most, least, *limit) == expected[::-1][part]
    assert execute(keyspace, b"ZRANGE", b"z", least, most, b"BYLEX") == expected
    assert execute(keyspace, b"ZREMRANGEBYLEX", b"z", least, most) == len(expected)
    assert execute(keyspace, b"ZCARD", b"z") == len(members) - len(expected)


def test_a_range_by_member_of_unequal_scores(keyspace: Keyspace) -> None:
    """Small sets of Redis answer the same."""
    run(keyspace, "ZADD z 1 b 2 a 3 c 4 b2")
    assert run(keyspace, "ZRANGEBYLEX z [a [b") == [b"b", b"a"]
    assert run(keyspace, "ZRANGEBYLEX z - +") == [b"b", b"a", b"c", b"b2"]
    assert run(keyspace, "ZLEXCOUNT z (b +") == 2


def test_a_range_by_member_of_unequal_scores_is_the_same_on_every_replica(keyspace: Keyspace) -> None:
    """What is removed must not depend on where blocks begin, which is another place after a snapshot was loaded."""
    for number in range(3_000):
        execute(keyspace, b"ZADD", b"z", number * 7 % 3_000, b"%d" % number)
    loaded = Keyspace.load(keyspace.picture().chunks())
    for end in (b"5", b"1", b"27", b"2"):
        removal = [b"ZREMRANGEBYLEX", b"z", b"[" + end, b"[" + end + b"5"]
        assert keyspace.execute(removal, 1) == loaded.execute(removal, 1)
    assert keyspace.digest() == loaded.digest()


@given(MODELS, MODELS, st.sets(MEMBERS), st.sampled_from([b"SUM", b"MIN", b"MAX"]))
def test_sorted_sets_together(left: Model, right: Model, members: set[bytes], aggregate: bytes) -> None:
    keyspace = filled(x=left, y=right)
    for member in members:
        execute(keyspace, b"SADD", b"s", member)
    operands = (b"3", b"x", b"y", b"s")
    union: dict[bytes, list[float]] = {}
    weighted = sorted(((left, 2.0), (right, -1.0), (dict.fromkeys(members, 1.0), 0.5)), key=lambda each: len(each[0]))
    for model, weight in weighted:
        for member, score in model.items():
            union.setdefault(member, []).append(score * weight)
    join = {b"SUM": lambda a, b: 0.0 if isnan(a + b) else a + b, b"MIN": min, b"MAX": max}[aggregate]
    totals = {}
    for member, scores in union.items():
        total = scores[0]
        for score in scores[1:]:
            total = join(total, score)
        totals[member] = total
    options = (b"WEIGHTS", b"2", b"-1", b"0.5", b"AGGREGATE", aggregate)
    common = {member: total for member, total in totals.items() if len(union[member]) == 3}
    assert execute(keyspace, b"ZUNION", *operands, *options, b"WITHSCORES") == Pairs([*in_order(totals)])
    assert execute(keyspace, b"ZINTER", *operands, *options, b"WITHSCORES") == Pairs([*in_order(common)])
    assert execute(keyspace, b"ZINTERCARD", *operands) == len(common)
    assert execute(keyspace, b"ZINTERCARD", *operands, b"LIMIT", b"1") == min(len(common), 1)
    only = {member: score for member, score in left.items() if member not in right and member not in members}
    assert execute(keyspace, b"ZDIFF", *operands, b"WITHSCORES") == Pairs([*in_order(only)])
    for name, expected in ((b"ZUNIONSTORE", totals), (b"ZINTERSTORE", common)):
        assert execute(keyspace, name, b"d", *operands, *options) == len(expected)
        assert execute(keyspace, b"ZRANGE", b"d", 0, -1, b"WITHSCORES") == Pairs([*in_order(expected)])
    assert execute(keyspace, b"ZDIFFSTORE", b"d", *operands) == len(only)
    assert execute(keyspace, b"EXISTS", b"d") == bool(only)


def test_scores_are_added_from_the_smallest_set_on(keyspace: Keyspace) -> None:
    """0.1 + 0.2 + 0.3 is another double."""
    for line in ("ZADD x 0.1 m 1 n 1 o", "ZADD y 0.2 m 1 n", "ZADD z 0.3 m"):
        run(keyspace, line)
    assert run(keyspace, "ZINTER 3 x y z WITHSCORES") == Pairs([(b"m", 0.6)])
    assert run(keyspace, "ZUNION 3 x y z WITHSCORES").items[0] == (b"m", 0.6)


def test_conditions_of_zadd(keyspace: Keyspace) -> None:
    assert run(keyspace, "ZADD z 1 a 2 b 3 a") == 2
    assert run(keyspace, "ZADD z XX 5 a 5 c") == 0
    assert run(keyspace, "ZADD z NX CH 9 a 9 c") == 1
    assert run(keyspace, "ZADD z GT CH 4 a 6 b 1 d") == 2
    assert run(keyspace, "ZADD z LT CH 4 a 7 b") == 1
    assert run(keyspace, "ZADD z XX LT INCR 1 a") is None
    assert run(keyspace, "ZADD z XX GT INCR 0 a") is None
    assert run(keyspace, "ZADD z LT INCR 0 a") is None
    assert run(keyspace, "ZADD z INCR 1.5 a") == 5.5
    assert run(keyspace, "ZADD absent XX 1 a") == 0
    assert run(keyspace, "ZADD absent XX INCR 1 a") is None
    assert run(keyspace, "EXISTS absent") == 0
    assert run(keyspace, "ZRANGE z 0 -1 WITHSCORES") == Pairs([(b"d", 1.0), (b"a", 5.5), (b"b", 6.0), (b"c", 9.0)])
    assert run(keyspace, "TYPE z") == Status(b"zset")


def test_no_score_is_not_a_number(keyspace: Keyspace) -> None:
    assert run(keyspace, "ZADD z nan a") == Failure(b"ERR value is not a valid float")
    assert run(keyspace, "ZADD z 1 a x b") == Failure(b"ERR value is not a valid float")
    assert run(keyspace, "EXISTS z") == 0
    assert run(keyspace, "ZINCRBY z inf a") == inf
    for increment in ("ZINCRBY z -inf a", "ZADD z INCR -inf a"):
        assert run(keyspace, increment) == Failure(b"ERR resulting score is not a number (NaN)")
    assert run(keyspace, "ZSCORE z a") == inf
    assert run(keyspace, "ZUNION 1 z WEIGHTS 0 WITHSCORES") == Pairs([(b"a", 0.0)])


def test_lookups(keyspace: Keyspace) -> None:
    run(keyspace, "ZADD z 1 a 2 b 2 c")
    assert run(keyspace, "ZMSCORE z a x c") == [1.0, None, 2.0]
    assert [run(keyspace, f"ZRANK z {member}") for member in "abcx"] == [0, 1, 2, None]
    assert [run(keyspace, f"ZREVRANK z {member}") for member in "abcx"] == [2, 1, 0, None]
    assert run(keyspace, "ZSCORE absent a") is None


def test_pops(keyspace: Keyspace) -> None:
    run(keyspace, "ZADD z 1 a 2 b 3 c 4 d 5 e 6 f")
    assert run(keyspace, "ZPOPMIN z") == [b"a", 1.0]
    assert run(keyspace, "ZPOPMAX z 2") == Pairs([(b"f", 6.0), (b"e", 5.0)])
    assert run(keyspace, "ZMPOP 2 absent z MAX") == [b"z", [[b"d", 4.0]]]
    assert run(keyspace, "ZMPOP 1 z MIN COUNT 9") == [b"z", [[b"b", 2.0], [b"c", 3.0]]]
    assert run(keyspace, "EXISTS z") == 0
    assert run(keyspace, "ZMPOP 2 absent z MIN") is NULL_ARRAY
    assert run(keyspace, "ZPOPMIN z") == []


def test_the_last_member_takes_the_key_with_it(keyspace: Keyspace) -> None:
    for removing in (
        "ZREM z a b", "ZPOPMIN z 2", "ZPOPMAX z 9", "ZREMRANGEBYRANK z 0 -1", "ZREMRANGEBYSCORE z -inf inf",
        "ZREMRANGEBYLEX z - +", "ZRANGESTORE z absent 0 -1", "ZINTERSTORE z 2 z absent", "ZDIFFSTORE z 2 z z",
    ):  # fmt: skip
        run(keyspace, "ZADD z 1 a 2 b")
        run(keyspace, "EXPIRE z 100")
        run(keyspace, removing)
        assert run(keyspace, "EXISTS z") == 0, removing
        assert (keyspace.bytes_used, len(keyspace.deadlines)) == (0, 0)


def test_zrandmember(keyspace: Keyspace) -> None:
    run(keyspace, "ZADD z 1 a 2 b 3 c")
    assert {run(keyspace, "ZRANDMEMBER z", now_ms) for now_ms in range(60)} == {b"a", b"b", b"c"}
    for count in (1, 2, 3, 9):
        drawn = run(keyspace, f"ZRANDMEMBER z {count} WITHSCORES")
        assert isinstance(drawn, Pairs)
        assert len(drawn.items) == len(set(drawn.items)) == min(count, 3)
    assert len(run(keyspace, "ZRANDMEMBER z -9")) == 9


def test_a_picture_keeps_the_sorted_set_of_its_moment(keyspace: Keyspace) -> None:
    run(keyspace, "ZADD z 1 a 2 b 3 c")
    picture, digest = keyspace.picture(), keyspace.digest()
    run(keyspace, "ZINCRBY z 5 a")
    run(keyspace, "ZPOPMIN z")
    assert Keyspace.load(picture.chunks()).digest() == digest


@pytest.mark.parametrize(
    "line",
    ["ZADD h 1 a", "ZADD h INCR 1 a", "ZINCRBY h 1 a", "ZREM h a", "ZCARD h", "ZSCORE h a", "ZMSCORE h a", "ZRANK h a",
     "ZREVRANK h a", "ZCOUNT h 0 1", "ZLEXCOUNT h - +", "ZRANGE h 0 1", "ZRANGESTORE z h 0 1", "ZREVRANGE h 0 1",
     "ZRANGEBYSCORE h 0 1", "ZREVRANGEBYSCORE h 0 1", "ZRANGEBYLEX h - +", "ZREVRANGEBYLEX h + -",
     "ZREMRANGEBYRANK h 0 1", "ZREMRANGEBYSCORE h 0 1", "ZREMRANGEBYLEX h - +", "ZPOPMIN h", "ZPOPMAX h",
     "ZMPOP 2 absent h MIN", "ZRANDMEMBER h", "ZUNION 2 z h", "ZINTER 2 z h", "ZDIFF 2 z h", "ZUNIONSTORE z 2 z h",
     "ZINTERSTORE z 2 z h", "ZDIFFSTORE z 2 z h", "ZINTERCARD 2 z h", "ZSCAN h 0"],
)  # fmt: skip
def test_a_hash_is_no_sorted_set(keyspace: Keyspace, line: str) -> None:
    run(keyspace, "HSET h f v")
    run(keyspace, "ZADD z 1 a")
    assert run(keyspace, line) == WRONG_TYPE
