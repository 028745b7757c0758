"""The page of numbers is what the files of the benches say, whatever they say."""

import importlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
MACHINE = {
    "date": "2026-01-31",
    "processor": "A processor",
    "cores": 2,
    "kernel": "6.1",
    "python": "3.11",
    "load_average": 0.1,
    "fdatasync_p50_ms": 0.2,
}


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(CHECKOUT / "bench"))
    return importlib.import_module("render_performance")


def test_the_page_is_current(renderer: Any) -> None:
    page = (CHECKOUT / "docs" / "reference" / "performance.md").read_text(encoding="utf-8")
    assert page == renderer.render_performance(CHECKOUT / "bench" / "results"), "run bench/render_performance.py"


def test_what_was_not_measured_is_named(renderer: Any, tmp_path: Path) -> None:
    page = renderer.render_performance(tmp_path)
    for name in ("throughput", "partitions", "etcd", "eventual", "clients", "gateway", "kits"):
        assert f"there is no `bench/results/{name}.json`" in page


def test_numbers_come_with_their_machine_and_day(renderer: Any, tmp_path: Path) -> None:
    run = {"requests_count": 1, "seconds": 1.0, "requests_per_s": 12_345.0, "p50_ms": 1.5, "p99_ms": 2.5}
    measured = [
        {"subject": name, "requests_per_s": rate, "p50_ms": 1.5, "p99_ms": 2.5, "rounds": [run]}
        for name, rate in (("Noctule", 12_345.0), ("Redis", 24_690.0))
    ]
    row = {"command": "SET", "pipeline": 16, "clients": 64, "subjects": measured, "ratios": [1.0, 0.5]}
    options = {"nodes": 3, "seconds": 6.0, "rounds": 3, "keys": 1_000, "spread": False, "partitions": [16]}
    report = {"machine": MACHINE, "options": options, "value_bytes": 100, "redis_version": "7.0.15", "rows": [row]}
    (tmp_path / "throughput.json").write_bytes(msgspec.json.encode(report))
    page = renderer.render_performance(tmp_path)
    assert "| SET | 64 | 16 | Noctule | 12,345 | 1.50 | 2.50 | 1.00 |" in page
    assert "| SET | 64 | 16 | Redis | 24,690 | 1.50 | 2.50 | 0.50 |" in page
    assert "Measured on 2026-01-31: A processor, 2 cores, kernel 6.1" in page


def test_the_gateways_numbers_stand_in_a_table_and_in_sentences(renderer: Any, tmp_path: Path) -> None:
    run = {"requests_per_s": 12_345.0, "cpu_us": 40.0, "p50_ms": 1.5, "p95_ms": 2.0, "p99_ms": 2.5}
    row = {"subject": "Noctule, embedded", "busy": run, "quiet": run, "added_p50_ms": 0.09, "added_p99_ms": 0.2}
    report = {
        "machine": MACHINE,
        "options": {"seconds": 6.0, "rounds": 5, "connections": 10_000, "hold_s": 60.0},
        "rows": [{**row, "rate_ratio": 0.45, "cpu_ratio": 0.4}],
        "held": {
            "connections": 10_000,
            "seconds": 60.0,
            "requests": 60_000,
            "errors": 0,
            "p50_ms": 0.4,
            "p99_ms": 5.0,
        },
        "resident_mb": 150.0,
        "survived": {"requests": 100_000, "failed": 0, "longest_ms": 70.0},
        "steps": [
            {
                "instances": 3,
                "requests_per_s": 590.0,
                "p95_ms": 120.0,
                "of_ideal": 0.98,
                "document_requests_per_s": 3_600,
            }
        ],
    }
    (tmp_path / "gateway.json").write_bytes(msgspec.json.encode(report))
    page = renderer.render_performance(tmp_path)
    assert "| Noctule, embedded | 12,345 | 40.0 | 1.50 | 2.50 | 0.09 | 0.20 | 0.45 | 0.40 |" in page
    assert "- 10,000 keep-alive connections held for 60 s: 0 errors in 60,000 requests" in page
    assert "0 of 100,000 GETs failed" in page
    assert "Simulated backends of limited capacity" in page
    assert "3: 590 requests/s, 98% of the ideal" in page
