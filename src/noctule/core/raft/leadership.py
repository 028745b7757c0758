"""The leader's part: replicate the log, move the commit index, change the membership, confirm reads, hand over.

A `Leadership` lives as long as one term of one leader; `RaftNode` owns it. It changes the node's log and commit
index through the node alone.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from noctule.base.ensure import ensure
from noctule.base.errors import RequestError
from noctule.base.ids import END_OF_TIME, Instant
from noctule.core.raft.config import WATCHED_PATIENCE
from noctule.core.raft.events import (
    ChangeMembership,
    ChunkLoaded,
    KeepSnapshots,
    LoadChunk,
    MembershipRefused,
    OpenSnapshot,
    Proposed,
    ReadRefused,
    SnapshotOpened,
    Transition,
)
from noctule.core.raft.membership import (
    Change,
    ChangeKind,
    Membership,
    change_simply,
    check_membership,
    encode_membership,
    enter_joint,
    leave_joint,
    readmit,
)
from noctule.core.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    ReadReply,
    TimeoutNow,
    VoteRequest,
)
from noctule.core.raft.outgoing_snapshot import OutgoingSnapshot
from noctule.core.raft.progress import Progress, ProgressState
from noctule.core.raft.quorum import VoteResult, committed_index
from noctule.core.raft.reads import Read, ReadRounds

if TYPE_CHECKING:
    from noctule.core.raft.node import RaftNode

_CAUGHT_UP_ENTRIES: Final = 100
"""A returning voter that misses no more than so many committed entries has caught up (thesis 4.2.1)."""


PATIENT_HEARTBEATS: Final = 10
"""A leader that nobody waits for is silent for so many heartbeats at most: well below the patience of its followers."""


class Leadership:
    """What only a leader has: each member's progress, reads on their way, a transfer on its way.

    A member that a change takes out keeps its progress until it has the change and is told that this is committed; else
    it would ask for votes for ever. One that does not answer is forgotten, once the change is committed.
    """

    __slots__ = (
        "_began_at",
        "_directories",
        "_dismissed",
        "_first_index",
        "_has_told_to_campaign",
        "_heartbeat_at",
        "_heartbeat_gap_s",
        "_is_settled",
        "_membership",
        "_node",
        "_opened",
        "_quorum_check_at",
        "_reads_before_noop",
        "_repair_at",
        "_rounds",
        "_stirred_at",
        "_transfer_deadline",
        "_transfer_target",
        "is_quiet",
        "progress",
    )

    def __init__(self, node: "RaftNode") -> None:
        self._node = node
        self.progress: dict[int, Progress] = {}
        self._first_index = node.log.last_index + 1
        """Of the no-op: nothing may be read or counted as committed before it is (paper 5.4.2, 8)."""
        self._began_at = node.now
        self._heartbeat_gap_s = node.config.heartbeat_s
        """Between the last heartbeat and the next one, if nothing is sent meanwhile."""
        self._heartbeat_at = node.now
        self._repair_at = Instant(node.now + node.config.heartbeat_s)
        """Apart from the heartbeats: each read round sends one, so under reads none is ever due."""
        self._quorum_check_at = Instant(node.now + node.config.election_timeout_s_max)
        self.is_quiet = False
        """Whether everyone was told to sleep. It holds no lease then, and steps down by nothing that is not said."""
        self._stirred_at = node.now
        """When something was last to be done that is more than a heartbeat."""
        self._rounds = ReadRounds()
        self._reads_before_noop: list[tuple[int, int]] = []
        """(context, who asked)."""
        self._transfer_target = 0
        self._transfer_deadline = Instant(0.0)
        self._has_told_to_campaign = False
        """From now on a successor may be elected at any moment, however late it hears, so there is no lease."""
        self._membership = Membership()
        self._directories: dict[int, int] = {}
        """By node with a progress, the directory that counts."""
        self._is_settled = False
        """Whether what follows from the membership's being committed is done."""
        self._dismissed: frozenset[int] = frozenset()
        """Those whom a committed change took out, and who are not known to know it."""
        self._opened: tuple[int, ...] = ()
        """The indexes of snapshots that the disk keeps for this leader."""
        self._follow_membership()

    def begin(self) -> None:
        """Append the no-op of the term and tell everyone (paper 8)."""
        self._node.append_own(b"")
        self.replicate()
        self._heartbeat()
        self.maybe_commit()

    def end(self) -> None:
        """Leadership is lost: reads on their way are refused. They changed nothing, so all may be tried again."""
        if self._opened:
            self._node.emit(KeepSnapshots(()))
        waiting = [*self._reads_before_noop, *((read.context, read.asker) for read in self._rounds.waiting())]
        for context, asker in waiting:
            if asker == self._node.node_id:  # The others notice the change of leader themselves.
                self._node.emit(ReadRefused(context, 0))

    def next_deadline(self) -> Instant:
        """When the next heartbeat, repair, quorum check or chunk of a snapshot is due; never while it is quiet."""
        if self.is_quiet:
            return END_OF_TIME
        deadline = min(self._heartbeat_at, self._repair_at, self._quorum_check_at)
        rate = self._node.snapshot_bytes_per_s
        if rate:
            deadline = min([deadline, *(each.next_deadline(rate) for _, _, each in self._outgoing())])
        return deadline

    def check(self) -> None:
        """Raise `InternalError` when an invariant is broken."""
        for peer, progress in self.progress.items():
            ensure(progress.match < progress.next, "0 <= match < next", peer=peer, match=progress.match)
            ensure(progress.match <= self._node.log.last_index, "no follower matches beyond the log", peer=peer)

    # Time ------------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Heartbeat, repair, quorum check and transfer deadline, each when due."""
        now = self._node.now
        if self.is_quiet:
            return
        if now >= self._quorum_check_at:
            if not self.has_quorum():
                self._node.step_down()
                return
            for peer in sorted(self._dismissed):
                if not self.progress[peer].heard:
                    self._forget_dismissed(peer)
            for progress in self.progress.values():
                progress.heard = False
            self._quorum_check_at = Instant(now + self._node.config.election_timeout_s_max)
        if self._transfer_target and now >= self._transfer_deadline:
            self._transfer_target = 0
        if now >= self._heartbeat_at:
            if self._may_rest():
                self._fall_quiet()
                return
            self._heartbeat_gap_s = self._next_gap_s()
            self._heartbeat()
        if now >= self._repair_at:
            self._repair_at = Instant(now + self._node.config.heartbeat_s)
            self._close_snapshots()  # Before any is opened anew, which would be closed with it.
            self._repair()
            self._resend_chunks()
        if self._node.snapshot_bytes_per_s:
            for _, _, outgoing in self._outgoing():
                self._load_chunks(outgoing)

    def has_quorum(self) -> bool:
        """Whether a majority, this node included, was heard since the last quorum check (thesis 6.2).

        Where nodes are watched, a member whose node seems alive may be silent for longer, as its leader may.
        """
        config, since = self._node.config, END_OF_TIME
        if config.quiet_after_s:
            since = Instant(self._node.now - WATCHED_PATIENCE * config.election_timeout_s_max)
        return self._is_quorum(
            peer
            for peer, progress in self.progress.items()
            if progress.heard or (not progress.is_away and max(progress.heard_at, self._began_at) > since)
        )

    def _is_quorum(self, peers: Iterable[int]) -> bool:
        """Whether these and this node are a majority."""
        return self._membership.vote_result(dict.fromkeys([*peers, self._node.node_id], True)) is VoteResult.WON

    # Quiet -----------------------------------------------------------------------------------------------------------

    def _may_rest(self) -> bool:
        """Whether nothing is left to be done for anyone who lives, and those who live could go on by themselves."""
        node, membership = self._node, self._membership
        quiet_after_s, last = node.config.quiet_after_s, node.log.last_index
        if not quiet_after_s or node.now < self._stirred_at + quiet_after_s or node.commit < last:
            return False
        if self._transfer_target or self._dismissed or self._rounds.waiting() or membership.is_joint():
            return False
        living = {peer: progress for peer, progress in self.progress.items() if not progress.is_away}
        if any(progress.match < last or peer in membership.returning for peer, progress in living.items()):
            return False
        return node.durable == last and self._is_quorum(living.keys())

    def _fall_quiet(self) -> None:
        """Tell everyone who lives to sleep, and do so. Who does not hear it asks for votes, and `stir` sees to that."""
        node = self._node
        self.is_quiet = True
        self._close_snapshots()
        self._rounds.drop_lease()
        for peer, progress in self.progress.items():
            if not progress.is_away:
                node.send(peer, Heartbeat(node.term, node.commit, self._rounds.newest, True))

    def wake(self, *, by_entries: bool = False) -> None:
        """Something is to be done. Whoever else leads by now will say so to the next heartbeat, which is due now; or to
        the entries about to be sent."""
        node = self._node
        self._stirred_at = node.now
        if not self.is_quiet:
            return
        self.is_quiet = False
        self._heartbeat_gap_s = node.config.heartbeat_s
        self._heartbeat_at = Instant(node.now + self._heartbeat_gap_s) if by_entries else node.now
        self._repair_at = Instant(node.now + node.config.heartbeat_s)
        self._quorum_check_at = Instant(node.now + node.config.election_timeout_s_max)
        for progress in self.progress.values():
            progress.heard = False
            if not progress.is_away:
                progress.heard_at = node.now  # Its node was, or it would be suspected.

    def stir(self, peer: int, message: Message) -> None:
        """A message came while quiet: a member that asks for votes, or seemed gone, does not have what it should.

        Other answers are late, and no reason to wake: thousands of groups would, whenever the machine is busy.
        """
        progress = self.progress.get(peer)
        if progress is not None and (progress.is_away or isinstance(message, VoteRequest)):
            self.wake()
            progress.hear(self._node.now)
            self._call_on(peer, progress)

    def suspect(self, peer: int) -> None:
        """The member's process seems gone; when it is back, ask anew what it has instead of trusting what it had."""
        if peer not in self.progress:
            return
        heard = self.progress[peer].heard
        self.progress[peer] = progress = Progress(self._node.log.last_index + 1)
        progress.heard = heard
        progress.probe_sent = progress.is_away = True
        if self.is_quiet and not self._is_quorum(each for each, other in self.progress.items() if not other.is_away):
            self.wake()

    def trust(self, peer: int) -> None:
        """The member's process is there: bring it up to date, should it lack anything."""
        progress = self.progress.get(peer)
        if progress is None:
            return
        progress.is_away = False
        if progress.match < self._node.log.last_index:
            self.wake()
            self._call_on(peer, progress)

    def _call_on(self, peer: int, progress: Progress) -> None:
        """Have a member follow that may not know whom, and say what it has."""
        node = self._node
        node.send(peer, Heartbeat(node.term, min(progress.match, node.commit), self._rounds.newest))
        progress.probe_sent = False
        self._send_entries(peer, progress)

    # Heartbeats ------------------------------------------------------------------------------------------------------

    def tell_commit(self) -> None:
        """Let the followers know now, and not by the next heartbeat, what is committed.

        One whose entries are on their way is told behind them, for it will have them by then.
        """
        node = self._node
        for peer, progress in self.progress.items():
            if progress.state is ProgressState.REPLICATE and progress.in_flight:
                self._nudge(peer, progress)
            else:
                node.send(peer, Heartbeat(node.term, min(progress.match, node.commit), self._rounds.newest))

    def _heartbeat(self) -> None:
        node = self._node
        self._heartbeat_at = Instant(node.now + self._heartbeat_gap_s)
        if node.config.lease_s:
            self._rounds.begin_for_lease(node.now)
        for peer, progress in self.progress.items():
            # The follower may not hold the leader's entries beyond `match`, so it must not commit them.
            node.send(peer, Heartbeat(node.term, min(progress.match, node.commit), self._rounds.newest))

    # Replication -----------------------------------------------------------------------------------------------------

    def accepts_proposals(self, size: int) -> bool:
        """Whether a proposal of that many bytes may be appended: no transfer on its way, not too much uncommitted."""
        node = self._node
        if self._transfer_target:
            return False
        if node.log.bytes_held + size <= node.config.uncommitted_bytes_max:
            return True  # The whole log is within the bound, so what is uncommitted is.
        uncommitted = sum(len(entry.data) for entry in node.log.between(node.commit + 1, node.log.last_index))
        return uncommitted == 0 or uncommitted + size <= node.config.uncommitted_bytes_max

    def replicate(self) -> None:
        """Send every follower what it lacks, as far as flow control lets."""
        everyone_got_some = True
        for peer, progress in self.progress.items():
            if not self._send_entries(peer, progress) and not progress.is_away:
                everyone_got_some = False
        if everyone_got_some and self._may_be_patient():
            # Entries say what a heartbeat would. With a thousand busy groups the heartbeats beside their entries were
            # three quarters of all work. But one that waits for an answer says nothing to a follower whose answer, or
            # what it was to answer, was lost; a heartbeat tells that who leads, and is answered, and so repairs it.
            self._heartbeat_gap_s = self._node.config.heartbeat_s
            self._heartbeat_at = Instant(self._node.now + self._heartbeat_gap_s)

    def _next_gap_s(self) -> float:
        """Longer each time once the group could be asleep: what is late comes no sooner for being asked after."""
        config = self._node.config
        if self._may_be_patient() and self._node.now >= self._stirred_at + config.quiet_after_s:
            return min(2 * self._heartbeat_gap_s, PATIENT_HEARTBEATS * config.heartbeat_s)
        return config.heartbeat_s

    def _may_be_patient(self) -> bool:
        """Whether nobody counts on a heartbeat in time: nodes are watched, no lease is kept, and no read waits."""
        config = self._node.config
        return config.quiet_after_s > 0 and not config.lease_s and not self._rounds.waiting()

    def _send_entries(self, peer: int, progress: Progress) -> bool:
        """Send what flow control lets; whether that was anything."""
        node, log = self._node, self._node.log
        has_sent = False
        while progress.state is not ProgressState.SNAPSHOT and not progress.probe_sent:
            if progress.state is ProgressState.REPLICATE and (
                progress.next > log.last_index or len(progress.in_flight) >= node.config.in_flight_max
            ):
                break
            previous_term = log.term_at(progress.next - 1)
            if previous_term is None:
                progress.become_snapshot()
                node.emit(OpenSnapshot())
                break
            entries = log.between(progress.next, log.last_index, node.config.append_bytes_max)
            node.send(peer, Append(node.term, progress.next - 1, previous_term, node.commit, entries))
            has_sent = True
            if progress.state is ProgressState.PROBE:
                progress.probe_sent = True
                break
            progress.next += len(entries)
            progress.in_flight.append(progress.next - 1)
            if progress.next > log.last_index:
                break
        return has_sent

    def append_reply(self, peer: int, message: AppendReply) -> None:
        """A follower accepted or refused."""
        if not self._counts(peer, message.directory):
            return
        progress = self.progress[peer]
        progress.hear(self._node.now)
        if not message.accepted:
            self._refused(progress, message)
            self._send_entries(peer, progress)
            return
        news = progress.acknowledge(message.index)
        if progress.state is ProgressState.PROBE or (
            progress.state is ProgressState.SNAPSHOT and progress.match >= self._node.log.snapshot_index
        ):
            progress.become_replicate()
        elif progress.snapshot is not None and progress.match >= progress.snapshot.index:
            progress.become_probe()  # It has that snapshot, and meanwhile the log begins behind it: the next one.
        if news and progress.match > self._node.commit:
            self.maybe_commit()
            if self._node.leadership is not self or peer not in self.progress:
                return  # What was committed took this node, or the peer, out of the group.
        if peer in self._dismissed and self._tell_dismissed(peer):
            return
        self._send_entries(peer, progress)
        self._maybe_finish_transfer(peer, progress)
        if peer in self._membership.returning:
            self._maybe_return(peer, progress)

    def _refused(self, progress: Progress, message: AppendReply) -> None:
        if progress.state is ProgressState.SNAPSHOT or message.index <= progress.match:
            return  # An old answer: what matched once matches for the whole term.
        if progress.state is ProgressState.PROBE and message.index != progress.next - 1:
            return
        hint_index, _ = self._node.log.last_index_with_term_at_most(message.hint_index, message.hint_term)
        progress.become_probe()
        progress.next = max(progress.match, min(hint_index, message.index - 1)) + 1

    def maybe_commit(self) -> None:
        """Move the commit index to what a majority holds durably, if it is of this term (paper 5.4.2, figure 8)."""
        node = self._node
        matched = {peer: progress.match for peer, progress in self.progress.items()}
        matched[node.node_id] = node.durable
        membership = self._membership
        # Written out, as everything that each entry passes: a call into what is not compiled takes a microsecond.
        joint = membership.outgoing
        index = membership.committed_index(matched) if joint else committed_index(membership.voters, matched)
        if index <= node.commit or node.log.term_at(index) != node.term:
            return
        node.advance_commit(index)
        if self._reads_before_noop:
            waiting, self._reads_before_noop = self._reads_before_noop, []
            for context, asker in waiting:
                self.read(context, asker)
        if not self._is_settled and node.log.membership_index <= node.commit:
            self._settle()

    # Membership ------------------------------------------------------------------------------------------------------

    def change_membership(self, event: ChangeMembership) -> None:
        """Append the membership that these changes lead to; `Proposed` or `MembershipRefused` tells."""
        self.wake()
        try:
            if event.transition is Transition.SIMPLE:
                after = change_simply(self._membership, event.changes)
            else:
                auto_leave = event.transition is Transition.JOINT
                after = enter_joint(self._membership, event.changes, auto_leave=auto_leave)
        except RequestError as error:
            self._node.emit(MembershipRefused(str(error), self._node.node_id))
            return
        self._propose_membership(after)

    def _could_commit(self, after: Membership) -> bool:
        """Whether those who would vote were heard lately; of who is new here nothing is known (etcd's strict check).

        Taking a living voter out while another one is dead can leave a group that never has a majority again.
        """
        since = self._node.now - self._node.config.election_timeout_s_min
        lives = dict.fromkeys(after.members(), True)
        lives.update({peer: progress.heard_at >= since for peer, progress in self.progress.items()})
        lives[self._node.node_id] = True
        return after.vote_result(lives) is VoteResult.WON

    def leave_joint(self) -> None:
        """Append the membership behind the joint one; `Proposed` or `MembershipRefused` tells."""
        try:
            after = leave_joint(self._membership)
        except RequestError as error:
            self._node.emit(MembershipRefused(str(error), self._node.node_id))
            return
        self._propose_membership(after)

    def _propose_membership(self, after: Membership) -> None:
        reason = self._why_not_now()
        arrived = leave_joint(after) if after.is_joint() else after
        if not reason and arrived == self._membership:
            reason = "nothing would change"
        if not reason and not self._could_commit(after):
            reason = "too few of those who would vote were heard lately: it might never be committed"
        if reason:
            self._node.emit(MembershipRefused(reason, self._node.node_id))
            return
        self._append_membership(after)
        self._node.emit(Proposed(self._node.log.last_index, self._node.term))

    def _why_not_now(self) -> str:
        """Two changes at a time could have majorities that do not overlap; empty when one may begin."""
        node = self._node
        if self._transfer_target:
            return "leadership is being handed over: try again"
        if node.commit < self._first_index:
            # Ongaro on raft-dev, 2015: else an earlier leader's change may be in some logs, and this one beside it.
            return "nothing of this term is committed yet: try again"
        if node.log.membership_index > node.commit:
            return "the change before is not committed yet: try again"
        return ""

    def _append_membership(self, membership: Membership) -> None:
        check_membership(membership)
        self._node.append_own(encode_membership(membership))
        self._node.tell_membership()
        self.replicate()

    def adopt(self) -> None:
        """Another membership is in force, so it decides from now on who is sent to, and who counts (thesis 4.1)."""
        self._follow_membership()
        self._is_settled = False
        self._dismissed = frozenset()
        # Two changes further on, a majority might know nothing of what was promised before the first.
        self._rounds.drop_lease()
        self._confirm_rounds()  # Fewer may be needed now, perhaps nobody who would still answer.

    def _follow_membership(self) -> None:
        node, before = self._node, self._membership
        self._membership = after = node.log.membership
        for peer in after.members():
            is_another = before.directory_of(peer) != after.directory_of(peer)
            if peer != node.node_id and (is_another or peer not in self.progress):
                self.progress[peer] = Progress(node.log.last_index + 1)
        self._directories = {peer: after.directory_of(peer) for peer in self.progress}

    def _settle(self) -> None:
        """The membership is committed: leave it if it is joint, or leave the group if this node is not in it."""
        self._is_settled = True
        membership = self._membership
        if membership.is_joint():
            if membership.auto_leave:
                self._append_membership(leave_joint(membership))
            return
        node = self._node
        self._dismissed = frozenset(self.progress.keys() - set(membership.members()))
        for peer in sorted(self._dismissed):
            self._tell_dismissed(peer)
        if node.node_id not in membership.voters:
            # Thesis 4.2.2. The successor need not wait for a timeout, nor for a lease, since nothing is read here now.
            heirs = [voter for voter in membership.voters if self.progress[voter].match == node.log.last_index]
            if heirs:
                node.send(heirs[0], TimeoutNow(node.term))
            node.step_down()

    def _tell_dismissed(self, peer: int) -> bool:
        """Whether it has the change, and so could be told that this is committed."""
        node, match = self._node, self.progress[peer].match
        if match < node.log.membership_index:
            return False
        node.send(peer, Heartbeat(node.term, min(match, node.commit), self._rounds.newest))
        self._forget_dismissed(peer)
        return True

    def _forget_dismissed(self, peer: int) -> None:
        del self.progress[peer]
        self._dismissed -= {peer}

    def _counts(self, peer: int, directory: int) -> bool:
        """Whether the peer's word counts: it is a member, and speaks for the directory that the group knows.

        A member that lost its disk comes back with another directory, and is readmitted.
        """
        if peer not in self.progress:
            return False
        if directory == self._directories[peer]:
            return True
        if directory and not self._why_not_now():
            try:
                self._append_membership(readmit(self._membership, peer, directory))
            except RequestError:
                pass  # It asks again by its next reply, perhaps once the group is not joint any more.
        return False

    def _maybe_return(self, peer: int, progress: Progress) -> None:
        node = self._node
        if self._membership.is_joint():
            return  # It returns once the group has left: its next answer asks again.
        has_caught_up = progress.match + _CAUGHT_UP_ENTRIES >= node.commit
        if has_caught_up and progress.match >= node.log.membership_index and not self._why_not_now():
            self._append_membership(change_simply(self._membership, [Change(ChangeKind.VOTER, peer)]))

    # Repair ----------------------------------------------------------------------------------------------------------

    def _repair(self) -> None:
        """Once in `heartbeat_s`, for followers that answer and yet got no further: something sent to them was lost."""
        for peer, progress in self.progress.items():
            stalled = progress.match == progress.match_before and progress.match < self._node.log.last_index
            progress.match_before = progress.match
            if not (stalled and progress.responsive):
                continue
            progress.responsive = False
            progress.probe_sent = False
            if progress.state is ProgressState.REPLICATE and progress.in_flight:
                self._nudge(peer, progress)
            else:
                self._send_entries(peer, progress)

    def _nudge(self, peer: int, progress: Progress) -> None:
        """An empty Append makes the follower say where it stands: it refuses one that follows a lost one."""
        node = self._node
        previous_term = node.log.term_at(progress.next - 1)
        if previous_term is None:  # Compacted meanwhile: a majority went on without this follower.
            progress.become_probe()
            self._send_entries(peer, progress)
            return
        node.send(peer, Append(node.term, progress.next - 1, previous_term, node.commit, []))

    # Snapshots -------------------------------------------------------------------------------------------------------

    def snapshot_opened(self, event: SnapshotOpened) -> None:
        """The newest snapshot is at hand: begin to send it to whoever waits for one."""
        node = self._node
        if event.index and event.index not in self._opened:
            self._opened = (*self._opened, event.index)
        for progress in self.progress.values():
            if progress.state is not ProgressState.SNAPSHOT or progress.snapshot is not None:
                continue
            if not event.index or event.index < node.log.snapshot_index:
                progress.become_probe()  # Asks again, should entries still not do.
                progress.probe_sent = True
                continue
            progress.snapshot = OutgoingSnapshot(event.index, event.term, event.count, event.bytes_total, node.now)
            self._load_chunks(progress.snapshot)

    def chunk_loaded(self, event: ChunkLoaded) -> None:
        """A chunk is at hand: send it to those for whom it was asked."""
        node = self._node
        for peer, progress, outgoing in self._outgoing():
            if outgoing.index != event.index:
                continue
            if event.data is None:
                progress.become_probe()
                progress.probe_sent = True
            elif outgoing.loaded(event.number, len(event.data), node.now, node.snapshot_bytes_per_s):
                self._send_chunk(peer, outgoing, event.number, event.data)
                self._load_chunks(outgoing)

    def snapshot_reply(self, peer: int, message: InstallSnapshotReply) -> None:
        """Chunks came; send those that the follower lacks next."""
        if not self._counts(peer, message.directory):
            return
        progress = self.progress[peer]
        progress.hear(self._node.now)
        if progress.snapshot is not None and progress.snapshot.index == message.index:
            progress.snapshot.acknowledge(message.number, self._node.now)
            self._load_chunks(progress.snapshot)

    def oldest_in_transfer(self) -> int | None:
        """The oldest index whose snapshot is on its way to somebody, who will need the entries behind it."""
        return min((outgoing.index for _, _, outgoing in self._outgoing()), default=None)

    def _outgoing(self) -> list[tuple[int, Progress, OutgoingSnapshot]]:
        return [
            (peer, progress, progress.snapshot)
            for peer, progress in self.progress.items()
            if progress.snapshot is not None
        ]

    def _load_chunks(self, outgoing: OutgoingSnapshot) -> None:
        node = self._node
        while (number := outgoing.next_chunk(node.now, node.snapshot_bytes_per_s)) is not None:
            node.emit(LoadChunk(outgoing.index, number))

    def _send_chunk(self, peer: int, outgoing: OutgoingSnapshot, number: int, data: bytes) -> None:
        place = (outgoing.index, outgoing.term, number, outgoing.count)
        self._node.send(peer, InstallSnapshot(self._node.term, *place, data, outgoing.bytes_total))

    def _resend_chunks(self) -> None:
        for peer, _, outgoing in self._outgoing():
            if outgoing.is_stalled(self._node.now) and outgoing.taken == outgoing.count:
                self._send_chunk(peer, outgoing, outgoing.count, b"")
            self._load_chunks(outgoing)

    def _close_snapshots(self) -> None:
        in_use = {outgoing.index for _, _, outgoing in self._outgoing()}
        if not in_use.issuperset(self._opened):
            self._opened = tuple(sorted(in_use))
            self._node.emit(KeepSnapshots(self._opened))

    # Reads -----------------------------------------------------------------------------------------------------------

    def read(self, context: int, asker: int, *, lease: bool = False) -> None:
        """Note the commit index for a read and have a majority confirm that this node still leads (thesis 6.4)."""
        node = self._node
        self.wake()
        if node.commit < self._first_index:
            # Until an entry of this term is committed, the commit index may lag behind what an earlier leader
            # acknowledged (etcd-io/etcd#7331).
            self._reads_before_noop.append((context, asker))
        elif (lease and self._holds_lease()) or self._is_alone():
            self._answer_read(Read(context, node.commit, asker))
        else:
            self._rounds.begin(Read(context, node.commit, asker))
            self._heartbeat_gap_s = node.config.heartbeat_s
            self._heartbeat()

    def _answer_read(self, read: Read) -> None:
        node = self._node
        if read.asker == node.node_id:
            node.read_confirmed(read.context, read.index)
        else:
            node.send(read.asker, ReadReply(node.term, read.context, read.index))

    def _is_alone(self) -> bool:
        return self._membership.vote_result({self._node.node_id: True}) is VoteResult.WON

    def has_caught_up(self) -> bool:
        """Whether everything that earlier leaders committed is committed here, too (as in `read`)."""
        return self._node.applied >= self._first_index

    def quorum_heard_at(self, now: Instant) -> Instant:
        """When a majority, this node included, was last heard: until then it had elected nobody else."""
        heard = {peer: progress.heard_at for peer, progress in self.progress.items()}
        heard[self._node.node_id] = now
        return self._membership.quorum_moment(heard)

    def _holds_lease(self) -> bool:
        """Whether a majority still keeps its promise to elect no other, by the slowest clock allowed (thesis 6.4.1)."""
        is_handed_over = self._transfer_target or self._has_told_to_campaign
        return not is_handed_over and self._rounds.holds_lease(self._node.now)

    def heartbeat_reply(self, peer: int, message: HeartbeatReply) -> None:
        """A follower confirmed the term: reads of that round and before are nearer to ready."""
        if not self._counts(peer, message.directory):
            return
        progress = self.progress[peer]
        progress.hear(self._node.now)
        progress.round = max(progress.round, message.round)
        if self._rounds.is_awaited:
            self._confirm_rounds()
        progress.responsive = True
        if peer in self._membership.returning:
            self._maybe_return(peer, progress)

    def _confirm_rounds(self) -> None:
        node = self._node
        rounds = {peer: progress.round for peer, progress in self.progress.items()}
        rounds[node.node_id] = self._rounds.newest
        confirmed = self._membership.committed_index(rounds)
        lease_s = node.config.lease_s * (1 - node.config.clock_drift_max)
        for read in self._rounds.confirm(confirmed, lease_s):
            self._answer_read(read)

    # Transfer --------------------------------------------------------------------------------------------------------

    def transfer(self, target: int) -> None:
        """Stop taking proposals, bring the target up to date, then have it campaign at once (thesis 3.10)."""
        if self._transfer_target or target not in self._membership.voters or target not in self.progress:
            return
        self.wake()
        self._transfer_target = target
        self._transfer_deadline = Instant(self._node.now + self._node.config.election_timeout_s_min)
        self._maybe_finish_transfer(target, self.progress[target])

    def _maybe_finish_transfer(self, peer: int, progress: Progress) -> None:
        if peer == self._transfer_target and progress.match == self._node.log.last_index:
            self._has_told_to_campaign = True
            self._node.send(peer, TimeoutNow(self._node.term))
