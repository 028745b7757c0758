"""Which chunks are on their way: a window, a rate, a follower that forgot, and silence."""

import random

from noctule.base.ids import Instant
from noctule.core.raft.outgoing_snapshot import CHUNKS_IN_FLIGHT_MAX, RESEND_S, OutgoingSnapshot

NOW = Instant(5.0)


def outgoing(count: int = 10) -> OutgoingSnapshot:
    return OutgoingSnapshot(7, 1, count, count * 100, NOW)


def asked(snapshot: OutgoingSnapshot, now: Instant = NOW, rate: float = 0) -> list[int]:
    """All chunks that the disk is asked for now, which hands them in at once."""
    numbers = []
    while (number := snapshot.next_chunk(now, rate)) is not None:
        assert snapshot.loaded(number, 100, now, rate)
        numbers.append(number)
    return numbers


def test_a_few_chunks_are_on_their_way_and_each_answer_makes_room() -> None:
    snapshot = outgoing()
    assert asked(snapshot) == list(range(CHUNKS_IN_FLIGHT_MAX))
    assert asked(snapshot) == []
    snapshot.acknowledge(2, NOW)
    snapshot.acknowledge(1, NOW)  # Late, and no news.
    assert asked(snapshot) == [4, 5]
    assert snapshot.describe().bytes_sent == 600


def test_after_silence_the_first_missing_chunk_goes_alone() -> None:
    snapshot = outgoing()
    asked(snapshot)
    snapshot.acknowledge(1, NOW)
    asked(snapshot)
    assert not snapshot.is_stalled(Instant(NOW + RESEND_S / 2))
    later = Instant(NOW + RESEND_S)
    assert snapshot.is_stalled(later)
    assert asked(snapshot, later) == [1]
    snapshot.acknowledge(5, later)
    assert asked(snapshot, later) == [5, 6, 7, 8]


def test_a_follower_that_forgot_all_gets_all() -> None:
    snapshot = outgoing()
    asked(snapshot)
    snapshot.acknowledge(4, NOW)
    snapshot.acknowledge(0, NOW)
    assert asked(snapshot) == [0, 1, 2, 3]


def test_a_chunk_that_nobody_waits_for_any_more_is_not_sent() -> None:
    snapshot = outgoing()
    number = snapshot.next_chunk(NOW, 0)
    assert number == 0
    snapshot.is_stalled(Instant(NOW + RESEND_S))
    assert not snapshot.loaded(0, 100, NOW, 0)


def test_a_rate_is_kept_and_says_when_the_next_is_due() -> None:
    snapshot = outgoing()
    assert asked(snapshot, NOW, 1_000) == [0]
    due = snapshot.next_deadline(1_000)
    assert due == NOW + 0.1
    assert asked(snapshot, Instant(NOW + 0.09), 1_000) == []
    assert asked(snapshot, due, 1_000) == [1]
    assert snapshot.next_deadline(0) == float("inf")


def test_every_chunk_arrives_whatever_is_lost() -> None:
    for seed in range(50):
        chance, snapshot, now = random.Random(seed), outgoing(), NOW
        taken = 0
        for _ in range(1_000):
            now = Instant(now + 0.1)
            for number in asked(snapshot, now):
                taken += number == taken and chance.random() < 0.7
            if chance.random() < 0.05:
                taken = 0
            if chance.random() < 0.7:
                snapshot.acknowledge(taken, now)
            snapshot.is_stalled(now)
            assert 0 <= snapshot.taken <= snapshot.asked <= snapshot.count
            if snapshot.taken == snapshot.count:
                break
        assert snapshot.taken == snapshot.count, seed
