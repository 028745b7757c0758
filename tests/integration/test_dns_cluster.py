"""DNS of real nodes: each answers for all, and what ran on a node that is gone is not answered."""

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import pytest
from up_process import Up, get_json, wait_until

pytestmark = pytest.mark.integration


def register(node: dict[str, Any]) -> None:
    """An instance that this node's agent keeps."""
    body = json.dumps({"name": "web", "address": "10.0.0.9", "port": 9000 + node["id"]}).encode()
    url = f"http://127.0.0.1:{node['http_port']}/api/services/web-{node['id']}"
    with urllib.request.urlopen(urllib.request.Request(url, body, method="PUT"), timeout=10) as answer:
        assert answer.status == 200


def ask(node: dict[str, Any], name: str, kind: str) -> list[str]:
    """What a node answers, in order; empty when the name is not there."""
    query = dns.message.make_query(name, kind)
    reply = dns.query.udp(query, "127.0.0.1", port=node["dns_port"], timeout=5)
    assert reply.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
    return sorted(record.to_text() for rrset in reply.answer for record in rrset)


def ports(node: dict[str, Any]) -> list[int]:
    return sorted(int(each.split()[2]) for each in ask(node, "_web._tcp.service.consul", "SRV"))


def test_instances_of_a_silent_node_leave_the_answers_of_all_others(tmp_path: Path) -> None:
    up = Up(tmp_path)
    try:
        nodes = up.wait_up()["nodes"]
        for node in nodes:
            assert (
                get_json(f"http://127.0.0.1:{node['http_port']}/api/cluster")["dns"] == f"127.0.0.1:{node['dns_port']}"
            )
            wait_until(lambda node=node: len(ask(node, "consul", "NS")) == 3, "all members being name servers")
            wait_until(lambda node=node: ask(node, "node-2.node.consul", "A") == ["127.0.0.1"], "members having names")
            register(node)
        for node in nodes:
            wait_until(lambda node=node: ports(node) == [9001, 9002, 9003], "every node naming all instances")
        os.kill(nodes[2]["pid"], signal.SIGSTOP)  # A killed one would be started again before all are asked.
        try:
            for node in nodes[:2]:
                wait_until(lambda node=node: ports(node) == [9001, 9002], "the hung node's instance being left out")
        finally:
            os.kill(nodes[2]["pid"], signal.SIGCONT)
        for node in nodes:
            wait_until(lambda node=node: ports(node) == [9001, 9002, 9003], "the node that goes on being named")
    finally:
        up.close()
