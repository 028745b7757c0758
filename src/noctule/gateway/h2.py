"""A client's connection in HTTP/2: the library `h2` keeps the protocol, each stream is the client of an exchange.

Requests become the very same exchanges as those of HTTP/1.1, so their heads are checked here for all that HTTP/2 can
carry and HTTP/1.1 cannot: a line feed in a value must not become a second header on the way to the instance.

What a client may cost without asking for anything is bounded by `Patience`: frames that make work and bring no request
(resets, pings, settings, empty data) use it up, and a client that has used it up is told ENHANCE_YOUR_CALM and goes.
"""

import asyncio
import logging
import re
from collections.abc import Iterable

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import GoAwayFrame

from noctule.gateway import answers
from noctule.gateway.alarm import Alarm
from noctule.gateway.answers import Answer, RefusedError
from noctule.gateway.exchange import Exchange
from noctule.gateway.heads import Header, RequestHead, ResponseHead, read_request
from noctule.gateway.patience import Patience
from noctule.gateway.plane import DataPlane

STREAMS_MAX = 128
"""Requests at once on one connection."""

STREAM_WINDOW_BYTES = 64 * 1024
"""Of a request's body what is on its way or held, for each stream."""

CONNECTION_WINDOW_BYTES = 1024 * 1024

WRITE_BYTES_MAX = 64 * 1024
"""Of a response what waits for the client's window, before the instance is asked to pause."""

WRITE_BYTES_LOW = 16 * 1024

