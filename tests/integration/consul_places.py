"""Where the tests of Consul's API ask: a real Consul 1.8.7, and a Noctule of three nodes.

A test module asks for them with ``pytest_plugins = ("consul_places",)``.
PYTEST_DONT_REWRITE, as tests also import names from here, which pytest would warn about.
"""

import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import consul
import pytest
from cluster_processes import SEGMENT_BYTES_MAX, NodeCluster, print_logs, write_settings
from engines import ConsulServer

ANSWER_S_MAX = 30.0
REGISTRY_S_MAX = 30.0

_names = count(1)


@dataclass(frozen=True)
class Place:
    """One node that answers Consul's API."""

    name: str
    """consul or noctule."""
    url: str
    node: str
    """Its name in the catalog."""
    others: tuple[str, ...] = field(default=())
    """URLs of other nodes of the same cluster."""

    @property
    def client(self) -> consul.Consul:
        """A py-consul client."""
        parts = urlsplit(self.url)
        return consul.Consul(host=parts.hostname, port=parts.port)

    def ask(
        self, method: str, target: str, body: object = None, *, headers: dict[str, str] | None = None
    ) -> "Answered":
        """One request by hand; a body that is not bytes is sent as JSON."""
        return ask(self.url, method, target, body, headers=headers)

    def fresh(self, what: str) -> str:
        """A name that nothing has had yet."""
        return f"{what}-{next(_names)}"


@dataclass(frozen=True)
class Answered:
    """An answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """What it holds as JSON."""
        return json.loads(self.body)

    @property
    def index(self) -> int:
        """Of X-Consul-Index."""
        return int(self.headers["x-consul-index"])


def ask(url: str, method: str, target: str, body: object = None, *, headers: dict[str, str] | None = None) -> Answered:
    """One request to a node."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S_MAX)
    sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        connection.request(method, target, sent, headers or {})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answered(response.status, found, response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A real Consul, whose state the tests of a module share."""
    server = ConsulServer(tmp_path_factory.mktemp("consul") / "consul")
    try:
        server.start()
        yield Place("consul", server.url, "consul")
    finally:
        server.kill()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A cluster of three nodes, of which the last one is asked; the tests of a module share its state."""
    directory = tmp_path_factory.mktemp("noctule")
    write_settings(directory, segment_bytes_max=SEGMENT_BYTES_MAX)
    cluster = NodeCluster(directory, partitions=1)
    try:
        yield start_noctule(cluster)
    finally:
        cluster.close()
        print_logs(Path(directory))


def start_noctule(cluster: NodeCluster) -> Place:
    """Start all nodes; the last one, once its registry has all of them."""
    doors = [life.wait_serving() for life in cluster.start_all().values()]
    last = doors[-1]
    wait_for_members(last.url, len(doors))
    return Place("noctule", last.url, f"node-{last.id}", tuple(door.url for door in doors[:-1]))


def wait_for_members(url: str, members: int) -> None:
    """Return once the registry says that so many nodes pass."""
    end = time.monotonic() + REGISTRY_S_MAX
    while True:
        answer = ask(url, "GET", "/v1/health/state/passing")
        if answer.status == 200 and sum(each["CheckID"] == "serfHealth" for each in answer.json) == members:
            return
        assert time.monotonic() < end, f"{answer.status} {answer.body[:500]!r}"
        time.sleep(0.05)


@pytest.fixture(params=["consul", "noctule"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each in turn."""
    found = request.getfixturevalue("real" if request.param == "consul" else "ours")
    assert isinstance(found, Place)
    return found
