"""One request through the gateway: choose an instance, try it, perhaps try another, pass the response on.

A request is sent to a second instance only if that cannot do anything twice: nothing of it was sent (no connection
could be made), or its method is idempotent (RFC 9110 9.2.2), its body is still whole, and nothing was said to the
client. So a POST or PATCH of which one byte may have left is never sent again. Whatever an app answers is passed on,
a 5xx too; only the 503 of an instance that is being drained sends an idempotent request elsewhere. An answer counts
once the client has been told of it: `attempt.py` says which are held until they are whole.

An exchange is called back and has no task: the client's connection (or HTTP/2 stream) tells it of the body, its
`Attempt` of what becomes of it at an instance. Each step is one of `State`; whatever comes late finds it OVER.
"""

import logging
import time
from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from noctule.gateway import answers
from noctule.gateway.access_log import line_of
from noctule.gateway.admin import BODY_BYTES_MAX as ADMIN_BYTES_MAX
from noctule.gateway.alarm import Alarm
from noctule.gateway.answers import Answer, render_answer
from noctule.gateway.attempt import Attempt
from noctule.gateway.body import RequestBody, is_read_ahead
from noctule.gateway.client_side import ClientSide
from noctule.gateway.compress import Compressor
from noctule.gateway.delivery import deliver_head
from noctule.gateway.failures import NOBODY_HEALTHY, Failures, log_attempt, log_cut, log_refusal, lost_answer
from noctule.gateway.h1 import date, has_body
from noctule.gateway.heads import IDEMPOTENT_METHODS, SAFE_METHODS, Header, RequestHead, ResponseHead
from noctule.gateway.pool import Flight
from noctule.gateway.traffic import Plan, Refusal
from noctule.gateway.tunnel import Tunnel

if TYPE_CHECKING:
    from noctule.gateway.admin import Admin
    from noctule.gateway.plane import DataPlane

log = logging.getLogger("noctule.gateway")


class State(Enum):
    """How far a request has come."""

    QUEUED = auto()
    """Behind others of its connection."""
    WAITING = auto()
    """For the word of a hook."""
    READING = auto()
    """Its body is read ahead."""
    TRYING = auto()
    """An instance is being connected to, or has it or a part of it; nothing has come back."""
    PASSING = auto()
    """The response has begun."""
    TUNNEL = auto()
    OVER = auto()


# Looked up once: an enumeration's members cost a search each time, and a request asks for its state often.
_QUEUED, _WAITING, _READING, _TRYING, _PASSING, _TUNNEL, _OVER = State


