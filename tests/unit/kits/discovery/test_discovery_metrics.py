"""The text that Prometheus reads."""

import random

from noctule.base.ids import Instant
from noctule.client.registry.endpoints import Endpoint
from noctule.client.registry.follower import FollowerPicture
from noctule.client.registry.held_list import ListPicture, Source
from noctule.kits.breaker import CircuitBreaker
from noctule.kits.discovery.caller import CallerPicture
from noctule.kits.discovery.calls import CallPolicy, ServiceCalls
from noctule.kits.discovery.discovery import DiscoveryPicture
from noctule.kits.discovery.metrics import render_metrics

NOW = Instant(100.0)


def test_lists_calls_and_breakers_are_told() -> None:
    endpoint = Endpoint("a", "127.0.0.1", 80)
    listed = ListPicture(Source.LAST_GOOD, 12.5, 7, (endpoint,), 1)
    discovery = DiscoveryPicture("http://x", (FollowerPicture('or"ders', "", listed, 3, 4, 5, 0),))
    calls = ServiceCalls("orders", CallPolicy(), "", random.Random(1))
    calls.keep(1, [endpoint, Endpoint("b", "127.0.0.1", 81)])
    calls.begin("GET", is_replayable=True, deadline=None, now=NOW).attempt(NOW).failed(NOW, was_sent=True)
    text = render_metrics(discovery, CallerPicture((calls.describe(NOW),), (CircuitBreaker("pay").describe(),)))
    for line in (
        "# TYPE noctule_discovery_live gauge",
        'noctule_discovery_live{service="or\\"ders",tag=""} 0',
        'noctule_discovery_list_age_seconds{service="or\\"ders",tag=""} 12.5',
        'noctule_discovery_held_endpoints{service="or\\"ders",tag=""} 1',
        'noctule_discovery_registry_failures_total{service="or\\"ders",tag=""} 4',
        'noctule_calls_requests_total{service="orders"} 1',
        'noctule_calls_failures_total{service="orders"} 1',
        'noctule_calls_retries_total{service="orders"} 1',
        'noctule_calls_ejected_instances{service="orders"} 0',
        'noctule_breaker_state{breaker="pay",state="closed"} 1',
        'noctule_breaker_state{breaker="pay",state="open"} 0',
        'noctule_breaker_store_away{breaker="pay"} 0',
    ):
        assert line in text.splitlines()
