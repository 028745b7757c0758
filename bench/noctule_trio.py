"""What consensus.py measures: three nodes in this process, which hand each other messages in memory. No I/O.

`RaftTrio` is Noctule's own Raft under the smallest loop that carries out its effects; pysyncobj_trio.py is the other.
"""

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from noctule.base.errors import InternalError
from noctule.base.ids import Instant
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.events import Commit, Effect, Event, Persist, Persisted, Propose, Proposed, Received, Send, Tick
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import Membership
from noctule.core.raft.messages import Entry, Message
from noctule.core.raft.node import RaftNode
from noctule.core.replica.batches import decode_entry, encode_batch, encode_entry
from noctule.core.wire.frames import FrameReader, decode_envelopes, encode_frame
from noctule.core.wire.messages import Envelope

MEMBERS = (1, 2, 3)
GROUP = 1
TURN_S_MAX = 0.05
"""A heartbeat of Noctule's, of which ten make an election."""
ORIGIN = 1
"""Under which all batches of commands are numbered, as those of one client's node would be."""


class Trio(Protocol):
    """Three nodes that agree on a log of values. Nothing happens in them but in these calls."""

    acknowledged_count: int
    """Values whose proposer was told that they are committed and applied."""
    applied: list[list[bytes]]
    """By node: every value its state machine was given, in order."""

    def is_ready(self) -> bool:
        """Whether a leader is there and all know it."""
        ...

    def propose(self, values: Sequence[bytes]) -> None:
        """Give values to the leader, one command each."""
        ...

    def turn(self) -> None:
        """Let each node take in what has come, once, and do what follows."""
        ...

    def close(self) -> None:
        """Give back what it holds."""


class TurnClock:
    """The time by which three nodes of one process wait for each other: that in which their process runs.

    A busy machine stops all three at once. By its clock each would then find the others silent, before it could read
    what they had said long ago, and elect, which is not what is measured. Here a turn lasts `TURN_S_MAX` at most.
    """

    def __init__(self) -> None:
        self._seen = time.monotonic()
        self._time = [self._seen]
        self.now: Callable[[], float] = partial(self._time.__getitem__, 0)
        """In seconds, from the last turn on the same; no slower to call than the system's own."""

    def turn(self) -> None:
        """Another turn begins."""
        seen = time.monotonic()
        self._time[0] += min(seen - self._seen, TURN_S_MAX)
        self._seen = seen


class RaftTrio:
    """Three `RaftNode`s of one group with their defaults, so with pre-vote, check-quorum and flow control.

    An entry holds up to `entry_commands` values, encoded and decoded as a replica does. What is to be persisted counts
    as durable at the end of the same turn. After each turn the node's invariants are checked. With `is_encoded` all
    messages of a turn for one node travel as the bytes of a frame, else as the objects they are.
    """

    def __init__(self, *, entry_commands: int, is_encoded: bool) -> None:
        self.acknowledged_count = 0
        self.applied: list[list[bytes]] = []
        self._entry_commands = entry_commands
        self._clock = TurnClock()
        self._members: dict[int, _Member] = {}
        for node in MEMBERS:
            kind = _EncodedMember if is_encoded else _Member
            self._members[node] = member = kind(node, self._members, self._clock)
            self.applied.append(member.applied)
        self._leader: _Member | None = None
        self._awaited: dict[int, int] = {}
        """By the index of an entry that is not committed yet: how many values are in it."""
        self._sequence = 0

    def is_ready(self) -> bool:
        """Whether a leader is there and all know it; from then on it is the one that is given proposals."""
        leaders = {member.raft.get_leader() for member in self._members.values()}
        if len(leaders) == 1 and leaders != {0}:
            self._leader = self._members[leaders.pop()]
            self._leader.on_applied = self._acknowledge
        return self._leader is not None

    def propose(self, values: Sequence[bytes]) -> None:
        """Make entries of them; raises `InternalError` when the leader refuses one."""
        if self._leader is None:
            raise InternalError("is_ready comes first")
        size = self._entry_commands
        for start in range(0, len(values), size):
            commands = [[value] for value in values[start : start + size]]
            self._sequence += 1
            data = encode_entry(0, [encode_batch(ORIGIN, self._sequence, self._sequence, commands)])
            self._awaited[self._leader.propose(data)] = len(commands)

    def turn(self) -> None:
        """Each node in turn, the leader first."""
        self._clock.turn()
        if self._leader is not None:
            self._leader.turn()
        for member in self._members.values():
            if member is not self._leader:
                member.turn()

    def close(self) -> None:
        """Nothing to give back."""

    def _acknowledge(self, index: int) -> None:
        self.acknowledged_count += self._awaited.pop(index, 0)


