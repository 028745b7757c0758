"""Writes docs/reference/performance.md from the JSON of the benches in bench/results/: no number is typed by hand.

``make performance`` runs those benches, each with ``--json bench/results/<name>.json``, and then this. A bench whose
file is missing is named as not measured. A test holds the page to the files.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import clients
import etcd
import eventual
import gaps
import gateway
import kits
import msgspec
import registry
import throughput
from machine import Machine, describe
from subjects import CHECKOUT

RESULTS = CHECKOUT / "bench" / "results"
PAGE = CHECKOUT / "docs" / "reference" / "performance.md"

HEAD = """# Performance

<!-- Rendered from bench/results/*.json by bench/render_performance.py; tests/docs holds it current. -->

What `make bench` measured of the store and the gateway beside others, each in one run, on one machine.
Clients and servers share its cores.
[The method](../../bench/README.md) of each number stands with its bench.
A number of one machine says little about another.
"""

_R = TypeVar("_R", bound=msgspec.Struct)
Cells = Sequence[object]


def main() -> None:
    """Write the page."""
    PAGE.write_text(render_performance(RESULTS), encoding="utf-8")
    print(PAGE.relative_to(CHECKOUT))


def render_performance(results: Path) -> str:
    """The whole page, of the files in that folder."""
    sections = [
        section(results, "throughput", "Beside Redis and a Redis Cluster", throughput.Report, throughput_table),
        section(results, "partitions", "By the number of partitions", throughput.Report, throughput_table),
        section(results, "etcd", "Beside etcd", etcd.Report, etcd_table),
        section(results, "eventual", "Eventual reads beside a bare server", eventual.Report, eventual_table),
        section(results, "clients", "Ten thousand clients", clients.Report, clients_table),
        section(results, "gateway", "The gateway beside HAProxy and nginx", gateway.Report, gateway_table),
        section(results, "registry", "The registry", registry.Report, registry_table),
        section(results, "kits", "Sessions, limits and cache beside starsessions and limits", kits.Report, kits_table),
        section(results, "gaps", "Failover by kind of store", gaps.Report, gaps_table),
    ]
    return "\n".join([HEAD, *sections])


def section(results: Path, name: str, title: str, kind: type[_R], render: Callable[[_R], list[str]]) -> str:
    """One bench: its heading, its table, the machine and the day; or that it was not measured."""
    path = results / f"{name}.json"
    if not path.exists():
        return f"## {title}\n\nNot measured yet: there is no `bench/results/{path.name}`.\n"
    report = msgspec.json.decode(path.read_bytes(), type=kind)
    machine: Machine = report.machine  # type: ignore[attr-defined]
    measured_on = f"Measured on {machine.date}: {machine.processor or 'an unnamed processor'}, {describe(machine)}."
    return "\n".join([f"## {title}", "", *render(report), "", measured_on, ""])


def table(titles: Cells, rows: Sequence[Cells]) -> list[str]:
    """The lines of a table."""
    return ["| " + " | ".join(map(str, row)) + " |" for row in (titles, ["---"] * len(titles), *rows)]


def throughput_table(report: throughput.Report) -> list[str]:
    """Of throughput.py, whatever its subjects."""
    options = report.options
    beside = f", Redis {report.redis_version}" if report.redis_version else ""
    driven = "all nodes at once" if options.spread else "node 1"
    order = "alternating rounds" if len(options.partitions) == 1 else "rounds, one cluster after the other,"
    intro = (
        f"`bench/throughput.py`: {options.nodes} nodes, driven through {driven}{beside}; values of "
        f"{report.value_bytes} bytes, {options.keys:,} keys; medians of {options.rounds} {order} of "
        f"{options.seconds:g} s."
    )
    rows = [
        (row.command, row.clients, row.pipeline, measured.subject, *throughput.cells(measured), f"{ratio:.2f}")
        for row in report.rows
        for measured, ratio in zip(row.subjects, row.ratios, strict=True)
    ]
    titles = ("", "clients", "pipeline", "", "requests/s", "p50 ms", "p99 ms", "the first / this")
    return [intro, "", *table(titles, rows)]


def etcd_table(report: etcd.Report) -> list[str]:
    """Of etcd.py."""
    intro = (
        f"`bench/etcd.py`: etcd {report.etcd_version}, three members, by wrk against the JSON gateway of one of them; "
        f"Noctule by redis-benchmark. {etcd.CAVEAT}"
    )
    return [intro, "", *table(etcd.TITLES, [etcd.cells(row) for row in report.rows])]


def eventual_table(report: eventual.Report) -> list[str]:
    """Of eventual.py."""
    options = report.options
    intro = (
        "`bench/eventual.py`: GETs after `READONLY` of one node of three, beside a server that only parses and answers "
        f"from a dict; {report.clients} clients, medians of {options.rounds} alternating rounds of "
        f"{options.seconds:g} s."
    )
    titles = ("pipeline", "Noctule /s", "CPU µs", "p50 ms", "p99 ms", "bare /s", "CPU µs", "p50 ms", "p99 ms")
    rows = [
        (
            row.pipeline,
            *eventual.cells(row.noctule),
            *eventual.cells(row.bare),
            f"{row.rate_ratio:.2f}",
            f"{row.cpu_ratio:.2f}",
        )
        for row in report.rows
    ]
    return [intro, "", *table((*titles, "rate", "CPU"), rows)]


def clients_table(report: clients.Report) -> list[str]:
    """Of clients.py."""
    options = report.options
    intro = (
        f"`bench/clients.py`: {options.clients:,} clients connected to three nodes, {options.active:,} of them active "
        f"for {options.seconds:g} s, {options.think_ms:g} ms from an answer to the next request."
    )
    titles = ("connects/s", "bytes/idle client", "bytes/client", "requests/s", "p50 ms", "p99 ms", "max ms", "errors")
    row = (
        f"{report.connects_per_s:,.0f}",
        f"{report.idle_bytes:,}",
        f"{report.active_bytes:,}",
        f"{report.requests_per_s:,.0f}",
        *report.latency.cells(),
        len(report.errors),
    )
    return [intro, "", *table(titles, [row])]


def gateway_table(report: gateway.Report) -> list[str]:
    """Of gateway.py."""
    options = report.options
    intro = (
        "`bench/gateway.py`: GETs of 1 KiB through a gateway with one worker or thread before three backends, by wrk "
        f"on {gateway.BUSY_CONNECTIONS} connections; what a gateway adds is measured on one. Medians of "
        f"{options.rounds} alternating rounds of {options.seconds:g} s. CPU is that of its own processes for a "
        "request: by it the last column compares what each makes of a core, whatever others take of the machine."
    )
    rows = [gateway.cells(row) for row in report.rows]
    return [intro, "", *table(gateway.TITLES, rows), "", *(f"- {line}" for line in gateway.sentences(report))]


def registry_table(report: registry.Report) -> list[str]:
    """Of registry.py."""
    options, mebibyte = report.options, 1 << 20
    intro = (
        f"`bench/registry.py`: {options.instances:,} instances registered with three nodes, half of them in each way; "
        f"then {options.changes} changes, one after the other, heard by {options.watchers} watchers over the nodes."
    )
    registered = [
        (each.way, f"{each.instances:,}", f"{each.per_s:,.0f}", f"{each.p50_ms:.1f}", f"{each.p99_ms:.1f}")
        for each in report.registered
    ]
    heard = [
        (each.way, f"{each.p50_ms:.1f}", f"{each.p99_ms:.1f}", f"{each.max_ms:.1f}", f"{each.load_average:.1f}")
        for each in report.heard
    ]
    before, after = max(report.memory_bytes_before) / mebibyte, max(report.memory_bytes_after) / mebibyte
    return [
        intro,
        "",
        *table(("registered", "instances", "each second", "p50 ms", "p99 ms"), registered),
        "",
        *table(("from a change to every watcher", "p50 ms", "p99 ms", "max ms", "load average"), heard),
        "",
        f"The largest node grew from {before:.0f} to {after:.0f} MiB.",
    ]


def kits_table(report: kits.Report) -> list[str]:
    """Of kits.py."""
    options = report.options
    intro = (
        f"`bench/kits.py`: {options.requests:,} requests one after the other, as calls of an ASGI app in one process "
        f"with a Redis on a socket file; medians of {options.rounds} alternating rounds. What is added is told as the "
        "difference from an app that only answers."
    )
    hits = (
        f"Of {kits.PAGE_REQUESTS:,} requests to three instances, for {kits.PAGES:,} pages whose popularity follows "
        f"Zipf's law, {report.hit_rate:.1%} were answered from the cache, which was empty before."
    )
    return [intro, "", *table(kits.TITLES, [kits.cells(row) for row in report.rows]), "", hits]


def gaps_table(report: gaps.Report) -> list[str]:
    """Of gaps.py."""
    intro = (
        "`bench/gaps.py`: the kits' own client, by another URL. What serves its key is killed with SIGKILL. "
        f"Redis' kinds take a master for dead after {report.detect_ms / 1000:g} s, and sync their files once a second."
    )
    return [intro, "", *table(gaps.TITLES, [gaps.cells(report, row) for row in report.rows])]


if __name__ == "__main__":
    main()
