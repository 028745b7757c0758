"""One request to a service: which instance it goes to, and whether it goes to another after that.

A request is sent again only where it is known that nothing happened (the connection was never made), or where a second
time changes nothing (its method is idempotent, RFC 9110 9.2.2), its body can be sent again, time is left, and the retry
budget grants it; and then to an instance that it was not at. Nothing is sent again once any of the answer has been
handed on.

No I/O and no clock: httpx_transport.py and aiohttp_session.py carry it out. Not for several threads at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from noctule.base.errors import ConfigError, UnavailableError
from noctule.base.ids import Instant
from noctule.client.registry.endpoints import Endpoint
from noctule.core.balance.outliers import OutlierPicture, OutlierPolicy, Outliers
from noctule.core.balance.p2c import Candidate, ChoicePicture, TwoChoices
from noctule.core.balance.retry_budget import PER_SECOND_MIN, RATIO, RetryBudget, RetryBudgetPicture

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 9.2.2."""

INSTANCE_FAILED = frozenset({502, 503, 504})
"""Statuses that speak of the instance or what stands before it; all others are the app's own answer."""

REFUSED_S = 1.0
"""An instance to which no connection could be made is asked last for so long. Outlier ejection waits for more than one
failure and puts out half of the instances at most; but where nobody listens, the next one will hear nothing either."""


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """How requests to a service are treated."""

    timeout_s: float = 30.0
    """From the beginning to the answer's head, all attempts together, where no `kits.deadline` is nearer."""
    attempts_max: int = 3
    """Each at another instance."""
    retry_ratio: float = RATIO
    """Retries for each request, over 10 s; see core/balance/retry_budget.py."""
    retries_per_second_min: float = PER_SECOND_MIN
    outliers: OutlierPolicy = field(default_factory=OutlierPolicy)

    def validate(self) -> None:
        """`ConfigError` for what cannot be."""
        if not self.timeout_s > 0 or self.attempts_max < 1:
            raise ConfigError(
                f"timeout_s is {self.timeout_s} and attempts_max {self.attempts_max}; the one is above 0, the other 1 "
                "or more"
            )
        self.outliers.validate()


@dataclass(frozen=True, slots=True)
class CallsPicture:
    """The calls to one service by one transport."""

    service: str
    requests: int
    failures: int
    """Attempts that failed, by the connection or a status of `INSTANCE_FAILED`."""
    retries: int
    unserved: int
    """Requests for which there was no instance."""
    budget: RetryBudgetPicture
    instances: tuple[ChoicePicture, ...]
    outliers: tuple[OutlierPicture, ...]


class ServiceCalls:
    """All calls to one service by one transport, which it learns from."""

    def __init__(self, service: str, policy: CallPolicy, zone: str, chance: Random) -> None:
        policy.validate()
        self.policy = policy
        self._service = service
        self._endpoints: dict[str, Endpoint] = {}
        self._choices = TwoChoices(chance, zone)
        self._outliers = Outliers(policy.outliers)
        self._budget = RetryBudget(policy.retry_ratio, policy.retries_per_second_min)
        self._refused: dict[str, Instant] = {}
        """Until when each is asked last."""
        self._version = -1
        self._requests = 0
        self._failures = 0
        self._retries = 0
        self._unserved = 0

    def keep(self, version: int, endpoints: Sequence[Endpoint]) -> None:
        """These are the instances now; costs nothing while the version is the same."""
        if version == self._version:
            return
        self._version = version
        self._endpoints = {endpoint.id: endpoint for endpoint in endpoints}
        self._choices.keep(Candidate(each.id, each.weight, each.zone) for each in endpoints)
        self._outliers.keep(self._endpoints)
        self._refused = {each: until for each, until in self._refused.items() if each in self._endpoints}

    def begin(self, method: str, *, is_replayable: bool, deadline: Instant | None, now: Instant) -> "Call":
        """A new request. `is_replayable`: its body can be sent more than once."""
        self._requests += 1
        self._budget.deposit(now)
        own = Instant(now + self.policy.timeout_s)
        return Call(
            self,
            is_repeatable=is_replayable and method.upper() in IDEMPOTENT,
            is_replayable=is_replayable,
            deadline=own if deadline is None else min(own, deadline),
        )

    def _refusing(self, now: Instant) -> frozenset[str]:
        if self._refused:
            self._refused = {each: until for each, until in self._refused.items() if now < until}
        return frozenset(self._refused)

    def describe(self, now: Instant) -> CallsPicture:
        """A frozen picture, for status and tests."""
        return CallsPicture(
            self._service,
            self._requests,
            self._failures,
            self._retries,
            self._unserved,
            self._budget.describe(now),
            self._choices.describe(now),
            self._outliers.describe(now),
        )


