"""Locks on real stores: one holder, growing tokens, waiting without looking, leases that are lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from noctule.base.errors import ConfigError, UnavailableError
from noctule.kits.locks import Lease, LeaseLostError, Locks

if TYPE_CHECKING:
    from engines import RedisServer
    from redis_modes import RedisMode
    from witness_cluster import WitnessCluster

pytest_plugins = ("engines", "redis_modes", "witness_cluster")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.engine("redis-server"),
    pytest.mark.usefixtures("clients_leave_connections"),
]

SOON_S = 5.0


@pytest.fixture
async def locks(redis_server: "RedisServer") -> AsyncIterator[list[Locks]]:
    """Three instances."""
    instances = [Locks(redis_server.url) for _ in range(3)]
    yield instances
    for instance in instances:
        await instance.aclose()


async def hold_in_turn(instances: list[Locks], times: int, *, permits: int = 1) -> list[int]:
    """Each instance takes the lock so often, all at once; the tokens in the order held. Fails when too many hold it."""
    holders, tokens = 0, []

    async def work(instance: Locks) -> None:
        nonlocal holders
        for _ in range(times):
            async with instance.lock("turn", permits=permits, wait_s=60.0) as lease:
                holders += 1
                assert holders <= permits
                tokens.append(lease.token)
                await asyncio.sleep(0.001)
                holders -= 1

    await asyncio.gather(*(work(instance) for instance in instances))
    return tokens


async def test_one_holds_it_and_tokens_grow(locks: list[Locks]) -> None:
    tokens = await hold_in_turn(locks, 10)
    assert len(tokens) == 30
    assert tokens == sorted(set(tokens))


async def test_a_semaphore_lets_so_many_in(locks: list[Locks]) -> None:
    tokens = await hold_in_turn(locks, 10, permits=2)
    assert len(set(tokens)) == 30
    picture = await locks[0].show("turn")
    assert (picture.holders, picture.last_token) == (0, max(tokens))


async def test_whoever_waits_is_woken_when_it_is_let_go(locks: list[Locks]) -> None:
    """Long before the lease ends, and before it is looked at again."""
    first = await locks[0].acquire("door", ttl_s=60.0)
    assert first is not None
    assert await locks[1].acquire("door") is None
    waiting = asyncio.create_task(locks[1].acquire("door", wait_s=30.0))
    await asyncio.sleep(0.05)  # It waits by now, or will meet the released lock: either is well.
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert await locks[0].release(first)
    second = await waiting
    assert loop.time() - begun < 0.5
    assert second is not None
    assert second.token > first.token
    assert not await locks[0].release(first), "it is another's"
    assert not first.is_held


async def test_asking_again_under_one_name_is_one_lease(locks: list[Locks]) -> None:
    first = await locks[0].acquire("door", owner="me")
    again = await locks[0].acquire("door", owner="me")
    assert first is not None
    assert again is not None
    assert first.token == again.token
    assert (await locks[0].show("door")).holders == 1


async def test_a_lease_is_renewed_as_long_as_the_block_lasts(locks: list[Locks]) -> None:
    async with locks[0].lock("door", ttl_s=0.5) as lease:
        assert await locks[1].acquire("door", wait_s=1.2) is None
        assert lease.is_held
    assert await locks[1].acquire("door") is not None


async def test_a_lost_lease_ends_the_block(locks: list[Locks], redis_server: "RedisServer") -> None:
    """The store is gone for longer than the lease: the holder is stopped before another can hold it."""

    async def hold() -> None:
        async with locks[0].lock("door", ttl_s=0.6):
            redis_server.kill()
            await asyncio.Event().wait()

    with pytest.raises(LeaseLostError):
        await asyncio.wait_for(hold(), SOON_S)


async def test_a_cancelled_holder_is_cancelled_and_lets_go(locks: list[Locks]) -> None:
    entered = asyncio.Event()

    async def hold() -> None:
        async with locks[0].lock("door"):
            entered.set()
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    await entered.wait()
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder
    assert await locks[1].acquire("door") is not None


async def test_a_lock_that_is_not_to_be_had_is_told(locks: list[Locks]) -> None:
    async with locks[0].lock("door"):
        with pytest.raises(UnavailableError, match="held by others"):
            async with locks[1].lock("door", wait_s=0.1):
                raise AssertionError("two hold it")
    for wrong in ({"name": "a{b"}, {"name": "a", "ttl_s": 0.1}, {"name": "a", "permits": 0}):
        with pytest.raises(ConfigError):
            await locks[0].acquire(**wrong)  # type: ignore[arg-type]


async def test_one_instance_leads_and_another_follows_it(locks: list[Locks]) -> None:
    """The work of the leader is cancelled with its instance; the next one's token is larger."""
    terms: asyncio.Queue[tuple[int, Lease]] = asyncio.Queue()

    def work(number: int) -> object:
        async def lead(lease: Lease) -> None:
            terms.put_nowait((number, lease))
            await asyncio.Event().wait()

        return lead

    tasks = [asyncio.create_task(each.lead("boss", work(n))) for n, each in enumerate(locks)]  # type: ignore[arg-type]
    async with asyncio.timeout(SOON_S):
        first, lease = await terms.get()
        tasks[first].cancel()
        second, next_lease = await terms.get()
    assert second != first
    assert next_lease.token > lease.token
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_holders_and_tokens_over_the_death_of_a_leader(cluster: "WitnessCluster") -> None:
    """On Noctule nothing is lost with the leader: nobody holds it twice, and no token comes again."""
    database = 5
    url = ",".join(f"127.0.0.1:{port}" for port in cluster.ports.values())
    instances = [Locks(f"redis://{url}/{database}") for _ in range(3)]
    try:
        working = asyncio.create_task(hold_in_turn(instances, 15))
        leader = await asyncio.to_thread(cluster.leader, database)
        await asyncio.to_thread(cluster.kill, leader)
        tokens = await working
        assert len(tokens) == 45
        assert tokens == sorted(set(tokens))
    finally:
        for instance in instances:
            await instance.aclose()


async def test_a_master_that_dies_may_forget_a_lock_and_never_lowers_a_token(redis_mode: "RedisMode") -> None:
    """What asynchronous replication promises: two may hold it, and their tokens tell who is the later."""
    locks = Locks(redis_mode.url)
    try:
        first = await locks.acquire("door", ttl_s=60.0)
        assert first is not None
        await asyncio.to_thread(redis_mode.kill_master_of, "lock:{door}")
        second = None
        async with asyncio.timeout(20.0):
            while second is None:
                with contextlib.suppress(Exception):
                    second = await locks.acquire("door", ttl_s=5.0, owner=first.owner)
        assert second.token >= first.token
    finally:
        await locks.aclose()
