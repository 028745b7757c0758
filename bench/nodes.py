"""Nodes as processes of their own that nobody starts again: what a bench kills stays dead until it says otherwise.

`subjects.noctule_cluster` is ``noctule up``, with its supervisor; here are bare ``noctule node``s, on free ports.
"""

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from subjects import CHECKOUT, HOST, PICTURE_S_MAX, STOP_S_MAX, wait_until

from noctule.adapters.process_stats import ProcessStats, read_process_stats
from noctule.base.errors import UnavailableError
from noctule.client.pictures import Cluster
from noctule.deploy.local.checks import free_ports

START_S_MAX = 180.0
DOORS = ("resp", "http", "peer", "control", "resp-cluster", "dns")


class NodeProcess:
    """One node over all its lives."""

    def __init__(self, node_id: int, ports: Sequence[int], folder: Path, flags: Sequence[str]) -> None:
        self.id = node_id
        self.resp_port, self.http_port, self.peer_port, self.control_port, self.resp_cluster_port, _ = ports
        self._command = [sys.executable, "-m", "noctule", "node", "--data-dir", str(folder / f"node-{node_id}")]
        for door, port in zip(DOORS, ports, strict=True):
            self._command += [f"--{door}-port", str(port)]
        self._command += [*flags, "--die-with-parent"]
        self._log = folder / f"node-{node_id}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of its life now."""
        return self._running.pid

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise UnavailableError(f"node {self.id} is not running")
        return self._process

    def start(self) -> None:
        """Begin a life; `why_not_ready` tells when it serves."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                process_group=0,
            )

    def kill(self) -> None:
        """SIGKILL; it is gone on return."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM; it is gone on return."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_S_MAX)
        finally:
            process.kill()
            process.wait()

    def why_not_ready(self) -> str:
        """Empty once ``/health/ready`` says so: every group it has is led by somebody it can reach."""
        if self._running.poll() is not None:
            raise UnavailableError(f"node {self.id} ended with {self._running.returncode}: see {self._log}")
        status, body = self._get("/health/ready")
        return "" if status == 200 else f"node {self.id}: {body.decode(errors='replace')[:200]}"

    def ask(self, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        """An object of the HTTP API; raises `UnavailableError` with what the node says when it refuses."""
        status, answer = self._get(path, method, body)
        if status >= 300:
            raise UnavailableError(f"node {self.id} answers {method} {path} with {status}: {answer.decode()}")
        return msgspec.json.decode(answer, type=dict[str, Any])

    def picture(self) -> Cluster:
        """GET /api/cluster; raises `UnavailableError` when it does not serve."""
        _, body = self._get("/api/cluster")
        return msgspec.json.decode(body, type=Cluster)

    def stats(self) -> ProcessStats:
        """Its memory and processor time."""
        stats = read_process_stats(Path(f"/proc/{self.pid}"))
        if stats is None:
            raise UnavailableError(f"node {self.id} is gone, or this system has no procfs")
        return stats

    def _get(self, path: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self.http_port, timeout=PICTURE_S_MAX)
        try:
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"node {self.id} does not answer: {error}") from None
        finally:
            connection.close()


@contextmanager
def joining_node(folder: Path, number: int, member: NodeProcess, flags: Sequence[str] = ()) -> Iterator[NodeProcess]:
    """A node that joins the cluster of a member by a token, not started yet; killed at the end.

    `number` is the id that it will be given: the first one that nobody had.
    """
    token = member.ask("POST", "/api/tokens", b"{}")["text"]
    ports = list(free_ports(HOST, len(DOORS), avoid=set()))
    cluster = ["--cluster", folder.name, "--join", f"{HOST}:{member.control_port}", "--token", str(token)]
    node = NodeProcess(number, ports, folder, [*cluster, *flags])
    try:
        yield node
    finally:
        node.kill()


@contextmanager
def node_processes(folder: Path, count: int, flags: Sequence[str] = ()) -> Iterator[list[NodeProcess]]:
    """The first members of a new cluster, none of them started; killed at the end, whatever their life was."""
    ports = list(free_ports(HOST, count * len(DOORS), avoid=set()))
    doors = [ports[i * len(DOORS) : (i + 1) * len(DOORS)] for i in range(count)]
    peers = ",".join(f"{number}@{HOST}:{own[2]}" for number, own in enumerate(doors, start=1))
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        nodes = []
        for number, own in enumerate(doors, start=1):
            named = ["--node-id", str(number), "--cluster", folder.name, "--peers", peers, *flags]
            node = NodeProcess(number, own, folder, named)
            stack.callback(node.kill)
            nodes.append(node)
        yield nodes


def start_all(nodes: Sequence[NodeProcess]) -> float:
    """Start them all at once; how many seconds until all were ready."""
    begun = time.monotonic()
    for node in nodes:
        node.start()
    return wait_ready(nodes, since=begun)


def wait_ready(nodes: Sequence[NodeProcess], *, since: float) -> float:
    """Return once all are ready; how many seconds that was after `since`, by the monotonic clock."""
    for node in nodes:
        wait_until(node.why_not_ready, f"node {node.id} ready", START_S_MAX)
    return time.monotonic() - since


def cpu_s_of(nodes: Sequence[NodeProcess], during: Callable[[], None]) -> float:
    """Seconds of processor that all nodes together took while something was done."""
    before = sum(node.stats().cpu_s for node in nodes)
    during()
    return sum(node.stats().cpu_s for node in nodes) - before


def load_average() -> float:
    """Of the last minute: what else went on while something was measured."""
    return round(os.getloadavg()[0], 2)
