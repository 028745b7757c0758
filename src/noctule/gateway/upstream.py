"""Connections to instances: one request at a time on each, kept between requests where that is safe.

Safe repetition decides who may have a kept connection: an idempotent request takes one (idle for 4 s at most; uvicorn
closes its own after 5), for if the instance has just closed it, the request can go elsewhere. Every other request
takes a fresh connection: on a kept one, "closed before the request came" and "closed because of it" look the same, and
a POST could only be answered 502. One handshake to a near machine buys that away.

A connection is kept only when nothing about it is in doubt: both messages were whole, the instance did not ask to
close, and not one byte came that nobody asked for. The first such byte on a kept connection closes it, so no response
can lie in wait for another client's request.
"""

import asyncio
import errno
from collections.abc import Callable
from typing import Protocol

import httptools

from noctule.gateway.alarm import Alarm
from noctule.gateway.h1 import LAST_CHUNK, render_chunk
from noctule.gateway.heads import Header, ResponseHead, read_response
from noctule.gateway.instances import Instance

KEPT_IDLE_S_MAX = 4.0
"""How long a connection is kept without a request."""

WRITE_BYTES_MAX = 64 * 1024
"""What waits to be written before the client is asked to pause."""

INTERIM_MAX = 16
"""Interim responses (1xx) before one response; more break it."""

HEADERS_MAX = 256
"""Header lines of one response."""

HEAD_BYTES_MAX = 256 * 1024
"""A response's head, and what its chunks may cost beyond what they hold (see `_OVERHEAD_FACTOR`)."""

_OVERHEAD_FACTOR = 16


class NotSentError(Exception):
    """No connection could be made, so nothing of the request was sent. `is_gone`: nothing listens at the address."""

    def __init__(self, reason: str, *, is_gone: bool = False) -> None:
        super().__init__(reason)
        self.is_gone = is_gone


class BrokenError(Exception):
    """The connection ended, or what came over it is not HTTP; the request may have been acted on."""


class UnfitError(BrokenError):
    """The instance answered, with a head that cannot be passed on."""


class Asker(Protocol):
    """Who sent a request and waits for what comes of it. After `response_ended` or `response_broke` nothing comes."""

    def response_interim(self, head: ResponseHead) -> None:
        """A 1xx response that is to be passed on."""

    def response_began(self, head: ResponseHead) -> None:
        """The final response's head."""

    def response_body(self, piece: bytes) -> None:
        """A piece of its body, never empty."""

    def response_paused(self) -> None:
        """Nothing more of it has come for now."""

    def response_ended(self) -> None:
        """It is whole."""

    def response_broke(self, reason: str) -> None:
        """It will not come, or not to its end."""

    def response_unfit(self, reason: str) -> None:
        """It has come, and cannot be passed on: the app's doing, not the instance's state."""

    def response_late(self) -> None:
        """The time set by `wait` is over; the connection is the asker's to cut."""

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        """101: what came after the head is no HTTP; the transport is the asker's from now on."""

    def instance_full(self) -> None:
        """The instance does not take what is written fast enough."""

    def instance_drained(self) -> None:
        """It does again."""


