"""What comes into a `RaftNode` (events) and what it asks for (effects). Plain values, compared by value in tests.

The order of effects is the order in which they are to be carried out. `Persist` carries the messages that may leave
only when it is durable; the driver tells so by `Persisted` and needs to know nothing else of Raft. Persists become
durable in the order in which they were asked for.
"""

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

from noctule.core.raft.membership import Change, Membership
from noctule.core.raft.messages import Entry, HardState, Message

# Events ---------------------------------------------------------------------------------------------------------------


class Received(Struct, frozen=True, gc=False):
    """A message from another node; late, doubled and reordered ones are welcome."""

    sender: int
    message: Message


class Tick(Struct, frozen=True, gc=False):
    """Time has passed; due when `next_deadline()` is reached, harmless at any other time."""


class ApplyMore(Struct, frozen=True, gc=False):
    """The state has time for more: hand out the next entries of a commit that was too long to be handed out at once.

    Due in a later turn whenever `applied` is behind `commit`.
    """


class Propose(Struct, frozen=True, gc=False):
    """Append `data` to the log; answered by `Proposed` or `ProposalRefused` among the effects."""

    data: bytes


class Transition(StrEnum):
    """The way from one membership to the next."""

    SIMPLE = "simple"
    """In one step, which may change the vote of one node only."""
    JOINT = "joint"
    """Through a joint membership, which the leader leaves by itself."""
    JOINT_EXPLICIT = "joint-explicit"
    """Through a joint membership that is kept until `LeaveJoint`."""


class ChangeMembership(Struct, frozen=True, gc=False):
    """Change who belongs to the group; answered by `Proposed` or `MembershipRefused`.

    It is in force as soon as it is in the log, and final once committed; `MembershipChanged` tells both.
    """

    changes: tuple[Change, ...]
    transition: Transition = Transition.JOINT


class LeaveJoint(Struct, frozen=True, gc=False):
    """Leave the joint membership; answered by `Proposed` or `MembershipRefused`."""


class ReadIndex(Struct, frozen=True, gc=False):
    """A linearizable read wants an index; answered by `ReadReady` or `ReadRefused` with the same context.

    With `lease` a leader that holds its lease answers at once, without asking anyone; without one, as any other.
    """

    context: int
    lease: bool = False


class Persisted(Struct, frozen=True, gc=False):
    """The `Persist` whose last entry was (`index`, `term`) is durable, and all before it."""

    index: int
    term: int


class Suspect(Struct, frozen=True, gc=False):
    """The process of `node` seems gone: if it leads, do not wait for the whole timeout, only `wait_s` and a draw."""

    node: int
    wait_s: float = 0.0
    """Set apart for who should campaign first, and for groups that lost their leader at the same moment."""


class Trust(Struct, frozen=True, gc=False):
    """The process of `node` is there, for the first time, again, or after all: what it missed may be sent to it."""

    node: int


class TransferLeadership(Struct, frozen=True, gc=False):
    """Hand leadership to `target`, if this node leads and the target keeps up; given up after an election timeout."""

    target: int


class SnapshotSaved(Struct, frozen=True, gc=False):
    """A snapshot file that covers the log up to (`index`, `term`) is durable, own or received."""

    index: int
    term: int
    keeps_entries: bool = True
    """Whether some entries stay in the log for followers just behind; else all that is covered goes."""


class SnapshotOpened(Struct, frozen=True, gc=False):
    """The newest durable snapshot, which `OpenSnapshot` asked for: how many chunks it has, and the bytes in them.

    Index 0: there is none yet.
    """

    index: int
    term: int
    count: int
    bytes_total: int


class ChunkLoaded(Struct, frozen=True, gc=False):
    """The chunk that `LoadChunk` asked for; None when that snapshot is not open (any more)."""

    index: int
    number: int
    data: bytes | None


class ChunkSaved(Struct, frozen=True, gc=False):
    """The chunk of a `SaveChunk` is in the file, not durable yet; the last one's is told by `SnapshotSaved` instead."""

    index: int
    term: int
    number: int


