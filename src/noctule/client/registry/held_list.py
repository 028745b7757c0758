"""Which endpoints of a service are in force: what the registry says, and what it said while it may have forgotten.

A registry that lost its state answers as confidently as any other, with an empty list. So an answer is *doubted* when
its index has fallen, or when the registry was away before it. In doubt an instance that is not listed any more is held
for `protect_s`; by then a living one has registered itself again, and a dead one costs a refused connection, which is
retried. An instance that *is* listed, as critical, leaves at once, doubt or not: that is knowledge. So does one that is
not listed in an answer without doubt: it was deregistered.

No I/O, no clock: follower.py asks the registry and tells this what came of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from noctule.base.ensure import ensure
from noctule.base.ids import END_OF_TIME, Instant
from noctule.client.registry.endpoints import Endpoint, Instance

PROTECT_S = 30.0
"""A node registers its instances again within seconds of reaching the registry."""


class Source(StrEnum):
    """Where a list comes from."""

    NONE = "none"
    """There is none."""
    LIVE = "live"
    """The registry answered when it was last asked."""
    LAST_GOOD = "last-good"
    """The registry is away: this is what it said before, to this process or to one before it."""


@dataclass(frozen=True, slots=True)
class ListPicture:
    """The list of one service at one moment."""

    source: Source
    age_s: float
    """Since the registry last answered; 0 when it never did."""
    index: int
    """Of the registry's last answer."""
    endpoints: tuple[Endpoint, ...]
    held: int
    """How many of them are there only because the registry may have forgotten them."""


class HeldList:
    """The endpoints of one service."""

    def __init__(self, protect_s: float = PROTECT_S) -> None:
        self._protect_s = protect_s
        self._endpoints: tuple[Endpoint, ...] = ()
        self._held: dict[str, Instant] = {}
        """Until when each unlisted one is kept, by id."""
        self._index = 0
        self._heard_at: Instant | None = None
        self._is_away = True
        """The last question had no answer, or none was asked."""

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Those in force, in the registry's order, the held ones last."""
        return self._endpoints

    @property
    def next_index(self) -> int:
        """What to ask with: the registry answers once it has a higher one. 0 asks for an answer at once."""
        return 0 if self._is_away else self._index

    @property
    def source(self) -> Source:
        """Where the list comes from."""
        if self._heard_at is None:
            return Source.NONE
        return Source.LAST_GOOD if self._is_away else Source.LIVE

    def remember(self, endpoints: Iterable[Endpoint], index: int, age_s: float, now: Instant) -> None:
        """What the registry said to a process before this one. Only before the first answer."""
        ensure(self._heard_at is None, "what was said before comes before what is said")
        self._endpoints = tuple(endpoints)
        self._index = index
        self._heard_at = Instant(now - max(0.0, age_s))

    def heard(self, index: int, instances: Sequence[Instance], now: Instant) -> bool:
        """What the registry says now; gives whether the list in force is another.

        An index below 1 cannot be waited behind (Consul's API, "Blocking Queries"), so the next question is asked
        without; so is the one after an index that fell.
        """
        has_fallen = index < self._index
        in_doubt = self._heard_at is not None and (has_fallen or self._is_away)
        listed = {each.endpoint.id for each in instances}
        held = {}
        for endpoint in self._endpoints:
            if endpoint.id not in listed and (in_doubt or endpoint.id in self._held):
                held[endpoint.id] = self._held.get(endpoint.id, Instant(now + self._protect_s))
        kept = [each for each in self._endpoints if each.id in held]
        before = self._endpoints
        self._endpoints = tuple([each.endpoint for each in instances if each.is_usable] + kept)
        self._held = held
        self._index = max(0, index)
        self._heard_at = now
        self._is_away = False
        self.advance(now)
        return self._endpoints != before

    def lost(self) -> bool:
        """The registry did not answer; gives whether that is new."""
        is_new = not self._is_away
        self._is_away = True
        return is_new

    def advance(self, now: Instant) -> bool:
        """Let go of those held for long enough; gives whether the list in force is another."""
        due = {endpoint_id for endpoint_id, until in self._held.items() if now >= until}
        if not due:
            return False
        self._endpoints = tuple(each for each in self._endpoints if each.id not in due)
        for endpoint_id in due:
            del self._held[endpoint_id]
        return True

    def next_deadline(self) -> Instant | None:
        """When `advance` has something to do; None when it has not."""
        deadline = min(self._held.values(), default=END_OF_TIME)
        return None if deadline == END_OF_TIME else deadline

    def describe(self, now: Instant) -> ListPicture:
        """A frozen picture, for status and tests."""
        age_s = 0.0 if self._heard_at is None else max(0.0, now - self._heard_at)
        return ListPicture(self.source, age_s, self._index, self._endpoints, len(self._held))

    def check(self) -> None:
        """Raise `InternalError` unless the parts agree."""
        ids = [endpoint.id for endpoint in self._endpoints]
        ensure(set(self._held) <= set(ids), "the held ones are in force", held=sorted(self._held))
        ensure(self._heard_at is not None or not ids, "a list was heard from somebody", ids=ids)
