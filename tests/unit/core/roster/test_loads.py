"""Reports of what groups cost: news only, the later term, and how a migration gets on."""

import msgspec

from noctule.base.ids import GroupId, Instant
from noctule.core.roster.loads import GroupLoad, LoadBoard, LoadReport, MoveProgress


def test_only_what_differs_is_news_until_somebody_new_connects() -> None:
    board = LoadBoard()
    loads = [GroupLoad(1, 3, 10), GroupLoad(2, 3, 20)]
    assert board.news(loads) == loads
    assert board.news(loads) == []
    moving = msgspec.structs.replace(loads[0], move=MoveProgress(7, "transfer", 1, 10))
    assert board.news([moving, loads[1]]) == [moving]
    assert board.news(loads) == [loads[0]], "that it has ended is news too"
    board.tell_again()
    assert board.news(loads) == loads


def test_the_later_term_is_right() -> None:
    board = LoadBoard()
    board.take(1, LoadReport([GroupLoad(1, 5)], 100), Instant(1.0))
    board.take(2, LoadReport([GroupLoad(1, 4)], 200), Instant(2.0))
    assert board.leader_of(GroupId(1)) == 1
    assert board.memory_bytes == {1: 100, 2: 200}
    board.take(2, LoadReport([GroupLoad(1, 6)]), Instant(3.0))
    assert board.leader_of(GroupId(1)) == 2


def test_an_older_release_neither_sends_nor_minds_progress() -> None:
    sent = msgspec.msgpack.encode([1, 2, 3, 4, 5, [1], [], {}])
    assert msgspec.msgpack.decode(sent, type=GroupLoad) == GroupLoad(1, 2, 3, 4, 5, (1,), (), {})
    load = GroupLoad(1, 2, move=MoveProgress(7, "transfer", 1, 10, seconds_left=2.5))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(load), type=GroupLoad) == load
