"""Where the load of a busy partition lies: watched by its leader, only once there is enough of it to matter."""

import random
from functools import partial

from noctule.base.ids import GroupId, Instant
from noctule.core.meta.settings import ClusterSettings
from noctule.core.placement.hotspots import LoadSampler, SplitAdvice, split_by_size
from noctule.core.replica.replica import Replica

WATCHED_SHARE = 0.5
"""Of a limit: from there on it is watched, so that a split knows where when it comes to it."""


class LoadWatch:
    """One node's, for the partitions that it leads."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._samplers: dict[GroupId, LoadSampler] = {}

    def look(
        self, replica: Replica, requests_per_s: int, settings: ClusterSettings, now: Instant
    ) -> SplitAdvice | None:
        """Where the partition would be divided, or why that does not help; None while it is far from the limits.

        To be asked about once a second for each partition that is led here and has changed.
        """
        keyspace = replica.keyspace
        is_busy = 0 < settings.split_requests_per_s * WATCHED_SHARE <= requests_per_s
        is_large = 0 < settings.split_bytes * WATCHED_SHARE <= keyspace.bytes_used
        self._watch(replica, now, is_busy=is_busy)
        if keyspace.first_slot >= keyspace.last_slot:  # One slot, or fenced.
            return None
        if is_busy and replica.group in self._samplers:
            return self._samplers[replica.group].split_point(keyspace.first_slot, keyspace.last_slot, now)
        if is_large:
            # Keys weigh about the same within one partition, and to count bytes would cost every one of them.
            sizes = {slot: len(values) for slot, values in keyspace.slots.items()}
            return split_by_size(sizes, keyspace.first_slot, keyspace.last_slot)
        return None

    def _watch(self, replica: Replica, now: Instant, *, is_busy: bool) -> None:
        sampler = self._samplers.get(replica.group)
        if is_busy and sampler is None:
            sampler = self._samplers[replica.group] = LoadSampler()
            replica.on_batch = partial(_observe, sampler, self._chance)
        elif sampler is not None and not is_busy and (sampler.tidy(now) or not replica.raft.is_leader()):
            del self._samplers[replica.group]
            replica.on_batch = None


def _observe(sampler: LoadSampler, chance: random.Random, commands: list[list[bytes]], now: Instant) -> None:
    command = commands[int(chance.random() * len(commands))]
    sampler.observe(command[1:2], len(commands), now, chance)
