"""A RESP server over one keyspace as a process of its own, whose memory can be measured. Its port is its first line."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from resp_served import KeyspaceStore

from noctule.servers.resp_server import RespServer

MEGABYTE = 1024 * 1024


class Door:
    """The process, seen from outside."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.port = port
        self._folder = Path("/proc", str(process.pid))

    def forget_peak(self) -> None:
        """Let `peak_megabytes` be of what happens from now on."""
        (self._folder / "clear_refs").write_text("5")

    def peak_megabytes(self) -> int:
        """The most memory it held at once since the peak was forgotten."""
        return self._status("VmHWM")

    def held_megabytes(self) -> int:
        """The memory it holds now."""
        return self._status("VmRSS")

    def _status(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith(f"{name}:"))
        return int(line.split()[1]) // 1024


@contextmanager
def door(*, connections_max: int, output_bytes_all_max: int) -> Iterator[Door]:
    """A running server, which has ended after the block."""
    command = [sys.executable, __file__, str(connections_max), str(output_bytes_all_max)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield Door(process, int(process.stdout.readline()))
            assert process.poll() is None, "the server has died"
        finally:
            process.kill()


async def serve(connections_max: int, output_bytes_all_max: int) -> None:
    store = KeyspaceStore()
    bounds = {"connections_max": connections_max, "output_bytes_all_max": output_bytes_all_max}
    server = RespServer(store, store.picture, "127.0.0.1", 0, **bounds)
    await server.start()
    print(server.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(*map(int, sys.argv[1:])))
