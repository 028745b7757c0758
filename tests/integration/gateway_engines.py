"""The three engines behind one interface, for the contract that all of them keep."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from noctule.base.errors import UnavailableError
from noctule.gateway.engines.engine import EngineDriver, with_shares
from noctule.gateway.engines.haproxy_driver import HAProxyDriver
from noctule.gateway.engines.nginx_driver import NginxDriver
from noctule.gateway.gateway import Gateway
from noctule.gateway.instances import Instance
from noctule.gateway.model import GatewayModel, Share
from noctule.gateway.orders import Orders

ENGINES = ("embedded", "haproxy", "nginx")
Listed = Mapping[str, Sequence[Instance]]


class EmbeddedDriver:
    """The embedded gateway with the drivers' interface."""

    def __init__(self) -> None:
        self._gateway: Gateway | None = None
        self._orders = Orders(GatewayModel())

    @property
    def gateway(self) -> Gateway:
        assert self._gateway is not None
        return self._gateway

    async def start(self, model: GatewayModel, instances: Listed) -> None:
        self._orders = Orders(model, {name: tuple(found) for name, found in instances.items()})
        self._gateway = Gateway(self._orders)
        await self._gateway.start()
        with contextlib.suppress(UnavailableError):
            await self._gateway.wait_healthy(sum(len(found) for found in instances.values()), 3)

    async def apply(self, model: GatewayModel, instances: Listed) -> None:
        listed = {name: tuple(found) for name, found in instances.items()}
        self._order(Orders(model, listed, self._orders.drained, self._orders.version + 1))

    async def drain(self, service: str, instance_id: str, timeout_s: float = 30.0) -> bool:
        now = self._orders
        self._order(Orders(now.model, now.listed, (*now.drained, (service, instance_id)), now.version + 1))
        return await self.gateway.wait_idle(service, instance_id, timeout_s)

    async def set_shares(self, route: str, shares: tuple[Share, ...]) -> None:
        await self.apply(with_shares(self._orders.model, route, shares), self._orders.listed)

    async def stop(self, drain_s: float) -> None:
        await self.gateway.stop(drain_s)

    def _order(self, orders: Orders) -> None:
        self._orders = orders
        self.gateway.traffic.apply(orders)


@contextlib.asynccontextmanager
async def running(
    engine: str, model: GatewayModel, instances: Listed, folder: Path | None = None
) -> AsyncIterator[EngineDriver | EmbeddedDriver]:
    """An engine that serves. Its folder has a short name, as a socket's path must be."""
    with tempfile.TemporaryDirectory(prefix="gw") as name:
        place = folder or Path(name)
        place.chmod(0o755)
        driver = {
            "embedded": EmbeddedDriver,
            "haproxy": lambda: HAProxyDriver(place),
            "nginx": lambda: NginxDriver(place),
        }[engine]()
        await driver.start(model, instances)
        try:
            yield driver
        finally:
            await driver.stop(0.5)
