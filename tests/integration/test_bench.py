"""The scripts of bench/ that measure while all is well, with tiny counts: reports have their shape."""

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench_scripts import BENCH, assert_distribution, finish, report_of, start
from engines import engine_or_skip

from noctule.base.errors import UnavailableError

pytest_plugins = ("engines",)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.engine("redis-server"),
    pytest.mark.engine("redis-benchmark"),
    pytest.mark.timeout(300),
]

CASES = [("SET", 64, 1), ("GET", 64, 1), ("SET", 64, 16), ("GET", 64, 16), ("SET", 1, 1), ("GET", 1, 1)]


def test_throughput_reports_every_server_in_every_case(tmp_path: Path) -> None:
    report, stdout = report_of(tmp_path, "throughput.py", "--rounds", "2", "--seconds", "0.05", "--keys", "300")
    options = {"nodes": 3, "seconds": 0.05, "rounds": 2, "keys": 300, "spread": False, "partitions": [16]}
    assert report["options"] == options
    assert report["value_bytes"] == 100
    assert report["redis_version"]
    assert [(row["command"], row["clients"], row["pipeline"]) for row in report["rows"]] == CASES
    subjects = ["Noctule", "Noctule, cluster face", "Redis, fsync always", "Redis Cluster 3+3, everysec"]
    for row in report["rows"]:
        assert_throughput(row, subjects, 2, stdout)


def test_throughput_by_partitions_is_compared_with_the_first_number_of_them(tmp_path: Path) -> None:
    arguments = ("--rounds", "1", "--seconds", "0.05", "--keys", "300", "--spread", "--partitions", "2", "4")
    report, stdout = report_of(tmp_path, "throughput.py", *arguments)
    assert report["options"]["partitions"] == [2, 4]
    assert [row["clients"] for row in report["rows"]] == [63, 63, 63, 63, 3, 3], "shared evenly by three nodes"
    for row in report["rows"]:
        assert_throughput(row, ["2 partitions", "4 partitions"], 1, stdout)


def assert_throughput(row: dict[str, Any], subjects: list[str], rounds: int, stdout: str) -> None:
    """One row of throughput.py has all subjects, their medians, and the first one's ratio to each."""
    assert [measured["subject"] for measured in row["subjects"]] == subjects
    for measured, ratio in zip(row["subjects"], row["ratios"], strict=True):
        assert len(measured["rounds"]) == rounds
        rates = [run["requests_per_s"] for run in measured["rounds"]]
        assert measured["requests_per_s"] == pytest.approx(sum(rates) / rounds)
        assert all(run["requests_count"] > 0 and run["seconds"] > 0 for run in measured["rounds"])
        assert 0 < measured["p50_ms"] <= measured["p99_ms"]
        assert f"{measured['requests_per_s']:,.0f}" in stdout
        assert ratio == round(row["subjects"][0]["requests_per_s"] / measured["requests_per_s"], 3)


def test_clients_reports_memory_and_waits_of_many_connections(tmp_path: Path) -> None:
    arguments = ("--clients", "60", "--active", "20", "--seconds", "0.5", "--think-ms", "10")
    report, stdout = report_of(tmp_path, "clients.py", *arguments)
    assert report["options"] == {"clients": 60, "active": 20, "think_ms": 10, "seconds": 0.5, "processes": 2}
    assert report["errors"] == []
    assert report["connects_per_s"] > 0
    assert report["active_bytes"] > 0
    assert 0 < report["requests_per_s"] <= 20 * 1000 / 10
    assert_distribution(report["latency"])
    assert f"{report['requests_per_s']:,.0f}" in stdout


