"""One replica's part in the consensus of one group: terms, votes, elections, and following a leader.

A deterministic object: time and chance are handed in, effects come out (`events.py`). While it leads, the leader's
part lives in `leadership.py`; it exists only in that role. Only `_become_*` change the role. Rules cite the Raft
paper (Ongaro and Ousterhout, extended version) and Ongaro's thesis.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from noctule.base.ensure import ensure
from noctule.base.ids import END_OF_TIME, Instant
from noctule.core.raft.config import WATCHED_PATIENCE, RaftConfig
from noctule.core.raft.events import (
    ApplyMore,
    ChangeMembership,
    ChunkLoaded,
    ChunkSaved,
    Commit,
    DropChunks,
    Effect,
    Event,
    KeepSnapshots,
    LeaveJoint,
    MembershipChanged,
    MembershipRefused,
    Persist,
    Persisted,
    ProposalRefused,
    Propose,
    Proposed,
    ReadIndex,
    ReadReady,
    ReadRefused,
    Received,
    Restore,
    RoleChanged,
    SaveChunk,
    Send,
    SnapshotOpened,
    SnapshotSaved,
    Suspect,
    Tick,
    TransferLeadership,
    Trust,
)
from noctule.core.raft.incoming_snapshot import IncomingSnapshot
from noctule.core.raft.leadership import Leadership
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import MARK, Membership, decode_membership
from noctule.core.raft.messages import (
    Append,
    AppendReply,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    ReadReply,
    ReadRequest,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from noctule.core.raft.outgoing_snapshot import SnapshotProgress
from noctule.core.raft.quorum import VoteResult
from noctule.core.raft.reads import WaitingReads
from noctule.core.raft.staleness import NEVER

_SNAPSHOT_IDLE_S: Final = 60.0
"""What has come of a snapshot is kept for so long without any more of it."""

BACKOFF_MAX: Final = 4
"""Where thousands of groups elect at once: how many times as long the wait for a failed election may become."""


class Role(StrEnum):
    """Paper, figure 4, with the pre-candidate of thesis 9.6."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True)
class RaftPicture:
    """What `describe()` shows of a replica."""

    role: str
    term: int
    vote: int
    leader: int
    commit_index: int
    applied_index: int
    first_index: int
    last_index: int
    durable_index: int
    snapshot_index: int
    membership: Membership
    """The one in force, and where it stands in the log."""
    membership_index: int
    match: dict[int, int]
    """On the leader: for each other member the last index known to match."""
    snapshots: dict[int, SnapshotProgress]
    """On the leader: for each other member that is being sent a snapshot, how far that is."""


