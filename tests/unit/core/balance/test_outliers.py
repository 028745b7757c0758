"""Who stands out is put out, never more than half, and comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import ConfigError
from noctule.base.ids import Instant
from noctule.core.balance.outliers import OutlierPolicy, Outliers

START = Instant(100.0)
POLICY = OutlierPolicy()


def later(seconds: float) -> Instant:
    return Instant(START + seconds)


def of(*ids: str) -> Outliers:
    outliers = Outliers()
    outliers.keep(ids)
    return outliers


def fail(outliers: Outliers, instance_id: str, count: int, now: Instant = START) -> None:
    for _ in range(count):
        outliers.record(instance_id, False, now)
        outliers.check()


def succeed(outliers: Outliers, instance_id: str, count: int, now: Instant = START) -> None:
    for _ in range(count):
        outliers.record(instance_id, True, now)


def test_failures_in_a_row_put_an_instance_out_and_time_brings_it_back() -> None:
    outliers = of("a", "b", "c")
    succeed(outliers, "b", 100)
    succeed(outliers, "a", 100)
    fail(outliers, "a", POLICY.in_a_row - 1)
    assert outliers.ejected(START) == frozenset()
    fail(outliers, "a", 1)
    assert outliers.ejected(START) == {"a"}
    assert outliers.next_deadline() == later(POLICY.ejection_s)
    assert outliers.ejected(later(POLICY.ejection_s - 0.001)) == {"a"}
    assert outliers.ejected(later(POLICY.ejection_s)) == frozenset()
    assert outliers.next_deadline() is None


def test_a_success_between_forgives_the_row_but_not_the_rate() -> None:
    outliers = of("a", "b")
    succeed(outliers, "b", 100)
    succeed(outliers, "a", 2)
    for _ in range(9):
        fail(outliers, "a", 1)
        succeed(outliers, "a", 1)
    fail(outliers, "a", 1)
    assert outliers.ejected(START) == frozenset(), "10 of 21 failed"
    fail(outliers, "a", 1)
    assert outliers.ejected(START) == {"a"}, "11 of 22 failed"


def test_nobody_stands_out_where_all_fail_alike() -> None:
    outliers = of("a", "b", "c", "d")
    for _ in range(50):
        for instance_id in ("a", "b", "c", "d"):
            outliers.record(instance_id, False, START)
            outliers.record(instance_id, True, START)
    assert outliers.ejected(START) == frozenset()


def test_at_most_half_are_out_and_the_only_one_never() -> None:
    outliers = of("a", "b", "c")
    for instance_id in ("a", "b", "c"):
        fail(outliers, instance_id, 50)
    assert outliers.ejected(START) == {"a"}
    alone = of("a")
    fail(alone, "a", 50)
    assert alone.ejected(START) == frozenset()


def test_when_instances_leave_the_one_that_has_been_out_longest_comes_back() -> None:
    outliers = of("a", "b", "c", "d")
    fail(outliers, "a", 5)
    fail(outliers, "b", 5, later(1))
    assert outliers.ejected(later(1)) == {"a", "b"}
    outliers.keep(["a", "b", "c"])
    outliers.check()
    assert outliers.ejected(later(1)) == {"b"}
    outliers.keep(["a"])
    assert outliers.ejected(later(1)) == frozenset()


def test_each_time_it_is_out_for_twice_as_long_until_it_was_well_for_long() -> None:
    outliers = of("a", "b")
    now = START
    lengths = []
    for _ in range(7):
        fail(outliers, "a", 5, now)
        deadline = outliers.next_deadline()
        assert deadline is not None
        lengths.append(deadline - now)
        now = deadline
    assert lengths == [10, 20, 40, 80, 160, 300, 300]
    now = Instant(now + POLICY.ejection_s_max)
    fail(outliers, "a", 5, now)
    assert outliers.next_deadline() == now + 10


def test_what_comes_late_from_one_that_is_out_changes_nothing() -> None:
    outliers = of("a", "b")
    fail(outliers, "a", 50)
    (a, _) = outliers.describe(START)
    assert (a.requests, a.ejected_until, a.ejections) == (0, later(POLICY.ejection_s), 1)


def test_a_policy_that_cannot_work_is_told_whole() -> None:
    with pytest.raises(ConfigError, match=r"in_a_row.*failure_rate.*ejection_s_max"):
        Outliers(OutlierPolicy(in_a_row=0, failure_rate=0, ejection_s=2, ejection_s_max=1))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("abcdef"), st.booleans(), st.floats(0, 20)),
            st.sets(st.sampled_from("abcdef")).map(sorted),
        ),
        max_size=150,
    )
)
def test_never_more_than_half_are_out_and_none_for_ever(steps: list[tuple[str, bool, float] | list[str]]) -> None:
    outliers = of("a", "b")
    now = START
    for step in steps:
        if isinstance(step, list):
            outliers.keep(step)
        else:
            instance_id, is_ok, gap_s = step
            now = Instant(now + gap_s)
            outliers.record(instance_id, is_ok, now)
        outliers.check()
        known = outliers.describe(now)
        assert len(outliers.ejected(now)) <= len(known) / 2
        assert all(each.ejected_until <= now + POLICY.ejection_s_max for each in known if each.ejected_until)
    assert outliers.ejected(Instant(now + POLICY.ejection_s_max)) == frozenset()
