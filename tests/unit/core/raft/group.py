"""A group of `RaftNode`s on one table: messages wait until a test delivers them, disks sync when a test says so."""

import random
from collections.abc import Callable, Iterable

from noctule.base.ids import Instant
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.log import RaftLog
from noctule.core.raft.messages import Entry, HardState, Message
from noctule.core.raft.node import RaftNode

CONFIG = RaftConfig(
    heartbeat_s=0.05,
    election_timeout_s_min=0.5,
    election_timeout_s_max=1.0,
    append_bytes_max=100,
    in_flight_max=3,
    uncommitted_bytes_max=1_000,
    chunk_bytes_max=4,
    retained_entries=0,
)


class Group:
    """Voters 1…n. `applied` holds for each node the data it was told to apply, no-ops left out."""

    def __init__(self, count: int = 3, config: RaftConfig = CONFIG, seed: int = 1) -> None:
        self.config = config
        self.now = Instant(0.0)
        self.voters = range(1, count + 1)
        self.chance = random.Random(seed)
        self.nodes: dict[int, RaftNode] = {}
        self.mail: list[tuple[int, int, Message]] = []
        self.unsynced: dict[int, list[raft.Persist]] = {voter: [] for voter in self.voters}
        self.disk: dict[int, tuple[HardState, list[Entry]]] = {voter: (HardState(), []) for voter in self.voters}
        self.applied: dict[int, list[bytes]] = {voter: [] for voter in self.voters}
        self.effects: dict[int, list[raft.Effect]] = {voter: [] for voter in self.voters}
        self.snapshot: tuple[int, int, bytes] | None = None
        self.holds_disk: set[int] = set()
        """Nodes whose disk syncs only by `sync`."""
        for voter in self.voters:
            self.start(voter)

    def start(self, voter: int, log: RaftLog | None = None, hard_state: HardState | None = None) -> RaftNode:
        """Start or restart a node with what its disk holds."""
        stored_state, entries = self.disk[voter]
        if log is not None:
            self.disk[voter] = (hard_state or stored_state, log.between(1, log.last_index))
            stored_state, entries = self.disk[voter]
        self.unsynced[voter] = []
        self.applied[voter] = []
        self.nodes[voter] = RaftNode(
            node_id=voter,
            voters=self.voters,
            config=self.config,
            chance=random.Random(self.chance.getrandbits(32)),
            now=self.now,
            hard_state=stored_state,
            log=RaftLog(entries=list(entries)),
        )
        return self.nodes[voter]

    def give(self, voter: int, event: raft.Event) -> list[raft.Effect]:
        """One event to one node; its messages go to the mail, its disk syncs at once unless held."""
        effects = self.nodes[voter].handle(event, self.now)
        self.effects[voter].extend(effects)
        for effect in effects:
            match effect:
                case raft.Send():
                    self.mail.append((voter, effect.to, effect.message))
                case raft.Persist():
                    self.unsynced[voter].append(effect)
                case raft.Commit():
                    self.applied[voter].extend(entry.data for entry in effect.entries if entry.data)
                case raft.LoadSnapshot():
                    assert self.snapshot is not None
                    self.give(voter, raft.SnapshotLoaded(*self.snapshot))
                case raft.SaveSnapshot():
                    self.give(voter, raft.SnapshotSaved(effect.index, effect.term))
                case raft.Restore():
                    self.applied[voter] = effect.data.split()
                case _:
                    pass
        if voter not in self.holds_disk:
            self.sync(voter)
        self.nodes[voter].check()
        return effects

    def sync(self, voter: int) -> None:
        """Make durable what the node asked for."""
        persists, self.unsynced[voter] = self.unsynced[voter], []
        for persist in persists:
            hard_state, entries = self.disk[voter]
            hard_state = persist.hard_state or hard_state
            if persist.entries:
                entries = entries[: persist.first_index - 1] + persist.entries
            self.disk[voter] = (hard_state, entries)
            self.mail.extend((voter, send.to, send.message) for send in persist.after)
            self.give(voter, raft.Persisted(persist.index, persist.term))

    def deliver(self, wanted: Callable[[int, int, Message], bool] = lambda *_: True, rounds: int = 50) -> None:
        """Deliver all mail that is wanted, and what it causes; the rest is lost."""
        for _ in range(rounds):
            if not self.mail:
                return
            mail, self.mail = self.mail, []
            for sender, to, message in mail:
                if wanted(sender, to, message):
                    self.give(to, raft.Received(sender, message))
        raise AssertionError("the group does not come to rest")

    def deliver_between(self, *voters: int) -> None:
        """Deliver among these voters; everyone else is cut off."""
        self.deliver(lambda sender, to, _: sender in voters and to in voters)

    def pass_time(self, seconds: float, voters: Iterable[int] | None = None) -> None:
        """Move the clock; these voters tick where their deadline has come."""
        self.now = Instant(self.now + seconds)
        for voter in voters if voters is not None else self.voters:
            if self.nodes[voter].next_deadline() <= self.now:
                self.give(voter, raft.Tick())

    def elect(self, voter: int, *, among: Iterable[int] | None = None) -> RaftNode:
        """Have a node win an election; everyone forgets an earlier leader first."""
        members = tuple(among if among is not None else self.voters)
        self.now = Instant(self.now + 2.0)
        self.give(voter, raft.Tick())
        self.deliver_between(*members)
        assert self.nodes[voter].is_leader()
        return self.nodes[voter]

    def propose(self, voter: int, data: bytes) -> list[raft.Effect]:
        """Propose; nothing is delivered yet."""
        return self.give(voter, raft.Propose(data))

    def terms(self, voter: int) -> list[int]:
        """The terms of the node's log."""
        log = self.nodes[voter].log
        return [entry.term for entry in log.between(log.first_index, log.last_index)]


def log_of(*terms: int) -> RaftLog:
    """A log with entries of these terms, from index 1 on; each entry's data tells its place and term."""
    return RaftLog(entries=[Entry(term, b"%d@%d" % (index, term)) for index, term in enumerate(terms, 1)])
