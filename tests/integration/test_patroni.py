"""Patroni, pointed at a real Consul and at Noctule by one line of its settings, keeps three PostgreSQL nodes alive."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.query
import pytest
from engines import ConsulServer, wait_until
from patroni import SCOPE, TTL_S, PatroniCluster, longest_gap_s
from up_process import Up, get_json

pytest_plugins = ("engines",)
pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

SWITCHED_S_MAX = 20.0
WHOLE_S_MAX = 40.0
NAMED_S_MAX = 30.0
"""Patroni registers anew once it leads, and the check of that is made every five seconds."""
FAILED_OVER_S_MAX = TTL_S + 25.0


def switch_over(cluster: PatroniCluster) -> None:
    """As an operator does it; only who streams may be asked to lead."""
    old, new = cluster.role("leader"), cluster.role("sync_standby")
    cluster.node(old).ask("/switchover", {"leader": old, "candidate": new})
    wait_until(lambda: cluster.leader() == new, "the switchover", SWITCHED_S_MAX)
    cluster.wait_written(20, SWITCHED_S_MAX)


def lose_the_leader(cluster: PatroniCluster) -> None:
    """Patroni and PostgreSQL at once; nobody else lets go of the key for it."""
    old = cluster.role("leader")
    cluster.node(old).kill()
    wait_until(lambda: cluster.leader() not in ("", old), "another leader", FAILED_OVER_S_MAX)
    cluster.wait_written(20, SWITCHED_S_MAX)


def live_through(cluster: PatroniCluster, dns_port: int) -> None:
    """Form it, move the leader on purpose, then lose it, while somebody writes; DNS names whoever leads."""
    cluster.start()
    cluster.begin_writing()
    cluster.wait_written(20, SWITCHED_S_MAX)
    switch_over(cluster)
    wait_until(cluster.is_whole, "the old leader following", WHOLE_S_MAX)
    leader = cluster.node(cluster.leader())
    wait_until(lambda: named_primary(dns_port) == [leader.port], "DNS naming the new leader", NAMED_S_MAX)
    lose_the_leader(cluster)


def test_with_a_real_consul(consul_server: ConsulServer) -> None:
    """What the next one is compared with."""
    with patroni([f"127.0.0.1:{consul_server.http_port}"] * 3) as cluster:
        live_through(cluster, consul_server.dns_port)
        assert cluster.end_writing() == []


def test_with_noctule_and_no_consul_at_all(tmp_path: Path) -> None:
    """Each Patroni asks a node of its own, for it can be told one address only; two of these nodes fail, too."""
    up = Up(tmp_path)
    try:
        nodes = up.wait_up()["nodes"]
        with patroni([f"127.0.0.1:{node['http_port']}" for node in nodes]) as cluster:
            urls = {
                postgres.name: f"http://127.0.0.1:{node['http_port']}"
                for postgres, node in zip(cluster.nodes, nodes, strict=True)
            }
            live_through(cluster, nodes[0]["dns_port"])
            lose_the_leader_s_node_for_a_moment(cluster, urls)
            lose_the_leader_s_node_for_long(cluster, urls)
            assert cluster.end_writing() == []
    finally:
        up.close()


def lose_the_leader_s_node_for_a_moment(cluster: PatroniCluster, urls: dict[str, str]) -> None:
    """Killed, and started again by its supervisor: Patroni tries again, and most often leads on."""
    leader, before = cluster.leader(), len(cluster.acked())
    killed = pid_at(urls[leader])
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: pid_at(urls[leader]) not in (0, killed), "the node being started again", TTL_S)
    cluster.wait_written(200, FAILED_OVER_S_MAX)
    assert longest_gap_s(cluster.acked()[before - 1 :]) < FAILED_OVER_S_MAX


def lose_the_leader_s_node_for_long(cluster: PatroniCluster, urls: dict[str, str]) -> None:
    """Hung: the leader steps down, as it cannot renew its key, and once that has run out another one leads."""
    wait_until(cluster.has_standby, "a synchronous standby", WHOLE_S_MAX)
    leader, before = cluster.leader(), len(cluster.acked())
    pid = pid_at(urls[leader])
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: cluster.leader() not in ("", leader), "a leader whose node is there", FAILED_OVER_S_MAX)
        cluster.wait_written(20, SWITCHED_S_MAX)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert longest_gap_s(cluster.acked()[before - 1 :]) < FAILED_OVER_S_MAX


def named_primary(dns_port: int) -> list[int]:
    """The ports of who leads PostgreSQL, by DNS: Patroni registers its nodes as instances, and tags the primary."""
    query = dns.message.make_query(f"primary.{SCOPE}.service.consul", "SRV")
    reply = dns.query.udp(query, "127.0.0.1", port=dns_port, timeout=5)
    return [record.port for rrset in reply.answer for record in rrset]


def pid_at(url: str) -> int:
    """Of the node that answers there; 0 while none does."""
    picture = get_json(f"{url}/api/cluster")
    return int(picture["pid"]) if picture else 0


@contextmanager
def patroni(dcs: Sequence[str]) -> Iterator[PatroniCluster]:
    cluster = PatroniCluster(dcs)
    try:
        yield cluster
    except BaseException:
        print(cluster.logs())
        raise
    finally:
        cluster.close()
