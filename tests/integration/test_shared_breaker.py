"""One breaker for many instances: on a real Redis, by the rules of the machine, when holders die and the store goes."""

import asyncio
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from noctule.base.errors import ConfigError
from noctule.base.ids import Instant
from noctule.core.balance.breaker import Breaker, BreakerPolicy, BreakerState, Permit
from noctule.kits import shared_breaker
from noctule.kits.breaker import Authority, BreakerOpenError, CircuitBreaker
from noctule.kits.breaker_standing import AskProbe, Exchange, SharedView, Verdict
from noctule.kits.scripts import Script
from noctule.kits.shared_breaker import SharedBreaker

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines",)
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

QUICK = BreakerPolicy(calls_min=20, open_s=0.3, open_s_max=2, jitter=0, probes_good=1, probe_lease_s=1.0)


@asynccontextmanager
async def breakers(url: str, count: int, policy: BreakerPolicy = QUICK) -> AsyncIterator[list[CircuitBreaker]]:
    """So many instances of one breaker."""
    made = [CircuitBreaker("pay", url, policy) for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:
            await each.aclose()


async def call(breaker: CircuitBreaker, *, is_ok: bool = True) -> bool:
    """One call; gives whether it was made."""
    try:
        async with breaker.guard() as guarded:
            if not is_ok:
                guarded.failed()
    except BreakerOpenError:
        return False
    return True


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{what} did not happen within {timeout_s:g} s")


async def open_by(each: list[CircuitBreaker]) -> None:
    """Let calls fail until nobody makes any."""
    async with asyncio.timeout(10):
        while any([await call(breaker, is_ok=False) for breaker in each]):
            await asyncio.sleep(0.05)


async def test_ten_quiet_instances_open_together(redis_server: "RedisServer") -> None:
    """Each alone has seen too little to say; pybreaker's and others' windows are of one process."""
    async with breakers(redis_server.url, 10, BreakerPolicy(calls_min=20)) as all_ten:
        made = 0
        async with asyncio.timeout(10):
            while True:
                calls = [await call(breaker, is_ok=False) for breaker in all_ten]
                if not any(calls):
                    break
                made += sum(calls)
                await asyncio.sleep(0.51)  # A quiet instance: it tells what it counted when it calls again.
        assert made <= 50, "at most five of each, of which the last were not told yet"
        assert {breaker.describe().breaker.state for breaker in all_ten} == {BreakerState.OPEN}
        assert {breaker.describe().authority for breaker in all_ten} == {Authority.SHARED}


async def test_good_calls_of_some_outweigh_the_bad_ones_of_others(redis_server: "RedisServer") -> None:
    # More than all make between two exchanges: what one has told counts before what the others have yet to tell.
    async with breakers(redis_server.url, 3, BreakerPolicy(calls_min=100)) as (bad, good, better):
        for _ in range(60):
            assert await call(bad, is_ok=False)
            assert await call(good)
            assert await call(better)
            await asyncio.sleep(0.05)
        assert 0.2 < bad.describe().breaker.failures / bad.describe().breaker.calls < 0.45


async def test_one_probe_for_all_and_its_success_closes_it_for_all(redis_server: "RedisServer") -> None:
    policy = BreakerPolicy(calls_min=5, open_s=1, jitter=0, probes_good=1, probe_lease_s=30)
    async with breakers(redis_server.url, 4, policy) as all_four:
        await open_by(all_four)
        held = []

        async def probe(breaker: CircuitBreaker) -> None:
            guarded = breaker.guard()
            async with asyncio.timeout(5):
                while True:
                    try:
                        await guarded.__aenter__()
                    except BreakerOpenError:
                        await asyncio.sleep(0.03)
                        if held:
                            return
                    else:
                        held.append(guarded)
                        return

        await asyncio.gather(*(probe(breaker) for breaker in all_four))
        assert len(held) == 1
        for breaker in all_four:
            assert not await call(breaker), "while the only probe is out"
        await held[0].__aexit__(None, None, None)
        for breaker in all_four:
            await until_allowed(breaker)


async def until_allowed(breaker: CircuitBreaker) -> None:
    async with asyncio.timeout(10):
        while not await call(breaker):
            await asyncio.sleep(0.05)


HOLDER = """
import sys, time
from noctule.kits.breaker import BreakerOpenError, BreakerPolicy, CircuitBreaker
policy = BreakerPolicy(calls_min=20, open_s=0.3, open_s_max=2, jitter=0, probes_good=1, probe_lease_s=1.0)
breaker = CircuitBreaker("pay", sys.argv[1], policy)
while True:
    try:
        with breaker.guard():
            print("holding", flush=True)
            time.sleep(60)
    except BreakerOpenError:
        time.sleep(0.02)
"""


@pytest.fixture
def holder(redis_server: "RedisServer") -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Starts another process that takes a permit and keeps it."""
    processes = []

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HOLDER, redis_server.url]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


async def test_a_probe_whose_process_is_killed_gives_its_place_back(
    redis_server: "RedisServer", holder: Callable[[], "subprocess.Popen[str]"]
) -> None:
    async with breakers(redis_server.url, 2) as (first, second):
        await open_by([first, second])
        other = holder()
        assert other.stdout is not None
        assert await asyncio.to_thread(other.stdout.readline) == "holding\n"
        assert not await call(first)
        other.send_signal(signal.SIGKILL)
        begun = asyncio.get_running_loop().time()
        await until_allowed(first)
        assert asyncio.get_running_loop().time() - begun < 5
        await until_allowed(second)


async def test_without_the_store_each_process_decides_and_with_it_again_all(redis_server: "RedisServer") -> None:
    async with breakers(redis_server.url, 2) as (first, second):
        assert await call(first)
        redis_server.kill()
        async with asyncio.timeout(5):
            while first.describe().authority is Authority.SHARED:
                assert await call(first), "the store's death refuses nobody"
                await asyncio.sleep(0.05)
        while await call(first, is_ok=False):
            pass
        assert first.describe().breaker.state is BreakerState.OPEN
        assert await call(second), "it has seen nothing"
        redis_server.start()
        async with asyncio.timeout(20):
            while first.describe().authority is not Authority.SHARED:
                await call(first)
                await asyncio.sleep(0.1)
        await until_allowed(first)
        assert first.describe().store_failures > 0


async def test_a_store_that_is_silent_holds_a_call_up_once_and_not_for_long(redis_server: "RedisServer") -> None:
    async with breakers(redis_server.url, 1) as (breaker,):
        assert await call(breaker)
        redis_server.pause()
        await asyncio.sleep(0.51)  # Until it would ask again.
        begun = asyncio.get_running_loop().time()
        for _ in range(50):
            assert await call(breaker)
        assert asyncio.get_running_loop().time() - begun < 2
        assert breaker.describe().store_failures == 1


async def test_a_store_that_forgot_everything_starts_a_greater_epoch(redis_server: "RedisServer") -> None:
    async with breakers(redis_server.url, 1) as (breaker,):
        await open_by([breaker])
        before = breaker.describe().breaker.epoch
        redis_server.kill()
        redis_server.start()
        async with asyncio.timeout(20):
            while breaker.describe().breaker.epoch != 0 or not await call(breaker):
                await call(breaker)
                await asyncio.sleep(0.1)
        await open_by([breaker])
        assert breaker.describe().breaker.epoch > before


def test_synchronous_code_shares_it_too(redis_server: "RedisServer") -> None:
    one, other = (CircuitBreaker("pay", redis_server.url, BreakerPolicy(calls_min=5)) for _ in range(2))
    try:
        for _ in range(5):
            with one.guard() as guarded:
                guarded.failed()
            one._standing._seen_at = None  # As if half a second had passed.
        for breaker in (one, other):
            with pytest.raises(BreakerOpenError), breaker.guard():
                pass
    finally:
        one.close()
        other.close()


async def test_one_breaker_is_not_used_from_two_worlds(redis_server: "RedisServer") -> None:
    async with breakers(redis_server.url, 1) as (breaker,):
        assert await call(breaker)
        breaker._standing._seen_at = None
        with pytest.raises(ConfigError, match="make one for each"), breaker.guard():
            pass
        await open_by([breaker])  # What was refused has not put it out of order.


STEPS = ["old counts"] + ["calls"] * 4 + ["probe"] * 5 + ["good", "good", "bad", "nothing"]


@pytest.mark.parametrize("seed", range(6))
def test_the_script_follows_the_machine(redis_socket: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same events at the same times, to both; state, places and counts are compared after each.

    The script's one reading of the store's clock is replaced by a time that is handed in.
    """
    clock = "redis.call('TIME')"
    assert shared_breaker.SCRIPT.count(clock) == 1
    script = shared_breaker.SCRIPT.replace(clock, "{redis.call('GET', '{pay}s'), redis.call('GET', '{pay}us')}")
    monkeypatch.setattr(shared_breaker, "_STEP", Script(script))
    asyncio.run(compare(redis_socket, random.Random(seed)))


async def compare(socket: Path, chance: random.Random) -> None:
    policy = BreakerPolicy(
        window_s=2.0,
        calls_min=4,
        open_s=1.0,
        open_s_max=3.0,
        jitter=0,
        probes_max=2,
        probes_good=2,
        probe_lease_s=1.5,
    )
    machine = Breaker(policy, random.Random(1))
    now_ms, epoch = 1_000_007, 0  # Never on the edge of a slot, where a float may fall to either side.
    probes: list[tuple[str, Permit, int]] = []
    seen: Counter[str] = Counter()
    async with Redis.from_url(f"unix://{socket}") as client:
        shared = SharedBreaker(client, "pay", policy, random.Random(1))
        await client.flushall()

        async def ask(question: Exchange | AskProbe | Verdict) -> SharedView:
            await client.mset({"{pay}s": now_ms // 1000, "{pay}us": now_ms % 1000 * 1000})
            return await shared.ask(question)

        for number in range(400):
            now_ms += chance.choice((0, 10, 50, 200, 700))
            now = Instant(now_ms / 1000)
            kind = chance.choice(STEPS)
            if kind == "calls":
                is_bad = chance.random() < 0.45
                if machine.describe(now).state is BreakerState.CLOSED:
                    permit = machine.ask(now)
                    assert permit is not None
                    machine.end(permit, not is_bad, now)
                seen["counts while not closed"] += machine.describe(now).state is not BreakerState.CLOSED
                view = await ask(Exchange(epoch, 1, int(is_bad), 0))
            elif kind == "old counts":  # Of a time that is over, which change nothing.
                view = await ask(Exchange(1, 9, 9, 9))
            elif kind == "probe":
                if machine.describe(now).state is BreakerState.CLOSED:
                    continue
                permit = machine.ask(now)
                view = await ask(AskProbe(str(number)))
                assert view.is_granted is (permit is not None)
                seen["granted" if permit else f"refused while {view.state}"] += 1
                if permit is not None:
                    probes.append((str(number), permit, view.epoch))
            elif probes:
                # Half open, one of a time before that is preferred, if it is still out.
                old = [each for each in probes if each[2] != epoch]
                is_half_open = machine.describe(now).state is BreakerState.HALF_OPEN
                if not is_half_open and len(probes) == len(old):
                    continue
                chosen = old[0] if old and is_half_open else chance.choice(probes)
                probes.remove(chosen)
                token, permit, of_epoch = chosen
                seen["late while half open"] += of_epoch != epoch
                if kind == "nothing":
                    machine.give_up(permit)
                else:
                    machine.end(permit, kind == "good", now)
                view = await ask(Verdict(token, of_epoch, None if kind == "nothing" else kind == "good"))
            else:
                continue
            assert view.epoch >= epoch
            seen[f"became {view.state}"] += view.epoch != epoch
            epoch = view.epoch
            picture = machine.describe(now)
            assert view.state == picture.state
            assert view.probes == picture.probes
            assert (view.calls, view.failures) == (picture.calls, picture.failures)
    wanted = ("granted", "refused while half_open", "refused while open", "late while half open", "became closed")
    assert all(seen[what] for what in wanted), seen
    assert seen["counts while not closed"], seen
