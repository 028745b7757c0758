"""What comes into a `Replica` beside Raft's own events, and what it asks for beside Raft's own effects."""

from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct

from noctule.base.ids import GroupId
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import Reply
from noctule.core.raft import events as raft
from noctule.core.raft.membership import Membership

# Events ---------------------------------------------------------------------------------------------------------------


class Submit(Struct, frozen=True, gc=False):
    """A batch of writes, encoded, of the session `origin` on node `sender`; answered or refused by its `sequence`."""

    sender: int
    origin: int
    sequence: int
    batch: bytes
    term: int = 0
    """Only the leader of this term may take it; 0 from a peer that does not say: any leader may."""
    has_scripts: bool = False
    """Whether a command of the batch must be evaluated before it is logged (`keyspace.effects`)."""


class Query(Struct, frozen=True, gc=False):
    """Linearizable reads from the router `origin` on node `sender`; answered or refused by `number`."""

    sender: int
    origin: int
    number: int
    commands: list[list[bytes]]
    lease: bool = False
    """Whether the leader's lease will do, if it holds one."""


class Order(Struct, frozen=True, gc=False):
    """Log a command of the cluster's own, such as a split, if this replica leads; nobody is answered.

    Whether it took effect is to be seen in `describe()`, and until it is, it may be ordered again.
    """

    command: list[bytes]


class EndOfTurn(Struct, frozen=True, gc=False):
    """All that arrived in this turn is in: what waits becomes one log entry and one read round."""

    wall_ms: int


class WriteSnapshotNow(Struct, frozen=True, gc=False):
    """Write a snapshot though the policy does not ask for one, and keep no log behind it: the WAL needs the space."""


class Work(Struct, frozen=True, gc=False):
    """There is time between two turns: do a slice, of a few milliseconds at most, of what the replica has put off."""


class TakeDigest(Struct, frozen=True, gc=False):
    """Have every replica digest the state at one and the same index; each tells by `DigestReady` with this nonce.

    Nothing happens unless this replica leads. A replica that goes over that index by a snapshot tells nothing.
    """

    nonce: bytes


class Begin(Struct, frozen=True, gc=False):
    """The first event of a replica that was split off: what it begins with is to be durable before it says anything."""

    campaigns: bool
    """Whether it is to lead if it can: its parent led here, so the others are about to be ready, too."""


class ChildSaved(Struct, frozen=True, gc=False):
    """The child has a durable snapshot of its own, or no replica here: it does not need its parent's log any more."""

    child: GroupId


Event: TypeAlias = (
    WriteSnapshotNow | Work | TakeDigest | Submit | Query | Order | EndOfTurn | Begin | ChildSaved | raft.Event
)

# Effects --------------------------------------------------------------------------------------------------------------


class Answer(Struct, frozen=True, gc=False):
    """Results in the order of the commands, for node `to`."""

    to: int
    origin: int
    is_write: bool
    number: int
    results: list[Reply]


class Refuse(Struct, frozen=True, gc=False):
    """This replica does not lead, or cannot take it now. A write may still take effect if it was taken before:
    send it again under the same number and it is applied once."""

    to: int
    origin: int
    is_write: bool
    number: int
    disclaimed_term: int = 0
    """Through the leader of this term, which was this replica, the batch did not and never will take effect, however
    many copies of it were sent to that leader. 0: there is no such term, and a write's fate is unknown."""


class Ready(Struct, frozen=True, gc=False):
    """Node `to` was told that there is nothing at a key for its clients; there may be by now. May get lost."""

    to: int
    key: bytes
    kind: bytes
    """The type that is waited for."""
    count: int
    """How many items are there."""


class WriteSnapshot(Struct, frozen=True, gc=False):
    """Write the state as of (`index`, `term`) to a snapshot file, then tell `SnapshotSaved`."""

    index: int
    term: int
    chunks: Iterator[bytes]


class DigestReady(Struct, frozen=True, gc=False):
    """The digest that `TakeDigest` asked for, of the state at `index`: equal for equal states."""

    nonce: bytes
    index: int
    digest: bytes


class Publish(Struct, frozen=True, gc=False):
    """Tell the subscribers of all nodes what commands of one entry published, in this order.

    Comes from the leader that made the entry and from no other, so at most once: not at all if that is lost before it
    applies the entry.
    """

    messages: list[tuple[bool, bytes, bytes]]
    """Of each: whether it is sharded, the channel, the payload."""


class SplitOff(Struct, frozen=True, gc=False):
    """Make the replica of `child` here, as of its parent's log at (`index`, `term`); if there is one, drop this.

    Comes after everything else that the parent asked for, so what the child makes durable is so after the split itself.
    Until `ChildSaved` comes back the parent keeps what it takes to do the split once more.
    """

    child: GroupId
    keyspace: Keyspace
    index: int
    term: int
    membership: Membership
    stamp_ms: int
    leads: bool
    """Whether the parent leads here."""


class ReleaseParent(Struct, frozen=True, gc=False):
    """Tell the `parent` here, if there still is one, `ChildSaved`."""

    parent: GroupId


Effect: TypeAlias = (
    Answer
    | Refuse
    | Ready
    | SplitOff
    | ReleaseParent
    | DigestReady
    | Publish
    | WriteSnapshot
    | raft.Send
    | raft.Persist
    | raft.RoleChanged
    | raft.MembershipChanged
    | raft.MembershipRefused
    | raft.OpenSnapshot
    | raft.LoadChunk
    | raft.KeepSnapshots
    | raft.SaveChunk
    | raft.DropChunks
)
