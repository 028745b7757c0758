"""Whose data folder it is: a node never touches another one's."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from noctule.base.errors import ConfigError, StorageError
from noctule.node.config import ClusterConfig, NodeConfig
from noctule.node.data_folder import claim_data_folder

CLUSTER = ClusterConfig(name="bats", voters={1: "127.0.0.1:1", 2: "127.0.0.1:2"}, partition_count=4)


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return NodeConfig.tiny(tmp_path / "deep" / "data", CLUSTER)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_first_start_makes_the_folders_and_writes_whose_they_are(config: NodeConfig) -> None:
    claim_data_folder(config)
    assert config.wal_dir.is_dir()
    assert json.loads((config.data_dir / "node.json").read_bytes()) == {
        "format": 1,
        "cluster": "bats",
        "node_id": 1,
        "partition_count": 4,
        "voters": [1, 2],
    }


def test_later_starts_of_the_same_node_change_nothing(config: NodeConfig) -> None:
    claim_data_folder(config)
    before = files(config.data_dir)
    moved = dataclasses.replace(CLUSTER, voters={1: "10.0.0.1:9", 2: "10.0.0.2:9"})
    claim_data_folder(dataclasses.replace(config, cluster=moved))  # Addresses may change.
    assert files(config.data_dir) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(
            lambda config: dataclasses.replace(config, node_id=2), "has node id 1, not 2", id="another node's folder"
        ),
        pytest.param(
            lambda config: dataclasses.replace(config, cluster=dataclasses.replace(CLUSTER, name="owls")),
            "has cluster 'bats', not 'owls'",
            id="another cluster's folder",
        ),
        pytest.param(
            lambda config: dataclasses.replace(config, cluster=dataclasses.replace(CLUSTER, partition_count=8)),
            "has number of partitions 4, not 8",
            id="keys would be looked for in the wrong partitions",
        ),
        pytest.param(
            lambda config: dataclasses.replace(
                config, cluster=dataclasses.replace(CLUSTER, voters={1: "h:1", 2: "h:2", 3: "h:3"})
            ),
            "has voters [1, 2], not [1, 2, 3]",
            id="two majorities without a common member",
        ),
    ],
)
def test_another_node_s_folder_is_refused_and_left_alone(
    config: NodeConfig, change: Callable[[NodeConfig], NodeConfig], sentence: str
) -> None:
    """Two nodes that exchange their disks vote twice in one term."""
    claim_data_folder(config)
    before = files(config.data_dir)
    with pytest.raises(ConfigError) as caught:
        claim_data_folder(change(config))
    assert sentence in str(caught.value)
    assert "choose another --data-dir" in str(caught.value)
    assert files(config.data_dir) == before


def test_a_newer_format_is_refused(config: NodeConfig) -> None:
    """An older program would read it as damaged, or worse, as whole."""
    claim_data_folder(config)
    path = config.data_dir / "node.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"format": 1', '"format": 2'), encoding="utf-8")
    with pytest.raises(ConfigError, match="has data format 2, not 1"):
        claim_data_folder(config)


@pytest.mark.parametrize("text", ["[]", '{"format": 1}', '{"name": "some-web-project", "version": "1.0.0"}'])
def test_a_file_of_that_name_that_is_something_else_is_refused(config: NodeConfig, text: str) -> None:
    config.data_dir.mkdir(parents=True)
    (config.data_dir / "node.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="is this the data folder of a node"):
        claim_data_folder(config)
    assert (config.data_dir / "node.json").read_text(encoding="utf-8") == text


def test_a_damaged_file_is_an_error_of_the_disk(config: NodeConfig) -> None:
    config.data_dir.mkdir(parents=True)
    (config.data_dir / "node.json").write_bytes(b'{"format": 1, "clus')
    with pytest.raises(StorageError, match="is not JSON"):
        claim_data_folder(config)


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        claim_data_folder(NodeConfig.tiny(tmp_path / "file" / "data", CLUSTER))
    assert "cannot use the data folder" in str(caught.value)
    assert "\n" not in str(caught.value)
