"""The typed client of the services in the registry. What comes back are the values of `core.registry.views`."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import msgspec

from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import ConfigError, OutcomeUnknownError, UnavailableError
from noctule.client.api import NodeClient, decode, quoted
from noctule.core.registry.dependencies import DependencyGraph
from noctule.core.registry.views import ServiceList, ServiceRegistration, ServiceView

WAIT_S = 10.0
"""How long one request waits for news; longer only saves requests, and finds out later that a node is silent."""
AGAIN_S_MIN = 0.2
AGAIN_S_MAX = 2.0
"""Between two tries of a watch while nobody can serve it, doubled each time."""
JSON_HEADERS = {"Content-Type": "application/json"}


class _Deleted(msgspec.Struct, frozen=True):
    deleted: bool


class ServicesClient(NodeClient):
    """A `NodeClient` that registers and finds services too; errors as there."""

    async def services(
        self,
        name: str = "",
        *,
        tag: str = "",
        passing: bool = False,
        consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE,
    ) -> ServiceList:
        """The instances of a service, or of all, with how they are."""
        query = _query(name=name, tag=tag, passing="true" if passing else "", consistency=str(consistency))
        return decode(await self._ask("GET", f"/api/services{query}"), ServiceList)

    async def wait_services(
        self, name: str, index: int, *, passing: bool = False, wait_s: float = WAIT_S
    ) -> ServiceList:
        """The same once something is newer than a list with this index, or after `wait_s` seconds as it is then."""
        query = _query(name=name, passing="true" if passing else "", index=str(index), wait=f"{wait_s:g}")
        # Each node is given the wait and then as long as any call.
        deadline_s = len(self._urls) * (wait_s + self._deadline_s)
        return decode(await self._ask("GET", f"/api/services{query}", deadline_s=deadline_s), ServiceList)

    async def watch_services(self, name: str, *, passing: bool = False) -> AsyncIterator[ServiceList]:
        """The list of a service at once and whenever it has changed, for as long as it is asked for.

        While nobody can serve it nothing comes: the last list is then the newest that is known. What comes and goes
        between two lists is not told.
        """
        last: ServiceList | None = None
        index, again_s = 0, AGAIN_S_MIN
        while True:
            try:
                found = await self.wait_services(name, index, passing=passing)
            except (UnavailableError, OutcomeUnknownError):
                await asyncio.sleep(again_s)
                again_s = min(AGAIN_S_MAX, 2 * again_s)
                continue
            again_s, index = AGAIN_S_MIN, found.index
            if last is None or found.services != last.services:
                last = found
                yield found

    async def service(self, service_id: str, *, node: str = "") -> ServiceView:
        """One instance. `RequestError` when there is none of that id."""
        return decode(await self._ask("GET", f"/api/services/{quoted(service_id)}{_query(node=node)}"), ServiceView)

    async def register_service(self, service: ServiceRegistration) -> ServiceView:
        """Register an instance, or renew it. May be sent more than once: it says the same."""
        if not service.id:
            raise ConfigError("a service is registered with an id: give it one")
        body, path = msgspec.json.encode(service), f"/api/services/{quoted(service.id)}"
        return decode(await self._ask("PUT", path, body=body, headers=JSON_HEADERS), ServiceView)

    async def deregister_service(self, service_id: str, *, node: str = "") -> bool:
        """Take an instance out; whether it was there. False also when a repeated call finds it gone."""
        path = f"/api/services/{quoted(service_id)}{_query(node=node)}"
        return decode(await self._ask("DELETE", path), _Deleted).deleted

    async def dependencies(self) -> DependencyGraph:
        """Which service calls which."""
        return decode(await self._ask("GET", "/api/dependencies"), DependencyGraph)


def _query(**values: str) -> str:
    given = {name: value for name, value in values.items() if value}
    return f"?{urlencode(given)}" if given else ""
