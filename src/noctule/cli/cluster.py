"""`noctule cluster`: who belongs to a cluster, what it is set to, and letting nodes in and out.

What changes nodes is in cluster_nodes.py, and so on by subject; here is what is shown, and the list of all verbs.
"""

import asyncio
from typing import TYPE_CHECKING, Any

import typer

from noctule.base.errors import NoctuleError, UnavailableError
from noctule.cli import cluster_health, cluster_nodes, cluster_settings, cluster_tokens, output
from noctule.cli.asking import ask, size
from noctule.cli.cluster_certs import certs
from noctule.cli.output import NODE_URL, JsonOption, NodeOption
from noctule.cli.status import differing_lines

if TYPE_CHECKING:
    from noctule.client.admin import AdminClient
    from noctule.core.meta.views import MemberView

CHECK_S_MAX = 5.0
"""How long a node may take to try all others."""

cluster = typer.Typer(
    help="Look after a cluster: nodes, tokens, settings, certificates.", no_args_is_help=True, rich_markup_mode=None
)


@cluster.command("info")
def info(node: NodeOption = NODE_URL, json: JsonOption = False) -> None:
    """Show the cluster in a few lines."""

    async def gather(client: "AdminClient") -> dict[str, object]:
        picture, members = await client.cluster(), await client.members()
        partitions, running = await client.partitions(), await client.operations(running=True)
        settings = await client.settings()
        present = [each for each in members if each.state in ("active", "draining")]
        return {
            "cluster": picture.cluster,
            "cluster_id": picture.cluster_id,
            "epoch": picture.epoch,
            "nodes": len(present),
            "alive": sum(each.alive for each in present),
            "draining": sum(each.state == "draining" for each in present),
            "partitions": len(partitions),
            "replication_factor": settings.replication_factor,
            "keys": sum(each.keys for each in partitions),
            "bytes": sum(each.bytes for each in partitions),
            "requests_per_s": sum(each.requests_per_s for each in partitions),
            "running": len(running),
            "rebalance_enabled": settings.rebalance_enabled,
        }

    facts = ask(node, gather)
    if json:
        output.print_json(facts)
    else:
        for name, value in facts.items():
            print(f"{name.replace('_', ' ')}: {str(value).lower() if isinstance(value, bool) else value}")


@cluster.command("check")
def check(node: NodeOption = NODE_URL, json: JsonOption = False) -> int:
    """Have every node try to reach every other one, and tell of replicas that were found to differ.

    Exit code 1 when some differ, 3 when a node cannot reach another one.
    """
    rows = asyncio.run(_reaches(node))
    differing = ask(node, lambda client: client.cluster()).differing
    if json:
        output.print_json({"reach": rows, "differing": differing})
    else:
        columns = ("from", "to", "frames", "trusted", "call (ms)", "problem")
        shown = [
            (
                row["from"],
                row["to"],
                *(("no", "yes")[row[name]] for name in ("frames", "trusted")),
                row["call_ms"] or "-",
                row["problem"],
            )
            for row in rows
        ]
        output.print_table("who reaches whom", columns, shown)
        for sentence in differing_lines(differing) or ["no replicas were found to differ"]:
            print(sentence)
    if differing:
        return NoctuleError.exit_code
    return 0 if all(row["frames"] and row["call_ms"] is not None for row in rows) else UnavailableError.exit_code


async def _reaches(url: str) -> list[dict[str, Any]]:
    """A row for each pair; a node that does not answer has one row, with the reason."""
    from noctule.client.admin import AdminClient

    async def rows_of(member: "MemberView") -> list[dict[str, Any]]:
        try:
            async with AdminClient(f"http://{member.http}", deadline_s=CHECK_S_MAX) as client:
                own, others = await client.reach()
        except NoctuleError as error:
            gone = {"frames": False, "trusted": False, "call_ms": None, "problem": f"does not answer: {error}"}
            return [{"from": member.id, "to": "-", **gone}]
        return [
            {
                "from": own,
                "to": each.node,
                "frames": each.is_connected,
                "trusted": each.is_trusted,
                "call_ms": each.call_ms,
                "problem": each.problem,
            }
            for each in others
        ]

    async with AdminClient(url) as client:
        members = [each for each in await client.members() if each.state in ("active", "draining")]
    return [row for rows in await asyncio.gather(*map(rows_of, members)) for row in rows]


@cluster.command("nodes")
def nodes(node: NodeOption = NODE_URL, json: JsonOption = False) -> None:
    """List the nodes, those that have gone included."""
    members = ask(node, lambda client: client.members())
    if json:
        output.print_json({"nodes": members})
    else:
        columns = ("node", "state", "leads", "replicas", "data", "memory", "weight", "labels", "version", "HTTP")
        output.print_table("nodes", columns, [_row(member) for member in members])


def _row(member: "MemberView") -> tuple[object, ...]:
    is_present = member.state in ("active", "draining")
    return (
        member.id,
        str(member.state) if member.alive or not is_present else f"{member.state}, not reached",
        member.leads,
        member.replicas,
        size(member.bytes),
        size(member.memory_bytes),
        f"{member.weight:g}",
        " ".join(f"{key}={value}" for key, value in sorted(member.labels.items())),
        member.version,
        member.http,
    )


token = typer.Typer(help="Tokens by which nodes may join.", no_args_is_help=True, rich_markup_mode=None)
token.command("create")(cluster_tokens.create_token)
token.command("list")(cluster_tokens.list_tokens)
token.command("revoke")(cluster_tokens.revoke_token)
cluster.add_typer(token, name="token")
cluster.command("settings")(cluster_settings.settings)
cluster.command("set")(cluster_settings.set_)
cluster.command("label")(cluster_nodes.label)
cluster.command("weigh")(cluster_nodes.weigh)
cluster.command("drain")(cluster_nodes.drain)
cluster.command("activate")(cluster_nodes.activate)
cluster.command("leave")(cluster_nodes.leave)
cluster.command("remove")(cluster_nodes.remove)
cluster.command("health")(cluster_health.health)
cluster.command("certs")(certs)
