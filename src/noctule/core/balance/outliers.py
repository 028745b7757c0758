"""Which instances stand out by failing, and get nothing for a while, whatever the registry says of them.

A health check asks a question of its own from time to time; this looks at what became of real requests. It compares:
when all instances fail alike, the fault is behind them or in the requests, and putting instances out would only make it
worse. So at most half of them are ever out.

    IN ──stands out──► EJECTED for ejection_s, twice as long each time ──time──► IN
"""

from collections.abc import Iterable
from dataclasses import dataclass

from noctule.base.ensure import ensure
from noctule.base.errors import ConfigError
from noctule.base.ids import END_OF_TIME, Instant
from noctule.core.balance.window import Window

INSTANCES_MAX = 1_024
"""An instance beyond them is not watched."""

_GOOD, _BAD = 0, 1


@dataclass(frozen=True, slots=True)
class OutlierPolicy:
    """When an instance stands out."""

    in_a_row: int = 5
    """So many failures one after the other, or …"""
    failure_rate: float = 0.5
    """… this share of at least `requests_min` requests within `window_s`."""
    requests_min: int = 10
    window_s: float = 10.0
    margin: float = 0.3
    """By so much its failure rate is above that of all others that are in; failing in a row counts as a rate of 1."""
    ejection_s: float = 10.0
    ejection_s_max: float = 300.0
    """The longest. Having been in for so long, an instance begins at `ejection_s` again."""

    def validate(self) -> None:
        """`ConfigError` that names everything that cannot be."""
        wrong = []
        if self.in_a_row < 1 or self.requests_min < 1:
            wrong.append("in_a_row and requests_min are 1 or more")
        if not (0 < self.failure_rate <= 1 and 0 <= self.margin <= 1):
            wrong.append("failure_rate is above 0, margin not below, and neither is above 1")
        if self.window_s <= 0 or not 0 < self.ejection_s <= self.ejection_s_max:
            wrong.append("window_s and ejection_s are above 0, ejection_s_max not below ejection_s")
        if wrong:
            raise ConfigError("outlier ejection cannot work so: " + "; ".join(wrong))


@dataclass(frozen=True, slots=True)
class OutlierPicture:
    """One instance."""

    id: str
    requests: int
    """Within the window."""
    failures: int
    in_a_row: int
    ejected_until: Instant | None
    """None while it is in."""
    ejections: int
    """In short succession; what the next one's length follows from."""


