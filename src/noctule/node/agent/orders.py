"""What is to be durable before it is done: planned in the order it came, written together, then done.

An order is planned only once everything before it that touches the same is done, so a plan never rests on what the
disk may still refuse.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from msgspec import Struct

from noctule.base.errors import OutcomeUnknownError, RequestError, UnavailableError
from noctule.node.agent.records import Record, Records

WAITING_MAX = 4_096
"""Orders that wait for the disk; one more is told to try again."""
BATCH_MAX = 256
"""Orders that are written in one go of the disk's thread."""

T = TypeVar("T")


class _Order(Struct, eq=False):
    touches: frozenset[str]
    plan: Callable[[], tuple[str, Record | None]]
    apply: Callable[[Record | None], None]
    done: "asyncio.Future[None]"


class Orders:
    """Those of one node's agent; `run` is its task, and `end` follows it."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._queue: asyncio.Queue[_Order] = asyncio.Queue(WAITING_MAX)
        self._held: _Order | None = None
        """One that touches what those before it do."""
        self._writing: list[_Order] = []
        self._has_ended = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agent")

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do something with the disk, after what is being written."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def do(
        self,
        touches: set[str],
        plan: Callable[[], tuple[str, Record | None]],
        apply: Callable[[Record | None], None],
    ) -> None:
        """Have `plan` say which file is to hold what (None: to be gone), make that durable, then `apply` it.

        `touches` are the names of files and checks that both rest on. Raises what `plan` raises, `StorageError` when
        the disk refused, `UnavailableError` when it did not come to that, `OutcomeUnknownError` when nobody knows.
        """
        if self._has_ended:
            raise UnavailableError("the agent of this node is not running")
        order = _Order(frozenset(touches), plan, apply, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(order)
        except asyncio.QueueFull:
            raise UnavailableError(f"{WAITING_MAX} registrations wait for the disk, which is the limit") from None
        await order.done

    async def run(self) -> None:
        """Until it is cancelled. What comes before it begins waits for it."""
        while True:
            self._writing = await self._next()
            await self._write(self._writing)

    def end(self) -> None:
        """Take nothing any more, and answer whoever waits."""
        self._has_ended = True
        for order in self._writing:
            if not order.done.done():
                order.done.set_exception(OutcomeUnknownError("the agent of this node stopped while it was written"))
        waiting = [self._held] if self._held is not None else []
        while not self._queue.empty():
            waiting.append(self._queue.get_nowait())
        for order in waiting:
            if not order.done.done():
                order.done.set_exception(UnavailableError("the agent of this node has stopped"))

    def close(self) -> None:
        """Let the disk's thread end, with what it writes."""
        self._thread.shutdown()

    async def _next(self) -> list[_Order]:
        """Some that touch nothing in common, in the order they came."""
        first = self._held or await self._queue.get()
        self._held = None
        orders, touched = [first], set(first.touches)
        while len(orders) < BATCH_MAX and not self._queue.empty():
            order = self._queue.get_nowait()
            if touched & order.touches:
                self._held = order
                break
            orders.append(order)
            touched |= order.touches
        return orders

    async def _write(self, orders: list[_Order]) -> None:
        planned: dict[str, tuple[_Order, Record | None]] = {}
        for order in orders:
            if order.done.cancelled():
                continue
            try:
                name, record = order.plan()
                planned[name] = order, record
            except RequestError as error:
                order.done.set_exception(error)
        failures = await self.in_thread(
            lambda: self._records.write({name: record for name, (_, record) in planned.items()})
        )
        for name, (order, record) in planned.items():
            if name not in failures:
                order.apply(record)  # Also for who waits no longer: it is on the disk.
            if order.done.done():
                continue
            if name in failures:
                order.done.set_exception(failures[name])
            else:
                order.done.set_result(None)
