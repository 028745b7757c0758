"""The plan of a local cluster, which is made before anything runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from noctule.base.errors import ConfigError
from noctule.deploy.local.plan import (
    FORMAT,
    ClusterFile,
    Plan,
    UpConfig,
    cluster_file_for,
    free_ports_count,
    make_plan,
    wanted_ports,
)

CONFIG = UpConfig(app="shop.board.app:app", data_dir=Path("/data"))


def cluster_of(config: UpConfig) -> ClusterFile:
    return ClusterFile("local-1", config.nodes, config.partitions, FORMAT)


def plan_of(config: UpConfig, cluster: ClusterFile | None = None) -> Plan:
    cluster = cluster or cluster_of(config)
    count = free_ports_count(config, cluster)
    ports = iter(range(20_001, 20_001 + count))
    plan = make_plan(config, cluster, ports, "/python")
    assert next(ports, None) is None, "exactly the ports that were announced are taken"
    return plan


def flags_of(command: tuple[str, ...]) -> dict[str, str]:
    return {word: command[position + 1] for position, word in enumerate(command[:-1]) if word.startswith("--")}


def test_nodes_have_their_ports_folders_and_each_other() -> None:
    plan = plan_of(CONFIG)
    assert [(node.resp_port, node.http_port, node.peer_port) for node in plan.nodes] == [
        (7401, 7501, 7601),
        (7402, 7502, 7602),
        (7403, 7503, 7603),
    ]
    second = plan.nodes[1]
    assert second.url == "http://127.0.0.1:7502"
    assert second.process.name == "node-2"
    assert second.process.command == (
        *("/python", "-m", "noctule", "node", "--node-id", "2", "--cluster", "local-1"),
        *("--peers", "1@127.0.0.1:7601,2@127.0.0.1:7602,3@127.0.0.1:7603", "--partitions", "16"),
        *("--host", "127.0.0.1", "--advertise-host", "127.0.0.1"),
        *("--resp-port", "7402", "--http-port", "7502", "--peer-port", "7602", "--control-port", "7702"),
        *("--resp-cluster-port", "7802", "--dns-port", "7554"),
        *("--data-dir", "/data/node-2", "--wal-dir", "/data/node-2/wal", "--die-with-parent"),
    )


def test_a_node_whose_folder_is_lost_is_told_to_rejoin() -> None:
    plan = make_plan(CONFIG, cluster_of(CONFIG), iter(range(20_001, 20_004)), "/python", lost={2})
    assert ["--rejoin" in node.process.command for node in plan.nodes] == [False, True, False]


def test_instance_i_prefers_node_i() -> None:
    plan = plan_of(replace(CONFIG, instances=4))
    assert [each.process.environment["NOCTULE_STORE_URL"] for each in plan.instances] == [
        "redis://127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403/0",
        "redis://127.0.0.1:7402,127.0.0.1:7403,127.0.0.1:7401/0",
        "redis://127.0.0.1:7403,127.0.0.1:7401,127.0.0.1:7402/0",
        "redis://127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403/0",
    ]
    third = plan.instances[2]
    assert third.process.environment["NOCTULE_NODE"] == "http://127.0.0.1:7503"
    assert third.process.environment["NOCTULE_REGISTRY_URL"] == ",".join(
        f"http://127.0.0.1:{port}" for port in (7503, 7501, 7502)
    )
    assert third.process.environment["INSTANCE_ID"] == third.id == "web-3"
    assert third.process.environment["PORT"] == str(third.port)
    assert third.process.command[:5] == ("/python", "-m", "noctule", "instance", "shop.board.app:app")
    assert flags_of(third.process.command)["--port"] == str(third.port)


def test_without_an_app_only_nodes_run() -> None:
    config = replace(CONFIG, app=None)
    plan = plan_of(config)
    assert (plan.instances, plan.service) == ((), "")
    assert "--port" not in {port.flag for port in wanted_ports(config)}
    assert free_ports_count(config, cluster_of(config)) == 0


def test_base_0_takes_free_ports_and_no_port_twice() -> None:
    bases = dict.fromkeys(("resp_port_base", "http_port_base", "peer_port_base", "control_port_base"), 0)
    config = replace(CONFIG, **bases, resp_cluster_port_base=0, dns_port_base=0, port=0)
    assert wanted_ports(config) == []
    plan = plan_of(config)
    doors = ("resp_port", "http_port", "peer_port", "control_port", "resp_cluster_port", "dns_port")
    ports = [getattr(node, door) for node in plan.nodes for door in doors]
    ports += [each.port for each in plan.instances]
    assert len(ports) == len(set(ports)) == 21
    for node in plan.nodes:
        assert f"{node.id}@127.0.0.1:{node.peer_port}" in flags_of(plan.nodes[0].process.command)["--peers"]


def test_every_wanted_port_is_named_with_its_flag() -> None:
    wanted = {(port.port, port.flag) for port in wanted_ports(replace(CONFIG, nodes=1))}
    assert wanted == {
        (8080, "--port"),
        (7401, "--resp-port-base"),
        (7501, "--http-port-base"),
        (7601, "--peer-port-base"),
        (7701, "--control-port-base"),
        (7801, "--resp-cluster-port-base"),
        (7553, "--dns-port-base"),
    }


def test_dns_is_above_http_while_nodes_keep_clear_of_each_other_s_ports() -> None:
    for config, base in (
        (UpConfig(nodes=48), 7552),
        (UpConfig(nodes=49), 0),
        (UpConfig(http_port_base=0), 0),
        (UpConfig(http_port_base=65_500), 0),
        (UpConfig(http_port_base=9_000), 9_052),
        (UpConfig(dns_port_base=53_000), 53_000),
    ):
        config.validate()
        assert config.dns_port_base == base


def test_all_addresses_of_the_machine_are_opened_for_the_gateway_alone() -> None:
    config = replace(CONFIG, host="0.0.0.0")
    plan = plan_of(config)
    assert plan.gateway_host == "0.0.0.0"
    assert {node.host for node in plan.nodes} | {each.host for each in plan.instances} == {"127.0.0.1"}
    assert {port.host for port in wanted_ports(config) if port.flag != "--port"} == {"127.0.0.1"}


def test_ipv6_hosts_are_in_brackets_where_a_port_follows() -> None:
    plan = plan_of(replace(CONFIG, host="::1", nodes=1, instances=1))
    assert plan.nodes[0].url == "http://[::1]:7501"
    assert plan.instances[0].process.environment["NOCTULE_STORE_URL"] == "redis://[::1]:7401/0"
    flags = flags_of(plan.nodes[0].process.command)
    assert (flags["--host"], flags["--advertise-host"], flags["--peers"]) == ("::1", "[::1]", "1@[::1]:7601")


@pytest.mark.parametrize(
    ("app", "service"),
    [("shop.board.app:app", "board"), ("main:app", "main"), ("examples.board:app", "board"), ("api:create", "api")],
)
def test_the_service_is_called_after_the_module(app: str, service: str) -> None:
    assert plan_of(replace(CONFIG, app=app)).service == service


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nodes": 0}, "--nodes 0 must be from 1 to 99"),
        ({"nodes": 100}, "--nodes 100"),
        ({"instances": 0}, "--instances 0"),
        ({"partitions": 16_385}, "--partitions 16385"),
        ({"port": -1}, "--port -1"),
        ({"port": 65_536}, "--port 65536"),
        ({"resp_port_base": 65_533}, "--resp-port-base 65533 must be from 0 to 65532"),
        ({"app": "main"}, "app 'main' is not of the form module:attribute"),
        ({"app": "main:"}, "app 'main:'"),
        ({"app": "../main:app"}, "app '../main:app'"),
        ({"app": ""}, "app ''"),
        ({"host": "a b"}, "--host 'a b'"),
        ({"http_port_base": 7400}, "port 7401 is wanted by both --resp-port-base and --http-port-base"),
        ({"port": 7602}, "port 7602 is wanted by both --port and --peer-port-base"),
    ],
)
def test_wrong_wishes_are_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(CONFIG, **changes).validate()
    assert words in str(caught.value)


def test_all_wrong_wishes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        replace(CONFIG, nodes=0, app="main", port=-1).validate()
    for words in ("--nodes 0", "app 'main'", "--port -1"):
        assert words in str(caught.value)


def test_nodes_that_were_not_there_at_first_join_through_one_that_is() -> None:
    cluster = msgspec.structs.replace(cluster_of(CONFIG), nodes=4, founders=3, left=(1,))
    plan = plan_of(CONFIG, cluster)
    assert [(node.id, node.joins, node.peer_port, node.control_port) for node in plan.nodes] == [
        (2, False, 7602, 7702),
        (3, False, 7603, 7703),
        (4, True, 7604, 7704),
        (5, True, 7605, 7705),
    ]
    founder, joiner = flags_of(plan.nodes[0].process.command), flags_of(plan.nodes[-1].process.command)
    assert founder["--peers"] == "1@127.0.0.1:7601,2@127.0.0.1:7602,3@127.0.0.1:7603"
    assert "--join" not in founder
    assert joiner["--join"] == "127.0.0.1:7702"
    assert not {"--peers", "--node-id", "--token"} & joiner.keys()
    assert plan.nodes[-1].process.environment.keys() == {"NOCTULE_TOKEN"}


def test_nodes_that_join_need_ports_that_stay() -> None:
    stored = msgspec.to_builtins(cluster_of(CONFIG))
    with pytest.raises(ConfigError, match="need ports that stay"):
        cluster_file_for(replace(CONFIG, nodes=4, peer_port_base=0), stored, "aa")
    assert cluster_file_for(replace(CONFIG, nodes=3, peer_port_base=0), stored, "aa").nodes == 3


def test_a_new_data_folder_gets_a_cluster_of_its_own() -> None:
    first, second = (cluster_file_for(CONFIG, None, suffix) for suffix in ("aa", "bb"))
    assert first.cluster != second.cluster
    assert (first.nodes, first.partitions, first.format) == (3, 16, FORMAT)
    assert cluster_file_for(CONFIG, msgspec.to_builtins(first), "cc") == first


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"nodes": 5}, "with 5 nodes and 16 partitions, not 3 and 16: start it with --nodes 5 --partitions 16"),
        ({"partitions": 8}, "start it with --nodes 3 --partitions 8, or choose another --data-dir"),
        ({"format": 2}, "has format 2, and this version reads 1"),
        ({"nodes": "x"}, "cluster.json cannot be used"),
    ],
)
def test_the_data_of_another_cluster_is_not_touched(stored: dict[str, object], words: str) -> None:
    content = {"cluster": "local-1", "nodes": 3, "partitions": 16, "format": 1, **stored}
    with pytest.raises(ConfigError) as caught:
        cluster_file_for(CONFIG, content, "aa")
    assert words in str(caught.value)
    assert "/data" in str(caught.value)
