"""What one operation of a transaction means: the change that does it, why it cannot be done, what it shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from noctule.core.registry.changes import (
    AcquireKey,
    Change,
    CheckIndex,
    CheckSession,
    DeleteKey,
    DeleteTree,
    PutCheck,
    PutNode,
    PutService,
    ReleaseKey,
    RemoveCheck,
    RemoveNode,
    RemoveService,
    SetKey,
)
from noctule.core.registry.registry import Registry
from noctule.servers.consul.bodies import TxnCheckOp, TxnKvOp, TxnNodeOp, TxnOp, TxnServiceOp
from noctule.servers.consul.loading import load_check, load_instance, load_node
from noctule.servers.consul.renderings import Json, render_check, render_instance, render_key, render_node
from noctule.servers.consul.sessions import invalid_session

Why: TypeAlias = Callable[[Registry], str]
Show: TypeAlias = Callable[[Registry], list[Json]]

_WRITES_KEY = (SetKey, AcquireKey, ReleaseKey, DeleteKey)
_WRITES_CATALOG = (PutNode, PutService, PutCheck, RemoveNode, RemoveService, RemoveCheck)
_KV_WRITES = ("set", "cas", "lock", "unlock", "delete", "delete-cas", "delete-tree")


@dataclass(frozen=True, slots=True)
class Step:
    """One operation. Without a change it reads, or can never be done."""

    refusal: Why
    """Why it cannot be done as the registry stands, empty when it can; of a write asked for when it was refused."""
    results: Show
    """What it shows of the registry: a read before, a write after it was done."""
    change: Change | None = None
    reads: str | None = None
    """The key that it reads."""
    is_tree: bool = False
    """All keys that begin with it."""
    guard: Change | None = None
    """What a check comes to among writes."""
    is_unguarded: bool = False
    """Whether it reads the catalog, where nothing guards what is read."""

    def is_touched_by(self, changes: Sequence[Change]) -> bool:
        """Whether what it reads can only be told once these are done."""
        if self.is_unguarded:
            return any(isinstance(change, _WRITES_CATALOG) for change in changes)
        return any(self._touches(change) for change in changes)

    def guards(self, view: Registry, earlier: Sequence[Change]) -> list[Change]:
        """Changes that refuse the list unless what was read is still so, but for what the list itself has written."""
        if self.guard is not None:
            return [self.guard]
        if self.reads is None:
            return []
        found = view.keys(self.reads) if self.is_tree else filter(None, [view.key(self.reads)])
        written = [change for change in earlier if self._touches(change)]
        return [
            CheckIndex(entry.key, entry.modify_index)
            for entry in found
            if not any(_writes(change, entry.key) for change in written)
        ]

    def _touches(self, change: Change) -> bool:
        if self.reads is None:
            return False
        if isinstance(change, DeleteTree):
            return change.prefix.startswith(self.reads) if self.is_tree else self.reads.startswith(change.prefix)
        if not isinstance(change, _WRITES_KEY):
            return False
        return change.key.startswith(self.reads) if self.is_tree else change.key == self.reads


def is_write(operation: TxnOp) -> bool:
    """Whether its verb is one that writes, or is taken for one by Consul."""
    if operation.kv is not None:
        return operation.kv.verb in _KV_WRITES
    others = operation.node or operation.service or operation.check
    return others is not None and others.verb != "get"


def load_step(operation: TxnOp, datacenter: str) -> Step:
    """What an operation means; one that is none can be done and does nothing, as at Consul. Raises `ConsulError`."""
    if operation.kv is not None:
        return _kv_step(operation.kv)
    if operation.node is not None:
        return _node_step(operation.node, datacenter)
    if operation.service is not None:
        return _service_step(operation.service)
    if operation.check is not None:
        return _check_step(operation.check)
    return Step(_never, _nothing)


# Keys -----------------------------------------------------------------------------------------------------------------


def _kv_step(op: TxnKvOp) -> Step:
    key, quoted = op.key, f'"{op.key}"'
    if not key and op.verb != "delete-tree":
        return _impossible("Must provide key")

    def shown(view: Registry) -> list[Json]:
        entry = view.key(key)
        return [] if entry is None else [{"KV": render_key(entry, with_value=False)}]

    stale = f"failed to set key {quoted}, index is stale"
    match op.verb:
        case "set":
            return Step(_never, shown, SetKey(key, op.value, op.flags))
        case "cas":
            return Step(_always(stale), shown, SetKey(key, op.value, op.flags, cas=op.index))
        case "lock":
            change = AcquireKey(key, op.value, op.session, op.flags)
            return Step(_lock_refusal(key, op.session), shown, change)
        case "unlock":
            why = f"failed to unlock key {quoted}, lock isn't held, or is held by another session"
            return Step(_always(why), shown, ReleaseKey(key, op.value, op.session, op.flags))
        case "delete":
            return Step(_never, _nothing, DeleteKey(key))
        case "delete-cas":
            why = f"failed to delete key {quoted}, index is stale"
            return Step(_always(why), _nothing, DeleteKey(key, cas=op.index))
        case "delete-tree":
            return Step(_never, _nothing, DeleteTree(key))
        case _:
            return _reading_step(op, shown)


def _reading_step(op: TxnKvOp, shown: Show) -> Step:
    key, quoted = op.key, f'"{op.key}"'

    def values(view: Registry) -> list[Json]:
        entry = view.key(key)
        return [] if entry is None else [{"KV": render_key(entry)}]

    def tree(view: Registry) -> list[Json]:
        return [{"KV": render_key(entry)} for entry in view.keys(key)]

    def missing(view: Registry) -> str:
        return "" if view.key(key) is not None else f"key {quoted} doesn't exist"

    def other_index(view: Registry) -> str:
        entry = view.key(key)
        if entry is None:
            return f"failed to check index, key {quoted} doesn't exist"
        if entry.modify_index == op.index:
            return ""
        return f"failed index check for key {quoted}, current modify index {entry.modify_index} != {op.index}"

    def other_session(view: Registry) -> str:
        entry = view.key(key)
        if entry is None:
            return f"failed to check session, key {quoted} doesn't exist"
        if entry.session == op.session:
            return ""
        return f'failed session check for key {quoted}, current session "{entry.session}" != "{op.session}"'

    def present(view: Registry) -> str:
        return "" if view.key(key) is None else f"key {quoted} exists"

    match op.verb:
        case "get":
            return Step(missing, values, reads=key)
        case "get-tree":
            return Step(_never, tree, reads=key, is_tree=True)
        case "check-index":
            return Step(other_index, shown, reads=key, guard=CheckIndex(key, op.index))
        case "check-session":
            return Step(other_session, shown, reads=key, guard=CheckSession(key, op.session))
        case "check-not-exists":
            return Step(present, _nothing, reads=key, guard=CheckIndex(key, 0))
        case _:
            return _impossible(f'unknown KV verb "{op.verb}"')


def _lock_refusal(key: str, session: str) -> Why:
    def why(view: Registry) -> str:
        if invalid := invalid_session(view, session):
            return invalid
        entry = view.key(key)
        reason = "lock is already held" if entry is not None and entry.session else "due to lock delay"
        return f'failed to lock key "{key}", {reason}'

    return why


# The catalog ----------------------------------------------------------------------------------------------------------


def _node_step(op: TxnNodeOp, datacenter: str) -> Step:
    asked, name = op.node, op.node.node
    quoted = f'node "{name}"'
    if not name:
        return _impossible("Must provide node")

    def shown(view: Registry) -> list[Json]:
        node = view.nodes.get(name)
        return [] if node is None else [{"Node": render_node(node, datacenter)}]

    def put(cas: int | None) -> Change:
        node = load_node(
            name,
            asked.address,
            id=asked.id,
            datacenter=datacenter,
            tagged_addresses=asked.tagged_addresses,
            meta=asked.meta,
        )
        return PutNode(node, cas=cas)

    match op.verb:
        case "get":
            return _get_step(shown, f"{quoted} doesn't exist")
        case "set":
            return Step(_never, shown, put(None))
        case "cas":
            return Step(_always(f"failed to set {quoted}, index is stale"), shown, put(asked.modify_index))
        case "delete":
            return Step(_never, _nothing, RemoveNode(name))
        case "delete-cas":
            why = f"failed to delete {quoted}, index is stale"
            return Step(_always(why), _nothing, RemoveNode(name, cas=asked.modify_index))
        case _:
            return _impossible(f'unknown Node verb "{op.verb}"')


def _service_step(op: TxnServiceOp) -> Step:
    asked, node = op.service, op.node
    service_id = asked.id or asked.service
    quoted = f'service "{service_id}" on node "{node}"'

    def shown(view: Registry) -> list[Json]:
        instance = view.instances.get((node, service_id))
        return [] if instance is None else [{"Service": render_instance(instance)}]

    if op.verb == "get":
        return _get_step(shown, f"{quoted} doesn't exist")
    if not asked.service:
        return _impossible("Must provide service name with ID" if asked.id else "Must provide service name")
    no_node = _missing_node(node)
    match op.verb:
        case "set":
            return Step(no_node, shown, PutService(load_instance(node, asked)))
        case "cas":
            change = PutService(load_instance(node, asked), cas=asked.modify_index)
            return Step(_first(no_node, f"failed to set {quoted}, index is stale"), shown, change)
        case "delete":
            return Step(_never, _nothing, RemoveService(node, service_id))
        case "delete-cas":
            why = f"failed to delete {quoted}, index is stale"
            return Step(_always(why), _nothing, RemoveService(node, service_id, cas=asked.modify_index))
        case _:
            return _impossible(f'unknown Service verb "{op.verb}"')


def _check_step(op: TxnCheckOp) -> Step:
    asked = op.check
    node, check_id = asked.node, asked.check_id or asked.name
    quoted = f'check "{check_id}" on node "{node}"'
    if not check_id:
        return _impossible("Must provide check id")

    def shown(view: Registry) -> list[Json]:
        check = view.checks.get((node, check_id))
        return [] if check is None else [{"Check": render_check(check)}]

    def no_place(view: Registry) -> str:
        if why := _missing_node(node)(view):
            return why
        is_there = not asked.service_id or (node, asked.service_id) in view.instances
        return "" if is_there else "Missing service registration"

    match op.verb:
        case "get":
            return _get_step(shown, f"{quoted} doesn't exist")
        case "set":
            return Step(no_place, shown, PutCheck(load_check(node, asked)))
        case "cas":
            change = PutCheck(load_check(node, asked), cas=asked.modify_index)
            return Step(_first(no_place, f"failed to set {quoted}, index is stale"), shown, change)
        case "delete":
            return Step(_never, _nothing, RemoveCheck(node, check_id))
        case "delete-cas":
            why = f"failed to delete {quoted}, index is stale"
            return Step(_always(why), _nothing, RemoveCheck(node, check_id, cas=asked.modify_index))
        case _:
            return _impossible(f'unknown Check verb "{op.verb}"')


def _get_step(shown: Show, missing: str) -> Step:
    return Step(lambda view: "" if shown(view) else missing, shown, is_unguarded=True)


# Reasons --------------------------------------------------------------------------------------------------------------


def _never(_: Registry) -> str:
    return ""


def _nothing(_: Registry) -> list[Json]:
    return []


def _always(why: str) -> Why:
    return lambda _: why


def _first(why: Why, otherwise: str) -> Why:
    return lambda view: why(view) or otherwise


def _impossible(why: str) -> Step:
    return Step(_always(why), _nothing)


def _missing_node(node: str) -> Why:
    return lambda view: "" if node in view.nodes else "Missing node registration"


def _writes(change: Change, key: str) -> bool:
    if isinstance(change, DeleteTree):
        return key.startswith(change.prefix)
    return isinstance(change, _WRITES_KEY) and change.key == key
