"""Retries applied once, in order, and alike on every replica, whatever is forgotten: Raft thesis 6.3."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.replica import client_sessions
from noctule.core.replica.batches import OPENING, Batch
from noctule.core.replica.client_sessions import EXPIRED, SESSION_EXPIRES_MS, ClientSessions, DumpedSession, Verdict

from .colony import batch_of, sessions_open

ONE, TWO, THREE = 1, 2, 3
"""Origins that are open from the beginning, since stamp 0."""


def dumped(sessions: ClientSessions) -> tuple[int, list[DumpedSession]]:
    picture = sessions.picture()
    return picture.opened, list(picture.dump())


def copied(sessions: ClientSessions) -> ClientSessions:
    """As a snapshot brings them."""
    copy = ClientSessions()
    copy.restore(*dumped(sessions))
    return copy


class Counter:
    """Sessions whose commands are noted, and answered by how many there were."""

    def __init__(self, sessions: ClientSessions | None = None) -> None:
        self.sessions = sessions_open(3) if sessions is None else sessions
        self.executed: list[list[bytes]] = []

    def apply(self, batch: Batch, stamp_ms: int = 0) -> list[Reply] | Verdict:
        return self.sessions.apply(batch, stamp_ms, self._execute)

    def open(self, stamp_ms: int = 0) -> int:
        opened = self.apply(batch_of(77, OPENING), stamp_ms)
        assert isinstance(opened, list)
        assert isinstance(opened[0], int)
        return opened[0]

    def _execute(self, command: list[bytes]) -> Reply:
        self.executed.append(command)
        return len(self.executed)

    @property
    def remembered(self) -> list[int]:
        """Origins, the longest unused first."""
        return [origin for origin, _, _, _ in dumped(self.sessions)[1]]


# Once, and in order ---------------------------------------------------------------------------------------------------


def test_a_retry_gets_the_first_result_and_is_not_executed() -> None:
    """The answer was lost, the INCR was not: it counted twice."""
    counter = Counter()
    assert counter.apply(batch_of(ONE, 1, b"a", b"b")) == [1, 2]
    assert counter.apply(batch_of(TWO, 1, b"c")) == [3]
    assert counter.apply(batch_of(ONE, 1, b"a", b"b")) == [1, 2]
    assert counter.executed == [[b"a"], [b"b"], [b"c"]]


def test_a_retry_is_known_by_its_number_whatever_it_holds() -> None:
    """A router that gave up fills the number with an empty batch; if the first came through, that counts."""
    counter = Counter()
    assert counter.apply(batch_of(ONE, 1)) == []
    assert counter.apply(batch_of(ONE, 1, b"a")) == []
    assert counter.apply(batch_of(ONE, 2, b"b")) == [1]
    assert counter.executed == [[b"b"]]


def test_a_batch_before_its_turn_is_not_applied() -> None:
    """An earlier one was lost on its way; to go on without it would turn the order of two writes around."""
    counter = Counter()
    assert counter.apply(batch_of(ONE, 2, b"b", below=1)) is Verdict.OUT_OF_ORDER
    counter.apply(batch_of(ONE, 1, b"a"))
    assert counter.apply(batch_of(ONE, 3, b"c", below=1)) is Verdict.OUT_OF_ORDER
    assert counter.apply(batch_of(ONE, 2, b"b", below=1)) == [2]
    assert counter.apply(batch_of(ONE, 3, b"c", below=1)) == [3]
    assert counter.executed == [[b"a"], [b"b"], [b"c"]]


def test_results_are_kept_until_they_are_acknowledged() -> None:
    """Kept for ever they would be the largest thing in memory."""
    counter = Counter(sessions_open(1))
    for number in range(1, 5):
        counter.apply(batch_of(ONE, number, b"x", below=1))
    _, ((_, _, following, kept),) = dumped(counter.sessions)
    assert (following, sorted(kept)) == (5, [1, 2, 3, 4])
    counter.apply(batch_of(ONE, 5, b"x", below=4))
    assert sorted(dumped(counter.sessions)[1][0][3]) == [4, 5]
    assert counter.apply(batch_of(ONE, 3, b"x", below=1)) == []  # Nobody waits for it any more.
    assert counter.apply(batch_of(ONE, 4, b"x", below=1)) == [4]
    assert len(counter.executed) == 5


def test_what_was_not_applied_is_told_from_what_may_have_been() -> None:
    """Where a leader vouches that nothing happened, a session that it does not know vouches for nothing."""
    counter = Counter()
    counter.apply(batch_of(ONE, 1, b"a"))
    sessions = counter.sessions
    assert [sessions.is_ahead(ONE, sequence) for sequence in (1, 2, 3)] == [False, True, True]
    assert not sessions.is_ahead(99, 1)
    assert not sessions.is_ahead(99, OPENING)


# Opened and forgotten -------------------------------------------------------------------------------------------------


def test_every_opening_opens_another_session() -> None:
    """A doubled opening makes a session that nobody uses, and no batch of one is taken for one of the other."""
    counter = Counter(ClientSessions())
    first, second = counter.open(), counter.open()
    assert first != second
    assert counter.apply(batch_of(first, 1, b"a")) == [1]
    assert counter.apply(batch_of(second, 1, b"a")) == [2]


@pytest.mark.parametrize("batch", [batch_of(9, 1, b"a", b"b", below=1), batch_of(9, 5, b"a", b"b"), batch_of(9, 1)])
def test_a_batch_of_a_session_that_is_not_there_changes_nothing(batch: Batch) -> None:
    """Executed as if it were new, a retry would be applied a second time. The router of an empty one is told, too."""
    counter = Counter()
    before = dumped(counter.sessions)
    assert counter.apply(batch) == [EXPIRED] * max(len(batch.commands), 1)
    assert counter.executed == []
    assert dumped(counter.sessions) == before


def test_a_session_unused_for_so_long_is_forgotten() -> None:
    counter = Counter()
    counter.apply(batch_of(ONE, 1, b"a"), 500)
    counter.apply(batch_of(THREE, 1, b"c"), 1_000)
    counter.apply(batch_of(THREE, 2, b"c"), SESSION_EXPIRES_MS - 1)
    assert counter.remembered == [TWO, ONE, THREE]
    counter.apply(batch_of(THREE, 3, b"c"), SESSION_EXPIRES_MS)
    assert counter.remembered == [ONE, THREE]
    counter.apply(batch_of(THREE, 4, b"c"), SESSION_EXPIRES_MS + 500)
    assert counter.remembered == [THREE]
    counter.open(2 * SESSION_EXPIRES_MS + 500)
    assert counter.remembered == [4]


@pytest.mark.parametrize(
    "use", [batch_of(ONE, 1, b"a"), batch_of(ONE, 9, b"a", below=1)], ids=["a retry", "one out of order"]
)
def test_whatever_arrives_for_a_session_is_use(use: Batch) -> None:
    """Its router lives, whether or not anything came of it."""
    counter = Counter()
    counter.apply(batch_of(ONE, 1, b"a"), 0)
    counter.apply(use, SESSION_EXPIRES_MS - 1)
    assert counter.remembered == [TWO, THREE, ONE]
    assert counter.apply(batch_of(ONE, 2, b"a"), 2 * SESSION_EXPIRES_MS - 2) == [2]


def test_a_first_batch_whose_session_was_forgotten_is_not_applied_again() -> None:
    """The leader's clock jumped by two hours between two copies of it, and the second one seemed to begin a session."""
    counter = Counter()
    first = batch_of(ONE, 1, b"INCR", below=1)
    assert counter.apply(first, 1_000) == [1]
    assert counter.apply(first, 1_000 + 2 * SESSION_EXPIRES_MS) == [EXPIRED]
    assert counter.apply(first, 1_000 + 2 * SESSION_EXPIRES_MS) == [EXPIRED]
    assert counter.executed == [[b"INCR"]]


