"""Who gets the next request: spread, health, trials, draining, and that the counters always agree."""

import random

import pytest

from noctule.base.errors import InternalError, RequestError
from noctule.base.ids import Instant
from noctule.core.balance.balancer import (
    FAILURES_IN_A_ROW_MAX,
    INSTANCES_MAX,
    UNHEALTHY_S,
    Balancer,
    InstanceState,
    Ticket,
)

START = Instant(100.0)


def later(seconds: float) -> Instant:
    return Instant(START + seconds)


def healthy(*ids: str) -> Balancer:
    balancer = Balancer()
    for instance_id in ids:
        balancer.add(instance_id)
        balancer.probed(instance_id, START, is_good=True)
    return balancer


def begin(balancer: Balancer, now: Instant = START) -> Ticket:
    chosen = balancer.choose(now)
    assert chosen is not None
    return balancer.begin(chosen)


def fail(balancer: Balancer, now: Instant = START, *, is_gone: bool = False) -> None:
    ticket = begin(balancer, now)
    balancer.failed(ticket, now, is_gone=is_gone)
    balancer.end(ticket)
    balancer.check()


def succeed(balancer: Balancer, now: Instant = START) -> None:
    ticket = begin(balancer, now)
    balancer.succeeded(ticket, START)
    balancer.end(ticket)
    balancer.check()


def test_idle_traffic_is_spread_evenly() -> None:
    balancer = healthy("a", "b", "c")
    for _ in range(30):
        succeed(balancer)
    assert [load.requests for load in balancer.describe().instances] == [10, 10, 10]


def test_the_fewest_in_flight_wins_over_the_turn() -> None:
    balancer = healthy("a", "b", "c")
    held = [begin(balancer) for _ in range(6)]
    for ticket in held:
        if ticket.instance_id == "b":
            balancer.end(ticket)
    assert [begin(balancer).instance_id for _ in range(2)] == ["b", "b"]


def test_weight_counts_under_load() -> None:
    balancer = Balancer()
    balancer.add("small", weight=1)
    balancer.add("large", weight=3)
    for instance_id in ("small", "large"):
        balancer.probed(instance_id, START, is_good=True)
    for _ in range(40):
        begin(balancer)
    assert {load.id: load.in_flight for load in balancer.describe().instances} == {"small": 10, "large": 30}


def test_excluded_instances_are_not_chosen_and_asking_changes_nothing() -> None:
    balancer = healthy("a", "b")
    assert balancer.choose(START, {"a"}) == "b"
    assert balancer.choose(START, {"a"}) == "b"
    assert balancer.choose(START, frozenset({"a", "b"})) is None
    assert [load.requests for load in balancer.describe().instances] == [0, 0]


def test_a_starting_instance_gets_nothing_until_its_first_good_probe() -> None:
    balancer = Balancer()
    balancer.add("a")
    for _ in range(10):
        balancer.probed("a", START, is_good=False, is_gone=True)
    assert balancer.choose(later(1_000)) is None
    assert balancer.state("a") is InstanceState.STARTING
    balancer.probed("a", later(1_000), is_good=True)
    assert balancer.choose(later(1_000)) == "a"


def test_failures_in_a_row_make_it_unhealthy_and_a_success_between_forgives() -> None:
    balancer = healthy("a")
    for _ in range(5):
        fail(balancer)
        fail(balancer)
        succeed(balancer)
    assert balancer.state("a") is InstanceState.HEALTHY
    for _ in range(FAILURES_IN_A_ROW_MAX):
        fail(balancer)
    assert balancer.state("a") is InstanceState.UNHEALTHY
    assert balancer.choose(later(UNHEALTHY_S - 0.001)) is None


def test_an_instance_that_is_gone_is_out_at_the_first_failure() -> None:
    balancer = healthy("a", "b")
    fail(balancer, is_gone=True)
    assert balancer.state("a") is InstanceState.UNHEALTHY
    assert {begin(balancer).instance_id for _ in range(10)} == {"b"}


def test_after_the_period_one_trial_at_a_time_and_its_success_heals() -> None:
    balancer = healthy("a")
    fail(balancer, is_gone=True)
    after = later(UNHEALTHY_S)
    trial = begin(balancer, after)
    assert balancer.choose(after) is None
    balancer.check()
    balancer.succeeded(trial, after)
    assert balancer.state("a") is InstanceState.HEALTHY
    assert balancer.choose(after) == "a"
    balancer.end(trial)
    balancer.check()


def test_a_failed_trial_begins_the_period_anew() -> None:
    balancer = healthy("a")
    fail(balancer, is_gone=True)
    fail(balancer, later(UNHEALTHY_S))
    assert balancer.choose(later(2 * UNHEALTHY_S - 0.001)) is None
    assert balancer.choose(later(2 * UNHEALTHY_S)) == "a"


def test_a_trial_without_a_verdict_lets_the_next_one_in() -> None:
    """The client went away: that says nothing of the instance, and must not lock it out for ever."""
    balancer = healthy("a")
    fail(balancer, is_gone=True)
    after = later(UNHEALTHY_S)
    balancer.end(begin(balancer, after))
    assert balancer.state("a") is InstanceState.UNHEALTHY
    assert balancer.choose(after) == "a"


