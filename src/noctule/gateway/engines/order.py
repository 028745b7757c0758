"""Which routes a request may take and in which order they are tried, as the embedded gateway tries them.

An exact host comes before a wildcard (the longer one first) before any; within a host the longest path; within a path
the most headers, then the name.
"""

from collections.abc import Iterable

from noctule.gateway.model import Route

PLACES = 10_000
"""A request's place among a route's shares is 0 to 9,999: shares are exact to a hundredth of a per cent."""


def specific_first(routes: Iterable[Route]) -> list[Route]:
    """The order in which they are tried; the first that matches counts."""
    return sorted(routes, key=lambda route: (*_host_rank(route.host), -len(plain_path(route)), *_rest(route)))


def plain_path(route: Route) -> str:
    """Its prefix without the slash at the end; empty for every path."""
    return route.path.rstrip("/")


def is_within(path: str, prefix: str) -> bool:
    """Whether a path has this prefix by whole segments; both without a slash at the end."""
    return path == prefix or path.startswith(prefix + "/")


def serves_host(route: Route, host: str) -> bool:
    """Whether a route is for requests to this host: an exact one, a wildcard (`*.example.com`), or empty for others."""
    asked, own = host.lower(), route.host.lower()
    if not own or own == asked:
        return True
    # A wildcard serves the names below, and so a longer wildcard too.
    return own.startswith("*.") and asked.removeprefix("*").endswith(own[1:]) and asked.removeprefix("*") != own[1:]


def bounds_of_shares(route: Route) -> list[tuple[str, int]]:
    """Each service of a route with the place, of `PLACES`, where its clients begin; those of 0 per cent are left out.

    Services lie beside each other in their order, so a client of a share that grows stays with it. Percentages count
    by their sum.
    """
    total = sum(share.percent for share in route.shares)
    bounds: list[tuple[str, int]] = []
    passed = 0.0
    for share in route.shares:
        begin = round(passed / total * PLACES) if total > 0 else 0
        passed += share.percent
        end = round(passed / total * PLACES) if total > 0 else 0
        if end > begin:
            bounds.append((share.service, begin))
    return bounds


def _host_rank(host: str) -> tuple[int, int]:
    if not host:
        return 2, 0
    return (1, -len(host)) if host.startswith("*") else (0, 0)


def _rest(route: Route) -> tuple[int, str]:
    return -len(route.headers), route.name
