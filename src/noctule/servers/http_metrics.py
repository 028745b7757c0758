"""The metrics of a node as Prometheus text.

Written by hand: the format is a few lines, and everything comes from one picture. Source: Prometheus
documentation, "Exposition formats", text format 0.0.4. `METRICS` is also what docs/reference/metrics.md lists;
``python -m noctule.servers.http_metrics`` writes that page to stdout.
"""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from noctule.adapters.process_stats import ProcessStats, read_process_stats
from noctule.node.api import Administration, NodePicture
from noctule.servers.cluster_metrics import CLUSTER_METRICS, Labels, Sample
from noctule.servers.http_route import Answer, Call

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STALENESS_GROUPS_MAX = 256
"""Groups that have a series of staleness each; the greatest of all groups has one of its own."""

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_:]")


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of samples that every node shows."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...]
    samples: Callable[[NodePicture], Iterator[Sample]]


def _one(value: Callable[[NodePicture], float]) -> Callable[[NodePicture], Iterator[Sample]]:
    def samples(picture: NodePicture) -> Iterator[Sample]:
        yield {}, value(picture)

    return samples


def _each_group(field: str) -> Callable[[NodePicture], Iterator[Sample]]:
    def samples(picture: NodePicture) -> Iterator[Sample]:
        for group in picture.groups:
            yield {"group": group.id}, getattr(group, field)

    return samples


def _build(picture: NodePicture) -> Iterator[Sample]:
    labels: Labels = {
        "version": picture.version,
        "protocol_version": picture.protocol_version,
        "cluster": picture.cluster,
        "node": picture.node_id,
    }
    yield labels, 1


def _group_roles(picture: NodePicture) -> Iterator[Sample]:
    for group in picture.groups:
        yield {"group": group.id, "role": group.role}, 1


def _group_leaders(picture: NodePicture) -> Iterator[Sample]:
    for group in picture.groups:
        yield {"group": group.id}, group.leader or 0


def _group_lags(field: str) -> Callable[[NodePicture], Iterator[Sample]]:
    def samples(picture: NodePicture) -> Iterator[Sample]:
        for group in picture.groups:
            for peer, amount in sorted(getattr(group, field).items()):
                yield {"group": group.id, "peer": peer}, amount

    return samples


def _staleness(picture: NodePicture) -> Iterator[Sample]:
    for group in picture.groups[:STALENESS_GROUPS_MAX]:
        if group.staleness_ms is not None:
            yield {"group": group.id}, group.staleness_ms / 1_000


def _staleness_max(picture: NodePicture) -> Iterator[Sample]:
    known = [group.staleness_ms for group in picture.groups if group.staleness_ms is not None]
    if known:
        yield {}, max(known) / 1_000


def _staleness_unknown(picture: NodePicture) -> Iterator[Sample]:
    if picture.groups:
        yield {}, sum(group.staleness_ms is None for group in picture.groups)


def _peers_alive(picture: NodePicture) -> Iterator[Sample]:
    for peer in picture.nodes:
        yield {"peer": peer.id}, peer.alive


def _peers_lead(picture: NodePicture) -> Iterator[Sample]:
    for peer in picture.nodes:
        yield {"peer": peer.id}, peer.leads


def _peer_contacts(picture: NodePicture) -> Iterator[Sample]:
    for peer in picture.nodes:
        if peer.last_contact_ms is not None:
            yield {"peer": peer.id}, peer.last_contact_ms / 1000


_GROUP = ("group",)
_PEER = ("peer",)

METRICS: tuple[Metric, ...] = (
    Metric("noctule_build_info", "gauge", "Always 1; what runs is in the labels.",
           ("version", "protocol_version", "cluster", "node"), _build),
    Metric("noctule_uptime_seconds", "gauge", "Seconds since the node started.", (), _one(lambda p: p.uptime_s)),
    Metric("noctule_draining", "gauge", "1 while the node is leaving.", (), _one(lambda p: p.draining)),
    Metric("noctule_storage_failed", "gauge", "1 once the disk has failed and the node no longer acknowledges.", (),
           _one(lambda p: bool(p.storage_failure))),
    Metric("noctule_group_role", "gauge", "Always 1; what this replica is in the group is in the label role.",
           ("group", "role"), _group_roles),
    Metric("noctule_group_leader", "gauge", "The id of the node that leads the group; 0 when unknown.", _GROUP,
           _group_leaders),
    Metric("noctule_group_term", "gauge", "Raft term of the group.", _GROUP, _each_group("term")),
    Metric("noctule_group_commit_index", "gauge", "Highest log index known to be committed.", _GROUP,
           _each_group("commit_index")),
    Metric("noctule_group_applied_index", "gauge", "Highest log index applied to the keys.", _GROUP,
           _each_group("applied_index")),
    Metric("noctule_group_last_index", "gauge", "Highest log index of this replica.", _GROUP,
           _each_group("last_index")),
    Metric("noctule_group_snapshot_index", "gauge", "Log index that the newest snapshot covers.", _GROUP,
           _each_group("snapshot_index")),
    Metric("noctule_group_keys", "gauge", "Keys of the group on this replica.", _GROUP, _each_group("keys")),
    Metric("noctule_group_lag_entries", "gauge", "Entries that a voter does not have yet; shown by the leader only.",
           ("group", "peer"), _group_lags("lag")),
    Metric("noctule_group_lag_bytes", "gauge", "The same in bytes of log, or of state; shown by the leader only.",
           ("group", "peer"), _group_lags("lag_bytes")),
    Metric("noctule_group_lag_seconds", "gauge",
           "How long ago the oldest entry that a voter does not have was stamped; shown by the leader only.",
           ("group", "peer"), _group_lags("lag_s")),
    Metric("noctule_group_staleness_seconds", "gauge",
           f"How old an eventual read of this replica may be; the first {STALENESS_GROUPS_MAX} groups only.", _GROUP,
           _staleness),
    Metric("noctule_staleness_seconds_max", "gauge", "The greatest of all groups whose staleness is known.", (),
           _staleness_max),
    Metric("noctule_staleness_unknown_groups", "gauge",
           "Groups whose leader has not been heard by a replica that had caught up with it.", (), _staleness_unknown),
    Metric("noctule_peer_alive", "gauge", "1 while the node is heard, and for the node itself.", _PEER, _peers_alive),
    Metric("noctule_peer_last_contact_seconds", "gauge",
           "Seconds since the last frame from the node; absent for the node itself and before the first.", _PEER,
           _peer_contacts),
    Metric("noctule_peer_groups_led", "gauge", "Groups that the node leads, as far as is known here.", _PEER,
           _peers_lead),
)  # fmt: skip
"""What every node shows, in the order shown."""

