"""Transactions and databases against the real redis-server: the same random commands, the same bytes back.

Two connections take turns, so that one changes what the other watches, and may change it back.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from random import Random

import hiredis
import pytest
from engines import RedisServer
from resp_served import Served, command, serving

pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]
pytest_plugins = ("engines",)

STEPS = 1_500
DATABASES = [b"0", b"1", b"2", b"15"]
KEYS = [b"a", b"b", b"c", b"{a}x", b""]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def served() -> Iterator[Served]:
    with serving("asyncio") as server:
        yield server


class Client:
    """A raw connection."""

    def __init__(self, port: int, protocol: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.protocol = protocol
        self.ask([b"HELLO", b"%d" % protocol])

    def ask(self, *commands: list[bytes]) -> bytes:
        """Send all at once; the bytes of their replies."""
        self.socket.sendall(b"".join(command(*args) for args in commands))
        reader = hiredis.Reader()
        received = b""
        for _ in commands:
            while reader.gets() is False:
                data = self.socket.recv(65_536)
                assert data, "the server closed the connection"
                received += data
                reader.feed(data)
        return received


Connect = Callable[[int, int], Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects to a port; all connections are closed at the end."""
    with ExitStack() as stack:

        def to(port: int, protocol: int) -> Client:
            client = Client(port, protocol)
            stack.callback(client.socket.close)
            return client

        yield to


class Grammar:
    """Draws commands."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.fresh = count(1)

    def key(self) -> bytes:
        return self.chance.choice(KEYS)

    def line(self) -> list[bytes]:
        draw = self.chance.random()
        if draw < 0.12:
            return [b"MULTI"]
        if draw < 0.26:
            return [b"EXEC"]
        if draw < 0.29:
            return [b"DISCARD"]
        if draw < 0.39:
            return [b"WATCH", *(self.key() for _ in range(self.chance.randint(1, 2)))]
        if draw < 0.41:
            return [b"UNWATCH"]
        if draw < 0.47:
            return [b"SELECT", self.chance.choice(DATABASES)]
        if draw < 0.51:
            return self.wrong()
        return self.plain()

    def plain(self) -> list[bytes]:
        value = b"v%d" % next(self.fresh)
        return self.chance.choice(
            [
                [b"SET", self.key(), value],
                [b"SET", self.key(), value, b"PX", b"1000000"],
                [b"GET", self.key()],
                [b"MGET", self.key(), self.key()],
                [b"MSET", self.key(), value, self.key(), value],
                [b"DEL", self.key(), self.key()],
                [b"APPEND", self.key(), value],
                [b"HSET", self.key(), value, value],
                [b"HGETALL", self.key()],
                [b"RENAME", self.key(), self.key()],
                [b"COPY", self.key(), self.key(), b"REPLACE"],
                [b"COPY", self.key(), self.key(), b"DB", self.chance.choice(DATABASES), b"REPLACE"],
                [b"INCR", self.key()],
                [b"PING"],
                [b"ECHO", value],
                [b"PUBLISH", b"nobody", value],
                [b"CLIENT", b"GETNAME"],
                [b"CONFIG", b"GET", b"databases"],
                [b"TYPE", self.key()],
                [b"SADD", self.key(), value],
                [b"ZADD", self.key(), b"1", value],
                [b"ZMPOP", b"2", self.key(), self.key(), b"MIN"],
                [b"ZUNIONSTORE", self.key(), b"2", self.key(), self.key()],
            ]
        )

    def everything(self) -> list[bytes]:
        """What is refused inside a transaction in database 0 here."""
        return self.chance.choice([[b"DBSIZE"], [b"FLUSHDB"], [b"KEYS", b"a"], [b"KEYS", b"{a*"]])

    def wrong(self) -> list[bytes]:
        return self.chance.choice(
            [
                [b"NOPE", b"x"],
                [b"GET"],
                [b"SELECT", b"16"],
                [b"SELECT", b"x"],
                [b"COPY", b"a", b"b", b"DB", b"99"],
                [b"COPY", b"a", b"b", b"DB", b"x"],
                [b"COPY", b"a", b"b", b"DB"],
                [b"MULTI", b"x"],
                [b"EXEC", b"x"],
                [b"DISCARD", b"x"],
                [b"WATCH"],
                [b"UNWATCH", b"x"],
                [b"CLIENT", b"NOPE"],
                [b"CLIENT", b"GETNAME", b"x"],
            ]
        )


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_same_commands_have_the_same_replies(
    served: Served, redis: RedisServer, connect: Connect, protocol: int, seed: int
) -> None:
    chance = Random(seed)
    grammar = Grammar(chance)
    pairs = [(connect(served.port, protocol), connect(redis.port, protocol)) for _ in range(2)]
    is_inside = [False, False]
    seen: list[tuple[int, list[list[bytes]]]] = []
    for step in range(STEPS):
        who = chance.randrange(2)
        batch = [grammar.line() for _ in range(chance.choice([1, 1, 1, 4]))]
        if not is_inside[who] and chance.random() < 0.1 and batch[0] != [b"MULTI"]:
            batch.insert(0, grammar.everything())
        for line in batch:
            if line == [b"MULTI"]:
                is_inside[who] = True
            elif line[0] in (b"EXEC", b"DISCARD") and (line[0] == b"EXEC" or len(line) == 1):
                is_inside[who] = False
        seen.append((who, batch))
        ours, theirs = (client.ask(*batch) for client in pairs[who])
        assert ours == theirs, f"seed {seed}, step {step}: {seen[-8:]}"


def test_what_reset_and_an_end_of_the_connection_leave(served: Served, redis: RedisServer, connect: Connect) -> None:
    for port in (served.port, redis.port):
        client = connect(port, 2)
        assert client.ask([b"SELECT", b"3"], [b"MULTI"], [b"SET", b"a", b"1"]) == b"+OK\r\n+OK\r\n+QUEUED\r\n"
        assert client.ask([b"RESET"], [b"EXEC"]) == b"+RESET\r\n-ERR EXEC without MULTI\r\n"
        assert client.ask([b"SET", b"b", b"0"]) == b"+OK\r\n"
        client.ask([b"MULTI"], [b"SET", b"b", b"1"])
        client.socket.close()
        client = connect(port, 2)
        assert client.ask([b"MGET", b"a", b"b"]) == b"*2\r\n$-1\r\n$1\r\n0\r\n"
        assert client.ask([b"SELECT", b"3"], [b"GET", b"a"]) == b"+OK\r\n$-1\r\n"


def test_what_switches_inside_a_transaction_holds_for_what_comes_behind_it(
    served: Served, redis: RedisServer, connect: Connect
) -> None:
    for port in (served.port, redis.port):
        client = connect(port, 2)
        replies = client.ask(
            [b"MULTI"],
            [b"SELECT", b"5"],
            [b"SET", b"k", b"1"],
            [b"EXEC"],
            [b"GET", b"k"],
            [b"SELECT", b"0"],
            [b"GET", b"k"],
        )
        assert replies == b"+OK\r\n" + b"+QUEUED\r\n" * 2 + b"*2\r\n+OK\r\n+OK\r\n$1\r\n1\r\n+OK\r\n$-1\r\n"
        other = connect(port, 2)
        client.ask([b"WATCH", b"w"])
        other.ask([b"SET", b"w", b"1"])
        assert client.ask([b"MULTI"], [b"SELECT", b"5"], [b"EXEC"], [b"GET", b"k"]).endswith(b"*-1\r\n$-1\r\n")
