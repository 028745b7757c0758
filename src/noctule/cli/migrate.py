"""`noctule migrate`: moving one replica of a partition by hand, and watching what moves."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from noctule.base.errors import ConfigError
from noctule.cli import output
from noctule.cli.asking import LOOK_S, YesOption, ask, bars, confirm, title_of, words_of
from noctule.cli.output import NODE_URL, JsonOption, NodeOption

if TYPE_CHECKING:
    from noctule.client.admin import AdminClient
    from noctule.core.meta.views import Kind, OperationView

migrate = typer.Typer(help="Move replicas, and watch what moves.", no_args_is_help=True, rich_markup_mode=None)

Migration = Annotated[int, typer.Argument(min=1, help="The migration's id.", metavar="ID")]
WatchOption = Annotated[bool, typer.Option("--watch", help="Return once it has ended.")]


@migrate.command("start")
def start(
    partition: Annotated[int, typer.Argument(min=1, help="The partition's id.", metavar="PARTITION")],
    source: Annotated[int, typer.Option("--from", min=0, help="The node that loses its replica; 0: one is added.")] = 0,
    target: Annotated[int, typer.Option("--to", min=0, help="The node that gets one; 0: one is dropped.")] = 0,
    node: NodeOption = NODE_URL,
    watch: WatchOption = False,
    json: JsonOption = False,
) -> int:
    """Move one replica of a partition to another node, while clients are served."""
    if not source and not target:
        raise ConfigError("say --from, --to, or both")
    begun = ask(node, lambda client: client.migrate(partition, source, target))
    if not watch:
        output.print_json(begun) if json else print(f"begun: {title_of(begun)}")
        return 0
    return _watch(node, begun.id, json=json)


@migrate.command("status")
def status(
    which: Annotated[int | None, typer.Argument(min=1, help="Of one migration; else of all.", metavar="ID")] = None,
    node: NodeOption = NODE_URL,
    watch: WatchOption = False,
    json: JsonOption = False,
) -> int:
    """Show what is on its way: migrations, splits and merges, and what has lately ended."""
    if watch:
        return _watch(node, which, json=json)
    if which is not None:
        _print([ask(node, lambda client: client.migration(which))], json=json)
    else:
        _print(ask(node, lambda client: client.operations()), json=json)
    return 0


@migrate.command("cancel")
def cancel(which: Migration, node: NodeOption = NODE_URL, yes: YesOption = False, json: JsonOption = False) -> None:
    """Have a migration go back; the partition stays where it was."""
    confirm(f"Take back migration {which}?", yes=yes)
    view = ask(node, lambda client: client.cancel_migration(which))
    output.print_json(view) if json else print(f"{title_of(view)}: {words_of(view)}")


def _watch(url: str, which: int | None, *, json: bool) -> int:
    """Bars until it has ended, or nothing is on its way any more; fails when the one that was named went back."""

    async def do(client: "AdminClient") -> "list[OperationView]":
        seen: dict[tuple[Kind, int], OperationView] = {}
        async with bars() as shown:
            while True:
                running = await client.operations(running=True) if which is None else [await client.migration(which)]
                now = {(view.kind, view.id): view for view in running}
                if gone := seen.keys() - now.keys():
                    now |= {(v.kind, v.id): v for v in await client.operations() if (v.kind, v.id) in gone}
                seen |= now
                for view in now.values():
                    shown.show_operation(view)
                if all(view.has_ended for view in running):
                    return list(seen.values())
                await asyncio.sleep(LOOK_S)

    ended = ask(url, do)
    _print(ended, json=json)
    return output.FAILED if which is not None and ended[-1].stage != "done" else 0


def _print(views: "list[OperationView]", *, json: bool) -> None:
    if json:
        output.print_json({"migrations": views})
        return
    rows = [(title_of(view), words_of(view), view.reason) for view in views]
    if rows:
        output.print_table("migrations, splits and merges", ("what", "how it stands", "why"), rows)
    else:
        print("nothing is on its way")
