"""Suspicion is a number that the gaps of the past give a meaning (Hayashibara 2004)."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from noctule.base.ids import Instant
from noctule.core.roster.phi import GAP_INTERVALS_MAX, PAUSE_INTERVALS, WINDOW, PhiDetector, phi

INTERVAL_S = 0.05


def detector_after(gaps: list[float], start: float = 100.0) -> tuple[PhiDetector, float]:
    """A detector that heard signs of life with these gaps between them, and when the last one came."""
    now = start
    detector = PhiDetector(INTERVAL_S, Instant(now))
    for gap in gaps:
        now += gap
        detector.heard(Instant(now))
    return detector, now


def test_it_is_the_formula_of_the_paper() -> None:
    """-log10 of the chance that a normally distributed gap is longer: 1 errs one time in ten, 2 one in a hundred."""
    for elapsed, mean, deviation in ((0.1, 0.1, 0.02), (0.15, 0.1, 0.03), (0.25, 0.05, 0.05)):
        tail = 1 - 0.5 * (1 + math.erf((elapsed - mean) / (deviation * math.sqrt(2))))
        assert math.isclose(phi(elapsed, mean, deviation), -math.log10(tail), rel_tol=1e-6)
    assert math.isclose(phi(1.2815515655446004, 0.0, 1.0), 1.0, rel_tol=1e-9)
    assert math.isclose(phi(2.3263478740408408, 0.0, 1.0), 2.0, rel_tol=1e-9)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(1e-3, 1e3), st.floats(1e-6, 1e3))
def test_it_is_finite_and_never_falls_with_time(first: float, second: float, mean: float, deviation: float) -> None:
    """erfc is 0 behind some forty deviations, and its logarithm would be an error in the middle of an outage."""
    early, late = sorted((first, second))
    low, high = phi(early, mean, deviation), phi(late, mean, deviation)
    assert low >= 0
    assert math.isfinite(high)
    assert low <= high * (1 + 1e-3)


def test_a_silent_node_is_suspected_in_about_half_a_second() -> None:
    detector, now = detector_after([INTERVAL_S] * 50)
    assert detector.phi(Instant(now + 0.35)) < 8 < detector.phi(Instant(now + 0.55))


def test_before_anything_is_known_the_guess_is_as_good() -> None:
    detector, now = detector_after([])
    assert detector.phi(Instant(now + 0.3)) < 8 < detector.phi(Instant(now + 0.7))


def test_who_is_irregular_is_given_more_time() -> None:
    chance = random.Random(1)
    regular, now = detector_after([INTERVAL_S] * 100)
    irregular, other_now = detector_after([chance.uniform(0.03, 0.4) for _ in range(100)])
    assert irregular.phi(Instant(other_now + 0.5)) < 8 < regular.phi(Instant(now + 0.5))


def test_frames_under_load_say_nothing_about_silence() -> None:
    """A thousand frames a second, then a pause of three heartbeats: nobody has died."""
    detector, now = detector_after([0.001] * 5_000)
    assert detector.phi(Instant(now + 0.2)) < 1


def test_an_outage_is_no_sample() -> None:
    """A node that was away for an hour and is back would else never be missed again."""
    detector, now = detector_after([INTERVAL_S] * 50 + [3600.0] + [INTERVAL_S] * 50)
    assert detector.phi(Instant(now + 0.6)) > 8
    assert GAP_INTERVALS_MAX * INTERVAL_S < 3600


@given(st.lists(st.floats(0.026, 0.49), min_size=WINDOW, max_size=3 * WINDOW))
def test_the_window_holds_the_newest_gaps_and_the_sums_agree_with_it(gaps: list[float]) -> None:
    detector, _ = detector_after(gaps, start=1e5)
    newest = gaps[-WINDOW:]
    mean = math.fsum(newest) / WINDOW
    deviation = math.sqrt(math.fsum((gap - mean) ** 2 for gap in newest) / WINDOW)
    assert len(detector._gaps) == WINDOW
    assert math.isclose(detector.mean_s, mean, abs_tol=1e-6)
    assert math.isclose(detector.deviation_s, max(deviation, INTERVAL_S), abs_tol=1e-4)


def test_what_is_forgiven_was_no_silence() -> None:
    detector, now = detector_after([INTERVAL_S] * 50)
    detector.forgive(10.0, Instant(now + 10.0))
    assert detector.phi(Instant(now + 10.0)) < 1
    assert PAUSE_INTERVALS > 0
