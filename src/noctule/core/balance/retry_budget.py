"""How many requests may be sent again: a share of those sent once, so that retries cannot multiply an overload.

Retries by count ("three times") turn every request into four just when the other side has the least to spare. A budget
ties them to the traffic instead. Source: Finagle's RetryBudget.
"""

from dataclasses import dataclass

from noctule.base.ensure import ensure
from noctule.base.errors import ConfigError
from noctule.base.ids import Instant
from noctule.core.balance.window import Window

WINDOW_S = 10.0
"""Over which requests and retries are weighed against each other."""

RATIO = 0.2
"""One retry for five requests."""

PER_SECOND_MIN = 3.0
"""What there is beside, so that somebody with little traffic may retry at all."""

_DEPOSITS, _SPENT = 0, 1


@dataclass(frozen=True, slots=True)
class RetryBudgetPicture:
    """The last `WINDOW_S` seconds."""

    requests: int
    retries: int
    left: int
    """Retries that would be granted now."""
    refused: int
    """Retries that were not granted, since the beginning."""


class RetryBudget:
    """`deposit` for each request, `spend` before each retry. Of one service, or of one caller.

    Within any window there are at most `ratio` retries for each request of it, and `per_second_min` a second.
    `ratio` is 0 or more, `per_second_min` too; both 0 means that nothing is retried. `ConfigError` otherwise.
    """

    def __init__(self, ratio: float = RATIO, per_second_min: float = PER_SECOND_MIN) -> None:
        if not (0 <= ratio <= 10 and 0 <= per_second_min <= 1e6):
            raise ConfigError(
                f"a retry budget of ratio {ratio} and {per_second_min} a second cannot be: the ratio is from 0 to 10, "
                "the minimum from 0 to a million a second"
            )
        self._ratio = ratio
        self._reserve = per_second_min * WINDOW_S
        self._window = Window(WINDOW_S, kinds=2)
        self._refused = 0

    def deposit(self, now: Instant) -> None:
        """A request is sent for the first time."""
        self._window.add(_DEPOSITS, now)

    def spend(self, now: Instant) -> bool:
        """Whether a request may be sent once more; if so, it is counted."""
        if self._left(now) < 1:
            self._refused += 1
            return False
        self._window.add(_SPENT, now)
        return True

    def describe(self, now: Instant) -> RetryBudgetPicture:
        """A frozen picture, for status and tests."""
        left = int(max(0.0, self._left(now)))
        deposits, spent = self._window.totals
        return RetryBudgetPicture(deposits, spent, left, self._refused)

    def check(self) -> None:
        """Raise `InternalError` when the counts cannot be."""
        ensure(min(self._window.totals) >= 0, "counts are not negative", totals=tuple(self._window.totals))

    def _left(self, now: Instant) -> float:
        deposits, spent = self._window.advance(now)
        return self._reserve + self._ratio * deposits - spent
