"""What all connections of one data plane share: the model, who decides, the connections to instances, the counters."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Protocol

from noctule.gateway import answers
from noctule.gateway.access_log import AccessLog
from noctule.gateway.admin import HEALTH, PREFIX, Admin, AdminAnswer, is_admitted
from noctule.gateway.compress import Compressor, choose_compressor
from noctule.gateway.exchange import Exchange
from noctule.gateway.heads import ResponseHead, client_address
from noctule.gateway.model import GatewayModel, Limits, Service
from noctule.gateway.networks import Network, is_in, parse_networks
from noctule.gateway.traffic import Traffic
from noctule.gateway.upstream import Upstream

log = logging.getLogger("noctule.gateway")

RateLimit = Callable[[str, str, str, str], float | Awaitable[float]]
"""Client's address, method, host, path: how many seconds it is to wait, 0 for go on. May be awaited."""

_IDS_DRAWN = 128
"""For so many requests at once: a call of the system for each would cost more than all else of its ids."""

_ADMIN_PREFIX = PREFIX.encode()


class Client(Protocol):
    """One client's connection."""

    def stop(self) -> None:
        """Take no further request; close as soon as nothing is in flight."""

    def cut(self) -> None:
        """Close now."""


class DataPlane:
    """One per gateway process. It follows the model of its traffic; requests that have begun keep the old one."""

    def __init__(
        self,
        traffic: Traffic,
        *,
        access_log: AccessLog | None = None,
        rate_limit: RateLimit | None = None,
        admin: Admin | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.upstream = Upstream()
        self.access_log = access_log
        self.traffic = traffic
        self.is_stopping = False
        self._quiet = asyncio.Event()
        self.default_service = Service(name="none")
        self.clients: set[Client] = set()
        self.exchanges: set[Exchange] = set()
        self.requests = 0
        self.refused_connections = 0
        self._rate_limit = rate_limit
        self._admin = admin
        self._waits: set[asyncio.Future[float]] = set()
        self._answering: set[asyncio.Future[AdminAnswer]] = set()
        self._ids: list[tuple[bytes, bytes]] = []
        self.on_model: Callable[[GatewayModel], None] = _nothing
        """Called with each new model."""
        self._follow()

    def _follow(self) -> None:
        """Do as the traffic's model says now; the addresses listened on stay."""
        self._orders = self.traffic.orders
        self.model = model = self._orders.model
        self.limits: Limits = model.limits
        self._networks: tuple[Network, ...] = parse_networks(model.trusted_proxies)
        self._redirects = model.redirect_to_tls and bool(model.tls_port)
        self.has_hooks = self._redirects or self._rate_limit is not None or self._admin is not None
        self.on_model(model)

    def admit_client(self, client: Client) -> bool:
        """Whether one more connection is within the bound."""
        if self.traffic.orders is not self._orders:
            self._follow()
        if len(self.clients) >= self.limits.connections_max:
            self.refused_connections += 1
            return False
        self.clients.add(client)
        return True

    def forget_client(self, client: Client) -> None:
        """A connection is closed, or a tunnel's."""
        self.clients.discard(client)
        if self.is_stopping:
            self._notice()

    @property
    def in_flight(self) -> int:
        """Requests that have begun and are not over, those that wait for their client included."""
        return len(self.exchanges)

    @property
    def clients_count(self) -> int:
        """Connections of clients that stand, but for tunnels."""
        return len(self.clients)

    @property
    def tunnels_count(self) -> int:
        """WebSockets and the like that are open."""
        return sum(exchange.is_tunnel for exchange in self.exchanges)

    def is_trusted(self, peer: str) -> bool:
        """Whether forwarding headers from this address are believed."""
        return bool(self._networks) and is_in(peer, self._networks)

    def begin(self, exchange: Exchange) -> None:
        """It is in flight from now on."""
        if self.traffic.orders is not self._orders:
            self._follow()
        self.requests += 1
        self.exchanges.add(exchange)
        if exchange.head.hops and self._networks:
            exchange.client_ip = client_address(exchange.head, exchange.client_ip, self._networks)

    def end(self, exchange: Exchange) -> None:
        """It is over."""
        self.exchanges.discard(exchange)
        if self.is_stopping:
            self._notice()

    def fresh_ids(self) -> tuple[bytes, bytes]:
        """A request id and a traceparent that carries it as its trace id, so that one finds the other."""
        if not self._ids:
            self._ids = _draw_ids()
        return self._ids.pop()

    def compressor_for(self, accept_encoding: bytes, head: ResponseHead) -> Compressor | None:
        """What its body goes through, with its headers changed to say so; None to leave it as it is."""
        return choose_compressor(self.model.compression, accept_encoding, head)

    def take_over(self, exchange: Exchange) -> bool:
        """Whether the gateway answers this request itself, or has it wait for the rate limit's word."""
        head = exchange.head
        if self._admin is not None and self.model.status and head.target.startswith(_ADMIN_PREFIX):
            self._answer_admin(exchange, self._admin)
            return True
        if self._redirects and exchange.client.scheme == b"http":
            exchange.answer(answers.go_to_tls(self._tls_location(exchange)))
            return True
        if self._rate_limit is None:
            return False
        path = head.target.partition(b"?")[0].decode()
        verdict = self._rate_limit(exchange.client_ip, head.method, head.host_name, path)
        if isinstance(verdict, int | float):
            if verdict > 0:
                exchange.answer(answers.too_many_requests(verdict))
            return verdict > 0
        waiting = asyncio.ensure_future(verdict)
        self._waits.add(waiting)
        waiting.add_done_callback(lambda done: self._heard(exchange, done))
        return True

    def _heard(self, exchange: Exchange, done: "asyncio.Future[float]") -> None:
        self._waits.discard(done)
        if done.cancelled() or exchange.is_over:
            return
        if (error := done.exception()) is not None:
            # A limit that cannot be asked must not take the app down with it.
            log.error("rate_limit_error", exc_info=error)
        elif done.result() > 0:
            exchange.answer(answers.too_many_requests(done.result()))
            return
        exchange.admit()

    def _answer_admin(self, exchange: Exchange, admin: Admin) -> None:
        head = exchange.head
        path = head.target.decode()
        if (head.has_forwarding and path != HEALTH) or not is_admitted(exchange.client_ip, path, head.header):
            exchange.answer(answers.Answer(404, "not_found", "there is nothing at this path"))
            return
        exchange.collect(admin)

    def ask_admin(self, exchange: Exchange, asking: Awaitable[AdminAnswer]) -> None:
        """Answer an exchange by what the gateway says of itself, once it is there."""

        def told(done: "asyncio.Future[AdminAnswer]") -> None:
            self._answering.discard(done)
            if done.cancelled() or exchange.is_over:
                return
            if (error := done.exception()) is not None:
                log.error("gateway_error", exc_info=error)
                exchange.answer(answers.Answer(500, "internal", "the gateway failed; its log tells why"))
                return
            status, headers, body = done.result()
            exchange.answer_raw(status, [(name.encode(), value.encode()) for name, value in headers], body)

        answering = asyncio.ensure_future(asking)
        self._answering.add(answering)
        answering.add_done_callback(told)

    def _tls_location(self, exchange: Exchange) -> bytes:
        host = (exchange.head.host or b"").decode("ascii")
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        port = "" if self.model.tls_port == 443 else f":{self.model.tls_port}"
        return f"https://{name}{port}".encode("ascii") + exchange.head.target

    async def wait_quiet(self, timeout_s: float) -> None:
        """Until no request is in flight and every client has gone, or the time is over."""
        self._quiet.clear()
        if not self.exchanges and not self.clients:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            pass

    def _notice(self) -> None:
        if self.is_stopping and not self.exchanges and not self.clients:
            self._quiet.set()

    async def close(self) -> None:
        """Let go of everything that is left."""
        for waiting in list(self._waits):
            waiting.cancel()
        for answering in list(self._answering):
            answering.cancel()
        await self.upstream.close()
        if self.access_log is not None:
            await self.access_log.close()


def _draw_ids() -> list[tuple[bytes, bytes]]:
    """A trace's id is 16 random bytes and serves as the request's; a span's is 8."""
    digits = os.urandom(24 * _IDS_DRAWN).hex().encode("ascii")
    pairs = [(digits[start : start + 32], digits[start + 32 : start + 48]) for start in range(0, len(digits), 48)]
    return [(trace, b"00-%b-%b-01" % (trace, span)) for trace, span in pairs]


def _nothing(_: GatewayModel) -> None:
    pass
