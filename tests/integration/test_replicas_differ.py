"""A replica that holds something else than the others is noticed, named, and replaced as the guide says."""

import json
import shutil
import subprocess
from typing import Any

import odd_replica
import pytest
from cluster_processes import CATCHES_UP_S_MAX, Door, StartNodes, until, until_ready
from up_process import THIS_RELEASE, command, environment

from noctule.base.errors import NoctuleError
from noctule.core.placement.slots import key_slot

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

ODD = 3
ODD_RELEASE = (odd_replica.__file__,)
REJOIN = ("env", "NOCTULE_REJOIN=true")
KEY = "odd:1"


def noctule(door: Door, *words: str, code: int = 0) -> Any:
    """What the command prints as JSON; it must end with that code."""
    ended = subprocess.run(
        command(*words, "--node", door.url, "--json"), env=environment(), capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == code, ended.stderr.decode()
    return json.loads(ended.stdout)


def verdicts(door: Door, partition: int, *, code: int) -> dict[int, str]:
    [found] = noctule(door, "partition", "check", str(partition), code=code)["partitions"]
    return {each["node"]: each["verdict"] for each in found["replicas"]}


async def test_a_replica_that_differs_is_reported_everywhere_until_it_is_replaced(start_nodes: StartNodes) -> None:
    cluster = start_nodes(partitions=2)
    lives = {node: cluster.start(node, release=ODD_RELEASE if node == ODD else THIS_RELEASE) for node in cluster.peers}
    doors = {node: life.wait_serving() for node, life in lives.items()}
    await until_ready(*doors.values())
    async with doors[1].admin() as admin:
        partitions = {each.id: each for each in await admin.partitions()}
        slot = key_slot(KEY.encode())
        [bad] = [each.id for each in partitions.values() if each.first_slot <= slot <= each.last_slot]
        [good] = partitions.keys() - {bad}
        assert verdicts(doors[2], bad, code=0) == {1: "equal", 2: "equal", 3: "equal"}
        assert noctule(doors[2], "cluster", "check")["differing"] == {}

        async with doors[1].client() as client:
            await client.set(KEY, "value")
        await admin.change_settings({"digest_interval_s": 1})

        async def all_know() -> bool:
            pictures = [await door.picture() for door in doors.values()]
            return all(picture is not None and picture.differing == {bad: (ODD,)} for picture in pictures)

        await until(all_know, "every node to know of the replica that differs", CATCHES_UP_S_MAX)
        [event, *_] = [event for life in lives.values() for event in life.events("replicas_differ")]
        assert (event["level"], event["group"], event["different"]) == ("error", bad, [ODD])
        assert event["digests"]["1"] == event["digests"]["2"] != event["digests"][str(ODD)]
        totals = [
            picture.counters["noctule_replicas_differ_total"]
            for door in doors.values()
            if (picture := await door.picture())
        ]
        assert sum(totals) >= 1

        assert noctule(doors[1], "cluster", "check", code=NoctuleError.exit_code)["differing"] == {str(bad): [ODD]}
        assert verdicts(doors[1], bad, code=NoctuleError.exit_code) == {1: "equal", 2: "equal", ODD: "different"}
        assert verdicts(doors[1], good, code=0) == {1: "equal", 2: "equal", ODD: "equal"}
        assert all([await door.is_ready() for door in doors.values()]), "they serve all the same"

        lives[ODD].stop()
        shutil.rmtree(cluster.data_dir(ODD))
        doors[ODD] = cluster.start(ODD, prefix=REJOIN).wait_serving()
        await until_ready(*doors.values())
        assert verdicts(doors[1], bad, code=0) == {1: "equal", 2: "equal", ODD: "equal"}
        assert noctule(doors[1], "cluster", "check")["differing"] == {}
