"""The sample of a partition's load: fair, forgetful, small; and what is advised from it."""

import random
import sys
from collections.abc import Callable

import pytest

from noctule.base.ids import Instant
from noctule.core.placement.hotspots import (
    FORGOTTEN_AFTER_S,
    MEMORY_S,
    SAMPLES,
    LoadSampler,
    shortened_hash,
    split_by_size,
)
from noctule.core.placement.slots import key_slot

FIRST, LAST = 0, 16_383
BY_SLOT = {key_slot(key): key for key in (b"k%d" % number for number in range(200_000))}
"""A key for each slot."""


def feed(
    sampler: LoadSampler,
    key: Callable[[random.Random], bytes],
    *,
    begin: float = 0.0,
    seconds: float = 30.0,
    batches_per_s: int = 50,
    requests: int = 20,
    seed: int = 7,
) -> Instant:
    """Batches of requests at a steady pace; the time at which they end."""
    rng = random.Random(seed)
    for number in range(int(seconds * batches_per_s)):
        keys = [key(rng) for _ in range(min(requests, 4))]
        sampler.observe(keys, requests, Instant(begin + number / batches_per_s), rng)
    return Instant(begin + seconds)


def uniform(first: int, last: int) -> Callable[[random.Random], bytes]:
    return lambda rng: BY_SLOT[rng.randint(first, last)]


@pytest.mark.parametrize(("batches_per_s", "requests"), [(1, 1), (50, 20), (500, 1), (200, 1_000)])
def test_the_rate_is_right_at_every_pace(batches_per_s: int, requests: int) -> None:
    sampler = LoadSampler()
    now = feed(sampler, uniform(0, 99), seconds=60, batches_per_s=batches_per_s, requests=requests)
    assert sampler.requests_per_s(now) == pytest.approx(batches_per_s * requests, rel=0.06)
    assert sampler.requests_per_s(Instant(now + MEMORY_S)) == pytest.approx(batches_per_s * requests / 2.718, rel=0.06)


@pytest.mark.parametrize("requests", [1, 20, 1_000])
def test_uniform_load_is_halved_in_the_middle(requests: int) -> None:
    sampler = LoadSampler()
    now = feed(sampler, uniform(1_000, 2_999), requests=requests)
    advice = sampler.split_point(1_000, 2_999, now)
    assert advice.at_slot == pytest.approx(2_000, abs=300)
    assert advice.lower_share == pytest.approx(0.5, abs=0.02)
    assert advice.hot_key is None
    assert advice.sentence == f"slots from {advice.at_slot} on have 50% of the requests"


def test_samples_of_long_ago_count_for_nothing() -> None:
    """Their weights would all be 0, and so would their sum."""
    sampler = LoadSampler()
    now = feed(sampler, uniform(1_000, 2_999))
    assert sampler.split_point(1_000, 2_999, Instant(now + 10_000.0)).sentence.startswith("too few samples: 0 of ")


def test_skewed_load_is_halved_where_the_load_is() -> None:
    """Nine tenths of the requests go to a hundred slots at the end of the range."""
    sampler = LoadSampler()

    def key(rng: random.Random) -> bytes:
        return BY_SLOT[rng.randint(8_092, 8_191) if rng.random() < 0.9 else rng.randint(0, 8_091)]

    now = feed(sampler, key)
    assert 8_092 <= sampler.split_point(0, 8_191, now).at_slot <= 8_191


def test_one_hot_key_is_reported_and_no_split_advised() -> None:
    sampler = LoadSampler()
    hot = b"celebrity"
    now = feed(sampler, lambda rng: hot if rng.random() < 0.8 else BY_SLOT[rng.randint(0, 16_383)])
    advice = sampler.split_point(FIRST, LAST, now)
    assert advice.at_slot == 0
    assert advice.hot_key is not None
    assert (advice.hot_key.slot, advice.hot_key.key_hash) == (key_slot(hot), shortened_hash(hot))
    assert advice.hot_key.share == pytest.approx(0.8, abs=0.08)
    assert advice.sentence.startswith(f"one key of slot {key_slot(hot)} has ")
    assert advice.sentence.endswith(" of all requests: no split helps")
    assert b"celebrity".decode() not in repr(advice)


def test_a_key_that_is_merely_warm_is_reported_beside_a_split() -> None:
    sampler = LoadSampler()
    now = feed(sampler, lambda rng: b"warm" if rng.random() < 0.4 else BY_SLOT[rng.randint(0, 16_383)])
    advice = sampler.split_point(FIRST, LAST, now)
    assert advice.at_slot > 0
    assert max(advice.lower_share, 1 - advice.lower_share) <= 0.75
    assert advice.hot_key is not None


