"""What a node knows of the services beside it: definitions, the state of each check, and what is to be told of both.

No task, no disk, no socket: those are beside it. What changes is noted in `dirty`, for who tells the registry.
"""

from collections.abc import Iterator
from random import Random

from msgspec import Struct, structs

from noctule.base.errors import RequestError
from noctule.base.ids import Instant
from noctule.core.registry import checks as rules
from noctule.core.registry.definitions import CheckDefinition, ServiceDefinition
from noctule.core.registry.objects import Check, CheckStatus, ServiceInstance
from noctule.core.registry.registry import Registry

SERVICES_MAX = 20_000
"""At one node."""
NODE_CHECKS_MAX = 1_000
NODE_MAINTENANCE = "_node_maintenance"
SERVICE_MAINTENANCE = "_service_maintenance:"
"""Ids of the checks that maintenance is, as Consul's."""
NO_REASON = "maintenance mode is enabled, and no reason was given"


class Service(Struct):
    """One service here."""

    definition: ServiceDefinition
    """With all its checks."""
    maintenance: str = ""


class LocalCheck:
    """One check here, with the machine that it is; none for an alias, which only repeats."""

    def __init__(self, definition: CheckDefinition, now: Instant, chance: Random) -> None:
        self.definition = definition
        self.status, self.output = definition.status, ""
        self.is_deferred = False
        """Whether its output differs from what the registry was told, and may do so for a while."""
        self.has_result = False
        self.machine: rules.ProbedCheck | rules.TtlCheck | None = None
        if definition.kind == "ttl":
            self.machine = rules.TtlCheck(definition, now)
        elif definition.kind != "alias":
            self.machine = rules.ProbedCheck(definition, now, chance)


class Dirty:
    """What has changed since it was last told."""

    def __init__(self) -> None:
        self.services: set[str] = set()
        self.tags: set[str] = set()
        """Services whose tags are not those of before."""
        self.checks: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.services or self.checks)


