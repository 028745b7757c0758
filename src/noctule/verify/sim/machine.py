"""One simulated node: the real `Carrier`, `Replica`, `Router` and recovery on a simulated disk and network.

It stands where `node/host.py` stands in production and keeps to the same rules: one turn for all that comes at one
instant, one batch for a turn, and a failed disk is final.
"""

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from noctule.adapters.wal_format import Record
from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import NoctuleError
from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.placement.partition_map import even_map
from noctule.core.raft import events as raft
from noctule.core.raft.messages import InstallSnapshot
from noctule.core.raft.node import RaftNode
from noctule.core.replica.carry_out import Carrier
from noctule.core.replica.events import Event, TakeDigest, WriteSnapshot, WriteSnapshotNow
from noctule.core.roster import liveness
from noctule.core.roster.liveness import Liveness
from noctule.core.roster.loads import LoadReport
from noctule.core.wire.frames import DigestTold, Envelope
from noctule.node.api import ReplySink
from noctule.node.host import BALANCE_S, SNAPSHOTS_FOR_SPACE_MAX, TICK_S, WAL_SEGMENTS_TARGET, WORK_S
from noctule.node.recovery import ReplicaSettings, records_of
from noctule.node.router import Router
from noctule.node.snapshot_shelf import SnapshotShelf
from noctule.verify.sim.coverage import WatchedSwitchboard
from noctule.verify.sim.time import WALL_MS_AT_START

if TYPE_CHECKING:
    from noctule.verify.sim.world import World


