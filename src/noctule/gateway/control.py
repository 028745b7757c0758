"""The truth about one gateway: its orders, whoever changes them, and the data planes that carry them out.

Every change goes through `Control`: of the file or the registry's key, of the registry's instances, by the API. What an
operator set by the API stays over a reload, unless the file says something else of it than before.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from noctule.base.errors import ConfigError, NoctuleError, RequestError
from noctule.gateway.instances import Instance
from noctule.gateway.model import GatewayModel, Share
from noctule.gateway.model_file import load_model
from noctule.gateway.orders import Orders, with_drained, with_listed, with_model, with_shares
from noctule.gateway.pictures import GatewayPicture, sum_pictures

STARTUP_SETTINGS = ("host", "port", "tls_port", "http2", "workers", "access_log", "registry_nodes")
"""What counts when the process starts; a change of these is taken in, and told to need a restart."""

log = logging.getLogger("noctule.gateway")


class DataPlanes(Protocol):
    """The processes, or the one, that carry out orders."""

    def apply(self, orders: Orders) -> None:
        """Tell all; those that start later get the same."""
        ...

    async def wait_applied(self, version: int) -> None:
        """Until all that run do as they were told; `OutcomeUnknownError` after a bounded time."""
        ...

    async def pictures(self) -> Sequence[GatewayPicture]:
        """One of each that answers in time; `UnavailableError` when none does."""
        ...


class ConfigSource(Protocol):
    """Where the model comes from."""

    @property
    def name(self) -> str:
        """As a person knows it: a path, or ``registry:<name>``."""
        ...

    async def load(self) -> GatewayModel:
        """What it says now. `ConfigError` when that cannot be used, `UnavailableError` when it cannot be had."""
        ...


class RegistryPicture(Struct, frozen=True):
    """What is known of one service in the registry."""

    service: str
    source: str
    """live, last-good (the registry is away), or none."""
    age_s: float
    instances: int


class ControlPicture(Struct, frozen=True):
    """What `/__noctule/status` shows."""

    version: str
    """Of Noctule."""
    config: str
    """Where the model comes from."""
    config_error: str
    """Why the newest text was refused; empty while all is well. The gateway goes on with the one before."""
    configs_loaded: int
    configs_refused: int
    restart_needed: tuple[str, ...]
    """Settings that were changed and count from the next start on."""
    overridden_routes: tuple[str, ...]
    """Whose shares were set by the API: the file says something else."""
    workers: int
    """That answered."""
    traffic: GatewayPicture
    registry: tuple[RegistryPicture, ...] = ()


class Progress(Struct, frozen=True):
    """How far something is on its way out."""

    in_flight: dict[str, int]
    """By service, or by instance, what is still there."""
    is_done: bool
    version: int
    """Of the orders."""


class Control:
    """All calls are made in one event loop."""

    def __init__(self, model: GatewayModel, source: ConfigSource, planes: DataPlanes, version: str) -> None:
        self.orders = Orders(model)
        self._started_with = model
        self._base = model
        self._overrides: dict[str, tuple[tuple[Share, ...], dict[str, float]]] = {}
        """By route: the base's shares when they were overridden, and by what."""
        self._source = source
        self._planes = planes
        self._version = version
        self._config_error = ""
        self._configs_loaded = 1
        self._configs_refused = 0
        self._changed = asyncio.Event()
        self.registry: Callable[[], Sequence[RegistryPicture]] = tuple
        """Set by whoever follows the registry."""

    @property
    def model(self) -> GatewayModel:
        """In force, the overrides included."""
        return self.orders.model

    async def wait_changed(self, version: int) -> None:
        """Until the orders are others than those of this version."""
        while self.orders.version == version:
            await self._changed.wait()

    async def reload(self) -> None:
        """Take in what the source says now. When that cannot be used, the old one goes on and the error is raised."""
        try:
            model = await self._source.load()
        except NoctuleError as error:
            self.refuse(error)
            raise
        await self.bring_in(model)

    async def bring_in(self, model: GatewayModel) -> None:
        """Another model, in force on return. `ConfigError` when the engine refuses it, which then goes by the old."""
        self.set_model(model)
        try:
            await self._planes.wait_applied(self.orders.version)
        except ConfigError as error:
            self.refuse(error)
            raise

    def set_model(self, model: GatewayModel) -> None:
        """Another model, which has been validated, from the next request on."""
        orders = with_model(self.orders, model)
        for name, (base_shares, percents) in list(self._overrides.items()):
            route = next((each for each in model.routes if each.name == name), None)
            try:
                if route is None or route.shares != base_shares:
                    raise RequestError("the file has something new to say")
                orders = with_shares(orders, name, percents)
            except RequestError:
                del self._overrides[name]
        self._base = model
        self._config_error = ""
        self._configs_loaded += 1
        self._do(orders)
        log.info("config_loaded", extra={"config": self._source.name, "version": self.orders.version})

    def refuse(self, error: NoctuleError) -> None:
        """Note that a new config cannot be used."""
        self._config_error = str(error)
        self._configs_refused += 1
        log.error("config_refused", extra={"config": self._source.name, "reason": str(error)})

    def set_listed(self, listed: Mapping[str, Sequence[Instance]]) -> None:
        """What the registry, or a supervisor, says of the instances of some services."""
        known = {service.name for service in self.model.services}
        changed = {
            name: tuple(found)
            for name, found in listed.items()
            if name in known and tuple(found) != self.orders.listed.get(name)
        }
        if changed:
            self._do(with_listed(self.orders, changed))

    async def drain(self, service: str, instance: str, *, is_drained: bool) -> Progress:
        """Give an instance nothing new, or again what its health allows. `RequestError` when it is not there."""
        self._do(with_drained(self.orders, service, instance, is_drained=is_drained))
        fields = {"service": service, "instance": instance, "is_drained": is_drained}
        log.info("instance_drain_set", extra=fields)
        await self._planes.wait_applied(self.orders.version)
        return await self.instance_progress(service, instance)

    async def set_shares(self, route: str, percents: Mapping[str, float]) -> Progress:
        """Other shares of a route; once it returns every new request goes by them. `RequestError` when they cannot be.

        The progress is that of the services that now have nothing.
        """
        orders = with_shares(self.orders, route, percents)
        base = next((each.shares for each in self._base.routes if each.name == route), ())
        self._overrides[route] = (base, dict(percents))
        self._do(orders)
        log.info("shares_set", extra={"route": route, "shares": dict(percents)})
        await self._planes.wait_applied(self.orders.version)
        return await self.route_progress(route)

    async def instance_progress(self, service: str, instance: str) -> Progress:
        """What an instance still has."""
        traffic = sum_pictures(await self._planes.pictures())
        left = sum(
            each.in_flight
            for found in traffic.services
            if found.name == service
            for each in found.instances
            if each.id == instance
        )
        return Progress({instance: left}, left == 0, self.orders.version)

    async def route_progress(self, route_name: str) -> Progress:
        """What the services of a route that get nothing of it, and are on no other route, still have."""
        traffic = sum_pictures(await self._planes.pictures())
        route = next((each for each in self.model.routes if each.name == route_name), None)
        if route is None:
            raise RequestError(f"there is no route {route_name!r}")
        served = {share.service for each in self.model.routes for share in each.shares if share.percent > 0}
        going = {share.service for share in route.shares} - served
        left = {each.name: each.in_flight for each in traffic.services if each.name in going}
        return Progress(left, not any(left.values()), self.orders.version)

    async def picture(self) -> ControlPicture:
        """Everything, for status, metrics and tests."""
        pictures = await self._planes.pictures()
        return ControlPicture(
            version=self._version,
            config=self._source.name,
            config_error=self._config_error,
            configs_loaded=self._configs_loaded,
            configs_refused=self._configs_refused,
            restart_needed=tuple(
                name for name in STARTUP_SETTINGS if getattr(self.model, name) != getattr(self._started_with, name)
            ),
            overridden_routes=tuple(sorted(self._overrides)),
            workers=len(pictures),
            traffic=sum_pictures(pictures),
            registry=tuple(self.registry()),
        )

    def _do(self, orders: Orders) -> None:
        self.orders = msgspec.structs.replace(orders, version=self.orders.version + 1)
        self._planes.apply(self.orders)
        self._changed.set()
        self._changed = asyncio.Event()


class FileSource:
    """A model in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """The path."""
        return str(self._path)

    async def load(self) -> GatewayModel:
        """The file as it is now."""
        return load_model(self._path)


class FixedSource:
    """A model that a program made, as that of ``noctule up``; there is nothing to load anew."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def load(self) -> GatewayModel:
        """`ConfigError`."""
        raise ConfigError(f"{self.name} makes its gateway's config itself; there is nothing to load anew")
