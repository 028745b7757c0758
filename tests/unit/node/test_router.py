"""The router: batches, retries that keep their number, deadlines that tell the truth, bounds."""

from collections.abc import Sequence

import pytest

from noctule.base.consistency import ConsistencyLevel
from noctule.base.ids import META_GROUP, GroupId
from noctule.core.keyspace.keyspace import ReadOutcome
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.placement.partition_map import Partition, PartitionMap
from noctule.core.placement.slots import SLOT_COUNT
from noctule.core.replica.batches import OPENING, Batch
from noctule.core.replica.client_sessions import EXPIRED, SESSION_EXPIRES_MS
from noctule.core.roster.features import FEATURES
from noctule.node import router as router_module
from noctule.node.lanes import RETRY_DELAY_S
from noctule.node.router import (
    ANSWER_TIMEOUT_S,
    ANSWER_TOO_LARGE,
    BATCH_COMMANDS_MAX,
    RETRY_DELAY_S_MAX,
    SESSION_IDLE_S_MAX,
)

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


def test_what_not_every_node_knows_is_refused_until_they_do(node: FakeDispatch) -> None:
    node.router.features_changed(frozenset())
    refused, known, eventual = node.submit(b"LPUSH a x", b"SET a 1", b"SINTERSTORE {a}to {a}one {a}two")
    refusal = Failure(b"ERR 'lpush' needs every node to run a release that knows it; upgrade the others first")
    assert (refused.replies, known.replies, len(eventual.replies)) == ([refusal], [], 1)
    assert [write.lines for write in node.turn()[0]] == [[b"SET a 1"]]
    conversation, waiting = node.router.conversation(), Sink()
    conversation.submit(b"BLPOP a 0".split(), waiting)
    assert isinstance(waiting.replies[0], Failure)
    assert not conversation.is_blocked
    assert isinstance(conversation.refusal([b"NOCTULE.EXEC"]), Failure)
    node.router.features_changed(frozenset(FEATURES))
    node.submit(b"LPUSH b x")
    assert [write.lines for write in node.turn()[0]] == [[b"LPUSH b x"]]
    assert conversation.refusal([b"NOCTULE.EXEC"]) is None


def test_what_came_before_the_map_is_refused_when_it_would_leave() -> None:
    node = FakeDispatch(partitions=PartitionMap())
    early, known = node.submit(b"LPUSH a x", b"SET a 1")
    assert node.turn() == ([], [])
    node.router.features_changed(frozenset())
    node.partitions.put(Partition(1, 0, SLOT_COUNT - 1, (1,)))
    node.router.map_changed([GroupId(1)])
    assert (len(early.replies), known.replies) == (1, [])
    assert [write.lines for write in node.turn()[0]] == [[b"SET a 1"]]


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


def test_a_batch_has_no_more_commands_than_are_quickly_applied(node: FakeDispatch) -> None:
    """A mebibyte of INCR is 60,000 commands, and held the loop of each replica for 200 ms."""
    node.submit(*[b"INCR a"] * (BATCH_COMMANDS_MAX + 1))
    assert [len(each.lines) for each in node.turn()[0]] == [BATCH_COMMANDS_MAX, 1]


# Refused, lost, late --------------------------------------------------------------------------------------------------


def test_a_refused_batch_is_sent_again_under_its_number_to_whoever_leads(node: FakeDispatch) -> None:
    (sink,) = node.submit(b"INCR a")
    (batch,), _ = node.turn()
    node.refuse(batch)
    assert node.after(RETRY_DELAY_S / 2) == ([], [])  # An election takes a moment.
    node.leaders[ONE] = 2
    ((again,), _) = node.after(RETRY_DELAY_S)
    assert again == Written(2, ONE, batch.origin, batch.sequence, batch.batch, term=batch.term + 1)
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
    assert again == [batch._replace(to=3, term=batch.term + 1)]  # The other lane's leader is another node.
    assert asked_again == [query._replace(to=3)]


