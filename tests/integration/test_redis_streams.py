"""Streams and bits against the real redis-server: the same random commands, the same bytes back but for times."""

from random import Random
from typing import Literal

import pytest
from redis_bit_commands import BitCommands
from redis_stream_commands import StreamCommands, timeless
from test_redis_differential import RealRedis, redis, run, seeds, server

from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.wire.resp import encode_reply

__all__ = ["redis", "server"]
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

COMMANDS_PER_SEED = 2_500


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("seed", seeds())
def test_random_commands_on_streams_answer_the_same_bytes(redis: RealRedis, seed: int, protocol: Literal[2, 3]) -> None:
    if protocol == 3:
        redis.raw([b"HELLO", b"3"])
    keyspace = Keyspace()
    commands = StreamCommands(Random(seed))
    for step in range(COMMANDS_PER_SEED):
        args = commands.next()
        theirs = timeless(args, redis.raw(args))
        ours = timeless(args, encode_reply(run(keyspace, args), protocol))
        assert ours == theirs, f"seed {seed}, step {step}: {args}"
    keyspace.check()
    assert Keyspace.load(keyspace.picture().chunks(bytes_target=500)).digest() == keyspace.digest()


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("seed", seeds())
def test_random_commands_on_bits_answer_the_same_bytes(redis: RealRedis, seed: int, protocol: Literal[2, 3]) -> None:
    if protocol == 3:
        redis.raw([b"HELLO", b"3"])
    keyspace = Keyspace()
    commands = BitCommands(Random(seed))
    for step in range(COMMANDS_PER_SEED):
        args = commands.next()
        theirs, ours = redis.raw(args), encode_reply(run(keyspace, args), protocol)
        assert ours == theirs, f"seed {seed}, step {step}: {args}"
    keyspace.check()
