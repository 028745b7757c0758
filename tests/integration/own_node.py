"""A node of one in this process, for tests of its doors that need its registry.

PYTEST_DONT_REWRITE, as tests import names from here, which pytest would warn about.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from noctule.core.registry.changes import Change, PutCheck, PutNode, PutService, RemoveService, TellCheck
from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance
from noctule.core.roster.features import REGISTRY
from noctule.node.config import ClusterConfig, NodeConfig
from noctule.servers.doors import NodeDoors

OPEN_S_MAX = 10.0


class OwnNode:
    """It and what is registered there."""

    def __init__(self, doors: NodeDoors) -> None:
        self.url = f"http://{doors.addresses['http']}"
        self.dns_port = int(doors.addresses["dns"].rpartition(":")[2])
        self._registry = doors.node.registry

    async def change(self, changes: Sequence[Change]) -> None:
        """Of the registry, all or nothing."""
        await self._registry.change(changes)

    async def register(
        self, name: str, port: int, tags: Sequence[str] = (), address: str = "127.0.0.1", **meta: str
    ) -> None:
        """A passing instance of a service, with a node and a check of its own: all are called by its port."""
        node = f"host-{port}"
        instance = ServiceInstance(node, str(port), name, tuple(tags), "", port, meta)
        check = Check(node, f"check-{port}", "witness", CheckStatus.PASSING, service_id=str(port))
        await self.change([PutNode(RegistryNode(node, address)), PutService(instance), PutCheck(check)])

    async def tell(self, port: int, status: CheckStatus) -> None:
        """What the check of that instance has found."""
        await self.change([TellCheck(f"host-{port}", f"check-{port}", status)])

    async def deregister(self, port: int) -> None:
        """Remove that instance."""
        await self.change([RemoveService(f"host-{port}", str(port))])


@asynccontextmanager
async def own_node(folder: Path, **settings: Any) -> AsyncIterator[OwnNode]:
    """One that serves, with an empty registry that may be changed."""
    cluster = ClusterConfig(voters={1: "127.0.0.1:0"}, partition_count=1)
    doors = await NodeDoors.open(replace(NodeConfig.tiny(folder, cluster), **settings), "test")
    try:
        meta = doors.node.cluster
        assert await meta.watch.until(lambda: REGISTRY in meta.meta.features, OPEN_S_MAX)
        yield OwnNode(doors)
    finally:
        await doors.close()
