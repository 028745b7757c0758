"""bench/kits.py with a few requests: every way is there, and the report has its shape."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "kits.py"


def test_the_bench_of_the_kits_measures_every_way(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    command = [sys.executable, str(SCRIPT), "--requests", "50", "--rounds", "2", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(path.read_bytes())["rows"]}
    assert all(len(row["rounds"]) == 2 and row["microseconds"] > 0 for row in rows.values())
    assert rows["bare app"]["added_microseconds"] == 0
    assert 0.9 < json.loads(path.read_bytes())["hit_rate"] < 1
    assert {
        "Sessions, which it reads",
        "starsessions, which it reads",
        "RateLimits",
        "Cache, a value in the store",
    } <= set(rows)
