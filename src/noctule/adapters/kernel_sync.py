"""fdatasync without a thread: the kernel is asked to do it and tells an eventfd when it has.

A thread that syncs must get the interpreter's lock back each time to say so, from a loop that is busy: measured beside
this with 150 µs of work in each turn, it costs 70 to 90 µs of processor more for each sync, and seven more switches of
context. Linux' own asynchronous I/O (io_submit(2), IOCB_CMD_FDSYNC, since 4.18) needs no library and runs in the
kernel's workers. Where it is not to be had, `KernelSync.open` says so and the caller keeps its thread.
"""

import asyncio
import ctypes
import errno
import os
import platform
from collections.abc import Callable
from typing import Self

_NUMBERS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}
"""The system calls io_setup, io_destroy, io_submit and io_getevents of each machine."""
_FDSYNC = 3
_TELL_EVENTFD = 1


class _ControlBlock(ctypes.Structure):
    """`struct iocb` of linux/aio_abi.h, on a little-endian machine."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("bytes_count", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("eventfd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event`: of the request, its result or an error number below zero."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("second_result", ctypes.c_int64),
    )


class KernelSync:
    """One sync at a time, for the event loop that opened it. `close` it once nothing is on its way."""

    def __init__(self, context: ctypes.c_ulong, numbers: tuple[int, int, int, int]) -> None:
        # Not CDLL: the calls return at once, and to give the interpreter's lock away for them costs more than they do.
        self._call = ctypes.PyDLL(None, use_errno=True).syscall
        self._context = context
        _, self._destroy, self._submit, self._get_events = numbers
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._block = _ControlBlock(opcode=_FDSYNC, flags=_TELL_EVENTFD, eventfd=self._eventfd)
        self._blocks = (ctypes.POINTER(_ControlBlock) * 1)(ctypes.pointer(self._block))
        self._event = _Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_done: Callable[[int], None]

    @classmethod
    def open(cls, on_done: Callable[[int], None]) -> Self | None:
        """For the running loop, in which `on_done` is called with 0 or an error number; None where there is no such."""
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None or platform.system() != "Linux":
            return None
        context = ctypes.c_ulong(0)
        call = ctypes.PyDLL(None, use_errno=True).syscall
        if call(ctypes.c_long(numbers[0]), ctypes.c_long(1), ctypes.byref(context)) != 0:
            return None  # Forbidden, or the system's bound on such contexts is reached.
        sync = cls(context, numbers)
        sync._on_done = on_done
        sync._loop = asyncio.get_running_loop()
        sync._loop.add_reader(sync._eventfd, sync._look)
        return sync

    def start(self, descriptor: int) -> None:
        """Begin to sync the file's data. Raises `OSError` if that was not begun; `on_done` is not called then."""
        self._block.descriptor = descriptor
        if self._call(ctypes.c_long(self._submit), self._context, ctypes.c_long(1), self._blocks) != 1:
            number = ctypes.get_errno() or errno.EAGAIN
            raise OSError(number, os.strerror(number))

    def _look(self) -> None:
        os.eventfd_read(self._eventfd)
        found = self._call(
            ctypes.c_long(self._get_events),
            self._context,
            ctypes.c_long(0),
            ctypes.c_long(1),
            ctypes.byref(self._event),
            None,
        )
        if found == 1:
            self._on_done(max(-int(self._event.result), 0))
        elif found < 0:
            self._on_done(ctypes.get_errno())  # The outcome is unknown, which is as bad as a failure.

    def close(self) -> None:
        """Give everything back; waits for a sync that is on its way. Harmless the second time."""
        if self._loop is not None:
            self._loop.remove_reader(self._eventfd)
            self._loop = None
            self._call(ctypes.c_long(self._destroy), self._context)
            os.close(self._eventfd)
