"""What is measured: a local Noctule cluster and a redis-server, started here on free ports and stopped in any case.

Both keep their data in one folder inside the checkout, so on one disk; /tmp may be memory.
"""

import http.client
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import redis

from noctule.base.errors import ConfigError, ProtocolError, UnavailableError
from noctule.base.ids import META_GROUP, GroupId
from noctule.client.pictures import Cluster
from noctule.deploy.local.checks import free_ports
from noctule.deploy.local.restarts import SETTLED_S as RESTARTS_SETTLED_S
from noctule.deploy.local.supervisor import Running, RunningNode

HOST = "127.0.0.1"
CHECKOUT = Path(__file__).resolve().parent.parent

START_S_MAX = 60.0
STOP_S_MAX = 60.0
"""An orderly stop takes a second or two; what is left after this is killed."""
RECOVERED_S_MAX = 60.0
"""From a kill until the node is back; the next victim must have run for `RESTARTS_SETTLED_S` beside that."""
SETTLED_S_MAX = 120.0
"""Balance moves one group in a second at most, and only to a node that has been back for three."""
PICTURE_S_MAX = 5.0
PARTITIONS_MAX = 2_000
"""Of a cluster that is measured by what is here."""
POLL_S = 0.05


_Answer = TypeVar("_Answer")


class _Replica(msgspec.Struct, frozen=True):
    node: int


class _Partition(msgspec.Struct, frozen=True):
    id: int
    replicas: list[_Replica]
    """The preferred leader first."""


class _Partitions(msgspec.Struct, frozen=True):
    partitions: list[_Partition]


class NoctuleCluster:
    """The running cluster, by what its nodes say of it."""

    def __init__(self, running: Running) -> None:
        self.nodes: list[RunningNode] = running.nodes
        self._logs = Path(running.data_dir) / "logs"

    def log_of(self, node: RunningNode) -> Path:
        """The log of a node over all its lives, as JSON lines."""
        return self._logs / f"node-{node.id}.log"

    def picture(self, node: RunningNode) -> Cluster:
        """GET /api/cluster of this node; raises `UnavailableError` when it does not serve."""
        return self._get(node, "/api/cluster", Cluster)

    def _get(self, node: RunningNode, path: str, kind: type[_Answer]) -> _Answer:
        connection = http.client.HTTPConnection(node.host, node.http_port, timeout=PICTURE_S_MAX)
        try:
            connection.request("GET", path)
            return msgspec.json.decode(connection.getresponse().read(), type=kind)
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"node {node.id} does not answer: {error}") from None
        except msgspec.DecodeError as error:
            raise ProtocolError(f"node {node.id} answers {path} with something else: {error}") from None
        finally:
            connection.close()

    def partitions(self) -> list[GroupId]:
        """The ids of all partitions."""
        groups = self.picture(self.nodes[0]).groups
        return [GroupId(group.id) for group in groups if group.id != META_GROUP]

    def wait_victim(self) -> tuple[RunningNode, Cluster]:
        """The node to be killed next, and its picture: of those that say that they lead a partition the oldest process.

        It has run for `RESTARTS_SETTLED_S`: an earlier death would be held against it, and it would be started again
        later each time.
        """
        victims: list[tuple[RunningNode, Cluster]] = []

        def why_not() -> str:
            leading = [(node, picture) for node in self.nodes if led_partitions(picture := self.picture(node))]
            if not leading:
                return "no node leads a partition"
            node, picture = max(leading, key=lambda found: found[1].uptime_s)
            if picture.uptime_s < RESTARTS_SETTLED_S:
                return f"node {node.id} has run for {picture.uptime_s:.1f} s only"
            victims.append((node, picture))
            return ""

        wait_until(why_not, "a node to kill", RECOVERED_S_MAX)
        return victims[0]

    def wait_recovered(self) -> None:
        """Return once all nodes hear each other and agree, for every group, on a leader that says so itself."""
        wait_until(self._why_not_recovered, "all nodes back and led", RECOVERED_S_MAX)

    def wait_settled(self) -> None:
        """Return once all nodes serve and every group is led by the node that leads it while all is well."""
        wait_until(self._why_not_settled, "leaders settled", SETTLED_S_MAX)

    def wait_caught_up(self) -> None:
        """Return once no replica misses an entry; nobody may be writing."""
        wait_until(self._why_not_caught_up, "replicas caught up", SETTLED_S_MAX)

    def _why_not_recovered(self) -> str:
        pictures = [self.picture(node) for node in self.nodes]
        for picture in pictures:
            for peer in picture.nodes:
                if not peer.alive:
                    return f"node {picture.node_id} does not hear node {peer.id}"
        for groups in zip(*(picture.groups for picture in pictures), strict=True):
            said = {group.leader for group in groups}
            own = [picture.node_id for picture, group in zip(pictures, groups, strict=True) if group.role == "leader"]
            if said != set(own):
                views = "; ".join(
                    f"node {picture.node_id} is {group.role} under {group.leader} in term {group.term}, has applied "
                    f"{group.applied_index} of {group.last_index}, and knows of a lag of {group.lag}"
                    for picture, group in zip(pictures, groups, strict=True)
                )
                return f"group {groups[0].id} is led by {own}, and the nodes say {said}: {views}"
        return ""

    def _why_not_settled(self) -> str:
        page = self._get(self.nodes[0], f"/api/partitions?limit={PARTITIONS_MAX}", _Partitions)
        preferred = {each.id: each.replicas[0].node for each in page.partitions}
        for node in self.nodes:
            picture = self.picture(node)
            for peer in picture.nodes:
                if not peer.alive:
                    return f"node {node.id} does not hear node {peer.id}"
            for group in picture.groups:
                expected = preferred.get(group.id, self.nodes[0].id)  # Of *meta* the first voter.
                if group.leader != expected:
                    return f"node {node.id} says that {group.leader}, not {expected}, leads group {group.id}"
        return ""

    def _why_not_caught_up(self) -> str:
        for node in self.nodes:
            for group in self.picture(node).groups:
                for peer, entries in group.lag.items():
                    if entries:
                        return f"node {peer} misses {entries} entries of group {group.id}"
        return ""


