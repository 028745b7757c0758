"""At which index what was changed, as far as it is remembered."""

import pytest

from noctule.core.registry import topics as module
from noctule.core.registry.topics import Topics


def changed(topics: Topics, index: int, *names: str) -> None:
    for name in names:
        topics.touch(name)
    topics.commit(index)


def test_a_topic_has_the_index_of_its_last_change_and_the_floor_before_any() -> None:
    topics = Topics(5)
    changed(topics, 6, "a", "b")
    changed(topics, 7, "a")
    assert [topics.index_of(name) for name in "abc"] == [7, 6, 5]
    assert list(topics.since(5) or ()) == ["a", "b"]
    assert list(topics.since(6) or ()) == ["a"]
    assert list(topics.since(7) or ()) == []
    assert topics.since(4) is None


def test_what_is_taken_back_touched_nothing() -> None:
    topics = Topics()
    topics.touch("a")
    assert topics.is_touched
    topics.forget()
    assert not topics.is_touched
    topics.commit(2)
    assert topics.index_of("a") == 1


def test_what_is_forgotten_raises_the_floor_so_that_no_index_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOPICS_MAX", 2)
    topics = Topics()
    changed(topics, 2, "a")
    changed(topics, 3, "b")
    changed(topics, 4, "a", "c")
    assert [topics.index_of(name) for name in "abcd"] == [4, 3, 4, 3]
    assert topics.since(2) is None
    assert sorted(topics.since(3) or ()) == ["a", "c"]
