"""Which host of the store is tried first, and when the preference moves."""

from noctule.kits.store_hosts import Hosts

A, B, C = ("a", 1), ("b", 2), ("c", 3)


def test_hosts_are_tried_in_the_order_of_the_url_at_first() -> None:
    assert Hosts([A, B, C]).in_order() == [A, B, C]


def test_the_host_that_worked_is_tried_first_and_the_others_follow_round() -> None:
    hosts = Hosts([A, B, C])
    hosts.worked(B)
    assert hosts.in_order() == [B, C, A]
    assert hosts.turn == 1


def test_many_connections_that_fail_together_move_the_preference_once() -> None:
    """Sixty connections to a killed node must not go round all hosts and come back to the dead one."""
    hosts = Hosts([A, B, C])
    for _ in range(60):
        hosts.failed(A)
    assert hosts.in_order()[0] == B
    assert hosts.turn == 1


def test_the_turn_rises_only_when_the_preference_moves() -> None:
    hosts = Hosts([A])
    hosts.worked(A)
    hosts.failed(A)
    assert hosts.turn == 0
    assert hosts.in_order() == [A]
