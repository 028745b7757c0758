"""The router: batches, retries that keep their number, deadlines that tell the truth, bounds."""

from collections.abc import Sequence

import pytest

from noctule.base.ids import META_GROUP
from noctule.core.keyspace.keyspace import ReadOutcome
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.replica.client_sessions import EXPIRED
from noctule.node import router as router_module
from noctule.node.api import Consistency
from noctule.node.router import ANSWER_TIMEOUT_S, ANSWER_TOO_LARGE, RETRY_DELAY_S

from .fake_dispatch import DEADLINE_S, SLOT_TABLE, Asked, FakeDispatch, Sink, Written, group_of

ONE, TWO = group_of(b"a"), group_of(b"b")
NO_LEADER = Failure(b"CLUSTERDOWN no leader for this partition was found in time; nothing was applied")
UNKNOWN = Failure(b"UNKNOWN no answer came in time; the command may or may not have been applied")


@pytest.fixture
def node() -> FakeDispatch:
    assert ONE != TWO
    return FakeDispatch()


def replies(sinks: list[Sink]) -> list[list[Reply]]:
    return [sink.replies for sink in sinks]


# Batches --------------------------------------------------------------------------------------------------------------


def test_a_turn_s_commands_leave_as_one_batch_and_one_query_for_each_lane(node: FakeDispatch) -> None:
    """A frame, an entry and a sync for each command are what makes Python slow."""
    sinks = node.submit(b"SET a 1", b"GET a", b"SET b 2", b"INCR {a}x", b"GET {a}x")
    assert node.taken() == ([], [])  # The turn has not ended.
    assert node.turns_wanted == 1
    (first, second), (query,) = node.turn()
    assert (first.group, first.sequence, first.lines) == (ONE, 1, [b"SET a 1", b"INCR {a}x"])
    assert (second.group, second.sequence, second.lines) == (TWO, 1, [b"SET b 2"])
    assert (query.group, query.lines) == (ONE, [b"GET a", b"GET {a}x"])
    assert first.origin != second.origin
    node.answer(query, b"old", None)
    node.answer(second, OK)
    node.answer(first, OK, 1)
    assert replies(sinks) == [[OK], [b"old"], [OK], [1], [None]]
    assert node.router.waiting == 0
    assert node.turn() == ([], [])


def test_what_comes_while_a_batch_is_on_its_way_gathers(node: FakeDispatch) -> None:
    """A busy lane sends larger batches instead of more of them."""
    node.submit(b"SET a 1", b"GET a")
    (batch,), (query,) = node.turn()
    for number in (2, 3):
        node.submit(b"SET a %d" % number, b"GET a")
        assert node.turn() == ([], [])
    node.answer(batch, OK)
    node.answer(query, None)
    (batch,), (query,) = node.turn()
    assert (batch.sequence, batch.batch.acknowledged_below, batch.lines) == (2, 2, [b"SET a 2", b"SET a 3"])
    assert query.lines == [b"GET a", b"GET a"]


