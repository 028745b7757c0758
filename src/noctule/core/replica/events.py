"""What comes into a `Replica` beside Raft's own events, and what it asks for beside Raft's own effects."""

from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct

from noctule.core.keyspace.reply import Reply
from noctule.core.raft import events as raft

# Events ---------------------------------------------------------------------------------------------------------------


class Submit(Struct, frozen=True, gc=False):
    """A batch of writes, encoded, of the session `origin` on node `sender`; answered or refused by its `sequence`."""

    sender: int
    origin: int
    sequence: int
    batch: bytes
    term: int = 0
    """Only the leader of this term may take it; 0 from a peer that does not say: any leader may."""


class Query(Struct, frozen=True, gc=False):
    """Linearizable reads from the router `origin` on node `sender`; answered or refused by `number`."""

    sender: int
    origin: int
    number: int
    commands: list[list[bytes]]
    lease: bool = False
    """Whether the leader's lease will do, if it holds one."""


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


Event: TypeAlias = WriteSnapshotNow | Work | TakeDigest | Submit | Query | EndOfTurn | raft.Event

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


Effect: TypeAlias = (
    Answer
    | Refuse
    | DigestReady
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