class Outliers:
    """The instances of one service. Deterministic; `record` what came of each request, leave out what is `ejected`."""

    def __init__(self, policy: OutlierPolicy | None = None) -> None:
        self._policy = policy or OutlierPolicy()
        self._policy.validate()
        self._instances: dict[str, _Instance] = {}
        self._ejected: frozenset[str] = frozenset()
        self._next_return = END_OF_TIME

    def keep(self, instance_ids: Iterable[str]) -> None:
        """These are the instances now: others are forgotten, and of those ejected some may come back for it."""
        wanted = list(dict.fromkeys(instance_ids))[:INSTANCES_MAX]
        old = self._instances
        self._instances = {each: old.get(each) or _Instance(self._policy.window_s) for each in wanted}
        by_return = sorted(self._out(), key=lambda each: (self._instances[each].until, each))
        for instance_id in by_return[: max(0, len(by_return) - self._ejected_max())]:
            self._take_back(self._instances[instance_id])
        self._remember_ejected()

    def record(self, instance_id: str, is_ok: bool, now: Instant) -> None:
        """What came of one request. An instance that is not known yet is from now on.

        A failure is no answer, or one that speaks of the instance (502, 503, 504), and not one of the app's own.
        What is still coming from an instance that is out changes nothing.
        """
        instance = self._instances.get(instance_id)
        if instance is None:
            if len(self._instances) >= INSTANCES_MAX:
                return
            instance = self._instances[instance_id] = _Instance(self._policy.window_s)
        self._return_those_due(now)
        if instance.is_out:
            return
        instance.window.add(_GOOD if is_ok else _BAD, now)
        if is_ok:
            instance.in_a_row = 0
            return
        instance.in_a_row += 1
        if len(self._ejected) < self._ejected_max() and self._stands_out(instance, now):
            self._eject(instance, now)

    def ejected(self, now: Instant) -> frozenset[str]:
        """Those that get nothing now: at most half of all. Cheap, so ask for every request."""
        if now >= self._next_return:
            self._return_those_due(now)
        return self._ejected

    def next_deadline(self) -> Instant | None:
        """When the next one comes back, if nothing else happens."""
        return None if self._next_return == END_OF_TIME else self._next_return

    def describe(self, now: Instant) -> tuple[OutlierPicture, ...]:
        """A frozen picture of each, in the order in which they became known."""
        self.ejected(now)
        return tuple(instance.describe(instance_id, now) for instance_id, instance in self._instances.items())

    def check(self) -> None:
        """Raise `InternalError` unless what is remembered agrees with itself."""
        ensure(self._ejected == frozenset(self._out()), "who is out is remembered", ejected=sorted(self._ejected))
        ensure(len(self._ejected) <= self._ejected_max(), "at most half are out", ejected=sorted(self._ejected))
        ensure(len(self._instances) <= INSTANCES_MAX, "too many instances", count=len(self._instances))

    def _ejected_max(self) -> int:
        return len(self._instances) // 2

    def _out(self) -> list[str]:
        return [instance_id for instance_id, instance in self._instances.items() if instance.is_out]

    def _stands_out(self, instance: "_Instance", now: Instant) -> bool:
        policy = self._policy
        good, bad = instance.window.advance(now)
        if instance.in_a_row >= policy.in_a_row:
            rate = 1.0
        elif good + bad >= policy.requests_min and bad >= policy.failure_rate * (good + bad):
            rate = bad / (good + bad)
        else:
            return False
        others = [each.window.advance(now) for each in self._instances.values() if each is not instance]
        requests, failures = sum(map(sum, others)), sum(each[_BAD] for each in others)
        return rate >= policy.margin + (failures / requests if requests else 0.0)

    def _eject(self, instance: "_Instance", now: Instant) -> None:
        policy = self._policy
        if now - instance.until >= policy.ejection_s_max:
            instance.ejections = 0
        # The exponent is bounded, as 2.0 ** 1024 is no float.
        length_s = min(policy.ejection_s_max, policy.ejection_s * 2.0 ** min(instance.ejections, 32))
        instance.ejections += 1
        instance.until = Instant(now + length_s)
        instance.is_out = True
        # Its failures would make the others look good beside it.
        instance.window.clear()
        self._remember_ejected()

    def _return_those_due(self, now: Instant) -> None:
        if now < self._next_return:
            return
        for instance in self._instances.values():
            if instance.is_out and now >= instance.until:
                self._take_back(instance)
        self._remember_ejected()

    def _take_back(self, instance: "_Instance") -> None:
        instance.is_out = False
        instance.in_a_row = 0
        instance.window.clear()

    def _remember_ejected(self) -> None:
        self._ejected = frozenset(self._out())
        self._next_return = min((self._instances[each].until for each in self._ejected), default=END_OF_TIME)


class _Instance:
    __slots__ = ("ejections", "in_a_row", "is_out", "until", "window")

    def __init__(self, window_s: float) -> None:
        self.window = Window(window_s, kinds=2)
        self.in_a_row = 0
        self.is_out = False
        self.until = Instant(float("-inf"))
        """End of the last ejection."""
        self.ejections = 0

    def describe(self, instance_id: str, now: Instant) -> OutlierPicture:
        good, bad = self.window.advance(now)
        until = self.until if self.is_out else None
        return OutlierPicture(instance_id, good + bad, bad, self.in_a_row, until, self.ejections)
