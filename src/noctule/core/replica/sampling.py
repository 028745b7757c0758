"""Which partition's replicas are compared next: each that changes about once in an interval, one at a time."""

from collections.abc import Iterable
from typing import Final

from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.roster.loads import Compared

SAMPLED_BYTES_MAX = 2 << 30
"""Larger partitions are compared only when an operator asks: each replica takes some seconds of CPU time."""
SAMPLED_SLOT_KEYS_MAX: Final = 500_000
"""So are those with more keys in one slot, such as that of a database: to sort them takes 30 ms for each million, and
to copy the slot for the first write to it meanwhile 20 ms (measured), during which the node does nothing else."""
_GOLDEN: Final = 0.6180339887498949


class SampleTable:
    """When each partition that is led here was last looked at. All the time, forgets what is not led any more."""

    def __init__(self) -> None:
        self._looked_at: dict[GroupId, float] = {}

    def due(self, led: Iterable[GroupId], interval_s: float, now: Instant) -> list[GroupId]:
        """Of the groups led here those that are to be looked at, the one that has waited longest first.

        One that is new here has its turn within the interval, each at another time: else all would after an election.
        """
        known = self._looked_at
        self._looked_at = {
            group: known[group] if group in known else now - interval_s * (group * _GOLDEN % 1.0) for group in led
        }
        late = [(since, group) for group, since in self._looked_at.items() if now - since >= interval_s]
        return [group for _, group in sorted(late)]

    def looked_at(self, group: GroupId, now: Instant) -> None:
        """It had its turn, whatever came of it."""
        self._looked_at[group] = now


def is_worth_a_sample(last: Compared | None, applied: int) -> bool:
    """Whether the replicas may differ by anything that the last comparison by this leader could not have seen."""
    return last is None or bool(last.silent) or applied > last.index


def is_small_enough(keyspace: Keyspace) -> bool:
    """Whether digesting it holds nothing up. Costs a look at each slot."""
    if keyspace.bytes_used > SAMPLED_BYTES_MAX:
        return False
    return max(map(len, keyspace.slots.values()), default=0) <= SAMPLED_SLOT_KEYS_MAX
