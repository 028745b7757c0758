"""Partitions are divided and joined under a router: order holds on every key, and every command has one answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.ids import GroupId
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import MOVED, Reply
from noctule.core.keyspace.within import slots_of
from noctule.core.placement.partition_map import Partition, PartitionMap
from noctule.core.placement.slots import SLOT_COUNT, key_slot
from noctule.core.replica.client_sessions import ClientSessions, Verdict
from noctule.node import router as router_module
from noctule.node.lanes import RETRY_DELAY_S
from noctule.node.router import ANSWER_TIMEOUT_S, MOVED_RETRY_S

from .fake_dispatch import Asked, FakeDispatch, Sink, Written
from .test_conversation import NOW_MS, expected, say

TAGS = (b"{b}", b"{c}", b"{d}", b"{a}")
"""In the order of their slots, far from each other."""
CUTS = [0, *(key_slot(tag) for tag in TAGS[1:])]
"""Where partitions may begin: each has one tag at least."""


class World:
    """The partitions as they are, which the router's map follows later, and a network that a script rules."""

    def __init__(self, partition_count: int) -> None:
        self.truth: dict[GroupId, tuple[int, int]] = {}
        """First and last slot of the partitions that serve."""
        self.changes: list[tuple[Partition | GroupId, ...]] = []
        """Of the map, which the router has not heard of."""
        self.fenced: tuple[GroupId, GroupId, tuple[int, int]] | None = None
        """The left and the right one of a merge, and the slots of the right one."""
        self.newest = partition_count
        bounds = [*CUTS[:partition_count], SLOT_COUNT]
        partitions = PartitionMap()
        for number in range(partition_count):
            group = GroupId(number + 1)
            self.truth[group] = bounds[number], bounds[number + 1] - 1
            partitions.put(Partition(group, *self.truth[group], (1,)))
        self.node = FakeDispatch(deadline_s=1e9, partitions=partitions)
        self.node.opens_sessions = False
        self.requests: list[Written | Asked] = []
        self.answers: list[tuple[Written | Asked, list[Reply]]] = []
        self.keyspace = Keyspace()
        """Of all partitions: a slot has one owner at any time."""
        self.sessions: dict[GroupId, ClientSessions] = {}
        self.moved = 0

    def collect(self) -> None:
        writes, queries = self.node.turn()
        self.requests += [*writes, *queries]

    def step(self, number: int, what: str) -> None:
        requests, answers = self.requests, self.answers
        match what:
            case "time passes":
                self.node.now = type(self.node.now)(
                    self.node.now + (RETRY_DELAY_S, MOVED_RETRY_S, ANSWER_TIMEOUT_S + 0.01)[number % 3]
                )
                self.node.router.tick()
            case "answer arrives" if answers:
                request, results = answers.pop(number % len(answers))
                self.node.answer(request, *results)
            case "answer is lost" if answers:
                answers.pop(number % len(answers))
            case "request is doubled" if requests:
                requests.append(requests[number % len(requests)])
            case "request is lost" if requests:
                requests.pop(number % len(requests))
            case "request is refused" if requests:
                self.node.refuse(requests.pop(number % len(requests)))
            case "request arrives" if requests:
                self._execute(requests.pop(number % len(requests)))
            case "split" if self.fenced is None:
                self._split(number)
            case "merge begins" if self.fenced is None and len(self.truth) > 1:
                left, right = sorted(self.truth, key=self.truth.__getitem__)[number % (len(self.truth) - 1) :][:2]
                self.fenced = left, right, self.truth.pop(right)
            case "merge is aborted" if self.fenced is not None:
                _, right, slots = self.fenced
                self.truth[right], self.fenced = slots, None
            case "merge ends" if self.fenced is not None:
                left, right, (_, last) = self.fenced
                self.truth[left], self.fenced = (self.truth[left][0], last), None
                self.changes.append((right, Partition(left, *self.truth[left], (1,))))
            case "map arrives" if self.changes:
                self._follow()
        self.collect()

    def _split(self, number: int) -> None:
        cuts = [
            (group, cut) for group, (first, last) in sorted(self.truth.items()) for cut in CUTS if first < cut <= last
        ]
        if cuts:
            parent, cut = cuts[number % len(cuts)]
            first, last = self.truth[parent]
            self.newest += 1
            child = GroupId(self.newest)
            self.truth[parent], self.truth[child] = (first, cut - 1), (cut, last)
            self.changes.append((Partition(parent, first, cut - 1, (1,)), Partition(child, cut, last, (1,))))

    def _follow(self) -> None:
        changed = []
        for change in self.changes.pop(0):
            if isinstance(change, Partition):
                self.node.partitions.put(change)
                changed.append(GroupId(change.id))
            else:
                self.node.partitions.remove(change)
                changed.append(change)
        self.node.router.map_changed(changed)

    def _execute(self, request: Written | Asked) -> None:
        held = range(0)
        if request.group in self.truth:
            first, last = self.truth[request.group]
            held = range(first, last + 1)

        def execute(args: list[bytes]) -> Reply:
            if not all(slot in held for slot in slots_of(args)):
                self.moved += 1
                return MOVED
            return self.keyspace.execute(args, NOW_MS)

        if isinstance(request, Asked):
            self.answers.append((request, [execute(line.split()) for line in request.lines]))
            return
        sessions = self.sessions.setdefault(request.group, ClientSessions())
        applied = sessions.apply(request.batch, NOW_MS, execute)
        if isinstance(applied, Verdict):
            self.node.refuse(request)
        else:
            self.answers.append((request, applied))

    def settle(self) -> None:
        """From now on everything arrives, the newest first but every third time: nothing is held back for ever."""
        self.step(0, "merge ends")
        for number in range(3_000):
            if not self.requests and not self.answers and not self.changes and not self.node.router.waiting:
                return
            self.step(-1 if number % 3 else 0, "answer arrives" if self.answers else "request arrives")
            if number % 10 == 0:
                self.step(number // 10, "time passes")
            if number % 50 == 0:
                self.step(0, "map arrives")
        raise AssertionError("something is never answered")


EVENTS = (
    *["answer arrives", "request arrives"] * 2,
    *["split", "merge begins", "merge ends", "map arrives", "map arrives", "time passes"],
    *["request is doubled", "request is lost", "request is refused", "answer is lost", "merge is aborted"],
)


@st.composite
def lines(draw: st.DrawFn, connection: int, *, alone: bool) -> bytes:
    """One command of a connection on keys of its own, or, if there is no other, on all keys."""
    key, other = (tag + b"%d" % connection for tag in draw(st.permutations(TAGS))[:2])
    value = b"%d" % draw(st.integers(0, 99))
    commands = [
        *[b"SET %b %b" % (key, value), b"GET %b" % key, b"APPEND %b %b" % (key, value)],
        *[b"MSET %b %b %b %b" % (key, value, other, value), b"MGET %b %b" % (key, other), b"DEL %b %b" % (key, other)],
        b"TOGETHER %b %b.2 %b.3" % (key, key, key),
    ]
    if alone:
        commands += [b"DBSIZE", b"FLUSHALL", b"EXISTS %b %b" % (key, other)]
    return draw(st.sampled_from(commands))


def scripts(connections: int) -> st.SearchStrategy[list[tuple[int, bytes | str]]]:
    return st.lists(
        st.one_of(
            st.integers(0, connections - 1).flatmap(
                lambda connection: st.tuples(st.just(connection), lines(connection, alone=connections == 1))
            ),
            st.tuples(st.integers(0, 20), st.sampled_from(EVENTS)),
        ),
        max_size=80,
    )


SCRIPTS = st.integers(1, 2).flatmap(lambda count: st.tuples(st.just(count), scripts(count)))


@given(SCRIPTS, st.integers(1, 3), st.sampled_from([1, router_module.BATCH_BYTES_TARGET]))
def test_each_connection_sees_its_commands_in_order_whatever_moves(
    script: tuple[int, list[tuple[int, bytes | str]]], partition_count: int, batch_bytes_target: int
) -> None:
    """Lost, doubled, refused and reordered messages and late maps: replies are those of a server with one client."""
    count, steps = script
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(router_module, "BATCH_BYTES_TARGET", batch_bytes_target)  # The small one: a batch each.
        patch.setattr(router_module, "GONE_S_MAX", 1e9)  # Retries are answered by partitions that are no more.
        world = World(partition_count)
        connections = [world.node.router.conversation() for _ in range(count)]
        programs: list[list[bytes]] = [[] for _ in range(count)]
        sinks: list[list[Sink]] = [[] for _ in range(count)]
        said = 0
        for number, what in steps:
            if isinstance(what, bytes):
                programs[number].append(what)
                sinks[number] += say(connections[number], what)
                said += 1
                if said % 3 == 0:
                    world.collect()
            else:
                world.step(number, what)
        world.collect()
        world.settle()
    for program, delivered in zip(programs, sinks, strict=True):
        assert [sink.replies for sink in delivered] == [[reply] for reply in expected(program)]
    assert world.node.router.waiting == 0