def led_groups(picture: Cluster) -> list[GroupId]:
    """The groups that the node of this picture leads, as it says."""
    return [GroupId(group.id) for group in picture.groups if group.role == "leader"]


def led_partitions(picture: Cluster) -> list[GroupId]:
    """As `led_groups`, without *meta*."""
    return [group for group in led_groups(picture) if group != META_GROUP]


@contextmanager
def bench_folder() -> Iterator[Path]:
    """A folder for all data of one run, on the disk of the checkout; removed at the end."""
    with tempfile.TemporaryDirectory(prefix=f".noctule-bench-{os.getpid()}-", dir=CHECKOUT) as folder:
        yield Path(folder)


@contextmanager
def noctule_cluster(
    folder: Path, node_count: int, *, log_level: str = "info", partitions: int = 16
) -> Iterator[NoctuleCluster]:
    """``noctule up`` with its defaults and no app; it takes requests, and its leaders are settled."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "noctule", "up", "--json", "--nodes", str(node_count)]
    command += ["--partitions", str(partitions)]
    command += ["--data-dir", str(folder / "noctule")]
    for door in ("resp", "http", "peer", "control"):
        command += [f"--{door}-port-base", "0"]
    environment = {"NOCTULE_LOG_LEVEL": log_level}
    with server_process(command, folder / "noctule.log", reads_stdout=True, environment=environment) as up:
        cluster = NoctuleCluster(_read_running(up, folder / "noctule.log"))
        cluster.wait_settled()
        yield cluster


@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """An empty redis-server that syncs its append-only file before each acknowledgement; gives its port."""
    (port,) = free_ports(HOST, 1, avoid=set())
    data = folder / "redis"
    data.mkdir()
    command = [program("redis-server"), "--bind", HOST, "--port", str(port), "--dir", str(data)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with server_process(command, folder / "redis.log") as server:
        wait_until(lambda: _why_not_answering(server, port, folder / "redis.log"), "redis-server", START_S_MAX)
        yield port


@contextmanager
def bare_server(folder: Path) -> Iterator[tuple[int, int]]:
    """bare_server.py, empty; gives its pid and its port."""
    (port,) = free_ports(HOST, 1, avoid=set())
    command = [sys.executable, str(Path(__file__).with_name("bare_server.py")), str(port)]
    with server_process(command, folder / "bare.log") as server:

        def why_not() -> str:
            if server.poll() is not None:
                raise ConfigError(f"the bare server ended: {_last_line(folder / 'bare.log')}")
            try:
                socket.create_connection((HOST, port), timeout=1).close()
            except OSError as error:
                return str(error)
            return ""

        wait_until(why_not, "the bare server", START_S_MAX)
        yield server.pid, port


@contextmanager
def redis_cluster(folder: Path) -> Iterator[int]:
    """A Redis Cluster of three masters with a replica each, which syncs once a second; gives the port of one."""
    chosen = list(free_ports(HOST, 12, avoid=set()))
    ports, bus_ports = chosen[:6], chosen[6:]
    with ExitStack() as servers:
        for port, bus_port in zip(ports, bus_ports, strict=True):
            data = folder / f"redis-{port}"
            data.mkdir()
            command = [program("redis-server"), "--bind", HOST, "--port", str(port), "--dir", str(data), "--save", ""]
            command += ["--appendonly", "yes", "--appendfsync", "everysec", "--cluster-enabled", "yes"]
            command += ["--cluster-port", str(bus_port)]
            command += ["--cluster-config-file", "nodes.conf", "--repl-diskless-sync-delay", "0"]
            log = folder / f"redis-{port}.log"
            server = servers.enter_context(server_process(command, log))
            wait_until(partial(_why_not_answering, server, port, log), "redis-server", START_S_MAX)
        addresses = [f"{HOST}:{port}" for port in ports]
        create = [program("redis-cli"), "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"]
        made = subprocess.run(create, capture_output=True, text=True, timeout=START_S_MAX)
        if made.returncode:
            raise UnavailableError(f"redis-cli --cluster create failed: {made.stdout[-300:]}")

        def why_not() -> str:
            with redis.Redis(HOST, ports[0], socket_timeout=1) as client:
                state = client.execute_command("CLUSTER INFO")
            return "" if "ok" in str(state["cluster_state"]) else str(state)

        wait_until(why_not, "the Redis Cluster", START_S_MAX)
        yield ports[0]


def program(name: str) -> str:
    """The path of a program of Redis; raises `ConfigError` that says how to install it."""
    path = shutil.which(name)
    if path is None:
        raise ConfigError(f"{name} is not installed; run make engines (Debian: apt install redis-server redis-tools)")
    return path


def wait_until(why_not: Callable[[], str], what: str, deadline_s: float) -> None:
    """Poll until there is no reason left why not; `UnavailableError` with the last one after `deadline_s` seconds.

    An `UnavailableError` that `why_not` raises is such a reason too.
    """
    end = time.monotonic() + deadline_s
    while True:
        try:
            reason = why_not()
        except UnavailableError as error:
            reason = str(error)
        if not reason:
            return
        if time.monotonic() > end:
            raise UnavailableError(f"{what}: not within {deadline_s:g} s: {reason}")
        time.sleep(POLL_S)


@contextmanager
def server_process(
    command: Sequence[str], log: Path, *, reads_stdout: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in a group of its own, so that Ctrl-C reaches this script alone, which then stops it in order."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if reads_stdout else file,
            stderr=file,
            env={**os.environ, **(environment or {})},
            process_group=0,
        )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S_MAX)
            finally:
                process.kill()


def _read_running(up: "subprocess.Popen[bytes]", log: Path) -> Running:
    """The one line of ``noctule up --json``."""
    assert up.stdout is not None
    readable, _, _ = select.select([up.stdout], [], [], START_S_MAX)
    line = up.stdout.readline() if readable else b""
    if not line:
        raise UnavailableError(f"noctule up is not ready: {_last_line(log)}")
    return msgspec.json.decode(line, type=Running)


def _why_not_answering(server: "subprocess.Popen[bytes]", port: int, log: Path) -> str:
    if server.poll() is not None:
        raise ConfigError(f"redis-server ended with exit code {server.returncode}: {_last_line(log)}")
    try:
        with redis.Redis(HOST, port, socket_timeout=1) as client:
            client.ping()
    except redis.RedisError as error:
        return str(error)
    return ""


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
