"""Nodes, instances of services on them, and checks of either."""

from collections.abc import Iterable
from typing import TypeAlias, TypeVar

from msgspec import structs

from noctule.base.errors import RequestError
from noctule.core.registry.bounds import (
    CHECKS_MAX,
    INSTANCES_MAX,
    NODES_MAX,
    cut_output,
    require,
    require_check,
    require_fits,
    require_instance,
    require_node,
)
from noctule.core.registry.changes import (
    ExpireCheck,
    PutCheck,
    PutNode,
    PutService,
    RemoveCheck,
    RemoveCritical,
    RemoveNode,
    RemoveService,
    TellCheck,
)
from noctule.core.registry.moment import Moment, stamped
from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance, Session
from noctule.core.registry.sessions import Sessions
from noctule.core.registry.tables import Deadlines, K, Row, SortedMap, Table
from noctule.core.registry.topics import Topics

L = TypeVar("L", str, tuple[str, str])
Name: TypeAlias = tuple[str, str]
"""Of an instance or a check: its node's, and its id."""


class _Instances(Table[Name, ServiceInstance]):
    def __init__(self) -> None:
        super().__init__(ServiceInstance)
        self.by_name: dict[str, SortedMap[Name, ServiceInstance]] = {}
        self.by_node: dict[str, SortedMap[str, ServiceInstance]] = {}

    def _placed(self, key: Name, before: ServiceInstance | None, after: ServiceInstance | None) -> None:
        if before is not None and (after is None or after.name != before.name):
            _drop(self.by_name, before.name, key)
        if after is not None:
            self.by_name.setdefault(after.name, SortedMap())[key] = after
            self.by_node.setdefault(after.node, SortedMap())[after.id] = after
        else:
            _drop(self.by_node, key[0], key[1])


class _Checks(Table[Name, Check]):
    def __init__(self) -> None:
        super().__init__(Check)
        self.by_owner: dict[Name, SortedMap[str, Check]] = {}
        """By (node, id of an instance, or "" for the node's own)."""
        self.expiries: Deadlines[Name] = Deadlines()
        self.removals: Deadlines[Name] = Deadlines()
        """When the instance of a check that stays critical is to be removed."""

    def _placed(self, key: Name, before: Check | None, after: Check | None) -> None:
        if before is not None and (after is None or after.service_id != before.service_id):
            _drop(self.by_owner, (before.node, before.service_id), before.id)
        if after is not None:
            self.by_owner.setdefault((after.node, after.service_id), SortedMap())[after.id] = after
        self.expiries.set(key, 0 if after is None else after.expires_ms)
        self.removals.set(key, 0 if after is None else _removal_ms(after))


