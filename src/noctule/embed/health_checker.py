"""The health of a cluster's nodes, looked at from outside: once, or again and again."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

from msgspec import Struct

from noctule.base.errors import NoctuleError
from noctule.client.admin import AdminClient
from noctule.client.api import NodeClient
from noctule.client.pictures import BackendHealth
from noctule.core.meta.views import MemberView
from noctule.core.roster.members import PRESENT

INTERVAL_S = 5.0
CHECK_S_MAX = 4.0
"""For one node: what it stands on is checked within 2 s, when it answers at all."""


class NodeHealth(Struct, frozen=True):
    """One node, as it was found."""

    node: int
    healthy: bool
    alive: bool
    """Whether the node that was asked first trusts it: by its heartbeats, not by HTTP."""
    reason: str
    """Why it is not healthy; empty when it is, unless there is something to say."""
    latency_ms: float
    """Of the answer of its HTTP API; what was waited when none came."""
    http: str
    backend: BackendHealth | None = None
    """What it says of its disk, its groups and its peers; None without an answer."""


class HealthChecker:
    """Over the client of a running cluster, which the caller opens and closes."""

    def __init__(self, client: AdminClient, *, interval_s: float = INTERVAL_S) -> None:
        self._client = client
        self._interval_s = interval_s
        self._health: dict[int, NodeHealth] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def health(self) -> Mapping[int, NodeHealth]:
        """Every node as it was found last, by id; empty before the first look."""
        return self._health

    async def check_health(self, node: int) -> NodeHealth:
        """Check one node now, within about 4 s. Raises `RequestError` when there is no such node; a node that does not
        answer is an answer."""
        return await _check(await self._client.member(node))

    async def check_all(self) -> list[NodeHealth]:
        """Check every present node now, by id."""
        members = [each for each in await self._client.members() if each.state in PRESENT]
        return list(await asyncio.gather(*map(_check, members)))

    async def start_health_checks(self) -> None:
        """Check all nodes now, and again every interval, until it is stopped. Harmless when it runs."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="health-checks")

    async def stop_health_checks(self) -> None:
        """End that; `health` stays as it is. Harmless when it does not run."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def changes(self) -> AsyncIterator[NodeHealth]:
        """Each node at first, and then each whose health is another than before, while checks are made."""
        told: dict[int, bool] = {}
        while True:
            self._changed.clear()
            for found in list(self._health.values()):
                if told.get(found.node) is not found.healthy:
                    told[found.node] = found.healthy
                    yield found
            await self._changed.wait()

    async def _run(self) -> None:
        while True:
            try:
                found = await self.check_all()
            except NoctuleError as error:
                # Nobody tells who there is: whoever was known is asked no more, and is not known to be healthy.
                reason = f"no node tells who is in the cluster: {error}"
                found = [
                    NodeHealth(each.node, False, False, reason, each.latency_ms, each.http)
                    for each in self._health.values()
                ]
            self._health = {each.node: each for each in found}
            self._changed.set()
            await asyncio.sleep(self._interval_s)


async def _check(member: MemberView) -> NodeHealth:
    started = time.monotonic()
    backend, problem = None, ""
    if not member.http:
        problem = "its HTTP address is not known"
    else:
        try:
            async with NodeClient(f"http://{member.http}", deadline_s=CHECK_S_MAX) as client:
                backend = await client.health()
        except NoctuleError as error:
            problem = str(error)
    latency_ms = round((time.monotonic() - started) * 1000, 3)
    reasons = [problem] if problem else []
    if backend is not None:
        checks = {"storage": backend.checks.storage, "groups": backend.checks.groups, "peers": backend.checks.peers}
        reasons += [f"{name}: {check.reason}" for name, check in checks.items() if check.reason]
    if not member.alive:
        reasons.append("its peers hear nothing of it")
    is_healthy = backend is not None and backend.status == "ok" and member.alive
    return NodeHealth(member.id, is_healthy, member.alive, "; ".join(reasons), latency_ms, member.http, backend)
