"""Linearizable reads confirmed for all groups of a node at once: what they cost does not grow with the groups.

A ReadIndex round asks a group's followers whether they still follow (thesis 6.4). Here a node asks each other node
once in a turn, for all groups that it leads: "does every replica of yours that followed me still do?" The other node
keeps one number for whoever leads here, its `unrest`, which grows whenever one of its replicas ceases to follow that
node in a term. While the number stays the same, one word confirms every group that was ever confirmed. CockroachDB's
store liveness has leases by that idea; here nothing counts on a clock. Whoever asks for reads of another node says its
number at once: with three voters that is the word that is needed, and there is no round at all.

Why that is linearizable: a read is answered after a majority of its group, this node included, was in the leader's
term at a moment after the read had come. So nobody had been elected in a later term before, and all that was
acknowledged before the read came was committed by this leader or before it. The state that is read has applied all
that this leader knows as committed, an entry of its own term included.

What cannot be answered so, for whatever reason, is left: who asked sends it to its group alone (`Replica`). So nothing
here is sent again, waits for a time or is retried. ADR 0041.
"""

from collections.abc import Callable
from typing import Final

from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.keyspace import MUST_LOG, ReadOutcome
from noctule.core.keyspace.reply import MOVED, Members, Named, Pairs, Reply
from noctule.core.raft.membership import Membership
from noctule.core.raft.quorum import majority
from noctule.core.replica.replica import Replica
from noctule.core.wire.messages import ForwardReads, ReadRound, ReadRoundReply, ReadsAnswered

ANSWER_BYTES_TARGET: Final = 8 << 20
"""Strings of one answer, also those within lists; once there are so many bytes the other reads are left, so that a
frame can hold them."""
DRAWN_BELOW: Final = 1 << 62
"""Each life of a node counts from a number drawn below this, so that no number of an earlier one is met again."""


class Following:
    """Which leaders this node's replicas follow, and how often one ceased to. What a follower needs."""

    __slots__ = ("_first", "_followed", "_unrest")

    def __init__(self, drawn: int) -> None:
        self._first = drawn
        self._followed: dict[GroupId, tuple[int, int]] = {}
        """Leader and term of each group that is led elsewhere."""
        self._unrest: dict[int, int] = {}

    def change(self, group: GroupId, leader: int, term: int) -> None:
        """The replica follows that node in that term from now on; nobody when it is 0. Told before anything else is
        heard or said."""
        before = self._followed.get(group)
        if before == (leader, term):
            return
        if before is not None:
            self._unrest[before[0]] = self.unrest(before[0]) + 1
        if leader:
            self._followed[group] = leader, term
        elif before is not None:
            del self._followed[group]

    def unrest(self, leader: int) -> int:
        """How often a replica ceased to follow this leader in a term, counted from a number drawn for this life."""
        return self._unrest.get(leader, self._first)

    def reply(self, leader: int, message: ReadRound, replicas: dict[GroupId, Replica]) -> ReadRoundReply:
        """What is so now. Of the groups asked about those are named that follow, under the directory that counts."""
        followed = []
        for number, term, directory in message.asked:
            group = GroupId(number)
            if self._followed.get(group) == (leader, term) and replicas[group].raft.directory == directory:
                followed.append((number, term))
        return ReadRoundReply(message.round, self.unrest(leader), followed)


class _GroupReads:
    """What one request asks of one group, and how many of its voters are still to confirm."""

    __slots__ = ("has_said", "is_left", "membership", "missing", "replica", "term")

    def __init__(self, replica: Replica, term: int, membership: Membership, missing: int) -> None:
        self.replica = replica
        self.term = term
        self.membership = membership
        self.missing = missing
        self.has_said = 0
        """The voter that confirmed with the request itself: its reply to the round does not count once more."""
        self.is_left = False
        """Whether a read of it was left: those behind it are left, too, since they may not overtake it."""


