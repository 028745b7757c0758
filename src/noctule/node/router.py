"""Commands to the leaders of their partitions, and answers back in time: the `Store` that servers see.

A router keeps one *lane* for each group. Commands that arrive in one turn of the loop become one batch of writes and
one query of reads; a lane opens a session before its first batch, and a batch keeps its number until it is answered,
so it may be sent again to any leader and is still applied once (`core.replica.client_sessions`). Whoever waits too
long is told whether anything may have happened: a batch takes effect only through the leader of a term that it was
sent to, so it is sure not to once all of those have disclaimed it (`events.Refuse`).

The map of partitions changes meanwhile. What a partition answers with `MOVED` did not happen and goes on to the
partition that has the slot by the map; the order of a connection's commands on one key holds (`node.detours`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from noctule.base.consistency import ConsistencyLevel
from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.keyspace.commands import check_command, find_command, unknown_command
from noctule.core.keyspace.effects import TO_BE_EVALUATED
from noctule.core.keyspace.fan_out import FanOut, fan_out, fan_out_over, partition_of
from noctule.core.keyspace.keyspace import ReadOutcome
from noctule.core.keyspace.reply import MOVED, Failure, Reply
from noctule.core.keyspace.since import COMMAND_FEATURES, not_open
from noctule.core.keyspace.spec import CommandSpec, Scope
from noctule.core.keyspace.within import slots_of, unwrapped
from noctule.core.placement.partition_map import PartitionMap
from noctule.core.placement.slots import SLOT_COUNT, key_slot
from noctule.core.replica.batches import OPENING, encode_batch, encode_opening
from noctule.core.replica.client_sessions import EXPIRED, SESSION_EXPIRES_MS
from noctule.core.roster.features import SHARED_READS
from noctule.core.wire.messages import ReadsAnswered
from noctule.node.api import Dialogue, ReplySink, Store
from noctule.node.conversation import Conversation
from noctule.node.detours import Detours
from noctule.node.lanes import RETRY_DELAY_S, Command, Flight, Gather, Lane
from noctule.node.read_lanes import ReadLanes
from noctule.node.waiting_room import WaitingRoom

COMMANDS_WAITING_MAX: Final = 100_000
"""Commands that wait for an answer on one node; over it new ones are refused."""
BATCH_BYTES_TARGET = 1 << 20
BATCH_COMMANDS_MAX: Final = 2_048
"""A batch is applied in one go by each replica: so many small commands take 5 to 8 ms."""
FLIGHTS_MAX: Final = 1
"""Batches, and queries, of one lane on their way; meanwhile commands gather, so a busy lane sends larger ones."""
RETRY_DELAY_S_MAX: Final = 0.08
"""While nothing can leave, each try doubles the delay up to here: thousands of lanes without a leader must not hold up
its election, and are told when it is over."""
LOOK_S: Final = 0.1
"""How often every open lane is looked at, for what is over its deadline or was never answered."""
ANSWER_TIMEOUT_S: Final = 2.0
"""A request without an answer for so long is sent again: it, or its answer, was dropped on the way."""
SESSION_IDLE_S_MAX = SESSION_EXPIRES_MS / 2_000
"""A lane that has written nothing for so long opens another session, well before the group forgets this one."""
LANE_IDLE_S_MAX: Final = 600.0
"""A lane that has been empty for so long, and has no session that would still be used, is forgotten."""
GONE_S_MAX: Final = 2.0
"""What was sent to a partition before it was merged away is awaited for so long; then its fate is unknown."""
MOVED_RETRY_S: Final = 0.05
"""Between an answer that a slot is elsewhere and asking again where the map has it, unless the map changes."""

_OVERLOADED = Failure(b"OVERLOADED too many commands wait for an answer; nothing was applied, try again later")
_NO_LEADER = Failure(b"CLUSTERDOWN no leader for this partition was found in time; nothing was applied")
ANSWER_TOO_LARGE = Failure(
    b"TOOLARGE the answer is over the 64 MiB that go from node to node; the command was carried out"
)
"""What another node answers in place of results that do not fit a frame."""
_UNKNOWN = Failure(b"UNKNOWN no answer came in time; the command may or may not have been applied")


class Dispatch(Protocol):
    """How a router reaches leaders."""

    @property
    def node_id(self) -> int:
        """This node."""
        ...

    def leader_of(self, group: GroupId) -> tuple[int, int]:
        """The node that leads the group as far as known here, and its term; node 0 when there is none."""
        ...

    def dispatch_write(
        self,
        to: int,
        group: GroupId,
        term: int,
        origin: int,
        sequence: int,
        batch: bytes,
        *,
        has_scripts: bool = False,
    ) -> bool:
        """Hand a batch to that node as the leader of that term; False when it cannot leave. One that `has_scripts` is
        evaluated there before it is logged."""
        ...

    def dispatch_query(
        self, to: int, group: GroupId, origin: int, number: int, commands: list[list[bytes]], *, lease: bool
    ) -> bool:
        """Hand a query to that node, which may answer by its `lease`; False when it cannot leave."""
        ...

    def dispatch_reads(self, to: int, number: int, groups: list[int], commands: list[list[bytes]]) -> bool:
        """Hand reads to that node, each of the group at its place, under a number; False when they cannot leave."""
        ...

    def read_local(self, group: GroupId, command: list[bytes]) -> Reply | ReadOutcome:
        """Read this node's own replica."""
        ...

    def read_keys(
        self, slot_table: list[GroupId], commands: list[list[bytes] | Failure], start: int, wall_ms: int
    ) -> list[Reply]:
        """As `Dialogue.read_keys`, where each slot belongs to the partition in the table."""
        ...

    def schedule_turn(self) -> None:
        """See to it that `Router.flush` is called soon."""


