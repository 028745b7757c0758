"""Where a busy or large partition would be divided: looked at only where there is enough of it to matter."""

import random

import pytest

from noctule.base.ids import Instant
from noctule.core.keyspace.territory import Territory
from noctule.core.meta.settings import ClusterSettings
from noctule.core.placement.hotspots import FORGOTTEN_AFTER_S, SAMPLES_MIN
from noctule.core.placement.slots import SLOT_COUNT, key_slot
from noctule.core.replica.replica import Replica
from noctule.node.load_watch import LoadWatch
from tests.unit.core.replica.colony import Colony

SETTINGS = ClusterSettings(split_bytes=10_000, split_requests_per_s=1_000)
BUSY, CALM = 600, 400
"""More and less than half of the limit."""
LOW, HIGH = b"b", b"a"
assert key_slot(LOW) < 8_192 < key_slot(HIGH)


@pytest.fixture
def replica() -> Replica:
    """A leader of all slots."""
    return Colony(slots=(0, SLOT_COUNT - 1)).elect(1).replica


def serve(replica: Replica, *keys: bytes, now: float = 1.0) -> None:
    """The replica answers commands on these keys."""
    if replica.on_batch is not None:
        for key in keys:
            replica.on_batch([[b"GET", key]], Instant(now))


def test_a_calm_and_small_partition_is_not_watched(replica: Replica) -> None:
    """A call for each batch of thousands of partitions would be felt."""
    watch = LoadWatch(random.Random(1))
    assert watch.look(replica, CALM, SETTINGS, Instant(1.0)) is None
    assert replica.on_batch is None


def test_a_busy_one_is_divided_where_its_requests_are_halved(replica: Replica) -> None:
    watch = LoadWatch(random.Random(1))
    first = watch.look(replica, BUSY, SETTINGS, Instant(1.0))
    assert first is not None
    assert (first.at_slot, "too few samples" in first.sentence) == (0, True)
    serve(replica, *[LOW, HIGH] * SAMPLES_MIN)
    advice = watch.look(replica, BUSY, SETTINGS, Instant(1.0))
    assert advice is not None
    assert key_slot(LOW) < advice.at_slot <= key_slot(HIGH)


def test_one_hot_key_is_told_and_not_divided(replica: Replica) -> None:
    watch = LoadWatch(random.Random(1))
    watch.look(replica, BUSY, SETTINGS, Instant(1.0))
    serve(replica, *[HIGH] * 2 * SAMPLES_MIN)
    advice = watch.look(replica, BUSY, SETTINGS, Instant(1.0))
    assert advice is not None
    assert advice.at_slot == 0
    assert "one key" in advice.sentence


def test_it_is_watched_until_its_load_is_forgotten_or_another_leads(replica: Replica) -> None:
    watch = LoadWatch(random.Random(1))
    watch.look(replica, BUSY, SETTINGS, Instant(1.0))
    serve(replica, *[HIGH] * SAMPLES_MIN)
    watch.look(replica, CALM, SETTINGS, Instant(2.0))
    assert replica.on_batch is not None
    watch.look(replica, CALM, SETTINGS, Instant(1.0 + FORGOTTEN_AFTER_S))
    assert replica.on_batch is None


def test_a_large_one_is_divided_where_its_keys_are_halved(replica: Replica) -> None:
    keyspace = replica.keyspace
    for number in range(40):
        for tag in (LOW, HIGH):
            keyspace.execute([b"SET", b"{%b}%d" % (tag, number), b"x" * 200], 1_000)
    assert keyspace.bytes_used > SETTINGS.split_bytes / 2
    advice = LoadWatch(random.Random(1)).look(replica, CALM, SETTINGS, Instant(1.0))
    assert advice is not None
    assert key_slot(LOW) < advice.at_slot <= key_slot(HIGH)
    assert replica.on_batch is None


def test_what_cannot_be_divided_is_not_advised_on(replica: Replica) -> None:
    watch, one_slot = LoadWatch(random.Random(1)), Colony(slots=(5, 5)).elect(1).replica
    assert watch.look(one_slot, BUSY, SETTINGS, Instant(1.0)) is None
    replica.keyspace.hold(Territory(0, SLOT_COUNT - 1, fenced=3))
    assert watch.look(replica, BUSY, SETTINGS, Instant(1.0)) is None


def test_a_limit_of_zero_watches_nothing(replica: Replica) -> None:
    settings = ClusterSettings(split_bytes=0, split_requests_per_s=0)
    assert LoadWatch(random.Random(1)).look(replica, 1_000_000, settings, Instant(1.0)) is None
    assert replica.on_batch is None
