"""HAProxy as an engine: kept in step through its runtime socket, reloaded only when its structure changes.

What a reload costs (a new process, checks begun anew, counters at 0) is not paid for what happens often: instances that
come, go, drain or change their weight, and shares that move. The socket is asked what there is and told the difference,
so whatever was done before, by whom, and how far it got, the end is the same.
"""

import asyncio
import contextlib
import logging
import signal
from pathlib import Path

from noctule.base.errors import ConfigError, NoctuleError, RequestError, UnavailableError
from noctule.gateway.engines import certificates
from noctule.gateway.engines.engine import (
    EnginePaths,
    EnginePicture,
    Files,
    Instances,
    engine_name,
    listed,
    with_drained,
    with_shares,
)
from noctule.gateway.engines.folder import EngineFolder, find_program
from noctule.gateway.engines.haproxy import (
    CONFIG,
    SHARES,
    render_haproxy,
    render_structure,
    server_arguments,
    shares_value,
)
from noctule.gateway.engines.haproxy_socket import RuntimeSocket, ServerLoad, ServerState
from noctule.gateway.engines.names import resolved
from noctule.gateway.engines.process import EngineProcess, Keeper, cut_log, last_words
from noctule.gateway.instances import Instance, Standing
from noctule.gateway.model import GatewayModel, Service, Share
from noctule.gateway.pictures import InstancePicture, ServicePicture

START_S_MAX = 10.0
POLL_S = 0.05
TICK_S = 1.0
"""How often what could not be finished at once is tried again, logs are cut, and certificates are looked at."""

log = logging.getLogger("noctule.gateway")


