"""What the server knows of one client, apart from its socket, and what its commands may ask of the server."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from noctule.base.clock import Clock
from noctule.base.consistency import ConsistencyLevel
from noctule.base.ids import Instant
from noctule.core.keyspace.commands import find_command
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.transactions import Watched
from noctule.core.pubsub.message import Kind
from noctule.core.pubsub.subscriptions import Subscriber
from noctule.core.wire.resp import Protocol as RespVersion
from noctule.node.api import Dialogue, NodePicture
from noctule.node.cluster_view import ClusterView
from noctule.node.pubsub import PubSub
from noctule.node.scripts import Scripts
from noctule.servers.resp_errands import Errand

if TYPE_CHECKING:
    from noctule.servers.resp_transactions import Transaction


class Client:
    """One connection as its own commands see and change it."""

    __slots__ = (
        "address",
        "connected_at",
        "consistency",
        "conversation",
        "database",
        "id",
        "is_closing",
        "is_cluster",
        "is_watch_broken",
        "last_command",
        "library_name",
        "library_version",
        "local_address",
        "name",
        "protocol",
        "seen_at",
        "subscriber",
        "transaction",
        "watched",
    )

    def __init__(
        self,
        id: int,  # noqa: A002
        address: str,
        local_address: str,
        now: Instant,
        subscriber: Subscriber,
        *,
        is_cluster: bool = False,
    ) -> None:
        self.id = id
        self.address = address
        """host:port of the client; `local_address` the same of this end."""
        self.local_address = local_address
        self.conversation: Dialogue
        """Of the connection: set as soon as it is served."""
        self.connected_at = now
        self.seen_at = now
        """When bytes last came."""
        self.is_cluster = is_cluster
        """Whether it came to the cluster face."""
        self.last_command = b""
        self.library_name = b""
        self.library_version = b""
        self.subscriber = subscriber
        """Its subscriptions; whoever takes the client out of the server ends them."""
        self.is_closing = False
        """Set by a command after whose reply the connection is closed."""
        self.reset()

    def reset(self) -> None:
        """Give what RESET gives: the state of a new connection; id, addresses and library stay."""
        self.name = b""
        self.protocol: RespVersion = 2
        self.consistency = ConsistencyLevel.LINEARIZABLE
        self.database = 0
        """As SELECT chose it."""
        self.leave_transaction()

    def leave_transaction(self) -> None:
        """Forget what was queued since MULTI, and what is watched."""
        self.transaction: Transaction | None = None
        self.unwatch()

    def unwatch(self) -> None:
        """Forget what is watched."""
        self.watched: dict[bytes, Watched] = {}
        """By the key as the store knows it, what WATCH saw there."""
        self.is_watch_broken = False
        """Whether a WATCH failed, so that the next transaction must not run."""

    @property
    def is_plain(self) -> bool:
        """Whether a command for the store goes there as it is, and every other is answered as ever."""
        return self.transaction is None and not self.database and not self.subscriber.names

    def _flags(self) -> bytes:
        flags = b"P" if self.subscriber.names else b""
        if self.transaction is not None:
            flags += b"x"
        if self.conversation.is_blocked:
            flags += b"b"
        if self.consistency is ConsistencyLevel.EVENTUAL:
            flags += b"r"
        return flags or b"N"

    def line(self, now: Instant) -> bytes:
        """The client as CLIENT LIST shows it: the fields of Redis that have a meaning here, without a line's end."""
        # A name that is no command could hold a line break, and so write lines of its own.
        spec = find_command(self.last_command)
        fields = (
            b"id=%d" % self.id,
            b"addr=%b" % self.address.encode(),
            b"laddr=%b" % self.local_address.encode(),
            b"name=%b" % self.name,
            b"age=%d" % (now - self.connected_at),
            b"idle=%d" % (now - self.seen_at),
            b"flags=%b" % self._flags(),
            b"db=%d" % self.database,
            b"sub=%d" % len(self.subscriber.of(Kind.CHANNEL)),
            b"psub=%d" % len(self.subscriber.of(Kind.PATTERN)),
            b"ssub=%d" % len(self.subscriber.of(Kind.SHARD)),
            b"multi=%d" % (-1 if self.transaction is None else len(self.transaction)),
            b"cmd=%b" % (spec.name.lower() if spec is not None else b"NULL"),
            b"user=default",
            b"resp=%d" % self.protocol,
            b"lib-name=%b" % self.library_name,
            b"lib-ver=%b" % self.library_version,
            b"consistency=%b" % self.consistency.encode(),
        )
        return b" ".join(fields)


class Door(Protocol):
    """What commands about the connection may ask of the server."""

    clock: Clock
    connections_max: int
    scripts: Scripts | None
    """None where no scripts can be run."""

    @property
    def port(self) -> int:
        """Where it listens."""
        ...

    @property
    def pubsub(self) -> PubSub:
        """Who hears what on this node."""
        ...

    @property
    def cluster_port(self) -> int:
        """Where its cluster face listens; 0 without one."""
        ...

    @property
    def cluster(self) -> ClusterView | None:
        """What CLUSTER tells of; None of a node without a cluster face."""
        ...

    def picture(self) -> NodePicture:
        """The node behind it, now."""
        ...

    def staleness_ms(self, key: bytes) -> int | None:
        """As `Node.staleness_ms`."""
        ...

    def clients(self) -> Iterable[Client]:
        """Those connected, oldest first."""
        ...

    def disconnect(self, client: Client) -> None:
        """Close a client's connection now, with replies unsent. Unknown ones are ignored."""
        ...

    def counters(self) -> dict[str, int]:
        """As `RespServer.counters`."""
        ...


Handler: TypeAlias = Callable[[Door, Client, list[bytes]], Reply | Errand]
"""Answers a command at once, or tells what it needs of the store for that.

The arguments have the name first, and their number is right."""

_CLUSTER_DISABLED = Failure(b"ERR This instance has cluster support disabled")


def about_cluster(answer: Callable[[ClusterView, list[bytes]], Reply]) -> Handler:
    """A handler that needs nothing but the view of the cluster; Redis' refusal where there is none."""

    def handle(door: Door, _client: Client, args: list[bytes]) -> Reply:
        return _CLUSTER_DISABLED if door.cluster is None else answer(door.cluster, args)

    return handle
