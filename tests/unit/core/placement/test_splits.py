"""Splits and merges come late, and never back and forth, whatever the load does."""

import math
import random
from collections.abc import Callable

import pytest

from noctule.base.ids import Instant
from noctule.core.placement.splits import (
    MergeWish,
    PartitionLoad,
    SplitCause,
    SplitLimits,
    SplitPolicy,
    SplitWish,
)

LIMITS = SplitLimits(requests_per_s_max=1_000.0, bytes_max=1_000_000)
MAX = LIMITS.requests_per_s_max


def load(partition: int, first: int, last: int, requests: float = 0.0, size: int = 0, **others: bool) -> PartitionLoad:
    return PartitionLoad(
        partition=partition, first_slot=first, last_slot=last, bytes=size, requests_per_s=requests, **others
    )


def wishes_over(rate: Callable[[float], float], seconds: int, policy: SplitPolicy | None = None) -> list[float]:
    """When one partition with this load is wished to be split; each wish is granted, which changes nothing."""
    policy = policy or SplitPolicy(LIMITS)
    times = []
    for now in range(seconds):
        if policy.look([load(1, 0, 16_383, rate(now))], Instant(now)):
            times.append(float(now))
            policy.rest([1], Instant(now))
    return times


def test_sustained_load_is_split_and_then_left_alone_for_a_while() -> None:
    assert wishes_over(lambda now: 1_500.0, 500) == [60.0, 360.0]


def test_a_wish_tells_why() -> None:
    policy = SplitPolicy(LIMITS)
    assert policy.look([load(1, 0, 99, 2_000.0)], Instant(0.0)) == []
    assert policy.look([load(1, 0, 99, 2_000.0)], Instant(75.0)) == [
        SplitWish(partition=1, cause=SplitCause.REQUESTS, reason="2.0 times the limit of requests, for 75 s")
    ]
    policy.look([load(2, 0, 99, size=3_000_000)], Instant(0.0))
    (wish,) = policy.look([load(2, 0, 99, size=3_000_000)], Instant(60.0))
    assert isinstance(wish, SplitWish)
    assert wish.cause is SplitCause.BYTES


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("bursts", lambda now: 20_000.0 if now % 90 < 50 else 10.0),
        ("sawtooth", lambda now: 2 * MAX * (now % 60) / 60),
        ("sine", lambda now: MAX + 0.5 * MAX * math.sin(now / 15)),
        ("just below", lambda now: 0.99 * MAX),
    ],
)
def test_load_that_goes_up_and_down_is_not_split(name: str, rate: Callable[[float], float]) -> None:
    assert wishes_over(rate, 3_600) == [], name


def test_noise_about_the_limit_splits_once_it_lasts_and_then_rests() -> None:
    rng = random.Random(3)
    times = wishes_over(lambda now: rng.uniform(0.85, 1.25) * MAX, 1_000)
    assert times
    assert all(later - earlier >= LIMITS.cooldown_s for earlier, later in zip(times, times[1:], strict=False))


def test_one_slot_and_a_busy_partition_are_not_split() -> None:
    policy = SplitPolicy(LIMITS)
    loads = [load(1, 0, 0, 9_000.0), load(2, 1, 99, 9_000.0, has_operation=True)]
    assert policy.look(loads, Instant(0.0)) == policy.look(loads, Instant(600.0)) == []


def test_neighbours_that_are_small_for_an_hour_are_merged_each_in_one_pair() -> None:
    policy = SplitPolicy(LIMITS)
    loads = [load(number, number * 10, number * 10 + 9, 10.0) for number in range(4)]
    assert policy.look(loads, Instant(0.0)) == []
    assert policy.look(loads, Instant(3_599.0)) == []
    wishes = policy.look(loads, Instant(3_600.0))
    assert [(wish.left, wish.right) for wish in wishes if isinstance(wish, MergeWish)] == [(0, 1), (2, 3)]


@pytest.mark.parametrize("change", ["a burst", "bytes", "an operation", "a gap"])
def test_what_speaks_against_a_merge(change: str) -> None:
    policy = SplitPolicy(LIMITS)
    small = [load(1, 0, 9, 10.0), load(2, 10, 19, 10.0)]
    other = {
        "a burst": load(2, 10, 19, 300.0),
        "bytes": load(2, 10, 19, 10.0, size=300_000),
        "an operation": load(2, 10, 19, 10.0, has_operation=True),
        "a gap": load(2, 11, 19, 10.0),
    }[change]
    policy.look(small, Instant(0.0))
    assert policy.look([small[0], other], Instant(3_600.0)) == []
    after = policy.look(small, Instant(3_601.0))
    assert bool(after) == (change == "an operation"), "a break begins the hour anew; an operation only puts it off"


