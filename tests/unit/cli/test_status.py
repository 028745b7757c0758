"""``noctule status``: what several nodes know, put together."""

from typing import Any

import msgspec
import pytest

from noctule.cli import status
from noctule.client.pictures import Cluster, Group, Instance, Peer


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


def test_the_lag_of_a_node_is_summed_over_the_groups_of_all_asked_leaders() -> None:
    groups = [group(0, 1, {2: 0, 3: 7}), group(1, 2), group(2, 1, {2: 1, 3: 5})]
    others = [group(0, 1), group(1, 2, {1: 4, 3: 30}), group(2, 1)]
    pictures = [cluster(1, groups), cluster(2, others)]
    assert status.lag_of_nodes(pictures) == {1: 4, 2: 1, 3: 42}


def test_nothing_is_said_of_nodes_of_which_no_leader_speaks() -> None:
    assert status.lag_of_nodes([cluster(1, [group(0, None), group(1, 2)])]) == {}


def test_groups_without_a_leader_are_named() -> None:
    groups = [group(0, None), group(1, 1, keys=3), group(2, None, keys=4)]
    assert status.partitions_line(groups) == "2 partitions, 7 keys; groups without a leader: 0, 2"
    assert status.partitions_line(groups[1:2]) == "1 partition, 3 keys; every one has a leader"


def test_the_tables_show_every_node_and_instance(capsys: pytest.CaptureFixture[str]) -> None:
    instance = Instance("web-1", "[bold]board", "h:8001", 4711, "unhealthy", 12)
    asked = cluster(1, [group(0, 1)], instances=[instance], storage_failure="disk full", draining=True)
    status.show(asked, {1: 0, 2: 3})
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert lines[0].rstrip() == "cluster local-1, as node 1 sees it"
    assert ["1", "alive", "1", "0", "itself", "h:7501", "h:7401"] in rows
    assert ["2", "alive", "1", "3", "12", "ms", "ago", "h:7502", "h:7402"] in rows
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
