"""Server-sent events: what a client is told, and what not."""

import asyncio

import msgspec
import pytest

from noctule.core.meta.operations import (
    AdvanceMigration,
    BeginMigration,
    BeginSplit,
    FinishSplit,
    PreferLeader,
    SetMemberState,
)
from noctule.core.migration.stages import Stage
from noctule.core.roster.loads import GroupLoad, LoadReport, MoveProgress
from noctule.core.roster.members import MemberState
from noctule.servers import http_events
from noctule.servers.http_events import Told, stream_events
from tests.unit.core.meta.formed import ask as ask_meta

from .http_fakes import FakeAdministration, FakeNode, ask


def read(pieces: list[bytes]) -> list[tuple[str, dict[str, object]]]:
    """Names and data, by the format's own rules."""
    events = []
    for piece in pieces:
        name, data, *rest = piece.split(b"\n")
        assert rest == [b"", b""]
        events.append((name.removeprefix(b"event: ").decode(), msgspec.json.decode(data.removeprefix(b"data: "))))
    return events


@pytest.fixture
def cluster() -> FakeAdministration:
    return FakeAdministration()


def test_first_come_all_members_and_then_only_those_that_change(cluster: FakeAdministration) -> None:
    told = Told(cluster)
    assert [data["id"] for _, data in read(told.news())] == [1, 2, 3, 4, 5]
    assert told.news() == []
    cluster.silent = {2}
    ask_meta(cluster.meta, SetMemberState(4, MemberState.DRAINING))
    assert [(name, data["id"], data["alive"], data["state"]) for name, data in read(told.news())] == [
        ("member", 2, False, "active"),
        ("member", 4, True, "draining"),
    ]


def test_partitions_that_changed_and_that_are_gone(cluster: FakeAdministration) -> None:
    told = Told(cluster)
    told.news()
    ask_meta(cluster.meta, PreferLeader(2, 3))
    assert [(name, data["id"]) for name, data in read(told.news())] == [("partition", 2)]


def test_a_migration_from_its_beginning_to_its_end(cluster: FakeAdministration) -> None:
    told = Told(cluster)
    told.news()
    ask_meta(cluster.meta, BeginMigration(1, 1, 4))
    seen = [read(told.news())[-1]]
    cluster.board.take(1, LoadReport([GroupLoad(1, 2, move=MoveProgress(1, "prepare", 5, 10))]))
    seen += read(told.news())
    ask_meta(cluster.meta, AdvanceMigration(1, Stage.PREPARE, Stage.ROLLBACK, "because"))
    ask_meta(cluster.meta, AdvanceMigration(1, Stage.ROLLBACK, Stage.ROLLED_BACK))
    seen += read(told.news())
    moves = [data for name, data in seen if name == "migration"]
    assert [each["stage"] for each in moves] == ["prepare", "prepare", "rolled back"]
    assert [each["progress"] and True for each in moves] == [None, True, None]
    assert moves[-1]["note"] == "because"
    assert told.news() == []


def test_a_split_that_was_done(cluster: FakeAdministration) -> None:
    told = Told(cluster)
    child = ask_meta(cluster.meta, BeginSplit(1, 100))
    assert isinstance(child, int)
    told.news()
    ask_meta(cluster.meta, FinishSplit(child))
    events = read(told.news())
    assert [data["stage"] for name, data in events if name == "migration"] == ["done"]
    assert {data["id"] for name, data in events if name == "partition"} == {1, child}


async def test_a_change_is_told_soon_and_silence_is_a_comment(
    cluster: FakeAdministration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_events, "LOOK_S", 0.01)
    monkeypatch.setattr(http_events, "PAUSE_S", 0.0)
    monkeypatch.setattr(http_events, "HEARTBEAT_S", 0.02)
    async with asyncio.timeout(5):
        stream = stream_events(cluster)
        first = read([await anext(stream)])
        assert first == [("cluster", {"cluster_id": "bats", "epoch": cluster.meta.map.epoch})]
        for _ in range(5):
            await anext(stream)
        assert (await anext(stream)).startswith(b": ")
        await cluster.operate(SetMemberState(4, MemberState.DRAINING))
        while (piece := await anext(stream)).startswith(b": "):
            pass
        assert read([piece])[0][1]["state"] == "draining"


async def test_the_answer_is_a_stream(cluster: FakeAdministration) -> None:
    answer = await ask(FakeNode(), "GET", "/api/events")
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    assert answer.stream is not None
