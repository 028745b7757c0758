"""Lists, requests and breakers as Prometheus text, for an app to add to its own `/metrics`.

By hand, as servers/http_metrics.py: the format is a few lines. Source: Prometheus documentation, "Exposition formats".
"""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from noctule.client.registry.follower import FollowerPicture
from noctule.client.registry.held_list import Source
from noctule.core.balance.breaker import BreakerState
from noctule.kits.breaker_standing import Authority, CircuitBreakerPicture
from noctule.kits.discovery.caller import CallerPicture
from noctule.kits.discovery.calls import CallsPicture
from noctule.kits.discovery.discovery import DiscoveryPicture

Family: TypeAlias = tuple[str, str, str, Iterable[tuple[dict[str, str], float]]]
"""Name, kind, help, and samples: labels and value."""


def render_metrics(discovery: DiscoveryPicture, *callers: CallerPicture) -> str:
    """The text, format 0.0.4, of one `Discovery` and of the transports on it."""
    families = list(_of_lists(discovery.services))
    families += _of_calls([calls for caller in callers for calls in caller.services])
    families += _of_breakers([breaker for caller in callers for breaker in caller.breakers])
    lines = []
    for name, kind, text, samples in families:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{{{_labels(labels)}}} {value:g}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _of_lists(services: Iterable[FollowerPicture]) -> Iterator[Family]:
    each = [({"service": one.service, "tag": one.tag}, one) for one in services]
    prefix = "noctule_discovery"
    live = "1 while the registry answers, 0 while the last good list is used."
    yield f"{prefix}_live", "gauge", live, [(labels, one.list.source is Source.LIVE) for labels, one in each]
    age = "Seconds since the registry last answered."
    yield f"{prefix}_list_age_seconds", "gauge", age, [(labels, one.list.age_s) for labels, one in each]
    in_force = "Endpoints in force."
    yield f"{prefix}_endpoints", "gauge", in_force, [(labels, len(one.list.endpoints)) for labels, one in each]
    held = "Of those, the ones kept because the registry may have forgotten them."
    yield f"{prefix}_held_endpoints", "gauge", held, [(labels, one.list.held) for labels, one in each]
    failures = "Questions to the registry without an answer."
    yield f"{prefix}_registry_failures_total", "counter", failures, [(labels, one.failures) for labels, one in each]
    changes = "How often the list became another."
    yield f"{prefix}_list_changes_total", "counter", changes, [(labels, one.changes) for labels, one in each]


def _of_calls(calls: Iterable[CallsPicture]) -> Iterator[Family]:
    each = [({"service": one.service}, one) for one in calls]
    prefix = "noctule_calls"
    yield f"{prefix}_requests_total", "counter", "Requests.", [(labels, one.requests) for labels, one in each]
    failures = "Attempts that failed, retried or not."
    yield f"{prefix}_failures_total", "counter", failures, [(labels, one.failures) for labels, one in each]
    retries = "Retries."
    yield f"{prefix}_retries_total", "counter", retries, [(labels, one.retries) for labels, one in each]
    refused = "Retries that the budget refused."
    yield f"{prefix}_retries_refused_total", "counter", refused, [(labels, one.budget.refused) for labels, one in each]
    unserved = "Requests for which there was no instance."
    yield f"{prefix}_unserved_total", "counter", unserved, [(labels, one.unserved) for labels, one in each]
    ejected = "Instances that get nothing because they stand out by failing."
    counts = [(labels, sum(out.ejected_until is not None for out in one.outliers)) for labels, one in each]
    yield f"{prefix}_ejected_instances", "gauge", ejected, counts


def _of_breakers(breakers: Iterable[CircuitBreakerPicture]) -> Iterator[Family]:
    each = list(breakers)
    states = [
        ({"breaker": one.name, "state": state}, one.breaker.state is state) for one in each for state in BreakerState
    ]
    yield "noctule_breaker_state", "gauge", "1 for the state that it is in.", states
    named = [({"breaker": one.name}, one) for one in each]
    refused = "Calls that were not made."
    yield "noctule_breaker_refused_total", "counter", refused, [(labels, one.breaker.refused) for labels, one in named]
    away = "1 while the store that should be shared is away."
    is_away = [(labels, one.authority is Authority.LOCAL_STORE_AWAY) for labels, one in named]
    yield "noctule_breaker_store_away", "gauge", away, is_away


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