def test_many_keys_of_one_tag_are_a_slot_that_cannot_be_divided() -> None:
    sampler = LoadSampler()
    now = feed(sampler, lambda rng: b"{tag}%d" % rng.randrange(10_000))
    advice = sampler.split_point(FIRST, LAST, now)
    assert (advice.at_slot, advice.hot_key) == (0, None)
    assert advice.sentence == f"slot {key_slot(b'{tag}')} has 100% of all requests, and a slot cannot be divided"


def test_two_hot_keys_beside_each_other_are_parted() -> None:
    sampler = LoadSampler()
    now = feed(sampler, lambda rng: BY_SLOT[rng.choice([500, 501])])
    advice = sampler.split_point(500, 501, now)
    assert advice.at_slot == 501


def test_a_hot_spot_that_moves_on_is_followed() -> None:
    sampler = LoadSampler()
    now = feed(sampler, uniform(0, 99))
    assert sampler.split_point(FIRST, LAST, now).at_slot < 100
    now = feed(sampler, uniform(10_000, 10_099), begin=now, seconds=3 * MEMORY_S)
    assert 10_000 <= sampler.split_point(FIRST, LAST, now).at_slot < 10_100


def test_what_is_older_counts_less_even_while_it_is_in_the_sample() -> None:
    """At five batches a second the samples reach back 50 s; what was in the last 12 s has two thirds of the weight."""
    sampler = LoadSampler()
    now = feed(sampler, uniform(0, 99), batches_per_s=5, requests=1, seconds=60)
    now = feed(sampler, uniform(10_000, 10_099), begin=now, batches_per_s=5, requests=1, seconds=12)
    assert 10_000 <= sampler.split_point(FIRST, LAST, now).at_slot < 10_100


@pytest.mark.parametrize("batches_per_s", [4, 400])
def test_large_batches_count_for_what_they_are(batches_per_s: int) -> None:
    """Every second batch is of nine requests for one key, the others of one request for another."""
    sampler = LoadSampler()
    rng = random.Random(5)
    heavy, light = BY_SLOT[100], BY_SLOT[200]
    for number in range(60 * batches_per_s):
        key, requests = (heavy, 9) if number % 2 else (light, 1)
        sampler.observe([key], requests, Instant(number / batches_per_s), rng)
    advice = sampler.split_point(FIRST, LAST, Instant(60.0))
    assert advice.hot_key is not None
    assert (advice.hot_key.slot, advice.hot_key.share) == (100, pytest.approx(0.9, abs=0.07))


def test_few_samples_give_no_advice_and_other_slots_do_not_count() -> None:
    sampler = LoadSampler()
    now = feed(sampler, uniform(0, 99), seconds=1, batches_per_s=20)
    assert sampler.split_point(FIRST, LAST, now).sentence == "too few samples: 20 of 64"
    now = feed(sampler, uniform(0, 99))
    assert sampler.split_point(200, 299, now).sentence == "too few samples: 0 of 64"


def test_an_idle_partition_costs_nothing_and_a_busy_one_is_bounded() -> None:
    sampler = LoadSampler()
    assert sampler.tidy(Instant(0.0))
    assert sys.getsizeof(sampler) < 100
    assert sampler._samples is None
    now = feed(sampler, uniform(0, 16_383), batches_per_s=500, seconds=20)
    assert sampler._samples is not None
    assert len(sampler._samples) == SAMPLES
    assert not sampler.tidy(Instant(now + FORGOTTEN_AFTER_S / 2))
    assert sampler.tidy(Instant(now + FORGOTTEN_AFTER_S))
    assert sampler._samples is None
    assert sampler.requests_per_s(now) == 0.0


def test_keys_are_hashed_only_when_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it cheap: of 100,000 batches in a minute some thousands are looked at, however many there are."""
    hashed = []
    monkeypatch.setattr("noctule.core.placement.hotspots.key_slot", lambda key: hashed.append(key) or 1)
    rng = random.Random(1)
    sampler = LoadSampler()
    for number in range(100_000):
        sampler.observe([b"key"], 100, Instant(number / 1_666), rng)
    assert len(hashed) < 60 / MEMORY_S * SAMPLES * 1.3 + SAMPLES * 10


def test_sizes_are_halved() -> None:
    assert split_by_size(dict.fromkeys(range(100), 10), 0, 99).at_slot == 50
    assert split_by_size({3: 10, 90: 10}, 0, 99).at_slot in range(4, 91)
    assert split_by_size({0: 10, 1: 10}, 0, 1).at_slot == 1
    assert split_by_size({5: 1_000, 6: 10}, 0, 99).sentence == (
        "slot 5 has 99% of the bytes, and a slot cannot be divided"
    )
    assert split_by_size({}, 0, 99).sentence == "it is empty"
    assert split_by_size({200: 10}, 0, 99).at_slot == 0
