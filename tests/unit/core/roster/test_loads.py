"""What leaders tell of their groups: only news, the later term is right, nothing is told for ever."""

import msgspec
import pytest

from noctule.base.ids import GroupId
from noctule.core.roster import loads as loads_module
from noctule.core.roster.loads import GroupLoad, LoadBoard, LoadReport, MoveProgress


def test_the_later_term_is_right_whoever_comes_last() -> None:
    board = LoadBoard()
    board.take(1, LoadReport([GroupLoad(4, 3, keys=30)]))
    board.take(2, LoadReport([GroupLoad(4, 2, keys=20)]))
    known = board.load_of(GroupId(4))
    assert (known and known.keys, board.leader_of(GroupId(4))) == (30, 1)
    board.take(2, LoadReport([GroupLoad(4, 5, keys=50)]))
    known = board.load_of(GroupId(4))
    assert (known and known.keys, board.leader_of(GroupId(4))) == (50, 2)
    assert [load.keys for load in board] == [50]


def test_nobody_has_told_anything() -> None:
    board = LoadBoard()
    assert (board.load_of(GroupId(1)), board.leader_of(GroupId(1)), list(board)) == (None, 0, [])


def test_every_report_says_what_its_teller_takes() -> None:
    board = LoadBoard()
    board.take(3, LoadReport([], memory_bytes=99))
    assert (board.memory_bytes, board.version) == ({3: 99}, 0)
    board.take(3, LoadReport([GroupLoad(1, 1)], memory_bytes=100))
    assert (board.memory_bytes, board.version) == ({3: 100}, 1)


def test_only_what_has_changed_is_news() -> None:
    board, loads = LoadBoard(), [GroupLoad(1, 1, keys=1), GroupLoad(2, 1, keys=2)]
    assert board.news(loads) == loads
    assert board.news(loads) == []
    changed = msgspec.structs.replace(loads[1], keys=3)
    assert board.news([loads[0], changed]) == [changed]


def test_nothing_is_told_where_nothing_is_news() -> None:
    board, loads = LoadBoard(), [GroupLoad(1, 1, keys=1)]
    assert board.report(loads, 1_600) == LoadReport(loads, 1_600)
    assert board.report(loads, 1_700) is None
    assert board.report(loads, 1_701) == LoadReport([], 1_701), "a sixteenth more is news"
    assert board.report(loads, 1_701) is None
    board.tell_again()
    assert board.report(loads, 1_701) == LoadReport(loads, 1_701)


def test_somebody_new_is_told_everything() -> None:
    board, loads = LoadBoard(), [GroupLoad(1, 1), GroupLoad(2, 1)]
    board.news(loads)
    board.tell_again()
    assert board.news(loads) == loads


def test_a_group_that_is_no_more_is_forgotten_on_both_sides() -> None:
    board, load = LoadBoard(), GroupLoad(1, 1)
    board.take(1, LoadReport(board.news([load])))
    board.forget(GroupId(1))
    assert board.load_of(GroupId(1)) is None
    assert board.news([load]) == [load]


def test_what_does_not_fit_one_report_is_told_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads_module, "REPORT_GROUPS_MAX", 2)
    board, loads = LoadBoard(), [GroupLoad(group, 1) for group in range(1, 6)]
    assert [[load.group for load in board.news(loads)] for _ in range(4)] == [[1, 2], [3, 4], [5], []]


def test_an_older_release_neither_sends_nor_minds_progress() -> None:
    sent = msgspec.msgpack.encode([1, 2, 3, 4, 5, [1], [], {}])
    assert msgspec.msgpack.decode(sent, type=GroupLoad) == GroupLoad(1, 2, 3, 4, 5, (1,), (), {})
    load = GroupLoad(1, 2, move=MoveProgress(7, "transfer", 1, 10, seconds_left=2.5))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(load), type=GroupLoad) == load
