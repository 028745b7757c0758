"""Nodes with real `Carrier`s and `Replica`s on a table: messages wait until a test delivers them, disks sync when
a test says so."""

import random
from collections.abc import Callable, Sequence

from noctule.adapters.lua_engine import LuaEngine
from noctule.base.ids import GroupId, Instant
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import Membership
from noctule.core.raft.messages import Entry, HardState, Message
from noctule.core.raft.node import RaftNode
from noctule.core.replica.batches import OPENING, Batch, EntryBody, decode_entry, encode_batch, encode_opening
from noctule.core.replica.carry_out import Carrier
from noctule.core.replica.client_sessions import ClientSessions
from noctule.core.replica.durability import Durability
from noctule.core.replica.events import (
    Answer,
    DigestReady,
    Event,
    Publish,
    Query,
    Ready,
    Refuse,
    SplitOff,
    Submit,
    WriteSnapshot,
)
from noctule.core.replica.replica import Replica, SnapshotPolicy
from noctule.core.replica.shared_reads import Following, SharedReads

GROUP = GroupId(1)
OTHER_GROUP = GroupId(2)
CONFIG = RaftConfig(retained_entries=0)
POLICY = SnapshotPolicy()
ORIGINS_OPEN = 100
"""Every replica begins with this many client sessions, as if from a snapshot: 1 is the first one's origin."""


