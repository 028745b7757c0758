"""``noctule up``: checks the machine, starts the cluster, keeps it running, and leaves nothing behind.

The order of one run stands here; what starting and stopping mean is told in cluster.py.
"""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import msgspec

from noctule.deploy.local.app_environment import app_environment
from noctule.deploy.local.checks import check_ports_free, claim_data_dir, free_ports, lost_nodes, new_nodes, record_left
from noctule.deploy.local.cluster import LocalCluster
from noctule.deploy.local.foreground import run_supervised
from noctule.deploy.local.plan import Plan, UpConfig, free_ports_count, make_plan, wanted_ports, with_gateway_port
from noctule.deploy.local.processes import Notice

log = logging.getLogger("noctule.up")


class RunningNode(msgspec.Struct, frozen=True):
    """One node that serves."""

    id: int
    pid: int
    resp_port: int
    http_port: int
    peer_port: int
    control_port: int
    resp_cluster_port: int
    dns_port: int
    host: str
    data_dir: str


class RunningInstance(msgspec.Struct, frozen=True):
    """One instance that serves."""

    id: str
    pid: int
    host: str
    port: int


class Running(msgspec.Struct, frozen=True):
    """The cluster once it takes requests: what ``noctule up --json`` prints."""

    gateway: str | None
    """Its URL; None without an app."""
    nodes: list[RunningNode]
    instances: list[RunningInstance]
    cluster: str
    data_dir: str
    pid: int
    """Of the supervisor: SIGTERM to it stops everything."""


def run_up(config: UpConfig, *, notice: Notice, on_ready: Callable[[Running], None]) -> int:
    """Run a local cluster until SIGINT, SIGTERM or SIGHUP, and give the exit code; a second signal kills at once.

    Blocks; for the main thread. `notice` gets a line whenever something happens that a person wants to know, `on_ready`
    what runs where. 0 after an orderly stop, `INTERRUPTED` otherwise. Raises `ConfigError` for what is wrong here, and
    what the process said that could not be started; nothing is left running in any case.
    """
    config = replace(config, data_dir=config.data_dir.absolute())
    config.validate()
    lock, cluster = claim_data_dir(config)
    try:
        wanted = wanted_ports(config, cluster.numbers)
        check_ports_free(wanted)
        taken = {port.port for port in wanted}
        config = with_gateway_port(config, free_ports(config.host, 1, avoid=taken))
        chosen = free_ports(config.inner_host, free_ports_count(config, cluster), avoid={*taken, config.port})
        lost = lost_nodes(config, cluster)
        for node in sorted(lost):
            notice(f"the data folder of node-{node} is gone: it rejoins, and gets from the others what it had")
        plan = make_plan(config, cluster, chosen, sys.executable, lost, app_environment(config, os.environ))
        make = partial(LocalCluster, plan, notice, new=new_nodes(config, cluster), on_left=partial(record_left, config))

        def on_up(local: LocalCluster) -> None:
            running = describe(plan, local)
            log.info("cluster_up", extra=msgspec.to_builtins(running))
            on_ready(running)

        return run_supervised(make, on_up, plan.log_dir / "up.log")
    finally:
        lock.release()


def describe(plan: Plan, cluster: LocalCluster) -> Running:
    """What runs where, now."""
    return Running(
        gateway=cluster.gateway_url,
        nodes=[
            RunningNode(
                id=node.id,
                pid=cluster.nodes[node.id].pid,
                resp_port=node.resp_port,
                http_port=node.http_port,
                peer_port=node.peer_port,
                control_port=node.control_port,
                resp_cluster_port=node.resp_cluster_port,
                dns_port=node.dns_port,
                host=node.host,
                data_dir=str(node.data_dir),
            )
            for node in plan.nodes
        ],
        instances=[
            RunningInstance(each.id, cluster.instances[each.id].pid, each.host, each.port) for each in plan.instances
        ],
        cluster=plan.cluster,
        data_dir=str(plan.data_dir),
        pid=os.getpid(),
    )
