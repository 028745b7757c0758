"""Settings of the whole cluster that change while it runs: replicated, the same on every node, checked as a whole.

What only one process needs to know stands in its own config; the first values of these may come from there, by `Form`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias, get_type_hints

import msgspec
from msgspec import Struct

from noctule.base.bounds import PARTITIONS_MAX
from noctule.base.errors import RequestError

SettingValue: TypeAlias = int | float | str | bool

REPLICAS_MAX = 7
"""Replicas of one partition. More cost every write, and survive no failure that anybody has seen."""


class ClusterSettings(Struct, frozen=True):
    """All of them; `SETTINGS` tells of each."""

    replication_factor: int = 3
    migrations_concurrent_max: int = 3
    migration_chunk_bytes: int = 1 << 20
    migration_timeout_s: float = 30.0
    migration_bytes_per_s_max: int = 0
    rebalance_enabled: bool = True
    node_replace_after_s: float = 300.0
    split_bytes: int = 512 << 20
    split_requests_per_s: float = 10_000.0
    split_after_s: float = 60.0
    merge_enabled: bool = False
    merge_after_s: float = 3600.0
    merge_bytes: int = 8 << 20
    partitions_max: int = PARTITIONS_MAX
    digest_interval_s: float = 600.0


class About(Struct, frozen=True):
    """What is written beside a setting."""

    meaning: str
    reason: str
    """Why the default is what it is."""
    unit: str = ""
    low: float = 0
    """Both bounds belong to the range; they say nothing of settings that are no numbers."""
    high: float = 0


_SECONDS_MAX = 30 * 86_400
_BYTES_MAX = 1 << 40

SETTINGS: Mapping[str, About] = MappingProxyType(
    {
        "replication_factor": About(
            "Nodes that hold each partition.",
            "Three survive the loss of one; the planner adds and drops replicas when this changes.",
            "replicas",
            1,
            REPLICAS_MAX,
        ),
        "migrations_concurrent_max": About(
            "Replicas that may be on their way at one time, in the whole cluster.",
            "Few, so that moving does not starve serving.",
            "migrations",
            1,
            1_000,
        ),
        "migration_chunk_bytes": About(
            "The size of one piece of a snapshot on its way to a new replica.",
            "Large enough to be cheap, small enough to be read and sent between two turns of the loop.",
            "bytes",
            64 << 10,
            8 << 20,
        ),
        "migration_timeout_s": About(
            "A migration that makes no progress for so long goes back.",
            "Longer than an election and a pause of the disk; a slow migration that gets on is left alone.",
            "s",
            1,
            _SECONDS_MAX,
        ),
        "migration_bytes_per_s_max": About(
            "What one migration may send in a second; 0 is unbounded.",
            "Flow control already leaves room for serving; bound it where the network is shared with others.",
            "bytes/s",
            0,
            _BYTES_MAX,
        ),
        "rebalance_enabled": About(
            "Whether the planner moves replicas and leaders by itself.",
            "A cluster that grew should use its nodes. Dead nodes are replaced whatever this says.",
        ),
        "node_replace_after_s": About(
            "A node that stays away for so long is removed and its replicas are made elsewhere; 0 is never.",
            "Longer than a reboot: copying everything costs more than waiting for one.",
            "s",
            0,
            _SECONDS_MAX,
        ),
        "split_bytes": About(
            "A partition that holds more is split; 0 is never.",
            "A replica of this size is copied in about ten seconds, and loaded in about as many.",
            "bytes",
            0,
            _BYTES_MAX,
        ),
        "split_requests_per_s": About(
            "A partition that is asked more often for a while is split where its keys allow; 0 is never.",
            "A good part of what one leader can serve: beyond it a second leader on another node helps.",
            "requests/s",
            0,
            1e9,
        ),
        "split_after_s": About(
            "A partition is split once it was over a limit for so long, without a break.",
            "A peak passes; what lasts a minute may last an hour.",
            "s",
            0,
            _SECONDS_MAX,
        ),
        "merge_enabled": About(
            "Whether small neighbours are merged by the planner.",
            "Off, because an idle partition costs next to nothing and the right one of the two pauses.",
        ),
        "merge_after_s": About(
            "Neighbours are merged once they were small together for so long, without a break.",
            "Much longer than a split waits, so that nothing is merged at night and split in the morning.",
            "s",
            0,
            _SECONDS_MAX,
        ),
        "merge_bytes": About(
            "Neighbours that hold less together may be merged; far below `split_bytes`, or they would be split again.",
            "What is copied while the right one answers nothing takes a fraction of a second.",
            "bytes",
            0,
            64 << 20,
        ),
        "partitions_max": About(
            "Splits stop at so many partitions.",
            "One for each slot at most.",
            "partitions",
            1,
            PARTITIONS_MAX,
        ),
        "digest_interval_s": About(
            "The replicas of each partition are compared about so often, if it has changed meanwhile; 0 is never.",
            "A digest reads every key of the partition on every replica: about a second for a million keys.",
            "s",
            0,
            _SECONDS_MAX,
        ),
    }
)
"""Each setting by its name, in the order in which they are shown."""

_KINDS: Mapping[str, type] = MappingProxyType(get_type_hints(ClusterSettings))


def change_settings(current: ClusterSettings, values: Mapping[str, SettingValue]) -> ClusterSettings:
    """The settings after the change. Raises `RequestError` that names every problem; then none of it is done."""
    checked: dict[str, SettingValue] = {}
    problems: list[str] = []
    for name, value in values.items():
        problem = _problem(name, value)
        if problem:
            problems.append(problem)
        else:
            checked[name] = float(value) if _KINDS[name] is float else value
    after = msgspec.structs.replace(current, **checked)
    if not problems and 0 < after.split_bytes < 2 * after.merge_bytes:
        problems.append("split_bytes must be at least twice merge_bytes, or what was merged would be split again")
    if problems:
        raise RequestError("; ".join(problems))
    return after


def _problem(name: str, value: SettingValue) -> str:
    about = SETTINGS.get(name)
    if about is None:
        return f"{name!r} is no setting of the cluster"
    if _KINDS[name] is bool:
        return "" if isinstance(value, bool) else f"{name} must be true or false"
    is_number = isinstance(value, int if _KINDS[name] is int else int | float) and not isinstance(value, bool)
    if not is_number:
        return f"{name} must be a {'whole ' if _KINDS[name] is int else ''}number"
    # Not a number compares false with everything and so is refused here.
    if isinstance(value, int | float) and about.low <= value <= about.high:
        return ""
    return f"{name} must be from {about.low:,.15g} to {about.high:,.15g} {about.unit}"
