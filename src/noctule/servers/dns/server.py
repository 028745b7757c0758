"""The sockets of the DNS door: UDP and TCP on one port, and what all who ask may cost together.

A reply is made at once, in the turn of the loop in which its query came, and takes a tenth of a millisecond to ten. So
what is bounded is the share of the loop's time: beyond it, queries by UDP are dropped, as UDP may, and those by TCP
wait in the client.
"""

import asyncio
import errno
import socket
import struct
import time
from collections import OrderedDict
from contextlib import suppress
from typing import cast

import dns.rcode

from noctule.base.ensure import ensure
from noctule.base.errors import ConfigError
from noctule.servers.dns.messages import QUERY_BYTES_MAX, Replier, Via

TIME_SHARE_MAX = 0.3
"""Of the loop's time that goes into replies; some thousand small ones in a second."""

TIME_AT_ONCE_S_MAX = 0.05
"""How much of it may be taken at once, after a rest."""

REFUSALS_PER_S_MAX = 100
"""Replies by UDP in a second to who asks what is not answered here, which is what floods with forged senders do."""

CONNECTIONS_MAX = 256
"""By TCP. For one more, the one goes that has asked nothing for the longest time."""

IDLE_S_MAX = 10.0
"""A connection that sends no whole query, or does not read its replies, for so long is closed."""

UNREAD_BYTES_MAX = 128 << 10
"""Of replies that are not read: of a connection so many wait here, and as many in the kernel, which counts double."""

QUERIES_PER_TURN_MAX = 4
"""Of one connection in a turn of the loop."""

_REST_S = 0.01
_PORT_TRIES = 16
_LENGTH = struct.Struct("!H")
_NO_REFUSALS = (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)


class DnsServer:
    """Serves one zone in the running event loop, from `start` to `stop`; asyncio's own loop or uvloop."""

    def __init__(self, replier: Replier, host: str, port: int) -> None:
        self._replier = replier
        self._host = host
        self._port = port
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._connections: OrderedDict[_Connection, None] = OrderedDict()
        """The one first that has asked nothing for the longest time."""
        self._share = _Share(TIME_SHARE_MAX, TIME_AT_ONCE_S_MAX)
        self._dropped = 0
        self._connections_total = 0
        self._connections_cut = 0

    @property
    def port(self) -> int:
        """The port of both, once started."""
        return self._port

    async def start(self) -> None:
        """Listen. Raises `ConfigError` when that cannot be; nothing is left open then."""
        ensure(self._tcp is None, "a DNS server starts once")
        for left in reversed(range(_PORT_TRIES if self._port == 0 else 1)):
            try:
                await self._listen()
            except OSError as error:
                # A port that the system chose for TCP may have another owner by UDP.
                if error.errno != errno.EADDRINUSE or not left:
                    raise ConfigError(_cannot_listen(self._host, self._port, error)) from None
            else:
                return

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        tcp = await loop.create_server(lambda: _Connection(self, loop), self._host, self._port, backlog=64)
        port = int(tcp.sockets[0].getsockname()[1])
        try:
            self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), (self._host, port))
        except OSError:
            tcp.close()
            raise
        self._tcp, self._port = tcp, port

    async def stop(self) -> None:
        """Close everything at once: a resolver asks again, or another node. May be called twice."""
        if self._tcp is None or self._udp is None:
            return
        self._tcp.close()
        self._udp.close()
        for connection in list(self._connections):
            connection.abort()
        # Both say that they are closed in the next turn.
        await asyncio.sleep(0)

    def counters(self) -> dict[str, int]:
        """Since the start, for `NodePicture.counters`: each only ever rises."""
        answers = {
            f'noctule_dns_answers_total{{type="{kind}",rcode="{rcode}"}}': count
            for (kind, rcode), count in self._replier.answers.items()
        }
        return answers | {
            "noctule_dns_queries_dropped_total": self._dropped,
            "noctule_dns_connections_total": self._connections_total,
            "noctule_dns_connections_cut_total": self._connections_cut,
        }

    # For what has come -----------------------------------------------------------------------------------------------

    def has_time(self) -> bool:
        """Whether a reply may be made now."""
        return self._share.is_left(time.monotonic())

    def reply(self, query: bytes, via: Via) -> bytes | None:
        """As `Replier.reply`; the time it takes is counted."""
        begun = time.monotonic()
        reply = self._replier.reply(query, via)
        self._share.spend(time.monotonic() - begun)
        return reply

    def note_dropped(self) -> None:
        """A query by UDP is not answered, to bound what it costs."""
        self._dropped += 1

    def admit(self, connection: "_Connection") -> None:
        """Enter a connection, and cut the idlest one if that is one too many."""
        self._connections_total += 1
        if len(self._connections) >= CONNECTIONS_MAX:
            idlest = next(iter(self._connections))
            self.cut(idlest)
        self._connections[connection] = None

    def note_query(self, connection: "_Connection") -> None:
        """The connection has asked something."""
        if connection in self._connections:
            self._connections.move_to_end(connection)

    def cut(self, connection: "_Connection") -> None:
        """Close a connection that costs too much."""
        self._connections_cut += 1
        self._connections.pop(connection, None)
        connection.abort()

    def forget(self, connection: "_Connection") -> None:
        """It is closed. Unknown ones are ignored."""
        self._connections.pop(connection, None)


