"""A circuit breaker: calls that would fail are not made, so that who is called can recover and who calls need not wait.

    CLOSED ──too many failed or slow──► OPEN ──open_s──► HALF_OPEN ──probes good──► CLOSED
                                          ▲                  │
                                          └───probe failed───┘      each time open for twice as long

In HALF_OPEN a few calls are let through as probes. Each is *leased*: a caller that dies with its probe, or forgets it,
holds a place for `probe_lease_s` and not for ever. Each change of state begins another epoch, and a verdict counts only
in the epoch its call was begun in: what comes back late speaks of a time that is over.

As the balancer it is asked for one decision and told what came of it, so it has no effects; OPEN ends when somebody
asks. The state that many instances share in a store follows the same rules: kits/shared_breaker.py.
"""

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from noctule.base.ensure import ensure
from noctule.base.errors import ConfigError
from noctule.base.ids import END_OF_TIME, Instant
from noctule.core.balance.window import Window


class BreakerState(StrEnum):
    """What becomes of a call."""

    CLOSED = "closed"
    """It is made, and counted."""
    OPEN = "open"
    """It is refused."""
    HALF_OPEN = "half_open"
    """It is made when there is a place for a probe, else refused."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and how it closes again."""

    window_s: float = 10.0
    calls_min: int = 20
    """Fewer calls within the window say nothing. Of a shared breaker: more than all instances make in half a second."""
    failure_rate: float = 0.5
    """It opens at this share of failed calls, above 0 to 1."""
    slow_call_s: float = 0.0
    """A call that takes longer is slow, though it end well. 0: none is."""
    slow_rate: float = 0.8
    """It opens at this share of slow calls, above 0 to 1."""
    open_s: float = 5.0
    """How long it is open the first time; twice as long after each round of probes that failed …"""
    open_s_max: float = 60.0
    """… up to this."""
    jitter: float = 0.2
    """Up to this share longer, by chance, so that not all callers probe in the same moment."""
    probes_max: int = 1
    """Probes in flight."""
    probes_good: int = 3
    """So many good ones close it, and one failed or slow one opens it."""
    probe_lease_s: float = 10.0
    """How long a probe without a verdict holds its place; longer than a call may take."""

    def validate(self) -> None:
        """`ConfigError` that names everything that cannot be."""
        wrong = []
        if not self.window_s > 0 or not self.probe_lease_s > 0 or self.slow_call_s < 0:
            wrong.append("window_s and probe_lease_s are above 0, slow_call_s is not below")
        if min(self.calls_min, self.probes_max, self.probes_good) < 1:
            wrong.append("calls_min, probes_max and probes_good are 1 or more")
        if not (0 < self.failure_rate <= 1 and 0 < self.slow_rate <= 1):
            wrong.append("failure_rate and slow_rate are above 0 and at most 1")
        if not 0 < self.open_s <= self.open_s_max or not 0 <= self.jitter <= 1:
            wrong.append("open_s is above 0 and at most open_s_max, jitter is from 0 to 1")
        if wrong:
            raise ConfigError("a circuit breaker cannot work so: " + "; ".join(wrong))

    def must_open(self, calls: int, failures: int, slow: int) -> bool:
        """Whether what was counted within the window opens a closed breaker."""
        if calls < self.calls_min:
            return False
        return failures >= self.failure_rate * calls or (self.slow_call_s > 0 and slow >= self.slow_rate * calls)

    def open_for_s(self, rounds: int, chance: Random) -> float:
        """How long it is open after so many rounds of probes that failed."""
        length_s = min(self.open_s_max, self.open_s * 2.0 ** min(rounds, 32))
        return length_s * (1 + self.jitter * chance.random())


@dataclass(frozen=True, slots=True)
class BreakerPicture:
    """A breaker at one moment."""

    state: BreakerState
    epoch: int
    calls: int
    """Within the window, as are the next two."""
    failures: int
    slow: int
    opened: int
    """How often, since the beginning."""
    refused: int
    """Calls that were not made, since the beginning."""
    retry_after_s: float
    """Until a call may be made; 0 when one may be made now, as far as time decides it."""
    probes: int
    """In flight, by their leases."""


class Permit:
    """One call that may be made, from `Breaker.ask` to `Breaker.end` or `Breaker.give_up`."""

    __slots__ = ("begun", "epoch", "number")

    def __init__(self, begun: Instant, epoch: int, number: int) -> None:
        self.begun = begun
        self.epoch = epoch
        self.number = number
        """Of a probe, from 1; 0 for a call of a closed breaker."""


_CALLS, _FAILURES, _SLOW = 0, 1, 2


