"""`noctule verify`: look at a running cluster from outside, or at a history, and say what holds.

``noctule verify [URL]`` is ``noctule verify cluster [URL]``: what begins with no command's name is for that.
"""

import asyncio
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from typer.core import TyperGroup

from noctule.cli.history import history
from noctule.verify.verification.options import NODE_URL_DEFAULT, Options
from noctule.verify.verification.report import Report
from noctule.verify.verification.run import CHECKS, Check
from noctule.verify.verification.run import verify as run_verification
from noctule.verify.verification.screen import show

DEFAULT = "cluster"


class _ClusterByDefault(TyperGroup):
    """A group whose first word may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command in front of what is no command."""
        is_named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if is_named else [DEFAULT, *args])


verify = typer.Typer(
    cls=_ClusterByDefault,
    help="""Verify a running cluster, or a history of what clients were answered; exit code 0 only when all holds.

    Without the name of a command it verifies a cluster: noctule verify http://127.0.0.1:8080""",
    rich_markup_mode=None,
)
verify.command("history")(history)


@verify.command(DEFAULT)
def cluster(
    url: Annotated[str, typer.Argument(help="The load balancer.")] = "http://127.0.0.1:8080",
    node: Annotated[
        str, typer.Option(envvar="NOCTULE_NODE", help="The HTTP URL of any node; it knows the instances and the store.")
    ] = NODE_URL_DEFAULT,
    requests: Annotated[int, typer.Option(help="How many requests are sent to see how they spread.")] = 30,
    destructive: Annotated[
        bool, typer.Option("--destructive", help="Also kill one instance of this machine with SIGKILL.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout-s", help="The longest wait for one answer, in seconds.")] = 5.0,
    store: Annotated[
        str, typer.Option(help="The store's URL, as in redis://127.0.0.1:7401; else the node is asked for it.")
    ] = "",
    instance: Annotated[
        list[str] | None,
        typer.Option(help="The URL of an app instance; once for each. Else the node is asked for them."),
    ] = None,
    sign_in_path: Annotated[str, typer.Option(help="Where a form with the field name signs in.")] = "/sign-in",
    session_path: Annotated[
        str, typer.Option(help="The page that gives name, visits and session as JSON.")
    ] = "/api/whoami",
) -> None:
    """Verify a running cluster: health, distribution, sessions, health endpoints; exit code 0 only when all hold.

    The word cluster may be left out.
    """
    options = Options(
        node=node,
        instances=tuple(instance or ()),
        store=store,
        requests=requests,
        timeout_s=timeout_s,
        sign_in_path=sign_in_path,
        session_path=session_path,
        destructive=destructive,
    )
    report = _run(url, options)
    if json:
        print(report.as_json())
    else:
        show(report, Console())
    raise typer.Exit(report.exit_code)


def _run(url: str, options: Options) -> Report:
    """Verify, with a progress bar on stderr when that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(CHECKS))
        done = -1

        def on_check(check: Check) -> None:
            nonlocal done
            done += 1
            progress.update(task, description=check.title, completed=done)

        return asyncio.run(run_verification(url, options, on_check))
