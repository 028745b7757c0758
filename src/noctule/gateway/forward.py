"""One request through the gateway: choose an instance, try it, perhaps try another, pass the response on.

A request is sent to a second instance only if that cannot do anything twice: nothing of it was sent (no connection
could be made), or its method is idempotent (RFC 9110 9.2.2), its body is still whole, and nothing was said to the
client. So a POST or PATCH of which one byte may have left is never sent again. Whatever an app answers is passed on,
a 5xx too; only the 503 of an instance that is being drained sends an idempotent request elsewhere.
"""

import asyncio
import logging
import uuid
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from noctule.gateway import answers
from noctule.gateway.answers import ATTEMPTS_HEADER, Answer, RefusedError, render_answer
from noctule.gateway.body import RequestBody
from noctule.gateway.config import GatewayConfig
from noctule.gateway.heads import (
    IDEMPOTENT_METHODS,
    SAFE_METHODS,
    check_passable,
    choose_request_id,
    is_trusted,
    request_headers,
    response_headers,
    split_target,
    websocket_protocols,
)
from noctule.gateway.instances import Instance
from noctule.gateway.pool import Flight
from noctule.gateway.server import PassedResponse
from noctule.gateway.traffic import Plan, Refusal, Traffic
from noctule.gateway.upstream import BrokenError, NotSentError, OpenWebSocket, Upstream
from noctule.gateway.websocket import CLOSE_TIMEOUT_S, relay

ATTEMPTS_MAX = 3
"""Instances that one request is tried on."""

log = logging.getLogger("noctule.gateway")


@dataclass(slots=True)
class Exchange:
    """One client's request and how far it has come."""

    request: web.BaseRequest
    request_id: str
    body: RequestBody
    target: str = ""
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    is_websocket: bool = False
    attempts: int = 0
    tried: set[str] = field(default_factory=set)
    stale: Instance | None = None
    """An instance that closed a kept connection: not to blame, and good for a fresh one if there is no other."""
    was_lost: bool = False
    """An instance may have acted on it, and its answer is lost."""

    @property
    def is_idempotent(self) -> bool:
        """Whether the method may be repeated at all."""
        return self.request.method in IDEMPOTENT_METHODS

    @property
    def is_safe(self) -> bool:
        """Whether the method changes nothing, so that its outcome is never in doubt."""
        return self.request.method in SAFE_METHODS

    @property
    def may_repeat(self) -> bool:
        """Whether it may be sent again although an instance may have acted on it."""
        return self.is_idempotent and self.body.is_repeatable


