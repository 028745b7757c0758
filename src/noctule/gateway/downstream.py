"""A client's connection in HTTP/1.x: requests in, their responses out in the same order.

llhttp parses, strictly: bare line feeds, folded lines, two lengths, bad chunks and the like end the connection with one
answer, so no two readers can disagree on where a request ends. What it does not bound is bounded here: the head in
bytes, lines and time, what chunks may cost beyond what they hold, and how many pipelined requests wait.

A connection closes in one of three ways: at once when nothing is owed; after the response that says it is the last; and
lingering, where the client may still be sending: its bytes are read and dropped for `LINGER_S`, so that it sees the
answer and not a reset.
"""

import asyncio
import logging
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING

import httptools

from noctule.gateway import answers
from noctule.gateway.alarm import Alarm
from noctule.gateway.answers import Answer, RefusedError
from noctule.gateway.exchange import Exchange
from noctule.gateway.h1 import CONTINUE, LAST_CHUNK, Framing, date, render_chunk, render_response, response_framing
from noctule.gateway.heads import Header, HeadReader, ResponseHead

if TYPE_CHECKING:
    from noctule.gateway.plane import DataPlane

LINGER_S = 2.0
"""How long the rest of a refused body is read and dropped, so that the client sees the answer and not a reset."""

PIPELINED_MAX = 64
"""Requests that wait behind another. What comes after them is not answered: the connection closes when they are."""

JOINED_BYTES_MAX = 16 * 1024
"""Pieces up to this length are copied together rather than written one by one."""

WRITE_BYTES_MAX = 64 * 1024
"""What waits for the client before the instance is asked to pause."""

HELD_BYTES_MAX = 64 * 1024
"""What a client may send before its time, behind requests that wait or an upgrade that is not answered. It is read so
that the client's leaving is noticed."""

# What chunk headers, extensions and trailers may cost: so many bytes, and so many for each byte of the body.
_OVERHEAD_BYTES_MAX = 16 * 1024
_OVERHEAD_FACTOR = 16

log = logging.getLogger("noctule.gateway")


class _Reading(Enum):
    """What is done with the bytes that come."""

    HTTP = auto()
    HELD = auto()
    """After an upgrade's handshake, until it is decided: then they are a tunnel's, or the next request's."""
    DROPPED = auto()
    """Nothing that comes is answered any more."""


# Looked up once, for each request asks for them.
_HTTP, _HELD, _DROPPED = _Reading
_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing


