"""One simulated node: the real `Carrier`, `Replica` and `Router` on a simulated disk and network."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from noctule.adapters.wal_format import Record
from noctule.base.ids import META_GROUP, GroupId
from noctule.core.raft import events as raft
from noctule.core.replica.carry_out import Carrier
from noctule.core.replica.events import Event, WriteSnapshot
from noctule.core.replica.replica import join_snapshot, split_snapshot
from noctule.core.wire.frames import Envelope
from noctule.node.recovery import ReplicaSettings, meet, records_of
from noctule.node.router import Router
from noctule.node.switchboard import Switchboard
from noctule.verify.sim.time import WALL_MS_AT_START

if TYPE_CHECKING:
    from noctule.verify.sim.world import World

TICK_S = 0.01


class Machine:
    """A node's process for one life; its disk outlives it."""

    def __init__(self, world: "World", node_id: int, settings: ReplicaSettings, slot_table: Sequence[GroupId]) -> None:
        self.world = world
        self.node_id = node_id
        self.disk = world.disks[node_id]
        self.alive = True
        chance = random.Random(world.chance.getrandbits(64))
        self._clock_offset_s = world.clock_offsets_s[node_id]
        groups = [META_GROUP, *dict.fromkeys(slot_table)]
        recovered = self.disk.recover()
        self.replicas = {}
        marks: list[Record] = []
        for group in groups:
            replica, mark = meet(
                group, recovered.get(group), self.disk.snapshots.get(group), settings, world.time.now(), chance
            )
            self.replicas[group] = replica
            if mark is not None:
                marks.append(mark)
        self.disk.write_now(marks)
        self.switchboard = Switchboard(
            node_id,
            self.replicas,
            self,
            lambda switchboard: Router(
                slot_table=slot_table,
                dispatch=switchboard,
                new_origin=lambda: chance.getrandbits(62),
                now=world.time.now,
                request_deadline_s=5.0,
            ),
        )
        self.router = self.switchboard.router
        self.carrier = Carrier(self.replicas, self.switchboard, self)
        self._records: list[Record] = []
        self._number = self._durable_number = 0
        self._turn_scheduled = False
        world.time.after(chance.uniform(0, TICK_S), self._tick)

    def wall_ms(self) -> int:
        """This machine's wall clock, which is wrong by its own offset."""
        return WALL_MS_AT_START + round((self.world.time.now() + self._clock_offset_s) * 1000)

    def schedule_turn(self) -> None:
        """End the turn after everything that arrives at this instant."""
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self.world.time.after(0.0, self._turn)

    def _turn(self) -> None:
        if not self.alive:
            return
        self._turn_scheduled = False
        self.router.flush()
        self.carrier.end_turn(self.world.time.now(), self.wall_ms())
        for to, envelopes in self.switchboard.take_outgoing().items():
            self.world.transmit(self.node_id, to, envelopes)
        self.world.turned(self)

    def _tick(self) -> None:
        if not self.alive:
            return
        now = self.world.time.now()
        for group, replica in self.replicas.items():
            if replica.next_deadline() <= now:
                self.take(group, raft.Tick())
        self.router.tick()
        self.world.time.after(TICK_S, self._tick)

    def take(self, group: GroupId, event: Event) -> None:
        """One event for one group."""
        self.carrier.take(group, event, self.world.time.now())
        self.schedule_turn()

    def receive(self, sender: int, envelopes: list[Envelope]) -> None:
        """A frame came."""
        self.switchboard.receive(sender, envelopes)

    def is_connected(self, node: int) -> bool:
        """Always: whether a frame arrives is the network's business."""
        return True

    def elected(self, group: GroupId, term: int) -> None:
        """This node leads the group now."""
        self.world.invariants.leader(group, term, self.node_id)

    def peer_lost(self, node: int) -> None:
        """The connection to a peer closed."""
        for group in self.replicas:
            self.take(group, raft.Suspect(node))
        self.router.peer_lost(node)

    def crash(self) -> None:
        """End this life, as kill -9 or a power cut does."""
        self.alive = False
        self.disk.crash()

    # Disk of the Carrier ---------------------------------------------------------------------------------------------

    def persist(self, group: GroupId, persist: raft.Persist) -> None:
        """Into the batch of this turn."""
        self._records.extend(records_of(group, persist))

    def flush(self) -> int:
        """To the disk."""
        if self._records:
            records, self._records = self._records, []
            self._number = self.disk.submit(records, self._durable)
        elif self._number <= self._durable_number:
            self.world.time.after(0.0, lambda: self._durable(self._number))
        return self._number

    def _durable(self, number: int) -> None:
        if self.alive:
            self._durable_number = max(self._durable_number, number)
            self.carrier.durable(number, self.world.time.now())
            self.schedule_turn()

    def write_snapshot(self, group: GroupId, snapshot: WriteSnapshot) -> None:
        """To the disk; what the iterator yields is the state at this moment, whenever it is read."""
        self._save(group, snapshot.index, snapshot.term, list(snapshot.chunks))
        self.world.count("snapshot written")

    def save_snapshot(self, group: GroupId, snapshot: raft.SaveSnapshot) -> None:
        """To the disk."""
        self._save(group, snapshot.index, snapshot.term, list(split_snapshot(snapshot.data)))
        self.world.count("snapshot received")

    def _save(self, group: GroupId, index: int, term: int, chunks: list[bytes]) -> None:
        def saved() -> None:
            if self.alive:
                self.take(group, raft.SnapshotSaved(index, term))

        self.disk.save_snapshot(group, index, term, chunks, saved)

    def load_snapshot(self, group: GroupId) -> None:
        """From the disk."""
        found = self.disk.snapshots.get(group)

        def loaded() -> None:
            if not self.alive:
                return
            if found is None:
                self.take(group, raft.SnapshotLoaded(0, 0, None))
            else:
                self.take(group, raft.SnapshotLoaded(found[0], found[1], join_snapshot(found[2])))

        self.world.time.after(0.001, loaded)
