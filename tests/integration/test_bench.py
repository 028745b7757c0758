"""The scripts of bench/ as `make bench` runs them, with tiny counts: reports have their shape, losses show."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from engines import wait_until

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines",)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.engine("redis-server"),
    pytest.mark.engine("redis-benchmark"),
    pytest.mark.timeout(300),
]

BENCH = Path(__file__).resolve().parents[2] / "bench"
SCRIPT_S_MAX = 240.0
STOP_S_MAX = 90.0
MACHINE = {"cores", "kernel", "python", "load_average", "fdatasync_p50_ms"}


def start(name: str, *arguments: str) -> "subprocess.Popen[str]":
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


def test_throughput_reports_both_servers_in_every_case(tmp_path: Path) -> None:
    arguments = ("--rounds", "2", "--seconds", "0.05", "--keys", "300", "--spread")
    report, stdout = report_of(tmp_path, "throughput.py", *arguments)
    assert report["options"] == {"nodes": 3, "seconds": 0.05, "rounds": 2, "keys": 300, "spread": True}
    assert report["clients"] == 63, "21 for each of three nodes, and as many in all for Redis"
    assert report["value_bytes"] == 100
    cases = [(row["command"], row["pipeline"]) for row in report["rows"]]
    assert cases == [("SET", 1), ("GET", 1), ("SET", 16), ("GET", 16)]
    for row in report["rows"]:
        for subject in ("noctule", "redis"):
            measured = row[subject]
            assert len(measured["rounds"]) == 2
            rates = [run["requests_per_s"] for run in measured["rounds"]]
            assert measured["requests_per_s"] == pytest.approx(sum(rates) / 2)
            assert all(run["requests_count"] > 0 and run["seconds"] > 0 for run in measured["rounds"])
            assert 0 < measured["p50_ms"] <= measured["p99_ms"]
            assert f"{measured['requests_per_s']:,.0f}" in stdout
        ratio = row["noctule"]["requests_per_s"] / row["redis"]["requests_per_s"]
        assert row["ratio"] == pytest.approx(ratio, abs=0.001)


def test_failover_reports_a_kill_and_finds_every_acknowledged_write(tmp_path: Path) -> None:
    report, stdout = report_of(tmp_path, "failover.py", "--kills", "1")
    assert (report["nodes"], report["kills"], report["losses"]) == (3, 1, [])
    (kill,) = report["rounds"]
    assert kill["partition"] == 1
    assert kill["killed_node"] in (1, 2, 3)
    assert 0 < kill["failover_ms"] < kill["settled_after_s"] * 1000
    assert report["failover"] == dict.fromkeys(("p50_ms", "p99_ms", "max_ms"), kill["failover_ms"])
    assert report["writes_acknowledged"] == kill["writes_acknowledged"] > 100
    assert report["writes_failed"] == kill["writes_failed"]
    lateness = report["timer_lateness"]
    assert 0 < lateness["p50_ms"] <= lateness["p99_ms"] <= lateness["max_ms"]
    assert "lost or applied twice: 0" in stdout


def test_a_bench_that_is_told_to_stop_leaves_nothing_behind() -> None:
    script = start("failover.py", "--kills", "1000")
    folder = f".noctule-bench-{script.pid}-"
    try:
        wait_until(lambda: len(pids_mentioning(folder)) >= 4, "start of noctule up and three nodes", deadline_s=60)
    finally:
        script.send_signal(signal.SIGTERM)
        code, _, stderr = finish(script)
    assert code == 130, stderr
    assert pids_mentioning(folder) == []
    assert list(BENCH.parent.glob(f"{folder}*")) == []


def pids_mentioning(text: str) -> list[int]:
    """Processes of this machine with `text` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (path / "cmdline").read_bytes() and int(path.name) != os.getpid():
                found.append(int(path.name))
        except OSError:
            continue  # It has ended meanwhile.
    return found


def test_what_cannot_be_written_or_measured_is_refused_at_once(tmp_path: Path) -> None:
    for arguments, words in (
        (("--json", str(tmp_path / "missing" / "report.json")), "is not a file in a folder that exists"),
        (("--kills", "0"), "'0' is not a whole number of 1 or more"),
    ):
        code, _, stderr = finish(start("failover.py", *arguments))
        assert code == 2
        assert words in stderr


def test_lost_and_doubled_writes_are_found(redis_server: "RedisServer", monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict of failover.py must not be good because nobody can fail: here a store loses, and repeats, a write."""
    monkeypatch.syspath_prepend(str(BENCH))
    ledger_module = importlib.import_module("ledger")
    ledger = ledger_module.Ledger("tag")
    with redis.Redis("127.0.0.1", redis_server.port) as client:
        for _ in range(10):
            words, note = ledger.next_write()
            reply = client.execute_command(*words)
            assert note(b"OK" if reply is True else reply)
        assert ledger_module.find_losses(client, ledger) == []

        client.delete(ledger.key(4))
        assert ledger_module.find_losses(client, ledger) == ["{tag}4 is None, and not 4"]
        client.set(ledger.key(4), 4)

        client.decr(ledger.counter)
        assert ledger_module.find_losses(client, ledger) == ["{tag}counter is 4, and not from 5 to 5"]
        client.incrby(ledger.counter, 2)
        assert ledger_module.find_losses(client, ledger) == ["{tag}counter is 6, and not from 5 to 5"]


def test_a_write_without_an_answer_may_have_happened_or_not(
    redis_server: "RedisServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    ledger_module = importlib.import_module("ledger")
    ledger = ledger_module.Ledger("tag")
    with redis.Redis("127.0.0.1", redis_server.port) as client:
        for reply in (
            None,
            None,
            redis.ResponseError("CLUSTERDOWN nothing was applied"),
            redis.ResponseError("UNKNOWN"),
        ):
            _, note = ledger.next_write()
            assert not note(reply)
        assert (ledger.writes_failed, ledger.increments_unknown) == (4, 2)
        for counter in (0, 1, 2):
            client.set(ledger.counter, counter)
            assert ledger_module.find_losses(client, ledger) == []
        client.set(ledger.counter, 3)
        assert len(ledger_module.find_losses(client, ledger)) == 1
