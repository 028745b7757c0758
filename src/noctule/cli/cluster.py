"""`noctule cluster`: who belongs to a cluster, and what that takes. Each verb is a function in a file of its own."""

import typer

from noctule.cli.cluster_certs import certs

cluster = typer.Typer(help="Look after a cluster.", no_args_is_help=True, rich_markup_mode=None)


@cluster.callback()
def _cluster() -> None:
    """Look after a cluster."""


cluster.command("certs")(certs)
