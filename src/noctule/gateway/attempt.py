"""One attempt of a request: an instance is connected to, sent the request, and waited for.

An attempt is the `Asker` of its connection. What comes of it, it tells its exchange: a response, or that none will
come, and whether the instance may have acted on the request. Whether another attempt follows is not decided here.

A short response to a request that may be repeated is held until it is whole. Should the instance die meanwhile, it is
as if nothing had come: the client has been told nothing, so another instance can answer. Short is what says so itself:
a Content-Length of at most `HELD_BYTES_MAX`. What is longer, or does not know its length and may be a stream somebody
waits for, passes as it comes; and so does, from then on, what is not whole after `HELD_S_MAX`.
"""

import time
from typing import TYPE_CHECKING

from noctule.gateway import answers
from noctule.gateway.compress import Compressor
from noctule.gateway.h1 import render_request
from noctule.gateway.heads import ResponseHead, apply_rules, headers_of, lines_of, request_lines, response_headers
from noctule.gateway.model import HeaderRules
from noctule.gateway.pool import Flight
from noctule.gateway.traffic import Plan
from noctule.gateway.tunnel import Tunnel
from noctule.gateway.upstream import Connecting, InstanceConnection, NotSentError

if TYPE_CHECKING:
    from noctule.gateway.exchange import Exchange

HELD_BYTES_MAX = 64 * 1024
"""The longest response that is held until it is whole."""

HELD_S_MAX = 1.0
"""How long a response is held from its head on."""

_NO_RULES = HeaderRules()


