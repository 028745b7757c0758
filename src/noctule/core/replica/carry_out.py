"""The loop that carries effects out: one synchronous object, shared by the real node and the simulator.

One loop turn, one batch: whatever arrives is taken in at once; at the end of the turn each group that was touched makes
its entry and its read round, all groups' records go to the disk as one batch, and all messages for a peer leave as one
frame. What must wait for the disk waits here. What differs between simulation and production is
behind `Peers` and `Disk`.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol, assert_never

from noctule.base.ensure import ensure
from noctule.base.errors import InternalError
from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.raft import events as raft
from noctule.core.raft.messages import Message
from noctule.core.replica.events import (
    Answer,
    Begin,
    ChildSaved,
    DigestReady,
    EndOfTurn,
    Event,
    Publish,
    Ready,
    Refuse,
    ReleaseParent,
    SplitOff,
    Work,
    WriteSnapshot,
)
from noctule.core.replica.leaders import Leaders
from noctule.core.replica.replica import Replica
from noctule.core.replica.timetable import Timetable

TICKS_MAX: Final = 100
"""Groups that one `tick` gives their `Tick`, those that have waited longest: after a cold start all of them want to
campaign at once, and what they say to each other must be read in between."""
CAMPAIGN_PACE_S: Final = 0.0002
"""Between the campaigns of two groups whose leader's node was lost: thousands at once would only wait for each other in
long frames."""
RANK_S: Final = 0.1
"""Between the campaigns of two voters of one group, so that the first one has won before the next one asks."""
FIRST_WAIT_S: Final = 0.25
"""Whoever should lead a group campaigns so long after its node has begun: by then nodes started together have met."""
ELECTION_S: Final = 0.0005
"""So long each of the elections takes that a node waits for at a time, with the work of all nodes on one machine: while
thousands are on their way, nobody is to take the last of them for failed."""


def first_wait_s(*, is_first: bool, rank: int, place: int, count: int) -> float:
    """How long a replica waits before it first campaigns, when `count` groups begin at a time and this is the one at
    that `place`.

    Who should lead campaigns at once, and the others in the order of their ranks when all of it must be over.
    """
    if is_first:
        return FIRST_WAIT_S + place * CAMPAIGN_PACE_S
    return 2 * FIRST_WAIT_S + count * ELECTION_S + rank * RANK_S


class Peers(Protocol):
    """The way to other nodes and to whoever asked. None of these may call back into the `Carrier`."""

    def send(self, to: int, group: GroupId, message: Message) -> None:
        """Add a message to the frame for a node; may be lost."""

    def answer(self, group: GroupId, answer: Answer | Refuse) -> None:
        """Give an answer to the router that asked, here or on another node."""

    def ready(self, ready: Ready) -> None:
        """Tell a node, perhaps this one, that a key is there now; may be lost."""

    def role_changed(self, group: GroupId, change: raft.RoleChanged) -> None:
        """Take note of who leads."""

    def membership_changed(self, group: GroupId, change: raft.MembershipChanged | raft.MembershipRefused) -> None:
        """Take note of who belongs to the group, or why that is not to change now."""

    def digest_ready(self, group: GroupId, digest: DigestReady) -> None:
        """Take note of what the group's state is here."""

    def publish(self, publish: Publish) -> None:
        """Tell the subscribers of all nodes."""


