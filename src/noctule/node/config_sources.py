"""Where a node's settings come from: noctule.toml, overridden by NOCTULE_* variables, overridden by flags.

Called by the command line alone. Every error names the source of the wrong value, and all of them come at once.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noctule.base.errors import ConfigError
from noctule.node.config import CLUSTER_SETTINGS, NODE_SETTINGS, ClusterConfig, NodeConfig
from noctule.node.settings import Setting, read_value

FILE_NAME = "noctule.toml"
"""Read from the working directory when no other file is named."""

FILE_BYTES_MAX = 1 << 20

SETTINGS = [*CLUSTER_SETTINGS, *NODE_SETTINGS]
"""All settings of a node; no two have one field, flag or variable."""


@dataclass(frozen=True, slots=True)
class _Given:
    raw: object
    source: str


def load_node_config(
    *, flags: Mapping[str, object], environment: Mapping[str, str], path: Path | None = None
) -> NodeConfig:
    """Gather the settings of one node and check them.

    `flags` is by field, and None stands for a flag that was not given. `path` must be there when it is named; without
    it `FILE_NAME` in the working directory is read if it exists. Variables of other names are left alone: a machine's
    environment holds many. Raises `ConfigError` naming every problem and its source.
    """
    problems: list[str] = []
    given = _from_file(path, problems)
    for setting in SETTINGS:
        if environment.get(setting.environment):
            given[setting.field] = _Given(environment[setting.environment], setting.environment)
        if flags.get(setting.field) is not None:
            given[setting.field] = _Given(flags[setting.field], setting.flag)
    values: dict[str, Any] = {}
    unreadable = set()
    for setting in SETTINGS:
        if setting.field not in given:
            continue
        raw, source = given[setting.field].raw, given[setting.field].source
        try:
            values[setting.field] = read_value(setting.kind, raw)
        except ValueError as error:
            unreadable.add(setting.field)
            problems.append(f"{setting.key} {raw!r} {error} (from {source})")
    config = _build(values)
    for problem in config.problems():
        # What cannot be read has its default here, which proves nothing about what was meant.
        if problem.field not in unreadable and not (problem.field == "node_id" and "voters" in unreadable):
            source = given[problem.field].source if problem.field in given else "the default"
            problems.append(f"{problem.sentence} (from {source})")
    if problems:
        raise ConfigError("config: " + "; ".join(problems))
    return config


def _build(values: Mapping[str, Any]) -> NodeConfig:
    """Defaults that depend on other settings are filled in here."""
    own = {setting.field: values[setting.field] for setting in NODE_SETTINGS if setting.field in values}
    shared = {setting.field: values[setting.field] for setting in CLUSTER_SETTINGS if setting.field in values}
    alone = NodeConfig(cluster=ClusterConfig(), **own)
    if alone.join:
        shared.setdefault("voters", {})
    elif "voters" not in shared:
        shared["voters"] = {alone.node_id: f"{alone.advertise_host}:{alone.peer_port}"}
    elif "peer_port" not in own and alone.node_id in shared["voters"]:
        own["peer_port"] = int(shared["voters"][alone.node_id].rpartition(":")[2])
    return NodeConfig(cluster=ClusterConfig(**shared), **own)


def _from_file(path: Path | None, problems: list[str]) -> dict[str, _Given]:
    document = _read_file(path)
    name = path or FILE_NAME
    tables = {table: [each for each in SETTINGS if each.table == table] for table in ("cluster", "node")}
    given: dict[str, _Given] = {}
    for table, content in document.items():
        if table not in tables:
            problems.append(f"there is no table [{table}]{_nearest(table, list(tables))} (from {name})")
        elif not isinstance(content, dict):
            problems.append(f"{table} must be a table: write [{table}] on a line of its own (from {name})")
        else:
            _from_table(content, tables[table], f"{name} [{table}]", given, problems)
    return given


def _from_table(
    content: Mapping[str, object], settings: list[Setting], source: str, given: dict[str, _Given], problems: list[str]
) -> None:
    by_key = {setting.key: setting for setting in settings}
    for key, raw in content.items():
        if key in by_key:
            given[by_key[key].field] = _Given(raw, source)
        else:
            problems.append(f"there is no setting {key!r}{_nearest(key, list(by_key))} (from {source})")


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def _read_file(path: Path | None) -> dict[str, Any]:
    name = path or Path(FILE_NAME)
    if path is None and not name.exists():
        return {}
    try:
        with name.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ConfigError(f"{name} is longer than {FILE_BYTES_MAX} bytes: is it a settings file?")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {name}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} is not TOML: {error}") from error
