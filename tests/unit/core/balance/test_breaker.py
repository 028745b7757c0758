"""What opens a breaker, what closes it, and that probes are leased."""

import random
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import ConfigError
from noctule.base.ids import Instant
from noctule.core.balance.breaker import Breaker, BreakerPolicy, BreakerState, Permit

START = Instant(100.0)
POLICY = BreakerPolicy(jitter=0)


def later(seconds: float) -> Instant:
    return Instant(START + seconds)


def breaker_of(policy: BreakerPolicy = POLICY) -> Breaker:
    return Breaker(policy, random.Random(1))


def call(breaker: Breaker, *, is_ok: bool, now: Instant = START, took_s: float = 0.0) -> bool:
    """One call; gives whether it was made."""
    permit = breaker.ask(now)
    breaker.check()
    if permit is None:
        return False
    breaker.end(permit, is_ok, Instant(now + took_s))
    breaker.check()
    return True


def state(breaker: Breaker, now: Instant = START) -> BreakerState:
    return breaker.describe(now).state


def opened(policy: BreakerPolicy = POLICY) -> Breaker:
    breaker = breaker_of(policy)
    while call(breaker, is_ok=False):
        pass
    return breaker


def probe(breaker: Breaker, now: Instant) -> Permit:
    permit = breaker.ask(now)
    assert permit is not None
    assert permit.number
    return permit


def test_half_of_the_calls_failing_opens_it_but_not_before_there_are_enough() -> None:
    breaker = breaker_of()
    for number in range(POLICY.calls_min - 1):
        assert call(breaker, is_ok=number % 2 == 0)
    assert state(breaker) is BreakerState.CLOSED
    assert call(breaker, is_ok=False)
    assert state(breaker) is BreakerState.OPEN
    assert not call(breaker, is_ok=True)
    picture = breaker.describe(later(1))
    assert (picture.opened, picture.refused, picture.retry_after_s) == (1, 1, POLICY.open_s - 1)


def test_failures_that_have_left_the_window_do_not_count() -> None:
    breaker = breaker_of()
    for second in range(100):
        call(breaker, is_ok=False, now=later(second))
    assert state(breaker) is BreakerState.CLOSED, "10 calls in 10 s are too few to say"


def test_slow_calls_open_it_though_they_end_well() -> None:
    breaker = breaker_of(BreakerPolicy(slow_call_s=1, slow_rate=0.8))
    for number in range(20):
        call(breaker, is_ok=True, took_s=1.01 if number >= 4 else 1)
    assert state(breaker) is BreakerState.OPEN


def test_good_probes_close_it_and_the_count_begins_anew() -> None:
    breaker = opened()
    now = later(POLICY.open_s)
    assert not call(breaker, is_ok=True, now=Instant(now - 0.001))
    for _ in range(POLICY.probes_good):
        assert call(breaker, is_ok=True, now=now)
    assert state(breaker) is BreakerState.CLOSED
    while call(breaker, is_ok=False, now=now):
        pass
    assert breaker.next_deadline() == now + POLICY.open_s, "the first time again"


def test_a_probe_that_fails_or_is_slow_opens_it_for_twice_as_long_each_time() -> None:
    breaker = opened(BreakerPolicy(jitter=0, slow_call_s=1))
    now = later(POLICY.open_s)
    lengths = []
    for number in range(6):
        assert call(breaker, is_ok=number % 2 == 0, took_s=2, now=now)
        until = breaker.next_deadline()
        assert until is not None
        lengths.append(until - now - 2)
        now = until
    assert lengths == [10, 20, 40, 60, 60, 60]


def test_while_a_probe_is_out_nobody_else_goes() -> None:
    breaker = opened()
    now = later(POLICY.open_s)
    held = probe(breaker, now)
    assert breaker.ask(now) is None
    assert breaker.next_deadline() == now + POLICY.probe_lease_s
    breaker.end(held, True, now)
    assert breaker.ask(now) is not None


