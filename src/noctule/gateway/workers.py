"""The data planes of a gateway: its own process alone, or workers that it starts and keeps running.

Workers share the port (SO_REUSEPORT): the kernel spreads connections over them. Each has its own view of the instances'
health and its own counters, which are summed when somebody asks; a worker that is started anew counts from 0. Bounds
such as `connections_max` hold in each.
"""

import asyncio
import contextlib
import itertools
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from noctule.base.ensure import ensure
from noctule.base.errors import ConfigError, OutcomeUnknownError, UnavailableError
from noctule.gateway.access_log import AccessLog
from noctule.gateway.admin import Admin
from noctule.gateway.channel import Answered, Applied, Apply, Asked, Channel, Describe, Described, Failed, Serving, Stop
from noctule.gateway.gateway import Gateway
from noctule.gateway.orders import Orders
from noctule.gateway.pictures import GatewayPicture

START_TIMEOUT_S = 20.0
APPLY_TIMEOUT_S = 5.0
PICTURE_TIMEOUT_S = 2.0
KILL_AFTER_S = 5.0
"""A worker that has not ended so long after its drain time is killed."""
RESTART_S_FIRST = 0.1
RESTART_S_MAX = 5.0
"""Pause before a worker is started again: the first, doubled each time, up to the second."""
WATCH_S = 2.0
"""Between two questions to a worker whether it is alive."""
SILENT_S_MAX = 10.0
"""A worker that has not answered for so long hangs, as do the connections that the kernel gives it: it is killed."""
STABLE_S = 30.0
"""A worker that ran for so long begins at the first pause again."""

log = logging.getLogger("noctule.gateway")


class OwnPlane:
    """The data plane in this process."""

    def __init__(self, access_log: Path | None = None) -> None:
        self._gateway: Gateway | None = None
        self._access_log = access_log

    @property
    def gateway(self) -> Gateway:
        """Between `start` and `stop`."""
        ensure(self._gateway is not None, "the data plane has been started")
        assert self._gateway is not None
        return self._gateway

    @property
    def port(self) -> int:
        """Where it listens; 0 before `start`."""
        return self._gateway.port if self._gateway is not None else 0

    async def start(self, orders: Orders, admin: Admin) -> None:
        """Open the doors; `ConfigError` when that cannot be."""
        gateway = Gateway(orders, admin=admin, access_log=AccessLog.of(orders.model, self._access_log))
        await gateway.start()
        self._gateway = gateway

    async def stop(self, drain_s: float) -> None:
        """As `Gateway.stop`."""
        if self._gateway is not None:
            await self._gateway.stop(drain_s)

    def apply(self, orders: Orders) -> None:
        """At once."""
        if self._gateway is not None:
            self._gateway.traffic.apply(orders)

    async def wait_applied(self, version: int) -> None:
        """It is."""

    async def pictures(self) -> Sequence[GatewayPicture]:
        """One."""
        if self._gateway is None:
            raise UnavailableError("the gateway is not running")
        return [self._gateway.picture()]


