"""The scripts of bench/ that kill nodes or move what they hold, with tiny counts: what was lost would be found."""

import importlib
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from bench_scripts import BENCH, assert_distribution, finish, report_of, start
from engines import wait_until

from noctule.base.errors import UnavailableError

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines",)
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server"), pytest.mark.timeout(300)]


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
