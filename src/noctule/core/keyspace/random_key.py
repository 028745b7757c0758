"""A key that is drawn by lot."""

from itertools import islice

from noctule.core.keyspace.chance import Chance
from noctule.core.keyspace.state import State

_DRAWS_MAX = 100
"""After as many keys that have expired, the first one that lives will do."""


def random_key(state: State, now_ms: int, first: int, last: int) -> bytes | None:
    """One of the live keys of these slots, both inclusive; None when there is none.

    Costs the number of slots and of the keys of one. Which one it is depends on the time, and on the order in which the
    keys came: only for a reply, never for a change of data.
    """
    slots = [values for slot, values in state.slots.items() if first <= slot <= last]
    total = sum(map(len, slots))
    chance = Chance(now_ms, b"", total)
    for _ in range(_DRAWS_MAX if total else 0):
        place = chance.below(total)
        for values in slots:
            if place < len(values):
                break
            place -= len(values)
        key = next(islice(values, place, None))
        deadline = state.deadlines.get(key)
        if deadline is None or deadline > now_ms:
            return key
    return next(state.live_keys(now_ms, first, last), None)
