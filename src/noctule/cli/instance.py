"""`noctule instance`: one instance of an app in this process."""

import os
from typing import Annotated

import typer


def instance(
    app: Annotated[str, typer.Argument(metavar="APP", help="The ASGI app as module:attribute, importable from here.")],
    id: Annotated[  # noqa: A002 - becomes the flag --id
        str, typer.Option(envvar="INSTANCE_ID", help="Its name among the instances.")
    ] = "web-1",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="PORT", help="0: the system chooses.")] = 8000,
    drain_delay_ms: Annotated[
        int, typer.Option(metavar="MS", help="How long it still accepts when told to stop, while saying not ready.")
    ] = 1000,
    drain_timeout_s: Annotated[
        int, typer.Option(metavar="S", help="How long requests under way may then take to end.")
    ] = 30,
    die_with_parent: Annotated[
        bool, typer.Option("--die-with-parent", help="Stop when the process that started it ends.")
    ] = False,
) -> int:
    """Run one instance of an app until SIGTERM or SIGINT."""
    from noctule.deploy.local.instance import InstanceConfig, run_instance
    from noctule.deploy.local.processes import check_supervisor

    if die_with_parent:
        check_supervisor(os.environ)
    return run_instance(
        InstanceConfig(
            app=app,
            id=id,
            host=host,
            port=port,
            drain_delay_ms=drain_delay_ms,
            drain_timeout_s=drain_timeout_s,
            die_with_parent=die_with_parent,
        )
    )
