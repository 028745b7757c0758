"""A gateway as a process of its own: told what to do by its config, to stop by SIGTERM, to look again by SIGHUP.

Start: the config, the data planes, then whoever follows the registry. Stop: the doors, what is in flight, the rest.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from noctule.adapters.open_files import raise_open_files_max
from noctule.adapters.system_clock import SystemClock
from noctule.base.errors import ConfigError, NoctuleError
from noctule.client.registry.keys import KeyReader
from noctule.client.registry.list_files import ListFiles
from noctule.client.registry.registry_client import RegistryClient
from noctule.gateway.admin import AdminApi
from noctule.gateway.control import Control, FileSource
from noctule.gateway.engines.engine_plane import EnginePlane
from noctule.gateway.model import GatewayModel
from noctule.gateway.model_check import NAME
from noctule.gateway.registry_source import RegistryConfig, RegistryInstances
from noctule.gateway.workers import OwnPlane, WorkerPlanes

ENGINE_DIR = "noctule-gateway"
"""Of engines that are other programs, in the working directory, where there is no `data_dir`."""

REGISTRY_PREFIX = "registry:"
"""What a config begins with that is a key of the registry and no file."""

_PR_SET_PDEATHSIG = 1  # prctl(2)

log = logging.getLogger("noctule.gateway")


@dataclass(frozen=True, slots=True)
class GatewayRun:
    """How a gateway is started."""

    config: str
    """The path of a file, or ``registry:<name>`` for the registry's key ``noctule/gateway/<name>``."""
    nodes: tuple[str, ...] = ()
    """HTTP URLs of the registry's nodes, unless the config names its own."""
    data_dir: Path | None = None
    """For the last good lists of instances and the last good config; None keeps none."""
    drain_s: float = 30.0
    """How long what is in flight may take to end after SIGTERM."""
    access_log: Path | None = None
    """A file to append to; None: stdout."""
    die_with_parent: bool = False
    engine: str = "embedded"
    """The program that carries the traffic: embedded, haproxy or nginx."""

    @property
    def engine_dir(self) -> Path:
        """Where the files of an engine that is another program are; whoever runs one there next takes it over."""
        return (self.data_dir or Path(ENGINE_DIR)) / self.engine

    def validate(self) -> None:
        """Raise `ConfigError` naming every problem at once."""
        problems = []
        if not 0 <= self.drain_s <= 86_400:
            problems.append(f"--drain-s {self.drain_s:g} must be 0 to 86,400")
        if self.config.startswith(REGISTRY_PREFIX):
            if not self.nodes:
                problems.append("a config in the registry needs --node, the URL of a node of it")
            if not NAME.fullmatch(self.config.removeprefix(REGISTRY_PREFIX)):
                problems.append(f"--config {self.config!r} must be registry: and letters, digits, dots, dashes")
        if problems:
            raise ConfigError("; ".join(problems))


def run_gateway(run: GatewayRun, version: str) -> int:
    """Run a gateway until SIGTERM or SIGINT; the exit code, 0 after an orderly stop.

    Once it serves, one line goes to stdout, ``{"event":"gateway_serving","host":…,"port":…,…}``; then the access log,
    unless it has a file.
    Raises `ConfigError` or `UnavailableError` for what keeps it from serving; nothing is left running then.
    """
    run.validate()
    if run.die_with_parent:
        _die_with_parent()
    raise_open_files_max()
    return uvloop.run(_serve(run, version))


async def load_config(run: GatewayRun) -> GatewayModel:
    """The model as it would be used now: what ``--check`` looks at."""
    return await source_of(run).load()


def source_of(run: GatewayRun) -> FileSource | RegistryConfig:
    """Where the config is."""
    if run.config.startswith(REGISTRY_PREFIX):
        return RegistryConfig(run.config.removeprefix(REGISTRY_PREFIX), KeyReader(run.nodes), run.data_dir)
    return FileSource(Path(run.config))


async def _serve(run: GatewayRun, version: str) -> int:
    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    source = source_of(run)
    model = await source.load()
    planes = _planes(run, model)
    control = Control(model, source, planes, version)
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(stop.wait(), name="stop")]
    async with contextlib.AsyncExitStack() as exits:
        try:
            if nodes := model.registry_nodes or run.nodes:
                client = await exits.enter_async_context(RegistryClient(nodes))
                files = ListFiles(run.data_dir) if run.data_dir is not None else None
                instances = RegistryInstances(control, client, files, SystemClock(), random.Random())
                tasks.append(asyncio.create_task(instances.run(), name="registry-instances"))
                # The first lists come before the first client.
                await asyncio.sleep(0)
                await instances.wait_first_lists()
            await planes.start(control.orders, AdminApi(control))
            loop.add_signal_handler(signal.SIGHUP, hangup.set)
            tasks.append(asyncio.create_task(_reload_at(hangup, control), name="reload"))
            if isinstance(source, RegistryConfig):
                tasks.append(asyncio.create_task(source.follow(control), name="registry-config"))
            _announce(run, model, planes)
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                # None of them ends by itself but by a bug, which must not go unseen.
                each.result()
        finally:
            log.info("gateway_stopping", extra={"drain_s": run.drain_s})
            for each in tasks:
                each.cancel()
            await planes.stop(run.drain_s)
            await asyncio.wait(tasks)
    return 0


def _planes(run: GatewayRun, model: GatewayModel) -> OwnPlane | WorkerPlanes | EnginePlane:
    if run.engine != "embedded":
        return EnginePlane(run.engine, run.engine_dir, run.access_log)
    return WorkerPlanes(model.workers, run.access_log) if model.workers > 1 else OwnPlane(run.access_log)


async def _reload_at(hangup: asyncio.Event, control: Control) -> None:
    """Read the config anew whenever the event is set, until cancelled."""
    while True:
        await hangup.wait()
        hangup.clear()
        try:
            await control.reload()
        except NoctuleError:
            # It has been logged and counted, and the status tells it; nobody waits for an answer here.
            pass


def _announce(run: GatewayRun, model: GatewayModel, planes: OwnPlane | WorkerPlanes | EnginePlane) -> None:
    facts = {
        "host": model.host,
        "port": planes.port,
        "tls_port": model.tls_port,
        "pid": os.getpid(),
        "workers": model.workers,
        "engine": run.engine,
    }
    print(msgspec.json.encode({"event": "gateway_serving", **facts}).decode(), flush=True)
    log.info("gateway_serving", extra=facts)


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent ends (prctl(2), PR_SET_PDEATHSIG)."""
    parent = os.getppid()
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise ConfigError(f"this system cannot end with its parent: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        raise ConfigError("the process that started this gateway has already ended")
