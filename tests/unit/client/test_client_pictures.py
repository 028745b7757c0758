"""The client's types have the fields of the node's, so that what one sends the other reads."""

import dataclasses

import msgspec
import pytest

from noctule.client import pictures
from noctule.client.pictures import Cluster, Group, Peer
from noctule.node.api import GroupPicture, NodePicture, PeerPicture
from noctule.servers import http_health, http_migrations, http_partitions, http_tokens


@pytest.mark.parametrize(("mine", "theirs"), [(Cluster, NodePicture), (Group, GroupPicture), (Peer, PeerPicture)])
def test_the_fields_are_those_of_the_nodes_picture(mine: type[msgspec.Struct], theirs: type) -> None:
    added = {"instances"} if mine is Cluster else set()
    assert set(mine.__struct_fields__) - added == {field.name for field in dataclasses.fields(theirs)}


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (pictures.NewToken, http_tokens.NewToken),
        (pictures.Token, http_tokens.TokenFacts),
        (pictures.PartitionPage, http_partitions.PartitionPage),
        (pictures.OperationList, http_migrations.OperationList),
        (pictures.RebalanceBegun, http_migrations.RebalanceBegun),
        (pictures.BackendHealth, http_health.BackendHealth),
        (pictures.BackendChecks, http_health.BackendChecks),
        (pictures.HealthCheck, http_health.Check),
    ],
)
def test_the_fields_are_those_of_the_api(mine: type[msgspec.Struct], theirs: type[msgspec.Struct]) -> None:
    assert mine.__struct_fields__ == theirs.__struct_fields__


def test_a_nodes_picture_is_read_with_everything_in_it() -> None:
    peer = PeerPicture(1, True, "127.0.0.1:7601", "127.0.0.1:7401", "127.0.0.1:7501", 2, None)
    group = GroupPicture(0, -1, -1, "leader", 1, 3, 9, 9, 9, 4, 0, {2: 5})
    picture = NodePicture(1, "c", "0.1.0", 1, 77, 1.5, "/data", "", False, [peer], [group], {"a_total": 1}, {"b": 0.5})
    sent = msgspec.json.encode({**msgspec.to_builtins(picture), "instances": [], "added_in_a_later_version": True})
    read = msgspec.json.decode(sent, type=Cluster)
    assert msgspec.to_builtins(read.nodes[0]) == msgspec.to_builtins(peer)
    assert msgspec.to_builtins(read.groups[0]) == msgspec.to_builtins(group)
    assert (read.node_id, read.gauges, read.instances) == (1, {"b": 0.5}, [])
