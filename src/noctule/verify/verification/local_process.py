"""Kill a process of this machine, and only the one that is meant.

A pid in a registry may be of another machine or another container behind a forwarded port, and pids are used again. So
the process must itself hold the socket that listens on the instance's port, and it is killed by a handle that was
opened before that was looked at (pidfd_open(2)): it cannot hit a later process of the same number.
"""

import ipaddress
import os
import signal
from pathlib import Path

from noctule.base.errors import RequestError

_LISTEN = "0A"  # TCP_LISTEN of the kernel's tcp_states.h, as proc(5) shows it.


def kill_listener(address: str, pid: int) -> None:
    """Send SIGKILL to `pid` if it listens on `address` (host:port, loopback); Linux only.

    Raises `RequestError` with the reason when it must not be killed or cannot be; nothing was killed then.
    """
    host, _, port_text = address.rpartition(":")
    if not _is_loopback(host):
        raise RequestError(f"{address} is not a loopback address, so its process may be on another machine")
    if pid <= 1 or pid == os.getpid():
        raise RequestError(f"pid {pid} is not that of an instance")
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        raise RequestError(f"pid {pid}: {error.strerror}") from error
    try:
        if not _sockets_of(pid) & _listening(int(port_text)):
            raise RequestError(f"pid {pid} on this machine does not listen on {address}")
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except (OSError, ValueError) as error:
        raise RequestError(f"pid {pid} cannot be killed: {error}") from error
    finally:
        os.close(handle)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _listening(port: int) -> set[str]:
    """The inodes of the sockets that listen on a port in this process' network namespace (proc(5), /proc/net/tcp)."""
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        for line in lines:
            _, local, _, state, *rest = line.split()
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                inodes.add(rest[5])
    return inodes


def _sockets_of(pid: int) -> set[str]:
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except FileNotFoundError:
            continue  # Closed while we looked.
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    return inodes
