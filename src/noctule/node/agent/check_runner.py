"""Makes the checks of a node when they are due, so many at a time, and takes their results to who keeps them."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Protocol

from noctule.base.clock import Clock
from noctule.core.registry import checks as rules
from noctule.core.registry.definitions import CheckDefinition
from noctule.core.registry.objects import CheckStatus
from noctule.core.registry.registry import Registry
from noctule.core.registry.tables import Deadlines
from noctule.node.agent.local_services import LocalCheck, LocalServices

log = logging.getLogger("noctule.agent")

ATTEMPTS_MAX = 128
"""Checks that are made at once; one more waits until another has ended."""
DUE_MAX = 1_000
"""Of what has ended by time, looked at between two turns of the loop."""


class Probes(Protocol):
    """Who opens the sockets; see `adapters.health_probes`."""

    async def attempt(self, check: CheckDefinition) -> tuple[CheckStatus, str]:
        """One attempt, for as long as it takes."""
        ...

    async def close(self) -> None:
        """Give the sockets back."""
        ...


class CheckRunner:
    """One node's; `run` is its one task."""

    def __init__(
        self,
        local: LocalServices,
        probes: Probes,
        clock: Clock,
        changed: Callable[[LocalCheck, bool], None],
        reap: Callable[[str], Awaitable[None]],
    ) -> None:
        self._local = local
        self._probes = probes
        self._clock = clock
        self._changed = changed
        """Told after a check says something else, and whether its status changed."""
        self._reap = reap
        """Called with the id of a service that was critical for as long as its check allows."""
        self.attempts_total = self.attempts_failed_total = 0
        """Made, and ended so that they count as critical or were given up."""
        self._begins: Deadlines[str] = Deadlines()
        """When an attempt of each check is due, in ms of the monotonic clock, rounded up. The same for the next two."""
        self._ends: Deadlines[str] = Deadlines()
        """When an attempt, or a ttl, has taken too long. Apart from those that begin: these never wait for room."""
        self._reaps: Deadlines[str] = Deadlines()
        """When the service of a check that stays critical is to go."""
        self._aliases: set[str] = set()
        self._attempts: dict[str, tuple[LocalCheck, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._tasks: asyncio.TaskGroup

    def follow(self, id_: str) -> None:
        """See to a check that is new, was replaced or removed."""
        running, check = self._attempts.get(id_), self._local.checks.get(id_)
        if running is not None and running[0] is not check:
            running[1].cancel()
            del self._attempts[id_]
        (self._aliases.add if check is not None and check.machine is None else self._aliases.discard)(id_)
        if check is None:
            self._reaps.set(id_, 0)
        elif check.status is CheckStatus.CRITICAL:
            self._note_critical(check)
        self._schedule(id_)

    def report(self, id_: str, status: CheckStatus, output: str) -> None:
        """What somebody says of a check with a ttl. Raises `RequestError` for every other one."""
        self._handle(id_, rules.Told(status, output))

    def look_at_aliases(self, registry: Registry) -> None:
        """Have each alias repeat what the registry says now."""
        for id_ in self._aliases:
            check = self._local.checks[id_]
            status, output = self._local.alias_result(check.definition, registry)
            if (status, output) != (check.status, check.output):
                self._take(check, status, output)

    async def run(self) -> None:
        """Until it is cancelled; attempts on their way are cancelled with it."""
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                self._wake.clear()
                now_ms = int(self._clock.now() * 1000)
                self._reap_due(now_ms)
                for _, id_ in self._ends.due(now_ms, DUE_MAX):
                    self._handle(id_, rules.Tick())
                for _, id_ in self._begins.due(now_ms, ATTEMPTS_MAX - len(self._attempts)):
                    self._handle(id_, rules.Tick())
                await self._pause()

    async def _pause(self) -> None:
        """Until something is due, or has changed."""
        due = [self._ends.next_ms(), self._reaps.next_ms()]
        if len(self._attempts) < ATTEMPTS_MAX:  # Else the end of one wakes.
            due.append(self._begins.next_ms())
        next_ms = min((at_ms for at_ms in due if at_ms is not None), default=None)
        timeout_s = max(0.0, next_ms / 1000 - self._clock.now()) if next_ms is not None else None
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _handle(self, id_: str, event: rules.Event) -> None:
        check = self._local.checks.get(id_)
        if check is None or check.machine is None:
            return
        for effect in check.machine.handle(event, self._clock.now()):
            match effect:
                case rules.Begin(number):
                    self.attempts_total += 1
                    task = self._tasks.create_task(self._attempt(id_, check, number), name=f"check-{id_}")
                    self._attempts[id_] = (check, task)
                case rules.Cancel():
                    self.attempts_failed_total += 1
                    self._attempts.pop(id_)[1].cancel()
                case rules.Changed(status, output):
                    self._take(check, status, output)
        check.has_result |= isinstance(event, rules.Finished | rules.Told)
        self._schedule(id_)

    async def _attempt(self, id_: str, check: LocalCheck, number: int) -> None:
        try:
            status, output = await self._probes.attempt(check.definition)
        except Exception as error:
            # Whatever a library raises at what a stranger's server sends: this check has failed, the others go on.
            log.warning("check_attempt_failed", exc_info=error, extra={"fields": {"check": id_}})
            status, output = CheckStatus.CRITICAL, f"the attempt failed: {type(error).__name__}"
        self.attempts_failed_total += status is CheckStatus.CRITICAL
        if self._local.checks.get(id_) is check:
            self._attempts.pop(id_, None)
            self._handle(id_, rules.Finished(number, status, output))

    def _take(self, check: LocalCheck, status: CheckStatus, output: str) -> None:
        is_news = self._local.change(check, status, output)
        if is_news and status is CheckStatus.CRITICAL:
            self._note_critical(check)
        elif is_news:
            self._reaps.set(check.definition.id, 0)
        self._changed(check, is_news)

    def _note_critical(self, check: LocalCheck) -> None:
        after_s = check.definition.deregister_after_s
        if after_s and check.definition.service_id:
            self._reaps.set(check.definition.id, _ms(self._clock.now() + after_s))
            self._wake.set()

    def _reap_due(self, now_ms: int) -> None:
        for _, id_ in self._reaps.due(now_ms, DUE_MAX):
            self._reaps.set(id_, 0)
            check = self._local.checks.get(id_)
            # It may have been remembered to be well, which is no result, and so has not called this off.
            if check is not None and check.status is CheckStatus.CRITICAL:
                service = check.definition.service_id
                log.warning("service_reaped", extra={"fields": {"service": service, "check": id_}})
                self._tasks.create_task(self._reap_one(check), name=f"reap-{service}")

    async def _reap_one(self, check: LocalCheck) -> None:
        await self._reap(check.definition.service_id)
        if self._local.checks.get(check.definition.id) is check:
            self._note_critical(check)  # It was not removed: the disk refused. Try again after as long.

    def _schedule(self, id_: str) -> None:
        check = self._local.checks.get(id_)
        at = check.machine.next_deadline() if check is not None and check.machine is not None else None
        at_ms = 0 if at is None else _ms(at)
        begins = check is not None and isinstance(check.machine, rules.ProbedCheck) and not check.machine.is_running
        self._begins.set(id_, at_ms if begins else 0)
        self._ends.set(id_, 0 if begins else at_ms)
        self._wake.set()


def _ms(instant: float) -> int:
    return math.ceil(instant * 1000)
