"""What a node offers to the servers above it: one door for commands, one picture of itself.

The servers know these names and nothing of Raft. Read router.py for what stands behind `Store`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Reply
from noctule.core.meta.operations import Answer, Operation
from noctule.core.meta.state import MetaState
from noctule.core.meta.views import Reach
from noctule.core.placement.partition_map import Partition
from noctule.core.placement.picture import Plan
from noctule.core.placement.risk import Risk
from noctule.core.registry.changes import Change
from noctule.core.registry.definitions import CheckDefinition, ServiceDefinition
from noctule.core.registry.objects import Check, CheckStatus
from noctule.core.registry.registry import Answered, Registry
from noctule.core.roster.loads import Compared, LoadBoard
from noctule.node.watch import Watch

READ_BYTES_MAX: Final = 1024 * 1024
"""Once replies have so many bytes together, `Dialogue.read_keys` gives no more of them."""


class ReplySink(Protocol):
    """Where one command's reply goes."""

    def deliver(self, reply: Reply) -> None:
        """Called once for each command, in the node's event loop, now or later; must not raise or block."""
        ...


class Commands(Protocol):
    """A door for commands."""

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """Run one data command wherever its partition is led, and deliver its reply within the deadline (10 s).

        `args[0]` is the command's name in any case. Wrong arity, unknown commands, keys over their bound and a
        cluster that cannot serve are delivered as a `Failure`; a write whose fate is not known as
        ``Failure(b"UNKNOWN …")``. Arguments belong to the store from now on. Commands are in no order with each other.
        """
        ...