class HAProxyDriver:
    """See `EngineDriver`. `folder` holds everything of the engine's; whoever starts there next takes it over.

    `access_log` is a file elsewhere for the access log.
    """

    def __init__(self, folder: Path, access_log: Path | None = None, *, program: str = "haproxy") -> None:
        self._program = program
        self._folder = EngineFolder(folder, access_log)
        self._socket = RuntimeSocket(self._folder.paths.socket)
        self._keeper = Keeper("haproxy", self._start_again)
        self._lock = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._leaving: list[EngineProcess] = []
        """Those that a reload has replaced and that finish what they have."""
        self._model = GatewayModel()
        self._instances: Instances = {}
        self._drained: set[tuple[str, str]] = set()
        self._structure: tuple[Files, object] | None = None
        self._written: tuple[Files, dict[str, bytes]] | None = None
        """What is on disk, to be put back when HAProxy does not start with what comes next."""
        self._has_leftovers = False
        self._reloads = 0
        self._last_error = ""

    async def start(self, model: GatewayModel, instances: Instances) -> None:
        """See `EngineDriver.start`."""
        self._program = find_program(self._program)
        self._folder.open()
        try:
            async with self._lock:
                await self._reload(model, await resolved(instances), await self._running_process())
        except BaseException:
            self._folder.close()
            raise
        self._tasks = [
            asyncio.create_task(self._keeper.run(), name="haproxy-keeper"),
            asyncio.create_task(self._tick_forever(), name="haproxy-tick"),
        ]
        log.info("engine_started", extra={"engine": "haproxy", "pid": self._keeper.pid})

    async def apply(self, model: GatewayModel, instances: Instances) -> None:
        """See `EngineDriver.apply`."""
        async with self._lock:
            try:
                await self._apply(model, await resolved(instances))
            except NoctuleError as error:
                self._last_error = str(error)
                raise
            self._last_error = ""

    async def drain(self, service: str, instance_id: str, timeout_s: float = 30.0) -> bool:
        """See `EngineDriver.drain`."""
        if all(each.id != instance_id for each in self._instances.get(service, ())):
            raise RequestError(f"service {service!r} has no instance {instance_id!r}")
        self._drained.add((service, instance_id))
        await self.apply(self._model, self._instances)
        name = service, engine_name(instance_id)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while (load := (await self._socket.loads()).get(name)) is not None and load.in_flight + load.queued > 0:
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def set_shares(self, route: str, shares: tuple[Share, ...]) -> None:
        """See `EngineDriver.set_shares`."""
        await self.apply(with_shares(self._model, route, shares), self._instances)

    async def status(self) -> EnginePicture:
        """See `EngineDriver.status`; no instances while HAProxy does not answer."""
        services: tuple[ServicePicture, ...] = ()
        with contextlib.suppress(UnavailableError):
            services = tuple(await self._service_pictures())
        return EnginePicture(
            engine="haproxy",
            pid=self._keeper.pid,
            reloads=self._reloads,
            restarts=self._keeper.restarts,
            last_error=self._last_error,
            services=services,
        )

    async def stop(self, drain_s: float) -> None:
        """See `EngineDriver.stop`."""
        async with self._lock:  # So that none of them is cut in the middle of a reload.
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        deadline = asyncio.get_running_loop().time() + drain_s
        if (process := self._keeper.process) is not None and process.is_alive:
            with contextlib.suppress(UnavailableError):
                await self._stop_softly(process, deadline)
            await process.stop(signal.SIGTERM, 1.0)
        left_s = max(0.0, deadline - asyncio.get_running_loop().time())
        await asyncio.gather(*(each.stop(signal.SIGUSR1, left_s) for each in self._leaving))
        self._folder.close()
        log.info("engine_stopped", extra={"engine": "haproxy"})

    async def _stop_softly(self, process: EngineProcess, deadline: float) -> None:
        """Accept nothing new, and wait until nothing is in flight. Idle connections of clients are not waited for."""
        async with self._socket.watching() as in_flight:
            process.send(signal.SIGUSR1)
            while process.is_alive and asyncio.get_running_loop().time() < deadline and await in_flight():
                await process.wait_end(POLL_S)

    async def _running_process(self) -> EngineProcess | None:
        """The HAProxy of an earlier driver, when one still answers in this folder."""
        try:
            return EngineProcess.adopt(await self._socket.pid())
        except UnavailableError:
            return None

    async def _apply(self, model: GatewayModel, instances: Instances) -> None:
        drained = with_drained(instances, self._drained)
        files = render_haproxy(model, drained, self._folder.paths)
        if self._structure == (render_structure(model, self._folder.paths), certificates.fingerprint(model)):
            try:
                await self._step(model, drained)
            except UnavailableError as error:
                # Whatever it was, a config that is loaded whole says the same.
                log.warning("engine_step_failed", extra={"engine": "haproxy", "reason": str(error)})
            else:
                self._folder.write(lambda _: files, {})
                self._written = files, self._written[1] if self._written else {}
                self._note(model, instances)
                return
        await self._reload(model, instances, self._keeper.process)

    def _note(self, model: GatewayModel, instances: Instances) -> None:
        self._model, self._instances = model, instances
        there = {(name, each.id) for name, found in instances.items() for each in found}
        self._drained &= there

    async def _reload(self, model: GatewayModel, instances: Instances, old: EngineProcess | None) -> None:
        """Check the config, and start a HAProxy with it that takes the listeners of the old one over."""
        drained = with_drained(instances, self._drained)
        fingerprint = certificates.fingerprint(model)
        secrets = certificates.combined(model) if model.tls_port else {}

        def render(paths: EnginePaths) -> Files:
            return render_haproxy(model, drained, paths)

        await self._folder.check(
            render, secrets, lambda folder: [self._program, "-c", "-q", "-f", str(folder / CONFIG)]
        )
        before, self._written = self._written, (render(self._folder.paths), secrets)
        self._folder.write(render, secrets)
        take_over = ["-x", self._folder.paths.socket, "-sf", str(old.pid)] if old is not None and old.is_alive else []
        # From here on the old one may end before the new one is known to serve.
        self._keeper.let_go()
        try:
            new = await self._start(take_over)
        except BaseException:
            if before is not None:
                self._written = before
                self._folder.write(lambda _: before[0], before[1])
            if old is not None:
                self._keeper.keep(old)
            raise
        self._keeper.keep(new)
        if old is not None:
            self._reloads += 1
            self._leaving = [each for each in (*self._leaving, old) if each.is_alive]
        self._structure = render_structure(model, self._folder.paths), fingerprint
        self._note(model, instances)

    async def _start_again(self) -> EngineProcess:
        async with self._lock:
            if (process := self._keeper.process) is not None and process.is_alive:
                return process  # A change that came meanwhile has started it.
            return await self._start([])

    async def _start(self, take_over: list[str]) -> EngineProcess:
        """A HAProxy with the files as they are, once it answers; `ConfigError` with its words when it ends."""
        command = [self._program, "-db", "-f", str(self._folder.path / CONFIG), *take_over]
        folder = self._folder
        offset = folder.log.stat().st_size if folder.log.exists() else 0
        process = EngineProcess.start(command, folder.path, stdout=folder.access_log, stderr=folder.log)
        deadline = asyncio.get_running_loop().time() + START_S_MAX
        try:
            while process.is_alive and asyncio.get_running_loop().time() < deadline:
                with contextlib.suppress(UnavailableError):
                    if await self._socket.pid() == process.pid:
                        return process
                await process.wait_end(POLL_S)
        except BaseException:
            # Whoever waited was cancelled: a process that nobody keeps must not stay.
            process.send(signal.SIGKILL)
            raise
        await process.stop(signal.SIGTERM, 0.0)
        raise ConfigError(f"haproxy did not start: {last_words(folder.log, offset)}")

    async def _step(self, model: GatewayModel, instances: Instances) -> None:
        """Make servers and shares what they should be, by as few commands as that takes."""
        there = await self._socket.servers()
        wanted: set[tuple[str, str]] = set()
        for service in model.services:
            for instance in listed(instances, service):
                key = service.name, engine_name(instance.id)
                wanted.add(key)
                for command in _commands(service, instance, there.get(key)):
                    await self._socket.do(command, "New server registered", "IP changed", "port changed", "no need")
        backends = {service.name for service in model.services}
        await self._remove([key for key in there if key not in wanted and key[0] in backends], there)
        entries = await self._socket.map_entries(self._shares_file)
        for route in model.routes:
            if entries.get(route.name) != shares_value(route):
                await self._socket.do(f"set map {self._shares_file} {route.name} {shares_value(route)}")

    @property
    def _shares_file(self) -> str:
        return f"{self._folder.paths.folder}/{SHARES}"

    async def _remove(self, keys: list[tuple[str, str]], there: dict[tuple[str, str], ServerState]) -> None:
        """Take servers out; one that still has connections is deleted by a later tick."""
        self._has_leftovers = False
        for key in keys:
            name = "/".join(key)
            if not there[key].is_out:
                await self._socket.do(f"set server {name} state maint")
            answer = await self._socket.ask(f"del server {name}")
            self._has_leftovers |= not answer.startswith("Server deleted")

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            cut_log(self._folder.access_log)
            cut_log(self._folder.log)
            is_due = self._structure is not None and self._structure[1] != certificates.fingerprint(self._model)
            if is_due or self._has_leftovers:
                with contextlib.suppress(NoctuleError):
                    await self.apply(self._model, self._instances)

    async def _service_pictures(self) -> list[ServicePicture]:
        loads = await self._socket.loads()
        drained = with_drained(self._instances, self._drained)
        return [
            _picture(
                service,
                listed(drained, service),
                {name: load for (backend, name), load in loads.items() if backend == service.name},
            )
            for service in self._model.services
        ]