class Attempt:
    """One instance's turn at one request. Call `begin` once, and `drop` when its outcome is of no interest any more."""

    __slots__ = (
        "_compressor",
        "_connecting",
        "_connection",
        "_exchange",
        "_held",
        "_held_body",
        "_is_passing",
        "_plan",
        "first_byte_at",
        "flight",
        "sent_at",
    )

    def __init__(self, exchange: "Exchange", plan: Plan, flight: Flight) -> None:
        self._exchange = exchange
        self._plan = plan
        self.flight = flight
        """For the exchange to end."""
        self.sent_at = self.first_byte_at = 0.0
        """By `time.perf_counter`; 0 for what has not come about."""
        self._connecting: Connecting | None = None
        self._connection: InstanceConnection | None = None
        self._is_passing = False
        self._compressor: Compressor | None = None
        # The head of a response that is held, and what has come of its body.
        self._held: ResponseHead | None = None
        self._held_body = b""

    @property
    def instance_id(self) -> str:
        """Whose turn it is."""
        return self.flight.instance.id

    @property
    def has_connection(self) -> bool:
        """Whether the request was begun to be sent, and its connection is there."""
        return self._connection is not None

    # --- What the exchange does ---

    def begin(self, *, may_take_kept: bool) -> None:
        """Send the request over a fresh connection, or over a kept one; `upstream` says who may have those."""
        upstream, instance = self._exchange.plane.upstream, self.flight.instance
        if may_take_kept:
            connection = upstream.take(instance)
            if connection is not None:
                self._send(connection)
                return
        timeout_s = self._plan.service.connect_timeout_s
        self._connecting = upstream.connect(instance, timeout_s, self._connected, self._not_connected)

    def push(self) -> None:
        """Give the instance what there is of the body; then it, or the client, is waited for."""
        connection, exchange = self._connection, self._exchange
        assert connection is not None
        body, is_chunked = exchange.body, exchange.head.is_chunked
        for piece in body.give():
            connection.send_body(piece, is_chunked=is_chunked)
        if body.is_complete and is_chunked:
            connection.end_chunks()
        if connection.is_full:
            exchange.client.pause_body()
        else:
            exchange.client.resume_body()
        self._watch()

    def pause(self) -> None:
        """The client does not read as fast as the instance writes."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """It has caught up."""
        if self._connection is not None:
            self._connection.resume()
            self._watch()

    def drop(self) -> None:
        """Let go of the connection, and of what is on it; nothing more is told."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.cut()
            self._connection = None

    # --- Connecting and sending ---

    def _connected(self, connection: InstanceConnection) -> None:
        if self._connecting is None:
            # Dropped in the meantime.
            connection.cut()
            return
        self._connecting = None
        self._send(connection)

    def _not_connected(self, error: NotSentError) -> None:
        if self._connecting is None:
            return
        self._connecting = None
        self.flight.failed(str(error), is_gone=error.is_gone)
        self._exchange.attempt_failed(str(error))

    def _send(self, connection: InstanceConnection) -> None:
        exchange, plan = self._exchange, self._plan
        head, client = exchange.head, exchange.client
        self._connection = connection
        connection.kept_max = plan.service.keepalive
        self.sent_at = time.perf_counter()
        lines = request_lines(
            head,
            instance=connection.host,
            scheme=client.scheme,
            peer=client.peer,
            client=exchange.client_ip,
            is_peer_trusted=client.is_trusted,
            request_id=exchange.request_id,
            trace=exchange.trace,
        )
        if plan.route.request_headers != _NO_RULES:
            lines = lines_of(apply_rules(headers_of(lines), plan.route.request_headers))
        if head.is_chunked:
            lines += b"Transfer-Encoding: chunked\r\n"
        elif head.content_length is not None:
            lines += b"Content-Length: %d\r\n" % head.content_length
        if head.is_websocket:
            lines += b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        connection.send(self, head.method, render_request(head.method, head.target, lines))
        if head.is_chunked or head.content_length:
            self.push()
        else:
            connection.wait(plan.service.response_timeout_s)

    def _watch(self) -> None:
        """Bound the wait for whoever is to move next."""
        connection, is_complete = self._connection, self._exchange.body.is_complete
        if connection is None:
            return
        if self._held is not None:
            connection.wait(self.first_byte_at + HELD_S_MAX - time.perf_counter())
        elif self._is_passing:
            connection.wait(self._plan.service.idle_timeout_s)
        elif is_complete or connection.is_full:
            connection.wait(self._plan.service.response_timeout_s)
        else:
            connection.rest()
        if not is_complete:
            self._exchange.await_body(is_due=not connection.is_full)

    # --- Passing the response on ---

    def _pass(self, head: ResponseHead, body: bytes = b"") -> None:
        """The answer counts from now on, and what has come of it is the client's."""
        flight, status = self.flight, head.status
        self._held = None
        flight.succeeded(self.first_byte_at - self.sent_at, status)
        if status == 503 and flight.is_draining and self._exchange.goes_elsewhere():
            return
        self._is_passing = True
        self._compressor = self._exchange.deliver(head, flight.set_cookie)
        if body:
            self._pass_piece(body)

    def _pass_piece(self, piece: bytes) -> None:
        if self._compressor is not None:
            piece = self._compressor.add(piece)
            if not piece:
                return
        exchange = self._exchange
        exchange.bytes_sent += len(piece)
        exchange.client.write(piece)

    # --- What the connection tells ---

    def response_interim(self, head: ResponseHead) -> None:
        """103 Early Hints pass; RFC 9110 15.2."""
        self._exchange.client.interim(head)

    def response_began(self, head: ResponseHead) -> None:
        """The final response's head."""
        self.first_byte_at = time.perf_counter()
        length = head.content_length
        if length is not None and length <= HELD_BYTES_MAX and self._exchange.may_repeat:
            self._held = head
        else:
            self._pass(head)

    def response_body(self, piece: bytes) -> None:
        """A piece of it."""
        if self._held is not None:
            self._held_body += piece
        elif self._is_passing:
            self._pass_piece(piece)

    def response_paused(self) -> None:
        """Nothing more of it has come for now: the client has what there is, unless it is held, and time runs."""
        if self._is_passing:
            self._exchange.client.flush()
        self._watch()

    def response_ended(self) -> None:
        """It is whole; what the client has not sent yet, nobody waits for."""
        exchange = self._exchange
        if self._held is not None:
            self._pass(self._held, self._held_body)
        if not self._is_passing:
            return
        if self._compressor is not None and (rest := self._compressor.end()):
            exchange.bytes_sent += len(rest)
            exchange.client.write(rest)
        connection, self._connection = self._connection, None
        if connection is not None:
            if exchange.body.is_complete:
                connection.release()
            else:
                connection.cut()
        exchange.delivered()

    def response_broke(self, reason: str) -> None:
        """The connection ended, or what came is no HTTP."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._is_passing:
            self.flight.failed(reason)
            self._exchange.cut(reason)
            return
        # Where it has begun to answer, it had not closed the connection before.
        is_stale = connection.was_kept and self._held is None
        if not is_stale:
            self.flight.failed(reason)
        self._exchange.attempt_lost(reason, is_stale=is_stale)

    def response_unfit(self, reason: str) -> None:
        """Its head cannot be passed on. Another instance of the same app would hardly answer otherwise."""
        self._connection = None
        self._exchange.answer(answers.bad_response(reason, is_safe=self._exchange.is_safe))

    def response_late(self) -> None:
        """The instance, or a client that does not read, has not moved in time."""
        exchange, late_s = self._exchange, self._plan.service.response_timeout_s
        if self._held is not None:
            self._pass(self._held, self._held_body)
            self.response_paused()
            return
        if self._is_passing:
            exchange.cut("neither side moved in time")
            return
        self.flight.failed("no response in time")
        exchange.answer(answers.no_answer(late_s, is_idempotent=exchange.is_idempotent, is_safe=exchange.is_safe))

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        """101: from here on it is bytes, both ways."""
        connection, exchange = self._connection, self._exchange
        assert connection is not None
        if not exchange.head.is_websocket:
            connection.cut()
            self.response_broke("the instance switched protocols without being asked")
            return
        self.first_byte_at = now = time.perf_counter()
        self.flight.succeeded(now - self.sent_at)
        self._connection = None
        instance_side = connection.hand_over()
        headers = response_headers(head, request_id=exchange.request_id, attempts=exchange.attempts)
        client_side, early = exchange.client.open_tunnel(headers)
        tunnel = Tunnel(client_side, instance_side, self._tunnel_ended)
        exchange.become_tunnel(tunnel)
        tunnel.start(from_client=early, from_instance=rest)

    def _tunnel_ended(self, sent_bytes: int, reason: str) -> None:
        if reason:
            self.flight.failed(reason)
        self._exchange.tunnel_ended(sent_bytes)

    def instance_full(self) -> None:
        """The instance takes the body more slowly than the client sends it."""
        if not self._exchange.body.is_complete:
            self._exchange.client.pause_body()
        self._watch()

    def instance_drained(self) -> None:
        """It has caught up."""
        if not self._exchange.body.is_complete:
            self._exchange.client.resume_body()
        self._watch()
