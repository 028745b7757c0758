"""One instance as a balancer knows it: its health, its load, its place in the turns.

    STARTING ──good probe──► HEALTHY ──failures in a row, or gone──► UNHEALTHY
                                ▲                                        │
                                └──────── good probe, or good trial ─────┘

Beside its health it may be DRAINING, and is then in no other state to anybody who asks.
"""

from dataclasses import dataclass
from enum import StrEnum

from noctule.base.ids import Instant
from noctule.core.balance.rules import BalancerRules

SLOW_START_SHARE_MIN = 0.1
"""Of its weight an instance has so much at the beginning of its slow start: with less it would learn nothing."""


class InstanceState(StrEnum):
    """What an instance may be given."""

    STARTING = "starting"
    """Nothing, until its first good probe; failed probes leave it here, for it has never been well."""
    HEALTHY = "healthy"
    """Requests."""
    UNHEALTHY = "unhealthy"
    """Nothing for `BalancerRules.unhealthy_s`, then one trial request at a time (half-open)."""
    DRAINING = "draining"
    """Nothing new; what it has, it finishes."""


@dataclass(frozen=True, slots=True)
class InstanceLoad:
    """One instance in a picture."""

    id: str
    weight: int
    state: InstanceState
    in_flight: int
    requests: int
    """Begun since it was added."""
    failures: int
    """Of those, the failed ones; probes are not counted."""


class BalancedInstance:
    """The balancer's own record. `become_*` and `drain` are the only writers of its state."""

    __slots__ = (
        "failed_probes",
        "failed_requests",
        "failures",
        "has_trial",
        "health",
        "id",
        "in_flight",
        "is_draining",
        "is_open",
        "requests",
        "share",
        "trial_from",
        "turn",
        "warm_from",
        "weight",
    )

    def __init__(self, instance_id: str, weight: int) -> None:
        self.id = instance_id
        self.weight = weight
        self.health = InstanceState.STARTING
        self.is_draining = False
        self.is_open = False
        """Healthy and not draining: what every decision looks at."""
        self.in_flight = 0
        self.requests = 0
        self.failures = 0
        # The two in a row, each ended by a success of its own kind or by a return to health.
        self.failed_requests = 0
        self.failed_probes = 0
        self.trial_from = Instant(0.0)
        self.has_trial = False
        self.turn = 0.0
        """When it is next, in requests for a weight of 1; rises by 1/share with each request."""
        self.share = float(weight)
        """Its weight, or less of it during its slow start."""
        self.warm_from = Instant(0.0)

    @property
    def state(self) -> InstanceState:
        """For whoever asks."""
        return InstanceState.DRAINING if self.is_draining else self.health

    def may_try(self, now: Instant) -> bool:
        """Whether it is unhealthy and may have a trial request."""
        return (
            self.health is InstanceState.UNHEALTHY
            and not self.is_draining
            and not self.has_trial
            and now >= self.trial_from
        )

    def become_healthy(self, now: Instant) -> None:
        """From now on it gets requests, few at first if there is a slow start."""
        self.health = InstanceState.HEALTHY
        self.failed_requests = 0
        self.failed_probes = 0
        self.warm_from = now
        self.is_open = not self.is_draining

    def become_unhealthy(self, now: Instant, rules: BalancerRules) -> None:
        """The period without requests begins, anew if it was unhealthy already."""
        self.health = InstanceState.UNHEALTHY
        self.trial_from = Instant(now + rules.unhealthy_s)
        self.is_open = False

    def drain(self, *, is_draining: bool) -> None:
        """Nothing new from now on; or what its health allows, again."""
        self.is_draining = is_draining
        self.is_open = self.health is InstanceState.HEALTHY and not is_draining

    def warm_up(self, now: Instant, slow_start_s: float) -> bool:
        """Set its share by how long it has been healthy; whether the slow start goes on."""
        warmth = (now - self.warm_from) / slow_start_s if slow_start_s > 0 else 1.0
        self.share = self.weight * min(1.0, max(SLOW_START_SHARE_MIN, warmth))
        return warmth < 1.0

    def describe(self) -> InstanceLoad:
        """A frozen picture."""
        return InstanceLoad(self.id, self.weight, self.state, self.in_flight, self.requests, self.failures)
