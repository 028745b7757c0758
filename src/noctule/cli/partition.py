"""`noctule partition`: where the keys are, and changing that by hand."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from noctule.base.errors import NoctuleError, UnavailableError
from noctule.cli import output
from noctule.cli.asking import YesOption, ask, confirm, size, title_of
from noctule.cli.output import NODE_URL, JsonOption, NodeOption

if TYPE_CHECKING:
    from noctule.core.meta.views import ComparedView, OperationView, PartitionView, ReplicaView

COMPARE_S_MAX = 35.0
"""A node answers within 30 s."""

partition = typer.Typer(
    help="Show, check, split, merge and lead partitions.", no_args_is_help=True, rich_markup_mode=None
)

Partition = Annotated[int, typer.Argument(min=1, help="The partition's id.", metavar="PARTITION")]


@partition.command("list")
def list_(node: NodeOption = NODE_URL, json: JsonOption = False) -> None:
    """List all partitions in the order of their slots."""
    found = ask(node, lambda client: client.partitions())
    if json:
        output.print_json({"partitions": found})
    else:
        columns = ("partition", "slots", "state", "leader", "replicas (lag)", "data", "keys", "requests/s", "epoch")
        output.print_table(f"{len(found)} partitions", columns, [_row(each) for each in found])


@partition.command("show")
def show(which: Partition, node: NodeOption = NODE_URL, json: JsonOption = False) -> None:
    """Show one partition."""
    _tell(ask(node, lambda client: client.partition(which)), json=json)


@partition.command("check")
def check(
    which: Annotated[
        int | None, typer.Argument(min=1, help="The partition's id; else all.", metavar="PARTITION")
    ] = None,
    node: NodeOption = NODE_URL,
    json: JsonOption = False,
) -> int:
    """Have replicas compared now; exit code 1 when one differs from most, 3 when one is silent."""
    found = asyncio.run(_compare(node, which))
    verdicts = {replica.verdict for each in found for replica in each.replicas}
    if json:
        output.print_json({"partitions": found})
    else:
        verdict_columns = ("equal", "different", "silent")
        rows = [(each.partition, each.index, *(_nodes(each, verdict) for verdict in verdict_columns)) for each in found]
        output.print_table("replicas compared", ("partition", "at entry", *verdict_columns), rows)
    if "different" in verdicts:
        return NoctuleError.exit_code
    return UnavailableError.exit_code if "silent" in verdicts else 0


async def _compare(url: str, which: int | None) -> "list[ComparedView]":
    """One after the other: each costs every node that holds a copy of it."""
    from noctule.client.admin import AdminClient

    async with AdminClient(url, deadline_s=COMPARE_S_MAX) as client:
        wanted = [each.id for each in await client.partitions()] if which is None else [which]
        return [await client.compare(each) for each in wanted]


def _nodes(view: "ComparedView", verdict: str) -> str:
    return " ".join(str(each.node) for each in view.replicas if each.verdict == verdict) or "-"


@partition.command("split")
def split(
    which: Partition,
    node: NodeOption = NODE_URL,
    at_slot: Annotated[
        int | None, typer.Option(help="The new partition's first slot; else where the keys halve, or the slots.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Divide a partition in two; nothing is copied, and clients are served all the while."""
    _tell_begun(ask(node, lambda client: client.split(which, at_slot)), json=json)


@partition.command("merge")
def merge(which: Partition, node: NodeOption = NODE_URL, yes: YesOption = False, json: JsonOption = False) -> None:
    """Merge a partition with its right neighbour, whose keys pause while they are copied."""
    confirm(f"Merge partition {which} with its right neighbour, whose keys pause meanwhile?", yes=yes)
    _tell_begun(ask(node, lambda client: client.merge(which)), json=json)


@partition.command("leader")
def leader(
    which: Partition,
    to: Annotated[int, typer.Argument(min=1, help="The node that is to lead it.", metavar="NODE")],
    node: NodeOption = NODE_URL,
    json: JsonOption = False,
) -> None:
    """Have another replica lead a partition; the leadership follows within moments."""
    _tell(ask(node, lambda client: client.prefer_leader(which, to)), json=json)


def _tell(view: "PartitionView", *, json: bool) -> None:
    if json:
        output.print_json(view)
        return
    columns = ("node", "role", "lag (entries)")
    lags = ["unknown" if each.lag_entries is None else each.lag_entries for each in view.replicas]
    rows = [(each.node, each.role, lag) for each, lag in zip(view.replicas, lags, strict=True)]
    print(f"partition {view.id}: slots {_slots(view)}, {view.state}, {size(view.bytes)}, {view.keys} keys")
    output.print_table("replicas", columns, rows)


def _tell_begun(view: "OperationView", *, json: bool) -> None:
    output.print_json(view) if json else print(f"begun: {title_of(view)}")


def _row(view: "PartitionView") -> tuple[object, ...]:
    return (
        view.id,
        _slots(view),
        str(view.state),
        view.leader or "unknown",
        " ".join(map(_replica, view.replicas)),
        size(view.bytes),
        view.keys,
        view.requests_per_s,
        view.epoch,
    )


def _slots(view: "PartitionView") -> str:
    return f"{view.first_slot}–{view.last_slot}" if view.first_slot <= view.last_slot else "none yet"


def _replica(view: "ReplicaView") -> str:
    lag = f"({view.lag_entries})" if view.lag_entries else ""
    return f"{view.node}{'*' if view.role == 'learner' else ''}{lag}"
