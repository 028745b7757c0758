"""What the HTTP API of a node gives, as types: the JSON objects of /api/cluster, /api/kv and /api/instances.

What is said of the whole cluster needs no types here: nodes send the values of `core.meta.views`.
The node's side of the other names is `node/api.py`, which this floor must not import; a test compares the two.
Fields that a newer node adds are ignored.
"""

from typing import Literal

import msgspec

from noctule.core.meta.views import OperationView, PartitionView

InstanceState = Literal["starting", "healthy", "unhealthy", "draining"]


class Instance(msgspec.Struct, frozen=True):
    """An app instance in the registry."""

    id: str
    service: str
    address: str
    """host:port where it answers HTTP."""
    pid: int
    """On its own machine."""
    state: InstanceState
    requests: int
    """Served since it started."""
    ttl_s: float = 15.0
    """The entry vanishes when it is not renewed for so long; 1 to 3600."""


class Peer(msgspec.Struct, frozen=True):
    """A member of the roster, as the asked node sees it."""

    id: int
    alive: bool
    peer: str
    resp: str
    """host:port of its RESP door; empty while unknown. The same for `http`."""
    http: str
    leads: int
    last_contact_ms: int | None


class Group(msgspec.Struct, frozen=True):
    """One Raft group, as the asked node's replica sees it."""

    id: int
    first_slot: int
    """Both inclusive; -1 for *meta*."""
    last_slot: int
    role: str
    leader: int | None
    term: int
    commit_index: int
    applied_index: int
    last_index: int
    snapshot_index: int
    keys: int
    lag: dict[int, int] = {}
    """On the leader only: for each other voter the entries that it does not have yet."""
    lag_bytes: dict[int, int] = {}
    """The same in bytes."""
    lag_s: dict[int, float] = {}
    """How long ago the oldest entry that it lacks was stamped, in seconds."""
    staleness_ms: int | None = None
    """How old an eventual read of this replica may be; None when unknown."""
    admitted: bool = True
    """False while the node, which has lost what it had on disk, waits for the group to count its vote again."""
    database_keys: dict[int, int] = {}
    """Number of each database but 0 that lives here to the keys of its slot."""


class Cluster(msgspec.Struct, frozen=True):
    """The asked node, and the cluster as it sees it."""

    node_id: int
    cluster: str
    version: str
    protocol_version: int
    pid: int
    uptime_s: float
    data_dir: str
    storage_failure: str
    """Why the node no longer acknowledges; empty while its disk works."""
    draining: bool
    nodes: list[Peer]
    groups: list[Group]
    counters: dict[str, int]
    gauges: dict[str, float]
    instances: list[Instance]
    durability: str = "quorum"
    """When a write is acknowledged: `quorum` or `leader`."""
    dns: str = ""
    """host:port where the node answers DNS; empty when it does not."""
    cluster_id: str = ""
    """Drawn when the cluster was formed; empty before, and from a node of an older release."""
    epoch: int = 0
    """Of the map of partitions, as far as the node has it."""
    formed: bool = False
    differing: dict[int, tuple[int, ...]] = {}
    """Of each partition whose replicas were found to differ: the nodes that do not hold what most of them hold."""


class HealthCheck(msgspec.Struct, frozen=True):
    """One thing that a node stands on; an `ok` one may still have something to say."""

    status: Literal["ok", "failed"]
    reason: str


class BackendChecks(msgspec.Struct, frozen=True):
    """The disk, the Raft groups, and the other nodes."""

    storage: HealthCheck
    groups: HealthCheck
    peers: HealthCheck


class BackendHealth(msgspec.Struct, frozen=True, rename={"instance_id": "instanceId"}):
    """What a node stands on; `unavailable` when one check failed."""

    status: Literal["ok", "unavailable"]
    instance_id: str
    checks: BackendChecks
    latency_ms: float
    """That all checks took."""


class NewToken(msgspec.Struct, frozen=True):
    """A join token that was just made; its text cannot be had again."""

    text: str
    hash: str
    reusable: bool
    expires_ms: int
    """Unix time; 0: never."""
    note: str


class Token(msgspec.Struct, frozen=True):
    """What the cluster knows of a token."""

    hash: str
    reusable: bool
    expires_ms: int
    note: str
    created_ms: int


class PartitionPage(msgspec.Struct, frozen=True):
    """Some partitions in the order of their slots."""

    epoch: int
    """Of the map."""
    total: int
    partitions: list[PartitionView]


class OperationList(msgspec.Struct, frozen=True):
    """Migrations, splits and merges."""

    migrations: list[OperationView]


class RebalanceBegun(msgspec.Struct, frozen=True):
    """What was begun of a plan."""

    migrations: list[int]
    leader_moves: int
    left: int
    """Moves of the plan that were not begun."""
    refused: list[str]
    """What meta said to those it would not begin."""


class Entry(msgspec.Struct, frozen=True):
    """One key of the store and its value."""

    key: str
    value: bytes
    ttl_ms: int | None
    """Milliseconds until it expires; None when it never does."""
    staleness_ms: int | None = 0
    """How old the value may be, in milliseconds; 0 unless an eventual read was asked for, None when that is unknown."""


class KeyPage(msgspec.Struct, frozen=True):
    """One step of a scan; SCAN's semantics: a key may come twice, and a page may be empty before the end."""

    keys: list[str]
    cursor: str
    """What to ask with next; ``"0"`` when the scan is complete."""