class _Share:
    """A part of the time that passes, or so many things in a second: what is left of it, and at most `most` at once."""

    def __init__(self, per_s: float, most: float) -> None:
        self._per_s = per_s
        self._most = most
        self._left = most
        self._at = time.monotonic()

    def is_left(self, now: float) -> bool:
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        return self._left > 0

    def spend(self, amount: float) -> None:
        self._left -= amount


class _Datagrams(asyncio.DatagramProtocol):
    """Each datagram is a query; its reply goes where it says it came from."""

    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport
        self._is_writable = True
        self._refusals = _Share(REFUSALS_PER_S_MAX, REFUSALS_PER_S_MAX)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self._is_writable or not self._server.has_time():
            self._server.note_dropped()
            return
        reply = self._server.reply(data, Via.UDP)
        if reply is None:
            return
        if reply[3] & 0xF not in _NO_REFUSALS:
            if not self._refusals.is_left(time.monotonic()):
                self._server.note_dropped()
                return
            self._refusals.spend(1)
        # A forged sender may be none that can be sent to.
        with suppress(OSError, ValueError):
            self._transport.sendto(reply, addr)

    def pause_writing(self) -> None:
        """The kernel takes no more replies: queries are dropped until it does."""
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True

    def error_received(self, exc: Exception) -> None:
        """Somebody who asked is gone: nothing to be done."""


class _Connection(asyncio.Protocol):
    """Queries one behind the other, each with its length before it; replies come in the same order (RFC 7766)."""

    def __init__(self, server: DnsServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._ended = False
        self._is_writable = True
        self._is_scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=UNREAD_BYTES_MAX)
        # Else the kernel keeps some megabytes more for who does not read, and making them takes seconds of the loop.
        connected: socket.socket = transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES_MAX)
        self._server.admit(self)
        self._wait_idle()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._is_scheduled:
            self._answer_some()

    def eof_received(self) -> bool:
        """What was asked before is still answered."""
        self._ended = True
        if not self._is_scheduled:
            self._answer_some()
        return True

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        if not self._is_scheduled:
            self._answer_some()

    def connection_lost(self, exc: Exception | None) -> None:
        self._received.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._server.forget(self)

    def abort(self) -> None:
        """Close it with replies unsent."""
        self._received.clear()
        self._transport.abort()

    def _answer_some(self) -> None:
        """A turn's share of the queries that are there; while some are left nothing more is read."""
        self._is_scheduled = False
        left = QUERIES_PER_TURN_MAX
        has_time = True
        while left and self._is_writable and (has_time := self._server.has_time()):
            query = self._next_query()
            if query is None:
                break
            left -= 1
            self._server.note_query(self)
            self._wait_idle()
            reply = self._server.reply(query, Via.TCP)
            if reply is None:
                self._server.cut(self)
                return
            self._transport.write(_LENGTH.pack(len(reply)) + reply)
        if self._transport.is_closing():
            return
        has_query = self._has_query()
        if has_query and self._is_writable:
            self._is_scheduled = True
            self._loop.call_later(0 if has_time else _REST_S, self._answer_some)
        if has_query:
            self._transport.pause_reading()
        elif self._ended:
            self._transport.close()  # Once everything is sent.
        elif not self._is_writable:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _has_query(self) -> bool:
        received = self._received
        return len(received) >= _LENGTH.size and len(received) >= _LENGTH.size + _LENGTH.unpack_from(received)[0]

    def _next_query(self) -> bytes | None:
        """The next whole one. A client that announces one that is too long is cut off."""
        received = self._received
        if len(received) < _LENGTH.size:
            return None
        length = _LENGTH.unpack_from(received)[0]
        if length > QUERY_BYTES_MAX:
            self._server.cut(self)
            return None
        if len(received) < _LENGTH.size + length:
            return None
        query = bytes(received[_LENGTH.size : _LENGTH.size + length])
        del received[: _LENGTH.size + length]
        return query

    def _wait_idle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(IDLE_S_MAX, self._server.cut, self)


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"DNS cannot listen on {host}:{port}: the port is in use; set dns_port to another (0: the system chooses)"
        )
    return f"DNS cannot listen on {host}:{port}: {error.strerror or error}; check host and dns_port"
