"""The leader's part: replicate the log, move the commit index, confirm reads, hand leadership over.

A `Leadership` lives as long as one term of one leader; `RaftNode` owns it. It changes the node's log and commit
index through the node alone.
"""

from typing import TYPE_CHECKING

from noctule.base.ensure import ensure
from noctule.base.ids import Instant
from noctule.core.raft.events import LoadSnapshot, ReadReady, ReadRefused, SnapshotLoaded
from noctule.core.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    TimeoutNow,
)
from noctule.core.raft.progress import Progress, ProgressState
from noctule.core.raft.quorum import committed_index, majority

if TYPE_CHECKING:
    from noctule.core.raft.node import RaftNode

_CHUNK_RESEND_S = 1.0
"""A snapshot chunk without an answer for so long is sent again."""


class Leadership:
    """What only a leader has: each follower's progress, reads on their way, a transfer on its way."""

    def __init__(self, node: "RaftNode") -> None:
        self._node = node
        self.progress = {peer: Progress(node.log.last_index + 1) for peer in node.peers}
        self._first_index = node.log.last_index + 1
        """Of the no-op: nothing may be read or counted as committed before it is (paper 5.4.2, 8)."""
        self._heartbeat_at = node.now
        self._repair_at = Instant(node.now + node.config.heartbeat_s)
        """Apart from the heartbeats: each read round sends one, so under reads none is ever due."""
        self._quorum_check_at = Instant(node.now + node.config.election_timeout_s_max)
        self._round = 0
        self._reads: list[tuple[int, int, int]] = []
        """(round, context, index) of reads not yet confirmed, in order."""
        self._reads_before_noop: list[int] = []
        self._transfer_target = 0
        self._transfer_deadline = Instant(0.0)

    def begin(self) -> None:
        """Append the no-op of the term and tell everyone (paper 8)."""
        self._node.append_own(b"")
        self.replicate()
        self._heartbeat()
        self.maybe_commit()

    def end(self) -> None:
        """Leadership is lost: reads on their way are refused. They changed nothing, so all may be tried again."""
        for context in self._reads_before_noop:
            self._node.emit(ReadRefused(context, 0))
        for _, context, _ in self._reads:
            self._node.emit(ReadRefused(context, 0))

    def next_deadline(self) -> Instant:
        """When the next heartbeat, repair or quorum check is due."""
        return min(self._heartbeat_at, self._repair_at, self._quorum_check_at)

    def check(self) -> None:
        """Raise `InternalError` when an invariant is broken."""
        for peer, progress in self.progress.items():
            ensure(progress.match < progress.next, "0 <= match < next", peer=peer, match=progress.match)
            ensure(progress.match <= self._node.log.last_index, "no follower matches beyond the log", peer=peer)

    # Time ------------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Heartbeat, repair, quorum check and transfer deadline, each when due."""
        now = self._node.now
        if now >= self._quorum_check_at:
            if not self.has_quorum():
                self._node.step_down()
                return
            for progress in self.progress.values():
                progress.heard = False
            self._quorum_check_at = Instant(now + self._node.config.election_timeout_s_max)
        if self._transfer_target and now >= self._transfer_deadline:
            self._transfer_target = 0
        if now >= self._heartbeat_at:
            self._heartbeat()
        if now >= self._repair_at:
            self._repair_at = Instant(now + self._node.config.heartbeat_s)
            self._repair()
            self._resend_chunks()

    def has_quorum(self) -> bool:
        """Whether a majority, this node included, was heard since the last quorum check (thesis 6.2)."""
        heard = 1 + sum(progress.heard for progress in self.progress.values())
        return heard >= majority(len(self._node.voters))

    def _heartbeat(self) -> None:
        node = self._node
        self._heartbeat_at = Instant(node.now + node.config.heartbeat_s)
        for peer, progress in self.progress.items():
            # The follower may not hold the leader's entries beyond `match`, so it must not commit them.
            node.send(peer, Heartbeat(node.term, min(progress.match, node.commit), self._round))

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
        for peer, progress in self.progress.items():
            self._send_entries(peer, progress)

    def _send_entries(self, peer: int, progress: Progress) -> None:
        node, log = self._node, self._node.log
        while True:
            if progress.state is ProgressState.SNAPSHOT or progress.probe_sent:
                return
            if progress.state is ProgressState.REPLICATE and (
                progress.next > log.last_index or len(progress.in_flight) >= node.config.in_flight_max
            ):
                return
            previous_term = log.term_at(progress.next - 1)
            if previous_term is None:
                progress.become_snapshot()
                node.emit(LoadSnapshot())
                return
            entries = log.between(progress.next, log.last_index, node.config.append_bytes_max)
            node.send(peer, Append(node.term, progress.next - 1, previous_term, node.commit, entries))
            if progress.state is ProgressState.PROBE:
                progress.probe_sent = True
                return
            progress.next += len(entries)
            progress.in_flight.append(progress.next - 1)
            if progress.next > log.last_index:
                return

    def append_reply(self, peer: int, message: AppendReply) -> None:
        """A follower accepted or refused."""
        progress = self.progress[peer]
        progress.heard = True
        if not message.accepted:
            self._refused(progress, message)
            self._send_entries(peer, progress)
            return
        news = progress.acknowledge(message.index)
        if progress.state is ProgressState.PROBE or (
            progress.state is ProgressState.SNAPSHOT and progress.match >= self._node.log.snapshot_index
        ):
            progress.become_replicate()
        if news:
            self.maybe_commit()
        self._send_entries(peer, progress)
        self._maybe_finish_transfer(peer, progress)

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
        matched = [progress.match for progress in self.progress.values()]
        matched.append(node.durable)
        index = committed_index(matched)
        if index <= node.commit or node.log.term_at(index) != node.term:
            return
        node.advance_commit(index)
        if self._reads_before_noop:
            waiting, self._reads_before_noop = self._reads_before_noop, []
            for context in waiting:
                self.read(context)

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

    def forget(self, peer: int) -> None:
        """The follower's process is gone: when it is back, ask anew what it has instead of trusting what it had."""
        if peer in self.progress:
            heard = self.progress[peer].heard
            self.progress[peer] = progress = Progress(self._node.log.last_index + 1)
            progress.heard = heard
            progress.probe_sent = True

    # Snapshots -------------------------------------------------------------------------------------------------------

    def snapshot_loaded(self, event: SnapshotLoaded) -> None:
        """The newest snapshot is at hand: begin to send it to whoever waits for one."""
        for peer, progress in self.progress.items():
            if progress.state is not ProgressState.SNAPSHOT or progress.snapshot is not None:
                continue
            if event.data is None or event.index < self._node.log.snapshot_index:
                progress.become_probe()  # Asks again, should entries still not do.
                progress.probe_sent = True
                continue
            progress.snapshot = (event.index, event.term, event.data)
            self._send_chunk(peer, progress)

    def _send_chunk(self, peer: int, progress: Progress) -> None:
        node = self._node
        if progress.snapshot is None:
            return
        index, term, data = progress.snapshot
        offset = progress.snapshot_offset
        chunk = data[offset : offset + node.config.chunk_bytes_max]
        progress.chunk_sent_at = node.now
        node.send(peer, InstallSnapshot(node.term, index, term, offset, len(data), chunk))

    def snapshot_reply(self, peer: int, message: InstallSnapshotReply) -> None:
        """A chunk came; send the one the follower wants next."""
        progress = self.progress[peer]
        progress.heard = True
        if progress.snapshot is None or progress.snapshot[0] != message.index:
            return
        if message.offset != progress.snapshot_offset and message.offset <= len(progress.snapshot[2]):
            progress.snapshot_offset = message.offset
            if message.offset < len(progress.snapshot[2]):
                self._send_chunk(peer, progress)

    def _resend_chunks(self) -> None:
        for peer, progress in self.progress.items():
            if progress.snapshot is not None and self._node.now >= progress.chunk_sent_at + _CHUNK_RESEND_S:
                # At the end this is an empty chunk, which asks whether the snapshot is installed by now.
                self._send_chunk(peer, progress)

    # Reads -----------------------------------------------------------------------------------------------------------

    def read(self, context: int) -> None:
        """Note the commit index for a read and have a majority confirm that this node still leads (thesis 6.4)."""
        node = self._node
        if node.commit < self._first_index:
            # Until an entry of this term is committed, the commit index may lag behind what an earlier leader
            # acknowledged (etcd-io/etcd#7331).
            self._reads_before_noop.append(context)
            return
        if not self.progress:
            node.emit(ReadReady(context, node.commit))
            return
        self._round += 1
        self._reads.append((self._round, context, node.commit))
        self._heartbeat()

    def heartbeat_reply(self, peer: int, message: HeartbeatReply) -> None:
        """A follower confirmed the term: reads of that round and before are nearer to ready."""
        progress = self.progress[peer]
        progress.heard = True
        progress.round = max(progress.round, message.round)
        self._confirm_reads()
        progress.responsive = True

    def _confirm_reads(self) -> None:
        if not self._reads:
            return
        rounds = [progress.round for progress in self.progress.values()]
        rounds.append(self._round)
        confirmed = committed_index(rounds)
        ready = 0
        for number, context, index in self._reads:
            if number > confirmed:
                break
            self._node.emit(ReadReady(context, index))
            ready += 1
        del self._reads[:ready]

    # Transfer --------------------------------------------------------------------------------------------------------

    def transfer(self, target: int) -> None:
        """Stop taking proposals, bring the target up to date, then have it campaign at once (thesis 3.10)."""
        if self._transfer_target:
            return
        self._transfer_target = target
        self._transfer_deadline = Instant(self._node.now + self._node.config.election_timeout_s_min)
        self._maybe_finish_transfer(target, self.progress[target])

    def _maybe_finish_transfer(self, peer: int, progress: Progress) -> None:
        if peer == self._transfer_target and progress.match == self._node.log.last_index:
            self._node.send(peer, TimeoutNow(self._node.term))