def test_the_numbers_of_partitions_have_bounds() -> None:
    few = SplitPolicy(SplitLimits(requests_per_s_max=1_000.0, partitions_max=3, partitions_min=2))
    hot = [load(1, 0, 9, 2_000.0), load(2, 10, 19, 2_000.0)]
    few.look(hot, Instant(0.0))
    assert len(few.look(hot, Instant(60.0))) == 1
    cold = [load(1, 0, 9), load(2, 10, 19)]
    few.look(cold, Instant(100.0))
    assert few.look(cold, Instant(9_000.0)) == []


class Keyspace:
    """Partitions that are split and merged as the policy wishes, under a load that is a function of slot and time."""

    def __init__(self, rate: Callable[[int, float], float]) -> None:
        self.rate = rate
        self.ranges: list[tuple[int, int, int]] = [(1, 0, 63)]
        self.policy = SplitPolicy(LIMITS)
        self.changes: list[tuple[float, str]] = []
        self.ids = 1

    def run(self, seconds: int, step: int = 5) -> None:
        for now in range(0, seconds, step):
            loads = [
                load(number, first, last, sum(self.rate(slot, now) for slot in range(first, last + 1)))
                for number, first, last in self.ranges
            ]
            for wish in self.policy.look(loads, Instant(now)):
                if isinstance(wish, SplitWish):
                    self.split(wish.partition, now)
                else:
                    self.merge(wish.left, wish.right, now)

    def split(self, number: int, now: float) -> None:
        place = next(place for place, each in enumerate(self.ranges) if each[0] == number)
        _, first, last = self.ranges[place]
        weights = [self.rate(slot, now) for slot in range(first, last + 1)]
        cut = min(range(1, len(weights)), key=lambda at: abs(sum(weights[:at]) - sum(weights[at:])))
        self.ids += 1
        self.ranges[place : place + 1] = [(number, first, first + cut - 1), (self.ids, first + cut, last)]
        self.policy.rest([number, self.ids], Instant(now))
        self.changes.append((now, "split"))

    def merge(self, left: int, right: int, now: float) -> None:
        place = next(place for place, each in enumerate(self.ranges) if each[0] == left)
        self.ranges[place : place + 2] = [(left, self.ranges[place][1], self.ranges[place + 1][2])]
        self.policy.rest([left], Instant(now))
        self.changes.append((now, "merge"))


def test_steady_load_is_divided_until_each_part_bears_it_and_then_nothing_happens() -> None:
    world = Keyspace(lambda slot, now: 60.0)  # 3,840 in all
    world.run(24 * 3_600)
    assert [kind for _, kind in world.changes] == ["split"] * 3
    assert len(world.ranges) == 4
    assert max(at for at, _ in world.changes) < 1_000


def test_a_hot_spot_that_moves_through_the_slots_does_not_make_it_flap() -> None:
    """Every two hours another eighth of the slots is hot. Each is split when it is, and merged an hour after."""

    def rate(slot: int, now: float) -> float:
        return 500.0 if slot // 8 == int(now // 7_200) % 8 else 1.0

    world = Keyspace(rate)
    world.run(24 * 3_600, step=10)
    assert len(world.ranges) <= 12
    # No more than what one hot spot needs, three splits and their merges, for each of twelve.
    assert len(world.changes) <= 12 * 8
    assert_no_flapping(world)


def test_a_daily_rhythm_splits_by_day_and_merges_by_night_at_most() -> None:
    world = Keyspace(lambda slot, now: 30.0 + 29.5 * math.sin(now / 86_400 * 2 * math.pi))
    world.run(5 * 86_400, step=20)
    assert len(world.changes) <= 5 * 6
    assert_no_flapping(world)


def assert_no_flapping(world: Keyspace) -> None:
    """No merge follows a split within the time that loads must be small, except elsewhere in the slots."""
    kinds = [kind for _, kind in world.changes]
    assert kinds.count("merge") <= kinds.count("split")
