"""Least connections over a set of instances, with passive and active health.

The balancer is asked for one decision inside a request and told what came of it; it has no work of its own. So it
has neither `handle` nor effects, and no deadline: an unhealthy period that has passed is noticed when the next
request is decided. It does not know addresses, sockets or HTTP; gateway/fleet.py joins it to them.

    STARTING ──good probe──► HEALTHY ──3 failures in a row, or gone──► UNHEALTHY
                                ▲                                          │
                                └──────── good probe, or good trial ───────┘
    any ──drain──► DRAINING (the end: remove it)
"""

from dataclasses import dataclass
from enum import StrEnum

from noctule.base.ensure import ensure
from noctule.base.errors import RequestError
from noctule.base.ids import Instant

INSTANCES_MAX = 1_024
"""Each decision looks at every instance, so their number is bounded."""

FAILURES_IN_A_ROW_MAX = 3
"""So many failed requests, or failed probes, one after the other make an instance unhealthy."""

UNHEALTHY_S = 30.0
"""How long an unhealthy instance gets nothing; after that, one trial request at a time."""


class InstanceState(StrEnum):
    """What an instance may be given."""

    STARTING = "starting"
    """Nothing, until its first good probe; failed probes leave it here, for it has never been well."""
    HEALTHY = "healthy"
    """Requests."""
    UNHEALTHY = "unhealthy"
    """Nothing for `UNHEALTHY_S`, then one trial request at a time (half-open)."""
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


@dataclass(frozen=True, slots=True)
class BalancerPicture:
    """The instances in the order they were added."""

    instances: tuple[InstanceLoad, ...]


class Ticket:
    """One request at one instance, from `Balancer.begin` to `Balancer.end`.

    It stays with the instance it was begun at, though that be removed and another added under the same id.
    """

    __slots__ = ("_instance", "_is_open", "_is_trial")

    def __init__(self, instance: "_Instance", *, is_trial: bool) -> None:
        self._instance = instance
        self._is_trial = is_trial
        self._is_open = True

    @property
    def instance_id(self) -> str:
        """Which instance the request is at."""
        return self._instance.id

    @property
    def state(self) -> InstanceState:
        """The state of that instance now."""
        return self._instance.state


