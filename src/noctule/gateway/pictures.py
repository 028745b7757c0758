"""What a gateway counts and shows. Every worker counts for itself; `sum_pictures` adds what workers counted."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from msgspec import Struct

LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram's buckets, inclusive; one more bucket holds what took longer."""


class InstancePicture(Struct, frozen=True):
    """One instance as the gateway sees it."""

    id: str
    address: str
    state: str
    """starting, healthy, unhealthy, ejected or draining; of several workers' views the one that most have."""
    weight: int
    in_flight: int
    """Requests and WebSockets now."""
    requests: int
    failures: int
    """Of the requests, those it did not answer properly; an app's own 5xx is an answer."""


class ServicePicture(Struct, frozen=True):
    """One service; instances in the order they were listed."""

    name: str
    in_flight: int
    """Those at instances that have left included: 0 means that a service that was taken out is done."""
    requests: int
    failures: int
    retries: int
    retries_refused: int
    """For lack of budget."""
    instances: tuple[InstancePicture, ...]
    breaker: str = ""
    """closed, half_open or open; of several workers' the worst. Empty without one."""


class RoutePicture(Struct, frozen=True):
    """What was answered on one route."""

    name: str
    statuses: dict[str, int]
    """By class: 2xx, 3xx, 4xx, 5xx."""
    latency_counts: tuple[int, ...]
    """Of each bucket by itself, from the head of the request to the end of the response."""
    latency_sum_s: float


class GatewayPicture(Struct, frozen=True):
    """A gateway at one moment."""

    version: int
    """Of the orders that are applied; of several workers the lowest."""
    in_flight: int
    requests: int
    """Sent to instances since the start; a request tried on two instances counts twice. The same for failures."""
    failures: int
    unrouted: int
    """Requests that no route matched."""
    services: tuple[ServicePicture, ...]
    routes: tuple[RoutePicture, ...]

    @property
    def instances(self) -> tuple[InstancePicture, ...]:
        """Of all services."""
        return tuple(instance for service in self.services for instance in service.instances)


_BREAKER_STATES = ("", "closed", "half_open", "open")
"""From best to worst."""

T = TypeVar("T", ServicePicture, RoutePicture)


class RouteCounts:
    """What one route's requests came to, while it is counted."""

    __slots__ = ("latency_counts", "latency_sum_s", "statuses")

    def __init__(self) -> None:
        self.statuses = [0] * 6
        self.latency_counts = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.latency_sum_s = 0.0

    def add(self, status: int, seconds: float) -> None:
        """Count one response."""
        self.statuses[status // 100 if status < 600 else 5] += 1
        self.latency_counts[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self.latency_sum_s += seconds

    def describe(self, name: str) -> RoutePicture:
        """A frozen picture."""
        statuses = {f"{first}xx": count for first, count in enumerate(self.statuses) if count}
        return RoutePicture(name, statuses, tuple(self.latency_counts), self.latency_sum_s)


def sum_pictures(pictures: Sequence[GatewayPicture]) -> GatewayPicture:
    """One picture of several workers'; at least one is given. A worker that was started anew counts from 0 again."""
    first = pictures[0]
    if len(pictures) == 1:
        return first
    return GatewayPicture(
        version=min(each.version for each in pictures),
        in_flight=sum(each.in_flight for each in pictures),
        requests=sum(each.requests for each in pictures),
        failures=sum(each.failures for each in pictures),
        unrouted=sum(each.unrouted for each in pictures),
        services=tuple(_sum_services(found) for found in _grouped(each.services for each in pictures)),
        routes=tuple(_sum_routes(found) for found in _grouped(each.routes for each in pictures)),
    )


def _grouped(lists: Iterable[Sequence[T]]) -> list[list[T]]:
    by_name: dict[str, list[T]] = {}
    for pictures in lists:
        for picture in pictures:
            by_name.setdefault(picture.name, []).append(picture)
    return list(by_name.values())


def _sum_services(pictures: list[ServicePicture]) -> ServicePicture:
    by_id: dict[str, list[InstancePicture]] = {}
    for picture in pictures:
        for instance in picture.instances:
            by_id.setdefault(instance.id, []).append(instance)
    return ServicePicture(
        name=pictures[0].name,
        in_flight=sum(each.in_flight for each in pictures),
        requests=sum(each.requests for each in pictures),
        failures=sum(each.failures for each in pictures),
        retries=sum(each.retries for each in pictures),
        retries_refused=sum(each.retries_refused for each in pictures),
        instances=tuple(_sum_instances(found) for found in by_id.values()),
        breaker=max((each.breaker for each in pictures), key=_BREAKER_STATES.index),
    )


def _sum_instances(pictures: list[InstancePicture]) -> InstancePicture:
    states = Counter(each.state for each in pictures)
    return InstancePicture(
        id=pictures[0].id,
        address=pictures[0].address,
        state=states.most_common(1)[0][0],
        weight=pictures[0].weight,
        in_flight=sum(each.in_flight for each in pictures),
        requests=sum(each.requests for each in pictures),
        failures=sum(each.failures for each in pictures),
    )


def _sum_routes(pictures: list[RoutePicture]) -> RoutePicture:
    statuses: Counter[str] = Counter()
    for picture in pictures:
        statuses.update(picture.statuses)
    return RoutePicture(
        name=pictures[0].name,
        statuses=dict(sorted(statuses.items())),
        latency_counts=tuple(map(sum, zip(*(each.latency_counts for each in pictures), strict=True))),
        latency_sum_s=sum(each.latency_sum_s for each in pictures),
    )
