"""Reads a write-ahead log after a start, and decides between a torn tail and corruption.

Exactly one frame is unsynced at any time, and it is the last one of the newest segment. So a frame that cannot be read
is a torn tail only there and only with no later frame behind it; anywhere else something that was durable has been
lost, and a node that went on would break the promises it has given (FAST '18, "Protocol-Aware Recovery").
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from noctule.adapters.files import TEMPORARY_SUFFIX, FileSystem, disk_errors
from noctule.adapters.wal_format import (
    SEGMENT_HEADER_BYTES,
    FrameHeader,
    SegmentHeader,
    WalDamage,
    WalIdentity,
    decode_records,
    decode_segment_header,
    find_later_frame,
    parse_segment_name,
    read_frame_header,
    read_frame_payload,
    segment_name,
)
from noctule.adapters.wal_groups import GroupFacts, GroupLog
from noctule.adapters.wal_records import Entries, Fact, Forgotten, Record, Summary
from noctule.base.errors import DamagedLogError, InternalError


@dataclass(slots=True)
class Segment:
    """One segment file, and up to where it matters: the last index of each group that has entries in it."""

    path: Path
    header: SegmentHeader
    last_indexes: dict[int, int] = field(default_factory=dict)


def follow(segments: Sequence[Segment], log: GroupFacts | GroupLog, record: Fact) -> None:
    """Take one record that stands in the newest segment, and keep each segment's `last_indexes` right.

    Raises `InternalError` as `GroupFacts.take` does.
    """
    last_index = log.last_index
    log.take(record)
    if isinstance(record, Entries):
        group, first_index = record.group, record.first_index
        if first_index <= last_index:  # a conflict: what older segments hold from there on is dead
            for segment in segments:
                if segment.last_indexes.get(group, 0) >= first_index:
                    segment.last_indexes[group] = first_index - 1
        if record.entries:
            segments[-1].last_indexes[group] = first_index + len(record.entries) - 1


def forget(segments: Sequence[Segment], groups: dict[int, GroupFacts] | dict[int, GroupLog], record: Forgotten) -> None:
    """The group is no more, so no segment is kept for its sake. One that is not there is forgotten already."""
    groups.pop(record.group, None)
    for segment in segments:
        segment.last_indexes.pop(record.group, None)


class Recovery:
    """The log as it was read: segments oldest first, groups, and where the next frame goes in the newest segment."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.groups: dict[int, GroupLog] = {}
        self.sequence = 0
        """Of the last frame; 0 before the first."""
        self.crc = 0
        """Of the last frame; 0 before the first."""
        self.end = 0
        """The byte after the last frame in the newest segment."""
        self.last_frame = 0
        """The byte where that frame begins."""


def recover(directory: Path, identity: WalIdentity, files: FileSystem) -> Recovery:
    """Read every segment in `directory`, cut a torn tail, and make sure that what was read is durable.

    Raises `DamagedLogError` naming segment and byte for everything that a crash alone cannot explain, `ConfigError` for
    another cluster's or node's log, `StorageError` when the disk fails. Changes nothing on the disk before it knows
    that the log is sound, except that it removes temporary files.
    """
    with disk_errors("reading", directory):
        names = files.names(directory)
    _remove_leftovers(directory, names, files)
    sequences = sorted(sequence for sequence in map(parse_segment_name, names) if sequence is not None)
    recovery = Recovery()
    data = b""
    for sequence, next_sequence in zip_longest(sequences, sequences[1:]):
        path = directory / segment_name(sequence)
        with disk_errors("reading", path):
            data = files.read(path)
        _read_segment(recovery, path, data, identity, next_sequence)
    if recovery.segments:
        _check_whole(recovery)
        _settle(recovery, data, files)
    return recovery


def _remove_leftovers(directory: Path, names: list[str], files: FileSystem) -> None:
    leftovers = [name for name in names if name.startswith("wal-") and name.endswith(TEMPORARY_SUFFIX)]
    for name in leftovers:
        with disk_errors("removing", directory / name):
            files.remove(directory / name)


def _read_segment(
    recovery: Recovery, path: Path, data: bytes, identity: WalIdentity, next_sequence: int | None
) -> None:
    """Follow all frames of one segment; `next_sequence` is the first of the segment after it, None for the newest."""
    segment = Segment(path, _read_header(path, data, identity))
    recovery.segments.append(segment)
    salt = segment.header.salt
    recovery.end = SEGMENT_HEADER_BYTES
    is_first_frame = True
    while next_sequence is None or is_first_frame or recovery.sequence < next_sequence - 1:
        header = read_frame_header(data, recovery.end, salt)
        if header is not None:
            _check_chain(recovery, path, header)
        payload = read_frame_payload(data, header) if header is not None else None
        if header is None or payload is None:
            _check_torn(recovery, path, data, is_torn_possible=next_sequence is None and not is_first_frame)
            return
        records = _decode(path, recovery.end, payload)
        if is_first_frame:
            _take_summaries(recovery, path, records)
        else:
            _take_records(recovery, path, records)
        recovery.last_frame, recovery.end = recovery.end, header.end
        recovery.sequence, recovery.crc = header.sequence, header.crc
        is_first_frame = False
    if len(data.rstrip(b"\0")) > recovery.end:
        raise _damaged(path, recovery.end, "there is something after its last frame")


