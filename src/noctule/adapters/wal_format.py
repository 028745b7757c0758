"""The bytes of the write-ahead log: records, frames and segment headers, both ways; no disk.

A *segment* is a file: a header, then *frames*, then zeros. A frame is one batch: a header chained to the frame before,
and the batch's records. docs/reference/wal-format.md has the layout as tables, ADR 0003 the reasons.
Read wal_groups.py next for what the records mean.
"""

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import google_crc32c
import msgspec

from noctule.adapters.wal_records import Entries, Forgotten, HardState, Record, SnapshotMark, Summary
from noctule.base.errors import ConfigError

FORMAT_VERSION: Final = 2
"""Rises when an older Noctule could not read the log any more."""

SEGMENT_HEADER_BYTES: Final = 64
FRAME_HEADER_BYTES: Final = 32
FRAME_PAYLOAD_BYTES_MAX: Final = 2**32 - 8
"""What the length field can say; a batch is kept far below it by whoever collects it."""

_SEGMENT_MAGIC: Final = b"NOCTWAL\n"
_SEGMENT_HEADER = struct.Struct("<8s8sQQQQII")  # magic, cluster, node, salt, first sequence, bytes, version, reserved
_FRAME_HEADER = struct.Struct("<QQIII")  # salt, sequence, payload bytes, previous frame's crc, payload's crc
_CRC = struct.Struct("<I")
_SEGMENT_NAME = re.compile(r"wal-([0-9a-f]{16})\.log")

_crc32c_extend = google_crc32c.extend
_crc32c_value = google_crc32c.value


class WalDamage(Exception):  # noqa: N818 - not an error yet: recovery decides whether it is a torn tail or corruption
    """These bytes are no header or record of ours; the sentence says which check failed."""


# Records --------------------------------------------------------------------------------------------------------------


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entries | HardState | SnapshotMark | Summary | Forgotten]).decode
_RECORD_BYTES_MAX: Final = 34  # what MessagePack needs at most for a record without its entries
_ENTRY_BYTES_MAX: Final = 15  # and for an entry without its payload


def record_bytes(record: Record) -> int:
    """How many bytes the record takes in a frame at most; it may be some tens of bytes less for each entry."""
    if not isinstance(record, Entries):
        return _RECORD_BYTES_MAX
    return _RECORD_BYTES_MAX + sum([_ENTRY_BYTES_MAX + len(payload) for _term, payload in record.entries])


def encode_records(records: Sequence[Record | Summary]) -> bytes:
    """One frame's payload: a MessagePack array of them. About a quarter of a microsecond for a record of one entry."""
    return _encode(records)


def decode_records(payload: bytes) -> list[Record | Summary]:
    """The records of a payload whose crc was right. Raises `WalDamage` on what this version never writes."""
    try:
        return _decode(payload)
    except msgspec.DecodeError as error:
        raise WalDamage(f"its records cannot be read ({error})") from error


# Frames ---------------------------------------------------------------------------------------------------------------


class FrameHeader(NamedTuple):
    """The facts of one frame. `payload_offset` and `end` count from the start of its segment; `end` is exclusive."""

    sequence: int
    payload_bytes: int
    previous_crc: int
    payload_crc: int
    crc: int
    payload_offset: int
    end: int


def frame_bytes(payload_bytes: int) -> int:
    """What a payload of this size takes in a segment: its header before it, zeros up to eight bytes after it."""
    return FRAME_HEADER_BYTES + payload_bytes + (-payload_bytes & 7)


def encode_frame(payload: bytes, *, salt: int, sequence: int, previous_crc: int) -> tuple[bytes, int]:
    """The bytes of a frame and its crc, which the next frame repeats."""
    padded = payload + bytes(-len(payload) & 7)
    facts = _FRAME_HEADER.pack(salt, sequence, len(payload), previous_crc, _crc32c_value(padded))
    crc: int = _crc32c_value(facts)
    return b"".join((facts, _CRC.pack(crc), padded)), crc