class Router:
    """All lanes of one node; a `Store` for the keyspace, and `meta` for the *meta* group."""

    def __init__(
        self,
        *,
        partitions: PartitionMap,
        dispatch: Dispatch,
        new_origin: Callable[[], int],
        now: Callable[[], Instant],
        request_deadline_s: float,
        site: bytes = b"noctule",
        keeps_leases: bool = False,
        acknowledges_early: bool = False,
    ) -> None:
        """`keeps_leases`: whether leaders hold leases, by which they may answer `strong` reads without a word.

        `acknowledges_early`: whether leaders acknowledge before a majority has it. Their reads wait for what only the
        group's leader knows, so they are asked of their groups.
        """
        self._partitions = partitions
        self._slot_table = list(partitions.slot_table)
        """As of the last `map_changed`: the map changes in place, and what is on its way is to follow at once."""
        self._dispatch = dispatch
        self.new_origin = new_origin
        """Draws a number that no other life of a node has drawn."""
        self._now = now
        self._deadline_s = request_deadline_s
        self._deadline = now() + request_deadline_s
        """Of what comes now; as of the last tick, since to read the clock for each command costs as much as routing."""
        self._site = site
        self._keeps_leases = keeps_leases
        self._acknowledges_early = acknowledges_early
        self._lanes: dict[GroupId, Lane] = {}
        """Of the groups that were wanted lately."""
        self._open: dict[GroupId, Lane] = {}
        """Those in which something waits or is on its way, and some that were emptied since the last tick."""
        self._touched: dict[GroupId, Lane] = {}
        """Those with something to send at the end of this turn."""
        self._retrying: dict[GroupId, Lane] = {}
        """Those with something to send again."""
        self._read_lanes = ReadLanes(dispatch, new_origin(), self._place)
        """For linearizable reads, if the cluster `_shares_reads`; those of single groups are what is left of them."""
        self._shares_reads = False
        self._look_at = 0.0
        self._detours = Detours()
        self._detours_due: float | None = None
        self._sweep_at = 0.0
        self._waiting = 0
        self._closed: frozenset[str] = frozenset()
        """Features with which commands came that this cluster may not use yet. Empty before it is known: then there is
        no map either, and what came so early is looked at when it leaves."""
        self._stopped: Failure | None = None
        self.commands_total = 0
        self.retries_total = 0
        self.meta: Store = _MetaStore(self)
        self.waiting_room = WaitingRoom(self, now)
        """For the blocking commands of all connections."""

    # The Store -------------------------------------------------------------------------------------------------------

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """As `Store.submit` says, in no order with other commands; none of them waits for a key."""
        spec = check_command(args)
        if isinstance(spec, Failure):
            sink.deliver(spec)
        elif consistency is ConsistencyLevel.EVENTUAL and not spec.is_write and self.read_eventually(spec, args, sink):
            pass
        else:
            self.route(spec, args, sink, logged=spec.is_write, lease=consistency is ConsistencyLevel.STRONG)

    def conversation(self) -> Conversation:
        """A door for one connection; see `Conversation` for the order in which its commands take effect."""
        return Conversation(self)

    def route(
        self,
        spec: CommandSpec,
        args: list[bytes],
        sink: ReplySink,
        *,
        logged: bool,
        lease: bool = False,
        conversation: Conversation | None = None,
    ) -> None:
        """Put a checked command into the lane of its partition, or its parts into those of theirs."""
        command = Command(args, sink, conversation, logged, lease)
        if self._closed and spec.feature in self._closed:
            command.finish(not_open(spec.name))
            return
        if spec.has_one_key:
            self._enter(self._slot_table[key_slot(args[1])], command)
            return
        if spec.scope is Scope.CONNECTION:
            name = args[0].decode("utf-8", "backslashreplace")
            command.finish(Failure(f"ERR command '{name}' is not for the store".encode()))
            return
        self._spread(command, fan_out(spec, self._with_site(spec, args), self._slot_table))

    def route_over(
        self,
        runs: Sequence[tuple[int, int]],
        spec: CommandSpec,
        args: list[bytes],
        sink: ReplySink,
        *,
        logged: bool,
        lease: bool = False,
        conversation: Conversation | None = None,
    ) -> None:
        """As `route`, of a checked command on all keys that is to be about these ranges of slots only."""
        command = Command(args, sink, conversation, logged, lease)
        if self._closed and spec.feature in self._closed:
            command.finish(not_open(spec.name))
            return
        self._spread(command, fan_out_over(spec, args, self._slot_table, runs))

    def _spread(self, command: Command, spread: FanOut | Failure) -> None:
        """Send the parts on their way; what has none, or cannot be divided, is answered at once."""
        if isinstance(spread, Failure):
            command.finish(spread)
        elif not spread.parts:
            command.finish(spread.merge([]))
        else:
            gather = Gather(command, len(spread.parts), spread.merge)
            for number, (group, part) in enumerate(spread.parts):
                self._enter(group, Command(part, gather.part(number), None, command.logged, command.lease))

    def _with_site(self, spec: CommandSpec, args: list[bytes]) -> list[bytes]:
        """Declaring a bucket names the site under which it changes here: known before it is logged, so that every
        replica takes the same."""
        return [*args, self._site] if spec.name == b"BUCKET.CREATE" and len(args) == 3 else args

    def refusal(self, spec: CommandSpec, _args: list[bytes]) -> Failure | None:
        """Whatever a door may be asked is sent where it belongs, but for what not every node knows."""
        return not_open(spec.name) if spec.feature in self._closed else None

    def read_eventually(self, spec: CommandSpec, args: list[bytes], sink: ReplySink) -> bool:
        """Answer from this node's own replicas; False when only a leader can."""
        if spec.has_one_key:
            parts, merge = [(self._slot_table[key_slot(args[1])], args)], None
        else:
            spread = fan_out(spec, args, self._slot_table)
            if isinstance(spread, Failure):
                return False
            parts, merge = spread.parts, spread.merge
        replies: list[Reply] = []
        for group, part in parts:
            reply = self._dispatch.read_local(group, part) if group else ReadOutcome.MUST_LOG
            if isinstance(reply, ReadOutcome) or reply is MOVED:
                return False
            replies.append(reply)
        sink.deliver(merge(replies) if merge is not None else replies[0])
        return True

    def read_keys(self, commands: list[list[bytes] | Failure], start: int, wall_ms: int) -> list[Reply]:
        """The hot path of `read_eventually`, at once and without sinks: as `Dialogue.read_keys`."""
        return self._dispatch.read_keys(self._slot_table, commands, start, wall_ms)

    def submit_to_meta(self, args: list[bytes], sink: ReplySink) -> None:
        """Run a command on the *meta* group, whatever its keys."""
        spec = check_command(args)
        if isinstance(spec, Failure):
            sink.deliver(spec)
            return
        command = Command(args, sink, None, spec.is_write)
        if self._accept(command):
            self._place(META_GROUP, command)

    def operate(self, args: list[bytes], sink: ReplySink) -> None:
        """Have *meta* do an operation (`core.meta.operations`), which no client of the keyspace can ask for."""
        self.order(META_GROUP, args, sink)

    def order(self, group: GroupId, args: list[bytes], sink: ReplySink) -> None:
        """Have a group log a command that is about the group itself, whatever its arguments; once, as any other."""
        command = Command(args, sink, None, True)
        if self._accept(command):
            self._place(group, command)

    def query(self, group: GroupId, args: list[bytes], sink: ReplySink) -> None:
        """Have a group read something about itself, whatever the arguments: linearizable, and nothing is logged."""
        command = Command(args, sink, None, False)
        if self._accept(command):
            self._place(group, command)

    def stop(self, reason: str) -> None:
        """Answer whatever waits and whatever comes at once, with the reason: this node can do nothing more for it."""
        self._stopped = Failure(
            f"CLUSTERDOWN this node has stopped ({reason}); nothing was applied, ask another node".encode()
        )
        self.waiting_room.close(self._stopped)
        self._read_lanes.give_up_all()
        for lane in list(self._open.values()):
            for flight in [*lane.flights.values(), *lane.queries.values()]:
                self._give_up(flight.commands, _UNKNOWN if flight.terms else self._stopped)
            lane.flights.clear()
            lane.queries.clear()
            waiting, lane.open_writes, lane.open_reads = [*lane.open_writes, *lane.open_reads], [], []
            self._give_up(waiting, self._stopped)
        self._give_up(self._detours.clear(), self._stopped)

    # Errands of the waiting room --------------------------------------------------------------------------------------

    @property
    def node_id(self) -> int:
        """This node."""
        return self._dispatch.node_id

    def look(self, args: list[bytes], sink: ReplySink) -> None:
        """Run an internal command that only reads, on the partition of its first argument."""
        self._enter(self._slot_table[key_slot(args[1])], Command(args, sink, None, False))

    def attempt(self, args: list[bytes], sink: ReplySink) -> Command:
        """Run a command on the one partition of its keys; returned for `withdraw`."""
        spec = find_command(args[0])
        assert spec is not None
        command = Command(args, sink, None, spec.is_write)
        group = partition_of(spec, args, self._slot_table)
        if isinstance(group, Failure):
            command.finish(group)
        else:
            self._enter(group, command)
        return command

    def withdraw(self, command: Command) -> bool:
        """Take back what has not left yet; then it is not answered. False when it may be carried out."""
        group = self.group_of(_first_key(command.args))
        if self._read_lanes.withdraw(group, command):
            self._waiting -= 1
            return True
        lane = self._lanes.get(group)
        waiting = [] if lane is None else lane.open_writes if command.logged else lane.open_reads
        if command not in waiting:
            return False
        waiting.remove(command)
        self._waiting -= 1
        return True

    def problem(self, args: list[bytes]) -> Failure | None:
        """Why `attempt` could never run this, by the map as it is."""
        spec = find_command(args[0])
        group = unknown_command(args) if spec is None else partition_of(spec, args, self._slot_table)
        return group if isinstance(group, Failure) else None

    def group_of(self, key: bytes) -> GroupId:
        """The partition of a key, 0 when it has none."""
        return self._slot_table[key_slot(key)]

    def _enter(self, group: GroupId, command: Command) -> None:
        """A new command, which belongs to that group, or to none so far if it is 0."""
        if self._accept(command):
            blocked = self._detours.blocked
            if not group or (blocked and command.logged and not blocked.isdisjoint(slots_of(command.args))):
                self._detours.add([command])
            elif not self._shares(group, command) or not self._read_lanes.enter(group, command):
                self._place(group, command)

    def _shares(self, group: GroupId, command: Command) -> bool:
        """Whether it may be read beside reads of other groups, without overtaking one that is in the group's lane."""
        if command.logged or not self._shares_reads:
            return False
        if command.lease and self._keeps_leases and not self._read_lanes.holds(group):
            return False  # It needs no round; but behind one that does it waits for that one's.
        lane = self._lanes.get(group)
        return lane is None or not (lane.open_reads or lane.queries)

    def _accept(self, command: Command) -> bool:
        """Count it in; or answer it."""
        if self._stopped is not None:
            command.finish(self._stopped)
            return False
        if self._waiting >= COMMANDS_WAITING_MAX:
            command.finish(_OVERLOADED)
            return False
        self._waiting += 1
        self.commands_total += 1
        command.number = self.commands_total
        command.deadline = self._deadline
        return True

    def _place(self, group: GroupId, command: Command) -> None:
        lane = self._lanes.get(group)
        if lane is None:
            lane = self._lanes[group] = Lane(group, self.new_origin())
        (lane.open_writes if command.logged else lane.open_reads).append(command)
        if group not in self._touched:
            self._touch(lane)

    def _touch(self, lane: Lane) -> None:
        """The lane has something to send at the end of this turn."""
        if not self._touched:
            self._dispatch.schedule_turn()
        self._touched[lane.group] = self._open[lane.group] = lane

    # The map ---------------------------------------------------------------------------------------------------------

    def features_changed(self, features: frozenset[str]) -> None:
        """Use what came with these features, and refuse what came with others."""
        self._closed = COMMAND_FEATURES - features
        self._shares_reads = SHARED_READS in features and not self._acknowledges_early

    def map_changed(self, changed_groups: Iterable[GroupId]) -> None:
        """Follow the map, in which these partitions have changed, come or gone.

        What waits for a partition that has lost its slot goes to the one that has it; what may have been carried out
        by the former is resolved first.
        """
        self._read_lanes.give_up_all()
        lost: dict[GroupId, set[int]] = {}
        if self._slot_table != self._partitions.slot_table:
            for slot, group in enumerate(self._partitions.slot_table):
                before = self._slot_table[slot]
                if before != group:
                    lost.setdefault(before, set()).add(slot)
                    self._slot_table[slot] = group
        for group, slots in lost.items():
            if group in self._lanes and group:
                self._withdraw(self._lanes[group], slots)
        for group in changed_groups:
            lane = self._lanes.get(group)
            if lane is not None and group not in self._partitions.partitions:
                lane.gone_at = self._now()
                self._empty(lane)
            self.waiting_room.group_changed(group)
        self._detours.hurry()
        self._admit()

    def _withdraw(self, lane: Lane, slots: set[int]) -> None:
        """Take logged commands about these slots, which the lane's partition has lost, out of it."""
        for flight in lane.flights.values():
            if any(not slots.isdisjoint(slots_of(command.args)) for command in flight.commands):
                self._detours.unsettle(flight)
        self._detours.blocked |= slots  # Until `_admit` finds better.
        self._detain_open(lane)

    def _detain_open(self, lane: Lane) -> None:
        """Have the open writes on blocked slots, and what stands behind those, wait for their turn."""
        blocked, staying = self._detours.blocked, []
        for command in lane.open_writes:
            if blocked.isdisjoint(slots_of(command.args)):
                staying.append(command)
            else:
                self._detours.add([command])
        lane.open_writes = staying

    def _empty(self, lane: Lane) -> None:
        """Its partition is no more: only batches that may have been applied stay, for a late answer."""
        reads = [command for query in lane.queries.values() for command in query.commands]
        self._detours.add([*reads, *lane.open_reads, *lane.open_writes])
        lane.queries.clear()
        lane.open_reads, lane.open_writes = [], []
        for number, flight in list(lane.flights.items()):
            if not flight.terms or not flight.commands:
                del lane.flights[number]
                self._detours.settle(flight)
                self._detours.add(flight.commands)

    def _moved(self, lane: Lane, commands: list[Command], *, is_write: bool) -> None:
        """A partition did not carry these out, since a slot of one of them is not its own."""
        here = lane.group
        is_news = all(self._slot_table[slot] == here for command in commands for slot in slots_of(command.args))
        not_before = self._now() + MOVED_RETRY_S if is_news else 0.0
        self._detours.add(commands, not_before)
        if is_news and self._detours_due is None:
            self._detours_due = not_before
        if is_write:
            # What was sent before this was known comes back as well, or was resolved before (`ClientSessions.apply`).
            for flight in lane.flights.values():
                if flight.commands:
                    self._detours.unsettle(flight)
            self._detain_open(lane)

    def _admit(self) -> None:
        """Send on what waits for nothing any more."""
        failed = []
        for command in self._detours.admit(self._now(), self._slot_table):
            failure = self._send_on(command)
            if failure is not None:
                failed.append((command, failure))
        # Not before all others are in their lanes: whoever is told may send more at once.
        for command, failure in failed:
            self._give_up([command], failure)

    def _send_on(self, command: Command) -> Failure | None:
        """To the lane where it belongs by the map now, or in parts to several; or why it cannot run any more."""
        part = unwrapped(command.args)
        first, last, args = part or (0, SLOT_COUNT - 1, command.args)
        spec = find_command(args[0])
        if spec is None:
            return unknown_command(args)
        if spec.feature in self._closed:
            return not_open(spec.name)
        spread = fan_out(spec, args, self._slot_table, first, last)
        if isinstance(spread, Failure):
            return spread
        if spread.parts[0][1] == command.args:
            self._place(spread.parts[0][0], command)
        else:
            gather = Gather(command, len(spread.parts), spread.merge)
            self._waiting += len(spread.parts) - 1
            for number, (group, args) in enumerate(spread.parts):
                piece = Command(args, gather.part(number), None, command.logged, command.lease)
                piece.number, piece.deadline = command.number, command.deadline
                self._place(group, piece)
        return None

    # Turns -----------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what came in this turn."""
        now = self._now()
        self._read_lanes.flush(now)
        if not self._touched:
            return
        touched, self._touched = self._touched, {}
        for lane in touched.values():
            if lane.open_writes and len(lane.flights) < FLIGHTS_MAX:
                self._flush_writes(lane, now)
            if lane.open_reads and len(lane.queries) < FLIGHTS_MAX:
                end = _end_of_batch(lane.open_reads, 0)
                commands, lane.open_reads = lane.open_reads[:end], lane.open_reads[end:]
                self._send_reads(lane, commands, now)

    def _flush_writes(self, lane: Lane, now: float) -> None:
        if not lane.flights and not (lane.has_session and now - lane.session_used_at <= SESSION_IDLE_S_MAX):
            lane.leave_session(self.new_origin())
            opening = Flight(OPENING, [], encode_opening(lane.origin), now + self._deadline_s)
            lane.flights[OPENING] = opening
            lane.session_used_at = now
            self._send(lane, opening, now, is_write=True)
        elif lane.has_session:
            lane.session_used_at = now
            self._send_writes(lane, now)

    def _send_reads(self, lane: Lane, commands: list[Command], now: float) -> None:
        flight = Flight(lane.next_number, commands, b"", now + self._deadline_s)
        lane.next_number += 1
        lane.queries[flight.number] = flight
        self._send(lane, flight, now, is_write=False)

    def _send_writes(self, lane: Lane, now: float) -> None:
        commands, lane.open_writes = lane.open_writes, []
        start = 0
        while start < len(commands):
            end = _end_of_batch(commands, start)
            taken = commands[start:end]
            start = end
            sequence = lane.next_sequence
            lane.next_sequence += 1
            acknowledged_below = next(iter(lane.flights), sequence)
            batch = encode_batch(lane.origin, sequence, acknowledged_below, [command.args for command in taken])
            flight = Flight(sequence, taken, batch, now + self._deadline_s)
            flight.acknowledged_below = acknowledged_below
            flight.has_scripts = not TO_BE_EVALUATED.isdisjoint([command.args[0] for command in taken])
            lane.flights[sequence] = flight
            self._send(lane, flight, now, is_write=True)

    def _send(self, lane: Lane, flight: Flight, now: float, *, is_write: bool) -> None:
        leader, term = self._dispatch.leader_of(lane.group)
        sent = False
        # Noted before: this very node may refuse while the flight is handed over, and then it is to be sent again.
        flight.sent_to, flight.sent_at = leader, now
        if leader and is_write:
            was_asked = term in flight.terms
            flight.terms.add(term)
            sent = self._dispatch.dispatch_write(
                leader, lane.group, term, lane.origin, flight.number, flight.batch, has_scripts=flight.has_scripts
            )
            if not sent and not was_asked:
                flight.terms.discard(term)
        elif leader:
            commands = [command.args for command in flight.commands]
            # One that must be confirmed by a majority has the others of its query confirmed with it.
            lease = all(command.lease for command in flight.commands)
            sent = self._dispatch.dispatch_query(leader, lane.group, lane.reader, flight.number, commands, lease=lease)
        if sent:
            lane.retry_delay_s = RETRY_DELAY_S
        else:
            flight.sent_to = 0
            self._retry(lane, now)

    def _retry(self, lane: Lane, now: float) -> None:
        if lane.retry_at is None:
            lane.retry_at = now + lane.retry_delay_s
            lane.retry_delay_s = min(2 * lane.retry_delay_s, RETRY_DELAY_S_MAX)
            self._retrying[lane.group] = lane

    # Outcomes --------------------------------------------------------------------------------------------------------

    def answered(self, group: GroupId, origin: int, number: int, results: list[Reply], *, is_write: bool) -> None:
        """A leader answered; an answer that came before, or to an earlier life of this node, is no news."""
        lane = self._lane(group, origin, is_write=is_write)
        if lane is None:
            return
        flight = (lane.flights if is_write else lane.queries).pop(number, None)
        if flight is None:
            return
        if lane.open_writes if is_write else lane.open_reads:
            self._touch(lane)
        if not is_write and len(flight.commands) > 1 and ANSWER_TOO_LARGE in results:
            half = len(flight.commands) // 2
            for commands in (flight.commands[:half], flight.commands[half:]):
                self._send_reads(lane, commands, self._now())
            return
        settled = is_write and self._detours.settle(flight)
        if is_write and number == OPENING:
            match results:
                case [int(session)]:
                    lane.begin_session(session)
        elif is_write and results and results[0] == EXPIRED:
            self._begin_again(lane)
        commands = flight.commands
        if is_write and results and results[-1] is MOVED:
            # Before anybody is answered: that may bring commands which are to come after these.
            done = next(at for at, result in enumerate(results) if result is MOVED)
            self._moved(lane, commands[done:], is_write=True)
            commands, settled = commands[:done], True
        moved: list[Command] = []
        for command, result in zip(commands, results, strict=False):
            if result is MOVED:
                moved.append(command)
                continue
            self._waiting -= 1
            command.finish(result)
        if moved:
            self._moved(lane, moved, is_write=False)
        if settled or moved:
            self._admit()

    def reads_answered(self, node: int, answer: ReadsAnswered) -> None:
        """A node answered reads of the groups that it leads; an answer that nobody waits for any more is no news."""
        commands = self._read_lanes.answered(node, answer)
        left = frozenset(answer.left)
        for at, (command, result) in enumerate(zip(commands, answer.results, strict=False)):
            if at not in left:
                self._waiting -= 1
                command.finish(result)

    def _lane(self, group: GroupId, origin: int, *, is_write: bool) -> Lane | None:
        """The lane that awaits this; None when it came too late, or for an earlier life of this node."""
        lane = self._lanes.get(group)
        if lane is None or (lane.origin if is_write else lane.reader) != origin:
            return None
        return lane

    def _begin_again(self, lane: Lane) -> None:
        """The cluster forgot this session: what is on its way has an unknown fate, what comes next needs another."""
        flights = list(lane.flights.values())
        lane.leave_session()
        for flight in flights:
            self._detours.settle(flight)
        for flight in flights:
            self._give_up(flight.commands, _UNKNOWN)
        self._admit()

    def refused(self, group: GroupId, origin: int, number: int, *, is_write: bool, disclaimed_term: int = 0) -> None:
        """Whoever was asked does not lead, or misses an earlier batch: send again, from there on and in order.

        What `disclaimed_term` says is final (`events.Refuse`), so it holds however late or often it is heard.
        """
        lane = self._lane(group, origin, is_write=is_write)
        if lane is None:
            return
        flights = lane.flights if is_write else lane.queries
        if number in flights:
            flights[number].terms.discard(disclaimed_term)
            for flight in flights.values():
                if flight.number >= number:
                    flight.sent_to = 0
            self._retry(lane, self._now())

    def leader_changed(self, group: GroupId) -> None:
        """Whoever leads now is asked at once."""
        self.waiting_room.group_changed(group)
        self._read_lanes.leader_changed(group)
        lane = self._open.get(group)
        if lane is not None and (lane.flights or lane.queries):
            lane.retry_at, lane.retry_delay_s = self._now(), RETRY_DELAY_S
            self._retrying[group] = lane

    def peer_lost(self, node: int) -> None:
        """What was sent to that node may be lost with it, or may have been taken: only the former is made up for."""
        self._read_lanes.peer_lost(node)
        now = self._now()
        for lane in self._open.values():
            for flights in (lane.flights, lane.queries):
                for flight in flights.values():
                    if flight.sent_to == node:
                        flight.sent_to = 0
                        self._retry(lane, now)

    def tick(self) -> None:
        """Try again what is due, give up what is over its deadline."""
        now = self._now()
        self._deadline = now + self._deadline_s
        self._read_lanes.tick(now)
        for group, lane in list(self._retrying.items()):
            if lane.retry_at is None:
                del self._retrying[group]
            elif now >= lane.retry_at:
                del self._retrying[group]
                self._resend(lane, now)
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._look(now)
        self.waiting_room.tick()
        if self._detours:
            self._hurry_detours(now)
        if now >= self._sweep_at:
            self._sweep_at = now + LANE_IDLE_S_MAX / 10
            for lane in [lane for lane in self._lanes.values() if self._is_forgettable(lane, now)]:
                del self._lanes[lane.group]

    def _look(self, now: float) -> None:
        for group, lane in list(self._open.items()):
            if lane.is_empty:
                lane.retry_at = None
                lane.idle_since = now
                del self._open[group]
            else:
                self._expire(lane, now)
                self._resend(lane, now)

    def _hurry_detours(self, now: float) -> None:
        late = self._detours.expire(now)
        self._give_up(late, _NO_LEADER)
        if late or (self._detours_due is not None and now >= self._detours_due):
            self._detours_due = None
            self._admit()

    def _is_forgettable(self, lane: Lane, now: float) -> bool:
        if not lane.is_empty or lane.group in self._open:
            return False
        keeps_session = lane.has_session and now - lane.session_used_at <= SESSION_IDLE_S_MAX
        return lane.gone_at is not None or (not keeps_session and now - lane.idle_since > LANE_IDLE_S_MAX)

    def _resend(self, lane: Lane, now: float) -> None:
        overdue = now - ANSWER_TIMEOUT_S
        due = lane.retry_at is not None and now >= lane.retry_at
        if due:
            lane.retry_at = None
        for flights, is_write in ((lane.flights, True), (lane.queries, False)):
            for flight in flights.values():
                if (due and not flight.sent_to) or (flight.sent_to and flight.sent_at < overdue):
                    self.retries_total += 1
                    self._send(lane, flight, now, is_write=is_write)
                    self._dispatch.schedule_turn()

    def _expire(self, lane: Lane, now: float) -> None:
        for number, query in list(lane.queries.items()):
            if query.deadline > now:
                break
            del lane.queries[number]
            self._give_up(query.commands, _NO_LEADER)
        for waiting in (lane.open_writes, lane.open_reads):
            late = next((at for at, command in enumerate(waiting) if command.deadline > now), len(waiting))
            if late:
                commands = waiting[:late]
                del waiting[:late]
                self._give_up(commands, _NO_LEADER)
        if lane.open_reads and not lane.queries:
            self._touch(lane)  # They may have waited for a query that was given up, whose answer nobody awaits now.
        if lane.gone_at is not None:
            if now - lane.gone_at >= GONE_S_MAX:
                self._empty(lane)
                self._begin_again(lane)
            return
        settled = False
        for flight in lane.flights.values():
            if flight.deadline > now:
                break
            if flight.commands:
                # Its number must be filled, or all that follows would wait for it: by an empty batch. If the first one
                # was applied after all, this one is its retry and changes nothing.
                commands, flight.commands = flight.commands, []
                settled = self._detours.settle(flight) or settled
                self._give_up(commands, _UNKNOWN if flight.terms else _NO_LEADER)
                flight.batch = encode_batch(lane.origin, flight.number, flight.acknowledged_below, [])
                flight.has_scripts = False
                flight.sent_to = 0
                self._retry(lane, now)
        if settled:
            self._admit()

    def _give_up(self, commands: list[Command], failure: Failure) -> None:
        for command in commands:
            self._waiting -= 1
            command.finish(failure)

    @property
    def waiting(self) -> int:
        """Commands without an answer yet."""
        return self._waiting


def _first_key(args: list[bytes]) -> bytes:
    spec = find_command(args[0])
    return spec.keys(args)[0] if spec is not None else b""


def _end_of_batch(commands: list[Command], start: int) -> int:
    """Where the batch that begins at `start` ends, exclusive: at the target size, after one command at least."""
    size, end = 0, start
    while end < len(commands) and end - start < BATCH_COMMANDS_MAX and (size < BATCH_BYTES_TARGET or end == start):
        size += sum(map(len, commands[end].args))
        end += 1
    return end


class _MetaStore(Dialogue):
    """The *meta* group as a `Store`."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """Reads are linearizable whatever is asked."""
        del consistency
        self._router.submit_to_meta(args, sink)

    def submit_own(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """No server has commands of its own for *meta*: unknown."""
        self.submit(args, sink, consistency)

    def conversation(self) -> "_MetaStore":
        """Commands on *meta* are independent."""
        return self
