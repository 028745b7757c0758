"""Writes that are acknowledged before a quorum has them: `durability = leader`. See ADR 0020.

State is what is committed, and nothing is applied earlier for anybody. So what can be answered early is the answer that
does not depend on the state: that of SET and its like, whose effect is certain once they are applied. All others wait
for the quorum as ever. What was answered is then in the log of this leader alone, perhaps; whoever takes over without
it has never heard of it.
"""

from collections import deque
from enum import StrEnum
from typing import Final

from noctule.core.keyspace.commands import find_command
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.merging import bucket_problem
from noctule.core.keyspace.reply import Reply
from noctule.core.keyspace.spec import Scope
from noctule.core.keyspace.state import State
from noctule.core.replica.batches import OPENING, Batch, decode_batch
from noctule.core.replica.client_sessions import SESSIONS_MAX, ClientSessions
from noctule.core.replica.events import Submit

ENTRIES_IN_FLIGHT_MAX: Final = 8
"""Entries that such a leader proposes before the first of them is applied; with one, each would wait for a quorum."""

_CERTAIN = frozenset((b"SET", b"SETEX", b"PSETEX", b"MSET"))
_DEPENDS = frozenset((b"NX", b"XX", b"GET"))
"""Options of SET whose answer depends on what was there."""


class Durability(StrEnum):
    """When a write is acknowledged."""

    QUORUM = "quorum"
    """Once a quorum has it on disk."""
    LEADER = "leader"
    """Once its leader has, if the answer does not depend on the state; else as QUORUM."""


class EarlyAnswers:
    """What a leader has promised, or said already, of entries that are not applied yet. Empty in every other role."""

    def __init__(self) -> None:
        self.said_index = 0
        """The newest entry of which something was said: reads that begin now must see it."""
        self._due: deque[tuple[int, Submit, list[Reply]]] = deque()
        """By index, what is to be said once that is on this disk."""
        self._said: set[tuple[int, int]] = set()
        """(origin, sequence) of what was said and is not applied."""
        self._next: dict[int, int] = {}
        """Origin to the sequence that follows those in entries on their way."""
        self._barrier = 0
        """Until this entry is applied nothing is certain: it may change what commands are refused."""

    def begin(self, last_index: int) -> None:
        """Lead, with a log that ends there; what stands in it was not looked at."""
        self.said_index = 0
        self._due.clear()
        self._said.clear()
        self._next.clear()
        self._barrier = last_index

    def take_unapplied(self) -> set[tuple[int, int]]:
        """Lead no more: (origin, sequence) of what was said, and may be applied by another leader or by none."""
        said = set(self._said)
        self.begin(0)
        return said

    def proposed(
        self,
        index: int,
        submit: Submit | None,
        batch_data: bytes,
        stamp_ms: int,
        state: Keyspace,
        sessions: ClientSessions,
    ) -> None:
        """A batch stands in the entry at `index`: note what can be said of it early, if anything.

        `submit` asks for it, None when the leader does itself; `state` and `sessions` are as applied so far.
        """
        batch = decode_batch(batch_data)
        if batch.sequence == OPENING and submit is not None:
            return
        if any(_may_change_rules(command) or state.is_moved(command) for command in batch.commands):
            self._barrier = index
        if submit is None or not self._is_in_order(batch, stamp_ms, sessions):
            return
        if len(self._next) >= SESSIONS_MAX:
            self._next.clear()
        self._next[batch.origin] = batch.sequence + 1
        if not self._barrier:
            replies = [certain_reply(command, stamp_ms, state) for command in batch.commands]
            if None not in replies:
                self._due.append((index, submit, replies))

    def _is_in_order(self, batch: Batch, stamp_ms: int, sessions: ClientSessions) -> bool:
        """Whether its session is sure to take the batch as its next one, once those on their way are applied."""
        known = sessions.next_sequence(batch.origin, stamp_ms)
        return known is not None and batch.sequence in (
            self._next.get(batch.origin),
            max(known, batch.acknowledged_below),
        )

    def take_due(self, durable: int) -> list[tuple[Submit, list[Reply]]]:
        """What may be said now that this disk has everything up to `durable`; to be said at once."""
        due = []
        while self._due and self._due[0][0] <= durable:
            index, submit, replies = self._due.popleft()
            self.said_index = index
            self._said.add((submit.origin, submit.sequence))
            due.append((submit, replies))
        return due

    def applied(self, index: int) -> None:
        """Everything up to `index` is applied."""
        if self._barrier <= index:
            self._barrier = 0

    def batch_applied(self, origin: int, sequence: int) -> None:
        """What was said of this batch has come true."""
        self._said.discard((origin, sequence))


def certain_reply(command: list[bytes], stamp_ms: int, state: State) -> Reply:
    """What the command will answer, whatever else is applied before it; None when that is not certain."""
    spec = find_command(command[0])
    if spec is None or spec.name not in _CERTAIN:
        return None
    if spec.name == b"SET" and any(word.upper() in _DEPENDS for word in command[3:]):
        return None
    if state.buckets and bucket_problem(state, spec.keys(command), may_create=True) is not None:
        return None
    return Keyspace().execute(command, stamp_ms)


def _may_change_rules(command: list[bytes]) -> bool:
    spec = find_command(command[0])
    return spec is None or spec.scope in (Scope.ALL, Scope.INTERNAL)