def test_what_cannot_leave_is_tried_again_ever_later_until_a_leader_is_known(node: FakeDispatch) -> None:
    """Ten thousand lanes that tried every 10 ms took the time that the elections needed which they waited for."""
    node.leaders[ONE] = 0
    node.submit(b"SET a 1")
    node.turn()
    before = node.router.retries_total
    for _ in range(100):
        node.after(RETRY_DELAY_S)
    assert node.router.retries_total - before <= 3 + 100 * RETRY_DELAY_S / RETRY_DELAY_S_MAX
    node.leaders[ONE] = 1
    node.router.leader_changed(ONE)
    ((batch,), _) = node.after(0.0)
    assert batch.lines == [b"SET a 1"]


def test_a_peer_to_which_nothing_leaves_is_tried_again(node: FakeDispatch) -> None:
    node.away = {1}
    (sink,) = node.submit(b"SET a 1")
    assert node.turn() == ([], [])
    assert node.after(RETRY_DELAY_S) == ([], [])
    node.away = set()
    ((batch,), _) = node.after(2 * RETRY_DELAY_S)
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
    node.open_sessions()
    node.leaders[ONE] = 0
    (sink,) = node.submit(b"INCR a")
    node.turn()
    node.after(DEADLINE_S - 0.1)
    assert sink.replies == []
    node.after(0.2)
    assert sink.replies == [NO_LEADER]
    node.leaders[ONE] = 2
    ((void,), _) = node.after(RETRY_DELAY_S_MAX)
    assert (void.sequence, void.lines) == (2, [])
    node.submit(b"INCR a")
    assert node.turn() == ([], [])
    node.answer(void)
    ((following,), _) = node.turn()
    assert (following.sequence, following.lines) == (3, [b"INCR a"])


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


# What became of it ----------------------------------------------------------------------------------------------------


def outcome_of(node: FakeDispatch, script: str) -> Reply:
    """What one INCR is told at its deadline after a script of what happened to it, one word for each thing:

    sent1, sent2: sent to the leader of this term; lost: that node's connection closes; away: it was to be sent again
    and could not leave; refused: without a word; disclaimed1, disclaimed2: refused, and that term is disclaimed.
    """
    node.open_sessions()
    node.leaders[ONE] = 0
    (sink,) = node.submit(b"INCR a")
    node.turn()
    request = Written(0, ONE, 0, 0, Batch(0, 0, 0, []), 0)
    for word in script.split():
        what, term = word.rstrip("0123456789"), int(word.lstrip("abcdefghijklmnopqrstuvwxyz") or 0)
        if what in ("sent", "away"):
            node.lead(ONE, term, term)
            node.away = {term} if what == "away" else set()
            node.router.leader_changed(ONE)
            sent, _ = node.after(RETRY_DELAY_S)
            assert [(each.term, each.lines) for each in sent] == ([(term, [b"INCR a"])] if what == "sent" else [])
            request = sent[0] if sent else request
            node.leaders[ONE] = 0
        elif what == "lost":
            node.router.peer_lost(term)
        else:
            node.refuse(request, disclaimed_term=term)
    assert sink.replies == []
    node.after(DEADLINE_S)
    return sink.replies[0]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("", id="no leader was found"),
        pytest.param("away1", id="it could not leave"),
        pytest.param("sent1 disclaimed1", id="its only leader disclaims it"),
        pytest.param("sent1 refused disclaimed1", id="a refusal that says more comes later"),
        pytest.param("sent1 disclaimed1 refused", id="a refusal that says less comes later"),
        pytest.param("sent1 disclaimed1 disclaimed1", id="a doubled refusal"),
        pytest.param("sent1 refused sent1 disclaimed1", id="sent twice, and disclaimed whatever was sent"),
        pytest.param("sent1 lost1 disclaimed1", id="disclaimed over a new connection"),
        pytest.param("sent1 disclaimed1 sent2 disclaimed2", id="two leaders, one after the other"),
        pytest.param("sent1 refused sent2 disclaimed1 disclaimed2", id="two leaders, both late"),
        pytest.param("sent1 refused sent2 disclaimed2 disclaimed1", id="two leaders, the other way round"),
        pytest.param("sent1 disclaimed1 away2", id="the second one was not reached"),
    ],
)
def test_over_its_deadline_a_write_that_cannot_have_happened_is_said_not_to_have(
    node: FakeDispatch, script: str
) -> None:
    """A client that is told "unknown" has to find out, and often cannot."""
    assert outcome_of(node, script) == NO_LEADER


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("sent1", id="no word of it"),
        pytest.param("sent1 lost1", id="the connection closed"),
        pytest.param("sent1 refused", id="refused without a word"),
        pytest.param("sent1 refused refused", id="and that doubled"),
        pytest.param("sent1 lost1 refused", id="lost and refused"),
        pytest.param("sent1 disclaimed2", id="disclaimed by another leader"),
        pytest.param("sent1 refused sent2 disclaimed2", id="the first leader may have proposed it"),
        pytest.param("sent1 lost1 sent2 disclaimed2", id="the first leader may have got it"),
        pytest.param("sent1 refused sent2 disclaimed1", id="the second leader may have proposed it"),
        pytest.param("sent1 disclaimed1 sent2", id="no word of the second leader"),
        pytest.param("sent1 disclaimed1 sent2 disclaimed1", id="the first leader's refusal doubled and late"),
        pytest.param("sent1 disclaimed1 sent2 refused disclaimed1", id="both refused, one without a word"),
        pytest.param("sent1 refused away1", id="sent once and then not again"),
    ],
)
def test_over_its_deadline_a_write_that_may_have_happened_has_an_unknown_fate(node: FakeDispatch, script: str) -> None:
    """Told "nothing was applied", a client does it again, and has it twice."""
    assert outcome_of(node, script) == UNKNOWN


