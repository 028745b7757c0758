"""`noctule cluster drain`, `leave`, `remove` and their like: what is wanted of each node."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from noctule.base.errors import RequestError, UnavailableError
from noctule.cli import output
from noctule.cli.asking import LOOK_S, YesOption, ask, bars, confirm, pair_of, size
from noctule.cli.output import NODE_URL, JsonOption, NodeOption

if TYPE_CHECKING:
    from noctule.client.admin import AdminClient
    from noctule.core.meta.views import MemberView

Node = Annotated[int, typer.Argument(min=1, help="The node's id.", metavar="ID")]
WaitOption = Annotated[float, typer.Option("--timeout-s", help="The longest wait, in seconds; 0: no end.")]


def label(
    which: Node,
    pairs: Annotated[
        list[str], typer.Argument(help="All labels, as in zone=a rack=r1; none takes all away.", metavar="KEY=VALUE…")
    ],
    node: NodeOption = NODE_URL,
    json: JsonOption = False,
) -> None:
    """Say where a node is; replicas are spread over hosts, racks and zones."""
    labels = dict(map(pair_of, pairs))
    member = ask(node, lambda client: client.change_member(which, labels=labels))
    _tell(member, json=json)


def weigh(
    which: Node,
    weight: Annotated[float, typer.Argument(min=0, help="Beside the others'; 0 takes no replicas.")],
    node: NodeOption = NODE_URL,
    json: JsonOption = False,
) -> None:
    """Give a node more or less of the replicas than the others have."""
    _tell(ask(node, lambda client: client.change_member(which, weight=weight)), json=json)


def drain(
    which: Node,
    node: NodeOption = NODE_URL,
    wait: Annotated[bool, typer.Option("--wait", help="Return once the node holds nothing any more.")] = False,
    timeout_s: WaitOption = 0.0,
    json: JsonOption = False,
) -> None:
    """Move everything away from a node, which goes on serving what it still has."""

    async def do(client: "AdminClient") -> "MemberView":
        member = await client.drain(which)
        return await _until_empty(client, which, timeout_s) if wait else member

    _tell(ask(node, do), json=json)


def activate(which: Node, node: NodeOption = NODE_URL, json: JsonOption = False) -> None:
    """Take a draining node back into service."""
    _tell(ask(node, lambda client: client.activate(which)), json=json)


def leave(
    which: Annotated[
        int | None, typer.Argument(min=1, help="The node's id; else the node that is asked.", metavar="ID")
    ] = None,
    node: NodeOption = NODE_URL,
    timeout_s: WaitOption = 0.0,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Drain a node, wait until it holds nothing, and have it leave for good; its process then ends by itself."""

    async def find(client: "AdminClient") -> "MemberView":
        return await client.member(which if which is not None else (await client.cluster()).node_id)

    leaving = ask(node, find)
    confirm(f"Move the {leaving.replicas} partitions of node {leaving.id} away, and have it leave for good?", yes=yes)

    async def do(client: "AdminClient") -> "MemberView":
        if (await client.member(leaving.id)).state == "active":
            await client.drain(leaving.id)
        await _until_empty(client, leaving.id, timeout_s)
        return await client.leave(leaving.id)

    _tell(ask(node, do), json=json)


def remove(
    which: Node,
    node: NodeOption = NODE_URL,
    yes: YesOption = False,
    force: Annotated[bool, typer.Option("--force", help="Do it though data may be lost.")] = False,
    json: JsonOption = False,
) -> None:
    """Take out a node that will not come back, and restore its replicas elsewhere. Says first what is at stake."""
    risk = ask(node, lambda client: client.risk(which))
    for sentence in risk.sentences:
        output.say(sentence)
    if risk.is_dangerous and not force:
        raise RequestError(f"node {which} was not removed, for data may be lost by it; --force does it all the same")
    confirm(f"Remove node {which} for good?", yes=yes)
    _tell(ask(node, lambda client: client.remove(which, force=force)), json=json)


async def _until_empty(client: "AdminClient", node: int, timeout_s: float) -> "MemberView":
    """Wait, with a bar, until a draining node holds nothing any more."""
    end = time.monotonic() + timeout_s if timeout_s else float("inf")
    async with bars() as shown:
        held = max((await client.member(node)).replicas, 1)
        while True:
            member = await client.member(node)
            words = f"{member.replicas} of {held} partitions left, {size(member.bytes)}"
            shown.show(f"node {node}", held - member.replicas, held, words)
            if not member.replicas:
                return member
            if member.state != "draining":
                raise RequestError(f"node {node} is {member.state} and not draining any more")
            if time.monotonic() > end:
                plan = await client.plan()
                why = "; ".join(each.sentence for each in plan.blocked)
                raise UnavailableError(
                    f"node {node} still holds {member.replicas} partitions: {why or 'it goes on draining'}"
                )
            await asyncio.sleep(LOOK_S)


def _tell(member: "MemberView", *, json: bool) -> None:
    if json:
        output.print_json(member)
    else:
        verb = "has" if member.state == "left" else "is"
        print(f"node {member.id} {verb} {member.state} and holds {member.replicas} partitions")
