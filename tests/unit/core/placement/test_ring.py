"""The laws of consistent hashing, as properties: little moves, nothing moves needlessly, shares follow weights."""

import subprocess
import sys
from collections import Counter
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.base.errors import RequestError
from noctule.core.placement.ring import VIRTUAL_NODES, ConsistentHashRing

KEYS = [b"key %d" % number for number in range(4_000)]

nodes_and_one_more = st.lists(st.integers(1, 10_000), min_size=2, max_size=30, unique=True)


def ring_of(nodes: list[int], weights: dict[int, float] | None = None) -> ConsistentHashRing:
    ring = ConsistentHashRing()
    for node in nodes:
        ring.add_node(node, (weights or {}).get(node, 1.0))
    return ring


def owners(ring: ConsistentHashRing) -> list[int]:
    return [ring.node_for_key(key) for key in KEYS]


@settings(max_examples=25, deadline=None)
@given(nodes_and_one_more)
def test_a_node_that_comes_takes_its_share_and_nothing_moves_between_others(nodes: list[int]) -> None:
    *others, new = nodes
    ring = ring_of(others)
    before = owners(ring)
    ring.add_node(new)
    after = owners(ring)
    moved = [now for was, now in zip(before, after, strict=True) if was != now]
    assert set(moved) <= {new}
    # Five deviations of the share of the circle, and of the sample of keys.
    fair = len(KEYS) / len(nodes)
    assert len(moved) <= fair * (1 + 5 / sqrt(VIRTUAL_NODES) + 5 / sqrt(fair))
    ring.remove_node(new)
    assert owners(ring) == before


@settings(max_examples=25, deadline=None)
@given(nodes_and_one_more, st.integers(1, 5), st.binary())
def test_replicas_are_distinct_and_survivors_stay_in_order(nodes: list[int], count: int, key: bytes) -> None:
    ring = ring_of(nodes)
    replicas = ring.replica_nodes(key, count)
    assert len(set(replicas)) == len(replicas) == min(count, len(nodes))
    assert replicas[0] == ring.node_for_key(key)
    ring.remove_node(replicas[0])
    assert ring.replica_nodes(key, count)[: len(replicas) - 1] == replicas[1:]


@pytest.mark.parametrize("count", [3, 10, 100])
def test_balance_with_the_default_number_of_virtual_nodes(count: int) -> None:
    """No node has a quarter more or less than its share of the circle."""
    ring = ring_of(list(range(1, count + 1)))
    held = Counter(ring.node_for_key(b"key %d" % number) for number in range(count * 1_000))
    assert 750 <= min(held.values()) <= max(held.values()) <= 1_250


def test_weights_are_respected() -> None:
    ring = ring_of([1, 2, 3, 4], {1: 0.5, 2: 1.0, 3: 2.0, 4: 0.0})
    held = Counter(owners(ring))
    assert held[4] == 0
    for node, weight in ((1, 0.5), (2, 1.0), (3, 2.0)):
        assert held[node] == pytest.approx(len(KEYS) * weight / 3.5, rel=0.25)
    assert 4 not in ring.replica_nodes(b"key", 4)


def test_a_new_weight_moves_keys_of_that_node_only() -> None:
    ring = ring_of([1, 2, 3])
    before = owners(ring)
    ring.add_node(2, 2.0)
    assert {now for was, now in zip(before, owners(ring), strict=True) if was != now} == {2}


def test_the_order_of_adding_does_not_matter_and_nodes_are_iterated_by_id() -> None:
    assert owners(ring_of([3, 1, 2])) == owners(ring_of([1, 2, 3]))
    ring = ring_of([3, 1, 2])
    assert (list(ring), len(ring), 2 in ring, 4 in ring) == ([1, 2, 3], 3, True, False)


def test_another_process_has_the_same_ring() -> None:
    """Python's own hash of bytes differs in every process; the ring must not."""
    program = (
        "from noctule.core.placement.ring import ConsistentHashRing as R\n"
        "r = R()\nfor n in (1, 2, 3, 4, 5): r.add_node(n)\n"
        "print([r.node_for_key(b'key %d' % i) for i in range(50)])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    ring = ring_of([1, 2, 3, 4, 5])
    assert answer.stdout.strip() == str([ring.node_for_key(key) for key in KEYS[:50]])
    # And so does every later release: moving all keys at an upgrade would be a disaster.
    assert [ring.node_for_key(key) for key in KEYS[:12]] == PINNED


def test_what_cannot_be_is_refused() -> None:
    ring = ConsistentHashRing()
    with pytest.raises(RequestError, match="empty"):
        ring.node_for_key(b"key")
    with pytest.raises(RequestError, match="not in the ring"):
        ring.remove_node(1)
    for weight in (-1.0, 65.0, float("nan")):
        with pytest.raises(RequestError, match="weight"):
            ring.add_node(1, weight)
    ring.add_node(1, 0)
    with pytest.raises(RequestError, match="empty"):
        ring.replica_nodes(b"key", 1)


PINNED = [1, 3, 1, 3, 4, 2, 4, 1, 5, 2, 4, 3]
