"""Consul's answers become endpoints, and nonsense becomes an error that says so."""

import msgspec
import pytest

from noctule.base.errors import ProtocolError
from noctule.client.registry.endpoints import INSTANCES_MAX, Endpoint, read_instances


def entry(**service: object) -> dict[str, object]:
    """As Consul 1.8 answers, with fields that do not matter here."""
    return {
        "Node": {"ID": "x", "Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1", "Meta": {"zone": "north"}},
        "Service": {"ID": "web-1", "Service": "web", "Tags": [], "Address": "", "Meta": None, "Port": 80, **service},
        "Checks": [{"CheckID": "serfHealth", "Status": "passing"}],
    }


def read(*entries: dict[str, object]) -> list[tuple[Endpoint, bool]]:
    return [(each.endpoint, each.is_usable) for each in read_instances(msgspec.json.encode(entries))]


def test_an_instance_without_an_address_of_its_own_is_at_its_nodes() -> None:
    assert read(entry()) == [(Endpoint("n1/web-1", "10.0.0.1", 80, zone="north"), True)]


def test_what_the_service_says_of_itself_wins() -> None:
    own = entry(Address="fd00::1", Port=8080, Tags=["a"], Meta={"zone": "south"}, Weights={"Passing": 5, "Warning": 1})
    ((endpoint, _),) = read(own)
    assert (endpoint.weight, endpoint.zone, endpoint.tags) == (5, "south", ("a",))
    assert endpoint.authority == "[fd00::1]:8080"


@pytest.mark.parametrize(
    ("statuses", "is_usable", "weight"),
    [
        (["passing", "warning"], True, 2),
        (["passing", "critical"], False, 9),
        (["maintenance"], False, 9),
        ([], True, 9),
    ],
)
def test_the_worst_check_counts(statuses: list[str], is_usable: bool, weight: int) -> None:
    one = entry(Weights={"Passing": 9, "Warning": 2})
    one["Checks"] = [{"Status": status} for status in statuses]
    ((endpoint, found),) = read(one)
    assert (found, endpoint.weight) == (is_usable, weight)


@pytest.mark.parametrize(
    "fields",
    [{"Port": 0}, {"Port": -1}, {"Port": 65_536}, *({"Address": bad} for bad in ("a b", "x/y", "u@h", "ü", "a" * 254))],
)
def test_what_nobody_can_connect_to_is_left_out(fields: dict[str, object]) -> None:
    assert read(entry(**fields), entry(ID="good")) == read(entry(ID="good"))


def test_there_is_a_bound() -> None:
    assert len(read(*[entry(ID=str(number)) for number in range(INSTANCES_MAX + 5)])) == INSTANCES_MAX


@pytest.mark.parametrize("body", [b"", b"{}", b'[{"Node": 1}]', b"\xff\xfe", b'[{"Node":{"Node":"n"},"Service":{}}]'])
def test_what_is_no_list_of_instances_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a list of instances"):
        read_instances(body)