def test_an_answer_from_before_the_failure_does_not_heal() -> None:
    balancer = healthy("a")
    slow = begin(balancer)
    fail(balancer, is_gone=True)
    balancer.succeeded(slow, START)
    assert balancer.state("a") is InstanceState.UNHEALTHY


def test_failed_probes_count_and_one_good_probe_heals_early() -> None:
    balancer = healthy("a")
    for _ in range(FAILURES_IN_A_ROW_MAX - 1):
        balancer.probed("a", START, is_good=False)
    assert balancer.state("a") is InstanceState.HEALTHY
    balancer.probed("a", START, is_good=False)
    assert balancer.state("a") is InstanceState.UNHEALTHY
    balancer.probed("a", later(0.5), is_good=True)
    assert balancer.choose(later(0.5)) == "a"
    balancer.check()


def test_a_probe_that_finds_nobody_there_is_enough() -> None:
    balancer = healthy("a")
    balancer.probed("a", START, is_good=False, is_gone=True)
    assert balancer.state("a") is InstanceState.UNHEALTHY


def test_no_trial_while_probes_keep_failing() -> None:
    balancer = healthy("a")
    fail(balancer, is_gone=True)
    balancer.probed("a", later(UNHEALTHY_S - 1), is_good=False)
    assert balancer.choose(later(UNHEALTHY_S + 1)) is None


def test_draining_ends_new_requests_and_nothing_brings_it_back() -> None:
    balancer = healthy("a", "b")
    ticket = balancer.begin("a")
    balancer.drain("a")
    assert {begin(balancer).instance_id for _ in range(5)} == {"b"}
    balancer.probed("a", START, is_good=True)
    balancer.succeeded(ticket, START)
    assert balancer.state("a") is InstanceState.DRAINING
    assert balancer.in_flight("a") == 1
    balancer.end(ticket)
    assert balancer.in_flight("a") == 0
    balancer.check()


def test_a_ticket_outlives_its_instance_and_does_not_touch_its_successor() -> None:
    balancer = healthy("a")
    old = begin(balancer)
    balancer.remove("a")
    balancer.add("a")
    balancer.probed("a", START, is_good=True)
    balancer.failed(old, START, is_gone=True)
    balancer.end(old)
    assert balancer.state("a") is InstanceState.HEALTHY
    assert balancer.in_flight("a") == 0
    balancer.check()


def test_a_ticket_is_ended_once() -> None:
    balancer = healthy("a")
    ticket = begin(balancer)
    balancer.end(ticket)
    with pytest.raises(InternalError, match="ended once"):
        balancer.end(ticket)
    assert balancer.in_flight("a") == 0


def test_bad_calls_are_refused_and_change_nothing() -> None:
    balancer = healthy("a")
    before = balancer.describe()
    with pytest.raises(RequestError, match="'a' is there already"):
        balancer.add("a")
    with pytest.raises(RequestError, match="weight 0"):
        balancer.add("b", weight=0)
    for call in (balancer.remove, balancer.drain, balancer.state, balancer.in_flight, balancer.begin):
        with pytest.raises(RequestError, match=r"no instance 'x'; known are \['a'\]"):
            call("x")
    assert balancer.describe() == before


def test_the_number_of_instances_is_bounded() -> None:
    balancer = Balancer()
    for number in range(INSTANCES_MAX):
        balancer.add(f"web-{number}")
    with pytest.raises(RequestError, match="one too many"):
        balancer.add("web-more")


@pytest.mark.parametrize("seed", range(20))
def test_invariants_hold_under_any_order_of_events(seed: int) -> None:
    """Also: whoever is chosen may be begun, and the same seed gives the same picture."""
    assert _run(seed) == _run(seed)


def _run(seed: int) -> object:
    chance = random.Random(seed)
    balancer = healthy("a", "b", "c")
    open_tickets: list[Ticket] = []
    removed = 0
    now = START
    for step in range(400):
        now = Instant(now + chance.choice((0.0, 0.1, 20.0)))
        known = [load.id for load in balancer.describe().instances]
        event = chance.randrange(8)
        if event <= 2 and (chosen := balancer.choose(now)) is not None:
            assert balancer.state(chosen) in (InstanceState.HEALTHY, InstanceState.UNHEALTHY)
            open_tickets.append(balancer.begin(chosen))
        elif event == 3 and open_tickets:
            balancer.succeeded(chance.choice(open_tickets), now)
        elif event == 4 and open_tickets:
            # Each request fails once at most, as in the gateway.
            ticket = open_tickets.pop(chance.randrange(len(open_tickets)))
            balancer.failed(ticket, now, is_gone=chance.random() < 0.3)
            balancer.end(ticket)
        elif event == 5 and open_tickets:
            balancer.end(open_tickets.pop(chance.randrange(len(open_tickets))))
        elif event == 6:
            balancer.probed(chance.choice(known), now, is_good=chance.random() < 0.6, is_gone=chance.random() < 0.2)
        elif event == 7 and chance.random() < 0.1:
            removed += 1
            balancer.remove(known[0])
            balancer.add(f"new-{step}")
        balancer.check()
    for ticket in open_tickets:
        balancer.end(ticket)
    balancer.check()
    picture = balancer.describe()
    assert sum(load.in_flight for load in picture.instances) == 0
    return picture, removed