def _read_header(path: Path, data: bytes, identity: WalIdentity) -> SegmentHeader:
    try:
        header = decode_segment_header(data, str(path))
    except WalDamage as damage:
        raise _damaged(path, 0, str(damage)) from damage
    header.check_identity(identity, str(path))
    if path.name != segment_name(header.first_sequence):
        raise _damaged(path, 0, f"it was written as {segment_name(header.first_sequence)}")
    if len(data) != header.segment_bytes:
        raise _damaged(path, len(data), f"it has {len(data)} bytes and was made with {header.segment_bytes}")
    return header


def _check_chain(recovery: Recovery, path: Path, header: FrameHeader) -> None:
    """The frame is the next one. Before the oldest segment nothing is known: its header says where it begins."""
    segment = recovery.segments[-1]
    if recovery.sequence == 0:
        expected = segment.header.first_sequence
    else:
        expected = recovery.sequence + 1
        if header.sequence == expected and header.previous_crc != recovery.crc:
            raise _damaged(path, recovery.end, f"frame {expected} does not continue the frame before it")
    if header.sequence != expected:
        raise _damaged(path, recovery.end, f"frame {expected} is missing, frame {header.sequence} stands there")


def _check_torn(recovery: Recovery, path: Path, data: bytes, *, is_torn_possible: bool) -> None:
    """Raise unless what begins at `recovery.end` is free space or the remains of one frame that was never synced."""
    missing = recovery.sequence + 1
    if not is_torn_possible:
        raise _damaged(path, recovery.end, f"frame {missing} cannot be read, and it was durable")
    later = find_later_frame(data, recovery.end, recovery.segments[-1].header.salt, missing)
    if later is not None:
        raise _damaged(path, recovery.end, f"frame {missing} cannot be read, and a later one stands at byte {later}")


def _decode(path: Path, offset: int, payload: bytes) -> list[Record | Summary]:
    try:
        return decode_records(payload)
    except WalDamage as damage:
        raise _damaged(path, offset, f"{damage}, though its crc is right") from damage


def _take_summaries(recovery: Recovery, path: Path, records: list[Record | Summary]) -> None:
    """The first frame of a segment: where the oldest begins, and for the others a check of all that was read so far."""
    summaries = {record.group: record for record in records if isinstance(record, Summary)}
    if len(summaries) != len(records):
        raise _damaged(path, recovery.end, "its first frame is no summary")
    if recovery.sequence == 0:
        for summary in summaries.values():
            recovery.groups[summary.group] = log = GroupLog(summary.group)
            log.restore(summary)
    elif summaries != {group: log.facts.summary() for group, log in recovery.groups.items()}:
        raise _damaged(path, recovery.end, "its summary does not say what the segments before it say")


def _take_records(recovery: Recovery, path: Path, records: list[Record | Summary]) -> None:
    for record in records:
        if isinstance(record, Summary):
            raise _damaged(path, recovery.end, "there is a summary inside a segment")
        if isinstance(record, Forgotten):
            forget(recovery.segments, recovery.groups, record)
            continue
        log = recovery.groups.get(record.group)
        if log is None:
            recovery.groups[record.group] = log = GroupLog(record.group)
        try:
            follow(recovery.segments, log, record)
        except InternalError as error:
            raise _damaged(path, recovery.end, f"its records contradict each other: {error}") from error


def _check_whole(recovery: Recovery) -> None:
    for log in recovery.groups.values():
        if not log.is_whole():
            mark = log.facts.snapshot_index
            why = f"entries {mark + 1} to {log.first_index - 1} of group {log.facts.group} are missing before it"
            raise _damaged(recovery.segments[0].path, 0, why)


def _settle(recovery: Recovery, data: bytes, files: FileSystem) -> None:
    """Zero what is left of a torn frame, and make durable what was read.

    The last frame may have come from the page cache only: written and never synced because the process died, or its
    sync failed, after which Linux calls the page clean although the disk does not have it (USENIX ATC '20, "Can
    Applications Recover from fsync Failures?"). So it is written once more before anybody relies on it.
    """
    path = recovery.segments[-1].path
    remains = len(data.rstrip(b"\0")) - recovery.end
    with disk_errors("repairing", path):
        descriptor = files.open(path)
        try:
            files.write(descriptor, data[recovery.last_frame : recovery.end], recovery.last_frame)
            if remains > 0:
                files.write(descriptor, bytes(remains), recovery.end)
            files.sync_data(descriptor)
        finally:
            files.close(descriptor)
        files.sync_directory(path.parent)


def _damaged(path: Path, offset: int, why: str) -> DamagedLogError:
    return DamagedLogError.at(str(path), offset, why)
