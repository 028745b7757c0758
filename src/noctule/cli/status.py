"""`noctule status`: nodes, partitions and instances, as the nodes themselves see them."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from noctule.cli import output
from noctule.cli.output import NODE_URL, JsonOption, NodeOption

if TYPE_CHECKING:
    from noctule.client.pictures import Cluster, Group

ASK_DEADLINE_S = 3.0
"""For each node; one that is silent for longer is shown without its part."""


def status(node: NodeOption = NODE_URL, json: JsonOption = False) -> None:
    """Show nodes, partitions and instances of a running cluster."""
    import msgspec

    asked, others = asyncio.run(_pictures(node))
    lag = lag_of_nodes([asked, *others])
    if json:
        document = msgspec.to_builtins(asked, str_keys=True)
        pictures = [asked, *others]
        of_each: dict[str, Mapping[int, float]] = {
            "lag_entries": lag,
            "lag_bytes": lag_of_nodes(pictures, "lag_bytes"),
            "lag_s": lag_s_of_nodes(pictures),
        }
        for name, values in of_each.items():
            document[name] = {str(peer.id): values.get(peer.id) for peer in asked.nodes}
        output.print_json(document)
    else:
        show(asked, lag, returning_line([asked, *others]))


async def _pictures(url: str) -> "tuple[Cluster, list[Cluster]]":
    """What the asked node shows, and what the others do: only the leader of a group knows who lags behind."""
    from noctule.base.errors import NoctuleError
    from noctule.client.api import NodeClient

    async def picture_of(address: str) -> "Cluster | None":
        try:
            async with NodeClient(f"http://{address}", deadline_s=ASK_DEADLINE_S) as client:
                return await client.cluster()
        except NoctuleError:
            # The table says already that this node is not well.
            return None

    async with NodeClient(url) as client:
        asked = await client.cluster()
    addresses = [peer.http for peer in asked.nodes if peer.http and peer.alive and peer.id != asked.node_id]
    found = await asyncio.gather(*map(picture_of, addresses))
    return asked, [picture for picture in found if picture is not None]


def lag_of_nodes(pictures: "list[Cluster]", field: str = "lag") -> dict[int, int]:
    """For each node the log entries that it does not have yet, over all groups whose leader was asked; or their bytes.

    Nodes of which no leader speaks are left out.
    """
    lag: dict[int, int] = {}
    for picture in pictures:
        for group in picture.groups:
            if group.leader == picture.node_id:
                # Its leader has every entry of the group.
                for node, entries in {picture.node_id: 0, **getattr(group, field)}.items():
                    lag[node] = lag.get(node, 0) + entries
    return lag


def lag_s_of_nodes(pictures: "list[Cluster]") -> dict[int, float]:
    """For each node how long ago the oldest entry that it lacks in any group was stamped; see `lag_of_nodes`."""
    lag_s: dict[int, float] = {}
    for picture in pictures:
        for group in picture.groups:
            if group.leader == picture.node_id:
                for node, seconds in {picture.node_id: 0.0, **group.lag_s}.items():
                    lag_s[node] = max(lag_s.get(node, 0.0), seconds)
    return lag_s


def partitions_line(groups: "list[Group]") -> str:
    """How many partitions there are and which of them nobody leads, in one line."""
    partitions = [group for group in groups if group.first_slot >= 0]
    leaderless = [str(group.id) for group in groups if group.leader is None]
    keys = sum(group.keys for group in partitions)
    without = f"groups without a leader: {', '.join(leaderless)}" if leaderless else "every one has a leader"
    return f"{len(partitions)} partition{'s' * (len(partitions) != 1)}, {keys} keys; {without}"


def returning_line(pictures: "list[Cluster]") -> str:
    """Which nodes have lost what they had on disk and are not voters again in how many groups; empty when none."""
    waiting = {picture.node_id: sum(not group.admitted for group in picture.groups) for picture in pictures}
    return "\n".join(
        f"node {node} has lost what it had on disk and waits to be readmitted to {count} group{'s' * (count != 1)}"
        for node, count in sorted(waiting.items())
        if count
    )


def show(asked: "Cluster", lag: dict[int, int], returning: str = "") -> None:
    """Print the tables; `returning` as `returning_line` gives it."""
    rows = [
        (
            peer.id,
            "alive" if peer.alive else "not reached",
            peer.leads,
            lag.get(peer.id, "unknown"),
            "itself" if peer.id == asked.node_id else _milliseconds(peer.last_contact_ms),
            peer.http,
            peer.resp,
        )
        for peer in asked.nodes
    ]
    columns = ("node", "state", "leads", "lag (entries)", "last heard", "HTTP", "RESP")
    output.print_table(f"cluster {asked.cluster}, as node {asked.node_id} sees it", columns, rows)
    print(partitions_line(asked.groups))
    if returning:
        print(returning)
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


def _milliseconds(value: int | None) -> str:
    return "never" if value is None else f"{value} ms ago"
