"""The keyspace against the real redis-server: the same random commands, the same bytes back.

A failure prints the seed, the step and the command; DIFFERENTIAL_SEED=… runs that seed alone. Times are compared by
ranges, and what has no order in Redis without order. Where we differ on purpose (limits that we name, hexadecimal
floats, floats beyond a double) nothing is sent.
"""

import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import hiredis
import pytest
from redis_bit_commands import BitCommands
from redis_stream_commands import StreamCommands

from noctule.core.keyspace.commands import COMMANDS, check_command
from noctule.core.keyspace.keyspace import Keyspace, ReadOutcome
from noctule.core.keyspace.reply import Reply
from noctule.core.keyspace.spec import CommandSpec, Scope
from noctule.core.wire.resp import encode_reply

pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

COMMANDS_PER_SEED = 2_500
START_SECONDS_MAX = 10
TIME_TOLERANCE_MS = 5_000

KEYS = [b"a", b"b", b"c", b"d", b"{tag}1", b"{tag}2", b"\xff\x00", b""]
FIELDS = [b"f", b"g", b"h", b"", b"\r\n"]
INTEGERS = [b"0", b"1", b"-1", b"7", b"-12", b"100", b"9223372036854775807", b"-9223372036854775808"]
NOT_INTEGERS = [b"", b"x", b"1.5", b"+1", b"01", b" 1", b"-0", b"1_0", b"9223372036854775808", b"1e3"]
FLOATS = [b"0.1", b"3.0e3", b"-2.5", b"1e-7", b"10.50", b"123456789.123456789", b".5", b"5.", b"-0.0", b"1e17"]
NOT_FLOATS = [b"", b"abc", b"1 ", b" 1", b"nan", b"1e", b"--1", b"1e99999", b"1e-99999", b"inf", b"-Infinity"]
VALUES = [*INTEGERS, *NOT_INTEGERS, *FLOATS, *NOT_FLOATS, b"hello", b"\x00\xff\r\n", b"x" * 300]
SET_KEYS = [b"s1", b"s2", b"s3"]
SORTED_KEYS = [b"z1", b"z2", b"z3"]
SET_MEMBERS = [b"", b"\xff\x00", b"12345678901", *(b"m%d" % number for number in range(12))]
SCORES = [b"0", b"1", b"-1", b"2", b"3.5", b"1e3", b"0.1", b"0.2", b"0.3", b"-0", b"inf", b"-inf", b"1e-7", b"1e300"]
NOT_SCORES = [b"x", b"", b" 1", b"nan", b"1e400", b"+5", b"1e17", b"5e18", b"0x1p3"]
RANKS = [b"0", b"1", b"2", b"-1", b"-2", b"5", b"-100", b"100", b"x", b"", b"9223372036854775807"]
AGGREGATES = [b"SUM", b"min", b"MAX", b"x"]
LEX_ENDS = [b"-", b"+", b"(", b"[", b"x", b""]
ITEMS = [b"a", b"b", b"", b"1", b"x" * 80]
INDICES = [b"0", b"1", b"2", b"-1", b"-2", b"5", b"-7", b"100", b"x"]
PATTERNS = [b"*", b"a*", b"?", b"[a-c]", b"[^a]", b"{tag}?", b"{tag}*", b"\\a", b"[b", b"[c-a]", b"*[0-9]"]
# Far from each other and from the boundaries of rounding, so that a slow machine cannot change what wins.
SECONDS_LEFT = [
    b"100",
    b"1000",
    b"50000",
    b"0",
    b"-5",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"x",
    b"9223372036854775",
]

SINCE: dict[bytes, tuple[int, int]] = {
    b"GETEX": (6, 2),
    b"LMOVE": (6, 2),
    b"LMPOP": (7, 0),
    b"GETDEL": (6, 2),
    b"COPY": (6, 2),
    b"EXPIRETIME": (7, 0),
    b"PEXPIRETIME": (7, 0),
}
"""The version in which Redis got the command."""

TIMES = {b"TTL": 1_000, b"PTTL": 1, b"EXPIRETIME": 1_000, b"PEXPIRETIME": 1}
UNORDERED = {b"KEYS", b"HKEYS", b"HVALS", b"SMEMBERS", b"SINTER", b"SUNION", b"SDIFF"}
BY_CHANCE = {b"SPOP", b"SRANDMEMBER", b"ZRANDMEMBER"}


