"""Operations on their way to *meta*: one for each purpose at a time, tried again by whoever still wants it."""

import logging
from collections.abc import Callable, Hashable

import msgspec

from noctule.base.ids import Instant
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.meta.operations import Operation, encode_operation
from noctule.node.api import ReplySink

log = logging.getLogger("noctule.node")

AGAIN_S = 0.05
"""After an answer the same purpose waits so long: the answer may be here before what it did to the map is."""

Done = Callable[[Reply], None]


class Proposals:
    """What this node wants of *meta*. A purpose is any value that names what is wanted."""

    def __init__(self, submit: Callable[[list[bytes], ReplySink], None], now: Callable[[], Instant]) -> None:
        self._submit = submit
        self._now = now
        self._not_before: dict[Hashable, float] = {}
        """By purpose; infinity while the operation is on its way."""

    def propose(self, purpose: Hashable, operation: Operation, done: Done | None = None) -> bool:
        """Ask for an operation, unless one for this purpose is on its way or was answered just now; whether it went.

        `done` gets the reply: MessagePack bytes, or a `Failure` that says why not, or that the fate is unknown. What is
        still wanted then is simply proposed again: operations name the state that they expect.
        """
        now = self._now()
        if self._not_before.get(purpose, 0.0) > now:
            return False
        if len(self._not_before) > 1_000:
            self._not_before = {each: until for each, until in self._not_before.items() if until > now}
        self._not_before[purpose] = float("inf")
        self._submit(encode_operation(operation), _Answer(self, purpose, type(operation).__name__, done))
        return True

    def answered(self, purpose: Hashable, operation: str, reply: Reply) -> None:
        """Called by the sink."""
        self._not_before[purpose] = self._now() + AGAIN_S
        if isinstance(reply, Failure):
            fields = {"operation": operation, "reason": reply.text.decode("utf-8", "replace")}
            log.debug("operation_refused", extra={"fields": fields})


class _Answer:
    def __init__(self, proposals: Proposals, purpose: Hashable, operation: str, done: Done | None) -> None:
        self._proposals = proposals
        self._purpose = purpose
        self._operation = operation
        self._done = done

    def deliver(self, reply: Reply) -> None:
        self._proposals.answered(self._purpose, self._operation, reply)
        if self._done is not None:
            self._done(reply)


def decode_answer(reply: Reply) -> object:
    """What *meta* answered to an operation, a `Failure` as it is."""
    return msgspec.msgpack.decode(reply) if isinstance(reply, bytes) else reply
