"""Nodes in this process, and the managers over their client: the example of it, whole."""

import asyncio
from pathlib import Path

import pytest
from examples.in_process import config_of, free_port, play

from noctule.base.errors import ConfigError, RequestError, UnavailableError
from noctule.client.admin import AdminClient
from noctule.client.services import ServicesClient
from noctule.core.registry.views import ServiceRegistration
from noctule.embed.cluster_node import ClusterNode
from noctule.embed.migration_engine import MigrationEngine
from noctule.embed.partition_manager import PartitionManager
from noctule.embed.replication_manager import ReplicationManager
from noctule.embed.service_discovery import ServiceDiscovery

pytestmark = pytest.mark.integration


async def test_a_node_joins_is_given_partitions_and_leaves(tmp_path: Path) -> None:
    assert await play(tmp_path) == [
        "node 4 is one of 4 of in-process",
        "partition 1 moved from node 1 to node 4: done",
        "partition 2 moved from node 1 to node 4: done",
        "members [1, 2, 3], copies of everything: 3",
    ]


async def test_services_are_found_by_a_node_in_this_process(tmp_path: Path) -> None:
    async with ClusterNode(config_of(tmp_path, 1, {1: free_port()})) as node, ServicesClient(node.url) as client:
        service = ServiceRegistration("web", id="web-1", address="127.0.0.1", port=80, ttl_s=10)
        async with ServiceDiscovery(client) as discovery:
            while True:
                try:
                    await discovery.register(service)
                    break
                except (RequestError, UnavailableError):  # The cluster of one is being formed.
                    await asyncio.sleep(0.05)
            assert [each.id for each in await discovery.discover("web")] == ["web-1"]
        assert (await client.services("web")).services == ()


async def test_the_managers_say_what_cannot_be(tmp_path: Path) -> None:
    node = ClusterNode(config_of(tmp_path, 1, {1: free_port()}))
    with pytest.raises(ConfigError, match="not running"):
        await node.get_node_info()
    async with node, AdminClient(node.url) as client:
        while not await client.partitions():
            pass
        engine = MigrationEngine(client)
        with pytest.raises(RequestError, match="there is no partition 99; node 2 has no replica of partition 1"):
            await engine.create_migration_plan([99, 1], source=2, target=3)
        status = await ReplicationManager(client).get_replication_status()
        assert status.under_replicated == list(range(1, 9))
        assert await PartitionManager(client).get_partition_assignments() == dict.fromkeys(range(1, 9), (1,))
        assert (await PartitionManager(client).plan_rebalance()).moves == ()


def test_an_allocation_covers_all_slots() -> None:
    laid_out = PartitionManager.allocate_partitions(5, 10, 3)
    assert [each.first_slot for each in laid_out][:2] == [0, 1638]
    assert laid_out[-1].last_slot == 16_383
    assert {len(each.replicas) for each in laid_out} == {3}
    with pytest.raises(RequestError):
        PartitionManager.allocate_partitions(3, 0)