class WorkerPlanes:
    """Several processes. `start`, then `stop`; what ends in between is started again."""

    def __init__(self, count: int, access_log: Path | None = None) -> None:
        self._count = count
        self._access_log = access_log
        self._workers: dict[int, _Worker] = {}
        self._orders: Orders | None = None
        self._admin: Admin | None = None
        self._changed = asyncio.Event()
        self._keeping: list[asyncio.Task[None]] = []
        self._reserved: list[socket.socket] = []
        self._stopping = asyncio.Event()
        self._drain_s = 0.0
        self._host = ""
        self.port = 0

    async def start(self, orders: Orders, admin: Admin) -> None:
        """All workers serve on return; `ConfigError` with what the first one that failed said."""
        model = orders.model
        self._reserved = [_reserve(model.host, model.port)]
        if model.tls_port:
            self._reserved.append(_reserve(model.host, model.tls_port))
        self._host, self.port = model.host, self._reserved[0].getsockname()[1]
        self._admin = admin
        self.apply(orders)
        self._keeping = [
            asyncio.create_task(self._keep(number), name=f"gateway-worker-{number}") for number in range(self._count)
        ]
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._wait(lambda: self._failure() or len(self._serving()) == self._count)
        except TimeoutError:
            pass
        if reason := self._failure():
            await self.stop(0.0)
            raise ConfigError(reason)
        if len(self._serving()) < self._count:
            await self.stop(0.0)
            raise UnavailableError(f"not all workers of the gateway serve after {START_TIMEOUT_S:g} s; see their logs")

    async def stop(self, drain_s: float) -> None:
        """Tell all; wait until they have ended, and kill what has not in time."""
        self._drain_s = drain_s
        self._stopping.set()
        for worker in self._workers.values():
            worker.channel.send_nowait(Stop(drain_s))
        if self._keeping:
            await asyncio.wait(self._keeping)
        for reserved in self._reserved:
            reserved.close()

    def apply(self, orders: Orders) -> None:
        """Tell all; those that start later begin with these. The address of the start stays."""
        self._orders = msgspec.structs.replace(
            orders, model=msgspec.structs.replace(orders.model, host=self._host, port=self.port)
        )
        for worker in self._workers.values():
            if not worker.channel.send_nowait(Apply(self._orders)):
                log.error("worker_stuck", extra={"pid": worker.process.pid})
                worker.process.kill()

    async def wait_applied(self, version: int) -> None:
        """Until all that serve have said so; `OutcomeUnknownError` after `APPLY_TIMEOUT_S`."""
        try:
            async with asyncio.timeout(APPLY_TIMEOUT_S):
                await self._wait(lambda: all(each.applied >= version for each in self._serving()))
        except TimeoutError:
            raise OutcomeUnknownError(
                f"not every worker has said within {APPLY_TIMEOUT_S:g} s that it goes by the change; ask for the status"
            ) from None

    async def pictures(self) -> Sequence[GatewayPicture]:
        """Of those that answer within `PICTURE_TIMEOUT_S`."""
        asked = [asyncio.ensure_future(each.picture()) for each in self._serving()]
        if asked:
            done, late = await asyncio.wait(asked, timeout=PICTURE_TIMEOUT_S)
            for each in late:
                each.cancel()
            pictures = [each.result() for each in asked if each in done and not each.cancelled()]
            if pictures:
                return pictures
        raise UnavailableError("no worker of the gateway has answered; see their logs")

    def _serving(self) -> list["_Worker"]:
        return [worker for worker in self._workers.values() if worker.port]

    def _failure(self) -> str:
        return next((worker.failure for worker in self._workers.values() if worker.failure), "")

    async def _keep(self, number: int) -> None:
        """Run a worker again and again until everything stops."""
        loop = asyncio.get_running_loop()
        pause_s = RESTART_S_FIRST
        while not self._stopping.is_set():
            begun = loop.time()
            code = await self._run_one(number)
            if self._stopping.is_set():
                return
            log.error("worker_ended", extra={"worker": number, "exit_code": code})
            pause_s = RESTART_S_FIRST if loop.time() - begun > STABLE_S else min(RESTART_S_MAX, pause_s * 2)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()

    async def _run_one(self, number: int) -> int:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "noctule", "gateway", "worker", "--channel", str(theirs.fileno())]
            if self._access_log is not None:
                command += ["--access-log", str(self._access_log)]
            process = await asyncio.create_subprocess_exec(*command, pass_fds=(theirs.fileno(),))
        channel = await Channel.over(ours)
        assert self._orders is not None
        channel.send_nowait(Apply(self._orders))
        worker = self._workers[number] = _Worker(process, channel)
        if self._stopping.is_set():
            channel.send_nowait(Stop(self._drain_s))
        try:
            await self._hear_until_end(worker)
            try:
                async with asyncio.timeout(KILL_AFTER_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
            return await process.wait()
        finally:
            channel.close()
            worker.forget_waiting()
            if not worker.failure:
                del self._workers[number]
            self._notice()

    async def _hear_until_end(self, worker: "_Worker") -> None:
        """Until it closes its end, which is when it has nothing more to serve; while everything stops, not for ever."""
        hearing = asyncio.create_task(self._hear(worker), name=f"gateway-worker-{worker.process.pid}")
        watching = asyncio.create_task(self._watch(worker), name=f"gateway-watch-{worker.process.pid}")
        stopping = asyncio.create_task(self._stopping.wait(), name="gateway-stopping")
        try:
            await asyncio.wait((hearing, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not hearing.done():
                await asyncio.wait((hearing,), timeout=self._drain_s + KILL_AFTER_S)
            if not hearing.done():
                worker.process.kill()
            await hearing
        finally:
            for each in (hearing, watching, stopping):
                each.cancel()

    async def _watch(self, worker: "_Worker") -> None:
        """Kill one that hangs, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            if not worker.port:
                continue
            try:
                async with asyncio.timeout(SILENT_S_MAX):
                    await worker.picture()
            except TimeoutError:
                log.error("worker_stuck", extra={"pid": worker.process.pid})
                worker.process.kill()
                return

    async def _hear(self, worker: "_Worker") -> None:
        async with asyncio.TaskGroup() as asking:
            async for message in worker.channel.from_worker():
                match message:
                    case Serving(port):
                        worker.port = port
                    case Failed(reason):
                        worker.failure = reason
                    case Applied(version):
                        worker.applied = version
                    case Described(number, picture):
                        worker.described(number, picture)
                    case Asked():
                        asking.create_task(self._answer(worker, message))
                self._notice()

    async def _answer(self, worker: "_Worker", asked: Asked) -> None:
        assert self._admin is not None
        answer = await self._admin(asked.method, asked.path, asked.body)
        worker.channel.send_nowait(Answered(asked.number, answer.status, answer.headers, answer.body))

    async def _wait(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self._changed.wait()

    def _notice(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Worker:
    """One process, as its parent knows it."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.process = process
        self.channel = channel
        self.port = 0
        self.applied = -1
        self.failure = ""
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[GatewayPicture]] = {}

    async def picture(self) -> GatewayPicture:
        """Its own, whenever it comes."""
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self.channel.send_nowait(Describe(number))
            picture: GatewayPicture = await waiting
            return picture
        finally:
            del self._waiting[number]

    def forget_waiting(self) -> None:
        """It has ended: no picture comes any more."""
        for waiting in self._waiting.values():
            waiting.cancel()

    def described(self, number: int, picture: GatewayPicture) -> None:
        """A picture has come; nobody may wait for it any more."""
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(picture)


def _reserve(host: str, port: int) -> socket.socket:
    """A socket that holds the port for the workers, without listening.

    Sockets of one user that share a port say nothing to each other, so it is first made sure that nobody has it: a
    second gateway on the same port would silently take half of the connections.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
            address = alone.getsockname()
        held = socket.socket(family, kind, protocol)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"gateway: cannot listen on {host}:{port}: {reason}; check host and port") from error
    return held