SLICE_BYTES = 4 * 1024
"""So much is parsed before the client's patience is looked at again: a few hundred frames at most."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_METHOD = re.compile(rb"[A-Z][A-Z\-]*")
_PATH = re.compile(rb"[\x21-\x7e\x80-\xff]+")

# What each event uses up of a client's patience; those that are not named bring a request on, or its body.
_COSTS: dict[type[h2.events.Event], int] = {
    h2.events.StreamReset: 20,
    h2.events.PingReceived: 10,
    h2.events.RemoteSettingsChanged: 10,
    h2.events.PingAckReceived: 10,
    h2.events.SettingsAcknowledged: 10,
    h2.events.PriorityUpdated: 2,
    h2.events.UnknownFrameReceived: 2,
    h2.events.WindowUpdated: 1,
}
_EMPTY_DATA_COST = 10

log = logging.getLogger("noctule.gateway")


class Http2Connection(asyncio.Protocol):
    """One connection."""

    scheme = b"https"

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane
        self.peer = ""
        self.is_trusted = False
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Http2Stream] = {}
        self._patience = Patience(plane.loop.time())
        self._alarm = Alarm(plane.loop, self._late)
        self._is_full = False
        self._is_leaving = False
        self._last_stream_id = 0

    # --- What asyncio says ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come, perhaps one too many."""
        plane = self.plane
        self._transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else "unknown"
        self.is_trusted = plane.is_trusted(self.peer)
        self.h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 4 * plane.limits.header_bytes_max,
            },
        )
        self.h2.decoder.max_header_list_size = 4 * plane.limits.header_bytes_max
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES)
        if not plane.admit_client(self):
            self._leave(h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        self.flush()
        self._alarm.set(plane.limits.client_idle_s)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        for start in range(0, len(data), SLICE_BYTES):
            if self._transport is None or self._transport.is_closing():
                return
            try:
                for event in self.h2.receive_data(data[start : start + SLICE_BYTES]):
                    self._handle(event)
            except h2.exceptions.ProtocolError as error:
                # Among them: too many streams, headers without end, heads over the bound.
                log.info("client_protocol_error", extra={"client": self.peer, "error": type(error).__name__})
                self._close()
                return
            if self._patience.is_used_up(self.plane.loop.time()):
                log.warning("client_floods", extra={"client": self.peer})
                self._leave(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
                return
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or we have closed."""
        self._transport = None
        self._alarm.close()
        self.plane.forget_client(self)
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.exchange.client_left()

    def pause_writing(self) -> None:
        """The client does not read."""
        self._is_full = True

    def resume_writing(self) -> None:
        """It does again."""
        self._is_full = False
        self.pump()

    # --- What streams use ---

    def flush(self) -> None:
        """Send what the library has ready."""
        if self._transport is not None and (data := self.h2.data_to_send()):
            self._transport.write(data)

    def pump(self) -> None:
        """Send of every stream what its window allows, a frame of each in turn."""
        if self._transport is None or self._transport.is_closing():
            return
        moving = [stream for stream in self._streams.values() if stream.has_output]
        while moving and not self._is_full:
            moving = [stream for stream in moving if stream.send_frame()]
            self.flush()
        self.flush()

    def credit(self) -> None:
        """A frame of a response has left: whoever takes what it asked for may say so."""
        self._patience.refund()
        self._alarm.set(self.plane.limits.client_idle_s)

    def forget(self, stream: "Http2Stream") -> None:
        """It is closed on both sides."""
        self._streams.pop(stream.id, None)
        if self._is_leaving and not self._streams:
            self._close()

    # --- Stopping ---

    def stop(self) -> None:
        """Take no further request (GOAWAY); close once the streams that are open are done."""
        if self._is_leaving:
            return
        self._is_leaving = True
        # The library would end the connection for good with its own GOAWAY; open streams are to be answered yet.
        goaway = GoAwayFrame(0, last_stream_id=self._last_stream_id, error_code=h2.errors.ErrorCodes.NO_ERROR)
        self.flush()
        if self._transport is not None:
            self._transport.write(goaway.serialize())
        if not self._streams:
            self._close()

    def cut(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def _leave(self, code: h2.errors.ErrorCodes) -> None:
        self.h2.close_connection(error_code=code)
        self._close()

    def _close(self) -> None:
        self.flush()
        if self._transport is not None:
            self._transport.close()
            self._alarm.set(self.plane.limits.client_idle_s)

    def _late(self) -> None:
        if any(not stream.exchange.is_over for stream in self._streams.values()):
            # Whoever waits for an instance is not idle; exchanges have bounds of their own.
            self._alarm.set(self.plane.limits.client_idle_s)
        else:
            self.cut()

    # --- What the library says ---

    def _handle(self, event: h2.events.Event) -> None:
        self._patience.use(_COSTS.get(type(event), 0))
        match event:
            case h2.events.RequestReceived():
                self._begin(event)
            case h2.events.DataReceived():
                self._alarm.set(self.plane.limits.client_idle_s)
                if not event.data:
                    self._patience.use(_EMPTY_DATA_COST)
                stream = self._streams.get(event.stream_id or 0)
                if stream is not None:
                    stream.data_came(event.data or b"", event.flow_controlled_length or 0)
            case h2.events.StreamEnded():
                stream = self._streams.get(event.stream_id or 0)
                if stream is not None:
                    stream.request_ended()
            case h2.events.StreamReset():
                stream = self._streams.pop(event.stream_id or 0, None)
                if stream is not None:
                    stream.exchange.client_left()
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self.pump()
            case h2.events.ConnectionTerminated():
                self._close()

    def _begin(self, event: h2.events.RequestReceived) -> None:
        stream_id = event.stream_id or 0
        if self._is_leaving:
            self.h2.reset_stream(stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        self._alarm.set(self.plane.limits.client_idle_s)
        self._last_stream_id = stream_id
        head: RequestHead | None = None
        refusal: Answer | None = None
        try:
            head = read_http2_request(
                event.headers or [],
                has_body=event.stream_ended is None,
                headers_max=self.plane.limits.headers_max,
                header_bytes_max=self.plane.limits.header_bytes_max,
            )
        except RefusedError as error:
            refusal = error.answer
        self._streams[stream_id] = stream = Http2Stream(self, stream_id, head)
        stream.exchange.refusal = refusal
        stream.exchange.body.is_complete = event.stream_ended is not None
        stream.exchange.start()


class Http2Stream:
    """One request and its response; the `ClientSide` of its exchange."""

    def __init__(self, connection: Http2Connection, stream_id: int, head: RequestHead | None) -> None:
        self._connection = connection
        self.id = stream_id
        self.peer = connection.peer
        self.scheme = connection.scheme
        self.is_trusted = connection.is_trusted
        self._output: list[bytes] = []
        self._output_bytes = 0
        self._head: list[Header] = []
        self._is_ended = False
        """The response is whole, as far as the exchange is concerned."""
        self._is_full = False
        self._is_paused = False
        self._unacknowledged_bytes = 0
        self.exchange = Exchange(connection.plane, self, head)

    @property
    def has_output(self) -> bool:
        """Whether anything of the response has yet to be sent."""
        return bool(self._output_bytes) or self._is_ended

    # --- The client's part ---

    def data_came(self, data: bytes, window_bytes: int) -> None:
        """A piece of the request's body, which has used up so much of the windows."""
        self._unacknowledged_bytes += window_bytes
        if data:
            self.exchange.body_came(data)
        if not self._is_paused:
            self._acknowledge()

    def request_ended(self) -> None:
        """The request is whole."""
        if not self.exchange.body.is_complete:
            self.exchange.body_ended()

    def _acknowledge(self) -> None:
        count, self._unacknowledged_bytes = self._unacknowledged_bytes, 0
        if count:
            try:
                self._connection.h2.acknowledge_received_data(count, self.id)
            except h2.exceptions.ProtocolError:
                # The stream has ended meanwhile, and its window with it.
                return

    # --- The exchange's part ---

    def go_on(self) -> None:
        """100 Continue."""
        self._connection.h2.send_headers(self.id, [(b":status", b"100")])
        self._connection.flush()

    def interim(self, head: ResponseHead) -> None:
        """103 Early Hints."""
        self._connection.h2.send_headers(self.id, _rendered(head.status, head.headers))
        self._connection.flush()

    def begin_response(
        self, status: int, reason: bytes, headers: list[Header], length: int | None, *, is_last: bool
    ) -> None:
        """The response's head; it leaves with what follows. HTTP/2 has no reason phrases."""
        if length is not None and status >= 200 and status not in (204, 304):
            headers.append((b"content-length", b"%d" % length))
        self._head = _rendered(status, headers)

    def write(self, piece: bytes) -> None:
        """A piece of the body."""
        self._output.append(piece)
        self._output_bytes += len(piece)
        if self._output_bytes > WRITE_BYTES_MAX:
            self.flush()
            if self._output_bytes > WRITE_BYTES_MAX and not self._is_full:
                self._is_full = True
                self.exchange.client_full()

    def flush(self) -> None:
        """Send what may be sent."""
        if self._head and self._is_open():
            self._connection.h2.send_headers(self.id, self._head)
            self._head = []
        self._connection.pump()

    def end_response(self) -> None:
        """It is whole."""
        self._is_ended = True
        if self._head and not self._output_bytes and self._is_open():
            self._connection.h2.send_headers(self.id, self._head, end_stream=True)
            self._head = []
            self._end()
            self._connection.flush()
        else:
            self.flush()

    def cut(self) -> None:
        """It will not be whole."""
        self._reset(h2.errors.ErrorCodes.INTERNAL_ERROR)
        self._connection.flush()
        self._connection.forget(self)

    def pause_body(self) -> None:
        """Leave the client's window closed."""
        self._is_paused = True

    def resume_body(self) -> None:
        """Open it again."""
        if self._is_paused:
            self._is_paused = False
            self._acknowledge()
            self._connection.flush()

    def open_tunnel(self, head: list[Header]) -> tuple[asyncio.Transport, bytes]:
        """Never: a request of HTTP/2 asks for no upgrade."""
        raise AssertionError("no upgrade on HTTP/2")

    def send_frame(self) -> bool:
        """Send one frame, if the windows allow it; whether there may be another."""
        library = self._connection.h2
        if not self._is_open():
            return False
        room = min(library.local_flow_control_window(self.id), library.max_outbound_frame_size)
        if self._output_bytes and room <= 0:
            return False
        piece = self._next_piece(room)
        is_end = self._is_ended and not self._output_bytes
        library.send_data(self.id, piece, end_stream=is_end)
        self._connection.credit()
        if is_end:
            self._end()
            return False
        if self._is_full and self._output_bytes <= WRITE_BYTES_LOW:
            self._is_full = False
            self.exchange.client_drained()
        return self.has_output

    def _next_piece(self, room: int) -> bytes:
        if not self._output:
            return b""
        piece = self._output.pop(0)
        if len(piece) > room:
            self._output.insert(0, piece[room:])
            piece = piece[:room]
        self._output_bytes -= len(piece)
        return piece

    def _end(self) -> None:
        if not self.exchange.body.is_complete:
            # RFC 9113 8.1: the response is complete, and the rest of the request is not wanted.
            self._reset(h2.errors.ErrorCodes.NO_ERROR)
        self._connection.forget(self)

    def _reset(self, code: h2.errors.ErrorCodes) -> None:
        if self._is_open():
            self._connection.h2.reset_stream(self.id, code)

    def _is_open(self) -> bool:
        try:
            # The library's way to ask: it raises for streams that are gone.
            self._connection.h2.local_flow_control_window(self.id)
        except h2.exceptions.ProtocolError:
            return False
        return True


def read_http2_request(
    headers: Iterable[tuple[bytes, bytes]], *, has_body: bool, headers_max: int, header_bytes_max: int
) -> RequestHead:
    """The head of one request as HTTP/1.1 would have it; `RefusedError` for what it could not have."""
    pseudo: dict[bytes, bytes] = {}
    fields: list[Header] = []
    has_length = False
    for name, value in headers:
        if len(name) + len(value) > header_bytes_max:
            raise RefusedError(answers.head_too_large(f"a header is over the bound of {header_bytes_max} bytes"))
        if name.startswith(b":"):
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise RefusedError(answers.bad_request("a header has characters that HTTP/1.1 does not allow"))
        if name == b"content-length":
            has_length = True
            if not value.isdigit():
                raise RefusedError(answers.bad_request("Content-Length is not a number"))
        if name == b"host":
            if pseudo.get(b":authority", value) != value:
                raise RefusedError(answers.bad_request("the Host header is not the request's authority"))
            continue
        fields.append((name, value))
    if len(fields) > headers_max:
        raise RefusedError(answers.head_too_large(f"the request has more than {headers_max} headers"))
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not _METHOD.fullmatch(method) or not _PATH.fullmatch(path or b"/"):
        raise RefusedError(answers.bad_request("the method or the path has characters that HTTP/1.1 does not allow"))
    if (authority := pseudo.get(b":authority")) is not None:
        fields.insert(0, (b"host", authority))
    head = read_request(method.decode("ascii"), path, fields, version="2")
    head.is_chunked = has_body and not has_length
    return head


def _rendered(status: int, headers: list[Header]) -> list[Header]:
    return [(b":status", b"%d" % status), *((name.lower(), value) for name, value in headers)]
