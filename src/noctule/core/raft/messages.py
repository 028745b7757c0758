"""What the replicas of one group say to each other, and what a group keeps on disk.

Every message carries the sender's term; who sent it and for which group stands in the envelope (`core.wire.frames`).
Encoded as MessagePack arrays, so fields are only ever added at the end, with a default: an older peer's message still
decodes, and an older peer skips what it does not know; only `Entry` cannot grow, what it carries can. Names follow the
Raft paper, figures 2 and 13.
"""

from typing import NamedTuple, TypeAlias

from msgspec import Struct


class Entry(NamedTuple):
    """One entry of the log; its index is its place.

    Empty data is the no-op that opens a leader's term; data that begins with `membership.MARK` is a membership.
    """

    term: int
    data: bytes


class HardState(NamedTuple):
    """What must be durable before any reply that depends on it (figure 2, "persistent state"). `vote` 0 is none."""

    term: int = 0
    vote: int = 0


class Append(Struct, array_like=True, tag=1, frozen=True, gc=False):
    """AppendEntries RPC: `entries` follow the one at `previous_index`, whose term is `previous_term`."""

    term: int
    previous_index: int
    previous_term: int
    commit: int
    entries: list[Entry]


class AppendReply(Struct, array_like=True, tag=2, frozen=True, gc=False):
    """The answer to `Append`, sent once the entries are durable.

    Accepted: `index` is the last entry known to match the leader's log. Refused: `index` is the refused
    `previous_index`, and the follower's log may match the leader's up to `hint_index` at most, where its term is
    `hint_term` (paper 5.3, "the protocol can be optimized"; here by term, so one round skips a whole term).
    """

    term: int
    accepted: bool
    index: int
    hint_index: int = 0
    hint_term: int = 0
    directory: int = 0
    """Of the sender, as in all replies: what another directory of the same node says does not count (KIP-853)."""


class Heartbeat(Struct, array_like=True, tag=3, frozen=True, gc=False):
    """ "I lead": carries the commit index as far as the follower is known to match, and the newest read round."""

    term: int
    commit: int
    round: int
    quiet: bool = False
    """The last one until something happens: a follower whose log ends at `commit` in this term sleeps, and does not
    answer. An older peer keeps its timer, and wakes the leader when it runs out."""


class HeartbeatReply(Struct, array_like=True, tag=4, frozen=True, gc=False):
    """The follower still follows in this term; `round` is the heartbeat's (thesis 6.4, step 3)."""

    term: int
    round: int
    directory: int = 0


class VoteRequest(Struct, array_like=True, tag=5, frozen=True, gc=False):
    """RequestVote RPC. With `pre` nobody's term moves (thesis 9.6); with `transfer` the leader asked for it (3.10)."""

    term: int
    last_index: int
    last_term: int
    pre: bool
    transfer: bool = False


class VoteReply(Struct, array_like=True, tag=6, frozen=True, gc=False):
    """The answer; a granted pre-vote repeats the term that was asked about, else it is the voter's own."""

    term: int
    granted: bool
    pre: bool
    directory: int = 0


class InstallSnapshot(Struct, array_like=True, tag=7, frozen=True, gc=False):
    """InstallSnapshot RPC (figure 13): a chunk of the snapshot that covers the log up to `index`.

    It has `count` chunks, with `bytes_total` in them; the first one, number 0, is the membership as of `index`. Number
    `count`, without data, asks whether the snapshot is installed by now.
    """

    term: int
    index: int
    index_term: int
    number: int
    count: int
    data: bytes
    bytes_total: int = 0


class InstallSnapshotReply(Struct, array_like=True, tag=8, frozen=True, gc=False):
    """So many chunks of the snapshot at `index`, from the first on, are in the follower's file, not yet durable."""

    term: int
    index: int
    number: int
    directory: int = 0


class TimeoutNow(Struct, array_like=True, tag=9, frozen=True, gc=False):
    """The leader hands its leadership over: campaign at once (thesis 3.10)."""

    term: int


class ReadRequest(Struct, array_like=True, tag=10, frozen=True, gc=False):
    """A follower wants an index for a read of its own (thesis 6.4, "followers")."""

    term: int
    context: int


class ReadReply(Struct, array_like=True, tag=11, frozen=True, gc=False):
    """The leader was confirmed after the request came: once `index` is applied, the read is linearizable."""

    term: int
    context: int
    index: int


Message: TypeAlias = (
    Append
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | VoteRequest
    | VoteReply
    | InstallSnapshot
    | InstallSnapshotReply
    | TimeoutNow
    | ReadRequest
    | ReadReply
)
