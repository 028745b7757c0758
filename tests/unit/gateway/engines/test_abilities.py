"""What a model asks for and an engine does not do is told."""

from noctule.gateway.engines.abilities import lacks
from noctule.gateway.model import ActiveCheck, GatewayModel, Limits, Route, Service, Share, Sticky


def test_only_what_is_asked_for_and_lacking_is_told() -> None:
    plain = Service(name="a", registry="a", check=ActiveCheck(enabled=False), retries_max=0)
    assert lacks("nginx", GatewayModel(services=(plain,))) == []
    rich = Service(name="a", registry="a", slow_start_s=1, outlier_ratio=0.5, breaker_ratio=0.5, sticky=Sticky())
    other = Service(name="b", registry="b")
    route = Route(name="r", shares=(Share("a", 50), Share("b", 50)))
    model = GatewayModel(
        services=(rich, other), routes=(route,), limits=Limits(in_flight_max=9), trusted_proxies=("10.0.0.0/8",)
    )
    told = {
        engine: [line.partition(":")[0] for line in lacks(engine, model)] for engine in ("embedded", "haproxy", "nginx")
    }
    assert told == {
        "embedded": [],
        "haproxy": [
            "outlier ejection",
            "circuit breaker of a service",
            "retry budget",
            "a bound of requests in flight",
            "a client behind several trusted proxies",
            "a sticky cookie holds the share too",
        ],
        "nginx": [
            "active checks",
            "slow start",
            "outlier ejection",
            "circuit breaker of a service",
            "retry budget",
            "a sticky cookie holds the share too",
        ],
    }
