"""The instances of one service: their addresses, the balancer over them, and what became of requests to them.

The one place that changes the balancer, so that every change of state is logged and noticed. A pool outlives changes
of its service: what it knows of the health of instances that stay is kept.
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Set
from random import Random

from noctule.base.clock import Clock
from noctule.base.ids import Instant
from noctule.core.balance.balancer import INSTANCES_MAX, Balancer, InstanceState, Ticket
from noctule.core.balance.breaker import Breaker, BreakerPolicy, Permit
from noctule.core.balance.outliers import OutlierPolicy, Outliers
from noctule.core.balance.retry_budget import RetryBudget
from noctule.gateway.instances import Instance, Standing
from noctule.gateway.model import Service
from noctule.gateway.pictures import InstancePicture, ServicePicture

SPEAKS_OF_THE_INSTANCE = frozenset((502, 503, 504))
"""Answers by which an instance stands out, though they are answers."""

CLIENT_LEFT = 499
"""Stands for a status where there was nobody to answer any more."""

UNGUARDED = Permit(Instant(0.0), 0, 0)
"""For a request of a service without a circuit breaker."""

log = logging.getLogger("noctule.gateway")

_NOBODY: frozenset[str] = frozenset()


class Gauge:
    """What is in flight in all pools of one traffic, and whom to tell of a change."""

    __slots__ = ("in_flight", "is_watched", "on_change")

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.in_flight = 0
        self.is_watched = False
        """Whether anybody waits for requests to end: a call for each of them is not free."""
        self.on_change = on_change


class Flight:
    """One request at one instance. Call `succeeded` or `failed` once it is known, and `end` in any case."""

    __slots__ = ("_pool", "_ticket", "instance", "set_cookie")

    def __init__(self, pool: "Pool", instance: Instance, ticket: Ticket, set_cookie: str | None) -> None:
        self._pool = pool
        self._ticket = ticket
        self.instance = instance
        """Where it goes: id, host, port."""
        self.set_cookie = set_cookie
        """The value of a Set-Cookie header to add to the response, so that the client comes back here."""

    @property
    def is_draining(self) -> bool:
        """Whether the instance is to get nothing new."""
        return self._ticket.state is InstanceState.DRAINING

    def succeeded(self, latency_s: float = 0.0, status: int = 200) -> None:
        """The instance answered, `latency_s` seconds after it was asked, up to the end of its response's head."""
        if self._pool.heeds_successes or not self._ticket.is_settled:
            self._pool.judge(self._ticket, "answered", is_ok=True, is_outlying=status in SPEAKS_OF_THE_INSTANCE)

    def failed(self, reason: str, *, is_gone: bool = False) -> None:
        """The instance did not answer properly; `is_gone` when nothing listens there."""
        self._pool.judge(self._ticket, reason, is_ok=False, is_outlying=True, is_gone=is_gone)

    def end(self) -> None:
        """The request is over: it is no longer in flight. Exactly once."""
        self._pool.end(self._ticket)


