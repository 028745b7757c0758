"""Moving many replicas as one plan: the client's calls under the names of a migration engine."""

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from noctule.base.errors import RequestError
from noctule.client.admin import AdminClient
from noctule.core.meta.views import OperationView

ROOM_S = 0.25
"""How often it is looked whether another migration may begin."""


class MigrationPlan(Struct, frozen=True):
    """Replicas that are to be moved from one node to another, in this order."""

    source: int
    target: int
    partitions: tuple[int, ...]
    bytes: int
    """That they held when the plan was made."""


class MigrationEngine:
    """Over the client of a running cluster, which the caller opens and closes; errors are the client's."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def create_migration_plan(self, partitions: Sequence[int], source: int, target: int) -> MigrationPlan:
        """A plan to move the source's replicas of these partitions. Nothing is done yet.

        Raises `RequestError`, naming every one that does not fit as things stand.
        """
        known = {each.id: each for each in await self._client.partitions()}
        problems = []
        for partition in partitions:
            holders = [replica.node for replica in known[partition].replicas] if partition in known else None
            if holders is None:
                problems.append(f"there is no partition {partition}")
            elif source not in holders:
                problems.append(f"node {source} has no replica of partition {partition}")
            elif target in holders:
                problems.append(f"node {target} has a replica of partition {partition} already")
        if problems:
            raise RequestError("; ".join(problems))
        return MigrationPlan(source, target, tuple(partitions), sum(known[each].bytes for each in partitions))

    async def execute_migration_plan(self, plan: MigrationPlan) -> list[int]:
        """Begin every move of the plan, as soon as there is room for it, and give their ids, by which to ask for them.

        Returns when the last has begun. Raises `RequestError` when one is refused; those that have begun go on.
        """
        begun: list[int] = []
        for partition in plan.partitions:
            await self._room()
            begun.append((await self._client.migrate(partition, plan.source, plan.target)).id)
        return begun

    async def get_operation_status(self, operation: int) -> OperationView:
        """How a migration stands: its stage, and while it is on its way bytes, keys, rate and seconds left."""
        return await self._client.migration(operation)

    async def cancel(self, operation: int) -> OperationView:
        """Have a migration go back; refused once the target votes."""
        return await self._client.cancel_migration(operation)

    async def _room(self) -> None:
        """Wait until one more migration may be on its way."""
        limit = (await self._client.settings()).migrations_concurrent_max
        while True:
            running = await self._client.operations(running=True)
            if sum(view.kind == "migration" for view in running) < limit:
                return
            await asyncio.sleep(ROOM_S)
