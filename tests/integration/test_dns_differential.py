"""The same registrations in a real Consul and in a node of ours, the same questions to both: the same answers.

Order is by chance in both and is not compared, nor is what Consul adds beside what was asked (TXT records). Where we
mean to differ, a test says how.
"""

import asyncio
import json
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dns.asyncquery
import dns.message
import dns.rcode
import pytest
from engines import ConsulServer
from own_node import own_node

from noctule.core.registry.changes import Change, PutCheck, PutNode, PutService
from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance, Weights

pytest_plugins = ("engines",)
pytestmark = pytest.mark.integration

PASSING, WARNING, CRITICAL = CheckStatus.PASSING, CheckStatus.WARNING, CheckStatus.CRITICAL


class Row(NamedTuple):
    """One registration: a node, and an instance on it if it has a name."""

    node: str
    node_address: str
    name: str = ""
    tags: tuple[str, ...] = ()
    port: int = 0
    address: str = ""
    status: CheckStatus = PASSING
    weights: tuple[int, int] = (1, 1)


ROWS = [
    Row("n1", "10.0.0.1", "web", ("blue", "v1"), 8001, weights=(5, 2)),
    Row("n2", "10.0.0.2", "web", ("Green", "v1"), 8002, status=WARNING, weights=(7, 3)),
    Row("n3", "10.0.0.3", "web", ("green",), 8003, status=CRITICAL),
    Row("n4", "fd00::4", "web", ("green", "v2"), 8004),
    Row("n5", "10.0.0.5", "web", ("green",), 8005, address="10.1.1.5"),
    Row("n6", "10.0.0.6", "web", ("green",), 8006, address="fd00::66"),
    Row("n1", "10.0.0.1", "down", (), 8001, status=CRITICAL),
    Row("n1", "10.0.0.1", "noport"),
    Row("n1", "10.0.0.1", "My_Svc", ("Tag_A",), 1),
    Row("n2", "10.0.0.2", "My_Svc", ("t.a",), 2),
    Row("n7", "db7.example.com", "db", (), 5432),
    Row("n8", "10.0.0.8", "alias", (), 5433, address="db8.example.com"),
    Row("n9", "10.0.0.9"),
]
NAMES = [
    *("web.service", "WEB.Service", "blue.web.service", "GREEN.web.service", "v1.web.service.dc1", "no.web.service"),
    *("_web._tcp.service", "_web._blue.service.dc1", "_web._no.service", "web.service.dc1", "web.service.dc2"),
    *(
        "down.service",
        "nosuch.service",
        "noport.service",
        "my_svc.service",
        "tag_a.My_Svc.service",
        "t.a.my_svc.service",
    ),
    *("n1.node", "N1.NODE.dc1", "n4.node", "n9.node", "nosuch.node", "n1.node.dc2", "foo", "web.query"),
    *("db.service", "alias.service"),
]
Picture = tuple[str, frozenset[tuple[str, str, str]], frozenset[tuple[str, str, str]]]


def kinds_of(name: str) -> tuple[str, ...]:
    return ("A", "AAAA") if ".node" in name else ("A", "AAAA", "SRV")


def random_rows(seed: int) -> list[Row]:
    """Forty more instances of five services."""
    chance = random.Random(seed)
    addresses = {number: chance.choice([f"10.9.0.{number}", f"fd00:9::{number:x}"]) for number in range(12)}
    return [
        Row(
            f"m{number}",
            addresses[number],
            f"s{chance.randrange(5)}",
            tuple(chance.sample(["a", "b", "C"], chance.randrange(4))),
            9000 + row,
            chance.choice(["", "", f"10.8.0.{row}", f"fd00:8::{row:x}"]),
            chance.choice([PASSING, PASSING, WARNING, CRITICAL]),
            (chance.randrange(1, 9), chance.randrange(1, 9)),
        )
        for row, number in ((row, chance.randrange(12)) for row in range(40))
    ]


def register_with_consul(server: ConsulServer, rows: list[Row]) -> None:
    for number, row in enumerate(rows):
        body: dict[str, object] = {"Node": row.node, "Address": row.node_address}
        if row.name:
            weights = {"Passing": row.weights[0], "Warning": row.weights[1]}
            service = {"ID": f"i{number}", "Service": row.name, "Tags": row.tags, "Address": row.address}
            body["Service"] = {**service, "Port": row.port, "Weights": weights}
            body["Check"] = {"CheckID": f"c{number}", "Name": "c", "Status": row.status, "ServiceID": f"i{number}"}
        request = urllib.request.Request(f"{server.url}/v1/catalog/register", json.dumps(body).encode(), method="PUT")
        with urllib.request.urlopen(request) as answer:
            assert answer.read() == b"true\n"