@pytest.mark.parametrize(
    ("change", "expected"),
    [({}, NO_LEADER), ({"origin": 9_999}, UNKNOWN), ({"sequence": 9}, UNKNOWN), ({"group": TWO}, UNKNOWN)],
    ids=["this one", "of another session", "another batch", "of another group"],
)
def test_a_refusal_is_heeded_for_its_own_batch_only(
    node: FakeDispatch, change: dict[str, object], expected: Failure
) -> None:
    (sink,) = node.submit(b"INCR a")
    (batch,), _ = node.turn()
    node.leaders[ONE] = 0
    node.refuse(batch._replace(**change), disclaimed_term=batch.term)  # type: ignore[arg-type]
    node.after(DEADLINE_S + 0.01)
    assert sink.replies == [expected]


def test_a_word_that_comes_while_the_batch_is_handed_over_counts(node: FakeDispatch) -> None:
    """This very node has just lost the leadership, and says so within the call."""
    node.open_sessions()
    (sink,) = node.submit(b"INCR a")
    node.while_dispatching = lambda group, origin, number: node.router.refused(
        group, origin, number, is_write=True, disclaimed_term=node.terms[group]
    )
    node.turn()
    node.leaders[ONE] = 0
    node.after(DEADLINE_S + 0.01)
    assert sink.replies == [NO_LEADER]


def test_a_void_in_its_place_does_not_change_what_was_said(node: FakeDispatch) -> None:
    """The void's own fate is nobody's business."""
    assert outcome_of(node, "sent1 disclaimed1") == NO_LEADER
    node.leaders[ONE] = 2
    ((void,), _) = node.after(RETRY_DELAY_S_MAX)
    assert void.lines == []
    node.answer(void)
    (sink,) = node.submit(b"INCR a")
    ((batch,), _) = node.turn()
    node.answer(batch, 1)
    assert sink.replies == [1]


@pytest.mark.parametrize(("word", "start"), [("disclaimed1", b"CLUSTERDOWN "), ("refused", b"UNKNOWN ")])
def test_a_stopped_node_says_the_same_of_what_was_on_its_way(node: FakeDispatch, word: str, start: bytes) -> None:
    (sink,) = node.submit(b"INCR a")
    (batch,), _ = node.turn()
    node.refuse(batch, disclaimed_term=batch.term if word == "disclaimed1" else 0)
    node.router.stop("disk")
    (reply,) = sink.replies
    assert isinstance(reply, Failure)
    assert reply.text.startswith(start)


