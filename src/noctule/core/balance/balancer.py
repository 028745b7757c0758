"""Which instance gets a request, by one of four algorithms, with passive and active health.

The balancer is asked for one decision inside a request and told what came of it; it has no work of its own. So it
has neither `handle` nor effects, and no deadline: an unhealthy period that has passed is noticed when the next
request is decided. It does not know addresses, sockets or HTTP; gateway/pool.py joins it to them. An instance's states
are told in instances.py.

Turns are virtual times (start-time fair queueing): each request moves its instance's turn by 1/weight, and the least
turn is next. An instance that was away does not catch up on what it missed.
"""

import math
from collections.abc import Set
from dataclasses import dataclass

from noctule.base.ensure import ensure
from noctule.base.errors import InternalError, RequestError
from noctule.base.ids import Instant
from noctule.core.balance.hash_ring import HashRing
from noctule.core.balance.instances import BalancedInstance, InstanceLoad, InstanceState
from noctule.core.balance.rules import FAILURES_IN_A_ROW_MAX, UNHEALTHY_S, Algorithm, BalancerRules

__all__ = [
    "FAILURES_IN_A_ROW_MAX",
    "INSTANCES_MAX",
    "UNHEALTHY_S",
    "WEIGHT_MAX",
    "Algorithm",
    "Balancer",
    "BalancerPicture",
    "BalancerRules",
    "InstanceLoad",
    "InstanceState",
    "Ticket",
]

INSTANCES_MAX = 1_024
"""All but the hash look at every instance for each decision (some 40 ns each), so their number is bounded."""

WEIGHT_MAX = 256
"""HAProxy's own bound."""

HASH_OVERLOAD = 1.25
"""A hashed instance takes so many times its even share of what is in flight; the rest goes to the next on the ring
(consistent hashing with bounded loads, Mirrokni and others 2016)."""

_NOBODY: frozenset[str] = frozenset()

# Looked up once: a member of an enumeration costs a search each time, which is much beside a decision.
_HEALTHY, _UNHEALTHY, _ROUND_ROBIN = InstanceState.HEALTHY, InstanceState.UNHEALTHY, Algorithm.ROUND_ROBIN


@dataclass(frozen=True, slots=True)
class BalancerPicture:
    """The instances in the order they were added."""

    instances: tuple[InstanceLoad, ...]


class Ticket:
    """One request at one instance, from `Balancer.begin` to `Balancer.end`.

    It stays with the instance it was begun at, though that be removed and another added under the same id.
    """

    __slots__ = ("_instance", "_is_open", "_is_trial")

    def __init__(self, instance: BalancedInstance, is_trial: bool) -> None:
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

    @property
    def is_settled(self) -> bool:
        """Whether `Balancer.succeeded` would change nothing: a healthy instance that has not failed, as nearly always."""
        instance = self._instance
        return instance.is_open and not instance.failed_requests and not self._is_trial