def read_frame_header(data: bytes, offset: int, salt: int) -> FrameHeader | None:
    """The header at `offset` of a segment if it is whole and of this segment; says nothing of the payload.

    The frame begins with the segment's salt instead of a fixed magic: nobody who stores values knows it, so no value
    can look like a frame.
    """
    facts = data[offset : offset + _FRAME_HEADER.size]
    if len(facts) < _FRAME_HEADER.size or offset + FRAME_HEADER_BYTES > len(data):
        return None
    found_salt, sequence, size, previous_crc, payload_crc = _FRAME_HEADER.unpack(facts)
    (crc,) = _CRC.unpack_from(data, offset + _FRAME_HEADER.size)
    end = offset + frame_bytes(size)
    if found_salt != salt or crc != _crc32c_value(facts) or end > len(data):
        return None
    return FrameHeader(sequence, size, previous_crc, payload_crc, crc, offset + FRAME_HEADER_BYTES, end)


def read_frame_payload(data: bytes, header: FrameHeader) -> bytes | None:
    """The frame's payload, or None when its crc is wrong. The padding is under the crc, too."""
    padded = data[header.payload_offset : header.end]
    if _crc32c_value(padded) != header.payload_crc:
        return None
    return padded[: header.payload_bytes]


def find_later_frame(data: bytes, offset: int, salt: int, sequence: int) -> int | None:
    """The offset, after `offset`, of a whole frame header with a sequence above `sequence`, or None.

    Frames start at multiples of eight. A header is enough: it was written only after everything before was synced.
    """
    mark = salt.to_bytes(8, "little")
    position = data.find(mark, offset + 1)
    while position >= 0:
        if position % 8 == 0:
            header = read_frame_header(data, position, salt)
            if header is not None and header.sequence > sequence:
                return position
        position = data.find(mark, position + 1)
    return None


# Segments -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WalIdentity:
    """Whose log it is; a log of another cluster or node is refused, for its votes and entries mean nothing here."""

    cluster: str
    node_id: int

    def cluster_hash(self) -> bytes:
        """Eight bytes that stand for the cluster's name."""
        return hashlib.blake2b(self.cluster.encode(), digest_size=8).digest()


class SegmentHeader(NamedTuple):
    """The facts of one segment; `segment_bytes` is its whole size, which never changes."""

    cluster_hash: bytes
    node_id: int
    salt: int
    first_sequence: int
    segment_bytes: int

    def encode(self) -> bytes:
        """`SEGMENT_HEADER_BYTES` bytes."""
        facts = _SEGMENT_HEADER.pack(_SEGMENT_MAGIC, *self, FORMAT_VERSION, 0)
        return facts + bytes(4) + _CRC.pack(_crc32c_value(facts + bytes(4)))

    def check_identity(self, identity: WalIdentity, place: str) -> None:
        """Raise `ConfigError` when the segment at `place` is another's."""
        if self.cluster_hash != identity.cluster_hash():
            raise ConfigError(f"{place} belongs to another cluster than {identity.cluster!r}: check the data directory")
        if self.node_id != identity.node_id:
            raise ConfigError(
                f"{place} belongs to node {self.node_id}, this is node {identity.node_id}: check the data directory"
            )


def decode_segment_header(data: bytes, place: str) -> SegmentHeader:
    """The header of the segment's bytes. `WalDamage` when it is damaged, `ConfigError` when its version is another."""
    facts = data[: SEGMENT_HEADER_BYTES - _CRC.size]
    if len(data) < SEGMENT_HEADER_BYTES or not facts.startswith(_SEGMENT_MAGIC):
        raise WalDamage("it does not begin with the header of a segment")
    if _crc32c_value(facts) != _CRC.unpack_from(data, len(facts))[0]:
        raise WalDamage("its header's crc is wrong")
    _magic, *rest, version, _reserved = _SEGMENT_HEADER.unpack_from(facts)
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{place} has log format {version}, this Noctule reads {FORMAT_VERSION}: run the matching one"
        )
    return SegmentHeader(*rest)


def segment_name(first_sequence: int) -> str:
    """The file name of the segment whose first frame has this sequence."""
    return f"wal-{first_sequence:016x}.log"


def parse_segment_name(name: str) -> int | None:
    """The first sequence that the name promises; None when it is not a segment's."""
    match = _SEGMENT_NAME.fullmatch(name)
    return int(match[1], 16) if match else None
