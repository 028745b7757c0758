"""Four real nodes in one process: three form a cluster, the fourth joins, is given a partition, and leaves again.

    python -m examples.in_process

An app that brings its own store along starts one `ClusterNode` in each of its processes instead.
"""

import asyncio
import socket
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from noctule.client.admin import AdminClient
from noctule.embed.cluster_node import ClusterNode
from noctule.embed.migration_engine import MigrationEngine
from noctule.embed.partition_manager import PartitionManager
from noctule.embed.replication_manager import ReplicationManager
from noctule.node.config import ClusterConfig, NodeConfig

WAIT_S = 0.1


def config_of(folder: Path, number: int, peers: dict[int, int], *, joins: bool = False) -> NodeConfig:
    """The settings of one node; a node that joins is told its id, and by whom the cluster was founded."""
    founders = {} if joins else {node: f"127.0.0.1:{port}" for node, port in peers.items() if node <= 3}
    return NodeConfig(
        cluster=ClusterConfig(name="in-process", voters=founders, partition_count=8),
        node_id=1 if joins else number,
        data_dir=folder / f"node-{number}",
        peer_port=peers[number],
        resp_port=0,
        http_port=0,
        control_port=0,
        segment_bytes_max=1 << 20,
    )


async def play(folder: Path) -> list[str]:
    """All of it; what there is to say on the way."""
    said: list[str] = []
    peers = {number: free_port() for number in (1, 2, 3, 4)}
    async with AsyncExitStack() as stack:
        nodes = [ClusterNode(config_of(folder, number, peers)) for number in (1, 2, 3)]
        for node in nodes:
            await stack.enter_async_context(node)
        client = await stack.enter_async_context(AdminClient([node.url for node in nodes]))
        await until(lambda: is_formed(client))
        replication = ReplicationManager(client)
        await replication.replicate_batch({f"key-{number}": b"value" for number in range(100)})

        fourth = ClusterNode(config_of(folder, 4, peers, joins=True))
        token = await client.create_token(note="the fourth")
        await fourth.join([node.control_address for node in nodes], token.text)
        info = await fourth.get_cluster_info()
        said.append(f"node {(await fourth.get_node_info()).node_id} is one of {len(info.members)} of {info.cluster}")

        await client.change_settings({"rebalance_enabled": False})
        partitions = PartitionManager(client)
        engine = MigrationEngine(client)
        await until(lambda: is_at_rest(client))
        held = await partitions.get_partition_assignments()
        mine = [partition for partition, holders in held.items() if 1 in holders and 4 not in holders][:2]
        plan = await engine.create_migration_plan(mine, source=1, target=4)
        for operation in await engine.execute_migration_plan(plan):
            await until(lambda: is_at_rest(client))
            moved = await engine.get_operation_status(operation)
            said.append(f"partition {moved.partition} moved from node 1 to node 4: {moved.stage}")

        await fourth.leave()
        status = await replication.get_replication_status()
        members = [member.id for member in await client.members() if member.state == "active"]
        said.append(f"members {members}, copies of everything: {status.replication_factor}")
    return said


async def is_formed(client: AdminClient) -> bool:
    """Whether the three have agreed on what the cluster is, and every partition has a leader."""
    partitions = await client.partitions()
    return bool(partitions) and all(partition.leader for partition in partitions)


async def is_at_rest(client: AdminClient) -> bool:
    """Whether nothing is on its way."""
    return not await client.operations(running=True)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once it holds."""
    for _ in range(600):
        if await condition():
            return
        await asyncio.sleep(WAIT_S)
    raise TimeoutError("it takes longer than a minute")


def free_port() -> int:
    """A port that is free now, for a node that others must find again."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for line in asyncio.run(play(Path(temporary))):
            print(line)
