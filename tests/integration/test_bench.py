"""The scripts of bench/ as `make bench` runs them, with tiny counts: reports have their shape, losses show."""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from engines import engine_or_skip, wait_until

from noctule.base.errors import UnavailableError

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
MACHINE = {"date", "processor", "cores", "kernel", "python", "load_average", "fdatasync_p50_ms", "compiled"}


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


def assert_distribution(measured: dict[str, float]) -> None:
    assert 0 < measured["p50_ms"] <= measured["p99_ms"] <= measured["max_ms"]


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
        assert ratio == pytest.approx(row["subjects"][0]["requests_per_s"] / measured["requests_per_s"], rel=0.01)


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


def test_failover_reports_a_kill_and_finds_every_acknowledged_write(tmp_path: Path) -> None:
    report, stdout = report_of(tmp_path, "failover.py", "--kills", "1")
    assert (report["nodes"], report["kills"], report["losses"]) == (3, 1, [])
    (kill,) = report["rounds"]
    assert kill["partition"] in range(1, 17)
    assert kill["killed_node"] in (1, 2, 3)
    assert 0 < kill["failover_ms"] < kill["recovered_after_s"] * 1000
    assert report["failover"] == dict.fromkeys(("p50_ms", "p99_ms", "max_ms"), kill["failover_ms"])
    assert report["writes_acknowledged"] == kill["writes_acknowledged"] > 100
    assert report["writes_failed"] == kill["writes_failed"]
    assert_distribution(report["timer_lateness"])
    assert "lost or applied twice: 0" in stdout


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


def test_elections_reports_one_for_each_group_of_a_killed_leader(tmp_path: Path) -> None:
    report, stdout = report_of(tmp_path, "elections.py", "--elections", "1")
    assert (report["nodes"], report["kills"]) == (3, 1)
    elections = report["elections"]
    assert len({election["group"] for election in elections}) == len(elections) >= 1
    (killed,) = {election["killed_node"] for election in elections}
    for election in elections:
        assert election["leader"] in {1, 2, 3} - {killed}
        assert election["terms"] >= 1
        assert election["noticed_ms"] > 0
    for name in ("elected", "noticed", "timer_lateness"):
        assert_distribution(report[name])
    assert report["elected"]["max_ms"] == max(election["elected_ms"] for election in elections)
    assert "first pre-vote to leader known by a majority" in stdout


def test_an_election_lasts_from_the_first_pre_vote_anywhere_until_a_majority_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Node 1 is killed. Node 2 asks in vain at 5 ms, node 3 at 9 ms; its first term is a split vote."""
    monkeypatch.syspath_prepend(str(BENCH))
    elections = importlib.import_module("elections")
    killed_at = datetime(2026, 1, 1, tzinfo=UTC)

    def change(at_ms: int, node: int, role: str, term: int, leader: int = 0) -> Any:
        return elections.RoleChange(killed_at + timedelta(milliseconds=at_ms), 7, role, term, leader, node)

    changes = [
        change(9, 3, "pre-candidate", 4),
        change(10, 3, "candidate", 5),
        change(30, 3, "candidate", 6),
        change(31, 3, "leader", 6, 3),
        change(900, 1, "follower", 6, 3),
        change(5, 2, "pre-candidate", 4),
        change(6, 2, "follower", 4),
        change(32, 2, "follower", 6),
        change(33, 2, "follower", 6, 3),
    ]
    election = elections.election_of(changes, 1, killed_at)
    assert (election.group, election.killed_node, election.leader, election.terms) == (7, 1, 3, 2)
    assert (election.noticed_ms, election.elected_ms) == (5.0, 28.0)

    handed_over = [change(2, 2, "candidate", 5), change(3, 2, "leader", 5, 2), change(4, 3, "follower", 5, 2)]
    handed_over.append(change(70, 3, "pre-candidate", 5))
    assert elections.election_of(handed_over, 1, killed_at) is None
    with pytest.raises(UnavailableError, match="a majority did not learn"):
        elections.election_of(changes[:4], 1, killed_at)


def test_partitions_reports_what_each_number_of_them_costs(tmp_path: Path) -> None:
    report, stdout = report_of(
        tmp_path, "partitions.py", "--partitions", "4", "40", "--idle-s", "0.5", "--rest-s", "0.5"
    )
    assert [row["partitions"] for row in report["rows"]] == [4, 40]
    for row in report["rows"]:
        assert 0 < row["killed_led"] <= row["partitions"]
        for name in ("formed_s", "restarted_s", "memory_bytes", "served_s", "returned_s"):
            assert row[name] > 0, name
        assert f"{row['restarted_s']:.2f}" in stdout


def test_migration_reports_what_clients_notice_of_moves_splits_and_merges(tmp_path: Path) -> None:
    report, stdout = report_of(tmp_path, "migration.py", "--megabytes", "1", "--split-keys", "2000")
    assert (report["megabytes"], report["split_keys"], report["losses"]) == (1, 2000, [])
    for name in ("moved", "split", "merged"):
        noticed = report[name]
        assert noticed["seconds"] > 0
        assert noticed["writes"] > 100
        assert_distribution(noticed["before"])
    assert report["moved"]["stages_s"]["done"] == pytest.approx(0, abs=0.5)
    assert "lost or applied twice: 0" in stdout


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
