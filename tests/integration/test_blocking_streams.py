"""XREAD and XREADGROUP with BLOCK on a real cluster: who is told what, and when."""

import asyncio
import contextlib
import time

import pytest
from cluster_processes import Door, StartNodes, until_open, until_ready
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from test_blocking import client_of, is_blocked

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

SOON_S = 1.5
"""Sooner than a queue looks for itself, so that somebody must have told it."""


@pytest.fixture
async def doors(start_nodes: StartNodes) -> list[Door]:
    """Three nodes that serve."""
    nodes = start_nodes(partitions=2)
    found = [life.wait_serving() for life in nodes.start_all().values()]
    await until_ready(*found)
    await until_open(*found)
    return found


async def read(client: Redis, *words: str) -> dict[bytes, list[bytes]]:
    """Stream to the first values of its entries."""
    reply = await client.execute_command(*words)
    found: dict[bytes, list[bytes]] = {}
    for name, entries in reply.items() if isinstance(reply, dict) else reply or []:
        flat = (
            entries[0]
            if entries and isinstance(entries[0], list) and isinstance(entries[0][0], (list, tuple))
            else entries
        )
        found[name] = [next(iter(fields.values())) if isinstance(fields, dict) else fields[1] for _, fields in flat]
    return found


async def test_all_who_read_behind_the_end_are_told_at_once(doors: list[Door]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(door)) for door in doors]
        await clients[0].xadd("{s}a", {"n": "before"})
        words = ("XREAD", "BLOCK", "10000", "STREAMS", "{s}a", "{s}b", "$", "0")
        tasks = [asyncio.create_task(read(client, *words)) for client in clients]
        for door in doors:
            await is_blocked(door)
        begun = time.monotonic()
        await clients_of_another(stack, doors[1], "{s}a", "after")
        async with asyncio.timeout(5):
            assert await asyncio.gather(*tasks) == [{b"{s}a": [b"after"]}] * 3
        assert time.monotonic() - begun < SOON_S
        assert await read(clients[0], "XREAD", "BLOCK", "50", "STREAMS", "{s}a", "$") == {}
        assert await read(clients[0], "XREAD", "BLOCK", "50", "STREAMS", "{s}a", "0") == {
            b"{s}a": [b"before", b"after"]
        }


async def clients_of_another(stack: contextlib.AsyncExitStack, door: Door, key: str, value: str) -> bytes:
    producer = await stack.enter_async_context(client_of(door))
    added: bytes = await producer.xadd(key, {"n": value})
    return added


async def test_consumers_who_wait_share_what_comes(doors: list[Door]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        producer = await stack.enter_async_context(client_of(doors[0]))
        await producer.xgroup_create("s", "g", "$", mkstream=True)
        given: list[bytes] = []
        took: list[float] = []
        sent: dict[bytes, float] = {}

        async def consume(name: str, door: Door) -> None:
            client = await stack.enter_async_context(client_of(door))
            while len(given) < 60:
                words = ("XREADGROUP", "GROUP", "g", name, "COUNT", "1", "BLOCK", "500", "STREAMS", "s", ">")
                for values in (await read(client, *words)).values():
                    given.extend(values)
                    took.extend(time.monotonic() - sent[value] for value in values)
                    await client.execute_command("XACK", "s", "g", "1-1")

        tasks = [asyncio.create_task(consume(f"{door.id}-{number}", door)) for door in doors for number in range(3)]
        for number in range(60):
            sent[b"%d" % number] = time.monotonic()
            await producer.xadd("s", {"n": number})
            await asyncio.sleep(0.01)  # So that they wait in between.
        async with asyncio.timeout(20):
            await asyncio.gather(*tasks)
    assert sorted(given, key=int) == [b"%d" % number for number in range(60)]
    print(f"\nfrom XADD to reply: median {sorted(took)[30] * 1e3:.1f} ms, longest {max(took) * 1e3:.1f} ms")
    assert sorted(took)[30] < 0.5


async def test_errors_are_told_at_once_and_a_group_that_goes_is_told(doors: list[Door]) -> None:
    async with client_of(doors[0]) as client, client_of(doors[1]) as other:
        await other.set("text", "x")
        for words, expected in (
            (("XREAD", "BLOCK", "0", "STREAMS", "text", "0"), "WRONGTYPE"),
            (("XREAD", "BLOCK", "0", "STREAMS", "text", "$"), "WRONGTYPE"),
            (("XREAD", "BLOCK", "-1", "STREAMS", "s", "0"), "timeout is negative"),
            (("XREAD", "BLOCK", "0", "STREAMS", "s", ">"), "The > ID can be specified only"),
            (("XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", "s", ">"), "NOGROUP No such key 's'"),
        ):
            with pytest.raises(ResponseError, match=expected):
                await client.execute_command(*words)
        await other.xgroup_create("s", "g", "$", mkstream=True)
        task = asyncio.create_task(
            client.execute_command("XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", "s", ">")
        )
        await is_blocked(doors[0])
        await other.xgroup_destroy("s", "g")
        with pytest.raises(ResponseError, match="NOGROUP"):
            async with asyncio.timeout(5):
                await task
        # What is behind a command that waits keeps its place, also while it asks for the end of its stream.
        pipe = client.pipeline(transaction=False)
        pipe.execute_command("XREAD", "BLOCK", "100", "STREAMS", "s", "$")
        pipe.execute_command("XADD", "s", "7-7", "n", "1")
        pipe.execute_command("XREAD", "BLOCK", "100", "STREAMS", "s", "0")
        first, second, third = await pipe.execute()
        assert not first
        assert second == b"7-7"
        assert third