class _Member:
    """One node: its Raft, its state machine, and what is on the way to it."""

    def __init__(self, node: int, members: "dict[int, _Member]", clock: TurnClock) -> None:
        self.applied: list[bytes] = []
        self._now = clock.now
        self.raft = _raft_node(node, Instant(clock.now()))
        self.on_applied: Callable[[int], None] = lambda _index: None
        """Called with the index of each entry once it is applied; on the leader it is the trio's."""
        self._node = node
        self._members = members
        self._incoming: list[tuple[int, list[Envelope]]] = []
        self._outgoing: dict[int, list[Envelope]] = {}
        self._persists: list[Persist] = []

    def propose(self, data: bytes) -> int:
        """The index of the new entry; raises `InternalError` when it is refused."""
        effects = self.raft.handle(Propose(data), Instant(self._now()))
        self._carry_out(effects)
        proposed = effects[0]
        if not isinstance(proposed, Proposed):
            raise InternalError(f"the leader refused a proposal: {proposed}")
        return proposed.index

    def turn(self) -> None:
        """Time, messages, the disk that is none, and then what has to be sent."""
        now = Instant(self._now())
        if self.raft.next_deadline() <= now:
            self._handle(Tick(), now)
        incoming, self._incoming = self._incoming, []
        for sender, envelopes in incoming:
            for _, message in envelopes:
                self._handle(Received(sender, message), now)  # type: ignore[arg-type]  # Only Raft's are sent here.
        while self._persists:
            persists, self._persists = self._persists, []
            for persist in persists:
                for send in persist.after:
                    self._put(send.to, send.message)
                self._handle(Persisted(persist.index, persist.term), now)
        self.raft.check()
        outgoing, self._outgoing = self._outgoing, {}
        for to, envelopes in outgoing.items():
            self._send(to, envelopes)

    def _send(self, to: int, envelopes: list[Envelope]) -> None:
        self._members[to].take(self._node, envelopes)

    def take(self, sender: int, envelopes: list[Envelope]) -> None:
        """A turn's messages from another node, for the next turn."""
        self._incoming.append((sender, envelopes))

    def _put(self, to: int, message: Message) -> None:
        self._outgoing.setdefault(to, []).append((GROUP, message))

    def _handle(self, event: Event, now: Instant) -> None:
        self._carry_out(self.raft.handle(event, now))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._put(effect.to, effect.message)
            elif isinstance(effect, Persist):
                self._persists.append(effect)
            elif isinstance(effect, Commit):
                self._apply(effect.first_index, effect.entries)

    def _apply(self, first_index: int, entries: Sequence[Entry]) -> None:
        apply = self.applied.append
        for index, entry in enumerate(entries, first_index):
            if entry.data:
                for batch in decode_entry(entry.data).batches:
                    for (value,) in batch.commands:
                        apply(value)
                self.on_applied(index)


class _EncodedMember(_Member):
    """One node whose messages travel as bytes, as they would through a socket."""

    def __init__(self, node: int, members: "dict[int, _Member]", clock: TurnClock) -> None:
        super().__init__(node, members, clock)
        self._readers = {member: FrameReader() for member in MEMBERS}

    def _send(self, to: int, envelopes: list[Envelope]) -> None:
        peer = self._members[to]
        assert isinstance(peer, _EncodedMember)
        peer.receive(self._node, encode_frame(envelopes))

    def receive(self, sender: int, data: bytes) -> None:
        """Bytes of a connection, which are whole frames here."""
        for body in self._readers[sender].feed(data):
            self.take(sender, decode_envelopes(body))


def _raft_node(node: int, now: Instant) -> RaftNode:
    log = RaftLog(membership=Membership(voters=MEMBERS))
    return RaftNode(node_id=node, config=RaftConfig(), chance=random.Random(node), now=now, log=log)
