"""What a replica says of a write that it does not answer, and retries that meet clocks which jump.

A refusal may disclaim a term: "through me as its leader this did not and never will take effect". Said wrongly, a
client is told that nothing was applied, does it again, and has it twice.
"""

import pytest

from noctule.core.keyspace.reply import OK
from noctule.core.raft import events as raft
from noctule.core.raft.messages import Heartbeat
from noctule.core.replica import replica as replica_module
from noctule.core.replica.client_sessions import EXPIRED, SESSION_EXPIRES_MS
from noctule.core.replica.events import Answer, Refuse

from .colony import Colony, Machine, opening, query, write

ORIGIN = 7


@pytest.fixture
def colony() -> Colony:
    return Colony(3)


@pytest.fixture
def leader(colony: Colony) -> Machine:
    """Node 1, which leads node 2 and 3."""
    return colony.elect(1)


def term_of(machine: Machine) -> int:
    return machine.replica.raft.term


def depose(machine: Machine, term: int = 0) -> None:
    """Let it hear of a leader of a later term."""
    machine.take(raft.Received(2, Heartbeat(term or term_of(machine) + 1, 0, 0)))
    assert not machine.replica.raft.is_leader()


def disclaimed(machine: Machine, sequence: int, term: int, origin: int = ORIGIN) -> int:
    """What it says of another copy of a batch."""
    machine.answers.clear()
    machine.take(write(origin, sequence, b"INCR a", term=term))
    (refusal,) = machine.taken_answers()
    assert isinstance(refusal, Refuse)
    return refusal.disclaimed_term


def value(machine: Machine) -> object:
    return machine.replica.read_local([b"GET", b"a"], 0)


# Disclaimed -----------------------------------------------------------------------------------------------------------


def test_what_waited_when_leadership_was_lost_is_disclaimed_and_what_was_proposed_is_not(leader: Machine) -> None:
    """The next leader may hold what was proposed, and commit it."""
    term = term_of(leader)
    leader.take(write(7, 1, b"INCR a", term=term))
    leader.turn()
    leader.take(write(8, 1, b"INCR a", term=term))
    leader.turn()  # It waits for the entry before it.
    leader.take(write(9, 1, b"INCR a", term=term))
    depose(leader)
    refusals = leader.taken_answers()
    assert refusals == [Refuse(1, 7, True, 1), Refuse(1, 8, True, 1, term), Refuse(1, 9, True, 1, term)]


def test_copies_that_come_after_leadership_was_lost_are_told_the_same(leader: Machine) -> None:
    """The network doubled the request, and the first copy's refusal was lost."""
    term = term_of(leader)
    leader.take(write(7, 1, b"INCR a", term=term))
    leader.turn()
    leader.take(write(8, 1, b"INCR a", term=term))
    depose(leader)
    assert [disclaimed(leader, 1, term, origin) for origin in (7, 8, 9)] == [0, term, term]
    depose(leader, term + 5)
    assert [disclaimed(leader, 1, term, origin) for origin in (7, 8, 9)] == [0, term, term]


def test_what_was_applied_is_not_disclaimed(colony: Colony, leader: Machine) -> None:
    """Its answer was lost, then the leader."""
    term = term_of(leader)
    leader.take(write(ORIGIN, 1, b"INCR a", term=term))
    colony.settle()
    depose(leader)
    assert [disclaimed(leader, sequence, term) for sequence in (1, 2)] == [0, term]


def test_what_was_left_behind_stays_so_once_a_later_leader_has_applied_it(colony: Colony, leader: Machine) -> None:
    term = term_of(leader)
    leader.take(write(ORIGIN, 1, b"INCR a", term=term))
    leader.turn()
    leader.sync()
    colony.settle(lambda sender, to, _: (sender, to) == (1, 2))  # Node 2 has it; node 1 never hears so.
    colony.elect(2)
    colony.heartbeat(2)
    assert value(leader) == b"1"
    assert disclaimed(leader, 1, term) == 0


def test_a_session_that_is_not_known_vouches_for_nothing(leader: Machine) -> None:
    """It was forgotten, and with it whether the batch was applied; or its opening has not come so far yet."""
    term = term_of(leader)
    depose(leader)
    assert disclaimed(leader, 1, term, origin=9_999) == 0


