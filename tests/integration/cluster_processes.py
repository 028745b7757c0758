"""Clusters of real processes for tests that do them harm; asked for with ``pytest_plugins = ("cluster_processes",)``.

`UpCluster` is what ``noctule up`` starts: its supervisor mends what is broken. `NodeCluster` is nodes alone, each with
settings of its own and down for as long as the test likes.
PYTEST_DONT_REWRITE, as tests also import names from here, which pytest would warn about.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest
from engines import free_port
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from up_process import CHECKOUT, THIS_RELEASE, Up, command, environment, wait_until

from noctule.base.errors import NoctuleError
from noctule.client.admin import AdminClient
from noctule.client.api import NodeClient
from noctule.client.pictures import Cluster
from noctule.kits.store import connect

GOES_ON_S_MAX = 10.0
"""How long anything that must go on after a fault may take; far above what it takes, for a busy machine."""
CATCHES_UP_S_MAX = 30.0
"""A start, the log or a snapshot, and readiness."""
ASK_S_MAX = 2.0
SEGMENT_BYTES_MAX = 256 << 10
"""Segments are made full of zeros, which takes a start of three nodes seconds at their usual size."""
LOG_LINES_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Door:
    """Where one node is reached, in all its lives."""

    id: int
    resp_port: int
    url: str
    control: str = ""
    """host:port of its gRPC service; empty where nobody asks for it."""
    cluster_port: int = 0
    """Of its cluster face; 0 where nobody asks for it."""

    def admin(self) -> AdminClient:
        """Asks this node to change the cluster; to be used in ``async with``."""
        return AdminClient(self.url)

    def client(self, *, answer_timeout_s: float = 5.0) -> Redis:
        """A client that sends each command once; the caller closes it."""
        return connect(f"redis://127.0.0.1:{self.resp_port}/0", answer_timeout_s=answer_timeout_s)

    async def picture(self) -> Cluster | None:
        """The cluster as this node sees it; None while it does not answer."""
        try:
            async with NodeClient(self.url, deadline_s=ASK_S_MAX) as client:
                return await client.cluster()
        except NoctuleError:
            return None

    async def health(self, page: str = "") -> tuple[int, Any]:
        """Status and body of a page below /health; (0, None) when nobody answers."""
        try:
            timeout, url = aiohttp.ClientTimeout(total=2 * ASK_S_MAX), f"{self.url}/health{page}"
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
                return answer.status, await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            return 0, None

    async def is_ready(self) -> bool:
        """Whether it says that it may take traffic."""
        return (await self.health("/ready"))[0] == 200


async def until(
    condition: Callable[[], Awaitable[object]],
    what: str,
    timeout_s: float = GOES_ON_S_MAX,
    why_not: Callable[[], str] = lambda: "",
) -> None:
    """Return once the condition holds; fails with `what` was waited for, and `why_not` as last looked at."""
    end = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < end, f"waited {timeout_s:g} s for {what}{why_not()}"
        await asyncio.sleep(0.05)


async def until_caught_up(door: Door, others: Sequence[Door]) -> None:
    """Return once this node has applied everything that any of the others knows to be committed now; under load too."""
    wanted: dict[int, int] = {}
    for picture in [await other.picture() for other in others]:
        for group in picture.groups if picture else ():
            wanted[group.id] = max(group.commit_index, wanted.get(group.id, 0))
    assert wanted

    async def has_applied() -> bool:
        picture = await door.picture()
        return picture is not None and all(group.applied_index >= wanted[group.id] for group in picture.groups)

    await until(has_applied, f"node {door.id} to apply what is committed", CATCHES_UP_S_MAX)


async def until_no_lag(doors: Sequence[Door]) -> None:
    """Return once each group has a leader that knows of no entry that another node lacks; for use without load."""

    async def is_level() -> bool:
        pictures = [picture for door in doors if (picture := await door.picture())]
        lags = {group.id: group.lag for picture in pictures for group in picture.groups if group.lag}
        wanted = {group.id for picture in pictures for group in picture.groups}
        return lags.keys() == wanted and not any(entries for lag in lags.values() for entries in lag.values())

    await until(is_level, "every lag to be 0", CATCHES_UP_S_MAX)


class UpCluster:
    """One ``noctule up`` after another on one data folder; `start` it, and `close` it in a ``finally``."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._directory = directory
        self._arguments = arguments
        self._lives: list[Up] = []
        self.gateway = ""
        self.doors: list[Door] = []
        """In the order of their ids."""

    def start(self) -> None:
        """Start it and wait until it takes requests; another life has other ports."""
        self._lives.append(Up(self._directory, *self._arguments))
        running = self._lives[-1].wait_up()
        self.gateway = running["gateway"] or ""
        self.doors = [
            Door(node["id"], node["resp_port"], f"http://{node['host']}:{node['http_port']}")
            for node in running["nodes"]
        ]

    async def kill_node(self, door: Door) -> int:
        """SIGKILL; gives the pid that was."""
        pid = await self.pid_of(door)
        os.kill(pid, signal.SIGKILL)
        return pid

    async def pid_of(self, door: Door) -> int:
        """Of the node's process of now."""
        picture = await door.picture()
        assert picture is not None, f"node {door.id} does not answer"
        return picture.pid

    async def until_back(self, door: Door, killed: int) -> None:
        """Return once another process serves in the killed one's place."""

        async def is_back() -> bool:
            picture = await door.picture()
            return picture is not None and picture.pid != killed and await door.is_ready()

        await until(is_back, f"node {door.id} to be started again and ready", CATCHES_UP_S_MAX)

    def kill_everything(self) -> None:
        """SIGKILL to all nodes, instances and the supervisor, without a breath between; all have ended on return."""
        up = self._lives[-1]
        for pid in [up.process.pid, *up.children()]:
            os.kill(pid, signal.SIGKILL)
        up.process.wait()
        wait_until(lambda: up.children() == [], "the end of all processes")

    def close(self) -> None:
        """End all lives."""
        for up in self._lives:
            up.close()