class Machine:
    """A node's process for one life; its disk outlives it."""

    def __init__(
        self, world: "World", node_id: int, life: int, settings: ReplicaSettings, partition_count: int
    ) -> None:
        self.world = world
        self.node_id = node_id
        self.life = life
        """Its number among all lives of all machines."""
        self.disk = world.disks[node_id]
        self.alive = True
        self.is_recovering = True
        self.failure = ""
        """Why it no longer acknowledges anything."""
        self._last_states: dict[GroupId, tuple[object, ...]] = {}
        self._membership_indexes: dict[GroupId, int] = {}
        """Where the membership in force stands."""
        self._paused = 0
        self._backlog: list[Callable[[], None]] = []
        """What waits for the end of a pause, in order."""
        self._records: list[Record] = []
        self._number = self._durable_number = 0
        self._turn_scheduled = False
        self._nonce = 0
        chance = random.Random(world.chance.getrandbits(64))
        partitions = even_map(partition_count, settings.voters)
        self.threads, self.replicas = self.disk.open([META_GROUP, *partitions.partitions], settings, chance)
        self.shelf = SnapshotShelf(self.threads.snapshots)
        self.threads.durable = lambda number: self._wake(partial(self._durable, number))
        self.threads.failed = lambda error: self._wake(partial(self._fail, error))
        self.switchboard = WatchedSwitchboard(
            node_id,
            self.replicas,
            self,
            lambda switchboard: Router(
                partitions=partitions,
                dispatch=switchboard,
                new_origin=lambda: chance.getrandbits(62),
                now=world.time.now,
                request_deadline_s=world.request_deadline_s,
            ),
            partitions,
            world.coverage,
        )
        self.switchboard.digested = partial(world.invariants.digested, self)
        self.router = self.switchboard.router
        self.carrier = Carrier(self.replicas, self.switchboard, self)
        self.liveness = Liveness([node for node in world.nodes if node != node_id], world.time.now())
        self._lives: dict[int, int] = {}
        """Of each other node the newest life that was heard of."""
        self._wake_for_turn = partial(self._wake, self._turn)
        self._wake_for_tick = partial(self._wake, self._tick)
        self._free_at = world.time.now() + BALANCE_S
        self._later(chance.uniform(0, TICK_S), self._tick)
        # Until its end a crash may hit the recovery itself.
        self.pause(chance.uniform(0.001, 0.05), self._recovered)

    def _recovered(self) -> None:
        self.is_recovering = False
        self.disk.settle()

    # Life ------------------------------------------------------------------------------------------------------------

    def end(self, *, power: bool) -> None:
        """End this life, as kill -9 does, or a power cut, which also takes what was not synced."""
        self.alive = False
        self.threads.stop()
        if self.is_recovering:
            self.world.count("crash during recovery")
        if power:
            self.disk.cut_power()
        else:
            self.disk.kill()

    def pause(self, duration_s: float, then: Callable[[], None] | None = None) -> None:
        """Do nothing for so long, as a stopped process does; then take everything that waited, in order."""
        self._paused += 1

        def resume() -> None:
            self._paused -= 1
            if not self.alive or self._paused:
                return
            if then is not None:
                then()
            backlog, self._backlog = self._backlog, []
            for call in backlog:
                self._wake(call)

        self.world.time.after(duration_s, resume)

    def _wake(self, call: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self._paused:
            self._backlog.append(call)
        else:
            call()

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.world.time.after(delay_s, partial(self._wake, call))

    def _fail(self, error: NoctuleError) -> None:
        """Stop for good: what this node says from now on could be untrue."""
        if not self.disk.may_fail:
            raise error
        if not self.failure:
            self.failure = str(error)
            self.world.count("disk failed")
            self.switchboard.close()
            self.router.stop(self.failure)
            self.world.disconnect(self)

    # Turns -----------------------------------------------------------------------------------------------------------

    @property
    def is_well(self) -> bool:
        """Whether it runs, and its disk works."""
        return self.alive and not self._paused and not self.failure and not self.disk.files.failing

    def is_member_of_all(self, voters: tuple[int, ...]) -> bool:
        """Whether every group has these voters as far as known here, and this machine knows, durably, that it votes."""
        for replica in self.replicas.values():
            log, consensus = replica.raft.log, replica.raft
            is_known = log.committed_membership(consensus.commit).directory_of(self.node_id) == consensus.directory
            if (log.membership.voters, log.membership.outgoing) != (voters, ()) or not is_known:
                return False
            if consensus.durable < log.membership_index:
                return False
        return True

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """A client's command."""
        self._wake(partial(self.router.submit, args, sink, consistency))

    def ask(self, group: GroupId, event: Event) -> None:
        """An operator's wish for one group."""
        self._wake(partial(self.take, group, event))

    def schedule_turn(self) -> None:
        """End the turn after everything that arrives at this instant."""
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self.world.time.after(0.0, self._wake_for_turn)

    def _turn(self) -> None:
        self._turn_scheduled = False
        if self.failure:
            self.router.tick()
            return
        if self.carrier.has_work():
            if any(replica.raft.applied < replica.raft.commit for replica in self.replicas.values()):
                self.world.count("commit applied in slices")
            self.carrier.work(self.world.time.now())
            self._later(WORK_S, self.schedule_turn)
        self.router.flush()
        stirred = self.carrier.end_turn(self.world.time.now(), self.wall_ms())
        for to, envelopes in self.switchboard.take_outgoing().items():
            self.world.transmit(self, to, envelopes)
            self._live(liveness.FrameSent(to))
        self.world.turned(self, self._changed(stirred))

    def _changed(self, stirred: Iterable[GroupId]) -> list[tuple[GroupId, RaftNode]]:
        """The replicas whose state is another than after the turn before; most messages change nothing."""
        changed = []
        for group in stirred:
            consensus = self.replicas[group].raft
            log = consensus.log
            state = (
                consensus.term,
                consensus.role,
                consensus.commit,
                consensus.applied,
                consensus.durable,
                log.last_index,
                log.snapshot_index,
            )
            if self._last_states.get(group) != state:
                self._last_states[group] = state
                changed.append((group, consensus))
        return changed

    def _tick(self) -> None:
        self.world.time.after(TICK_S, self._wake_for_tick)
        now = self.world.time.now()
        if not self.failure:
            if self.carrier.tick(now):
                self.schedule_turn()
            if now >= self.liveness.next_deadline():
                self._live(liveness.Tick())
            if now >= self._free_at:
                self._free_at = now + BALANCE_S
                self._free_segments()
                self._take_digests()
        self.router.tick()

    def _free_segments(self) -> None:
        """As the host does: groups that keep an old segment of the log from being dropped write a snapshot."""
        picture = self.threads.picture
        if picture.segments > WAL_SEGMENTS_TARGET:
            for number in picture.pinned_by[:SNAPSHOTS_FOR_SPACE_MAX]:
                self.world.count("snapshot for space")
                self.take(GroupId(number), WriteSnapshotNow())

    def _take_digests(self) -> None:
        """One digest of each group that this machine leads, by a nonce that no other one has."""
        for group, replica in self.replicas.items():
            if replica.raft.is_leader():
                self._nonce += 1
                self.take(group, TakeDigest(b"%d-%d" % (self.life, self._nonce)))

    def receive(self, sender: int, life: int, envelopes: list[Envelope]) -> None:
        """A frame came, from the sender's process of that life; nothing is learnt from it once this node has failed."""
        self._wake(partial(self._receive, sender, life, envelopes))

    def _receive(self, sender: int, life: int, envelopes: list[Envelope]) -> None:
        if self.failure:
            return
        if life > self._lives.get(sender, 0):
            # The first frame of another process stands for the connection that it would have come by.
            self._lives[sender] = life
            self._live(liveness.Connected(sender, life))
        self._live(liveness.FrameHeard(sender))
        if envelopes:
            self.switchboard.receive(sender, envelopes)

    def peer_lost(self, node: int) -> None:
        """The connection to a peer closed."""
        self._wake(partial(self._peer_lost, node))

    def _peer_lost(self, node: int) -> None:
        self._live(liveness.Disconnected(node))
        self.switchboard.peer_lost(node)

    def _live(self, event: liveness.Event) -> None:
        if self.failure:
            return
        now = self.world.time.now()
        for effect in self.liveness.handle(event, now):
            node = effect.node
            match effect:
                case liveness.SendHeartbeat():
                    self.world.transmit(self, node, [])
                case liveness.Suspected():
                    self.world.count("node suspected")
                    self._count_quiet(node, "quiet group woken by suspicion")
                    self.carrier.suspect(node, now)
                    self.schedule_turn()
                case liveness.Trusted():
                    self.world.count("node trusted again")
                    self._count_quiet(self.node_id, "quiet group woken by trust")
                    self.carrier.trust(node, now)
                    self.schedule_turn()

    def _count_quiet(self, leader: int, what: str) -> None:
        for group in self.carrier.leaders.led_by(leader):
            if self.replicas[group].raft.is_quiet():
                self.world.count(what)

    # Surroundings of the Switchboard ---------------------------------------------------------------------------------

    def take(self, group: GroupId, event: Event) -> None:
        """One event for one group."""
        if self.failure:
            return
        self.carrier.take(group, event, self.world.time.now())
        self.schedule_turn()

    def is_connected(self, node: int) -> bool:
        """Always: whether a frame arrives is the network's business."""
        return True

    def wall_ms(self) -> int:
        """This machine's wall clock, which is wrong by its own offset."""
        offset_s = self.world.clock_offsets_s[self.node_id]
        return WALL_MS_AT_START + round((self.world.time.now() + offset_s) * 1000)

    def now(self) -> Instant:
        """The world's time."""
        return self.world.time.now()

    def elected(self, group: GroupId, term: int) -> None:
        """This node leads the group now."""
        self.world.invariants.leader(group, term, self)

    def membership_changed(self, group: GroupId, change: raft.MembershipChanged | raft.MembershipRefused) -> None:
        """Who belongs to the group has changed here, or a change was refused."""
        if isinstance(change, raft.MembershipRefused):
            self.world.count("membership change refused")
        elif not change.committed and change.membership.is_joint():
            self.world.count("joint entered")
        elif change.committed and change.membership.returning:
            self.world.count("lost disk readmitted")
        if isinstance(change, raft.MembershipChanged) and not change.committed:
            if change.index < self._membership_indexes.get(group, 0):
                self.world.count("membership taken back")
            self._membership_indexes[group] = change.index

    def digest_told(self, group: GroupId, sender: int, digest: DigestTold) -> None:
        """A replica told the leader its digest; the invariants have compared it already."""

    def load_told(self, sender: int, report: LoadReport) -> None:
        """Nobody reports here."""

    def send_bulk(self, to: int, group: GroupId, message: InstallSnapshot) -> None:
        """As the rest."""
        self.switchboard.put(to, group, message)

    # Disk of the Carrier ---------------------------------------------------------------------------------------------

    def persist(self, group: GroupId, persist: raft.Persist) -> None:
        """Into the batch of this turn."""
        self.world.invariants.persisted(self, group, persist)
        self.world.coverage.persisted(self.node_id, group, persist)
        self._records.extend(records_of(group, persist))

    def flush(self) -> int:
        """To the disk."""
        if self._records:
            records, self._records = self._records, []
            self._number = self.threads.submit(records)
        elif self._number <= self._durable_number:
            self._later(0.0, partial(self._durable, self._number))
        return self._number

    def _durable(self, number: int) -> None:
        self._durable_number = max(self._durable_number, number)
        if self.failure:
            return
        self.carrier.durable(number, self.world.time.now())
        self.schedule_turn()

    def write_snapshot(self, group: GroupId, snapshot: WriteSnapshot) -> None:
        """To the disk; what the iterator yields is the state at this moment, whenever it is read."""
        self.world.count("snapshot written")
        self._in_thread(group, lambda: self._write(group, snapshot))

    def _write(self, group: GroupId, snapshot: WriteSnapshot) -> raft.SnapshotSaved:
        self.threads.snapshots.write(group, snapshot.index, snapshot.term, snapshot.chunks)
        return raft.SnapshotSaved(snapshot.index, snapshot.term)

    def save_chunk(self, group: GroupId, chunk: raft.SaveChunk) -> None:
        """To the disk."""
        if chunk.number + 1 == chunk.count:
            self.world.count("snapshot received")
        self._in_thread(group, lambda: self.shelf.save_chunk(group, chunk))

    def drop_chunks(self, group: GroupId) -> None:
        """From the disk."""
        self.world.count("snapshot given up on the way")
        self.threads.in_snapshot_thread(lambda: self.shelf.drop_chunks(group), lambda _: None)

    def open_snapshot(self, group: GroupId) -> None:
        """On the disk."""
        self._in_thread(group, lambda: self.shelf.open(group))

    def load_chunk(self, group: GroupId, wanted: raft.LoadChunk) -> None:
        """From the disk."""
        self._in_thread(group, lambda: self.shelf.load_chunk(group, wanted))

    def keep_snapshots(self, group: GroupId, kept: raft.KeepSnapshots) -> None:
        """On the disk."""
        self.threads.in_snapshot_thread(lambda: self.shelf.keep(group, kept.indexes), lambda _: None)

    def _in_thread(self, group: GroupId, work: Callable[[], Event]) -> None:
        """What the work with snapshot files tells is taken in here, unless the machine has died meanwhile."""
        self.threads.in_snapshot_thread(work, lambda event: self._wake(partial(self._told, group, event)))

    def _told(self, group: GroupId, event: Event) -> None:
        if isinstance(event, raft.SnapshotSaved) and event.index > self.replicas[group].raft.applied:
            self.world.count("snapshot restored")
        self.take(group, event)
