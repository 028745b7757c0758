"""How far a group has come, counted in entries: XINFO's ``entries-read`` and ``lag``.

Nobody counts: the number follows from how many entries there ever were, as long as none was deleted from the middle of
those in question. Source: `streamEstimateDistanceFromFirstEverEntry` and what calls it in Redis 7.0's t_stream.c.
"""

from noctule.core.keyspace.stream_value import ConsumerGroup, StreamValue


def entries_read_after(stream: StreamValue, entries_read: int | None, id_: int) -> int | None:
    """How many entries there ever were up to `id_`, which was given out after as many as `entries_read`."""
    if entries_read is not None and not _has_gap_from(stream, id_):
        return entries_read + 1
    return _count_up_to(stream, id_) if stream.entries_added else entries_read


def lag(stream: StreamValue, group: ConsumerGroup) -> int | None:
    """How many entries the group was not given yet; None when that is not known."""
    if not stream.entries_added:
        return 0
    entries_read = group.entries_read
    if entries_read is None or _has_gap_from(stream, group.last_id):
        entries_read = _count_up_to(stream, group.last_id)
    return None if entries_read is None else stream.entries_added - entries_read


def _has_gap_from(stream: StreamValue, start: int) -> bool:
    """Whether an entry was deleted from the middle, at `start` or behind it."""
    return bool(stream.entries) and max(start, stream.first_id) <= stream.max_deleted_id


def _count_up_to(stream: StreamValue, id_: int) -> int | None:
    if not stream.entries_added:
        return 0
    if not stream.entries and id_ <= stream.last_id:
        return stream.entries_added
    if id_ == stream.last_id:
        return stream.entries_added
    if id_ > stream.last_id:
        return None
    if not stream.max_deleted_id or stream.max_deleted_id < stream.first_id:
        if id_ < stream.first_id:
            return stream.entries_added - len(stream)
        if id_ == stream.first_id:
            return stream.entries_added - len(stream) + 1
    return None
