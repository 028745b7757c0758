"""Settings of the cluster: the table tells of all of them, and nothing wrong gets in."""

import math

import msgspec
import pytest

from noctule.base.errors import RequestError
from noctule.core.meta.settings import SETTINGS, ClusterSettings, SettingValue, change_settings

DEFAULTS = ClusterSettings()


def test_the_table_tells_of_every_setting() -> None:
    assert list(SETTINGS) == list(ClusterSettings.__struct_fields__)


def test_every_default_is_allowed() -> None:
    values = msgspec.structs.asdict(DEFAULTS)
    assert change_settings(DEFAULTS, values) == DEFAULTS


@pytest.mark.parametrize("name", [name for name, about in SETTINGS.items() if about.high])
def test_both_bounds_belong_to_the_range(name: str) -> None:
    about = SETTINGS[name]
    kind = type(getattr(DEFAULTS, name))
    loose = ClusterSettings(split_bytes=0)
    for bound in (about.low, about.high):
        assert getattr(change_settings(loose, {name: kind(bound)}), name) == bound
    for beyond in (about.low - 1, about.high + 1):
        with pytest.raises(RequestError, match=f"{name} must be from"):
            change_settings(loose, {name: kind(beyond)})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("rebalance_enabled", 1, "rebalance_enabled must be true or false"),
        ("replication_factor", 3.0, "replication_factor must be a whole number"),
        ("replication_factor", True, "replication_factor must be a whole number"),
        ("migration_timeout_s", "30", "migration_timeout_s must be a number"),
        ("migration_timeout_s", math.nan, "migration_timeout_s must be from 1 to 2,592,000 s"),
        ("replicas", 3, "'replicas' is no setting of the cluster"),
    ],
)
def test_what_is_wrong_is_said(name: str, value: SettingValue, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        change_settings(DEFAULTS, {name: value})
    assert str(caught.value) == sentence


def test_every_problem_is_named_at_once_and_nothing_is_done() -> None:
    with pytest.raises(RequestError, match=r"nope.*; split_bytes"):
        change_settings(DEFAULTS, {"nope": 1, "split_bytes": -1, "merge_enabled": True})


def test_a_merge_must_not_be_followed_by_a_split() -> None:
    with pytest.raises(RequestError, match="at least twice merge_bytes"):
        change_settings(DEFAULTS, {"split_bytes": 15 << 20})
    assert change_settings(DEFAULTS, {"split_bytes": 0}).split_bytes == 0


def test_a_whole_number_of_seconds_is_a_number_of_seconds() -> None:
    after = change_settings(DEFAULTS, {"migration_timeout_s": 5})
    assert (after.migration_timeout_s, type(after.migration_timeout_s)) == (5.0, float)