class Machine:
    """One node; it is its own `Peers` and `Disk`, and keeps what it was asked for."""

    def __init__(
        self, colony: "Colony", node_id: int, voters: Sequence[int], groups: Sequence[GroupId], policy: SnapshotPolicy
    ) -> None:
        self.node_id = node_id
        self.holds_disk = False
        """Its disk syncs only by `sync`."""
        self.is_busy = False
        """It does not get to what it puts off."""
        self.answers: list[Answer | Refuse] = []
        self.told: list[Ready] = []
        """Who was told of which keys."""
        self.written: list[WriteSnapshot] = []
        self.written_of: list[GroupId] = []
        """Whose they are."""
        self.digests: list[DigestReady] = []
        self.published: list[Publish] = []
        self.files: dict[GroupId, tuple[int, int, list[bytes]]] = {}
        """The newest snapshot of each group: index, term, chunks."""
        self.received: dict[GroupId, list[bytes]] = {}
        """Chunks of a snapshot that is on its way here."""
        self.memberships: list[tuple[GroupId, raft.MembershipChanged | raft.MembershipRefused]] = []
        self.flushed: list[list[tuple[GroupId, raft.Persist]]] = []
        """For each call of `flush` what it wrote; the numbers it answered are in `numbers`."""
        self.numbers: list[int] = []
        self.number = 0
        self._colony = colony
        self._policy = policy
        self._batch: list[tuple[GroupId, raft.Persist]] = []
        self._later: list[tuple[GroupId, raft.Event]] = []
        self.replicas = {}
        for group in groups:
            chance = random.Random(node_id * 1_000 + group)
            consensus = RaftNode(
                node_id=node_id,
                log=RaftLog(membership=Membership(voters=tuple(sorted(voters)))),
                config=colony.config,
                chance=chance,
                now=colony.now,
                first_timeout_s=9.0,
            )
            self.replicas[group] = Replica(
                group,
                consensus,
                policy,
                chance,
                durability=colony.durability,
                slots=colony.slots,
                engine=LuaEngine(),
            )
            self.replicas[group].sessions = sessions_open(ORIGINS_OPEN)
        self.carrier = Carrier(self.replicas, self, self, self._make_child)
        self.lost: set[int] = set()
        """The nodes to which it has no connection."""
        self.requests: dict[GroupId, int] = {}
        """The reads of each group that `reads` has answered."""
        drawn = node_id * 1_000
        self.following = Following(drawn)
        self.reads = SharedReads(
            self.replicas, self.requests, lambda node: node not in self.lost, lambda: colony.now, drawn
        )

    def _make_child(self, split: SplitOff, now: Instant) -> Replica:
        chance = random.Random(self.node_id * 1_000 + split.child)
        consensus = RaftNode(
            node_id=self.node_id,
            hard_state=HardState(split.term),
            log=RaftLog(split.index, split.term, membership=split.membership, membership_index=split.index),
            applied=split.index,
            config=self._colony.config,
            chance=chance,
            now=now,
        )
        return Replica(split.child, consensus, self._policy, chance)

    @property
    def is_told(self) -> bool:
        """Whether its disk has anything to tell."""
        return bool(self._later)

    @property
    def replica(self) -> Replica:
        """The one of `GROUP`."""
        return self.replicas[GROUP]

    def take(self, *events: Event, group: GroupId = GROUP) -> None:
        """Events of one turn, whose end is `turn`."""
        for event in events:
            self.carrier.take(group, event, self._colony.now)

    def turn(self) -> None:
        """Do what was put off, and end the turn at the colony's time, by this node's wall clock."""
        later, self._later = self._later, []
        for group, event in later:
            self.carrier.take(group, event, self._colony.now)
        while self.carrier.has_work() and not self.is_busy:
            self.carrier.work(self._colony.now)
        self.carrier.end_turn(self._colony.now, self._colony.wall_ms[self.node_id])
        for replica in self.replicas.values():
            replica.check()

    def sync(self, number: int | None = None) -> None:
        """The disk has everything up to this batch, or everything."""
        self.carrier.durable(self.number if number is None else number, self._colony.now)
        self.turn()

    def taken_answers(self) -> list[Answer | Refuse]:
        """The answers since the last call."""
        answers, self.answers = self.answers, []
        return answers

    def bodies(self) -> list[EntryBody]:
        """The log's entries, no-ops left out."""
        log = self.replica.raft.log
        return [decode_entry(entry.data) for entry in log.between(log.first_index, log.last_index) if entry.data]

    # Peers and Disk ---------------------------------------------------------------------------------------------------

    def send(self, to: int, group: GroupId, message: Message) -> None:
        self._colony.mail.append((self.node_id, to, group, message))

    def persist(self, group: GroupId, persist: raft.Persist) -> None:
        self._batch.append((group, persist))

    def flush(self) -> int:
        if any(persist.hard_state or persist.mark or persist.entries for _, persist in self._batch):
            self.number += 1
        self.flushed.append(self._batch)
        self.numbers.append(self.number)
        self._batch = []
        return self.number

    def answer(self, group: GroupId, answer: Answer | Refuse) -> None:
        self.answers.append(answer)

    def write_snapshot(self, group: GroupId, snapshot: WriteSnapshot) -> None:
        self.written.append(snapshot)
        self.written_of.append(group)

    def save_chunk(self, group: GroupId, chunk: raft.SaveChunk) -> None:
        received = self.received.setdefault(group, [])
        if chunk.number == 0:
            received.clear()
        received.append(chunk.data)
        if len(received) == chunk.count:
            self.files[group] = (chunk.index, chunk.term, received.copy())
            self._later.append((group, raft.SnapshotSaved(chunk.index, chunk.term)))
        else:
            self._later.append((group, raft.ChunkSaved(chunk.index, chunk.term, chunk.number)))

    def drop_chunks(self, group: GroupId) -> None:
        del self.received[group]

    def open_snapshot(self, group: GroupId) -> None:
        index, term, chunks = self.files.get(group, (0, 0, []))
        self._later.append((group, raft.SnapshotOpened(index, term, len(chunks), sum(map(len, chunks)))))

    def load_chunk(self, group: GroupId, wanted: raft.LoadChunk) -> None:
        index, _, chunks = self.files[group]
        data = chunks[wanted.number] if index == wanted.index else None
        self._later.append((group, raft.ChunkLoaded(wanted.index, wanted.number, data)))

    def keep_snapshots(self, group: GroupId, kept: raft.KeepSnapshots) -> None:
        """All are kept."""

    def membership_changed(self, group: GroupId, change: raft.MembershipChanged | raft.MembershipRefused) -> None:
        self.memberships.append((group, change))
        self.reads.membership_changed(group)

    def ready(self, ready: Ready) -> None:
        self.told.append(ready)

    def role_changed(self, group: GroupId, change: raft.RoleChanged) -> None:
        self.following.change(group, 0 if change.leader == self.node_id else change.leader, change.term)

    def digest_ready(self, group: GroupId, digest: DigestReady) -> None:
        self.digests.append(digest)

    def publish(self, publish: Publish) -> None:
        self.published.append(publish)

    def finish_snapshot(self) -> list[bytes]:
        """Write the oldest snapshot that was asked for to its file, and tell so; returns its chunks."""
        snapshot, group = self.written.pop(0), self.written_of.pop(0)
        chunks = list(snapshot.chunks)
        self.files[group] = (snapshot.index, snapshot.term, chunks)
        self.take(raft.SnapshotSaved(snapshot.index, snapshot.term), group=group)
        self.turn()
        return chunks