class LocalServices:
    """Of one node, whose name in the registry is `node`."""

    def __init__(self, node: str, chance: Random) -> None:
        self.node = node
        self.services: dict[str, Service] = {}
        self.checks: dict[str, LocalCheck] = {}
        """Those of services and of the node."""
        self.maintenance = ""
        self.dirty = Dirty()
        self._chance = chance

    # Changes, each checked before -------------------------------------------------------------------------------------

    def merged(self, definition: ServiceDefinition, *, replace_checks: bool) -> ServiceDefinition:
        """The service as it would be here: with its own checks named after it, and those that stay.

        Raises `RequestError` when it cannot be here; nothing has changed then in either case.
        """
        definition.validate()
        if definition.id not in self.services and len(self.services) >= SERVICES_MAX:
            raise RequestError(f"this node has {SERVICES_MAX} services, which is the limit")
        own = {each.id: structs.replace(each, service_id=definition.id) for each in definition.checks}
        for check in own.values():
            self._refuse_taken(check)
        before = self.services.get(definition.id)
        if before is not None and not replace_checks:
            own = {each.id: each for each in before.definition.checks} | own
        merged = structs.replace(definition, checks=tuple(own.values()))
        merged.validate()
        return merged

    def with_check(self, definition: CheckDefinition) -> ServiceDefinition | None:
        """The service with the check added to it; None for a check of the node. Raises `RequestError`."""
        definition.validate()
        self._refuse_taken(definition)
        if not definition.service_id:
            count = sum(not each.definition.service_id for each in self.checks.values())
            if definition.id not in self.checks and count >= NODE_CHECKS_MAX:
                raise RequestError(f"this node has {NODE_CHECKS_MAX} checks of its own, which is the limit")
            return None
        service = self.services.get(definition.service_id)
        if service is None:
            raise RequestError(f"check {definition.id!r} is of service {definition.service_id!r}, which is not here")
        others = [each for each in service.definition.checks if each.id != definition.id]
        merged = structs.replace(service.definition, checks=(*others, definition))
        merged.validate()
        return merged

    def put_service(self, definition: ServiceDefinition, maintenance: str, now: Instant) -> None:
        """Have a merged service; checks that are defined as before go on."""
        before = self.services.get(definition.id)
        if before is None or before.definition.tags != definition.tags:
            self.dirty.tags.add(definition.id)
        self.services[definition.id] = Service(definition, maintenance)
        self.dirty.services.add(definition.id)
        self.dirty.checks.add(SERVICE_MAINTENANCE + definition.id)
        wanted = {each.id for each in definition.checks}
        for check in before.definition.checks if before is not None else ():
            if check.id not in wanted:
                self.remove_check(check.id)
        for check in definition.checks:
            self.put_check(check, now)

    def remove_service(self, id_: str) -> None:
        """With its checks; harmless when it is not here."""
        service = self.services.pop(id_, None)
        for check in service.definition.checks if service is not None else ():
            self.remove_check(check.id)
        self.dirty.services.add(id_)
        self.dirty.checks.add(SERVICE_MAINTENANCE + id_)

    def put_check(self, definition: CheckDefinition, now: Instant) -> None:
        """Have a check; one that is defined as before goes on."""
        known = self.checks.get(definition.id)
        if known is None or known.definition != definition:
            self.checks[definition.id] = LocalCheck(definition, now, self._chance)
        self.dirty.checks.add(definition.id)

    def remove_check(self, id_: str) -> None:
        """Harmless when it is not here. Its service's definition is not touched."""
        self.checks.pop(id_, None)
        self.dirty.checks.add(id_)

    def set_maintenance(self, reason: str) -> None:
        """Of the node; empty: none."""
        self.maintenance = reason
        self.dirty.checks.add(NODE_MAINTENANCE)

    def change(self, check: LocalCheck, status: CheckStatus, output: str) -> bool:
        """What a check says now; whether that is more than other words, and so is to be told at once."""
        is_news = status is not check.status or not check.has_result
        check.has_result = True
        check.status, check.output = status, output
        if is_news:
            self.dirty.checks.add(check.definition.id)
        return is_news

    # What the registry should say -------------------------------------------------------------------------------------

    def instance(self, id_: str) -> ServiceInstance | None:
        """What it should say of a service; None: nothing."""
        service = self.services.get(id_)
        return service.definition.instance(self.node) if service is not None else None

    def picture(self, id_: str) -> Check | None:
        """What it should say of a check; None: nothing."""
        if id_ == NODE_MAINTENANCE:
            return self._maintenance_check(id_, "Node Maintenance Mode", self.maintenance, None)
        if id_.startswith(SERVICE_MAINTENANCE):
            service = self.services.get(id_.removeprefix(SERVICE_MAINTENANCE))
            return self._maintenance_check(
                id_, "Service Maintenance Mode", service.maintenance if service else "", service
            )
        check = self.checks.get(id_)
        if check is None:
            return None
        of = check.definition
        service = self.services.get(of.service_id)
        return Check(
            node=self.node,
            id=of.id,
            name=of.name or of.id,
            status=check.status,
            notes=of.notes,
            output=check.output,
            service_id=of.service_id,
            service_name=service.definition.name if service else "",
            service_tags=service.definition.tags if service else (),
            type=of.kind,
            deregister_after_ms=round(of.deregister_after_s * 1000),
        )

    def owner_of(self, check_id: str) -> str | None:
        """The id of the service that a check here is of; empty for the node's own, None when it is not here."""
        if check_id == NODE_MAINTENANCE:
            return ""
        if check_id.startswith(SERVICE_MAINTENANCE):
            return check_id.removeprefix(SERVICE_MAINTENANCE)
        check = self.checks.get(check_id)
        return check.definition.service_id if check is not None else None

    def check_ids(self) -> Iterator[str]:
        """Of all checks here, those of maintenance among them."""
        yield from self.checks
        if self.maintenance:
            yield NODE_MAINTENANCE
        yield from (SERVICE_MAINTENANCE + id_ for id_, service in self.services.items() if service.maintenance)

    def remember(self, registry: Registry) -> None:
        """Take over from the registry how the checks stood that have no result yet: a restart is no illness."""
        for id_, check in self.checks.items():
            known = registry.checks.get((self.node, id_))
            if check.has_result or known is None or known.type != check.definition.kind:
                continue
            check.status, check.output = known.status, known.output
            if check.machine is not None:
                # Neither machine has an effect of it, or heeds the time.
                check.machine.handle(rules.Remembered(known.status, known.output), Instant(0.0))

    def alias_result(self, definition: CheckDefinition, registry: Registry) -> tuple[CheckStatus, str]:
        """What an alias says, by what the registry has, of this node's own checks too."""
        node, service = definition.alias_node or self.node, definition.alias_service
        others = [each for each in registry.checks_of(node, service) if (node, each.id) != (self.node, definition.id)]
        is_there = (node, service) in registry.instances if service else node in registry.nodes
        of = f"service {service!r} at {node}" if service else f"node {node}"
        return rules.alias_status(others, of=of, is_there=is_there)

    def _maintenance_check(self, id_: str, name: str, reason: str, service: Service | None) -> Check | None:
        if not reason:
            return None
        of = service.definition if service is not None else None
        return Check(
            node=self.node,
            id=id_,
            name=name,
            status=CheckStatus.CRITICAL,
            notes=reason,
            output="",
            service_id=of.id if of else "",
            service_name=of.name if of else "",
            service_tags=of.tags if of else (),
            type="maintenance",
        )

    def _refuse_taken(self, check: CheckDefinition) -> None:
        known = self.checks.get(check.id)
        if check.id.startswith(SERVICE_MAINTENANCE) or check.id in (NODE_MAINTENANCE, "serfHealth"):
            raise RequestError(f"check {check.id!r}: this id belongs to the node itself; choose another")
        if known is not None and known.definition.service_id != check.service_id:
            owner = f"service {known.definition.service_id!r}" if known.definition.service_id else "the node"
            raise RequestError(f"check {check.id!r} is here already, and is one of {owner}: choose another id")
