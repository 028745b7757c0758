"""Replies as MessagePack: Python's values as such, the other kinds of reply as extension types 1 to 7."""

from typing import Any, cast

import msgspec

from noctule.core.keyspace.reply import (
    MOVED,
    NULL_ARRAY,
    OK,
    Failure,
    Members,
    Moved,
    Named,
    NullArray,
    Pairs,
    Reply,
    Status,
)

_STATUS = 1
_FAILURE = 2
_MOVED = 3
_MEMBERS = 4
_PAIRS = 5
_NULL_ARRAY = 6
_NAMED = 7


def encode_hook(value: Any) -> msgspec.msgpack.Ext:
    """For an Encoder that meets replies."""
    if isinstance(value, Status):
        return msgspec.msgpack.Ext(_STATUS, value.text)
    if isinstance(value, Moved):
        return msgspec.msgpack.Ext(_MOVED, b"")
    if isinstance(value, Failure):
        return msgspec.msgpack.Ext(_FAILURE, value.text)
    if isinstance(value, Members):
        return msgspec.msgpack.Ext(_MEMBERS, _encoder.encode(value.items))
    if isinstance(value, Pairs):
        return msgspec.msgpack.Ext(_PAIRS, _encoder.encode(value.items))
    if isinstance(value, Named):
        return msgspec.msgpack.Ext(_NAMED, _encoder.encode(value.items))
    if value is NULL_ARRAY:
        return msgspec.msgpack.Ext(_NULL_ARRAY, b"")
    raise NotImplementedError(f"{type(value).__name__} is not a reply")


def extension_hook(code: int, data: memoryview) -> Status | Failure | Members | Pairs | Named | NullArray:
    """For a Decoder that meets replies. Raises ValueError for a type that is not ours."""
    if code == _MEMBERS:
        return Members(_decoder.decode(data))
    if code == _PAIRS:
        return Pairs([(first, second) for first, second in _decoder.decode(data)])
    if code == _NAMED:
        return Named([(first, second) for first, second in _decoder.decode(data)])
    text = bytes(data)
    if code == _STATUS:
        return OK if text == b"OK" else Status(text)
    if code == _FAILURE:
        return Failure(text)
    if code == _MOVED:
        return MOVED
    if code == _NULL_ARRAY:
        return NULL_ARRAY
    raise ValueError(f"extension type {code} is not a reply")


_encoder = msgspec.msgpack.Encoder(enc_hook=encode_hook)
_decoder = msgspec.msgpack.Decoder(list[Any], ext_hook=extension_hook)


def encode_values(replies: list[Reply]) -> bytes:
    """A list of replies as bytes."""
    return _encoder.encode(replies)


def decode_values(data: bytes) -> list[Reply]:
    """The inverse of `encode_values`."""
    return cast("list[Reply]", _decoder.decode(data))
