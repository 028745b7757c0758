"""The replicas of one node at work: peers' frames and clients' commands in, one turn of the loop, effects out.

Here belongs what ties the deterministic `Carrier` and `Router` to the real disk, network and clock, and nothing that
decides anything. A disk that failed once is not trusted again: the node stops acknowledging, says why, and stays up to
be asked.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from msgspec import structs

from noctule.adapters.snapshot_stream import SnapshotStream
from noctule.adapters.snapshots import SnapshotFiles, SnapshotWriter
from noctule.adapters.transport import PeerTransport
from noctule.adapters.wal_records import Forgotten, Record
from noctule.adapters.wal_writer import WalWriter
from noctule.base.bounds import FRAME_BYTES_MAX
from noctule.base.clock import Clock
from noctule.base.ensure import ensure
from noctule.base.errors import StorageError
from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.placement.partition_map import PartitionMap
from noctule.core.raft import events as raft
from noctule.core.raft.messages import InstallSnapshot
from noctule.core.replica.carry_out import Carrier
from noctule.core.replica.events import Event, Publish, Refuse, SplitOff, Submit, WriteSnapshot, WriteSnapshotNow
from noctule.core.replica.replica import Replica
from noctule.core.roster import liveness_events
from noctule.core.roster.features import PUBLISH
from noctule.core.roster.liveness import Liveness
from noctule.core.roster.loads import LoadReport
from noctule.core.wire.frames import encode_frame
from noctule.core.wire.messages import Answered, DigestTold, Envelope, Hello, Published, ReadsAnswered
from noctule.node.pubsub import PubSub
from noctule.node.records import record_of_meta, records_of
from noctule.node.router import ANSWER_TOO_LARGE, Router
from noctule.node.snapshot_shelf import SnapshotShelf
from noctule.node.steward import Steward
from noctule.node.switchboard import Switchboard

log = logging.getLogger("noctule.node")

_Result = TypeVar("_Result")

GATHER_PASSES: Final = 2
"""Passes of the loop between the first event of a turn and its end. Each looks at all sockets once more: an idle node
loses microseconds, a busy one makes 40% fewer frames and syncs (measured with 64 clients, one command at a time)."""
TICK_S: Final = 0.01
"""How often deadlines are looked at; elections and heartbeats are this exact."""
WORK_S: Final = 0.004
"""How long a turn goes on with what replicas have put off. A slice that has begun is finished, a few ms more."""
BALANCE_S: Final = 1.0
"""How often leaders are moved to where they belong."""
BALANCE_LOOKS: Final = 2_000
"""Groups that are looked at each time, and how many of them are handed over at most."""
BALANCE_MOVES: Final = 100
BALANCE_LAG_ENTRIES_MAX: Final = 1_000
"""A node that lacks more of a group's log does not get its leadership."""
WAL_SEGMENTS_TARGET: Final = 4
"""With more segments than this, groups that pin the oldest one are asked for snapshots."""
SNAPSHOTS_FOR_SPACE_MAX: Final = 4
"""Groups asked at a time."""
SETTLED_S: Final = 3.0
"""A node must be connected for so long before leadership is given back to it."""
CHUNKS_AT_A_TIME: Final = 4
"""Chunks of an own snapshot written in one go; in between the thread does what others wait for."""
FRAME_BYTES_TARGET = 8 << 20
"""Messages for a peer are split into frames of about this size."""
PUBLISHED_BYTES_MAX = 16 << 20
"""Bytes on their way to a peer over which it misses what is published: subscribers must not cost Raft its frames."""
_HEARTBEAT = encode_frame([])
"""Nothing to say but that this node is there."""


