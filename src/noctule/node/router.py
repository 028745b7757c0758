"""Commands to the leaders of their partitions, and answers back in time: the `Store` that servers see.

A router keeps one *lane* for each group. Commands that arrive in one turn of the loop become one batch of writes and
one query of reads; a lane opens a session before its first batch, and a batch keeps its number until it is answered,
so it may be sent again to any leader and is still applied once (`core.replica.client_sessions`). Whoever waits too
long is told whether anything may have happened: a batch takes effect only through the leader of a term that it was
sent to, so it is sure not to once all of those have disclaimed it (`events.Refuse`).
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from noctule.base.consistency import ConsistencyLevel
from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.keyspace.commands import CommandSpec, Scope, check_command
from noctule.core.keyspace.fan_out import fan_out
from noctule.core.keyspace.keyspace import ReadOutcome
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.placement.slots import key_slot
from noctule.core.replica.batches import OPENING, encode_batch, encode_opening
from noctule.core.replica.client_sessions import EXPIRED, SESSION_EXPIRES_MS
from noctule.node.api import ReplySink, Store
from noctule.node.conversation import Conversation

COMMANDS_WAITING_MAX = 100_000
"""Commands that wait for an answer on one node; over it new ones are refused."""
BATCH_BYTES_TARGET = 1 << 20
FLIGHTS_MAX = 1
"""Batches, and queries, of one lane on their way; meanwhile commands gather, so a busy lane sends larger ones."""
RETRY_DELAY_S = 0.01
"""Between a refusal and the next try: an election or a transfer takes a few of these."""
ANSWER_TIMEOUT_S = 2.0
"""A request without an answer for so long is sent again: it, or its answer, was dropped on the way."""
SESSION_IDLE_S_MAX = SESSION_EXPIRES_MS / 2_000
"""A lane that has written nothing for so long opens another session, well before the group forgets this one."""

_OVERLOADED = Failure(b"OVERLOADED too many commands wait for an answer; nothing was applied, try again later")
_NO_LEADER = Failure(b"CLUSTERDOWN no leader for this partition was found in time; nothing was applied")
_NOTHING_APPLIED = (b"OVERLOADED", b"CLUSTERDOWN")
_PARTLY = Failure(b"UNKNOWN not every partition answered in time; the command may have been applied in part")
ANSWER_TOO_LARGE = Failure(
    b"TOOLARGE the answer is over the 64 MiB that go from node to node; the command was carried out"
)
"""What another node answers in place of results that do not fit a frame."""
_UNKNOWN = Failure(b"UNKNOWN no answer came in time; the command may or may not have been applied")


class Dispatch(Protocol):
    """How a router reaches leaders."""

    def leader_of(self, group: GroupId) -> tuple[int, int]:
        """The node that leads the group as far as known here, and its term; node 0 when there is none."""
        ...

    def dispatch_write(self, to: int, group: GroupId, term: int, origin: int, sequence: int, batch: bytes) -> bool:
        """Hand a batch to that node as the leader of that term; False when it cannot leave."""
        ...

    def dispatch_query(
        self, to: int, group: GroupId, origin: int, number: int, commands: list[list[bytes]], *, lease: bool
    ) -> bool:
        """Hand a query to that node, which may answer by its `lease`; False when it cannot leave."""
        ...

    def read_local(self, group: GroupId, command: list[bytes]) -> Reply | ReadOutcome:
        """Read this node's own replica."""
        ...

    def schedule_turn(self) -> None:
        """See to it that `Router.flush` is called soon."""


class _Command:
    """One command on its way, and whom to tell."""

    __slots__ = ("args", "conversation", "deadline", "lease", "logged", "sink")

    def __init__(
        self,
        args: list[bytes],
        sink: ReplySink,
        conversation: Conversation | None,
        *,
        logged: bool,
        lease: bool = False,
    ) -> None:
        self.args = args
        self.lease = lease
        """Of a read: whether the leader's lease will do."""
        self.sink = sink
        self.conversation = conversation
        self.logged = logged
        self.deadline = 0.0
        """While it waits to be sent; once it is in a flight, that has its own."""

    def finish(self, reply: Reply) -> None:
        self.sink.deliver(reply)
        if self.conversation is not None:
            self.conversation.finished(logged=self.logged)


