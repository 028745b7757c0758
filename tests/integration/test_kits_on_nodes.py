"""Discovery and shared breakers on real nodes and other stores of several processes, which are killed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from cluster_processes import Door, NodeCluster, StartNodes, until_ready
from redis_modes import RedisMode
from registries import put_service
from small_instance import small_instances

from noctule.client.registry.held_list import ListPicture, Source
from noctule.core.balance.breaker import BreakerPolicy, BreakerState
from noctule.kits.breaker import Authority, BreakerOpenError, CircuitBreaker
from noctule.kits.discovery import Discovery
from noctule.kits.discovery.aiohttp_session import DiscoverySession

pytest_plugins = ("cluster_processes", "redis_modes")
pytestmark = pytest.mark.integration

GOES_ON_S_MAX = 30.0


async def started(start_nodes: StartNodes) -> tuple[NodeCluster, list[Door]]:
    cluster = start_nodes(partitions=1)
    doors = [life.wait_serving() for life in cluster.start_all().values()]
    await until_ready(*doors)
    return cluster, doors


async def until(condition: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(GOES_ON_S_MAX):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{what} did not happen within {GOES_ON_S_MAX:g} s")


def orders(discovery: Discovery) -> ListPicture:
    return discovery.describe().services[0].list


@asynccontextmanager
async def load(session: DiscoverySession) -> AsyncIterator[tuple[list[str], list[Exception]]]:
    """Four callers all the time: what they were answered, and what failed."""
    answers: list[str] = []
    failures: list[Exception] = []

    async def call() -> None:
        while True:
            try:
                async with session.get("noctule://orders/") as response:
                    answers.append(await response.text())
            except aiohttp.ClientError as error:
                failures.append(error)

    tasks = [asyncio.create_task(call()) for _ in range(4)]
    yield answers, failures
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def goes_on(answers: list[str]) -> None:
    before = len(answers)
    await until(lambda: len(answers) > before + 100, "traffic that goes on")


async def test_requests_go_on_while_instances_and_then_nodes_are_killed(start_nodes: StartNodes) -> None:
    cluster, doors = await started(start_nodes)
    with small_instances("a", "b", "c") as instances:
        for door, instance in zip(doors, instances, strict=True):
            await put_service(door.url, "orders", instance.name, instance.port)
        async with (
            Discovery([door.url for door in doors]) as discovery,
            DiscoverySession(discovery) as session,
        ):
            await discovery.endpoints("orders")
            await until(lambda: len(orders(discovery).endpoints) == 3, "the list")
            async with load(session) as (answers, failures):
                await goes_on(answers)
                instances[0].kill()
                await goes_on(answers)
                cluster.life_of[2].kill()
                await until(
                    lambda: [each.id for each in orders(discovery).endpoints if each.id.endswith("/b")] == [],
                    "what ran beside the dead node to be critical",
                )
                await goes_on(answers)
                cluster.life_of[1].kill()
                await goes_on(answers)
                await until(lambda: orders(discovery).source is Source.LIVE, "the last node to answer stale questions")
                cluster.life_of[3].kill()
                await until(lambda: orders(discovery).source is Source.LAST_GOOD, "the loss of the registry")
                await goes_on(answers)
                assert failures == []
                assert "c" in answers[-50:]


async def call(breaker: CircuitBreaker, *, is_ok: bool = True) -> bool:
    """One call; gives whether it was made."""
    try:
        async with breaker.guard() as guarded:
            if not is_ok:
                guarded.failed()
    except BreakerOpenError:
        return False
    return True


async def until_all(breakers: list[CircuitBreaker], *, is_ok: bool, made: bool) -> None:
    """Call until every breaker lets calls through, or none does."""
    async with asyncio.timeout(GOES_ON_S_MAX):
        while {await call(breaker, is_ok=is_ok) for breaker in breakers} != {made}:
            await asyncio.sleep(0.1)


async def test_a_breaker_is_shared_through_the_death_of_a_node(start_nodes: StartNodes) -> None:
    cluster, doors = await started(start_nodes)
    hosts = ",".join(f"127.0.0.1:{door.resp_port}" for door in doors)
    policy = BreakerPolicy(calls_min=20, open_s=2, jitter=0, probes_good=1)
    breakers = [CircuitBreaker("pay", f"redis://{hosts}/0", policy) for _ in range(5)]
    try:
        await until_all(breakers, is_ok=False, made=False)
        await until(lambda: {each.describe().breaker.state for each in breakers} == {BreakerState.OPEN}, "the opening")
        epoch = breakers[0].describe().breaker.epoch
        cluster.life_of[1].kill()
        await until_all(breakers, is_ok=True, made=True)
        await until_shared(breakers)
        assert min(each.describe().breaker.epoch for each in breakers) > epoch
        await until_all(breakers, is_ok=False, made=False)
        await until_shared(breakers)
        assert {each.describe().breaker.state for each in breakers} <= {BreakerState.OPEN, BreakerState.HALF_OPEN}
    finally:
        for breaker in breakers:
            await breaker.aclose()


async def until_shared(breakers: list[CircuitBreaker]) -> None:
    async with asyncio.timeout(GOES_ON_S_MAX):
        while {each.describe().authority for each in breakers} != {Authority.SHARED}:
            for breaker in breakers:
                await call(breaker, is_ok=False)
            await asyncio.sleep(0.1)


@pytest.mark.engine("redis-server")
async def test_a_breaker_is_shared_by_any_kind_of_store_and_opens_again_after_a_failover(redis_mode: RedisMode) -> None:
    """A failover may lose what was written last; it must not leave instances that disagree, or an epoch that falls."""
    policy = BreakerPolicy(calls_min=20, open_s=1, jitter=0, probes_good=1)
    breakers = [CircuitBreaker("pay", redis_mode.url, policy) for _ in range(3)]
    try:
        await until_all(breakers, is_ok=False, made=False)
        epoch = breakers[0].describe().breaker.epoch
        redis_mode.kill_master_of("breaker:{pay}")
        await until_all(breakers, is_ok=True, made=True)
        await until_all(breakers, is_ok=False, made=False)
        await until_shared(breakers)
        assert {each.describe().breaker.state for each in breakers} <= {BreakerState.OPEN, BreakerState.HALF_OPEN}
        assert min(each.describe().breaker.epoch for each in breakers) > epoch
    finally:
        for breaker in breakers:
            await breaker.aclose()
