"""Looking after a cluster over HTTP, against the real state of *meta*."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest

from noctule.base.errors import OutcomeUnknownError, UnavailableError
from noctule.base.ids import GroupId
from noctule.core.meta.operations import (
    AdvanceMigration,
    Answer,
    BeginMerge,
    BeginMigration,
    BeginSplit,
    FinishSplit,
    Operation,
)
from noctule.core.meta.state import MetaState
from noctule.core.meta.tokens import hash_token
from noctule.core.meta.views import differing_replicas
from noctule.core.migration.stages import Stage
from noctule.core.placement.picture import LeaderMove, Move, Plan
from noctule.core.roster.loads import Compared, GroupLoad, LoadReport, MoveProgress
from noctule.core.roster.members import MemberState
from tests.unit.core.meta.formed import ask as ask_meta

from .http_fakes import FakeNode, ask, error_of

MIB = 1 << 20


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


async def call(fake: FakeNode, method: str, target: str, /, **body: object) -> Any:
    answer = await ask(fake, method, target, msgspec.json.encode(body) if body else b"")
    assert answer.status == 200, answer.body
    return msgspec.json.decode(answer.body)


async def refusal(fake: FakeNode, method: str, target: str, status: int = 400, /, **body: object) -> str:
    answer = await ask(fake, method, target, msgspec.json.encode(body) if body else b"")
    assert answer.status == status, answer.body
    return error_of(answer).message


def tell(node: FakeNode, sender: int, *loads: GroupLoad, memory: int = 0) -> None:
    node.cluster.board.take(sender, LoadReport(list(loads), memory))


# Nodes ----------------------------------------------------------------------------------------------------------------


async def test_nodes_show_what_they_hold_and_lead(node: FakeNode) -> None:
    node.cluster.silent = {3}
    tell(node, 2, GroupLoad(1, 4, bytes_used=10, keys=1), GroupLoad(2, 4, bytes_used=30), memory=77)
    nodes = {each["id"]: each for each in (await call(node, "GET", "/api/nodes"))["nodes"]}
    assert list(nodes) == [1, 2, 3, 4, 5]
    assert [nodes[each]["alive"] for each in nodes] == [True, True, False, True, True]
    assert [nodes[each]["replicas"] for each in nodes] == [2, 2, 3, 3, 2]
    assert [nodes[each]["leads"] for each in nodes] == [0, 2, 0, 0, 0]
    assert (nodes[2]["bytes"], nodes[2]["memory_bytes"], nodes[1]["bytes"]) == (40, 77, 10)
    assert await call(node, "GET", "/api/nodes/2") == nodes[2]


async def test_a_node_that_is_not_there_is_not_found(node: FakeNode) -> None:
    for method, path in (("GET", ""), ("POST", "/drain"), ("POST", "/remove"), ("GET", "/risk"), ("PATCH", "")):
        assert "there is no node 9" in await refusal(node, method, f"/api/nodes/9{path}", 404)
    assert "a whole number from 1" in await refusal(node, "GET", "/api/nodes/x")


async def test_drain_activate_drain_leave(node: FakeNode) -> None:
    assert (await call(node, "POST", "/api/nodes/4/drain"))["state"] == "draining"
    assert (await call(node, "POST", "/api/nodes/4/activate"))["state"] == "active"
    await call(node, "POST", "/api/nodes/4/drain")
    assert "node 4 still holds partitions 2, 3, 4: drain it" in await refusal(node, "POST", "/api/nodes/4/leave")
    for partition, target in ((2, 1), (3, 1), (4, 2)):
        migrate(node, partition, 4, target)
    assert (await call(node, "POST", "/api/nodes/4/leave"))["state"] == "left"
    assert "taken out" in await refusal(node, "POST", "/api/nodes/4/activate")


def migrate(node: FakeNode, partition: int, source: int, target: int) -> None:
    """A whole migration, stage by stage."""
    meta = node.cluster.meta
    number = ask_meta(meta, BeginMigration(partition, source, target))
    assert isinstance(number, int)
    stages = (Stage.PREPARE, Stage.TRANSFER, Stage.VERIFY, Stage.UPDATE, Stage.CLEANUP, Stage.DONE)
    for stage, following in pairwise(stages):
        ask_meta(meta, AdvanceMigration(number, stage, following))


async def test_a_dangerous_removal_needs_force(node: FakeNode) -> None:
    node.cluster.silent = {1, 2}
    sentence = await refusal(node, "POST", "/api/nodes/1/remove")
    assert "Partitions without a majority: 1." in sentence
    assert "force" in sentence
    assert node.cluster.meta.roster[1].state is MemberState.ACTIVE
    risk = await call(node, "GET", "/api/nodes/1/risk")
    assert risk["without_majority"] == [1]
    assert risk["sentences"][0] in sentence
    assert (await call(node, "POST", "/api/nodes/1/remove?force=true"))["state"] == "removed"


async def test_a_removal_that_loses_nothing_needs_none(node: FakeNode) -> None:
    node.cluster.silent = {1}
    assert (await call(node, "POST", "/api/nodes/1/remove"))["state"] == "removed"


async def test_weight_and_labels_are_changed_each_alone(node: FakeNode) -> None:
    changed = await call(node, "PATCH", "/api/nodes/2", labels={"zone": "a"})
    assert (changed["labels"], changed["weight"]) == ({"zone": "a"}, 1.0)
    changed = await call(node, "PATCH", "/api/nodes/2", weight=0)
    assert (changed["labels"], changed["weight"]) == ({"zone": "a"}, 0.0)
    assert (await call(node, "PATCH", "/api/nodes/2", labels={}))["labels"] == {}
    assert "a weight is 0 or more" in await refusal(node, "PATCH", "/api/nodes/2", weight=-1)
    assert "unknown field" in await refusal(node, "PATCH", "/api/nodes/2", state="left")


# Tokens and settings --------------------------------------------------------------------------------------------------


async def test_a_token_is_told_once_and_revoked_by_its_hash(node: FakeNode) -> None:
    made = await call(node, "POST", "/api/tokens", reusable=True, ttl_s=60, note="rack 7")
    assert made["hash"] == hash_token(made["text"])
    listed = await call(node, "GET", "/api/tokens")
    assert [(each["hash"], each["reusable"], each["note"]) for each in listed["tokens"]] == [
        (made["hash"], True, "rack 7")
    ]
    assert made["text"] not in msgspec.json.encode(listed).decode()
    await call(node, "DELETE", f"/api/tokens/{made['hash']}")
    assert (await call(node, "GET", "/api/tokens")) == {"tokens": []}
    assert "there is no such token" in await refusal(node, "DELETE", f"/api/tokens/{made['hash']}", 404)


async def test_a_token_without_wishes_is_for_one_node_and_a_day(node: FakeNode) -> None:
    made = await call(node, "POST", "/api/tokens")
    assert made["reusable"] is False
    assert made["expires_ms"] > 0
    assert (await call(node, "POST", "/api/tokens", ttl_s=0))["expires_ms"] == 0
    assert "ttl_s" in await refusal(node, "POST", "/api/tokens", ttl_s=-1)


async def test_settings_are_changed_together_or_not_at_all(node: FakeNode) -> None:
    assert (await call(node, "GET", "/api/settings"))["rebalance_enabled"] is True
    changed = await call(node, "PATCH", "/api/settings", rebalance_enabled=False, migrations_concurrent_max=7)
    assert (changed["rebalance_enabled"], changed["migrations_concurrent_max"]) == (False, 7)
    sentence = await refusal(node, "PATCH", "/api/settings", rebalance_enabled=True, replication_factor=99, bogus=1)
    assert "'bogus' is no setting" in sentence
    assert "replication_factor must be from 1" in sentence
    assert (await call(node, "GET", "/api/settings")) == changed
    assert "name at least one" in await refusal(node, "PATCH", "/api/settings")


async def test_a_node_that_knows_no_cluster_yet_denies_nothing(node: FakeNode) -> None:
    node.cluster.meta = MetaState()
    for path in ("/api/nodes/1", "/api/partitions/1"):
        answer = await ask(node, "GET", path)
        assert error_of(answer).code == "unavailable"


# Partitions -----------------------------------------------------------------------------------------------------------


async def test_partitions_come_in_the_order_of_their_slots_page_by_page(node: FakeNode) -> None:
    child = ask_meta(node.cluster.meta, BeginSplit(1, 100))
    assert isinstance(child, int)
    ask_meta(node.cluster.meta, FinishSplit(child))
    page = await call(node, "GET", "/api/partitions?limit=3")
    assert (page["total"], [each["id"] for each in page["partitions"]]) == (5, [1, child, 2])
    page = await call(node, "GET", "/api/partitions?after=3&limit=3")
    assert [each["id"] for each in page["partitions"]] == [3, 4]
    assert page["epoch"] == node.cluster.meta.map.epoch


async def test_a_split_that_was_faster_than_its_answer_is_shown_as_done(node: FakeNode) -> None:
    cluster, operate = node.cluster, node.cluster.operate

    async def operate_and_finish(operation: Operation) -> Answer:
        child = await operate(operation)
        assert isinstance(child, int)
        await operate(FinishSplit(child))
        return child

    cluster.operate = operate_and_finish  # type: ignore[method-assign]
    split = await call(node, "POST", "/api/partitions/1/split", at_slot=100)
    assert (split["kind"], split["partition"], split["other"], split["stage"]) == ("split", 1, 5, "done")
    assert (split["at_slot"], split["ended_ms"] > 0) == (100, True)


async def test_a_partition_shows_what_its_leader_told(node: FakeNode) -> None:
    load = GroupLoad(2, 5, 3 * MIB, 17, 250, voters=(2, 3), learners=(9,), lag_entries={3: 4})
    tell(node, 2, load)
    shown = await call(node, "GET", "/api/partitions/2")
    assert (shown["leader"], shown["bytes"], shown["keys"], shown["requests_per_s"]) == (2, 3 * MIB, 17, 250)
    assert shown["replicas"] == [
        {"node": 2, "role": "leader", "lag_entries": 0},
        {"node": 3, "role": "voter", "lag_entries": 4},
        {"node": 4, "role": "unknown", "lag_entries": None},
    ]
    silent = await call(node, "GET", "/api/partitions/1")
    assert (silent["leader"], silent["replicas"][0]["lag_entries"]) == (0, None)
    assert "there is no partition 99" in await refusal(node, "GET", "/api/partitions/99", 404)


async def test_replicas_that_differ_are_shown_while_they_are_there(node: FakeNode) -> None:
    tell(node, 2, GroupLoad(2, 5, compared=Compared(b"n", 7, equal=(3,), different=(2, 9))))
    assert (await call(node, "GET", "/api/partitions/2"))["differing"] == [2], "node 9 has no replica any more"
    assert differing_replicas(node.cluster.meta.map, node.cluster.board) == {2: (2,)}
    tell(node, 2, GroupLoad(2, 5, compared=Compared(b"n", 9, equal=(2, 3, 4))))
    assert (await call(node, "GET", "/api/partitions/2"))["differing"] == []
    assert differing_replicas(node.cluster.meta.map, node.cluster.board) == {}


async def test_replicas_are_compared_when_asked_for(node: FakeNode) -> None:
    assert await call(node, "POST", "/api/partitions/2/digest") == {
        "partition": 2,
        "index": 7,
        "replicas": [
            {"node": 2, "verdict": "different"},
            {"node": 3, "verdict": "equal"},
            {"node": 4, "verdict": "equal"},
            {"node": 9, "verdict": "silent"},
        ],
    }
    assert "there is no partition 99" in await refusal(node, "POST", "/api/partitions/99/digest", 404)
    node.cluster.failure = UnavailableError("nobody leads")
    assert "nobody leads" in await refusal(node, "POST", "/api/partitions/2/digest", 503)


async def test_a_split_is_in_the_middle_unless_said_otherwise(node: FakeNode) -> None:
    begun = await call(node, "POST", "/api/partitions/1/split")
    assert (begun["kind"], begun["partition"], begun["other"], begun["at_slot"]) == ("split", 1, 5, 2048)
    assert (await call(node, "POST", "/api/partitions/2/split", at_slot=5000))["at_slot"] == 5000
    assert "does not divide" in await refusal(node, "POST", "/api/partitions/3/split", at_slot=1)
    assert "busy" in await refusal(node, "POST", "/api/partitions/1/split")


async def test_a_merge_is_with_the_right_neighbour(node: FakeNode) -> None:
    begun = await call(node, "POST", "/api/partitions/2/merge")
    assert (begun["kind"], begun["partition"], begun["other"], begun["stage"]) == ("merge", 2, 3, "fence")
    assert "has no right neighbour" in await refusal(node, "POST", "/api/partitions/4/merge")


async def test_another_replica_is_preferred(node: FakeNode) -> None:
    shown = await call(node, "POST", "/api/partitions/1/leader", node=3)
    assert [each["node"] for each in shown["replicas"]] == [3, 1, 2]
    assert "has no replica" in await refusal(node, "POST", "/api/partitions/1/leader", node=5)
    assert "`$.node`" in await refusal(node, "POST", "/api/partitions/1/leader", node="x")
    assert "`node`" in await refusal(node, "POST", "/api/partitions/1/leader")


# Migrations -----------------------------------------------------------------------------------------------------------


async def test_a_migration_is_begun_shown_with_its_progress_and_taken_back(node: FakeNode) -> None:
    begun = await call(node, "POST", "/api/partitions/1/migrate", source=1, target=4)
    number = begun["id"]
    assert (begun["kind"], begun["stage"], begun["progress"]) == ("migration", "prepare", None)
    tell(node, 1, GroupLoad(1, 2, move=MoveProgress(number, "prepare", 10, 40, 1, 4, 3, 20.0, 1.5)))
    progress = (await call(node, "GET", f"/api/migrations/{number}"))["progress"]
    assert (progress["bytes_done"], progress["bytes_total"], progress["seconds_left"]) == (10, 40, 1.5)
    assert (await call(node, "POST", f"/api/migrations/{number}/cancel"))["stage"] == "rollback"
    assert "cannot be taken back" in await refusal(node, "POST", f"/api/migrations/{number}/cancel")
    assert "there is no migration 77" in await refusal(node, "GET", "/api/migrations/77", 404)


async def test_progress_of_an_earlier_migration_is_not_shown(node: FakeNode) -> None:
    tell(node, 1, GroupLoad(1, 2, move=MoveProgress(76, "transfer", 10, 40)))
    assert (await call(node, "POST", "/api/partitions/1/migrate", source=1, target=4))["progress"] is None


async def test_everything_on_its_way_is_listed_with_its_kind(node: FakeNode) -> None:
    migrate(node, 4, 5, 2)
    ask_meta(node.cluster.meta, BeginSplit(1, 100))
    ask_meta(node.cluster.meta, BeginMerge(2, 3))
    listed = (await call(node, "GET", "/api/migrations"))["migrations"]
    assert sorted((each["kind"], each["stage"]) for each in listed) == [
        ("merge", "fence"),
        ("migration", "done"),
        ("split", "splitting"),
    ]
    running = (await call(node, "GET", "/api/migrations?running=true"))["migrations"]
    assert sorted(each["kind"] for each in running) == ["merge", "split"]


async def test_a_plan_is_shown_and_its_first_moves_are_begun(node: FakeNode) -> None:
    moves = (Move(1, 1, 4, "a"), Move(1, 2, 5, "busy by then"), Move(2, 2, 1, "b"), Move(3, 3, 1, "over the limit"))
    node.cluster.planned = Plan(moves, (LeaderMove(4, 5, "leads little"),))
    await call(node, "PATCH", "/api/settings", rebalance_enabled=False)
    shown = await call(node, "GET", "/api/rebalance")
    assert [each["reason"] for each in shown["moves"]] == ["a", "busy by then", "b", "over the limit"]
    assert node.cluster.meta.migrations == {}
    begun = await call(node, "POST", "/api/rebalance")
    assert (begun["migrations"], begun["leader_moves"], begun["left"]) == ([1, 2], 1, 2)
    assert ["busy" in sentence for sentence in begun["refused"]] == [True]
    part = node.cluster.meta.map.get(GroupId(4))
    assert part is not None
    assert part.replicas[0] == 5


@pytest.mark.parametrize(("failure", "status"), [(UnavailableError("no leader"), 503), (OutcomeUnknownError("?"), 504)])
async def test_what_meta_could_not_do_is_told_as_of_any_write(node: FakeNode, failure: Exception, status: int) -> None:
    node.cluster.failure = failure
    answer = await ask(node, "POST", "/api/nodes/1/drain")
    assert answer.status == status


async def test_a_part_behind_the_id_takes_its_own_methods(node: FakeNode) -> None:
    assert (await ask(node, "GET", "/api/nodes/1/drain")).headers["Allow"] == "POST"
    assert (await ask(node, "POST", "/api/nodes/1")).headers["Allow"] == "GET, HEAD, PATCH"
    assert (await ask(node, "GET", "/api/nodes/1/bogus")).status == 400
    assert (await ask(node, "GET", "/api/kv/a/b/drain")).status == 404


async def test_the_picture_of_the_cluster_says_whether_it_is_formed(node: FakeNode) -> None:
    shown = await call(node, "GET", "/api/cluster")
    assert {"cluster_id", "epoch", "formed"} <= shown.keys()


async def test_a_node_says_how_it_reaches_the_others(node: FakeNode) -> None:
    node.cluster.silent = {3}
    answer = await ask(node, "GET", "/api/reach")
    shown = msgspec.json.decode(answer.body)
    assert shown["node"] == 1
    told = {each["node"]: (each["is_connected"], each["call_ms"]) for each in shown["others"]}
    assert 1 not in told
    assert told[2] == (True, 0.5)
    assert told[3] == (False, None)