def changes_of(rows: list[Row]) -> Iterator[Change]:
    """The same for ours."""
    for number, row in enumerate(rows):
        yield PutNode(RegistryNode(row.node, row.node_address))
        if row.name:
            yield PutService(
                ServiceInstance(
                    row.node, f"i{number}", row.name, row.tags, row.address, row.port, weights=Weights(*row.weights)
                )
            )
            yield PutCheck(Check(row.node, f"c{number}", "c", row.status, service_id=f"i{number}"))


async def ask(port: int, name: str, kind: str) -> Picture:
    """Code, answers and addresses besides."""
    query = dns.message.make_query(f"{name}.consul" if name else "consul", kind)
    reply = await dns.asyncquery.tcp(query, "127.0.0.1", port=port, timeout=5)
    sections = [
        frozenset(
            (rrset.name.to_text().lower(), rdata.rdtype.name, rdata.to_text()) for rrset in section for rdata in rrset
        )
        for section in (reply.answer, [each for each in reply.additional if each.rdtype.name != "TXT"])
    ]
    return dns.rcode.to_text(reply.rcode()), sections[0], sections[1]


def compare(
    server: ConsulServer, folder: Path, rows: list[Row], questions: list[tuple[str, str]]
) -> dict[str, tuple[Picture, Picture]]:
    """Consul's answer and ours, where they differ."""
    register_with_consul(server, rows)
    found: dict[str, tuple[Picture, Picture]] = {}

    async def scenario() -> None:
        async with own_node(folder) as node:
            await node.change(list(changes_of(rows)))
            for name, kind in questions:
                theirs, ours = await ask(server.dns_port, name, kind), await ask(node.dns_port, name, kind)
                if theirs != ours:
                    found[f"{name} {kind}"] = theirs, ours

    asyncio.run(scenario())
    return found


def test_names_mean_what_they_mean_to_consul(consul_server: ConsulServer, tmp_path: Path) -> None:
    questions = [(name, kind) for name in NAMES for kind in kinds_of(name)]
    questions += [("0a000001.addr", "A"), ("fd000000000000000000000000000066.addr.dc1", "AAAA")]
    assert compare(consul_server, tmp_path, ROWS, questions) == {}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_population_is_answered_as_by_consul(consul_server: ConsulServer, tmp_path: Path, seed: int) -> None:
    names = [f"{tag}s{number}.service" for number in range(5) for tag in ("", "a.", "c.")]
    names += [f"m{number}.node" for number in range(12)]
    questions = [(name, kind) for name in names for kind in kinds_of(name)]
    assert compare(consul_server, tmp_path, random_rows(seed), questions) == {}


def test_we_differ_where_consul_breaks_a_rule(consul_server: ConsulServer, tmp_path: Path) -> None:
    """What has names below it exists (RFC 8020), other types have no addresses, an address has its own type only."""
    questions = [
        *(("", "A"), ("service", "A"), ("node.dc1", "A"), ("_tcp.service", "A")),
        *(("web.service", "TXT"), ("0a000001.addr", "AAAA"), ("zz.addr", "A"), ("nosuch.node", "SRV")),
    ]
    found = compare(consul_server, tmp_path, ROWS, questions)
    nothing: frozenset[tuple[str, str, str]] = frozenset()
    assert {question: (theirs[0], len(theirs[1]) > 0, ours) for question, (theirs, ours) in found.items()} == {
        " A": ("NXDOMAIN", False, ("NOERROR", nothing, nothing)),
        "service A": ("NXDOMAIN", False, ("NOERROR", nothing, nothing)),
        "node.dc1 A": ("NXDOMAIN", False, ("NOERROR", nothing, nothing)),
        "_tcp.service A": ("NXDOMAIN", False, ("NOERROR", nothing, nothing)),
        "web.service TXT": ("NOERROR", True, ("NOERROR", nothing, nothing)),
        "0a000001.addr AAAA": ("NOERROR", True, ("NOERROR", nothing, nothing)),
        "zz.addr A": ("NOERROR", False, ("NXDOMAIN", nothing, nothing)),
        "nosuch.node SRV": ("NOERROR", False, ("NXDOMAIN", nothing, nothing)),
    }