@dataclass
class RealRedis:
    """A connection to a real server, one command at a time."""

    connection: socket.socket
    version: tuple[int, int]

    def raw(self, args: list[bytes]) -> bytes:
        """The bytes of the reply."""
        parts = [b"*%d\r\n" % len(args), *(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in args)]
        self.connection.sendall(b"".join(parts))
        reader = hiredis.Reader()
        received = b""
        while True:
            data = self.connection.recv(65_536)
            assert data, "the server closed the connection"
            received += data
            reader.feed(data)
            if reader.gets() is not False:
                return received


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """The socket of a redis-server that this module started and ends."""
    program = shutil.which("redis-server")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is missing, and CI must not skip the comparison with it")
        pytest.skip("redis-server is not installed (Debian: apt install redis-server)")
    with tempfile.TemporaryDirectory(prefix="redis") as folder:
        path = Path(folder, "socket")
        options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + START_SECONDS_MAX
            while not path.exists():
                assert process.poll() is None, f"redis-server ended with {process.returncode}"
                assert time.monotonic() < deadline, "redis-server did not open its socket"
                time.sleep(0.01)  # Between two looks at the condition.
            yield path
        finally:
            process.terminate()
            process.wait(timeout=START_SECONDS_MAX)


@pytest.fixture
def redis(server: Path) -> Iterator[RealRedis]:
    with closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.settimeout(START_SECONDS_MAX)
        connection.connect(str(server))
        real = RealRedis(connection, (0, 0))
        info = real.raw([b"INFO", b"server"]).decode()
        major, minor = info.split("redis_version:")[1].split(".")[:2]
        real.version = (int(major), int(minor))
        assert real.raw([b"FLUSHALL"]) == b"+OK\r\n"
        yield real


def parsed(data: bytes) -> object:
    reader = hiredis.Reader()
    reader.feed(data)
    return reader.gets()


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def run(keyspace: Keyspace, args: list[bytes]) -> Reply:
    """As a node would: check, read, and what is not a read goes through `execute`."""
    spec = check_command(args)
    if not isinstance(spec, CommandSpec):
        return spec
    reply = keyspace.read(args, wall_ms())
    return keyspace.execute(args, wall_ms()) if isinstance(reply, ReadOutcome) else reply


def same(name: bytes, ours: bytes, theirs: bytes) -> bool:
    if name in TIMES and ours[:1] == theirs[:1] == b":":
        mine, real = int(ours[1:]), int(theirs[1:])
        # Below zero are the answers "no deadline" and "no key".
        return mine == real if min(mine, real) < 0 else abs(mine - real) * TIMES[name] <= TIME_TOLERANCE_MS
    if name in UNORDERED and ours[:1] in b"*~" and theirs[:1] in b"*~":
        return sorted(parsed(ours)) == sorted(parsed(theirs))  # type: ignore[call-overload, no-any-return]
    if name == b"HGETALL" and ours[:1] == theirs[:1] and ours[:1] in b"*%":
        return pairs(parsed(ours)) == pairs(parsed(theirs))
    return ours == theirs


def pairs(reply: object) -> dict[bytes, bytes]:
    if isinstance(reply, dict):
        return reply
    assert isinstance(reply, list)
    return dict(zip(reply[::2], reply[1::2], strict=True))