def test_the_place_of_a_probe_whose_holder_died_is_free_after_its_lease() -> None:
    """pybreaker and others: a probe that never came back left the breaker half-open for ever."""
    breaker = opened()
    now = later(POLICY.open_s)
    probe(breaker, now)
    assert breaker.ask(Instant(now + POLICY.probe_lease_s - 0.001)) is None
    assert breaker.ask(Instant(now + POLICY.probe_lease_s)) is not None
    breaker.check()


def test_a_probe_given_up_leaves_its_place() -> None:
    breaker = opened()
    now = later(POLICY.open_s)
    breaker.give_up(probe(breaker, now))
    assert state(breaker, now) is BreakerState.HALF_OPEN
    assert breaker.ask(now) is not None


def test_what_comes_back_after_the_state_has_changed_says_nothing() -> None:
    """A call that hung from before it opened must neither close it nor open it again."""
    breaker = breaker_of()
    old = [breaker.ask(START) for _ in range(5)]
    while call(breaker, is_ok=False):
        pass
    now = later(POLICY.open_s)
    held = probe(breaker, now)
    for permit, is_ok in zip(old, (True, True, True, True, False), strict=True):
        assert permit is not None
        breaker.end(permit, is_ok, now)
    assert state(breaker, now) is BreakerState.HALF_OPEN
    breaker.end(held, True, now)
    breaker.check()


def test_somebody_who_knows_better_opens_it() -> None:
    breaker = breaker_of()
    breaker.open_until(later(7))
    assert not call(breaker, is_ok=True, now=later(6.9))
    assert call(breaker, is_ok=True, now=later(7))


def test_openings_are_longer_by_chance_and_never_shorter() -> None:
    policy = BreakerPolicy(jitter=0.5)
    lengths = {policy.open_for_s(0, random.Random(seed)) for seed in range(50)}
    assert len(lengths) == 50
    assert min(lengths) >= policy.open_s
    assert max(lengths) <= policy.open_s * 1.5


def test_a_policy_that_cannot_work_is_told_whole() -> None:
    with pytest.raises(ConfigError, match=r"window_s.*calls_min.*failure_rate.*open_s_max"):
        breaker_of(BreakerPolicy(window_s=0, calls_min=0, failure_rate=0, open_s=9, open_s_max=1))


Step: TypeAlias = tuple[str, int, float]


@given(
    probes_max=st.integers(1, 3),
    steps=st.lists(
        st.tuples(st.sampled_from(["ask", "good", "bad", "give up"]), st.integers(0, 9), st.floats(0, 8)), max_size=150
    ),
)
def test_never_more_probes_than_leased_and_never_open_for_ever(probes_max: int, steps: list[Step]) -> None:
    policy = BreakerPolicy(calls_min=3, probes_max=probes_max, probes_good=2, slow_call_s=3, open_s_max=40)
    breaker = breaker_of(policy)
    now = START
    out: list[Permit] = []
    epoch = 0
    for kind, which, gap_s in steps:
        now = Instant(now + gap_s)
        if kind == "ask":
            before = breaker.describe(now)
            permit = breaker.ask(now)
            if permit is not None:
                out.append(permit)
                assert not (before.state is BreakerState.OPEN and before.retry_after_s > 0), "refused while open"
        elif out:
            permit = out.pop(which % len(out))
            if kind == "give up":
                breaker.give_up(permit)
            else:
                breaker.end(permit, kind == "good", now)
        breaker.check()
        picture = breaker.describe(now)
        assert picture.epoch >= epoch, "the epoch only grows"
        epoch = picture.epoch
        if picture.state is BreakerState.HALF_OPEN:
            living = [p for p in out if p.epoch == epoch and now - p.begun < policy.probe_lease_s]
            assert len(living) <= probes_max
    # Whatever is out never comes back, and still a call is made in the end.
    longest_s = max(policy.open_s_max * (1 + policy.jitter), policy.probe_lease_s)
    assert breaker.ask(Instant(now + longest_s)) is not None
