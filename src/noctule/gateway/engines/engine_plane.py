"""An engine as the data plane of a gateway process: orders in, pictures out, as with the embedded one.

Orders are taken at once and carried out one after the other; of those that come meanwhile only the newest counts.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import structs

from noctule.base.errors import NoctuleError, UnavailableError
from noctule.gateway.admin import Admin
from noctule.gateway.engines.abilities import lacks
from noctule.gateway.engines.admin_socket import AdminSocket
from noctule.gateway.engines.engine import EngineDriver, Instances, with_drained
from noctule.gateway.engines.haproxy_driver import HAProxyDriver
from noctule.gateway.engines.machine import fitted
from noctule.gateway.engines.nginx_driver import NginxDriver
from noctule.gateway.model import GatewayModel
from noctule.gateway.orders import Orders
from noctule.gateway.pictures import GatewayPicture

APPLY_TIMEOUT_S = 30.0
"""A reload of nginx waits for its turn, a check and the new workers."""

DRIVERS: dict[str, Callable[[Path, Path | None], EngineDriver]] = {"haproxy": HAProxyDriver, "nginx": NginxDriver}
"""By the name of the engine."""

log = logging.getLogger("noctule.gateway")


class EnginePlane:
    """`start`, then `stop`. `folder` holds all of the engine's files; the next plane there takes the engine over."""

    def __init__(self, engine: str, folder: Path, access_log: Path | None = None) -> None:
        self._engine = engine
        self._folder = folder.absolute()
        self._driver = DRIVERS[engine](folder, access_log)
        self._admin: AdminSocket | None = None
        self._orders: Orders | None = None
        self._applied = -1
        """Version of the newest orders that are in force."""
        self._tried = -1
        """Version of the newest orders that were carried out or refused."""
        self._refusal: NoctuleError | None = None
        self._changed = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._is_stopping = False
        self.port = 0

    async def start(self, orders: Orders, admin: Admin) -> None:
        """Have the engine serve; `ConfigError` with its own words when it does not."""
        for line in lacks(self._engine, orders.model):
            log.warning("engine_lacks", extra={"engine": self._engine, "what": line})
        self.port = orders.model.port or _free_port(orders.model.host)
        await self._driver.start(self._model_of(orders), instances_of(orders))
        self._orders, self._applied, self._tried = orders, orders.version, orders.version
        if orders.model.status:
            self._admin = AdminSocket(self._folder / "admin.sock", admin)
            await self._admin.start()
        self._following = asyncio.create_task(self._follow(), name=f"{self._engine}-orders")

    async def stop(self, drain_s: float) -> None:
        """The engine ends, within `drain_s` seconds for what is in flight."""
        if self._following is None:
            return
        # What is under way is finished: cut in the middle, a reload would cut requests.
        self._is_stopping = True
        self._notice()
        await asyncio.wait({self._following}, timeout=APPLY_TIMEOUT_S)
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        await self._driver.stop(drain_s)
        if self._admin is not None:
            await self._admin.stop()

    def apply(self, orders: Orders) -> None:
        """Carry these out as soon as possible."""
        self._orders = orders
        self._notice()

    async def wait_applied(self, version: int) -> None:
        """Until the engine goes by these orders or newer ones; what kept it from that is raised."""
        try:
            async with asyncio.timeout(APPLY_TIMEOUT_S):
                while self._tried < version:
                    await self._changed.wait()
        except TimeoutError:
            raise UnavailableError(f"{self._engine} is not in step after {APPLY_TIMEOUT_S:g} s; see its log") from None
        if self._applied < version and self._refusal is not None:
            raise self._refusal

    async def pictures(self) -> Sequence[GatewayPicture]:
        """One."""
        status = await self._driver.status()
        if not status.pid:
            raise UnavailableError(f"{self._engine} does not run just now")
        services = status.services
        return [
            GatewayPicture(
                version=self._applied,
                in_flight=sum(each.in_flight for each in services),
                requests=sum(each.requests for each in services),
                failures=sum(each.failures for each in services),
                unrouted=0,
                services=services,
                routes=(),
            )
        ]

    async def _follow(self) -> None:
        while not self._is_stopping:
            orders = self._orders
            assert orders is not None
            if orders.version <= self._tried:
                await self._changed.wait()
                continue
            try:
                await self._driver.apply(self._model_of(orders), instances_of(orders))
            except NoctuleError as error:
                self._refusal = error
                log.error("engine_refused_orders", extra={"engine": self._engine, "reason": str(error)})
            else:
                self._applied = orders.version
            self._tried = orders.version
            self._notice()

    def _model_of(self, orders: Orders) -> GatewayModel:
        """As this machine allows it; a port that the system has chosen stays."""
        model = fitted(orders.model)
        return model if model.port else structs.replace(model, port=self.port)

    def _notice(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def instances_of(orders: Orders) -> Instances:
    """Who is listed for each service; those that an operator took out are draining."""
    found = {service.name: orders.instances_of(service) for service in orders.model.services}
    return with_drained(found, orders.drained)


def _free_port(host: str) -> int:
    """A port that nobody listens on now: another program must be told one."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.bind(address)
        return int(probe.getsockname()[1])