class InstanceConnection(asyncio.Protocol):
    """One connection to one instance."""

    def __init__(self, pool: "Upstream", instance: Instance) -> None:
        self._pool = pool
        self.instance = instance
        self.host = instance.address.encode()
        """As a Host header says it."""
        self.key = (instance.host, instance.port)
        self.kept_max = 0
        """So many idle ones are kept to its instance; `model.Service.keepalive`."""
        self.was_kept = False
        """It has served a request before this one."""
        self.is_full = False
        self._is_paused = False
        self.transport: asyncio.Transport | None = None
        self._asker: Asker | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._alarm = alarm = Alarm(pool.loop, self._late)
        self.wait = alarm.set
        """`response_late` in so many seconds, unless it is called again before."""
        self.rest = alarm.clear
        """Do not be late until `wait` is called again."""
        self._method = ""
        self._status_text = b""
        self._headers: list[Header] = []
        self._head: ResponseHead | None = None
        self._interim_count = 0
        self._wire_bytes = 0
        self._body_bytes = 0
        self._keep_alive = False
        self._is_feeding = False
        self._is_ended = False
        self._is_released = False
        self._is_doubtful = False
        """Something came that was not asked for, or something did not come that was due."""

    # --- What the asker does ---

    def send(self, asker: Asker, method: str, head: bytes) -> None:
        """Begin a request; its body follows by `send_body`, and `wait` bounds the wait for the response."""
        self._asker = asker
        self._method = method
        self._is_released = False
        self._interim_count = 0
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        if self.transport is not None:
            self.transport.write(head)

    def send_body(self, piece: bytes, *, is_chunked: bool) -> None:
        """A piece of the request's body, not empty."""
        if is_chunked:
            if self.transport is not None:
                self.transport.writelines(render_chunk(piece))
        else:
            self._write(piece)

    def end_chunks(self) -> None:
        """The chunked body is whole."""
        self._write(LAST_CHUNK)

    def pause(self) -> None:
        """Read nothing more until `resume`, or `release`."""
        if self.transport is not None and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        self._is_paused = False
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def release(self) -> None:
        """The exchange is over on both sides: keep the connection, if nothing about it is in doubt."""
        self._asker = None
        self._is_released = True
        if not self._is_feeding:
            self._settle()

    def cut(self) -> None:
        """Close it now; nothing more is told."""
        self._asker = None
        self._alarm.close()
        if self.transport is not None:
            self.transport.abort()

    def hand_over(self) -> asyncio.Transport:
        """The transport, to be read by another protocol from now on (after `switched`)."""
        transport = self.transport
        assert transport is not None
        self._asker = None
        self._alarm.close()
        self._parser = None
        self._pool.forget(self)
        self.transport = None
        return transport

    # --- What asyncio says ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=WRITE_BYTES_MAX)  # type: ignore[union-attr]
        self._pool.remember(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of the instance."""
        parser = self._parser
        if self._asker is None or parser is None:
            # Nobody asked: whatever this is, it must not become the answer to the next request.
            self.cut()
            return
        self._wire_bytes += len(data)
        self._is_feeding = True
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._is_feeding = False
            self._switch(data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError as error:
            self._fail_callback(error)
        except httptools.HttpParserError:
            self._break("the response is not HTTP")
        self._is_feeding = False
        if self._is_released:
            self._settle()
        elif self._head is not None and self._asker is not None:
            self._asker.response_paused()
        if self._wire_bytes > HEAD_BYTES_MAX + (1 + _OVERHEAD_FACTOR) * self._body_bytes:
            self._break("the response is mostly framing")

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, of whichever side."""
        self._pool.forget(self)
        self._alarm.close()
        self._parser = None
        self.transport = None
        asker, self._asker = self._asker, None
        if asker is None:
            return
        if self._head is None:
            asker.response_broke("the connection closed before the response")
        elif exc is None and self._head.is_to_the_end:
            asker.response_ended()
        else:
            asker.response_broke("the connection closed within the response")

    def pause_writing(self) -> None:
        """`WRITE_BYTES_MAX` wait to be written."""
        self.is_full = True
        if self._asker is not None:
            self._asker.instance_full()

    def resume_writing(self) -> None:
        """Little waits to be written."""
        self.is_full = False
        if self._asker is not None:
            self._asker.instance_drained()

    # --- What the parser says ---

    def on_message_begin(self) -> None:
        """A response begins."""
        if self._is_released or self._is_ended:
            self._is_doubtful = True
        self._headers = []
        self._status_text = b""

    def on_status(self, text: bytes) -> None:
        """The reason phrase, perhaps a part of it."""
        self._status_text += text

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or one of the trailers, which are dropped."""
        if self._head is None:
            self._headers.append((name, value))
            if len(self._headers) > HEADERS_MAX:
                raise BrokenError("the response has too many headers")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        asker, parser = self._asker, self._parser
        if asker is None or parser is None or self._head is not None:
            self._is_doubtful = True
            return
        status = parser.get_status_code()
        try:
            head = read_response(status, self._status_text, self._headers)
        except ValueError as error:
            raise UnfitError(str(error)) from None
        if status < 200:
            self._interim_count += 1
            if self._interim_count > INTERIM_MAX:
                raise BrokenError("the instance sends interim responses without end")
            if status == 101:
                self._head = head
            elif status == 103:
                asker.response_interim(head)
            return
        self._head = head
        self._keep_alive = parser.should_keep_alive()
        asker.response_began(head)
        if self._method == "HEAD":
            # The parser does not know, and waits for the body that the length announces; it is not used again.
            self._parser = None
            self._end()

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(piece)
        if self._asker is None or self._is_ended:
            self._is_doubtful = True
            return
        self._asker.response_body(piece)

    def on_message_complete(self) -> None:
        """A response is whole, an interim one too."""
        if self._head is not None and self._head.status != 101:
            self._end()

    def _end(self) -> None:
        if self._asker is not None and not self._is_ended:
            self._is_ended = True
            self._asker.response_ended()

    def _switch(self, rest: bytes) -> None:
        head, asker = self._head, self._asker
        if head is not None and head.status == 101 and asker is not None:
            asker.switched(head, rest)
        else:
            self._break("the response is not HTTP")

    def _settle(self) -> None:
        """What a release comes to, once the parser has seen all that came."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._is_doubtful or not self._keep_alive or not self._is_ended or transport.get_write_buffer_size() > 0:
            transport.abort()
            return
        if self._is_paused:
            # For a client that has yet to take what is already whole here; the next one must not wait for it.
            self.resume()
        self._head = None
        self._is_released = self._is_ended = False
        self._wire_bytes = self._body_bytes = 0
        self.was_kept = True
        self._pool.keep(self)

    def _fail_callback(self, error: httptools.HttpParserCallbackError) -> None:
        cause = error.__context__
        if not isinstance(cause, BrokenError):
            # A bug of ours: the connection's owner logs it, and this connection is of no use any more.
            self._break("the gateway failed")
            raise error
        self._break(str(cause), is_unfit=isinstance(cause, UnfitError))

    def _break(self, reason: str, *, is_unfit: bool = False) -> None:
        asker, self._asker = self._asker, None
        self.cut()
        if asker is None:
            return
        if is_unfit:
            asker.response_unfit(reason)
        else:
            asker.response_broke(reason)

    def _late(self) -> None:
        if self._asker is not None:
            self._asker.response_late()
        else:
            self.cut()

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)


