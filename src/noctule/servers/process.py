"""One node as a process: the node, its doors, and the order in which they open and close.

Start: data folder and log, peers, RESP, HTTP, then the line that says so. Stop, on SIGTERM or SIGINT: not ready, so
that whoever balances turns away; commands on their way are answered; leadership is handed over; the disk finishes.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import time

import msgspec
import uvloop

from noctule.adapters.control_client import ControlClient
from noctule.adapters.control_server import ControlServer
from noctule.adapters.system_clock import SystemClock
from noctule.base.errors import RETIRED, ConfigError
from noctule.node.config import NodeConfig
from noctule.node.control import NodeControl
from noctule.node.joining import join_cluster
from noctule.node.node import LocalNode, facts_of
from noctule.node.node_tls import load_tls
from noctule.servers.http_server import HttpServer
from noctule.servers.resp_server import RespServer

log = logging.getLogger("noctule.process")

DRAIN_S = 5.0
"""How long commands on their way may take when the node stops."""
SWITCH_INTERVAL_S = 0.0005
"""How soon the loop's thread lets the WAL's report a finished sync; with CPython's 5 ms each write waits for that."""

GARBAGE_THRESHOLD = 50_000
"""New containers between two looks for cycles; at CPython's 700 a busy node looks hundreds of times a second."""

_PR_SET_PDEATHSIG = 1


def run_node(config: NodeConfig, version: str) -> int:
    """Run one node until it is told to stop; the exit code. Raises `ConfigError` or `StorageError` before it serves."""
    if config.die_with_parent:
        die_with_parent()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(GARBAGE_THRESHOLD)
    return uvloop.run(_serve(config, version))


async def _let_in(config: NodeConfig, version: str) -> NodeConfig:
    """The settings with the id that the node has in its cluster, which it joins now if it is to."""
    client = ControlClient(load_tls(config))
    try:
        return await join_cluster(config, facts_of(config, version), client.join)
    finally:
        await client.close()


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
    async with contextlib.AsyncExitStack() as stack:
        config = await _let_in(config, version)
        node = await LocalNode.open(config, SystemClock(), version)
        stack.push_async_callback(node.stop)
        resp = RespServer(node.store, node.picture, config.host, config.resp_port, staleness_ms=node.staleness_ms)
        await resp.start()
        node.more_counters.append(resp.counters)
        stack.push_async_callback(resp.stop, DRAIN_S)
        http = HttpServer(node, config.host, config.http_port)
        await http.start()
        stack.push_async_callback(http.stop, DRAIN_S)
        shown = config.advertise_host
        addresses = {"resp": f"{shown}:{resp.port}", "http": f"{shown}:{http.port}"}
        control = ControlServer(NodeControl(node), load_tls(config))
        control_port = await control.start(config.host, config.control_port)
        stack.push_async_callback(control.stop)
        addresses["control"] = f"{shown}:{control_port}"
        node.premises.retired = stop.retire
        node.join(addresses["resp"], addresses["http"], addresses["control"])
        facts = {
            "id": config.node_id,
            "pid": os.getpid(),
            **addresses,
            "peer": f"{shown}:{node.peer_port}",
        }
        print(msgspec.json.encode({"event": "node_serving", **facts}).decode(), flush=True)
        log.info("node_serving", extra={"fields": facts})
        await stop.wanted.wait()
        log.info("node_stopping", extra={"fields": {"id": config.node_id}})
        started = time.monotonic()
        node.draining = True
    log.info("node_stopped", extra={"fields": {"id": config.node_id, "seconds": round(time.monotonic() - started, 3)}})
    return stop.exit_code
