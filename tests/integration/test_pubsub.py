"""Publishing and subscribing with real clients: as one Redis does it, byte for byte, and across real nodes."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
from cluster_processes import CATCHES_UP_S_MAX, Door, StartNodes, until, until_ready
from engines import engine_or_skip
from resp_served import DEADLINE_S, Served, command, serving, wait_until

from noctule.core.pubsub.message import Kind
from noctule.servers.resp_connection import PUBSUB_OUTPUT_BYTES_MAX

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("cluster_processes", "engines")
pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("clients_leave_connections")]

STEPS = 400
CHANNELS = [b"a", b"b", b"ab", b"\xff\r\n"]
PATTERNS = [b"a*", b"*", b"?", b"[ab]"]


@pytest.fixture(params=["asyncio", "uvloop"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving(request.param) as server:
        yield server


# As one Redis ---------------------------------------------------------------------------------------------------------


class Talk:
    """One raw connection; what comes is cut by PINGs, whose words come back behind everything else."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self._pings = 0

    def send(self, *args: bytes) -> None:
        self._socket.sendall(command(*args))

    def heard(self) -> bytes:
        """Everything since the last time."""
        self._pings += 1
        end = b"ping-%d\r\n" % self._pings
        self.send(b"PING", end[:-2])
        data = b""
        while not data.endswith(end):
            chunk = self._socket.recv(1 << 16)
            assert chunk, "closed"
            data += chunk
        return data

    def close(self) -> None:
        self._socket.close()


def random_command(chance: Random) -> list[bytes]:
    kind = chance.choice([b"", b"p", b"s"])
    names = PATTERNS if kind == b"p" else CHANNELS
    some = [chance.choice(names) for _ in range(chance.randrange(1, 4))]
    commands = [
        [kind + b"subscribe", *some],
        [kind.upper() + b"UNSUBSCRIBE", *chance.choice([some, some, []])],
        [chance.choice([b"PUBLISH", b"SPUBLISH"]), chance.choice(CHANNELS), b"%d" % chance.randrange(1_000)],
        [chance.choice([b"PUBLISH", b"SPUBLISH"]), chance.choice(CHANNELS), b"x" * chance.randrange(300)],
        [
            b"PUBSUB",
            *chance.choice([[b"NUMPAT"], [b"NUMSUB", *some], [b"SHARDNUMSUB", *some], [b"HELP"], [b"NUMPAT", b"x"]]),
        ],
        [b"PUBSUB", chance.choice([b"CHANNELS", b"SHARDCHANNELS", b"channels"]), *chance.choice([[], [b"a*"], some])],
        chance.choice([[b"GET", b"k"], [b"ECHO"], [b"SUBSCRIBE"], [b"PUBLISH", b"a"], [b"PUBSUB"], [b"PUBSUB", b"NO"]]),
    ]
    return chance.choice(commands)


@pytest.mark.engine("redis-server")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("protocol", [2, 3])
def test_the_same_bytes_as_redis(served: Served, redis_server: "RedisServer", protocol: int, seed: int) -> None:
    """Two connections subscribe, publish and ask at random; what has no order in Redis is compared without order."""
    chance = Random(seed)
    talks = [(Talk(served.port), Talk(redis_server.port)) for _ in range(2)]
    for pair in talks:
        for talk in pair:
            talk.send(b"HELLO", b"%d" % protocol)
            assert b"proto" in talk.heard()
    for step in range(STEPS):
        # Now and then everyone leaves, or RESP2 connections would not publish any more.
        args = random_command(chance) if step % 20 else [b"RESET"]
        who = talks if args == [b"RESET"] else [chance.choice(talks)]
        for pair in who:
            for talk in pair:
                talk.send(*args)
                if args == [b"RESET"]:
                    talk.send(b"HELLO", b"%d" % protocol)
        for pair in [*who, *(pair for pair in talks if pair not in who)]:
            ours, theirs = (talk.heard() for talk in pair)
            if args == [b"RESET"]:
                continue
            if len(args) == 1 or args[0] == b"PUBSUB" or b"PUBLISH" in args[0]:
                assert sorted(ours.split(b"\r\n")) == sorted(theirs.split(b"\r\n")), (seed, step, args)
            else:
                assert ours == theirs, (seed, step, args)
    for pair in talks:
        for talk in pair:
            talk.close()
    served.server.pubsub.subscriptions.check()


