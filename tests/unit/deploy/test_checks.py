"""The data folder before a start: claimed by one supervisor, of one cluster."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from noctule.base.errors import ConfigError
from noctule.deploy.local.checks import claim_data_dir, lost_nodes, new_nodes, record_left
from noctule.deploy.local.plan import FORMAT, ClusterFile, UpConfig

FOUNDED = ClusterFile("local-1", 3, 16, FORMAT)


@pytest.fixture
def config(tmp_path: Path) -> UpConfig:
    return UpConfig(data_dir=tmp_path / "data")


def test_the_first_start_names_the_cluster_and_later_ones_find_it(config: UpConfig) -> None:
    lock, first = claim_data_dir(config)
    lock.release()
    assert json.loads((config.data_dir / "cluster.json").read_text()) == {
        "cluster": first.cluster,
        "nodes": 3,
        "partitions": 16,
        "format": 1,
    }
    lock, second = claim_data_dir(config)
    lock.release()
    assert second == first


def test_two_folders_hold_two_clusters(config: UpConfig) -> None:
    lock, first = claim_data_dir(config)
    other_lock, second = claim_data_dir(replace(config, data_dir=config.data_dir / "other"))
    lock.release()
    other_lock.release()
    assert first.cluster != second.cluster


def test_a_folder_in_use_is_refused_with_the_pid(config: UpConfig) -> None:
    lock, _ = claim_data_dir(config)
    try:
        with pytest.raises(ConfigError, match=rf"another noctule up \(pid {os.getpid()}\).*--data-dir"):
            claim_data_dir(config)
    finally:
        lock.release()


def test_fewer_nodes_are_refused_and_leaves_no_lock(config: UpConfig) -> None:
    lock, _ = claim_data_dir(config)
    lock.release()
    with pytest.raises(ConfigError, match=r"start it with --nodes 3 --partitions 16.*noctule cluster leave"):
        claim_data_dir(replace(config, nodes=2))
    lock, _ = claim_data_dir(config)
    lock.release()


def test_more_nodes_are_written_down_and_those_that_leave_too(config: UpConfig) -> None:
    lock, _ = claim_data_dir(config)
    lock.release()
    lock, grown = claim_data_dir(replace(config, nodes=5))
    lock.release()
    assert (grown.numbers, grown.founding, new_nodes(config, grown)) == ([1, 2, 3, 4, 5], 3, {4, 5})
    folder = config.data_dir / "node-4"
    folder.mkdir()
    (folder / "node.json").write_text("{}")
    assert new_nodes(config, grown) == {5}
    record_left(config, 4)
    record_left(config, 2)
    lock, left = claim_data_dir(config)
    lock.release()
    assert (left.numbers, left.founding, new_nodes(config, left)) == ([1, 3, 5], 3, {5})
    lock, again = claim_data_dir(replace(config, nodes=4))
    lock.release()
    assert again.numbers == [1, 3, 5, 6]


def test_a_damaged_cluster_file_is_never_overwritten(config: UpConfig) -> None:
    lock, _ = claim_data_dir(config)
    lock.release()
    path = config.data_dir / "cluster.json"
    path.write_text('{"cluster": ')
    with pytest.raises(ConfigError, match=r"cluster\.json is not JSON.*or choose another --data-dir"):
        claim_data_dir(config)
    assert path.read_text() == '{"cluster": '


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_place_of_the_folder_is_named(config: UpConfig, below: str) -> None:
    config.data_dir.write_text("not a folder")
    with pytest.raises(ConfigError, match=r"the data folder .*data.* cannot be used: Not a directory"):
        claim_data_dir(replace(config, data_dir=config.data_dir / below))


def test_a_folder_that_cannot_be_written_is_named(config: UpConfig) -> None:
    # Not even root can write a file of this name: it is a folder.
    (config.data_dir / "LOCK").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot be used: Is a directory"):
        claim_data_dir(config)


@pytest.mark.parametrize(
    ("folders", "lost"),
    [
        pytest.param({}, set(), id="the first start"),
        pytest.param({1: [], 2: []}, set(), id="killed at the first start: node 3 was not met yet"),
        pytest.param({1: [2, 3], 2: [1, 3], 3: [1, 2]}, set(), id="all are there"),
        pytest.param({1: [2, 3], 3: [1, 2]}, {2}, id="one is gone"),
        pytest.param({3: [1, 2]}, {1, 2}, id="most are gone: not a new cluster, while one remembers"),
    ],
)
def test_a_folder_is_lost_when_others_have_met_its_node(
    config: UpConfig, folders: dict[int, list[int]], lost: set[int]
) -> None:
    for node, met in folders.items():
        folder = config.data_dir / f"node-{node}"
        folder.mkdir(parents=True)
        (folder / "node.json").write_text("{}")
        if met:
            (folder / "peers.json").write_text(json.dumps({str(peer): 7 for peer in met}))
    assert lost_nodes(config, FOUNDED) == lost


def test_what_a_node_remembers_is_not_guessed(config: UpConfig) -> None:
    folder = config.data_dir / "node-1"
    folder.mkdir(parents=True)
    (folder / "node.json").write_text("{}")
    (folder / "peers.json").write_text("{")
    with pytest.raises(ConfigError, match=r"node-1/peers\.json is not JSON"):
        lost_nodes(config, FOUNDED)
