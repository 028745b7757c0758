"""Linearizable reads on their way: one request for each node, in order within a group; the rest goes to the lanes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.consistency import ConsistencyLevel
from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.reply import MOVED, OK, Failure, Reply
from noctule.core.placement.partition_map import Partition
from noctule.core.placement.slots import SLOT_COUNT, key_slot
from noctule.core.roster.features import FEATURES, SHARED_READS
from noctule.core.wire.messages import ForwardReads, ReadsAnswered
from noctule.node import read_lanes
from noctule.node.lanes import RETRY_DELAY_S
from noctule.node.read_lanes import ANSWER_TIMEOUT_S, READS_MAX
from noctule.node.router import RETRY_DELAY_S_MAX

from .fake_dispatch import DEADLINE_S, FIRST_DRAWN, Asked, FakeDispatch, Sink, group_of

ONE, TWO = group_of(b"a"), group_of(b"b")
LATE_S = ANSWER_TIMEOUT_S + 0.01


@pytest.fixture
def node() -> FakeDispatch:
    """Groups are led by node 1; all nodes share reads."""
    node = FakeDispatch()
    node.router.features_changed(frozenset(FEATURES))
    return node


def asked(node: FakeDispatch) -> list[tuple[int, list[bytes]]]:
    """End the turn; the requests that left since the last call, each as the node and its lines. No query did."""
    assert node.turn()[1] == []
    return lines_of(taken(node))


def taken(node: FakeDispatch) -> list[tuple[int, ForwardReads]]:
    requests, node.reads = node.reads, []
    return requests


def lines_of(requests: list[tuple[int, ForwardReads]]) -> list[tuple[int, list[bytes]]]:
    return [(to, [b" ".join(command) for command in message.commands]) for to, message in requests]


def request(node: FakeDispatch) -> tuple[int, ForwardReads]:
    """End the turn; the one request that left."""
    node.turn()
    (only,) = taken(node)
    return only


def answer(node: FakeDispatch, request: tuple[int, ForwardReads], *results: Reply, left: tuple[int, ...] = ()) -> None:
    to, message = request
    node.router.reads_answered(to, ReadsAnswered(message.number, [*results], [*left]))


def replies(sinks: list[Sink]) -> list[list[Reply]]:
    return [sink.replies for sink in sinks]


# One request for each node --------------------------------------------------------------------------------------------


def test_a_turn_s_reads_leave_as_one_request_for_each_node_that_leads(node: FakeDispatch) -> None:
    node.leaders[TWO] = 2
    sinks = node.submit(b"GET a", b"GET b", b"EXISTS a", b"GET {b}x")
    assert (node.turn(), len(node.reads)) == (([], []), 2)
    one, two = taken(node)
    assert lines_of([one, two]) == [(1, [b"GET a", b"EXISTS a"]), (2, [b"GET b", b"GET {b}x"])]
    assert [message.groups for _, message in (one, two)] == [[ONE, ONE], [TWO, TWO]]
    assert one[1].number != two[1].number
    answer(node, two, b"2", None)
    answer(node, one, b"1", 1)
    assert replies(sinks) == [[b"1"], [b"2"], [1], [None]]
    assert node.router.waiting == 0
    assert asked(node) == []


def test_a_turn_is_wanted_once_for_all_reads_of_it(node: FakeDispatch) -> None:
    wanted = node.turns_wanted
    node.submit(b"GET a", b"GET b", b"GET c")
    assert node.turns_wanted == wanted + 1


def test_what_comes_while_a_request_is_on_its_way_leaves_when_that_is_answered(node: FakeDispatch) -> None:
    first = node.submit(b"GET a")
    begun = request(node)
    later = node.submit(b"GET b", b"GET a")
    assert asked(node) == []
    wanted = node.turns_wanted
    answer(node, begun, b"1")
    assert (replies(first), replies(later), node.turns_wanted) == ([[b"1"]], [[], []], wanted + 1)
    assert asked(node) == [(1, [b"GET b", b"GET a"])]


def test_a_slow_node_does_not_hold_up_the_reads_of_another(node: FakeDispatch) -> None:
    node.leaders[TWO] = 2
    node.submit(b"GET a")
    assert asked(node) == [(1, [b"GET a"])]
    node.submit(b"GET a", b"GET b")
    assert asked(node) == [(2, [b"GET b"])]


def test_a_read_that_its_answer_brings_about_is_in_the_next_request(node: FakeDispatch) -> None:
    begun: list[Sink] = []

    class Again(Sink):
        def deliver(self, reply: Reply) -> None:
            super().deliver(reply)
            begun.extend(node.submit(b"GET {a}next"))

    node.router.submit([b"GET", b"a"], Again())
    answer(node, request(node), b"1")
    assert asked(node) == [(1, [b"GET {a}next"])]
    assert node.router.waiting == len(begun) == 1


def test_a_command_over_several_partitions_is_read_beside_others(node: FakeDispatch) -> None:
    node.leaders[TWO] = 2
    sinks = node.submit(b"MGET a b", b"GET a")
    node.turn()
    one, two = taken(node)
    assert lines_of([one, two]) == [(1, [b"MGET a", b"GET a"]), (2, [b"MGET b"])]
    answer(node, one, [b"1"], b"1")
    assert replies(sinks) == [[], [b"1"]]
    answer(node, two, [b"2"])
    assert replies(sinks) == [[[b"1", b"2"]], [b"1"]]
    assert node.router.waiting == 0


def test_a_request_has_no_more_reads_than_are_quickly_answered(node: FakeDispatch) -> None:
    sinks = node.submit(*[b"GET a"] * (READS_MAX + 1))
    first = request(node)
    assert len(first[1].commands) == READS_MAX
    answer(node, first, *[b"1"] * READS_MAX)
    answer(node, request(node), b"2")
    assert replies(sinks) == [[b"1"]] * READS_MAX + [[b"2"]]
    assert node.router.waiting == 0


def test_a_request_ends_at_its_target_size_after_one_read_at_least(
    node: FakeDispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_lanes, "REQUEST_BYTES_TARGET", 100)
    long = b"GET a" + b"x" * 200
    node.submit(long, b"GET b", b"GET c", long, b"GET d")
    assert [request_count(node) for _ in range(3)] == [1, 3, 1]


def request_count(node: FakeDispatch) -> int:
    begun = request(node)
    count = len(begun[1].commands)
    answer(node, begun, *[None] * count)
    return count


# What does not take this way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [frozenset(), frozenset(FEATURES) - {SHARED_READS}])
def test_before_all_nodes_know_it_reads_go_to_their_groups(node: FakeDispatch, features: frozenset[str]) -> None:
    node.router.features_changed(features)
    node.submit(b"GET a", b"GET b")
    assert [query.lines for query in node.turn()[1]] == [[b"GET a"], [b"GET b"]]
    assert node.reads == []


def test_writes_and_reads_by_lease_go_to_their_groups(node: FakeDispatch) -> None:
    node.submit(b"SET a 1")
    sink = Sink()
    node.router.submit([b"GET", b"a"], sink, ConsistencyLevel.STRONG)
    ((write,), (query,)) = node.turn()
    assert (write.lines, query.lines, node.leases, node.reads) == ([b"SET a 1"], [b"GET a"], [True], [])
    node.answer(write, OK)
    node.answer(query, b"1")
    assert (sink.replies, node.router.waiting) == ([b"1"], 0)


def test_without_leases_strong_reads_go_with_the_others() -> None:
    node = FakeDispatch(keeps_leases=False)
    node.router.features_changed(frozenset(FEATURES))
    node.router.submit([b"GET", b"a"], Sink(), ConsistencyLevel.STRONG)
    node.router.flush()
    assert (len(node.reads), node.queries) == (1, [])


def test_where_leaders_acknowledge_early_reads_go_to_their_groups() -> None:
    node = FakeDispatch(acknowledges_early=True)
    node.router.features_changed(frozenset(FEATURES))
    node.submit(b"GET a")
    assert ([query.lines for query in node.turn()[1]], node.reads) == ([[b"GET a"]], [])


def test_a_read_by_lease_does_not_overtake_one_of_its_group_that_is_on_its_way(node: FakeDispatch) -> None:
    """Of one connection the first could else answer what was written after the second had read."""
    conversation, first, second = node.router.conversation(), Sink(), Sink()
    conversation.submit([b"GET", b"a"], first)
    begun = request(node)
    conversation.submit([b"GET", b"a"], second, ConsistencyLevel.STRONG)
    assert node.turn() == ([], [])
    answer(node, begun, b"1")
    answer(node, request(node), b"2")
    assert (first.replies, second.replies) == ([b"1"], [b"2"])


def test_without_a_leader_a_read_waits_in_its_lane(node: FakeDispatch) -> None:
    node.leaders[ONE] = 0
    (sink,) = node.submit(b"GET a")
    assert asked(node) == []
    node.leaders[ONE] = 2
    node.router.leader_changed(ONE)
    (_, (query,)) = node.after(0.0)
    node.answer(query, b"1")
    assert (sink.replies, node.router.waiting) == ([b"1"], 0)


def test_while_reads_are_in_the_lane_of_their_group_others_line_up_behind_them(node: FakeDispatch) -> None:
    node.away = {1}
    sinks = node.submit(b"GET a")
    assert asked(node) == []
    node.away = set()
    sinks += node.submit(b"GET {a}2", b"GET b")
    others = request(node)
    assert lines_of([others]) == [(1, [b"GET b"])]
    (_, (query,)) = node.after(RETRY_DELAY_S)
    assert query.lines == [b"GET a"]
    node.answer(query, b"1")
    (_, (query,)) = node.turn()
    assert query.lines == [b"GET {a}2"]
    answer(node, others, b"3")
    sinks += node.submit(b"GET a")
    assert asked(node) == []
    node.answer(query, b"2")
    (_, (query,)) = node.turn()
    node.answer(query, b"4")
    assert replies(sinks) == [[b"1"], [b"2"], [b"3"], [b"4"]]
    node.submit(b"GET a")
    assert asked(node) == [(1, [b"GET a"])]
    assert node.router.waiting == 1


# Left -----------------------------------------------------------------------------------------------------------------


def test_what_is_left_goes_to_its_group_with_all_that_waits_behind_it_in_order(node: FakeDispatch) -> None:
    first = node.submit(b"GET {a}1", b"GET {b}1", b"GET {a}2", b"GET {b}2")
    begun = request(node)
    behind = node.submit(b"GET {a}3", b"GET {b}3", b"GET {a}4")
    answer(node, begun, None, b"b1", None, b"b2", left=(0, 2))
    behind += node.submit(b"GET {a}5", b"GET {b}4")
    (_, (query,)) = node.turn()
    assert (query.group, query.lines) == (ONE, [b"GET {a}%d" % number for number in range(1, 6)])
    others = taken(node)
    assert lines_of(others) == [(1, [b"GET {b}3", b"GET {b}4"])]
    answer(node, others[0], b"b3", b"b4")
    node.answer(query, *[b"a%d" % number for number in range(1, 6)])
    assert replies(first) == [[b"a1"], [b"b1"], [b"a2"], [b"b2"]]
    assert replies(behind) == [[b"a3"], [b"b3"], [b"a4"], [b"a5"], [b"b4"]]
    assert node.router.waiting == 0


def test_after_a_read_was_left_its_group_s_leader_is_looked_for_anew(node: FakeDispatch) -> None:
    node.submit(b"GET a")
    answer(node, request(node), None, left=(0,))
    node.leaders[ONE] = 2
    (_, (query,)) = node.turn()
    assert query.to == 2
    node.answer(query, b"1")
    node.submit(b"GET a")
    assert asked(node) == [(2, [b"GET a"])]


def test_what_a_partition_does_not_have_any_more_is_found_where_it_is(node: FakeDispatch) -> None:
    """The leader leaves it; its group says where it is not."""
    (sink,) = node.submit(b"GET a")
    answer(node, request(node), None, left=(0,))
    (_, (query,)) = node.turn()
    node.partitions.put(Partition(GroupId(9), 0, SLOT_COUNT - 1, (1,)))
    node.router.map_changed([GroupId(9), *node.partitions.partitions])
    node.answer(query, MOVED)
    (_, (query,)) = node.turn()
    assert query.group == node.partitions.slot_table[key_slot(b"a")]
    node.answer(query, b"1")
    assert (sink.replies, node.router.waiting) == ([b"1"], 0)


# Lost, late, given up -------------------------------------------------------------------------------------------------


def given_up(node: FakeDispatch, sinks: list[Sink], *lines: bytes) -> None:
    """These reads are in the lanes now, and answered there, each once."""
    (_, queries) = node.turn()
    assert [line for query in queries for line in query.lines] == [*lines]
    assert node.reads == []
    for query in queries:
        node.answer(query, *[b"from " + line for line in query.lines])
    assert sorted(map(str, replies(sinks))) == sorted(str([b"from " + line]) for line in lines)
    assert node.router.waiting == 0


def test_when_another_leads_one_of_its_groups_a_request_is_not_waited_for(node: FakeDispatch) -> None:
    sinks = node.submit(b"GET a", b"GET b")
    begun = request(node)
    sinks += node.submit(b"GET {a}2")
    node.leaders[ONE] = 2
    node.router.leader_changed(ONE)
    answer(node, begun, b"late", b"late")
    given_up(node, sinks, b"GET a", b"GET {a}2", b"GET b")
    node.submit(b"GET a", b"GET b")
    assert asked(node) == [(2, [b"GET a"]), (1, [b"GET b"])]


def test_a_leader_of_a_group_that_nobody_reads_changes_nothing(node: FakeDispatch) -> None:
    (sink,) = node.submit(b"GET a")
    begun = request(node)
    node.router.leader_changed(TWO)
    answer(node, begun, b"1")
    assert sink.replies == [b"1"]


def test_what_was_asked_of_a_node_that_is_lost_is_asked_of_its_groups(node: FakeDispatch) -> None:
    node.leaders[TWO] = 2
    sinks = node.submit(b"GET a")
    (other,) = node.submit(b"GET b")
    node.turn()
    begun, kept = taken(node)
    sinks += node.submit(b"GET {a}2")
    node.router.peer_lost(1)
    answer(node, begun, b"late")
    answer(node, kept, b"2")
    assert other.replies == [b"2"]
    given_up(node, sinks, b"GET a", b"GET {a}2")


def test_reads_that_had_not_left_when_their_node_was_lost_are_asked_of_their_groups(node: FakeDispatch) -> None:
    sinks = node.submit(b"GET a")
    node.router.peer_lost(1)
    given_up(node, sinks, b"GET a")


def test_a_node_that_was_lost_is_not_asked_by_habit(node: FakeDispatch) -> None:
    node.leaders[TWO] = 2
    for line in (b"GET a", b"GET b"):
        node.submit(line)
        answer(node, request(node), None)
    node.router.peer_lost(1)
    node.leaders[ONE] = 3
    node.submit(b"GET a", b"GET b")
    assert asked(node) == [(3, [b"GET a"]), (2, [b"GET b"])]


def test_a_request_that_cannot_leave_goes_to_the_groups_in_the_same_turn(node: FakeDispatch) -> None:
    node.leaders[TWO] = 2
    node.away = {1}
    sinks = node.submit(b"GET a", b"GET b")
    node.turn()
    assert lines_of(taken(node)) == [(2, [b"GET b"])]
    node.away = set()
    (_, (query,)) = node.after(RETRY_DELAY_S)
    node.answer(query, b"1")
    assert replies(sinks) == [[b"1"], []]


def test_a_request_without_an_answer_is_given_up_in_time_and_what_waits_behind_it(node: FakeDispatch) -> None:
    sinks = node.submit(b"GET a")
    begun = request(node)
    sinks += node.submit(b"GET b")
    assert node.after(ANSWER_TIMEOUT_S / 2) == ([], [])
    node.now = Instant(node.now + LATE_S)
    node.router.tick()
    answer(node, begun, b"late")
    given_up(node, sinks, b"GET a", b"GET b")
    node.leaders[ONE] = 2
    node.submit(b"GET a")
    assert asked(node) == [(2, [b"GET a"])]


@pytest.mark.parametrize("results", [(), (b"1",), (b"1", b"2", b"3")])
def test_an_answer_of_another_length_is_none(node: FakeDispatch, results: tuple[bytes, ...]) -> None:
    sinks = node.submit(b"GET a", b"GET b")
    begun = request(node)
    answer(node, begun, *results)
    assert replies(sinks) == [[], []]
    node.now = Instant(node.now + LATE_S)
    node.router.tick()
    given_up(node, sinks, b"GET a", b"GET b")


@pytest.mark.parametrize("distance", [-1, 1, -(1 << 40)])
def test_an_answer_to_another_request_or_life_is_no_news(node: FakeDispatch, distance: int) -> None:
    (sink,) = node.submit(b"GET a")
    begun = request(node)
    node.router.reads_answered(1, ReadsAnswered(begun[1].number + distance, [b"other"]))
    node.router.reads_answered(2, ReadsAnswered(begun[1].number, [b"other"]))
    assert sink.replies == []
    answer(node, begun, b"1")
    answer(node, begun, b"doubled")
    assert (sink.replies, node.router.waiting) == ([b"1"], 0)


def test_two_lives_of_a_node_number_their_requests_apart(node: FakeDispatch) -> None:
    node.submit(b"GET a")
    assert request(node)[1].number == FIRST_DRAWN


def test_a_read_that_nobody_answers_is_given_up_at_its_deadline(node: FakeDispatch) -> None:
    sinks = node.submit(b"GET a")
    node.turn()
    for _ in range(int(2 * DEADLINE_S / LATE_S) + 2):
        node.after(LATE_S)
        if all(replies(sinks)):
            break
    (reply,) = sinks[0].replies
    assert isinstance(reply, Failure)
    assert reply.text.startswith(b"CLUSTERDOWN")
    assert node.router.waiting == 0


def test_when_the_map_changes_reads_go_to_their_groups_and_nothing_is_lost(node: FakeDispatch) -> None:
    sinks = node.submit(b"GET a")
    begun = request(node)
    sinks += node.submit(b"GET b")
    node.router.map_changed([])
    answer(node, begun, b"late")
    given_up(node, sinks, b"GET a", b"GET b")


def test_a_node_that_stops_answers_every_read_with_the_reason(node: FakeDispatch) -> None:
    sinks = node.submit(b"GET a")
    begun = request(node)
    sinks += node.submit(b"GET b")
    node.router.stop("disk")
    for sink in sinks:
        (reply,) = sink.replies
        assert isinstance(reply, Failure)
        assert reply.text.startswith(b"CLUSTERDOWN this node has stopped (disk)")
    answer(node, begun, b"late")
    assert node.router.waiting == 0


# Withdrawn ------------------------------------------------------------------------------------------------------------


def test_a_read_can_be_taken_back_until_it_leaves(node: FakeDispatch) -> None:
    sinks = [Sink(), Sink(), Sink()]
    first, second = (node.router.attempt([b"GET", b"a"], sink) for sink in sinks[:2])
    assert node.router.withdraw(first)
    assert not node.router.withdraw(first)
    begun = request(node)
    assert lines_of([begun]) == [(1, [b"GET a"])]
    assert not node.router.withdraw(second)
    third = node.router.attempt([b"GET", b"{a}3"], sinks[2])
    assert node.router.withdraw(third)
    answer(node, begun, b"1")
    assert asked(node) == []
    assert (replies(sinks), node.router.waiting) == ([[], [b"1"], []], 0)


def test_a_read_that_was_left_can_be_taken_back_from_its_lane(node: FakeDispatch) -> None:
    sink = Sink()
    command = node.router.attempt([b"GET", b"a"], sink)
    answer(node, request(node), None, left=(0,))
    assert node.router.withdraw(command)
    assert (node.turn(), sink.replies, node.router.waiting) == (([], []), [], 0)


# The law --------------------------------------------------------------------------------------------------------------

KEYS = (b"a", b"b")
PLACES = st.integers(0, 3)
READS = st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), min_size=1, max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), READS),
        st.tuples(st.just("answer_request"), PLACES, st.sets(PLACES, max_size=2)),
        st.tuples(st.just("answer_query"), PLACES),
        st.one_of(
            st.tuples(st.just("lead"), st.sampled_from(KEYS), st.sampled_from([0, 1, 2])),
            st.tuples(st.just("lose"), st.sampled_from([1, 2])),
            st.tuples(st.just("wait")),
            st.tuples(st.just("change_map")),
        ),
    ),
    min_size=6,
    max_size=30,
)


class Traffic:
    """Reads under everything that happens to them. Answers come late and again, but those of an end come at last."""

    def __init__(self) -> None:
        self.node = FakeDispatch()
        self.node.router.features_changed(frozenset(FEATURES))
        self.answered: list[Sink] = []
        self.sinks: dict[bytes, list[Sink]] = {key: [] for key in KEYS}
        self.requests: list[tuple[int, ForwardReads]] = []
        self.queries: list[Asked] = []

    def submit(self, reads: list[tuple[bytes, bool]]) -> None:
        for key, by_lease in reads:
            sink = Sink(self.answered)
            self.sinks[key].append(sink)
            level = ConsistencyLevel.STRONG if by_lease else ConsistencyLevel.LINEARIZABLE
            self.node.router.submit([b"GET", key], sink, level)
        self.turn()

    def turn(self) -> None:
        self.queries += self.node.turn()[1]
        self.requests += taken(self.node)

    def answer_request(self, place: int, left: set[int]) -> None:
        """As a leader does: behind a read that is left all of its group are."""
        if self.requests:
            to, message = self.requests[-1 - place % len(self.requests)]
            groups, gone = message.groups, set[int]()
            for at, group in enumerate(groups):
                if at in left:
                    gone.add(group)
                if group in gone:
                    left.add(at)
            places = tuple(sorted(at for at in left if at < len(groups)))
            answer(self.node, (to, message), *[b"1"] * len(groups), left=places)
            self.turn()

    def answer_query(self, place: int) -> None:
        if self.queries:
            query = self.queries[-1 - place % len(self.queries)]
            self.node.answer(query, *[b"1"] * len(query.lines))
            self.turn()

    def lead(self, key: bytes, leader: int) -> None:
        self.node.leaders[group_of(key)] = leader
        if leader:
            self.node.router.leader_changed(group_of(key))

    def lose(self, peer: int) -> None:
        self.node.router.peer_lost(peer)

    def wait(self) -> None:
        self.queries += self.node.after(LATE_S)[1]

    def change_map(self) -> None:
        self.node.router.map_changed([])

    def end(self) -> None:
        self.node.leaders = dict.fromkeys(self.node.leaders, 1)
        for _ in range(10):
            self.queries += self.node.after(RETRY_DELAY_S_MAX)[1]
            self.turn()
            for place in range(len(self.requests)):
                self.answer_request(place, set())
            for place in range(len(self.queries)):
                self.answer_query(place)


@given(STEPS)
def test_every_read_is_answered_once_and_in_order_within_its_group(steps: list[tuple[str, ...]]) -> None:
    assert len({group_of(key) for key in KEYS}) == len(KEYS)
    traffic = Traffic()
    for name, *arguments in steps:
        getattr(traffic, name)(*arguments)
    traffic.end()
    assert traffic.node.router.waiting == 0
    for sinks in traffic.sinks.values():
        assert [sink for sink in traffic.answered if sink in sinks] == sinks
