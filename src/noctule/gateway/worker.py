"""One worker of a gateway with several: a data plane that does as its parent says, and ends with it.

What a client asks of the gateway itself is passed to the parent, who knows all workers.
"""

import asyncio
import itertools
import logging
import os
import signal
import socket
from pathlib import Path

import uvloop

from noctule.adapters.open_files import raise_open_files_max
from noctule.base.errors import NoctuleError
from noctule.gateway.access_log import AccessLog
from noctule.gateway.admin import AdminAnswer
from noctule.gateway.channel import Answered, Applied, Apply, Asked, Channel, Describe, Described, Failed, Serving, Stop
from noctule.gateway.gateway import Gateway

ANSWER_TIMEOUT_S = 10.0
"""How long the parent may take to answer for the gateway."""

ORPHAN_DRAIN_S = 30.0
"""What is in flight may take so long when the parent has gone without a word."""

log = logging.getLogger("noctule.gateway")


def run_worker(descriptor: int, access_log: Path | None) -> int:
    """Serve until the parent says stop or has gone; the exit code. `descriptor` is this end of the pair."""
    raise_open_files_max()
    return uvloop.run(_serve(socket.socket(fileno=descriptor), access_log))


async def _serve(end: socket.socket, access_log: Path | None) -> int:
    loop = asyncio.get_running_loop()
    # Ctrl-C reaches the whole process group; the parent tells when it is time.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    channel = await Channel.over(end)
    worker = _Worker(channel, access_log)
    loop.add_signal_handler(signal.SIGTERM, channel.close)
    try:
        return await worker.run()
    finally:
        channel.close()


class _Worker:
    def __init__(self, channel: Channel, access_log: Path | None) -> None:
        self._access_log = access_log
        self._channel = channel
        self._gateway: Gateway | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[AdminAnswer]] = {}

    async def run(self) -> int:
        drain_s = ORPHAN_DRAIN_S
        try:
            async for message in self._channel.from_parent():
                match message:
                    case Apply(orders):
                        if self._gateway is None:
                            access_log = AccessLog.of(orders.model, self._access_log)
                            self._gateway = Gateway(orders, admin=self._ask, access_log=access_log, shares_port=True)
                            await self._gateway.start()
                            self._channel.send_nowait(Serving(self._gateway.port))
                        else:
                            self._gateway.traffic.apply(orders)
                        self._channel.send_nowait(Applied(orders.version))
                    case Describe(number):
                        if self._gateway is not None:
                            self._channel.send_nowait(Described(number, self._gateway.picture()))
                    case Answered(number, status, headers, body):
                        waiting = self._asked.pop(number, None)
                        if waiting is not None and not waiting.done():
                            waiting.set_result(AdminAnswer(status, headers, body))
                    case Stop():
                        drain_s = message.drain_s
                        break
        except NoctuleError as error:
            self._channel.send_nowait(Failed(str(error)))
            log.error("worker_failed", extra={"pid": os.getpid(), "reason": str(error)})
            return error.exit_code
        if self._gateway is not None:
            await self._gateway.stop(drain_s)
        return 0

    async def _ask(self, method: str, path: str, body: bytes) -> AdminAnswer:
        number = next(self._numbers)
        waiting = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._channel.send_nowait(Asked(number, method, path, body))
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer: AdminAnswer = await waiting
                return answer
        except TimeoutError:
            return AdminAnswer(504, [("Content-Type", "text/plain")], b"the gateway's parent process did not answer\n")
        finally:
            self._asked.pop(number, None)
