"""Counts what rarely happens, as messages, answers and records pass by: a run that never got there proves less.

`RARE` lists all that must happen in some world; `run.py` prints each with its count, also those at zero, and a test
demands that none is. A new rare branch of the rules gets a name here and a line where it passes by.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from noctule.base.ids import GroupId
from noctule.core.placement.partition_map import PartitionMap
from noctule.core.raft import events as raft
from noctule.core.raft.messages import (
    AppendReply,
    Heartbeat,
    InstallSnapshot,
    Message,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from noctule.core.raft.node import Role
from noctule.core.replica.events import Answer, DigestReady, Refuse
from noctule.core.replica.replica import Replica
from noctule.core.wire.messages import ReadsAnswered
from noctule.node.router import Router
from noctule.node.switchboard import Surroundings, Switchboard

RARE = (
    # Raft
    "append refused",
    "elected",
    "elected by transfer",
    "group went quiet",
    "joint entered",
    "leader deposed by a later term",
    "leader stepped down without a quorum",
    "log replaced by a snapshot",
    "log truncated",
    "lost disk readmitted",
    "membership change refused",
    "membership taken back",
    "pre-vote refused",
    "quiet group woken by suspicion",
    "quiet group woken by trust",
    "snapshot given up on the way",
    "snapshot received",
    "snapshot restored",
    "snapshot sent",
    "snapshot sent while a change is pending",
    "snapshot written",
    "transfer begun",
    "vote granted",
    "vote refused",
    # Commands
    "families mixed in a script",
    "families mixed in a transaction",
    "hash used",
    "key used",
    "list used",
    "set used",
    "sorted set used",
    "stream used",
    "string used",
    # Replica and router
    "commit applied in slices",
    "digests compared",
    "read refused",
    "reads confirmed by nodes",
    "reads left to their groups",
    "replicas compared by their leader",
    "retry answered from a session",
    "script run",
    "states compared",
    "value expired",
    "write refused",
    # Nodes and replicas that come and go
    "leader of meta struck in a migration",
    "leader struck in a migration",
    "migration cancelled",
    "migration done",
    "migration rolled back",
    "node drained",
    "node joined",
    "node left",
    "node removed",
    "node stays away",
    "replica made again",
    "replica removed",
    "settings changed",
    "source struck in a migration",
    "target struck in a migration",
    # Log and disk
    "bit flipped",
    "crash during a write of a snapshot",
    "crash during a write of the log",
    "crash during recovery",
    "damage detected",
    "disk failed",
    "disk replaced",
    "segment begun",
    "segment dropped",
    "slow sync",
    "snapshot for space",
    "torn tail cut",
    "unsynced data lost",
    # Machines, clocks and network
    "clock jump",
    "connected by halves",
    "cut both",
    "cut in",
    "cut out",
    "cut ring",
    "frame doubled",
    "frame lost",
    "kill",
    "minority left down",
    "node suspected",
    "node trusted again",
    "pause",
    "power cut",
    "power cut of all",
)
"""What must be met somewhere. Anything else that is counted is printed, too."""

_ANSWERS_MAX = 1_000_000
"""Answered writes remembered in one world; more are not looked up any more."""


class Coverage:
    """The counts of one world."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._answered: set[tuple[GroupId, int, int]] = set()
        self._last_indexes: dict[tuple[int, GroupId], int] = {}

    def count(self, what: str) -> None:
        """It happened once more."""
        self.counts[what] += 1

    def answered(self, group: GroupId, answer: Answer | Refuse) -> None:
        """A replica answers a request: the second answer to one number can only be a kept one."""
        if isinstance(answer, Refuse):
            self.count("write refused" if answer.is_write else "read refused")
        elif answer.is_write:
            name = (group, answer.origin, answer.number)
            if name in self._answered:
                self.count("retry answered from a session")
            elif len(self._answered) < _ANSWERS_MAX:
                self._answered.add(name)

    def reads_answered(self, answer: ReadsAnswered) -> None:
        """A node answers reads of the groups that it leads."""
        if len(answer.left) < len(answer.results):
            self.count("reads confirmed by nodes")
        if answer.left:
            self.count("reads left to their groups")

    def persisted(self, node: int, group: GroupId, persist: raft.Persist) -> None:
        """A replica asks for records."""
        name = (node, group)
        if persist.replace_log:
            self.count("log replaced by a snapshot")
        elif persist.entries and persist.first_index <= self._last_indexes.get(name, 0):
            self.count("log truncated")
        if persist.entries or persist.replace_log:
            self._last_indexes[name] = persist.index

    def removed(self, node: int, group: GroupId) -> None:
        """A replica is gone, and another one of its group would begin with nothing."""
        self._last_indexes.pop((node, group), None)