class _Gather:
    """The sink of a command that went to several partitions."""

    __slots__ = ("_command", "_left", "_merge", "_replies")

    def __init__(self, command: _Command, count: int, merge: Callable[[list[Reply]], Reply]) -> None:
        self._command = command
        self._left = count
        self._merge = merge
        self._replies: list[Reply] = [None] * count

    def part(self, number: int) -> "_Part":
        return _Part(self, number)

    def deliver_part(self, number: int, reply: Reply) -> None:
        self._replies[number] = reply
        self._left -= 1
        if not self._left:
            self._command.finish(_PARTLY if self._is_partial() else self._merge(self._replies))

    def _is_partial(self) -> bool:
        """Whether a write says "nothing was applied" in some partitions and not in all."""
        failures = [reply.text for reply in self._replies if isinstance(reply, Failure)]
        undone = sum(text.startswith(_NOTHING_APPLIED) for text in failures)
        return self._command.logged and 0 < undone < len(self._replies)


class _Part:
    __slots__ = ("_gather", "_number")

    def __init__(self, gather: _Gather, number: int) -> None:
        self._gather = gather
        self._number = number

    def deliver(self, reply: Reply) -> None:
        self._gather.deliver_part(self._number, reply)


class _Flight:
    """A batch or a query that has a number and no answer yet."""

    __slots__ = ("batch", "commands", "deadline", "number", "sent_at", "sent_to", "terms")

    def __init__(self, number: int, commands: list[_Command], batch: bytes, deadline: float) -> None:
        self.number = number
        self.commands = commands
        self.batch = batch
        self.deadline = deadline
        self.sent_to = 0
        self.sent_at = 0.0
        self.terms: set[int] = set()
        """Those to whose leaders the batch was sent, and who have not disclaimed it; empty: it did not happen, and
        does not unless it is sent again."""


class _Lane:
    """What this node's clients want of one group."""

    __slots__ = (
        "flights",
        "group",
        "has_session",
        "next_number",
        "next_sequence",
        "open_reads",
        "open_writes",
        "origin",
        "queries",
        "reader",
        "retry_at",
        "session_used_at",
    )

    def __init__(self, group: GroupId, reader: int) -> None:
        self.group = group
        self.reader = reader
        """By which answers to queries of this life of the node are known."""
        self.session_used_at = 0.0
        """When the newest batch, or the opening, was made: by the stamps the session is used later than this."""
        self.leave_session()
        self.next_number = 1
        self.open_writes: list[_Command] = []
        self.open_reads: list[_Command] = []
        self.queries: dict[int, _Flight] = {}
        self.retry_at: float | None = None

    def leave_session(self, origin: int = 0) -> None:
        """Without a session there is nothing but an opening on its way, and `origin` is what that was drawn."""
        self.has_session = False
        self.origin = origin
        self.flights: dict[int, _Flight] = {}

    def begin_session(self, origin: int) -> None:
        self.has_session = True
        self.origin = origin
        self.next_sequence = 1


