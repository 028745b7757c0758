"""Counts over the last seconds are never older than the window, and never younger than it less one slot."""

from hypothesis import given
from hypothesis import strategies as st

from noctule.base.ids import Instant
from noctule.core.balance.window import SLOTS, Window

WINDOW_S = 10.0


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 1)), max_size=60))
def test_totals_hold_what_is_younger_than_the_window(steps: list[tuple[float, int]]) -> None:
    window = Window(WINDOW_S, kinds=2)
    now = Instant(1_000.0)
    counted: list[tuple[Instant, int]] = []
    for gap_s, kind in steps:
        now = Instant(now + gap_s)
        window.add(kind, now)
        counted.append((now, kind))
        for each in (0, 1):
            ages = [now - at for at, counted_kind in counted if counted_kind == each]
            surely = sum(age < WINDOW_S - WINDOW_S / SLOTS - 1e-6 for age in ages)
            possibly = sum(age <= WINDOW_S + 1e-6 for age in ages)
            assert surely <= window.totals[each] <= possibly


def test_a_clock_that_steps_back_loses_nothing() -> None:
    window = Window(WINDOW_S, kinds=1)
    window.add(0, Instant(100.0))
    window.add(0, Instant(1.0))
    assert window.advance(Instant(100.0)) == [2]


def test_clear_forgets_everything() -> None:
    window = Window(WINDOW_S, kinds=1)
    window.add(0, Instant(100.0))
    window.clear()
    assert window.totals == [0]
