"""Objects of *meta* as keys of its keyspace: one MessagePack map each, under a prefix that no command can name.

A map may hold fields that this release does not know: a newer one wrote them. They stay when the object is rewritten,
so that a cluster whose nodes are upgraded one by one forgets nothing. Equal objects make equal bytes.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import TypeVar

import msgspec
from msgspec import Struct

from noctule.base.errors import StorageError
from noctule.core.keyspace.state import State, Value
from noctule.core.placement.slots import key_slot

PREFIX = b"\x00{noctule}:"
"""The tag puts all of them into one slot, so that finding them does not mean looking at every key."""

_T = TypeVar("_T", bound=Struct)

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_map_decoder = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])


class Kind(StrEnum):
    """What an object is; the part of its key between the prefix and its name."""

    CLUSTER = "cluster"
    SETTINGS = "settings"
    MEMBER = "member"
    ADMISSION = "admission"
    TOKEN = "token"
    PARTITION = "partition"
    MIGRATION = "migration"
    SPLIT = "split"
    MERGE = "merge"
    REGISTRY = "registry"
    REGISTRY_NODE = "registry_node"
    INSTANCE = "instance"
    CHECK = "check"
    SESSION = "session"
    KEY = "key"
    LOCK_DELAY = "lock_delay"


def record_key(kind: Kind, name: int | str = "") -> bytes:
    """The key of an object."""
    return PREFIX + f"{kind}:{name}".encode()


def is_reserved(key: bytes) -> bool:
    """Whether the key belongs to an object of *meta*, and to nobody else."""
    return key.startswith(PREFIX)


def write_record(state: State, kind: Kind, name: int | str, value: Struct) -> None:
    """Set an object; what its record holds beside the fields of `value` stays."""
    key = record_key(kind, name)
    fields = _map_decoder.decode(_encoder.encode(value))
    before = state.get(key)
    if isinstance(before, bytes):
        fields = {**_map_decoder.decode(before), **fields}
    state.put(key, _encoder.encode(fields))


def read_record(state: State, kind: Kind, name: int | str, of: type[_T]) -> _T | None:
    """An object, or None. Raises `StorageError` when it cannot be read: a newer release may have written it."""
    data = state.get(record_key(kind, name))
    return None if data is None else _decode(data, kind, of)


def read_records(state: State, kind: Kind, of: type[_T]) -> Iterator[_T]:
    """All objects of a kind, in no particular order. Raises `StorageError` as `read_record` does."""
    start = record_key(kind)
    for key, data in state.slots.get(key_slot(PREFIX), {}).items():
        if key.startswith(start):
            yield _decode(data, kind, of)


def record_count(state: State) -> int:
    """How many objects there are. Costs each of them."""
    return sum(map(is_reserved, state.slots.get(key_slot(PREFIX), ())))


def _decode(data: Value, kind: Kind, of: type[_T]) -> _T:
    if not isinstance(data, bytes):
        raise StorageError(f"a record of meta ({kind}) is not bytes")
    try:
        return msgspec.msgpack.decode(data, type=of)
    except msgspec.MsgspecError as error:
        raise StorageError(f"a record of meta ({kind}) cannot be read: {error}") from error
