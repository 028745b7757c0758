"""A keyspace as bytes, in chunks that are made and read one at a time.

Each chunk is MessagePack: the format's version, the chunk's number from 0, whether it is the last, and records of
key, value and deadline (None without one). The first one also holds the declared buckets, if there are any. A hash or
container that is larger than a chunk goes on at the beginning of the next one under the same key. Keys stand in the
order of their slots, then of their bytes, and fields in the order of their bytes, so that equal data makes equal
chunks. The chunks' integrity is the storage's to check; here nonsense is refused.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from heapq import merge
from typing import Protocol, TypeAlias

import msgspec

from noctule.base.errors import StorageError
from noctule.core.keyspace.bucket import Bucket
from noctule.core.keyspace.container import Container
from noctule.core.keyspace.crdt import CrdtValue
from noctule.core.keyspace.list_value import ListValue
from noctule.core.keyspace.set_value import SetValue
from noctule.core.keyspace.sorted_set_value import SortedSet
from noctule.core.keyspace.state import State, Value, value_bytes
from noctule.core.keyspace.stream_value import StreamValue

FORMAT = 1
FORMAT_WITH_BUCKETS = 2
"""Of snapshots with declared buckets, which an earlier release cannot read; all others are as they were."""
FORMAT_WITH_CONTAINERS = 3
"""Of chunks with lists, sets, sorted sets or streams in them, likewise; the first chunk may hold buckets, too."""
CHUNK_BYTES_TARGET = 256 * 1024

_RECORD_COST_BYTES = 16
_SORTED_AT_ONCE = 8_192

StoredValue: TypeAlias = bytes | dict[bytes, bytes] | CrdtValue | msgspec.msgpack.Ext
"""A container is one or more extensions: its code, and a part of it."""
Record: TypeAlias = tuple[bytes, StoredValue, int | None]
"""A key, its value or a part of its hash or container, and its deadline."""

CONTAINERS: dict[int, type[Container]] = {kind.code: kind for kind in (ListValue, SetValue, SortedSet, StreamValue)}
"""Code to kind."""


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One piece of a snapshot."""

    format: int
    number: int
    is_last: bool
    records: list[Record]


class FirstChunk(Chunk, frozen=True, array_like=True, gc=False):
    """The first piece of a snapshot in FORMAT_WITH_BUCKETS; the others are as in FORMAT."""

    buckets: dict[bytes, Bucket] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(FirstChunk)


class DeadlinesView(Protocol):
    """Where a picture finds deadlines."""

    def get(self, key: bytes, /) -> int | None:
        """The key's deadline, if it has one."""


class KeyspacePicture:
    """The data at one moment. Another thread may read it while the state it was taken of is written."""

    __slots__ = ("_buckets", "_deadlines", "_slots")

    def __init__(
        self, slots: dict[int, dict[bytes, Value]], deadlines: DeadlinesView, buckets: dict[bytes, Bucket]
    ) -> None:
        self._buckets = buckets
        self._slots = slots.copy()  # It is used up, whoever's it was.
        self._deadlines = deadlines

    def chunks(self, bytes_target: int = CHUNK_BYTES_TARGET) -> Iterator[bytes]:
        """The chunks in order, at least one; each is full at `bytes_target` and exceeds it by one value at most.

        Each is made when it is asked for, in a few milliseconds, whatever the number of keys. The picture is used up by
        that, slot by slot: to let go all of it at once would take as long as a copy.
        """
        number = size = 0
        records: list[Record] = []
        for record, record_size in self._records(bytes_target):
            # A key's next part always begins a chunk, for that is where it is joined to the one before.
            if records and (size + record_size > bytes_target or records[-1][0] == record[0]):
                yield self._chunk(number, False, records)
                number += 1
                size, records = 0, []
            records.append(record)
            size += record_size
        yield self._chunk(number, True, records)

    def _chunk(self, number: int, is_last: bool, records: list[Record]) -> bytes:
        has_containers = any(isinstance(value, msgspec.msgpack.Ext) for _, value, _ in records)
        if number or not self._buckets:
            return _encoder.encode(
                Chunk(FORMAT_WITH_CONTAINERS if has_containers else FORMAT, number, is_last, records)
            )
        buckets = dict(sorted(self._buckets.items()))
        format_ = FORMAT_WITH_CONTAINERS if has_containers else FORMAT_WITH_BUCKETS
        return _encoder.encode(FirstChunk(format_, number, is_last, records, buckets))

    def _records(self, bytes_target: int) -> Iterator[tuple[Record, int]]:
        """With the size of each, about."""
        deadline_of = self._deadlines.get
        for slot in sorted(self._slots):
            values = self._slots.pop(slot)
            for key in _in_order(values):
                value, deadline = values[key], deadline_of(key)
                if isinstance(value, dict):
                    for part, size in _parts(value, bytes_target):
                        yield (key, part, deadline), _RECORD_COST_BYTES + len(key) + size
                elif isinstance(value, Container):
                    for data in value.parts(bytes_target):
                        extension = msgspec.msgpack.Ext(value.code, data)
                        yield (key, extension, deadline), _RECORD_COST_BYTES + len(key) + len(data)
                else:
                    yield (key, value, deadline), _RECORD_COST_BYTES + len(key) + value_bytes(value)