class NodeProcess:
    """One life of one node, by ``noctule node``; its stdout and stderr are files."""

    def __init__(
        self, path: Path, directory: Path, words: Sequence[str], release: Sequence[str] = THIS_RELEASE
    ) -> None:
        self._stdout, self._stderr = path.with_suffix(".stdout"), path.with_suffix(".log")
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                words, cwd=directory, env=environment(release), stdout=stdout, stderr=stderr
            )

    def wait_serving(self) -> Door:
        """Where it serves, once it does."""
        wait_until(
            lambda: self._stdout.read_text().endswith("\n") or self.process.poll() is not None,
            "the line that the node serves",
            CATCHES_UP_S_MAX,
        )
        assert self.process.poll() is None, self._stderr.read_text()
        said = json.loads(self._stdout.read_text().splitlines()[0])
        cluster_port = int(said.get("resp_cluster", ":0").rpartition(":")[2])  # An earlier release has none.
        resp_port = int(said["resp"].rpartition(":")[2])
        return Door(said["id"], resp_port, f"http://{said['http']}", said["control"], cluster_port)

    def wait_refused(self) -> tuple[int, str]:
        """Its exit code and its stderr, once it has ended by itself; it must not have served."""
        code = self.process.wait(CATCHES_UP_S_MAX)
        assert self._stdout.read_text() == ""
        return code, self._stderr.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Each event of this name in its log so far."""
        whole = [line for line in self._stderr.read_text().splitlines(keepends=True) if line.endswith("\n")]
        lines = [json.loads(line) for line in whole if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def stop(self) -> None:
        """SIGTERM; it has ended well on return."""
        self.process.terminate()
        assert self.process.wait(CATCHES_UP_S_MAX) == 0, self._stderr.read_text()

    def kill(self) -> None:
        """SIGKILL; it has ended on return."""
        self.process.kill()
        self.process.wait()


class NodeCluster:
    """Nodes of one cluster in one directory, with free ports; `close` in a ``finally``.

    The first ones know each other by their settings, with ids from 1; others join, and have names of the test's.
    """

    def __init__(self, directory: Path, *, cluster: str = "bats", partitions: int = 4, nodes: int = 3) -> None:
        self.directory = directory
        self.peers = {node: free_port() for node in range(1, nodes + 1)}
        """The port of each first node for the others."""
        self.life_of: dict[int | str, NodeProcess] = {}
        """The newest one of each node, by its number or name."""
        self._flags = {"resp-port": "0", "http-port": "0", "control-port": "0"}
        self._first_flags = self._flags | {
            "cluster": cluster,
            "partitions": str(partitions),
            "peers": ",".join(f"{node}:{port}" for node, port in self.peers.items()),
        }
        self._joined_ports: dict[str, int] = {}
        self._lives: list[NodeProcess] = []

    def data_dir(self, node: int | str) -> Path:
        """Of a node that is not told another."""
        return self.directory / f"node-{node}"

    def start(
        self, node: int, *, prefix: Sequence[str] = (), release: Sequence[str] = THIS_RELEASE, **settings: str
    ) -> NodeProcess:
        """Start a first node: `settings` are flags with underscores, `prefix` are words before the command."""
        return self._start(node, self._first_flags | {"node-id": str(node)}, settings, prefix, release)

    def start_all(self, **settings: str) -> dict[int, NodeProcess]:
        """Start the first nodes."""
        return {node: self.start(node, **settings) for node in self.peers}

    def join(self, name: str, via: Door, token: str, **settings: str) -> NodeProcess:
        """Start a node that joins by way of another one; the second time under one name with what it has by then."""
        return self.start_joined(name, join=via.control, token=token, **settings)

    def start_joined(self, name: str, **settings: str) -> NodeProcess:
        """Start a node that has joined before, and is told neither where the others are nor who it is."""
        port = self._joined_ports.setdefault(name, free_port())
        return self._start(name, self._flags | {"peer-port": str(port)}, settings)

    def _start(
        self,
        node: int | str,
        flags: dict[str, str],
        settings: dict[str, str],
        prefix: Sequence[str] = (),
        release: Sequence[str] = THIS_RELEASE,
    ) -> NodeProcess:
        flags = flags | {"data-dir": str(self.data_dir(node))}
        if "resp_port" in settings and release is THIS_RELEASE:
            flags["resp-cluster-port"] = "0"  # Else 400 above, and nobody has kept that free.
        flags |= {name.replace("_", "-"): value for name, value in settings.items()}
        given = (word for name, value in flags.items() for word in (f"--{name}", value))
        words = command("node", *given, release=release)
        path = self.directory / f"life-{len(self._lives) + 1}-node-{node}"
        life = self.life_of[node] = NodeProcess(path, self.directory, [*prefix, *words], release)
        self._lives.append(life)
        return life

    def close(self) -> None:
        """End what still runs."""
        for life in self._lives:
            life.kill()


async def until_ready(*doors: Door) -> None:
    """Return once each of these nodes may take traffic."""
    for door in doors:
        await until(door.is_ready, f"node {door.id} to be ready", CATCHES_UP_S_MAX)


async def until_open(*doors: Door) -> None:
    """Return once each of these nodes lets all commands in, which it does when it knows that every node knows them."""
    for door in doors:

        async def is_open(door: Door = door) -> bool:
            async with door.client() as client:
                try:
                    return bool(await client.select(1))
                except ResponseError:
                    return False

        await until(is_open, f"node {door.id} to let all commands in", CATCHES_UP_S_MAX)


StartUp: TypeAlias = Callable[..., UpCluster]
StartNodes: TypeAlias = Callable[..., NodeCluster]


@pytest.fixture
def cluster_directory(tmp_path: Path) -> Iterator[Path]:
    """The working directory of all processes. The ends of their logs are printed, which pytest shows on failure."""
    write_settings(tmp_path, segment_bytes_max=SEGMENT_BYTES_MAX)
    (tmp_path / "examples").symlink_to(CHECKOUT / "examples")
    yield tmp_path
    print_logs(tmp_path)


def print_logs(directory: Path) -> None:
    """Print the end of every log in a directory."""
    for path in sorted([*directory.rglob("*.log"), *directory.rglob("*.stderr")]):
        if not path.name.startswith("wal-"):
            print(f"--- {path}", *path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:], sep="\n")


def write_settings(directory: Path, **node: float) -> None:
    """Write the noctule.toml that every node in this directory reads."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in node.items()]
    (directory / "noctule.toml").write_text("\n".join(["[node]", *lines, ""]))


