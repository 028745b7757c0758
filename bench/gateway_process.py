"""The embedded gateway in a process of its own, for bench/gateway.py.

``gateway_process.py PORT BACKEND_PORT...``: one service of those backends, under uvloop, without an access log.
"""

import asyncio
import gc
import logging
import signal
import sys

import uvloop

from noctule.adapters.open_files import raise_open_files_max
from noctule.gateway.gateway import Gateway
from noctule.gateway.model import ActiveCheck, Compression, GatewayModel, Limits, Route, Service, Share
from noctule.gateway.orders import Orders

KEEPALIVE = 128


async def serve(port: int, backends: list[int]) -> None:
    """Until SIGTERM."""
    service = Service(
        name="app",
        instances=tuple(f"127.0.0.1:{backend}" for backend in backends),
        check=ActiveCheck(path="/", interval_s=0.5),
        keepalive=KEEPALIVE,
    )
    model = GatewayModel(
        port=port,
        services=(service,),
        routes=(Route(name="app", shares=(Share("app"),)),),
        compression=Compression(enabled=False),
        limits=Limits(connections_max=16_384),
    )
    gateway = Gateway(Orders(model))
    await gateway.start()
    await gateway.wait_healthy(len(backends), 10.0)
    print("ready", flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await gateway.stop(0.0)


def main() -> None:
    """Read the arguments and serve."""
    logging.basicConfig(level=logging.WARNING)
    raise_open_files_max()
    gc.freeze()
    gc.set_threshold(10_000, 10, 1_000)
    uvloop.run(serve(int(sys.argv[1]), [int(text) for text in sys.argv[2:]]))


if __name__ == "__main__":
    main()
