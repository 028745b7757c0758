"""HAProxy or nginx as the data plane of a gateway: the same orders, carried out by an engine's driver.

What the embedded data plane answers under `/__noctule/` has a port of its own here, on 127.0.0.1: the engine's door is
the engine's. Orders are applied one after the other; of those that come meanwhile only the newest.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from noctule.base.errors import ConfigError, NoctuleError, OutcomeUnknownError
from noctule.gateway.admin import Admin, is_admitted
from noctule.gateway.engines.engine import EngineDriver, EnginePicture, Instances, with_drained
from noctule.gateway.orders import Orders
from noctule.gateway.pictures import GatewayPicture, InstancePicture, ServicePicture

APPLY_TIMEOUT_S = 15.0
"""An engine that is reloaded checks its config and starts a process."""

ADMIN_HOST = "127.0.0.1"

log = logging.getLogger("noctule.gateway")


class EnginePlane:
    """One engine behind a driver, and the door to the gateway's own API."""

    def __init__(self, driver: EngineDriver, admin_port: int) -> None:
        self._driver = driver
        self._wanted: Orders | None = None
        self._applied = -1
        self._refused: tuple[int, str] = (-1, "")
        self._changed = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._runner: web.ServerRunner | None = None
        self.admin_port = admin_port
        self.port = 0
        self.on_refused: Callable[[NoctuleError], None] = _nothing
        """Told when the engine does not take what it was given; what was in force goes on."""

    async def start(self, orders: Orders, admin: Admin) -> None:
        """Start the engine, or take over the one that runs; `ConfigError` with its own words when it refuses."""
        await self._driver.start(orders.model, instances_of(orders))
        self._wanted, self._applied, self.port = orders, orders.version, orders.model.port
        self._following = asyncio.create_task(self._follow(), name="gateway-engine")
        self._runner = web.ServerRunner(web.Server(_handler(admin), access_log=None), handle_signals=False)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, ADMIN_HOST, self.admin_port).start()
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {ADMIN_HOST}:{self.admin_port}: {error.strerror}; choose another --admin-port"
            ) from error
        self.admin_port = self._runner.addresses[0][1]

    async def stop(self, drain_s: float) -> None:
        """The engine first, then the API, so that a drain can be watched."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
            await self._driver.stop(drain_s)
        if self._runner is not None:
            await self._runner.cleanup()

    def apply(self, orders: Orders) -> None:
        """As soon as what is being applied is done."""
        self._wanted = orders
        self._notice()

    async def wait_applied(self, version: int) -> None:
        """`ConfigError` when the engine refused these, `OutcomeUnknownError` after `APPLY_TIMEOUT_S`."""
        try:
            async with asyncio.timeout(APPLY_TIMEOUT_S):
                while self._applied < version:
                    await self._changed.wait()
        except TimeoutError:
            raise OutcomeUnknownError(
                f"the engine is not known to go by the change after {APPLY_TIMEOUT_S:g} s; ask for the status"
            ) from None
        refused, reason = self._refused
        if refused >= version:
            raise ConfigError(reason)

    async def pictures(self) -> Sequence[GatewayPicture]:
        """What the engine tells; requests and failures are in its own statistics, and 0 here."""
        assert self._wanted is not None
        return [_picture(await self._driver.status(), self._wanted, self._applied)]

    async def _follow(self) -> None:
        while True:
            orders = self._wanted
            if orders is not None and orders.version > self._applied:
                try:
                    await self._driver.apply(orders.model, instances_of(orders))
                except NoctuleError as error:
                    self._refused = orders.version, str(error)
                    self.on_refused(error)
                self._applied = orders.version
                self._notice()
            else:
                await self._changed.wait()

    def _notice(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def instances_of(orders: Orders) -> Instances:
    """Those of every service, the drained ones marked."""
    found = {service.name: orders.instances_of(service) for service in orders.model.services}
    return with_drained(found, orders.drained)


def _picture(engine: EnginePicture, orders: Orders, applied: int) -> GatewayPicture:
    services = []
    for service in orders.model.services:
        weights = {each.id: each.weight for each in orders.instances_of(service)}
        instances = tuple(
            InstancePicture(each.id, each.address, each.state, weights.get(each.id, 1), max(0, each.in_flight), 0, 0)
            for each in engine.instances
            if each.service == service.name
        )
        in_flight = sum(each.in_flight for each in instances)
        services.append(ServicePicture(service.name, in_flight, 0, 0, 0, 0, instances))
    return GatewayPicture(
        version=applied,
        in_flight=sum(each.in_flight for each in services),
        requests=0,
        failures=0,
        unrouted=0,
        services=tuple(services),
        routes=(),
    )


def _handler(admin: Admin) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if not is_admitted(request.remote or "", request.raw_path, request.headers.get):
            return web.Response(status=404)
        answer = await admin(request.method, request.raw_path, await request.read())
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    return handle


def _nothing(_: NoctuleError) -> None:
    pass