class Disk(Protocol):
    """Where things are kept. None of these may call back into the `Carrier`: outcomes come as later events."""

    def persist(self, group: GroupId, persist: raft.Persist) -> None:
        """Add records to the batch of this turn."""

    def flush(self) -> int:
        """Start writing the batch of this turn, after all earlier ones; returns the number that `durable` will tell."""
        ...

    def write_snapshot(self, group: GroupId, snapshot: WriteSnapshot) -> None:
        """Start writing a snapshot file of the state; `SnapshotSaved` tells the end."""

    def save_chunk(self, group: GroupId, chunk: raft.SaveChunk) -> None:
        """Start adding a received chunk to its file; `ChunkSaved` tells so, or `SnapshotSaved` of the last one."""

    def drop_chunks(self, group: GroupId) -> None:
        """Forget the file of the chunks that came."""

    def open_snapshot(self, group: GroupId) -> None:
        """Start opening the newest snapshot file, to be kept; `SnapshotOpened` tells what is in it."""

    def load_chunk(self, group: GroupId, wanted: raft.LoadChunk) -> None:
        """Start reading a chunk of a file that is kept open; `ChunkLoaded` hands it in."""

    def keep_snapshots(self, group: GroupId, kept: raft.KeepSnapshots) -> None:
        """Let go all open files of the group but these."""


_WORK = Work()


def _make_none(split: SplitOff, _now: Instant) -> Replica | None:
    raise InternalError(f"group {split.child} was split off on a node that makes no replicas")


