"""Who belongs to a group, and the steps by which that may change. Pure functions of plain values.

Source: thesis chapter 4 (joint consensus 4.3, single-server changes 4.1, learners 4.2.1) and etcd's `confchange`. An
entry holds the whole membership after the change, not the difference, so the newest one in a log is all there is to
know. Directories are Kafka's answer to lost disks (KIP-853): see `Membership.directories`.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec
from msgspec import Struct

from noctule.base.ensure import ensure
from noctule.base.errors import RequestError, StorageError
from noctule.base.ids import Instant
from noctule.core.raft.quorum import VoteResult, committed_index, vote_result
from noctule.core.raft.staleness import NEVER

MARK = b"\xc1"
"""What the data of an entry that holds a membership begins with: the one byte that no MessagePack value begins with, so
nothing that a replica proposes can be taken for one."""


class Membership(Struct, array_like=True, frozen=True, gc=False):
    """Ids in ascending order. While `outgoing` is not empty the group is *joint*: both halves must agree."""

    voters: tuple[int, ...] = ()
    outgoing: tuple[int, ...] = ()
    """The voters before the change; a majority of them is needed beside one of `voters` until the group leaves."""
    learners: tuple[int, ...] = ()
    """They get the log and have no voice."""
    learners_next: tuple[int, ...] = ()
    """Voters of `outgoing` that become learners when the group leaves the joint membership."""
    returning: tuple[int, ...] = ()
    """Learners that the leader makes voters again by itself, once they have caught up."""
    auto_leave: bool = False
    """Whether the leader leaves the joint membership by itself, once it is committed."""
    directories: tuple[tuple[int, int], ...] = ()
    """(node, directory id) of nodes that lost what they had on disk and came back with another directory. What any
    other directory of that node has voted or acknowledged counts no more. Who is not named here has the id 0. Kept for
    nodes that were removed, too: they may be added again."""

    def is_joint(self) -> bool:
        """Whether two majorities are needed."""
        return bool(self.outgoing)

    def members(self) -> tuple[int, ...]:
        """Everyone who gets the log, in ascending order."""
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners, *self.learners_next}))

    def is_voter(self, node: int) -> bool:
        """Whether the node has a voice in either half.

        A leader that is on its way out must still be able to win, or nobody may be (scylladb/scylladb#10618).
        """
        return node in self.voters or node in self.outgoing

    def directory_of(self, node: int) -> int:
        """The directory whose votes and acknowledgements count."""
        for member, directory in self.directories:
            if member == node:
                return directory
        return 0

    # Both halves must agree (thesis 4.3) ------------------------------------------------------------------------------

    def committed_index(self, matched: Mapping[int, int]) -> int:
        """The highest index that a majority has, of each half; a voter that is not in `matched` has 0."""
        index = committed_index(self.voters, matched)
        return min(index, committed_index(self.outgoing, matched)) if self.outgoing else index

    def quorum_moment(self, moments: Mapping[int, Instant]) -> Instant:
        """The latest moment that a majority reaches, of each half; a voter that is not in `moments` reaches none."""
        halves = [
            sorted((moments.get(voter, NEVER) for voter in voters), reverse=True)[len(voters) // 2]
            for voters in (self.voters, self.outgoing)
            if voters
        ]
        return min(halves, default=NEVER)

    def vote_result(self, votes: Mapping[int, bool]) -> VoteResult:
        """Won when both halves are won, lost when one is lost."""
        results = {vote_result(self.voters, votes)}
        if self.outgoing:
            results.add(vote_result(self.outgoing, votes))
        if VoteResult.LOST in results:
            return VoteResult.LOST
        return VoteResult.WON if results == {VoteResult.WON} else VoteResult.PENDING


class ChangeKind(StrEnum):
    """What becomes of one node."""

    VOTER = "voter"
    LEARNER = "learner"
    REMOVED = "removed"


class Change(NamedTuple):
    """One node is to be a voter, a learner, or out."""

    kind: ChangeKind
    node: int


def change_simply(current: Membership, changes: Iterable[Change]) -> Membership:
    """The membership after changes that touch one voter at most: any two majorities before and after overlap (4.1).

    Raises `RequestError` when more would change, when the group is joint, or when no voter would be left.
    """
    if current.is_joint():
        raise RequestError("the group is joint: leave that membership first")
    after = _apply(current, changes)
    touched = set(after.voters) ^ set(current.voters)
    if len(touched) > 1:
        nodes = ", ".join(map(str, sorted(touched)))
        raise RequestError(f"nodes {nodes} cannot change their vote in one simple step: go through a joint membership")
    return after


def enter_joint(current: Membership, changes: Iterable[Change], *, auto_leave: bool) -> Membership:
    """The joint membership on the way to these changes. Raises `RequestError` as `change_simply` does."""
    if current.is_joint():
        raise RequestError("the group is joint already: leave that membership first")
    after = _apply(current, changes)
    # Who still votes in the outgoing half cannot be a learner yet.
    waiting = tuple(node for node in after.learners if node in current.voters)
    return msgspec.structs.replace(
        after,
        outgoing=current.voters,
        learners=tuple(node for node in after.learners if node not in waiting),
        learners_next=waiting,
        auto_leave=auto_leave,
    )


def leave_joint(current: Membership) -> Membership:
    """The membership after the joint one: the outgoing voters are gone. Raises `RequestError` when it is not joint."""
    if not current.is_joint():
        raise RequestError("the group is not joint: there is nothing to leave")
    return msgspec.structs.replace(
        current,
        outgoing=(),
        learners=tuple(sorted({*current.learners, *current.learners_next})),
        learners_next=(),
        auto_leave=False,
    )


def readmit(current: Membership, node: int, directory: int) -> Membership:
    """The membership in which a member that lost its disk is a learner under another directory, soon a voter again.

    Raises `RequestError` when the group is joint, the node is no member, or it is the only voter.
    """
    if node not in current.members():
        raise RequestError(f"node {node} is no member")
    was_voter = current.is_voter(node) or node in current.returning
    after = change_simply(current, [Change(ChangeKind.LEARNER, node)])
    others = [pair for pair in current.directories if pair[0] != node]
    returning = {*after.returning, node} if was_voter else set(after.returning)
    return msgspec.structs.replace(
        after, returning=tuple(sorted(returning)), directories=tuple(sorted([*others, (node, directory)]))
    )


def check_membership(membership: Membership) -> None:
    """Raise `InternalError` unless the parts fit each other."""
    voters, learners = set(membership.voters), set(membership.learners)
    ensure(not learners & (voters | set(membership.outgoing)), "a learner has no vote", membership=membership)
    ensure(set(membership.learners_next) <= set(membership.outgoing) - voters, "who becomes a learner is outgoing")
    ensure(set(membership.returning) <= learners | set(membership.learners_next), "who returns is a learner")
    ensure(membership.is_joint() or not membership.auto_leave, "only a joint membership is left")


def _apply(current: Membership, changes: Iterable[Change]) -> Membership:
    voters, learners, returning = set(current.voters), set(current.learners), set(current.returning)
    for kind, node in changes:
        if node < 1:
            raise RequestError(f"{node} is no node: ids begin at 1")
        voters.discard(node)
        learners.discard(node)
        returning.discard(node)
        if kind is ChangeKind.VOTER:
            voters.add(node)
        elif kind is ChangeKind.LEARNER:
            learners.add(node)
    if not voters:
        raise RequestError("a group without voters could never change again")
    return Membership(
        voters=tuple(sorted(voters)),
        learners=tuple(sorted(learners)),
        returning=tuple(sorted(returning)),
        directories=current.directories,
    )


# Bytes ----------------------------------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Membership)


def encode_membership(membership: Membership) -> bytes:
    """The data of an entry that holds it; the same bytes are a snapshot's first chunk."""
    return MARK + _encoder.encode(membership)


def decode_membership(data: bytes) -> Membership:
    """The inverse of `encode_membership`. Raises `StorageError`: what a log or snapshot holds cannot be read."""
    try:
        if data[:1] == MARK:
            return _decoder.decode(memoryview(data)[1:])
    except msgspec.MsgspecError as error:
        raise StorageError(f"a membership cannot be read: {error}") from error
    raise StorageError("there is no membership where one must stand")
