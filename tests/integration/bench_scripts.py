"""Runs the scripts of bench/ for the tests, as `make bench` does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[2] / "bench"
SCRIPT_S_MAX = 240.0
STOP_S_MAX = 90.0
MACHINE = {"date", "processor", "cores", "kernel", "python", "load_average", "fdatasync_p50_ms", "compiled"}


def start(name: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start a script of bench/."""
    command = [sys.executable, str(BENCH / name), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(script: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, stdout and stderr; a script that takes too long is asked to stop what it has started."""
    try:
        stdout, stderr = script.communicate(timeout=SCRIPT_S_MAX)
    finally:
        if script.poll() is None:
            script.terminate()
            script.communicate(timeout=STOP_S_MAX)
    return script.returncode, stdout, stderr


def report_of(tmp_path: Path, name: str, *arguments: str) -> tuple[dict[str, Any], str]:
    """What the script wrote as JSON, and what it printed; it ended well and removed its data."""
    path = tmp_path / "report.json"
    code, stdout, stderr = finish(start(name, *arguments, "--json", str(path)))
    assert code == 0, stderr
    report: dict[str, Any] = json.loads(path.read_bytes())
    assert set(report["machine"]) == MACHINE
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["fdatasync_p50_ms"] > 0
    return report, stdout


def assert_distribution(measured: dict[str, float]) -> None:
    """Percentiles are in order, and none is nothing."""
    assert 0 < measured["p50_ms"] <= measured["p99_ms"] <= measured["max_ms"]
