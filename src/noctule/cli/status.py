"""`noctule status`: nodes, partitions and instances, as the nodes themselves see them."""

import asyncio
from typing import TYPE_CHECKING

from noctule.cli import output
from noctule.cli.output import NODE_URL, JsonOption, NodeOption

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from noctule.client.pictures import Cluster
    from noctule.core.meta.views import MemberView, PartitionView

LEADERLESS_SHOWN_MAX = 20
ASK_DEADLINE_S = 3.0
"""For each other node; one that is silent for longer is shown without its part."""


def status(node: NodeOption = NODE_URL, json: JsonOption = False) -> None:
    """Show nodes, partitions and instances of a running cluster."""
    import msgspec

    asked, members, partitions, others = asyncio.run(_gather(node))
    lag = lag_of_nodes(partitions)
    if json:
        document = msgspec.to_builtins(asked, str_keys=True)
        document["lag_entries"] = {str(peer.id): lag.get(peer.id) for peer in asked.nodes}
        document["members"] = msgspec.to_builtins(members)
        document["partitions"] = msgspec.to_builtins(partitions)
        output.print_json(document)
    else:
        show(asked, members, partitions, returning_line([asked, *others]))


async def _gather(url: str) -> "tuple[Cluster, list[MemberView], list[PartitionView], list[Cluster]]":
    """What the asked node knows of all, and what the others say of themselves: nobody else knows what they lost."""
    from noctule.base.errors import NoctuleError
    from noctule.client.admin import AdminClient
    from noctule.client.api import NodeClient

    async def picture_of(address: str) -> "Cluster | None":
        try:
            async with NodeClient(f"http://{address}", deadline_s=ASK_DEADLINE_S) as client:
                return await client.cluster()
        except NoctuleError:
            # The table says already that this node is not well.
            return None

    async with AdminClient(url) as client:
        asked, members, partitions = await client.cluster(), await client.members(), await client.partitions()
    addresses = [peer.http for peer in asked.nodes if peer.http and peer.alive and peer.id != asked.node_id]
    found = await asyncio.gather(*map(picture_of, addresses))
    return asked, members, partitions, [picture for picture in found if picture is not None]


def lag_of_nodes(partitions: "list[PartitionView]") -> dict[int, int]:
    """For each node the log entries that it does not have yet, over all partitions whose leader has told.

    Nodes of which no leader speaks are left out.
    """
    lag: dict[int, int] = {}
    for partition in partitions:
        for replica in partition.replicas:
            if replica.lag_entries is not None:
                lag[replica.node] = lag.get(replica.node, 0) + replica.lag_entries
    return lag


def partitions_line(partitions: "list[PartitionView]") -> str:
    """How many partitions there are and which of them nobody leads, in one line."""
    leaderless = [str(partition.id) for partition in partitions if not partition.leader]
    keys = sum(partition.keys for partition in partitions)
    shown = ", ".join(leaderless[:LEADERLESS_SHOWN_MAX])
    more = f" and {len(leaderless) - LEADERLESS_SHOWN_MAX} more" if len(leaderless) > LEADERLESS_SHOWN_MAX else ""
    without = f"without a known leader: {shown}{more}" if leaderless else "every one has a leader"
    busy = [partition for partition in partitions if partition.state != "active"]
    moving = f"; {len(busy)} not at rest: noctule migrate status" if busy else ""
    return f"{len(partitions)} partition{'s' * (len(partitions) != 1)}, {keys} keys; {without}{moving}"


def differing_lines(differing: "Mapping[int, Collection[int]]") -> list[str]:
    """A sentence for each partition whose replicas were found to differ."""
    return [
        f"partition {partition}: what node{'s' * (len(nodes) != 1)} {', '.join(map(str, nodes))} "
        f"hold{'s' * (len(nodes) == 1)} differs from what most replicas hold: noctule partition check {partition}"
        for partition, nodes in sorted(differing.items())
    ]


def returning_line(pictures: "list[Cluster]") -> str:
    """Which nodes have lost what they had on disk and are not voters again in how many groups; empty when none."""
    waiting = {picture.node_id: sum(not group.admitted for group in picture.groups) for picture in pictures}
    return "\n".join(
        f"node {node} has lost what it had on disk and waits to be readmitted to {count} group{'s' * (count != 1)}"
        for node, count in sorted(waiting.items())
        if count
    )


def show(asked: "Cluster", members: "list[MemberView]", partitions: "list[PartitionView]", returning: str = "") -> None:
    """Print the tables; `returning` as `returning_line` gives it."""
    lag = lag_of_nodes(partitions)
    known = {member.id: member for member in members}
    rows = [
        (
            peer.id,
            _state(peer.alive, known.get(peer.id)),
            known[peer.id].leads if peer.id in known else peer.leads,
            lag.get(peer.id, "unknown"),
            "itself" if peer.id == asked.node_id else _milliseconds(peer.last_contact_ms),
            peer.http,
            peer.resp,
        )
        for peer in asked.nodes
    ]
    columns = ("node", "state", "leads", "lag (entries)", "last heard", "HTTP", "RESP")
    output.print_table(f"cluster {asked.cluster}, as node {asked.node_id} sees it", columns, rows)
    print(partitions_line(partitions))
    for sentence in differing_lines(asked.differing):
        print(sentence)
    if returning:
        print(returning)
    if asked.dns:
        print(f"node {asked.node_id} answers DNS at {asked.dns}")
    if asked.storage_failure:
        print(f"node {asked.node_id} no longer acknowledges: {asked.storage_failure}")
    if asked.draining:
        print(f"node {asked.node_id} is draining")
    if asked.instances:
        output.print_table(
            "instances",
            ("instance", "service", "state", "address", "pid", "requests"),
            [(each.id, each.service, each.state, each.address, each.pid, each.requests) for each in asked.instances],
        )
    else:
        print("no instances are registered")


def _state(alive: bool, member: "MemberView | None") -> str:
    state = "alive" if alive else "not reached"
    return f"{state}, draining" if member is not None and member.state == "draining" else state


def _milliseconds(value: int | None) -> str:
    return "never" if value is None else f"{value} ms ago"
