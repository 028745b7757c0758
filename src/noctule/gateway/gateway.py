"""The gateway as one object: start it, give it instances, drain them, stop it.

Start order: connections to instances, probes, the door. Stop order: the door, what is in flight, the clients'
connections, probes, connections to instances.
"""

import asyncio
import errno
import logging

from aiohttp import web

from noctule.adapters.system_clock import SystemClock
from noctule.base.ensure import ensure
from noctule.base.errors import ConfigError, UnavailableError
from noctule.gateway.config import GatewayConfig, Instance
from noctule.gateway.fleet import Fleet, GatewayPicture
from noctule.gateway.forward import Forwarder
from noctule.gateway.health import Prober
from noctule.gateway.server import GatewayServer
from noctule.gateway.upstream import Upstream

BACKLOG = 1_024
"""Connections that the system holds until they are accepted."""

CUT_TIMEOUT_S = 1.0
"""aiohttp waits this long twice: for what is still in flight after `drain_s`, and again once it has cancelled it."""

log = logging.getLogger("noctule.gateway")


class Gateway:
    """An HTTP/1.1 and WebSocket gateway in the caller's event loop; all methods are called there.

    `ConfigError` when a setting is wrong. Make one for each start: a stopped gateway is not started again.
    """

    def __init__(self, config: GatewayConfig) -> None:
        config.validate()
        self._config = config
        self._fleet = Fleet(SystemClock())
        self._instances: dict[str, Instance] = {}
        self._running: _Running | None = None

    async def start(self) -> None:
        """Listen, and probe the instances added so far.

        `ConfigError` when the address cannot be listened on; nothing is left running then.
        """
        ensure(self._running is None, "a gateway is started once")
        running = _Running(self._config, self._fleet)
        await running.start()
        self._running = running
        for instance in self._instances.values():
            running.prober.watch(instance)
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

    def add(self, instance: Instance) -> None:
        """Take in an instance; it gets requests from its first good probe on.

        `RequestError` when the id is taken: remove the old one first.
        """
        self._fleet.add(instance)
        self._instances[instance.id] = instance
        if self._running is not None:
            self._running.prober.watch(instance)

    async def drain(self, instance_id: str, timeout_s: float = 30.0) -> bool:
        """Send it nothing new from this moment, and wait until its requests and WebSockets are done.

        Whether they are, after `timeout_s` seconds at most; either way it stays without new requests until it is
        removed. `RequestError` when it is not there.
        """
        self._fleet.drain(instance_id)
        if self._running is not None:
            self._running.prober.forget(instance_id)
        is_done = await self._fleet.wait_until(lambda: self._fleet.is_idle(instance_id), timeout_s)
        log.info("instance_drained", extra={"instance": instance_id, "is_done": is_done})
        return is_done

    def remove(self, instance_id: str) -> None:
        """Forget an instance; requests in flight there go on. `RequestError` when it is not there."""
        self._fleet.remove(instance_id)
        del self._instances[instance_id]
        if self._running is not None:
            self._running.prober.forget(instance_id)

    def picture(self) -> GatewayPicture:
        """What the gateway knows of its instances now; costs microseconds for each."""
        return self._fleet.picture()

    async def wait_healthy(self, count: int, timeout_s: float) -> None:
        """Return once `count` instances are healthy; `UnavailableError` naming the others after `timeout_s` s."""
        if await self._fleet.wait_until(lambda: self._fleet.healthy_count() >= count, timeout_s):
            return
        states = ", ".join(f"{instance.id} is {instance.state}" for instance in self.picture().instances)
        raise UnavailableError(
            f"{self._fleet.healthy_count()} of {count} instances are healthy after {timeout_s:g} s: "
            f"{states or 'none was added'}; see their logs"
        )


class _Running:
    """What exists between start and stop."""

    def __init__(self, config: GatewayConfig, fleet: Fleet) -> None:
        self._config = config
        self._fleet = fleet
        self._upstream = Upstream(config)
        self._forwarder = Forwarder(config, fleet, self._upstream)
        self._runner = web.ServerRunner(
            GatewayServer(self._forwarder.handle, config), handle_signals=False, shutdown_timeout=CUT_TIMEOUT_S
        )
        self._site: web.TCPSite | None = None
        self._probing: asyncio.Task[None] | None = None
        self.prober = Prober(config, fleet, self._upstream)
        self.port = config.port
        self.cut_count = 0
        """How many requests were still in flight when the drain time was over."""

    async def start(self) -> None:
        """All or nothing."""
        started = asyncio.Event()
        self._probing = asyncio.create_task(self.prober.run(started), name="gateway-probes")
        try:
            await started.wait()
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
        await self._fleet.wait_until(lambda: self._fleet.in_flight == 0, drain_s)
        self.cut_count = self._fleet.in_flight
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
