"""`noctule gateway certs`: a CA and certificates of hosts, to try TLS before there are certificates that all trust."""

import datetime
from pathlib import Path
from typing import Annotated

import typer

from noctule.cli import output


def certs(
    out: Annotated[Path, typer.Option(help="The folder to write to; made if it is missing.")],
    host: Annotated[list[str], typer.Option(help="A host, or *.example.com for every name below it; repeat it.")],
) -> int:
    """Make a CA, and a certificate and a private key for each host, for development and for networks of your own.

    Clients trust them once they trust ca.pem. No node takes them for one of its cluster. Files that are there already
    are never overwritten.
    """
    # Only this verb needs the library, which takes a while to load.
    from noctule.adapters.certificates import write_certificates

    now = datetime.datetime.now(datetime.UTC)
    for path in write_certificates(out, "gateway", list(dict.fromkeys(host)), now, is_node=False):
        print(path)
    output.say(f"clients trust them by {out / 'ca.pem'}; whoever has {out / 'ca.key'} can be any host to those clients")
    return 0
