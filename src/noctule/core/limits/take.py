"""One decision under one policy: the count before, the time, and what is asked, to the count after.

All times are µs since 1970 by the store's clock. Counts are whole numbers and times are exact in a double up to the
year 2255, so that the script in the store computes the same.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

from noctule.core.limits.policy import Algorithm

Count: TypeAlias = tuple[int, int, int]
"""What is kept for one subject and policy. Windows: (number of the window, count in it, count in the one before).
GCRA: (theoretical arrival time, 0, 0). A subject never seen has (0, 0, 0)."""


@dataclass(frozen=True, slots=True)
class StoredCount:
    """What is kept of one subject under one policy, which stands beside it as it last was."""

    algorithm: Algorithm
    limit: int
    window_us: int
    count: Count


@dataclass(frozen=True, slots=True)
class Taken:
    """What one policy says of one request."""

    is_admitted: bool
    remaining: int
    """So many more of cost 1 would be admitted now; of a refused request 0 or more, as it may have cost more."""
    reset_us: int
    """In how long all of the limit is there again, if nothing more is taken."""
    retry_us: int
    """In how long this request would be admitted; 0 for one that was."""
    count: Count
    """To be kept if every policy admits the request."""


def take(algorithm: Algorithm, count: Count, now_us: int, *, limit: int, window_us: int, cost: int = 1) -> Taken:
    """Decide on a request of `cost`. One of a cost over the limit is never admitted, and told to retry in a window."""
    match algorithm:
        case Algorithm.FIXED_WINDOW:
            return _fixed(count, now_us, limit, window_us, cost)
        case Algorithm.SLIDING_WINDOW:
            return _sliding(count, now_us, limit, window_us, cost)
        case Algorithm.GCRA:
            return _gcra(count, now_us, limit, window_us, cost)


def give_back(algorithm: Algorithm, count: Count, now_us: int, *, limit: int, window_us: int, cost: int = 1) -> Count:
    """The count as if `cost` of what was taken had not been; for a request that another subject's limit refused."""
    if algorithm is Algorithm.GCRA:
        return (max(count[0] - cost * (window_us // limit), 0), 0, 0)
    number, current, before = _turned(count, now_us // window_us)
    return (number, max(current - cost, 0), before)


def _turned(count: Count, number: int) -> Count:
    """The counts as of the window with this number; as they are if a clock before this one was ahead."""
    if count[0] >= number:
        return count
    return (number, 0, count[1] if count[0] == number - 1 else 0)


def _fixed(count: Count, now_us: int, limit: int, window_us: int, cost: int) -> Taken:
    number, current, _ = _turned(count, now_us // window_us)
    end_us = window_us - now_us % window_us
    if current + cost > limit:
        return Taken(False, max(limit - current, 0), end_us, end_us, (number, current, 0))
    return Taken(True, limit - current - cost, end_us, 0, (number, current + cost, 0))


def _sliding(count: Count, now_us: int, limit: int, window_us: int, cost: int) -> Taken:
    number, current, before = _turned(count, now_us // window_us)
    into_us = now_us % window_us
    # What the window still covers of the one before, rounded up: rather one too few than one too many. The script has
    # doubles only, so the same are used here.
    used = current + math.ceil(before * ((window_us - into_us) / window_us))
    is_admitted = used + cost <= limit
    current += cost if is_admitted else 0
    reset_us = window_us - into_us + (window_us if current else 0)
    kept = (number, current, before)
    if is_admitted:
        return Taken(True, limit - used - cost, reset_us, 0, kept)
    retry_us = _sliding_retry(current, before, into_us, limit, window_us, cost)
    return Taken(False, max(limit - used, 0), reset_us, retry_us, kept)


def _sliding_retry(current: int, before: int, into_us: int, limit: int, window_us: int, cost: int) -> int:
    """When the older counter weighs little enough; if the present one is the hindrance, that is in the next window."""
    if cost > limit:
        return window_us
    room = limit - cost - current
    if room >= 0:
        return max(window_us - into_us - math.floor(room * (window_us / before)), 1)
    # In the next window the present one is the older.
    return window_us - into_us + window_us - math.floor((limit - cost) * (window_us / current))


def _gcra(count: Count, now_us: int, limit: int, window_us: int, cost: int) -> Taken:
    step_us = window_us // limit
    arrival_us = max(count[0], now_us)
    after_us = arrival_us + cost * step_us
    # The burst is the whole limit: `limit` steps, which a window that is no multiple of them is a little longer than.
    over_us = after_us - now_us - limit * step_us
    if over_us > 0:
        ahead_us = arrival_us - now_us
        retry_us = over_us if cost <= limit else window_us
        return Taken(False, max((limit * step_us - ahead_us) // step_us, 0), ahead_us, retry_us, (count[0], 0, 0))
    return Taken(True, -over_us // step_us, after_us - now_us, 0, (after_us, 0, 0))