class Host:
    """Everything between the sockets and the rules on one node."""

    def __init__(
        self,
        *,
        node_id: int,
        replicas: dict[GroupId, Replica],
        router: Callable[[Switchboard], Router],
        partitions: PartitionMap,
        make_child: Callable[[SplitOff, Instant], Replica | None],
        snapshots: SnapshotFiles,
        clock: Clock,
    ) -> None:
        self.node_id = node_id
        self.switchboard = Switchboard(node_id, replicas, self, router, partitions)
        self.router = self.switchboard.router
        self.carrier = Carrier(replicas, self.switchboard, self, make_child)
        self.failure = ""
        """Why this node no longer acknowledges anything; empty while all is well."""
        self.hellos: dict[int, Hello] = {}
        """What each peer last said of itself."""
        self.digests: dict[GroupId, dict[int, DigestTold]] = {}
        """Of each group led here that had one taken for a migration: what each replica told last."""
        self.muted: set[GroupId] = set()
        """Replicas that are about to be removed: what other nodes say to them is not heard."""
        self.liveness = Liveness((), clock.now())
        """Which of the other nodes seem alive."""
        self.pubsub = PubSub(self._broadcast)
        self.turned: Callable[[], None] = lambda: None
        """Called at the end of each turn: what came in has been applied, as far as it can be."""
        self.elections_total = 0
        self.snapshots_total = 0
        self.batches_total = 0
        self.frames_total = 0
        self._elected: list[tuple[GroupId, int]] = []
        """The groups that this node was elected to lead in this turn, with their terms."""
        self._not_admitted = {group for group, replica in replicas.items() if not replica.raft.is_admitted()}
        self._snapshots = snapshots
        self._shelf = SnapshotShelf(snapshots)
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._wal: WalWriter
        self._transport: PeerTransport
        self._steward: Steward
        self._bulk: SnapshotStream
        self._records: list[Record] = []
        self._forgotten: dict[int, list[GroupId]] = {}
        """By the batch that makes it durable: whose snapshots are to be removed then."""
        self._batch: list[Record] = []
        """What this turn gives the WAL once its frames have left."""
        self._batch_number = 0
        self._durable_number = 0
        self._turn_scheduled = False
        self._published_bytes = 0
        """Of what was published in this turn."""
        self._connected_since: dict[int, Instant] = {}
        self._snapshot_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshots")
        self._tick_timer: asyncio.TimerHandle | None = None
        self._balance_at = clock.now()
        self._balance_cursor = 0
        self._stopping = False
        self._is_closed = False
        """The disk takes nothing more, so no turn ends any more."""

    def attach(self, wal: WalWriter, transport: PeerTransport, steward: Steward, bulk: SnapshotStream) -> None:
        """Give it its disk, its peers, its steward and the way of snapshots; all need to know the host first."""
        self._wal = wal
        self._transport = transport
        self._steward = steward
        self._bulk = bulk

    def start(self) -> None:
        """Begin to keep time."""
        self.carrier.begin(self._clock.now(), self._steward.preferred_leader)
        self._tick()

    async def stop(self) -> None:
        """Stop keeping time, hand leadership over, and let the disk finish what it was given."""
        self._stopping = True
        await self._hand_over()
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        self._snapshot_thread.shutdown(wait=True)
        self._shelf.close()
        self._is_closed = True
        await self._wal.close()

    async def _hand_over(self) -> None:
        """Give each group this node leads to a connected peer, so that nobody has to miss its leader first."""
        deadline = self._clock.now() + 1.0
        while self._clock.now() < deadline and not self.failure:
            heirs = {group: self._heirs(group) for group in self.carrier.leaders.led_by(self.node_id)}
            if not any(heirs.values()):
                return
            for group, nodes in heirs.items():
                if nodes:
                    self.take(group, raft.TransferLeadership(nodes[group % len(nodes)]))
            await asyncio.sleep(TICK_S)  # Until the transfers are through or the deadline passes.

    def _heirs(self, group: GroupId) -> list[int]:
        voters = self.carrier.replicas[group].raft.log.membership.voters
        return [node for node in voters if self._transport.is_connected(node)]

    # Turns -----------------------------------------------------------------------------------------------------------

    def schedule_turn(self) -> None:
        """End the turn when everything that is ready now has come in."""
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._gather, GATHER_PASSES)

    def _gather(self, passes: int) -> None:
        if passes:
            self._loop.call_soon(self._gather, passes - 1)
        else:
            self._turn()

    def _turn(self) -> None:
        self._turn_scheduled = False
        if self._is_closed:
            return
        if self.failure:
            self.router.tick()
            return
        try:
            self._work()
            self.router.flush()
            self.carrier.end_turn(self._clock.now(), self._clock.wall_ms())
            if self._records:
                self.flush()  # Of replicas that came or went, which asked for nothing themselves.
            self.turned()
            self._send_outgoing()
            # After the frames: to begin a sync may cost this process its core for a while, and what needs the sync is
            # not among them.
            if self._batch:
                batch, self._batch = self._batch, []
                number = self._wal.submit(batch)
                ensure(number == self._batch_number, "batches are numbered as they are written", number=number)
        except Exception as error:  # whatever broke: state may be half changed, so nothing more may be promised
            self._fail(error)
            return
        if self._elected:
            elected, self._elected = self._elected, []
            group, term = elected[0]
            log.info("leader_elected", extra={"fields": {"group": group, "term": term, "groups": len(elected)}})

    def _send_outgoing(self) -> None:
        self._published_bytes = 0
        for node, envelopes in self.switchboard.take_outgoing().items():
            self._send_frames(node, envelopes)

    def _work(self) -> None:
        """Spend a while on what the replicas have put off; what is left has another turn."""
        if not self.carrier.has_work():
            return
        until = self._clock.now() + WORK_S
        while self.carrier.has_work() and (now := self._clock.now()) < until:
            self.carrier.work(now)
        if self.carrier.has_work():
            self.schedule_turn()

    def _send_frames(self, node: int, envelopes: list[Envelope]) -> None:
        frame = encode_frame(envelopes)
        if len(frame) > FRAME_BYTES_TARGET and len(envelopes) > 1:
            # Rare, so it is cheaper to encode twice now than to add up sizes in every turn.
            half = len(envelopes) // 2
            self._send_frames(node, envelopes[:half])
            self._send_frames(node, envelopes[half:])
            return
        if len(frame) > FRAME_BYTES_MAX:
            # The peer would have to close the connection, and every group would suspect this node for one big answer.
            frame = encode_frame([_without_results(envelopes[0])])
        self._transport.send(node, frame)
        self.frames_total += 1
        self._live(liveness_events.FrameSent(node))

    # Surroundings of the Switchboard ---------------------------------------------------------------------------------

    def take(self, group: GroupId, event: Event) -> None:
        """Hand an event to a replica, and end the turn soon."""
        if self.failure:
            return
        if group not in self.carrier.replicas:
            return  # Removed, and this was on its way.
        if group in self.muted and isinstance(event, raft.Received):
            return
        if isinstance(event, Submit) and self._wal.is_overloaded:
            self.switchboard.answer(group, Refuse(event.sender, event.origin, True, event.sequence))
        else:
            try:
                self.carrier.take(group, event, self._clock.now())
            except Exception as error:  # as in _turn
                self._fail(error)
        self.schedule_turn()

    def add_replica(self, group: GroupId, replica: Replica, records: Sequence[Record]) -> None:
        """Take a replica in; `records` are durable before anything that it promises."""
        self._records += [record_of_meta(self.carrier.replicas[META_GROUP]), *records]
        self.carrier.add(replica)
        self.schedule_turn()

    def remove_replica(self, group: GroupId) -> None:
        """Forget a replica and what is on disk of it.

        First the log: a snapshot of a group that the log does not know is removed at the next start, a log without its
        snapshot would be taken for damage.
        """
        replica = self.carrier.replicas[group]
        self.carrier.remove(group)
        self.switchboard.replica_removed(group, replica)
        self.digests.pop(group, None)
        self.muted.discard(group)
        self._records += [record_of_meta(self.carrier.replicas[META_GROUP]), Forgotten(group)]
        self._forgotten[self._batch_number + 1] = [*self._forgotten.get(self._batch_number + 1, ()), group]
        self.schedule_turn()

    def _carry_on(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # as in _turn
            self._fail(error)

    def is_connected(self, node: int) -> bool:
        """Whether frames to that node leave."""
        return self._transport.is_connected(node)

    def is_trusted(self, node: int) -> bool:
        """Whether the node is there and answers, as far as this one can tell."""
        return self._transport.is_connected(node) and not self.liveness.suspects(node)

    def wall_ms(self) -> int:
        """The wall clock."""
        return self._clock.wall_ms()

    def now(self) -> Instant:
        """The clock of this process."""
        return self._clock.now()

    def elected(self, group: GroupId, term: int) -> None:
        """This node leads the group now."""
        self.elections_total += 1
        self._elected.append((group, term))

    def groups_not_admitted(self) -> list[GroupId]:
        """The groups that do not count on this node as they did before, since it lost what it had on disk."""
        return sorted(self._not_admitted & self.carrier.replicas.keys())

    def membership_changed(self, group: GroupId, change: raft.MembershipChanged | raft.MembershipRefused) -> None:
        """Who belongs to the group has changed here, or a change was refused."""
        if isinstance(change, raft.MembershipRefused):
            log.warning("membership_refused", extra={"fields": {"group": group, "reason": change.reason}})
            return
        is_admitted = self.carrier.replicas[group].raft.is_admitted()
        (self._not_admitted.discard if is_admitted else self._not_admitted.add)(group)
        if change.committed and change.index > 1:  # The first one is what the group began with.
            now = change.membership
            fields = {"group": group, "voters": now.voters, "outgoing": now.outgoing, "learners": now.learners}
            log.info("membership_changed", extra={"fields": fields})

    def digest_told(self, group: GroupId, sender: int, digest: DigestTold) -> None:
        """A replica of a group led here has digested its state, as of an index that all replicas share."""
        if group in self.carrier.replicas and not self._steward.comparer.told(group, sender, digest, self._clock.now()):
            self.digests.setdefault(group, {})[sender] = digest

    def load_told(self, sender: int, report: LoadReport) -> None:
        """A node tells what it leads."""
        self._steward.board.take(sender, report)

    def published(self, message: Published) -> None:
        """Another node published this."""
        self.pubsub.published(message)

    def publish(self, publish: Publish) -> None:
        """A group that is led here published this through its log."""
        self.pubsub.publish_all(publish.messages)

    def _broadcast(self, message: Published) -> int:
        """Into this turn's frames for all others; returns how many of them miss it."""
        self._published_bytes += len(message.channel) + len(message.payload)
        missed = 0
        for node in self._transport.peers:
            hello = self.hellos.get(node)
            unsent_bytes = self._transport.unsent_bytes(node)
            if unsent_bytes is None or hello is None or unsent_bytes + self._published_bytes > PUBLISHED_BYTES_MAX:
                missed += 1
            elif PUBLISH in hello.features:  # Else an older release, which has no subscribers either.
                self.switchboard.put(node, META_GROUP, message)
        self.schedule_turn()
        return missed

    def send_bulk(self, to: int, group: GroupId, message: InstallSnapshot) -> None:
        """By the stream for snapshots, so that Raft's frames never wait behind it; by those while there is none."""
        if not self._bulk.send(to, group, message):
            self.switchboard.put(to, group, message)

    # Time ------------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if not self._stopping or not self.failure:
            self._tick_timer = self._loop.call_later(TICK_S, self._tick)
        now = self._clock.now()
        if not self.failure:
            self._carry_on(lambda: self._tick_groups(now))
            self._carry_on(lambda: self._steward.tick(now))
            if now >= self._balance_at and not self._stopping:
                self._balance_at = Instant(now + BALANCE_S)
                self._balance(now)
                self._free_segments()
        self.router.tick()

    def _tick_groups(self, now: Instant) -> None:
        if self.carrier.tick(now):
            self.schedule_turn()
        if now >= self.liveness.next_deadline():
            self._live(liveness_events.Tick())

    def _balance(self, now: Instant) -> None:
        """Give groups' leadership to the nodes that should have it, if those are settled and keep up: a batch of them,
        so that a node that is back does not have to take over thousands at once."""
        groups = self.carrier.leaders.led_by(self.node_id)
        begin = self._balance_cursor if self._balance_cursor < len(groups) else 0
        looked_at = groups[begin : begin + BALANCE_LOOKS]
        self._balance_cursor = begin + len(looked_at)
        moved = 0
        for offset, group in enumerate(looked_at):
            if moved == BALANCE_MOVES:
                self._balance_cursor = begin + offset
                return
            if target := self._better_leader(group, now):
                moved += 1
                self.take(group, raft.TransferLeadership(target))

    def _better_leader(self, group: GroupId, now: Instant) -> int:
        """The settled node that should lead the group instead of this one; 0 if none should."""
        target = self._steward.preferred_leader(group)
        since = self._connected_since.get(target)
        if target == self.node_id or since is None or now - since < SETTLED_S or not self.is_trusted(target):
            return 0
        consensus = self.carrier.replicas[group].raft
        progress = consensus.leadership.progress.get(target) if consensus.leadership is not None else None
        if progress is None or not progress.keeps_up(consensus.log.last_index, BALANCE_LAG_ENTRIES_MAX):
            return 0
        return target

    def _free_segments(self) -> None:
        """Have groups that keep an old WAL segment from being dropped write a snapshot, however little they hold."""
        picture = self._wal.picture
        if picture.segments > WAL_SEGMENTS_TARGET:
            for number in picture.pinned_by[:SNAPSHOTS_FOR_SPACE_MAX]:
                self.take(GroupId(number), WriteSnapshotNow())

    def _fail(self, error: Exception) -> None:
        """Stop for good: what this node says from now on could be untrue."""
        if not self.failure:
            self.failure = str(error) or type(error).__name__
            log.error("node_stopped_acknowledging", extra={"fields": {"reason": self.failure}}, exc_info=error)
            self.switchboard.close()
            self.router.stop(self.failure)
            self._transport.disconnect()

    # From the disk ---------------------------------------------------------------------------------------------------

    def batch_durable(self, number: int) -> None:
        """The WAL has synced all batches up to this one."""
        self._durable_number = number
        if self.failure:
            return
        while self._forgotten and (first := next(iter(self._forgotten))) <= number:
            for group in self._forgotten.pop(first):
                self._remove_snapshots(group)
        try:
            self.carrier.durable(number, self._clock.now())
        except Exception as error:  # as in _turn
            self._fail(error)
        self.schedule_turn()

    def disk_failed(self, error: StorageError) -> None:
        """The WAL could not write or sync: final."""
        self._fail(error)

    # From peers ------------------------------------------------------------------------------------------------------

    def frame_received(self, sender: int, envelopes: list[Envelope]) -> None:
        """A frame came; nothing is learnt from it once this node has failed. An empty one is a heartbeat."""
        if self.failure:
            return
        self._live(liveness_events.FrameHeard(sender))
        if envelopes:
            self.switchboard.receive(sender, envelopes)
            self.schedule_turn()

    def snapshot_received(self, sender: int, group: GroupId, message: InstallSnapshot) -> None:
        """A piece of a snapshot came by its own stream."""
        if not self.failure:
            self.switchboard.receive(sender, [(group, message)])
            self.schedule_turn()

    def peer_connected(self, hello: Hello) -> None:
        """Frames to this peer leave now."""
        self.hellos[hello.node_id] = hello
        self._connected_since[hello.node_id] = self._clock.now()
        self._steward.peer_connected(hello)
        if hello.control:
            self._bulk.set_peer(hello.node_id, hello.control)
        self._live(liveness_events.Connected(hello.node_id, hello.incarnation))

    def peer_disconnected(self, node: int) -> None:
        """The peer's process may be gone: the groups it leads need not wait for a timeout to ask each other."""
        self._connected_since.pop(node, None)
        self._live(liveness_events.Disconnected(node))
        self.switchboard.peer_lost(node)

    def peers_changed(self, nodes: Collection[int]) -> None:
        """These are the other nodes from now on."""
        self._live(liveness_events.PeersChanged(tuple(nodes)))

    def _live(self, event: liveness_events.Event) -> None:
        if self.failure:
            return
        now = self._clock.now()
        for effect in self.liveness.handle(event, now):
            node = effect.node
            match effect:
                case liveness_events.SendHeartbeat():
                    if self._transport.is_connected(node):
                        self._transport.send(node, _HEARTBEAT)
                case liveness_events.Suspected():
                    log.warning("peer_suspected", extra={"fields": {"peer": node}})
                    self._carry_on(partial(self.carrier.suspect, node, now))
                    self.schedule_turn()
                case liveness_events.Trusted():
                    log.info("peer_trusted", extra={"fields": {"peer": node}})
                    self._carry_on(partial(self.carrier.trust, node, now))
                    self.schedule_turn()

    # Disk of the Carrier ---------------------------------------------------------------------------------------------

    def persist(self, group: GroupId, persist: raft.Persist) -> None:
        """Into this turn's batch."""
        self._records.extend(records_of(group, persist))

    def flush(self) -> int:
        """To the WAL at the turn's end. A turn that only waits for earlier ones adds nothing and gets their number."""
        if self._records:
            if not self._batch:
                self._batch_number += 1
                self.batches_total += 1
            self._batch += self._records
            self._records = []
        elif self._batch_number <= self._durable_number:
            # Everything is durable already; tell so in a later call, never from within the carrier.
            self._loop.call_soon(self.batch_durable, self._batch_number)
        return self._batch_number

    def write_snapshot(self, group: GroupId, snapshot: WriteSnapshot) -> None:
        """In the snapshot thread, a few chunks at a time."""
        writer: SnapshotWriter | None = None

        def write_some() -> bool:
            nonlocal writer
            if writer is None:
                writer = self._snapshots.begin(group, snapshot.index, snapshot.term)
            try:
                for _ in range(CHUNKS_AT_A_TIME):
                    chunk = next(snapshot.chunks, None)
                    if chunk is None:
                        writer.finish()
                        return True
                    writer.append(chunk)
            except BaseException:
                writer.close()
                raise
            return False

        def go_on(is_done: bool) -> None:
            if is_done:
                self._saved(group, raft.SnapshotSaved(snapshot.index, snapshot.term))
            elif not self._stopping:
                self._in_snapshot_thread(write_some, go_on)
            elif writer is not None:
                writer.close()

        self._in_snapshot_thread(write_some, go_on)

    def save_chunk(self, group: GroupId, chunk: raft.SaveChunk) -> None:
        """In the snapshot thread."""
        self._in_snapshot_thread(lambda: self._shelf.save_chunk(group, chunk), lambda event: self._saved(group, event))

    def _saved(self, group: GroupId, event: raft.ChunkSaved | raft.SnapshotSaved) -> None:
        if isinstance(event, raft.SnapshotSaved):
            self.snapshots_total += 1
            log.info("snapshot_saved", extra={"fields": {"group": group, "index": event.index}})
        self.take(group, event)

    def drop_chunks(self, group: GroupId) -> None:
        """In the snapshot thread."""
        self._in_snapshot_thread(lambda: self._shelf.drop_chunks(group), lambda _: None)

    def open_snapshot(self, group: GroupId) -> None:
        """In the snapshot thread."""
        self._in_snapshot_thread(lambda: self._shelf.open(group), lambda event: self.take(group, event))

    def load_chunk(self, group: GroupId, wanted: raft.LoadChunk) -> None:
        """In the snapshot thread."""
        self._in_snapshot_thread(lambda: self._shelf.load_chunk(group, wanted), lambda event: self.take(group, event))

    def keep_snapshots(self, group: GroupId, kept: raft.KeepSnapshots) -> None:
        """In the snapshot thread."""
        self._in_snapshot_thread(lambda: self._shelf.keep(group, kept.indexes), lambda _: None)

    def _remove_snapshots(self, group: GroupId) -> None:
        def work() -> None:
            if group not in self.carrier.replicas:  # Else another replica of it has come, and these may be its own.
                self._shelf.forget(group)
                self._snapshots.remove_all(group)

        self._in_snapshot_thread(work, lambda _: None)

    def in_disk_thread(self, work: Callable[[], None]) -> None:
        """Do something with the data folder that must not hold up the loop, after what waits already."""
        self._in_snapshot_thread(work, lambda _: None)

    def _in_snapshot_thread(self, work: Callable[[], _Result], done: Callable[[_Result], None]) -> None:
        def back(result: _Result | None, error: BaseException | None) -> None:
            if error is None:
                done(result)  # type: ignore[arg-type]
            elif isinstance(error, Exception):
                self._fail(error)  # Whatever it was, what waits for this snapshot would wait for ever.
            else:
                raise error

        def run() -> None:
            try:
                result = work()
            except BaseException as error:
                self._loop.call_soon_threadsafe(back, None, error)
            else:
                self._loop.call_soon_threadsafe(back, result, None)

        if not self._stopping:
            self._snapshot_thread.submit(run)


def _without_results(envelope: Envelope) -> Envelope:
    """An answer with nothing but the word that it is too large; other messages are bounded where they are made."""
    group, message = envelope
    if isinstance(message, Answered):
        message = structs.replace(message, results=[ANSWER_TOO_LARGE] * len(message.results))
    elif isinstance(message, ReadsAnswered):
        places = [*range(len(message.results))]
        message = ReadsAnswered(message.number, [None] * len(places), places)
    return group, message
