"""The engines try routes in the order of the embedded gateway, whatever they are asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.balance.routing import RouteTable
from noctule.gateway.engines.order import (
    PLACES,
    bounds_of_shares,
    is_within,
    plain_path,
    serves_host,
    specific_first,
)
from noctule.gateway.model import Route, Share

HOSTS = ("", "a.b.c", "b.c", "*.b.c", "*.c", "c", "x.y")
PATHS = ("/", "/a", "/a/", "/a/b", "/ab", "/a/b/c")
HEADERS = ({}, {"X-One": "1"}, {"x-one": "2"}, {"X-One": "1", "X-Two": "1"})


@st.composite
def routes(draw: st.DrawFn) -> list[Route]:
    found = draw(
        st.lists(
            st.tuples(st.sampled_from(HOSTS), st.sampled_from(PATHS), st.sampled_from(range(len(HEADERS)))),
            max_size=8,
            unique_by=lambda each: (each[0], each[1].rstrip("/"), each[2]),
        )
    )
    names = draw(st.permutations([f"r{number}" for number in range(len(found))]))
    return [
        Route(name=name, host=host, path=path, headers=HEADERS[headers], shares=(Share("s"),))
        for name, (host, path, headers) in zip(names, found, strict=True)
    ]


REQUESTS = st.tuples(
    st.sampled_from(("a.b.c", "b.c", "z.a.b.c", "c", "x.y", "q")),
    st.sampled_from(("/", "/a", "/a/b", "/a/bc", "/ab", "/abc", "/a/b/c/d", "//a")),
    st.sampled_from(({}, {"x-one": "1"}, {"x-one": "2"}, {"x-one": "1", "x-two": "1"})),
)


@given(routes(), REQUESTS)
def test_the_first_that_matches_is_the_embedded_gateways(
    given_routes: list[Route], request: tuple[str, str, dict[str, str]]
) -> None:
    """As HAProxy's rules do it: one after the other."""
    host, path, headers = request
    first = next(
        (
            route
            for route in specific_first(given_routes)
            if serves_host(route, host)
            and (not plain_path(route) or is_within(path, plain_path(route)))
            and all(headers.get(name.lower()) == value for name, value in route.headers.items())
        ),
        None,
    )
    assert first == RouteTable(given_routes).match(host, path, headers.get)


@given(routes(), REQUESTS)
def test_a_tree_of_hosts_and_paths_finds_the_same(
    given_routes: list[Route], request: tuple[str, str, dict[str, str]]
) -> None:
    """As nginx does it: the server of the best host, in it the longest path, and only then what else matches there."""
    host, path, headers = request
    hosts = {route.host for route in given_routes} | {""}
    servers = [each for each in hosts if each == host or (each.startswith("*.") and host.endswith(each[1:]))]
    server = max(servers, key=lambda each: (each == host, len(each)), default="")
    candidates = specific_first(route for route in given_routes if serves_host(route, server))
    paths = {plain_path(route) for route in candidates} | {""}
    location = max((each for each in paths if not each or is_within(path, each)), key=len)
    first = next(
        (
            route
            for route in candidates
            if is_within(location, plain_path(route))
            and all(headers.get(name.lower()) == value for name, value in route.headers.items())
        ),
        None,
    )
    assert first == RouteTable(given_routes).match(host, path, headers.get)


@pytest.mark.parametrize(
    ("percents", "bounds"),
    [
        ((100,), [("s0", 0)]),
        ((80, 20), [("s0", 0), ("s1", 8_000)]),
        ((0, 100), [("s1", 0)]),
        ((50, 0, 50), [("s0", 0), ("s2", 5_000)]),
        ((99.995, 0.005), [("s0", 0)]),
    ],
)
def test_shares_lie_beside_each_other(percents: tuple[float, ...], bounds: list[tuple[str, int]]) -> None:
    shares = tuple(Share(f"s{number}", percent) for number, percent in enumerate(percents))
    assert bounds_of_shares(Route(name="r", shares=shares)) == bounds


@given(st.lists(st.integers(0, 1_000), min_size=1, max_size=5).filter(any))
def test_every_place_belongs_to_one_service(parts: list[int]) -> None:
    shares = tuple(Share(f"s{number}", part) for number, part in enumerate(parts))
    bounds = bounds_of_shares(Route(name="r", shares=shares))
    begins = [begin for _, begin in bounds]
    assert begins[0] == 0
    assert begins == sorted(set(begins))
    assert begins[-1] < PLACES
