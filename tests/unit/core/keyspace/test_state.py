"""What the state keeps beside the data: scan orders and the deadline heap stay true and bounded."""

from noctule.core.keyspace.state import HEAP_SLACK, ORDERS_MAX, State, scan_order
from noctule.core.placement.slots import key_slot


def filled(keys: list[bytes]) -> State:
    state = State()
    for key in keys:
        state.put(key, b"")
    return state


def test_a_kept_scan_order_follows_every_change() -> None:
    keys = [b"{t}%d" % number for number in range(30)]
    slot = key_slot(b"t")
    state = filled(keys)
    order = state.slot_order(slot)
    for key in keys:
        assert state.remove(key)
        state.check()
    assert order == []
    for key in keys[:5]:
        state.put(key, b"")
        state.put(key, b"again")
        state.check()
    assert state.slot_order(slot) is order
    assert order == scan_order(dict.fromkeys(keys[:5], b""))


def test_kept_scan_orders_are_few() -> None:
    keys = [b"key%d" % number for number in range(5 * ORDERS_MAX)]
    state = filled(keys)
    for key in keys:
        assert key in [name for _, name in state.slot_order(key_slot(key))]
    assert len(state._orders) == ORDERS_MAX
    state.check()


def test_the_heap_shrinks_with_the_deadlines() -> None:
    """A million sessions that were deleted must not stay behind as a million heap entries."""
    keys = [b"key%d" % number for number in range(1_000)]
    state = filled(keys)
    for key in keys:
        state.set_deadline(key, 1)
    for key in keys[:500]:
        state.clear_deadline(key)
    for key in keys[500:]:
        state.remove(key)
    assert len(state._heap) <= HEAP_SLACK
    state.check()
    assert state.expired_keys(1, 10) == []
