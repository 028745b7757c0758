"""Initial placement: domains first, then equal counts; and the same in every process."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.base.errors import RequestError
from noctule.core.placement.domains import Domains
from noctule.core.placement.picture import NodePicture
from noctule.core.placement.replicas import place_replicas
from noctule.core.roster.members import Member

Sites = list[NodePicture]


@st.composite
def labelled_sites(draw: st.DrawFn) -> Sites:
    """Up to 14 nodes on hosts in racks in zones, of any shape; some say less than others."""
    sites = []
    for number in range(1, draw(st.integers(1, 14)) + 1):
        labels = {}
        if draw(st.booleans()):
            labels["host"] = f"h{draw(st.integers(0, 5))}"
        if draw(st.integers(0, 3)):
            labels["rack"] = str(draw(st.integers(0, 3)))
            labels["zone"] = draw(st.sampled_from(["a", "b"]))
        sites.append(NodePicture(id=number, labels=labels))
    return sites


def counts(placed: list[tuple[int, ...]], sites: Sites) -> list[int]:
    held = Counter(node for nodes in placed for node in nodes)
    return [held[site.id] for site in sites]


def leaders(placed: list[tuple[int, ...]], sites: Sites) -> list[int]:
    led = Counter(nodes[0] for nodes in placed)
    return [led[site.id] for site in sites]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 60))
def test_equal_nodes_have_equal_counts(count: int, factor: int, partitions: int) -> None:
    sites = [NodePicture(id=number) for number in range(1, count + 1)]
    placed = place_replicas(range(1, partitions + 1), sites, factor)
    assert all(len(set(nodes)) == len(nodes) == min(factor, count) for nodes in placed)
    assert max(counts(placed, sites)) - min(counts(placed, sites)) <= 1
    assert max(leaders(placed, sites)) - min(leaders(placed, sites)) <= 1


@settings(max_examples=100, deadline=None)
@given(labelled_sites(), st.integers(1, 5), st.integers(1, 40))
def test_domains_are_shared_only_where_there_is_no_other(sites: Sites, factor: int, partitions: int) -> None:
    """Against an independent reckoning: no exchange of one replica makes any partition better spread."""
    placed = place_replicas(range(1, partitions + 1), sites, factor)

    def spread(nodes: tuple[int, ...]) -> tuple[int, int, int]:
        mine = [site for site in sites if site.id in nodes]
        hosts = [site.labels.get("host", site.id) for site in mine]
        racks = [(site.labels.get("zone"), site.labels.get("rack")) for site in mine]
        zones = [site.labels.get("zone") for site in mine]
        return tuple(sum(each * (each - 1) for each in Counter(level).values()) for level in (hosts, racks, zones))  # type: ignore[return-value]

    for nodes in placed:
        for out in nodes:
            for site in sites:
                if site.id not in nodes:
                    exchanged = (*(node for node in nodes if node != out), site.id)
                    assert spread(nodes)[:1] <= spread(exchanged)[:1]
                    if not any("host" in each.labels for each in sites):
                        assert spread(nodes) <= spread(exchanged)


def test_nine_nodes_in_three_racks() -> None:
    sites = [NodePicture(id=number, labels={"rack": f"r{number % 3}"}) for number in range(1, 10)]
    placed = place_replicas(range(1, 101), sites, 3)
    assert all({node % 3 for node in nodes} == {0, 1, 2} for nodes in placed)
    assert max(counts(placed, sites)) - min(counts(placed, sites)) <= 1
    assert max(leaders(placed, sites)) - min(leaders(placed, sites)) <= 1


def test_two_processes_on_one_host_are_one_domain() -> None:
    sites = [NodePicture(id=number, labels={"host": f"h{(number - 1) // 2}"}) for number in range(1, 9)]
    placed = place_replicas(range(1, 51), sites, 3)
    assert all(len({(node - 1) // 2 for node in nodes}) == 3 for nodes in placed)
    assert max(counts(placed, sites)) - min(counts(placed, sites)) <= 1


def test_a_small_rack_is_filled_and_evenly() -> None:
    """Racks of 1, 2 and 4 nodes: each gets one replica of everything, however few its nodes are."""
    racks = [0, 1, 1, 2, 2, 2, 2]
    sites = [NodePicture(id=number, labels={"rack": str(rack)}) for number, rack in enumerate(racks, start=1)]
    placed = place_replicas(range(1, 101), sites, 3)
    assert counts(placed, sites) == [100, 50, 50, 25, 25, 25, 25]
    # Seven nodes lead 100 partitions between them, as evenly as 14 or 15.
    assert sorted(leaders(placed, sites)) == [14, 14, 14, 14, 14, 15, 15]


def test_rack_names_are_of_their_zone_and_unlabelled_nodes_share_the_unknown_one() -> None:
    a = NodePicture(id=1, labels={"zone": "a", "rack": "1"})
    b = NodePicture(id=2, labels={"zone": "b", "rack": "1"})
    c, d = NodePicture(id=3), NodePicture(id=4)
    domains = Domains([a, b, c, d])
    assert domains.clashes([1, 2, 3]) == 0
    assert domains.shared([1, 2, 3]) == ""
    assert domains.shared([1, 3, 4]) == "rack"
    assert Domains([c, d]).clashes([3, 4]) == 0
    assert Domains([a, b]).neighbourhood(99) == ()


def test_weights_are_shares_and_zero_takes_none() -> None:
    weights = [2.0, 1.0, 1.0, 1.0, 0.0]
    sites = [NodePicture(id=number, weight=weight) for number, weight in enumerate(weights, start=1)]
    placed = place_replicas(range(1, 101), sites, 2)
    held = counts(placed, sites)
    assert held[0] == pytest.approx(80, abs=2)
    assert held[1:4] == pytest.approx([40, 40, 40], abs=2)
    assert held[4] == 0


def test_members_of_the_roster_are_sites() -> None:
    members = [Member(id=number, peer="") for number in range(1, 4)]
    assert {tuple(sorted(nodes)) for nodes in place_replicas([1, 2], members, 3)} == {(1, 2, 3)}


def test_what_cannot_be_placed_is_refused() -> None:
    with pytest.raises(RequestError, match="weight"):
        place_replicas([1], [NodePicture(id=1, weight=0)], 1)
    with pytest.raises(RequestError, match="weight"):
        place_replicas([1], [NodePicture(id=1)], 0)
