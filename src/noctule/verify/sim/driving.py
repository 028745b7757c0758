"""One Raft group driven by hand: messages wait until they are delivered, disks sync when told, time moves when told.

For tests and transcripts (`transcript.py`) that want one exact course of events; `world.py` is for many. Only the Raft
core runs here: the state of a node is the list of the data it was told to apply. Everything that happens stands in
`journal`, in order. Each step checks every node, that no term has two leaders, and that what was committed once stays
committed. The same calls with the same seed make the same journal.
"""

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from noctule.base.ensure import ensure
from noctule.base.errors import RequestError
from noctule.base.ids import Instant
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import MARK, Change, Membership, encode_membership
from noctule.core.raft.messages import Entry, HardState, InstallSnapshot, Message
from noctule.core.raft.node import RaftNode
from noctule.verify.sim.driving_disk import HandDisk, Snapshot
from noctule.verify.sim.invariants import SafetyViolation

TINY = RaftConfig(
    heartbeat_s=0.05,
    election_timeout_s_min=0.5,
    election_timeout_s_max=1.0,
    append_bytes_max=100,
    in_flight_max=3,
    uncommitted_bytes_max=1_000,
    chunk_bytes_max=20,
    retained_entries=0,
)
"""Bounds so small that a few entries reach them."""

ROUNDS_MAX = 50
"""A group that still sends after so many rounds of deliveries never comes to rest."""


Stored: TypeAlias = raft.Persist | raft.SaveChunk | raft.DropChunks
"""What a disk does in order, and may not have done yet when its node dies."""


class Letter(NamedTuple):
    """A message on its way."""

    sender: int
    to: int
    message: Message


class Delivered(NamedTuple):
    """A letter reached its node."""

    letter: Letter


class Lost(NamedTuple):
    """A letter will not arrive, for a reason in words."""

    letter: Letter
    reason: str


class Asked(NamedTuple):
    """A node asked for an effect other than sending; `held` when its disk waits for `sync`."""

    node: int
    effect: raft.Effect
    held: bool


class Synced(NamedTuple):
    """Something that waited for `sync` became durable."""

    node: int
    stored: Stored


class Crashed(NamedTuple):
    """A node died and so many things that waited for `sync` were lost."""

    node: int
    unsynced: int


Happening: TypeAlias = Delivered | Lost | Asked | Synced | Crashed

Wanted: TypeAlias = Callable[[int, int, Message], bool]
"""Chooses letters by sender, receiver and message."""


class PeerState(NamedTuple):
    """A leader's view of one follower."""

    state: str
    match: int
    next: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class NodeState:
    """Everything a test asks about a node, as plain values. `log_terms` begins after `snapshot` (index, term)."""

    node: int
    running: bool
    role: str
    term: int
    vote: int
    leader: int
    commit: int
    applied: int
    durable: int
    snapshot: tuple[int, int]
    log_terms: tuple[int, ...]
    membership: Membership
    """The one in force, and where it stands in the log."""
    membership_index: int
    directory: int
    peers: dict[int, PeerState]
    """Empty unless the node leads."""


def chosen(kind: str | None = None, *, sender: int | None = None, to: int | None = None) -> Wanted:
    """Letters of this kind (the name of the message's class), from and to these nodes; None is any."""

    def wanted(from_node: int, to_node: int, message: Message) -> bool:
        return kind in (None, type(message).__name__) and sender in (None, from_node) and to in (None, to_node)

    return wanted


def everything(_sender: int, _to: int, _message: Message) -> bool:
    """All letters."""
    return True


def log_of(*terms: int) -> RaftLog:
    """A log with entries of these terms, from index 1 on; each entry's data tells its place and term."""
    return RaftLog(entries=[Entry(term, b"%d@%d" % (index, term)) for index, term in enumerate(terms, 1)])


def snapshot_of(*data: bytes, voters: Collection[int] = (1, 2, 3), bytes_max: int = 1_000) -> tuple[bytes, ...]:
    """The chunks of a snapshot of these members, whose state has applied these data."""
    return chunks_of(Membership(voters=tuple(voters)), data, bytes_max)


