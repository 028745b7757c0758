"""Values at their limits through real nodes: what is too large is refused by name, and nobody else notices."""

import asyncio
from pathlib import Path

import pytest
from cluster_processes import StartUp
from redis.exceptions import ResponseError

from noctule.base.bounds import VALUE_BYTES_MAX

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration


async def test_an_answer_too_large_for_a_frame_harms_no_node(start_up: StartUp, cluster_directory: Path) -> None:
    """Ten values of 8 MiB in one answer are more than two nodes may tell each other at once."""
    cluster = start_up("--partitions", "2")
    names = [b"{t}%d" % number for number in range(10)]
    async with cluster.doors[0].client(answer_timeout_s=30) as redis:
        for name in names:
            await redis.set(name, bytes(VALUE_BYTES_MAX))
    refusals = 0
    for door in cluster.doors:
        async with door.client(answer_timeout_s=30) as redis:
            (reply,) = await asyncio.gather(redis.mget(names), return_exceptions=True)
            if isinstance(reply, ResponseError):
                assert "TOOLARGE" in str(reply)
                refusals += 1
            else:
                assert [len(value) for value in reply] == [VALUE_BYTES_MAX] * len(names)
            assert len(await redis.get(names[0])) == VALUE_BYTES_MAX
            sizes = await asyncio.gather(*[redis.strlen(name) for name in names])
            assert sizes == [VALUE_BYTES_MAX] * len(names)
    # Only the partition's leader can answer it, and only its own clients; on a busy machine another one may lead soon.
    assert refusals >= 1
    logs = [path.read_text() for path in cluster_directory.rglob("node-*.log")]
    assert len(logs) == 3
    assert not any("peer_protocol_error" in log or "peer_disconnected" in log for log in logs)
