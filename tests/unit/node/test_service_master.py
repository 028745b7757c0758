"""Whom Sentinel's clients are sent to."""

from noctule.node.service_master import ServiceMaster


def test_it_is_the_leader_of_meta_while_that_is_alive() -> None:
    master = ServiceMaster()
    assert master.choose(2, [1, 2, 3]) == 2
    assert master.choose(3, [1, 2, 3]) == 3


def test_without_a_leader_it_stays_who_it_was() -> None:
    """An election is not news to a client whose node goes on."""
    master = ServiceMaster()
    master.choose(2, [1, 2, 3])
    assert master.choose(0, [1, 2, 3]) == 2
    assert master.choose(3, [1, 2]) == 2, "a leader that is not alive from here is none"


def test_when_it_dies_the_lowest_that_is_alive_takes_over_until_there_is_a_leader() -> None:
    master = ServiceMaster()
    master.choose(1, [1, 2, 3])
    assert master.choose(1, [2, 3]) == 2
    assert master.choose(0, [2, 3]) == 2
    assert master.choose(3, [2, 3]) == 3


def test_before_anything_is_known_it_is_the_lowest() -> None:
    assert ServiceMaster().choose(0, [3, 2]) == 2
