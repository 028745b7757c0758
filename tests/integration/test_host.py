"""Machines with two node processes each, by ``noctule host``: real processes, where "machine" is a label."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from engines import free_port, wait_until

from noctule.adapters.ports import check_port_free

pytest_plugins = ("engines",)
pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

START_S_MAX = 60.0
STOP_S_MAX = 30.0
MACHINES = ("a", "b")
DOORS = ("resp", "resp-cluster", "http", "control")
REPLICAS = 2
"""As many as there are machines, so that each must have one."""


def free_base(taken: set[int]) -> int:
    """The two ports above it are free and not `taken`, which has them on return."""
    while True:
        first = free_port()
        if taken.isdisjoint((first, first + 1)):
            with suppress(OSError):
                check_port_free("127.0.0.1", first + 1)
                taken |= {first, first + 1}
                return first - 1


@contextmanager
def host(machine: str, first_node_id: int, peers: str, bases: Sequence[int], folder: Path) -> Iterator[dict[str, Any]]:
    """``noctule host`` with two processes: what it printed, once it serves, and itself as ``popen``."""
    command = [sys.executable, "-m", "noctule", "host", "--json", "--processes", "2"]
    command += ["--first-node-id", str(first_node_id), "--data-dir", str(folder / machine)]
    for door, base in zip(DOORS, bases, strict=True):
        command += [f"--{door}-port-base", str(base)]
    environment = {
        "NOCTULE_PEERS": peers,
        "NOCTULE_HOST": "127.0.0.1",
        "NOCTULE_LABELS": f"host={machine}",
        "NOCTULE_REPLICATION_FACTOR": str(REPLICAS),
        "NOCTULE_SEGMENT_BYTES_MAX": str(256 << 10),
    }
    with (folder / f"{machine}.log").open("wb") as log:
        popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **environment})
    try:
        yield {"popen": popen}
    finally:
        popen.terminate()
        try:
            popen.wait(STOP_S_MAX)
        finally:
            popen.kill()
            popen.communicate()


def get(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
        return json.load(answer)


def is_ready(address: str) -> bool:
    try:
        return bool(get(address, "/health/ready"))
    except OSError:
        return False


def test_two_machines_of_two_processes_each(tmp_path: Path) -> None:
    """No partition has both of its replicas on one machine; what is killed is started again; a stop leaves nothing."""
    ports = [free_port() for _ in range(4)]
    peers = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(ports, start=1))
    taken = set(ports)
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(host(machine, first, peers, [free_base(taken) for _ in DOORS], tmp_path))
            for machine, first in zip(MACHINES, (1, 3), strict=True)
        ]
        running = [json.loads(each["popen"].stdout.readline()) for each in hosts]
        nodes = [node for each in running for node in each["processes"]]
        assert [node["id"] for node in nodes] == [1, 2, 3, 4]
        for node in nodes:
            wait_until(lambda node=node: is_ready(node["http"]), f"node {node['id']} ready", START_S_MAX)

        machine_of = {1: "a", 2: "a", 3: "b", 4: "b"}

        def is_spread() -> bool:
            partitions = get(nodes[0]["http"], "/api/partitions?limit=100")["partitions"]
            placed = [[machine_of[replica["node"]] for replica in each["replicas"]] for each in partitions]
            return bool(placed) and all(sorted(machines) == ["a", "b"] for machines in placed)

        wait_until(is_spread, "a replica of each partition on each machine", START_S_MAX)

        victim = nodes[1]
        os.kill(victim["pid"], signal.SIGKILL)
        began = time.monotonic()
        wait_until(
            lambda: is_ready(victim["http"]) and get(victim["http"], "/api/cluster")["pid"] != victim["pid"],
            "the killed process back",
            START_S_MAX,
        )
        assert time.monotonic() - began < START_S_MAX

        for each in hosts:
            each["popen"].terminate()
            assert each["popen"].wait(STOP_S_MAX) == 0
        for node in nodes:
            assert not is_ready(node["http"])
