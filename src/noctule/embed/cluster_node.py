"""A real node in this process: what `noctule node` runs, with its doors, started and stopped by a program."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from noctule.adapters.control import ClusterInfo, ClusterInfoRequest, JoinAnswer, JoinRequest, NodeInfo, NodeInfoRequest
from noctule.adapters.control_client import ControlClient
from noctule.base.ensure import ensure
from noctule.base.errors import ConfigError, UnavailableError
from noctule.core.meta.operations import SetMemberState
from noctule.core.roster.members import MemberState
from noctule.node.config import NodeConfig
from noctule.node.control import NodeControl
from noctule.node.joining import join_cluster
from noctule.node.node import facts_of
from noctule.node.node_tls import load_tls
from noctule.servers.doors import NodeDoors

LEAVE_S_MAX = 600.0
"""How long `leave` waits for everything to be moved away, unless it is told."""

KNOWN_S_MAX = 30.0
"""How long a node that was let in may take to hear of its cluster what the others know."""


class ClusterNode:
    """One node of a cluster, in the running event loop; begin with `start` or `join`, end with `stop` or `leave`.

    For one node of a process: the whole store's data are in its memory. Also an async context manager, which starts
    it unless it was, and stops it.
    """

    def __init__(self, config: NodeConfig, version: str = "embedded") -> None:
        self._config = config
        self._version = version
        self._doors: NodeDoors | None = None

    async def __aenter__(self) -> Self:
        if self._doors is None:
            await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it, as a first member of its cluster or as what its data folder says it is; its doors are open then.

        Raises `ConfigError` or `StorageError`, and nothing runs.
        """
        ensure(self._doors is None, "a node starts once")
        self._doors = await NodeDoors.open(self._config, self._version)

    async def join(self, peer_addresses: Sequence[str], token: str) -> None:
        """Start it as a new member of the cluster of these nodes, which are asked in turn until one lets it in.

        Addresses are ``host:port`` of control doors. Raises `ConfigError` when the cluster refuses, `UnavailableError`
        when nobody answers for a minute, else as `start`. It knows the cluster then; replicas come by and by.
        """
        if not peer_addresses:
            raise ConfigError("name the control address of at least one node to join")
        config = replace(self._config, join=peer_addresses[0], token=token)
        client, turn = ControlClient(load_tls(config)), itertools.cycle(peer_addresses)

        async def ask(_: str, request: JoinRequest) -> JoinAnswer:
            return await client.join(next(turn), request)

        try:
            self._config = await join_cluster(config, facts_of(config, self._version), ask)
        finally:
            await client.close()
        await self.start()
        cluster, own = self._open.node.cluster, self._config.node_id
        if not await cluster.watch.until(lambda: own in cluster.meta.roster, KNOWN_S_MAX):
            raise UnavailableError(f"node {own} was let in and runs, and has heard nothing of its cluster yet")

    async def leave(self, timeout_s: float = LEAVE_S_MAX) -> None:
        """Have everything moved away from it, leave the cluster for good, and stop.

        Raises `UnavailableError` when something is still here after `timeout_s`; it then goes on draining and serving.
        """
        cluster, own = self._open.node.cluster, self._open.node.config.node_id
        if cluster.meta.roster[own].state is MemberState.ACTIVE:
            await cluster.operate(SetMemberState(own, MemberState.DRAINING))
        if not await cluster.watch.until(lambda: not cluster.meta.held_by.get(own), timeout_s):
            held = len(cluster.meta.held_by.get(own, ()))
            raise UnavailableError(f"node {own} still holds {held} partitions after {timeout_s:g} s")
        await cluster.operate(SetMemberState(own, MemberState.LEFT))
        await self.stop()

    async def stop(self) -> None:
        """Answer what is on its way, hand leadership over, and close; it is still a member. May be called twice."""
        if self._doors is not None:
            doors, self._doors = self._doors, None
            await doors.close()

    async def get_cluster_info(self) -> ClusterInfo:
        """The cluster as this node knows it: members, partitions, epoch, who leads *meta*."""
        return await NodeControl(self._open.node).get_cluster_info(ClusterInfoRequest())

    async def get_node_info(self) -> NodeInfo:
        """This node: what it holds, leads, and has counted."""
        return await NodeControl(self._open.node).get_node_info(NodeInfoRequest())

    @property
    def url(self) -> str:
        """Of its HTTP API, for clients."""
        return f"http://{self._open.addresses['http']}"

    @property
    def control_address(self) -> str:
        """host:port where others join through it."""
        return self._open.addresses["control"]

    @property
    def _open(self) -> NodeDoors:
        if self._doors is None:
            raise ConfigError("this node is not running: start it, or have it join")
        return self._doors
