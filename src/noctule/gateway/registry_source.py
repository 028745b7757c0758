"""What a gateway takes from the registry: the instances of its services, and its config if that lives there.

Both are followed by blocking queries, so a change is there within milliseconds. When the registry is away, what it last
said goes on, is kept on disk for the next start, and status, metrics and log say so.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from random import Random

from noctule.adapters.files import write_atomically
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError, StorageError, UnavailableError
from noctule.client.registry.endpoints import Endpoint
from noctule.client.registry.follower import Follower
from noctule.client.registry.held_list import PROTECT_S
from noctule.client.registry.keys import KeyReader, KeyValue
from noctule.client.registry.list_files import ListFiles
from noctule.client.registry.registry_client import RegistryClient
from noctule.core.balance.balancer import WEIGHT_MAX
from noctule.gateway.control import Control, RegistryPicture
from noctule.gateway.instances import Instance
from noctule.gateway.model import GatewayModel
from noctule.gateway.model_file import MODEL_BYTES_MAX, parse_model

KEY_PREFIX = "noctule/gateway/"
"""Keys under which gateways' configs live."""

WAIT_S = 60.0
"""How long the registry may hold a question for the config."""

PAUSE_S = 1.0
"""Between questions when the registry has no answer, or has one at once without news."""

FIRST_LIST_S = 5.0
"""So long a start waits for the first lists; then it serves with what there is."""

log = logging.getLogger("noctule.gateway")

_Name = tuple[str, str]
"""A service in the registry, and a tag or nothing."""


class RegistryInstances:
    """Follows every service in the registry that the model names, whichever model that is at the moment."""

    def __init__(
        self, control: Control, client: RegistryClient, files: ListFiles | None, clock: Clock, chance: Random
    ) -> None:
        self._control = control
        self._client = client
        self._files = files
        self._clock = clock
        self._chance = chance
        self._followers: dict[_Name, Follower] = {}
        self._tasks: dict[_Name, tuple[asyncio.Task[None], ...]] = {}

    async def run(self) -> None:
        """Follow, until cancelled."""
        self._control.registry = self._pictures
        async with asyncio.TaskGroup() as tasks:
            while True:
                version = self._control.orders.version
                self._follow_those_named(tasks)
                await self._control.wait_changed(version)

    async def wait_first_lists(self) -> None:
        """Until there is a list of every service, or it is clear that there will be none soon."""
        # The followers are there as soon as `run` has begun, which the caller has let happen.
        waiting = [asyncio.ensure_future(each.wait_settled(FIRST_LIST_S)) for each in self._followers.values()]
        if waiting:
            await asyncio.wait(waiting)
        for each in waiting:
            if isinstance(error := each.exception(), UnavailableError):
                log.warning("registry_list_missing", extra={"reason": str(error)})
            elif error is not None:
                raise error
        for name, follower in self._followers.items():
            self._tell(name, follower)

    def _follow_those_named(self, tasks: asyncio.TaskGroup) -> None:
        wanted = {(each.registry, each.tag) for each in self._control.model.services if each.registry}
        for name in self._followers.keys() - wanted:
            del self._followers[name]
            for task in self._tasks.pop(name):
                task.cancel()
        for name in wanted - self._followers.keys():
            follower = Follower(*name, self._client, self._files, PROTECT_S, self._clock, self._chance)
            self._followers[name] = follower
            label = ":".join(filter(None, name))
            self._tasks[name] = (
                tasks.create_task(follower.run(), name=f"registry-{label}"),
                tasks.create_task(self._tell_changes(name, follower), name=f"instances-{label}"),
            )
        for name, follower in self._followers.items():
            # A service that is new in the model may go by a list that is there already.
            if follower.is_known:
                self._tell(name, follower)

    async def _tell_changes(self, name: _Name, follower: Follower) -> None:
        while True:
            version = follower.version
            if follower.is_known:
                self._tell(name, follower)
            await follower.wait_changed(version)

    def _tell(self, name: _Name, follower: Follower) -> None:
        instances = tuple(_instance(endpoint) for endpoint in follower.endpoints)
        services = [each.name for each in self._control.model.services if (each.registry, each.tag) == name]
        self._control.set_listed(dict.fromkeys(services, instances))

    def _pictures(self) -> Sequence[RegistryPicture]:
        pictures = []
        for service in self._control.model.services:
            follower = self._followers.get((service.registry, service.tag))
            if service.registry and follower is not None:
                found = follower.describe().list
                pictures.append(RegistryPicture(service.name, str(found.source), found.age_s, len(found.endpoints)))
        return pictures


class RegistryConfig:
    """A model under a key of the registry, with the last good text on disk."""

    def __init__(self, name: str, reader: KeyReader, folder: Path | None) -> None:
        self.name = f"registry:{name}"
        self._key = KEY_PREFIX + name
        self._reader = reader
        self._saved = folder / f"gateway-{name}.toml" if folder is not None else None
        self._last = KeyValue(0, None)

    async def load(self) -> GatewayModel:
        """What the key holds now; at the first time, when the registry is away, what it held when it was last read."""
        is_first = self._last.content is None
        try:
            self._last = await self._reader.read(self._key, bytes_max=MODEL_BYTES_MAX)
        except UnavailableError as error:
            saved = await asyncio.to_thread(self._read_saved) if is_first else None
            if saved is None:
                raise
            log.warning("config_from_disk", extra={"config": self.name, "reason": str(error)})
            return parse_model(saved, f"{self._saved}")
        return await self._parse(self._last)

    async def follow(self, control: Control) -> None:
        """Take in every change, until cancelled."""
        is_lost = False
        while True:
            before = self._last
            try:
                self._last = await self._reader.read(self._key, before.index, WAIT_S, bytes_max=MODEL_BYTES_MAX)
            except UnavailableError as error:
                if not is_lost:
                    log.warning("config_registry_lost", extra={"config": self.name, "reason": str(error)})
                is_lost = True
                await asyncio.sleep(PAUSE_S)
                continue
            is_lost = False
            if self._last.content != before.content:
                await self._bring_in(control)
            if self._last.index <= before.index:
                # Without a higher index the next answer would come at once again.
                await asyncio.sleep(PAUSE_S)

    async def _bring_in(self, control: Control) -> None:
        try:
            model = await self._parse(self._last)
        except NoctuleError as error:
            control.refuse(error)
            return
        with contextlib.suppress(NoctuleError):
            # An engine that refuses it has been told of already.
            await control.bring_in(model)

    async def _parse(self, value: KeyValue) -> GatewayModel:
        if value.content is None:
            raise ConfigError(
                f"the registry has no key {self._key}; put the config there, as in noctule gateway example"
            )
        model = parse_model(value.content, self.name)
        await asyncio.to_thread(self._save, value.content)
        return model

    def _read_saved(self) -> bytes | None:
        if self._saved is None:
            return None
        try:
            with self._saved.open("rb") as file:
                return file.read(MODEL_BYTES_MAX + 1)
        except OSError:
            return None

    def _save(self, content: bytes) -> None:
        """A copy for the next start, and no more: a disk that fails is told and done without."""
        if self._saved is None:
            return
        try:
            self._saved.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._saved, content)
        except (OSError, StorageError) as error:
            log.warning("config_not_saved", extra={"file": str(self._saved), "reason": str(error)})


def _instance(endpoint: Endpoint) -> Instance:
    """A weight of 0 is drained; one over the bound is the bound."""
    return Instance(endpoint.id, endpoint.address, endpoint.port, max(0, min(WEIGHT_MAX, endpoint.weight)))
