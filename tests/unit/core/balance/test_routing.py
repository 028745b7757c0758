"""Which route and which share: the most specific route wins wherever it stands, and shares are what they say."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import ConfigError
from noctule.core.balance.routing import RouteTable, pick_share, place_of, plain_host


@dataclass(frozen=True)
class Share:
    service: str
    percent: float = 100.0


@dataclass(frozen=True)
class Route:
    name: str
    host: str = ""
    path: str = "/"
    headers: dict[str, str] = field(default_factory=dict)
    shares: tuple[Share, ...] = (Share("app"),)


def match(routes: list[Route], host: str = "", path: str = "/", **headers: str) -> str | None:
    found = RouteTable(routes).match(host, path, lambda name: headers.get(name.replace("-", "_")))
    return found.name if found else None


@pytest.mark.parametrize(
    ("host", "path", "wanted"),
    [
        ("shop.example.com", "/", "exact"),
        ("SHOP.Example.com.:8443", "/x", "exact"),
        ("shop.example.com", "/api", "exact-api"),
        ("shop.example.com", "/api/", "exact-api"),
        ("shop.example.com", "/api/v1?x=/y", "exact-api"),
        ("shop.example.com", "/api?x", "exact-api"),
        ("shop.example.com", "/apix", "exact"),
        ("a.example.com", "/", "wildcard"),
        ("b.a.example.com", "/", "wildcard"),
        ("x.eu.example.com", "/", "longer"),
        ("example.com", "/", "any"),
        ("notexample.com", "/", "any"),
        ("[::1]:8080", "/", "six"),
        ("", "*", "any"),
        # The host that says more has no such path, so what says less of the host is asked.
        ("x.eu.example.com", "/static/a.css", "longer"),
        ("other.org", "/static/a.css", "static"),
    ],
)
def test_the_most_specific_route_is_taken(host: str, path: str, wanted: str) -> None:
    routes = [
        Route("any"),
        Route("wildcard", "*.example.com"),
        Route("longer", "*.eu.example.com"),
        Route("exact", "Shop.example.com"),
        Route("exact-api", "shop.example.com", "/api"),
        Route("static", path="/static/"),
        Route("six", "[::1]"),
    ]
    assert match(routes, host, path) == wanted
    assert match(routes[::-1], host, path) == wanted


def test_a_host_without_the_path_gives_way_to_a_vaguer_one() -> None:
    routes = [Route("api", "shop.example.com", "/api"), Route("any", path="/other"), Route("wild", "*.com", "/wild")]
    assert match(routes, "shop.example.com", "/other/x") == "any"
    assert match(routes, "shop.example.com", "/wild") == "wild"
    assert match(routes, "shop.example.com", "/") is None


def test_headers_decide_between_routes_of_one_path_and_all_must_fit() -> None:
    routes = [
        Route("plain"),
        Route("beta", headers={"X-Beta": "yes"}),
        Route("both", headers={"X-Beta": "yes", "X-Region": "eu"}),
        Route("longer", path="/a"),
    ]
    assert match(routes) == "plain"
    assert match(routes, x_beta="no") == "plain"
    assert match(routes, x_beta="yes") == "beta"
    assert match(routes, x_beta="yes", x_region="eu") == "both"
    # A longer path says more than any header.
    assert match(routes, path="/a", x_beta="yes") == "longer"


@pytest.mark.parametrize(
    ("given", "plain"), [("A.b:80", "a.b"), ("a.b.", "a.b"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")]
)
def test_a_host_is_compared_without_case_port_and_last_dot(given: str, plain: str) -> None:
    assert plain_host(given) == plain


segments = st.lists(st.sampled_from(["a", "b", "ab", ""]), max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(segments, min_size=1, max_size=6, unique_by=lambda path: path.rstrip("/")), segments)
def test_the_longest_prefix_of_whole_segments_wins(paths: list[str], asked: str) -> None:
    """Against the plain way of saying it."""
    fitting = [path for path in paths if f"{asked}/".startswith(path.rstrip("/") + "/")]
    assert match([Route(path, path=path) for path in paths], path=asked) == max(
        fitting, key=lambda path: len(path.rstrip("/")), default=None
    )


def split(*percents: float) -> Route:
    return Route("r", shares=tuple(Share(f"s{number}", percent) for number, percent in enumerate(percents)))


@given(st.lists(st.integers(0, 100), min_size=1, max_size=5).filter(lambda each: sum(each) > 0))
def test_shares_are_honoured_to_the_point(percents: list[int]) -> None:
    """Places spread evenly go to services in proportion, and none to one without a share."""
    route, places = split(*percents), 1_000
    counts = Counter(pick_share(route, (place + 0.5) / places) for place in range(places))
    for number, percent in enumerate(percents):
        wanted = places * percent / sum(percents) if len(percents) > 1 else places
        assert abs(counts[f"s{number}"] - wanted) <= 1
        assert percent > 0 or len(percents) == 1 or counts[f"s{number}"] == 0


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 100), st.floats(0, 100))
def test_a_growing_canary_keeps_the_clients_it_had(place: float, before: float, after: float) -> None:
    before, after = sorted((before, after))
    if pick_share(split(100 - before, before), place) == "s1":
        assert pick_share(split(100 - after, after), place) == "s1"


@given(st.floats(0, 1, exclude_max=True))
def test_after_a_switch_everybody_is_green(place: float) -> None:
    assert pick_share(split(0, 100), place) == "s1"
    assert pick_share(split(100, 0), place) == "s0"
    assert pick_share(split(0, 100, 0), place) == "s1"


def test_a_route_without_shares_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no service has a share of the route 'r'"):
        pick_share(split(0, 0), 0.5)


def test_places_of_texts_are_always_the_same_and_spread_evenly() -> None:
    assert place_of("10.0.0.1") == place_of("10.0.0.1")
    counts = Counter(int(place_of(f"client-{number}") * 10) for number in range(10_000))
    assert all(800 < counts[tenth] < 1_200 for tenth in range(10))
