"""One simulated node: the real `Carrier`, `Replica`, `Router` and recovery on a simulated disk and network.

It stands where `node/host.py` stands in production and keeps to the same rules: one turn for all that comes at one
instant, one batch for a turn, and a failed disk is final.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from noctule.adapters.wal_format import Record
from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import NoctuleError
from noctule.base.ids import META_GROUP, GroupId
from noctule.core.raft import events as raft
from noctule.core.raft.node import RaftNode
from noctule.core.replica.carry_out import Carrier
from noctule.core.replica.events import Event, WriteSnapshot, WriteSnapshotNow
from noctule.core.replica.replica import join_snapshot, split_snapshot
from noctule.core.wire.frames import Envelope
from noctule.node.api import ReplySink
from noctule.node.host import BALANCE_S, SNAPSHOTS_FOR_SPACE_MAX, TICK_S, WAL_SEGMENTS_TARGET
from noctule.node.recovery import ReplicaSettings, records_of
from noctule.node.router import Router
from noctule.verify.sim.coverage import WatchedSwitchboard
from noctule.verify.sim.time import WALL_MS_AT_START

if TYPE_CHECKING:
    from noctule.verify.sim.world import World


class Machine:
    """A node's process for one life; its disk outlives it."""

    def __init__(
        self, world: "World", node_id: int, life: int, settings: ReplicaSettings, slot_table: Sequence[GroupId]
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
        self._touched: dict[GroupId, None] = {}
        """The groups that took an event in this turn."""
        self._last_states: dict[GroupId, tuple[object, ...]] = {}
        self._membership_indexes: dict[GroupId, int] = {}
        """Where the membership in force stands."""
        self._paused = 0
        self._backlog: list[Callable[[], None]] = []
        """What waits for the end of a pause, in order."""
        self._records: list[Record] = []
        self._number = self._durable_number = 0
        self._turn_scheduled = False
        chance = random.Random(world.chance.getrandbits(64))
        self.threads, self.replicas = self.disk.open([META_GROUP, *dict.fromkeys(slot_table)], settings, chance)
        self.threads.durable = lambda number: self._wake(partial(self._durable, number))
        self.threads.failed = lambda error: self._wake(partial(self._fail, error))
        self.switchboard = WatchedSwitchboard(
            node_id,
            self.replicas,
            self,
            lambda switchboard: Router(
                slot_table=slot_table,
                dispatch=switchboard,
                new_origin=lambda: chance.getrandbits(62),
                now=world.time.now,
                request_deadline_s=world.request_deadline_s,
            ),
            world.coverage,
        )
        self.router = self.switchboard.router
        self.carrier = Carrier(self.replicas, self.switchboard, self)
        self._all_groups = dict.fromkeys(self.replicas)
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
            is_known = log.committed_membership(consensus.applied).directory_of(self.node_id) == consensus.directory
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
        self.router.flush()
        self.carrier.end_turn(self.world.time.now(), self.wall_ms())
        for to, envelopes in self.switchboard.take_outgoing().items():
            self.world.transmit(self.node_id, to, envelopes)
        self.world.turned(self)

    def take_changed(self) -> list[tuple[GroupId, RaftNode]]:
        """The replicas whose state is another than after the turn before; most messages change nothing."""
        changed = []
        for group in self._touched:
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
        self._touched.clear()
        return changed

    def _tick(self) -> None:
        self.world.time.after(TICK_S, self._wake_for_tick)
        now = self.world.time.now()
        if not self.failure:
            for group, replica in self.replicas.items():
                if replica.next_deadline() <= now:
                    self.take(group, raft.Tick())
            if now >= self._free_at:
                self._free_at = now + BALANCE_S
                self._free_segments()
        self.router.tick()

    def _free_segments(self) -> None:
        """As the host does: groups that keep an old segment of the log from being dropped write a snapshot."""
        picture = self.threads.picture
        if picture.segments > WAL_SEGMENTS_TARGET:
            for number in picture.pinned_by[:SNAPSHOTS_FOR_SPACE_MAX]:
                self.world.count("snapshot for space")
                self.take(GroupId(number), WriteSnapshotNow())

    def receive(self, sender: int, envelopes: list[Envelope]) -> None:
        """A frame came; nothing is learnt from it once this node has failed."""
        self._wake(partial(self._receive, sender, envelopes))

    def _receive(self, sender: int, envelopes: list[Envelope]) -> None:
        if not self.failure:
            self.switchboard.receive(sender, envelopes)

    def peer_lost(self, node: int) -> None:
        """The connection to a peer closed."""
        self._wake(partial(self._peer_lost, node))

    def _peer_lost(self, node: int) -> None:
        for group in self.replicas:
            self.take(group, raft.Suspect(node))
        self.router.peer_lost(node)

    # Surroundings of the Switchboard ---------------------------------------------------------------------------------

    def take(self, group: GroupId, event: Event) -> None:
        """One event for one group."""
        if self.failure:
            return
        self._touched[group] = None
        self.carrier.take(group, event, self.world.time.now())
        self.schedule_turn()

    def is_connected(self, node: int) -> bool:
        """Always: whether a frame arrives is the network's business."""
        return True

    def wall_ms(self) -> int:
        """This machine's wall clock, which is wrong by its own offset."""
        offset_s = self.world.clock_offsets_s[self.node_id]
        return WALL_MS_AT_START + round((self.world.time.now() + offset_s) * 1000)

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
        self._touched.update(self._all_groups)
        self.schedule_turn()

    def write_snapshot(self, group: GroupId, snapshot: WriteSnapshot) -> None:
        """To the disk; what the iterator yields is the state at this moment, whenever it is read."""
        self.world.count("snapshot written")
        self._save(group, snapshot.index, snapshot.term, lambda: list(snapshot.chunks))

    def save_snapshot(self, group: GroupId, snapshot: raft.SaveSnapshot) -> None:
        """To the disk."""
        self.world.count("snapshot received")
        self._save(group, snapshot.index, snapshot.term, lambda: list(split_snapshot(snapshot.data)))

    def _save(self, group: GroupId, index: int, term: int, chunks: Callable[[], list[bytes]]) -> None:
        def saved(_: object) -> None:
            if not self.failure and index > self.replicas[group].raft.applied:
                self.world.count("snapshot restored")
            self.take(group, raft.SnapshotSaved(index, term))

        self.threads.in_snapshot_thread(
            lambda: self.threads.snapshots.write(group, index, term, chunks()),
            lambda path: self._wake(partial(saved, path)),
        )

    def load_snapshot(self, group: GroupId) -> None:
        """From the disk."""

        def load() -> raft.SnapshotLoaded:
            snapshot = self.threads.snapshots.read(group)
            if snapshot is None:
                return raft.SnapshotLoaded(0, 0, None)
            return raft.SnapshotLoaded(snapshot.index, snapshot.term, join_snapshot(snapshot.chunks))

        self.threads.in_snapshot_thread(load, lambda loaded: self._wake(partial(self.take, group, loaded)))