class Balancer:
    """Decides which instance gets a request. Deterministic: the same calls give the same choices."""

    def __init__(self) -> None:
        self._instances: dict[str, _Instance] = {}
        self._begun = 0

    def add(self, instance_id: str, weight: int = 1) -> None:
        """Take in an instance as STARTING; a weight of 2 gets twice the requests in flight of a weight of 1.

        `RequestError` when the id is taken, the weight is below 1, or there are `INSTANCES_MAX` already.
        """
        if instance_id in self._instances:
            raise RequestError(f"instance {instance_id!r} is there already; remove it first or choose another id")
        if weight < 1:
            raise RequestError(f"instance {instance_id!r} has weight {weight}; it must be 1 or more")
        if len(self._instances) >= INSTANCES_MAX:
            raise RequestError(f"instance {instance_id!r} is one too many; the bound is {INSTANCES_MAX} instances")
        self._instances[instance_id] = _Instance(instance_id, weight)

    def remove(self, instance_id: str) -> None:
        """Forget an instance at once; its open tickets may still be ended. `RequestError` when it is not there."""
        self._find(instance_id)
        del self._instances[instance_id]

    def drain(self, instance_id: str) -> None:
        """Give it no new request; there is no way back but `remove` and `add`. `RequestError` when it is not there."""
        self._find(instance_id).state = InstanceState.DRAINING

    def choose(self, now: Instant, excluding: frozenset[str] | set[str] = frozenset()) -> str | None:
        """The instance with the fewest requests in flight for its weight; of equals the one chosen longest ago.

        So an idle set is used in turns, and a busy one by how fast each instance answers. None when no instance may
        take a request: there is no "panic" routing to unhealthy ones, because a clear 503 that can be tried again
        is worth more than a request lost in a process that is known not to answer. Asking changes nothing.
        """
        best: _Instance | None = None
        for instance in self._instances.values():
            if instance.id in excluding or not instance.may_take(now):
                continue
            if best is None or instance.rank() < best.rank():
                best = instance
        return None if best is None else best.id

    def begin(self, instance_id: str) -> Ticket:
        """Count one request in flight at an instance that `choose` has just named; `end` must follow."""
        instance = self._find(instance_id)
        is_trial = instance.state is InstanceState.UNHEALTHY
        ensure(not (is_trial and instance.has_trial), "one trial request at a time", instance=instance_id)
        instance.has_trial = instance.has_trial or is_trial
        self._begun += 1
        instance.last_chosen = self._begun
        instance.in_flight += 1
        instance.requests += 1
        return Ticket(instance, is_trial=is_trial)

    def succeeded(self, ticket: Ticket) -> None:
        """The instance answered, whatever the status: a 500 is the app's own answer. A good trial heals it."""
        instance = ticket._instance
        was_trial = _close_trial(ticket)
        if instance.state is InstanceState.HEALTHY:
            instance.failed_requests = 0
        elif instance.state is InstanceState.UNHEALTHY and was_trial:
            instance.become_healthy()

    def failed(self, ticket: Ticket, now: Instant, *, is_gone: bool = False) -> None:
        """The instance did not answer properly. `is_gone`: nothing listens at its address, so one failure will do.

        A refused connection is not a bad moment of a process but its absence, and the next request would meet the
        same; every other failure may be the fault of that one request, so it takes `FAILURES_IN_A_ROW_MAX`.
        """
        instance = ticket._instance
        was_trial = _close_trial(ticket)
        instance.failures += 1
        instance.failed_requests += 1
        if instance.state is InstanceState.HEALTHY:
            if is_gone or instance.failed_requests >= FAILURES_IN_A_ROW_MAX:
                instance.become_unhealthy(now)
        elif instance.state is InstanceState.UNHEALTHY and was_trial:
            instance.become_unhealthy(now)

    def end(self, ticket: Ticket) -> None:
        """The request is over, or given up without a verdict on the instance. Exactly once for each ticket."""
        ensure(ticket._is_open, "a ticket is ended once", instance=ticket.instance_id)
        ticket._is_open = False
        ticket._instance.in_flight -= 1
        _close_trial(ticket)

    def probed(self, instance_id: str, now: Instant, *, is_good: bool, is_gone: bool = False) -> None:
        """The result of an active health probe. `RequestError` when the instance is not there.

        One good probe makes a starting or unhealthy instance healthy, before its 30 s are over. Failed ones count to
        `FAILURES_IN_A_ROW_MAX` (one will do if `is_gone`), and while it is unhealthy each begins the 30 s anew: a
        client's request is tried only on an instance whose probes do not come back with a refusal.
        """
        instance = self._find(instance_id)
        if instance.state is InstanceState.DRAINING:
            return
        if is_good:
            instance.failed_probes = 0
            if instance.state is not InstanceState.HEALTHY:
                instance.become_healthy()
            return
        instance.failed_probes += 1
        if instance.state is InstanceState.HEALTHY:
            if is_gone or instance.failed_probes >= FAILURES_IN_A_ROW_MAX:
                instance.become_unhealthy(now)
        elif instance.state is InstanceState.UNHEALTHY:
            instance.become_unhealthy(now)

    def state(self, instance_id: str) -> InstanceState:
        """The state of one instance; `RequestError` when it is not there."""
        return self._find(instance_id).state

    def in_flight(self, instance_id: str) -> int:
        """Requests begun and not ended at one instance; `RequestError` when it is not there."""
        return self._find(instance_id).in_flight

    def describe(self) -> BalancerPicture:
        """A frozen picture, for status and tests."""
        return BalancerPicture(tuple(instance.describe() for instance in self._instances.values()))

    def check(self) -> None:
        """Raise `InternalError` unless the counters and states agree with each other."""
        ensure(len(self._instances) <= INSTANCES_MAX, "too many instances", count=len(self._instances))
        for instance in self._instances.values():
            facts = {"instance": instance.id, "state": instance.state}
            ensure(0 <= instance.in_flight <= instance.requests, "requests in flight were begun", **facts)
            ensure(instance.failures <= instance.requests, "failed requests were begun", **facts)
            ensure(instance.last_chosen <= self._begun, "the order of choices is this balancer's", **facts)
            ensure(not instance.has_trial or instance.in_flight > 0, "a trial is in flight", **facts)
            if instance.state is InstanceState.HEALTHY:
                ensure(instance.failed_requests < FAILURES_IN_A_ROW_MAX, "a healthy one has few failures", **facts)
                ensure(instance.failed_probes < FAILURES_IN_A_ROW_MAX, "a healthy one has few bad probes", **facts)

    def _find(self, instance_id: str) -> "_Instance":
        instance = self._instances.get(instance_id)
        if instance is None:
            raise RequestError(f"there is no instance {instance_id!r}; known are {sorted(self._instances)}")
        return instance


def _close_trial(ticket: Ticket) -> bool:
    """Whether it was a trial until now: the verdict ends it, for what follows may be a WebSocket of hours."""
    was_trial = ticket._is_trial
    if was_trial:
        ticket._is_trial = False
        ticket._instance.has_trial = False
    return was_trial


class _Instance:
    __slots__ = (
        "failed_probes",
        "failed_requests",
        "failures",
        "has_trial",
        "id",
        "in_flight",
        "last_chosen",
        "requests",
        "state",
        "trial_from",
        "weight",
    )

    def __init__(self, instance_id: str, weight: int) -> None:
        self.id = instance_id
        self.weight = weight
        self.state = InstanceState.STARTING
        self.in_flight = 0
        self.requests = 0
        self.failures = 0
        # The two in a row, each ended by a success of its own kind or by a return to health.
        self.failed_requests = 0
        self.failed_probes = 0
        self.last_chosen = 0
        self.trial_from = Instant(0.0)
        self.has_trial = False

    def may_take(self, now: Instant) -> bool:
        if self.state is InstanceState.UNHEALTHY:
            return now >= self.trial_from and not self.has_trial
        return self.state is InstanceState.HEALTHY

    def rank(self) -> tuple[float, int]:
        return (self.in_flight / self.weight, self.last_chosen)

    def become_healthy(self) -> None:
        self.state = InstanceState.HEALTHY
        self.failed_requests = 0
        self.failed_probes = 0

    def become_unhealthy(self, now: Instant) -> None:
        self.state = InstanceState.UNHEALTHY
        self.trial_from = Instant(now + UNHEALTHY_S)

    def describe(self) -> InstanceLoad:
        return InstanceLoad(self.id, self.weight, self.state, self.in_flight, self.requests, self.failures)
