"""Whose data folder it is: a node never touches another one's. What it does with its log: test_recovery.py."""

import dataclasses
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from noctule.base.errors import ConfigError, StorageError
from noctule.node.config import ClusterConfig, NodeConfig
from noctule.node.data_folder import DataFolder, claim_data_folder

CLUSTER = ClusterConfig(name="bats", voters={1: "127.0.0.1:1", 2: "127.0.0.1:2"}, partition_count=4)


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return NodeConfig.tiny(tmp_path / "deep" / "data", CLUSTER)


def claim(config: NodeConfig, *, seed: int = 1) -> DataFolder:
    return claim_data_folder(config, random.Random(seed))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_first_start_makes_the_folders_and_writes_whose_they_are(config: NodeConfig) -> None:
    folder = claim(config)
    assert config.wal_dir.is_dir()
    assert json.loads((config.data_dir / "node.json").read_bytes()) == {
        "format": 3,
        "cluster": "bats",
        "node_id": 1,
        "partition_count": 4,
        "voters": [1, 2],
        "folder": folder.owner.folder,
        "directory": 0,
        "log_folder": "",
        "agreed": {},
    }


def test_folders_are_told_apart_by_a_random_id(config: NodeConfig) -> None:
    other = dataclasses.replace(config, data_dir=config.data_dir / "other", wal_dir=config.data_dir / "other" / "wal")
    first, second = claim(config, seed=1), claim(other, seed=2)
    assert 0 < first.owner.folder != second.owner.folder > 0
    assert claim(config, seed=3).owner == first.owner, "it is drawn once"


def test_new_folders_are_durable_before_anything_is_in_them(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd-io/etcd#6368: a power cut could take the folder's name, and with it all that was acknowledged."""
    synced: list[Path] = []
    monkeypatch.setattr("noctule.adapters.files.fsync_directory", synced.append)
    claim(config)
    made = [config.data_dir.parent, config.data_dir, config.wal_dir]
    assert synced == [*(folder.parent for folder in made), config.data_dir]


def test_later_starts_of_the_same_node_change_nothing(config: NodeConfig) -> None:
    claim(config)
    before = files(config.data_dir)
    moved = dataclasses.replace(CLUSTER, voters={1: "10.0.0.1:9", 2: "10.0.0.2:9"})
    claim(dataclasses.replace(config, cluster=moved))  # Addresses may change.
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
    claim(config)
    before = files(config.data_dir)
    with pytest.raises(ConfigError) as caught:
        claim(change(config))
    assert sentence in str(caught.value)
    assert "choose another --data-dir" in str(caught.value)
    assert files(config.data_dir) == before


def test_a_newer_format_is_refused(config: NodeConfig) -> None:
    """An older program would read it as damaged, or worse, as whole."""
    claim(config)
    path = config.data_dir / "node.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"format": 3', '"format": 4'), encoding="utf-8")
    with pytest.raises(ConfigError, match="has data format 4, not 3"):
        claim(config)


@pytest.mark.parametrize("text", ["[]", '{"format": 1}', '{"name": "some-web-project", "version": "1.0.0"}'])
def test_a_file_of_that_name_that_is_something_else_is_refused(config: NodeConfig, text: str) -> None:
    config.data_dir.mkdir(parents=True)
    (config.data_dir / "node.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="is this the data folder of a node"):
        claim(config)
    assert (config.data_dir / "node.json").read_text(encoding="utf-8") == text


def test_a_folder_of_the_first_format_is_refused_by_its_number(config: NodeConfig) -> None:
    """Its snapshots do not say who belongs to the group."""
    config.data_dir.mkdir(parents=True)
    old = {"format": 1, "cluster": "bats", "node_id": 1, "partition_count": 4, "voters": [1, 2]}
    (config.data_dir / "node.json").write_text(json.dumps(old), encoding="utf-8")
    with pytest.raises(ConfigError, match="has data format 1, not 3"):
        claim(config)


def test_a_damaged_file_is_an_error_of_the_disk(config: NodeConfig) -> None:
    config.data_dir.mkdir(parents=True)
    (config.data_dir / "node.json").write_bytes(b'{"format": 1, "clus')
    with pytest.raises(StorageError, match="is not JSON"):
        claim(config)


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        claim(NodeConfig.tiny(tmp_path / "file" / "data", CLUSTER))
    assert "cannot use the data folder" in str(caught.value)
    assert "\n" not in str(caught.value)


# A node that was here before ------------------------------------------------------------------------------------------


@pytest.fixture
def returning(config: NodeConfig) -> NodeConfig:
    three = dataclasses.replace(CLUSTER, voters={1: "h:1", 2: "h:2", 3: "h:3"})
    return dataclasses.replace(config, cluster=three, rejoin=True)


def test_with_rejoin_an_empty_folder_gets_a_directory_at_once(returning: NodeConfig) -> None:
    folder = claim(returning)
    assert 0 < folder.directory < 1 << 48
    assert claim(returning, seed=2).directory == folder.directory, "it is drawn once"


def test_with_rejoin_a_folder_that_the_node_has_written_stays_as_it_is(
    returning: NodeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """The flag may be left in a unit file."""
    claim(dataclasses.replace(returning, rejoin=False))
    before = files(returning.data_dir)
    with caplog.at_level(logging.INFO):
        assert claim(returning, seed=2).directory == 0
    assert files(returning.data_dir) == before
    assert [record.message for record in caplog.records] == ["rejoin_without_effect"]


@pytest.mark.parametrize("rejoin", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "wal/wal-0000000000000001.log",
        "snapshots/group-00000000-0000000000000001-0000000000000001.snapshot",
        "peers.json",
    ],
)
def test_what_is_left_of_a_folder_is_not_taken_for_a_first_start(
    returning: NodeConfig, name: str, rejoin: bool
) -> None:
    """Nobody knows what the node has promised in it."""
    left = returning.data_dir / name
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    with pytest.raises(ConfigError) as caught:
        claim(dataclasses.replace(returning, rejoin=rejoin))
    assert f"yet there is {left}" in str(caught.value)
    assert "with --rejoin" in str(caught.value)
    assert files(returning.data_dir) == {left.name: b"x"}


def test_a_new_file_system_s_own_folder_and_a_log_s_own_disk_do_not_count(returning: NodeConfig) -> None:
    for name in ("lost+found", "snapshots", "wal"):
        (returning.data_dir / name).mkdir(parents=True)
    assert claim(returning).directory


@pytest.mark.parametrize("nodes", [1, 2])
def test_rejoin_is_refused_where_the_others_are_no_majority(config: NodeConfig, nodes: int) -> None:
    few = dataclasses.replace(CLUSTER, voters={node: f"h:{node}" for node in range(1, nodes + 1)})
    with pytest.raises(ConfigError, match=f"--rejoin cannot help in a cluster of {nodes}"):
        claim(dataclasses.replace(config, cluster=few, rejoin=True))
    assert files(config.data_dir) == {}