class Carrier:
    """The replicas of one node, and what they wait for."""

    def __init__(
        self,
        replicas: dict[GroupId, Replica],
        peers: Peers,
        disk: Disk,
        make_child: Callable[[SplitOff, Instant], Replica | None] = _make_none,
    ) -> None:
        """`make_child` makes a replica for a group that is split off here, which then takes its state and begins; None
        if this node is to have none."""
        self.replicas = replicas
        self._make_child = make_child
        self._removed: set[GroupId] = set()
        """A child that was here and is no more must not come back by a parent that hears late of the split."""
        self.leaders = Leaders()
        self.suspected: set[int] = set()
        """The nodes that seem gone, as `suspect` and `trust` told."""
        self._peers = peers
        self._disk = disk
        self.active: set[GroupId] = set(replicas)
        """The groups that took an event since somebody last emptied this."""
        self._timetable = Timetable()
        self._stirred: dict[GroupId, None] = {}
        """The groups that took an event in this turn: their deadlines may be earlier now."""
        self._touched: dict[GroupId, None] = {}
        """Those of them that have something to do at its end."""
        self._put_off: dict[GroupId, None] = {}
        """Groups that have work for between the turns, in the order in which they get it."""
        self._counting: set[GroupId] = set()
        """Groups that were divided and are not counted yet: one slice each tick, for nobody waits for it."""
        self._persists: list[tuple[GroupId, Replica, raft.Persist]] = []
        """Of this turn."""
        self._undurable: deque[tuple[int, GroupId, Replica, raft.Persist]] = deque()
        """Handed to the disk, in order, each with its batch number and the replica that asked."""
        for replica in replicas.values():
            self.add(replica)

    def add(self, replica: Replica) -> None:
        """Take a replica in, of a group that is not here; from now on its time is kept."""
        group = replica.group
        ensure(self.replicas.get(group, replica) is replica, "a node has one replica of a group", group=group)
        self.active.add(group)
        self.replicas[group] = replica
        self.leaders.change(group, replica.raft.leader)
        self._timetable.note(group, replica.next_deadline())
        if replica.keyspace.is_counting:
            self._counting.add(group)

    def remove(self, group: GroupId) -> None:
        """Take a replica out: it is asked nothing any more, and what it has on its way to the disk frees no message.

        Whoever waits for its answers is not told. Another one of that group may be added at any time.
        """
        self._touched.pop(group, None)
        self._stirred.pop(group, None)
        self.active.discard(group)
        self.leaders.forget(group)
        self._put_off.pop(group, None)
        self._removed.add(group)
        replica = self.replicas.pop(group)
        self._release(replica.waiting_parent, group, replica.raft.now)

    def begin(self, now: Instant, preferred: Callable[[GroupId], int]) -> None:
        """Time begins for all that are here: each waits first for whom is `preferred` as its leader."""
        place = 0
        for group, replica in self.replicas.items():
            is_first = preferred(group) == replica.raft.node_id
            # Everything else waits for *meta*.
            count = len(self.replicas) if group != META_GROUP else 1
            wait_s = first_wait_s(is_first=is_first, rank=self._rank(group), place=place, count=count)
            replica.raft.wait_first(now, wait_s)
            place += is_first

    def take(self, group: GroupId, event: Event, now: Instant) -> None:
        """Take one event in for one group. `end_turn` must follow before control goes back to the world."""
        self._stirred[group] = None
        self._carry(group, event, now)
        replica = self.replicas[group]
        if replica.wants_turn:
            self._touched[group] = None
        if replica.has_work:
            self._put_off[group] = None

    def has_work(self) -> bool:
        """Whether anything waits for `work`."""
        return bool(self._put_off)

    def work(self, now: Instant) -> None:
        """Do one slice, of a few milliseconds at most, of what was put off: one group's, and the next time another's.

        Meant for between the turns, as often as there is time; `end_turn` must follow the last of them.
        """
        if self._put_off:
            group = next(iter(self._put_off))
            del self._put_off[group]
            self.take(group, _WORK, now)

    def end_turn(self, now: Instant, wall_ms: int) -> Iterable[GroupId]:
        """End the turn: entries, read rounds, one batch to the disk. Returns the groups that took an event in it."""
        if self._touched:
            touched, self._touched = self._touched, {}
            event = EndOfTurn(wall_ms)
            for group in touched:
                self._carry(group, event, now)
        if self._persists:
            number = self._disk.flush()
            self._undurable.extend((number, *persist) for persist in self._persists)
            self._persists.clear()
        stirred, self._stirred = self._stirred, {}
        self.active.update(stirred)
        for group in stirred:
            self._timetable.note(group, self.replicas[group].next_deadline())
        return stirred

    def durable(self, number: int, now: Instant) -> None:
        """All batches up to `number` are durable: let go what waited for them. `end_turn` must follow."""
        waiting = self._undurable
        while waiting and waiting[0][0] <= number:
            _, group, replica, persist = waiting.popleft()
            if self.replicas.get(group) is not replica:
                continue
            for message in persist.after:
                self._peers.send(message.to, group, message.message)
            self.take(group, raft.Persisted(persist.index, persist.term), now)

    # Time ------------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> Instant:
        """Before this instant no group is due; `END_OF_TIME` while all of them sleep."""
        return self._timetable.next_deadline()

    def tick(self, now: Instant) -> int:
        """Give their `Tick` to groups that are due, `TICKS_MAX` at most; returns how many. `end_turn` must follow."""
        if self._counting:
            self._count_on()
        ticked = 0
        for group in self._timetable.take_due(now, TICKS_MAX):
            replica = self.replicas.get(group)
            if replica is None:
                continue
            deadline = replica.next_deadline()
            if deadline <= now:
                self.take(group, raft.Tick(), now)
                ticked += 1
            else:
                self._timetable.note(group, deadline)
        return ticked

    def _count_on(self) -> None:
        group = min(self._counting)
        replica = self.replicas.get(group)
        if replica is None or not replica.keyspace.is_counting:
            self._counting.remove(group)
        else:
            replica.keyspace.count_on()

    def check(self) -> None:
        """Raise `InternalError` when a group sleeps under a leader that seems gone: nothing would ever wake it."""
        for node in self.suspected:
            for group in self.leaders.led_by(node):
                ensure(not self.replicas[group].raft.is_quiet(), "no group sleeps under a lost leader", group=group)

    # Nodes that come and go ------------------------------------------------------------------------------------------

    def suspect(self, node: int, now: Instant) -> None:
        """A node seems gone: only groups that it leads, or that have a member there and are led from here, hear of it.

        The others campaign one after the other, and in each of them one voter before the next, in an order that all
        voters agree on without a word: so votes are not split, and no frame holds them all. `end_turn` must follow.
        """
        self.suspected.add(node)
        led = self.leaders.led_by(node)
        rank_s = RANK_S + len(led) * ELECTION_S
        for place, group in enumerate(led):
            wait_s = place * CAMPAIGN_PACE_S + self._rank(group) * rank_s
            self.take(group, raft.Suspect(node, wait_s), now)
        for group in self._led_with_a_member_on(node):
            self.take(group, raft.Suspect(node), now)

    def trust(self, node: int, now: Instant) -> None:
        """A node is there, again or after all: groups led from here bring its replicas up to date. `end_turn` must
        follow."""
        self.suspected.discard(node)
        for group in [*self.leaders.led_by(node), *self._led_with_a_member_on(node)]:
            self.take(group, raft.Trust(node), now)

    def _led_with_a_member_on(self, node: int) -> list[GroupId]:
        own = next((replica.raft.node_id for replica in self.replicas.values()), 0)
        led = ((group, self.replicas[group].raft.leadership) for group in self.leaders.led_by(own))
        return [group for group, leadership in led if leadership is not None and node in leadership.progress]

    def _rank(self, group: GroupId) -> int:
        """How many voters that seem alive campaign before this node's. By the group's number, so that those who follow
        share what a lost node led."""
        consensus = self.replicas[group].raft
        living = [voter for voter in consensus.log.membership.voters if voter not in self.suspected]
        if consensus.node_id not in living:
            return len(living)
        return (living.index(consensus.node_id) - group) % len(living)

    def _remind(self, group: GroupId, now: Instant) -> None:
        """Another leader, or another member, for whom it is news that some nodes seem gone."""
        for node in sorted(self.suspected):
            self._carry(group, raft.Suspect(node, self._rank(group) * RANK_S), now)

    def _carry(self, group: GroupId, event: Event, now: Instant) -> None:
        peers, disk, replica = self._peers, self._disk, self.replicas[group]
        is_news = False
        for effect in replica.handle(event, now):
            match effect:  # In the order of how often each comes.
                case raft.Send():
                    peers.send(effect.to, group, effect.message)
                case raft.Persist():
                    disk.persist(group, effect)
                    self._persists.append((group, replica, effect))
                case Answer() | Refuse():
                    peers.answer(group, effect)
                case Ready():
                    peers.ready(effect)
                case raft.RoleChanged():
                    self.leaders.change(group, effect.leader)
                    is_news = True
                    peers.role_changed(group, effect)
                case WriteSnapshot():
                    disk.write_snapshot(group, effect)
                case raft.MembershipChanged() | raft.MembershipRefused():
                    is_news = True
                    peers.membership_changed(group, effect)
                case raft.SaveChunk():
                    disk.save_chunk(group, effect)
                case raft.LoadChunk():
                    disk.load_chunk(group, effect)
                case DigestReady():
                    peers.digest_ready(group, effect)
                case Publish():
                    peers.publish(effect)
                case raft.OpenSnapshot():
                    disk.open_snapshot(group)
                case raft.KeepSnapshots():
                    disk.keep_snapshots(group, effect)
                case raft.DropChunks():
                    disk.drop_chunks(group)
                case SplitOff():
                    self._split_off(group, effect, now)
                case ReleaseParent():
                    self._release(effect.parent, group, now)
                case _:
                    assert_never(effect)
        if is_news and self.suspected:
            self._remind(group, now)

    def _split_off(self, parent: GroupId, split: SplitOff, now: Instant) -> None:
        child = split.child
        is_wanted = child not in self.replicas and child not in self._removed
        replica = self._make_child(split, now) if is_wanted else None
        if replica is None:
            self._release(parent, child, now)
            return
        replica.become_child(split, parent)
        self.add(replica)
        self._counting.add(parent)
        self.take(child, Begin(split.leads), now)

    def _release(self, parent: GroupId, child: GroupId, now: Instant) -> None:
        if parent in self.replicas:
            self.take(parent, ChildSaved(child), now)
