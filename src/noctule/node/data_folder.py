"""Whose data folder it is: `node.json` says so, and a node of another name does not touch it."""

from dataclasses import dataclass

import msgspec

from noctule.adapters.files import load_json, write_json_atomically
from noctule.base.errors import ConfigError
from noctule.node.config import NodeConfig

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Owner:
    """What must be the same at every start on this folder."""

    format: int
    cluster: str
    node_id: int
    partition_count: int
    voters: list[int]


def claim_data_folder(config: NodeConfig) -> None:
    """Write whose folder it is at the first start; at later ones raise `ConfigError` unless it is this node's."""
    path = config.data_dir / "node.json"
    cluster = config.cluster
    own = Owner(FORMAT, cluster.name, config.node_id, cluster.partition_count, sorted(cluster.voters))
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        config.wal_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot use the data folder {config.data_dir}: {error.strerror or error}; choose another --data-dir"
        ) from error
    stored = load_json(path)
    if stored is None:
        write_json_atomically(path, own)
        return
    try:
        found = msgspec.convert(stored, Owner)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} cannot be read ({error}): is this the data folder of a node?") from error
    for field, meaning in (
        ("format", "data format"),
        ("cluster", "cluster"),
        ("node_id", "node id"),
        ("partition_count", "number of partitions"),
        ("voters", "voters"),
    ):
        there, here = getattr(found, field), getattr(own, field)
        if there != here:
            raise ConfigError(
                f"the data folder {config.data_dir} has {meaning} {there!r}, not {here!r}: "
                "start with what it has, or choose another --data-dir"
            )
