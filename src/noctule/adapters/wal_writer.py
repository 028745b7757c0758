"""The event loop's door to the write-ahead log: records go in during a turn, one thread makes them durable.

While one batch is being synced the next one collects, so the slower the disk, the larger the batches. The thread blocks
in fdatasync without the interpreter's lock, so the loop goes on meanwhile.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from noctule.adapters.wal import Wal, WalPicture
from noctule.adapters.wal_format import Record, record_bytes
from noctule.base.errors import StorageError

WAITING_BYTES_MAX = 256 * 1024 * 1024
"""Records that wait for the disk; more are refused, and the node stops. At half of it `is_overloaded` asks to slow."""

FRAME_BYTES_WANTED = 8 * 1024 * 1024
"""Turns are gathered into one frame up to here, so that a long queue is acknowledged piece by piece."""


class _Turn(NamedTuple):
    """What one turn of the loop submitted."""

    number: int
    records: Sequence[Record]
    size: int


class WalWriter:
    """Makes batches durable in the order in which they were submitted. Belongs to the event loop that built it.

    `on_durable(number)` is called in the loop: every batch up to `number` is durable; numbers only rise. `on_failed` is
    called in the loop once, with the reason, and nothing after it: what was not yet reported durable never will be.
    Neither may raise. The owner awaits `close` and closes the `Wal` after it.
    """

    def __init__(
        self,
        wal: Wal,
        on_durable: Callable[[int], None],
        on_failed: Callable[[StorageError], None],
        *,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
    ) -> None:
        self._wal = wal
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._waiting_bytes_max = waiting_bytes_max
        self._loop = asyncio.get_running_loop()
        self._stopped = self._loop.create_future()
        self._failure: StorageError | None = None
        self._number = 0
        self._waiting_bytes = 0
        self._turns: queue.SimpleQueue[_Turn | None] = queue.SimpleQueue()
        """To the thread; None is the end. In C, unlike a Condition: this is once for each turn of the loop."""
        self._is_closing = False
        # A daemon: a process that is told to die does not wait for a disk that hangs. Nothing of it was acknowledged.
        self._thread = threading.Thread(target=self._run, name="wal-writer", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> StorageError | None:
        """Why nothing is made durable any more; None while the disk works."""
        return self._failure

    @property
    def picture(self) -> WalPicture:
        """What the log holds on disk, as of the last batch."""
        return self._wal.picture

    @property
    def waiting_bytes(self) -> int:
        """Submitted and not yet reported durable."""
        return self._waiting_bytes

    @property
    def is_overloaded(self) -> bool:
        """The disk is far behind: take no new proposals until this is over."""
        return 2 * self._waiting_bytes >= self._waiting_bytes_max

    def submit(self, records: Sequence[Record]) -> int:
        """Queue one turn's records as one batch and return its number.

        Never blocks. Raises `StorageError` after a failure, after `close`, and when more than the bound waits; the
        records are then not queued.
        """
        if self._failure is not None:
            raise StorageError(f"the log takes nothing more since: {self._failure}")
        if self._is_closing:
            raise StorageError("the log is being closed")
        size = sum([record_bytes(record) for record in records])
        if self._waiting_bytes + size > self._waiting_bytes_max:
            raise StorageError(
                f"{self._waiting_bytes} bytes wait for the disk and {size} more would be over the bound of "
                f"{self._waiting_bytes_max}: the disk is too slow for this load, heed is_overloaded"
            )
        self._number += 1
        self._waiting_bytes += size
        self._turns.put(_Turn(self._number, records, size))
        return self._number

    async def close(self) -> None:
        """Make everything submitted durable, or fail to, and stop the thread; its callbacks have run then."""
        if not self._is_closing:
            self._is_closing = True
            self._turns.put(None)
        await asyncio.shield(self._stopped)
        self._thread.join()

    def _durable(self, number: int, size: int) -> None:
        self._waiting_bytes -= size
        self._on_durable(number)

    def _failed(self, failure: StorageError) -> None:
        self._failure = failure
        self._on_failed(failure)

    # In the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except Exception as error:  # the outermost loop of the thread: whatever it was, nobody may wait for it in vain
            failure = error if isinstance(error, StorageError) else StorageError(f"the log writer failed: {error!r}")
            self._tell(self._failed, failure)
        self._tell(self._stopped.set_result, None)

    def _write_until_closed(self) -> None:
        while turns := self._next_turns():
            self._wal.write([record for turn in turns for record in turn.records])
            self._tell(self._durable, turns[-1].number, sum(turn.size for turn in turns))
            self._wal.tidy()

    def _next_turns(self) -> list[_Turn]:
        """Wait for the turns that make up the next frame; none when the writer is closing and all are written."""
        turns: list[_Turn] = []
        size = 0
        while size < FRAME_BYTES_WANTED:
            try:
                turn = self._turns.get(block=not turns)
            except queue.Empty:
                break
            if turn is None:
                self._turns.put(None)  # It is the last: found again, alone, by the next call.
                break
            turns.append(turn)
            size += turn.size
        return turns

    def _tell(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            pass  # the loop is closed without `close`: nobody is left who could be told
