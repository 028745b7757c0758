"""The instances behind the gateway: their addresses, the balancer over them, and whoever waits for a change.

The one place that changes the balancer, so that every change of state is logged and noticed.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from noctule.base.clock import Clock
from noctule.base.ids import Instant
from noctule.core.balance.balancer import Balancer, InstanceState, Ticket
from noctule.gateway.config import Instance

log = logging.getLogger("noctule.gateway")


@dataclass(frozen=True, slots=True)
class InstancePicture:
    """One instance as the gateway sees it."""

    id: str
    address: str
    state: str
    """starting, healthy, unhealthy or draining."""
    in_flight: int
    """Requests and WebSockets now."""
    requests: int
    failures: int
    """Of the requests, those it did not answer properly; an app's own 5xx is an answer."""


@dataclass(frozen=True, slots=True)
class GatewayPicture:
    """The gateway for status, dashboard and tests; instances in the order they were added."""

    instances: tuple[InstancePicture, ...]
    in_flight: int
    """Over all instances, those removed with requests in flight included."""
    requests: int
    """Sent to instances since the start; a request tried on two instances counts twice. The same for failures."""
    failures: int


class Flight:
    """One request at one instance, open as long as its `with` block."""

    __slots__ = ("_fleet", "_ticket", "instance")

    def __init__(self, fleet: "Fleet", instance: Instance, ticket: Ticket) -> None:
        self._fleet = fleet
        self._ticket = ticket
        self.instance = instance

    @property
    def is_draining(self) -> bool:
        """Whether the instance is to get nothing new."""
        return self._ticket.state is InstanceState.DRAINING

    def succeeded(self) -> None:
        """The instance answered."""
        self._fleet.judge(self._ticket, "answered", lambda balancer, now: balancer.succeeded(self._ticket, now))

    def failed(self, reason: str, *, is_gone: bool = False) -> None:
        """The instance did not answer properly; `is_gone` when nothing listens there."""
        self._fleet.failures += 1
        self._fleet.judge(
            self._ticket, reason, lambda balancer, now: balancer.failed(self._ticket, now, is_gone=is_gone)
        )


class Fleet:
    """The instances by id. All calls are made in the gateway's event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._balancer = Balancer()
        self._instances: dict[str, Instance] = {}
        self._changed = asyncio.Event()
        self.in_flight = 0
        self.requests = 0
        self.failures = 0

    def add(self, instance: Instance) -> None:
        """Take it in as starting. `RequestError` when the id is taken."""
        self._balancer.add(instance.id, instance.weight)
        self._instances[instance.id] = instance
        log.info("instance_added", extra={"instance": instance.id, "address": instance.address})

    def remove(self, instance_id: str) -> None:
        """Forget it; requests in flight go on. `RequestError` when it is not there."""
        self._balancer.remove(instance_id)
        del self._instances[instance_id]
        log.info("instance_removed", extra={"instance": instance_id})
        self._notice()

    def drain(self, instance_id: str) -> None:
        """Give it nothing new. `RequestError` when it is not there."""
        self._balancer.drain(instance_id)
        log.info("instance_draining", extra={"instance": instance_id})
        self._notice()

    def choose(self, excluding: frozenset[str] | set[str] = frozenset()) -> Instance | None:
        """The instance for the next request, or None when none may take it."""
        chosen = self._balancer.choose(self._clock.now(), excluding)
        return None if chosen is None else self._instances[chosen]

    @contextmanager
    def flight(self, instance: Instance) -> Iterator[Flight]:
        """One request at an instance that `choose` has just named, counted until the block ends."""
        ticket = self._balancer.begin(instance.id)
        self.in_flight += 1
        self.requests += 1
        try:
            yield Flight(self, instance, ticket)
        finally:
            self._balancer.end(ticket)
            self.in_flight -= 1
            self._notice()

    def judge(self, ticket: Ticket, reason: str, verdict: Callable[[Balancer, Instant], None]) -> None:
        """Tell the balancer what came of a request; the change of state is logged with the reason."""
        before = ticket.state
        verdict(self._balancer, self._clock.now())
        self._note_change(ticket.instance_id, before, ticket.state, reason)

    def probed(self, instance: Instance, reason: str, *, is_good: bool, is_gone: bool = False) -> None:
        """Tell the balancer what a probe said; one that comes after the instance was removed is not heeded."""
        if self._instances.get(instance.id) is not instance:
            return
        before = self._balancer.state(instance.id)
        self._balancer.probed(instance.id, self._clock.now(), is_good=is_good, is_gone=is_gone)
        self._note_change(instance.id, before, self._balancer.state(instance.id), reason)

    def is_idle(self, instance_id: str) -> bool:
        """Whether it has nothing in flight; true too once it was removed."""
        return instance_id not in self._instances or self._balancer.in_flight(instance_id) == 0

    def healthy_count(self) -> int:
        """How many instances are healthy now."""
        return sum(load.state is InstanceState.HEALTHY for load in self._balancer.describe().instances)

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether the condition on this fleet came true within the time; looked at after each change."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._changed.wait()
        except TimeoutError:
            return condition()
        return True

    def picture(self) -> GatewayPicture:
        """A frozen picture; its invariants have been checked."""
        self._balancer.check()
        instances = tuple(
            InstancePicture(
                load.id,
                self._instances[load.id].address,
                load.state.value,
                load.in_flight,
                load.requests,
                load.failures,
            )
            for load in self._balancer.describe().instances
        )
        return GatewayPicture(instances, self.in_flight, self.requests, self.failures)

    def _note_change(self, instance_id: str, before: InstanceState, after: InstanceState, reason: str) -> None:
        if before is after:
            return
        level = logging.WARNING if after is InstanceState.UNHEALTHY else logging.INFO
        fields = {"instance": instance_id, "before": before.value, "after": after.value, "reason": reason}
        log.log(level, "instance_state_changed", extra=fields)
        self._notice()

    def _notice(self) -> None:
        # Whoever waits holds the old event, and is woken once; whoever comes after this waits for the next.
        self._changed.set()
        self._changed = asyncio.Event()
