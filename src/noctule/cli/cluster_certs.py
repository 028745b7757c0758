"""`noctule cluster certs`: a CA and the certificates of nodes, for TLS between them."""

import datetime
import re
from pathlib import Path
from typing import Annotated

import typer

from noctule.base.errors import ConfigError
from noctule.cli import output


def certs(
    out: Annotated[Path, typer.Option(help="The folder to write to; made if it is missing.")],
    host: Annotated[list[str], typer.Option(help="A node's host name or address; repeat it for each node.")],
    cluster: Annotated[str, typer.Option(help="The name of the cluster, as in its settings.")] = "noctule",
) -> int:
    """Make a CA, and a certificate and a private key for each host, for TLS between nodes.

    Give each node ca.pem and its own two files by tls_ca, tls_cert and tls_key. Keep ca.key away from them: whoever has
    it can make nodes of this cluster. Files that are there already are never overwritten.
    """
    # Only this verb needs the library, which takes a while to load.
    from noctule.adapters.certificates import write_certificates

    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", cluster):
        raise ConfigError(f"the name {cluster!r} must be 1 to 64 letters, digits, dots, dashes, _")
    for path in write_certificates(out, cluster, list(dict.fromkeys(host)), datetime.datetime.now(datetime.UTC)):
        print(path)
    output.say(f"{out / 'ca.key'} makes further nodes of cluster {cluster!r}: keep it away from the machines")
    return 0
