"""A tunnel: after an instance has answered 101, bytes pass both ways, and the end of one side is the end of the other.

Both handshakes passed through, so the two ends have agreed on their subprotocol, their extensions and their keys with
each other; messages of any length pass, pings and closes mean what the ends mean by them. The tunnel counts frames only
as far as it must know whether it stands between two of them: then a side whose other one vanished can still be told so
by a close of its own (RFC 6455 7.4.1) instead of an end without a word.
"""

import asyncio
import socket
import struct
from collections.abc import Callable

from noctule.gateway.alarm import Alarm

IDLE_S = 3_600.0
"""A tunnel in which nothing moves for so long is closed. Ends that care ping each other; a machine that vanished is
found by TCP's own probes before."""

BUFFER_BYTES_MAX = 64 * 1024
"""What one side has not taken before the other is asked to pause."""

CLOSE_WAIT_S = 1.0
"""How long what is written to a side may take to leave, once the tunnel ends."""

_GOING_AWAY, _BAD_GATEWAY = 1001, 1014
_CLOSE = 0x8


class FrameBounds:
    """Where in a stream of WebSocket frames one stands; reads headers only (RFC 6455 5.2)."""

    __slots__ = ("_head", "_left", "is_closed")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self.is_closed = False
        """A close has passed; nothing may follow it."""

    @property
    def is_between(self) -> bool:
        """Whether the next byte begins a frame."""
        return not self._left and not self._head

    def add(self, data: bytes) -> None:
        """So many bytes have passed."""
        position = 0
        while position < len(data):
            if self._left:
                step = min(self._left, len(data) - position)
                self._left -= step
                position += step
                continue
            # A header has 14 bytes at most; a few more in the buffer do no harm.
            begun = len(self._head)
            head = self._head + data[position : position + 14]
            read = _read_header(head)
            if read is None:
                self._head = head
                return
            header_bytes, self._left, opcode = read
            self.is_closed = self.is_closed or opcode == _CLOSE
            self._head = b""
            position += header_bytes - begun


class Tunnel:
    """Two transports, each read by one `_Side`, both given here and closed here."""

    def __init__(
        self, client: asyncio.Transport, instance: asyncio.Transport, ended: Callable[[int, str], None]
    ) -> None:
        self._ended: Callable[[int, str], None] | None = ended
        self._client = _Side(self, client, is_masked=False)
        self._instance = _Side(self, instance, is_masked=True)
        self._client.other, self._instance.other = self._instance, self._client
        self._alarm = Alarm(asyncio.get_running_loop(), self.shut)

    def start(self, *, from_client: bytes, from_instance: bytes) -> None:
        """Pass on what came with the handshakes, then all that comes."""
        self._alarm.set(IDLE_S)
        for side, early in ((self._instance, from_instance), (self._client, from_client)):
            side.attach()
            if early:
                side.data_received(early)
        self._client.resume()
        self._instance.resume()

    def moved(self) -> None:
        """Bytes have passed."""
        self._alarm.set(IDLE_S)

    def side_ended(self, side: "_Side") -> None:
        """One side is closed: the other is told, after what was sent to it before."""
        is_instance = side is self._instance
        reason = ""
        if is_instance and not side.bounds.is_closed and not self._client.bounds.is_closed:
            reason = "the connection closed within the WebSocket"
        side.other.end(_BAD_GATEWAY if is_instance else _GOING_AWAY)
        self._finish(reason)

    def shut(self) -> None:
        """End both sides with 1001."""
        self._client.end(_GOING_AWAY)
        self._instance.end(_GOING_AWAY)
        self._finish("")

    def _finish(self, reason: str) -> None:
        ended, self._ended = self._ended, None
        self._alarm.close()
        if ended is not None:
            ended(self._instance.received_bytes, reason)


class _Side(asyncio.Protocol):
    """One end's connection; what is received here goes to `other`."""

    other: "_Side"

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, *, is_masked: bool) -> None:
        self._tunnel = tunnel
        self._transport: asyncio.Transport | None = transport
        # Frames to a server are masked, with any key; a proxy's own need hide nothing.
        self._is_masked = is_masked
        self._is_ending = False
        self.bounds = FrameBounds()
        self.received_bytes = 0

    def attach(self) -> None:
        """Read from the transport from now on; TCP notices by itself when the machine behind it is gone."""
        transport = self._transport
        assert transport is not None
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=BUFFER_BYTES_MAX)
        found = transport.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)

    def data_received(self, data: bytes) -> None:
        """On to the other side."""
        self.received_bytes += len(data)
        self.bounds.add(data)
        self._tunnel.moved()
        self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """This side is gone."""
        self._transport = None
        self._tunnel.side_ended(self)

    def pause_writing(self) -> None:
        """This side does not take enough: the other is not read."""
        self.other.pause()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.other.resume()

    def write(self, data: bytes) -> None:
        """Send to this side."""
        if self._transport is not None and not self._is_ending:
            self._transport.write(data)

    def pause(self) -> None:
        """Read nothing more from this side."""
        if self._transport is not None and not self._transport.is_closing() and self._transport.is_reading():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def end(self, code: int) -> None:
        """Say why, where a frame may be said, and close once all has left, or after `CLOSE_WAIT_S`."""
        transport = self._transport
        if transport is None or self._is_ending:
            return
        if self.other.bounds.is_between and not self.other.bounds.is_closed:
            transport.write(_close_frame(code, is_masked=self._is_masked))
        self._is_ending = True
        transport.close()
        asyncio.get_running_loop().call_later(CLOSE_WAIT_S, transport.abort)


def _close_frame(code: int, *, is_masked: bool) -> bytes:
    payload = struct.pack("!H", code)
    return b"\x88\x82\0\0\0\0" + payload if is_masked else b"\x88\x02" + payload


def _read_header(head: bytes) -> tuple[int, int, int] | None:
    """Bytes of the header, bytes of the payload, opcode; None when the header is not whole."""
    if len(head) < 2:
        return None
    length = head[1] & 0x7F
    size = 2 + (4 if head[1] & 0x80 else 0)
    if length == 126:
        if len(head) < 4:
            return None
        length = int.from_bytes(head[2:4])
        size += 2
    elif length == 127:
        if len(head) < 10:
            return None
        length = int.from_bytes(head[2:10])
        size += 8
    return (size, length, head[0] & 0x0F) if len(head) >= size else None
