"""bench/checker.py with tiny histories: every case is there, each holds, and the report has its shape."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "checker.py"


def test_the_bench_of_the_checkers_judges_every_case(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    command = [sys.executable, str(SCRIPT), "--operations", "600", "--keys", "6", "--rounds", "1", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_bytes())
    assert report["options"] == {"operations": 600, "keys": 6, "rounds": 1}
    cases = [row["case"] for row in report["rows"]]
    assert {(case["model"], case["clients"]) for case in cases} == {
        (model, clients) for model in ("register", "counter", "set") for clients in (3, 10)
    }
    assert sum(case["unknown_share"] > 0 for case in cases) == 6
    for row in report["rows"]:
        assert [run["holds"] for run in row["rounds"]] == [True]
        assert row["file_bytes"] > 600 * 50
    assert "Judging 600 operations on 6 keys" in done.stdout
