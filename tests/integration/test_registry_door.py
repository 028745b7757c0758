"""The registry through the doors of three real nodes: changed at one, seen and waited for at another, kept on disk."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from engines import free_port

from noctule.adapters.system_clock import SystemClock
from noctule.base.errors import RequestError, TooLargeError, UnavailableError
from noctule.core.registry.changes import AcquireKey, CreateSession, PutCheck, PutNode, PutService, SetKey
from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance, Session
from noctule.core.roster.features import REGISTRY
from noctule.node import registry_door
from noctule.node.config import ClusterConfig, NodeConfig
from noctule.node.node import LocalNode
from noctule.node.registry_door import RegistryDoor

pytestmark = pytest.mark.integration

HERE = [
    PutNode(RegistryNode("a", "10.0.0.1")),
    PutCheck(Check("a", "serfHealth", "alive", CheckStatus.PASSING)),
    PutService(ServiceInstance("a", "web-1", "web", port=80)),
]


def of_a(door: RegistryDoor) -> object:
    """What is known of the node that was registered here: the leader of *meta* registers the members."""
    return door.view.nodes["a"], door.view.instances_on("a"), door.view.checks_on("a")


async def start(directory: Path, cluster: ClusterConfig, number: int) -> LocalNode:
    port = int(cluster.voters[number].rpartition(":")[2])
    config = replace(NodeConfig.tiny(directory / str(number), cluster), node_id=number, peer_port=port)
    node = await LocalNode.open(config, SystemClock(), "0")
    node.join("", "")
    return node


async def until_open(node: LocalNode) -> None:
    assert await node.watch.until(lambda: REGISTRY in node.cluster.meta.features, 20)


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[dict[int, LocalNode]]:
    cluster = ClusterConfig(voters={each: f"127.0.0.1:{free_port()}" for each in (1, 2, 3)}, partition_count=2)
    running = {each: await start(tmp_path, cluster, each) for each in (1, 2, 3)}
    for node in running.values():
        await until_open(node)
    yield running
    for node in running.values():
        await node.stop()


async def test_what_one_node_was_told_every_node_knows(nodes: dict[int, LocalNode]) -> None:
    """Linearizable at every node after `catch_up`, and refused as a whole with the sentence that says which change."""
    one, other = nodes[1].registry, nodes[3].registry
    waiting = asyncio.create_task(other.wait("service:web", other.view.index, 10))
    answers = await one.change(HERE)
    assert len(answers) == 3
    assert len(set(answers)) == 1
    assert await waiting
    await other.catch_up()
    assert of_a(other) == of_a(one)
    assert [each.port for each in other.view.instances_of("web")] == [80]
    with pytest.raises(RequestError, match=r"^change 1: there is no session|^change 1: invalid session 's'"):
        await other.change([SetKey("k", b"1"), AcquireKey("k", b"1", "s")])
    assert one.view.key("k") is None
    with pytest.raises(TooLargeError, match="bytes of the list of changes"):
        await one.change([SetKey("k", bytes(500_000))] * 3)
    held = await other.change([CreateSession(Session("s", "a")), AcquireKey("k", b"1", "s")])
    assert held[1] is True
    assert not await other.wait("service:web", other.view.index, 0.05)
    assert all(node.registry.leader_known() for node in nodes.values())
    assert all((node.registry.last_contact_ms() or 0) < 5_000 for node in nodes.values())


async def test_without_a_quorum_nothing_is_confirmed_and_the_rest_is_still_read(
    nodes: dict[int, LocalNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_door, "CATCH_UP_S_MAX", 0.5)
    await nodes[1].registry.change(HERE)
    await nodes[1].registry.catch_up()
    before = of_a(nodes[1].registry)
    cluster = nodes[1].config.cluster
    for number in (2, 3):
        await nodes.pop(number).stop()
    with pytest.raises(UnavailableError):
        await nodes[1].registry.catch_up()
    assert of_a(nodes[1].registry) == before
    nodes[2] = await start(tmp_path, cluster, 2)
    monkeypatch.undo()
    await nodes[2].registry.catch_up()
    assert of_a(nodes[2].registry) == before
