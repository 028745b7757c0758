"""What one node tells another beside Raft's own messages.

Every message is an array that begins with its tag; fields are only added at the end, with defaults. Read frames.py next
for the bytes.
"""

from typing import Any, TypeAlias

from msgspec import Struct

from noctule.core.raft.messages import Message
from noctule.core.roster.loads import LoadReport
from noctule.core.roster.members import Member


class Hello(Struct, frozen=True, omit_defaults=True):
    """The first frame each way: who speaks. A node answers a Hello with its own, or with `refusal` and closes."""

    protocol: int
    cluster: str
    fingerprint: str
    """Of the settings that must be equal everywhere; empty from a node that was given them when it joined."""
    node_id: int
    incarnation: int
    """A number drawn at each start of the process."""
    resp: str = ""
    http: str = ""
    refusal: str = ""
    is_gone: bool = False
    """Beside a refusal: whoever asked was a member once, and never will be again under its id."""
    folder: int = 0
    """Drawn when the node's data folder was made; 0 from a release that drew none."""
    directory: int = 0
    """Under which the node came back after it had lost what it had on disk (ADR 0013); 0 if it never did."""
    cluster_id: str = ""
    """Drawn when the cluster was made, so that two of one name are told apart; empty while the node knows none."""
    control: str = ""
    """host:port of its gRPC service; empty when it has none."""
    labels: dict[str, str] = {}
    """These four as the roster keeps them."""
    weight: float = 1.0
    version: str = ""
    features: tuple[str, ...] = ()
    peer: str = ""
    """host:port where it is to be dialled, for those who have not heard of it yet."""
    resp_cluster: str = ""
    """host:port of its cluster face, for Redis Cluster's clients; empty from a release that has none."""

    def member(self, peer: str) -> Member:
        """What the node says of itself, as the roster keeps it; `peer` is where others find it."""
        return Member(
            id=self.node_id,
            peer=peer,
            control=self.control,
            http=self.http,
            resp=self.resp,
            labels=self.labels,
            weight=self.weight,
            version=self.version,
            features=self.features,
        )


class Forward(Struct, array_like=True, tag=20, frozen=True, gc=False):
    """A batch of writes for the group's leader of `term`; of any term when it is 0, as older peers send it."""

    origin: int
    sequence: int
    batch: bytes
    term: int = 0
    has_scripts: bool = False
    """Whether a command of the batch must be evaluated before it is logged."""


class ForwardQuery(Struct, array_like=True, tag=21, frozen=True, gc=False):
    """Linearizable reads for the group's leader."""

    origin: int
    number: int
    commands: list[list[bytes]]
    lease: bool = False
    """Whether the leader's lease will do."""


class Answered(Struct, array_like=True, tag=22, frozen=True, gc=False):
    """The results of a forwarded batch or query, in the order of its commands."""

    origin: int
    is_write: bool
    number: int
    results: list[Any]


class Refused(Struct, array_like=True, tag=23, frozen=True, gc=False):
    """The receiver of a forwarded batch or query does not lead: send it again, under the same number.

    Through the leader of `disclaimed_term` the batch did not and never will take effect. 0, as older peers send it,
    says nothing about that.
    """

    origin: int
    is_write: bool
    number: int
    disclaimed_term: int = 0
    leader: int = 0
    """Who leads as far as the refuser's own replica knows; 0: nobody, or it has none."""
    term: int = 0
    """In which term."""


class Where(Struct, array_like=True, tag=24, frozen=True, gc=False):
    """Who leads this group? Asked of a node that holds a replica by one that does not; not answered when unknown."""


class Leads(Struct, array_like=True, tag=25, frozen=True, gc=False):
    """This node leads the group in this term, as far as the sender's replica knows."""

    leader: int
    term: int


class DigestTold(Struct, array_like=True, tag=26, frozen=True, gc=False):
    """The digest of the sender's state at this index of the group; told to the group's leader, who asked for it."""

    nonce: bytes
    index: int
    digest: bytes


class Published(Struct, array_like=True, tag=27, frozen=True, gc=False):
    """Something was published, for the subscribers of the receiver; of the group 0, and only to who has `PUBLISH`."""

    sharded: bool
    channel: bytes
    payload: bytes


class KeyReady(Struct, array_like=True, tag=28, frozen=True, gc=False):
    """There may be something at a key by now; of the group 0, and only to a node that has asked (`NOCTULE.AWAIT`)."""

    key: bytes
    kind: bytes
    """The type that is waited for."""
    count: int
    """How many items are there."""


class ForwardReads(Struct, array_like=True, tag=31, frozen=True, gc=False):
    """Linearizable reads for the leader of several groups; of the group 0, and only where all have `SHARED_READS`.

    An earlier one that is not answered is not waited for any more.
    """

    number: int
    groups: list[int]
    """Of each command."""
    commands: list[list[bytes]]
    unrest: int = 0
    """As in `ReadRoundReply`, of the sender when this left; 0 of who does not say."""


class ReadsAnswered(Struct, array_like=True, tag=32, frozen=True, gc=False):
    """The results of `ForwardReads`, in the order of its commands."""

    number: int
    results: list[Any]
    left: list[int] = []
    """The places of those that the receiver must ask their groups for; there the results say nothing."""


class ReadRound(Struct, array_like=True, tag=33, frozen=True, gc=False):
    """A leader asks a node whether its replicas still follow; see `core.replica.shared_reads`."""

    round: int
    asked: list[tuple[int, int, int]] = []
    """Group, term, and the directory under which the receiver counts there: of groups not confirmed by it so far."""


class ReadRoundReply(Struct, array_like=True, tag=34, frozen=True, gc=False):
    """What was so when the round came."""

    round: int
    unrest: int
    """Grows whenever a replica of the sender ceases to follow the receiver in a term."""
    followed: list[tuple[int, int]] = []
    """Group and term, of those asked about that follow."""


PeerMessage: TypeAlias = (
    Message
    | Forward
    | ForwardQuery
    | Answered
    | Refused
    | Where
    | Leads
    | DigestTold
    | Published
    | KeyReady
    | LoadReport
    | ForwardReads
    | ReadsAnswered
    | ReadRound
    | ReadRoundReply
)


Envelope: TypeAlias = tuple[int, PeerMessage]
