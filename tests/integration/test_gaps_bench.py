"""bench/gaps.py with one kill of each kind: every store goes on, and Noctule loses nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "gaps.py"


def test_the_bench_of_gaps_measures_every_kind_of_store(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    command = [sys.executable, str(SCRIPT), "--kills", "1", "--detect-ms", "500", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_bytes())["rows"]
    assert [row["store"].partition(",")[0] for row in rows] == [
        "Noctule",
        "Redis with two replicas",
        "Redis Cluster",
    ]
    assert all(row["gap"]["max_ms"] > 0 for row in rows)
    assert rows[0]["lost"] == 0
    # A master that is killed is not noticed before the time that its kind takes for it.
    assert all(row["gap"]["max_ms"] > 500 for row in rows[1:])