@pytest.mark.interpreted
def test_over_the_bound_the_session_unused_for_the_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_sessions, "SESSIONS_MAX", 3)
    counter = Counter()
    first = batch_of(ONE, 1, b"INCR", below=1)
    counter.apply(first)
    assert counter.remembered == [TWO, THREE, ONE]
    assert counter.open() == 4
    assert counter.remembered == [THREE, ONE, 4]
    assert [counter.open() for _ in range(2)] == [5, 6]
    assert counter.remembered == [4, 5, 6]
    assert counter.apply(first) == [EXPIRED]
    assert counter.executed == [[b"INCR"]]


# Snapshots ------------------------------------------------------------------------------------------------------------


def test_sessions_survive_a_snapshot_with_their_order_results_and_ages() -> None:
    """After a restart a retry must get the very same bytes."""
    replies: list[Reply] = [OK, Failure(b"WRONGTYPE x"), 1.5, None, [1, [b"\xff"]], {b"f": b"v"}]
    sessions = sessions_open(2)
    source = iter(replies)
    sessions.apply(batch_of(TWO, 1, *[b"x"] * len(replies)), 300, lambda _: next(source))
    sessions.apply(batch_of(ONE, 1, b"x"), 400, lambda _: 1)
    loaded = copied(sessions)
    assert dumped(loaded) == dumped(sessions)
    assert loaded.digest_input() == sessions.digest_input()
    counter = Counter(loaded)
    assert counter.remembered == [TWO, ONE]
    assert counter.apply(batch_of(TWO, 1), 500) == replies
    assert counter.apply(batch_of(ONE, 2, b"y"), 500) == [1]
    assert counter.executed == [[b"y"]]


