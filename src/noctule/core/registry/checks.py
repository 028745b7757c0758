"""One check at the node that makes it: when it is made next, what its results mean, and when silence means critical.

`ProbedCheck` is made by this node (http, tcp, grpc), `TtlCheck` waits for reports, and an alias repeats what others say
(`alias_status`). The machines know no sockets; time comes with each event, chance with the machine.
"""

from collections.abc import Iterable
from random import Random
from typing import TypeAlias

from msgspec import Struct

from noctule.base.ensure import ensure
from noctule.base.errors import RequestError
from noctule.base.ids import Instant
from noctule.core.registry.bounds import cut_output
from noctule.core.registry.definitions import INTERVAL_S_MIN, CheckDefinition
from noctule.core.registry.objects import Check, CheckStatus

INTERVAL_JITTER = 1 / 16
"""The share of its interval by which a check may come later: many with one interval must not come in step for ever."""

# Events ---------------------------------------------------------------------------------------------------------------


class Tick(Struct, frozen=True, gc=False):
    """Time has passed; due when `next_deadline()` is reached, harmless before."""


class Finished(Struct, frozen=True, gc=False):
    """An attempt has ended; one that was cancelled meanwhile is not heard any more."""

    number: int
    status: CheckStatus
    output: str


class Told(Struct, frozen=True, gc=False):
    """Somebody reports what it is."""

    status: CheckStatus
    output: str


class Remembered(Struct, frozen=True, gc=False):
    """What the cluster knew of the check when its node came back; heeded until there is a result."""

    status: CheckStatus
    output: str


Event: TypeAlias = Tick | Finished | Told | Remembered

# Effects --------------------------------------------------------------------------------------------------------------


class Begin(Struct, frozen=True, gc=False):
    """Make an attempt, and tell its end by `Finished`."""

    number: int


class Cancel(Struct, frozen=True, gc=False):
    """Give the attempt up."""

    number: int


class Changed(Struct, frozen=True, gc=False):
    """The check says something else now."""

    status: CheckStatus
    output: str


Effect: TypeAlias = Begin | Cancel | Changed


class CheckPicture(Struct, frozen=True):
    """What `describe()` shows."""

    status: CheckStatus
    output: str
    successes: int = 0
    """In a row. The same for failures."""
    failures: int = 0
    is_running: bool = False
    next_at: Instant | None = None


class ProbedCheck:
    """A check that this node makes at intervals, one attempt at a time, each within its timeout."""

    def __init__(self, definition: CheckDefinition, now: Instant, chance: Random) -> None:
        self._definition = definition
        self._chance = chance
        self._interval_s = max(definition.interval_s, INTERVAL_S_MIN)
        self._status, self._output = definition.status, ""
        self._successes = self._failures = 0
        self._number = 0
        self._began_at: Instant | None = None
        """Of the attempt that runs."""
        # A node that comes back with many checks makes them spread over the interval, and not all at once.
        self._due_at = Instant(now + chance.uniform(0, self._interval_s))

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """Take one event in; return what is to be done, in order. Raises `RequestError` for a report."""
        match event:
            case Tick():
                return self._tick(now)
            case Finished(number, status, output):
                return self._finished(status, output, now) if self.is_running and number == self._number else []
            case Remembered(status, output):
                if not self._successes and not self._failures:
                    self._status, self._output = status, output
                return []
            case Told():
                raise RequestError(
                    f"the check {self._definition.id!r} is made by its node; only one with a ttl is told"
                )

    def next_deadline(self) -> Instant:
        """When the next `Tick` is due."""
        return self._due_at if self._began_at is None else Instant(self._began_at + self._definition.timeout_s)

    @property
    def is_running(self) -> bool:
        """Whether an attempt is on its way."""
        return self._began_at is not None

    def check(self) -> None:
        """Raise `InternalError` when an invariant is broken."""
        ensure(not (self._successes and self._failures), "either the last result was a success, or a failure")
        ensure(self._began_at is None or self._number > 0, "an attempt that runs has a number")

    def describe(self) -> CheckPicture:
        """How it stands."""
        return CheckPicture(
            self._status, self._output, self._successes, self._failures, self.is_running, self.next_deadline()
        )

    def _tick(self, now: Instant) -> list[Effect]:
        if now < self.next_deadline():
            return []
        if self._began_at is not None:
            sentence = f"no answer within {self._definition.timeout_s:g} s"
            return [Cancel(self._number), *self._finished(CheckStatus.CRITICAL, sentence, now)]
        self._number += 1
        self._began_at = now
        return [Begin(self._number)]

    def _finished(self, status: CheckStatus, output: str, now: Instant) -> list[Effect]:
        began_at, self._began_at = self._began_at, None
        ensure(began_at is not None, "only an attempt that runs can end")
        wait_s = self._interval_s * (1 + self._chance.uniform(0, INTERVAL_JITTER))
        # By its beginning: the pace is that of the interval, however long an answer takes.
        self._due_at = Instant(max(now, (began_at or now) + wait_s))
        if status is not CheckStatus.CRITICAL:
            self._successes, self._failures = self._successes + 1, 0
            return self._become(status, output) if self._successes >= self._definition.success_before_passing else []
        self._successes, self._failures = 0, self._failures + 1
        if self._failures >= self._definition.failures_before_critical:
            return self._become(status, output)
        before_warning = self._definition.failures_before_warning or self._definition.failures_before_critical
        return self._become(CheckStatus.WARNING, output) if self._failures >= before_warning else []

    def _become(self, status: CheckStatus, output: str) -> list[Effect]:
        output = cut_output(output)
        if (status, output) == (self._status, self._output):
            return []
        self._status, self._output = status, output
        return [Changed(status, output)]


