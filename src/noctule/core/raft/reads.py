"""Reads without the log: the rounds and the lease of a leader, and what waits for the leader's answer or the state.

Plain bookkeeping: who sends and answers is `leadership.py` and `node.py`. Source: thesis 6.4 and 6.4.1, ADR 0015.
"""

from dataclasses import dataclass

from noctule.base.ids import Instant

NEVER = Instant(float("-inf"))


@dataclass(frozen=True)
class Read:
    """One read that a leader confirms: for `asker`, whatever is committed up to `index` must be in it."""

    context: int
    index: int
    asker: int


class ReadRounds:
    """A leader's. Every heartbeat carries `newest`; a round that a majority answered proves that this node still led
    when the round began, and so does any later one."""

    __slots__ = (
        "_lease_asked_at",
        "_lease_round",
        "_lease_until",
        "_reads",
        "newest",
    )

    def __init__(self) -> None:
        self.newest = 0
        self._reads: list[tuple[int, Read]] = []
        """With the round that each waits for, in order."""
        self._lease_until = NEVER
        self._lease_round = 0
        """The round that is to prolong the lease; 0 is none."""
        self._lease_asked_at = Instant(0.0)

    @property
    def is_awaited(self) -> bool:
        """Whether anything waits for a round to be confirmed."""
        return bool(self._reads or self._lease_round)

    def begin(self, read: Read) -> None:
        """A new round for this read; the heartbeats that carry it are to be sent."""
        self.newest += 1
        self._reads.append((self.newest, read))

    def begin_for_lease(self, now: Instant) -> None:
        """A new round to prolong the lease, unless one is on its way."""
        if not self._lease_round:
            self.newest += 1
            self._lease_round, self._lease_asked_at = self.newest, now

    def confirm(self, confirmed: int, lease_s: float) -> list[Read]:
        """A majority answered this round: the reads that are ready. `lease_s` is what its promises are worth here."""
        if 0 < self._lease_round <= confirmed:
            # Counted from when it was asked for: the promises were made later, so they end later.
            self._lease_until, self._lease_round = Instant(self._lease_asked_at + lease_s), 0
        ready = []
        for number, read in self._reads:
            if number > confirmed:
                break
            ready.append(read)
        del self._reads[: len(ready)]
        return ready

    def holds_lease(self, now: Instant) -> bool:
        """Whether a majority still keeps its promise to elect no other."""
        return now < self._lease_until

    def drop_lease(self) -> None:
        """Promises of so far are worth nothing any more."""
        self._lease_until, self._lease_round = NEVER, 0

    def waiting(self) -> list[Read]:
        """The reads that no round has confirmed."""
        return [read for _, read in self._reads]


class WaitingReads:
    """Reads that wait on a replica: on a follower first for the leader's answer, then until so far is applied."""

    __slots__ = ("_reads",)

    def __init__(self) -> None:
        self._reads: dict[int, tuple[Instant, int | None]] = {}
        """By context: until when it waits, and the index that the leader answered."""

    def __bool__(self) -> bool:
        return bool(self._reads)

    def next_deadline(self) -> Instant:
        """When the first of them has waited too long."""
        return min(until for until, _ in self._reads.values())

    def ask(self, context: int, until: Instant) -> None:
        """The leader is asked now."""
        self._reads[context] = (until, None)

    def confirmed(self, context: int, index: int) -> None:
        """This replica leads and was confirmed: nothing but the state is waited for, however long that takes."""
        self._reads[context] = (Instant(float("inf")), index)

    def answered(self, context: int, index: int) -> None:
        """The leader answered; an answer that nobody waits for is no news."""
        if context in self._reads:
            self._reads[context] = (self._reads[context][0], index)

    def take_ready(self, applied: int) -> list[tuple[int, int]]:
        """(context, index) of those whose index is applied; they wait no more."""
        ready = [
            (context, index) for context, (_, index) in self._reads.items() if index is not None and index <= applied
        ]
        for context, _ in ready:
            del self._reads[context]
        return ready

    def take_late(self, now: Instant) -> list[int]:
        """The contexts of those that have waited too long; they wait no more."""
        late = [context for context, (until, _) in self._reads.items() if until <= now]
        for context in late:
            del self._reads[context]
        return late