class Forwarder:
    """Handles every request of the gateway's server."""

    def __init__(self, config: GatewayConfig, traffic: Traffic, upstream: Upstream) -> None:
        self._config = config
        self._traffic = traffic
        self._upstream = upstream
        self.is_stopping = False
        """Set when the gateway stops: each client's connection is closed after the response it waits for."""
        self.cut = asyncio.Event()
        """Set when WebSockets are to end."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The response, already sent in part or whole if it is an instance's."""
        request_id = choose_request_id(request.headers, uuid.uuid4().hex)
        exchange = Exchange(request, request_id, RequestBody(request, self._config))
        try:
            self._read_head(exchange)
            exchange.body.check_declared()
            plan = self._plan(exchange)
            await exchange.body.read_ahead(is_idempotent=exchange.is_idempotent)
            return await self._try_instances(exchange, plan)
        except RefusedError as error:
            return self._refuse(exchange, error.answer)

    def _read_head(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.method == "CONNECT":
            raise RefusedError(Answer(405, "method_not_allowed", "CONNECT is for forward proxies; this is a gateway"))
        if len(request.headers.getall("Host", ())) > 1:
            raise RefusedError(answers.bad_request("the request has more than one Host header"))
        try:
            check_passable(request.headers)
        except ValueError as error:
            raise RefusedError(answers.bad_request(str(error))) from None
        exchange.target, host = split_target(request.raw_path)
        exchange.is_websocket = web.WebSocketResponse(compress=False).can_prepare(request).ok
        exchange.headers = request_headers(
            request.headers,
            host=host,
            scheme=request.scheme,
            peer=request.remote,
            is_peer_trusted=is_trusted(request.remote, self._config.trusted_networks),
            request_id=exchange.request_id,
        )

    def _plan(self, exchange: Exchange) -> Plan:
        """Refuse before the body is read, and before a client that asked is told to send it."""
        request = exchange.request
        plan = self._traffic.plan(
            request.headers.get("Host", ""), exchange.target, request.headers.get, request.remote or ""
        )
        if isinstance(plan, Refusal):
            raise RefusedError(Answer(plan.status, plan.code, plan.message, plan.retryable))
        if not plan.has_other():
            raise RefusedError(answers.unavailable("no instance of the app is healthy"))
        return plan

    async def _try_instances(self, exchange: Exchange, plan: Plan) -> web.StreamResponse:
        while exchange.attempts < ATTEMPTS_MAX:
            if exchange.attempts and not plan.may_retry():
                break
            flight = self._next_flight(exchange, plan)
            if flight is None:
                break
            exchange.attempts += 1
            exchange.tried.add(flight.instance.id)
            try:
                answered = await self._attempt(exchange, plan, flight)
                if isinstance(answered, OpenWebSocket):
                    return await self._pass_websocket(exchange, answered)
                if answered is not None:
                    return await self._pass_response(exchange, flight, answered)
            finally:
                flight.end()
        if exchange.was_lost:
            raise RefusedError(_lost(exchange))
        raise RefusedError(answers.unavailable("no instance of the app could be reached"))

    def _next_flight(self, exchange: Exchange, plan: Plan) -> Flight | None:
        flight = plan.next(exchange.tried)
        if flight is None and exchange.stale is not None:
            # Once: the fresh connection's failure is the instance's own.
            flight = plan.next(exchange.tried - {exchange.stale.id})
            exchange.stale = None
        return flight

    async def _attempt(
        self, exchange: Exchange, plan: Plan, flight: Flight
    ) -> aiohttp.ClientResponse | OpenWebSocket | None:
        """What the instance answered; None when the request may be, and is to be, tried elsewhere."""
        patience_s = self._config.response_timeout_s
        try:
            async with asyncio.timeout(patience_s) as patience:
                answered = await self._send(exchange, flight.instance, patience)
        except NotSentError as error:
            flight.failed(str(error), is_gone=error.is_gone)
            self._note_retry(exchange, flight, str(error))
            return None
        except BrokenError as error:
            if exchange.body.fault is not None:
                raise exchange.body.fault from None
            if not error.was_kept:
                flight.failed(str(error))
            exchange.was_lost = True
            if not exchange.may_repeat:
                raise RefusedError(_lost(exchange)) from error
            if error.was_kept:
                exchange.stale = flight.instance
            self._note_retry(exchange, flight, str(error))
            return None
        except TimeoutError:
            flight.failed("no response in time")
            late = answers.no_answer(patience_s, is_idempotent=exchange.is_idempotent, is_safe=exchange.is_safe)
            raise RefusedError(late) from None
        flight.succeeded()
        if isinstance(answered, aiohttp.ClientResponse) and self._should_leave(exchange, plan, flight, answered):
            answered.close()
            self._note_retry(exchange, flight, "503 while draining")
            return None
        return answered

    async def _send(
        self, exchange: Exchange, instance: Instance, patience: asyncio.Timeout
    ) -> aiohttp.ClientResponse | OpenWebSocket:
        if exchange.is_websocket:
            protocols = websocket_protocols(exchange.request.headers)
            return await self._upstream.ask_websocket(instance, exchange.target, exchange.headers, protocols)
        try:
            return await self._upstream.ask(
                instance,
                exchange.request.method,
                exchange.target,
                exchange.headers,
                exchange.body.data(patience),
                may_use_kept=exchange.may_repeat and not exchange.was_lost,
            )
        finally:
            exchange.body.let_go()

    def _should_leave(self, exchange: Exchange, plan: Plan, flight: Flight, response: aiohttp.ClientResponse) -> bool:
        return (
            response.status == 503
            and flight.is_draining
            and exchange.may_repeat
            and exchange.attempts < ATTEMPTS_MAX
            and plan.has_other(exchange.tried)
        )

    async def _pass_response(
        self, exchange: Exchange, flight: Flight, response: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        try:
            passed = self._begin_response(exchange, response)
            await self._copy_body(exchange, flight, response, passed)
            return passed
        finally:
            response.close()

    async def _copy_body(
        self, exchange: Exchange, flight: Flight, response: aiohttp.ClientResponse, passed: web.StreamResponse
    ) -> None:
        idle_timeout_s = self._config.idle_timeout_s
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(idle_timeout_s) as patience:
                await passed.prepare(exchange.request)
                while piece := await _next_piece(response):
                    await passed.write(piece)
                    patience.reschedule(loop.time() + idle_timeout_s)
                await passed.write_eof()
        except BrokenError as error:
            flight.failed(str(error))
            self._cut(exchange, flight, passed, str(error))
        except TimeoutError:
            self._cut(exchange, flight, passed, "neither side moved in time")
        except ConnectionError:
            # The client went away. aiohttp meets the same when it ends the response, and closes the connection.
            log.debug("client_left", extra={"request_id": exchange.request_id})

    def _begin_response(self, exchange: Exchange, response: aiohttp.ClientResponse) -> web.StreamResponse:
        try:
            check_passable(response.headers)
        except ValueError as error:
            raise RefusedError(answers.bad_response(str(error), is_safe=exchange.is_safe)) from None
        headers = response_headers(
            response.headers,
            request_id=exchange.request_id,
            attempts_header=ATTEMPTS_HEADER,
            attempts=exchange.attempts,
        )
        passed = PassedResponse(status=response.status, reason=response.reason, headers=headers)
        if self.is_stopping:
            passed.force_close()
        return passed

    async def _pass_websocket(self, exchange: Exchange, opened: OpenWebSocket) -> web.StreamResponse:
        instance_side = opened.websocket
        client_side: web.WebSocketResponse = web.WebSocketResponse(
            timeout=CLOSE_TIMEOUT_S,
            autoclose=False,
            autoping=False,
            compress=False,
            protocols=(instance_side.protocol,) if instance_side.protocol else (),
            heartbeat=self._config.websocket_heartbeat_s,
            max_msg_size=self._config.websocket_message_bytes_max,
        )
        client_side.headers.extend(
            response_headers(
                opened.headers,
                request_id=exchange.request_id,
                attempts_header=ATTEMPTS_HEADER,
                attempts=exchange.attempts,
            )
        )
        try:
            await client_side.prepare(exchange.request)
        except BaseException:
            await instance_side.close(code=aiohttp.WSCloseCode.GOING_AWAY)
            raise
        ending = await relay(client_side, instance_side, self.cut)
        log.debug("websocket_closed", extra={"request_id": exchange.request_id, "code": ending.code})
        return client_side

    def _refuse(self, exchange: Exchange, answer: Answer) -> web.StreamResponse:
        level = logging.WARNING if answer.status >= 500 else logging.INFO
        fields = {
            "request_id": exchange.request_id,
            "method": exchange.request.method,
            "status": answer.status,
            "code": answer.code,
            "attempts": exchange.attempts,
            "tried": sorted(exchange.tried),
        }
        log.log(level, "request_refused", extra=fields)
        # A body that was not read to its end is not worth reading: the connection closes instead.
        is_unread = not exchange.request.content.at_eof()
        return render_answer(
            answer,
            request_id=exchange.request_id,
            attempts=exchange.attempts,
            is_last=is_unread or self.is_stopping,
        )

    def _note_retry(self, exchange: Exchange, flight: Flight, reason: str) -> None:
        fields = {"request_id": exchange.request_id, "instance": flight.instance.id, "reason": reason}
        log.info("attempt_failed", extra={**fields, "attempt": exchange.attempts})

    def _cut(self, exchange: Exchange, flight: Flight, passed: web.StreamResponse, reason: str) -> None:
        """Cut the client's connection: it has the beginning, and this is all that is left to say that no more comes.

        Ending the body properly would pass a part off as the whole.
        """
        fields = {"request_id": exchange.request_id, "instance": flight.instance.id, "reason": reason}
        log.warning("response_cut", extra=fields)
        passed.force_close()
        if exchange.request.transport is not None:
            exchange.request.transport.abort()


async def _next_piece(response: aiohttp.ClientResponse) -> bytes:
    """The next piece of the body as it comes, empty at its end; `BrokenError` when the instance's side broke.

    Told apart here, because a client that goes away raises an aiohttp client error too, when it is written to.
    """
    try:
        return await response.content.readany()
    except (aiohttp.ClientError, OSError) as error:
        raise BrokenError("the connection closed within the response") from error


def _lost(exchange: Exchange) -> Answer:
    return answers.connection_lost(is_idempotent=exchange.is_idempotent, is_safe=exchange.is_safe)