class WatchedSwitchboard(Switchboard):
    """The node's own, which counts what it sees."""

    def __init__(
        self,
        node_id: int,
        replicas: dict[GroupId, Replica],
        surroundings: Surroundings,
        router: Callable[[Switchboard], Router],
        partitions: PartitionMap,
        coverage: Coverage,
    ) -> None:
        super().__init__(node_id, replicas, surroundings, router, partitions)
        self.digested: Callable[[GroupId, DigestReady], None]
        """Told of each digest that was taken here; set by the owner."""
        self._coverage = coverage
        self._leads: dict[GroupId, int] = {}
        """The groups that this node leads, each with the term."""
        self._transferred: dict[GroupId, int] = {}
        """The terms in which it campaigned because a leader asked it to."""

    def send(self, to: int, group: GroupId, message: Message) -> None:
        """Into this turn's frame."""
        watch = _WATCHED.get(type(message))
        if watch is not None:
            watch(self, group, message)
        super().send(to, group, message)

    def digest_ready(self, group: GroupId, digest: DigestReady) -> None:
        """As the node's own does."""
        self.digested(group, digest)
        super().digest_ready(group, digest)

    def _vote_requested(self, group: GroupId, message: VoteRequest) -> None:
        if message.transfer:
            self._transferred[group] = message.term

    def _voted(self, _group: GroupId, message: VoteReply) -> None:
        what = "pre-vote" if message.pre else "vote"
        self._coverage.count(f"{what} {'granted' if message.granted else 'refused'}")

    def _append_answered(self, _group: GroupId, message: AppendReply) -> None:
        if not message.accepted:
            self._coverage.count("append refused")

    def _snapshot_sent(self, group: GroupId, message: InstallSnapshot) -> None:
        if not message.number:
            self._coverage.count("snapshot sent")
            consensus = self._replicas[group].raft
            if consensus.log.membership_index > consensus.commit or consensus.log.membership.is_joint():
                self._coverage.count("snapshot sent while a change is pending")

    def _heartbeat_sent(self, _group: GroupId, message: Heartbeat) -> None:
        if message.quiet:
            self._coverage.count("group went quiet")

    def _handed_over(self, _group: GroupId, _message: TimeoutNow) -> None:
        self._coverage.count("transfer begun")

    def answer(self, group: GroupId, answer: Answer | Refuse) -> None:
        """To the router here, or into the frame for the node whose router asked."""
        self._coverage.answered(group, answer)
        super().answer(group, answer)

    def _answer_reads(self, answers: list[tuple[int, ReadsAnswered]]) -> None:
        for _, answer in answers:
            self._coverage.reads_answered(answer)
        super()._answer_reads(answers)

    def role_changed(self, group: GroupId, change: raft.RoleChanged) -> None:
        """The router asks whoever leads now."""
        led = self._leads.pop(group, None)
        if change.role == Role.LEADER:
            self._leads[group] = change.term
            self._coverage.count("elected by transfer" if self._transferred.get(group) == change.term else "elected")
        elif led is not None:
            same = change.term == led
            self._coverage.count("leader stepped down without a quorum" if same else "leader deposed by a later term")
        super().role_changed(group, change)


_WATCHED: dict[type, Callable[[WatchedSwitchboard, GroupId, Any], None]] = {
    VoteRequest: WatchedSwitchboard._vote_requested,
    VoteReply: WatchedSwitchboard._voted,
    AppendReply: WatchedSwitchboard._append_answered,
    Heartbeat: WatchedSwitchboard._heartbeat_sent,
    InstallSnapshot: WatchedSwitchboard._snapshot_sent,
    TimeoutNow: WatchedSwitchboard._handed_over,
}
