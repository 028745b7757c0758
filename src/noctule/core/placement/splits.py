"""When a partition is divided, and when two neighbours are joined: late, rarely, and never back and forth.

A partition that is over a limit for a while is split; one peak, or a saw's teeth that fall below the limit in time,
are not a while. Two neighbours are merged when they have been far below all limits, together, for much longer. The
distance between the two is what keeps it from flapping: halves of what was over the limit are, together, over it,
and what is merged would have to grow many times over before it is split again.
"""

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

from msgspec import Struct

from noctule.base.ids import Instant


class SplitLimits(Struct, frozen=True):
    """When to split and merge."""

    bytes_max: int = 512 << 20
    requests_per_s_max: float = 5_000.0
    over_for_s: float = 60.0
    """So long a partition must be over a limit without a break before it is split."""
    calm_share: float = 0.8
    """Below this part of the limit, it is a break; between, it is neither. Loads are noisy at the limit, too."""
    cooldown_s: float = 300.0
    """After a split or merge its partitions are left alone for so long."""
    merge_share: float = 0.2
    """Two neighbours must be below this part of each limit, together, to be merged."""
    merge_bytes_max: int = 64 << 20
    """What they may hold together, as a merge copies it."""
    merge_after_s: float = 3_600.0
    """So long they must be that small without a break."""
    partitions_min: int = 1
    """No merge goes below this."""
    partitions_max: int = 16_384
    """No split goes beyond this."""


class PartitionLoad(Struct, frozen=True):
    """What the policy looks at."""

    partition: int
    first_slot: int
    last_slot: int
    """Both inclusive."""
    bytes: int
    requests_per_s: float
    has_operation: bool = False


class SplitCause(StrEnum):
    """What a partition has too much of."""

    BYTES = "bytes"
    REQUESTS = "requests"


class SplitWish(Struct, frozen=True):
    """This partition should be divided. Where, its sampler or its sizes tell; they may tell that it is no use."""

    partition: int
    cause: SplitCause
    reason: str


class MergeWish(Struct, frozen=True):
    """These neighbours should be one."""

    left: int
    right: int
    reason: str


class SplitPolicy:
    """Remembers since when partitions are over or far below the limits. Only those that are, are remembered.

    Whoever acts on a wish, or finds that no split helps, calls `rest`; else the same wish comes again.
    """

    def __init__(self, limits: SplitLimits) -> None:
        self.limits = limits
        """May be replaced at any time."""
        self._over_since: dict[int, Instant] = {}
        self._small_since: dict[tuple[int, int], Instant] = {}
        self._rests_until: dict[int, Instant] = {}

    def rest(self, partitions: Sequence[int], now: Instant) -> None:
        """Leave these alone for `cooldown_s`: they were split or merged, or no split helps them."""
        for partition in partitions:
            self._rests_until[partition] = Instant(now + self.limits.cooldown_s)
            self._over_since.pop(partition, None)
        self._small_since = {
            pair: since for pair, since in self._small_since.items() if not set(pair) & set(partitions)
        }

    def look(self, loads: Sequence[PartitionLoad], now: Instant) -> list[SplitWish | MergeWish]:
        """What should be split or merged as of now. `loads` are all partitions, in the order of their slots.

        A partition is in one wish at most, and the numbers of partitions stay within the limits if all are granted.
        """
        self._rests_until = {partition: until for partition, until in self._rests_until.items() if until > now}
        present = {load.partition for load in loads}
        self._over_since = {each: since for each, since in self._over_since.items() if each in present}
        splits = [wish for load in loads if (wish := self._look_at_one(load, now))]
        splits = splits[: max(self.limits.partitions_max - len(loads), 0)]
        merges = self._look_at_pairs(loads, {wish.partition for wish in splits}, now)
        return [*splits, *merges[: max(len(loads) - self.limits.partitions_min, 0)]]

    def _look_at_one(self, load: PartitionLoad, now: Instant) -> SplitWish | None:
        limits = self.limits
        fullness = {
            SplitCause.BYTES: load.bytes / limits.bytes_max,
            SplitCause.REQUESTS: load.requests_per_s / limits.requests_per_s_max,
        }
        cause = max(fullness, key=fullness.__getitem__)
        if fullness[cause] < limits.calm_share or load.first_slot >= load.last_slot:
            self._over_since.pop(load.partition, None)
            return None
        if fullness[cause] > 1:
            self._over_since.setdefault(load.partition, now)
        since = self._over_since.get(load.partition)
        if since is None or fullness[cause] <= 1 or self._is_left_alone(load) or now - since < limits.over_for_s:
            return None
        reason = f"{fullness[cause]:.1f} times the limit of {cause}, for {now - since:.0f} s"
        return SplitWish(partition=load.partition, cause=cause, reason=reason)

    def _look_at_pairs(self, loads: Sequence[PartitionLoad], taken: set[int], now: Instant) -> list[MergeWish]:
        small_before, self._small_since = self._small_since, {}
        wishes = []
        for left, right in pairwise(loads):
            if not self._are_small(left, right):
                continue
            pair = (left.partition, right.partition)
            since = self._small_since[pair] = small_before.get(pair, now)
            is_free = taken.isdisjoint(pair) and not self._is_left_alone(left) and not self._is_left_alone(right)
            if is_free and now - since >= self.limits.merge_after_s:
                taken.update(pair)
                reason = f"together below {self.limits.merge_share:.0%} of every limit for {now - since:.0f} s"
                wishes.append(MergeWish(left=left.partition, right=right.partition, reason=reason))
        return wishes

    def _are_small(self, left: PartitionLoad, right: PartitionLoad) -> bool:
        limits = self.limits
        size = left.bytes + right.bytes
        requests = left.requests_per_s + right.requests_per_s
        return (
            left.last_slot + 1 == right.first_slot
            and size <= min(limits.merge_share * limits.bytes_max, limits.merge_bytes_max)
            and requests <= limits.merge_share * limits.requests_per_s_max
        )

    def _is_left_alone(self, load: PartitionLoad) -> bool:
        return load.has_operation or load.partition in self._rests_until
