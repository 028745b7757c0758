"""Queries and replies as bytes: what is refused and how, what EDNS agrees on, where a reply is cut."""

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.servers.dns.messages import QUERY_BYTES_MAX, TCP_ANSWERS_MAX, UDP_BYTES_MAX, Replier, Via
from tests.unit.servers.dns.registries import FilledRegistry, zone_of


def big_registry(count: int = 60) -> FilledRegistry:
    registry = FilledRegistry()
    for number in range(count):
        registry.add_node(f"n{number}", f"10.0.{number // 256}.{number % 256}")
        registry.add(f"n{number}", f"web{number}", "web", port=8000 + number % 1000)
    registry.add("n1", "one", "one", port=1)
    return registry


REPLIER = Replier(zone_of(big_registry()))


def ask(query: dns.message.Message, via: Via = Via.UDP, replier: Replier = REPLIER) -> dns.message.Message:
    wire = replier.reply(query.to_wire(), via)
    assert wire is not None
    reply = dns.message.from_wire(wire, raise_on_truncation=False)
    assert reply.id == query.id
    return reply


def test_a_reply_says_what_was_asked_and_that_it_is_the_last_word() -> None:
    query = dns.message.make_query("OnE.service.CONSUL", "A")
    reply = ask(query)
    assert reply.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD
    assert str(reply.question[0].name) == str(reply.answer[0].name) == "OnE.service.CONSUL."
    assert reply.edns == -1


@pytest.mark.parametrize("name", ["example.com", "consul.example.com", "1.0.0.10.in-addr.arpa", "."])
def test_names_outside_the_domain_are_refused(name: str) -> None:
    reply = ask(dns.message.make_query(name, "A"))
    assert reply.rcode() == dns.rcode.REFUSED
    assert not reply.flags & dns.flags.AA


@pytest.mark.parametrize("kind", ["AXFR", "IXFR", "MAILB", "TSIG"])
def test_zones_and_types_that_are_none_are_refused(kind: str) -> None:
    assert ask(dns.message.make_query("consul", kind)).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("rdclass", ["CH", "ANY", "NONE"])
def test_other_classes_are_refused(rdclass: str) -> None:
    query = dns.message.make_query("one.service.consul", "A", rdclass=dns.rdataclass.from_text(rdclass))
    assert ask(query).rcode() == dns.rcode.REFUSED


def test_other_things_than_questions_are_not_done() -> None:
    query = dns.message.make_query("one.service.consul", "A")
    for opcode in (dns.opcode.UPDATE, dns.opcode.NOTIFY, dns.opcode.STATUS):
        query.set_opcode(opcode)
        wire = REPLIER.reply(query.to_wire(), Via.UDP)
        assert wire is not None
        assert wire[3] & 0xF == dns.rcode.NOTIMP
        assert (wire[2] >> 3) & 0xF == opcode


def test_malformed_queries_are_told_so() -> None:
    query = dns.message.make_query("one.service.consul", "A").to_wire()
    two = bytearray(query + query[12:])
    two[5] = 2
    crowded = bytearray(query + b"\0\0\x0a\0\1\0\0\0\0\0\0" * 3)
    crowded[11] = 3
    looped = query[:12] + b"\xc0\x0c\x00\x01\x00\x01"
    for wire in (
        query[:-1],
        query[:12],
        query + b"x",
        bytes(two),
        bytes(crowded),
        looped,
        query + bytes(QUERY_BYTES_MAX),
    ):
        reply = REPLIER.reply(wire, Via.UDP)
        assert reply is not None
        assert reply[:2] == query[:2]
        assert reply[3] & 0xF == dns.rcode.FORMERR


def test_replies_and_less_than_a_header_are_not_answered() -> None:
    """Two servers that answered each other's replies would do so for ever."""
    reply = dns.message.make_response(dns.message.make_query("one.service.consul", "A"))
    assert REPLIER.reply(reply.to_wire(), Via.UDP) is None
    assert REPLIER.reply(b"", Via.UDP) is REPLIER.reply(bytes(11), Via.TCP) is None


