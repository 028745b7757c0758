"""What a log must give back, kept the plain way: a dictionary of entries for each group. And a workload for it."""

import random
from dataclasses import dataclass, field

from noctule.adapters.wal_format import WalIdentity
from noctule.adapters.wal_groups import RecoveredGroup
from noctule.adapters.wal_records import Entries, Forgotten, HardState, Record, SnapshotMark

IDENTITY = WalIdentity(cluster="bats", node_id=1)


@dataclass
class ModelGroup:
    term: int = 0
    vote: int = 0
    commit: int = 0
    snapshot_index: int = 0
    snapshot_term: int = 0
    log: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    @property
    def last_index(self) -> int:
        return max(self.log, default=self.snapshot_index)


class Model:
    """Follows the same records as a log, in its own way."""

    def __init__(self) -> None:
        self.groups: dict[int, ModelGroup] = {}

    def write(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, Forgotten):
                self.groups.pop(record.group, None)
                continue
            group = self.groups.setdefault(record.group, ModelGroup())
            match record:
                case Entries(first_index=first, entries=entries):
                    group.log = {index: entry for index, entry in group.log.items() if index < first}
                    group.log.update(enumerate(entries, start=first))
                case HardState(term=term, vote=vote, commit=commit):
                    group.term, group.vote = term, vote
                    group.commit = max(group.commit, commit)
                case SnapshotMark(index=index, term=term) if index > group.snapshot_index:
                    known = group.log.get(index)
                    keeps = known is not None and known[0] == term
                    group.log = {at: entry for at, entry in group.log.items() if keeps and at > index}
                    group.snapshot_index, group.snapshot_term = index, term

    def recovered(self) -> dict[int, RecoveredGroup]:
        """As `Wal.open` must return it."""
        return {
            number: RecoveredGroup(
                term=group.term,
                vote=group.vote,
                commit=max(group.snapshot_index, min(group.commit, group.last_index)),
                snapshot_index=group.snapshot_index,
                snapshot_term=group.snapshot_term,
                first_index=group.snapshot_index + 1,
                entries=[group.log[index] for index in sorted(group.log)],
            )
            for number, group in self.groups.items()
        }


def make_batch(model: Model, chance: random.Random, copied: bytes) -> list[Record]:
    """A few legal records for groups 1 to 3, applied to `model`; some values are pieces of `copied`."""
    batch: list[Record] = []
    for _ in range(chance.randint(1, 3)):
        number = chance.randint(1, 3)
        group = model.groups.get(number, ModelGroup())
        first = group.last_index + 1
        dice = chance.random()
        record: Record
        if dice < 0.03:
            record = Forgotten(number)
        elif dice < 0.15:
            record = HardState(number, group.term + 1, chance.randint(0, 3), chance.randint(0, first))
        elif dice < 0.3 and first > 1:
            index = chance.randint(group.snapshot_index, group.last_index)
            term = group.log[index][0] if index in group.log else group.snapshot_term
            record = SnapshotMark(number, index, term)
        elif dice < 0.34:
            record = SnapshotMark(number, first + chance.randint(0, 5), group.term)
        else:
            if dice < 0.45:
                first = chance.randint(group.snapshot_index + 1, first)
            entries = [(group.term, _make_value(chance, copied)) for _ in range(chance.randint(1, 3))]
            record = Entries(number, first, entries)
        model.write([record])
        batch.append(record)
    return batch


def _make_value(chance: random.Random, copied: bytes) -> bytes:
    if chance.random() < 0.2:
        start = chance.randrange(0, max(1, len(copied) - 64), 8)
        return copied[start : start + chance.choice([40, 64, 600])]
    return chance.randbytes(chance.choice([0, 1, 7, 8, 30, 120]))
