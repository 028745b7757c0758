"""How soon a process that ended is started again."""

from noctule.deploy.local.restarts import CRASHES_MAX, DELAY_S_MAX, DELAY_S_MIN, SETTLED_S, RestartPolicy


def test_the_wait_doubles_up_to_its_bound() -> None:
    policy = RestartPolicy()
    delays = [policy.ended(alive_s=5, served_s=4) for _ in range(9)]
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert not policy.is_broken, "it served each time"


def test_a_process_that_lived_long_is_started_again_at_once() -> None:
    policy = RestartPolicy()
    for _ in range(5):
        policy.ended(alive_s=5, served_s=4)
    assert policy.ended(alive_s=SETTLED_S, served_s=9) == DELAY_S_MIN
    assert policy.ended(alive_s=1, served_s=1) == 2 * DELAY_S_MIN


def test_an_app_that_crashes_again_and_again_stays_down_and_is_tried_rarely() -> None:
    policy = RestartPolicy()
    delays: list[float] = []
    for _ in range(CRASHES_MAX + 1):
        assert not policy.is_broken or len(delays) >= CRASHES_MAX
        delays.append(policy.ended(alive_s=0.5, served_s=0))
    assert delays == [0.05, 0.1, 0.2, 0.4, DELAY_S_MAX, DELAY_S_MAX]
    assert policy.is_broken


def test_an_app_that_takes_long_to_crash_at_import_has_crashed_too() -> None:
    policy = RestartPolicy()
    for _ in range(CRASHES_MAX):
        policy.ended(alive_s=4.0, served_s=0)
    assert policy.is_broken


def test_serving_for_a_while_ends_the_count() -> None:
    policy = RestartPolicy()
    for _ in range(CRASHES_MAX - 1):
        policy.ended(alive_s=0.5, served_s=0)
    policy.ended(alive_s=20, served_s=19)
    policy.ended(alive_s=0.5, served_s=0)
    assert not policy.is_broken
    assert policy.crashes == 1