class Balancer:
    """Decides which instance gets a request. Deterministic: the same calls give the same choices."""

    def __init__(self, rules: BalancerRules | None = None) -> None:
        self._set_rules(rules or BalancerRules())
        self._instances: dict[str, BalancedInstance] = {}
        self._ring = HashRing()
        self._turn = 0.0
        self._in_flight = 0
        self._open_weight = 0
        self._has_news = False
        """Something that decisions are prepared by has changed, or goes on changing in a slow start."""
        self._is_stale = False
        """Who is there or who is open has changed."""

    def configure(self, rules: BalancerRules) -> None:
        """Other rules from the next decision on; health and counters stay as they are."""
        self._set_rules(rules)
        self._changed()

    def _set_rules(self, rules: BalancerRules) -> None:
        self._rules = rules
        # What every decision asks, in the shape it asks for.
        self._is_by_hash = rules.algorithm.is_hash
        self._is_by_turn = rules.algorithm is _ROUND_ROBIN
        self._in_flight_max = rules.connections_max or math.inf

    def add(self, instance_id: str, weight: int = 1, *, healthy_since: Instant | None = None) -> None:
        """Take in an instance as STARTING; a weight of 2 gets twice the requests in flight of a weight of 1.

        `healthy_since`: it needs no probe, for nobody probes. `RequestError` when the id is taken, the weight is not 1
        to `WEIGHT_MAX`, or there are `INSTANCES_MAX` already.
        """
        if instance_id in self._instances:
            raise RequestError(f"instance {instance_id!r} is there already; remove it first or choose another id")
        _check_weight(instance_id, weight)
        if len(self._instances) >= INSTANCES_MAX:
            raise RequestError(f"instance {instance_id!r} is one too many; the bound is {INSTANCES_MAX} instances")
        instance = self._instances[instance_id] = BalancedInstance(instance_id, weight)
        if healthy_since is not None:
            self._become_healthy(instance, healthy_since)
        self._changed()

    def set_weight(self, instance_id: str, weight: int) -> None:
        """Another weight from the next decision on. `RequestError` as for `add`."""
        instance = self._find(instance_id)
        _check_weight(instance_id, weight)
        instance.weight = weight
        instance.share = float(weight)
        self._changed()

    def remove(self, instance_id: str) -> None:
        """Forget an instance at once; its open tickets may still be ended. `RequestError` when it is not there."""
        self._find(instance_id)
        self._in_flight -= self._instances.pop(instance_id).in_flight
        self._changed()

    def drain(self, instance_id: str) -> None:
        """Give it no new request until `undrain`. `RequestError` when it is not there."""
        self._find(instance_id).drain(is_draining=True)
        self._changed()

    def undrain(self, instance_id: str) -> None:
        """Give it what its health allows, which was watched meanwhile. `RequestError` when it is not there."""
        instance = self._find(instance_id)
        instance.drain(is_draining=False)
        instance.turn = max(instance.turn, self._turn)
        self._changed()

    def choose(self, now: Instant, excluding: Set[str] = _NOBODY, key: str = "") -> str | None:
        """The instance for the next request, by the algorithm; `key` is what the hashes go by.

        Least connections: the fewest in flight for its weight, of equals in turns. So an idle set is used in turns, and
        a busy one by how fast each instance answers. None when no instance may take a request: there is no "panic"
        routing to unhealthy ones, because a clear 503 that can be tried again is worth more than a request lost in a
        process that is known not to answer. Asking changes nothing that a later answer depends on.
        """
        if self._has_news:
            self._prepare(now)
        if self._is_by_hash:
            return self._choose_by_hash(now, excluding, key)
        by_turn, in_flight_max = self._is_by_turn, self._in_flight_max
        best: BalancedInstance | None = None
        best_load = best_turn = math.inf
        for instance in self._instances.values():
            load = 0.0 if by_turn else instance.in_flight / instance.share
            # Cheapest first: most of many instances are ruled out by this alone.
            if load > best_load or (load == best_load and instance.turn >= best_turn):
                continue
            if not instance.is_open and not instance.may_try(now):
                continue
            if instance.in_flight >= in_flight_max or (excluding and instance.id in excluding):
                continue
            best, best_load, best_turn = instance, load, instance.turn
        return None if best is None else best.id

    def may_take(self, instance_id: str, now: Instant) -> bool:
        """Whether a certain instance may have the next request, as for a client that is stuck to it."""
        instance = self._instances.get(instance_id)
        return instance is not None and self._may_take(instance, now)

    def begin(self, instance_id: str) -> Ticket:
        """Count one request in flight at an instance that `choose` has just named; `end` must follow."""
        instance = self._instances.get(instance_id) or self._find(instance_id)
        is_trial = False
        if instance.health is _UNHEALTHY:
            ensure(not instance.has_trial, "one trial request at a time", instance=instance_id)
            is_trial = instance.has_trial = True
        if instance.turn > self._turn:
            self._turn = instance.turn
        instance.turn = self._turn + 1.0 / instance.share
        instance.in_flight += 1
        instance.requests += 1
        self._in_flight += 1
        return Ticket(instance, is_trial)

    def succeeded(self, ticket: Ticket, now: Instant) -> None:
        """The instance answered, whatever the status: a 500 is the app's own answer. A good trial heals it."""
        instance = ticket._instance
        was_trial = _close_trial(ticket)
        if instance.health is _HEALTHY:
            instance.failed_requests = 0
        elif instance.health is _UNHEALTHY and was_trial:
            self._become_healthy(instance, now)

    def failed(self, ticket: Ticket, now: Instant, *, is_gone: bool = False) -> None:
        """The instance did not answer properly. `is_gone`: nothing listens at its address, so one failure will do.

        A refused connection is not a bad moment of a process but its absence, and the next request would meet the
        same; every other failure may be the fault of that one request, so it takes `BalancerRules.failures_max`.
        """
        instance = ticket._instance
        was_trial = _close_trial(ticket)
        instance.failures += 1
        instance.failed_requests += 1
        if instance.health is _HEALTHY:
            if self._is_enough(instance.failed_requests, is_gone=is_gone):
                self._become_unhealthy(instance, now)
        elif instance.health is _UNHEALTHY and was_trial:
            self._become_unhealthy(instance, now)

    def end(self, ticket: Ticket) -> None:
        """The request is over, or given up without a verdict on the instance. Exactly once for each ticket."""
        instance = ticket._instance
        if not ticket._is_open:
            raise InternalError(f"a ticket is ended once, instance={instance.id!r}")
        ticket._is_open = False
        instance.in_flight -= 1
        if self._instances.get(instance.id) is instance:
            self._in_flight -= 1
        if ticket._is_trial:
            _close_trial(ticket)

    def probed(self, instance_id: str, now: Instant, *, is_good: bool, is_gone: bool = False) -> None:
        """The result of an active health probe. `RequestError` when the instance is not there.

        One good probe makes a starting or unhealthy instance healthy, before its period is over. Failed ones count to
        `failures_max` (one will do if `is_gone`), and while it is unhealthy each begins the period anew: a client's
        request is tried only on an instance whose probes do not come back with a refusal.
        """
        instance = self._find(instance_id)
        if is_good:
            instance.failed_probes = 0
            if instance.health is not _HEALTHY:
                self._become_healthy(instance, now)
            return
        instance.failed_probes += 1
        if instance.health is _HEALTHY:
            if is_gone or instance.failed_probes >= (self._rules.failures_max or FAILURES_IN_A_ROW_MAX):
                self._become_unhealthy(instance, now)
        elif instance.health is _UNHEALTHY:
            self._become_unhealthy(instance, now)

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
        instances = self._instances.values()
        ensure(len(instances) <= INSTANCES_MAX, "too many instances", count=len(instances))
        ensure(self._in_flight == sum(each.in_flight for each in instances), "all that is in flight is counted")
        open_weight = sum(each.weight for each in instances if each.is_open)
        is_summed = self._is_stale or self._open_weight == open_weight
        ensure(is_summed, "the open instances' weights are summed", summed=self._open_weight)
        for instance in instances:
            facts = {"instance": instance.id, "state": instance.state}
            ensure(0 <= instance.in_flight <= instance.requests, "requests in flight were begun", **facts)
            ensure(instance.failures <= instance.requests, "failed requests were begun", **facts)
            ensure(not instance.has_trial or instance.in_flight > 0, "a trial is in flight", **facts)
            is_healthy = instance.health is _HEALTHY
            ensure(instance.is_open == (is_healthy and not instance.is_draining), "open is what is healthy", **facts)

    def _choose_by_hash(self, now: Instant, excluding: Set[str], key: str) -> str | None:
        """The first on the ring that may take it and has not more than its part; failing that, the first at all."""
        # What is in flight with this request, spread evenly over the weights that are open.
        even = (self._in_flight + 1) / max(1, self._open_weight)
        first: str | None = None
        for name in self._ring.walk(key):
            instance = self._instances[name]
            if name in excluding or not self._may_take(instance, now):
                continue
            if instance.in_flight + 1 <= math.ceil(HASH_OVERLOAD * even * instance.share):
                return name
            first = first or name
        return first

    def _may_take(self, instance: BalancedInstance, now: Instant) -> bool:
        if instance.in_flight >= self._in_flight_max:
            return False
        return instance.is_open or instance.may_try(now)

    def _become_healthy(self, instance: BalancedInstance, now: Instant) -> None:
        instance.become_healthy(now)
        instance.turn = max(instance.turn, self._turn)
        self._changed()

    def _become_unhealthy(self, instance: BalancedInstance, now: Instant) -> None:
        instance.become_unhealthy(now, self._rules)
        self._changed()

    def _is_enough(self, failed_requests: int, *, is_gone: bool) -> bool:
        failures_max = self._rules.failures_max
        return failures_max > 0 and (is_gone or failed_requests >= failures_max)

    def _changed(self) -> None:
        self._has_news = self._is_stale = True

    def _prepare(self, now: Instant) -> None:
        """Before the first decision after changes, so that many of them cost no more than one."""
        instances = self._instances.values()
        slow_start_s = self._rules.slow_start_s
        still = [instance.warm_up(now, slow_start_s) for instance in instances]
        self._has_news = any(still)
        if not self._is_stale:
            return
        self._is_stale = False
        self._open_weight = sum(instance.weight for instance in instances if instance.is_open)
        if self._rules.algorithm.is_hash:
            # All that are there, not the open ones: one that comes back finds its keys again.
            self._ring.set_members({instance.id: instance.weight for instance in instances})

    def _find(self, instance_id: str) -> BalancedInstance:
        instance = self._instances.get(instance_id)
        if instance is None:
            raise RequestError(f"there is no instance {instance_id!r}; known are {sorted(self._instances)}")
        return instance


def _check_weight(instance_id: str, weight: int) -> None:
    if not 1 <= weight <= WEIGHT_MAX:
        raise RequestError(f"instance {instance_id!r} has weight {weight}; it must be 1 to {WEIGHT_MAX}")


def _close_trial(ticket: Ticket) -> bool:
    """Whether it was a trial until now: the verdict ends it, for what follows may be a WebSocket of hours."""
    was_trial = ticket._is_trial
    if was_trial:
        ticket._is_trial = False
        ticket._instance.has_trial = False
    return was_trial
