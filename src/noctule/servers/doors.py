"""A node with its doors: RESP, HTTP and control, opened and closed in order, in whatever process it is.

Open: data folder and log, peers, RESP, HTTP, DNS, control. Close: not ready, so that whoever balances turns away;
commands on their way are answered; leadership is handed over; the disk finishes.
"""

import contextlib
import os
import random
from collections.abc import Callable
from functools import partial

import dns.name

from noctule.adapters.control_client import ControlClient
from noctule.adapters.control_server import ControlServer
from noctule.adapters.open_files import open_files_max
from noctule.adapters.snapshot_stream import SnapshotService
from noctule.adapters.system_clock import SystemClock
from noctule.node.agent.agent import node_name
from noctule.node.config import NodeConfig
from noctule.node.control import NodeControl
from noctule.node.joining import join_cluster
from noctule.node.node import LocalNode, facts_of
from noctule.node.node_tls import load_tls
from noctule.servers.consul.api import DATACENTER
from noctule.servers.dns.messages import Replier
from noctule.servers.dns.server import DnsServer
from noctule.servers.dns.zone import Zone, ZoneSettings
from noctule.servers.http_server import HttpServer
from noctule.servers.master_watch import MasterWatch
from noctule.servers.resp_server import ClusterFace, RespServer, affordable_connections

DRAIN_S = 5.0
"""How long commands on their way may take when the node stops."""


class NodeDoors:
    """A running node and its doors, from `open` to `close`."""

    def __init__(self, node: LocalNode, addresses: dict[str, str], stack: contextlib.AsyncExitStack) -> None:
        self.node = node
        self.addresses = addresses
        """host:port of each door, as others are told: resp, resp_cluster, http, control, peer; dns if there is one."""
        self._stack = stack

    @classmethod
    async def open(
        cls, config: NodeConfig, version: str, retired: Callable[[str], None] = lambda _: None
    ) -> "NodeDoors":
        """Let the node in where it is to join, start it, and open its doors.

        `retired` is called, with the reason, when the node no longer belongs to its cluster.
        Raises `ConfigError`, `StorageError` or `UnavailableError`; nothing is left running then.
        """
        async with contextlib.AsyncExitStack() as stack:
            config = await _let_in(config, version)
            node = await LocalNode.open(config, SystemClock(), version)
            stack.push_async_callback(node.stop)
            resp = RespServer(
                node.store,
                node.picture,
                config.host,
                config.resp_port,
                connections_max=affordable_connections(open_files_max()),
                cluster_face=ClusterFace(node.cluster_store, config.resp_cluster_port, node.cluster_view),
                staleness_ms=node.staleness_ms,
                pubsub=node.host.pubsub,
                scripts=node.scripts,
            )
            await resp.start()
            node.more_counters.append(resp.counters)
            stack.push_async_callback(resp.stop, DRAIN_S)
            await node.agent.start()
            stack.push_async_callback(node.agent.stop)
            http = HttpServer(node, config.host, config.http_port)
            await http.start()
            stack.push_async_callback(http.stop, DRAIN_S)
            if config.dns_enabled:
                names = _dns_server(node)
                await names.start()
                stack.push_async_callback(names.stop)
                node.more_counters.append(names.counters)
                node.dns = f"{config.advertise_host}:{names.port}"
            control = ControlServer(NodeControl(node), load_tls(config))
            control.add(SnapshotService(node.host, node.refusal_of_sender, load_tls(config)).handler())
            control_port = await control.start(config.host, config.control_port)
            stack.push_async_callback(control.stop)
            ports = {"http": http.port, "control": control_port, "peer": node.peer_port}
            addresses = {door: f"{config.advertise_host}:{port}" for door, port in ports.items()}
            addresses["resp"] = f"{config.resp_announce_host}:{config.resp_announce_port or resp.port}"
            cluster_port = config.resp_cluster_announce_port or resp.cluster_port
            addresses["resp_cluster"] = f"{config.resp_announce_host}:{cluster_port}"
            if node.dns:
                addresses["dns"] = node.dns
            node.premises.retired = retired
            node.join(addresses["resp"], addresses["http"], addresses["control"], addresses["resp_cluster"])
            subscriptions = node.host.pubsub.subscriptions
            watch = MasterWatch(node.cluster_view, partial(subscriptions.publish, sharded=False))
            watch.start()
            stack.callback(watch.stop)
            return cls(node, addresses, stack.pop_all())

    async def close(self) -> None:
        """Stop in order. Being killed instead loses nothing either."""
        self.node.draining = True
        await self._stack.aclose()


async def _let_in(config: NodeConfig, version: str) -> NodeConfig:
    """The settings with the id that the node has in its cluster, which it joins now if it is to."""
    client = ControlClient(load_tls(config))
    try:
        return await join_cluster(config, facts_of(config, version), client.join)
    finally:
        await client.close()


def _dns_server(node: LocalNode) -> DnsServer:
    """The DNS door onto the registry of a node."""
    config = node.config

    def servers() -> list[str]:
        others = [each for each in node.premises.members if each != config.node_id and node.premises.is_alive(each)]
        return [node_name(each) for each in (config.node_id, *others)]

    settings = ZoneSettings(
        domain=dns.name.from_text(config.dns_domain),
        datacenter=DATACENTER,
        node=node_name(config.node_id),
        zone=config.labels.get("zone", ""),
        ttl_s=config.dns_ttl_s,
        only_passing=config.dns_only_passing,
        prefer_local=config.dns_prefer_local,
    )
    chance = random.Random(int.from_bytes(os.urandom(16), "big"))
    return DnsServer(Replier(Zone(settings, lambda: node.registry.view, servers, chance)), config.host, config.dns_port)
