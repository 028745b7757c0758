"""The phi accrual failure detector: how unlikely is it that a node which lives has been silent for so long?

Source: Hayashibara, Défago, Yared and Katayama, "The φ accrual failure detector", 2004. phi 1 is wrong one time in ten,
phi 8 one time in a hundred million, if the gaps between signs of life are spread as they were. Akka's two additions are
here, too: a guess before the first gap, and a pause that is accepted on top.
"""

import math
from collections import deque
from typing import Final

from noctule.base.ids import Instant

WINDOW: Final = 200
"""Gaps remembered."""
PAUSE_INTERVALS: Final = 3.0
"""A pause of so many intervals is accepted on top of the usual gap: a collection, a slow disk, a busy machine."""
DEVIATION_INTERVALS_MIN: Final = 1.0
"""The standard deviation is taken as at least so many intervals: gaps of a calm hour are all alike, and the first one
that is not would be certain death."""
GAP_INTERVALS_MAX: Final = 10.0
"""A longer gap is an outage, no sample of how a living node behaves."""
_TAIL_BEGINS_AT: Final = 30.0
"""Standard deviations behind which erfc comes near the smallest float; a series is exact enough there."""


def phi(elapsed_s: float, mean_s: float, deviation_s: float) -> float:
    """-log10 of the probability that a gap is longer than `elapsed_s`, for gaps spread normally; finite, never below 0.

    `deviation_s` must be above 0.
    """
    z = (elapsed_s - mean_s) / deviation_s
    if z < _TAIL_BEGINS_AT:
        return max(0.0, -math.log10(0.5 * math.erfc(z / math.sqrt(2))))
    return z * z / 2 * math.log10(math.e) + math.log10(z * math.sqrt(2 * math.pi))


class PhiDetector:
    """Of one node. `interval_s` is how often it says something when it has nothing to say."""

    __slots__ = ("_gaps", "_sampled_at", "_sum", "_sum_of_squares", "heard_at", "interval_s")

    def __init__(self, interval_s: float, now: Instant) -> None:
        self.heard_at = now
        """When it last showed a sign of life, or when we began to listen; later by what was forgiven."""
        self.interval_s = interval_s
        self._sampled_at = now
        # Before anything is known: two gaps around the interval, a quarter of it to either side.
        self._gaps: deque[float] = deque((0.75 * interval_s, 1.25 * interval_s))
        self._sum = math.fsum(self._gaps)
        self._sum_of_squares = math.fsum(gap * gap for gap in self._gaps)

    def heard(self, now: Instant) -> None:
        """A sign of life. Those that come close together, as under load, say nothing about how silence looks."""
        self.heard_at = now
        gap = now - self._sampled_at
        if gap < self.interval_s / 2:
            return
        self._sampled_at = now
        if gap > self.interval_s * GAP_INTERVALS_MAX:
            return
        self._gaps.append(gap)
        self._sum += gap
        self._sum_of_squares += gap * gap
        if len(self._gaps) > WINDOW:
            oldest = self._gaps.popleft()
            self._sum -= oldest
            self._sum_of_squares -= oldest * oldest

    def forgive(self, seconds: float, now: Instant) -> None:
        """So much of its silence was ours."""
        self.heard_at = min(now, Instant(self.heard_at + seconds))
        self._sampled_at = self.heard_at

    def phi(self, now: Instant) -> float:
        """How much there is to suspect by now."""
        return phi(now - self.heard_at, self.mean_s + PAUSE_INTERVALS * self.interval_s, self.deviation_s)

    @property
    def mean_s(self) -> float:
        """Of the gaps in the window."""
        return self._sum / len(self._gaps)

    @property
    def deviation_s(self) -> float:
        """Of the gaps in the window, as far as it is believed."""
        # The difference of two sums may fall below 0 by rounding.
        variance = max(0.0, self._sum_of_squares / len(self._gaps) - self.mean_s**2)
        return max(math.sqrt(variance), DEVIATION_INTERVALS_MIN * self.interval_s)
