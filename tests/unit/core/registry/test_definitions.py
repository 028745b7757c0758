"""What may be registered at a node: every field has a bound, and an error names it."""

import pytest

from noctule.base.errors import RequestError
from noctule.core.registry.definitions import CheckDefinition, ServiceDefinition


@pytest.mark.parametrize(
    ("service", "words"),
    [
        (ServiceDefinition("", "web"), "the id of an instance is empty"),
        (ServiceDefinition("a", ""), "the service's name of instance 'a' is empty"),
        (ServiceDefinition("a\n", "web"), "cannot be printed"),
        (ServiceDefinition("a", "web", port=65_536), "a port is 0 to 65535"),
        (ServiceDefinition("a", "web", meta={"a": "c" * 513}), "of the meta of instance 'a'"),
        (ServiceDefinition("a", "web", checks=(CheckDefinition("c"),)), "check 'c': exactly one of"),
        (ServiceDefinition("a", "web", checks=(CheckDefinition("c", ttl_s=1),) * 2), "two of its checks have one id"),
        (
            ServiceDefinition("a", "web", checks=tuple(CheckDefinition(f"c{n}", ttl_s=1) for n in range(33))),
            "checks of instance 'a': 33, and 32 are the most",
        ),
    ],
)
def test_an_error_names_the_field(service: ServiceDefinition, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        service.validate()


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (CheckDefinition("c", ttl_s=1, tcp="h:1"), "not ttl and tcp"),
        (CheckDefinition("c", ttl_s=float("nan")), "ttl must be"),
        (CheckDefinition("c", ttl_s=-1), "ttl must be"),
        (CheckDefinition("c", tcp="nowhere"), "tcp must be host:port"),
        (CheckDefinition("c", tcp="h:70000"), "tcp must be host:port"),
        (CheckDefinition("c", grpc="h/service"), "grpc must be host:port"),
        (CheckDefinition("c", tcp="h:1", timeout_s=0), "needs an interval and a timeout"),
        (CheckDefinition("c", http="file:///etc/passwd"), "http must be a URL"),
        (CheckDefinition("c", http="http://h/\r\nX: y"), "http must be a URL"),
        (CheckDefinition("c", http="http://h/", method="CONNECT"), "the method must be one of"),
        (CheckDefinition("c", http="http://h/", headers={"X": ("a\r\nY: b",)}), "header X has control"),
        (CheckDefinition("c", http="http://h/", headers={"X:": ("a",)}), "no name of a header"),
        (CheckDefinition("c", http="http://h/", body="x" * 70_000), "bytes of the body of check"),
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