class Commands:
    """Random commands, of every kind that has a handler; one in twelve is damaged."""

    def __init__(self, chance: Random, version: tuple[int, int]) -> None:
        self.chance = chance
        self.version = version
        choose = chance.choice
        key: Callable[[], bytes] = lambda: choose(KEYS)  # noqa: E731
        field: Callable[[], bytes] = lambda: choose(FIELDS)  # noqa: E731
        value: Callable[[], bytes] = lambda: choose(VALUES)  # noqa: E731
        number: Callable[[], bytes] = lambda: choose(INTEGERS * 2 + NOT_INTEGERS)  # noqa: E731
        decimal: Callable[[], bytes] = lambda: choose(FLOATS * 3 + INTEGERS + NOT_FLOATS)  # noqa: E731
        offset: Callable[[], bytes] = lambda: choose([b"0", b"1", b"2", b"5", b"40", b"-1", b"-3", b"-400", b"x"])  # noqa: E731
        self.shapes: dict[bytes, Callable[[], list[bytes]]] = {
            b"GET": lambda: [key()],
            b"SET": lambda: [key(), value(), *self.set_options()],
            b"SETNX": lambda: [key(), value()],
            b"SETEX": lambda: [key(), self.seconds(), value()],
            b"PSETEX": lambda: [key(), self.milliseconds(), value()],
            b"GETSET": lambda: [key(), value()],
            b"GETDEL": lambda: [key()],
            b"GETEX": lambda: [key(), *self.getex_options()],
            b"APPEND": lambda: [key(), value()],
            b"STRLEN": lambda: [key()],
            b"GETRANGE": lambda: [key(), offset(), offset()],
            b"SUBSTR": lambda: [key(), offset(), offset()],
            b"SETRANGE": lambda: [key(), offset(), choose([b"", b"patch"])],
            b"INCR": lambda: [key()],
            b"DECR": lambda: [key()],
            b"INCRBY": lambda: [key(), number()],
            b"DECRBY": lambda: [key(), number()],
            b"INCRBYFLOAT": lambda: [key(), decimal()],
            b"MGET": lambda: self.several(key),
            b"MSET": lambda: self.several(key, value),
            b"MSETNX": lambda: self.several(key, value),
            b"DEL": lambda: self.several(key),
            b"UNLINK": lambda: self.several(key),
            b"EXISTS": lambda: self.several(key),
            b"TOUCH": lambda: self.several(key),
            b"TYPE": lambda: [key()],
            b"EXPIRE": lambda: [key(), self.seconds(), *self.expire_options()],
            b"PEXPIRE": lambda: [key(), self.milliseconds(), *self.expire_options()],
            b"EXPIREAT": lambda: [key(), self.unix_seconds(), *self.expire_options()],
            b"PEXPIREAT": lambda: [key(), self.unix_milliseconds(), *self.expire_options()],
            b"TTL": lambda: [key()],
            b"PTTL": lambda: [key()],
            b"EXPIRETIME": lambda: [key()],
            b"PEXPIRETIME": lambda: [key()],
            b"PERSIST": lambda: [key()],
            b"RENAME": lambda: [key(), key()],
            b"RENAMENX": lambda: [key(), key()],
            b"COPY": lambda: [key(), key(), *self.some([b"REPLACE", b"replace"])],
            b"KEYS": lambda: [choose(PATTERNS)],
            b"DBSIZE": list,
            b"FLUSHALL": lambda: self.some([b"ASYNC", b"sync", b"now"]),
            b"FLUSHDB": lambda: self.some([b"ASYNC", b"sync", b"now"]),
            b"HSET": lambda: [key(), *self.several(field, value)],
            b"HMSET": lambda: [key(), *self.several(field, value)],
            b"HSETNX": lambda: [key(), field(), value()],
            b"HGET": lambda: [key(), field()],
            b"HMGET": lambda: [key(), *self.several(field)],
            b"HDEL": lambda: [key(), *self.several(field)],
            b"HGETALL": lambda: [key()],
            b"HKEYS": lambda: [key()],
            b"HVALS": lambda: [key()],
            b"HLEN": lambda: [key()],
            b"HEXISTS": lambda: [key(), field()],
            b"HSTRLEN": lambda: [key(), field()],
            b"HINCRBY": lambda: [key(), field(), number()],
            b"HINCRBYFLOAT": lambda: [key(), field(), decimal()],
            **self.set_shapes(),
            **self.sorted_set_shapes(),
            **self.list_shapes(key, lambda: choose(ITEMS), lambda: choose(INDICES)),
        }
        # Emptied too often, the keyspace would have nothing to be wrong about.
        rare = (b"FLUSHALL", b"FLUSHDB", b"KEYS", b"DBSIZE")
        self.names = [
            name for name in self.shapes if SINCE.get(name, (0, 0)) <= version for _ in range(1 if name in rare else 8)
        ]

    def set_shapes(self) -> dict[bytes, Callable[[], list[bytes]]]:
        choose = self.chance.choice
        key: Callable[[], bytes] = lambda: choose(SET_KEYS * 8 + KEYS)  # noqa: E731
        member: Callable[[], bytes] = lambda: choose(SET_MEMBERS)  # noqa: E731
        return {
            b"SADD": lambda: [key(), *self.several(member)],
            b"SREM": lambda: [key(), *self.several(member)],
            b"SCARD": lambda: [key()],
            b"SISMEMBER": lambda: [key(), member()],
            b"SMISMEMBER": lambda: [key(), *self.several(member)],
            b"SMEMBERS": lambda: [key()],
            b"SMOVE": lambda: [key(), key(), member()],
            **{name: lambda: self.several(key) for name in (b"SINTER", b"SUNION", b"SDIFF")},
            **{name: lambda: [key(), *self.several(key)] for name in (b"SINTERSTORE", b"SUNIONSTORE", b"SDIFFSTORE")},
            b"SINTERCARD": lambda: [*self.counted(key), *choose([[], [], [b"limit", choose(RANKS)]])],
        }

    def sorted_set_shapes(self) -> dict[bytes, Callable[[], list[bytes]]]:
        choose = self.chance.choice
        key: Callable[[], bytes] = lambda: choose(SORTED_KEYS * 8 + SET_KEYS + KEYS)  # noqa: E731
        member: Callable[[], bytes] = lambda: choose(SET_MEMBERS)  # noqa: E731
        score: Callable[[], bytes] = lambda: choose(SCORES * 9 + NOT_SCORES)  # noqa: E731
        end: Callable[[], bytes] = lambda: choose([b"", b"", b"("]) + score()  # noqa: E731
        rank: Callable[[], bytes] = lambda: choose(RANKS)  # noqa: E731
        limit: Callable[[], list[bytes]] = lambda: choose([[], [b"LIMIT", rank(), rank()]])  # noqa: E731
        scores: Callable[[], list[bytes]] = lambda: choose([[], [b"WITHSCORES"]])  # noqa: E731
        weights: Callable[[], list[bytes]] = lambda: choose([[], [b"WEIGHTS", score(), score()]])  # noqa: E731
        aggregate: Callable[[], list[bytes]] = lambda: choose([[], [b"aggregate", choose(AGGREGATES)]])  # noqa: E731

        def lex() -> list[bytes]:
            # What a range of members is where the scores differ, Redis leaves open: this key has the score 0 only.
            return [b"lex", *(choose([*LEX_ENDS, b"[" + member(), b"(" + member()]) for _ in range(2))]

        def operands() -> list[bytes]:
            return choose([self.counted(key), [b"2", key(), key(), *weights(), *aggregate()]])

        def by_rank_or_score() -> list[bytes]:
            return choose([[rank(), rank()], [end(), end(), b"BYSCORE", *limit()]]) + self.some([b"rev"])

        return {
            b"ZADD": lambda: choose(
                [
                    [key(), *self.some([b"NX", b"xx", b"GT", b"LT", b"CH", b"INCR"]), *self.several(score, member)],
                    [b"lex", b"0", member(), b"0", member()],
                ]
            ),
            b"ZREM": lambda: [key(), *self.several(member)],
            b"ZCARD": lambda: [key()],
            b"ZSCORE": lambda: [key(), member()],
            b"ZMSCORE": lambda: [key(), *self.several(member)],
            b"ZINCRBY": lambda: [key(), score(), member()],
            b"ZRANK": lambda: [key(), member()],
            b"ZREVRANK": lambda: [key(), member()],
            b"ZCOUNT": lambda: [key(), end(), end()],
            b"ZLEXCOUNT": lex,
            b"ZRANGE": lambda: choose(
                [[key(), *by_rank_or_score(), *scores()], [*lex(), b"BYLEX", *limit(), *scores()]]
            ),
            b"ZRANGESTORE": lambda: [key(), key(), *by_rank_or_score()],
            b"ZRANGEBYSCORE": lambda: [key(), end(), end(), *scores(), *limit()],
            b"ZREVRANGEBYSCORE": lambda: [key(), end(), end(), *limit(), *scores()],
            b"ZRANGEBYLEX": lambda: [*lex(), *limit()],
            b"ZREVRANGEBYLEX": lambda: [*lex(), *limit()],
            b"ZREVRANGE": lambda: [key(), rank(), rank(), *scores()],
            b"ZREMRANGEBYRANK": lambda: [key(), rank(), rank()],
            b"ZREMRANGEBYSCORE": lambda: [key(), end(), end()],
            b"ZREMRANGEBYLEX": lex,
            b"ZPOPMIN": lambda: [key(), *self.some(RANKS)],
            b"ZPOPMAX": lambda: [key(), *self.some(RANKS)],
            b"ZMPOP": lambda: [*self.counted(key), choose([b"MIN", b"max", b"x"]), *choose([[], [b"COUNT", rank()]])],
            b"ZUNION": lambda: [*operands(), *scores()],
            b"ZINTER": lambda: [*operands(), *scores()],
            b"ZDIFF": lambda: [*self.counted(key), *scores()],
            b"ZUNIONSTORE": lambda: [key(), *operands()],
            b"ZINTERSTORE": lambda: [key(), *operands()],
            b"ZDIFFSTORE": lambda: [key(), *self.counted(key)],
            b"ZINTERCARD": lambda: [*self.counted(key), *choose([[], [b"LIMIT", rank()]])],
        }

    def counted(self, key: Callable[[], bytes]) -> list[bytes]:
        """Some keys, and before them their number, which is seldom wrong."""
        keys = self.several(key)
        return [b"%d" % self.chance.choice([len(keys)] * 15 + [0, -1, len(keys) - 1, len(keys) + 1]), *keys]

    def list_shapes(
        self, key: Callable[[], bytes], item: Callable[[], bytes], index: Callable[[], bytes]
    ) -> dict[bytes, Callable[[], list[bytes]]]:
        choose = self.chance.choice
        side: Callable[[], bytes] = lambda: choose([b"LEFT", b"right", b"RIGHT", b"left", b"up"])  # noqa: E731

        def options() -> list[bytes]:
            return self.some([b"RANK", index(), b"COUNT", index(), b"MAXLEN", index(), b"bogus"])

        def first() -> list[bytes]:
            keys = self.several(key)
            numkeys = choose([b"%d" % len(keys)] * 9 + [b"0", b"x"])
            return [numkeys, *keys, side(), *choose([[], [], [b"COUNT", index()], [b"COUNT"]])]

        return {
            b"LPUSH": lambda: [key(), *self.several(item)],
            b"RPUSH": lambda: [key(), *self.several(item)],
            b"LPUSHX": lambda: [key(), *self.several(item)],
            b"RPUSHX": lambda: [key(), *self.several(item)],
            b"LPOP": lambda: [key(), *choose([[], [index()]])],
            b"RPOP": lambda: [key(), *choose([[], [index()]])],
            b"LLEN": lambda: [key()],
            b"LINDEX": lambda: [key(), index()],
            b"LRANGE": lambda: [key(), index(), index()],
            b"LTRIM": lambda: [key(), index(), index()],
            b"LSET": lambda: [key(), index(), item()],
            b"LREM": lambda: [key(), index(), item()],
            b"LINSERT": lambda: [key(), choose([b"before", b"AFTER", b"over"]), item(), item()],
            b"LPOS": lambda: [key(), item(), *options()],
            b"RPOPLPUSH": lambda: [key(), key()],
            b"LMOVE": lambda: [key(), key(), side(), side()],
            b"LMPOP": first,
        }

    def next(self) -> list[bytes]:
        name = self.chance.choice(self.names)
        args = [name if self.chance.random() < 0.9 else name.lower().capitalize(), *self.shapes[name]()]
        if self.chance.random() < 1 / 12 and name not in (b"FLUSHALL", b"FLUSHDB"):
            self.damage(args)
        return args

    def damage(self, args: list[bytes]) -> None:
        match self.chance.randrange(3):
            case 0:
                args.pop()
            case 1:
                args.append(self.chance.choice([b"NX", b"EX", b"bogus", b""]))
            case 2:
                args[0] += b"Q"
        if not args:
            args.append(b"")

    def several(self, *kinds: Callable[[], bytes]) -> list[bytes]:
        return [kind() for _ in range(self.chance.randint(1, 4)) for kind in kinds]

    def some(self, words: list[bytes]) -> list[bytes]:
        return [word for word in words if self.chance.random() < 0.6 / len(words)]

    def seconds(self) -> bytes:
        return self.chance.choice(SECONDS_LEFT)

    def milliseconds(self) -> bytes:
        return self.chance.choice([b"100000", b"1000000", b"50000000", *SECONDS_LEFT[3:8]])

    def unix_seconds(self) -> bytes:
        return self.chance.choice(
            [
                b"1",
                b"-1",
                b"x",
                b"9223372036854775807",
                *(b"%d" % (wall_ms() // 1_000 + ahead) for ahead in (1_000, 5_000)),
            ]
        )

    def unix_milliseconds(self) -> bytes:
        return self.chance.choice(
            [b"1", b"-1", b"x", *(b"%d" % (wall_ms() + ahead) for ahead in (1_000_000, 5_000_000))]
        )

    def deadline_option(self) -> list[bytes]:
        kinds = [(b"EX", self.seconds), (b"pX", self.milliseconds)]
        if self.version >= (6, 2):
            kinds += [(b"EXAT", self.unix_seconds), (b"PXAT", self.unix_milliseconds)]
        word, time_of = self.chance.choice(kinds)
        return [word, time_of()]

    def set_options(self) -> list[bytes]:
        options: list[list[bytes]] = [
            [],
            [b"NX"],
            [b"xx"],
            [b"KEEPTTL"],
            self.deadline_option(),
            self.deadline_option(),
        ]
        if self.version >= (7, 0):
            options += [[b"GET"], [b"get"]]
        chosen = self.chance.sample(options, k=self.chance.choice([0, 0, 1, 1, 2, 3]))
        return [word for option in chosen for word in option]

    def getex_options(self) -> list[bytes]:
        options = [[], [b"PERSIST"], self.deadline_option(), self.deadline_option()]
        return [word for option in self.chance.sample(options, k=self.chance.choice([0, 1, 1, 2])) for word in option]

    def expire_options(self) -> list[bytes]:
        if self.version < (7, 0):
            return []
        return self.some([b"NX", b"xx", b"GT", b"lt", b"bogus"])


def seeds() -> list[int]:
    chosen = os.environ.get("DIFFERENTIAL_SEED")
    return [int(chosen)] if chosen else list(range(8))


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("seed", seeds())
def test_random_commands_answer_the_same_bytes(redis: RealRedis, seed: int, protocol: Literal[2, 3]) -> None:
    """Every command's reply is byte for byte that of Redis, in both protocols, and the data stays sound."""
    if protocol == 3:
        redis.raw([b"HELLO", b"3"])
    keyspace = Keyspace()
    commands = Commands(Random(seed), redis.version)
    keys_most = 0
    for step in range(COMMANDS_PER_SEED):
        args = commands.next()
        if args[0].upper() == b"DBSIZE":
            # Which expired keys are still counted differs after an error: Redis removes a command's keys as it comes to
            # each, we all of them before. So both meet every key first.
            meeting = [b"EXISTS", *KEYS, *SET_KEYS, *SORTED_KEYS, b"lex"]
            assert encode_reply(run(keyspace, meeting), protocol) == redis.raw(meeting)
        theirs = redis.raw(args)
        ours = encode_reply(run(keyspace, args), protocol)
        assert same(args[0].upper(), ours, theirs), f"seed {seed}, step {step}: {args}"
        keys_most = max(keys_most, keyspace.key_count)
    keyspace.check()
    assert keys_most > 0


def test_every_command_of_redis_with_a_handler_is_compared(redis: RealRedis) -> None:
    kinds = (Commands(Random(0), redis.version), StreamCommands(Random(0)), BitCommands(Random(0)))
    compared = {name for commands in kinds for name in commands.shapes}
    handled = {spec.name for spec in COMMANDS.values() if spec.handler and spec.scope is not Scope.INTERNAL}
    ours = {name for name in handled if parsed(redis.raw([b"COMMAND", b"INFO", name])) == [None]}
    assert {name.partition(b".")[0] for name in ours} == {b"BUCKET", b"COUNTER", b"CRDT", b"LWW", b"ORSET"}
    handled -= ours
    blocking = {spec.name for spec in COMMANDS.values() if spec.blocking is not None}  # test_blocking.py
    # The scans have cursors, which are each server's own: they are compared by what a whole walk returns.
    assert handled - compared - blocking == {b"SCAN", b"HSCAN", b"SSCAN", b"ZSCAN", b"RANDOMKEY"} | BY_CHANCE


def test_command_table_is_that_of_redis(redis: RealRedis) -> None:
    """Arity and the positions of keys, and whether it writes."""
    for spec in COMMANDS.values():
        row = parsed(redis.raw([b"COMMAND", b"INFO", spec.name]))
        assert isinstance(row, list)
        if row[0] is None or spec.scope is Scope.CONNECTION:
            continue
        _, arity, flags, first, last, step = row[0][:6]
        if row[0][9]:  # Its subcommands say whether they write.
            assert arity == spec.arity
            continue
        theirs = (arity, first, last, step, b"write" in flags, b"denyoom" in flags, b"fast" in flags)
        ours = (
            spec.arity,
            spec.first_key,
            spec.last_key,
            spec.key_step,
            spec.is_write,
            *(flag in spec.flags for flag in (b"denyoom", b"fast")),
        )
        assert ours == theirs, spec.name


def test_glob_patterns_match_the_same_keys(redis: RealRedis) -> None:
    chance = Random(1)
    keyspace = Keyspace()
    for length in range(1, 6):
        for _ in range(60):
            key = bytes(chance.choices(b"abc-]^\\", k=length))
            for side in (redis.raw, lambda args: run(keyspace, args)):
                side([b"SET", key, b""])
    for _ in range(1_500):
        pattern = bytes(chance.choices(b"abc*?[]^-\\", k=chance.randint(1, 8)))
        ours = run(keyspace, [b"KEYS", pattern])
        theirs = parsed(redis.raw([b"KEYS", pattern]))
        assert isinstance(theirs, list)
        assert ours == sorted(theirs), pattern


def test_float_sums_have_the_same_digits(redis: RealRedis) -> None:
    chance = Random(2)
    keyspace = Keyspace()
    for step in range(1_500):
        scale = chance.choice([1e-12, 1e-3, 1, 1e6, 1e15, 1e25])
        args = [b"INCRBYFLOAT", b"sum", repr(chance.uniform(-scale, scale)).encode()]
        assert encode_reply(run(keyspace, args), 2) == redis.raw(args), f"step {step}: {args}"
        if step % 7 == 0:
            run(keyspace, [b"DEL", b"sum"])
            redis.raw([b"DEL", b"sum"])


def test_scores_have_the_same_digits(redis: RealRedis) -> None:
    chance = Random(3)
    keyspace = Keyspace()
    kinds: list[Callable[[], float]] = [
        lambda: struct.unpack("d", chance.randbytes(8))[0],  # type: ignore[no-any-return]
        lambda: chance.uniform(-1, 1) * 10.0 ** chance.randrange(-20, 25),
        lambda: round(chance.uniform(-1e6, 1e6), chance.randrange(6)),
        lambda: float(chance.randrange(-(2**63), 2**63) >> chance.randrange(60)),
    ]
    for step in range(2_000):
        score = repr(chance.choice(kinds)()).encode()
        for args in (
            [b"DEL", b"z"],
            [b"ZADD", b"z", b"INCR", score, b"m"],
            [b"ZSCORE", b"z", b"m"],
            [b"ZSCAN", b"z", b"0"],
        ):
            assert encode_reply(run(keyspace, args), 2) == redis.raw(args), f"step {step}: {args} of {score!r}"


def walk(send: Callable[[list[bytes]], object], before: list[bytes], after: list[bytes]) -> list[bytes]:
    """All that a scan returns until its cursor is 0."""
    found: list[bytes] = []
    cursor = b"0"
    for _ in range(10_000):
        reply = send([*before, cursor, *after])
        assert isinstance(reply, list)
        cursor = reply[0]
        found += reply[1]
        if cursor == b"0":
            return found
    raise AssertionError("the scan does not end")


def test_scans_return_the_same_names(redis: RealRedis) -> None:
    keyspace = Keyspace()
    for number in range(2_000):
        for args in (
            [b"SET", b"key%d" % number, b""],
            [b"HSET", b"hash%d" % (number % 3), b"f%d" % number, b"1"],
            [b"SADD", b"set", b"m%d" % number],
            [b"ZADD", b"zset", b"%d.5" % number, b"m%d" % number],
        ):
            assert encode_reply(run(keyspace, args), 2) == redis.raw(args)
    for before, after in (
        ([b"SCAN"], []),
        ([b"SCAN"], [b"COUNT", b"100", b"MATCH", b"key?7*"]),
        ([b"SCAN"], [b"type", b"hash"]),
        ([b"SCAN"], [b"TYPE", b"list"]),
        ([b"HSCAN", b"hash1"], [b"COUNT", b"7"]),
        ([b"HSCAN", b"hash1"], [b"MATCH", b"f?9"]),
        ([b"HSCAN", b"absent"], [b"MATCH"]),
        ([b"SSCAN", b"set"], []),
        ([b"SSCAN", b"set"], [b"MATCH", b"m?9*", b"COUNT", b"50"]),
        ([b"ZSCAN", b"zset"], [b"COUNT", b"7"]),
        ([b"ZSCAN", b"zset"], [b"MATCH", b"m?9*"]),
    ):
        ours = walk(lambda args: run(keyspace, args), before, after)
        theirs = walk(lambda args: parsed(redis.raw(args)), before, after)
        assert set(ours) == set(theirs), (before, after)
        assert len(ours) == len(theirs) or before == [b"SCAN"]


@pytest.mark.parametrize(
    "args",
    [
        [b"SCAN", b"x"],
        [b"SCAN", b"0", b"COUNT"],
        [b"SCAN", b"0", b"COUNT", b"0"],
        [b"SCAN", b"0", b"COUNT", b"x"],
        [b"SCAN", b"0", b"bogus", b"1"],
        [b"HSCAN", b"string", b"0"],
        [b"HSCAN", b"hash", b"x"],
        [b"HSCAN", b"hash", b"0", b"TYPE", b"hash"],
        [b"HSCAN", b"absent", b"0", b"COUNT", b"0"],
        [b"SSCAN", b"string", b"0"],
        [b"ZSCAN", b"absent", b"x"],
        [b"SPOP", b"set", b"x"],
        [b"SPOP", b"set", b"1", b"2"],
        [b"SPOP", b"absent", b"2"],
        [b"SPOP", b"string"],
        [b"SRANDMEMBER", b"set", b"x", b"y"],
        [b"SRANDMEMBER", b"set", b"-9223372036854775808"],
        [b"SRANDMEMBER", b"absent", b"-3"],
        [b"ZRANDMEMBER", b"absent", b"x", b"y"],
        [b"ZRANDMEMBER", b"absent", b"2", b"WITHSCORE"],
        [b"ZRANDMEMBER", b"string", b"9223372036854775807", b"WITHSCORES"],
        [b"nonsense", b"x" * 200, b"y"],
        [b"nonsense" * 30, *[b"argument"] * 30],
        [b"line\r\nbreak", b"a\nb"],
        [b"nonsense"],
        [b"get"],
        [b"COPY", b"string", b"other", b"DB"],
        [b"COPY", b"string", b"other", b"DB", b"x"],
        [b"COPY", b"string", b"string"],
        [b"MSET", b"a", b"1", b"b"],
        [b"HSET", b"hash", b"f", b"1", b"g"],
    ],
)
def test_errors_have_the_same_words(redis: RealRedis, args: list[bytes]) -> None:
    keyspace = Keyspace()
    for prepare in ([b"SET", b"string", b"x"], [b"HSET", b"hash", b"f", b"1"]):
        assert encode_reply(run(keyspace, prepare), 2) == redis.raw(prepare)
    assert encode_reply(run(keyspace, args), 2) == redis.raw(args)


def test_a_cursor_without_digits_is_zero(redis: RealRedis) -> None:
    """Compared over no keys, for their order is that server's own."""
    assert encode_reply(run(Keyspace(), [b"SCAN", b""]), 2) == redis.raw([b"SCAN", b""])


def test_keys_expire_in_both(redis: RealRedis) -> None:
    """After the deadline the key is gone for every command, in the same way."""
    keyspace = Keyspace()
    for args in ([b"SET", b"short", b"1", b"PX", b"30"], [b"HSET", b"h", b"f", b"1"], [b"PEXPIRE", b"h", b"30"]):
        assert encode_reply(run(keyspace, args), 2) == redis.raw(args)
    deadline = time.monotonic() + START_SECONDS_MAX
    while run(keyspace, [b"EXISTS", b"short", b"h"]) != 0 or redis.raw([b"EXISTS", b"short", b"h"]) != b":0\r\n":
        assert time.monotonic() < deadline, "the keys do not expire"
        time.sleep(0.005)  # Between two looks at the condition.
    for args in (
        [b"TTL", b"short"],
        [b"TYPE", b"h"],
        [b"HGETALL", b"h"],
        [b"SETNX", b"short", b"2"],
        [b"TTL", b"short"],
        [b"DBSIZE"],
    ):
        assert encode_reply(run(keyspace, args), 2) == redis.raw(args), args