def _commands(service: Service, instance: Instance, now: ServerState | None) -> list[str]:
    """The commands that make a server what the instance is."""
    name = f"{service.name}/{engine_name(instance.id)}"
    is_serving = instance.standing is Standing.SERVING
    commands = []
    if now is None:
        commands += [f"add server {name} {' '.join(server_arguments(service, instance))}", f"enable health {name}"]
    else:
        if (now.address, now.port) != (instance.host, instance.port):
            commands.append(f"set server {name} addr {instance.host} port {instance.port}")
        if now.weight != instance.weight:
            commands.append(f"set server {name} weight {instance.weight}")
    # Not `drain`: clients with a cookie would still be let in.
    if (now is None or now.is_out) and is_serving:
        commands.append(f"set server {name} state ready")
    if now is not None and not now.is_out and not is_serving:
        commands.append(f"set server {name} state maint")
    return commands


def _picture(service: Service, instances: list[Instance], loads: dict[str, ServerLoad]) -> ServicePicture:
    known = [(each, load) for each in instances if (load := loads.get(engine_name(each.id))) is not None]
    return ServicePicture(
        name=service.name,
        # Those that left and still have connections are among the servers, too.
        in_flight=sum(load.in_flight + load.queued for load in loads.values()),
        requests=sum(load.requests for load in loads.values()),
        failures=sum(load.failures for load in loads.values()),
        retries=sum(load.retries for load in loads.values()),
        retries_refused=0,
        instances=tuple(
            InstancePicture(
                id=each.id,
                address=each.address,
                state=_state(each, load.status),
                weight=each.weight,
                in_flight=load.in_flight + load.queued,
                requests=load.requests,
                failures=load.failures,
            )
            for each, load in known
        ),
    )


def _state(instance: Instance, status: str) -> str:
    if instance.standing is not Standing.SERVING or status.startswith("MAINT"):
        return "draining"
    return "healthy" if status.startswith(("UP", "no check")) else "unhealthy"