class RaftNode:
    """One replica of one group.

    `hard_state` and `log` are what the disk held; the log knows the members. `applied` is the index that the state
    already contains (its snapshot). `directory` is 0, or the id under which this node came back after it had lost what
    it had promised: it has no vote until the group has readmitted it. `first_timeout_s`, when given, is the first
    election wait: whoever should lead first waits least.
    """

    __slots__ = (
        "_after",
        "_campaigns",
        "_caught_up_at",
        "_chance",
        "_effects",
        "_election_deadline",
        "_hard_state_changed",
        "_incoming",
        "_leader_heard_at",
        "_leader_is_suspected",
        "_new_entries",
        "_new_first",
        "_persists_in_flight",
        "_promised_until",
        "_reads",
        "_votes",
        "applied",
        "commit",
        "config",
        "directory",
        "durable",
        "leader",
        "leadership",
        "log",
        "node_id",
        "now",
        "promised",
        "role",
        "snapshot_bytes_per_s",
        "term",
        "vote",
    )

    def __init__(
        self,
        *,
        node_id: int,
        config: RaftConfig,
        chance: random.Random,
        now: Instant,
        hard_state: HardState = HardState(),  # noqa: B008, an immutable tuple
        log: RaftLog | None = None,
        applied: int = 0,
        directory: int = 0,
        first_timeout_s: float | None = None,
    ) -> None:
        self.node_id = node_id
        self.directory = directory
        self.config = config
        self.log = log if log is not None else RaftLog()
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.leader = 0
        self.commit = max(applied, self.log.snapshot_index)
        self.applied = self.commit
        """Handed out for applying; the state is in step once the effects are carried out. After a long commit it is
        behind `commit` until enough `ApplyMore` came."""
        self.durable = self.log.last_index
        self.promised = (0, 0)
        """Term and index of the last entry of an earlier replica that was here: who lacks that is not elected."""
        self.leadership: Leadership | None = None
        self._chance = chance
        self._votes: dict[int, bool] = {}
        self._leader_heard_at = Instant(float("-inf"))
        self._caught_up_at = NEVER
        # An earlier life may have promised just before it ended.
        self._promised_until = Instant(now + config.lease_s)
        self._election_deadline = now
        self._campaigns = 0
        """Pre-votes asked for since a leader was last heard."""
        self._leader_is_suspected = False
        """Then nothing that it said before may put this replica to sleep."""
        self._reads = WaitingReads()
        self._incoming: IncomingSnapshot | None = None
        self.snapshot_bytes_per_s: float = float(config.snapshot_bytes_per_s)
        """How fast this replica sends a snapshot to each follower while it leads; 0 is as fast as it goes."""
        self._persists_in_flight = 0
        self.now = now
        # What one call of handle() gathers.
        self._effects: list[Effect] = []
        self._after: list[Send] = []
        self._new_entries: list[Entry] = []
        self._new_first = 0
        self._hard_state_changed = False
        self._wait_for_leader()
        if first_timeout_s is not None:
            self._election_deadline = max(Instant(now + first_timeout_s), self._promised_until)

    # The four methods of a machine -----------------------------------------------------------------------------------

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """Take one event in; return what is to be done, in order.

        Raises `InternalError`, a bug, and `StorageError` when a peer sent a membership that cannot be read; this
        replica must not go on then.
        """
        self.now = now
        _HANDLERS[type(event)](self, event)
        return self._gathered()

    def begin(self, now: Instant, *, campaigns: bool) -> list[Effect]:
        """Of a replica of a new group that begins at a snapshot point: have that made durable before any promise.

        The mark stands for a state that the caller sees to. With `campaigns` it asks for votes at once; it may, for
        whatever leads already has a later term than the first one that it asks for.
        """
        self.now = now
        self.durable = self.log.snapshot_index - 1
        self._hard_state_changed = True
        self._persist(mark=(self.log.snapshot_index, self.log.snapshot_term))
        if campaigns and self._may_campaign():
            self._become_candidate(transfer=True)
        return self._gathered()

    def wait_first(self, now: Instant, wait_s: float) -> None:
        """Of a replica whose time begins: miss no leader for so long. Recovery may have outlasted any earlier wait.

        Not where one was heard meanwhile, since peers may dial a node before its time begins.
        """
        self.now = now
        if self.leader:
            return
        self._election_deadline = max(Instant(now + wait_s), self._promised_until)

    def tell_commit(self) -> list[Effect]:
        """Have the followers, if this replica leads, told now, and not by the next heartbeat, what is committed."""
        if self.leadership is not None:
            self.leadership.tell_commit()
        return self._gathered()

    def learn_commit(self, index: int) -> list[Effect]:
        """The log up to `index`, which is held here, is known to be committed, by other means than a leader's word."""
        self.advance_commit(index)
        while self.applied < self.commit:
            self._hand_out()
        return self._gathered()

    def next_deadline(self) -> Instant:
        """When the next `Tick` is due."""
        if self.leadership is not None:
            return self.leadership.next_deadline()
        if self._reads:
            return min(self._election_deadline, self._reads.next_deadline())
        return self._election_deadline

    def check(self) -> None:
        """Raise `InternalError` when an invariant of this replica is broken."""
        ensure(self.applied <= self.commit, "applied never passes commit", applied=self.applied, commit=self.commit)
        ensure(self.commit <= self.log.last_index, "commit is within the log", commit=self.commit)
        ensure(self.log.snapshot_index <= self.applied, "a snapshot holds only what was applied")
        ensure(self.durable <= self.log.last_index, "nothing is durable beyond the log", durable=self.durable)
        ensure((self.role is Role.LEADER) == (self.leadership is not None), "only a leader has leadership")
        ensure(self.log.last_term <= self.term, "no entry is of a later term", last=self.log.last_term, term=self.term)
        ensure(self.log.membership_index <= self.log.last_index, "the membership in force is in the log")
        if self.leadership is not None:
            ensure(self.leader == self.node_id, "a leader knows itself")
            self.leadership.check()

    def describe(self) -> RaftPicture:
        """A picture of this replica now."""
        match = {peer: progress.match for peer, progress in self.leadership.progress.items()} if self.leadership else {}
        return RaftPicture(
            role=self.role,
            term=self.term,
            vote=self.vote,
            leader=self.leader,
            commit_index=self.commit,
            applied_index=self.applied,
            first_index=self.log.first_index,
            last_index=self.log.last_index,
            durable_index=self.durable,
            snapshot_index=self.log.snapshot_index,
            membership=self.log.membership,
            membership_index=self.log.membership_index,
            match=match,
            snapshots={
                peer: progress.snapshot.describe()
                for peer, progress in (self.leadership.progress.items() if self.leadership else ())
                if progress.snapshot is not None
            },
        )

    def is_leader(self) -> bool:
        """Whether this replica leads, as far as it knows: only a ReadIndex round proves it."""
        return self.leadership is not None

    def fresh_at(self, now: Instant) -> Instant:
        """When this replica is last known to have had all that was committed; see staleness.py."""
        leadership = self.leadership
        if leadership is None or not leadership.has_caught_up():
            return self._caught_up_at
        return max(self._caught_up_at, leadership.quorum_heard_at(now))

    def nodes_heard_at(self, heard_at: Mapping[int, Instant | None]) -> Instant:
        """For a group that sleeps: when those nodes were last heard on whose word this replica relies."""
        if self.leadership is None:
            return heard_at.get(self.leader) or NEVER
        return self.log.membership.quorum_moment({node: at for node, at in heard_at.items() if at is not None})

    def is_quiet(self) -> bool:
        """Whether it sleeps: it says nothing and its deadline never comes, until something happens."""
        if self.leadership is not None:
            return self.leadership.is_quiet
        return self._election_deadline == END_OF_TIME

    def is_admitted(self) -> bool:
        """Whether the group counts on this replica as it did before: it is known by its directory, and is no learner
        that is yet to be made a voter again."""
        membership = self.log.committed_membership(self.applied)
        return self._may_vote() and self.node_id not in membership.returning

    def get_leader(self) -> int:
        """The leader of the current term as far as known; 0 when none is."""
        return self.leader

    # Effects, for this file and leadership.py ------------------------------------------------------------------------

    def emit(self, effect: Effect) -> None:
        """Ask for an effect."""
        self._effects.append(effect)

    def send(self, to: int, message: Message) -> None:
        """Send a message that promises nothing which a crash could make untrue."""
        self._effects.append(Send(to, message))

    def send_when_durable(self, to: int, message: Message) -> None:
        """Send a message once all that this replica has decided so far is durable."""
        self._after.append(Send(to, message))

    def reply_when_durable(self, to: int, *, accepted: bool, index: int, hint: tuple[int, int] = (0, 0)) -> None:
        """Answer an Append, or a snapshot, once all that this replica has decided so far is durable."""
        self.send_when_durable(to, AppendReply(self.term, accepted, index, *hint, self.directory))

    def append_own(self, data: bytes) -> int:
        """Append an entry of the current term as the leader; returns its index."""
        if self.leadership is not None:
            self.leadership.wake(by_entries=True)
        entry = Entry(self.term, data)
        self.log.append((entry,))
        self._store(self.log.last_index, [entry])
        return self.log.last_index

    def advance_commit(self, index: int) -> None:
        """Take entries up to `index` as committed and hand them out, as many as may be at a time."""
        if index <= self.commit:
            return
        if index > self.log.last_index:
            ensure(False, "commit is within the log", index=index, last=self.log.last_index)
        is_behind = self.applied < self.commit
        self.commit = index
        if self._incoming is not None and index >= self._incoming.index:
            self._drop_incoming()
        if not is_behind:  # Else these wait for their turn, as those before them do.
            self._hand_out()

    def _hand_out(self) -> None:
        before = self.applied
        last = min(self.commit, before + self.config.apply_entries_max)
        entries = self.log.between(before + 1, last, self.config.apply_bytes_max)
        self._effects.append(Commit(before + 1, entries))
        self.applied = before + len(entries)
        if before < self.log.membership_index:
            for at, membership in self.log.memberships_between(before + 1, self.applied):
                self.emit(MembershipChanged(at, membership, True))
        if self._reads:
            self._release_reads()

    def read_confirmed(self, context: int, index: int) -> None:
        """An own read is linearizable once `index` is applied, which usually it is."""
        if self.applied >= index:
            self.emit(ReadReady(context, index))
        else:
            self._reads.confirmed(context, index)

    def _release_reads(self) -> None:
        for context, index in self._reads.take_ready(self.applied):
            self.emit(ReadReady(context, index))

    def _refuse_reads(self, until: Instant) -> None:
        for context in self._reads.take_late(until):
            self.emit(ReadRefused(context, self.leader))

    def tell_membership(self) -> None:
        """Another membership is in force: by a new entry, or because one was cut away."""
        if self.leadership is not None:
            self.leadership.adopt()
        elif self.role is Role.FOLLOWER:
            self._wait_for_leader()  # Not so long any more, if its leader is on its way out.
        self.emit(MembershipChanged(self.log.membership_index, self.log.membership, False))

    def _store(self, first_index: int, entries: list[Entry]) -> None:
        if not self._new_entries:
            self._new_first = first_index
        self._new_entries.extend(entries)

    def _gathered(self) -> list[Effect]:
        if self._hard_state_changed or self._new_entries or (self._after and self._persists_in_flight):
            # With nothing of its own to store, a promise still waits for what is not durable yet: a doubled Append
            # must not be acknowledged before the first one's sync returned (etcd-io/etcd#14370).
            self._persist()
        elif self._after:
            self._effects.extend(self._after)
            self._after = []
        effects, self._effects = self._effects, []
        return effects

    def _persist(self, mark: tuple[int, int] | None = None, *, replace_log: bool = False) -> None:
        hard_state = HardState(self.term, self.vote) if self._hard_state_changed else None
        self._effects.append(
            Persist(
                hard_state,
                self._new_first,
                self._new_entries,
                self._after,
                self.log.last_index,
                self.log.last_term,
                mark,
                replace_log,
            )
        )
        self._persists_in_flight += 1
        self._hard_state_changed = False
        self._new_entries = []
        self._after = []

    # Events ----------------------------------------------------------------------------------------------------------

    def _handle_received(self, event: Received) -> None:
        self.step(event.sender, event.message)

    def _handle_tick(self, _event: Tick) -> None:
        if self.leadership is not None:
            self.leadership.tick()
            return
        if self._reads:
            self._refuse_reads(self.now)
        if self._incoming is not None and self.now >= self._incoming.heard_at + _SNAPSHOT_IDLE_S:
            self._drop_incoming()
        if self.now < self._election_deadline:
            return
        if self._may_campaign():
            self._become_pre_candidate()
        else:
            self._wait_for_leader()

    def _handle_apply_more(self, _event: ApplyMore) -> None:
        if self.applied < self.commit:
            self._hand_out()

    def _handle_propose(self, event: Propose) -> None:
        self.propose(event.data)

    def propose(self, data: bytes) -> None:
        """Append `data` if this replica leads and may; the effect `Proposed` or `ProposalRefused` tells."""
        ensure(data[:1] != MARK, "a proposal does not look like a membership")
        if self.leadership is None or not self.leadership.accepts_proposals(len(data)):
            # While leadership is handed over the hint would lead back here.
            self.emit(ProposalRefused(0 if self.leadership is not None else self.leader))
            return
        index = self.append_own(data)
        self.emit(Proposed(index, self.term))
        self.leadership.replicate()

    def _handle_change_membership(self, event: ChangeMembership) -> None:
        if self.leadership is None:
            self.emit(MembershipRefused("this replica does not lead", self.leader))
        else:
            self.leadership.change_membership(event)

    def _handle_leave_joint(self, _event: LeaveJoint) -> None:
        if self.leadership is None:
            self.emit(MembershipRefused("this replica does not lead", self.leader))
        else:
            self.leadership.leave_joint()

    def _handle_read_index(self, event: ReadIndex) -> None:
        self.read_index(event.context, lease=event.lease)

    def read_index(self, context: int, *, lease: bool = False) -> None:
        """Begin a ReadIndex round (thesis 6.4), through the leader if another one leads.

        No two reads of a node may have the same context, in whichever of its lives: an answer may come late. The effect
        `ReadReady` or `ReadRefused` tells, within the shortest election timeout on a follower.
        """
        if self.leadership is not None:
            self.leadership.read(context, self.node_id, lease=lease)
        elif self.leader:
            self._reads.ask(context, Instant(self.now + self.config.election_timeout_s_min))
            self.send(self.leader, ReadRequest(self.term, context))
        else:
            self.emit(ReadRefused(context, 0))

    def _handle_persisted(self, event: Persisted) -> None:
        self._persists_in_flight -= 1
        # Entries overwritten since are not durable as they now stand; their own Persist is still on its way.
        if event.index > self.durable and self.log.term_at(event.index) == event.term:
            self.durable = event.index
            if self.leadership is not None and event.index > self.commit:
                self.leadership.maybe_commit()
        if self.role is Role.CANDIDATE and not self._persists_in_flight:
            # The own vote counts once it is durable, as every other: else the only voter of a group with learners could
            # lead twice in one term, before a crash and after it.
            self._votes[self.node_id] = True
            self._count_votes()

    def _handle_suspect(self, event: Suspect) -> None:
        if self.leadership is not None:
            self._caught_up_at = self.fresh_at(self.now)  # What that peer said counts as of when it was said.
            self.leadership.suspect(event.node)
        elif event.node == self.leader and self.role is Role.FOLLOWER:
            self._leader_is_suspected = True
            self._leader_heard_at = Instant(float("-inf"))
            wait = Instant(self.now + event.wait_s + self._chance.uniform(0, self.config.suspicion_s_max))
            # A promise holds whatever is suspected: the leader may be alive behind a closed connection, and read.
            self._election_deadline = min(self._election_deadline, max(wait, self._promised_until))

    def _handle_trust(self, event: Trust) -> None:
        if self.leadership is not None:
            self.leadership.trust(event.node)
        elif event.node == self.leader:
            self._leader_is_suspected = False  # Whether it still leads, the election that was begun finds out.

    def _handle_transfer(self, event: TransferLeadership) -> None:
        if self.leadership is not None:
            self.leadership.transfer(event.target)

    def _handle_snapshot_saved(self, event: SnapshotSaved) -> None:
        incoming = self._incoming
        if (
            incoming is not None
            and incoming.is_complete
            and (incoming.index, incoming.term) == (event.index, event.term)
        ):
            self._incoming = None
            self._install(incoming)
        elif self.log.snapshot_index < event.index <= self.applied:
            keep_from = self._oldest_worth_keeping(event.index) if event.keeps_entries else event.index
            if keep_from > self.log.snapshot_index:
                self.log.compact(keep_from)
                self._persist(mark=(keep_from, self.log.snapshot_term))

    def _oldest_worth_keeping(self, index: int) -> int:
        """Up to where the log may go, once a snapshot covers `index`: some entries stay for followers just behind."""
        config = self.config
        oldest = index - config.retained_entries
        in_transfer = self.leadership.oldest_in_transfer() if self.leadership is not None else None
        if in_transfer is not None:
            oldest = min(oldest, in_transfer)
        oldest = max(oldest, self.log.snapshot_index)
        bytes_kept = 0
        for offset, entry in enumerate(reversed(self.log.between(oldest + 1, index))):
            bytes_kept += len(entry.data)
            if bytes_kept > config.retained_bytes_max:
                return index - offset
        return oldest

    def _handle_snapshot_opened(self, event: SnapshotOpened) -> None:
        if self.leadership is not None:
            self.leadership.snapshot_opened(event)
        else:
            self.emit(KeepSnapshots(()))

    def _handle_chunk_loaded(self, event: ChunkLoaded) -> None:
        if self.leadership is not None:
            self.leadership.chunk_loaded(event)

    def _handle_chunk_saved(self, event: ChunkSaved) -> None:
        incoming = self._incoming
        if incoming is None or (incoming.index, incoming.term) != (event.index, event.term):
            return
        # Of an earlier try at the same snapshot no more counts than has come in this one.
        incoming.saved = max(incoming.saved, min(event.number + 1, incoming.taken))
        if self.leader not in (0, self.node_id):
            self._tell_saved(self.leader, incoming.index, incoming.saved)

    def _tell_saved(self, leader: int, index: int, count: int) -> None:
        self.send(leader, InstallSnapshotReply(self.term, index, count, self.directory))

    def _drop_incoming(self) -> None:
        """Forget what has come of a snapshot; one that is complete is told by the disk, and then looked at."""
        if self._incoming is not None and not self._incoming.is_complete:
            self._incoming = None
            self.emit(DropChunks())

    # Messages --------------------------------------------------------------------------------------------------------

    def step(self, sender: int, message: Message) -> None:
        """Take a message in: first what its term says (paper 5.1), then what it is.

        From whomever: a leader or candidate may be of a membership that has not come here yet (thesis 4.1).
        """
        term = message.term
        if isinstance(message, VoteRequest) and sender == self.leader and term > self.term:
            self._leader_gave_up()
        if self.is_quiet():
            self._stir(sender, message)
        if term > self.term and not self._is_about_a_future_term(message):
            if isinstance(message, VoteRequest) and self._hears_a_leader() and not message.transfer:
                # Thesis 4.2.3: a voter that hears its leader does not let itself be disturbed.
                return
            leads = isinstance(message, Append | Heartbeat | InstallSnapshot)
            self._become_follower(term, sender if leads else 0)
        elif term < self.term:
            self._answer_from_the_past(sender, message)
            return
        _STEPS[type(message)](self, sender, message)

    def _stir(self, sender: int, message: Message) -> None:
        """A message came in the middle of sleep; what the leader sends needs nothing more than to be taken in."""
        if self.leadership is not None:
            self.leadership.stir(sender, message)
        elif isinstance(message, VoteRequest):
            # Somebody misses the leader. Give it time to say that it is there.
            self._leader_heard_at = self.now
            self._wait_for_leader()

    def _leader_gave_up(self) -> None:
        """Whoever asks for votes leads no more, though its node be well and trusted."""
        if self.config.quiet_after_s:
            self._leader_is_suspected = True
            self._leader_heard_at = Instant(float("-inf"))
            self._wait_for_leader()

    def _is_about_a_future_term(self, message: Message) -> bool:
        # A pre-vote asks about a term that nobody is in yet, and a granted one repeats it.
        return (isinstance(message, VoteRequest) and message.pre) or (
            isinstance(message, VoteReply) and message.pre and message.granted
        )

    def _answer_from_the_past(self, sender: int, message: Message) -> None:
        if isinstance(message, Append | Heartbeat | InstallSnapshot):
            # A leader of the past must learn of our term, or a replica whose term ran ahead could never follow again.
            self.reply_when_durable(sender, accepted=False, index=0)
        elif isinstance(message, VoteRequest):
            self.send_when_durable(sender, VoteReply(self.term, False, message.pre, self.directory))

    def _hears_a_leader(self) -> bool:
        if self.leadership is not None:
            return True  # Without a quorum it steps down by itself.
        if self.now < self._promised_until:
            return True
        patience_s = self.config.election_timeout_s_min * self._patience()
        return self.leader != 0 and self.now < self._leader_heard_at + patience_s

    def _may_vote(self) -> bool:
        """Whether nothing that this node voted or acknowledged is forgotten, or does not count any more (ADR 0013).

        Not by what is merely in the log: only once the group has committed that the lost directory does not count may
        this one take its place.
        """
        return self.log.committed_membership(self.commit).directory_of(self.node_id) == self.directory

    def _may_campaign(self) -> bool:
        """Whether this node has a voice, or had one until a change that may not be committed.

        Thesis 4.2.2: until then nobody else may have a log that is long enough to win (redpanda-data/redpanda#3055). It
        does not count its own vote.
        """
        memberships = (self.log.membership, self.log.committed_membership(self.commit))
        has_what_it_promised = (self.log.last_term, self.log.last_index) >= self.promised
        return has_what_it_promised and any(each.is_voter(self.node_id) for each in memberships) and self._may_vote()

    def _step_vote_request(self, sender: int, message: VoteRequest) -> None:
        if message.pre:
            would_vote = (
                message.term > self.term and not self._hears_a_leader() and not self._goes_first(sender, message)
            )
            granted = would_vote and self._may_vote() and self._is_up_to_date(message)
            term = message.term if granted else self.term
            self.send_when_durable(sender, VoteReply(term, granted, True, self.directory))
            return
        is_free = self.vote == 0 and self.leader == 0 and (message.transfer or self.now >= self._promised_until)
        granted = (self.vote == sender or is_free) and self._may_vote() and self._is_up_to_date(message)
        if granted:
            if self.vote != sender:
                self.vote = sender
                self._hard_state_changed = True
            self._wait_for_leader()
        self.send_when_durable(sender, VoteReply(self.term, granted, False, self.directory))

    def _is_up_to_date(self, message: VoteRequest) -> bool:
        is_up_to_date = self.log.is_up_to_date(message.last_index, message.last_term)
        return is_up_to_date and (message.last_term, message.last_index) >= self.promised

    def _goes_first(self, sender: int, message: VoteRequest) -> bool:
        """Whether this node asks for votes, too, and with the same log is further, or has the smaller id.

        Followers that miss their leader at the same moment, as they do when its process is killed, would else both
        pass the pre-vote, split the votes and wait for a whole timeout; and who waits for a slow disk to keep its vote
        would be overtaken, again and again.
        """
        ends_alike = (message.last_term, message.last_index) == (self.log.last_term, self.log.last_index)
        is_first = self.role is Role.PRE_CANDIDATE and self.node_id < sender
        return ends_alike and (is_first or self.role is Role.CANDIDATE)

    def _step_vote_reply(self, sender: int, message: VoteReply) -> None:
        awaited = Role.PRE_CANDIDATE if message.pre else Role.CANDIDATE
        if self.role is not awaited or message.directory != self.log.membership.directory_of(sender):
            return
        if message.pre and message.granted and message.term != self.term + 1:
            return  # Granted for an earlier campaign.
        self._votes.setdefault(sender, message.granted)
        self._count_votes()

    def _step_append(self, sender: int, message: Append) -> None:
        self._follow(sender)
        previous = message.previous_index
        if previous < self.commit:
            # Committed entries match by definition; the Append is late or comes from a leader that knows less of us.
            # Tell it, instead of looking for a conflict where there can be none (databendlabs/openraft#511).
            covered = previous + len(message.entries)
            if covered <= self.commit:
                self.reply_when_durable(sender, accepted=True, index=self.commit)
                return
            entries = message.entries[self.commit - previous :]
            previous, previous_term = self.commit, self.log.term_at(self.commit)
        else:
            entries, previous_term = message.entries, message.previous_term
        if self.log.term_at(previous) != previous_term:
            hint_index, hint_term = self.log.last_index_with_term_at_most(previous, message.previous_term)
            hint_index = max(hint_index, self.commit)
            hint_term = self.log.term_at(hint_index) or 0
            hint = (hint_index, hint_term)
            self.reply_when_durable(sender, accepted=False, index=message.previous_index, hint=hint)
            return
        self._accept(previous, entries)
        last = previous + len(entries)
        self.reply_when_durable(sender, accepted=True, index=last)
        # Only what this very message verified may be committed by it (atomix/copycat#265).
        self.advance_commit(min(message.commit, last))
        self._note_leaders_commit(message.commit)

    def _note_leaders_commit(self, commit: int) -> None:
        if self.applied >= commit:
            self._caught_up_at = self.now

    def _accept(self, previous: int, entries: Sequence[Entry]) -> None:
        """Append what is new; cut the log only at a real conflict: a short, late Append must not (paper 5.3)."""
        log = self.log
        membership = log.membership
        index = previous + 1
        skip = 0
        for skip, entry in enumerate(entries):
            if index + skip > log.last_index:
                break
            if log.term_at(index + skip) != entry.term:
                ensure(index + skip > self.commit, "a committed entry is never replaced", index=index + skip)
                log.truncate_from(index + skip)
                self.durable = min(self.durable, log.last_index)
                break
        else:
            return
        new = list(entries[skip:])
        log.append(new)
        self._store(index + skip, new)
        if log.membership is not membership:
            self.tell_membership()

    def _step_append_reply(self, sender: int, message: AppendReply) -> None:
        if self.leadership is not None:
            self.leadership.append_reply(sender, message)

    def _step_heartbeat(self, sender: int, message: Heartbeat) -> None:
        self._follow(sender)
        self.advance_commit(min(message.commit, self.log.last_index))
        self._note_leaders_commit(message.commit)
        ends_alike = (self.log.last_term, self.log.last_index) == (message.term, message.commit)
        if message.quiet and ends_alike and not self._leader_is_suspected:
            self._election_deadline = END_OF_TIME
            return
        # Sent at once: it says what is so now and promises nothing for after a crash.
        self.send(sender, HeartbeatReply(self.term, message.round, self.directory))

    def _step_heartbeat_reply(self, sender: int, message: HeartbeatReply) -> None:
        if self.leadership is not None:
            self.leadership.heartbeat_reply(sender, message)

    def _step_install_snapshot(self, sender: int, message: InstallSnapshot) -> None:
        self._follow(sender)
        if message.index <= self.commit:
            self.reply_when_durable(sender, accepted=True, index=self.commit)
            return
        incoming = self._incoming
        if incoming is None or (incoming.index, incoming.term) != (message.index, message.index_term):
            if incoming is not None and incoming.is_complete:
                return  # One at a time; the leader asks again.
            if message.bytes_total > self.config.snapshot_bytes_max:
                return
            if message.number != 0:
                self._tell_saved(sender, message.index, 0)
                return
            # First of all: one without it must not reach the disk (moby/swarmkit#238).
            membership = decode_membership(message.data)
            place = (message.index, message.index_term, message.count)
            incoming = self._incoming = IncomingSnapshot(*place, membership, self.now)
        incoming.heard_at = self.now
        if message.number == incoming.taken < incoming.count:
            incoming.taken += 1
            self.emit(SaveChunk(incoming.index, incoming.term, message.number, incoming.count, message.data))
        else:
            self._tell_saved(sender, incoming.index, incoming.saved)

    def _install(self, incoming: IncomingSnapshot) -> None:
        """A received snapshot is durable: let it take the place of log and state (figure 13, steps 6 to 8)."""
        if incoming.index <= self.commit:
            self.emit(DropChunks())
            return
        keeps_tail = self.log.term_at(incoming.index) == incoming.term
        memberships = self.log.memberships_between(self.applied + 1, incoming.index)
        if keeps_tail:
            self.log.compact(incoming.index)
            self.durable = max(self.durable, incoming.index)
        else:
            self.log.reset(incoming.index, incoming.term, incoming.membership)
            memberships = [(incoming.index, self.log.membership)]
            self.durable = incoming.index
        self.commit = self.applied = incoming.index
        self.emit(Restore(incoming.index, incoming.term))
        for at, membership in memberships:
            self.emit(MembershipChanged(at, membership, True))
        if self.leader not in (0, self.node_id):
            self.reply_when_durable(self.leader, accepted=True, index=incoming.index)
        self._persist(mark=(incoming.index, incoming.term), replace_log=not keeps_tail)
        self._release_reads()

    def _step_install_snapshot_reply(self, sender: int, message: InstallSnapshotReply) -> None:
        if self.leadership is not None:
            self.leadership.snapshot_reply(sender, message)

    def _step_timeout_now(self, _sender: int, _message: TimeoutNow) -> None:
        if self.role is Role.FOLLOWER and self._may_campaign():
            self._become_candidate(transfer=True)

    def _step_read_request(self, sender: int, message: ReadRequest) -> None:
        if self.leadership is not None:
            self.leadership.read(message.context, sender)

    def _step_read_reply(self, _sender: int, message: ReadReply) -> None:
        self._reads.answered(message.context, message.index)
        self._release_reads()

    # Roles -----------------------------------------------------------------------------------------------------------

    def _follow(self, leader: int) -> None:
        """A message of the current term's leader came."""
        ensure(self.role is not Role.LEADER, "one leader for each term", term=self.term, other=leader)
        if self.role is not Role.FOLLOWER or self.leader != leader:
            self._become_follower(self.term, leader)
        self._campaigns = 0
        self._leader_heard_at = self.now
        self._promised_until = Instant(self.now + self.config.lease_s)
        self._wait_for_leader()

    def _wait_for_leader(self) -> None:
        config = self.config
        shortest = config.election_timeout_s_min
        wait = (shortest + (config.election_timeout_s_max - shortest) * self._chance.random()) * self._patience()
        self._election_deadline = max(Instant(self.now + wait), self._promised_until)

    def _patience(self) -> int:
        """How many election timeouts to wait, for a leader that is watched or in an election that may be slow."""
        if not self.config.quiet_after_s:
            return 1
        if self.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            # A transfer, or a group that is split off, has one campaign without asking first.
            return min(max(self._campaigns, 1), BACKOFF_MAX)
        # A leader that has no vote is on its way out, and will not ask for any when it is gone.
        membership = self.log.membership
        has_voice = self.leader in membership.voters or self.leader in membership.outgoing
        is_watched = has_voice and not self._leader_is_suspected
        return WATCHED_PATIENCE if is_watched else 1

    def _become_follower(self, term: int, leader: int) -> None:
        ensure(term >= self.term, "terms never fall", term=term, current=self.term)
        if term > self.term:
            # A vote belongs to its term: stepping down within a term keeps it (hazelcast/hazelcast#16643).
            self.term, self.vote = term, 0
            self._hard_state_changed = True
        if self.leadership is not None:
            self._caught_up_at = self.fresh_at(self.now)
            self.leadership.end()
            self.leadership = None
        if leader != self.leader:
            self._drop_incoming()
        self._set_role(Role.FOLLOWER, leader)
        self._wait_for_leader()

    def step_down(self) -> None:
        """Stop leading within the term, because no quorum answers (thesis 6.2)."""
        self._become_follower(self.term, 0)

    def _become_pre_candidate(self) -> None:
        ensure(self.role is not Role.LEADER, "a leader does not campaign")
        self._campaigns += 1
        self._set_role(Role.PRE_CANDIDATE, 0)
        self._wait_for_leader()
        self._votes = {self.node_id: True}
        for peer in self._other_voters():
            self.send(peer, VoteRequest(self.term + 1, self.log.last_index, self.log.last_term, True))
        self._count_votes()

    def _become_candidate(self, *, transfer: bool = False) -> None:
        ensure(self.role is not Role.LEADER, "a leader does not campaign")
        self.term += 1
        self.vote = self.node_id
        self._hard_state_changed = True
        self._set_role(Role.CANDIDATE, 0)
        self._wait_for_leader()
        self._votes = {}
        for peer in self._other_voters():
            request = VoteRequest(self.term, self.log.last_index, self.log.last_term, False, transfer)
            self.send_when_durable(peer, request)

    def _other_voters(self) -> list[int]:
        membership = self.log.membership
        return [voter for voter in sorted({*membership.voters, *membership.outgoing}) if voter != self.node_id]

    def _count_votes(self) -> None:
        match self.log.membership.vote_result(self._votes):
            case VoteResult.WON if self.role is Role.PRE_CANDIDATE:
                self._become_candidate()
            case VoteResult.WON:
                self._become_leader()
            case VoteResult.LOST:
                self._become_follower(self.term, 0)
            case VoteResult.PENDING:
                pass

    def _become_leader(self) -> None:
        ensure(self.role is Role.CANDIDATE, "only a candidate becomes leader", role=self.role)
        self._drop_incoming()
        self.leadership = Leadership(self)
        self._set_role(Role.LEADER, self.node_id)
        self.leadership.begin()

    def _set_role(self, role: Role, leader: int) -> None:
        if leader != self.leader:
            self._leader_is_suspected = False
        self.role, self.leader = role, leader
        self.emit(RoleChanged(role, self.term, leader))
        if self._reads:
            self._refuse_reads(Instant(float("inf")))


