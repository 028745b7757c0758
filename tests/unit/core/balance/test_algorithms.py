"""The algorithms: shares are as the weights say, keys stay where they were, newcomers are not swamped."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.base.errors import RequestError
from noctule.base.ids import Instant
from noctule.core.balance.balancer import (
    HASH_OVERLOAD,
    INSTANCES_MAX,
    WEIGHT_MAX,
    Algorithm,
    Balancer,
    BalancerRules,
    InstanceState,
    Ticket,
)
from noctule.core.balance.hash_ring import HashRing
from noctule.core.balance.instances import SLOW_START_SHARE_MIN

START = Instant(100.0)
ALL = list(Algorithm)
weights = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10), min_size=1)


def balancer_of(instances: dict[str, int], algorithm: Algorithm = Algorithm.ROUND_ROBIN, **rules: float) -> Balancer:
    balancer = Balancer(BalancerRules(algorithm, **rules))  # type: ignore[arg-type]
    for instance_id, weight in instances.items():
        balancer.add(instance_id, weight, healthy_since=START)
    return balancer


def request(balancer: Balancer, now: Instant = START, key: str = "") -> Ticket:
    chosen = balancer.choose(now, key=key)
    assert chosen is not None
    return balancer.begin(chosen)


def spread(balancer: Balancer, count: int, now: Instant = START) -> Counter[str]:
    """Where so many requests go, one after the other."""
    counts: Counter[str] = Counter()
    for number in range(count):
        ticket = request(balancer, now, key=str(number))
        counts[ticket.instance_id] += 1
        balancer.end(ticket)
    balancer.check()
    return counts


@given(weights, st.sampled_from([Algorithm.ROUND_ROBIN, Algorithm.LEAST_CONNECTIONS]), st.integers(1, 200))
def test_turns_are_as_often_as_weights_say_at_every_moment(
    instances: dict[str, int], algorithm: Algorithm, count: int
) -> None:
    """Smooth: never more than one request ahead of its part, however few there were."""
    counts = spread(balancer_of(instances, algorithm), count)
    for instance_id, weight in instances.items():
        assert abs(counts[instance_id] - count * weight / sum(instances.values())) <= len(instances)


@given(weights)
def test_a_whole_round_is_exact(instances: dict[str, int]) -> None:
    total = sum(instances.values())
    assert spread(balancer_of(instances), 3 * total) == {name: 3 * weight for name, weight in instances.items()}


@given(weights, st.integers(1, 100))
def test_least_connections_holds_what_is_in_flight_by_weight(instances: dict[str, int], count: int) -> None:
    balancer = balancer_of(instances, Algorithm.LEAST_CONNECTIONS)
    for _ in range(count):
        request(balancer)
    for load in balancer.describe().instances:
        assert load.in_flight <= count * load.weight / sum(instances.values()) + load.weight


@pytest.mark.parametrize("algorithm", [Algorithm.ROUND_ROBIN, Algorithm.LEAST_CONNECTIONS])
def test_one_that_was_away_does_not_catch_up(algorithm: Algorithm) -> None:
    """Its turn is long past when it comes back; without care it would get every request until it had caught up."""
    balancer = balancer_of({"a": 1, "b": 1}, algorithm)
    balancer.drain("b")
    spread(balancer, 1_000)
    balancer.undrain("b")
    balancer.add("c", healthy_since=START)
    assert max(spread(balancer, 30).values()) <= 11


def test_one_that_was_busy_for_long_does_not_catch_up_either() -> None:
    """While it held one long request, all others went elsewhere; once it is idle again it gets its half and no more."""
    balancer = balancer_of({"a": 1, "b": 1}, Algorithm.LEAST_CONNECTIONS)
    long = request(balancer)
    spread(balancer, 1_000)
    balancer.end(long)
    assert max(spread(balancer, 30).values()) <= 16


def test_slow_start_grows_from_a_tenth_to_all() -> None:
    balancer = balancer_of({"a": 1, "b": 1}, slow_start_s=10.0)
    long_after = Instant(START + 100.0)
    balancer.failed(request(balancer), START, is_gone=True)
    back = next(load.id for load in balancer.describe().instances if load.state is InstanceState.UNHEALTHY)
    balancer.probed(back, long_after, is_good=True)
    moments = [Instant(long_after + elapsed) for elapsed in (0.0, 5.0, 10.0, 50.0)]
    shares = [spread(balancer, 1_100, moment)[back] / 1_100 for moment in moments]
    assert shares[0] == pytest.approx(SLOW_START_SHARE_MIN / (1 + SLOW_START_SHARE_MIN), abs=0.01)
    assert shares[1:] == pytest.approx([1 / 3, 1 / 2, 1 / 2], abs=0.01)


def test_slow_start_counts_under_load_too() -> None:
    balancer = balancer_of({"a": 1}, Algorithm.LEAST_CONNECTIONS, slow_start_s=10.0)
    balancer.choose(Instant(START + 20.0))
    later = Instant(START + 30.0)
    balancer.add("b", healthy_since=later)
    for _ in range(110):
        request(balancer, later)
    assert balancer.in_flight("b") == pytest.approx(10, abs=1)


@pytest.mark.parametrize("algorithm", ALL)
def test_connections_max_is_never_passed(algorithm: Algorithm) -> None:
    balancer = balancer_of({"a": 1, "b": 5}, algorithm, connections_max=3)
    tickets = [request(balancer, key=str(number)) for number in range(6)]
    assert balancer.choose(START, key="x") is None
    balancer.end(tickets[0])
    assert balancer.choose(START, key="x") == tickets[0].instance_id


@pytest.mark.parametrize("algorithm", ALL)
def test_nobody_gets_anything_while_draining_or_unhealthy(algorithm: Algorithm) -> None:
    balancer = balancer_of({"a": 1, "b": 1, "c": 1}, algorithm)
    balancer.drain("a")
    balancer.probed("b", START, is_good=False, is_gone=True)
    assert set(spread(balancer, 100)) == {"c"}
    assert balancer.choose(START, {"c"}, "x") is None


def test_what_was_watched_while_draining_counts_afterwards() -> None:
    balancer = balancer_of({"a": 1, "b": 1})
    balancer.drain("a")
    balancer.probed("a", START, is_good=False, is_gone=True)
    balancer.undrain("a")
    assert balancer.state("a") is InstanceState.UNHEALTHY
    balancer.drain("a")
    balancer.probed("a", START, is_good=True)
    balancer.undrain("a")
    assert balancer.state("a") is InstanceState.HEALTHY
    balancer.check()


# --- Hashes ---


def homes(balancer: Balancer, keys: int = 2_000) -> dict[str, str]:
    found = {str(key): balancer.choose(START, key=str(key)) for key in range(keys)}
    assert all(found.values())
    return {key: home for key, home in found.items() if home}


def test_a_key_keeps_its_instance_and_only_those_of_one_that_left_move() -> None:
    balancer = balancer_of(dict.fromkeys("abcdefghij", 1), Algorithm.CONSISTENT_HASH)
    before = homes(balancer)
    assert homes(balancer) == before
    balancer.remove("c")
    after = homes(balancer)
    assert {key for key in before if before[key] != after[key]} == {key for key in before if before[key] == "c"}
    balancer.add("c", healthy_since=START)
    assert homes(balancer) == before


def test_one_that_is_unhealthy_finds_its_keys_again() -> None:
    balancer = balancer_of(dict.fromkeys("abc", 1), Algorithm.IP_HASH)
    before = homes(balancer)
    balancer.probed("b", START, is_good=False, is_gone=True)
    assert all(home == before[key] for key, home in homes(balancer).items() if before[key] != "b")
    balancer.probed("b", START, is_good=True)
    assert homes(balancer) == before


@given(st.integers(2, 30), st.integers(0, 1_000))
@settings(max_examples=25, deadline=None)
def test_about_one_of_n_keys_moves_to_a_newcomer(count: int, salt: int) -> None:
    """With 128 points each, the newcomer's part is within a factor of two of its even share; no other key moves."""
    balancer = balancer_of({f"{salt}-{number}": 1 for number in range(count)}, Algorithm.CONSISTENT_HASH)
    before = homes(balancer)
    balancer.add("new", healthy_since=START)
    moved = [key for key, home in homes(balancer).items() if home != before[key]]
    assert all(balancer.choose(START, key=key) == "new" for key in moved)
    even = len(before) / (count + 1)
    assert even / 2 - 5 < len(moved) < even * 2 + 5


