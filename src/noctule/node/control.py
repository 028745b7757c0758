"""What this node answers other nodes that call it: who may come in, who leaves, what it knows, how a migration goes."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import msgspec

from noctule.adapters.control import (
    CancelMigrationRequest,
    ClusterInfo,
    ClusterInfoRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    JoinAnswer,
    JoinRequest,
    LeaveAnswer,
    LeaveRequest,
    MigrationProgress,
    NodeInfo,
    NodeInfoRequest,
    StartMigrationRequest,
    WatchMigrationRequest,
)
from noctule.base.errors import RequestError, UnavailableError
from noctule.base.ids import META_GROUP
from noctule.core.meta import operations
from noctule.core.meta.tokens import hash_token
from noctule.core.migration.stages import ENDED, Stage
from noctule.core.roster.members import Member, MemberState

if TYPE_CHECKING:
    from noctule.node.node import LocalNode

APPLIED_S_MAX = 5.0
"""How long this node's own replica of *meta* may take to apply what was just agreed on."""
WATCH_S = 0.2
"""Between two pictures of a migration that is watched."""


class NodeControl:
    """A `ControlHandler`."""

    def __init__(self, node: "LocalNode") -> None:
        self._node = node

    async def join(self, request: JoinRequest) -> JoinAnswer:
        """Let a node in, once for each nonce."""
        node, cluster = self._node, self._node.config.cluster
        if request.cluster not in ("", cluster.name):
            return JoinAnswer(refusal=f"this is cluster {cluster.name}, not {request.cluster}")
        member = msgspec.convert(msgspec.to_builtins(request.facts) | {"id": 0}, Member)
        try:
            given = await node.operate(operations.Admit(member, hash_token(request.token), request.nonce))
        except RequestError as error:
            return JoinAnswer(refusal=str(error))
        assert isinstance(given, int)
        await self._until_known(given)
        meta = node.steward.meta
        return JoinAnswer(
            node_id=given,
            cluster_id=meta.cluster_id,
            cluster=cluster.name,
            members=tuple(node.premises.members[each] for each in sorted(node.premises.members)),
            settings=cluster.agreed(),
        )

    async def _until_known(self, member: int) -> None:
        """This node must know whom it tells the new one of, and be ready to let it connect."""
        if not await self._node.watch.until(lambda: member in self._node.premises.members, APPLIED_S_MAX):
            raise UnavailableError("this node has not heard of its own decision yet: ask again")

    async def leave(self, request: LeaveRequest) -> LeaveAnswer:
        """Begin to drain a node, or take it out at once."""
        wanted = MemberState.REMOVED if request.at_once else MemberState.DRAINING
        try:
            await self._node.operate(operations.SetMemberState(request.node_id, wanted))
        except RequestError as error:
            return LeaveAnswer(refusal=str(error))
        return LeaveAnswer(state=wanted)

    async def get_cluster_info(self, request: ClusterInfoRequest) -> ClusterInfo:
        """The cluster as this node knows it."""
        del request
        node, meta = self._node, self._node.steward.meta
        return ClusterInfo(
            cluster=node.config.cluster.name,
            cluster_id=meta.cluster_id,
            epoch=meta.map.epoch,
            node_id=node.config.node_id,
            leader=node.host.carrier.replicas[META_GROUP].raft.leader,
            members=tuple(meta.roster[each] for each in sorted(meta.roster)),
            partitions=tuple(sorted(meta.map, key=lambda partition: partition.first_slot)),
        )

    async def get_node_info(self, request: NodeInfoRequest) -> NodeInfo:
        """This node."""
        del request
        return msgspec.convert(asdict(self._node.picture()), NodeInfo)

    async def heartbeat(self, request: HeartbeatRequest) -> HeartbeatAnswer:
        """Say that this node lives."""
        known = self._node.steward.meta.cluster_id
        if request.cluster_id and known and request.cluster_id != known:
            raise RequestError(f"this is a node of cluster {known}, not {request.cluster_id}")
        hello = self._node.transport.hello
        return HeartbeatAnswer(hello.node_id, hello.incarnation, request.number)

    async def start_migration(self, request: StartMigrationRequest) -> MigrationProgress:
        """Begin one."""
        operation = operations.BeginMigration(
            request.partition, request.source, request.target, request.reason or "asked for by a call"
        )
        given = await self._node.operate(operation)
        assert isinstance(given, int)
        return self._progress(given)

    async def watch_migration(self, request: WatchMigrationRequest) -> AsyncIterator[MigrationProgress]:
        """Progress as it comes, until the migration has ended."""
        while True:
            progress = self._progress(request.id)
            yield progress
            if progress.migration.stage in ENDED:
                return
            await self._node.watch.next_change(WATCH_S)

    async def cancel_migration(self, request: CancelMigrationRequest) -> MigrationProgress:
        """Have one go back."""
        migration = self._progress(request.id).migration
        note = request.reason or "cancelled"
        await self._node.operate(operations.AdvanceMigration(migration.id, migration.stage, Stage.ROLLBACK, note))
        return self._progress(request.id)

    def _progress(self, migration_id: int) -> MigrationProgress:
        migration = self._node.steward.meta.migrations.get(migration_id)
        if migration is None:
            raise RequestError(f"there is no migration {migration_id}, or it ended long ago")
        return MigrationProgress(migration)