class Loading:
    """Fills an empty state from a snapshot's chunks, one at a time; after an error the state is of no use."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._expected = 0
        self._is_complete = False
        self._last_key: bytes | None = None

    def take(self, data: bytes) -> None:
        """The next chunk; raises `StorageError` when it is not that."""
        try:
            chunk = _decoder.decode(data)
        except msgspec.DecodeError as error:
            raise StorageError(f"snapshot chunk {self._expected} cannot be read: {error}") from error
        if chunk.format not in (FORMAT, FORMAT_WITH_BUCKETS, FORMAT_WITH_CONTAINERS):
            raise StorageError(f"snapshot has format {chunk.format}, this version reads up to {FORMAT_WITH_CONTAINERS}")
        if self._is_complete or chunk.number != self._expected:
            raise StorageError(f"snapshot chunk {chunk.number} stands where chunk {self._expected} is expected")
        for name, bucket in chunk.buckets.items():
            self._state.declare_bucket(name, bucket)
        records = chunk.records
        if records and records[0][0] == self._last_key:
            self._continue(*records[0][:2])
            records = records[1:]
        if not self._state.put_new(_joined(records)):
            raise StorageError("snapshot holds a key twice, or a hash without fields")
        self._last_key = chunk.records[-1][0] if chunk.records else None
        self._expected += 1
        self._is_complete = chunk.is_last

    @property
    def is_complete(self) -> bool:
        """Whether the last chunk was taken."""
        return self._is_complete

    def finish(self) -> None:
        """Raises `StorageError` unless the last chunk was taken."""
        if not self._is_complete:
            raise StorageError(f"snapshot ends after {self._expected} chunks, and the last is not among them")

    def _continue(self, key: bytes, part: StoredValue) -> None:
        """A hash or container that did not fit goes on at the beginning of the next chunk."""
        held = self._state.get(key)
        if isinstance(part, dict) and part and isinstance(held, dict):
            self._state.put_fields(key, held, part.items())
        elif isinstance(part, msgspec.msgpack.Ext) and isinstance(held, Container) and held.code == part.code:
            held = self._state.change(key, held)
            _absorb(held, part)
            self._state.changed(key, held)
        else:
            raise StorageError("snapshot holds a key twice, or a hash without fields")


def _joined(records: Iterable[Record]) -> Iterator[tuple[bytes, Value, int | None]]:
    """The records with containers in place of their stored parts."""
    for key, stored, deadline in records:
        if isinstance(stored, msgspec.msgpack.Ext):
            kind = CONTAINERS.get(stored.code)
            if kind is None:
                raise StorageError(f"snapshot holds a value of kind {stored.code}, which this version does not know")
            container = kind()
            _absorb(container, stored)
            yield key, container, deadline
        else:
            yield key, stored, deadline


def _absorb(container: Container, part: msgspec.msgpack.Ext) -> None:
    try:
        container.absorb(bytes(part.data))
    except (ValueError, msgspec.MsgspecError) as error:
        raise StorageError(f"snapshot holds a {container.type_name.decode()} that cannot be read: {error}") from error


def chain_digest(before: bytes, chunk: bytes) -> bytes:
    """16 bytes that stand for all chunks so far, from those of the chunks before (empty at first) and the next one."""
    return blake2b(before + chunk, digest_size=16).digest()


def _in_order(names: Iterable[bytes]) -> Iterable[bytes]:
    """Sorted, in pieces: to sort very many at once would hold the interpreter, and with it the loop, for too long."""
    unsorted = list(names)
    if len(unsorted) <= _SORTED_AT_ONCE:
        return sorted(unsorted)
    starts = range(0, len(unsorted), _SORTED_AT_ONCE)
    return merge(*[sorted(unsorted[start : start + _SORTED_AT_ONCE]) for start in starts])


def _parts(fields: dict[bytes, bytes], bytes_target: int) -> Iterator[tuple[dict[bytes, bytes], int]]:
    """The fields in order, cut where a part is full; with the size of each, about."""
    part: dict[bytes, bytes] = {}
    size = 0
    for field in _in_order(fields):
        if part and size >= bytes_target:
            yield part, size
            part, size = {}, 0
        part[field] = fields[field]
        size += _RECORD_COST_BYTES + len(field) + len(fields[field])
    yield part, size
