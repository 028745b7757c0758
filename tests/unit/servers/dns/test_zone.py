"""The records that the registry's state gives for a question."""

import dns.name
import dns.rcode
import dns.rdatatype
import pytest
from dns.rdatatype import RdataType
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.registry.changes import TellCheck
from noctule.core.registry.objects import CheckStatus, Weights
from noctule.servers.dns.zone import Found
from tests.unit.servers.dns.registries import DOMAIN, NOW_MS, FilledRegistry, zone_of

A, AAAA, SRV, TXT, SOA, NS, ANY = (RdataType[each] for each in ("A", "AAAA", "SRV", "TXT", "SOA", "NS", "ANY"))
CRITICAL, WARNING, PASSING = CheckStatus.CRITICAL, CheckStatus.WARNING, CheckStatus.PASSING


@pytest.fixture
def registry() -> FilledRegistry:
    """Three nodes, and three instances of web on them."""
    registry = FilledRegistry()
    for number in (1, 2, 3):
        registry.add_node(f"n{number}", f"10.0.0.{number}", zone="a" if number < 3 else "b")
        registry.add(
            f"n{number}", f"web{number}", "web", port=8000 + number, tags=["v1", "Blue" if number > 1 else "red"]
        )
    return registry


def ask(
    registry: FilledRegistry, name: str, kind: RdataType = A, *, answers_max: int = 100, **settings: object
) -> Found:
    return zone_of(registry, **settings).find(dns.name.from_text(name, DOMAIN), kind, answers_max)  # type: ignore[arg-type]


def answers(found: Found) -> list[str]:
    assert found.rcode == dns.rcode.NOERROR
    return [each.data[0].to_text() for each in found.answer]


def is_nodata(found: Found) -> bool:
    return found.rcode == dns.rcode.NOERROR and not found.answer and found.authority[0].data.rdtype == SOA


def is_nxdomain(found: Found) -> bool:
    return found.rcode == dns.rcode.NXDOMAIN and not found.answer and found.authority[0].data.rdtype == SOA


def test_a_service_has_the_addresses_of_its_healthy_instances(registry: FilledRegistry) -> None:
    assert sorted(answers(ask(registry, "web.service"))) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    registry.add("n1", "web1", "web", status=CRITICAL)
    registry.add("n2", "web2", "web", status=WARNING)
    assert sorted(answers(ask(registry, "web.service"))) == ["10.0.0.2", "10.0.0.3"]
    assert answers(ask(registry, "web.service", only_passing=True)) == ["10.0.0.3"]


def test_a_service_without_healthy_instances_is_not_there(registry: FilledRegistry) -> None:
    for number in (1, 2, 3):
        registry.add(f"n{number}", f"web{number}", "web", status=CRITICAL)
    assert is_nxdomain(ask(registry, "web.service"))
    assert is_nxdomain(ask(registry, "nosuch.service", SRV))


def test_what_was_answered_before_is_not_answered_after_a_change(registry: FilledRegistry) -> None:
    """Healthy instances are kept between questions; a change that kept them would send clients to the dead."""
    zone = zone_of(registry)
    name = dns.name.from_text("web.service.consul.")
    assert len(zone.find(name, A, 9).answer) == 3
    registry.add("n1", "web1", "web", status=CRITICAL)
    assert len(zone.find(name, A, 9).answer) == 2
    registry.remove("n2", "web2")
    assert answers(zone.find(name, A, 9)) == ["10.0.0.3"]
    registry.add_node("n3", "10.0.0.33")
    assert answers(zone.find(name, A, 9)) == ["10.0.0.33"]
    registry.add("n3", "web3", "web", port=99, weights=Weights(passing=1, warning=4))
    assert answers(zone.find(name, SRV, 9)) == ["1 1 99 n3.node.dc1.consul."]
    registry.apply([TellCheck("n3", "check-web3", WARNING)], NOW_MS)
    assert answers(zone.find(name, SRV, 9)) == ["1 4 99 n3.node.dc1.consul."]
    registry.add("n1", "late", "late")
    assert len(zone.find(dns.name.from_text("late.service.consul."), A, 9).answer) == 1