def test_an_origin_is_not_given_again_after_a_snapshot() -> None:
    """The sessions that were forgotten are not in it, and their copies may still come."""
    counter = Counter()
    counter.open(SESSION_EXPIRES_MS)
    counter.apply(batch_of(9, 1), 3 * SESSION_EXPIRES_MS)
    assert counter.remembered == []
    assert Counter(copied(counter.sessions)).open() == 5


def test_a_session_forgotten_by_one_replica_is_forgotten_by_one_that_took_its_snapshot() -> None:
    """With the age left out of it, one replica applied the batch and the other did not."""
    counter = Counter()
    counter.apply(batch_of(ONE, 1, b"a"), 700)
    restored = Counter(copied(counter.sessions))
    for stamp_ms in (SESSION_EXPIRES_MS, SESSION_EXPIRES_MS + 700):
        for each in (counter, restored):
            each.apply(batch_of(9, 1), stamp_ms)
        assert restored.remembered == counter.remembered


# Any order, any clock -------------------------------------------------------------------------------------------------

ARRIVALS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(0, 4),
        st.sampled_from([0, 0, 0, 1, SESSION_EXPIRES_MS // 3, SESSION_EXPIRES_MS - 1, 2 * SESSION_EXPIRES_MS]),
    ),
    max_size=60,
)
"""(origin, sequence, how far the stamp goes on before it): any interleaving, with losses, doubles and jumps; sequence 0
opens another session."""


def arrived(origin: int, sequence: int) -> Batch:
    if sequence == OPENING:
        return batch_of(origin, OPENING)
    return batch_of(origin, sequence, b"%d.%d.1" % (origin, sequence), b"%d.%d.2" % (origin, sequence), below=1)


@given(ARRIVALS)
def test_whatever_arrives_is_applied_once_and_in_order(arrivals: list[tuple[int, int, int]]) -> None:
    counter = Counter()
    stamp_ms = 0
    answers: dict[tuple[int, int], list[Reply]] = {}
    following = {1: 1, 2: 1, 3: 1}
    for origin, sequence, step_ms in arrivals:
        stamp_ms += step_ms
        results = counter.apply(arrived(origin, sequence), stamp_ms)
        if sequence == OPENING:
            assert results != [origin]
        elif results == [EXPIRED, EXPIRED]:
            assert origin not in counter.remembered
        elif sequence > following[origin]:
            assert results is Verdict.OUT_OF_ORDER
        else:
            assert isinstance(results, list)
            assert answers.setdefault((origin, sequence), results) == results
            if sequence == following[origin]:
                following[origin] += 1
    for origin in following:
        mine = [command[0] for command in counter.executed if command[0].startswith(b"%d." % origin)]
        expected = [b"%d.%d.%d" % (origin, n, part) for n in range(1, following[origin]) for part in (1, 2)]
        assert mine == expected


@given(ARRIVALS, st.integers(0, 60))
def test_replicas_decide_alike_even_when_one_was_restored_in_between(
    arrivals: list[tuple[int, int, int]], at: int
) -> None:
    whole, restored = Counter(), Counter()
    stamp_ms = 0
    for number, (origin, sequence, step_ms) in enumerate(arrivals):
        stamp_ms += step_ms
        if number == at:
            executed = restored.executed
            restored = Counter(copied(restored.sessions))
            restored.executed = executed
        batch = arrived(origin, sequence)
        assert whole.apply(batch, stamp_ms) == restored.apply(batch, stamp_ms)
    assert whole.sessions.digest_input() == restored.sessions.digest_input()
    assert whole.executed == restored.executed