def test_weights_count_in_hashes() -> None:
    counts = Counter(homes(balancer_of({"a": 1, "b": 3}, Algorithm.CONSISTENT_HASH), 10_000).values())
    assert counts["b"] / counts["a"] == pytest.approx(3, rel=0.35)


@given(st.lists(st.sampled_from(["hot", "x", "y", "z"]), min_size=1, max_size=80))
def test_one_hot_key_does_not_drown_its_instance(keys: list[str]) -> None:
    balancer = balancer_of(dict.fromkeys("abcd", 1), Algorithm.CONSISTENT_HASH)
    for count, key in enumerate(keys, start=1):
        ticket = request(balancer, key=key)
        assert balancer.in_flight(ticket.instance_id) <= HASH_OVERLOAD * count / 4 + 1
    balancer.check()


def test_a_retry_goes_on_to_the_next_on_the_ring() -> None:
    balancer = balancer_of(dict.fromkeys("abc", 1), Algorithm.CONSISTENT_HASH)
    tried: set[str] = set()
    while (chosen := balancer.choose(START, tried, "key")) is not None:
        tried.add(chosen)
    assert tried == set("abc")


def test_a_ring_of_a_thousand_changes_one_members_points_only() -> None:
    ring = HashRing()
    members = {f"web-{number}": 1 for number in range(INSTANCES_MAX - 1)}
    ring.set_members(members)
    before = {str(key): next(ring.walk(str(key))) for key in range(500)}
    ring.set_members({**members, "new": 1})
    moved = {key for key, home in before.items() if next(ring.walk(key)) != home}
    assert len(moved) <= 5
    assert len(list(ring.walk("x"))) == INSTANCES_MAX
    ring.set_members(members)
    assert {key: next(ring.walk(key)) for key in before} == before


