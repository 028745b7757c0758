"""bench/refresh.py with a few of everything: one successor, a refusal everywhere, and the report has its shape."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "refresh.py"


def test_the_bench_of_refreshes_finds_one_successor(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    few = ["--refreshes", "100", "--kills", "1", "--revocations", "3", "--checks", "40"]
    command = [sys.executable, str(SCRIPT), *few, "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_bytes())
    assert [each["successors"] for each in report["rounds"]] == [1]
    assert report["refused_everywhere"]["p99_ms"] > 0
    assert [row["microseconds"] > 0 for row in report["checks"]] == [True] * 5
    assert report["faults"] == []
    assert "1 successor" in done.stdout
