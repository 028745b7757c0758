"""A key that is drawn by lot."""

from collections.abc import Callable
from itertools import islice

from noctule.core.keyspace.chance import Chance
from noctule.core.keyspace.state import State

_DRAWS_MAX = 100
"""After as many keys that have expired, the first one that lives will do."""


def random_key(state: State, now_ms: int, first: int, last: int, is_member: Callable[[bytes], bool]) -> bytes | None:
    """One of the live keys of these slots, both inclusive, for which `is_member`; None when there is none.

    Costs the number of slots and of the keys of one. Which one it is depends on the time, and on the order in which the
    keys came, but for logged transactions: only for a reply, never for a change of data.
    """
    in_order = sorted if state.answers_alike else iter
    slots = [state.slots[slot] for slot in in_order(state.slots) if first <= slot <= last]
    total = sum(map(len, slots))
    chance = Chance(now_ms, b"", total)
    for _ in range(_DRAWS_MAX if total else 0):
        place = chance.below(total)
        for values in slots:
            if place < len(values):
                break
            place -= len(values)
        key = next(islice(in_order(values), place, None))
        deadline = state.deadlines.get(key)
        if (deadline is None or deadline > now_ms) and is_member(key):
            return key
    return next(filter(is_member, in_order(state.live_keys(now_ms, first, last))), None)
