"""What the transports share: the calls to each service, kept equal to its list, and its breaker."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import RequestError
from noctule.base.ids import Instant
from noctule.client.registry.follower import Follower
from noctule.kits.breaker import CircuitBreaker
from noctule.kits.breaker_standing import CircuitBreakerPicture
from noctule.kits.deadline import HEADER, deadline, header_value
from noctule.kits.discovery.calls import Attempt, Call, CallPolicy, CallsPicture, ServiceCalls
from noctule.kits.discovery.discovery import FIRST_LIST_TIMEOUT_S, SERVICES_MAX

SCHEME = "noctule"


@dataclass(frozen=True, slots=True)
class CallerPicture:
    """All services that a transport has called."""

    services: tuple[CallsPicture, ...]
    breakers: tuple[CircuitBreakerPicture, ...]


class Caller:
    """Calls services by name, for one transport. Safe for threads; nothing here waits.

    `policy` is for all services that `policies` does not name. `zone` is where this process runs. Of `breakers`, by
    the service's name, each guards all calls to that service.
    """

    def __init__(
        self,
        policy: CallPolicy | None = None,
        *,
        policies: Mapping[str, CallPolicy] | None = None,
        breakers: Mapping[str, CircuitBreaker] | None = None,
        zone: str = "",
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
        chance: Random | None = None,
    ) -> None:
        self._policy = policy or CallPolicy()
        self._policies = dict(policies or {})
        for each in (self._policy, *self._policies.values()):
            each.validate()
        self.breakers = dict(breakers or {})
        self._zone = zone
        self._clock = clock
        self._chance = chance or Random()
        self._lock = threading.Lock()
        self._services: dict[str, ServiceCalls] = {}

    @property
    def first_list_timeout_s(self) -> float:
        """How long a request may wait for the first list of its service."""
        until = deadline()
        return FIRST_LIST_TIMEOUT_S if until is None else max(0.0, min(FIRST_LIST_TIMEOUT_S, until - self._clock.now()))

    def begin(self, service: str, follower: Follower, method: str, *, is_replayable: bool) -> "GuardedCall":
        """A new request to the instances that the follower knows now."""
        now = self._clock.now()
        with self._lock:
            calls = self._services.get(service)
            if calls is None:
                if len(self._services) >= SERVICES_MAX:
                    raise RequestError(f"service {service!r} is one too many; one transport calls {SERVICES_MAX}")
                policy = self._policies.get(service, self._policy)
                calls = self._services[service] = ServiceCalls(service, policy, self._zone, self._chance)
            calls.keep(follower.version, follower.endpoints)
            call = calls.begin(method, is_replayable=is_replayable, deadline=deadline(), now=now)
        return GuardedCall(call, self._lock, self._clock)

    def describe(self) -> CallerPicture:
        """A frozen picture, for status, metrics and tests."""
        with self._lock:
            now = self._clock.now()
            services = tuple(calls.describe(now) for calls in self._services.values())
        return CallerPicture(services, tuple(breaker.describe() for breaker in self.breakers.values()))


class GuardedCall:
    """A `Call` for several threads, that reads the clock itself."""

    def __init__(self, call: Call, lock: threading.Lock, clock: Clock) -> None:
        self._call = call
        self._lock = lock
        self._clock = clock

    @property
    def deadline(self) -> Instant:
        """When the answer's head must be there."""
        return self._call.deadline

    def attempt(self) -> "GuardedAttempt":
        """See `Call.attempt`."""
        with self._lock:
            return GuardedAttempt(self._call.attempt(self._clock.now()), self._lock, self._clock)


class GuardedAttempt:
    """An `Attempt` for several threads, that reads the clock itself."""

    def __init__(self, attempt: Attempt, lock: threading.Lock, clock: Clock) -> None:
        self.authority = attempt.endpoint.authority
        self._attempt = attempt
        self._lock = lock
        self._clock = clock

    @property
    def remaining_s(self) -> float:
        """What is left of the request's time; at least a millisecond, as 0 means "no bound" to some libraries."""
        return max(0.001, self._attempt.remaining_s(self._clock.now()))

    @property
    def deadline_header(self) -> tuple[str, str]:
        """What the instance is told of it."""
        return HEADER, header_value(self.remaining_s)

    def failed(self, *, was_sent: bool) -> bool:
        """See `Attempt.failed`."""
        with self._lock:
            return self._attempt.failed(self._clock.now(), was_sent=was_sent)

    def answered(self, status: int) -> bool:
        """See `Attempt.answered`."""
        with self._lock:
            return self._attempt.answered(status, self._clock.now())

    def broke_off(self) -> None:
        """See `Attempt.broke_off`."""
        with self._lock:
            self._attempt.broke_off(self._clock.now())

    def end(self) -> None:
        """See `Attempt.end`."""
        with self._lock:
            self._attempt.end()
