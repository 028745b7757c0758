"""SORT against the real redis-server: the same random items and options, the same bytes back.

Left out is what Redis answers by chance: numbers beyond all doubles leave a mark (``errno``) that it takes for a fault
of the next ones, and ALPHA without STORE compares up to a zero byte only.
"""

from random import Random

import pytest
from test_redis_differential import FLOATS, INTEGERS, RealRedis, redis, run, seeds, server

from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.wire.resp import encode_reply

__all__ = ["redis", "server"]
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

ROUNDS = 400
NUMBERS = [*INTEGERS, *FLOATS, b"", b" 1", b"inf", b"-Infinity", b"0x10", b"-0", b"0"]
WORDS = [*NUMBERS, b"abc", b"1 ", b"nan", b"1e", b"--1", b" ", b"a", b"A", b"aa", b"\xff"]
OPTIONS = [b"ASC", b"DESC", b"desc", b"ALPHA", b"alpha", b"GET #", b"LIMIT 1 2", b"LIMIT -1 3", b"LIMIT 1 -1"]
RARE = [b"LIMIT 9 9", b"LIMIT x 1", b"LIMIT 1", b"LIMIT 0 0", b"NX", b"LIMIT 2 9" + b"9" * 17]


@pytest.mark.parametrize("seed", seeds())
def test_the_bytes_are_those_of_redis(redis: RealRedis, seed: int) -> None:
    random, keyspace = Random(seed), Keyspace()
    for number in range(ROUNDS):
        kind = random.choice([b"RPUSH", b"SADD", b"ZADD"])
        items = random.sample(NUMBERS if random.random() < 0.7 else WORDS, random.randrange(1, 12))
        pairs = [part for item in items for part in (b"%d" % random.randrange(3), item)]
        options = random.choices(OPTIONS, k=random.randrange(4)) + random.choices(RARE, k=random.random() < 0.1)
        stores = random.random() < 0.3
        if stores or kind != b"SADD":  # Else the order is that of Redis' hash table.
            options += random.choices([b"BY nosort", b"BY \0*"], k=random.random() < 0.3)
        random.shuffle(options)
        ends = [b"STORE to"] if stores else random.choices([b"STORE", b"BY", b"GET"], k=random.random() < 0.05)
        words = [part for option in [*options, *ends] for part in option.split()]
        name = b"SORT_RO" if random.random() < 0.2 else b"SORT"
        for args in (
            [b"DEL", b"k"],
            [kind, b"k", *(pairs if kind == b"ZADD" else items)],
            [name, random.choice([b"k"] * 9 + [b"none", b"to"]), *words],
            [b"LRANGE", b"to", b"0", b"-1"],
            [b"SORT", b"to", b"ALPHA"],
        ):
            theirs, ours = redis.raw(args), encode_reply(run(keyspace, args), 2)
            assert ours == theirs, f"seed {seed}, round {number}: {args}"
    keyspace.check()