def test_a_batch_is_cut_at_its_target_size_and_its_pieces_are_in_order(
    node: FakeDispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that writes megabytes in one turn must not make an entry over the bound."""
    monkeypatch.setattr(router_module, "BATCH_BYTES_TARGET", 100)
    large = b"SET a " + b"x" * 200
    node.submit(b"SET a 1", large, b"SET a 2", b"SET a 3", large, large)
    writes, _ = node.turn()
    assert [(each.sequence, each.batch.acknowledged_below) for each in writes] == [(1, 1), (2, 1), (3, 1)]
    assert [len(each.lines) for each in writes] == [2, 3, 1]
    assert [line for each in writes for line in each.lines] == [b"SET a 1", large, b"SET a 2", b"SET a 3", large, large]


def test_the_target_is_a_mebibyte(node: FakeDispatch) -> None:
    node.submit(*[b"SET a " + b"x" * (300 << 10)] * 5)
    assert [len(each.lines) for each in node.turn()[0]] == [4, 1]


# Refused, lost, late --------------------------------------------------------------------------------------------------


def test_a_refused_batch_is_sent_again_under_its_number_to_whoever_leads(node: FakeDispatch) -> None:
    (sink,) = node.submit(b"INCR a")
    (batch,), _ = node.turn()
    node.refuse(batch)
    assert node.after(RETRY_DELAY_S / 2) == ([], [])  # An election takes a moment.
    node.leaders[ONE] = 2
    ((again,), _) = node.after(RETRY_DELAY_S)
    assert again == Written(2, ONE, batch.origin, batch.sequence, batch.batch)
    node.answer(again, 1)
    assert sink.replies == [1]
    assert node.router.retries_total == 1


def test_a_refusal_sends_all_from_there_on_again_in_order(node: FakeDispatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second batch arrived without the first: what followed it was refused, too, or will be."""
    monkeypatch.setattr(router_module, "BATCH_BYTES_TARGET", 1)
    sinks = node.submit(b"SET a 1", b"SET a 2", b"SET a 3")
    writes, _ = node.turn()
    node.refuse(writes[1])
    assert node.after(RETRY_DELAY_S) == (writes[1:], [])
    for each in writes:
        node.answer(each, OK)
    assert replies(sinks) == [[OK]] * 3


def test_a_change_of_leader_does_not_wait_for_the_delay(node: FakeDispatch) -> None:
    node.leaders[ONE] = 0
    node.submit(b"SET a 1", b"GET a")
    assert node.turn() == ([], [])
    node.leaders[ONE] = 3
    node.router.leader_changed(ONE)
    (batch,), (query,) = node.after(0.0)
    assert (batch.to, query.to) == (3, 3)


def test_what_is_on_its_way_is_not_doubled_by_a_change_of_leader(node: FakeDispatch) -> None:
    node.submit(b"SET a 1")
    node.turn()
    node.router.leader_changed(ONE)
    assert node.after(RETRY_DELAY_S) == ([], [])


def test_a_lost_peer_is_not_waited_for(node: FakeDispatch) -> None:
    """Waiting for the answer's timeout made every failover two seconds long."""
    node.leaders[ONE] = 2
    node.submit(b"SET a 1", b"GET a", b"SET b 1")
    (batch, _), (query,) = node.turn()
    node.leaders[ONE] = 3
    node.router.peer_lost(2)
    again, asked_again = node.after(RETRY_DELAY_S)
    assert again == [batch._replace(to=3)]  # The other lane's leader is another node.
    assert asked_again == [query._replace(to=3)]


def test_a_peer_to_which_nothing_leaves_is_tried_again(node: FakeDispatch) -> None:
    node.away = {1}
    (sink,) = node.submit(b"SET a 1")
    assert node.turn() == ([], [])
    assert node.after(RETRY_DELAY_S) == ([], [])
    node.away = set()
    ((batch,), _) = node.after(RETRY_DELAY_S)
    node.answer(batch, OK)
    assert sink.replies == [OK]


def test_an_answer_that_does_not_come_is_asked_for_again(node: FakeDispatch) -> None:
    """A frame that was dropped from a full buffer is missed by nobody else."""
    node.submit(b"SET a 1", b"GET a")
    first = node.turn()
    assert node.after(ANSWER_TIMEOUT_S - 0.1) == ([], [])
    assert node.after(0.2) == first


def test_a_refusal_while_the_batch_is_handed_over_is_not_forgotten(node: FakeDispatch) -> None:
    """This very node leads and is overloaded: it refuses at once, and the batch counted as sent for two seconds."""
    node.while_dispatching = lambda group, origin, number: node.router.refused(group, origin, number, is_write=True)
    node.submit(b"SET a 1")
    (batch,), _ = node.turn()
    node.while_dispatching = None
    assert node.after(RETRY_DELAY_S) == ([batch], [])


def test_answers_that_nobody_awaits_are_ignored(node: FakeDispatch) -> None:
    (sink,) = node.submit(b"SET a 1")
    (batch,), _ = node.turn()
    node.answer(batch._replace(origin=batch.origin + 50), Failure(b"of another life"))
    node.answer(batch._replace(sequence=9), Failure(b"of another batch"))
    node.answer(batch._replace(group=group_of(b"b")), Failure(b"of another group"))
    assert sink.replies == []
    node.answer(batch, OK)
    node.answer(batch, Failure(b"the second answer to the same batch"))
    node.refuse(batch)
    assert sink.replies == [OK]
    assert node.after(RETRY_DELAY_S) == ([], [])


# Deadlines ------------------------------------------------------------------------------------------------------------


def test_over_its_deadline_a_write_that_never_left_did_not_happen_and_never_will(node: FakeDispatch) -> None:
    """Told "not applied", a client does it again: the first must not come through later."""
    node.leaders[ONE] = 0
    (sink,) = node.submit(b"INCR a")
    node.turn()
    node.after(DEADLINE_S - 0.1)
    assert sink.replies == []
    node.after(0.2)
    assert sink.replies == [NO_LEADER]
    node.leaders[ONE] = 2
    ((void,), _) = node.after(RETRY_DELAY_S)
    assert (void.sequence, void.lines) == (1, [])
    node.submit(b"INCR a")
    assert node.turn() == ([], [])
    node.answer(void)
    ((following,), _) = node.turn()
    assert (following.sequence, following.lines) == (2, [b"INCR a"])


def test_over_its_deadline_a_write_that_left_has_an_unknown_fate(node: FakeDispatch) -> None:
    (sink,) = node.submit(b"INCR a")
    (batch,), _ = node.turn()
    void: list[Written] = []
    for _ in range(int(DEADLINE_S / ANSWER_TIMEOUT_S) + 1):
        void = node.after(ANSWER_TIMEOUT_S + 0.01)[0]
    assert sink.replies == [UNKNOWN]
    assert [(each.origin, each.sequence, each.lines) for each in void] == [(batch.origin, 1, [])]
    node.answer(batch, 1)  # It was applied after all; the void one is then its retry.
    assert sink.replies == [UNKNOWN]
    assert node.router.waiting == 0


def test_a_void_batch_is_sent_until_it_is_answered(node: FakeDispatch) -> None:
    """Its number stands before all that follows."""
    node.submit(b"INCR a")
    (batch,), _ = node.turn()
    node.after(DEADLINE_S + 0.01)
    ((void,), _) = node.after(RETRY_DELAY_S)
    node.refuse(void)
    ((again,), _) = node.after(RETRY_DELAY_S)
    assert again == void
    assert again.sequence == batch.sequence
    assert node.after(ANSWER_TIMEOUT_S + 0.01) == ([again], [])


def test_over_its_deadline_a_read_is_told_that_nothing_happened(node: FakeDispatch) -> None:
    (sink,) = node.submit(b"GET a")
    node.turn()
    node.after(DEADLINE_S + 0.01)
    assert sink.replies == [NO_LEADER]
    assert node.after(RETRY_DELAY_S) == ([], [])


def test_commands_that_wait_behind_others_have_a_deadline_too(node: FakeDispatch) -> None:
    """While a majority was gone, only the first batch of a lane was ever answered; all others waited for ever."""
    node.leaders[ONE] = 0
    node.submit(b"SET a 1", b"GET a")
    node.turn()
    node.after(1.0)
    behind = node.submit(b"SET a 2", b"GET a")
    node.turn()
    node.after(DEADLINE_S - 1.01)
    late = node.submit(b"SET a 3", b"GET a")
    node.turn()
    assert replies(behind) == [[], []]
    node.after(1.02)
    assert replies(behind) == [[NO_LEADER], [NO_LEADER]]
    assert replies(late) == [[], []]
    node.after(DEADLINE_S)
    assert replies(late) == [[NO_LEADER], [NO_LEADER]]
    assert node.router.waiting == 0


def test_reads_behind_one_that_was_given_up_are_asked(node: FakeDispatch) -> None:
    """The query's answer, which would have let them go, was not awaited any more."""
    node.submit(b"GET a")
    node.turn()
    node.after(DEADLINE_S - 1.0)
    (sink,) = node.submit(b"GET {a}x")
    assert node.turn()[1] == []
    (asked,) = [query for query in node.after(1.1)[1] if query.lines == [b"GET {a}x"]]
    node.answer(asked, b"v")
    assert sink.replies == [b"v"]


def test_commands_of_a_node_whose_turns_have_stopped_are_answered_in_time(node: FakeDispatch) -> None:
    """After a failed disk nothing is sent any more; clients must be told, not left hanging."""
    sinks = node.submit(b"SET a 1", b"GET b")
    node.now = type(node.now)(node.now + DEADLINE_S)
    node.router.tick()
    assert replies(sinks) == [[NO_LEADER], [NO_LEADER]]


# Sessions that were forgotten -----------------------------------------------------------------------------------------


def test_a_forgotten_origin_begins_anew_and_owns_up_to_what_was_on_its_way(
    node: FakeDispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_module, "BATCH_BYTES_TARGET", 1)
    sinks = node.submit(b"SET a 1", b"SET a 2")
    first, second = node.turn()[0]
    (waiting,) = node.submit(b"SET a 3")
    node.turn()
    node.answer(first, EXPIRED)
    assert replies(sinks) == [[EXPIRED], [UNKNOWN]]
    ((fresh,), _) = node.turn()
    assert fresh.origin not in (first.origin, 0)
    assert (fresh.sequence, fresh.batch.acknowledged_below, fresh.lines) == (1, 1, [b"SET a 3"])
    node.answer(second, OK)  # Of the old origin: no news.
    node.answer(fresh, OK)
    assert waiting.replies == [OK]
    assert node.router.waiting == 0


# Bounds ---------------------------------------------------------------------------------------------------------------


def test_over_the_bound_commands_are_refused_and_places_come_back(
    node: FakeDispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it a partition without a leader fills the memory of every node."""
    monkeypatch.setattr(router_module, "COMMANDS_WAITING_MAX", 2)
    first, second, third = node.submit(b"SET a 1", b"GET a", b"SET b 1")
    (reply,) = third.replies
    assert isinstance(reply, Failure)
    assert reply.text.startswith(b"OVERLOADED ")
    (batch,), (query,) = node.turn()
    node.answer(batch, OK)
    node.answer(query, None)
    assert replies([first, second]) == [[OK], [None]]
    assert replies(node.submit(b"SET b 1")) == [[]]
    assert node.router.commands_total == 3


@pytest.mark.parametrize(
    ("line", "start"),
    [
        (b"NOSUCH a", b"ERR unknown command"),
        (b"GET", b"ERR wrong number of arguments"),
        (b"NOCTULE.PURGE a", b"ERR unknown command"),
        (b"PING", b"ERR command 'PING' is not for the store"),
        (b"RENAME a b", b"CROSSSLOT"),
    ],
)
def test_what_cannot_run_is_refused_here(node: FakeDispatch, line: bytes, start: bytes) -> None:
    (sink,) = node.submit(line)
    (reply,) = sink.replies
    assert isinstance(reply, Failure)
    assert reply.text.startswith(start)
    assert node.turn() == ([], [])
    assert node.router.waiting == 0


# Several partitions ---------------------------------------------------------------------------------------------------


def answer_all(node: FakeDispatch, requests: Sequence[Written | Asked], values: dict[bytes, Reply]) -> None:
    for request in reversed(requests):  # In another order than they were sent in.
        node.answer(request, *(values[line] for line in request.lines))


def test_a_command_over_several_partitions_gets_one_reply(node: FakeDispatch) -> None:
    (sink,) = node.submit(b"MGET a b {a}x")
    answer_all(node, node.turn()[1], {b"MGET a {a}x": [b"1", b"3"], b"MGET b": [b"2"]})
    assert sink.replies == [[b"1", b"2", b"3"]]


def test_writes_over_several_partitions_are_merged(node: FakeDispatch) -> None:
    set_sink, delete_sink = node.submit(b"MSET a 1 b 2", b"DEL a b")
    writes = node.turn()[0]
    answer_all(node, writes, {b"MSET a 1": OK, b"MSET b 2": OK, b"DEL a": 1, b"DEL b": 1})
    assert (set_sink.replies, delete_sink.replies) == ([OK], [2])


def test_a_command_on_all_partitions_reaches_each_once(node: FakeDispatch) -> None:
    (sink,) = node.submit(b"DBSIZE")
    queries = node.turn()[1]
    assert [query.group for query in queries] == sorted(set(SLOT_TABLE))
    for query in queries:
        node.answer(query, 10)
    assert sink.replies == [10 * len(queries)]


def test_a_part_that_fails_fails_the_command_once_all_parts_are_in(node: FakeDispatch) -> None:
    """Answered at the first failure, the connection's next command could have met the other parts."""
    node.leaders[TWO] = 0
    (sink,) = node.submit(b"MGET a b")
    (query,) = node.turn()[1]
    node.answer(query, [b"1"])
    assert sink.replies == []
    node.after(DEADLINE_S + 0.01)
    assert sink.replies == [NO_LEADER]


def test_a_write_that_happened_in_one_partition_and_not_in_another_says_so(node: FakeDispatch) -> None:
    """The first failure won, and it said "nothing was applied" of a command that was applied by half."""
    node.leaders[TWO] = 0
    half, none = node.submit(b"MSET a 1 b 2", b"MSET b 3 {b}x 4")
    ((batch,), _) = node.turn()
    node.answer(batch, OK)
    node.after(DEADLINE_S + 0.01)
    assert half.replies == [
        Failure(b"UNKNOWN not every partition answered in time; the command may have been applied in part")
    ]
    assert none.replies == [NO_LEADER]


# Eventual reads and meta ----------------------------------------------------------------------------------------------


def test_an_eventual_read_is_answered_here_and_at_once(node: FakeDispatch) -> None:
    node.local = {b"GET a": b"old", b"MGET a {a}x": [b"1", b"3"], b"MGET b": [b"2"]}
    single, several = Sink(), Sink()
    node.router.submit([b"GET", b"a"], single, Consistency.EVENTUAL)
    node.router.submit([b"MGET", b"a", b"b", b"{a}x"], several, Consistency.EVENTUAL)
    assert (single.replies, several.replies) == ([b"old"], [[b"1", b"2", b"3"]])
    assert node.turn() == ([], [])


def test_an_eventual_read_that_only_a_leader_can_answer_goes_there(node: FakeDispatch) -> None:
    """Its key has expired by this node's clock; only the leader's stamp decides."""
    node.local = {b"GET a": ReadOutcome.MUST_LOG}
    sink = Sink()
    node.router.submit([b"GET", b"a"], sink, Consistency.EVENTUAL)
    (query,) = node.turn()[1]
    node.answer(query, None)
    assert sink.replies == [None]


def test_a_write_and_a_linearizable_read_do_not_heed_what_is_here(node: FakeDispatch) -> None:
    node.local = {}
    write, read = Sink(), Sink()
    node.router.submit([b"SET", b"a", b"1"], write, Consistency.EVENTUAL)
    node.router.submit([b"GET", b"a"], read, Consistency.STRONG)
    writes, queries = node.turn()
    assert ([each.lines for each in writes], [each.lines for each in queries]) == ([[b"SET a 1"]], [[b"GET a"]])


def test_meta_takes_any_key_and_no_command_of_the_keyspace_reaches_it(node: FakeDispatch) -> None:
    """What a client writes must never look like a registered service."""
    written, read, wrong = Sink(), Sink(), Sink()
    store = node.router.meta.conversation()
    store.submit([b"MSET", b"a", b"1", b"b", b"2"], written)
    store.submit([b"GET", b"a"], read, Consistency.EVENTUAL)
    store.submit([b"NOSUCH"], wrong)
    (sink,) = node.submit(b"FLUSHALL")
    writes, (query,) = node.turn()
    assert [(each.group, each.lines) for each in writes if each.group == META_GROUP] == [
        (META_GROUP, [b"MSET a 1 b 2"])
    ]
    assert {each.group for each in writes if each.lines == [b"FLUSHALL"]} == set(SLOT_TABLE)
    assert (query.group, query.lines) == (META_GROUP, [b"GET a"])
    for each in writes:
        node.answer(each, OK)
    node.answer(query, b"1")
    assert replies([written, read, sink]) == [[OK], [b"1"], [OK]]
    assert isinstance(wrong.replies[0], Failure)


# A node that has stopped ----------------------------------------------------------------------------------------------


def test_a_stopped_node_answers_at_once_and_says_why(node: FakeDispatch) -> None:
    """Its clients waited the whole deadline, and were then told that there was no leader."""
    sent = node.submit(b"SET a 1", b"GET a")
    node.turn()
    gathered = node.submit(b"SET a 2", b"GET a")
    node.router.stop("No space left on device")
    stopped = Failure(
        b"CLUSTERDOWN this node has stopped (No space left on device); nothing was applied, ask another node"
    )
    assert replies(sent) == [[UNKNOWN], [stopped]]
    assert replies(gathered) == [[stopped], [stopped]]
    assert replies(node.submit(b"SET b 1")) == [[stopped]]
    assert node.router.waiting == 0


def test_a_write_that_was_applied_in_part_is_not_said_to_be_undone(node: FakeDispatch) -> None:
    """MSET over two partitions, one of them without a leader."""
    (sink,) = node.submit(b"MSET a 1 b 2")
    batches, _ = node.turn()
    node.answer(batches[0], OK)
    node.router.stop("disk")
    assert isinstance(sink.replies[0], Failure)
    assert sink.replies[0].text.startswith(b"UNKNOWN")


# Large answers --------------------------------------------------------------------------------------------------------


def test_a_query_whose_answer_outgrows_a_frame_is_asked_in_halves(node: FakeDispatch) -> None:
    """One frame over the bound made the peer close the connection, and every group suspected a healthy node."""
    sinks = node.submit(b"GET a", b"GET {a}1", b"GET {a}2")
    _, (query,) = node.turn()
    node.answer(query, *[ANSWER_TOO_LARGE] * 3)
    _, halves = node.turn()
    assert [half.lines for half in halves] == [[b"GET a"], [b"GET {a}1", b"GET {a}2"]]
    node.answer(halves[1], b"1", b"2")
    node.answer(halves[0], ANSWER_TOO_LARGE)
    assert replies(sinks) == [[ANSWER_TOO_LARGE], [b"1"], [b"2"]]


def test_gathered_reads_leave_in_pieces_of_bounded_size(node: FakeDispatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of long keys gathered behind one query were one message over every bound."""
    monkeypatch.setattr(router_module, "BATCH_BYTES_TARGET", 20)
    sinks = node.submit(*[b"GET {a}%d" % number for number in range(10)])
    asked = []
    while node.router.waiting:
        _, queries = node.turn()
        for query in queries:
            asked.append(len(query.lines))
            node.answer(query, *[None] * len(query.lines))
    assert asked == [3, 3, 3, 1]
    assert all(sink.replies == [None] for sink in sinks)
