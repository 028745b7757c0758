"""What the client of failover.py was told, and whether the store still holds all of it. No I/O but `find_losses`."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import redis

LOSSES_SHOWN_MAX = 20
_READ_KEYS = 1_000
"""In one MGET."""
_UNKNOWN = "UNKNOWN"
"""How a node begins an error that leaves open whether the command was applied; after any other nothing was."""

Note = Callable[[object], bool]
"""Takes the answer to a write, None when none came, and tells whether it acknowledged the write."""


@dataclass(slots=True)
class Ledger:
    """The writes to one partition by one client, whose keys nobody else writes: a counter and unique keys by turns."""

    tag: str
    """In the name of every key, so that all are in one partition."""
    writes_acknowledged: int = 0
    writes_failed: int = 0
    """Those with an error for an answer, or without one."""
    increments_acknowledged: int = 0
    increments_unknown: int = 0
    """Of the failed ones those that may have been applied."""
    counter_seen: int = 0
    """The last answer to INCR: the counter can never be lower again."""
    keys_acknowledged: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Answers that cannot be, a sentence each: an increment was lost, or applied twice."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def counter(self) -> str:
        """The name of the counter."""
        return f"{{{self.tag}}}counter"

    @property
    def counter_max(self) -> int:
        """Higher than this the counter can only be when an increment was applied twice."""
        return self.increments_acknowledged + self.increments_unknown

    def key(self, number: int) -> str:
        """The name of the unique key whose value is `number`."""
        return f"{{{self.tag}}}{number}"

    def next_write(self) -> tuple[tuple[str, ...], Note]:
        """The words of the next command, and what takes its answer; called once for each, in order."""
        number = next(self._numbers)
        if number % 2:
            return ("INCR", self.counter), self._note_increment
        return ("SET", self.key(number), str(number)), partial(self._note_key, number)

    def _note_increment(self, reply: object) -> bool:
        if not isinstance(reply, int):
            self.writes_failed += 1
            self.increments_unknown += reply is None or str(reply).startswith(_UNKNOWN)
            return False
        self.writes_acknowledged += 1
        self.increments_acknowledged += 1
        if not self.counter_seen < reply <= self.counter_max:
            self.broken.append(
                f"INCR {self.counter} gave {reply} after {self.counter_seen}, when {self.increments_acknowledged} "
                f"increments were acknowledged and {self.increments_unknown} unknown"
            )
        self.counter_seen = reply
        return True

    def _note_key(self, number: int, reply: object) -> bool:
        if reply != b"OK":
            self.writes_failed += 1
            return False
        self.writes_acknowledged += 1
        self.keys_acknowledged.append(number)
        return True


def find_losses(client: "redis.Redis", ledger: Ledger) -> list[str]:
    """Every acknowledged write that the store does not hold, and every one applied twice: a sentence each."""
    losses = list(ledger.broken)
    counter = int(client.get(ledger.counter) or 0)
    if not ledger.counter_seen <= counter <= ledger.counter_max:
        losses.append(f"{ledger.counter} is {counter}, and not from {ledger.counter_seen} to {ledger.counter_max}")
    for start in range(0, len(ledger.keys_acknowledged), _READ_KEYS):
        numbers = ledger.keys_acknowledged[start : start + _READ_KEYS]
        values = client.mget([ledger.key(number) for number in numbers])
        losses += [
            f"{ledger.key(number)} is {value!r}, and not {number}"
            for number, value in zip(numbers, values, strict=True)
            if value != str(number).encode()
        ]
    return losses
