"""bench/breaker.py with a few calls: every way of calling is there, and the report has its shape."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "breaker.py"


def test_the_bench_of_the_breaker_measures_every_way(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    command = [sys.executable, str(SCRIPT), "--calls", "200", "--rounds", "2", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_bytes())
    assert len(report["rows"]) == 5
    assert all(len(row["rounds"]) == 2 and row["nanoseconds"] > 0 for row in report["rows"])
    assert report["exchange_microseconds"] > 0
    assert "guarded coroutine, shared by a store" in done.stdout
