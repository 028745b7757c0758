"""`noctule cluster health`: what each node says of its disk, its groups and its peers, asked now."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from noctule.base.errors import NoctuleError
from noctule.cli import output
from noctule.cli.output import NODE_URL, JsonOption, NodeOption

if TYPE_CHECKING:
    from noctule.embed.health_checker import NodeHealth


def health(
    which: Annotated[int | None, typer.Argument(min=1, help="The node's id; else all.", metavar="NODE")] = None,
    node: NodeOption = NODE_URL,
    json: JsonOption = False,
) -> int:
    """Check the health of one node, or of all; exit code 1 when one is not healthy."""
    found = asyncio.run(_check(node, which))
    if json:
        output.print_json({"nodes": found})
    else:
        rows = [
            (
                each.node,
                "healthy" if each.healthy else "not healthy",
                f"{each.latency_ms:.0f} ms",
                each.http,
                each.reason,
            )
            for each in found
        ]
        output.print_table("health of nodes", ("node", "health", "answered in", "HTTP", "reason"), rows)
    return 0 if all(each.healthy for each in found) else NoctuleError.exit_code


async def _check(url: str, which: int | None) -> "list[NodeHealth]":
    from noctule.client.admin import AdminClient
    from noctule.embed.health_checker import HealthChecker

    async with AdminClient(url) as client:
        checker = HealthChecker(client)
        return [await checker.check_health(which)] if which is not None else await checker.check_all()
