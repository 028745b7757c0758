"""``noctule cluster``, ``partition``, ``migrate`` and ``rebalance``: what is asked, printed, and refused."""

import json
from types import TracebackType
from typing import Any, ClassVar, Self

import pytest

from noctule.cli.asking import size, words_of
from noctule.cli.main import main
from noctule.client.pictures import Cluster, NewToken, RebalanceBegun, Token
from noctule.core.meta.settings import ClusterSettings, change_settings
from noctule.core.meta.views import (
    ComparedReplica,
    ComparedView,
    MemberView,
    OperationView,
    PartitionView,
    ProgressView,
    Reach,
    ReplicaView,
)
from noctule.core.placement.partition_map import PartitionState
from noctule.core.placement.picture import Blocked, LeaderMove, Move, Plan
from noctule.core.placement.risk import Risk
from noctule.core.roster.members import MemberState

HASH = "ab" * 32
MOVE = OperationView(
    "migration", 7, 3, "transfer", 1, 4, progress=ProgressView(1 << 20, 4 << 20, 10, 40, 5, 1 << 20, 3.0)
)


def member(node: int, state: str = "active", replicas: int = 3, *, alive: bool = True) -> MemberView:
    return MemberView(
        node, MemberState(state), alive, "", "", "h:7501", "", {"zone": "a"}, 1.0, "1.0", (), 0, 2, replicas, 2048, 0
    )