def test_srv_tells_port_weight_and_where_that_is(registry: FilledRegistry) -> None:
    registry.add("n1", "web1", "web", port=8001, weights=Weights(passing=7, warning=2))
    registry.add("n2", "web2", "web", port=8002, weights=Weights(passing=7, warning=2), status=WARNING)
    registry.add("n3", "web3", "web", port=8003, address="fd00::3")
    found = ask(registry, "_web._tcp.service", SRV)
    assert sorted(answers(found)) == [
        "1 1 8003 fd000000000000000000000000000003.addr.dc1.consul.",
        "1 2 8002 n2.node.dc1.consul.",
        "1 7 8001 n1.node.dc1.consul.",
    ]
    assert {(each.name.to_text(), each.data[0].to_text()) for each in found.additional} == {
        ("n1.node.dc1.consul.", "10.0.0.1"),
        ("n2.node.dc1.consul.", "10.0.0.2"),
        ("fd000000000000000000000000000003.addr.dc1.consul.", "fd00::3"),
    }


def test_targets_of_srv_can_be_asked_for(registry: FilledRegistry) -> None:
    registry.add("n3", "web3", "web", address="10.1.1.3")
    for each in ask(registry, "web.service", SRV).additional:
        name = each.name.to_text().removesuffix(".consul.")
        assert answers(ask(registry, name, each.data.rdtype)) == [each.data[0].to_text()]


def test_tags_choose_instances_in_any_case(registry: FilledRegistry) -> None:
    assert sorted(answers(ask(registry, "BLUE.web.service"))) == ["10.0.0.2", "10.0.0.3"]
    assert answers(ask(registry, "_web._red.service", SRV)) == ["1 1 8001 n1.node.dc1.consul."]
    assert is_nxdomain(ask(registry, "green.web.service"))
    registry.add("n1", "web1", "web", tags=["a.b"])
    assert answers(ask(registry, "a.b.web.service")) == ["10.0.0.1"]
    assert is_nodata(ask(registry, "b.web.service"))


def test_names_are_found_in_any_case(registry: FilledRegistry) -> None:
    registry.add("n1", "x", "My_Svc")
    registry.add_node("Upper", "10.0.0.9")
    assert answers(ask(registry, "mY_sVC.service")) == ["10.0.0.1"]
    assert answers(ask(registry, "uPPER.node")) == ["10.0.0.9"]


def test_a_name_that_is_there_without_such_records_is_no_error(registry: FilledRegistry) -> None:
    assert is_nodata(ask(registry, "web.service", AAAA))
    assert is_nodata(ask(registry, "web.service", TXT))
    assert is_nodata(ask(registry, "n1.node", AAAA))
    for name in ("service", "node.dc1", "dc1", "_tcp.service"):
        assert is_nodata(ask(registry, name)), name
    assert is_nxdomain(ask(registry, "n9.node"))
    assert is_nxdomain(ask(registry, "web.service.dc2"))


def test_dotted_nodes_have_names_between(registry: FilledRegistry) -> None:
    registry.add_node("a.b", "10.0.0.9")
    assert answers(ask(registry, "a.b.node")) == ["10.0.0.9"]
    assert is_nodata(ask(registry, "b.node"))


def test_instances_of_both_families_are_answered_by_type(registry: FilledRegistry) -> None:
    registry.add("n3", "web3", "web", address="fd00::3")
    assert answers(ask(registry, "web.service", AAAA)) == ["fd00::3"]
    assert len(ask(registry, "web.service", A).answer) == 2


def test_one_address_is_told_once(registry: FilledRegistry) -> None:
    registry.add("n1", "web9", "web", port=8009)
    assert len(ask(registry, "web.service").answer) == 3
    assert len(ask(registry, "web.service", SRV).answer) == 4


