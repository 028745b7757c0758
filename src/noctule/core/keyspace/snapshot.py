"""A keyspace as bytes, in chunks that are made and read one at a time.

Each chunk is MessagePack: the format's version, the chunk's number from 0, whether it is the last, and records of
key, value and deadline (None without one). The first one also holds the declared buckets, if there are any. A hash
that is larger than a chunk goes on in the next record under the same key. Keys stand in the order of their slots, then
of their bytes, and fields in the order of their bytes, so that equal data makes equal chunks. The chunks' integrity is
the storage's to check; here nonsense is refused.
"""

from collections.abc import Iterable, Iterator

import msgspec

from noctule.base.errors import StorageError
from noctule.core.keyspace.crdt import CrdtValue
from noctule.core.keyspace.state import Bucket, State, Value

FORMAT = 1
FORMAT_WITH_BUCKETS = 2
"""Of snapshots with declared buckets, which an earlier release cannot read; all others are as they were."""
CHUNK_BYTES_TARGET = 256 * 1024

_RECORD_COST_BYTES = 16


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One piece of a snapshot."""

    format: int
    number: int
    is_last: bool
    records: list[tuple[bytes, Value, int | None]]


class FirstChunk(Chunk, frozen=True, array_like=True, gc=False):
    """The first piece of a snapshot in FORMAT_WITH_BUCKETS; the others are as in FORMAT."""

    buckets: dict[bytes, Bucket] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(FirstChunk)


class KeyspacePicture:
    """The data at one moment."""

    __slots__ = ("_buckets", "_deadlines", "_slots")

    def __init__(
        self, slots: dict[int, dict[bytes, Value]], deadlines: dict[bytes, int], buckets: dict[bytes, Bucket]
    ) -> None:
        self._buckets = buckets
        self._slots = slots
        self._deadlines = deadlines

    def chunks(self, bytes_target: int = CHUNK_BYTES_TARGET) -> Iterator[bytes]:
        """The chunks in order, at least one; each is full at `bytes_target` and exceeds it by one value at most."""
        number = size = 0
        records: list[tuple[bytes, Value, int | None]] = []
        for record in self._records(bytes_target):
            key, value, _ = record
            record_size = _RECORD_COST_BYTES + len(key) + _encoded_bytes(value)
            if records and size + record_size > bytes_target:
                yield self._chunk(number, False, records)
                number += 1
                size, records = 0, []
            records.append(record)
            size += record_size
        yield self._chunk(number, True, records)

    def _chunk(self, number: int, is_last: bool, records: list[tuple[bytes, Value, int | None]]) -> bytes:
        if number or not self._buckets:
            return _encoder.encode(Chunk(FORMAT, number, is_last, records))
        buckets = dict(sorted(self._buckets.items()))
        return _encoder.encode(FirstChunk(FORMAT_WITH_BUCKETS, number, is_last, records, buckets))

    def _records(self, bytes_target: int) -> Iterator[tuple[bytes, Value, int | None]]:
        for slot in sorted(self._slots):
            values = self._slots[slot]
            for key in sorted(values):
                value, deadline = values[key], self._deadlines.get(key)
                if isinstance(value, dict):
                    for part in _parts(value, bytes_target):
                        yield key, part, deadline
                else:
                    yield key, value, deadline


def load_chunks(state: State, chunks: Iterable[bytes]) -> None:
    """Fill an empty state; raises `StorageError` when the chunks are not one snapshot, whole and in order."""
    expected = 0
    is_complete = False
    last_key: bytes | None = None
    for data in chunks:
        try:
            chunk = _decoder.decode(data)
        except msgspec.DecodeError as error:
            raise StorageError(f"snapshot chunk {expected} cannot be read: {error}") from error
        if chunk.format not in (FORMAT, FORMAT_WITH_BUCKETS):
            raise StorageError(f"snapshot has format {chunk.format}, this version reads up to {FORMAT_WITH_BUCKETS}")
        if is_complete or chunk.number != expected:
            raise StorageError(f"snapshot chunk {chunk.number} stands where chunk {expected} is expected")
        for name, bucket in chunk.buckets.items():
            state.declare_bucket(name, bucket)
        for key, value, deadline in chunk.records:
            _load_record(state, key, value, deadline, is_continued=key == last_key)
            last_key = key
        expected += 1
        is_complete = chunk.is_last
    if not is_complete:
        raise StorageError(f"snapshot ends after {expected} chunks, and the last is not among them")


def _load_record(state: State, key: bytes, value: Value, deadline: int | None, *, is_continued: bool) -> None:
    held = state.get(key)
    if held is None and (value or not isinstance(value, dict)):
        state.replace(key, value, deadline)
    elif is_continued and isinstance(held, dict) and isinstance(value, dict) and value:
        for field, text in value.items():
            state.put_field(held, field, text)
    else:
        raise StorageError("snapshot holds a key twice, or a hash without fields")


def _parts(fields: dict[bytes, bytes], bytes_target: int) -> Iterator[dict[bytes, bytes]]:
    """The fields in order, cut where a part is full."""
    part: dict[bytes, bytes] = {}
    size = 0
    for field in sorted(fields):
        if part and size >= bytes_target:
            yield part
            part, size = {}, 0
        part[field] = fields[field]
        size += _RECORD_COST_BYTES + len(field) + len(fields[field])
    yield part


def _encoded_bytes(value: Value) -> int:
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, CrdtValue):
        return _RECORD_COST_BYTES + len(value.data)
    return sum(map(len, value)) + sum(map(len, value.values())) + _RECORD_COST_BYTES * len(value)
