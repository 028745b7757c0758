"""A store of several hosts, with one of them dead, paused, or not serving."""

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as StoreConnectionError

from noctule.kits.store import connect, retrying_idempotent

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines",)
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]


def url_of(*servers: "RedisServer") -> str:
    return "redis://" + ",".join(f"127.0.0.1:{server.port}" for server in servers) + "/0"


async def test_a_dead_first_host_costs_milliseconds(
    redis_server: "RedisServer", second_redis_server: "RedisServer"
) -> None:
    redis_server.kill()
    client = connect(url_of(redis_server, second_redis_server))
    begun = time.monotonic()
    await client.set("k", "v")
    assert time.monotonic() - begun < 0.9, "the connect timeout is a second"
    assert client.connection_pool.connection_kwargs["hosts"].in_order()[0] == ("127.0.0.1", second_redis_server.port)
    await client.aclose()


async def test_open_connections_move_on_when_their_host_dies(
    redis_server: "RedisServer", second_redis_server: "RedisServer"
) -> None:
    client = connect(url_of(redis_server, second_redis_server))
    await asyncio.gather(*(client.set(f"k{number}", "v") for number in range(10)))
    assert await client.dbsize() == 10
    redis_server.kill()
    await asyncio.gather(
        *(retrying_idempotent(lambda: client.set("k", "v"), writes=True, budget_s=2) for _ in range(10))
    )
    assert await client.dbsize() == 1, "these are the second server's keys"
    await client.aclose()


async def test_a_paused_host_takes_connections_and_is_passed_by_all_the_same(
    redis_server: "RedisServer", second_redis_server: "RedisServer"
) -> None:
    redis_server.pause()
    client = connect(url_of(redis_server, second_redis_server), connect_timeout_s=1.0)
    assert await client.ping() is True
    begun = time.monotonic()
    assert await client.ping() is True
    assert time.monotonic() - begun < 0.9
    await client.aclose()


async def test_a_host_that_is_silent_on_an_open_connection_loses_its_preference(
    redis_server: "RedisServer", second_redis_server: "RedisServer"
) -> None:
    client = connect(url_of(redis_server, second_redis_server), connect_timeout_s=0.2, answer_timeout_s=0.2)
    await client.set("here", "1")
    redis_server.pause()
    assert await retrying_idempotent(lambda: client.exists("here"), writes=False, budget_s=3) == 0
    await client.aclose()


async def test_a_replica_that_takes_no_writes_is_passed_by(
    redis_server: "RedisServer", second_redis_server: "RedisServer"
) -> None:
    """A node that answers that it cannot serve is as good as a dead one; another may serve."""
    replica = connect(redis_server.url)
    await replica.replicaof("127.0.0.1", str(second_redis_server.port))
    await replica.aclose()
    client = connect(url_of(redis_server, second_redis_server))
    await retrying_idempotent(lambda: client.set("k", "v"), writes=True, budget_s=3)
    await client.aclose()
    master = connect(second_redis_server.url)
    assert await master.get("k") == b"v"
    await master.aclose()


async def test_all_hosts_dead_is_one_error_that_names_them(
    redis_server: "RedisServer", second_redis_server: "RedisServer"
) -> None:
    redis_server.kill()
    second_redis_server.kill()
    client = connect(url_of(redis_server, second_redis_server))
    with pytest.raises(StoreConnectionError) as caught:
        await client.ping()
    assert f"127.0.0.1:{redis_server.port}, 127.0.0.1:{second_redis_server.port}" in str(caught.value)
    await client.aclose()


async def test_a_wrong_password_is_told_at_once(redis_server: "RedisServer") -> None:
    admin = connect(redis_server.url)
    await admin.config_set("requirepass", "right")
    await admin.aclose()
    client = connect(f"redis://:wrong@127.0.0.1:{redis_server.port}/0")
    with pytest.raises(AuthenticationError):
        await client.ping()
    await client.aclose()
    client = connect(f"redis://:right@127.0.0.1:{redis_server.port}/0")
    assert await client.ping() is True
    await client.aclose()


async def test_a_command_whose_answer_is_lost_is_not_sent_twice(redis_server: "RedisServer") -> None:
    """redis-py's default would count this twice."""
    sent: list[bytes] = []

    async def cut_the_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", redis_server.port)
        while data := await reader.read(4096):
            upstream_writer.write(data)
            answer = await upstream_reader.read(4096)
            if b"INCR" in data:
                sent.append(data)
                break
            writer.write(answer)
        for stream in (writer, upstream_writer):
            stream.close()

    proxy = await asyncio.start_server(cut_the_answer, "127.0.0.1", 0)
    async with proxy:
        client = connect(f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0")
        with pytest.raises(StoreConnectionError):
            await client.incr("counter")
        await client.aclose()
    direct = connect(redis_server.url)
    assert await direct.get("counter") == b"1"
    assert len(sent) == 1
    await direct.aclose()