def test_a_subscriber_that_never_reads_is_closed_and_others_go_on(served: Served) -> None:
    """32 MiB in our buffers, and what the kernel's hold."""
    stuck, reader, publisher = (served.connect() for _ in range(3))
    for connection in (stuck, reader):
        connection.sendall(command(b"SUBSCRIBE", b"c"))
        assert connection.recv(100).startswith(b"*3\r\n$9\r\nsubscribe")
    payload = b"v" * (1 << 20)
    message = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1048576\r\n" + payload + b"\r\n"
    for number in range(2 * PUBSUB_OUTPUT_BYTES_MAX >> 20):
        publisher.sendall(command(b"PUBLISH", b"c", payload))
        assert publisher.recv(100) in (b":2\r\n", b":1\r\n")
        received = b""
        while len(received) < len(message):
            received += reader.recv(1 << 20)
        assert received == message, number
    wait_until(lambda: served.server.clients_dropped_total == 1)
    wait_until(lambda: len(list(served.server.clients())) == 2)
    publisher.sendall(command(b"PUBSUB", b"NUMSUB", b"c"))
    assert publisher.recv(100) == b"*2\r\n$1\r\nc\r\n:1\r\n"
    for connection in (stuck, reader, publisher):
        connection.close()


# Across nodes ---------------------------------------------------------------------------------------------------------