class ClientConnection(asyncio.Protocol):
    """One connection; the `ClientSide` of the exchange whose turn it is."""

    def __init__(self, plane: "DataPlane", scheme: bytes = b"http") -> None:
        self._plane = plane
        self.scheme = scheme
        self.peer = ""
        self.is_trusted = False
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._alarm = Alarm(plane.loop, self._late)
        self._reading = _HTTP
        self._heads = HeadReader()
        # The request that is being parsed.
        self._target = b""
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._wire_bytes = 0
        self._body_bytes = 0
        self._is_in_head = False
        self._is_head_timed = False
        self._arriving: Exchange | None = None
        self._newest: Exchange | None = None
        # The request that is being answered, and those behind it.
        self._current: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._framing = _NONE
        self._out = b""
        self._is_advancing = False
        self._is_full = False
        self._is_body_paused = False
        self._is_paused = False
        self._held = b""
        self._is_stopping = False

    # --- What asyncio says ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come, perhaps one too many."""
        plane = self._plane
        self._transport = transport  # type: ignore[assignment]
        assert self._transport is not None
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else "unknown"
        self.is_trusted = plane.is_trusted(self.peer)
        self._transport.set_write_buffer_limits(high=WRITE_BYTES_MAX)
        self._parser = httptools.HttpRequestParser(self)
        if not plane.admit_client(self):
            self._answer_alone(answers.unavailable(f"the gateway has {plane.limits.connections_max} connections"))
            return
        self._alarm.set(plane.limits.client_idle_s)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        parser = self._parser
        if self._reading is not _HTTP or self._queue or self._held or parser is None:
            self._hold(data)
            return
        self._wire_bytes += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            self._fail_callback(error)
        except httptools.HttpParserError as error:
            self._fail_parsing(str(error))
        if self._is_in_head:
            self._watch_head()
        elif self._arriving is not None and self._wire_bytes > _OVERHEAD_BYTES_MAX:
            self._watch_chunks()
        if self._queue:
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or we have closed."""
        self._transport = None
        self._parser = None
        self._alarm.close()
        self._plane.forget_client(self)
        current, self._current = self._current, None
        queued, self._queue = self._queue, deque()
        self._arriving = self._newest = None
        for exchange in (current, *queued):
            if exchange is not None:
                exchange.client_left()

    def pause_writing(self) -> None:
        """`WRITE_BYTES_MAX` wait for the client."""
        self._is_full = True
        if self._current is not None:
            self._current.client_full()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._is_full = False
        if self._current is not None:
            self._current.client_drained()
        else:
            self._advance()

    # --- What the parser says ---

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self._queue) >= PIPELINED_MAX or self._reading is _DROPPED:
            self._reading = _DROPPED
            return
        self._is_in_head = True
        self._is_head_timed = False
        self._target = b""
        self._headers = []
        self._head_bytes = 0

    def on_url(self, target: bytes) -> None:
        """Its target, perhaps a part of it."""
        if not self._is_in_head:
            return
        self._target += target
        if len(self._target) > self._plane.limits.header_bytes_max:
            raise RefusedError(answers.target_too_long(self._plane.limits.header_bytes_max))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; or one of the trailers, which are dropped."""
        if not self._is_in_head:
            return
        headers, limits = self._headers, self._plane.limits
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > limits.header_bytes_max:
            self._check_header_bytes(len(name) + len(value))
        if len(headers) >= limits.headers_max:
            raise RefusedError(answers.head_too_large(f"the request has more than {limits.headers_max} headers"))
        headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        parser = self._parser
        if not self._is_in_head or parser is None:
            return
        self._is_in_head = False
        self._wire_bytes = self._body_bytes = 0
        version = parser.get_http_version()
        if version != "1.1" and version != "1.0":
            raise RefusedError(Answer(505, "bad_request", f"HTTP/{version} is not spoken here; HTTP/1.1 is"))
        head = self._heads.read(parser.get_method().decode("ascii"), self._target, self._headers, version)
        self._arriving = exchange = Exchange(self._plane, self, head)
        if not head.has_body:
            exchange.body.is_complete = True
        elif parser.should_upgrade():
            # The parser will call the request whole now and leave its body unread; see `_after_upgrade`.
            self._arriving = None
        exchange.is_last = not (parser.should_keep_alive() or head.is_websocket)
        self._newest = exchange
        self._queue.append(exchange)

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(piece)
        if self._arriving is not None:
            self._arriving.body_came(piece)

    def on_message_complete(self) -> None:
        """The request is whole."""
        exchange, self._arriving = self._arriving, None
        self._wire_bytes = 0
        if exchange is not None and not exchange.body.is_complete:
            exchange.body_ended()

    # --- What is wrong with what came ---

    def _check_header_bytes(self, size: int) -> None:
        bound = self._plane.limits.header_bytes_max
        if size > bound or self._head_bytes > 4 * bound:
            raise RefusedError(answers.head_too_large(f"a header is over the bound of {bound} bytes"))

    def _fail_parsing(self, sentence: str) -> None:
        """Not HTTP: what was whole before is answered, then this, then no more."""
        if self._reading is _DROPPED or self._is_behind_the_last():
            # Bytes behind a request that was the last: they are nobody's.
            self._reading = _DROPPED
            return
        log.info("client_protocol_error", extra={"client": self.peer, "error": sentence})
        if self._arriving is not None:
            message = "the request body is not what its headers announced"
        else:
            message = f"the request is not HTTP: {sentence}"
        self._fail(answers.bad_request(message))

    def _is_behind_the_last(self) -> bool:
        newest = self._newest
        return newest is not None and newest.is_last and self._arriving is None and not self._is_in_head

    def _fail_callback(self, error: httptools.HttpParserCallbackError) -> None:
        cause = error.__context__
        if isinstance(cause, RefusedError):
            self._fail(cause.answer)
        else:
            log.error("gateway_error", exc_info=cause)
            self.cut()

    def _fail(self, answer: Answer) -> None:
        """Answer this in its turn, and nothing after it."""
        self._reading = _DROPPED
        self._is_in_head = False
        exchange, self._arriving = self._arriving, None
        if exchange is None:
            exchange = Exchange(self._plane, self, None)
            exchange.refusal = answer
            exchange.is_last = True
            self._queue.append(exchange)
        else:
            exchange.fail(answer)

    def _watch_head(self) -> None:
        """A head that does not come at once has a bound in time, and in bytes."""
        limits = self._plane.limits
        if not self._is_head_timed and self._current is None and not self._queue:
            # Once for each head: moving the deadline would let a client drip for ever.
            self._is_head_timed = True
            self._alarm.set(limits.head_timeout_s)
        if self._wire_bytes > 5 * limits.header_bytes_max:
            if self._headers:
                self._fail(answers.head_too_large(f"the head is over the bound of {4 * limits.header_bytes_max} bytes"))
            else:
                self._fail(answers.target_too_long(limits.header_bytes_max))

    def _watch_chunks(self) -> None:
        if self._wire_bytes > _OVERHEAD_BYTES_MAX + (1 + _OVERHEAD_FACTOR) * self._body_bytes:
            self._fail(answers.bad_request("the request body is mostly framing"))

    def _late(self) -> None:
        if self._current is not None:
            # A request is being answered and has bounds of its own; this one counts again behind its response.
            return
        if self._reading is _DROPPED or not self._is_in_head:
            self.cut()
            return
        self._fail(answers.head_too_slow(self._plane.limits.head_timeout_s))
        self._advance()

    # --- Upgrades ---

    def _after_upgrade(self, rest: bytes) -> None:
        """The parser has taken an Upgrade header at its word; what follows is not read before that is decided."""
        exchange = self._newest
        assert exchange is not None
        if exchange.head.is_websocket:
            self._reading = _HELD
            self._held = rest
        elif exchange.head.has_body and not exchange.body.is_complete:
            self._read_body_anew(exchange)
            if rest:
                self.data_received(rest)
        elif rest:
            # An offer that is not taken up: what follows is the next request.
            self.data_received(rest)

    def _read_body_anew(self, exchange: Exchange) -> None:
        """The parser gave up the body for the upgrade; one that knows its framing only reads it, and nothing after."""
        head = exchange.head
        framing = (
            b"Transfer-Encoding: chunked" if head.is_chunked else b"Content-Length: %d" % (head.content_length or 0)
        )
        exchange.is_last = True
        self._arriving = exchange
        self._parser = httptools.HttpRequestParser(_BodyOnly(self))
        self._parser.feed_data(b"POST / HTTP/1.1\r\nConnection: close\r\n" + framing + b"\r\n\r\n")

    def _hold(self, data: bytes) -> None:
        if self._reading is not _DROPPED:
            self._held += data
            self._update_reading()

    def _read_held(self) -> None:
        if self._reading is _HTTP and not self._queue:
            held, self._held = self._held, b""
            self.data_received(held)
            self._update_reading()

    # --- Turns ---

    def _advance(self) -> None:
        """Answer what has come, one after the other."""
        if self._is_advancing or self._current is not None:
            return
        self._is_advancing = True
        while self._current is None and self._queue and not self._is_full and self._transport is not None:
            self._current = self._queue.popleft()
            self._current.start()
        self._is_advancing = False
        if self._held and not self._queue and self._reading is _HTTP:
            self._plane.loop.call_soon(self._read_held)

    def _update_reading(self) -> None:
        is_paused = self._is_body_paused or len(self._held) > HELD_BYTES_MAX
        transport = self._transport
        if is_paused is self._is_paused or transport is None or transport.is_closing():
            return
        self._is_paused = is_paused
        if is_paused:
            transport.pause_reading()
        else:
            transport.resume_reading()

    # --- What the exchange does ---

    def go_on(self) -> None:
        """100 Continue, for whoever knows it."""
        if self._transport is not None and self._current is not None and self._current.head.version == "1.1":
            self._transport.write(CONTINUE)

    def interim(self, head: ResponseHead) -> None:
        """103, for whoever knows it."""
        if self._transport is not None and self._current is not None and self._current.head.version == "1.1":
            self._transport.write(render_response(head.status, head.reason, head.headers))

    def begin_response(
        self, status: int, reason: bytes, headers: list[Header], length: int | None, *, is_last: bool
    ) -> None:
        """The response's head."""
        exchange = self._current
        assert exchange is not None
        method, is_new = exchange.head.method, exchange.head.version == "1.1"
        self._framing = framing = response_framing(method, status, length, knows_chunks=is_new)
        if is_last or framing is _CLOSE or self._is_stopping or (self._reading is _DROPPED and not self._queue):
            exchange.is_last = True
        if length is not None and (framing is _LENGTH or method == "HEAD"):
            headers.append((b"Content-Length", b"%d" % length))
        elif framing is _CHUNKED:
            headers.append((b"Transfer-Encoding", b"chunked"))
        if exchange.is_last:
            headers.append((b"Connection", b"close"))
        elif not is_new:
            headers.append((b"Connection", b"keep-alive"))
        self._out = render_response(status, reason, headers)

    def write(self, piece: bytes) -> None:
        """A piece of its body: it leaves with what else has come of it, in as few system calls as will do."""
        framing = self._framing
        if framing is _NONE:
            return
        parts = render_chunk(piece) if framing is _CHUNKED else (piece,)
        if len(piece) <= JOINED_BYTES_MAX:
            self._out = b"".join((self._out, *parts))
            if len(self._out) > WRITE_BYTES_MAX:
                self.flush()
        elif self._transport is not None:
            out, self._out = self._out, b""
            self._transport.writelines((out, *parts))

    def flush(self) -> None:
        """Send what has been held back."""
        out, self._out = self._out, b""
        if out and self._transport is not None:
            self._transport.write(out)

    def end_response(self) -> None:
        """It is whole: on to the next, or to the end."""
        exchange, self._current = self._current, None
        transport = self._transport
        if transport is None or exchange is None:
            return
        out, self._out = self._out, b""
        if self._framing is _CHUNKED:
            out += LAST_CHUNK
        if out:
            transport.write(out)
        self._is_body_paused = False
        if exchange.is_last or self._is_stopping:
            self._close(is_quiet=exchange.body.is_complete and self._reading is _HTTP)
            return
        if self._reading is _HELD and exchange is self._newest:
            # The upgrade was refused, so what came behind it is HTTP again.
            self._reading = _HTTP
        limits = self._plane.limits
        self._alarm.set(limits.head_timeout_s if self._is_in_head else limits.client_idle_s)
        if self._queue or self._held:
            self._advance()

    def cut(self) -> None:
        """Close without another byte."""
        self._reading = _DROPPED
        if self._transport is not None:
            self._transport.abort()

    def pause_body(self) -> None:
        """Let the client wait."""
        if not self._is_body_paused:
            self._is_body_paused = True
            self._update_reading()

    def resume_body(self) -> None:
        """Let it go on."""
        if self._is_body_paused:
            self._is_body_paused = False
            self._update_reading()

    def open_tunnel(self, head: list[Header]) -> tuple[asyncio.Transport, bytes]:
        """Answer 101; the transport is a tunnel's from now on."""
        transport = self._transport
        assert transport is not None
        transport.write(render_response(101, b"", [*head, (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]))
        self._transport = None
        self._parser = None
        self._current = None
        self._reading = _DROPPED
        self._alarm.close()
        self._plane.forget_client(self)
        return transport, self._held

    # --- Closing ---

    def stop(self) -> None:
        """Take no further request; close as soon as nothing is in flight."""
        self._is_stopping = True
        if self._current is None and not self._queue:
            self._close(is_quiet=not self._is_in_head)

    def _close(self, *, is_quiet: bool) -> None:
        """Close after what is written; `is_quiet`: the client is not in the middle of sending."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._reading = _DROPPED
        self._queue.clear()
        if is_quiet:
            transport.close()
            # A client that does not read what is left would hold it for ever.
            self._alarm.set(self._plane.limits.client_idle_s)
            return
        if transport.can_write_eof():
            transport.write_eof()
        self._alarm.set(LINGER_S)
        self._update_reading()

    def _answer_alone(self, answer: Answer) -> None:
        headers, body = answers.render_answer(answer)
        headers += [(b"Content-Length", b"%d" % len(body)), (b"Connection", b"close"), (b"Date", date())]
        assert self._transport is not None
        self._reading = _DROPPED
        self._transport.write(render_response(answer.status, b"", headers) + body)
        # Without lingering: what is over the bound must not be held.
        self._close(is_quiet=True)


class _BodyOnly:
    """The callbacks of a parser that is given a head we made up."""

    def __init__(self, connection: ClientConnection) -> None:
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete
