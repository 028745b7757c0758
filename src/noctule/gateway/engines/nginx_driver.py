"""nginx as an engine: files that are swapped in whole, and a graceful reload when one has changed.

nginx has no socket to be told things at, so every change is a reload: new workers with the new config, while the old
ones finish what they have. Changes that come close together make one reload.
"""

import asyncio
import contextlib
import logging
import signal
from pathlib import Path

from noctule.base.errors import ConfigError, NoctuleError, RequestError
from noctule.gateway.engines import certificates
from noctule.gateway.engines.engine import (
    EnginePaths,
    EnginePicture,
    Files,
    Instances,
    listed,
    with_drained,
    with_shares,
)
from noctule.gateway.engines.folder import EngineFolder, find_program
from noctule.gateway.engines.names import resolved
from noctule.gateway.engines.nginx import CONFIG, render_nginx
from noctule.gateway.engines.process import EngineProcess, Keeper, cut_log, last_words
from noctule.gateway.instances import Instance, Standing
from noctule.gateway.model import GatewayModel, Service, Share
from noctule.gateway.pictures import InstancePicture, ServicePicture

RELOAD_INTERVAL_S = 0.5
"""At most one reload in so long: each leaves workers behind that live until their last request ends."""

START_S_MAX = 10.0
RELOAD_S_MAX = 10.0
POLL_S = 0.02
TICK_S = 1.0

log = logging.getLogger("noctule.gateway")