_HANDLERS: dict[type, Callable[[RaftNode, Any], None]] = {
    Received: RaftNode._handle_received,
    Tick: RaftNode._handle_tick,
    ApplyMore: RaftNode._handle_apply_more,
    Propose: RaftNode._handle_propose,
    ChangeMembership: RaftNode._handle_change_membership,
    LeaveJoint: RaftNode._handle_leave_joint,
    ReadIndex: RaftNode._handle_read_index,
    Persisted: RaftNode._handle_persisted,
    Suspect: RaftNode._handle_suspect,
    Trust: RaftNode._handle_trust,
    TransferLeadership: RaftNode._handle_transfer,
    SnapshotSaved: RaftNode._handle_snapshot_saved,
    SnapshotOpened: RaftNode._handle_snapshot_opened,
    ChunkLoaded: RaftNode._handle_chunk_loaded,
    ChunkSaved: RaftNode._handle_chunk_saved,
}

_STEPS: dict[type, Callable[[RaftNode, int, Any], None]] = {
    Append: RaftNode._step_append,
    AppendReply: RaftNode._step_append_reply,
    Heartbeat: RaftNode._step_heartbeat,
    HeartbeatReply: RaftNode._step_heartbeat_reply,
    VoteRequest: RaftNode._step_vote_request,
    VoteReply: RaftNode._step_vote_reply,
    InstallSnapshot: RaftNode._step_install_snapshot,
    InstallSnapshotReply: RaftNode._step_install_snapshot_reply,
    TimeoutNow: RaftNode._step_timeout_now,
    ReadRequest: RaftNode._step_read_request,
    ReadReply: RaftNode._step_read_reply,
}
