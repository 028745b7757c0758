"""The registry among the records of *meta*: one record for each of its objects, so that a change costs what it changes.

The registry is decoded beside them, and is what applies the changes; the records are what snapshots carry.
"""

from typing import TypeVar

from msgspec import Struct

from noctule.core.keyspace.state import State
from noctule.core.meta.records import Kind, read_record, read_records, record_key, write_record
from noctule.core.registry.objects import (
    Check,
    KvEntry,
    LockDelay,
    Object,
    RegistryNode,
    ServiceInstance,
    Session,
)
from noctule.core.registry.registry import Contents, Registry

_T = TypeVar("_T", bound=Struct)

_KINDS: dict[type[Object], Kind] = {
    RegistryNode: Kind.REGISTRY_NODE,
    ServiceInstance: Kind.INSTANCE,
    Check: Kind.CHECK,
    Session: Kind.SESSION,
    KvEntry: Kind.KEY,
    LockDelay: Kind.LOCK_DELAY,
}


class RegistryCounter(Struct, frozen=True):
    """What is one of a kind in the registry."""

    index: int


def write_registry(state: State, registry: Registry, index_before: int) -> None:
    """Write what the last list of changes has changed."""
    for of, name, row in registry.written():
        if row is None:
            state.remove(record_key(_KINDS[of], name))
        else:
            write_record(state, _KINDS[of], name, row)
    if registry.index != index_before:
        write_record(state, Kind.REGISTRY, "", RegistryCounter(registry.index))


def read_registry(state: State) -> Registry:
    """The registry that the records tell of. Raises `StorageError` when one cannot be read."""
    counter = read_record(state, Kind.REGISTRY, "", RegistryCounter)
    if counter is None:
        return Registry()

    def all_of(of: type[_T], kind: Kind) -> tuple[_T, ...]:
        return tuple(read_records(state, kind, of))

    contents = Contents(
        index=counter.index,
        nodes=all_of(RegistryNode, Kind.REGISTRY_NODE),
        instances=all_of(ServiceInstance, Kind.INSTANCE),
        checks=all_of(Check, Kind.CHECK),
        sessions=all_of(Session, Kind.SESSION),
        entries=all_of(KvEntry, Kind.KEY),
        delays=all_of(LockDelay, Kind.LOCK_DELAY),
    )
    return Registry(contents)
