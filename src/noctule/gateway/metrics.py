"""A gateway's metrics as Prometheus text (exposition format 0.0.4), made of one picture.

`METRICS` is also what docs/reference/gateway.md lists.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from noctule.gateway.control import ControlPicture
from noctule.gateway.pictures import LATENCY_BOUNDS_S

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

PREFIX = "noctule_gateway_"


class Metric(NamedTuple):
    """One family of samples."""

    name: str
    kind: str
    help: str


METRICS = (
    Metric("requests_total", "counter", "Requests sent to each instance, retries included."),
    Metric("failures_total", "counter", "Requests that each instance did not answer properly."),
    Metric("in_flight", "gauge", "Requests and WebSockets at each instance now."),
    Metric("instance_healthy", "gauge", "1 while an instance may have requests."),
    Metric("service_in_flight", "gauge", "The same of a whole service, with those at instances that have left."),
    Metric("retries_total", "counter", "Requests of a service that were sent once more."),
    Metric("retries_refused_total", "counter", "Retries that were not made for lack of budget."),
    Metric("breaker_open", "gauge", "1 while a service is left alone, 0.5 while single requests try it."),
    Metric("responses_total", "counter", "Responses to clients by route and class of status."),
    Metric("request_seconds", "histogram", "From a request's head to the end of its response, by route."),
    Metric("unrouted_total", "counter", "Requests that no route matched."),
    Metric("config_ok", "gauge", "0 while the newest config is refused and the one before goes on."),
    Metric("configs_refused_total", "counter", "Configs that could not be used."),
    Metric("orders_version", "gauge", "Rises with each change; the lowest of all workers."),
    Metric("workers", "gauge", "Processes that answered."),
    Metric("registry_ok", "gauge", "0 while a service goes by what the registry said before it went away."),
)
"""Every family, without its prefix. Counters begin anew with a process; those of several workers are summed."""


def render_metrics(picture: ControlPicture) -> str:
    """The whole text."""
    samples = dict(_samples(picture))
    lines: list[str] = []
    for metric in METRICS:
        name = PREFIX + metric.name
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        lines += [f"{PREFIX}{line}" for line in samples[metric.name]]
    return "\n".join(lines) + "\n"


def _samples(picture: ControlPicture) -> Iterator[tuple[str, list[str]]]:
    traffic = picture.traffic
    instances = [
        ({"service": service.name, "instance": each.id}, each)
        for service in traffic.services
        for each in service.instances
    ]
    services = [({"service": service.name}, service) for service in traffic.services]
    yield "requests_total", [_line("requests_total", labels, each.requests) for labels, each in instances]
    yield "failures_total", [_line("failures_total", labels, each.failures) for labels, each in instances]
    yield "in_flight", [_line("in_flight", labels, each.in_flight) for labels, each in instances]
    healthy = [_line("instance_healthy", labels, int(each.state == "healthy")) for labels, each in instances]
    yield "instance_healthy", healthy
    yield "service_in_flight", [_line("service_in_flight", labels, each.in_flight) for labels, each in services]
    yield "retries_total", [_line("retries_total", labels, each.retries) for labels, each in services]
    refused = [_line("retries_refused_total", labels, each.retries_refused) for labels, each in services]
    yield "retries_refused_total", refused
    levels = {"closed": 0, "half_open": 0.5, "open": 1}
    breakers = [(labels, levels[each.breaker]) for labels, each in services if each.breaker]
    yield "breaker_open", [_line("breaker_open", labels, level) for labels, level in breakers]
    yield (
        "responses_total",
        [
            _line("responses_total", {"route": route.name, "class": name}, count)
            for route in traffic.routes
            for name, count in route.statuses.items()
        ],
    )
    yield "request_seconds", list(_histograms(picture))
    yield "unrouted_total", [_line("unrouted_total", {}, traffic.unrouted)]
    yield "config_ok", [_line("config_ok", {}, int(not picture.config_error))]
    yield "configs_refused_total", [_line("configs_refused_total", {}, picture.configs_refused)]
    yield "orders_version", [_line("orders_version", {}, traffic.version)]
    yield "workers", [_line("workers", {}, picture.workers)]
    registry = [
        _line("registry_ok", {"service": each.service}, int(each.source == "live")) for each in picture.registry
    ]
    yield "registry_ok", registry


def _histograms(picture: ControlPicture) -> Iterable[str]:
    for route in picture.traffic.routes:
        counts = list(accumulate(route.latency_counts))
        bounds = [f"{bound:g}" for bound in LATENCY_BOUNDS_S] + ["+Inf"]
        for bound, count in zip(bounds, counts, strict=True):
            yield _line("request_seconds_bucket", {"route": route.name, "le": bound}, count)
        yield _line("request_seconds_sum", {"route": route.name}, round(route.latency_sum_s, 6))
        yield _line("request_seconds_count", {"route": route.name}, counts[-1])


def _line(name: str, labels: dict[str, str], value: float) -> str:
    told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{told}}} {value}" if told else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