class _Asked:
    """A request on its way through one round."""

    __slots__ = ("awaited", "groups", "message", "round", "sender")

    def __init__(self, sender: int, message: ForwardReads) -> None:
        self.sender = sender
        self.message = message
        self.round = 0
        """The first one whose confirmation is late enough; 0 while it has not begun."""
        self.groups: dict[int, _GroupReads] = {}
        """Of those that are led here."""
        self.awaited: set[int] = set()
        """Who was asked and has not replied."""


class SharedReads:
    """A node's, as the leader of many groups. Holds one request of each node; a newer one takes its place."""

    __slots__ = (
        "_asked",
        "_first",
        "_followed",
        "_heard",
        "_is_closed",
        "_is_connected",
        "_now",
        "_replicas",
        "_requests",
        "_round",
        "_unrest",
    )

    def __init__(
        self,
        replicas: dict[GroupId, Replica],
        requests: dict[GroupId, int],
        is_connected: Callable[[int], bool],
        now: Callable[[], Instant],
        drawn: int,
    ) -> None:
        """`replicas` are those of the node, as they come and go; in `requests` is counted what each has answered."""
        self._replicas = replicas
        self._is_connected = is_connected
        self._now = now
        """For who watches a replica: while its group sleeps, its own is as old as that sleep."""
        self._requests = requests
        self._asked: dict[int, _Asked] = {}
        """By who asked."""
        self._is_closed = False
        self._first = self._round = drawn
        self._heard: dict[int, int] = {}
        """The newest round that each node has confirmed."""
        self._unrest: dict[int, int] = {}
        """As each node said last."""
        self._followed: dict[int, dict[int, int]] = {}
        """For each node the groups, with their terms, that are confirmed while its unrest stays what it is."""

    def ask(self, sender: int, message: ForwardReads) -> None:
        """Reads of groups that should be led here; the next `begin` has them confirmed. Forgets what that node asked
        before: it does not wait for it any more."""
        if not self._is_closed:
            self._asked[sender] = _Asked(sender, message)

    def close(self) -> None:
        """Answer nothing any more."""
        self._is_closed = True
        self._asked.clear()

    def begin(self, wall_ms: int) -> tuple[list[tuple[int, ReadRound]], list[tuple[int, ReadsAnswered]]]:
        """At the end of a turn: one round for all that came in it. What is to be sent to whom, and what needs nobody's
        word and so is answered already."""
        begun = [asked for asked in self._asked.values() if not asked.round]
        if not begun:
            return [], []
        self._round += 1
        rounds: dict[int, list[tuple[int, int, int]]] = {}
        for asked in begun:
            asked.round = self._round
            self._prepare(asked, rounds)
        answers = [self._answer(asked, wall_ms) for asked in begun if self._is_settled(asked)]
        return [(peer, ReadRound(self._round, groups)) for peer, groups in rounds.items()], answers

    def _prepare(self, asked: _Asked, rounds: dict[int, list[tuple[int, int, int]]]) -> None:
        groups, sender = asked.groups, asked.sender
        # The request left after the reads had come, so what it says of its sender is late enough to confirm them.
        said = self._followed.get(sender) if self._unrest.get(sender) == asked.message.unrest else None
        for number in asked.message.groups:
            if number in groups:
                continue
            replica = self._replicas.get(GroupId(number))
            if replica is None or not replica.raft.is_leader():
                continue
            consensus = replica.raft
            membership, own = consensus.log.membership, consensus.node_id
            voters = membership.voters
            if membership.outgoing or own not in voters:
                continue
            reads = _GroupReads(replica, consensus.term, membership, majority(len(voters)) - 1)
            groups[number] = reads
            if said is not None and said.get(number) == consensus.term and sender in voters:
                reads.has_said = sender
                reads.missing -= 1
                if not reads.missing:
                    continue
            for voter in voters:
                if voter == own or not self._is_connected(voter):
                    continue
                asked.awaited.add(voter)
                to_ask = rounds.get(voter)
                if to_ask is None:
                    to_ask = rounds[voter] = []
                followed = self._followed.get(voter)
                if followed is None or followed.get(number) != consensus.term:
                    to_ask.append((number, consensus.term, membership.directory_of(voter)))

    def replied(self, peer: int, reply: ReadRoundReply, wall_ms: int) -> list[tuple[int, ReadsAnswered]]:
        """A node confirms a round, and every one before it. What can be answered now, to whom."""
        if not max(self._first, self._heard.get(peer, 0)) < reply.round <= self._round:
            return []  # Late, doubled, or to an earlier life of this node.
        self._heard[peer] = reply.round
        followed = self._followed.get(peer)
        if followed is None or self._unrest.get(peer) != reply.unrest:
            followed = self._followed[peer] = {}
            self._unrest[peer] = reply.unrest
        for number, term in reply.followed:
            followed[number] = term
        heard = [asked for asked in self._asked.values() if 0 < asked.round <= reply.round and peer in asked.awaited]
        for asked in heard:
            asked.awaited.discard(peer)
            for number, reads in asked.groups.items():
                is_new = peer != reads.has_said and peer in reads.membership.voters
                if is_new and followed.get(number) == reads.term:
                    reads.missing -= 1
        return [self._answer(asked, wall_ms) for asked in heard if self._is_settled(asked)]

    def peer_lost(self, peer: int, wall_ms: int) -> list[tuple[int, ReadsAnswered]]:
        """The connection to a node is gone: nobody waits for its word any more. What can be answered now, to whom."""
        bereft = [asked for asked in self._asked.values() if peer in asked.awaited]
        for asked in bereft:
            asked.awaited.discard(peer)
        return [self._answer(asked, wall_ms) for asked in bereft if self._is_settled(asked)]

    def membership_changed(self, group: GroupId) -> None:
        """Another directory, or another node, may count from now on: the group is asked about anew."""
        for followed in self._followed.values():
            followed.pop(group, None)

    def _is_settled(self, asked: _Asked) -> bool:
        """Whether waiting for more would change nothing."""
        return not asked.awaited or all(reads.missing <= 0 for reads in asked.groups.values())

    def _answer(self, asked: _Asked, wall_ms: int) -> tuple[int, ReadsAnswered]:
        del self._asked[asked.sender]
        message, groups, requests = asked.message, asked.groups, self._requests
        results: list[Reply] = []
        left: list[int] = []
        size = 0
        for number, command in zip(message.groups, message.commands, strict=False):
            reads = groups.get(number)
            result = MUST_LOG if reads is None or size > ANSWER_BYTES_TARGET else _read(reads, command, wall_ms)
            if isinstance(result, ReadOutcome):
                left.append(len(results))
                result = None
            else:
                group = GroupId(number)
                requests[group] = requests.get(group, 0) + 1
                on_batch = reads.replica.on_batch if reads is not None else None
                if on_batch is not None:
                    on_batch([command], self._now())
                size += len(result) if isinstance(result, bytes) else _string_bytes(result)
            results.append(result)
        return asked.sender, ReadsAnswered(message.number, results, left)


def _read(reads: _GroupReads, command: list[bytes], wall_ms: int) -> Reply | ReadOutcome:
    result: Reply | ReadOutcome = MUST_LOG
    if reads.missing <= 0 and not reads.is_left:
        result = reads.replica.read_confirmed(reads.term, reads.membership, command, wall_ms)
    if isinstance(result, ReadOutcome) or result is MOVED:
        reads.is_left = True
        return MUST_LOG
    return result


def _string_bytes(reply: Reply) -> int:
    if isinstance(reply, bytes):
        return len(reply)
    if isinstance(reply, list):
        return sum([_string_bytes(item) for item in reply])
    if isinstance(reply, Members):
        return sum([_string_bytes(item) for item in reply.items])
    if isinstance(reply, Pairs | Named):
        return sum([_string_bytes(first) + _string_bytes(second) for first, second in reply.items])
    if isinstance(reply, dict):
        return sum([len(key) + _string_bytes(item) for key, item in reply.items()])
    return 0