Event: TypeAlias = (
    Received
    | Tick
    | ApplyMore
    | Propose
    | ChangeMembership
    | LeaveJoint
    | ReadIndex
    | Persisted
    | Suspect
    | Trust
    | TransferLeadership
    | SnapshotSaved
    | SnapshotOpened
    | ChunkLoaded
    | ChunkSaved
)

# Effects --------------------------------------------------------------------------------------------------------------


class Send(Struct, frozen=True, gc=False):
    """Send now; may be lost."""

    to: int
    message: Message


class Persist(Struct, frozen=True, gc=False):
    """Make durable, all or nothing, then send `after` and tell `Persisted(index, term)`.

    `entries` replace the log from `first_index` on. `mark` (index, term) says that a durable snapshot covers the log up
    to there; with `replace_log` nothing of the old log survives it.
    """

    hard_state: HardState | None
    first_index: int
    entries: list[Entry]
    after: list[Send]
    index: int
    term: int
    mark: tuple[int, int] | None = None
    replace_log: bool = False


class Commit(Struct, frozen=True, gc=False):
    """Entries from `first_index` on are committed: apply each once, in order. More may follow after `ApplyMore`."""

    first_index: int
    entries: list[Entry]


class Proposed(Struct, frozen=True, gc=False):
    """The proposal stands at `index` in `term`; it is committed if an entry of that very term is applied there."""

    index: int
    term: int


class ProposalRefused(Struct, frozen=True, gc=False):
    """Not appended: this node does not lead, hands leadership over, or has too much uncommitted. Nothing happened."""

    leader: int


class MembershipRefused(Struct, frozen=True, gc=False):
    """The change was not appended, for a reason in words; nothing happened."""

    reason: str
    leader: int


class MembershipChanged(Struct, frozen=True, gc=False):
    """This membership, which stands at `index`, is in force here; with `committed` it cannot be taken back any more."""

    index: int
    membership: Membership
    committed: bool


class ReadReady(Struct, frozen=True, gc=False):
    """The state has applied `index`, and all `Commit`s up to it were handed out: a read now is linearizable."""

    context: int
    index: int


class ReadRefused(Struct, frozen=True, gc=False):
    """Not confirmed: this node does not lead (any more), and its leader did not answer. Reading again is harmless."""

    context: int
    leader: int


class RoleChanged(Struct, frozen=True, gc=False):
    """The role, term or known leader changed."""

    role: str
    term: int
    leader: int


class OpenSnapshot(Struct, frozen=True, gc=False):
    """A follower lags behind the log's begin: open the newest durable snapshot, and tell by `SnapshotOpened`.

    It is kept, whatever newer ones come, until `KeepSnapshots` does not name it.
    """


class LoadChunk(Struct, frozen=True, gc=False):
    """Read a chunk of an open snapshot and hand it in by `ChunkLoaded`."""

    index: int
    number: int


class KeepSnapshots(Struct, frozen=True, gc=False):
    """Of the snapshots that are open only those at these indexes are still being sent."""

    indexes: tuple[int, ...]


class SaveChunk(Struct, frozen=True, gc=False):
    """The next of `count` chunks of a snapshot has come: add it to the file, and to the state that is to be restored.

    Number 0 begins another file, in place of one that was never finished. The last one makes it durable: then
    `SnapshotSaved` is told, and for the others `ChunkSaved`.
    """

    index: int
    term: int
    number: int
    count: int
    data: bytes


class DropChunks(Struct, frozen=True, gc=False):
    """What has come of a snapshot is of no use: forget it."""


class Restore(Struct, frozen=True, gc=False):
    """Let the state that the saved chunks tell of take the place of the present one; the next `Commit` begins after
    `index`."""

    index: int
    term: int


Effect: TypeAlias = (
    Send
    | Persist
    | Commit
    | Proposed
    | ProposalRefused
    | MembershipRefused
    | MembershipChanged
    | ReadReady
    | ReadRefused
    | RoleChanged
    | OpenSnapshot
    | LoadChunk
    | KeepSnapshots
    | SaveChunk
    | DropChunks
    | Restore
)
