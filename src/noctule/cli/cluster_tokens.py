"""`noctule cluster token`: tokens by which nodes may join."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from noctule.base.errors import RequestError
from noctule.cli import output
from noctule.cli.asking import ask
from noctule.cli.output import NODE_URL, JsonOption, NodeOption

if TYPE_CHECKING:
    from noctule.client.admin import AdminClient


def create_token(
    node: NodeOption = NODE_URL,
    reusable: Annotated[bool, typer.Option("--reusable", help="It lets in more than one node.")] = False,
    ttl_s: Annotated[float, typer.Option("--ttl-s", min=0, help="Seconds until it is void; 0: never.")] = 86_400.0,
    note: Annotated[str, typer.Option(help="For whom it is.")] = "",
    json: JsonOption = False,
) -> None:
    """Print a token by which a node may join. It is shown once: the cluster keeps only its hash."""
    made = ask(node, lambda client: client.create_token(reusable=reusable, ttl_s=ttl_s, note=note))
    if json:
        output.print_json(made)
    else:
        print(made.text)
        output.say(f"for {'any number of nodes' if reusable else 'one node'}, {_until(made.expires_ms)}")


def list_tokens(node: NodeOption = NODE_URL, json: JsonOption = False) -> None:
    """List the tokens that are valid, by their hashes."""
    tokens = ask(node, lambda client: client.tokens())
    if json:
        output.print_json({"tokens": tokens})
    else:
        rows = [(each.hash, "yes" if each.reusable else "once", _until(each.expires_ms), each.note) for each in tokens]
        output.print_table("tokens", ("hash", "reusable", "valid", "note"), rows)


def revoke_token(
    which: Annotated[str, typer.Argument(help="The beginning of its hash, or the token itself.", metavar="TOKEN")],
    node: NodeOption = NODE_URL,
    json: JsonOption = False,
) -> None:
    """Let nobody in by a token any more."""
    from noctule.core.meta.tokens import TOKEN_PREFIX, hash_token

    wanted = hash_token(which) if which.startswith(TOKEN_PREFIX) else which

    async def do(client: "AdminClient") -> str:
        found = [each.hash for each in await client.tokens() if each.hash.startswith(wanted)]
        if len(found) != 1:
            raise RequestError(f"{len(found)} tokens begin with {wanted[:12]!r}: noctule cluster token list shows them")
        await client.revoke_token(found[0])
        return found[0]

    revoked = ask(node, do)
    output.print_json({"hash": revoked}) if json else print(f"revoked {revoked[:12]}…")


def _until(expires_ms: int) -> str:
    if not expires_ms:
        return "for good"
    return f"until {datetime.fromtimestamp(expires_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
