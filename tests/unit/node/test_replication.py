"""The operator's face of replication, over a store and a picture that the test makes."""

import asyncio
from dataclasses import replace

from noctule.core.keyspace.reply import OK
from noctule.node.replication import ReplicaStatus, ReplicationManager
from tests.unit.servers.http_fakes import PICTURE, FakeNode


async def test_a_batch_is_answered_in_its_order() -> None:
    manager = ReplicationManager(FakeNode())
    commands = [[b"SET", b"a", b"1"], [b"INCR", b"a"], [b"GET", b"a"]]
    assert await manager.replicate_batch(commands) == [OK, 2, b"2"]
    assert await manager.replicate_batch([]) == []
    assert await manager.replicate_message([b"GET", b"a"]) == b"2"


async def test_who_waited_and_left_is_not_told() -> None:
    """The reply comes to a future that is cancelled, and must not be an error in the store's loop."""
    node = FakeNode()
    node.store.is_silent = True
    waiting = asyncio.ensure_future(ReplicationManager(node).replicate_message([b"GET", b"a"]))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    node.store.release()


async def test_the_leader_tells_who_lags_and_a_follower_nothing() -> None:
    node = FakeNode()
    assert ReplicationManager(node).replication_status() == [
        ReplicaStatus(0, 2, 0, 0, 0.0),
        ReplicaStatus(0, 3, 17, 900, 1.5),
    ]
    node.shown = replace(PICTURE, groups=PICTURE.groups[1:])
    assert ReplicationManager(node).replication_status() == []
