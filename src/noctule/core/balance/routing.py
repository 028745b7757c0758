"""Which route a request takes, and which of the route's services its client belongs to. Pure: no sockets, no chance.

The order between routes is by how much they say, never by where they stand in a file: an exact host before a wildcard
(the longer one first) before any; within a host the longest path; within a path the most headers, then the name.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

from noctule.base.errors import ConfigError

HeaderReader = Callable[[str], str | None]
"""Gives the value of a header by its lower-case name, None when the request has none."""


class Sharing(Protocol):
    """A service's part of a route."""

    @property
    def service(self) -> str:
        """Its name."""
        ...

    @property
    def percent(self) -> float:
        """0 to 100."""
        ...


class Routable(Protocol):
    """What is matched; `gateway.model.Route` is one."""

    @property
    def name(self) -> str:
        """Unique."""
        ...

    @property
    def host(self) -> str:
        """Exact, ``*.example.com``, or empty for any."""
        ...

    @property
    def path(self) -> str:
        """A prefix of whole segments."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """All of these have these values."""
        ...

    @property
    def shares(self) -> tuple[Sharing, ...]:
        """Of 100 per cent."""
        ...


R = TypeVar("R", bound=Routable)


class RouteTable(Generic[R]):
    """Routes in the order in which they are tried. Never changed: a change is a new table.

    Matching costs a dictionary look-up for each length of path in the table, however many routes there are.
    """

    def __init__(self, routes: Iterable[R]) -> None:
        by_host: dict[str, list[R]] = {}
        for route in routes:
            by_host.setdefault(route.host.lower(), []).append(route)
        self._exact = {host: _Paths(found) for host, found in by_host.items() if host and not host.startswith("*")}
        wildcards = sorted((host for host in by_host if host.startswith("*")), key=len, reverse=True)
        self._wildcards = [(host[1:], _Paths(by_host[host])) for host in wildcards]
        self._any = _Paths(by_host.get("", []))

    def match(self, host: str, path: str, header: HeaderReader) -> R | None:
        """The most specific route, or None. `host` is compared without case and port, `path` without its query.

        The path is compared as it was sent: escapes are not decoded and dots not resolved, for the instance gets these
        bytes too. A route says where a request goes; it does not protect anything.
        """
        path = path.partition("?")[0]
        if not self._exact and not self._wildcards:
            return self._any.match(path, header)
        host = plain_host(host)
        found = None
        if self._exact and (paths := self._exact.get(host)) is not None:
            found = paths.match(path, header)
        if found is None:
            for suffix, paths in self._wildcards:
                # ``*.example.com`` is every name below example.com, not that name itself.
                if host.endswith(suffix) and len(host) > len(suffix) and (found := paths.match(path, header)):
                    break
        return found if found is not None else self._any.match(path, header)


def pick_share(route: Routable, chance: float) -> str:
    """The service for a client whose place is `chance`, from 0 up to but not 1.

    The shares lie beside each other in their order, so while two of them change, a client that a growing share had
    stays with it: whoever is a canary at 5 % is one at 10 %. Percentages count by their sum. `ConfigError` when all
    are 0.
    """
    shares = route.shares
    if len(shares) == 1:
        return shares[0].service
    bounds = list(accumulate(share.percent for share in shares))
    if bounds[-1] <= 0:
        raise ConfigError(f"no service has a share of the route {route.name!r}")
    # The first whose end lies beyond the place: one of 0 per cent ends where it begins and is never met.
    return shares[min(bisect_right(bounds, chance * bounds[-1]), _last_served(shares))].service


def place_of(text: str) -> float:
    """A place from 0 up to but not 1 that is always the same for one text, and evenly spread over texts."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest) / (1 << 48)


def plain_host(host: str) -> str:
    """A Host header's name without its port, in lower case, without the dot that ends a full name."""
    if host.startswith("["):
        return host[: host.find("]") + 1].lower()
    return host.partition(":")[0].lower().removesuffix(".")


class _Paths(Generic[R]):
    """The routes of one host by their path."""

    def __init__(self, routes: Iterable[R]) -> None:
        self._by_path: dict[str, list[R]] = {}
        for route in sorted(routes, key=lambda route: (-len(route.headers), route.name)):
            self._by_path.setdefault(route.path.rstrip("/"), []).append(route)
        self._lengths = sorted({len(path) for path in self._by_path}, reverse=True)

    def match(self, path: str, header: HeaderReader) -> R | None:
        for length in self._lengths:
            if 0 < length < len(path) and path[length] != "/":
                continue
            for route in self._by_path.get(path[:length], ()):
                if not route.headers or all(header(name.lower()) == value for name, value in route.headers.items()):
                    return route
        return None


def _last_served(shares: tuple[Sharing, ...]) -> int:
    """Where rounding ends that runs over the last bound."""
    return max(index for index, share in enumerate(shares) if share.percent > 0)
