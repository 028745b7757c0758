"""Names of the DNS door: what was made is understood again, and nothing else is."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import dns.name
from hypothesis import given
from hypothesis import strategies as st

from noctule.servers.dns.names import (
    Apex,
    Asked,
    AskedAddress,
    AskedNode,
    AskedService,
    Between,
    Nothing,
    address_name,
    host_name,
    node_name,
    parse_ip,
    parse_labels,
)

DOMAIN = dns.name.from_text("consul.")
LABELS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_ ä", min_size=1, max_size=12)


def parse(text: str, datacenter: str = "dc1") -> Asked:
    return parse_labels([word.encode() for word in text.split(".") if word], datacenter)


def kind_of(text: str) -> type:
    return type(parse(text))


def test_services_are_asked_for_by_name_and_tag() -> None:
    assert parse("web.service") == parse("WEB.Service.DC1") == AskedService("web")
    assert parse("blue.web.service.dc1") == AskedService("web", "blue")
    assert parse("web.service.dc1", "DC1") == AskedService("web")
    assert parse("a.b.web.service") == AskedService("web", "a.b")


def test_services_are_asked_for_as_rfc_2782_says() -> None:
    assert parse("_web._tcp.service") == AskedService("web")
    assert parse("_web._blue.service.dc1") == AskedService("web", "blue")


def test_what_lies_between_exists() -> None:
    assert kind_of("") is Apex
    for name in ("dc1", "service", "service.dc1", "node", "addr", "_tcp.service", "_blue.service.dc1"):
        assert kind_of(name) is Between, name


def test_other_names_cannot_be_there() -> None:
    for name in ("web", "web.service.dc2", "service.dc2", "web.query", "zz.addr", "0a0000.addr", "a.0a000001.addr"):
        assert kind_of(name) is Nothing, name


@given(LABELS, LABELS)
def test_a_node_s_name_asks_for_that_node(node: str, datacenter: str) -> None:
    """Whatever the datacenter is called, be it ``node``."""
    made = node_name(node, datacenter, DOMAIN)
    assert made is not None
    assert parse_labels(made.relativize(DOMAIN).labels, datacenter) == AskedNode(node.lower())


@given(st.ip_addresses())
def test_an_address_s_name_asks_for_that_address(address: IPv4Address | IPv6Address) -> None:
    made = address_name(address, "dc1", DOMAIN)
    assert made is not None
    assert parse_labels(made.relativize(DOMAIN).labels, "dc1") == AskedAddress(address)


def test_names_that_no_message_can_hold_are_not_made() -> None:
    assert node_name("x" * 64, "dc1", DOMAIN) is None
    assert node_name(".".join(["x" * 60] * 5), "dc1", DOMAIN) is None
    assert node_name("a..b", "dc1", DOMAIN) is None
    assert host_name("") is None
    assert host_name("db.example.com.") == dns.name.from_text("db.example.com.")


def test_addresses_are_told_from_host_names() -> None:
    assert parse_ip("10.0.0.1") == ip_address("10.0.0.1")
    assert parse_ip("db.example.com") is parse_ip("fe80::1%eth0") is parse_ip("") is None
