"""Leases: few questions, a bound on what passes, and nothing kept past its time."""

import asyncio
from typing import Any

import pytest

from noctule.base.errors import ConfigError
from noctule.base.ids import Instant, WallMs
from noctule.core.limits.policy import Policy
from noctule.kits.limit_leases import Leases
from noctule.kits.limiter import Decision, Limiter

POLICY = Policy(name="p", limit=25, window_s=60.0)


class Shared(Limiter):
    """One limit for all that use it, which never resets."""

    def __init__(self) -> None:
        self.left = POLICY.limit
        self.costs: list[int] = []

    async def hit(self, policies: Any, subjects: Any, *, cost: int = 1) -> Decision:
        await asyncio.sleep(0)
        self.costs.append(cost)
        is_admitted = cost <= self.left
        self.left -= cost if is_admitted else 0
        return Decision(is_admitted, POLICY, subjects[0], POLICY.limit, self.left, 1.0, 0.0 if is_admitted else 1.0)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> Instant:
        return Instant(self.at)

    def wall_ms(self) -> WallMs:
        return WallMs(0)


async def test_all_instances_together_admit_the_limit_and_ask_seldom() -> None:
    shared = Shared()
    instances = [Leases(shared, size=10, clock=Clock()) for _ in range(2)]
    admitted = [await instances[n % 2].hit(POLICY, "user:ada") for n in range(40)]
    assert sum(admitted) == 25
    assert shared.costs[:2] == [10, 10]
    assert shared.costs.count(10) == 4, "two leases, and one refusal for each instance"


async def test_a_burst_of_one_subject_asks_once() -> None:
    shared = Shared()
    leases = Leases(shared, size=10, clock=Clock())
    answers = await asyncio.gather(*(leases.hit(POLICY, "user:ada") for _ in range(10)))
    assert all(answers)
    assert shared.costs == [10]


async def test_a_burst_over_a_lease_takes_the_next_ones() -> None:
    shared = Shared()
    leases = Leases(shared, size=10, clock=Clock())
    answers = await asyncio.gather(*(leases.hit(POLICY, "user:ada") for _ in range(40)))
    assert sum(answers) == 25


async def test_the_rest_of_a_lease_is_void_after_its_time() -> None:
    shared, clock = Shared(), Clock()
    leases = Leases(shared, size=10, lease_s=1.0, clock=clock)
    assert await leases.hit(POLICY, "user:ada")
    clock.at = 1.0
    assert await leases.hit(POLICY, "user:ada")
    assert shared.costs == [10, 10]


async def test_a_failure_reaches_who_asked_and_lets_the_others_ask() -> None:
    class Broken(Shared):
        async def hit(self, policies: Any, subjects: Any, *, cost: int = 1) -> Decision:
            await super().hit(policies, subjects, cost=cost)
            raise RuntimeError("gone")

    leases = Leases(Broken(), clock=Clock())
    results = await asyncio.gather(*(leases.hit(POLICY, "user:ada") for _ in range(2)), return_exceptions=True)
    assert [type(each) for each in results] == [RuntimeError, bool]
    with pytest.raises(RuntimeError):
        await leases.hit(POLICY, "user:ada")


def test_sizes_that_make_no_lease_are_refused() -> None:
    with pytest.raises(ConfigError, match="size"):
        Leases(Shared(), size=1)
