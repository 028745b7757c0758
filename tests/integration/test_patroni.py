"""Patroni, pointed at a real Consul and at Noctule by one line of its settings, keeps three PostgreSQL nodes alive."""

import time

import pytest
from engines import ConsulServer, wait_until
from patroni import TTL_S, PatroniCluster, longest_gap_s

pytest_plugins = ("engines",)
pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

SWITCHED_S_MAX = 20.0
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


def test_with_a_real_consul(consul_server: ConsulServer) -> None:
    """What the next one is compared with."""
    cluster = PatroniCluster([f"127.0.0.1:{consul_server.http_port}"] * 3)
    try:
        began = time.monotonic()
        cluster.start()
        print("whole", time.monotonic() - began)
        cluster.begin_writing()
        cluster.wait_written(20, SWITCHED_S_MAX)
        began = time.monotonic()
        switch_over(cluster)
        print("switched", time.monotonic() - began, longest_gap_s(cluster.acked()))
        wait_until(cluster.is_whole, "the old leader following", 40)
        print("whole again", time.monotonic() - began)
        began = time.monotonic()
        lose_the_leader(cluster)
        print("failed over", time.monotonic() - began, longest_gap_s(cluster.acked()), len(cluster.acked()))
        assert cluster.end_writing() == []
    except BaseException:
        print(cluster.logs())
        raise
    finally:
        cluster.close()
