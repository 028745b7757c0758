"""Leaders as a script tells them, and sinks that keep what they are told."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.keyspace.keyspace import ReadOutcome
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.placement.partition_map import PartitionMap
from noctule.core.placement.slots import key_slot
from noctule.core.replica.batches import OPENING, Batch
from noctule.core.wire.messages import ForwardReads
from noctule.node.router import Router
from tests.unit.node.maps import even_map

PARTITIONS = 4
SLOT_TABLE = even_map(PARTITIONS).slot_table
DEADLINE_S = 10.0
FIRST_DRAWN = 100
NODE = 9


class Written(NamedTuple):
    """A batch that left."""

    to: int
    group: GroupId
    origin: int
    sequence: int
    batch: Batch
    term: int

    @property
    def lines(self) -> list[bytes]:
        """Its commands, each as one line."""
        return [b" ".join(command) for command in self.batch.commands]


class Asked(NamedTuple):
    """A query that left."""

    to: int
    group: GroupId
    origin: int
    number: int
    lines: list[bytes]


class Sink:
    """Keeps one command's reply; a second one is an error."""

    def __init__(self, order: list["Sink"] | None = None) -> None:
        self.replies: list[Reply] = []
        self._order = order

    def deliver(self, reply: Reply) -> None:
        assert not self.replies, "a command has one reply"
        self.replies.append(reply)
        if self._order is not None:
            self._order.append(self)


class FakeDispatch:
    """A `Dispatch` that keeps what leaves; leaders, reachability and local answers are a test's to set."""

    def __init__(
        self,
        *,
        deadline_s: float = DEADLINE_S,
        partitions: PartitionMap | None = None,
        keeps_leases: bool = True,
        acknowledges_early: bool = False,
    ) -> None:
        self.node_id = NODE
        self.now = Instant(0.0)
        self.leaders: dict[GroupId, int] = dict.fromkeys((META_GROUP, *SLOT_TABLE), 1)
        self.away: set[int] = set()
        """Nodes to which nothing leaves."""
        self.writes: list[Written] = []
        self.queries: list[Asked] = []
        self.reads: list[tuple[int, ForwardReads]] = []
        """What was asked of a node for several groups."""
        self.leases: list[bool] = []
        """Of each query, whether the leader's lease will do."""
        self.local: dict[bytes, Reply | ReadOutcome] = {}
        """Line of a command to what this node's own replica answers."""
        self.while_dispatching: Callable[[GroupId, int, int], None] | None = None
        """Called with group, origin and sequence while a batch is handed over."""
        self.opens_sessions = True
        """Every turn answers the openings that left in it, so that a test sees the batches only."""
        self.terms = dict.fromkeys(self.leaders, 1)
        """Each leader's; a change of leader raises it."""
        self._led_by = dict(self.leaders)
        self.turns_wanted = 0
        self._drawn = iter(range(FIRST_DRAWN - 1, FIRST_DRAWN + 1_000))
        self._sessions = iter(range(1, FIRST_DRAWN))
        self.partitions = even_map(PARTITIONS) if partitions is None else partitions
        self.router = Router(
            partitions=self.partitions,
            dispatch=self,
            new_origin=lambda: next(self._drawn),
            now=lambda: self.now,
            request_deadline_s=deadline_s,
            keeps_leases=keeps_leases,
            acknowledges_early=acknowledges_early,
        )

    def leader_of(self, group: GroupId) -> tuple[int, int]:
        if group not in self._led_by:
            self.lead(group, 1, 1)
        leader = self.leaders[group]
        if leader and leader != self._led_by[group]:
            self.lead(group, leader, self.terms[group] + 1)
        return leader, self.terms[group]

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
        if to in self.away:
            return False
        self.writes.append(Written(to, group, origin, sequence, msgspec.msgpack.decode(batch, type=Batch), term))
        if self.while_dispatching is not None:
            self.while_dispatching(group, origin, sequence)
        return True

    def dispatch_query(
        self, to: int, group: GroupId, origin: int, number: int, commands: list[list[bytes]], *, lease: bool
    ) -> bool:
        if to in self.away:
            return False
        self.leases.append(lease)
        self.queries.append(Asked(to, group, origin, number, [b" ".join(command) for command in commands]))
        return True

    def dispatch_reads(self, to: int, number: int, groups: list[int], commands: list[list[bytes]]) -> bool:
        if to in self.away:
            return False
        self.reads.append((to, ForwardReads(number, groups, commands)))
        return True

    def read_local(self, group: GroupId, command: list[bytes]) -> Reply | ReadOutcome:
        return self.local[b" ".join(command)]

    def read_keys(
        self, slot_table: list[GroupId], commands: list[list[bytes] | Failure], start: int, wall_ms: int
    ) -> list[Reply]:
        assert slot_table == self.partitions.slot_table
        return [wall_ms, *([*args] for args in commands[start:] if not isinstance(args, Failure))]

    def schedule_turn(self) -> None:
        self.turns_wanted += 1

    # What a test does -------------------------------------------------------------------------------------------------

    def lead(self, group: GroupId, leader: int, term: int) -> None:
        """From now on this node leads, in this term."""
        self.leaders[group] = self._led_by[group] = leader
        self.terms[group] = term

    def submit(self, *lines: bytes) -> list[Sink]:
        """Commands in no order with each other, written as lines; nothing has left yet."""
        sinks = []
        for line in lines:
            sinks.append(Sink())
            self.router.submit(line.split(), sinks[-1])
        return sinks

    def turn(self) -> tuple[list[Written], list[Asked]]:
        """End the turn; what left since the last call."""
        self.router.flush()
        if self.opens_sessions:
            openings = [write for write in self.writes if write.sequence == OPENING]
            self.writes = [write for write in self.writes if write.sequence != OPENING]
            for opening in openings:
                self.answer(opening, next(self._sessions))
            self.router.flush()
        return self.taken()

    def open_sessions(self) -> None:
        """Have every lane write once, as a node does that has run for a while."""
        sinks = [Sink() for _ in range(2)]
        self.router.submit([b"FLUSHALL"], sinks[0])
        self.router.submit_to_meta([b"DEL", b"a"], sinks[1])
        for write in self.turn()[0]:
            self.answer(write, OK)
        assert [sink.replies for sink in sinks] == [[OK], [OK]]

    def after(self, seconds: float) -> tuple[list[Written], list[Asked]]:
        """Let time pass, tick and end the turn; what left since the last call."""
        self.now = Instant(self.now + seconds)
        self.router.tick()
        return self.turn()

    def taken(self) -> tuple[list[Written], list[Asked]]:
        """What left since the last call."""
        writes, self.writes = self.writes, []
        queries, self.queries = self.queries, []
        return writes, queries

    def answer(self, request: Written | Asked, *results: Reply) -> None:
        """The leader's answer."""
        is_write = isinstance(request, Written)
        number = request.sequence if isinstance(request, Written) else request.number
        self.router.answered(request.group, request.origin, number, list(results), is_write=is_write)

    def refuse(self, request: Written | Asked, *, disclaimed_term: int = 0) -> None:
        """The leader's refusal."""
        is_write = isinstance(request, Written)
        number = request.sequence if isinstance(request, Written) else request.number
        self.router.refused(request.group, request.origin, number, is_write=is_write, disclaimed_term=disclaimed_term)


def group_of(key: bytes) -> GroupId:
    """The partition of a key."""
    return SLOT_TABLE[key_slot(key)]
