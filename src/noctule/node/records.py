"""What Raft asks to be kept, as records of the log. Read recovery.py for how they are found again."""

from noctule.adapters.wal_records import Entries, Record, SnapshotMark
from noctule.adapters.wal_records import HardState as HardStateRecord
from noctule.base.ids import META_GROUP, GroupId
from noctule.core.raft.events import Persist
from noctule.core.replica.replica import Replica


def records_of(group: GroupId, persist: Persist) -> list[Record]:
    """What the log must hold for Raft to find it again by `meet`."""
    records: list[Record] = []
    if persist.hard_state is not None:
        records.append(HardStateRecord(group, persist.hard_state.term, persist.hard_state.vote, 0))
    if persist.mark is not None:
        records.append(SnapshotMark(group, *persist.mark))
    if persist.entries:
        records.append(Entries(group, persist.first_index, persist.entries))
    return records


def record_of_meta(meta: Replica) -> HardStateRecord:
    """How far this node had followed *meta* when replicas came or went by it.

    It must stand before what tells of those: a later life that looked at an older map would remove what it has, or make
    what it had once, without what that had promised.
    """
    return HardStateRecord(META_GROUP, meta.raft.term, meta.raft.vote, meta.raft.applied)