class Catalog:
    """What there is, and how it is. What becomes of it is told in changes.py."""

    def __init__(self, sessions: Sessions, topics: Topics) -> None:
        self.nodes: Table[str, RegistryNode] = Table(RegistryNode)
        self.instances = _Instances()
        self.checks = _Checks()
        self._sessions = sessions
        self._topics = topics

    def checks_of(self, owner: Name) -> list[Check]:
        """Of an instance alone, or of a node's own when the id is empty; by id."""
        checks = self.checks.by_owner.get(owner)
        return [] if checks is None else checks.in_order()

    def instances_on(self, node: str) -> list[ServiceInstance]:
        """By id."""
        instances = self.instances.by_node.get(node)
        return [] if instances is None else instances.in_order()

    # Nodes ------------------------------------------------------------------------------------------------------------

    def put_node(self, change: PutNode, at: Moment) -> bool | None:
        """See `PutNode`."""
        before = self.nodes.get(change.node.name)
        done = _is_as_expected(change.cas, before)
        node = stamped(change.node, before, at)
        if done is False or node is before:
            return done
        require_node(node)
        if before is None:
            require_fits(len(self.nodes.rows) + 1, NODES_MAX, "number of nodes")
        self.nodes.put(node.name, node)
        self._topics.touch("nodes")
        self._touch_on(node.name, self._names_on(node.name))
        return done

    def remove_node(self, change: RemoveNode, at: Moment) -> bool:
        """See `RemoveNode`."""
        node = self.nodes.get(change.name)
        if node is None or change.cas not in (0, node.modify_index):
            return not change.cas
        for instance in self.instances_on(node.name):
            self._remove_instance(instance, at)
        for check in self.checks_of((node.name, "")):
            self._remove_check(check, at)
        self._sessions.end_resting_on(node.name, "", at)
        self.nodes.remove(node.name)
        self._topics.touch("nodes")
        self._touch_on(node.name, ())
        return True

    # Instances --------------------------------------------------------------------------------------------------------

    def put_service(self, change: PutService, at: Moment) -> bool | None:
        """See `PutService`."""
        key = (change.service.node, change.service.id)
        before = self.instances.get(key)
        done = _is_as_expected(change.cas, before)
        instance = stamped(change.service, before, at)
        if done is False or instance is before:
            return done
        require_instance(instance)
        require(instance.node in self.nodes.rows, f"instance {instance.id!r}: {_no_node(instance.node)}")
        if before is None:
            require_fits(len(self.instances.rows) + 1, INSTANCES_MAX, "number of instances")
        self.instances.put(key, instance)
        self._touch_on(instance.node, [instance.name])
        if before is None or (before.name, before.tags) != (instance.name, instance.tags):
            self._topics.touch("services")
        if before is not None and before.name != instance.name:
            self._topics.touch(f"service:{before.name}")
        for check in self.checks_of(key):
            named = structs.replace(check, service_name=instance.name, service_tags=instance.tags)
            if named != check:
                # Not told anew: its TTL goes on as it was.
                self.checks.put((check.node, check.id), stamped(named, check, at))
                self._touch_check(check)
                self._touch_check(named)
        return done

    def remove_service(self, change: RemoveService, at: Moment) -> bool:
        """See `RemoveService`."""
        instance = self.instances.get((change.node, change.id))
        if instance is None or change.cas not in (0, instance.modify_index):
            return not change.cas
        self._remove_instance(instance, at)
        return True

    def _remove_instance(self, instance: ServiceInstance, at: Moment) -> None:
        key = (instance.node, instance.id)
        for check in self.checks_of(key):
            self._remove_check(check, at)
        self.instances.remove(key)
        self._touch_on(instance.node, [instance.name])
        self._topics.touch("services")

    # Checks -----------------------------------------------------------------------------------------------------------

    def put_check(self, change: PutCheck, at: Moment) -> bool | None:
        """See `PutCheck`."""
        check = change.check
        require_check(check)
        require(check.node in self.nodes.rows, f"check {check.id!r}: {_no_node(check.node)}")
        name = ""
        tags: tuple[str, ...] = ()
        if check.service_id:
            instance = self.instances.get((check.node, check.service_id))
            if instance is None:
                raise RequestError(f"check {check.id!r}: node {check.node!r} has no instance {check.service_id!r}")
            name, tags = instance.name, instance.tags
        before = self.checks.get((check.node, check.id))
        done = _is_as_expected(change.cas, before)
        if done is False:
            return False
        if before is None:
            require_fits(len(self.checks.rows) + 1, CHECKS_MAX, "number of checks")
        self._write_check(before, structs.replace(check, service_name=name, service_tags=tags), at)
        return done

    def tell_check(self, change: TellCheck, at: Moment) -> None:
        """See `TellCheck`."""
        before = self.checks.get((change.node, change.id))
        if before is None:
            raise RequestError(f"node {change.node!r} has no check {change.id!r}")
        self._write_check(before, structs.replace(before, status=change.status, output=change.output), at)

    def expire_check(self, change: ExpireCheck, at: Moment) -> None:
        """See `ExpireCheck`."""
        before = self.checks.get((change.node, change.id))
        if before is None or not before.expires_ms or not before.expires_ms == change.expires_ms <= at.now_ms:
            return
        output = "TTL expired"
        if before.output:
            output += f" (last output before timeout follows): {before.output}"
        self._write_check(before, structs.replace(before, status=CheckStatus.CRITICAL, output=output), at)

    def remove_critical(self, change: RemoveCritical, at: Moment) -> None:
        """See `RemoveCritical`."""
        check = self.checks.get((change.node, change.id))
        if check is None or change.critical_since_ms != check.critical_since_ms:
            return
        if 0 < _removal_ms(check) <= at.now_ms:
            self._remove_instance(self.instances.rows[check.node, check.service_id], at)

    def remove_check(self, change: RemoveCheck, at: Moment) -> bool:
        """See `RemoveCheck`."""
        check = self.checks.get((change.node, change.id))
        if check is None or change.cas not in (0, check.modify_index):
            return not change.cas
        self._remove_check(check, at)
        return True

    def require_healthy(self, session: Session) -> None:
        """Refuse a session while what it would rest on is not there, or critical."""
        require(session.node in self.nodes.rows, f"session {session.id!r}: {_no_node(session.node)}")
        for name in (*session.node_checks, *session.service_checks):
            check = self.checks.get((session.node, name))
            if check is None:
                raise RequestError(f"session {session.id!r}: node {session.node!r} has no check {name!r}")
            is_critical = check.status is CheckStatus.CRITICAL
            require(not is_critical, f"session {session.id!r}: check {name!r} of node {session.node!r} is critical")

    def _write_check(self, before: Check | None, check: Check, at: Moment) -> None:
        """Put a check as it is told, with the times that follow; those alone move no index."""
        is_critical = check.status is CheckStatus.CRITICAL
        was_critical_since_ms = 0 if before is None else before.critical_since_ms
        check = structs.replace(
            check,
            output=cut_output(check.output),
            expires_ms=at.now_ms + check.ttl_ms if check.ttl_ms and not is_critical else 0,
            critical_since_ms=(was_critical_since_ms or at.now_ms) if is_critical else 0,
        )
        key = (check.node, check.id)
        if before is not None:
            renewed = structs.replace(before, expires_ms=check.expires_ms)
            if stamped(check, renewed, at) is renewed:
                if renewed != before:
                    self.checks.put(key, renewed)
                return
            self._touch_check(before)
        check = stamped(check, before, at)
        self.checks.put(key, check)
        self._touch_check(check)
        if is_critical:
            self._sessions.end_resting_on(check.node, check.id, at)

    def _remove_check(self, check: Check, at: Moment) -> None:
        self.checks.remove((check.node, check.id))
        self._touch_check(check)
        self._sessions.end_resting_on(check.node, check.id, at)

    # Topics -----------------------------------------------------------------------------------------------------------

    def _touch_check(self, check: Check) -> None:
        self._topics.touch("checks")
        names = [check.service_name] if check.service_id else self._names_on(check.node)
        self._touch_on(check.node, names)

    def _touch_on(self, node: str, names: Iterable[str]) -> None:
        self._topics.touch("catalog")
        self._topics.touch(f"node:{node}")
        for name in names:
            self._topics.touch(f"service:{name}")

    def _names_on(self, node: str) -> dict[str, None]:
        """Which services have instances there; costs each of these."""
        return dict.fromkeys(instance.name for instance in self.instances_on(node))


def _is_as_expected(cas: int | None, before: RegistryNode | ServiceInstance | Check | None) -> bool | None:
    """Whether the modify index is the one that a change asks for; None when it asks for none."""
    return None if cas is None else cas == (0 if before is None else before.modify_index)


def _drop(index: dict[L, SortedMap[K, Row]], name: L, key: K) -> None:
    del index[name][key]
    if not index[name]:
        del index[name]


def _removal_ms(check: Check) -> int:
    """When the instance of a check is to be removed; 0: not as things are."""
    if not check.service_id or not check.deregister_after_ms or not check.critical_since_ms:
        return 0
    return check.critical_since_ms + check.deregister_after_ms


def _no_node(name: str) -> str:
    return f"there is no node {name!r}"
