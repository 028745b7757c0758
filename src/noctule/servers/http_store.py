"""Asking the store from a coroutine: commands go in, replies come back within a deadline, failures are raised."""

import asyncio

from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import NoctuleError, OutcomeUnknownError, UnavailableError
from noctule.core.keyspace.reply import Failure, Reply
from noctule.node.api import Store
from noctule.servers.http_errors import failure_error

REPLY_S_MAX = 10.0
"""How long a request waits for the store; the same bound that the store keeps itself."""


class AwaitedReply:
    """A `ReplySink` that one coroutine waits on. The first delivery counts; one after the deadline is dropped."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def deliver(self, reply: Reply) -> None:
        """Hand the reply to whoever waits; see `ReplySink`."""
        if not self._future.done():
            self._future.set_result(reply)

    async def wait_delivered(self) -> Reply:
        """The reply, as it came; has no deadline of its own."""
        return await self._future


async def read_all(
    store: Store, commands: list[list[bytes]], *, consistency: ConsistencyLevel, timeout_s: float = REPLY_S_MAX
) -> list[Reply]:
    """Submit several reads in one turn of the loop and return their replies in order.

    They travel together, but another client's write may come between them. Raises what `failure_error` makes of
    the first failure, and `UnavailableError` when an answer did not come in time: a read changes nothing, so its
    outcome is never unknown.
    """
    late = UnavailableError(f"the store did not answer within {timeout_s:g} s; try again, or ask another node")
    try:
        return await _ask(store, commands, consistency, timeout_s, late)
    except OutcomeUnknownError:
        raise UnavailableError("the read got no answer in time; try again, or ask another node") from None


async def read(
    store: Store,
    *command: bytes,
    consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE,
    timeout_s: float = REPLY_S_MAX,
) -> Reply:
    """Submit one read; errors as `read_all`."""
    return (await read_all(store, [list(command)], consistency=consistency, timeout_s=timeout_s))[0]


async def write(store: Store, *command: bytes) -> Reply:
    """Submit one write; raises `OutcomeUnknownError` when no answer came in time, else as `read_all`."""
    late = OutcomeUnknownError(f"the store did not answer within {REPLY_S_MAX:g} s: the write may have been applied")
    return (await _ask(store, [list(command)], ConsistencyLevel.LINEARIZABLE, REPLY_S_MAX, late))[0]


async def _ask(
    store: Store, commands: list[list[bytes]], consistency: ConsistencyLevel, timeout_s: float, late: NoctuleError
) -> list[Reply]:
    sinks = [AwaitedReply() for _ in commands]
    for sink, command in zip(sinks, commands, strict=True):
        store.submit(command, sink, consistency)
    try:
        async with asyncio.timeout(timeout_s):
            replies = [await sink.wait_delivered() for sink in sinks]
    except TimeoutError:
        raise late from None
    for reply in replies:
        if isinstance(reply, Failure):
            raise failure_error(reply)
    return replies
