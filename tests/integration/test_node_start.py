"""A node that cannot start leaves nothing behind, and says why in one line."""

import asyncio
import dataclasses
import socket
from pathlib import Path

import pytest

from noctule.adapters.snapshots import SnapshotFiles
from noctule.adapters.system_clock import SystemClock
from noctule.base.errors import ConfigError
from noctule.base.ids import META_GROUP
from noctule.node.config import ClusterConfig, NodeConfig
from noctule.node.node import LocalNode

pytestmark = pytest.mark.integration


async def test_a_start_that_failed_at_its_port_can_be_repeated(tmp_path: Path) -> None:
    """The write-ahead log stayed locked: "in use by the process with pid …", which was this very one."""
    config = NodeConfig.tiny(tmp_path / "data", ClusterConfig(voters={1: "127.0.0.1:1"}, partition_count=2))
    with socket.create_server(("127.0.0.1", 0)) as other:
        busy = dataclasses.replace(config, peer_port=other.getsockname()[1])
        with pytest.raises(ConfigError, match="cannot listen for peers on"):
            await LocalNode.open(busy, SystemClock(), "0")
    node = await LocalNode.open(config, SystemClock(), "0")
    try:
        assert node.peer_port > 0
        with pytest.raises(ConfigError, match="is in use by the process with pid"):
            await LocalNode.open(config, SystemClock(), "0")
    finally:
        await node.stop()


async def test_an_unforeseen_error_in_the_snapshot_thread_stops_the_node_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was raised into the event loop; the node went on, and nothing that waited for the snapshot was ever told."""
    config = NodeConfig.tiny(tmp_path / "data", ClusterConfig(voters={1: "127.0.0.1:1"}, partition_count=2))
    node = await LocalNode.open(config, SystemClock(), "0")
    try:

        def fail(_files: SnapshotFiles, _group: int) -> None:
            raise RuntimeError("nobody thought of this")

        monkeypatch.setattr(SnapshotFiles, "open", fail)
        node.host.open_snapshot(META_GROUP)
        async with asyncio.timeout(10):
            while not node.host.failure:
                await asyncio.sleep(0.01)
        assert node.host.failure == "nobody thought of this"
        assert "nobody thought of this" in node.readiness()
    finally:
        await node.stop()