class TtlCheck:
    """A check that somebody reports to; silence for its ttl makes it critical."""

    def __init__(self, definition: CheckDefinition, now: Instant) -> None:
        self._ttl_s = definition.ttl_s
        self._status, self._output = definition.status, ""
        self._was_told = False
        # Whoever reports is given one whole ttl also after this node was away.
        self._expires_at: Instant | None = Instant(now + self._ttl_s)

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """Take one event in; return what is to be done."""
        match event:
            case Told(status, output):
                self._was_told = True
                self._expires_at = Instant(now + self._ttl_s)
                return self._become(status, output)
            case Remembered(status, output):
                if not self._was_told and self._expires_at is not None:
                    self._status, self._output = status, output
                return []
            case Tick() if self._expires_at is not None and now >= self._expires_at:
                self._expires_at = None
                last = f" (last output before that: {self._output})" if self._output else ""
                return self._become(CheckStatus.CRITICAL, "TTL expired" + last)
            case _:
                return []

    def next_deadline(self) -> Instant | None:
        """When the next `Tick` is due; None once it has expired."""
        return self._expires_at

    def check(self) -> None:
        """Raise `InternalError` when an invariant is broken."""
        ensure(self._expires_at is not None or self._status is CheckStatus.CRITICAL, "what has expired is critical")

    def describe(self) -> CheckPicture:
        """How it stands."""
        return CheckPicture(self._status, self._output, next_at=self._expires_at)

    def _become(self, status: CheckStatus, output: str) -> list[Effect]:
        output = cut_output(output)
        if (status, output) == (self._status, self._output):
            return []
        self._status, self._output = status, output
        return [Changed(status, output)]


def alias_status(checks: Iterable[Check], *, of: str, is_there: bool) -> tuple[CheckStatus, str]:
    """What an alias says: the worst of these checks, `of` in words being whose they are; critical when it is not there.

    The first of the worst ones is named. Without any check all is well, as everywhere.
    """
    if not is_there:
        return CheckStatus.CRITICAL, f"{of} is not registered"
    found = list(checks)
    for status in (CheckStatus.CRITICAL, CheckStatus.WARNING):
        for check in found:
            if check.status is status:
                return status, cut_output(f"{check.name or check.id} is {status}: {check.output}")
    return CheckStatus.PASSING, f"all checks of {of} pass" if found else f"{of} has no checks"
