"""Retries applied once: each session's batches are applied in sequence, and its newest results are kept.

Source: Raft thesis 6.3. A session is opened by an entry of the log, which gives it a number (its *origin*) that is
never given again; so whatever is forgotten is never taken for new. As in an idempotent producer, a batch that is not
the next one is not applied: an earlier one was lost on its way, and order within an origin is kept. Part of the
replicated state, so every replica decides alike and a new leader answers a retry with the first result.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

import msgspec

from noctule.core.keyspace.reply import MOVED, Failure, Reply
from noctule.core.keyspace.values import decode_values, encode_values
from noctule.core.replica.batches import OPENING, Batch

SESSION_EXPIRES_MS: Final = 3_600_000
"""A session that no batch has used for so long, by the stamps of the log, is forgotten."""
SESSIONS_MAX: Final = 4_096
"""Sessions remembered for each group at most. Another one has the one unused for the longest forgotten early; its
router, if it still lives, is told `EXPIRED`."""

EXPIRED = Failure(b"UNKNOWN the cluster forgot this client's session; the command may or may not have been applied")

DumpedSession: TypeAlias = tuple[int, int, int, dict[int, bytes]]
"""Origin, stamp of the last use, next sequence, and encoded results by sequence."""


class Verdict(Enum):
    """What became of a batch that was not applied and has no results."""

    OUT_OF_ORDER = "out of order"
    """An earlier batch is missing: nothing happened, send again from there."""


class SessionsPicture(NamedTuple):
    """The sessions at one moment: how many were ever opened, and those that are remembered, the longest unused first.

    Results are never changed once they are kept, so they are shared and encoded when somebody asks.
    """

    opened: int
    remembered: list[tuple[int, int, int, dict[int, list[Reply]]]]

    def dump(self) -> Iterator[DumpedSession]:
        """Each as plain values, in an order that is part of the state."""
        for origin, used_ms, next_sequence, results in self.remembered:
            kept = {number: encode_values(values) for number, values in results.items()}
            yield origin, used_ms, next_sequence, kept


class _Session:
    __slots__ = ("next_sequence", "results", "used_ms")

    def __init__(self, used_ms: int, next_sequence: int = 1, results: dict[int, list[Reply]] | None = None) -> None:
        self.used_ms = used_ms
        self.next_sequence = next_sequence
        self.results = results if results is not None else {}


class ClientSessions:
    """The sessions of one group."""

    __slots__ = (
        "_opened",
        "_sessions",
    )

    def __init__(self) -> None:
        self._opened = 0
        """Sessions ever opened, which is also the newest one's origin."""
        self._sessions: OrderedDict[int, _Session] = OrderedDict()
        """By origin, the longest unused first."""

    def apply(self, batch: Batch, stamp_ms: int, execute: Callable[[list[bytes]], Reply]) -> list[Reply] | Verdict:
        """The results of the batch: executed now if it is the next one, else what it gave the first time.

        An opening gives the new session's origin. A batch of a forgotten session, or of one that never was, changes
        nothing and gives `EXPIRED`. `stamp_ms` is that of the entry and must not fall from call to call.

        A batch stops at its first `MOVED`, and so does every later one that was sent before the router knew: it has
        them all carried out elsewhere, in order, and what was behind on the same key must not be done before.
        """
        sessions = self._sessions
        self._forget_unused(stamp_ms)
        if batch.sequence == OPENING:
            return [self._open(stamp_ms)]
        session = sessions.get(batch.origin)
        if session is None:
            return [EXPIRED] * max(len(batch.commands), 1)
        session.used_ms = stamp_ms
        sessions.move_to_end(batch.origin)
        # Every batch before that one was answered, so it was applied; or it was acknowledged by its leader alone and
        # lost with it (`durability`), and is not waited for.
        session.next_sequence = max(session.next_sequence, batch.acknowledged_below)
        if batch.sequence > session.next_sequence:
            return Verdict.OUT_OF_ORDER
        if batch.sequence < session.next_sequence:
            return session.results.get(batch.sequence, [])
        kept = session.results
        for sequence in [sequence for sequence in kept if sequence < batch.acknowledged_below]:
            del kept[sequence]
        results: list[Reply] = []
        if not any(earlier and earlier[-1] is MOVED for earlier in kept.values()):
            for command in batch.commands:
                result = execute(command)
                if result is MOVED:
                    break
                results.append(result)
        results += [MOVED] * (len(batch.commands) - len(results))
        kept[batch.sequence] = results
        session.next_sequence += 1
        return results

    def _open(self, stamp_ms: int) -> int:
        if len(self._sessions) >= SESSIONS_MAX:
            self._sessions.popitem(last=False)
        self._opened += 1
        self._sessions[self._opened] = _Session(stamp_ms)
        return self._opened

    def _forget_unused(self, stamp_ms: int) -> None:
        """Since stamps never fall, the order of last use is that of the stamps: only the front can be too old."""
        sessions = self._sessions
        while sessions:
            origin = next(iter(sessions))
            if stamp_ms - sessions[origin].used_ms < SESSION_EXPIRES_MS:
                return
            del sessions[origin]

    def next_sequence(self, origin: int, stamp_ms: int) -> int | None:
        """The sequence that the session takes next; None when that is not sure: it is not here, might be forgotten
        before an entry of this stamp that is proposed now is applied, or refuses what follows something moved."""
        session = self._sessions.get(origin)
        if session is None or stamp_ms - session.used_ms > SESSION_EXPIRES_MS // 2:
            return None
        if any(kept and kept[-1] is MOVED for kept in session.results.values()):
            return None
        return session.next_sequence if len(self._sessions) <= SESSIONS_MAX // 2 else None

    def is_due(self, batch: Batch, stamp_ms: int) -> bool:
        """Whether `apply` executes the batch if it comes next, at this stamp."""
        session = self._sessions.get(batch.origin)
        if session is None or batch.sequence == OPENING or stamp_ms - session.used_ms >= SESSION_EXPIRES_MS:
            return False
        unacknowledged = (kept for number, kept in session.results.items() if number >= batch.acknowledged_below)
        if any(kept and kept[-1] is MOVED for kept in unacknowledged):
            return False
        return batch.sequence == max(session.next_sequence, batch.acknowledged_below)

    def is_ahead(self, origin: int, sequence: int) -> bool:
        """Whether the batch is certain not to have been applied so far: its session is here, and not yet past it."""
        session = self._sessions.get(origin)
        return session is not None and session.next_sequence <= sequence

    def picture(self) -> SessionsPicture:
        """The sessions as they are now, untouched by what is applied later."""
        remembered = [
            (origin, session.used_ms, session.next_sequence, session.results.copy())
            for origin, session in self._sessions.items()
        ]
        return SessionsPicture(self._opened, remembered)

    def restore(self, opened: int, dumped: Iterable[DumpedSession]) -> None:
        """Add dumped sessions behind those that are here already; `opened` are all that ever were.

        Raises `ValueError` or `msgspec.MsgspecError` when results cannot be read.
        """
        self._opened = opened
        for origin, used_ms, next_sequence, results in dumped:
            values = {number: decode_values(kept) for number, kept in results.items()}
            self._sessions[origin] = _Session(used_ms, next_sequence, values)

    def digest_input(self) -> bytes:
        """The same bytes on every replica with the same sessions."""
        picture = self.picture()
        return msgspec.msgpack.encode((picture.opened, list(picture.dump())))
