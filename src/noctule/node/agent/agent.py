"""The agent of a node, as `node.api.Agent` has it: definitions go to disk, to the checks, then to the registry."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random

from msgspec import structs

from noctule.adapters.files import FileSystem
from noctule.adapters.health_probes import HealthProbes
from noctule.base.clock import Clock
from noctule.base.errors import NoctuleError, RequestError
from noctule.core.registry.bounds import require_text
from noctule.core.registry.definitions import CheckDefinition, ServiceDefinition
from noctule.core.registry.objects import Check, CheckStatus
from noctule.node.agent.check_runner import CheckRunner, Probes
from noctule.node.agent.local_services import NO_REASON, LocalServices
from noctule.node.agent.orders import Orders
from noctule.node.agent.pusher import Pusher
from noctule.node.agent.records import (
    NODE_FILE,
    CheckRecord,
    NodeRecord,
    Record,
    Records,
    ServiceRecord,
    check_file,
    service_file,
)
from noctule.node.api import RegistryDoor
from noctule.node.watch import Watch

log = logging.getLogger("noctule.agent")

PUSH_S_MAX = 2.0
"""How long a registration waits for the registry to have it, before it is answered all the same."""
WATCH_S = 60.0
"""So often aliases are looked at though nothing rings."""


def node_name(node_id: int) -> str:
    """Of a member, in the registry."""
    return f"node-{node_id}"


class LocalAgent:
    """One node's, from `start` to `stop`."""

    def __init__(
        self,
        node_id: int,
        data_dir: Path,
        registry: RegistryDoor,
        watch: Watch,
        clock: Clock,
        chance: Random,
        *,
        member_count: Callable[[], int] = lambda: 1,
        output_after_s: float = 300.0,
        probes: Probes | None = None,
        files: FileSystem | None = None,
    ) -> None:
        self.name = node_name(node_id)
        self._registry = registry
        self._watch = watch
        self._clock = clock
        self._records = Records(data_dir, files)
        self._local = LocalServices(self.name, chance)
        self._probes = probes or HealthProbes()
        self._pusher = Pusher(
            self._local,
            registry,
            watch,
            clock,
            chance,
            member_count=member_count,
            output_after_s=output_after_s,
        )
        self._runner = CheckRunner(self._local, self._probes, clock, self._pusher.check_changed, self._reap)
        self._orders = Orders(self._records)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read what was registered here, and begin. Raises `StorageError` when the folder cannot be read."""
        services, checks, node = await self._orders.in_thread(self._records.load)
        now = self._clock.now()
        for service in services:
            self._local.put_service(service.service, service.maintenance, now)
        for check in checks:
            self._local.put_check(check.check, now)
        self._local.maintenance = node.maintenance
        self._task = asyncio.create_task(self._live(), name="agent")

    async def stop(self) -> None:
        """End the checks; what is registered stays so, here and in the registry. Harmless the second time."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._probes.close()
        self._orders.close()

    # The Agent that servers see ---------------------------------------------------------------------------------------

    def services(self) -> Mapping[str, ServiceDefinition]:
        """As `node.api.Agent` says; so with all that follow."""
        return {id_: service.definition for id_, service in self._local.services.items()}

    def service(self, service_id: str) -> ServiceDefinition | None:
        """One of them."""
        found = self._local.services.get(service_id)
        return found.definition if found is not None else None

    def checks(self) -> Mapping[str, Check]:
        """As they stand."""
        return {id_: found for id_ in self._local.check_ids() if (found := self._local.picture(id_)) is not None}

    async def register_service(self, definition: ServiceDefinition, replace_existing_checks: bool = False) -> None:
        """Add or replace it."""
        name = service_file(definition.id)
        await self._orders.do(
            {name, *(check.id for check in definition.checks)},
            lambda: (
                name,
                ServiceRecord(
                    self._local.merged(definition, replace_checks=replace_existing_checks),
                    self._maintenance_of(definition.id),
                ),
            ),
            self._have,
        )
        await self._pushed()

    async def deregister_service(self, service_id: str) -> None:
        """Remove it."""

        def plan() -> tuple[str, None]:
            self._service(service_id)
            return service_file(service_id), None

        def apply(_: Record | None) -> None:
            checks = [check.id for check in self._service(service_id).checks]
            self._local.remove_service(service_id)
            self._follow(checks)

        await self._orders.do({service_file(service_id)}, plan, apply)
        await self._pushed()

    async def register_check(self, definition: CheckDefinition) -> None:
        """Add or replace it."""
        name = service_file(definition.service_id) if definition.service_id else check_file(definition.id)

        def plan() -> tuple[str, Record]:
            service = self._local.with_check(definition)
            if service is None:
                return name, CheckRecord(definition)
            return name, ServiceRecord(service, self._maintenance_of(service.id))

        await self._orders.do({name, definition.id}, plan, self._have)
        await self._pushed()

    async def deregister_check(self, check_id: str) -> None:
        """Remove it."""
        known = self._local.checks.get(check_id)
        owner = known.definition.service_id if known is not None else ""

        def plan() -> tuple[str, Record | None]:
            if check_id not in self._local.checks:
                raise RequestError(f"there is no check {check_id!r} at node {self.name}")
            if not owner:
                return check_file(check_id), None
            service = self._service(owner)
            left = tuple(check for check in service.checks if check.id != check_id)
            return service_file(owner), ServiceRecord(_with(service, left), self._maintenance_of(owner))

        def apply(record: Record | None) -> None:
            if record is not None:
                self._have(record)
            else:
                self._local.remove_check(check_id)
            self._follow([check_id])

        await self._orders.do({service_file(owner) if owner else check_file(check_id), check_id}, plan, apply)
        await self._pushed()

    async def update_check(self, check_id: str, status: CheckStatus, output: str = "") -> None:
        """Take a report."""
        check = self._local.checks.get(check_id)
        if check is None:
            raise RequestError(f"there is no check {check_id!r} at node {self.name}")
        if check.definition.kind != "ttl":
            raise RequestError(f"check {check_id!r} is made by node {self.name}; only a check with a ttl is told")
        is_news = status is not check.status
        self._runner.report(check_id, status, output)
        if is_news:
            await self._pushed()

    async def set_service_maintenance(self, service_id: str, enable: bool, reason: str = "") -> None:
        """Begin or end it."""
        require_text(reason, "the reason")
        wanted = (reason or NO_REASON) if enable else ""
        await self._orders.do(
            {service_file(service_id)},
            lambda: (service_file(service_id), ServiceRecord(self._service(service_id), wanted)),
            self._have,
        )
        await self._pushed()

    async def set_node_maintenance(self, enable: bool, reason: str = "") -> None:
        """Begin or end it."""
        require_text(reason, "the reason")
        record = NodeRecord((reason or NO_REASON) if enable else "")
        await self._orders.do({NODE_FILE}, lambda: (NODE_FILE, record), self._have)
        await self._pushed()

    # For the picture of the node --------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """What has happened since the start."""
        return {
            "noctule_agent_attempts_total": self._runner.attempts_total,
            "noctule_agent_attempts_failed_total": self._runner.attempts_failed_total,
            "noctule_agent_pushes_total": self._pusher.pushes_total,
            "noctule_agent_pushes_failed_total": self._pusher.pushes_failed_total,
        }

    def gauges(self) -> dict[str, float]:
        """How it is; costs a look at every check."""
        checks = self._local.checks.values()
        return {
            "noctule_agent_services": len(self._local.services),
            "noctule_agent_checks": len(checks),
            "noctule_agent_checks_critical": sum(check.status is CheckStatus.CRITICAL for check in checks),
        }

    # From the disk to the rest ----------------------------------------------------------------------------------------

    def _have(self, record: Record | None) -> None:
        """What is durable is so from now on."""
        match record:
            case ServiceRecord(service, maintenance):
                before = self._local.services.get(service.id)
                checks = {check.id for check in (*service.checks, *(before.definition.checks if before else ()))}
                self._local.put_service(service, maintenance, self._clock.now())
                self._follow(checks)
            case CheckRecord(check):
                self._local.put_check(check, self._clock.now())
                self._follow([check.id])
            case NodeRecord(maintenance):
                self._local.set_maintenance(maintenance)
            case None:
                pass

    def _follow(self, checks: Iterable[str]) -> None:
        for id_ in checks:
            self._runner.follow(id_)

    async def _pushed(self) -> None:
        self._pusher.notify()
        await self._pusher.wait_told(PUSH_S_MAX)

    def _service(self, id_: str) -> ServiceDefinition:
        found = self._local.services.get(id_)
        if found is None:
            raise RequestError(f"there is no service {id_!r} at node {self.name}")
        return found.definition

    def _maintenance_of(self, id_: str) -> str:
        service = self._local.services.get(id_)
        return service.maintenance if service is not None else ""

    async def _reap(self, id_: str) -> None:
        try:
            await self.deregister_service(id_)
        except NoctuleError as error:
            log.warning("service_not_reaped", extra={"fields": {"service": id_, "reason": str(error)}})

    # The task ---------------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            await self._run()
        except Exception:
            # What is registered stays so, and is checked no more; the node itself serves on.
            log.exception("agent_failed")
        finally:
            self._orders.end()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._runner.run(), name="agent-checks")
            self._follow(list(self._local.checks))
            tasks.create_task(self._pusher.run(), name="agent-pusher")
            tasks.create_task(self._look_at_aliases(), name="agent-aliases")
            tasks.create_task(self._orders.run(), name="agent-orders")

    async def _look_at_aliases(self) -> None:
        await self._pusher.compared.wait()  # Before, the view may be old, and what is new here is not in it.
        seen = -1
        while True:
            registry = self._registry.view
            if registry.index != seen:
                seen = registry.index
                self._runner.look_at_aliases(registry)
            await self._watch.next_change(WATCH_S)


def _with(service: ServiceDefinition, checks: tuple[CheckDefinition, ...]) -> ServiceDefinition:
    return structs.replace(service, checks=checks)