def test_edns_of_another_version_is_told_so() -> None:
    reply = ask(dns.message.make_query("one.service.consul", "A", use_edns=1))
    assert reply.rcode() == dns.rcode.BADVERS
    assert not reply.answer


@pytest.mark.parametrize(
    ("payload", "bytes_max"), [(None, 512), (0, 512), (512, 512), (900, 900), (65_535, UDP_BYTES_MAX)]
)
def test_by_udp_a_reply_is_cut_at_what_the_client_takes(payload: int | None, bytes_max: int) -> None:
    more = {} if payload is None else {"use_edns": 0, "payload": payload}
    query = dns.message.make_query("web.service.consul", "SRV", **more)  # type: ignore[arg-type]
    wire = REPLIER.reply(query.to_wire(), Via.UDP)
    assert wire is not None
    assert bytes_max - 60 < len(wire) <= bytes_max
    reply = dns.message.from_wire(wire, raise_on_truncation=False)
    assert reply.flags & dns.flags.TC
    assert reply.edns == (-1 if payload is None else 0)
    whole = ask(query, Via.TCP)
    assert not whole.flags & dns.flags.TC
    assert (len(whole.answer[0]), len(whole.additional)) == (60, 60)


def test_addresses_that_do_not_fit_are_left_out_and_that_is_no_cut() -> None:
    """They can be asked for (RFC 2181 9); TC would only send the client to TCP."""
    reply = ask(dns.message.make_query("web.service.consul", "SRV"), replier=Replier(zone_of(big_registry(10))))
    assert len(reply.answer[0]) == 10
    assert 0 < len(reply.additional) < 10
    assert not reply.flags & dns.flags.TC


def test_by_tcp_there_is_a_bound_too() -> None:
    replier = Replier(zone_of(big_registry(TCP_ANSWERS_MAX + 500)))
    for kind in ("SRV", "A"):
        reply = ask(dns.message.make_query("web.service.consul", kind), Via.TCP, replier)
        assert len(reply.answer[0]) == TCP_ANSWERS_MAX
    assert not reply.flags & dns.flags.TC


def test_answers_are_counted_by_type_and_code() -> None:
    replier = Replier(zone_of(big_registry(2)))
    for name, kind in (("web.service.consul", "A"), ("no.service.consul", "A"), ("x.org", "MX")):
        ask(dns.message.make_query(name, kind), replier=replier)
    replier.reply(bytes(12), Via.UDP)
    assert replier.answers == {
        ("A", "NOERROR"): 1,
        ("A", "NXDOMAIN"): 1,
        ("other", "REFUSED"): 1,
        ("", "FORMERR"): 1,
    }


QUERIES = st.builds(
    lambda name, kind, edns: dns.message.make_query(name, kind, use_edns=edns).to_wire(),
    st.sampled_from(["web.service.consul", "_web._tcp.service.consul", "n1.node.consul", "consul", "x.y", "."]),
    st.integers(0, 65_535),
    st.sampled_from([-1, 0, 1]),
)


@given(QUERIES, st.data(), st.sampled_from(Via))
def test_no_bytes_whatever_bring_it_down(query: bytes, data: st.DataObject, via: Via) -> None:
    """Damaged queries: bytes changed, cut off and added. Each reply is one, is within its bound and can be read."""
    wire = bytearray(query)
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(wire) - 1), st.integers(0, 255)), max_size=6)):
        wire[place] = value
    wire = wire[: data.draw(st.integers(0, len(wire)))] + data.draw(st.binary(max_size=20))
    reply = REPLIER.reply(bytes(wire), via)
    if reply is not None:
        assert len(reply) <= (UDP_BYTES_MAX if via is Via.UDP else 65_535)
        read = dns.message.from_wire(reply, raise_on_truncation=False)
        assert read.flags & dns.flags.QR
        assert read.id == int.from_bytes(wire[:2])


@given(st.binary(max_size=200))
def test_noise_brings_nothing_down(noise: bytes) -> None:
    REPLIER.reply(noise, Via.UDP)
