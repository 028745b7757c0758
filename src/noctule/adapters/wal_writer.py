"""The event loop's door to the write-ahead log: records go in during a turn, and are durable when the loop is told.

While one batch is being synced the next one collects, so the slower the disk, the larger the batches. A small batch is
written here at once, into the page cache, and the kernel syncs it (`KernelSync`). What takes longer is done by a
thread: large batches, new segments, chores; and everything where the kernel cannot be asked.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from noctule.adapters.kernel_sync import KernelSync
from noctule.adapters.wal import Wal, WalPicture
from noctule.adapters.wal_format import record_bytes
from noctule.adapters.wal_records import Record
from noctule.base.errors import StorageError

WAITING_BYTES_MAX: Final = 256 * 1024 * 1024
"""Records that wait for the disk; more are refused, and the node stops. At half of it `is_overloaded` asks to slow."""

FRAME_BYTES_WANTED: Final = 8 * 1024 * 1024
"""Turns are gathered into one frame up to here, so that a long queue is acknowledged piece by piece."""
INLINE_BYTES_MAX: Final = 256 * 1024
"""Up to here a batch is encoded and written in the loop, which takes 0.2 ms."""


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
        in_kernel: bool = False,
    ) -> None:
        """`in_kernel` has the kernel sync, where it can, and not the log's `FileSystem`."""
        self._wal = wal
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._waiting_bytes_max = waiting_bytes_max
        self._loop = asyncio.get_running_loop()
        self._stopped = self._loop.create_future()
        self._failure: StorageError | None = None
        self._number = 0
        self._waiting_bytes = 0
        self._turns: deque[_Turn] = deque()
        self._writing: tuple[int, int] = (0, 0)
        """Number of the newest turn, and bytes, of what is being written."""
        self._is_busy = False
        """Whether something is being written, synced or tidied: one thing at a time."""
        self._is_closing = False
        self._kernel = KernelSync.open(self._synced) if in_kernel else None
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        """To the thread; None is the end."""
        # A daemon: a process that is told to die does not wait for a disk that hangs. Nothing of it was acknowledged.
        self._worker = threading.Thread(target=self._run, name="wal-writer", daemon=True)
        self._worker.start()

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

        Never waits for the disk. Raises `StorageError` after a failure, after `close`, and when more than the bound
        waits; the records are then not queued.
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
        self._turns.append(_Turn(self._number, records, size))
        if not self._is_busy:
            self._go_on()
        return self._number

    async def close(self) -> None:
        """Make everything submitted durable, or fail to, and stop the thread; its callbacks have run then."""
        if not self._is_closing:
            self._is_closing = True
            if not self._is_busy:
                self._go_on()
        await asyncio.shield(self._stopped)
        self._worker.join()

    # One thing after another -----------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Begin the next frame; or end, when the writer is closing and all are written."""
        if self._turns and self._failure is None:
            self._is_busy = True
            self._begin(self._next_turns())
        elif self._is_closing and not self._stopped.done():
            if self._kernel is not None:
                self._kernel.close()
            self._jobs.put(None)
            self._stopped.set_result(None)

    def _next_turns(self) -> list[_Turn]:
        """The turns that make up the next frame."""
        turns: list[_Turn] = []
        size = 0
        while self._turns and size < FRAME_BYTES_WANTED:
            turn = self._turns.popleft()
            turns.append(turn)
            size += turn.size
        self._writing = (turns[-1].number, size)
        return turns

    def _begin(self, turns: list[_Turn]) -> None:
        records = turns[0].records if len(turns) == 1 else [record for turn in turns for record in turn.records]
        size = self._writing[1]
        if self._kernel is None or size > INLINE_BYTES_MAX or not records or not self._wal.has_room(size):
            self._jobs.put(partial(self._wal.write, records))
            return
        try:
            self._kernel.start(self._wal.begin(records))
        except OSError as error:
            self._failed(self._wal.fail(error.errno or 0))
        except Exception as error:
            self._failed(_storage_error(error))

    def _synced(self, error_number: int) -> None:
        """The kernel has synced, or failed to."""
        if error_number:
            self._failed(self._wal.fail(error_number))
        else:
            self._durable()

    def _durable(self) -> None:
        """What was being written is on the disk: say so, and go on."""
        number, size = self._writing
        self._waiting_bytes -= size
        self._on_durable(number)
        if self._wal.has_chores:
            self._jobs.put(self._wal.tidy)
        else:
            self._is_busy = False
            self._go_on()

    def _tidied(self) -> None:
        self._is_busy = False
        self._go_on()

    def _failed(self, failure: StorageError) -> None:
        self._failure = failure
        self._is_busy = False
        self._on_failed(failure)
        self._go_on()

    # In the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # the outermost loop of the thread: whatever it was, nobody may wait in vain
                self._tell(self._failed, _storage_error(error))
            else:
                self._tell(self._tidied if job == self._wal.tidy else self._durable)

    def _tell(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            pass  # the loop is closed without `close`: nobody is left who could be told


def _storage_error(error: Exception) -> StorageError:
    return error if isinstance(error, StorageError) else StorageError(f"the log writer failed: {error!r}")