class Dialogue(Commands, Protocol):
    """A door for one connection: commands submitted to it take effect on each key in the order submitted.

    A blocking command such as BLPOP waits as long as it says, whatever the deadline of others; what is submitted behind
    it is not begun before it has its reply. Where nothing ever waits, the methods here are as they should be.
    """

    @property
    def is_blocked(self) -> bool:
        """Whether a command waits for a key."""
        return False

    def unblock(self, reply: Reply) -> bool:
        """Let the command that waits wait no longer, and be answered with this; False when none does."""
        del reply
        return False

    def end_waits(self, reply: Reply) -> None:
        """Let no command wait from now on: it is answered with this instead, and so is one that waits now."""
        del reply

    def leave(self) -> None:
        """The client is gone: nothing waits for it any more, and what stands behind a command that does is dropped."""
        self.end_waits(NULL_ARRAY)

    def hang_up(self) -> bool:
        """The client sends nothing more: `leave` and True, if a command waits; one that has just come may take what is
        there."""
        return False

    def read_keys(self, commands: list[list[bytes] | Failure], start: int, wall_ms: int) -> list[Reply]:
        """Read single keys eventually, at that time of this node's clock: the replies, at once, from its own replicas.

        They are those to the first of the commands from `start` on, and end over READ_BYTES_MAX, or with the first that
        is made of several. None means that the first command is anything but a read of one key, or that there is no
        replica for it here: it must be submitted. Only while no earlier command of the connection is unanswered, for
        these would overtake it.
        """
        del commands, start, wall_ms
        return []

    def submit_own(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """As `submit`, for a command of scope INTERNAL that a server makes of what its client sent, such as EXEC.

        What the bounds and arity of the table say is the server's to see to.
        """
        ...

    def refusal(self, args: list[bytes]) -> Failure | None:
        """Why a command of the store would be refused now, whatever its data; None when it would be taken."""
        del args
        return None


class Store(Commands, Protocol):
    """The door of a node, from which each connection gets its own."""

    def conversation(self) -> Dialogue:
        """A door for one connection."""
        ...


@dataclass(frozen=True, slots=True)
class PeerPicture:
    """One member of the roster as this node sees it."""

    id: int
    alive: bool
    """This node itself, or a connected peer heard within the election timeout."""
    peer: str
    resp: str
    """host:port of its RESP door; empty while it has not been heard yet. The same for http."""
    http: str
    leads: int
    """How many groups it leads, as this node knows."""
    last_contact_ms: int | None
    """Since the last frame from it; None for itself or when never heard."""


@dataclass(frozen=True, slots=True)
class GroupPicture:
    """One Raft group as this node's replica sees it."""

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
    lag: dict[int, int] = field(default_factory=dict)
    """On the leader only: for each other voter the entries it does not have yet."""
    lag_bytes: dict[int, int] = field(default_factory=dict)
    """The same in bytes of log, or of state if the log does not reach back so far; an estimate when it is much."""
    lag_s: dict[int, float] = field(default_factory=dict)
    """How long ago the oldest entry that it lacks was stamped; 0 when it lacks none."""
    staleness_ms: int | None = None
    """How old an eventual read of this replica may be; None when unknown."""
    admitted: bool = True
    """False while this node, which has lost what it had on disk, waits for the group to count its vote again."""
    database_keys: dict[int, int] = field(default_factory=dict)
    """Number of each database but 0 that lives here to the keys of its slot, of which a few may be of database 0."""


@dataclass(frozen=True, slots=True)
class NodePicture:
    """This node, and the cluster as it sees it: the source of /api/cluster, `noctule status` and /metrics."""

    node_id: int
    cluster: str
    version: str
    protocol_version: int
    pid: int
    uptime_s: float
    data_dir: str
    storage_failure: str
    """Why this node no longer acknowledges; empty while the disk works."""
    draining: bool
    nodes: list[PeerPicture]
    groups: list[GroupPicture]
    counters: dict[str, int]
    """Name (Prometheus style, ``noctule_…_total``) to value, each only ever rising. Labels may follow a name, as
    Prometheus writes them."""
    gauges: dict[str, float]
    durability: str = "quorum"
    """When a write is acknowledged: `quorum` or `leader`."""
    dns: str = ""
    """host:port of its DNS door; empty when it has none."""
    cluster_id: str = ""
    """Drawn when the cluster was formed; empty before."""
    epoch: int = 0
    """Of the map of partitions, as far as it is applied here."""
    formed: bool = False
    differing: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Of each partition whose replicas were found to differ: the nodes that do not hold what most of them hold."""


class Administration(Protocol):
    """The door for whoever looks after a cluster; what each gives is told in administration.py."""

    @property
    def meta(self) -> MetaState:
        """What *meta* says, as far as it is applied here; for reading only, until control goes back to the loop."""
        ...

    @property
    def board(self) -> LoadBoard:
        """What the leaders of all groups have told."""
        ...

    @property
    def watch(self) -> Watch:
        """Rung when either has changed."""
        ...

    def is_alive(self, node: int) -> bool:
        """Whether this node's failure detector trusts that one."""
        ...

    def plan(self) -> Plan:
        """Everything that would have to be moved for the cluster to be as it should."""
        ...

    def risk(self, node: int) -> Risk:
        """What is lost, or hangs by a thread, when that node is taken out as it is."""
        ...

    def dividing_slot(self, partition: Partition) -> int:
        """Where a split leaves about half on each side. `RequestError` when it has fewer than two slots."""
        ...

    async def reach(self) -> list[Reach]:
        """How this node reaches every other member now; takes a second where one does not answer."""
        ...

    async def compare(self, partition: Partition) -> Compared:
        """Have the replicas of a partition compared, which takes seconds. Raises `UnavailableError`, or
        `OutcomeUnknownError`; it harms nothing to ask again."""
        ...

    async def operate(self, operation: Operation) -> Answer:
        """Have *meta* do an operation. Raises `RequestError`, `UnavailableError`, or `OutcomeUnknownError`."""
        ...


class Agent(Protocol):
    """The door of a node for the services beside it: it keeps their definitions, makes their checks, and has the
    cluster's registry say what it knows.

    What is registered here is durable on this node when a method returns, and is gone again only by these methods.
    The registry has it then too, unless there was no leader for `PUSH_S_MAX`: it follows as soon as there is one.
    Each raises `RequestError` for what cannot be done as it is, and `StorageError` when the disk refused; nothing has
    changed then.
    """

    @property
    def name(self) -> str:
        """Of this node in the registry."""
        ...

    def services(self) -> Mapping[str, ServiceDefinition]:
        """What is registered here, by id, with all checks of each. Neither is changed afterwards; a copy."""
        ...

    def service(self, service_id: str) -> ServiceDefinition | None:
        """One of them."""
        ...

    def checks(self) -> Mapping[str, Check]:
        """Every check that is made here, as it stands now, by id; those of maintenance among them."""
        ...

    async def register_service(self, definition: ServiceDefinition, replace_existing_checks: bool = False) -> None:
        """Add or replace a service. Checks that it had and that are not named stay, unless they are to be replaced;
        one that is defined as before goes on."""
        ...

    async def deregister_service(self, service_id: str) -> None:
        """Remove it with its checks. `RequestError` when it is not here."""
        ...

    async def register_check(self, definition: CheckDefinition) -> None:
        """Add or replace a check of the node, or of a service that is registered here."""
        ...

    async def deregister_check(self, check_id: str) -> None:
        """Remove it. `RequestError` when it is not here."""
        ...

    async def update_check(self, check_id: str, status: CheckStatus, output: str = "") -> None:
        """Report to a check with a ttl, which begins anew. `RequestError` for every other check."""
        ...

    async def set_service_maintenance(self, service_id: str, enable: bool, reason: str = "") -> None:
        """Make a service critical for as long as somebody works on it, or end that."""
        ...

    async def set_node_maintenance(self, enable: bool, reason: str = "") -> None:
        """The same for the whole node: everything on it."""
        ...


class RegistryDoor(Protocol):
    """The door to the registry of services, sessions and Consul's keys; what each gives is told in registry_door.py."""

    @property
    def view(self) -> Registry:
        """This node's replica, for reading only, until control goes back to the loop."""
        ...

    async def change(self, changes: Sequence[Change], *, all_done: bool = False) -> list[Answered]:
        """Apply all of them or none; returns once `view` shows it. Raises `RequestError`, `UnavailableError`, or
        `OutcomeUnknownError`."""
        ...

    async def catch_up(self) -> None:
        """Afterwards `view` holds everything acknowledged before the call. Raises `UnavailableError`, within 5 s."""
        ...

    async def wait(self, topic: str, index: int, timeout_s: float) -> bool:
        """True once `view.index_of(topic)` is above `index`, False when it was not in time. Raises `UnavailableError`
        when too many wait."""
        ...

    def leader_known(self) -> bool:
        """Whether this node knows who leads *meta*."""
        ...

    def last_contact_ms(self) -> int | None:
        """How old `view` may be; 0 where *meta* is led, None when that is not known."""
        ...


class Node(Protocol):
    """One running node, for the HTTP server."""

    store: Store
    meta: Store
    """The same door onto the *meta* group, whose keys no client of the store can reach."""

    @property
    def cluster(self) -> Administration:
        """The door for whoever looks after the cluster."""
        ...

    @property
    def agent(self) -> Agent:
        """The door for the services beside this node."""
        ...

    @property
    def registry(self) -> RegistryDoor:
        """The door to the registry."""
        ...

    def picture(self) -> NodePicture:
        """A fresh picture; costs microseconds for each group."""
        ...

    def staleness_ms(self, key: bytes) -> int | None:
        """How old an eventual read of the key through this node may be, were it answered now; None when unknown.

        Counted from the last word of the key's leader after which this node lacked nothing (`core.raft.staleness`).
        """
        ...

    def readiness(self) -> str:
        """Empty when every group has a leader that this node can reach and it may take traffic; else why not."""
        ...
