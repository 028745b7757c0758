"""What every engine is given and can be asked, whichever program does the work."""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from msgspec import structs

from noctule.base.errors import ConfigError, RequestError
from noctule.gateway.instances import Instance, Standing
from noctule.gateway.model import GatewayModel, Service, Share
from noctule.gateway.pictures import ServicePicture

Files = dict[str, str]
"""Rendered text by its path relative to the engine's folder."""


Instances = Mapping[str, Sequence[Instance]]
"""Of each service, by its name; a service that is missing has none."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._+@-]*")


def engine_name(instance_id: str) -> str:
    """What an instance is called in an engine: its id where that can stand in a config, else a digest of it.

    A registry's ids may hold anything.
    """
    if _PLAIN_NAME.fullmatch(instance_id):
        return instance_id
    plain = re.sub(r"[^A-Za-z0-9_.:-]", "-", instance_id)[:40].lstrip("_.:-")
    return f"{plain or 'instance'}-{digest_of(instance_id)}"


def digest_of(text: str) -> str:
    """Eight hexadecimal digits that stand for a text where it cannot stand itself."""
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


def listed(instances: Instances, service: Service) -> list[Instance]:
    """The instances of a service that an engine is to know, each address once.

    A critical one leaves at once. Of two with one address, as when an instance came back under another id, the one that
    serves counts.
    """
    found: dict[str, Instance] = {}
    for each in instances.get(service.name, ()):
        before = found.get(each.address)
        if each.standing is Standing.SERVING and (before is None or before.standing is not Standing.SERVING):
            found[each.address] = each
        elif each.standing is Standing.DRAINING:
            found.setdefault(each.address, each)
    return list(found.values())


def with_drained(instances: Instances, drained: Collection[tuple[str, str]]) -> Instances:
    """The same, where those that are drained (service and instance) get nothing new."""
    if not drained:
        return instances
    return {
        name: [
            structs.replace(each, standing=Standing.DRAINING) if (name, each.id) in drained else each for each in found
        ]
        for name, found in instances.items()
    }


def with_shares(model: GatewayModel, route: str, shares: tuple[Share, ...]) -> GatewayModel:
    """The model with other shares of a route; `RequestError` when there is no such route."""
    if all(each.name != route for each in model.routes):
        raise RequestError(f"there is no route {route!r}")
    routes = (structs.replace(each, shares=shares) if each.name == route else each for each in model.routes)
    return structs.replace(model, routes=tuple(routes))


@dataclass(frozen=True, slots=True)
class EnginePaths:
    """Where an engine finds its files, as the engine itself names them; relative ones are the engine's own business."""

    folder: str
    """Of the rendered files."""
    pid: str
    socket: str
    """HAProxy's runtime socket; nginx has none."""
    access_log: str
    """nginx writes it; HAProxy's comes out of its stdout, which the driver joins to the same file."""
    temporary: str
    """nginx' folder for bodies that do not fit in memory."""
    admin: str
    """Socket of the process that drives the engine, for `/__noctule/`; empty where there is none."""
    certificates: str
    """Folder of HAProxy's combined certificates, `0.pem` for the model's first; nginx reads the originals."""

    @classmethod
    def within(cls, folder: Path) -> "EnginePaths":
        """All in one folder, as the drivers have it. `ConfigError` for a path that cannot stand in every config."""
        if not _PLAIN_PATH.fullmatch(str(folder)):
            raise ConfigError(f"{str(folder)!r} cannot be an engine's folder: use letters, digits and / . _ - + @")
        return cls(
            folder=str(folder),
            pid=str(folder / "engine.pid"),
            socket=str(folder / "engine.sock"),
            access_log=str(folder / "access.log"),
            temporary=str(folder / "temporary"),
            admin=str(folder / "admin.sock"),
            certificates=str(folder / "certificates"),
        )

    @classmethod
    def alone(cls, folder: Path) -> "EnginePaths":
        """All in one folder, for an engine that nobody drives."""
        return replace(cls.within(folder), admin="")


@dataclass(frozen=True, slots=True)
class EnginePicture:
    """One engine for status and tests."""

    engine: str
    """haproxy or nginx."""
    pid: int
    """0 while no process runs."""
    reloads: int
    """Since the driver started; HAProxy needs one only when the structure changes."""
    restarts: int
    """How often the process ended by itself and was started again."""
    last_error: str
    """Why the newest model is not in force; empty when it is."""
    services: tuple[ServicePicture, ...]
    """Where the engine does not tell (nginx), numbers are 0 and states `given`. What is in flight is then the number of
    workers that still finish requests from before the last reload: 0 means that whatever was taken out is done."""


class EngineDriver(Protocol):
    """A gateway engine that runs. All calls are made in one event loop; `start` first, `stop` last."""

    async def start(self, model: GatewayModel, instances: Instances) -> None:
        """Start the engine, or take over the one that runs in this folder, without a request dropped.

        `ConfigError` with the engine's own words when it refuses the model; nothing was started or changed then.
        """

    async def apply(self, model: GatewayModel, instances: Instances) -> None:
        """Bring the engine to this model and these instances.

        `ConfigError` when the engine refuses; what was in force before goes on.
        """

    async def drain(self, service: str, instance_id: str, timeout_s: float = 30.0) -> bool:
        """Give an instance nothing new, and wait until it has nothing left; whether that is known within the time.

        It stays so until `apply` brings other instances. `RequestError` when it is not there.
        """

    async def set_shares(self, route: str, shares: tuple[Share, ...]) -> None:
        """Another division of a route's traffic, as for a canary or a switch from blue to green.

        `RequestError` when the route or a service is not there.
        """

    async def status(self) -> EnginePicture:
        """What the engine does now."""

    async def stop(self, drain_s: float) -> None:
        """Accept nothing new, let what is in flight end for `drain_s` seconds, then cut it; nothing runs on return."""