class Exchange:
    """One client's request and how far it has come."""

    attempts = 0
    request_id = trace = b""
    """Fresh ones, or the client's."""
    refusal: Answer | None = None
    """What is wrong with the request already, to be said when its turn comes."""
    is_last = False
    """Its client's connection closes after the response; kept here for the connection, which has many in a row."""
    plan: Plan | None = None
    attempt: Attempt | None = None
    """The one under way."""
    sent_at = first_byte_at = 0.0
    """Of the last attempt that came so far, by `time.perf_counter` as `began`; 0 for what has not come about."""
    status = bytes_sent = 0
    """What the client was answered, and how much of its body."""
    # Defaults of the class, so that a request sets only what becomes of it.
    _state = _QUEUED
    _handler: "Admin | None" = None
    _failures: Failures | None = None
    _tunnel: Tunnel | None = None
    _alarm: Alarm | None = None

    def __init__(self, plane: "DataPlane", client: ClientSide, head: RequestHead | None) -> None:
        self.plane = plane
        self.client = client
        self.head = head if head is not None else RequestHead("", b"")
        self.body = RequestBody()
        self.client_ip = client.peer
        self.began = time.perf_counter()

    @property
    def is_idempotent(self) -> bool:
        """Whether the method may be repeated at all."""
        return self.head.method in IDEMPOTENT_METHODS

    @property
    def is_safe(self) -> bool:
        """Whether the method asks for no change."""
        return self.head.method in SAFE_METHODS

    @property
    def may_repeat(self) -> bool:
        """Whether it may be sent again although an instance may have acted on it."""
        body = self.body
        return body.is_complete and not body.is_given and self.head.method in IDEMPOTENT_METHODS

    @property
    def tried(self) -> frozenset[str]:
        """Instances that have had an attempt, the one under way included."""
        before = self._failures.tried if self._failures is not None else frozenset()
        return before if self.attempt is None else before | {self.attempt.instance_id}

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
        plane, head = self.plane, self.head
        self._state = _WAITING
        plane.begin(self)
        self.request_id, self.trace = plane.fresh_ids()
        if head.request_id:
            self.request_id = head.request_id
        limits, length = plane.limits, head.content_length
        if self.refusal is not None:
            self.answer(self.refusal)
        elif length is not None and length > limits.body_bytes_max:
            self.answer(answers.too_large(limits.body_bytes_max))
        elif len(plane.exchanges) > limits.in_flight_max:
            self.answer(answers.unavailable(f"the gateway has {limits.in_flight_max} requests in flight"))
        elif plane.has_hooks and plane.take_over(self):
            # Answered by the gateway itself, or to be gone on with by `admit`.
            pass
        else:
            self.admit()

    def admit(self) -> None:
        """Find who may answer, and read the body ahead as far as that helps."""
        head = self.head
        plan = self.plane.traffic.plan(head.host_name, head.target.decode(), head.header, self.client_ip)
        if isinstance(plan, Refusal):
            self.answer(answers.of_refusal(plan.status, plan.code, plan.message, is_retryable=plan.retryable))
            return
        self.plan = plan
        if self.body.is_complete:
            self._try_next()
            return
        if not plan.has_other():
            # Before its body is read, and before a client that asked is told to send it.
            self.answer(NOBODY_HEALTHY)
            return
        if head.expects_continue and not self.body.taken_bytes:
            self.client.go_on()
        if not is_read_ahead(length=head.content_length, is_idempotent=self.is_idempotent):
            self._try_next()
            return
        self._state = _READING
        self.await_body(is_due=True)
        if self.body.is_over_buffer:
            self._try_next()

    def body_came(self, piece: bytes) -> None:
        """A piece of the request's body."""
        if self._state is _OVER:
            return
        self.body.add(piece)
        bytes_max = self.plane.limits.body_bytes_max if self._handler is None else ADMIN_BYTES_MAX
        if self.body.taken_bytes > bytes_max:
            self.fail(answers.too_large(bytes_max))
        elif self.attempt is not None and self.attempt.has_connection:
            self.attempt.push()
        elif self.body.is_over_buffer:
            if self._state is _READING and self._handler is None:
                self._try_next()
            elif self._handler is None:
                self.client.pause_body()

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
        elif self.attempt is not None and self.attempt.has_connection:
            self.attempt.push()

    def fail(self, answer: Answer) -> None:
        """The client broke the protocol, or a bound, within its request; no instance is to blame."""
        if self._state is _QUEUED:
            self.refusal = answer
        elif self._state is _PASSING or self._state is _TUNNEL:
            self.cut(answer.message, is_logged=False)
        elif self._state is not _OVER:
            was_sent = self.sent_at or (self.attempt is not None and self.attempt.sent_at)
            self.answer(replace(answer, outcome="unknown") if was_sent and not self.is_safe else answer)

    def client_left(self) -> None:
        """There is nobody to answer any more."""
        if self._state is _OVER:
            return
        if self._state is _QUEUED:
            self._state = _OVER
            return
        log.debug("client_left", extra={"request_id": self.request_id.decode()})
        self.status = self.status or 499
        self._abandon()

    def client_full(self) -> None:
        """The client does not read as fast as the instance writes."""
        if self.attempt is not None:
            self.attempt.pause()

    def client_drained(self) -> None:
        """It has caught up."""
        if self.attempt is not None:
            self.attempt.resume()

    def shut(self) -> None:
        """The gateway stops and will not wait any longer."""
        if self._tunnel is not None:
            self._tunnel.shut()
        elif self._state is not _OVER:
            self.cut("the gateway stops")

    # --- Which instance, and when another ---

    def _try_next(self) -> None:
        plan, failures = self.plan, self._failures
        assert plan is not None
        flight = plan.next() if failures is None else failures.next_flight(plan, self.attempts)
        if flight is not None:
            self._try(plan, flight)
        else:
            self.answer(NOBODY_HEALTHY if failures is None else failures.answer(self))

    def _try(self, plan: Plan, flight: Flight) -> None:
        self.attempts += 1
        self._state = _TRYING
        self.attempt = attempt = Attempt(self, plan, flight)
        was_lost = self._failures is not None and self._failures.was_lost
        attempt.begin(may_take_kept=not was_lost and self.may_repeat)

    def goes_elsewhere(self) -> bool:
        """Whether another instance is tried although this one has answered, which is let go of then."""
        plan, attempt = self.plan, self.attempt
        assert plan is not None
        assert attempt is not None
        if not self.may_repeat or self.attempts >= 1 + plan.service.retries_max:
            return False
        other = plan.next(self.tried)
        if other is None:
            return False
        attempt.drop()
        self._leave_instance("503 while draining")
        self._try(plan, other)
        return True

    def _leave_instance(self, reason: str, *, was_lost: bool = False, is_stale: bool = False) -> None:
        """It has had its attempt; another may have one."""
        attempt, self.attempt = self.attempt, None
        assert attempt is not None
        log_attempt(self, attempt.instance_id, reason)
        if self._failures is None:
            self._failures = Failures()
        self._failures.add(attempt.instance_id, was_lost=was_lost, is_stale=is_stale)
        self._note_times(attempt)
        attempt.flight.end()

    # --- What its attempt tells ---

    def attempt_failed(self, reason: str) -> None:
        """The instance was not sent anything."""
        self._leave_instance(reason)
        self._try_next()

    def attempt_lost(self, reason: str, *, is_stale: bool) -> None:
        """The instance may have acted on what it was sent; `is_stale`: or have closed a kept connection just before."""
        if not self.may_repeat:
            self.answer(lost_answer(self))
            return
        self._leave_instance(reason, was_lost=True, is_stale=is_stale)
        self._try_next()

    def await_body(self, *, is_due: bool) -> None:
        """Bound the wait for the rest of the request's body; `is_due`: it is the client who is to move next."""
        if is_due:
            if self._alarm is None:
                self._alarm = Alarm(self.plane.loop, self._client_late)
            self._alarm.set(self._client_idle_s)
        elif self._alarm is not None:
            self._alarm.clear()

    def deliver(self, head: ResponseHead, set_cookie: str | None) -> Compressor | None:
        """An instance's answer counts: tell the client its head. Its body goes through what is returned."""
        assert self.plan is not None
        self._state = _PASSING
        self.status = head.status
        return deliver_head(self, self.plan, head, set_cookie)

    def delivered(self) -> None:
        """All of it is with the client's side."""
        self._finish()
        self.client.end_response()

    def become_tunnel(self, tunnel: Tunnel) -> None:
        """The instance has switched protocols; `tunnel_ended` follows."""
        self.status = 101
        self._state = _TUNNEL
        self._tunnel = tunnel

    def tunnel_ended(self, sent_bytes: int) -> None:
        """Both sides of the tunnel are closed."""
        self.bytes_sent = sent_bytes
        log.debug("tunnel_closed", extra={"request_id": self.request_id.decode()})
        self._finish()

    def _client_late(self) -> None:
        self.fail(answers.too_slow(self._client_idle_s))

    @property
    def _client_idle_s(self) -> float:
        service = self.plan.service if self.plan is not None else self.plane.default_service
        return service.idle_timeout_s

    # --- Answers of the gateway's own ---

    def collect(self, handler: "Admin") -> None:
        """Answer it by a handler in the gateway, once its body is whole."""
        self._handler = handler
        if self.body.is_complete:
            self._handle()
            return
        self._state = _READING
        if self.head.expects_continue:
            self.client.go_on()
        self.await_body(is_due=True)

    def _handle(self) -> None:
        handler = self._handler
        assert handler is not None
        body = b"".join(self.body.give())
        self.plane.ask_admin(self, handler(self.head.method, self.head.target.decode(), body))

    def answer(self, answer: Answer) -> None:
        """End it with an answer of the gateway's own."""
        log_refusal(self, answer)
        headers, body = render_answer(answer, request_id=self.request_id, attempts=self.attempts)
        headers.append((b"Date", date()))
        self.answer_raw(answer.status, headers, body)

    def answer_raw(self, status: int, headers: list[Header], body: bytes) -> None:
        """End it with a response that something inside the gateway made."""
        self.status = status
        self.bytes_sent = len(body)
        # A body that was not read to its end is not worth reading: the connection closes instead.
        is_last = not self.body.is_complete or self.plane.is_stopping
        self._abandon()
        self.client.begin_response(status, b"", headers, len(body), is_last=is_last)
        if body and has_body(self.head.method, status):
            self.client.write(body)
        self.client.end_response()

    # --- The end ---

    def cut(self, reason: str, *, is_logged: bool = True) -> None:
        """Cut the client's connection: it has the beginning, and this is all that is left to say that no more comes.

        Ending the body properly would pass a part off as the whole.
        """
        if is_logged:
            log_cut(self, self.attempt.instance_id if self.attempt is not None else "", reason)
        self._abandon()
        self.client.cut()

    def _abandon(self) -> None:
        """End it, and whatever is under way at an instance."""
        if self.attempt is not None:
            self.attempt.drop()
        self._finish()

    def _finish(self) -> None:
        if self._state is _OVER:
            return
        self._state = _OVER
        attempt, plan, plane = self.attempt, self.plan, self.plane
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None
        plane.end(self)
        if plan is not None:
            plan.done(self.status, time.perf_counter() - self.began)
        access_log = plane.access_log
        if access_log is not None and (plan is None or plan.route.log):
            if attempt is not None:
                self._note_times(attempt)
            access_log.add(line_of(self, access_log.now()))
        if attempt is not None:
            # They know each other; one that forgets is enough for both to be freed at once.
            self.attempt = None
            attempt.flight.end()

    def _note_times(self, attempt: Attempt) -> None:
        self.sent_at = attempt.sent_at or self.sent_at
        self.first_byte_at = attempt.first_byte_at or self.first_byte_at
