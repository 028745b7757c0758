"""The gateway as one object: start it, give it orders, stop it.

Start order: connections to instances, probes, the door. Stop order: the door, what is in flight, the clients'
connections, probes, connections to instances.
"""

import asyncio
import errno
import logging
import random

from aiohttp import web

from noctule.adapters.system_clock import SystemClock
from noctule.base.ensure import ensure
from noctule.base.errors import ConfigError, UnavailableError
from noctule.gateway.config import GatewayConfig, config_of
from noctule.gateway.forward import Forwarder
from noctule.gateway.health import Prober
from noctule.gateway.orders import Orders
from noctule.gateway.pictures import GatewayPicture
from noctule.gateway.server import GatewayServer
from noctule.gateway.traffic import Traffic
from noctule.gateway.upstream import Upstream

BACKLOG = 1_024
"""Connections that the system holds until they are accepted."""

CUT_TIMEOUT_S = 1.0
"""aiohttp waits this long twice: for what is still in flight after `drain_s`, and again once it has cancelled it."""

log = logging.getLogger("noctule.gateway")


class Gateway:
    """An HTTP/1.1 and WebSocket gateway in the caller's event loop; all methods are called there.

    The orders must have been validated. Make one for each start: a stopped gateway is not started again.
    """

    def __init__(self, orders: Orders, config: GatewayConfig | None = None) -> None:
        self._config = config or config_of(orders.model)
        self._config.validate()
        # Spreads clients over shares; nothing secret hangs on it.
        self.traffic = Traffic(orders, SystemClock(), random.Random())
        self._running: _Running | None = None

    async def start(self) -> None:
        """Listen, and probe the instances that are listed.

        `ConfigError` when the address cannot be listened on; nothing is left running then.
        """
        ensure(self._running is None, "a gateway is started once")
        running = _Running(self._config, self.traffic)
        await running.start()
        self._running = running
        log.info("gateway_started", extra={"host": self._config.host, "port": running.port})

    async def stop(self, drain_s: float = 10.0) -> None:
        """Accept nobody new, give what is in flight up to `drain_s` seconds, then cut it (WebSockets with 1001).

        Takes 2 s more at most for what does not let itself be cut. Does nothing when the gateway does not run.
        """
        running, self._running = self._running, None
        if running is not None:
            await running.stop(drain_s)
            log.info("gateway_stopped", extra={"cut": running.cut_count})

    @property
    def port(self) -> int:
        """The port it listens on, also when the system chose it; the configured one before `start`."""
        return self._config.port if self._running is None else self._running.port

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

    def __init__(self, config: GatewayConfig, traffic: Traffic) -> None:
        self._config = config
        self._traffic = traffic
        self._upstream = Upstream(config)
        self._forwarder = Forwarder(config, traffic, self._upstream)
        self._runner = web.ServerRunner(
            GatewayServer(self._forwarder.handle, config), handle_signals=False, shutdown_timeout=CUT_TIMEOUT_S
        )
        self._site: web.TCPSite | None = None
        self._probing: asyncio.Task[None] | None = None
        self.prober = Prober(traffic, self._upstream)
        self.port = config.port
        self.cut_count = 0
        """How many requests were still in flight when the drain time was over."""

    async def start(self) -> None:
        """All or nothing."""
        self._probing = asyncio.create_task(self.prober.run(), name="gateway-probes")
        try:
            await self._runner.setup()
            site = web.TCPSite(self._runner, self._config.host, self._config.port, backlog=BACKLOG)
            await site.start()
        except OSError as error:
            await self.stop(0.0)
            raise _listen_error(self._config, error) from error
        except BaseException:
            await self.stop(0.0)
            raise
        self._site = site
        self.port = self._runner.addresses[0][1]

    async def stop(self, drain_s: float) -> None:
        """In the order told at the top of this file."""
        self._forwarder.is_stopping = True
        if self._site is not None:
            await self._site.stop()
        await self._traffic.wait_until(lambda: self._traffic.in_flight == 0, drain_s)
        self.cut_count = self._traffic.in_flight
        self._forwarder.cut.set()
        await self._runner.cleanup()
        self.prober.stop()
        if self._probing is not None:
            await self._probing
        await self._upstream.close()


def _listen_error(config: GatewayConfig, error: OSError) -> ConfigError:
    where = f"{config.host}:{config.port}"
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