def test_etcd_is_measured_where_it_is_installed(tmp_path: Path) -> None:
    for name in ("etcd", "wrk"):
        engine_or_skip(name)
    report, stdout = report_of(tmp_path, "etcd.py", "--seconds", "1", "--rounds", "1", "--keys", "100")
    assert [(row["command"], row["subject"]) for row in report["rows"]] == [
        (command, subject) for command in ("SET", "GET") for subject in ("Noctule", "etcd")
    ]
    for row in report["rows"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert f"{row['requests_per_s']:,.0f}" in stdout
    assert "gateway" in stdout, "the method differs, and the number says so"


def test_a_missing_etcd_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    etcd = importlib.import_module("etcd")
    monkeypatch.setattr(etcd, "which", lambda name: None if name == "wrk" else f"/usr/bin/{name}")
    monkeypatch.setattr(sys, "argv", ["etcd.py"])
    assert etcd.main() == 0
    assert "skipped: wrk not installed" in capsys.readouterr().out


def test_eventual_reports_processor_time_of_both_servers(tmp_path: Path) -> None:
    report, stdout = report_of(tmp_path, "eventual.py", "--seconds", "0.5", "--rounds", "1")
    assert [row["pipeline"] for row in report["rows"]] == [1, 16]
    for row in report["rows"]:
        for subject in ("noctule", "bare"):
            measured = row[subject]
            assert measured["rounds"][0]["requests"] > 0
            assert measured["cpu_us"] > 0
            assert 0 < measured["p50_ms"] <= measured["p99_ms"]
            assert f"{measured['requests_per_s']:,.0f}" in stdout
        rates = row["noctule"]["requests_per_s"] / row["bare"]["requests_per_s"]
        assert row["rate_ratio"] == pytest.approx(rates, abs=0.001)


def test_consensus_reports_both_subjects_in_every_case(tmp_path: Path) -> None:
    report, stdout = report_of(tmp_path, "consensus.py", "--proposals", "650", "--rounds", "2", "--window", "4")
    assert report["options"] == {"proposals": 650, "rounds": 2, "window": 4}
    assert (report["value_bytes"], report["batch_commands"]) == (200, 32)
    cases = [(row["case"]["is_batching"], row["case"]["is_encoded"], row["case"]["window"]) for row in report["rows"]]
    assert cases == [(False, False, 4), (False, True, 4), (True, False, 128), (True, True, 128)]
    for row in report["rows"]:
        for subject in ("noctule", "pysyncobj"):
            measured = row[subject]
            assert [run["proposals"] for run in measured["rounds"]] == [650, 650]
            for run in measured["rounds"]:
                assert run["proposals_per_s"] == pytest.approx(650 / run["seconds"], rel=0.01)
                assert run["proposals_per_cpu_s"] == pytest.approx(650 / run["cpu_seconds"], rel=0.01)
            assert f"{measured['proposals_per_s']:,.0f}" in stdout
        ratio = row["noctule"]["proposals_per_s"] / row["pysyncobj"]["proposals_per_s"]
        assert row["ratio"] == pytest.approx(ratio, abs=0.001)


@pytest.mark.parametrize("subject", ["Noctule", "PySyncObj"])
def test_nobody_is_elected_because_all_three_nodes_were_stopped(subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a busy machine does it. PySyncObj then gave commands up, and the bench failed."""
    monkeypatch.syspath_prepend(str(BENCH))
    trios, consensus = importlib.import_module("noctule_trio"), importlib.import_module("consensus")
    of_pysyncobj = importlib.import_module("pysyncobj_trio").PySyncObjTrio
    stopped_s = [0.0]
    monkeypatch.setattr(trios, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + stopped_s[0]))
    made = {
        "Noctule": lambda: trios.RaftTrio(entry_commands=1, is_encoded=False),
        "PySyncObj": lambda: of_pysyncobj(is_batching=False, is_encoded=False),
    }
    trio = made[subject]()
    turn = trio.turn

    def turn_after_a_stop() -> None:
        stopped_s[0] += 10.0 if trio.acknowledged_count else 0.0
        turn()

    trio.turn = turn_after_a_stop
    values = [b"%d" % number for number in range(200)]
    assert consensus.measure(subject, trio, values, 4).proposals == 200


class PromisingTrio:
    """Acknowledges whatever it is given, and then applies it as it likes: what a bench without a check would praise."""

    def __init__(self, spoil: Callable[[list[bytes]], list[bytes]]) -> None:
        self.acknowledged_count = 0
        self.applied: list[list[bytes]] = [[], [], []]
        self._spoil = spoil

    def is_ready(self) -> bool:
        return True

    def propose(self, values: list[bytes]) -> None:
        self.acknowledged_count += len(values)
        self.applied = [[*self.applied[0], *values], self._spoil([*self.applied[0], *values]), self.applied[0] + values]

    def turn(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda values: values[:-1], "has applied everything everywhere"),
        (lambda values: [values[1], values[0], *values[2:]], "other values than were proposed, or in another order"),
        (lambda values: [*values, values[-1]], "other values than were proposed, or in another order"),
        (lambda values: values, ""),
    ],
    ids=["lost", "reordered", "doubled", "as-proposed"],
)
def test_a_node_that_applied_something_else_fails_the_consensus_bench(
    spoil: Callable[[list[bytes]], list[bytes]], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    consensus = importlib.import_module("consensus")
    monkeypatch.setattr(consensus, "APPLIED_S_MAX", 0.01)
    values = [b"a", b"b", b"c", b"d"]
    if words:
        with pytest.raises(UnavailableError, match=words):
            consensus.measure("the trio", PromisingTrio(spoil), values, 4)
    else:
        assert consensus.measure("the trio", PromisingTrio(spoil), values, 4).proposals == 4


def test_wal_reports_the_log_and_the_bare_disk_for_every_size_of_batch(tmp_path: Path) -> None:
    report, stdout = report_of(tmp_path, "wal.py", "--seconds", "0.05", "--rounds", "2")
    assert [row["entries_in_batch"] for row in report["rows"]] == [1, 32, 256]
    for row in report["rows"]:
        assert row["bytes_in_batch"] > 200 * row["entries_in_batch"]
        for subject in ("wal", "disk"):
            measured = row[subject]
            assert len(measured["rounds"]) == 2
            for run in measured["rounds"]:
                rate = run["batches"] * row["entries_in_batch"] / run["seconds"]
                assert run["entries_per_s"] == pytest.approx(rate, rel=0.001)
                assert 0 < run["p50_ms"] <= run["p99_ms"]
            assert f"{measured['entries_per_s']:,.0f}" in stdout
        assert row["ratio"] == pytest.approx(row["wal"]["entries_per_s"] / row["disk"]["entries_per_s"], abs=0.001)


def test_transport_reports_both_with_their_ratios(tmp_path: Path) -> None:
    report, stdout = report_of(tmp_path, "transport.py", "--seconds", "0.05", "--rounds", "2")
    assert [row["bytes_in_message"] for row in report["rows"]] == [200, 16_384, 262_144]
    for row in report["rows"]:
        for subject in ("framed", "grpc"):
            measured = row[subject]
            assert len(measured["rounds"]) == 2
            for run in measured["rounds"]:
                assert run["frames_per_s"] > 0
                assert run["cpu_us"] > 0
                assert 0 < run["p50_ms"] <= run["p99_ms"]
            assert f"{measured['frames_per_s']:,.0f}" in stdout
        rates = row["grpc"]["frames_per_s"] / row["framed"]["frames_per_s"]
        assert row["rate_ratio"] == pytest.approx(rates, abs=0.001)


def test_scale_reports_the_cost_of_an_operation_for_each_size_and_of_an_idle_node(tmp_path: Path) -> None:
    arguments = ("--sizes", "3", "--operations", "2000", "--nodes", "3", "--idle-s", "0.5", "--rest-s", "3")
    report, stdout = report_of(tmp_path, "scale.py", *arguments)
    costs = [(cost["nodes"], cost["face"], cost["clients"]) for cost in report["costs"]]
    assert costs == [(3, "plain", 48), (3, "cluster", 48)]
    for cost in report["costs"]:
        assert cost["operations"] == 2000
        assert cost["cpu_us"].keys() == {"SET", "GET"}
        assert f"{cost['cpu_us']['SET']:.1f}" in stdout
    idle = report["idle"]
    assert idle["nodes"] == 3
    assert idle["memory_bytes"] > 1_000_000
    assert idle["cpu_percent"] >= 0  # The system counts in hundredths of a second.


def test_what_cannot_be_written_or_measured_is_refused_at_once(tmp_path: Path) -> None:
    for name, arguments, words in (
        ("failover.py", ("--json", str(tmp_path / "missing" / "report.json")), "is not a file in a folder that exists"),
        ("failover.py", ("--kills", "0"), "'0' is not a whole number of 1 or more"),
        ("elections.py", ("--elections", "-1"), "'-1' is not a whole number of 1 or more"),
        ("consensus.py", ("--window", "0"), "'0' is not a whole number of 1 or more"),
        ("wal.py", ("--seconds", "nan"), "'nan' is not a number of seconds from 0.01 to 3600"),
    ):
        code, _, stderr = finish(start(name, *arguments))
        assert code == 2
        assert words in stderr