class NginxDriver:
    """See `EngineDriver`. `folder` holds everything of the engine's; whoever starts there next takes it over.

    `access_log` is a file elsewhere for the access log.
    """

    def __init__(self, folder: Path, access_log: Path | None = None, *, program: str = "nginx") -> None:
        self._program = program
        self._folder = EngineFolder(folder, access_log)
        self._keeper = Keeper("nginx", self._start_again)
        self._lock = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._newest: tuple[GatewayModel, Instances] = (GatewayModel(), {})
        """What was asked for last; a reload that waits for its turn takes it from here."""
        self._drained: set[tuple[str, str]] = set()
        self._applied: tuple[Files, object] | None = None
        self._reloaded_at = float("-inf")
        self._reloads = 0
        self._last_error = ""

    async def start(self, model: GatewayModel, instances: Instances) -> None:
        """See `EngineDriver.start`."""
        self._program = find_program(self._program)
        self._folder.open()
        try:
            self._newest = model, await resolved(instances)
            async with self._lock:
                found = self._running_process()
                if found is not None:
                    self._keeper.keep(found)
                await self._bring()
        except BaseException:
            self._folder.close()
            raise
        self._tasks = [
            asyncio.create_task(self._keeper.run(), name="nginx-keeper"),
            asyncio.create_task(self._tick_forever(), name="nginx-tick"),
        ]
        log.info("engine_started", extra={"engine": "nginx", "pid": self._keeper.pid})

    async def apply(self, model: GatewayModel, instances: Instances) -> None:
        """See `EngineDriver.apply`; waits for its turn up to `RELOAD_INTERVAL_S`."""
        instances = await resolved(instances)
        before = self._newest
        self._newest = model, instances
        async with self._lock:
            try:
                await self._bring()
            except NoctuleError as error:
                self._last_error = str(error)
                if self._newest == (model, instances):
                    self._newest = before
                raise
            self._last_error = ""

    async def drain(self, service: str, instance_id: str, timeout_s: float = 30.0) -> bool:
        """See `EngineDriver.drain`. It is known to have nothing left once all workers from before have ended."""
        model, instances = self._newest
        if all(each.id != instance_id for each in instances.get(service, ())):
            raise RequestError(f"service {service!r} has no instance {instance_id!r}")
        workers, reloads = self._workers(), self._reloads
        self._drained.add((service, instance_id))
        await self.apply(model, instances)
        if self._reloads == reloads:  # It was out already.
            return True
        deadline = asyncio.get_running_loop().time() + timeout_s
        while workers & self._workers():
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def set_shares(self, route: str, shares: tuple[Share, ...]) -> None:
        """See `EngineDriver.set_shares`."""
        model, instances = self._newest
        await self.apply(with_shares(model, route, shares), instances)

    async def status(self) -> EnginePicture:
        """See `EngineDriver.status`."""
        model, instances = self._newest
        drained = with_drained(instances, self._drained)
        leaving = sum(not _is_accepting(worker) for worker in self._workers())
        services = tuple(_picture(service, listed(drained, service), leaving) for service in model.services)
        return EnginePicture(
            engine="nginx",
            pid=self._keeper.pid,
            reloads=self._reloads,
            restarts=self._keeper.restarts,
            last_error=self._last_error,
            services=services,
        )

    async def stop(self, drain_s: float) -> None:
        """See `EngineDriver.stop`."""
        async with self._lock:  # So that none of them is cut in the middle of a start.
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if (process := self._keeper.process) is not None:
            # SIGQUIT is the graceful one; the master ends after its last worker.
            process.send(signal.SIGQUIT)
            if not await process.wait_end(drain_s):
                await process.stop(signal.SIGTERM, 1.0)
            process.send_to_group(signal.SIGKILL)
        self._folder.close()
        log.info("engine_stopped", extra={"engine": "nginx"})

    def _running_process(self) -> EngineProcess | None:
        """The nginx of an earlier driver, when one still runs in this folder."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(Path(self._folder.paths.pid).read_text())
            # A pid may be another process's by now; nginx's master has its command line in its title.
            if str(self._folder.path / CONFIG).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return EngineProcess.adopt(pid)
        return None

    async def _bring(self) -> None:
        """Bring nginx to what was asked for last."""
        if await self._is_in_force():
            return
        wait_s = self._reloaded_at + RELOAD_INTERVAL_S - asyncio.get_running_loop().time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        model, instances = self._newest
        named = certificates.with_hosts(model)
        drained = with_drained(instances, self._drained)

        def render(paths: EnginePaths) -> Files:
            return render_nginx(named, drained, paths)

        await self._folder.check(render, {}, lambda folder: self._command(folder, "-t", "-q"))
        before = self._applied
        fingerprint = certificates.fingerprint(model)
        self._folder.write(render, {})
        try:
            await self._load()
        except ConfigError:
            if before is not None:
                self._folder.write(lambda _: before[0], {})
            raise
        self._applied = render(self._folder.paths), fingerprint
        self._drained &= {(name, each.id) for name, found in instances.items() for each in found}

    async def _is_in_force(self) -> bool:
        model, instances = self._newest
        if self._applied is None or not self._keeper.pid:
            return False
        named = certificates.with_hosts(model)
        files = render_nginx(named, with_drained(instances, self._drained), self._folder.paths)
        return self._applied == (files, certificates.fingerprint(model))

    async def _load(self) -> None:
        """Have nginx run with the files as they are: reload it, or start it when it does not run."""
        process = self._keeper.process
        if process is None or not process.is_alive:
            self._keeper.keep(await self._start())
            return
        loop = asyncio.get_running_loop()
        before, offset = self._workers(), _size(self._folder.log)
        self._reloaded_at = loop.time()
        process.send(signal.SIGHUP)
        # The old workers take connections until the new ones have run for a tenth of a second.
        while not self._workers() - before or any(map(_is_accepting, before)):
            words = last_words(self._folder.log, offset)
            if not process.is_alive or "[emerg]" in words or loop.time() > self._reloaded_at + RELOAD_S_MAX:
                raise ConfigError(f"nginx did not take the config: {words}")
            await asyncio.sleep(POLL_S)
        self._reloads += 1

    async def _start_again(self) -> EngineProcess:
        async with self._lock:
            if (process := self._keeper.process) is not None:
                if process.is_alive:
                    return process  # A change that came meanwhile has started it.
                # Workers outlive a master that was killed, and hold its ports: they finish what they have.
                process.send_to_group(signal.SIGQUIT)
            return await self._start()

    async def _start(self) -> EngineProcess:
        """An nginx with the files as they are, once its workers are there; `ConfigError` when it ends before."""
        folder = self._folder
        offset = _size(folder.log)
        command = self._command(folder.path, "-g", "daemon off;")
        process = EngineProcess.start(command, folder.path, stdout=folder.log, stderr=folder.log)
        deadline = asyncio.get_running_loop().time() + START_S_MAX
        try:
            while process.is_alive and asyncio.get_running_loop().time() < deadline:
                if _children(process.pid):
                    self._reloaded_at = asyncio.get_running_loop().time()
                    return process
                await process.wait_end(POLL_S)
        except BaseException:
            # Whoever waited was cancelled: a process that nobody keeps must not stay.
            process.send(signal.SIGTERM)
            raise
        await process.stop(signal.SIGTERM, 1.0)
        raise ConfigError(f"nginx did not start: {last_words(folder.log, offset)}")

    def _command(self, folder: Path, *options: str) -> list[str]:
        return [self._program, "-p", str(folder), "-c", str(folder / CONFIG), "-e", "stderr", *options]

    def _workers(self) -> set[int]:
        return _children(self._keeper.pid)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            cut_log(self._folder.access_log)
            cut_log(self._folder.log)
            if self._applied is not None and self._applied[1] != certificates.fingerprint(self._newest[0]):
                with contextlib.suppress(NoctuleError):
                    await self.apply(*self._newest)


def _picture(service: Service, instances: list[Instance], leaving: int) -> ServicePicture:
    """All that is known: see `EnginePicture.services`."""
    return ServicePicture(
        name=service.name,
        in_flight=leaving,
        requests=0,
        failures=0,
        retries=0,
        retries_refused=0,
        instances=tuple(
            InstancePicture(
                id=each.id,
                address=each.address,
                state="given" if each.standing is Standing.SERVING else "draining",
                weight=each.weight,
                in_flight=leaving,
                requests=0,
                failures=0,
            )
            for each in instances
        ),
    )


def _children(pid: int) -> set[int]:
    """The processes that a process has started; none when it has ended."""
    if not pid:
        return set()
    try:
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()


def _is_accepting(worker: int) -> bool:
    """Whether a worker of nginx still takes connections; its title tells."""
    try:
        title = Path(f"/proc/{worker}/cmdline").read_bytes()
    except OSError:
        return False
    return bool(title) and b"shutting down" not in title


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
