"""Whether a TCP port can be listened on, asked the way servers do it."""

import asyncio
import socket


def check_port_free(host: str, port: int) -> None:
    """Raise `OSError` when nothing can listen there. A connection in TIME_WAIT is no hindrance; port 0 is always free.

    It says what is so now; somebody else may take the port before it is used.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)


def bound_port(server: asyncio.Server) -> int:
    """The port on which a server listens: the system's choice when it was 0."""
    return int(server.sockets[0].getsockname()[1])
