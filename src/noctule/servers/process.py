"""One node as a process: told to start by its settings, to stop by SIGTERM or SIGINT, and what it says on the way.

In which order its doors open and close is told in doors.py.
"""

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
import time

import msgspec
import uvloop

from noctule.adapters.open_files import raise_open_files_max
from noctule.base.errors import RETIRED, ConfigError
from noctule.node.config import NodeConfig
from noctule.servers.doors import NodeDoors

log = logging.getLogger("noctule.process")

SWITCH_INTERVAL_S = 0.0005
"""How soon the loop's thread lets the WAL's report a finished sync; with CPython's 5 ms each write waits for that."""

GARBAGE_THRESHOLDS = (10_000, 10, 1_000)
"""New containers between two looks for cycles among them, and how many looks lead to one among the older ones.

CPython's 700 makes a busy node look hundreds of times a second. Of 10,000 that all live a look takes some 3 ms, of the
100,000 of ten looks some 9 ms, and of everything in a node with a million keys some 30 ms, so that is put off for long.
"""

_PR_SET_PDEATHSIG = 1


def run_node(config: NodeConfig, version: str) -> int:
    """Run one node until it is told to stop; the exit code. Raises `ConfigError` or `StorageError` before it serves."""
    if config.die_with_parent:
        die_with_parent()
    raise_open_files_max()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    return uvloop.run(_serve(config, version))


class _Stop:
    """That the node is to stop, and with which exit code."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self.exit_code = 0

    def retire(self, reason: str) -> None:
        """The node no longer belongs to the cluster."""
        log.warning("node_retired", extra={"fields": {"reason": reason}})
        self.exit_code = RETIRED
        self.wanted.set()


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that ends (prctl(2), PR_SET_PDEATHSIG)."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ConfigError("the process that started this node is gone already")


async def _serve(config: NodeConfig, version: str) -> int:
    stop = _Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.wanted.set)
    doors = await NodeDoors.open(config, version, stop.retire)
    facts = {
        "id": doors.node.config.node_id,
        "pid": os.getpid(),
        "resp": doors.addresses["resp"],
        "resp_cluster": doors.addresses["resp_cluster"],
        "http": doors.addresses["http"],
        "control": doors.addresses["control"],
        "peer": doors.addresses["peer"],
        "dns": doors.node.dns,
    }
    print(msgspec.json.encode({"event": "node_serving", **facts}).decode(), flush=True)
    log.info("node_serving", extra={"fields": facts})
    await stop.wanted.wait()
    node_id = doors.node.config.node_id
    log.info("node_stopping", extra={"fields": {"id": node_id}})
    started = time.monotonic()
    await doors.close()
    log.info("node_stopped", extra={"fields": {"id": node_id, "seconds": round(time.monotonic() - started, 3)}})
    return stop.exit_code