class Pool:
    """Who may take a request for one service. All calls are made in one event loop."""

    def __init__(self, service: Service, clock: Clock, gauge: Gauge, chance: Random) -> None:
        self.service = service
        self._clock = clock
        self._chance = chance
        self._breaker: Breaker | None = None
        self._gauge = gauge
        self._balancer = Balancer(service.rules)
        self._instances: dict[str, Instance] = {}
        self._by_token: dict[str, str] = {}
        self._leaving: set[str] = set()
        """No longer listed, and in use until those that are can take over."""
        self._leaving_until = Instant(0.0)
        self._outliers: Outliers | None = None
        self.heeds_successes = False
        """Whether an answer counts, though the balancer learns nothing from it."""
        self._budget = RetryBudget(service.retry_budget)
        self.in_flight = 0
        self.requests = 0
        self.failures = 0
        self.retries = 0
        self.retries_refused = 0
        self._set_service(service)

    @property
    def probed_instances(self) -> list[Instance]:
        """Those that are to be asked how they are."""
        return list(self._instances.values()) if self.service.check.enabled else []

    def instance(self, instance_id: str) -> Instance | None:
        """One that is here now, listed or leaving."""
        return self._instances.get(instance_id)

    def follow(self, service: Service, listed: Iterable[Instance], drained: Collection[str]) -> None:
        """Make this the service, these the instances, and those of them that get nothing new.

        An instance of a file or a supervisor that is listed no more gets requests as long as nobody who is listed can
        take them, up to the service's `drain_s`: the new list may have none in common with the old one, and nobody of
        it has been asked yet. One that the registry does not list any more, or a critical one, leaves at once: that
        says something of the instance.
        """
        now = self._clock.now()
        if service != self.service:
            self._set_service(service)
        wanted = {each.id: each for each in list(listed)[:INSTANCES_MAX]}
        for instance_id in [each for each, known in self._instances.items() if _is_other(known, wanted.get(each))]:
            # Another process under the same name: nothing that is known of the old one holds for it.
            self._remove(instance_id)
        for instance in wanted.values():
            self._take(instance, now, is_drained=instance.id in drained)
        gone = self._instances.keys() - wanted.keys()
        if service.registry:
            self._leaving_until = now
        elif gone - self._leaving:
            self._leaving_until = Instant(now + service.drain_s)
        self._leaving = set(gone)
        self._settle(now)
        if self._outliers is not None:
            self._outliers.keep(self._instances)

    def choose(self, excluding: Set[str], key: str, token: str | None) -> Flight | None:
        """A flight at the instance for the next request, None when none may take it.

        `token` is what the client's cookie says, None when the service does not stick.
        """
        now = self._clock.now()
        if self._outliers is not None and (ejected := self._outliers.ejected(now)):
            excluding = excluding | ejected
        wanted = self._by_token.get(token) if token else None
        if wanted is not None and wanted not in excluding and self._balancer.may_take(wanted, now):
            chosen: str | None = wanted
        else:
            wanted = None
            chosen = self._balancer.choose(now, excluding, key)
        if chosen is None:
            return None
        instance = self._instances[chosen]
        ticket = self._balancer.begin(chosen)
        self.in_flight += 1
        self._gauge.in_flight += 1
        self.requests += 1
        cookie = self._cookie(instance) if token is not None and wanted is None else None
        return Flight(self, instance, ticket, cookie)

    def has_other(self, excluding: Set[str]) -> bool:
        """Whether an instance may take a request now; asking counts nothing."""
        now = self._clock.now()
        if self._outliers is not None:
            excluding = excluding | self._outliers.ejected(now)
        return any(each not in excluding and self._balancer.may_take(each, now) for each in self._instances)

    def knows(self, token: str) -> bool:
        """Whether a sticky cookie's value names an instance of this service."""
        return token in self._by_token

    def admit(self) -> Permit | None:
        """Let a request in, which earns a share of a retry; None while the circuit breaker is open.

        `conclude` must follow.
        """
        now = self._clock.now()
        permit = self._breaker.ask(now) if self._breaker is not None else UNGUARDED
        if permit is not None:
            self._budget.deposit(now)
        return permit

    def conclude(self, permit: Permit, status: int) -> None:
        """What a request was answered; 499 when its client left before."""
        if self._breaker is None:
            # Taken out of the model since.
            return
        if status == CLIENT_LEFT:
            self._breaker.give_up(permit)
            return
        now = self._clock.now()
        before = self._breaker.describe(now).state
        self._breaker.end(permit, status not in SPEAKS_OF_THE_INSTANCE, now)
        after = self._breaker.describe(now).state
        if after is not before:
            fields = {"service": self.service.name, "before": before.value, "after": after.value}
            log.warning("breaker_state_changed", extra=fields)

    def may_retry(self) -> bool:
        """Take one retry from the budget, if there is one."""
        if self._budget.spend(self._clock.now()):
            self.retries += 1
            return True
        self.retries_refused += 1
        return False

    def judge(
        self, ticket: Ticket, reason: str, *, is_ok: bool, is_outlying: bool = False, is_gone: bool = False
    ) -> None:
        """Tell the balancer what came of a request; the change of state is logged with the reason."""
        before, now = ticket.state, self._clock.now()
        if is_ok:
            self._balancer.succeeded(ticket, now)
        else:
            self.failures += 1
            self._balancer.failed(ticket, now, is_gone=is_gone)
        if self._outliers is not None and ticket.instance_id in self._instances:
            was_out = ticket.instance_id in self._outliers.ejected(now)
            self._outliers.record(ticket.instance_id, not is_outlying, now)
            if not was_out and ticket.instance_id in self._outliers.ejected(now):
                log.warning("instance_ejected", extra={"service": self.service.name, "instance": ticket.instance_id})
        self._note_change(ticket.instance_id, before, ticket.state, reason)

    def end(self, ticket: Ticket) -> None:
        """A flight is over."""
        self._balancer.end(ticket)
        self.in_flight -= 1
        gauge = self._gauge
        gauge.in_flight -= 1
        if self._leaving:
            self._settle(self._clock.now())
        if gauge.is_watched:
            gauge.on_change()

    def probed(self, instance: Instance, reason: str, *, is_good: bool, is_gone: bool = False) -> None:
        """Tell the balancer what a probe said; one of an instance that has left is not heeded."""
        known = self._instances.get(instance.id)
        if known is None or known.address != instance.address:
            return
        now = self._clock.now()
        before = self._balancer.state(instance.id)
        self._balancer.probed(instance.id, now, is_good=is_good, is_gone=is_gone)
        self._note_change(instance.id, before, self._balancer.state(instance.id), reason)
        if self._leaving:
            self._settle(now)

    def is_idle(self, instance_id: str) -> bool:
        """Whether it has nothing in flight; true too once it has left."""
        return instance_id not in self._instances or self._balancer.in_flight(instance_id) == 0

    def describe(self) -> ServicePicture:
        """A frozen picture; its invariants have been checked."""
        self._balancer.check()
        ejected = self._outliers.ejected(self._clock.now()) if self._outliers is not None else _NOBODY
        instances = tuple(
            InstancePicture(
                load.id,
                self._instances[load.id].address,
                "ejected" if load.id in ejected and load.state is InstanceState.HEALTHY else load.state.value,
                load.weight,
                load.in_flight,
                load.requests,
                load.failures,
            )
            for load in self._balancer.describe().instances
        )
        return ServicePicture(
            self.service.name,
            self.in_flight,
            self.requests,
            self.failures,
            self.retries,
            self.retries_refused,
            instances,
            self._breaker.describe(self._clock.now()).state.value if self._breaker is not None else "",
        )

    def _set_service(self, service: Service) -> None:
        is_new_budget = service.retry_budget != self.service.retry_budget
        is_new_breaker = service is self.service or service.breaker_ratio != self.service.breaker_ratio
        is_new_ratio = service is self.service or service.outlier_ratio != self.service.outlier_ratio
        self.service = service
        self._balancer.configure(service.rules)
        if is_new_budget:
            self._budget = RetryBudget(service.retry_budget)
        if is_new_ratio:
            policy = OutlierPolicy(failure_rate=service.outlier_ratio) if service.outlier_ratio else None
            self._outliers = Outliers(policy) if policy is not None else None
            self.heeds_successes = self._outliers is not None
        if is_new_breaker:
            breaking = BreakerPolicy(failure_rate=service.breaker_ratio) if service.breaker_ratio else None
            self._breaker = Breaker(breaking, self._chance) if breaking is not None else None

    def _take(self, instance: Instance, now: Instant, *, is_drained: bool) -> None:
        """Bring one that is listed up to date."""
        if instance.standing is Standing.CRITICAL:
            if instance.id in self._instances:
                self._remove(instance.id)
            return
        weight = max(1, instance.weight)
        if instance.id not in self._instances:
            self._balancer.add(instance.id, weight, healthy_since=None if self.service.check.enabled else now)
            self._by_token[token_of(instance.id)] = instance.id
            fields = {"service": self.service.name, "instance": instance.id, "address": instance.address}
            log.info("instance_added", extra=fields)
            self._instances[instance.id] = instance
        elif self._instances[instance.id] != instance:
            self._balancer.set_weight(instance.id, weight)
            self._instances[instance.id] = instance
        self._drain(instance.id, is_drained or instance.standing is Standing.DRAINING or instance.weight < 1)

    def _drain(self, instance_id: str, is_draining: bool) -> None:
        before = self._balancer.state(instance_id)
        if is_draining is (before is InstanceState.DRAINING):
            return
        if is_draining:
            self._balancer.drain(instance_id)
        else:
            self._balancer.undrain(instance_id)
        self._note_change(instance_id, before, self._balancer.state(instance_id), "as it was told")

    def _settle(self, now: Instant) -> None:
        """Let those go that are listed no more, once nobody needs them."""
        if not self._leaving:
            return
        is_covered = any(
            each not in self._leaving and self._balancer.state(each) is InstanceState.HEALTHY
            for each in self._instances
        )
        if is_covered or now >= self._leaving_until:
            for instance_id in self._leaving:
                self._remove(instance_id)
            self._leaving = set()

    def _remove(self, instance_id: str) -> None:
        """Requests in flight there go on."""
        self._balancer.drain(instance_id)
        self._balancer.remove(instance_id)
        del self._instances[instance_id]
        del self._by_token[token_of(instance_id)]
        log.info("instance_removed", extra={"service": self.service.name, "instance": instance_id})

    def _cookie(self, instance: Instance) -> str:
        sticky = self.service.sticky
        assert sticky is not None
        age = f"; Max-Age={sticky.ttl_s}" if sticky.ttl_s else ""
        secure = "; Secure" if sticky.secure else ""
        return f"{sticky.cookie}={token_of(instance.id)}; Path=/{age}; HttpOnly; SameSite=Lax{secure}"

    def _note_change(self, instance_id: str, before: InstanceState, after: InstanceState, reason: str) -> None:
        if before is after:
            return
        level = logging.WARNING if after is InstanceState.UNHEALTHY else logging.INFO
        fields = {
            "service": self.service.name,
            "instance": instance_id,
            "before": before.value,
            "after": after.value,
            "reason": reason,
        }
        log.log(level, "instance_state_changed", extra=fields)
        self._gauge.on_change()


def token_of(instance_id: str) -> str:
    """What a sticky cookie says of an instance: always the same, without telling its address."""
    return hashlib.blake2b(instance_id.encode(), digest_size=8).hexdigest()


def _is_other(known: Instance, wanted: Instance | None) -> bool:
    return wanted is not None and wanted.address != known.address
