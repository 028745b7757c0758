"""One request through the gateway: choose an instance, try it, perhaps try another, pass the response on.

A request is sent to a second instance only if that cannot do anything twice: nothing of it was sent (no connection
could be made), or its method is idempotent (RFC 9110 9.2.2), its body is still whole, and nothing was said to the
client. So a POST or PATCH of which one byte may have left is never sent again. Whatever an app answers is passed on,
a 5xx too; only the 503 of an instance that is being drained sends an idempotent request elsewhere.

An exchange is called back by both sides and has no task: the client's connection (or HTTP/2 stream) tells it of the
body, an instance's connection of the response. Each step is one of `State`; whatever comes late finds it OVER.
"""

import asyncio
import logging
import time
from dataclasses import replace
from datetime import datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from noctule.gateway import answers
from noctule.gateway.admin import BODY_BYTES_MAX as ADMIN_BYTES_MAX
from noctule.gateway.alarm import Alarm
from noctule.gateway.answers import Answer, render_answer
from noctule.gateway.body import RequestBody, is_read_ahead
from noctule.gateway.compress import Compressor
from noctule.gateway.h1 import date, has_body, render_request
from noctule.gateway.heads import (
    IDEMPOTENT_METHODS,
    SAFE_METHODS,
    Header,
    RequestHead,
    ResponseHead,
    apply_rules,
    headers_of,
    lines_of,
    request_lines,
    response_headers,
)
from noctule.gateway.model import HeaderRules
from noctule.gateway.pool import Flight
from noctule.gateway.traffic import Plan, Refusal
from noctule.gateway.tunnel import Tunnel
from noctule.gateway.upstream import Connecting, InstanceConnection, NotSentError

if TYPE_CHECKING:
    from noctule.gateway.admin import Admin
    from noctule.gateway.plane import DataPlane

_NO_RULES = HeaderRules()

log = logging.getLogger("noctule.gateway")


class ClientSide(Protocol):
    """What an exchange needs of the connection, or stream, that its request came on."""

    peer: str
    scheme: bytes
    is_trusted: bool
    """Whether forwarding headers from this peer are believed."""

    def go_on(self) -> None:
        """100 Continue."""

    def interim(self, head: ResponseHead) -> None:
        """A 1xx response, if this client can take it."""

    def begin_response(
        self, status: int, reason: bytes, headers: list[Header], length: int | None, *, is_last: bool
    ) -> None:
        """The response's head; `is_last`: nothing else is answered on this connection."""

    def write(self, piece: bytes) -> None:
        """A piece of its body, not empty. Calls `Exchange.client_full` when enough waits, perhaps at once."""

    def flush(self) -> None:
        """Send what was given so far: nothing more comes for now."""

    def end_response(self) -> None:
        """It is whole; the exchange may be forgotten."""

    def cut(self) -> None:
        """It will not be whole, and the client must not take it for that."""

    def pause_body(self) -> None:
        """Let the client wait with the request's body."""

    def resume_body(self) -> None:
        """Let it go on."""

    def open_tunnel(self, head: list[Header]) -> tuple[asyncio.Transport, bytes]:
        """Answer 101 with these headers; what is read from now on is the caller's, beginning with these bytes."""


class State(Enum):
    """How far a request has come."""

    QUEUED = auto()
    """Behind others of its connection."""
    WAITING = auto()
    """For the word of a hook."""
    READING = auto()
    """Its body is read ahead."""
    CONNECTING = auto()
    SENT = auto()
    """An instance has it, or a part of it; nothing has come back."""
    PASSING = auto()
    """The response has begun."""
    TUNNEL = auto()
    OVER = auto()


# Looked up once: an enumeration's members cost a search each time, and a request asks for its state often.
_QUEUED, _WAITING, _READING, _CONNECTING, _SENT, _PASSING, _TUNNEL, _OVER = State


