"""One simulated node: the real `Carrier`, `Replica`, `Router`, `Steward` and recovery on a simulated disk and network.

It stands where `node/host.py` stands in production and keeps to the same rules: one turn for all that comes at one
instant, one batch for a turn, and a failed disk is final.
"""

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from noctule.adapters.wal_records import Forgotten, Record
from noctule.base.consistency import ConsistencyLevel
from noctule.base.ensure import ensure
from noctule.base.errors import NoctuleError
from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.keyspace.effects import TO_BE_EVALUATED
from noctule.core.meta.state import MetaState
from noctule.core.placement.partition_map import PartitionMap
from noctule.core.raft import events as raft
from noctule.core.raft.messages import InstallSnapshot
from noctule.core.raft.node import RaftNode
from noctule.core.replica.carry_out import Carrier
from noctule.core.replica.events import Event, Publish, TakeDigest, WriteSnapshot, WriteSnapshotNow
from noctule.core.replica.replica import Replica
from noctule.core.roster import liveness_events
from noctule.core.roster.liveness import Liveness
from noctule.core.roster.loads import LoadReport
from noctule.core.roster.members import Member
from noctule.core.wire.frames import PROTOCOL_VERSION
from noctule.core.wire.messages import DigestTold, Envelope, Hello, Published
from noctule.node.api import ReplySink
from noctule.node.governor import Founding
from noctule.node.host import BALANCE_S, SETTLED_S, SNAPSHOTS_FOR_SPACE_MAX, TICK_S, WAL_SEGMENTS_TARGET, WORK_S
from noctule.node.proposals import Proposals
from noctule.node.records import record_of_meta, records_of
from noctule.node.recovery import ReplicaSettings, make_child
from noctule.node.router import Router
from noctule.node.snapshot_shelf import SnapshotShelf
from noctule.node.steward import Steward, wants_replica
from noctule.verify.sim.coverage import WatchedSwitchboard
from noctule.verify.sim.premises import SimulatedPremises
from noctule.verify.sim.time import WALL_MS_AT_START

if TYPE_CHECKING:
    from noctule.verify.sim.world import World


HANDOVER_LAG_MAX = 1_000
"""As the host's: whoever misses more entries is not given leadership back."""
DIGEST_OF_THE_WORLD = b"world "
"""What the nonces of digests begin with that no node asked for."""


