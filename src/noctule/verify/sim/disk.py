"""The disk of one machine: batches become durable one after the other, and a crash loses what is not.

It keeps what the records add up to by the very rules of the WAL's recovery (`adapters.wal_groups`); bytes, tears and
bit flips are the WAL's own tests' matter.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence

from noctule.adapters.wal_format import Record
from noctule.adapters.wal_groups import GroupLog, RecoveredGroup
from noctule.verify.sim.time import VirtualTime


class SimulatedDisk:
    """Survives its machine's crashes."""

    def __init__(self, time: VirtualTime, chance: random.Random) -> None:
        self.sync_s_min, self.sync_s_max = 0.0001, 0.002
        self.slow_sync = 0.0
        """How often a sync takes up to a hundred times as long."""
        self.snapshots: dict[int, tuple[int, int, list[bytes]]] = {}
        self._time = time
        self._chance = chance
        self._groups: dict[int, GroupLog] = {}
        self._queue: deque[tuple[int, list[Record]]] = deque()
        self._life = 0
        self._next_number = 1
        self._syncing = False

    def submit(self, records: list[Record], durable: Callable[[int], None]) -> int:
        """Queue a batch; `durable` is called with its number once it is."""
        number = self._next_number
        self._next_number += 1
        self._queue.append((number, records))
        if not self._syncing:
            self._sync_next(durable)
        return number

    def _sync_next(self, durable: Callable[[int], None]) -> None:
        self._syncing = True
        life = self._life
        delay = self._chance.uniform(self.sync_s_min, self.sync_s_max)
        if self._chance.random() < self.slow_sync:
            delay *= self._chance.uniform(1, 100)

        def synced() -> None:
            if life != self._life:
                return
            number, records = self._queue.popleft()
            self._keep(records)
            self._syncing = False
            if self._queue:
                self._sync_next(durable)
            durable(number)

        self._time.after(delay, synced)

    def _keep(self, records: Sequence[Record]) -> None:
        for record in records:
            log = self._groups.get(record.group)
            if log is None:
                log = self._groups[record.group] = GroupLog(record.group)
            log.take(record)

    def crash(self) -> None:
        """Lose what is queued; the batch being written may or may not have reached the disk, as a whole."""
        self._life += 1
        self._syncing = False
        if self._queue and self._chance.random() < 0.5:
            self._keep(self._queue[0][1])
        self._queue.clear()

    def write_now(self, records: Sequence[Record]) -> None:
        """Make records durable at once, as recovery does before a node takes part."""
        self._keep(records)

    def recover(self) -> dict[int, RecoveredGroup]:
        """What a restarted machine finds."""
        return {group: log.recovered() for group, log in self._groups.items()}

    def save_snapshot(self, group: int, index: int, term: int, chunks: list[bytes], saved: Callable[[], None]) -> None:
        """Make a snapshot durable some time later; a crash before loses it, an older one stays."""
        life = self._life

        def done() -> None:
            if life == self._life:
                if group not in self.snapshots or self.snapshots[group][0] < index:
                    self.snapshots[group] = (index, term, chunks)
                saved()

        self._time.after(self._chance.uniform(0.001, 0.05), done)
