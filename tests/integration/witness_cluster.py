"""Three real nodes for libraries that nobody here wrote; asked for with ``pytest_plugins = ("witness_cluster",)``.

One cluster serves a whole module: each library has a database of its own, and what a test kills is back for the next.
PYTEST_DONT_REWRITE, as tests also import names from here, which pytest would warn about.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from cluster_processes import CATCHES_UP_S_MAX, SEGMENT_BYTES_MAX, NodeCluster, write_settings
from up_process import get_json, wait_until

from noctule.core.placement.slots import key_slot
from noctule.deploy.local.checks import free_ports

PARTITIONS = 2


class WitnessCluster:
    """Nodes 1 to 3 on ports that they keep in all their lives; `close` it in a ``finally``."""

    def __init__(self, directory: Path) -> None:
        write_settings(directory, segment_bytes_max=SEGMENT_BYTES_MAX)
        self._nodes = NodeCluster(directory, partitions=PARTITIONS)
        free = free_ports("127.0.0.1", 2 * len(self._nodes.peers), avoid=set(self._nodes.peers.values()))
        self.ports = {node: next(free) for node in self._nodes.peers}
        self.cluster_ports = {node: next(free) for node in self._nodes.peers}
        self._http_urls: dict[int, str] = {}

    def start(self) -> None:
        """Start all nodes; they take traffic on return."""
        for node in self.ports:
            self._start(node)
        self._wait_ready(*self.ports)
        for node in self.ports:
            wait_until(lambda node=node: self._is_open(node), f"node {node} to let all commands in", CATCHES_UP_S_MAX)

    def _is_open(self, node: int) -> bool:
        with self.client(node) as client:
            try:
                return bool(client.execute_command("SELECT", 1))
            except redis.ResponseError:
                return False

    def url(self, node: int, database: int = 0) -> str:
        """Of the plain face of a node."""
        return f"redis://127.0.0.1:{self.ports[node]}/{database}"

    def client(self, node: int, database: int = 0, **options: Any) -> redis.Redis:
        """A redis-py client of this node; the caller closes it."""
        return redis.Redis.from_url(self.url(node, database), **options)

    def leader(self, database: int) -> int:
        """The node that leads the partition in which a database from 1 on is, once there is one."""
        slot = key_slot(b"{db:%d}" % database)
        found: list[int] = []

        def is_known() -> bool:
            found.extend(node for node in self._living() if self._leads(node, slot))
            return bool(found)

        wait_until(is_known, f"a leader of database {database}")
        return found[0]

    def followers(self, database: int) -> list[int]:
        """The others, which live."""
        leader = self.leader(database)
        return [node for node in self._living() if node != leader]

    def kill(self, node: int) -> None:
        """SIGKILL; the node is down on return, and stays so for the test, or until `revive`."""
        self._nodes.life_of[node].kill()

    def revive(self) -> None:
        """Start what was killed, where it was; all nodes take traffic on return."""
        dead = [node for node in self.ports if node not in self._living()]
        for node in dead:
            self._start(node)
        self._wait_ready(*dead)

    def close(self) -> None:
        """End everything."""
        self._nodes.close()

    def _living(self) -> list[int]:
        return [node for node in self.ports if self._nodes.life_of[node].process.poll() is None]

    def _leads(self, node: int, slot: int) -> bool:
        picture = get_json(f"{self._http_urls[node]}/api/cluster") or {"groups": []}
        groups = [group for group in picture["groups"] if group["first_slot"] <= slot <= group["last_slot"]]
        return any(group["role"] == "leader" for group in groups)

    def _start(self, node: int) -> None:
        ports = {"resp_port": self.ports[node], "resp_cluster_port": self.cluster_ports[node]}
        self._nodes.start(node, **{name: str(port) for name, port in ports.items()})

    def _wait_ready(self, *nodes: int) -> None:
        for node in nodes:
            self._http_urls[node] = url = self._nodes.life_of[node].wait_serving().url
            wait_until(lambda url=url: get_json(f"{url}/health/ready"), f"node {node} to be ready", CATCHES_UP_S_MAX)


@pytest.fixture(scope="module")
def witness_cluster_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WitnessCluster]:
    """Not for tests: they ask for `cluster`, which mends it after each."""
    cluster = WitnessCluster(tmp_path_factory.mktemp("witness"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(witness_cluster_of_module: WitnessCluster) -> Iterator[WitnessCluster]:
    """Three nodes that live and take traffic; what is killed is started again after the test."""
    yield witness_cluster_of_module
    witness_cluster_of_module.revive()
