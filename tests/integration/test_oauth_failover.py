"""Refresh tokens and revocations while the store loses its leader: one successor, the same bytes, one end."""

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from oauth_instances import Instance, instances

from noctule.kits.oauth2.checks import Checks
from noctule.kits.oauth2.errors import InvalidTokenError
from noctule.kits.oauth2.grants import GrantTimes

if TYPE_CHECKING:
    from redis_modes import RedisMode
    from witness_cluster import WitnessCluster

pytest_plugins = ("engines", "redis_modes", "witness_cluster")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.engine("redis-server"),
    pytest.mark.usefixtures("clients_leave_connections"),
]

REFRESHES = 1_000
PATIENT = GrantTimes(grace_s=120)
"""A busy machine may take long for a thousand refreshes and a new leader."""


def url_of(cluster: "WitnessCluster", database: int) -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in cluster.ports.values())
    return f"redis://{hosts}/{database}"


async def refresh_until_answered(instance: Instance, refresh_token: str) -> bytes:
    """As a client does: 503 says that the same request may be sent again."""
    while True:
        answer = await instance.refresh(refresh_token)
        if answer.status != 503:
            assert answer.status == 200, answer.raw
            return answer.raw


async def until_refused(instance: Instance, access_token: str, deadline_s: float = 20.0) -> None:
    async with asyncio.timeout(deadline_s):
        while await instance.who(access_token) != 401:
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("leader_dies", [False, True], ids=["quiet", "leader-killed"])
async def test_a_thousand_refreshes_of_one_token_give_one_successor_on_noctule(
    cluster: "WitnessCluster", leader_dies: bool
) -> None:
    database = 5 if leader_dies else 6
    async with instances(url_of(cluster, database), times=PATIENT, staleness_s_max=30.0) as made:
        first = await made[0].sign_in()
        await asyncio.gather(*(each.open_connections() for each in made))
        leader = await asyncio.to_thread(cluster.leader, database)
        answered = 0

        async def client(number: int) -> bytes:
            nonlocal answered
            answer = await refresh_until_answered(made[number % 3], first["refresh_token"])
            answered += 1
            return answer

        tasks = [asyncio.create_task(client(number)) for number in range(REFRESHES)]
        if leader_dies:
            while not answered:
                await asyncio.sleep(0)
            cluster.kill(leader)
            assert answered < REFRESHES // 2, "it dies in the middle"
        answers = await asyncio.gather(*tasks)
        assert len(answers) == REFRESHES
        assert len(set(answers)) == 1
        # The successor works, once more for all, and the token from before it is a replay.
        second = (await made[1].refresh(first["refresh_token"])).body
        third = (await made[2].refresh(second["refresh_token"])).body
        assert [await each.who(third["access_token"]) for each in made] == [200, 200, 200]
        assert (await made[0].refresh(first["refresh_token"])).body["error"] == "invalid_grant"
        for each in made:
            await until_refused(each, third["access_token"])
            assert (await each.refresh(third["refresh_token"])).body["error"] == "invalid_grant"


async def test_a_revocation_is_refused_on_every_instance_within_a_second_on_noctule(cluster: "WitnessCluster") -> None:
    async with instances(url_of(cluster, 7), staleness_s_max=30.0) as made:
        latencies = []
        for number in range(20):
            given = await made[number % 3].sign_in(subject=f"user{number}")
            assert [await each.who(given["access_token"]) for each in made] == [200, 200, 200]
            begun = time.perf_counter()
            await made[0].grants.revoke_subject(f"user{number}")
            await asyncio.gather(*(until_refused(each, given["access_token"]) for each in made))
            latencies.append(time.perf_counter() - begun)
        assert sorted(latencies)[10] < 1.0


async def test_a_revocation_that_was_acknowledged_outlives_the_leader_on_noctule(cluster: "WitnessCluster") -> None:
    async with instances(url_of(cluster, 8), staleness_s_max=30.0) as made:
        given = [await made[0].sign_in(subject=f"user{number}") for number in range(5)]
        leader = await asyncio.to_thread(cluster.leader, 8)
        for number in range(5):
            await made[number % 3].grants.revoke_subject(f"user{number}")
        await asyncio.to_thread(cluster.kill, leader)
        async with instances(url_of(cluster, 8), 1, staleness_s_max=30.0) as (late,):
            for each in given:
                await until_refused(made[1], each["access_token"])
                assert await late.who(each["access_token"]) == 401, "who begins after the kill reads it in the log"
                assert (await refused_refresh(late, each["refresh_token"])) == "invalid_grant"


async def refused_refresh(instance: Instance, refresh_token: str) -> str:
    while True:
        answer = await instance.refresh(refresh_token)
        if answer.status != 503:
            return str(answer.body.get("error"))


async def test_redis_with_replicas_refreshes_and_revokes_through_a_failover(redis_mode: "RedisMode") -> None:
    """What was acknowledged long enough before the kill is on the replica; see the guide for what is not."""
    async with instances(redis_mode.url, times=PATIENT, staleness_s_max=60.0) as made:
        first = await made[0].sign_in()
        key = made[0].grants.log_key(made[0].grants.shard("ada"))
        await asyncio.sleep(0.2)  # Replication is not acknowledged, so there is nothing to wait for.
        redis_mode.kill_master_of(key)
        answers = await asyncio.gather(
            *(refresh_until_answered(made[n % 3], first["refresh_token"]) for n in range(30))
        )
        assert len(set(answers)) == 1
        second = (await made[0].refresh(first["refresh_token"])).body
        server = Checks(made[2].tokens, "server", grants=made[2].grants)
        assert (await server.check(second["access_token"])).subject == "ada"
        await made[1].grants.revoke_subject("ada")
        with pytest.raises(InvalidTokenError):
            await server.check(second["access_token"])
        for each in made:
            await until_refused(each, second["access_token"])
        assert (await made[2].refresh(second["refresh_token"])).status == 400