class Router:
    """All lanes of one node; a `Store` for the keyspace, and `meta` for the *meta* group."""

    def __init__(
        self,
        *,
        slot_table: Sequence[GroupId],
        dispatch: Dispatch,
        new_origin: Callable[[], int],
        now: Callable[[], Instant],
        request_deadline_s: float,
        site: bytes = b"noctule",
    ) -> None:
        self._slot_table = slot_table
        self._dispatch = dispatch
        self._new_origin = new_origin
        self._now = now
        self._deadline_s = request_deadline_s
        self._site = site
        groups = [META_GROUP, *sorted(set(slot_table))]
        self._lanes = {group: _Lane(group, new_origin()) for group in groups}
        self._touched: dict[GroupId, _Lane] = {}
        self._waiting = 0
        self._stopped: Failure | None = None
        self.commands_total = 0
        self.retries_total = 0
        self.meta: Store = _MetaStore(self)

    # The Store -------------------------------------------------------------------------------------------------------

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """As `Store.submit` says, in no order with other commands."""
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
        command = _Command(args, sink, conversation, logged=logged, lease=lease)
        if spec.scope is Scope.KEY and spec.last_key == spec.first_key:
            self._enter(self._slot_table[key_slot(args[spec.first_key])], command)
            return
        if spec.scope not in (Scope.KEY, Scope.SPLIT, Scope.ALL):
            name = args[0].decode("utf-8", "backslashreplace")
            command.finish(Failure(f"ERR command '{name}' is not for the store".encode()))
            return
        spread = fan_out(spec, self._with_site(spec, args), self._slot_table)
        if isinstance(spread, Failure):
            command.finish(spread)
            return
        gather = _Gather(command, len(spread.parts), spread.merge)
        for number, (group, part) in enumerate(spread.parts):
            self._enter(GroupId(group), _Command(part, gather.part(number), None, logged=logged, lease=lease))

    def _with_site(self, spec: CommandSpec, args: list[bytes]) -> list[bytes]:
        """Declaring a bucket names the site under which it changes here: known before it is logged, so that every
        replica takes the same."""
        return [*args, self._site] if spec.name == b"BUCKET.CREATE" and len(args) == 3 else args

    def read_eventually(self, spec: CommandSpec, args: list[bytes], sink: ReplySink) -> bool:
        """Answer from this node's own replicas; False when only a leader can."""
        if spec.scope is Scope.KEY:
            parts, merge = [(self._slot_table[key_slot(args[spec.first_key])], args)], None
        else:
            spread = fan_out(spec, args, self._slot_table)
            if isinstance(spread, Failure):
                return False
            parts, merge = [(GroupId(group), part) for group, part in spread.parts], spread.merge
        replies: list[Reply] = []
        for group, part in parts:
            reply = self._dispatch.read_local(group, part)
            if isinstance(reply, ReadOutcome):
                return False
            replies.append(reply)
        sink.deliver(merge(replies) if merge is not None else replies[0])
        return True

    def submit_to_meta(self, args: list[bytes], sink: ReplySink) -> None:
        """Run a command on the *meta* group, whatever its keys."""
        spec = check_command(args)
        if isinstance(spec, Failure):
            sink.deliver(spec)
        else:
            self._enter(META_GROUP, _Command(args, sink, None, logged=spec.is_write))

    def stop(self, reason: str) -> None:
        """Answer whatever waits and whatever comes at once, with the reason: this node can do nothing more for it."""
        self._stopped = Failure(
            f"CLUSTERDOWN this node has stopped ({reason}); nothing was applied, ask another node".encode()
        )
        for lane in self._lanes.values():
            for flight in [*lane.flights.values(), *lane.queries.values()]:
                self._give_up(flight.commands, _UNKNOWN if flight.terms else self._stopped)
            lane.flights.clear()
            lane.queries.clear()
            waiting, lane.open_writes, lane.open_reads = [*lane.open_writes, *lane.open_reads], [], []
            self._give_up(waiting, self._stopped)

    def _enter(self, group: GroupId, command: _Command) -> None:
        if self._stopped is not None:
            command.finish(self._stopped)
            return
        if self._waiting >= COMMANDS_WAITING_MAX:
            command.finish(_OVERLOADED)
            return
        self._waiting += 1
        self.commands_total += 1
        command.deadline = self._now() + self._deadline_s
        lane = self._lanes[group]
        (lane.open_writes if command.logged else lane.open_reads).append(command)
        self._touch(lane)

    def _touch(self, lane: _Lane) -> None:
        """The lane has something to send at the end of this turn."""
        if not self._touched:
            self._dispatch.schedule_turn()
        self._touched[lane.group] = lane

    # Turns -----------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what came in this turn."""
        if not self._touched:
            return
        touched, self._touched = self._touched, {}
        now = self._now()
        for lane in touched.values():
            if lane.open_writes and len(lane.flights) < FLIGHTS_MAX:
                self._flush_writes(lane, now)
            if lane.open_reads and len(lane.queries) < FLIGHTS_MAX:
                end = _end_of_batch(lane.open_reads, 0)
                commands, lane.open_reads = lane.open_reads[:end], lane.open_reads[end:]
                self._send_reads(lane, commands, now)

    def _flush_writes(self, lane: _Lane, now: float) -> None:
        if not lane.flights and not (lane.has_session and now - lane.session_used_at <= SESSION_IDLE_S_MAX):
            lane.leave_session(self._new_origin())
            opening = _Flight(OPENING, [], encode_opening(lane.origin), now + self._deadline_s)
            lane.flights[OPENING] = opening
            lane.session_used_at = now
            self._send(lane, opening, now, is_write=True)
        elif lane.has_session:
            lane.session_used_at = now
            self._send_writes(lane, now)

    def _send_reads(self, lane: _Lane, commands: list[_Command], now: float) -> None:
        flight = _Flight(lane.next_number, commands, b"", now + self._deadline_s)
        lane.next_number += 1
        lane.queries[flight.number] = flight
        self._send(lane, flight, now, is_write=False)

    def _send_writes(self, lane: _Lane, now: float) -> None:
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
            flight = _Flight(sequence, taken, batch, now + self._deadline_s)
            lane.flights[sequence] = flight
            self._send(lane, flight, now, is_write=True)

    def _send(self, lane: _Lane, flight: _Flight, now: float, *, is_write: bool) -> None:
        leader, term = self._dispatch.leader_of(lane.group)
        sent = False
        # Noted before: this very node may refuse while the flight is handed over, and then it is to be sent again.
        flight.sent_to, flight.sent_at = leader, now
        if leader and is_write:
            was_asked = term in flight.terms
            flight.terms.add(term)
            sent = self._dispatch.dispatch_write(leader, lane.group, term, lane.origin, flight.number, flight.batch)
            if not sent and not was_asked:
                flight.terms.discard(term)
        elif leader:
            commands = [command.args for command in flight.commands]
            # One that must be confirmed by a majority has the others of its query confirmed with it.
            lease = all(command.lease for command in flight.commands)
            sent = self._dispatch.dispatch_query(leader, lane.group, lane.reader, flight.number, commands, lease=lease)
        if not sent:
            flight.sent_to = 0
            self._retry(lane, now)

    def _retry(self, lane: _Lane, now: float) -> None:
        if lane.retry_at is None:
            lane.retry_at = now + RETRY_DELAY_S

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
        if is_write and number == OPENING:
            match results:
                case [int(session)]:
                    lane.begin_session(session)
        elif is_write and EXPIRED in results:
            self._begin_again(lane)
        for command, result in zip(flight.commands, results, strict=False):
            self._waiting -= 1
            command.finish(result)

    def _lane(self, group: GroupId, origin: int, *, is_write: bool) -> _Lane | None:
        """The lane that awaits this; None when it came too late, or for an earlier life of this node."""
        lane = self._lanes.get(group)
        if lane is None or (lane.origin if is_write else lane.reader) != origin:
            return None
        return lane

    def _begin_again(self, lane: _Lane) -> None:
        """The cluster forgot this session: what is on its way has an unknown fate, what comes next needs another."""
        flights = list(lane.flights.values())
        lane.leave_session()
        for flight in flights:
            for command in flight.commands:
                self._waiting -= 1
                command.finish(_UNKNOWN)

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
        lane = self._lanes[group]
        if lane.flights or lane.queries:
            lane.retry_at = self._now()

    def peer_lost(self, node: int) -> None:
        """What was sent to that node may be lost with it, or may have been taken: only the former is made up for."""
        now = self._now()
        for lane in self._lanes.values():
            for flights in (lane.flights, lane.queries):
                for flight in flights.values():
                    if flight.sent_to == node:
                        flight.sent_to = 0
                        self._retry(lane, now)

    def tick(self) -> None:
        """Try again what is due, give up what is over its deadline."""
        now = self._now()
        for lane in self._lanes.values():
            if not (lane.flights or lane.queries or lane.open_writes or lane.open_reads):
                lane.retry_at = None
                continue
            self._expire(lane, now)
            self._resend(lane, now)

    def _resend(self, lane: _Lane, now: float) -> None:
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

    def _expire(self, lane: _Lane, now: float) -> None:
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
        for flight in lane.flights.values():
            if flight.deadline > now:
                break
            if flight.commands:
                # Its number must be filled, or all that follows would wait for it: by an empty batch. If the first one
                # was applied after all, this one is its retry and changes nothing.
                commands, flight.commands = flight.commands, []
                self._give_up(commands, _UNKNOWN if flight.terms else _NO_LEADER)
                flight.batch = encode_batch(lane.origin, flight.number, next(iter(lane.flights)), [])
                flight.sent_to = 0
                self._retry(lane, now)

    def _give_up(self, commands: list[_Command], failure: Failure) -> None:
        for command in commands:
            self._waiting -= 1
            command.finish(failure)

    @property
    def waiting(self) -> int:
        """Commands without an answer yet."""
        return self._waiting


def _end_of_batch(commands: list[_Command], start: int) -> int:
    """Where the batch that begins at `start` ends, exclusive: at the target size, after one command at least."""
    size, end = 0, start
    while end < len(commands) and (size < BATCH_BYTES_TARGET or end == start):
        size += sum(map(len, commands[end].args))
        end += 1
    return end


class _MetaStore:
    """The *meta* group as a `Store`."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """Reads are linearizable whatever is asked."""
        del consistency
        self._router.submit_to_meta(args, sink)

    def conversation(self) -> "_MetaStore":
        """Commands on *meta* are independent."""
        return self
