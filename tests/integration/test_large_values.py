"""Values at their limits through real nodes: what is too large is refused by name, and nobody else notices."""

import asyncio

import pytest
from cluster_processes import CATCHES_UP_S_MAX, StartUp, UpCluster, until
from redis.exceptions import ResponseError

from noctule.base.bounds import VALUE_BYTES_MAX
from noctule.base.ids import GroupId
from noctule.core.placement.slots import key_slot
from noctule.node.recovery import preferred_leader

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

SLOT = key_slot(b"t")


async def test_an_answer_too_large_for_a_frame_harms_no_node(start_up: StartUp) -> None:
    """Ten values of 8 MiB in one answer are more than two nodes may tell each other at once."""
    cluster = start_up()
    names = [b"{t}%d" % number for number in range(10)]
    async with cluster.doors[0].client(answer_timeout_s=30) as redis:
        for name in names:
            await redis.set(name, bytes(VALUE_BYTES_MAX))
    terms = dict(await terms_of(cluster))
    answered = []
    for door in cluster.doors:
        async with door.client(answer_timeout_s=30) as redis:
            (reply,) = await asyncio.gather(redis.mget(names), return_exceptions=True)
            if isinstance(reply, ResponseError):
                assert "TOOLARGE" in str(reply)
            else:
                answered.append(len(reply))
            assert len(await redis.get(names[0])) == VALUE_BYTES_MAX
            sizes = await asyncio.gather(*[redis.strlen(name) for name in names])
            assert sizes == [VALUE_BYTES_MAX] * len(names)
    assert answered == [10], "the partition's leader can answer its own clients, and nobody else"
    assert await terms_of(cluster) == terms, "somebody was taken for dead"


async def terms_of(cluster: UpCluster) -> dict[int, int]:
    """The term of the group of `SLOT`, once its leader is the one that stays."""
    ids = tuple(door.id for door in cluster.doors)
    found: dict[int, int] = {}

    async def is_settled() -> bool:
        picture = await cluster.doors[0].picture()
        groups = [group for group in picture.groups if group.first_slot <= SLOT <= group.last_slot] if picture else []
        found.update({group.id: group.term for group in groups})
        return bool(groups) and all(group.leader == preferred_leader(GroupId(group.id), ids) for group in groups)

    await until(is_settled, "the preferred leader", CATCHES_UP_S_MAX)
    return found
