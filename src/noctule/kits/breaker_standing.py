"""What one process knows of a breaker that instances share, what it counts, and when it asks the store. No I/O.

`CircuitBreaker` in breaker.py carries out the questions that come from here. While the store answers it alone decides;
once it does not, a local breaker does, beginning with what was last known, until the store answers again. Without a
store the local one always decides.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import TypeAlias

from msgspec import Struct

from noctule.base.errors import UnavailableError
from noctule.base.ids import Instant
from noctule.core.balance.breaker import Breaker, BreakerPicture, BreakerPolicy, BreakerState, Permit

REFRESH_S = 0.5
"""So old may be what an instance knows of the shared state, while it makes calls."""

AWAY_S_FIRST = 1.0
AWAY_S_MAX = 30.0
"""A store that did not answer is left alone for the first, twice as long each time, at most for the second."""

ASK_AGAIN_S = 0.1
"""An instance that got no probe's place takes that for an answer for so long."""


class BreakerOpenError(UnavailableError):
    """The call was not made: the breaker is open, or half open with all its probes under way."""

    code = "breaker_open"

    def __init__(self, name: str, retry_after_s: float) -> None:
        super().__init__(f"the circuit breaker {name!r} is open; try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class Authority(StrEnum):
    """Who decides."""

    LOCAL = "local"
    """This process: there is no store."""
    SHARED = "shared"
    """The store, for all instances."""
    LOCAL_STORE_AWAY = "local, the store is away"
    """This process, until the store answers again."""


@dataclass(frozen=True, slots=True)
class CircuitBreakerPicture:
    """A breaker at one moment, as this process knows it."""

    name: str
    authority: Authority
    breaker: BreakerPicture
    """Of all instances if the authority is shared, but for `opened` and `refused`, which are of this process."""
    age_s: float
    """Since the store last answered; 0 if it never did."""
    store_failures: int
    """Questions without an answer, since the beginning."""


class Exchange(Struct, frozen=True):
    """Tell what was counted in this epoch (0: before any was known), and hear how things stand."""

    epoch: int
    calls: int
    failures: int
    slow: int


class AskProbe(Struct, frozen=True):
    """Ask for a probe's place, leased to this token."""

    token: str


class Verdict(Struct, frozen=True):
    """What came of a probe; None: nothing can be said, and its place is free."""

    token: str
    epoch: int
    is_ok: bool | None


Question: TypeAlias = Exchange | AskProbe | Verdict


class SharedView(Struct, frozen=True):
    """What the store said."""

    state: BreakerState
    epoch: int
    wait_s: float
    """Until asking for a probe may help."""
    is_granted: bool
    """Whether this question got a probe's place."""
    calls: int
    """Of all instances within the window, as are the next two."""
    failures: int
    slow: int
    probes: int
    """In flight, of all instances."""


class SharedPermit:
    """A call under the shared state: an ordinary one, or a probe with its token."""

    __slots__ = ("begun", "epoch", "token")

    def __init__(self, begun: Instant, epoch: int, token: str = "") -> None:
        self.begun = begun
        self.epoch = epoch
        self.token = token


AnyPermit: TypeAlias = Permit | SharedPermit


class Standing:
    """`begin` and `end` calls; put the questions that they give to the store, and tell `heard` or `lost`."""

    def __init__(self, name: str, policy: BreakerPolicy, chance: Random, *, has_store: bool) -> None:
        self._name = name
        self._policy = policy
        self._chance = chance
        self._has_store = has_store
        self._local = Breaker(policy, chance)
        self._view = SharedView(BreakerState.CLOSED, 0, 0.0, False, 0, 0, 0, 0)
        self._seen_at: Instant | None = None
        self._is_exchanging = False
        self._away_until: Instant | None = None
        self._pending = Exchange(0, 0, 0, 0)
        self._pending_since = Instant(0.0)
        self._failures = 0
        self._failures_in_a_row = 0
        self._opened = 0
        self._refused = 0

    @property
    def authority(self) -> Authority:
        """Who decides now."""
        if not self._has_store:
            return Authority.LOCAL
        return Authority.SHARED if self._away_until is None else Authority.LOCAL_STORE_AWAY

    def begin(self, now: Instant) -> AnyPermit | Question:
        """A permit for one call, or what to ask before; `BreakerOpenError` when the call is not to be made."""
        if self.authority is not Authority.SHARED:
            if self._away_until is not None and now >= self._away_until and not self._is_exchanging:
                return self._take_exchange(now)
            permit = self._local.ask(now)
            if permit is None:
                raise BreakerOpenError(self._name, self._local.describe(now).retry_after_s)
            return permit
        if self._is_due(now):
            return self._take_exchange(now)
        if self._view.state is BreakerState.CLOSED:
            return SharedPermit(now, self._view.epoch)
        wait_s = self._wait_s(now)
        # A lease may be given back before its time, so that is asked now and then.
        is_half_open = self._view.state is BreakerState.HALF_OPEN
        if wait_s > 0 and not (is_half_open and now - (self._seen_at or now) >= ASK_AGAIN_S):
            self._refused += 1
            raise BreakerOpenError(self._name, wait_s)
        return AskProbe(f"{self._chance.getrandbits(128):032x}")

    def end(self, permit: AnyPermit, is_ok: bool, now: Instant) -> Question | None:
        """What came of a call, and what to tell the store at once."""
        if isinstance(permit, Permit):
            self._local.end(permit, is_ok, now)
            return None
        policy = self._policy
        is_slow = policy.slow_call_s > 0 and now - permit.begun > policy.slow_call_s
        if permit.token:
            return Verdict(permit.token, permit.epoch, is_ok and not is_slow)
        self._count(permit, is_ok, is_slow, now)
        is_bad = is_slow or not is_ok
        # What went well can wait for the next call; what did not may be the one that opens it for all.
        return self._take_exchange(now) if is_bad and self._away_until is None and self._is_due(now) else None

    def give_up(self, permit: AnyPermit) -> Question | None:
        """The call ended without a verdict."""
        if isinstance(permit, Permit):
            self._local.give_up(permit)
            return None
        return Verdict(permit.token, permit.epoch, None) if permit.token else None

    def heard(self, question: Question, view: SharedView, now: Instant) -> SharedPermit | None:
        """The store's answer; gives the permit if it is one."""
        self._settle(question)
        if view.epoch != self._view.epoch and view.state is BreakerState.OPEN:
            self._opened += 1
        self._view, self._seen_at, self._away_until = view, now, None
        self._failures_in_a_row = 0
        if isinstance(question, AskProbe) and view.is_granted:
            return SharedPermit(now, view.epoch, question.token)
        return None

    def dropped(self, question: Question) -> None:
        """Whoever asked was cancelled and heard nothing: what an exchange told is lost, and another may be made."""
        self._settle(question)

    def lost(self, question: Question, now: Instant) -> None:
        """The store did not answer, and is left alone for a while."""
        self._settle(question)
        self._failures += 1
        if self._away_until is None:
            # It begins with what was last known, and with nothing counted.
            self._local = Breaker(self._policy, self._chance)
            if self._view.state is not BreakerState.CLOSED:
                self._local.open_until(Instant(now + self._wait_s(now)))
        length_s = min(AWAY_S_MAX, AWAY_S_FIRST * 2.0 ** min(self._failures_in_a_row, 32))
        self._failures_in_a_row += 1
        self._away_until = Instant(now + length_s * (1 + self._chance.random() / 5))

    def describe(self, now: Instant) -> CircuitBreakerPicture:
        """A frozen picture, for status and tests."""
        local = self._local.describe(now)
        picture = replace(local, opened=local.opened + self._opened, refused=local.refused + self._refused)
        if self.authority is Authority.SHARED:
            view = self._view
            picture = replace(
                picture,
                state=view.state,
                epoch=view.epoch,
                calls=view.calls,
                failures=view.failures,
                slow=view.slow,
                retry_after_s=self._wait_s(now),
                probes=view.probes,
            )
        age_s = 0.0 if self._seen_at is None else now - self._seen_at
        return CircuitBreakerPicture(self._name, self.authority, picture, age_s, self._failures)

    def _is_due(self, now: Instant) -> bool:
        return not self._is_exchanging and (self._seen_at is None or now - self._seen_at >= REFRESH_S)

    def _wait_s(self, now: Instant) -> float:
        """What is left of the wait that the store told."""
        return max(0.0, self._view.wait_s - (now - self._seen_at)) if self._seen_at is not None else 0.0

    def _take_exchange(self, now: Instant) -> Exchange:
        self._is_exchanging = True
        told, self._pending = self._pending, Exchange(self._view.epoch, 0, 0, 0)
        is_old = now - self._pending_since > self._policy.window_s
        return Exchange(told.epoch, 0, 0, 0) if is_old else told

    def _count(self, permit: SharedPermit, is_ok: bool, is_slow: bool, now: Instant) -> None:
        epoch, before = self._view.epoch, self._pending
        if permit.epoch not in (0, epoch):
            return  # It was begun in a time that is over. 0: before the store had said anything.
        if before.epoch != epoch or now - self._pending_since > self._policy.window_s:
            before = Exchange(epoch, 0, 0, 0)
        if not before.calls:
            self._pending_since = now
        self._pending = Exchange(epoch, before.calls + 1, before.failures + (not is_ok), before.slow + is_slow)

    def _settle(self, question: Question) -> None:
        if isinstance(question, Exchange):
            self._is_exchanging = False