class Machine:
    """A node's process for one life; its disk outlives it."""

    def __init__(
        self, world: "World", own: Member, life: int, settings: ReplicaSettings, founding: Founding | None
    ) -> None:
        """`founding` is that of a first member of the cluster; a node that joined has none."""
        self.world = world
        self.node_id = node_id = own.id
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
        self._forgotten: dict[int, list[GroupId]] = {}
        """By the batch that makes it durable: whose snapshots are to be removed then."""
        self._number = self._durable_number = 0
        self._turn_scheduled = False
        self._nonce = 0
        self._compared_total = 0
        chance = random.Random(world.chance.getrandbits(64))
        partitions = PartitionMap()
        self.threads, self.replicas = self.disk.open([META_GROUP], settings, chance)
        directory = self.threads.directory
        self.digests: dict[GroupId, dict[int, DigestTold]] = {}
        """Of each group led here that had one taken for a migration: what each replica told last."""
        self.muted: set[GroupId] = set()
        """Replicas that are about to be removed: what other nodes say to them is not heard."""
        self.peers: set[int] = set()
        """The other nodes, as far as this one knows; nothing is sent to others, and nothing heard from them."""
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
                keeps_leases=settings.raft.lease_s > 0,
            ),
            partitions,
            world.coverage,
        )
        self.switchboard.digested = partial(world.invariants.digested, self)
        self.router = self.switchboard.router
        settings = replace(settings, directory=directory)
        self.carrier = Carrier(
            self.replicas,
            self.switchboard,
            self,
            lambda split, now: (
                make_child(split, settings, now, chance) if wants_replica(partitions, split.child, node_id) else None
            ),
        )
        self.liveness = Liveness((), world.time.now())
        self._lives: dict[int, int] = {}
        """Of each other node the newest life that was heard of."""
        self._connected_since: dict[int, Instant] = {}
        self._handed_over = 0
        self.premises = SimulatedPremises(self, settings, chance)
        proposals = Proposals(self.router.operate, world.time.now)
        self.steward = Steward(
            node_id,
            partitions,
            self.premises,
            proposals,
            self.switchboard.map_changed,
            self.switchboard.features_changed,
            chance,
        )
        self.steward.governor.founding = founding
        self.steward.own = own
        self.steward.changed = partial(world.meta_changed, self)
        self.hello = Hello(
            protocol=PROTOCOL_VERSION,
            cluster=world.name,
            fingerprint="",
            node_id=node_id,
            incarnation=life,
            directory=directory,
            labels=own.labels,
            weight=own.weight,
            version=own.version,
            features=own.features,
            peer=own.peer,
        )
        known = {member.id for member in self.disk.book().members}
        self.peers_changed({*settings.voters, *known} - {node_id})
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

    @property
    def meta(self) -> MetaState:
        """What *meta* says, as far as it is applied here."""
        return self.steward.meta

    def check(self) -> None:
        """Raise `InternalError` when an invariant is broken; of a machine that runs."""
        self.carrier.check()
        trusted = {node for node in self.carrier.suspected & self.peers if not self.liveness.suspects(node)}
        ensure(not trusted or bool(self.failure), "groups suspect whom the detector suspects", trusted=trusted)

    def has_all_of(self, meta: MetaState) -> bool:
        """Whether it has heard all of this, has the replicas that this gives it and no others, and each of them knows,
        durably, that it belongs to its group, which has the voters that this names."""
        own = {META_GROUP, *map(GroupId, meta.held_by.get(self.node_id, ()))}
        if self.meta.version != meta.version or self.replicas.keys() != own or not self.steward.is_settled:
            return False
        present = {node for node in meta.roster if meta.is_present(node)}
        for group, replica in self.replicas.items():
            consensus, log = replica.raft, replica.raft.log
            membership, partition = log.membership, meta.map.get(group)
            members = present if partition is None else {*partition.replicas}
            is_known = log.committed_membership(consensus.commit).directory_of(self.node_id) == consensus.directory
            if membership.is_joint() or {*membership.members()} != members or not is_known:
                return False
            if consensus.durable < log.membership_index or (partition is not None and membership.learners):
                return False
        return True

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """A client's command, as its server sends it on."""
        submit = self.router.conversation().submit_own if args[0] in TO_BE_EVALUATED else self.router.submit
        self._wake(partial(submit, args, sink, consistency))

    def submit_own(self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel) -> None:
        """What a server makes of a client's commands, such as a transaction."""
        self._wake(partial(self.router.conversation().submit_own, args, sink, consistency))

    def operate(self, args: list[bytes], sink: ReplySink) -> None:
        """An operator's wish for *meta*."""
        self._wake(partial(self.router.operate, args, sink))

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
            if self.world.is_watched and any(each.raft.applied < each.raft.commit for each in self.replicas.values()):
                self.world.count("commit applied in slices")
            self.carrier.work(self.world.time.now())
            self._later(WORK_S, self.schedule_turn)
        self.router.flush()
        stirred = self.carrier.end_turn(self.world.time.now(), self.wall_ms())
        if self._records:
            self.flush()  # Of replicas that came or went, which asked for nothing themselves.
        for to, envelopes in self.switchboard.take_outgoing().items():
            if to in self.peers:
                self.world.transmit(self, to, envelopes)
                self._live(liveness_events.FrameSent(to))
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
                self._live(liveness_events.Tick())
            self.steward.tick(now)
            self._check_comparer()
            if now >= self._free_at:
                self._free_at = now + BALANCE_S
                self._balance(now)
                self._free_segments()
                if self.world.is_watched:
                    self._take_digests()
        self.router.tick()

    def _balance(self, now: Instant) -> None:
        """As the host does: one group is handed to the node that should lead it, if that has been there for a while."""
        groups = self.carrier.leaders.led_by(self.node_id)
        for offset in range(len(groups)):
            group = groups[(self._handed_over + offset) % len(groups)]
            target = self.steward.preferred_leader(group)
            since = self._connected_since.get(target)
            if target == self.node_id or since is None or now - since < SETTLED_S:
                continue
            consensus = self.replicas[group].raft
            progress = consensus.leadership.progress.get(target) if consensus.leadership is not None else None
            if progress is not None and progress.keeps_up(consensus.log.last_index, HANDOVER_LAG_MAX):
                self._handed_over += offset + 1
                self.take(group, raft.TransferLeadership(target))
                return

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
                self.take(group, TakeDigest(DIGEST_OF_THE_WORLD + b"%d-%d" % (self.life, self._nonce)))

    def receive(self, sender: int, life: int, envelopes: list[Envelope]) -> None:
        """A frame came, from the sender's process of that life; nothing is learnt from it once this node has failed."""
        self._wake(partial(self._receive, sender, life, envelopes))

    def _receive(self, sender: int, life: int, envelopes: list[Envelope]) -> None:
        if self.failure or not (sender in self.peers or self.steward.meet(self.world.machines[sender].hello)):
            return
        if life > self._lives.get(sender, 0):
            # The first frame of another process stands for the connection that it would have come by.
            self._lives[sender] = life
            self._connected_since[sender] = self.world.time.now()
            self.steward.peer_connected(self.world.machines[sender].hello)
            self._live(liveness_events.Connected(sender, life))
        self._live(liveness_events.FrameHeard(sender))
        if envelopes:
            self.switchboard.receive(sender, envelopes)

    def peer_lost(self, node: int) -> None:
        """The connection to a peer closed."""
        self._wake(partial(self._peer_lost, node))

    def _peer_lost(self, node: int) -> None:
        self._connected_since.pop(node, None)
        self._live(liveness_events.Disconnected(node))
        self.switchboard.peer_lost(node)

    def peers_changed(self, nodes: Collection[int]) -> None:
        """These are the other nodes from now on."""
        for gone in self.peers - {*nodes}:
            self._connected_since.pop(gone, None)
            self._lives.pop(gone, None)
        self.peers = {*nodes}
        self._live(liveness_events.PeersChanged(tuple(sorted(nodes))))

    def is_trusted(self, node: int) -> bool:
        """Whether the node is there and answers, as far as this one can tell."""
        return node in self.peers and not self.liveness.suspects(node)

    def _live(self, event: liveness_events.Event) -> None:
        if self.failure:
            return
        now = self.world.time.now()
        for effect in self.liveness.handle(event, now):
            node = effect.node
            match effect:
                case liveness_events.SendHeartbeat():
                    self.world.transmit(self, node, [])
                case liveness_events.Suspected():
                    self.world.count("node suspected")
                    self._count_quiet(node, "quiet group woken by suspicion")
                    self.carrier.suspect(node, now)
                    self.schedule_turn()
                case liveness_events.Trusted():
                    self.world.count("node trusted again")
                    self._count_quiet(self.node_id, "quiet group woken by trust")
                    self.carrier.trust(node, now)
                    self.schedule_turn()

    def _count_quiet(self, leader: int, what: str) -> None:
        for group in self.carrier.leaders.led_by(leader):
            if self.replicas[group].raft.is_quiet():
                self.world.count(what)

    # Replicas that come and go ---------------------------------------------------------------------------------------

    def add_replica(self, group: GroupId, replica: Replica, records: Sequence[Record]) -> None:
        """Take a replica in; `records` are durable before anything that it promises."""
        self.world.count("replica made again" if replica.raft.promised != (0, 0) else "replica made")
        self._records += [record_of_meta(self.replicas[META_GROUP]), *records]
        self.carrier.add(replica)
        self.world.invariants.came(self, group)
        self.schedule_turn()

    def remove_replica(self, group: GroupId) -> None:
        """As the host does: first the log forgets it, then its snapshots go."""
        self.world.count("replica removed")
        replica = self.replicas[group]
        self.world.invariants.went(self, group)
        self.carrier.remove(group)
        self.switchboard.replica_removed(group, replica)
        for kept in (self.digests, self._last_states, self._membership_indexes):
            kept.pop(group, None)
        self.muted.discard(group)
        self.world.coverage.removed(self.node_id, group)
        self._records += [record_of_meta(self.replicas[META_GROUP]), Forgotten(group)]
        self._forgotten.setdefault(self._number + 1, []).append(group)
        self.schedule_turn()

    def _remove_snapshots(self, group: GroupId) -> None:
        def work() -> None:
            if group not in self.replicas:  # Else another replica of it has come, and these may be its own.
                self.shelf.forget(group)
                self.threads.snapshots.remove_all(group)

        self.in_disk_thread(work)

    def in_disk_thread(self, work: Callable[[], None]) -> None:
        """Do something with the data folder, after what waits already."""
        self.threads.in_snapshot_thread(work, lambda _: None)

    # Surroundings of the Switchboard ---------------------------------------------------------------------------------

    def take(self, group: GroupId, event: Event) -> None:
        """One event for one group, unless that has been removed while it was on its way."""
        if self.failure or group not in self.replicas or (group in self.muted and isinstance(event, raft.Received)):
            return
        self.carrier.take(group, event, self.world.time.now())
        self.schedule_turn()

    def is_connected(self, node: int) -> bool:
        """Always, to whom it knows: whether a frame arrives is the network's business."""
        return node in self.peers

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
        if group not in self.replicas or digest.nonce.startswith(DIGEST_OF_THE_WORLD):
            return
        if not self.steward.comparer.told(group, sender, digest, self.world.time.now()):
            self.digests.setdefault(group, {})[sender] = digest

    def _check_comparer(self) -> None:
        """What a leader finds out by itself."""
        comparer = self.steward.comparer
        for _ in range(comparer.compared_total - self._compared_total):
            self.world.count("replicas compared by their leader")
        self._compared_total = comparer.compared_total
        for group, compared in comparer.compared.items():
            self.world.invariants.compared(self, group, compared)

    def load_told(self, sender: int, report: LoadReport) -> None:
        """A node tells what it leads."""
        self.steward.board.take(sender, report)

    def published(self, message: Published) -> None:
        """Nobody is subscribed here."""

    def publish(self, publish: Publish) -> None:
        """Nobody is subscribed anywhere."""

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
        while self._forgotten and (first := next(iter(self._forgotten))) <= number:
            for group in self._forgotten.pop(first):
                self._remove_snapshots(group)
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
        self.in_disk_thread(lambda: self.shelf.drop_chunks(group))

    def open_snapshot(self, group: GroupId) -> None:
        """On the disk."""
        self._in_thread(group, lambda: self.shelf.open(group))

    def load_chunk(self, group: GroupId, wanted: raft.LoadChunk) -> None:
        """From the disk."""
        self._in_thread(group, lambda: self.shelf.load_chunk(group, wanted))

    def keep_snapshots(self, group: GroupId, kept: raft.KeepSnapshots) -> None:
        """On the disk."""
        self.in_disk_thread(lambda: self.shelf.keep(group, kept.indexes))

    def _in_thread(self, group: GroupId, work: Callable[[], Event]) -> None:
        """What the work with snapshot files tells is taken in here, unless the machine has died meanwhile."""
        self.threads.in_snapshot_thread(work, lambda event: self._wake(partial(self._told, group, event)))

    def _told(self, group: GroupId, event: Event) -> None:
        replica = self.replicas.get(group)
        if replica is not None and isinstance(event, raft.SnapshotSaved) and event.index > replica.raft.applied:
            self.world.count("snapshot restored")
        self.take(group, event)
