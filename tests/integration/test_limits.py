"""Rate limits on real stores: the script against the arithmetic, exactness over instances and a kill, a store away."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis as SyncRedis

from noctule.base.ids import Instant, WallMs
from noctule.core.limits.abuse import AbuseRules, Conduct, breached, is_strict
from noctule.core.limits.policy import Algorithm, OnStoreLoss, Policy
from noctule.core.limits.take import Count, take
from noctule.kits.limiter import Limiter
from noctule.kits.ratelimit_script import SCRIPT, read_reply, script_arguments
from noctule.kits.store import connect

if TYPE_CHECKING:
    from engines import RedisServer
    from witness_cluster import WitnessCluster

pytest_plugins = ("engines", "witness_cluster")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.engine("redis-server"),
    pytest.mark.usefixtures("clients_leave_connections"),
]

TEN = Policy(name="ten", limit=10, window_s=60.0)
CLOCK = "local time = redis.call('TIME')\nlocal now = time[1] * 1000000 + time[2]"
START_US = 1_700_000_000 * 1_000_000


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> Instant:
        return Instant(self.at)

    def wall_ms(self) -> WallMs:
        return WallMs(int(1_700_000_000_000 + self.at * 1000))


STEPS = st.lists(st.tuples(st.integers(0, 30_000_000), st.integers(1, 3)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(algorithm=st.sampled_from(Algorithm), limit=st.integers(1, 9), strict=st.integers(0, 1), steps=STEPS)
def test_the_script_computes_what_core_does(
    redis_server: "RedisServer", algorithm: Algorithm, limit: int, strict: int, steps: list[tuple[int, int]]
) -> None:
    """The same script with the time handed in, beside the arithmetic of core/limits, over any sequence of requests."""
    assert CLOCK in SCRIPT
    script = SCRIPT.replace(CLOCK, "local now = tonumber(ARGV[#ARGV])")
    policy = Policy(name="p", limit=limit, window_s=60.0, strict_limit=min(strict, limit), algorithm=algorithm)
    rules = AbuseRules(half_life_s=30.0, block_s_first=20.0, block_s_max=100.0, calm_s=400.0)
    count: Count = (0, 0, 0)
    conduct = Conduct()
    now_us = START_US
    with SyncRedis(port=redis_server.port) as client:
        client.flushall()
        for pause_us, cost in steps:
            now_us += pause_us
            arguments = [*script_arguments(b"take", cost, b"", rules, (policy,)), b"%d" % now_us]
            told = read_reply(client.eval(script, 2, "abuse:{s}", "p:{s}", *arguments))  # type: ignore[arg-type]
            strictly = is_strict(rules, conduct, now_us)
            taken = take(
                algorithm,
                count,
                now_us,
                limit=policy.limit_for(is_strict=strictly),
                window_us=policy.window_us,
                cost=cost,
            )
            is_blocked = conduct.blocked_until_us > now_us
            assert told.is_strict == strictly
            assert told.is_admitted == (taken.is_admitted and not is_blocked)
            said = told.policies[0]
            assert (said.remaining, said.reset_us, said.retry_us) == (taken.remaining, taken.reset_us, taken.retry_us)
            if told.is_admitted:
                count = taken.count
            elif not is_blocked:
                conduct = breached(rules, conduct, now_us)
            assert told.blocked_us == max(conduct.blocked_until_us - now_us, 0)


@pytest.fixture
async def limiters(redis_server: "RedisServer") -> AsyncIterator[list[Limiter]]:
    """Three instances on one store."""
    instances = [Limiter(redis_server.url) for _ in range(3)]
    yield instances
    for instance in instances:
        await instance.aclose()


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_one_limit_for_all_instances(limiters: list[Limiter], algorithm: Algorithm) -> None:
    policy = Policy(name="shared", limit=25, window_s=600.0, algorithm=algorithm)
    decisions = await asyncio.gather(*(limiters[n % 3].hit([policy], ["user:ada"]) for n in range(100)))
    assert sum(each.is_admitted for each in decisions) == 25
    refused = next(each for each in decisions if not each.is_admitted)
    assert 0 < refused.retry_after_s <= 1200
    assert "limit of 25 in 600 s" in refused.why or refused.is_blocked


async def test_whoever_is_refused_under_one_name_is_not_counted_under_the_other(limiters: list[Limiter]) -> None:
    for _ in range(10):
        assert (await limiters[0].hit([TEN], ["user:ada"])).is_admitted
    refused = await limiters[1].hit([TEN], ["ip:192.0.2.1", "user:ada"])
    assert not refused.is_admitted
    assert refused.subject == "user:ada"
    picture = await limiters[2].show("ip:192.0.2.1")
    assert [(each.policy, each.limit, each.remaining) for each in picture.policies] == [("ten", 10, 10)]
    (policy,) = (await limiters[2].show("user:ada")).policies
    assert policy.remaining == 0
    assert 0 < policy.reset_s <= 120
    assert (await limiters[2].show("user:nobody")).policies == ()


async def test_repeated_breaches_are_strict_and_then_blocked_until_reset(limiters: list[Limiter]) -> None:
    policy = Policy(name="auth", limit=5, window_s=900.0, strict_limit=3)
    for _ in range(5):
        assert (await limiters[0].hit([policy], ["ip:192.0.2.1"])).is_admitted
    seen = [await limiters[n % 3].hit([policy], ["ip:192.0.2.1"]) for n in range(12)]
    assert not any(each.is_admitted for each in seen)
    assert [each.is_strict for each in seen[:5]] == [False, False, False, True, True]
    assert seen[4].limit == 3
    assert seen[-1].is_blocked
    assert 50 < seen[-1].retry_after_s <= 1800
    assert "repeated breaches" in seen[-1].why
    # Another address is not concerned, and who looks after the app can lift it.
    assert (await limiters[0].hit([policy], ["ip:192.0.2.2"])).is_admitted
    picture = await limiters[1].show("ip:192.0.2.1")
    assert (picture.blocks, picture.is_strict) == (1, True)
    assert picture.blocked_s == pytest.approx(60, abs=5)
    assert await limiters[0].reset("ip:192.0.2.1") == 2
    assert (await limiters[1].hit([policy], ["ip:192.0.2.1"])).is_admitted


async def test_a_store_that_is_away_divides_limits_and_hears_of_it_later(
    redis_server: "RedisServer", caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    instances = [Limiter(redis_server.url, clock=clock, instances=None) for _ in range(3)]
    closed = Policy(name="closed", limit=10, window_s=60.0, on_store_loss=OnStoreLoss.CLOSED)
    opened = Policy(name="opened", limit=1, window_s=60.0, on_store_loss=OnStoreLoss.OPEN)
    try:
        for instance in instances:
            await instance.hit([TEN], ["user:other"])
        clock.at += 6.0  # All have called by then: the next call counts three.
        for instance in instances:
            await instance.hit([TEN], ["user:other"])
        assert instances[0].describe().instances == 3
        redis_server.pause()
        with caplog.at_level("WARNING"):
            decisions = [await instances[0].hit([TEN], ["user:ada"]) for _ in range(6)]
        assert [each.is_admitted for each in decisions] == [True] * 4 + [False] * 2, "ceil(10 / 3)"
        assert all(each.is_local for each in decisions)
        assert "by this instance alone" in decisions[0].why
        assert [record.message for record in caplog.records] == ["limits_divided"]
        assert not (await instances[0].hit([closed], ["user:ada"])).is_admitted
        assert (await instances[0].hit([opened], ["user:ada"])).is_admitted
        redis_server.kill()
        redis_server.start()
        clock.at += 2.0
        decision = await instances[0].hit([TEN], ["user:ada"])
        assert decision.is_admitted
        assert not decision.is_local
        assert decision.remaining == 5, "the four admitted meanwhile are counted"
    finally:
        for instance in instances:
            await instance.aclose()


@pytest.mark.parametrize("leader_dies", [False, True], ids=["quiet", "leader-killed"])
async def test_the_limit_is_exact_on_noctule_though_the_leader_dies(
    cluster: "WitnessCluster", leader_dies: bool
) -> None:
    """100 clients on three instances ask 600 times; what is admitted is the limit, not one more and not one less."""
    database = 3 if leader_dies else 4
    policy = Policy(name="exact", limit=200, window_s=3600.0)
    url = ",".join(f"127.0.0.1:{port}" for port in cluster.ports.values())
    # Patient, for a busy machine must not turn a slow answer into a store that is away.
    stores = [connect(f"redis://{url}/{database}", answer_timeout_s=5.0) for _ in range(3)]
    instances = [Limiter(store, abuse=None, patience_s=20.0) for store in stores]
    asked = 0

    async def client(number: int) -> int:
        nonlocal asked
        admitted = 0
        for _ in range(6):
            decision = await instances[number % 3].hit([policy], ["user:ada"])
            assert not decision.is_local, "the store was replaced within the patience of a limiter"
            admitted += decision.is_admitted
            asked += 1
        return admitted

    async def kill_in_the_middle() -> None:
        while asked < 100:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(cluster.kill, leader)

    try:
        for instance in instances:
            assert (await instance.hit([policy], ["user:warm"])).is_admitted
        leader = await asyncio.to_thread(cluster.leader, database)
        killing = asyncio.create_task(kill_in_the_middle()) if leader_dies else None
        admitted = sum(await asyncio.gather(*(client(number) for number in range(100))))
        if killing is not None:
            await killing
        assert asked == 600
        assert admitted == 200
    finally:
        for store in stores:
            await store.aclose()
