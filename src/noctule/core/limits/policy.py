"""What is limited: how many requests of a subject in how long, how strictly, and counted in which way."""

from dataclasses import dataclass
from enum import StrEnum

from noctule.base.errors import ConfigError

LIMIT_MAX = 1_000_000
"""Requests in one window."""
WINDOW_S_MAX = 7 * 24 * 3600
"""A week: what is longer is a quota, and belongs where an account's money is kept."""


class Algorithm(StrEnum):
    """How requests are counted."""

    FIXED_WINDOW = "fixed-window"
    """A counter for each window of the clock: cheapest; twice the limit can pass around a window's end."""
    SLIDING_WINDOW = "sliding-window"
    """Two counters, the older weighed by how much of it the window still covers: no burst around an end."""
    GCRA = "gcra"
    """Generic cell rate algorithm: the limit as a burst, then one for each `window / limit`; one number of state."""


class OnStoreLoss(StrEnum):
    """What is decided while the store cannot be asked."""

    DIVIDE = "divide"
    """This instance admits `limit / instances`, rounded up, by its own count."""
    CLOSED = "closed"
    """Nothing is admitted."""
    OPEN = "open"
    """Everything is admitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A limit with a name, which is part of its keys in the store."""

    name: str
    limit: int
    """Requests in a window."""
    window_s: float
    strict_limit: int = 0
    """The same for a subject in strict mode; 0 is the ordinary limit."""
    algorithm: Algorithm = Algorithm.SLIDING_WINDOW
    on_store_loss: OnStoreLoss = OnStoreLoss.DIVIDE

    def __post_init__(self) -> None:
        problems = []
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum() or not self.name.isascii():
            problems.append("its name must be letters, digits, - and _")
        if not 1 <= self.limit <= LIMIT_MAX:
            problems.append(f"limit is {self.limit}; it must be 1 to {LIMIT_MAX}")
        if not 0 <= self.strict_limit <= self.limit:
            problems.append(f"strict_limit is {self.strict_limit}; it must be 0 (none) to the limit, {self.limit}")
        if not 0.001 <= self.window_s <= WINDOW_S_MAX:
            problems.append(f"window_s is {self.window_s:g}; it must be 0.001 to {WINDOW_S_MAX}")
        if problems:
            raise ConfigError(f"rate limit {self.name!r}: " + "; ".join(problems))

    @property
    def window_us(self) -> int:
        """The window in µs."""
        return round(self.window_s * 1_000_000)

    def limit_for(self, *, is_strict: bool) -> int:
        """The limit that counts."""
        return self.strict_limit if is_strict and self.strict_limit else self.limit


AUTHENTICATION = Policy(name="auth", limit=5, window_s=15 * 60, strict_limit=3, on_store_loss=OnStoreLoss.CLOSED)
"""Attempts to sign in: 5 in 15 minutes, 3 in strict mode."""
ACCOUNT = Policy(name="account", limit=20, window_s=15 * 60, strict_limit=10, on_store_loss=OnStoreLoss.CLOSED)
"""Attempts to sign in under one name, from all addresses together: 20 in 15 minutes, 10 in strict mode."""
API = Policy(name="api", limit=100, window_s=10 * 60, strict_limit=50, algorithm=Algorithm.GCRA)
"""Requests to an API: 100 in 10 minutes, 50 in strict mode."""
UPLOAD = Policy(name="upload", limit=10, window_s=60 * 60, strict_limit=5)
"""Uploads: 10 in an hour, 5 in strict mode."""
