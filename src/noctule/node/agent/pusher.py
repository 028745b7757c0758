"""Has the registry say what a node knows: changes at once, many as one, and everything compared now and then.

What is pushed follows from comparing with the registry as it is here (`core.registry.repair`), so a push that was lost,
or came twice, is made good by the next one.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random

import msgspec

from noctule.base.clock import Clock
from noctule.base.errors import NoctuleError, RequestError
from noctule.base.ids import Instant
from noctule.core.registry.changes import Change
from noctule.core.registry.repair import known_ids, repairs
from noctule.core.registry.tables import Deadlines
from noctule.node.agent.local_services import Dirty, LocalCheck, LocalServices
from noctule.node.api import RegistryDoor
from noctule.node.watch import Watch

log = logging.getLogger("noctule.agent")

COMPARE_S = 60.0
"""Between two whole comparisons, and up to so much more by chance: nodes of a cluster do not make them together."""
COMPARE_NODES = 128
"""With more nodes than this they are made less often, as Consul does: every doubling adds another `COMPARE_S`."""
BATCH_CHANGES_MAX = 500
BATCH_BYTES_MAX = 512 << 10
"""Of one push, which is one entry of the log of *meta*; a service with its checks, and all checks of a node, are below
what the registry takes."""
OWNERS_PER_TURN = 200
"""Services that are compared, each with its checks, between two turns of the loop: some milliseconds."""
RETRY_S_MIN = 0.25
RETRY_S_MAX = 5.0
"""After a push that failed; doubled each time, and by chance up to twice as long."""
KNOWN_S = 1.0
"""So often it is looked whether the cluster knows this node, if nothing rings before."""


class Pusher:
    """One node's; `run` is its one task."""

    def __init__(
        self,
        local: LocalServices,
        registry: RegistryDoor,
        watch: Watch,
        clock: Clock,
        chance: Random,
        *,
        member_count: Callable[[], int],
        output_after_s: float,
    ) -> None:
        self._local = local
        self._registry = registry
        self._watch = watch
        self._clock = clock
        self._chance = chance
        self._member_count = member_count
        self._output_after_s = output_after_s
        """How long a check may say something else with the same status before that is told."""
        self._outputs: Deadlines[str] = Deadlines()
        """When that has passed, in ms of the monotonic clock."""
        self._wake = asyncio.Event()
        self._told = Watch()
        self._wanted_number = self._told_number = 0
        """How often something was to be told, and until when it was."""
        self._compare_at = Instant(0.0)
        self._retry_s = 0.0
        """0 while all is well."""
        self.pushes_total = self.pushes_failed_total = 0
        """Lists of changes that the registry was asked for, and those whose fate is not known or that it refused."""
        self.compared = asyncio.Event()
        """Set once everything was compared for the first time."""

    def check_changed(self, check: LocalCheck, is_news: bool) -> None:
        """A check says something else; only its words, unless it is news."""
        id_ = check.definition.id
        if is_news or not self._output_after_s:
            check.is_deferred = False
            self._outputs.set(id_, 0)
            self._local.dirty.checks.add(id_)
            self.notify()
        elif not check.is_deferred:
            check.is_deferred = True
            after_s = self._output_after_s * self._chance.uniform(0.5, 1)
            self._outputs.set(id_, math.ceil((self._clock.now() + after_s) * 1000))
            self._wake.set()

    def notify(self) -> None:
        """Something was noted in `dirty`."""
        self._wanted_number += 1
        self._wake.set()

    async def wait_told(self, timeout_s: float) -> bool:
        """Return once the registry has everything of which this node was notified until now; False: not in time."""
        number = self._wanted_number
        return await self._told.until(lambda: self._told_number >= number, timeout_s)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._push()
            except NoctuleError as error:
                await self._rest(error)
                continue
            self._retry_s = 0.0
            due = min(self._compare_at, (self._outputs.next_ms() or math.inf) / 1000)
            try:
                async with asyncio.timeout(max(0.0, due - self._clock.now())):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _rest(self, error: NoctuleError) -> None:
        """Nothing is known of what became of the push: compare everything, once there may be a leader again."""
        self.pushes_failed_total += 1
        if not self._retry_s:
            log.warning("registry_push_failed", extra={"fields": {"reason": str(error)}})
        self._compare_at = Instant(0.0)
        self._retry_s = min(RETRY_S_MAX, max(RETRY_S_MIN, 2 * self._retry_s))
        await asyncio.sleep(self._retry_s * self._chance.uniform(1, 2))

    async def _push(self) -> None:
        """Tell what is due. Raises what a change raises; then everything is to be compared."""
        while self._local.node not in self._registry.view.nodes:
            await self._watch.next_change(KNOWN_S)
        is_whole = self._clock.now() >= self._compare_at
        if is_whole:
            await self._registry.catch_up()
        if not self.compared.is_set():
            self._local.remember(self._registry.view)
        now, number = self._clock.now(), self._wanted_number
        for _, id_ in self._outputs.due(int(now * 1000), BATCH_CHANGES_MAX):
            self._outputs.set(id_, 0)
            self._local.dirty.checks.add(id_)
            if id_ in self._local.checks:
                self._local.checks[id_].is_deferred = False
        dirty, self._local.dirty = self._local.dirty, Dirty()
        if not self.compared.is_set():
            dirty.tags.clear()  # Those read from the disk are as before.
        if is_whole:
            services, checks = known_ids(self._registry.view, self._local.node)
            dirty.services |= services | self._local.services.keys()
            dirty.checks |= checks | set(self._local.check_ids())
        try:
            await self._tell_all(dirty)
        except BaseException:
            # Everything is compared next, but which tags were told anew cannot be seen from what is there.
            self._local.dirty.tags |= dirty.tags
            raise
        if is_whole:
            factor = compare_factor(self._member_count())
            self._compare_at = Instant(now + COMPARE_S * factor * self._chance.uniform(1, 2))
            self.compared.set()
        self._told_number = number
        self._told.ring()

    async def _tell_all(self, dirty: Dirty) -> None:
        """Each service in one list with its checks: what is seen without them would be taken to be well."""
        checks_of = self._by_owner(dirty.checks)
        batch: list[Change] = []
        size = 0
        for number, owner in enumerate(sorted(dirty.services | checks_of.keys())):
            services = [owner] if owner in dirty.services else []
            changes = self._changes(services, checks_of.get(owner, []), dirty.tags)
            added = sum(len(msgspec.msgpack.encode(change)) for change in changes)
            if len(batch) + len(changes) > BATCH_CHANGES_MAX or size + added > BATCH_BYTES_MAX:
                await self._tell(batch)
                batch, size = [], 0
            batch += changes
            size += added
            if number % OWNERS_PER_TURN == OWNERS_PER_TURN - 1:
                await asyncio.sleep(0)
        await self._tell(batch)

    def _by_owner(self, checks: Iterable[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for id_ in checks:
            owner = self._local.owner_of(id_)
            if owner is None:
                known = self._registry.view.checks.get((self._local.node, id_))
                owner = known.service_id if known is not None else ""
            found.setdefault(owner, []).append(id_)
        return found

    def _changes(self, services: Sequence[str], checks: Sequence[str], tags: Collection[str]) -> list[Change]:
        local = self._local
        return repairs(
            self._registry.view,
            local.node,
            {id_: instance for id_ in services if (instance := local.instance(id_)) is not None},
            {id_: check for id_ in checks if (check := local.picture(id_)) is not None},
            of_services=services,
            of_checks=checks,
            of_tags=tags,
            is_deferred=lambda id_: id_ in local.checks and local.checks[id_].is_deferred,
        )

    async def _tell(self, batch: Sequence[Change]) -> None:
        if not batch:
            return
        self.pushes_total += 1
        try:
            await self._registry.change(batch)
        except RequestError as error:
            self.pushes_failed_total += 1
            if len(batch) > 1:  # One that the registry refuses must not keep the others out of it.
                await self._tell(batch[: len(batch) // 2])
                await self._tell(batch[len(batch) // 2 :])
                return
            fields = {"change": type(batch[0]).__name__, "reason": str(error)}
            log.warning("registration_refused", extra={"fields": fields})


def compare_factor(member_count: int) -> int:
    """How many times as long as usual it is between two whole comparisons."""
    return max(1, math.ceil(math.log2(max(member_count, 1))) - int(math.log2(COMPARE_NODES)) + 1)