def test_a_leader_disclaims_nothing_while_it_leads(
    colony: Colony, leader: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overloaded now, it takes the next copy of the same request a moment later."""
    term = term_of(leader)
    monkeypatch.setattr(replica_module, "WAITING_BYTES_MAX", 10)
    leader.take(write(8, 1, b"SET b 1", term=term))
    assert disclaimed(leader, 1, term) == 0
    leader.turn()
    leader.take(write(ORIGIN, 1, b"INCR a", term=term))
    colony.settle()
    assert value(leader) == b"1"


def test_a_leader_that_hands_over_disclaims_only_when_it_is_done(leader: Machine) -> None:
    """The transfer may fail, and it leads on."""
    term = term_of(leader)
    leader.take(raft.TransferLeadership(2), write(ORIGIN, 1, b"INCR a", term=term))
    leader.turn()
    assert leader.taken_answers() == [Refuse(1, ORIGIN, True, 1)]
    depose(leader)
    assert disclaimed(leader, 1, term) == term


def test_what_is_out_of_order_is_disclaimed_only_when_no_copy_can_be_in_time(colony: Colony, leader: Machine) -> None:
    """The missing batch came, and then the second copy of this one: it was applied."""
    term = term_of(leader)
    second = write(ORIGIN, 2, b"INCR a", below=1, term=term)
    leader.take(second)
    colony.settle()
    assert leader.taken_answers() == [Refuse(1, ORIGIN, True, 2)]
    leader.take(write(ORIGIN, 1, b"INCR a", term=term), second)
    colony.settle()
    assert value(leader) == b"2"
    leader.take(write(ORIGIN, 4, b"INCR a", below=3, term=term))
    colony.settle()
    depose(leader)
    assert [disclaimed(leader, sequence, term) for sequence in (2, 3, 4)] == [0, term, term]


@pytest.mark.parametrize("term", [0, 1, 99])
def test_a_replica_that_did_not_lead_the_term_disclaims_nothing(colony: Colony, leader: Machine, term: int) -> None:
    """Another one did; or this one, in an earlier life that it knows nothing of."""
    assert disclaimed(colony.machines[2], 1, term) == 0


def test_only_the_newest_term_that_was_led_is_disclaimed(colony: Colony, leader: Machine) -> None:
    """What was left behind is remembered for one term; of earlier ones nothing is known."""
    first = term_of(leader)
    leader.take(write(8, 1, b"INCR b", term=first))
    leader.turn()
    colony.mail.clear()
    colony.elect(2, among=(2, 3))
    for _ in range(3):
        colony.heartbeat(2)
    colony.elect(1)
    second = term_of(leader)
    depose(leader)
    assert second > first
    assert [disclaimed(leader, 1, term) for term in (first, second, second + 1)] == [0, second, 0]
    assert [disclaimed(leader, 1, term, origin=8) for term in (first, second)] == [0, second]


def test_a_request_for_another_term_s_leader_is_not_taken(colony: Colony, leader: Machine) -> None:
    """Disclaimed by the leader of its term, it was still on its way when the same replica led again."""
    first = term_of(leader)
    colony.elect(2)
    assert disclaimed(leader, 1, first) == first
    colony.elect(1)
    leader.answers.clear()
    late = write(ORIGIN, 1, b"INCR a", term=first)
    leader.take(late)
    colony.settle()
    assert leader.taken_answers() == [Refuse(1, ORIGIN, True, 1)]
    assert value(leader) is None


def test_an_older_peer_s_request_names_no_term_and_any_leader_takes_it(colony: Colony, leader: Machine) -> None:
    leader.take(write(ORIGIN, 1, b"INCR a"))
    colony.settle()
    assert leader.taken_answers() == [Answer(1, ORIGIN, True, 1, [1])]


def test_queries_are_refused_without_a_word_on_terms(leader: Machine) -> None:
    """Asking again is harmless."""
    leader.take(query(ORIGIN, 1, b"GET a"))
    depose(leader)
    assert leader.taken_answers() == [Refuse(1, ORIGIN, False, 1)]


# Doubled --------------------------------------------------------------------------------------------------------------


def test_a_copy_of_what_is_in_progress_is_neither_logged_nor_refused(colony: Colony, leader: Machine) -> None:
    """Two copies stood in the log; after the first, nobody knew that the second was still to be applied."""
    term = term_of(leader)
    copy = write(ORIGIN, 1, b"INCR a", term=term)
    leader.take(copy, copy)
    leader.turn()
    leader.take(copy)
    leader.turn()
    assert [len(body.batches) for body in leader.bodies()] == [1]
    colony.settle()
    assert leader.taken_answers() == [Answer(1, ORIGIN, True, 1, [1])]
    leader.take(copy)  # Not in progress any more: its session answers.
    colony.settle()
    assert leader.taken_answers() == [Answer(1, ORIGIN, True, 1, [1])]
    assert value(leader) == b"1"


def test_a_copy_overload_refuses_while_the_first_is_in_progress_says_nothing(
    leader: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is proposed, so whoever asked must go on waiting for it."""
    monkeypatch.setattr(replica_module, "WAITING_BYTES_MAX", 10)
    term = term_of(leader)
    leader.take(write(ORIGIN, 1, b"INCR a", term=term))
    leader.turn()
    leader.take(write(8, 1, b"SET b 1", term=term), write(ORIGIN, 1, b"INCR a", term=term))
    assert leader.taken_answers() == []
    depose(leader)
    assert Refuse(1, ORIGIN, True, 1) in leader.taken_answers()


def test_a_batch_that_was_given_up_while_leaders_changed_is_decided_by_the_log(colony: Colony, leader: Machine) -> None:
    """The void came first: the batch itself, late, must change nothing."""
    leader.take(write(ORIGIN, 1, term=term_of(leader)))
    colony.settle()
    leader.take(write(ORIGIN, 1, b"INCR a", term=term_of(leader)))
    colony.settle()
    assert [type(answer) for answer in leader.taken_answers()] == [Answer, Answer]
    assert value(leader) is None


# Sessions and clocks --------------------------------------------------------------------------------------------------


def answers_to(machine: Machine, *events: object) -> list[list[object]]:
    """What a leader answers to each, its colony settled in between."""
    machine.answers.clear()
    for event in events:
        machine.take(event)  # type: ignore[arg-type]
        machine._colony.settle()
    return [list(answer.results) for answer in machine.taken_answers() if isinstance(answer, Answer)]


def test_a_session_is_opened_through_the_log_and_every_replica_knows_it(colony: Colony, leader: Machine) -> None:
    ((origin,),) = answers_to(leader, opening(12_345))
    assert isinstance(origin, int)
    assert answers_to(leader, write(origin, 1, b"INCR a")) == [[1]]
    successor = colony.elect(2)
    assert answers_to(successor, write(origin, 1, b"INCR a"), write(origin, 2, b"INCR a")) == [[1], [2]]
    colony.heartbeat(2)
    assert len({machine.replica.digest() for machine in colony.machines.values()}) == 1


@pytest.mark.parametrize("successor", [1, 2], ids=["the same leader", "another leader"])
@pytest.mark.parametrize("opened_ms", [1_000, 1_000 + 3 * SESSION_EXPIRES_MS], ids=["clock jumps ahead", "or back"])
def test_a_doubled_first_batch_is_applied_once_though_the_clock_jumps(
    colony: Colony, leader: Machine, successor: int, opened_ms: int
) -> None:
    """Between the copies the session expired, and the second one looked like the first batch of a new session."""
    colony.wall_ms = dict.fromkeys(colony.wall_ms, opened_ms)
    ((origin,),) = answers_to(leader, opening(12_345))
    assert isinstance(origin, int)
    first = write(origin, 1, b"INCR a")
    assert answers_to(leader, first) == [[1]]
    colony.wall_ms = dict.fromkeys(colony.wall_ms, 1_000 + 2 * SESSION_EXPIRES_MS)
    machine = leader if successor == 1 else colony.elect(successor)
    expected: list[object] = [EXPIRED] if opened_ms == 1_000 else [1]
    assert answers_to(machine, first, first) == [expected, expected]
    colony.heartbeat(machine.node_id)
    assert [value(each) for each in colony.machines.values()] == [b"1"] * 3
    assert len({each.replica.digest() for each in colony.machines.values()}) == 1


def test_the_whole_history_of_a_doubled_session_is_applied_once_whatever_the_clock_does(
    colony: Colony, leader: Machine
) -> None:
    """All that was ever sent comes a second time, in the same order, hours later and earlier."""
    sent = [opening(12_345)]
    ((origin,),) = answers_to(leader, *sent)
    assert isinstance(origin, int)
    sent += [write(origin, number, b"INCR a", below=1) for number in (1, 2, 3)]
    assert answers_to(leader, *sent[1:]) == [[1], [2], [3]]
    for hours in (2, -5, 0, 1, 30):
        colony.wall_ms[1] += hours * SESSION_EXPIRES_MS
        answers_to(leader, *sent)
        assert value(leader) == b"3"


def test_a_session_in_use_outlives_any_number_of_hours(colony: Colony, leader: Machine) -> None:
    for number in range(1, 6):
        assert answers_to(leader, write(ORIGIN, number, b"SET a 1")) == [[OK]]
        colony.wall_ms[1] += SESSION_EXPIRES_MS - 1


def test_the_stamps_decide_and_no_replica_s_own_clock(colony: Colony, leader: Machine) -> None:
    """A follower that looked at its own clock forgot what the leader still knew."""
    colony.wall_ms[2] = 1_000 + 5 * SESSION_EXPIRES_MS
    for number in (1, 2):
        answers_to(leader, write(ORIGIN, number, b"INCR a"))
    colony.heartbeat(1)
    assert [value(each) for each in colony.machines.values()] == [b"2"] * 3
    assert len({each.replica.digest() for each in colony.machines.values()}) == 1
