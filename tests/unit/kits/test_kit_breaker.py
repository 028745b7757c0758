"""A breaker around functions and blocks, sync and async, without a store."""

import asyncio
import random
import threading

import pytest
from tests.unit.hand_clock import HandClock

from noctule.base.errors import ConfigError
from noctule.kits.breaker import BreakerOpenError, BreakerPolicy, BreakerState, CircuitBreaker

POLICY = BreakerPolicy(calls_min=3, jitter=0, probes_good=1)


class LostError(Exception):
    """What a dependency that is away raises."""


class WrongError(Exception):
    """What one that is well raises for a wrong question."""


def breaker_of(clock: HandClock | None = None, **options: object) -> CircuitBreaker:
    return CircuitBreaker("pay", None, POLICY, clock=clock or HandClock(), chance=random.Random(1), **options)  # type: ignore[arg-type]


def state(breaker: CircuitBreaker) -> BreakerState:
    return breaker.describe().breaker.state


def test_a_decorated_function_is_refused_once_it_fails_too_often_and_tried_again() -> None:
    clock = HandClock()
    breaker = breaker_of(clock)
    is_well = False

    @breaker
    def pay(amount: int) -> int:
        """Pays."""
        if not is_well:
            raise LostError
        return amount

    assert (pay.__name__, pay.__doc__) == ("pay", "Pays.")
    for _ in range(3):
        with pytest.raises(LostError):
            pay(1)
    with pytest.raises(BreakerOpenError, match=r"'pay' is open; try again in 5\.0 s") as refusal:
        pay(1)
    assert refusal.value.retryable
    clock.seconds += POLICY.open_s
    is_well = True
    assert pay(7) == 7
    assert state(breaker) is BreakerState.CLOSED


async def test_a_decorated_coroutine_function_stays_one() -> None:
    breaker = breaker_of()

    @breaker
    async def pay(amount: int) -> int:
        await asyncio.sleep(0)
        if amount < 0:
            raise LostError
        return amount

    assert asyncio.iscoroutinefunction(pay)
    assert await pay(3) == 3
    for _ in range(2):
        with pytest.raises(LostError):
            await pay(-1)
    with pytest.raises(BreakerOpenError):
        await pay(3)


async def test_what_is_ignored_or_no_failure_does_not_open_it() -> None:
    ignoring = breaker_of(ignored=(WrongError,))
    choosy = breaker_of(failures=(LostError,))
    for breaker in (ignoring, choosy):
        for _ in range(10):
            with pytest.raises(WrongError):
                async with breaker.guard():
                    raise WrongError
        assert state(breaker) is BreakerState.CLOSED
    assert ignoring.describe().breaker.calls == 10, "an answer, if not a nice one"
    assert choosy.describe().breaker.calls == 0, "says nothing"


async def test_a_call_can_be_said_to_have_failed() -> None:
    breaker = breaker_of()
    for _ in range(3):
        async with breaker.guard() as call:
            call.failed()
    assert state(breaker) is BreakerState.OPEN


async def test_a_cancelled_probe_leaves_its_place() -> None:
    clock = HandClock()
    breaker = breaker_of(clock)
    for _ in range(3):
        with breaker.guard() as call:
            call.failed()
    clock.seconds += POLICY.open_s
    entered = asyncio.Event()

    async def hang() -> None:
        async with breaker.guard():
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await entered.wait()
    with pytest.raises(BreakerOpenError):
        async with breaker.guard():
            pass
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with breaker.guard():
        pass
    assert state(breaker) is BreakerState.CLOSED


def test_threads_share_it() -> None:
    breaker = breaker_of()

    def work() -> None:
        for _ in range(200):
            with breaker.guard():
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.describe().breaker.calls == 1_600


@pytest.mark.parametrize("name", ["", "a" * 201, "a{b", "a}b"])
def test_a_name_that_cannot_be_a_key_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for a breaker"):
        CircuitBreaker(name)


def test_closing_what_has_no_store_is_nothing() -> None:
    breaker = breaker_of()
    breaker.close()
    asyncio.run(breaker.aclose())
