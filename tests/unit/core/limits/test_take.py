"""One decision under one policy, and that no order of decisions lets more through than the policy says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.limits.policy import Algorithm
from noctule.core.limits.take import Count, give_back, take

SECOND = 1_000_000
ALGORITHMS = st.sampled_from(Algorithm)
START = 1_700_000_000 * SECOND


@given(
    algorithm=ALGORITHMS,
    limit=st.integers(1, 50),
    window_us=st.integers(1_000, 600 * SECOND),
    steps=st.lists(st.tuples(st.floats(0, 1.5), st.integers(1, 3)), max_size=200),
)
def test_no_window_admits_more_than_it_may(
    algorithm: Algorithm, limit: int, window_us: int, steps: list[tuple[float, int]]
) -> None:
    """In any stretch of a window's length: twice the limit at most, as windows turn and GCRA refills meanwhile."""
    bound = limit if algorithm is Algorithm.SLIDING_WINDOW else 2 * limit
    count: Count = (0, 0, 0)
    now_us, admitted = START, []
    for pause, cost in steps:
        now_us += int(pause * window_us / limit)
        taken = take(algorithm, count, now_us, limit=limit, window_us=window_us, cost=cost)
        if taken.is_admitted:
            count = taken.count
            admitted.append((now_us, cost))
        assert 0 <= taken.remaining <= limit
        assert (taken.retry_us == 0) == taken.is_admitted
    if algorithm is Algorithm.SLIDING_WINDOW:
        # The window of the clock is exact; any other is bounded by the weighed count, which assumes an even spread.
        of_clock: dict[int, int] = {}
        for at, cost in admitted:
            of_clock[at // window_us] = of_clock.get(at // window_us, 0) + cost
        assert all(total <= limit for total in of_clock.values())
        return
    for first, _ in admitted:
        assert sum(cost for at, cost in admitted if first <= at < first + window_us) <= bound


@given(algorithm=ALGORITHMS, limit=st.integers(1, 100), window_us=st.integers(1_000, 600 * SECOND))
def test_a_fresh_subject_gets_exactly_the_limit(algorithm: Algorithm, limit: int, window_us: int) -> None:
    count: Count = (0, 0, 0)
    now_us = START // window_us * window_us
    for number in range(limit):
        taken = take(algorithm, count, now_us, limit=limit, window_us=window_us)
        assert taken.is_admitted
        assert taken.remaining == limit - number - 1
        count = taken.count
    assert not take(algorithm, count, now_us, limit=limit, window_us=window_us).is_admitted


@given(
    algorithm=ALGORITHMS,
    limit=st.integers(1, 50),
    window_us=st.integers(1_000, 600 * SECOND),
    used=st.lists(st.floats(0, 1), max_size=60),
    cost=st.integers(1, 3),
)
def test_who_waits_as_told_is_admitted(
    algorithm: Algorithm, limit: int, window_us: int, used: list[float], cost: int
) -> None:
    count: Count = (0, 0, 0)
    now_us = START
    for pause in used:
        now_us += int(pause * window_us / limit)
        count = take(algorithm, count, now_us, limit=limit, window_us=window_us).count
    taken = take(algorithm, count, now_us, limit=limit, window_us=window_us, cost=cost)
    if taken.is_admitted or cost > limit:
        return
    # Doubles round: one µs more is what a client that sleeps could not measure.
    later = take(algorithm, taken.count, now_us + taken.retry_us + 1, limit=limit, window_us=window_us, cost=cost)
    assert later.is_admitted


@given(algorithm=ALGORITHMS, limit=st.integers(1, 50), cost=st.integers(1, 50))
def test_what_is_given_back_can_be_taken_again(algorithm: Algorithm, limit: int, cost: int) -> None:
    count: Count = (0, 0, 0)
    before = take(algorithm, count, START, limit=limit, window_us=SECOND)
    assert before.is_admitted
    taken = take(algorithm, before.count, START, limit=limit, window_us=SECOND, cost=cost)
    if not taken.is_admitted:
        return
    back = give_back(algorithm, taken.count, START, limit=limit, window_us=SECOND, cost=cost)
    again = take(algorithm, back, START, limit=limit, window_us=SECOND, cost=cost)
    assert again.is_admitted
    assert again.remaining == taken.remaining


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_cost_over_the_limit_is_never_admitted(algorithm: Algorithm) -> None:
    taken = take(algorithm, (0, 0, 0), START, limit=3, window_us=SECOND, cost=4)
    assert not taken.is_admitted
    assert taken.remaining == 3
    assert taken.retry_us > 0


def test_sliding_windows_have_no_burst_around_an_end() -> None:
    """100 at the end of a window leave almost nothing for the beginning of the next."""
    end = START // SECOND * SECOND + SECOND
    count: Count = (0, 0, 0)
    for _ in range(100):
        count = take(Algorithm.SLIDING_WINDOW, count, end - 1, limit=100, window_us=SECOND).count
    admitted = 0
    for _ in range(100):
        taken = take(Algorithm.SLIDING_WINDOW, count, end + SECOND // 10, limit=100, window_us=SECOND)
        admitted += taken.is_admitted
        count = taken.count
    assert admitted == 10