class Call:
    """One request, from `ServiceCalls.begin`: `attempt`, then what came of it, as long as that says to go on."""

    def __init__(self, calls: ServiceCalls, *, is_repeatable: bool, is_replayable: bool, deadline: Instant) -> None:
        self.deadline = deadline
        self._calls = calls
        self._is_repeatable = is_repeatable
        self._is_replayable = is_replayable
        self._tried: set[str] = set()

    def attempt(self, now: Instant) -> "Attempt":
        """The next one. `UnavailableError` when the time has passed, or the service has no instance to try."""
        calls = self._calls
        if now >= self.deadline:
            raise UnavailableError(f"the time for the request to {calls._service!r} has passed before it was sent")
        instance_id = self._choose(now)
        if instance_id is None:
            calls._unserved += 1
            raise UnavailableError(f"there is no instance of {calls._service!r} that may be asked")
        self._tried.add(instance_id)
        return Attempt(self, calls._endpoints[instance_id], now)

    def _choose(self, now: Instant) -> str | None:
        """One not tried yet; one that refuses or stands out only where there is no other."""
        calls = self._calls
        refusing = calls._refusing(now)
        ejected = calls._outliers.ejected(now)
        for avoided in (refusing | ejected, refusing, frozenset()):
            chosen = calls._choices.choose(now, self._tried | avoided)
            if chosen is not None:
                return chosen
        return None

    def _may_go_on(self, *, was_sent: bool, now: Instant) -> bool:
        calls = self._calls
        is_safe = self._is_repeatable if was_sent else self._is_replayable
        is_possible = len(self._tried) < calls.policy.attempts_max and now < self.deadline
        if not (is_safe and is_possible and self._choose(now) is not None and calls._budget.spend(now)):
            return False
        calls._retries += 1
        return True


class Attempt:
    """One request at one instance. `end` it, whatever came of it; only the first call of `end` counts."""

    def __init__(self, call: Call, endpoint: Endpoint, now: Instant) -> None:
        self.endpoint = endpoint
        self._call = call
        self._ticket = call._calls._choices.begin(endpoint.id, now)

    def remaining_s(self, now: Instant) -> float:
        """What is left of the request's time."""
        return max(0.0, self._call.deadline - now)

    def failed(self, now: Instant, *, was_sent: bool) -> bool:
        """There was no answer; whether to go on with another attempt. The attempt is ended.

        `was_sent`: False only when it is certain that no byte of the request has left.
        """
        if not was_sent:
            self._call._calls._refused[self.endpoint.id] = Instant(now + REFUSED_S)
        self._learn(False, now)
        self.end()
        return self._call._may_go_on(was_sent=was_sent, now=now)

    def answered(self, status: int, now: Instant) -> bool:
        """The head of an answer has come; whether to throw it away and go on. Then the attempt is ended, else not."""
        is_ok = status not in INSTANCE_FAILED
        self._learn(is_ok, now)
        if is_ok or not self._call._may_go_on(was_sent=True, now=now):
            return False
        self.end()
        return True

    def broke_off(self, now: Instant) -> None:
        """The answer's body did not come whole. The attempt is ended."""
        self._learn(False, now)
        self.end()

    def end(self) -> None:
        """Nothing more is to come: the body was read, or nobody wants it."""
        if self._ticket.is_open:
            self._call._calls._choices.end(self._ticket)

    def _learn(self, is_ok: bool, now: Instant) -> None:
        calls = self._call._calls
        calls._failures += not is_ok
        if self.endpoint.id in calls._endpoints:
            calls._outliers.record(self.endpoint.id, is_ok, now)
        calls._choices.answered(self._ticket, is_ok, now)
