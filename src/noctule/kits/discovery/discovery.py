"""Where the instances of a service are: `Discovery` asks a registry, and goes on without it.

    async with Discovery("http://10.0.0.1:7501,http://10.0.0.2:7501", cache_dir="lists") as discovery:
        for endpoint in await discovery.endpoints("orders"): ...

One background task for each service that was ever asked for; everything else is read from memory.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, RequestError, UnavailableError
from noctule.client.registry.endpoints import Endpoint
from noctule.client.registry.follower import Follower, FollowerPicture
from noctule.client.registry.held_list import PROTECT_S
from noctule.client.registry.list_files import ListFiles
from noctule.client.registry.registry_client import CONNECTIONS_MAX, RegistryClient

REGISTRY_URL_DEFAULT = "http://127.0.0.1:7501"
"""The first node of `noctule up`."""

SERVICES_MAX = CONNECTIONS_MAX
"""Followed by one `Discovery`; one more is refused."""

NAME_CHARACTERS_MAX = 255

FIRST_LIST_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class DiscoveryPicture:
    """All services that are followed, in the order in which they were first asked for."""

    registry_url: str
    """Where the next question goes."""
    services: tuple[FollowerPicture, ...]


class Discovery:
    """The endpoints of services, from a registry that speaks Consul's HTTP API: Noctule's nodes, or Consul.

    `urls` are of nodes of one registry, as a list or joined by commas; None means the environment's
    NOCTULE_REGISTRY_URL, then `REGISTRY_URL_DEFAULT`. With `cache_dir` the last good list of each service is kept there
    and used when the registry is away at the start; without it a start then fails. `token` is Consul's ACL token,
    `is_stale_good` allows a node of the registry to answer by itself, without asking its leader. `protect_s`: see
    held_list.py. To be used in one event loop, and to be closed.

    `ConfigError` for what cannot work.
    """

    def __init__(
        self,
        urls: str | Sequence[str] | None = None,
        *,
        cache_dir: str | Path | None = None,
        token: str = "",
        datacenter: str = "",
        is_stale_good: bool = True,
        protect_s: float = PROTECT_S,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
        chance: Random | None = None,
    ) -> None:
        if urls is None:
            urls = os.environ.get("NOCTULE_REGISTRY_URL") or REGISTRY_URL_DEFAULT
        if isinstance(urls, str):
            urls = urls.split(",")
        if not 0 <= protect_s <= 3600:
            raise ConfigError(f"protect_s is {protect_s}; it must be from 0 to 3600 seconds")
        self._client = RegistryClient(urls, token=token, datacenter=datacenter, is_stale_good=is_stale_good)
        self._files = ListFiles(Path(cache_dir)) if cache_dir is not None else None
        self._protect_s = protect_s
        self._clock = clock
        self._chance = chance or Random()
        self._followers: dict[tuple[str, str], tuple[Follower, asyncio.Task[None]]] = {}
        self._is_closed = False

    async def endpoints(
        self, service: str, *, tag: str = "", timeout_s: float = FIRST_LIST_TIMEOUT_S
    ) -> tuple[Endpoint, ...]:
        """The usable endpoints of a service, perhaps none. Only the first question about a service waits.

        While the registry is away, the last good list. `UnavailableError` when there has never been one within
        `timeout_s`.
        """
        follower = await self.follow(service, tag=tag, timeout_s=timeout_s)
        return follower.endpoints

    async def watch(self, service: str, *, tag: str = "") -> AsyncIterator[tuple[Endpoint, ...]]:
        """The list as it is, then each time it has changed. Who reads slowly misses some, but never the last one."""
        follower = await self.follow(service, tag=tag)
        while True:
            version = follower.version
            yield follower.endpoints
            await follower.wait_changed(version)

    async def follow(self, service: str, *, tag: str = "", timeout_s: float = FIRST_LIST_TIMEOUT_S) -> Follower:
        """What `endpoints` reads, for who reads it for each request. Errors are those of `endpoints`."""
        if self._is_closed:
            raise UnavailableError("this Discovery is closed")
        follower, task = self._followers.get((service, tag)) or self._begin(service, tag)
        await follower.wait_settled(timeout_s)
        if task.done() and not task.cancelled():
            task.result()
        return follower

    def describe(self) -> DiscoveryPicture:
        """A frozen picture, for status and tests: of each list whether it is live, and how old."""
        services = tuple(follower.describe() for follower, _ in self._followers.values())
        return DiscoveryPicture(self._client.preferred_url, services)

    async def aclose(self) -> None:
        """Follow nothing any more. Harmless the second time."""
        self._is_closed = True
        tasks = [task for _, task in self._followers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _begin(self, service: str, tag: str) -> tuple[Follower, asyncio.Task[None]]:
        if not 0 < len(service) <= NAME_CHARACTERS_MAX or len(tag) > NAME_CHARACTERS_MAX:
            raise RequestError(
                f"the name of a service has 1 to {NAME_CHARACTERS_MAX} characters, a tag at most so many"
            )
        if len(self._followers) >= SERVICES_MAX:
            raise RequestError(f"service {service!r} is one too many; one Discovery follows {SERVICES_MAX}")
        follower = Follower(service, tag, self._client, self._files, self._protect_s, self._clock, self._chance)
        task = asyncio.get_running_loop().create_task(follower.run(), name=f"discovery-{service}")
        self._followers[service, tag] = (follower, task)
        return self._followers[service, tag]
