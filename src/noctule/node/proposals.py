"""Operations on their way to *meta*: one for each purpose at a time, tried again by whoever still wants it."""

import asyncio
import logging
from collections.abc import Callable, Hashable
from typing import Final

from noctule.base.errors import OutcomeUnknownError, UnavailableError
from noctule.base.ids import Instant
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.meta.operations import REFUSED, Answer, Operation, decode_applied, encode_operation
from noctule.node.api import ReplySink

log = logging.getLogger("noctule.node")

AGAIN_S: Final = 0.05
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


async def ask_meta(submit: Callable[[list[bytes], ReplySink], None], operation: Operation) -> tuple[int, Answer]:
    """Have *meta* do an operation; returns its version by then, and what it answered.

    Raises `RequestError` when it is refused, `UnavailableError` when it was not done in time, and `OutcomeUnknownError`
    when that is not known: an operation names what it expects, so it may be asked for again.
    """
    return decode_applied(await reply_of(lambda sink: submit(encode_operation(operation), sink)))


async def reply_of(submit: Callable[[ReplySink], None]) -> Reply:
    """What comes of something that a group was asked to log; its own refusal, too.

    Raises `UnavailableError` when it was not done in time, and `OutcomeUnknownError` when that is not known.
    """
    answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    submit(_Waiting(answered))
    reply = await answered
    if isinstance(reply, Failure) and not reply.text.startswith(REFUSED):
        kind = OutcomeUnknownError if reply.text.startswith(b"UNKNOWN") else UnavailableError
        raise kind(reply.text.decode("utf-8", "replace"))
    return reply


class _Waiting:
    def __init__(self, answered: "asyncio.Future[Reply]") -> None:
        self._answered = answered

    def deliver(self, reply: Reply) -> None:
        if not self._answered.done():
            self._answered.set_result(reply)