class Breaker:
    """Of one dependency, in one process. Deterministic but for the length of an opening, which `chance` decides."""

    def __init__(self, policy: BreakerPolicy, chance: Random) -> None:
        policy.validate()
        self._policy = policy
        self._chance = chance
        self._state = BreakerState.CLOSED
        self._epoch = 1
        self._window = Window(policy.window_s, kinds=3)
        self._rounds = 0
        """Rounds of probes that failed since it was last closed."""
        self._open_until = Instant(0.0)
        self._leases: dict[int, Instant] = {}
        """When each probe's place is free again, by its number."""
        self._probes = 0
        self._good = 0
        self._opened = 0
        self._refused = 0

    def ask(self, now: Instant) -> Permit | None:
        """Whether a call may be made now; None when not. With a permit, `end` or `give_up` must follow, once."""
        if self._state is BreakerState.CLOSED:
            return Permit(now, self._epoch, 0)
        if self._state is BreakerState.OPEN and now >= self._open_until:
            self._become_half_open()
        if self._state is BreakerState.HALF_OPEN:
            self._drop_dead_leases(now)
            if len(self._leases) < self._policy.probes_max:
                self._probes += 1
                self._leases[self._probes] = Instant(now + self._policy.probe_lease_s)
                return Permit(now, self._epoch, self._probes)
        self._refused += 1
        return None

    def end(self, permit: Permit, is_ok: bool, now: Instant) -> None:
        """What came of the call; whether it was slow follows from the time.

        A probe whose lease is over is still heard in its epoch: the lease was about its place.
        """
        if permit.epoch != self._epoch:
            return
        policy = self._policy
        is_slow = policy.slow_call_s > 0 and now - permit.begun > policy.slow_call_s
        if self._state is BreakerState.CLOSED:
            self._window.add(_CALLS, now)
            if not is_ok:
                self._window.add(_FAILURES, now)
            if is_slow:
                self._window.add(_SLOW, now)
            if policy.must_open(*self._window.totals):
                self._become_open(now)
            return
        self._leases.pop(permit.number, None)
        if not is_ok or is_slow:
            self._rounds += 1
            self._become_open(now)
            return
        self._good += 1
        if self._good >= policy.probes_good:
            self._become_closed()

    def give_up(self, permit: Permit) -> None:
        """The call ended without a verdict, as when the caller itself was cancelled; a probe's place is free again."""
        if permit.epoch == self._epoch:
            self._leases.pop(permit.number, None)

    def open_until(self, until: Instant) -> None:
        """Be open until then, whatever was counted: somebody else knows better."""
        self._become(BreakerState.OPEN)
        self._open_until = until

    def next_deadline(self) -> Instant | None:
        """When asking may have another answer though nothing else happens; None while closed."""
        if self._state is BreakerState.CLOSED:
            return None
        if self._state is BreakerState.OPEN:
            return self._open_until
        if len(self._leases) < self._policy.probes_max:
            return None
        return min(self._leases.values())

    def describe(self, now: Instant) -> BreakerPicture:
        """A frozen picture; looking changes nothing but what time has changed."""
        calls, failures, slow = self._window.advance(now)
        self._drop_dead_leases(now)
        wait_s = max(0.0, (self.next_deadline() or now) - now)
        return BreakerPicture(
            self._state,
            self._epoch,
            calls,
            failures,
            slow,
            self._opened,
            self._refused,
            wait_s,
            len(self._leases),
        )

    def check(self) -> None:
        """Raise `InternalError` unless the parts agree with the state."""
        policy, facts = self._policy, {"state": self._state, "epoch": self._epoch}
        ensure(len(self._leases) <= policy.probes_max, "probes have places", **facts)
        ensure(self._state is BreakerState.HALF_OPEN or not self._leases, "only a half-open one has probes", **facts)
        ensure(0 <= self._good < policy.probes_good, "enough good probes close it", **facts)
        ensure(self._open_until < END_OF_TIME, "it is not open for ever", **facts)
        ensure(self._state is BreakerState.CLOSED or not any(self._window.totals), "it counts while closed", **facts)

    def _drop_dead_leases(self, now: Instant) -> None:
        for number in [number for number, until in self._leases.items() if now >= until]:
            del self._leases[number]

    def _become_open(self, now: Instant) -> None:
        self._become(BreakerState.OPEN)
        self._opened += 1
        self._open_until = Instant(now + self._policy.open_for_s(self._rounds, self._chance))

    def _become_half_open(self) -> None:
        self._become(BreakerState.HALF_OPEN)

    def _become_closed(self) -> None:
        self._become(BreakerState.CLOSED)
        self._rounds = 0

    def _become(self, state: BreakerState) -> None:
        self._state = state
        self._epoch += 1
        self._window.clear()
        self._leases.clear()
        self._good = 0