class Connecting:
    """A connection on its way; `cancel` lets go of it."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        """Nothing is told any more, and the connection is closed should it come to stand."""
        self._task.cancel()


class Upstream:
    """The gateway's client side: every connection to every instance. Make it in the running loop; `close` it there."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._kept: dict[tuple[str, int], list[InstanceConnection]] = {}
        self._open: set[InstanceConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open_count(self) -> int:
        """Connections that stand, idle ones included."""
        return len(self._open)

    def take(self, instance: Instance) -> InstanceConnection | None:
        """A kept connection, the one used last; None when there is none."""
        kept = self._kept.get((instance.host, instance.port))
        while kept:
            connection = kept.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        return None

    def connect(
        self,
        instance: Instance,
        timeout_s: float,
        made: Callable[[InstanceConnection], None],
        failed: Callable[[NotSentError], None],
    ) -> Connecting:
        """Make a fresh connection; one of the two is called, later."""
        task = self.loop.create_task(self._connect(instance, timeout_s, made, failed), name="gateway-connect")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Connecting(task)

    async def open(self, instance: Instance, timeout_s: float) -> InstanceConnection:
        """A fresh connection, or `NotSentError`."""
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await self.loop.create_connection(
                    lambda: InstanceConnection(self, instance), instance.host, instance.port
                )
                return connection
        except TimeoutError:
            raise NotSentError("connecting took too long") from None
        except OSError as error:
            is_gone = error.errno == errno.ECONNREFUSED
            raise NotSentError("connection refused" if is_gone else "cannot connect", is_gone=is_gone) from error

    async def probe(self, instance: Instance, path: str, timeout_s: float) -> int:
        """The status of a GET on a fresh connection. `NotSentError`, `BrokenError`, or `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            connection = await self.open(instance, timeout_s)
            try:
                answer = _ProbeAnswer(self.loop)
                connection.send(answer, "GET", _render_probe(instance, path))
                return await answer.status
            finally:
                connection.cut()

    async def close(self) -> None:
        """Close every connection; requests still in flight break."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self._open):
            connection.cut()

    def keep(self, connection: InstanceConnection) -> None:
        """Take back a connection that is good for another request."""
        kept = self._kept.get(connection.key)
        if kept is None:
            kept = self._kept[connection.key] = []
        if len(kept) >= connection.kept_max:
            connection.cut()
            return
        kept.append(connection)
        connection.wait(KEPT_IDLE_S_MAX)

    def remember(self, connection: InstanceConnection) -> None:
        """A connection stands."""
        self._open.add(connection)

    def forget(self, connection: InstanceConnection) -> None:
        """A connection is gone, or another's."""
        self._open.discard(connection)
        kept = self._kept.get(connection.key)
        if kept is not None:
            if connection in kept:
                kept.remove(connection)
            if not kept:
                del self._kept[connection.key]

    async def _connect(
        self,
        instance: Instance,
        timeout_s: float,
        made: Callable[[InstanceConnection], None],
        failed: Callable[[NotSentError], None],
    ) -> None:
        try:
            connection = await self.open(instance, timeout_s)
        except NotSentError as error:
            failed(error)
        else:
            made(connection)


class _ProbeAnswer:
    """Waits for the status of a probe, and for nothing after it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.status: asyncio.Future[int] = loop.create_future()

    def response_interim(self, head: ResponseHead) -> None:
        pass

    def response_began(self, head: ResponseHead) -> None:
        if not self.status.done():
            self.status.set_result(head.status)

    def response_body(self, piece: bytes) -> None:
        pass

    def response_paused(self) -> None:
        pass

    def response_ended(self) -> None:
        pass

    def response_broke(self, reason: str) -> None:
        if not self.status.done():
            self.status.set_exception(BrokenError(reason))

    def response_unfit(self, reason: str) -> None:
        self.response_broke(reason)

    def response_late(self) -> None:
        pass

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        self.response_broke("the instance switched protocols without being asked")

    def instance_full(self) -> None:
        pass

    def instance_drained(self) -> None:
        pass


def _render_probe(instance: Instance, path: str) -> bytes:
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {instance.address}",
        "User-Agent: noctule-gateway",
        "Accept: application/json",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode()
