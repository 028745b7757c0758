"""A process of its own that says which versions of TLS a control port agrees on.

The library is set up when it is loaded, as in a node: by whoever imports noctule.adapters first.
"""

import asyncio
import socket
import ssl
import sys
from pathlib import Path

from noctule.adapters.control_server import ControlServer
from noctule.adapters.tls import Tls, TlsFiles

HOST = "127.0.0.1"


def agreed(tls: Tls, port: int, version: ssl.TLSVersion) -> str:
    """What a client that speaks only this version gets."""
    context = tls.client_context()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((HOST, port)) as plain, context.wrap_socket(plain) as secured:
            return secured.version() or ""
    except OSError:
        return "nothing"


async def main() -> None:
    tls = Tls(TlsFiles(*(Path(path) for path in sys.argv[1:])), "bats")
    server = ControlServer(Nobody(), tls)  # type: ignore[arg-type]
    port = await server.start(HOST, 0)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        print(await asyncio.to_thread(agreed, tls, port, version))
    await server.stop(0)


class Nobody:
    """A handler that nobody asks."""

    def __getattr__(self, name: str) -> object:
        return None


asyncio.run(main())
