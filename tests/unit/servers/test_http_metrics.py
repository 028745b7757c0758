"""The exposition, read by a strict parser of the format written from its specification alone."""

import math
import re
from dataclasses import replace

import pytest

from noctule.adapters.process_stats import ProcessStats
from noctule.servers.http_metrics import CONTENT_TYPE, METRICS, PROCESS_METRICS, STALENESS_GROUPS_MAX, render_metrics

from .http_fakes import PICTURE, FakeNode, ask

PROCESS = ProcessStats(
    resident_bytes=1 << 26, virtual_bytes=1 << 30, cpu_s=1.25, threads=3, open_files=12, open_files_max=1024
)

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
COMMENT = re.compile(rf"# (HELP|TYPE) ({NAME}) (.+)")
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def parse(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Samples by name and labels; fails on anything that text format 0.0.4 does not allow."""
    assert text.endswith("\n")
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    types: dict[str, str] = {}
    helped: set[str] = set()
    family = ""
    for line in text[:-1].split("\n"):
        if comment := COMMENT.fullmatch(line):
            word, name, rest = comment.groups()
            if word == "HELP":
                assert name not in helped
                assert name not in types, "HELP comes before TYPE"
                helped.add(name)
            else:
                assert name not in types, "one TYPE for each family"
                assert rest in ("counter", "gauge")
                assert rest != "counter" or name.endswith("_total")
                types[name] = rest
                family = name
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        name, labels_text, value = sample.groups()
        assert name == family, "all lines of a family stand together"
        labels = parse_labels(labels_text or "")
        key = (name, frozenset(labels.items()))
        assert key not in samples, f"twice: {line}"
        samples[key] = float(value)
    return samples


def parse_labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    position = 0
    while position < len(text):
        label = LABEL.match(text, position)
        assert label, text
        assert label[1] not in labels
        labels[label[1]] = re.sub(r"\\.", lambda escape: ESCAPES[escape[0]], label[2])
        position = label.end()
    return labels


def value_of(text: str, metric_name: str, **labels: str) -> float:
    return parse(text)[metric_name, frozenset(labels.items())]


def test_every_figure_of_the_picture_is_there() -> None:
    text = render_metrics(PICTURE, PROCESS)
    build = {"version": "1.2.3", "protocol_version": "1", "cluster": "test", "node": "1"}
    expected = {
        ("noctule_build_info", frozenset(build.items())): 1,
        ("noctule_uptime_seconds", frozenset()): 12.5,
        ("noctule_draining", frozenset()): 0,
        ("noctule_storage_failed", frozenset()): 0,
        ("noctule_group_role", frozenset({("group", "0"), ("role", "leader")})): 1,
        ("noctule_group_role", frozenset({("group", "1"), ("role", "follower")})): 1,
        ("noctule_group_leader", frozenset({("group", "0")})): 1,
        ("noctule_group_leader", frozenset({("group", "1")})): 0,
        ("noctule_group_term", frozenset({("group", "0")})): 3,
        ("noctule_group_term", frozenset({("group", "1")})): 2,
        ("noctule_group_commit_index", frozenset({("group", "0")})): 40,
        ("noctule_group_commit_index", frozenset({("group", "1")})): 7,
        ("noctule_group_applied_index", frozenset({("group", "0")})): 40,
        ("noctule_group_applied_index", frozenset({("group", "1")})): 6,
        ("noctule_group_last_index", frozenset({("group", "0")})): 41,
        ("noctule_group_last_index", frozenset({("group", "1")})): 7,
        ("noctule_group_snapshot_index", frozenset({("group", "0")})): 0,
        ("noctule_group_snapshot_index", frozenset({("group", "1")})): 5,
        ("noctule_group_keys", frozenset({("group", "0")})): 2,
        ("noctule_group_keys", frozenset({("group", "1")})): 1000,
        ("noctule_group_lag_entries", frozenset({("group", "0"), ("peer", "2")})): 0,
        ("noctule_group_lag_entries", frozenset({("group", "0"), ("peer", "3")})): 17,
        ("noctule_group_lag_bytes", frozenset({("group", "0"), ("peer", "2")})): 0,
        ("noctule_group_lag_bytes", frozenset({("group", "0"), ("peer", "3")})): 900,
        ("noctule_group_lag_seconds", frozenset({("group", "0"), ("peer", "2")})): 0,
        ("noctule_group_lag_seconds", frozenset({("group", "0"), ("peer", "3")})): 1.5,
        ("noctule_group_staleness_seconds", frozenset({("group", "0")})): 0,
        ("noctule_staleness_seconds_max", frozenset()): 0,
        ("noctule_staleness_unknown_groups", frozenset()): 1,
        ("noctule_peer_alive", frozenset({("peer", "1")})): 1,
        ("noctule_peer_alive", frozenset({("peer", "2")})): 1,
        ("noctule_peer_alive", frozenset({("peer", "3")})): 0,
        ("noctule_peer_last_contact_seconds", frozenset({("peer", "2")})): 0.021,
        ("noctule_peer_last_contact_seconds", frozenset({("peer", "3")})): 9.5,
        ("noctule_peer_groups_led", frozenset({("peer", "1")})): 2,
        ("noctule_peer_groups_led", frozenset({("peer", "2")})): 0,
        ("noctule_peer_groups_led", frozenset({("peer", "3")})): 0,
        ("noctule_commands_total", frozenset()): 12,
        ("noctule_bytes_total", frozenset()): 2**63,
        ("noctule_memory_bytes", frozenset()): 1.5e9,
        ("process_resident_memory_bytes", frozenset()): 1 << 26,
        ("process_virtual_memory_bytes", frozenset()): 1 << 30,
        ("process_cpu_seconds_total", frozenset()): 1.25,
        ("process_threads", frozenset()): 3,
        ("process_open_fds", frozenset()): 12,
        ("process_max_fds", frozenset()): 1024,
    }
    assert parse(text) == expected


def test_labels_are_escaped() -> None:
    cluster = 'a\\b"c\nd\\n}'
    text = render_metrics(replace(PICTURE, cluster=cluster), None)
    found = [dict(labels)["cluster"] for name, labels in parse(text) if name == "noctule_build_info"]
    assert found == [cluster]


def test_a_failed_disk_and_a_leaving_node_are_ones() -> None:
    text = render_metrics(replace(PICTURE, storage_failure="gone", draining=True), None)
    assert (value_of(text, "noctule_storage_failed"), value_of(text, "noctule_draining")) == (1, 1)


@pytest.mark.parametrize("value", [0.0, -1.5, 1e-9, 1e300, 2.0**70, math.inf, -math.inf, math.nan])
def test_every_number_can_be_read_back(value: float) -> None:
    shown = value_of(render_metrics(replace(PICTURE, gauges={"noctule_odd": value}), None), "noctule_odd")
    assert shown == value or (math.isnan(shown) and math.isnan(value))


def test_a_name_that_is_none_is_made_one_and_no_family_comes_twice() -> None:
    gauges = {"noctule_uptime_seconds": 99.0, "process_threads": 99.0, "noctule-odd name": 1.0, "9lives": 2.0}
    text = render_metrics(replace(PICTURE, gauges=gauges), PROCESS)
    assert value_of(text, "noctule_uptime_seconds") == 12.5
    assert value_of(text, "process_threads") == 3
    assert value_of(text, "noctule_odd_name") == 1
    assert value_of(text, "_9lives") == 2


def test_a_lone_node_without_groups_or_procfs_shows_what_it_has() -> None:
    samples = parse(render_metrics(replace(PICTURE, nodes=[], groups=[], counters={}, gauges={}), None))
    assert {name for name, _ in samples} == {
        "noctule_build_info",
        "noctule_uptime_seconds",
        "noctule_draining",
        "noctule_storage_failed",
    }


async def test_the_route_adds_this_process() -> None:
    answer = await ask(FakeNode(), "GET", "/metrics")
    assert (answer.status, answer.content_type) == (200, CONTENT_TYPE)
    text = answer.body.decode()
    assert value_of(text, "process_resident_memory_bytes") > 1 << 20
    shown = {name for name, _ in parse(text)}
    assert {metric.name for metric in METRICS} <= shown
    assert {row[0] for row in PROCESS_METRICS} <= shown


def test_labels_are_those_announced() -> None:
    samples = parse(render_metrics(PICTURE, PROCESS))
    for metric in METRICS:
        label_names = {frozenset(dict(labels)) for name, labels in samples if name == metric.name}
        assert label_names == {frozenset(metric.labels)}, metric.name


def test_staleness_has_a_bounded_number_of_series_and_one_for_the_worst_of_all() -> None:
    """A node may hold thousands of groups, and each would be a series for ever."""
    group = PICTURE.groups[1]
    groups = [replace(group, id=number, staleness_ms=number) for number in range(STALENESS_GROUPS_MAX + 9)]
    text = render_metrics(replace(PICTURE, groups=groups), None)
    assert sum(name == "noctule_group_staleness_seconds" for name, _ in parse(text)) == STALENESS_GROUPS_MAX
    assert value_of(text, "noctule_staleness_seconds_max") == (STALENESS_GROUPS_MAX + 8) / 1_000


def test_counters_with_labels_are_one_family() -> None:
    counters = {'noctule_a_total{type="A"}': 1, 'noctule_a_total{type="SRV"}': 2, "noctule_ab_total": 3}
    lines = render_metrics(replace(PICTURE, counters=counters), None).splitlines()
    assert lines.count("# TYPE noctule_a_total counter") == 1
    first = lines.index("# TYPE noctule_a_total counter")
    assert lines[first + 1 : first + 3] == ['noctule_a_total{type="A"} 1', 'noctule_a_total{type="SRV"} 2']
    assert "noctule_ab_total 3" in lines
