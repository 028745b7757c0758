"""Retries applied once, in order, and alike on every replica: Raft thesis 6.3."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.replica import client_sessions
from noctule.core.replica.batches import Batch
from noctule.core.replica.client_sessions import EXPIRED, ClientSessions, Verdict

from .colony import batch_of


class Counter:
    """Sessions whose commands are noted, and answered by how many there were."""

    def __init__(self, sessions: ClientSessions | None = None) -> None:
        self.sessions = sessions or ClientSessions()
        self.executed: list[list[bytes]] = []

    def apply(self, batch: Batch) -> list[Reply] | Verdict:
        return self.sessions.apply(batch, self._execute)

    def _execute(self, command: list[bytes]) -> Reply:
        self.executed.append(command)
        return len(self.executed)


def test_a_retry_gets_the_first_result_and_is_not_executed() -> None:
    """The answer was lost, the INCR was not: it counted twice."""
    counter = Counter()
    assert counter.apply(batch_of(7, 1, b"a", b"b")) == [1, 2]
    assert counter.apply(batch_of(8, 1, b"c")) == [3]
    assert counter.apply(batch_of(7, 1, b"a", b"b")) == [1, 2]
    assert counter.executed == [[b"a"], [b"b"], [b"c"]]


def test_a_retry_is_known_by_its_number_whatever_it_holds() -> None:
    """A router that gave up fills the number with an empty batch; if the first came through, that counts."""
    counter = Counter()
    assert counter.apply(batch_of(7, 1)) == []
    assert counter.apply(batch_of(7, 1, b"a")) == []
    assert counter.apply(batch_of(7, 2, b"b")) == [1]
    assert counter.executed == [[b"b"]]


def test_a_batch_before_its_turn_is_not_applied() -> None:
    """An earlier one was lost on its way; to go on without it would turn the order of two writes around."""
    counter = Counter()
    assert counter.apply(batch_of(7, 2, b"b", below=1)) is Verdict.OUT_OF_ORDER
    assert counter.sessions.dump() == []
    counter.apply(batch_of(7, 1, b"a"))
    assert counter.apply(batch_of(7, 3, b"c", below=1)) is Verdict.OUT_OF_ORDER
    assert counter.apply(batch_of(7, 2, b"b", below=1)) == [2]
    assert counter.apply(batch_of(7, 3, b"c", below=1)) == [3]
    assert counter.executed == [[b"a"], [b"b"], [b"c"]]


def test_results_are_kept_until_they_are_acknowledged() -> None:
    """Kept for ever they would be the largest thing in memory."""
    counter = Counter()
    for number in range(1, 5):
        counter.apply(batch_of(7, number, b"x", below=1))
    (_, following, kept) = counter.sessions.dump()[0]
    assert (following, sorted(kept)) == (5, [1, 2, 3, 4])
    counter.apply(batch_of(7, 5, b"x", below=4))
    assert sorted(counter.sessions.dump()[0][2]) == [4, 5]
    assert counter.apply(batch_of(7, 3, b"x", below=1)) == []  # Nobody waits for it any more.
    assert counter.apply(batch_of(7, 4, b"x", below=1)) == [4]
    assert len(counter.executed) == 5


def test_the_session_unused_for_the_longest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_sessions, "SESSIONS_MAX", 3)
    counter = Counter()
    for origin in (1, 2, 3):
        counter.apply(batch_of(origin, 1, b"x"))
    counter.apply(batch_of(1, 1, b"x"))  # A retry is use, too.
    counter.apply(batch_of(4, 1, b"x"))
    assert [origin for origin, _, _ in counter.sessions.dump()] == [3, 1, 4]
    counter.apply(batch_of(3, 3, b"x", below=1))  # So is one that is out of order.
    counter.apply(batch_of(5, 1, b"x"))
    assert [origin for origin, _, _ in counter.sessions.dump()] == [4, 3, 5]


def test_a_forgotten_session_is_told_so_and_nothing_happens() -> None:
    """Executed as if it were new, a retry would be applied a second time."""
    counter = Counter()
    assert counter.apply(batch_of(7, 5, b"a", b"b", below=5)) == [EXPIRED, EXPIRED]
    assert counter.executed == []
    assert counter.sessions.dump() == []


def test_a_new_session_may_begin_in_the_middle_only_with_its_first_batch_still_on_its_way() -> None:
    """Nothing of it was acknowledged, so nothing can have been forgotten: its first batch will come."""
    counter = Counter()
    assert counter.apply(batch_of(7, 3, b"c", below=1)) is Verdict.OUT_OF_ORDER


def test_sessions_survive_a_snapshot_with_their_order_and_results() -> None:
    """After a restart a retry must get the very same bytes."""
    replies: list[Reply] = [OK, Failure(b"WRONGTYPE x"), 1.5, None, [1, [b"\xff"]], {b"f": b"v"}]
    sessions = ClientSessions()
    source = iter(replies)
    sessions.apply(batch_of(9, 1, *[b"x"] * len(replies)), lambda _: next(source))
    sessions.apply(batch_of(2, 1, b"x"), lambda _: 1)
    loaded = ClientSessions.load(sessions.dump())
    assert loaded.dump() == sessions.dump()
    assert loaded.digest_input() == sessions.digest_input()
    assert [origin for origin, _, _ in loaded.dump()] == [9, 2]
    counter = Counter(loaded)
    assert counter.apply(batch_of(9, 1)) == replies
    assert counter.apply(batch_of(2, 2, b"y")) == [1]
    assert counter.executed == [[b"y"]]


ARRIVALS = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6)), max_size=60)
"""(origin, sequence): any interleaving, with losses and doubles."""


def arrived(arrival: tuple[int, int]) -> Batch:
    origin, sequence = arrival
    return batch_of(origin, sequence, b"%d.%d.1" % arrival, b"%d.%d.2" % arrival, below=1)


@given(ARRIVALS)
def test_whatever_arrives_is_applied_once_and_in_order(arrivals: list[tuple[int, int]]) -> None:
    counter = Counter()
    answers: dict[tuple[int, int], list[Reply]] = {}
    following = {1: 1, 2: 1, 3: 1}
    for arrival in arrivals:
        origin, sequence = arrival
        results = counter.apply(arrived(arrival))
        if sequence > following[origin]:
            assert results is Verdict.OUT_OF_ORDER
            continue
        assert isinstance(results, list)
        assert answers.setdefault(arrival, results) == results
        if sequence == following[origin]:
            following[origin] += 1
    for origin in following:
        mine = [command[0] for command in counter.executed if command[0].startswith(b"%d." % origin)]
        expected = [b"%d.%d.%d" % (origin, n, part) for n in range(1, following[origin]) for part in (1, 2)]
        assert mine == expected


@given(ARRIVALS, st.integers(0, 60))
def test_replicas_decide_alike_even_when_one_was_restored_in_between(arrivals: list[tuple[int, int]], at: int) -> None:
    whole, restored = Counter(), Counter()
    for number, arrival in enumerate(arrivals):
        if number == at:
            executed = restored.executed
            restored = Counter(ClientSessions.load(restored.sessions.dump()))
            restored.executed = executed
        assert whole.apply(arrived(arrival)) == restored.apply(arrived(arrival))
    assert whole.sessions.digest_input() == restored.sessions.digest_input()
    assert whole.executed == restored.executed
