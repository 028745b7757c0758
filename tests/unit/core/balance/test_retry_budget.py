"""Retries are a share of the requests, whatever the order in which they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import ConfigError
from noctule.base.ids import Instant
from noctule.core.balance.retry_budget import WINDOW_S, RetryBudget

START = Instant(50.0)


def granted(budget: RetryBudget, now: Instant, asked: int) -> int:
    return sum(budget.spend(now) for _ in range(asked))


def test_a_share_of_the_requests_and_what_there_is_beside() -> None:
    budget = RetryBudget(ratio=0.2, per_second_min=0.5)
    assert granted(budget, START, 100) == 5
    for _ in range(100):
        budget.deposit(START)
    assert granted(budget, START, 100) == 20
    picture = budget.describe(START)
    assert (picture.requests, picture.retries, picture.left, picture.refused) == (100, 25, 0, 175)


def test_it_is_whole_again_after_the_window() -> None:
    budget = RetryBudget(ratio=0, per_second_min=1)
    assert granted(budget, START, 100) == 10
    assert granted(budget, Instant(START + WINDOW_S), 100) == 10


def test_nothing_is_retried_with_a_budget_of_nothing() -> None:
    budget = RetryBudget(0, 0)
    budget.deposit(START)
    assert not budget.spend(START)


@pytest.mark.parametrize(("ratio", "per_second_min"), [(-0.1, 1), (0.1, -1), (float("nan"), 1), (11, 1)])
def test_a_budget_that_cannot_be_is_refused(ratio: float, per_second_min: float) -> None:
    with pytest.raises(ConfigError, match="ratio is from 0 to 10"):
        RetryBudget(ratio, per_second_min)


@given(
    ratio=st.sampled_from([0.0, 0.1, 0.2, 1.0]),
    per_second_min=st.sampled_from([0.0, 0.3, 2.0]),
    steps=st.lists(st.tuples(st.floats(0, 6), st.booleans()), max_size=120),
)
def test_no_window_has_more_retries_than_its_requests_pay_for(
    ratio: float, per_second_min: float, steps: list[tuple[float, bool]]
) -> None:
    """The window of the law is the budget's, less and more the slot in which counts may leave it early or late."""
    budget = RetryBudget(ratio, per_second_min)
    now = START
    deposits: list[Instant] = []
    spent: list[Instant] = []
    for gap_s, is_deposit in steps:
        now = Instant(now + gap_s)
        if is_deposit:
            budget.deposit(now)
            deposits.append(now)
        elif budget.spend(now):
            spent.append(now)
            retries = sum(now - at < WINDOW_S * 0.9 - 1e-6 for at in spent)
            requests = sum(now - at <= WINDOW_S + 1e-6 for at in deposits)
            assert retries <= ratio * requests + per_second_min * WINDOW_S + 1e-6
        budget.check()