def test_an_alias_stands_alone(registry: FilledRegistry) -> None:
    """A name with a CNAME and anything else is an error to resolvers (RFC 1034 3.6.2)."""
    registry.add_node("n4", "db.example.com")
    registry.add("n4", "db1", "db", port=5432)
    for kind in (A, AAAA, TXT):
        assert answers(ask(registry, "db.service", kind)) == ["db.example.com."]
    assert answers(ask(registry, "db.service", SRV)) == ["1 1 5432 db.example.com."]
    registry.add("n1", "db2", "db")
    assert answers(ask(registry, "db.service")) == ["10.0.0.1"]
    assert answers(ask(registry, "n4.node", AAAA)) == ["db.example.com."]


def test_the_order_is_by_chance_unless_near_ones_are_preferred(registry: FilledRegistry) -> None:
    firsts = {answers(ask(registry, "web.service", seed=seed))[0] for seed in range(40)}
    assert len(firsts) == 3
    for seed in range(40):
        found = ask(registry, "web.service", seed=seed, node="n1", zone="a", prefer_local=True)
        assert answers(found) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert answers(ask(registry, "web.service", SRV, node="n1", zone="a", prefer_local=True, answers_max=1)) == [
        "1 1 8001 n1.node.dc1.consul."
    ]


@given(seed=st.integers(0, 1 << 32), count=st.integers(0, 40), answers_max=st.integers(1, 30), prefer=st.booleans())
def test_answers_are_a_fair_part_of_the_instances(seed: int, count: int, answers_max: int, prefer: bool) -> None:
    registry = FilledRegistry()
    for number in range(count):
        registry.add_node(f"m{number}", f"10.0.1.{number}", zone="ab"[number % 2])
        registry.add(f"m{number}", "x", "x", port=number)
    for kind in (A, SRV):
        found = ask(
            registry, "x.service", kind, answers_max=answers_max, seed=seed, node="m0", zone="a", prefer_local=prefer
        )
        told = [each.data[0] for each in found.answer]
        assert len(told) == len(set(told)) == min(count, answers_max)
        assert found.is_partial == (count > answers_max)
        assert (found.rcode == dns.rcode.NXDOMAIN) == (count == 0)


def test_meta_of_a_node_is_text(registry: FilledRegistry) -> None:
    registry.add_node("n1", "10.0.0.1", **{"a=b": "c", "rfc1035-x": "plain", "long": "y" * 300})
    texts = [b"".join(each.data[0].strings) for each in ask(registry, "n1.node", TXT).answer]
    assert texts == [b"a`=b=c", b"long=" + b"y" * 300, b"plain"]


def test_the_domain_has_an_soa_and_name_servers(registry: FilledRegistry) -> None:
    soa = ask(registry, "", SOA).answer[0].data[0]
    assert (soa.mname.to_text(), soa.serial, soa.minimum) == ("n1.node.dc1.consul.", registry.index, 0)
    found = ask(registry, "", NS, servers=["n1", "n2"])
    assert answers(found) == ["n1.node.dc1.consul.", "n2.node.dc1.consul."]
    assert [each.data[0].to_text() for each in found.additional] == ["10.0.0.1", "10.0.0.2"]
    assert is_nodata(ask(registry, ""))


def test_an_instance_that_cannot_be_told_of_is_left_out(registry: FilledRegistry) -> None:
    registry.add("n1", "web1", "web", address="not a host..")
    registry.add_node("x" * 70, "10.0.0.8")
    registry.add("x" * 70, "web8", "web", port=8008)
    assert sorted(answers(ask(registry, "web.service"))) == ["10.0.0.2", "10.0.0.3", "10.0.0.8"]
    registry.add("n1", "odd", "odd", address="not a host..")
    assert is_nxdomain(ask(registry, "odd.service"))
    assert "1 1 8008 0a000008.addr.dc1.consul." in answers(ask(registry, "web.service", SRV))


def test_any_is_answered_with_little(registry: FilledRegistry) -> None:
    assert answers(ask(registry, "web.service", ANY)) == ['"RFC8482" ""']
    assert is_nxdomain(ask(registry, "nosuch.service", ANY))


def test_records_live_as_long_as_is_set(registry: FilledRegistry) -> None:
    found = ask(registry, "nosuch.service", ttl_s=7)
    assert found.authority[0].data.ttl == found.authority[0].data[0].minimum == 7
    assert ask(registry, "web.service", ttl_s=7).answer[0].data.ttl == 7