# Sessions -------------------------------------------------------------------------------------------------------------


def opening_of(sent: tuple[list[Written], list[Asked]]) -> Written:
    """The one opening among what was sent, which holds no command."""
    (opening,), _ = sent
    assert (opening.sequence, opening.lines) == (OPENING, [])
    return opening


def test_a_lane_opens_a_session_and_then_writes_in_the_order_of_arrival(node: FakeDispatch) -> None:
    """Nothing of a session that the group has not opened would ever be applied."""
    node.opens_sessions = False
    sinks = node.submit(b"SET a 1")
    opening = opening_of(node.turn())
    sinks += node.submit(b"SET a 2", b"GET a")
    writes, (query,) = node.turn()
    assert writes == []
    node.answer(query, None)  # Reads need no session.
    node.answer(opening, 33)
    ((batch,), _) = node.turn()
    assert (batch.origin, batch.sequence, batch.lines) == (33, 1, [b"SET a 1", b"SET a 2"])
    node.answer(batch, OK, OK)
    assert replies(sinks) == [[OK], [OK], [None]]


@pytest.mark.interpreted
def test_nothing_leaves_without_a_session_however_many_may_be_on_their_way(
    node: FakeDispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number drawn for the opening is no session: batches under it would be answered as forgotten."""
    monkeypatch.setattr(router_module, "FLIGHTS_MAX", 3)
    node.opens_sessions = False
    node.submit(b"SET a 1")
    opening = opening_of(node.turn())
    node.submit(b"SET a 2")
    assert node.turn() == ([], [])
    node.answer(opening, 33)
    ((batch,), _) = node.turn()
    assert (batch.origin, len(batch.lines)) == (33, 2)
    node.after(SESSION_IDLE_S_MAX + 1.0)
    node.submit(b"SET a 3")
    assert {each.origin for each in node.turn()[0]} == {33}  # Not left while a batch is on its way.


def test_an_opening_is_sent_until_it_is_answered_and_answered_once(node: FakeDispatch) -> None:
    """Its second answer, of another session, came while the first session's batch was on its way."""
    node.opens_sessions = False
    (sink,) = node.submit(b"SET a 1")
    opening = opening_of(node.turn())
    assert opening_of(node.after(ANSWER_TIMEOUT_S + 0.01)) == opening
    node.refuse(opening)
    assert opening_of(node.after(RETRY_DELAY_S)) == opening
    node.router.peer_lost(1)
    assert opening_of(node.after(RETRY_DELAY_S)) == opening
    node.answer(opening, 33)
    ((batch,), _) = node.turn()
    node.answer(opening, 34)
    assert node.turn() == ([], [])
    assert batch.origin == 33
    node.answer(batch, OK)
    assert sink.replies == [OK]


def test_what_waits_for_a_session_was_not_applied(node: FakeDispatch) -> None:
    """The opening may have been, and that is nobody's command."""
    node.opens_sessions = False
    (sink,) = node.submit(b"SET a 1")
    opening = opening_of(node.turn())
    node.leaders[ONE] = 0
    node.after(DEADLINE_S + 0.01)
    assert sink.replies == [NO_LEADER]
    assert node.router.waiting == 0
    node.answer(opening, 33)
    (sink,) = node.submit(b"SET a 2")
    node.leaders[ONE] = 1
    ((batch,), _) = node.turn()
    assert (batch.origin, batch.lines) == (33, [b"SET a 2"])


def write_once(node: FakeDispatch) -> Written:
    """A write of one lane, answered."""
    node.submit(b"SET a 1")
    ((batch,), _) = node.turn()
    node.answer(batch, OK)
    return batch


def test_a_lane_that_was_idle_for_long_opens_another_session(node: FakeDispatch) -> None:
    """The group had forgotten the old one, and the first write after a quiet night was told "unknown"."""
    first = write_once(node)
    node.after(SESSION_IDLE_S_MAX - 1.0)
    second = write_once(node)
    assert (second.origin, second.sequence) == (first.origin, 2)
    node.after(SESSION_IDLE_S_MAX)
    assert write_once(node).origin == first.origin
    node.after(SESSION_IDLE_S_MAX + 1.0)
    assert node.taken() == ([], [])  # Not before something is to be written.
    third = write_once(node)
    assert (third.origin, third.sequence) == (second.origin + 1, 1)
    assert 2 * SESSION_IDLE_S_MAX * 1_000 <= SESSION_EXPIRES_MS


def test_a_session_is_not_left_while_something_is_on_its_way(node: FakeDispatch) -> None:
    """Left alone, its batch would be applied behind those of the next session, or be told of to nobody."""
    batch = write_once(node)
    (sink,) = node.submit(b"SET a 2")
    node.turn()
    node.leaders[ONE] = 0
    node.after(SESSION_IDLE_S_MAX + 1.0)
    assert sink.replies == [UNKNOWN]
    (behind,) = node.submit(b"SET a 3")
    assert node.turn() == ([], [])
    node.leaders[ONE] = 1
    ((void,), _) = node.after(RETRY_DELAY_S)
    assert (void.origin, void.sequence, void.lines) == (batch.origin, 2, [])
    node.answer(void)
    ((fresh,), _) = node.turn()
    assert (fresh.origin, fresh.sequence) == (batch.origin + 1, 1)
    node.answer(fresh, OK)
    assert behind.replies == [OK]


def test_an_answer_to_the_opening_of_an_earlier_session_is_no_news(node: FakeDispatch) -> None:
    """Doubled and late, it had the lane begin an old session anew: its first batch got an old batch's results."""
    node.opens_sessions = False
    node.submit(b"SET a 1")
    early = opening_of(node.turn())
    node.answer(early, 33)
    ((batch,), _) = node.turn()
    node.answer(batch, EXPIRED)
    node.submit(b"SET a 2")
    late = opening_of(node.turn())
    assert late.origin != early.origin
    node.answer(early, 33)
    assert node.turn() == ([], [])
    node.answer(late, 34)
    assert [each.origin for each in node.turn()[0]] == [34]


def test_reads_are_answered_whatever_becomes_of_the_session(node: FakeDispatch) -> None:
    """The answers came for the session that the lane had left meanwhile, and were awaited for two seconds more."""
    node.opens_sessions = False
    (before,) = node.submit(b"GET a")
    (query,) = node.turn()[1]
    node.submit(b"SET a 1")
    opening = opening_of(node.turn())
    node.answer(opening, 33)
    node.answer(query, b"0")
    ((batch,), _) = node.turn()
    (after,) = node.submit(b"GET a")
    (query,) = node.turn()[1]
    node.answer(batch, EXPIRED)
    node.answer(query, b"1")
    assert replies([before, after]) == [[b"0"], [b"1"]]


def test_a_forgotten_session_begins_anew_and_owns_up_to_what_was_on_its_way(
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
    node.answer(second, OK)  # Of the old session: no news.
    node.answer(fresh, OK)
    assert waiting.replies == [OK]
    assert node.router.waiting == 0


def test_a_void_of_a_forgotten_session_has_the_lane_begin_anew(node: FakeDispatch) -> None:
    """Taken for filled, it had the next batch go to the forgotten session, and that was told "unknown" as well."""
    node.submit(b"SET a 1")
    ((batch,), _) = node.turn()
    node.after(DEADLINE_S + 0.01)
    ((void,), _) = node.after(RETRY_DELAY_S)
    node.answer(void, EXPIRED)
    assert write_once(node).origin == batch.origin + 1


# Bounds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.interpreted
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


# Strong reads, eventual reads and meta --------------------------------------------------------------------------------


def test_a_lease_will_do_for_a_query_of_strong_reads_only(node: FakeDispatch) -> None:
    """One read that must be confirmed by a majority has the others of its query confirmed with it."""
    levels = [ConsistencyLevel.STRONG, ConsistencyLevel.LINEARIZABLE]
    for first in levels:
        for second in levels:
            for level in (first, second):
                node.router.submit([b"GET", b"a"], Sink(), level)
            (query,) = node.turn()[1]
            node.answer(query, None, None)
    assert node.leases == [True, False, False, False]


def test_an_eventual_read_is_answered_here_and_at_once(node: FakeDispatch) -> None:
    node.local = {b"GET a": b"old", b"MGET a {a}x": [b"1", b"3"], b"MGET b": [b"2"]}
    single, several = Sink(), Sink()
    node.router.submit([b"GET", b"a"], single, ConsistencyLevel.EVENTUAL)
    node.router.submit([b"MGET", b"a", b"b", b"{a}x"], several, ConsistencyLevel.EVENTUAL)
    assert (single.replies, several.replies) == ([b"old"], [[b"1", b"2", b"3"]])
    assert node.turn() == ([], [])


def test_single_keys_are_read_here_by_the_map_and_without_sinks(node: FakeDispatch) -> None:
    commands: list[list[bytes] | Failure] = [[b"GET", b"a"], [b"GET", b"b"], [b"GET", b"c"]]
    assert node.router.conversation().read_keys(commands, 1, 5) == [5, [b"GET", b"b"], [b"GET", b"c"]]
    assert node.turn() == ([], [])


def test_an_eventual_read_that_only_a_leader_can_answer_goes_there(node: FakeDispatch) -> None:
    """Its key has expired by this node's clock; only the leader's stamp decides."""
    node.local = {b"GET a": ReadOutcome.MUST_LOG}
    sink = Sink()
    node.router.submit([b"GET", b"a"], sink, ConsistencyLevel.EVENTUAL)
    (query,) = node.turn()[1]
    node.answer(query, None)
    assert sink.replies == [None]


def test_a_write_and_a_linearizable_read_do_not_heed_what_is_here(node: FakeDispatch) -> None:
    node.local = {}
    write, read = Sink(), Sink()
    node.router.submit([b"SET", b"a", b"1"], write, ConsistencyLevel.EVENTUAL)
    node.router.submit([b"GET", b"a"], read, ConsistencyLevel.STRONG)
    writes, queries = node.turn()
    assert ([each.lines for each in writes], [each.lines for each in queries]) == ([[b"SET a 1"]], [[b"GET a"]])


def test_meta_takes_any_key_and_no_command_of_the_keyspace_reaches_it(node: FakeDispatch) -> None:
    """What a client writes must never look like a registered service."""
    written, read, wrong = Sink(), Sink(), Sink()
    store = node.router.meta.conversation()
    store.submit([b"MSET", b"a", b"1", b"b", b"2"], written)
    store.submit([b"GET", b"a"], read, ConsistencyLevel.EVENTUAL)
    store.submit([b"NOSUCH"], wrong)
    (sink,) = node.submit(b"FLUSHALL")
    writes, (query,) = node.turn()
    assert [(each.group, each.lines) for each in writes if each.group == META_GROUP] == [
        (META_GROUP, [b"MSET a 1 b 2"])
    ]
    assert {each.group for each in writes if each.lines[0].endswith(b" FLUSHALL")} == set(SLOT_TABLE)
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


# Buckets --------------------------------------------------------------------------------------------------------------


def test_a_declaration_goes_to_every_partition_under_this_cluster_s_site(node: FakeDispatch) -> None:
    """Added by each replica for itself, two of them could take different ones."""
    node.open_sessions()
    (sink,) = node.submit(b"BUCKET.CREATE likes counter")
    writes, _ = node.turn()
    assert {write.group for write in writes} == set(SLOT_TABLE)
    assert {b" ".join(line.split()[3:]) for write in writes for line in write.lines} == {
        b"BUCKET.CREATE likes counter noctule"
    }
    for write in writes:
        node.answer(write, OK)
    assert sink.replies == [OK]


def test_a_declaration_keeps_the_site_that_it_names(node: FakeDispatch) -> None:
    node.open_sessions()
    node.submit(b"BUCKET.CREATE likes counter east")
    writes, _ = node.turn()
    assert {b" ".join(line.split()[3:]) for write in writes for line in write.lines} == {
        b"BUCKET.CREATE likes counter east"
    }