@pytest.fixture
def start_up(cluster_directory: Path) -> Iterator[StartUp]:
    """``start_up("module:app", …)``: a running `UpCluster`, ended after the test however that ends."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str) -> UpCluster:
            cluster = UpCluster(cluster_directory, *arguments)
            stack.callback(cluster.close)
            cluster.start()
            return cluster

        yield start


@pytest.fixture
def start_nodes(cluster_directory: Path) -> Iterator[StartNodes]:
    """``start_nodes(partitions=1)``: a `NodeCluster` with nothing started yet, ended after the test."""
    with contextlib.ExitStack() as stack:

        def new(*, cluster: str = "bats", partitions: int = 4, nodes: int = 3) -> NodeCluster:
            found = NodeCluster(cluster_directory, cluster=cluster, partitions=partitions, nodes=nodes)
            stack.callback(found.close)
            return found

        yield new


@pytest.fixture(scope="module")
def shared_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    """Three nodes that serve, for all tests of a module; so none may harm them. See `doors`."""
    directory = tmp_path_factory.mktemp("shared")
    write_settings(directory, segment_bytes_max=SEGMENT_BYTES_MAX)
    cluster = NodeCluster(directory)
    try:
        doors = [life.wait_serving() for life in cluster.start_all().values()]
        asyncio.run(until_ready(*doors))
        asyncio.run(until_open(*doors))
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
async def doors(shared_nodes: NodeCluster) -> AsyncIterator[list[Door]]:
    """The doors of `shared_nodes`, in the order of their ids, with no keys behind them."""
    found = [life.wait_serving() for life in shared_nodes.life_of.values()]
    async with found[0].client() as client:
        await client.flushall()
    yield found
    print_logs(shared_nodes.directory)