class Nodes:
    """Stands in for the client: remembers what was asked, and gives a node that is drained step by step."""

    calls: ClassVar[list[tuple[Any, ...]]] = []
    replicas: ClassVar[list[int]] = []
    states: ClassVar[list[str]] = []
    stages: ClassVar[list[str]] = []
    danger: ClassVar[tuple[int, ...]] = ()
    others: ClassVar[tuple[ComparedReplica, ...]] = (ComparedReplica(2, "equal"),)

    def __init__(self, url: str, *, deadline_s: float = 10.0) -> None:
        self.url = url
        assert deadline_s > 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def members(self) -> list[MemberView]:
        return [member(1), member(2, alive=False), member(3, "left", 0, alive=False)]

    async def member(self, node: int) -> MemberView:
        left = self.replicas.pop(0) if len(self.replicas) > 1 else self.replicas[0]
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return member(node, state, left)

    async def drain(self, node: int) -> MemberView:
        self.calls.append(("drain", node))
        return member(node, "draining")

    async def leave(self, node: int) -> MemberView:
        self.calls.append(("leave", node))
        return member(node, "left", 0)

    async def risk(self, node: int) -> Risk:
        return Risk(
            node, (1,), {0: 1}, (), (), self.danger, 10, ("Data are lost.",) if self.danger else ("All is well.",)
        )

    async def remove(self, node: int, *, force: bool) -> MemberView:
        self.calls.append(("remove", node, force))
        return member(node, "removed", 1)

    async def create_token(self, *, reusable: bool, ttl_s: float, note: str) -> NewToken:
        self.calls.append(("token", reusable, ttl_s, note))
        return NewToken("noctule-secret", HASH, reusable, 0, note)

    async def tokens(self) -> list[Token]:
        return [Token(HASH, False, 0, "", 1), Token("ac" * 32, True, 1_000, "x", 2)]

    async def revoke_token(self, token_hash: str) -> None:
        self.calls.append(("revoke", token_hash))

    async def change_settings(self, values: dict[str, Any]) -> ClusterSettings:
        self.calls.append(("set", values))
        return change_settings(ClusterSettings(), values)

    async def partitions(self) -> list[PartitionView]:
        replicas = (ReplicaView(1, "leader", 0), ReplicaView(2, "voter", 5), ReplicaView(4, "learner", 9))
        return [PartitionView(3, 0, 16_383, PartitionState.ACTIVE, 8, 1, replicas, 1 << 20, 12, 3)]

    async def compare(self, partition: int) -> ComparedView:
        self.calls.append(("compare", partition))
        verdicts = (ComparedReplica(1, "equal"), *self.others, ComparedReplica(4, "equal"))
        return ComparedView(partition, 4711, verdicts)

    async def cluster(self) -> Cluster:
        differing = {3: tuple(each.node for each in self.others if each.verdict == "different")}
        shown = {partition: nodes for partition, nodes in differing.items() if nodes}
        return Cluster(1, "c", "1.0", 1, 7, 1.0, "/d", "", False, [], [], {}, {}, [], differing=shown)

    async def reach(self) -> tuple[int, list[Reach]]:
        return 1, [Reach(2, True, True, 0.5)]

    async def migrate(self, partition: int, source: int, target: int) -> OperationView:
        self.calls.append(("migrate", partition, source, target))
        return MOVE

    async def migration(self, migration: int) -> OperationView:
        stage = self.stages.pop(0)
        return OperationView("migration", migration, 3, stage, 1, 4, ended_ms=0 if stage == "update" else 5)

    async def merge(self, partition: int) -> OperationView:
        self.calls.append(("merge", partition))
        return OperationView("merge", 2, partition, "fence", other=4)

    async def plan(self) -> Plan:
        return Plan((Move(1, 0, 4, "too few replicas"),), (LeaderMove(2, 3, "even"),), (Blocked((5,), "no room"),))

    async def rebalance(self) -> RebalanceBegun:
        return RebalanceBegun([7], 2, 3, ["busy"])


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch) -> type[Nodes]:
    class Fresh(Nodes):
        calls: ClassVar[list[tuple[Any, ...]]] = []
        replicas: ClassVar[list[int]] = [2, 2, 1, 0]
        states: ClassVar[list[str]] = ["draining"]
        stages: ClassVar[list[str]] = []

    monkeypatch.setattr("noctule.client.admin.AdminClient", Fresh)
    monkeypatch.setattr("noctule.cli.cluster_nodes.LOOK_S", 0.0)
    monkeypatch.setattr("noctule.cli.migrate.LOOK_S", 0.0)
    monkeypatch.delenv("NOCTULE_NODE", raising=False)
    return Fresh


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    assert main(words) == code
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_leave_drains_waits_and_leaves(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    nodes.states[:] = ["active", "active", "draining"]
    out, err = run(capsys, "cluster", "leave", "4", "--yes")
    assert nodes.calls == [("drain", 4), ("leave", 4)]
    assert out == "node 4 has left and holds 0 partitions\n"
    assert err == "", "no bars where there is no terminal"


def test_a_wait_that_is_too_long_says_what_is_in_the_way(
    nodes: type[Nodes], capsys: pytest.CaptureFixture[str]
) -> None:
    nodes.replicas[:] = [2]
    _, err = run(capsys, "cluster", "drain", "4", "--wait", "--timeout-s", "0.01", code=3)
    assert "node 4 still holds 2 partitions: no room" in err


def test_a_node_that_is_taken_back_while_it_is_waited_for_does_not_leave(
    nodes: type[Nodes], capsys: pytest.CaptureFixture[str]
) -> None:
    nodes.states[:] = ["draining", "draining", "draining", "active"]
    nodes.replicas[:] = [2]
    _, err = run(capsys, "cluster", "leave", "4", "--yes", code=4)
    assert "not draining any more" in err
    assert nodes.calls == []


def test_what_destroys_asks_and_where_nobody_is_refuses(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("cluster", "leave", "4"), ("cluster", "remove", "4"), ("partition", "merge", "3")):
        _, err = run(capsys, *words, code=2)
        assert "give --yes to go on" in err
    assert nodes.calls == []


def test_a_dangerous_removal_takes_more_than_yes(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    nodes.danger = (1,)
    _, err = run(capsys, "cluster", "remove", "4", "--yes", code=4)
    assert "Data are lost." in err
    assert nodes.calls == []
    run(capsys, "cluster", "remove", "4", "--yes", "--force")
    assert nodes.calls == [("remove", 4, True)]


def test_a_removal_says_first_what_is_at_stake(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "cluster", "remove", "4", "--yes")
    assert err == "All is well.\n"
    assert out == "node 4 is removed and holds 1 partitions\n"


def test_a_token_alone_is_on_stdout(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "cluster", "token", "create", "--reusable", "--ttl-s", "60", "--note", "rack")
    assert out == "noctule-secret\n"
    assert "any number of nodes" in err
    assert nodes.calls == [("token", True, 60.0, "rack")]


def test_a_token_is_revoked_by_the_beginning_of_its_hash(
    nodes: type[Nodes], capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "cluster", "token", "revoke", "abab")
    assert nodes.calls == [("revoke", HASH)]
    assert "2 tokens begin with 'a'" in run(capsys, "cluster", "token", "revoke", "a", code=4)[1]
    assert "0 tokens" in run(capsys, "cluster", "token", "revoke", "noctule-x", code=4)[1]


def test_settings_are_read_as_what_they_are(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    words = ("rebalance_enabled=false", "split_bytes=1_000_000_000", "migration_timeout_s=2.5")
    out, _ = run(capsys, "cluster", "set", *words)
    assert nodes.calls == [
        (
            "set",
            {
                "rebalance_enabled": False,
                "split_bytes": 1_000_000_000,
                "migration_timeout_s": 2.5,
            },
        )
    ]
    assert out.splitlines()[0] == "rebalance_enabled = false"
    assert "is not of the form KEY=VALUE" in run(capsys, "cluster", "set", "x", code=2)[1]


def test_nodes_and_partitions_are_tables(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "cluster", "nodes")
    rows = [line.split() for line in out.splitlines()]
    assert ["1", "active", "2", "3", "2.0", "KiB", "0", "B", "1", "zone=a", "1.0", "h:7501"] in rows
    assert any(row[:4] == ["2", "active,", "not", "reached"] for row in rows)
    assert any(row[:2] == ["3", "left"] for row in rows)
    out, _ = run(capsys, "partition", "list")
    rows = [line.split() for line in out.splitlines()]
    assert ["3", "0–16383", "active", "1", "1", "2(5)", "4*(9)", "1.0", "MiB", "12", "3", "8"] in rows


def test_replicas_are_compared_partition_by_partition(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "partition", "check")
    assert nodes.calls == [("compare", 3)]
    assert ["3", "4711", "1", "2", "4", "-", "-"] in [line.split() for line in out.splitlines()]
    nodes.others = (ComparedReplica(2, "silent"),)
    run(capsys, "partition", "check", "5", code=3)
    nodes.others = (ComparedReplica(2, "different"), ComparedReplica(3, "silent"))
    out, _ = run(capsys, "partition", "check", "5", code=1)
    assert nodes.calls[1:] == [("compare", 5)] * 2
    assert ["5", "4711", "1", "4", "2", "3"] in [line.split() for line in out.splitlines()]
    document = json.loads(run(capsys, "partition", "check", "5", "--json", code=1)[0])
    assert document["partitions"][0]["replicas"][1] == {"node": 2, "verdict": "different"}


def test_a_check_of_the_cluster_tells_of_replicas_that_differ(
    nodes: type[Nodes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "cluster", "check")[0].endswith("no replicas were found to differ\n")
    nodes.others = (ComparedReplica(2, "different"),)
    out, _ = run(capsys, "cluster", "check", code=1)
    sentence = "what node 2 holds differs from what most replicas hold: noctule partition check 3"
    assert out.splitlines()[-1] == f"partition 3: {sentence}"
    assert json.loads(run(capsys, "cluster", "check", "--json", code=1)[0])["differing"] == {"3": [2]}


def test_a_migration_is_watched_to_its_end(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    nodes.stages[:] = ["update", "done"]
    out, err = run(capsys, "migrate", "start", "3", "--from", "1", "--to", "4", "--watch")
    assert nodes.calls == [("migrate", 3, 1, 4)]
    assert "done" in out
    assert err == ""
    nodes.stages[:] = ["update", "rolled back"]
    run(capsys, "migrate", "status", "7", "--watch", code=1)
    assert "say --from, --to" in run(capsys, "migrate", "start", "3", code=2)[1]


def test_progress_in_words() -> None:
    assert words_of(MOVE) == "transfer, 1.0 MiB of 4.0 MiB, 10 of 40 keys, 1.0 MiB/s, 3 s left"
    assert size(5 << 30) == "5.0 GiB"


def test_a_plan_is_told_with_its_reasons(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "rebalance", "--dry-run")
    assert "too few replicas" in out
    assert "blocked: no room" in out
    assert json.loads(run(capsys, "rebalance", "--dry-run", "--json")[0])["blocked"][0]["partitions"] == [5]


def test_rebalancing_is_begun_paused_and_resumed(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "rebalance")
    assert out == "begun: 1 migration, 2 changes of leader\n"
    assert "not begun: busy" in err
    assert run(capsys, "rebalance", "--pause")[0] == "rebalancing is paused\n"
    assert run(capsys, "rebalance", "--resume")[0] == "rebalancing goes on\n"
    assert nodes.calls == [("set", {"rebalance_enabled": False}), ("set", {"rebalance_enabled": True})]
    assert "say one of" in run(capsys, "rebalance", "--pause", "--resume", code=2)[1]
