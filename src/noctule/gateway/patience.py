"""How much a client may cost that asks for nothing: a leaky bucket of points."""

CAPACITY = 2_000
"""Points at the beginning, and the most there are: with what h2.py takes for each, 100 resets or 200 pings at once."""

REFILL_PER_S = 400.0

REFUND = 4
"""For each frame of a response that the client took: it has to open its windows for those."""


class Patience:
    """With one client. Time is handed in, in seconds."""

    def __init__(self, now: float) -> None:
        self._points = float(CAPACITY)
        self._seen_at = now

    def use(self, points: int) -> None:
        """Something came that makes work."""
        self._points -= points

    def refund(self) -> None:
        """Something was taken that the client had asked for."""
        self._points = min(CAPACITY, self._points + REFUND)

    def is_used_up(self, now: float) -> bool:
        """Whether it is; time gives it back."""
        self._points = min(CAPACITY, self._points + (now - self._seen_at) * REFILL_PER_S)
        self._seen_at = now
        return self._points < 0