def test_whoever_knows_the_same_members_finds_the_same_home() -> None:
    """Workers, and gateways on other machines, learn of the instances in different orders."""
    one, other = HashRing(), HashRing()
    one.set_members({"a": 1, "b": 2, "c": 1})
    other.set_members({"c": 1})
    other.set_members({"b": 2, "c": 1, "x": 9})
    other.set_members({"b": 2, "a": 1, "c": 1})
    assert all(list(one.walk(str(key))) == list(other.walk(str(key))) for key in range(300))


def test_many_changes_cost_one_new_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand instances that came at once took 20 s, for each of them the ring was made anew."""
    made: list[int] = []
    make = HashRing.set_members

    def count(ring: HashRing, weights: dict[str, int]) -> None:
        made.append(len(weights))
        make(ring, weights)

    monkeypatch.setattr(HashRing, "set_members", count)
    balancer = balancer_of({f"web-{number}": 1 for number in range(100)}, Algorithm.IP_HASH, slow_start_s=10.0)
    for _ in range(5):
        request(balancer, key="x")
    assert made == [100]


def test_an_empty_ring_has_nobody() -> None:
    assert list(HashRing().walk("x")) == []
    assert Balancer(BalancerRules(Algorithm.IP_HASH)).choose(START, key="x") is None


# --- Changes ---


def test_other_rules_and_weights_count_from_the_next_decision_on() -> None:
    balancer = balancer_of({"a": 1, "b": 1})
    balancer.set_weight("b", 3)
    assert spread(balancer, 400) == {"a": 100, "b": 300}
    balancer.configure(BalancerRules(Algorithm.CONSISTENT_HASH))
    assert balancer.choose(START, key="k") == balancer.choose(START, key="k")
    with pytest.raises(RequestError, match=f"weight 0; it must be 1 to {WEIGHT_MAX}"):
        balancer.set_weight("b", 0)


def test_without_a_bound_on_failures_only_probes_take_out() -> None:
    balancer = balancer_of({"a": 1}, failures_max=0)
    for _ in range(50):
        ticket = request(balancer)
        balancer.failed(ticket, START, is_gone=True)
        balancer.end(ticket)
    assert balancer.state("a") is InstanceState.HEALTHY
    for _ in range(3):
        balancer.probed("a", START, is_good=False)
    assert balancer.state("a") is InstanceState.UNHEALTHY


def test_bounds_of_the_rules_are_the_services() -> None:
    balancer = balancer_of({"a": 1}, failures_max=2, unhealthy_s=5.0)
    for _ in range(2):
        ticket = request(balancer)
        balancer.failed(ticket, START)
        balancer.end(ticket)
    assert balancer.choose(Instant(START + 4.9)) is None
    assert balancer.choose(Instant(START + 5.0)) == "a"
