"""What may be registered at a node: every field has a bound, and an error names it."""

import pytest

from noctule.base.errors import RequestError
from noctule.core.registry.definitions import CheckDefinition, ServiceDefinition
from noctule.core.registry.objects import Weights


@pytest.mark.parametrize(
    ("service", "words"),
    [
        (ServiceDefinition("", "web"), "service.id: is missing"),
        (ServiceDefinition("a", ""), "service.name: is missing"),
        (ServiceDefinition("a\n", "web"), "service.id: must be"),
        (ServiceDefinition("a", "w" * 257), "service.name: must be"),
        (ServiceDefinition("a", "web", port=65_536), "service.port: must be from 0 to 65535"),
        (ServiceDefinition("a", "web", tags=("x",) * 129), "service.tags: 129, and the limit is 128"),
        (ServiceDefinition("a", "web", meta={"a b": "c"}), "service.meta: the key 'a b'"),
        (ServiceDefinition("a", "web", meta={"a": "c" * 513}), "service.meta.a: over 512 bytes"),
        (ServiceDefinition("a", "web", depends_on=("",)), "service.depends_on: is missing"),
        (ServiceDefinition("a", "web", weights=Weights(0, 1)), "service.weights"),
        (ServiceDefinition("a", "web", tagged_addresses={"lan": ("x", -1)}), "service.tagged_addresses.lan: the port"),
        (ServiceDefinition("a", "web", checks=(CheckDefinition("c"),)), "service.checks[0]: exactly one of"),
        (ServiceDefinition("a", "web", checks=(CheckDefinition("c", ttl_s=1),) * 2), "two of them have one id"),
    ],
)
def test_an_error_names_the_field(service: ServiceDefinition, words: str) -> None:
    with pytest.raises(RequestError, match=words.replace("[", r"\[")):
        service.validate()


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (CheckDefinition("c", ttl_s=1, tcp="h:1"), "not ttl and tcp"),
        (CheckDefinition("c", ttl_s=float("nan")), "check.ttl: must be"),
        (CheckDefinition("c", ttl_s=-1), "check.ttl: must be"),
        (CheckDefinition("c", tcp="nowhere"), "check.tcp: must be host:port"),
        (CheckDefinition("c", tcp="h:70000"), "check.tcp: must be host:port"),
        (CheckDefinition("c", grpc="h/service"), "check.grpc: must be host:port"),
        (CheckDefinition("c", tcp="h:1", timeout_s=0), "needs an interval and a timeout"),
        (CheckDefinition("c", http="file:///etc/passwd"), "check.http: must be a URL"),
        (CheckDefinition("c", http="http://h/\r\nX: y"), "check.http: must be a URL"),
        (CheckDefinition("c", http="http://h/", method="CONNECT"), "check.method: must be one of"),
        (CheckDefinition("c", http="http://h/", headers={"X": ("a\r\nY: b",)}), "check.headers.X"),
        (CheckDefinition("c", http="http://h/", headers={"X:": ("a",)}), "no name of a header"),
        (CheckDefinition("c", http="http://h/", body="x" * 70_000), "check.body: over"),
        (CheckDefinition("c", tcp="h:1", failures_before_critical=-1), "failures_before_critical"),
    ],
)
def test_an_error_names_the_field_of_a_check(check: CheckDefinition, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check.validate()


def test_each_kind_of_check_is_taken() -> None:
    kinds = {
        "ttl": CheckDefinition("c", ttl_s=1),
        "http": CheckDefinition("c", http="https://[::1]:8443/health?x=1", headers={"Host": ("a",)}),
        "tcp": CheckDefinition("c", tcp="[::1]:5432"),
        "grpc": CheckDefinition("c", grpc="127.0.0.1:50051/orders", grpc_tls=True),
        "alias": CheckDefinition("c", alias_service="db"),
    }
    for kind, check in kinds.items():
        check.validate()
        assert check.kind == kind