def chunks_of(membership: Membership, data: Iterable[bytes], bytes_max: int) -> tuple[bytes, ...]:
    """A snapshot: the membership, and the data in chunks of at most so many bytes."""
    state = b" ".join(data)
    parts = [state[start : start + bytes_max] for start in range(0, len(state), bytes_max)]
    return (encode_membership(membership), *parts)


def installing(term: int, index: int, index_term: int, chunks: Sequence[bytes]) -> list[InstallSnapshot]:
    """The messages by which a leader of that term sends these chunks."""
    total = sum(map(len, chunks))
    return [
        InstallSnapshot(term, index, index_term, number, len(chunks), chunk, total)
        for number, chunk in enumerate(chunks)
    ]


class Group:
    """Voters 1…n, or those given, and learners, each running on an empty disk.

    `applied` holds for each node the data it was told to apply, no-ops left out; `mail` the letters on their way,
    oldest first; `nodes` the machines themselves. Calls that make no sense raise `RequestError` and change nothing.
    """

    def __init__(
        self,
        voters: int | Collection[int] = 3,
        config: RaftConfig = TINY,
        seed: int = 1,
        *,
        learners: Collection[int] = (),
    ) -> None:
        self.config = config
        self.now = Instant(0.0)
        numbers = range(1, voters + 1) if isinstance(voters, int) else sorted(voters)
        first = Membership(voters=tuple(numbers), learners=tuple(sorted(learners)))
        self.members = first.members()
        """Everyone who was ever started, in ascending order."""
        self.nodes: dict[int, RaftNode] = {}
        self.mail: list[Letter] = []
        self.disk = {member: HandDisk(first) for member in self.members}
        self.unsynced: dict[int, deque[Stored]] = {node: deque() for node in self.members}
        self.opened: dict[int, dict[int, Snapshot]] = {node: {} for node in self.members}
        """Of each node the snapshots that it holds open for sending, by index."""
        self.holds_disk: set[int] = set()
        """Nodes whose disk syncs only by `sync`."""
        self.down: set[int] = set()
        self.applied: dict[int, list[bytes]] = {}
        self.effects: dict[int, list[raft.Effect]] = {member: [] for member in self.members}
        self.journal: list[Happening] = []
        self._chance = random.Random(seed)
        self._applied_counts: dict[int, dict[int, int]] = {}
        """For each node and applied index the length of `applied` then."""
        self._leaders: dict[int, int] = {}
        self._committed: dict[int, Entry] = {}
        for member in self.members:
            self.start(member)

    # Nodes and their disks -------------------------------------------------------------------------------------------

    def join(self, node: int) -> RaftNode:
        """Start a node that the group does not know yet, on an empty disk; a membership change is to name it."""
        if node in self.members:
            raise RequestError(f"node {node} was started before: ids are never used again")
        self.members = tuple(sorted([*self.members, node]))
        self.disk[node], self.unsynced[node], self.effects[node] = HandDisk(Membership()), deque(), []
        return self.start(node)

    def lose_disk(self, node: int, directory: int) -> RaftNode:
        """Start a node anew on an empty disk, as the directory with this id: what it promised is forgotten."""
        self.disk[self._known(node)] = HandDisk(self.disk[node].first, directory)
        return self.start(node)

    def start(self, node: int, log: RaftLog | None = None, hard_state: HardState | None = None) -> RaftNode:
        """Start a node anew with what its disk holds, or with this log and hard state put on it first."""
        disk = self.disk[self._known(node)]
        if log is not None:
            disk.entries = log.between(1, log.last_index)
            disk.hard_state = hard_state or HardState(log.last_term, 0)
        self.unsynced[node].clear()
        self.opened[node] = {}
        self.down.discard(node)
        hard_state, log, applied = disk.recover()
        self._restore(node, applied)
        self.nodes[node] = RaftNode(
            node_id=node,
            config=self.config,
            chance=random.Random(self._chance.getrandbits(32)),
            now=self.clock(node),
            hard_state=hard_state,
            log=log,
            applied=applied,
            directory=disk.directory,
        )
        return self.nodes[node]

    def crash(self, node: int) -> None:
        """kill -9: what its disk had not synced is lost; letters it sent are still on their way."""
        self._running(node)
        self.journal.append(Crashed(node, len(self.unsynced[node])))
        self.unsynced[node].clear()
        self.down.add(node)

    def hold(self, node: int) -> None:
        """From now on this disk syncs only by `sync`."""
        self.holds_disk.add(self._known(node))

    def release(self, node: int) -> None:
        """Sync all that waits, and everything to come at once."""
        self.holds_disk.discard(self._known(node))
        self.sync(node)

    def sync(self, node: int, count: int | None = None) -> None:
        """Make durable, in order, so many of what waits by now, all by default; messages that waited for it leave."""
        self._running(node)
        waiting = len(self.unsynced[node])
        for _ in range(waiting if count is None else min(count, waiting)):
            if not self.unsynced[node]:
                return  # What the first ones caused has synced the rest.
            stored = self.unsynced[node].popleft()
            if node in self.holds_disk:
                self.journal.append(Synced(node, stored))
            if isinstance(stored, raft.DropChunks):
                self.disk[node].keep_chunk(stored)
            elif isinstance(stored, raft.SaveChunk):
                self.disk[node].keep_chunk(stored)
                is_last = stored.number + 1 == stored.count
                saved, chunk = raft.SnapshotSaved, raft.ChunkSaved
                place = (stored.index, stored.term)
                self.give(node, saved(*place) if is_last else chunk(*place, stored.number))
            else:
                self.disk[node].keep(stored)
                self.mail.extend(Letter(node, send.to, send.message) for send in stored.after)
                self.give(node, raft.Persisted(stored.index, stored.term))

    def clock(self, _node: int) -> Instant:
        """What a node's clock shows: the same for all, here."""
        return self.now

    # Events ----------------------------------------------------------------------------------------------------------

    def give(self, node: int, event: raft.Event) -> list[raft.Effect]:
        """One event to one node; returns its effects. Letters go to the mail, the disk syncs at once unless held."""
        machine = self._running(node)
        effects = machine.handle(event, self.clock(node))
        self.effects[node].extend(effects)
        wanted: list[raft.OpenSnapshot | raft.LoadChunk] = []
        for effect in effects:
            if not isinstance(effect, raft.Send):
                self.journal.append(Asked(node, effect, node in self.holds_disk))
            match effect:
                case raft.Send():
                    self.mail.append(Letter(node, effect.to, effect.message))
                case raft.Persist() | raft.SaveChunk() | raft.DropChunks():
                    self.unsynced[node].append(effect)
                case raft.Commit():
                    self._apply(node, effect)
                case raft.Restore():
                    self._restore(node, effect.index)
                case raft.OpenSnapshot() | raft.LoadChunk():
                    wanted.append(effect)
                case raft.KeepSnapshots():
                    held = self.opened[node]
                    self.opened[node] = {index: held[index] for index in effect.indexes}
                case raft.RoleChanged(role="leader", term=term):
                    self._check_only_leader(node, term)
                case _:
                    pass
        if node not in self.holds_disk:
            self.sync(node)
        machine.check()
        if machine.applied < machine.commit and not isinstance(event, raft.ApplyMore):
            self.apply_all(node)
        for each in wanted:
            self.give(node, self._open(node) if isinstance(each, raft.OpenSnapshot) else self._load(node, each))
        return effects

    def _open(self, node: int) -> raft.SnapshotOpened:
        snapshot = self.disk[node].snapshot
        if snapshot is None:
            return raft.SnapshotOpened(0, 0, 0, 0)
        self.opened[node][snapshot.index] = snapshot
        total = sum(map(len, snapshot.chunks))
        return raft.SnapshotOpened(snapshot.index, snapshot.term, len(snapshot.chunks), total)

    def _load(self, node: int, wanted: raft.LoadChunk) -> raft.ChunkLoaded:
        snapshot = self.opened[node].get(wanted.index)
        data = snapshot.chunks[wanted.number] if snapshot is not None else None
        return raft.ChunkLoaded(wanted.index, wanted.number, data)

    def apply_all(self, node: int) -> None:
        """Let the node apply what is committed, however long that is."""
        while self._running(node).applied < self.nodes[node].commit:
            self.give(node, raft.ApplyMore())

    def campaign(self, node: int) -> None:
        """Move the clock to the node's election deadline and have it campaign; nobody else notices the time."""
        if self._running(node).is_leader():
            raise RequestError(f"node {node} leads already: a leader does not campaign")
        self.now = max(self.now, self.nodes[node].next_deadline())
        self.give(node, raft.Tick())

    def elect(self, node: int, *, among: Iterable[int] | None = None) -> RaftNode:
        """Have a node win an election among these, all by default; everyone forgets an earlier leader first."""
        self.now = Instant(self.now + 2 * self.config.election_timeout_s_max)
        self.give(node, raft.Tick())
        self.stabilise_among(*(among if among is not None else self.members))
        ensure(self.nodes[node].is_leader(), "the node wins the election it was meant to win", node=node)
        return self.nodes[node]

    def propose(self, node: int, data: bytes) -> list[raft.Effect]:
        """Propose; nothing is delivered yet."""
        return self.give(node, raft.Propose(data))

    def change(
        self, node: int, *changes: Change, transition: raft.Transition = raft.Transition.JOINT
    ) -> list[raft.Effect]:
        """Propose a change of the membership; nothing is delivered yet."""
        return self.give(node, raft.ChangeMembership(changes, transition))

    def leave_joint(self, node: int) -> list[raft.Effect]:
        """Propose to leave the joint membership; nothing is delivered yet."""
        return self.give(node, raft.LeaveJoint())

    def read_index(self, node: int, context: int, *, lease: bool = False) -> list[raft.Effect]:
        """Ask for a read index, by lease if there is one; nothing is delivered yet."""
        return self.give(node, raft.ReadIndex(context, lease))

    def transfer(self, node: int, target: int) -> None:
        """Have a leader hand over to the target."""
        self.give(node, raft.TransferLeadership(self._known(target)))

    def suspect(self, node: int, suspected: int) -> None:
        """Tell a node that the process of another seems gone."""
        self.give(node, raft.Suspect(self._known(suspected)))

    def trust(self, node: int, trusted: int) -> None:
        """Tell a node that the process of another is there, again or after all."""
        self.give(node, raft.Trust(self._known(trusted)))

    def compact(self, node: int, index: int | None = None) -> None:
        """Save a snapshot of the node's state at an applied index, the newest by default, and cut its log."""
        machine = self._running(node)
        index = machine.applied if index is None else index
        term = machine.log.term_at(index)
        if not machine.log.snapshot_index < index <= machine.applied or term is None:
            raise RequestError(
                f"node {node} cannot compact to {index}: it has applied {machine.applied} "
                f"and its log begins after {machine.log.snapshot_index}"
            )
        applied = self.applied[node][: self._applied_counts[node][index]]
        chunks = chunks_of(machine.log.membership_at(index), applied, self.config.chunk_bytes_max)
        self.disk[node].save(Snapshot(index, term, chunks))
        self.give(node, raft.SnapshotSaved(index, term))

    def install(self, node: int, chunks: Sequence[bytes], *, term: int, index: int, index_term: int) -> None:
        """Give a node all chunks of a snapshot, as node 1 sends them if it leads in that term."""
        for message in installing(term, index, index_term, chunks):
            self.give(node, raft.Received(1, message))

    def tick(self, seconds: float, nodes: Iterable[int] | None = None) -> None:
        """Move the clock; of these nodes, all that run by default, those whose deadline has come notice."""
        self.now = Instant(self.now + seconds)
        for node in nodes if nodes is not None else [member for member in self.members if member not in self.down]:
            if self._running(node).next_deadline() <= self.now:
                self.give(node, raft.Tick())

    # Letters ---------------------------------------------------------------------------------------------------------

    def deliver(self, wanted: Wanted = everything, *, newest_first: bool = False) -> int:
        """Deliver the chosen letters of those on their way by now; the rest stays. Returns how many."""
        letters = self._take(wanted)
        for letter in reversed(letters) if newest_first else letters:
            self._hand_over(letter)
        return len(letters)

    def double(self, wanted: Wanted = everything) -> int:
        """Put a second copy of each chosen letter behind all others. Returns how many."""
        copies = [letter for letter in self.mail if wanted(*letter)]
        self.mail.extend(copies)
        return len(copies)

    def drop(self, wanted: Wanted = everything) -> int:
        """Lose the chosen letters. Returns how many."""
        letters = self._take(wanted)
        self.journal.extend(Lost(letter, "dropped") for letter in letters)
        return len(letters)

    def stabilise(self, wanted: Wanted = everything) -> None:
        """Deliver chosen letters, and what they cause, until none is on its way; all others are lost."""
        for _ in range(ROUNDS_MAX):
            letters, self.mail = self.mail, []
            if not letters:
                return
            for letter in letters:
                if wanted(*letter):
                    self._hand_over(letter)
                else:
                    self.journal.append(Lost(letter, "cut off"))
        raise SafetyViolation(f"the group does not come to rest in {ROUNDS_MAX} rounds")

    def stabilise_among(self, *nodes: int) -> None:
        """As `stabilise`, with everyone but these cut off."""
        self.stabilise(lambda sender, to, _: sender in nodes and to in nodes)

    def _take(self, wanted: Wanted) -> list[Letter]:
        taken = [letter for letter in self.mail if wanted(*letter)]
        self.mail = [letter for letter in self.mail if not wanted(*letter)]
        return taken

    def _hand_over(self, letter: Letter) -> None:
        if letter.to in self.down:
            self.journal.append(Lost(letter, "the receiver is down"))
            return
        self.journal.append(Delivered(letter))
        self.give(letter.to, raft.Received(letter.sender, letter.message))

    # State -----------------------------------------------------------------------------------------------------------

    def state(self, node: int) -> NodeState:
        """A picture of a node now; of one that is down, as it was when it died."""
        machine = self.nodes[self._known(node)]
        leadership = machine.leadership
        return NodeState(
            node=node,
            running=node not in self.down,
            role=machine.role,
            term=machine.term,
            vote=machine.vote,
            leader=machine.leader,
            commit=machine.commit,
            applied=machine.applied,
            durable=machine.durable,
            snapshot=(machine.log.snapshot_index, machine.log.snapshot_term),
            log_terms=tuple(self.terms(node)),
            membership=machine.log.membership,
            membership_index=machine.log.membership_index,
            directory=machine.directory,
            peers={
                peer: PeerState(progress.state, progress.match, progress.next, len(progress.in_flight))
                for peer, progress in (leadership.progress.items() if leadership is not None else ())
            },
        )

    def terms(self, node: int) -> list[int]:
        """The terms of the entries in the node's log."""
        log = self.nodes[node].log
        return [entry.term for entry in log.between(log.first_index, log.last_index)]

    def _apply(self, node: int, commit: raft.Commit) -> None:
        for index, entry in enumerate(commit.entries, commit.first_index):
            before = self._committed.setdefault(index, entry)
            if before != entry:
                raise SafetyViolation(f"node {node} commits {entry} at {index}, where {before} was committed before")
            if entry.data and entry.data[:1] != MARK:
                self.applied[node].append(entry.data)
            self._applied_counts[node][index] = len(self.applied[node])

    def _restore(self, node: int, index: int) -> None:
        snapshot = self.disk[node].snapshot
        ensure(snapshot is None or snapshot.index == index, "what is restored is durable", node=node, index=index)
        self.applied[node] = b"".join(snapshot.chunks[1:]).split() if snapshot is not None else []
        self._applied_counts[node] = {index: len(self.applied[node])}

    def _check_only_leader(self, node: int, term: int) -> None:
        first = self._leaders.setdefault(term, node)
        if first != node:
            raise SafetyViolation(f"nodes {first} and {node} both lead in term {term}")

    def _known(self, node: int) -> int:
        if node not in self.members:
            raise RequestError(f"node {node} is not in the group: its members are {', '.join(map(str, self.members))}")
        return node

    def _running(self, node: int) -> RaftNode:
        if self._known(node) in self.down:
            raise RequestError(f"node {node} is down: start it first")
        return self.nodes[node]
