"""What one machine of a cluster runs, before anything does."""

from pathlib import Path

import pytest

from noctule.base.errors import ConfigError
from noctule.deploy.local.host import HostConfig, host_plans

DATA = Path("/var/lib/noctule")


def flags_of(command: tuple[str, ...]) -> dict[str, str]:
    words = command[command.index("node") + 1 : -1]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_processes_that_join_differ_by_ports_and_folders_alone() -> None:
    config = HostConfig(processes=2, join="10.0.0.1:7701", token="secret")
    first, second = host_plans(config, DATA, "python", [0, 1])
    assert first.command[:4] == ("python", "-m", "noctule", "node")
    assert first.command[-1] == "--die-with-parent"
    assert flags_of(first.command) == {
        "--resp-port": "7401",
        "--resp-cluster-port": "7801",
        "--http-port": "7501",
        "--peer-port": "7601",
        "--control-port": "7701",
        "--data-dir": "/var/lib/noctule/process-1",
        "--wal-dir": "/var/lib/noctule/process-1/wal",
        "--join": "10.0.0.1:7701",
    }
    assert flags_of(second.command)["--resp-port"] == "7402"
    assert flags_of(second.command)["--data-dir"] == "/var/lib/noctule/process-2"
    assert first.environment == second.environment == {"NOCTULE_TOKEN": "secret"}
    assert not any("secret" in word for word in first.command), "every user of the machine sees command lines"


def test_processes_that_are_peers_have_ids_in_a_row_and_their_peer_ports_from_the_list() -> None:
    plans = host_plans(HostConfig(processes=2, first_node_id=3), DATA, "python", [0])
    flags = [flags_of(plan.command) for plan in plans]
    assert [each["--node-id"] for each in flags] == ["3", "4"]
    assert not any("--peer-port" in each or "--join" in each for each in flags)
    assert plans[0].environment == {}


def test_pinned_processes_take_the_cores_in_turn() -> None:
    plans = host_plans(HostConfig(processes=3, is_pinned=True), DATA, "python", [2, 5])
    assert [plan.command[:4] for plan in plans] == [
        ("taskset", "--cpu-list", core, "python") for core in ("2", "5", "2")
    ]


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        HostConfig(processes=0, first_node_id=1, join="a:1", http_port_base=70_000).validate()
    for words in ("--processes 0", "--http-port 70000", "--first-node-id is for nodes that are named as peers"):
        assert words in str(caught.value)


def test_ports_of_two_doors_must_not_meet() -> None:
    HostConfig(processes=100).validate()
    with pytest.raises(ConfigError, match="--resp-port-base 7400 and --http-port-base 7500 must be 101 apart"):
        HostConfig(processes=101).validate()
