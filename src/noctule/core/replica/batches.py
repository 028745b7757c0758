"""What stands in a log entry: batches of commands, and the time the leader stamped them with.

A batch is encoded once, by the node whose client sent it; the leader puts those bytes into an entry as they are, and
the same bytes go to the WAL and to the peers. Only applying decodes them.
"""

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from noctule.base.errors import StorageError

OPENING = 0
"""The sequence of a batch without commands that opens a client session: its result is the session's origin."""


class Batch(Struct, array_like=True, frozen=True, gc=False):
    """Commands of one origin for one group, applied in order, all or none of them logged.

    `origin` is a client session of the group, `sequence` counts its batches from 1, without gaps; below
    `acknowledged_below` its router has seen every answer. Of an opening, `origin` is a number that the router drew to
    know the answer by. Origins below 0 are leaders themselves.
    """

    origin: int
    sequence: int
    acknowledged_below: int
    commands: list[list[bytes]]


class EntryBody(Struct, array_like=True, frozen=True, gc=False):
    """A log entry's data: batches applied in order, all at `stamp_ms` of the leader's clock, which never falls."""

    stamp_ms: int
    batches: list[Batch]


class _Stamp(Struct, array_like=True, frozen=True, gc=False):
    """The beginning of an `EntryBody`; what follows is passed over."""

    stamp_ms: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(EntryBody)
_batch_decoder = msgspec.msgpack.Decoder(Batch)
_stamp_decoder = msgspec.msgpack.Decoder(_Stamp)


def encode_batch(origin: int, sequence: int, acknowledged_below: int, commands: list[list[bytes]]) -> bytes:
    """A `Batch` as bytes."""
    return _encoder.encode((origin, sequence, acknowledged_below, commands))


def encode_opening(drawn: int) -> bytes:
    """A `Batch` that opens a client session, as bytes; `drawn` must be new, or answers to two openings look alike."""
    return _encoder.encode((drawn, OPENING, 0, []))


def encode_entry(stamp_ms: int, batches: Iterable[bytes]) -> bytes:
    """An `EntryBody` from batches that are encoded already."""
    return _encoder.encode((stamp_ms, [msgspec.Raw(batch) for batch in batches]))


def decode_entry(data: bytes) -> EntryBody:
    """The inverse of `encode_entry`. Raises `StorageError`: what was committed cannot be read."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise StorageError(f"a committed log entry cannot be read: {error}") from error


def decode_batch(data: bytes) -> Batch:
    """The inverse of `encode_batch`. Raises `StorageError`: a node of ours sent what is none."""
    try:
        return _batch_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise StorageError(f"a batch cannot be read: {error}") from error


def decode_stamp(data: bytes) -> int:
    """The stamp alone, in unix ms, of an entry of this node's own log. Raises `StorageError`, as `decode_entry`."""
    try:
        return _stamp_decoder.decode(data).stamp_ms
    except msgspec.MsgspecError as error:
        raise StorageError(f"a log entry cannot be read: {error}") from error