class Exchange:
    """One client's request and how far it has come."""

    attempts = 0
    request_id = b""
    refusal: Answer | None = None
    """What is wrong with the request already, to be said when its turn comes."""
    is_last = False
    """Its client's connection closes after the response; kept here for the connection, which has many in a row."""
    tried: frozenset[str] = frozenset()
    """Instances that have had an attempt and failed it."""
    # Defaults of the class, so that a request sets only what becomes of it.
    _state = _QUEUED
    _plan: Plan | None = None
    _handler: "Admin | None" = None
    _flight: Flight | None = None
    _connection: InstanceConnection | None = None
    _connecting: Connecting | None = None
    _compressor: Compressor | None = None
    _tunnel: Tunnel | None = None
    _alarm: Alarm | None = None
    # An instance that closed a kept connection: not to blame, and good for a fresh one if there is no other.
    _stale = ""
    # An instance may have acted on it, and its answer is lost.
    _was_lost = False
    _trace = b""
    _sent_at = _first_byte_at = 0.0
    _status = _bytes_sent = 0

    def __init__(self, plane: "DataPlane", client: ClientSide, head: RequestHead | None) -> None:
        self._plane = plane
        self._client = client
        self.head = head if head is not None else RequestHead("", b"")
        self.body = RequestBody()
        self.client_ip = client.peer
        self._began = time.perf_counter()

    @property
    def is_idempotent(self) -> bool:
        """Whether the method may be repeated at all."""
        return self.head.method in IDEMPOTENT_METHODS

    @property
    def may_repeat(self) -> bool:
        """Whether it may be sent again although an instance may have acted on it."""
        return self.head.method in IDEMPOTENT_METHODS and self.body.is_complete and not self.body.is_given

    @property
    def scheme(self) -> bytes:
        """What the client came by."""
        return self._client.scheme

    @property
    def is_tunnel(self) -> bool:
        """Whether it has become one."""
        return self._state is _TUNNEL

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it."""
        return self._state is _OVER

    # --- What the client's side tells ---

    def start(self) -> None:
        """Its turn has come; called once."""
        plane, head = self._plane, self.head
        self._state = _WAITING
        plane.begin(self)
        self.request_id, self._trace = plane.fresh_ids()
        if head.request_id:
            self.request_id = head.request_id
        limits, length = plane.limits, head.content_length
        if self.refusal is not None:
            self._refuse(self.refusal)
        elif length is not None and length > limits.body_bytes_max:
            self._refuse(answers.too_large(limits.body_bytes_max))
        elif len(plane.exchanges) > limits.in_flight_max:
            self._refuse(answers.unavailable(f"the gateway has {limits.in_flight_max} requests in flight"))
        elif plane.has_hooks and plane.take_over(self):
            # Answered by the gateway itself, or to be gone on with by `admit`.
            pass
        else:
            self.admit()

    def admit(self) -> None:
        """Find who may answer, and read the body ahead as far as that helps."""
        head = self.head
        plan = self._plane.traffic.plan(head.host_name, head.target.decode(), head.header, self.client_ip)
        if isinstance(plan, Refusal):
            self._refuse(answers.of_refusal(plan.status, plan.code, plan.message, is_retryable=plan.retryable))
            return
        self._plan = plan
        if self.body.is_complete:
            self._try_next()
            return
        if not plan.has_other():
            # Before its body is read, and before a client that asked is told to send it.
            self._refuse(self._nobody())
            return
        if head.expects_continue and not self.body.taken_bytes:
            self._client.go_on()
        if not is_read_ahead(length=head.content_length, is_idempotent=self.is_idempotent):
            self._try_next()
            return
        self._state = _READING
        self._wait_for_client()
        if self.body.is_over_buffer:
            self._try_next()

    def body_came(self, piece: bytes) -> None:
        """A piece of the request's body."""
        if self._state is _OVER:
            return
        self.body.add(piece)
        bytes_max = self._plane.limits.body_bytes_max if self._handler is None else ADMIN_BYTES_MAX
        if self.body.taken_bytes > bytes_max:
            self.fail(answers.too_large(bytes_max))
        elif self._connection is not None:
            self._push()
        elif self.body.is_over_buffer:
            if self._state is _READING and self._handler is None:
                self._try_next()
            elif self._handler is None:
                self._client.pause_body()

    def body_ended(self) -> None:
        """The request is whole."""
        self.body.is_complete = True
        if self._state is _OVER:
            return
        if self._alarm is not None:
            self._alarm.clear()
        if self._handler is not None:
            self._handle()
        elif self._state is _READING:
            self._try_next()
        elif self._connection is not None:
            self._push()

    def fail(self, answer: Answer) -> None:
        """The client broke the protocol, or a bound, within its request; no instance is to blame."""
        if self._state is _QUEUED:
            self.refusal = answer
        elif self._state is _PASSING or self._state is _TUNNEL:
            self._cut(answer.message, is_logged=False)
        elif self._state is not _OVER:
            is_safe = self.head.method in SAFE_METHODS
            self._refuse(replace(answer, outcome="unknown") if self._sent_at and not is_safe else answer)

    def client_left(self) -> None:
        """There is nobody to answer any more."""
        if self._state is _OVER:
            return
        if self._state is _QUEUED:
            self._state = _OVER
            return
        log.debug("client_left", extra={"request_id": self.request_id.decode()})
        self._status = self._status or 499
        self._finish()

    def client_full(self) -> None:
        """The client does not read as fast as the instance writes."""
        if self._connection is not None:
            self._connection.pause()

    def client_drained(self) -> None:
        """It has caught up."""
        if self._connection is not None:
            self._connection.resume()
            self._connection.wait(self._plan_timeouts()[2])

    def shut(self) -> None:
        """The gateway stops and will not wait any longer."""
        if self._tunnel is not None:
            self._tunnel.shut()
        elif self._state is not _OVER:
            self._cut("the gateway stops")

    # --- Trying instances ---

    def _try_next(self) -> None:
        plan = self._plan
        assert plan is not None
        flight = self._next_flight(plan) if self.attempts else plan.next()
        if flight is None:
            self._refuse(self._lost() if self._was_lost else self._nobody())
        else:
            self._try(flight)

    def _try(self, flight: Flight) -> None:
        self.attempts += 1
        self._flight = flight
        upstream = self._plane.upstream
        if not self._was_lost and self.may_repeat:
            connection = upstream.take(flight.instance)
            if connection is not None:
                self._send(connection)
                return
        self._state = _CONNECTING
        connect_s = self._plan_timeouts()[0]
        self._connecting = upstream.connect(flight.instance, connect_s, self._connected, self._not_connected)

    def _next_flight(self, plan: Plan) -> Flight | None:
        """For another attempt, if there may be one."""
        if self.attempts >= 1 + plan.service.retries_max:
            return None
        stale, self._stale = self._stale, ""
        if not stale and not plan.may_retry():
            return None
        flight = plan.next(self.tried)
        if flight is None and stale:
            # Once: the fresh connection's failure is the instance's own.
            flight = plan.next(self.tried - {stale})
        return flight

    def _connected(self, connection: InstanceConnection) -> None:
        self._connecting = None
        if self._state is not _CONNECTING:
            connection.cut()
            return
        self._send(connection)

    def _not_connected(self, error: NotSentError) -> None:
        self._connecting = None
        if self._state is not _CONNECTING:
            return
        assert self._flight is not None
        self._flight.failed(str(error), is_gone=error.is_gone)
        self._leave_instance(str(error))
        self._try_next()

    def _send(self, connection: InstanceConnection) -> None:
        head, plan = self.head, self._plan
        assert plan is not None
        self._connection = connection
        connection.kept_max = plan.service.keepalive
        self._state = _SENT
        self._sent_at = time.perf_counter()
        client = self._client
        lines = request_lines(
            head,
            instance=connection.host,
            scheme=client.scheme,
            peer=client.peer,
            client=self.client_ip,
            is_peer_trusted=client.is_trusted,
            request_id=self.request_id,
            trace=self._trace,
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
            self._push()
        else:
            connection.wait(plan.service.response_timeout_s)

    def _push(self) -> None:
        """Give the instance what there is of the body; then it, or the client, is waited for."""
        connection = self._connection
        assert connection is not None
        body, is_chunked = self.body, self.head.is_chunked
        for piece in body.give():
            connection.send_body(piece, is_chunked=is_chunked)
        if body.is_complete and is_chunked:
            connection.end_chunks()
        if connection.is_full:
            self._client.pause_body()
        else:
            self._client.resume_body()
        self._watch()

    def _watch(self) -> None:
        """Bound the wait for whoever is to move next."""
        connection = self._connection
        if connection is None:
            return
        _, response_s, idle_s = self._plan_timeouts()
        if self._state is _PASSING:
            connection.wait(idle_s)
        elif self.body.is_complete or connection.is_full:
            connection.wait(response_s)
        else:
            connection.rest()
        if not self.body.is_complete:
            if connection.is_full and self._alarm is not None:
                self._alarm.clear()
            elif not connection.is_full:
                self._wait_for_client()

    def _wait_for_client(self) -> None:
        if self._alarm is None:
            self._alarm = Alarm(self._plane.loop, self._client_late)
        self._alarm.set(self._plan_timeouts()[2])

    def _client_late(self) -> None:
        self.fail(answers.too_slow(self._plan_timeouts()[2]))

    def _leave_instance(self, reason: str) -> None:
        """It has had its attempt; another may have one."""
        flight = self._flight
        assert flight is not None
        fields = {"request_id": self.request_id.decode(), "instance": flight.instance.id, "reason": reason}
        log.info("attempt_failed", extra={**fields, "attempt": self.attempts})
        self.tried = self.tried | {flight.instance.id}
        flight.end()
        self._flight = None

    # --- What the instance's side tells ---

    def response_interim(self, head: ResponseHead) -> None:
        """103 Early Hints pass; RFC 9110 15.2."""
        self._client.interim(head)

    def response_began(self, head: ResponseHead) -> None:
        """The final response's head."""
        flight, plan = self._flight, self._plan
        assert flight is not None
        assert plan is not None
        plane, status = self._plane, head.status
        self._first_byte_at = now = time.perf_counter()
        flight.succeeded(now - self._sent_at, status)
        if status == 503 and flight.is_draining and self._go_elsewhere():
            return
        self._state = _PASSING
        if plane.model.compression.enabled and has_body(self.head.method, status):
            self._compressor = plane.compressor_for(self.head.accept_encoding, head)
        headers = response_headers(head, request_id=self.request_id, attempts=self.attempts)
        if plan.route.response_headers != _NO_RULES:
            headers = apply_rules(headers, plan.route.response_headers)
        if not head.has_date:
            headers.append((b"Date", date()))
        if flight.set_cookie is not None:
            headers.append((b"Set-Cookie", flight.set_cookie.encode()))
        self._status = status
        is_last = not self.body.is_complete or plane.is_stopping
        self._client.begin_response(status, head.reason, headers, head.content_length, is_last=is_last)

    def _go_elsewhere(self) -> bool:
        plan, flight, connection = self._plan, self._flight, self._connection
        assert plan is not None
        assert flight is not None
        assert connection is not None
        if not self.may_repeat or self.attempts >= 1 + plan.service.retries_max:
            return False
        other = plan.next(self.tried | {flight.instance.id})
        if other is None:
            return False
        connection.cut()
        self._connection = None
        self._leave_instance("503 while draining")
        self._try(other)
        return True

    def response_body(self, piece: bytes) -> None:
        """A piece of it."""
        if self._state is not _PASSING:
            return
        if self._compressor is not None:
            piece = self._compressor.add(piece)
            if not piece:
                return
        self._bytes_sent += len(piece)
        self._client.write(piece)

    def response_paused(self) -> None:
        """Nothing more of it has come for now: the client has what there is, and time runs."""
        if self._state is _PASSING:
            self._client.flush()
            self._watch()

    def response_ended(self) -> None:
        """It is whole; what the client has not sent yet, nobody waits for."""
        if self._state is not _PASSING:
            return
        if self._compressor is not None and (rest := self._compressor.end()):
            self._bytes_sent += len(rest)
            self._client.write(rest)
        connection, self._connection = self._connection, None
        if connection is not None:
            if self.body.is_complete:
                connection.release()
            else:
                connection.cut()
        self._finish()
        self._client.end_response()

    def response_broke(self, reason: str) -> None:
        """The connection ended, or what came is no HTTP."""
        flight, connection = self._flight, self._connection
        if flight is None or connection is None or self._state is _OVER:
            return
        self._connection = None
        if self._state is _PASSING:
            flight.failed(reason)
            self._cut(reason)
            return
        if not connection.was_kept:
            flight.failed(reason)
        self._was_lost = True
        if not self.may_repeat:
            self._refuse(self._lost())
        else:
            if connection.was_kept:
                self._stale = flight.instance.id
            self._leave_instance(reason)
            self._try_next()

    def response_unfit(self, reason: str) -> None:
        """Its head cannot be passed on. Another instance of the same app would hardly answer otherwise."""
        self._connection = None
        self._refuse(answers.bad_response(reason, is_safe=self.head.method in SAFE_METHODS))

    def response_late(self) -> None:
        """The instance, or a client that does not read, has not moved in time."""
        if self._state is _PASSING:
            self._cut("neither side moved in time")
            return
        assert self._flight is not None
        self._flight.failed("no response in time")
        is_safe = self.head.method in SAFE_METHODS
        late_s = self._plan_timeouts()[1]
        self._refuse(answers.no_answer(late_s, is_idempotent=self.is_idempotent, is_safe=is_safe))

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        """101: from here on it is bytes, both ways."""
        connection, flight = self._connection, self._flight
        assert connection is not None
        assert flight is not None
        if not self.head.is_websocket:
            connection.cut()
            self.response_broke("the instance switched protocols without being asked")
            return
        flight.succeeded(time.perf_counter() - self._sent_at)
        self._first_byte_at = time.perf_counter()
        self._status = 101
        self._state = _TUNNEL
        instance_side = connection.hand_over()
        self._connection = None
        headers = response_headers(head, request_id=self.request_id, attempts=self.attempts)
        client_side, early = self._client.open_tunnel(headers)
        self._tunnel = Tunnel(client_side, instance_side, self.tunnel_ended)
        self._tunnel.start(from_client=early, from_instance=rest)

    def tunnel_ended(self, sent_bytes: int, reason: str) -> None:
        """Both sides of the tunnel are closed."""
        if reason and self._flight is not None:
            self._flight.failed(reason)
        self._bytes_sent = sent_bytes
        log.debug("tunnel_closed", extra={"request_id": self.request_id.decode()})
        self._finish()

    def instance_full(self) -> None:
        """The instance takes the body more slowly than the client sends it."""
        if not self.body.is_complete:
            self._client.pause_body()
        self._watch()

    def instance_drained(self) -> None:
        """It has caught up."""
        if not self.body.is_complete:
            self._client.resume_body()
        self._watch()

    # --- Endings ---

    def answer(self, answer: Answer) -> None:
        """End it with an answer of the gateway's own."""
        self._refuse(answer)

    def collect(self, handler: "Admin") -> None:
        """Answer it by a handler in the gateway, once its body is whole."""
        self._handler = handler
        if self.body.is_complete:
            self._handle()
            return
        self._state = _READING
        if self.head.expects_continue:
            self._client.go_on()
        self._wait_for_client()

    def _handle(self) -> None:
        handler = self._handler
        assert handler is not None
        body = b"".join(self.body.give())
        self._plane.ask_admin(self, handler(self.head.method, self.head.target.decode(), body))

    def answer_raw(self, status: int, headers: list[Header], body: bytes) -> None:
        """End it with a response that something inside the gateway made."""
        self._respond(status, headers, body)

    def _refuse(self, answer: Answer) -> None:
        level = logging.WARNING if answer.status >= 500 else logging.INFO
        if log.isEnabledFor(level):
            fields = {
                "request_id": self.request_id.decode(),
                "method": self.head.method,
                "status": answer.status,
                "code": answer.code,
                "attempts": self.attempts,
                "tried": sorted(self.tried if self._flight is None else self.tried | {self._flight.instance.id}),
            }
            log.log(level, "request_refused", extra=fields)
        headers, body = render_answer(answer, request_id=self.request_id, attempts=self.attempts)
        headers.append((b"Date", date()))
        self._respond(answer.status, headers, body)

    def _respond(self, status: int, headers: list[Header], body: bytes) -> None:
        self._status = status
        self._bytes_sent = len(body)
        # A body that was not read to its end is not worth reading: the connection closes instead.
        is_last = not self.body.is_complete or self._plane.is_stopping
        self._drop_instance()
        self._finish()
        self._client.begin_response(status, b"", headers, len(body), is_last=is_last)
        if body and has_body(self.head.method, status):
            self._client.write(body)
        self._client.end_response()

    def _cut(self, reason: str, *, is_logged: bool = True) -> None:
        """Cut the client's connection: it has the beginning, and this is all that is left to say that no more comes.

        Ending the body properly would pass a part off as the whole.
        """
        if is_logged:
            instance = self._flight.instance.id if self._flight is not None else ""
            fields = {"request_id": self.request_id.decode(), "instance": instance, "reason": reason}
            log.warning("response_cut", extra=fields)
        self._finish()
        self._client.cut()

    def _drop_instance(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.cut()
            self._connection = None

    def _finish(self) -> None:
        if self._state is _OVER:
            return
        self._state = _OVER
        if self._connection is not None or self._connecting is not None:
            self._drop_instance()
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None
        flight, plan, plane = self._flight, self._plan, self._plane
        plane.end(self)
        if plan is not None:
            plan.done(self._status, time.perf_counter() - self._began)
        access_log = plane.access_log
        if access_log is not None and (plan is None or plan.route.log):
            access_log.add(self._line(access_log.now()))
        if flight is not None:
            self._flight = None
            flight.end()

    def _line(self, now: datetime) -> dict[str, object]:
        """Of the access log."""
        ended = time.perf_counter()
        flight, plan, head = self._flight, self._plan, self.head
        return {
            "time": now,
            "request_id": self.request_id.decode(),
            "client": self.client_ip,
            "method": head.method,
            "host": (head.host or b"").decode("ascii", "replace"),
            "path": head.target.partition(b"?")[0].decode("utf-8", "replace"),
            "status": self._status,
            "bytes": self._bytes_sent,
            "instance": flight.instance.id if flight is not None else "",
            "attempts": self.attempts,
            "connect_ms": _ms(self._began, self._sent_at),
            "first_byte_ms": _ms(self._began, self._first_byte_at),
            "total_ms": _ms(self._began, ended),
            "route": plan.route.name if plan is not None else "",
            "service": plan.service.name if plan is not None else "",
        }

    def _plan_timeouts(self) -> tuple[float, float, float]:
        """Connect, response, idle; in seconds."""
        service = self._plan.service if self._plan is not None else self._plane.default_service
        return service.connect_timeout_s, service.response_timeout_s, service.idle_timeout_s

    def _lost(self) -> Answer:
        is_safe = self.head.method in SAFE_METHODS
        return answers.connection_lost(is_idempotent=self.is_idempotent, is_safe=is_safe)

    def _nobody(self) -> Answer:
        if self.attempts:
            return answers.unavailable("no instance of the app could be reached")
        return answers.unavailable("no instance of the app is healthy")


def _ms(began: float, at: float) -> float:
    return round((at - began) * 1000, 3) if at else 0.0
