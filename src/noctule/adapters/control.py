"""What nodes ask each other beside Raft, as plain values, and the handler that answers it.

control_server.py and control_client.py carry these over gRPC; nobody else needs to know how they look on the wire.
Members, partitions and migrations travel as the structs that core has for them.
"""

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct

from noctule.core.migration.stages import Migration
from noctule.core.placement.partition_map import Partition
from noctule.core.roster.members import Member


class MemberFacts(Struct, frozen=True):
    """What a node that wants in says of itself; the fields mean what those of a `Member` do."""

    peer: str
    control: str = ""
    http: str = ""
    resp: str = ""
    labels: dict[str, str] = {}
    weight: float = 1.0
    version: str = ""
    features: tuple[str, ...] = ()


class JoinRequest(Struct, frozen=True):
    """A node asks to be let in."""

    token: str
    nonce: str
    """Drawn by the node; asked again with the same one, it is given the same id."""
    facts: MemberFacts
    cluster: str = ""
    """The name of the cluster that it wants; empty: any that the token opens."""


class JoinAnswer(Struct, frozen=True):
    """The node is let in, or `refusal` says why not, and nothing else is set then."""

    refusal: str = ""
    node_id: int = 0
    cluster_id: str = ""
    cluster: str = ""
    members: tuple[Member, ...] = ()
    """All that were ever let in, the new one included."""
    settings: dict[str, str] = {}
    """Those that must be equal everywhere, by their keys."""


class LeaveRequest(Struct, frozen=True):
    """A member is to be drained and taken out."""

    node_id: int
    at_once: bool = False
    """Do not wait until it holds nothing."""


class LeaveAnswer(Struct, frozen=True):
    """Its new state, or why it stays."""

    refusal: str = ""
    state: str = ""


class ClusterInfoRequest(Struct, frozen=True):
    """Asks for the cluster as the asked node knows it."""


class ClusterInfo(Struct, frozen=True):
    """The cluster as the node that answers knows it."""

    cluster: str
    cluster_id: str
    epoch: int
    """Of the partition map."""
    node_id: int
    """Who answers."""
    leader: int
    """Of *meta*; 0 while it knows none."""
    members: tuple[Member, ...] = ()
    partitions: tuple[Partition, ...] = ()


class NodeInfoRequest(Struct, frozen=True):
    """Asks for the node itself."""


class PeerInfo(Struct, frozen=True):
    """A member as the node that answers sees it: a `PeerPicture`."""

    id: int
    alive: bool
    peer: str
    resp: str
    http: str
    leads: int
    last_contact_ms: int | None = None


class GroupInfo(Struct, frozen=True):
    """One of its replicas: a `GroupPicture`."""

    id: int
    first_slot: int
    last_slot: int
    role: str
    term: int
    commit_index: int
    applied_index: int
    last_index: int
    snapshot_index: int
    keys: int
    leader: int | None = None
    lag: dict[int, int] = {}
    admitted: bool = True


class NodeInfo(Struct, frozen=True):
    """A node as it sees itself and the others: a `NodePicture`, from which ``msgspec.convert`` makes it."""

    node_id: int
    cluster: str
    version: str
    protocol_version: int
    pid: int
    uptime_s: float
    data_dir: str
    storage_failure: str
    draining: bool
    nodes: tuple[PeerInfo, ...] = ()
    groups: tuple[GroupInfo, ...] = ()
    counters: dict[str, int] = {}
    gauges: dict[str, float] = {}


class HeartbeatRequest(Struct, frozen=True):
    """A sign of life of a node that has no frame to send."""

    node_id: int
    incarnation: int
    cluster_id: str
    number: int


class HeartbeatAnswer(Struct, frozen=True):
    """One back, with the request's number."""

    node_id: int
    incarnation: int
    number: int


class StartMigrationRequest(Struct, frozen=True):
    """Move a replica; without a source one is added, without a target one is dropped."""

    partition: int
    source: int = 0
    target: int = 0
    reason: str = ""


class WatchMigrationRequest(Struct, frozen=True):
    """Asks how a migration goes until it has ended."""

    id: int


class CancelMigrationRequest(Struct, frozen=True):
    """Have a migration go back."""

    id: int
    reason: str = ""


class MigrationProgress(Struct, frozen=True):
    """Where a migration is."""

    migration: Migration
    bytes_sent: int = 0
    bytes_total: int = 0
    """0 while it is not known."""
    lag: int = 0
    """Entries that the target does not have yet."""


class ControlHandler(Protocol):
    """Who answers. Each raises a `NoctuleError` where there is no answer, which then is raised at the asking side.

    Called in the event loop. A call whose asker has gone, or no longer waits, is cancelled.
    """

    async def join(self, request: JoinRequest) -> JoinAnswer:
        """Let a node in, once for each nonce."""
        ...

    async def leave(self, request: LeaveRequest) -> LeaveAnswer:
        """Begin to take a node out."""
        ...

    async def get_cluster_info(self, request: ClusterInfoRequest) -> ClusterInfo:
        """The cluster as this node knows it."""
        ...

    async def get_node_info(self, request: NodeInfoRequest) -> NodeInfo:
        """This node."""
        ...

    async def heartbeat(self, request: HeartbeatRequest) -> HeartbeatAnswer:
        """Note that a node lives, and say that this one does."""
        ...

    async def start_migration(self, request: StartMigrationRequest) -> MigrationProgress:
        """Begin one; returns once it is in the log of *meta*."""
        ...

    def watch_migration(self, request: WatchMigrationRequest) -> AsyncIterator[MigrationProgress]:
        """Progress as it comes, at least one; ends after the migration has."""
        ...

    async def cancel_migration(self, request: CancelMigrationRequest) -> MigrationProgress:
        """Have one go back; raises `RequestError` when there is only forward."""
        ...