PROCESS_METRICS: tuple[tuple[str, Literal["gauge", "counter"], str, Callable[[ProcessStats], float]], ...] = (
    ("process_resident_memory_bytes", "gauge", "Resident memory.", lambda s: s.resident_bytes),
    ("process_virtual_memory_bytes", "gauge", "Virtual memory.", lambda s: s.virtual_bytes),
    ("process_cpu_seconds_total", "counter", "User and system CPU time.", lambda s: s.cpu_s),
    ("process_threads", "gauge", "Threads.", lambda s: s.threads),
    ("process_open_fds", "gauge", "Open file descriptors.", lambda s: s.open_files),
    ("process_max_fds", "gauge", "Limit of open file descriptors; -1 when there is none.", lambda s: s.open_files_max),
)
"""Named as Prometheus' own client libraries name them; absent where there is no procfs."""


async def get_metrics(call: Call) -> Answer:
    """Everything measured, as Prometheus text."""
    text = render_metrics(call.node.picture(), read_process_stats(), call.node.cluster)
    return Answer(200, text.encode("utf-8", "backslashreplace"), CONTENT_TYPE)


def render_metrics(picture: NodePicture, process: ProcessStats | None, cluster: Administration | None = None) -> str:
    """The exposition of one picture, and of the cluster.

    Each family once, HELP and TYPE before its samples, a newline at the end.
    """
    lines: list[str] = []
    for metric in METRICS:
        samples = [f"{metric.name}{_labels(labels)} {_number(value)}" for labels, value in metric.samples(picture)]
        if samples:
            lines += [f"# HELP {metric.name} {_help(metric.help)}", f"# TYPE {metric.name} {metric.kind}", *samples]
    if cluster is not None:
        for family in CLUSTER_METRICS:
            samples = [f"{family.name}{_labels(labels)} {_number(value)}" for labels, value in family.samples(cluster)]
            if samples:
                lines += [f"# HELP {family.name} {_help(family.help)}", f"# TYPE {family.name} gauge", *samples]
    taken = (
        {metric.name for metric in METRICS}
        | {family.name for family in CLUSTER_METRICS}
        | {row[0] for row in PROCESS_METRICS}
    )
    for kind, values in (("counter", picture.counters), ("gauge", picture.gauges)):
        kept: dict[str, dict[str, float]] = {}
        for name, value in sorted(values.items()):
            bare, brace, labels = name.partition("{")
            kept.setdefault(_metric_name(bare), {}).setdefault(brace + labels, value)
        for name, by_labels in kept.items():
            if name not in taken:
                taken.add(name)
                lines.append(f"# TYPE {name} {kind}")
                lines += [f"{name}{labels} {_number(value)}" for labels, value in by_labels.items()]
    if process is not None:
        for name, kind, sentence, figure in PROCESS_METRICS:
            lines += [f"# HELP {name} {_help(sentence)}", f"# TYPE {name} {kind}", f"{name} {_number(figure(process))}"]
    return "\n".join(lines) + "\n"


def render_metrics_reference() -> str:
    """The text of docs/reference/metrics.md."""
    rows = [(metric.name, metric.kind, ", ".join(metric.labels), metric.help) for metric in METRICS]
    rows += [(family.name, "gauge", ", ".join(family.labels), family.help) for family in CLUSTER_METRICS]
    rows += [(name, kind, "", sentence) for name, kind, sentence, _ in PROCESS_METRICS]
    table = "\n".join(f"| `{name}` | {kind} | {labels} | {sentence} |" for name, kind, labels, sentence in rows)
    return f"{_REFERENCE_HEAD}\n| name | type | labels | meaning |\n|---|---|---|---|\n{table}\n"


_REFERENCE_HEAD = """\
# Metrics

`GET /metrics` of every node answers in the Prometheus text format 0.0.4.
This page is written by `python -m noctule.servers.http_metrics` from the table that the node itself uses.

Groups are Raft groups: 0 is *meta*, 1 and up are the partitions of the keyspace.
Beside the families below, each counter (`noctule_…_total`) and gauge that the node keeps appears under its own name.
Those are the `counters` and `gauges` of `GET /api/cluster`.
[DNS](../guides/dns.md) counts `noctule_dns_answers_total` by `type` and `rcode`; its guide names the others.
"""


def _metric_name(name: str) -> str:
    safe = _NOT_IN_NAMES.sub("_", name)
    return safe if safe[:1].isalpha() or safe[:1] in ("_", ":") else f"_{safe}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_label_value(str(value))}"' for name, value in labels.items()) + "}"


def _label_value(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1 << 63 else repr(float(value))


if __name__ == "__main__":
    sys.stdout.write(render_metrics_reference())