class Colony:
    """Nodes 1…n, each with a replica of every group."""

    def __init__(
        self,
        count: int = 1,
        *,
        groups: Sequence[GroupId] = (GROUP,),
        policy: SnapshotPolicy = POLICY,
        config: RaftConfig = CONFIG,
        durability: Durability = Durability.QUORUM,
        slots: tuple[int, int] | None = None,
    ) -> None:
        self.config = config
        self.durability = durability
        self.slots = slots
        self.now = Instant(0.0)
        voters = range(1, count + 1)
        self.wall_ms = dict.fromkeys(voters, 1_000)
        self.mail: list[tuple[int, int, GroupId, Message]] = []
        self.machines = {node: Machine(self, node, voters, groups, policy) for node in voters}

    def settle(self, wanted: Callable[[int, int, Message], bool] = lambda *_: True) -> None:
        """End turns, sync disks that are not held, deliver what is wanted and lose the rest, until all is quiet."""
        for _ in range(300):
            for machine in self.machines.values():
                machine.turn()
                if not machine.holds_disk:
                    machine.sync()
            if not self.mail and not any(machine.is_told for machine in self.machines.values()):
                return
            mail, self.mail = self.mail, []
            for sender, to, group, message in mail:
                if wanted(sender, to, message) and group in self.machines[to].replicas:
                    self.machines[to].take(raft.Received(sender, message), group=group)
        raise AssertionError("the colony does not come to rest")

    def settle_between(self, *nodes: int) -> None:
        """Everyone else is cut off."""
        self.settle(lambda sender, to, _: sender in nodes and to in nodes)

    def elect(self, node: int, *, among: Sequence[int] = ()) -> Machine:
        """Have a node lead every group; earlier leaders are forgotten first."""
        self.now = Instant(self.now + 20.0)
        machine = self.machines[node]
        for group in machine.replicas:
            machine.take(raft.Tick(), group=group)
        self.settle_between(*(among or self.machines))
        assert all(replica.raft.is_leader() for replica in machine.replicas.values())
        return machine

    def heartbeat(self, node: int) -> None:
        """Let the leader tell its commit index, and followers apply."""
        self.now = Instant(self.now + self.config.heartbeat_s)
        self.machines[node].take(raft.Tick())
        self.settle()


def sessions_open(count: int) -> ClientSessions:
    """Sessions with the origins 1…count, opened at stamp 0 and not used yet."""
    sessions = ClientSessions()
    for _ in range(count):
        sessions.apply(Batch(0, OPENING, 0, []), 0, lambda _: None)
    return sessions


def write(
    origin: int,
    sequence: int,
    *commands: bytes,
    below: int | None = None,
    sender: int = 1,
    term: int = 0,
) -> Submit:
    """A batch of commands, each written as one line."""
    acknowledged_below = sequence if below is None else below
    batch = encode_batch(origin, sequence, acknowledged_below, [command.split() for command in commands])
    return Submit(sender, origin, sequence, batch, term)


def opening(drawn: int, *, sender: int = 1) -> Submit:
    """What opens a session."""
    return Submit(sender, drawn, OPENING, encode_opening(drawn))


def batch_of(origin: int, sequence: int, *commands: bytes, below: int | None = None) -> Batch:
    """What `write` looks like in an entry."""
    return Batch(origin, sequence, sequence if below is None else below, [command.split() for command in commands])


def query(origin: int, number: int, *commands: bytes, sender: int = 1) -> Query:
    """Reads, each written as one line."""
    return Query(sender, origin, number, [command.split() for command in commands])


def entries_of(persist: raft.Persist) -> list[Entry]:
    """The entries of a persist that hold commands."""
    return [entry for entry in persist.entries if entry.data]
