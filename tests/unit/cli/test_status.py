"""``noctule status``: what several nodes know, put together."""

from typing import Any

import msgspec
import pytest

from noctule.cli import status
from noctule.client.pictures import Cluster, Group, Instance, Peer
from noctule.core.meta.views import MemberView, PartitionView, ReplicaView
from noctule.core.placement.partition_map import PartitionState
from noctule.core.roster.members import MemberState


def group(number: int, leader: int | None, lag: dict[int, int] | None = None, *, keys: int = 0) -> Group:
    slot = -1 if number == 0 else number
    return Group(number, slot, slot, "follower", leader, 1, 9, 9, 9, 0, keys, lag or {})


def cluster(node: int, groups: list[Group], **changes: Any) -> Cluster:
    peers = [
        Peer(1, True, "h:7601", "h:7401", "h:7501", 1, None),
        Peer(2, True, "h:7602", "h:7402", "h:7502", 1, 12),
        Peer(3, False, "h:7603", "", "", 0, None),
    ]
    picture = Cluster(node, "local-1", "0.1.0", 1, 11, 5.0, "/data", "", False, peers, groups, {}, {}, [])
    return msgspec.structs.replace(picture, **changes)


def partition(
    number: int, leader: int, lag: dict[int, int | None], *, keys: int = 0, state: str = "active"
) -> PartitionView:
    replicas = tuple(ReplicaView(node, "voter", entries) for node, entries in lag.items())
    return PartitionView(number, number, number, PartitionState(state), 1, leader, replicas, 10, keys, 0)


def member(number: int, leads: int, state: str = "active") -> MemberView:
    return MemberView(number, MemberState(state), True, "", "", "", "", {}, 1.0, "", (), 0, leads, 1, 0, 0)


def test_the_lag_of_a_node_is_summed_over_all_partitions_of_which_a_leader_told() -> None:
    partitions = [partition(1, 1, {1: 0, 2: 0, 3: 7}), partition(2, 2, {1: 4, 2: 0, 3: 30}), partition(3, 1, {2: 1})]
    assert status.lag_of_nodes(partitions) == {1: 4, 2: 1, 3: 37}


def test_nothing_is_said_of_nodes_of_which_no_leader_speaks() -> None:
    assert status.lag_of_nodes([partition(1, 0, {1: None, 2: None})]) == {}


def test_partitions_without_a_leader_are_named() -> None:
    partitions = [partition(1, 1, {}, keys=3), partition(2, 0, {}, keys=4, state="migrating")]
    assert status.partitions_line(partitions) == (
        "2 partitions, 7 keys; without a known leader: 2; 1 not at rest: noctule migrate status"
    )
    assert status.partitions_line(partitions[:1]) == "1 partition, 3 keys; every one has a leader"
    assert "1, 2, 3" in status.partitions_line([partition(number, 0, {}) for number in range(1, 30)])
    assert "and 9 more" in status.partitions_line([partition(number, 0, {}) for number in range(1, 30)])


def test_the_tables_show_every_node_and_instance(capsys: pytest.CaptureFixture[str]) -> None:
    instance = Instance("web-1", "[bold]board", "h:8001", 4711, "unhealthy", 12)
    asked = cluster(1, [group(0, 1)], instances=[instance], storage_failure="disk full", draining=True)
    members = [member(1, 1), member(2, 1, "draining"), member(3, 0)]
    status.show(asked, members, [partition(1, 1, {1: 0, 2: 3})])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert lines[0].rstrip() == "cluster local-1, as node 1 sees it"
    assert ["1", "alive", "1", "0", "itself", "h:7501", "h:7401"] in rows
    assert ["2", "alive,", "draining", "1", "3", "12", "ms", "ago", "h:7502", "h:7402"] in rows
    assert ["3", "not", "reached", "0", "unknown", "never"] in rows
    assert ["web-1", "[bold]board", "unhealthy", "h:8001", "4711", "12"] in rows
    assert "node 1 no longer acknowledges: disk full" in lines
    assert "node 1 is draining" in lines


def test_a_node_that_has_lost_its_disk_is_named_until_every_group_has_taken_it_back() -> None:
    lost = msgspec.structs.replace(group(1, 1), admitted=False)
    pictures = [cluster(1, [group(0, 1), group(1, 1)]), cluster(2, [lost, lost]), cluster(3, [group(0, 1), lost])]
    assert status.returning_line(pictures).splitlines() == [
        "node 2 has lost what it had on disk and waits to be readmitted to 2 groups",
        "node 3 has lost what it had on disk and waits to be readmitted to 1 group",
    ]
    assert status.returning_line(pictures[:1]) == ""
