"""Services from within a program: registered and kept so for as long as it runs, found, and followed."""

import asyncio
import logging
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from noctule.base.errors import NoctuleError
from noctule.client.services import ServicesClient
from noctule.core.registry.views import ServiceRegistration, ServiceView

log = logging.getLogger("noctule.embed")

RENEWALS_PER_TTL = 3
"""An instance is renewed so often within its ttl: two may be lost."""
AGAIN_S = 1.0
"""After a renewal that failed, unless the next one is due sooner."""


class ServiceDiscovery:
    """Over the client of a running cluster, of remote nodes or of one in this process (`ClusterNode.url`).

    Use it with ``async with``: what was registered with a ttl is renewed until it is taken out, which the end of the
    block does. The client is the caller's, who opens and closes it; errors are the client's.
    """

    def __init__(self, client: ServicesClient) -> None:
        self._client = client
        self._renewals: dict[str, asyncio.Task[None]] = {}
        self._keepers: dict[str, str] = {}
        """The node of the registry under which each of ours is: an id is unique there only."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service_id in list(self._renewals):
            try:
                await self.unregister(service_id)
            except NoctuleError as failure:  # It ends by its ttl.
                log.warning("unregistration_failed", extra={"service": service_id, "reason": str(failure)})

    async def register(self, service: ServiceRegistration) -> ServiceView:
        """Register an instance, as the registry has it then; with a ttl it is renewed from now on.

        Without a ttl the node that is asked keeps it and makes its checks, also when this program has ended.
        """
        await self._renew_no_more(service.id)
        view = await self._client.register_service(service)
        self._keepers[service.id] = view.node
        if service.ttl_s is not None:
            renewing = self._renew(service, service.ttl_s / RENEWALS_PER_TTL)
            self._renewals[service.id] = asyncio.create_task(renewing, name=f"renew-{service.id}")
        return view

    async def unregister(self, service_id: str) -> bool:
        """Take an instance out; whether it was there."""
        await self._renew_no_more(service_id)
        was_there = await self._client.deregister_service(service_id, node=self._keepers.get(service_id, ""))
        self._keepers.pop(service_id, None)
        return was_there

    async def discover(self, name: str, *, passing: bool = True) -> list[ServiceView]:
        """The instances of a service that may be called, by node and id; with `passing` false all that there are."""
        return list((await self._client.services(name, passing=passing)).services)

    async def watch(self, name: str, *, passing: bool = True) -> AsyncIterator[list[ServiceView]]:
        """The same at once and after each change, for as long as it is asked for.

        While no node can serve it nothing comes, and the last list is the newest that is known.
        """
        async for found in self._client.watch_services(name, passing=passing):
            yield list(found.services)

    async def _renew(self, service: ServiceRegistration, every_s: float) -> None:
        wait_s, is_failing = every_s, False
        while True:
            await asyncio.sleep(wait_s)
            try:
                await self._client.register_service(service)
            except NoctuleError as error:
                if not is_failing:
                    log.warning("renewal_failed", extra={"service": service.id, "reason": str(error)})
                wait_s, is_failing = min(every_s, AGAIN_S), True
            else:
                wait_s, is_failing = every_s, False

    async def _renew_no_more(self, service_id: str) -> None:
        task = self._renewals.pop(service_id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
