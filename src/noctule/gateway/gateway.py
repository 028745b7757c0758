"""The gateway as one object: start it, give it orders, stop it.

Start order: connections to instances, probes, the doors. Stop order: the doors, what is in flight, the clients'
connections, probes, connections to instances.
"""

import asyncio
import errno
import logging
import random
import ssl
from collections.abc import Callable

from noctule.adapters.system_clock import SystemClock
from noctule.base.ensure import ensure
from noctule.base.errors import ConfigError, UnavailableError
from noctule.gateway.access_log import AccessLog
from noctule.gateway.admin import Admin
from noctule.gateway.downstream import ClientConnection
from noctule.gateway.health import Prober
from noctule.gateway.orders import Orders
from noctule.gateway.pictures import GatewayPicture
from noctule.gateway.plane import DataPlane, RateLimit
from noctule.gateway.tls import HANDSHAKE_TIMEOUT_S, SHUTDOWN_TIMEOUT_S, Certificates, TlsDoor
from noctule.gateway.traffic import Traffic

BACKLOG = 4_096
"""Connections that the system holds until they are accepted."""

CUT_TIMEOUT_S = 1.0
"""How long what is cut after `drain_s` may take to close."""

log = logging.getLogger("noctule.gateway")


class Gateway:
    """An HTTP/1.1, HTTP/2 and WebSocket gateway in the caller's event loop; all methods are called there.

    The orders must have been validated. Make one for each start: a stopped gateway is not started again.
    """

    def __init__(
        self,
        orders: Orders,
        *,
        access_log: AccessLog | None = None,
        rate_limit: RateLimit | None = None,
        admin: Admin | None = None,
        shares_port: bool = False,
    ) -> None:
        # Spreads clients over shares; nothing secret hangs on it.
        self.traffic = Traffic(orders, SystemClock(), random.Random())
        self._access_log = access_log
        self._rate_limit = rate_limit
        self._admin = admin
        self._shares_port = shares_port
        self._running: _Running | None = None

    async def start(self) -> None:
        """Listen, and probe the instances that are listed.

        `ConfigError` when the address cannot be listened on; nothing is left running then.
        """
        ensure(self._running is None, "a gateway is started once")
        plane = DataPlane(self.traffic, access_log=self._access_log, rate_limit=self._rate_limit, admin=self._admin)
        running = _Running(plane, shares_port=self._shares_port)
        await running.start()
        self._running = running
        log.info("gateway_started", extra={"host": plane.model.host, "port": running.port})

    async def stop(self, drain_s: float = 10.0) -> None:
        """Accept nobody new, give what is in flight up to `drain_s` seconds, then cut it (WebSockets with 1001).

        Takes 1 s more at most for what does not let itself be cut. Does nothing when the gateway does not run.
        """
        running, self._running = self._running, None
        if running is not None:
            await running.stop(drain_s)
            log.info("gateway_stopped", extra={"cut": running.cut_count})

    @property
    def port(self) -> int:
        """The port it listens on, also when the system chose it; the configured one before `start`."""
        return self.traffic.orders.model.port if self._running is None else self._running.port

    @property
    def tls_port(self) -> int:
        """The same of the port for TLS; 0 when there is none."""
        return self.traffic.orders.model.tls_port if self._running is None else self._running.tls_port

    @property
    def plane(self) -> DataPlane | None:
        """What carries the traffic, between `start` and `stop`."""
        return None if self._running is None else self._running.plane

    async def wait_idle(self, service: str, instance_id: str, timeout_s: float = 30.0) -> bool:
        """Whether an instance that gets nothing new is done with what it had, after `timeout_s` seconds at most."""
        is_done = await self.traffic.wait_until(lambda: self.traffic.is_idle(service, instance_id), timeout_s)
        log.info("instance_drained", extra={"instance": instance_id, "is_done": is_done})
        return is_done

    def picture(self) -> GatewayPicture:
        """What the gateway knows and has counted; costs microseconds for each instance."""
        return self.traffic.picture()

    async def wait_healthy(self, count: int, timeout_s: float) -> None:
        """Return once `count` instances are healthy; `UnavailableError` naming the others after `timeout_s` s."""

        def healthy() -> int:
            return sum(instance.state == "healthy" for instance in self.picture().instances)

        if await self.traffic.wait_until(lambda: healthy() >= count, timeout_s):
            return
        states = ", ".join(f"{instance.id} is {instance.state}" for instance in self.picture().instances)
        raise UnavailableError(
            f"{healthy()} of {count} instances are healthy after {timeout_s:g} s: "
            f"{states or 'none is listed'}; see their logs"
        )


class _Running:
    """What exists between start and stop."""

    def __init__(self, plane: DataPlane, *, shares_port: bool) -> None:
        self.plane = plane
        self._traffic = plane.traffic
        self._shares_port = shares_port
        self._servers: list[asyncio.Server] = []
        self._probing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.tls_port = plane.model.tls_port
        self._prober = Prober(plane.traffic, plane.upstream)
        self.port = plane.model.port
        self.cut_count = 0
        """How many requests were still in flight when the drain time was over."""

    async def start(self) -> None:
        """All or nothing."""
        self._probing = asyncio.create_task(self._prober.run(), name="gateway-probes")
        model = self.plane.model
        port = model.port
        try:
            self.port = await self._listen(lambda: ClientConnection(self.plane), port)
            if model.tls_port:
                port = model.tls_port
                certificates = Certificates(model.certificates, has_http2=model.http2)
                self.plane.on_model = lambda new: certificates.follow(new.certificates)
                self._watching = asyncio.create_task(certificates.watch(), name="gateway-certificates")
                self.tls_port = await self._listen(lambda: TlsDoor(self.plane), port, certificates.context)
        except OSError as error:
            await self.stop(0.0)
            raise _listen_error(model.host, port, error) from error
        except BaseException:
            await self.stop(0.0)
            raise

    async def stop(self, drain_s: float) -> None:
        """In the order told at the top of this file."""
        plane = self.plane
        plane.is_stopping = True
        for server in self._servers:
            server.close()
        for client in list(plane.clients):
            client.stop()
        await self.plane.wait_quiet(drain_s)
        self.cut_count = plane.in_flight
        for exchange in list(plane.exchanges):
            exchange.shut()
        for client in list(plane.clients):
            client.cut()
        await self.plane.wait_quiet(CUT_TIMEOUT_S)
        self._prober.stop()
        if self._probing is not None:
            await self._probing
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await plane.close()

    async def _listen(
        self, factory: Callable[[], asyncio.Protocol], port: int, context: ssl.SSLContext | None = None
    ) -> int:
        server = await asyncio.get_running_loop().create_server(
            factory,
            self.plane.model.host,
            port,
            backlog=BACKLOG,
            reuse_port=self._shares_port or None,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if context else None,
            ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S if context else None,
        )
        self._servers.append(server)
        found: int = server.sockets[0].getsockname()[1]
        return found


def _listen_error(host: str, port: int, error: OSError) -> ConfigError:
    where = f"{host}:{port}"
    match error.errno:
        case errno.EADDRINUSE:
            return ConfigError(
                f"gateway: {where} is in use by another program; stop that program or choose another port "
                f"(0 lets the system choose)"
            )
        case errno.EACCES:
            return ConfigError(f"gateway: {where} may not be listened on; ports below 1024 need a privilege")
        case _:
            reason = error.strerror or str(error)
            return ConfigError(f"gateway: cannot listen on {where}: {reason}; check host and port")
