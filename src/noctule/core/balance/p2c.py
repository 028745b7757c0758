"""The power of two choices: of two instances drawn by chance, the one that would answer sooner.

Many callers choose for themselves, each seeing only its own requests. "The best of all" would send all of them to the
same instance at once; the better of two spreads almost as well and never herds. Sources: Mitzenmacher, "The Power of
Two Choices in Randomized Load Balancing", 1996; Finagle's peak EWMA for the latency.
"""

import math
from bisect import bisect
from collections.abc import Iterable, Set
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from noctule.base.ensure import ensure
from noctule.base.ids import Instant

INSTANCES_MAX = 1_024
"""Of more, the first so many are used."""

DECAY_S = 10.0
"""What a latency says fades by a factor of e in this time: one that was slow long ago is tried again."""

ZONE_INSTANCES_MIN = 2
"""Fewer usable ones in the own zone, and all zones are used: one instance would get the traffic of a zone alone."""

ZONE_USABLE_MIN = 0.7
"""A smaller share of the own zone's instances usable, and all zones are used: the rest would be overrun."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance that may be chosen."""

    id: str
    weight: int = 1
    """Its share of the draws, from 1 on; of 0 or less it is chosen only when there is no other."""
    zone: str = ""
    """Where it is; empty: nobody said."""


@dataclass(frozen=True, slots=True)
class ChoicePicture:
    """One instance."""

    id: str
    zone: str
    in_flight: int
    latency_s: float | None
    """As it counts now; None before its first answer."""
    requests: int


class Ticket:
    """One request at one instance, from `TwoChoices.begin` to `TwoChoices.end`."""

    __slots__ = ("_instance", "begun", "is_open")

    def __init__(self, instance: "_Instance", begun: Instant) -> None:
        self._instance = instance
        self.begun = begun
        self.is_open = True

    @property
    def instance_id(self) -> str:
        """Where the request is."""
        return self._instance.candidate.id


class TwoChoices:
    """Chooses among the instances of one service for one caller in `zone`; chance is handed in."""

    def __init__(self, chance: Random, zone: str = "") -> None:
        self._chance = chance
        self._zone = zone
        self._instances: dict[str, _Instance] = {}

    def keep(self, candidates: Iterable[Candidate]) -> None:
        """These are the instances now. What is known of those that stay is kept; open tickets may still be ended."""
        old = self._instances
        self._instances = {}
        for candidate in candidates:
            if len(self._instances) == INSTANCES_MAX:
                break
            instance = old.get(candidate.id) or _Instance(candidate)
            instance.candidate = candidate
            self._instances[candidate.id] = instance

    def choose(self, now: Instant, excluding: Set[str] = frozenset()) -> str | None:
        """An instance that is not excluded, or None when there is none; asking changes nothing but chance.

        In the own zone while it has enough instances that are usable, else anywhere. Where either of two has not
        answered yet, the requests in flight decide alone.
        """
        usable = [each for each in self._instances.values() if each.candidate.id not in excluding]
        pool = self._in_zone(usable) or usable
        if not pool:
            return None
        first, second = self._draw_two(pool)
        return (second if second.is_better_than(first, now) else first).candidate.id

    def begin(self, instance_id: str, now: Instant) -> Ticket:
        """Count a request in flight at an instance that `choose` has just named; `end` must follow."""
        instance = self._instances[instance_id]
        instance.in_flight += 1
        instance.requests += 1
        return Ticket(instance, now)

    def answered(self, ticket: Ticket, is_ok: bool, now: Instant) -> None:
        """The answer has begun. One that failed makes an instance never look faster: refusing costs no time."""
        ticket._instance.learn(now - ticket.begun, is_ok, now)

    def end(self, ticket: Ticket) -> None:
        """The request is over, body and all, whatever came of it. Exactly once for each ticket."""
        ensure(ticket.is_open, "a ticket is ended once", instance=ticket.instance_id)
        ticket.is_open = False
        ticket._instance.in_flight -= 1

    def describe(self, now: Instant) -> tuple[ChoicePicture, ...]:
        """A frozen picture, in the order in which the instances were given."""
        return tuple(
            ChoicePicture(
                each.candidate.id,
                each.candidate.zone,
                each.in_flight,
                each.latency_now(now) if each.is_measured else None,
                each.requests,
            )
            for each in self._instances.values()
        )

    def check(self) -> None:
        """Raise `InternalError` when the counts cannot be."""
        for each in self._instances.values():
            ensure(0 <= each.in_flight <= each.requests, "requests in flight were begun", instance=each.candidate.id)
            ensure(each.latency_s >= 0, "latencies are not negative", instance=each.candidate.id)

    def _in_zone(self, usable: "list[_Instance]") -> "list[_Instance]":
        """The usable ones of the own zone if they may have its traffic to themselves, else none."""
        if not self._zone:
            return []
        here = [each for each in usable if each.candidate.zone == self._zone]
        all_here = sum(each.candidate.zone == self._zone for each in self._instances.values())
        is_enough = len(here) >= ZONE_INSTANCES_MIN and len(here) >= ZONE_USABLE_MIN * all_here
        return here if is_enough else []

    def _draw_two(self, pool: "list[_Instance]") -> "tuple[_Instance, _Instance]":
        """Two different ones where there are two, each by its weight."""
        first = self._draw(pool)
        rest = [each for each in pool if each is not first]
        return first, self._draw(rest) if rest else first

    def _draw(self, pool: "list[_Instance]") -> "_Instance":
        shares = list(accumulate(max(0, each.candidate.weight) for each in pool))
        if not shares[-1]:
            return self._chance.choice(pool)
        return pool[bisect(shares, self._chance.random() * shares[-1], hi=len(pool) - 1)]


class _Instance:
    __slots__ = ("candidate", "in_flight", "is_measured", "latency_s", "learned_at", "requests")

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.in_flight = 0
        self.requests = 0
        self.latency_s = 0.0
        self.is_measured = False
        self.learned_at = Instant(0.0)

    def latency_now(self, now: Instant) -> float:
        return self.latency_s * math.exp(-max(0.0, now - self.learned_at) / DECAY_S)

    def is_better_than(self, other: "_Instance", now: Instant) -> bool:
        ours, theirs = self.load(), other.load()
        if self.is_measured and other.is_measured:
            return (ours + 1) * self.latency_now(now) < (theirs + 1) * other.latency_now(now)
        return ours < theirs

    def load(self) -> float:
        return self.in_flight / max(1, self.candidate.weight)

    def learn(self, latency_s: float, is_ok: bool, now: Instant) -> None:
        """A peak counts at once, and what is better step by step: trusting too late costs less than too early."""
        latency_s = max(0.0, latency_s)
        if not is_ok:
            self.latency_s = max(self.latency_s, latency_s) if self.is_measured else 0.0
        elif not self.is_measured or latency_s > self.latency_now(now):
            self.latency_s = latency_s
            self.is_measured = True
        else:
            # What was believed fades as in `latency_now`, and what is new takes the place of what has faded.
            remaining = math.exp(-max(0.0, now - self.learned_at) / DECAY_S)
            self.latency_s = self.latency_s * remaining + latency_s * (1 - remaining)
        self.learned_at = now
