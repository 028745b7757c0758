"""What can be asked of *meta*: each operation is one entry of its log, checked and applied as a whole or refused.

An operation travels as the command ``NOCTULE.META <bytes>``; its answer is MessagePack, or a `Failure` whose text
begins with ``REFUSED`` when it cannot be done as things stand, and then nothing has changed. Operations name what they
expect to find (a stage, a state), so that one that comes twice, or late, is refused instead of done again.
A newer release may add fields with defaults; new operations need a feature that every member has.
"""

from typing import TypeAlias

import msgspec
from msgspec import Struct

from noctule.base.errors import RequestError, StorageError
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.migration.merges import MergeStage
from noctule.core.migration.stages import Stage
from noctule.core.placement.partition_map import Promise
from noctule.core.registry.changes import Change
from noctule.core.registry.registry import Answered
from noctule.core.roster.members import Member, MemberState

COMMAND = b"NOCTULE.META"

Answer: TypeAlias = int | str | list[Answered] | None
"""What an operation answers: the id that was given, the cluster's, None where there is nothing to tell, or of the
registry what each change answers."""


class _Operation(Struct, frozen=True, tag_field="op", omit_defaults=True):
    pass


class Form(_Operation, tag="form", frozen=True):
    """Form the cluster: its id, first members and partitions. Answers the cluster's id; once formed, always the same.

    The features that all first members have are open from the beginning.
    The partitions have contiguous ranges that differ by one slot at most, and `replicas[i]` holds number i + 1.
    """

    cluster_id: str
    members: list[Member]
    """With their ids."""
    replicas: list[tuple[int, ...]]
    replication_factor: int
    settings: dict[str, int | float | str | bool] = {}


class Admit(_Operation, tag="admit", frozen=True):
    """Let a node in: gives it the next id and answers that. `nonce` is drawn by the node, so that a second try of the
    same node is answered with the same id. `token` is the hash of a join token that must be valid; a one-time token is
    used up."""

    member: Member
    """Its `id` is ignored."""
    token: str
    nonce: str


class UpdateMember(_Operation, tag="update_member", frozen=True):
    """A member tells where it is found, what it runs and can; empty fields and a weight below 0 change nothing."""

    id: int
    peer: str = ""
    control: str = ""
    http: str = ""
    resp: str = ""
    version: str = ""
    features: tuple[str, ...] = ()
    labels: dict[str, str] | None = None
    weight: float = -1.0


class SetMemberState(_Operation, tag="set_member_state", frozen=True):
    """ACTIVE ↔ DRAINING; DRAINING → LEFT once nothing is on it; ACTIVE or DRAINING → REMOVED."""

    id: int
    state: MemberState


class CreateToken(_Operation, tag="create_token", frozen=True):
    """A join token, known by its hash only. One-time unless `reusable`; void from `expires_ms` on (0: never)."""

    token: str
    reusable: bool = False
    expires_ms: int = 0
    note: str = ""


class RevokeToken(_Operation, tag="revoke_token", frozen=True):
    """No node is let in by it any more."""

    token: str


class ChangeSettings(_Operation, tag="change_settings", frozen=True):
    """Settings that may change while the cluster runs; `core.meta.settings` has the table with ranges."""

    values: dict[str, int | float | str | bool]


class BeginMigration(_Operation, tag="begin_migration", frozen=True):
    """Begin to move a replica; answers the migration's id. Refused while the partition has another operation, over
    the limit of concurrent ones, and when source or target do not fit. A dropped replica begins in UPDATE."""

    partition: int
    source: int
    target: int
    reason: str = ""


class AdvanceMigration(_Operation, tag="advance_migration", frozen=True):
    """From one stage to the next, as `stages.NEXT` allows. What it does to the map happens in the same entry."""

    id: int
    stage: Stage
    """In which it is."""
    to: Stage
    note: str = ""


class BeginSplit(_Operation, tag="begin_split", frozen=True):
    """Divide a partition: slots from `at_slot` on will be the child's. Answers the child's id. The child is in the
    map from now on, without slots."""

    partition: int
    at_slot: int
    reason: str = ""


class FinishSplit(_Operation, tag="finish_split", frozen=True):
    """The child exists on a majority: it has its slots from now on."""

    child: int


class AbortSplit(_Operation, tag="abort_split", frozen=True):
    """The split was never logged in the parent and never will be; the child is forgotten."""

    child: int


class BeginMerge(_Operation, tag="begin_merge", frozen=True):
    """Give the slots and keys of `right` to `left`, its neighbour below it. Answers the merge's id."""

    left: int
    right: int
    reason: str = ""


class AdvanceMerge(_Operation, tag="advance_merge", frozen=True):
    """FENCE → COPY → DONE, or back from FENCE or COPY to ABORTED; with DONE the map has one partition less.

    ABORTED from COPY only by who knows that the left one will never take the copy in.
    """

    id: int
    stage: MergeStage
    to: MergeStage
    note: str = ""


class PreferLeader(_Operation, tag="prefer_leader", frozen=True):
    """Of a partition's replicas this one is to lead while all is well."""

    partition: int
    node: int


class ReleaseReplica(_Operation, tag="release_replica", frozen=True):
    """A node asks whether it may remove its replica; refused while the map gives it to that node.

    A node that looks at an old map would else remove what a newer one has given it back. What the replica has promised
    is kept here, for another one there may be some day.
    """

    partition: int
    promise: Promise
    """It names the node."""


class OpenFeature(_Operation, tag="open_feature", frozen=True):
    """From now on the cluster does what needs this feature; refused unless every present member has it. For good."""

    name: str


class ChangeRegistry(_Operation, tag="change_registry", frozen=True):
    """Change the registry: all of the list, in its order, or nothing. Answers what each change answers."""

    changes: list[Change]
    all_done: bool = False
    """Whether a change that would answer False refuses the list."""


Operation: TypeAlias = (
    Form
    | Admit
    | UpdateMember
    | SetMemberState
    | CreateToken
    | RevokeToken
    | ChangeSettings
    | BeginMigration
    | AdvanceMigration
    | BeginSplit
    | FinishSplit
    | AbortSplit
    | BeginMerge
    | AdvanceMerge
    | PreferLeader
    | ReleaseReplica
    | OpenFeature
    | ChangeRegistry
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Operation)


def encode_operation(operation: Operation) -> list[bytes]:
    """The command that asks for it."""
    return [COMMAND, _encoder.encode(operation)]


def decode_operation(data: bytes) -> Operation:
    """The inverse, of the command's argument. Raises `StorageError`: a newer release may have asked for it."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise StorageError(f"an operation of meta cannot be read: {error}") from error


REFUSED = b"REFUSED "
"""What the text of a refusal begins with."""


def encode_answer(answer: Answer, version: int) -> bytes:
    """The reply of an operation that was applied, and with which version of the state."""
    return _encoder.encode((version, answer))


def decode_answer(reply: Reply) -> Answer:
    """What an operation answered. Raises `RequestError` with the sentence when it was refused: nothing has changed."""
    return decode_applied(reply)[1]


def decode_applied(reply: Reply) -> tuple[int, Answer]:
    """The same after the version: a replica of that version, or a later one, shows what the operation has done."""
    if isinstance(reply, Failure):
        raise RequestError(reply.text.removeprefix(REFUSED).decode(errors="replace"))
    try:
        return _answer_decoder.decode(reply if isinstance(reply, bytes) else b"")
    except msgspec.MsgspecError as error:
        raise StorageError(f"an answer of meta cannot be read: {error}") from error


_answer_decoder = msgspec.msgpack.Decoder(tuple[int, Answer])
