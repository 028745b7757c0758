"""Retries applied once: each origin's batches are applied in sequence, and its newest results are kept.

Source: Raft thesis 6.3. As in an idempotent producer, a batch that is not the next one is not applied: an earlier one
was lost on its way, and order within an origin is kept. Part of the replicated state, so every replica decides alike
and a new leader answers a retry with the first result.
"""

from collections.abc import Callable
from enum import Enum

import msgspec

from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.replica.batches import Batch
from noctule.core.wire.values import decode_values, encode_values

SESSIONS_MAX = 4_096
"""Origins remembered for each group. The one unused for the longest is forgotten first: each restart of a node makes
a new origin, so this many restarts within one request's deadline would be needed to forget a live one."""

EXPIRED = Failure(b"UNKNOWN the cluster forgot this client's session; the command may or may not have been applied")


class Verdict(Enum):
    """What became of a batch that was not applied and has no results."""

    OUT_OF_ORDER = "out of order"
    """An earlier batch is missing: nothing happened, send again from there."""


class _Session:
    __slots__ = ("next_sequence", "results")

    def __init__(self, next_sequence: int = 1, results: dict[int, list[Reply]] | None = None) -> None:
        self.next_sequence = next_sequence
        self.results = results if results is not None else {}


class ClientSessions:
    """The sessions of one group."""

    def __init__(self) -> None:
        self._sessions: dict[int, _Session] = {}

    def apply(self, batch: Batch, execute: Callable[[list[bytes]], Reply]) -> list[Reply] | Verdict:
        """The results of the batch: executed now if it is the next one, else what it gave the first time."""
        session = self._sessions.pop(batch.origin, None)
        if session is None:
            if batch.sequence != 1:
                return Verdict.OUT_OF_ORDER if batch.acknowledged_below == 1 else [EXPIRED] * len(batch.commands)
            session = _Session()
            if len(self._sessions) >= SESSIONS_MAX:
                del self._sessions[next(iter(self._sessions))]
        self._sessions[batch.origin] = session  # At the end: the longest unused stands first.
        if batch.sequence > session.next_sequence:
            return Verdict.OUT_OF_ORDER
        if batch.sequence < session.next_sequence:
            return session.results.get(batch.sequence, [])
        results = [execute(command) for command in batch.commands]
        kept = session.results
        for sequence in [sequence for sequence in kept if sequence < batch.acknowledged_below]:
            del kept[sequence]
        kept[batch.sequence] = results
        session.next_sequence += 1
        return results

    def dump(self) -> list[tuple[int, int, dict[int, bytes]]]:
        """Plain values for a snapshot, in an order that is part of the state."""
        return [
            (origin, session.next_sequence, {number: encode_values(kept) for number, kept in session.results.items()})
            for origin, session in self._sessions.items()
        ]

    @classmethod
    def load(cls, dumped: list[tuple[int, int, dict[int, bytes]]]) -> "ClientSessions":
        """The inverse of `dump`."""
        sessions = cls()
        for origin, next_sequence, results in dumped:
            values = {number: decode_values(kept) for number, kept in results.items()}
            sessions._sessions[origin] = _Session(next_sequence, values)
        return sessions

    def digest_input(self) -> bytes:
        """The same bytes on every replica with the same sessions."""
        return msgspec.msgpack.encode(self.dump())