def next_message(pubsub: Any) -> tuple[str, bytes | None, bytes, bytes]:
    """Type, pattern, channel and payload of what comes next, but for confirmations."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        message = pubsub.get_message(ignore_subscribe_messages=True, timeout=0.5)
        if message is not None:
            return message["type"], message["pattern"], message["channel"], message["data"]
    raise AssertionError("no message came in time")


def confirm(pubsub: Any, count: int) -> None:
    """Read that many confirmations."""
    for _ in range(count):
        assert pubsub.get_message(timeout=DEADLINE_S) is not None


@pytest.mark.parametrize("protocol", [2, 3])
async def test_what_is_published_on_one_node_is_heard_on_another(doors: list[Door], protocol: int) -> None:
    """redis-py, then its asyncio twin, then redis-cli, all on node 3; who publishes is on node 1."""
    one, three = (redis.Redis(port=doors[place].resp_port, protocol=protocol) for place in (0, 2))
    pubsub = three.pubsub()
    pubsub.subscribe("news")
    pubsub.psubscribe("n?ws")
    pubsub.ssubscribe("shard")
    confirm(pubsub, 3)
    assert one.publish("news", "1") == 0, "nobody on this node"
    assert next_message(pubsub) == ("message", None, b"news", b"1")
    assert next_message(pubsub) == ("pmessage", b"n?ws", b"news", b"1")
    assert one.execute_command("SPUBLISH", "shard", "2") == 0
    message = pubsub.get_message(timeout=DEADLINE_S)
    assert (message["type"], message["channel"], message["data"]) == ("smessage", b"shard", b"2")
    assert three.publish("news", "3") == 2
    assert [next_message(pubsub)[3] for _ in range(2)] == [b"3", b"3"]
    with one.pipeline(transaction=False) as pipeline:
        for number in range(1_000):
            pipeline.publish("news", number)
        assert pipeline.execute() == [0] * 1_000
    heard = [next_message(pubsub) for _ in range(2_000)]
    for kind in ("message", "pmessage"):
        assert [message[3] for message in heard if message[0] == kind] == [b"%d" % number for number in range(1_000)]
    assert three.pubsub_numsub("news") == [(b"news", 1)]
    assert one.pubsub_numsub("news") == [(b"news", 0)]
    pubsub.close()
    one.close()
    three.close()

    async with (
        redis.asyncio.Redis(port=doors[0].resp_port, protocol=protocol) as publisher,
        redis.asyncio.Redis(port=doors[2].resp_port, protocol=protocol) as listener,
        listener.pubsub() as hearing,
    ):
        await hearing.subscribe("news")
        assert (await hearing.get_message(timeout=DEADLINE_S))["type"] == "subscribe"
        for number in range(20):
            # Whoever hears of a change sees it, though both came in one pipeline.
            await publisher.pipeline(transaction=False).set("k", number).publish("news", number).execute()
            message = await hearing.get_message(timeout=DEADLINE_S)
            assert (message["type"], message["data"]) == ("message", b"%d" % number)
            assert await listener.get("k") == b"%d" % number


def test_redis_cli_subscribes(served: Served) -> None:
    """It prints what it hears until its pipe is closed."""
    words = [engine_or_skip("redis-cli"), "-p", str(served.port), "SUBSCRIBE", "news", "more"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as cli:
        try:
            wait_until(lambda: len(served.server.pubsub.subscriptions.names(Kind.CHANNEL)) == 2)
            served.loop.call_soon_threadsafe(lambda: served.server.pubsub.publish(b"more", b"hello", sharded=False))
            assert cli.stdout is not None
            lines = [cli.stdout.readline().rstrip("\n") for _ in range(9)]
        finally:
            cli.send_signal(signal.SIGTERM)
    assert lines == ["subscribe", "news", "1", "subscribe", "more", "2", "message", "more", "hello"]


async def heard_through(publisher: redis.asyncio.Redis, hearing: Any, word: str) -> bool:
    """Publish once, and whether it is heard soon."""
    with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
        await publisher.publish("news", word)
        while (message := await hearing.get_message(timeout=0.3)) is not None:
            if message["data"] == word.encode():
                return True
    return False


async def test_a_node_that_was_killed_and_started_again_takes_part_again(start_nodes: StartNodes) -> None:
    """What is published meanwhile reaches those who are there; clients of the lost node subscribe anew."""
    cluster = start_nodes(partitions=2)
    found = {node: life.wait_serving() for node, life in cluster.start_all().items()}
    await until_ready(*found.values())
    async with contextlib.AsyncExitStack() as stack:
        clients = {node: await stack.enter_async_context(door.client()) for node, door in found.items()}
        hearing = {node: await stack.enter_async_context(clients[node].pubsub()) for node in (1, 2)}
        for pubsub in hearing.values():
            await pubsub.subscribe("news")

        async def is_heard_from_one_by_two() -> bool:
            return await heard_through(clients[1], hearing[2], f"{time.monotonic_ns()}")

        await until(is_heard_from_one_by_two, "a message from node 1 at node 2")
        cluster.life_of[3].kill()
        assert await heard_through(clients[1], hearing[2], "while node 3 is dead")
        assert await heard_through(clients[2], hearing[1], "the other way, too")
        cluster.start(3, resp_port=str(found[3].resp_port))
        door = cluster.life_of[3].wait_serving()
        await until_ready(door)
        back = await stack.enter_async_context(door.client())
        again = await stack.enter_async_context(back.pubsub())
        await again.subscribe("news")

        async def is_heard_from_one_by_three() -> bool:
            return await heard_through(clients[1], again, f"{time.monotonic_ns()}")

        async def is_heard_from_three_by_two() -> bool:
            return await heard_through(back, hearing[2], f"{time.monotonic_ns()}")

        await until(is_heard_from_one_by_three, "a message from node 1 at node 3", CATCHES_UP_S_MAX)
        await until(is_heard_from_three_by_two, "a message from node 3 at node 2", CATCHES_UP_S_MAX)


async def test_a_paused_node_misses_messages_before_raft_misses_a_frame(start_nodes: StartNodes) -> None:
    """Publishers are not held up, so what waits for a node that does not read has a bound of its own."""
    cluster = start_nodes(partitions=1)
    found = {node: life.wait_serving() for node, life in cluster.start_all().items()}
    await until_ready(*found.values())
    async with found[1].client() as publisher:
        before = await publisher.info("noctule")
        cluster.life_of[3].process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(60):
                await publisher.publish("news", b"v" * (1 << 20))
            after = await publisher.info("noctule")
        finally:
            cluster.life_of[3].process.send_signal(signal.SIGCONT)
        names = ("pubsub_dropped", "pubsub_published", "peer_frames_dropped")
        dropped, published, frames_dropped = (
            after[f"noctule_{name}_total"] - before[f"noctule_{name}_total"] for name in names
        )
        assert 20 < dropped < published == 60
        assert frames_dropped == 0
        assert await publisher.set("k", "v")
