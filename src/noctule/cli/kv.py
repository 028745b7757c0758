"""`noctule kv`: keys of the store, by the HTTP API of any node."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from noctule.base.bounds import SCAN_COUNT_MAX, VALUE_BYTES_MAX
from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import TooLargeError
from noctule.cli import output
from noctule.cli.output import NODE_URL, JsonOption, NodeOption

if TYPE_CHECKING:
    from noctule.client.api import NodeClient

T = TypeVar("T")

kv = typer.Typer(help="Read and write keys.", no_args_is_help=True, rich_markup_mode=None)

Key = Annotated[str, typer.Argument(help="The key; 64 KiB at most.", metavar="KEY")]


@kv.command("get")
def get(
    key: Key,
    node: NodeOption = NODE_URL,
    consistency: Annotated[
        ConsistencyLevel, typer.Option(help="eventual: what the asked node has, without asking the others.")
    ] = ConsistencyLevel.LINEARIZABLE,
    json: JsonOption = False,
) -> int:
    """Print the value of a key, byte for byte; exit code 1 when there is none."""
    entry = _ask(node, lambda client: client.kv_get(key, consistency))
    if entry is None:
        output.say(f"error: there is no key {key!r}")
        return output.FAILED
    if json:
        output.print_json(
            {"key": entry.key, **_as_text(entry.value), "ttl_ms": entry.ttl_ms, "staleness_ms": entry.staleness_ms}
        )
        return 0
    sys.stdout.buffer.write(entry.value)
    if sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")
    return 0


@kv.command("set")
def set_(
    key: Key,
    value: Annotated[str, typer.Argument(help="The value; - takes it from standard input.", metavar="VALUE")],
    node: NodeOption = NODE_URL,
    ttl: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds after which the key expires; else it never does.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Set a key; done means that a quorum has it on disk."""
    data = _standard_input() if value == "-" else value.encode(errors="surrogateescape")
    _ask(node, lambda client: client.kv_set(key, data, ttl_s=ttl))
    output.print_json({"key": key, "ok": True}) if json else print("OK")


@kv.command("delete")
def delete(key: Key, node: NodeOption = NODE_URL, json: JsonOption = False) -> None:
    """Delete a key; it is no error when there is none."""
    deleted = _ask(node, lambda client: client.kv_delete(key))
    output.print_json({"key": key, "deleted": deleted}) if json else print("deleted" if deleted else "there was none")


@kv.command("scan")
def scan(
    prefix: Annotated[str, typer.Argument(help="With what the keys begin; without it all keys.")] = "",
    node: NodeOption = NODE_URL,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="The most keys that are printed.")] = 10_000,
    json: JsonOption = False,
) -> None:
    """Print keys, one on each line, each once and in no order."""
    keys, is_complete = _ask(node, lambda client: _scan(client, prefix, limit))
    if json:
        output.print_json({"keys": keys, "complete": is_complete})
    else:
        for key in keys:
            print(key)
    if not is_complete:
        output.say(f"there are more than {limit} keys; --limit shows more")


async def _scan(client: "NodeClient", prefix: str, limit: int) -> tuple[list[str], bool]:
    """Up to `limit` keys, and whether these are all. A dict drops what SCAN gives twice and keeps the order."""
    found: dict[str, None] = {}
    cursor = "0"
    while len(found) <= limit:
        page = await client.kv_scan(prefix, cursor=cursor, count=min(limit + 1, SCAN_COUNT_MAX))
        found.update(dict.fromkeys(page.keys))
        cursor = page.cursor
        if cursor == "0":
            break
    keys = list(found)
    return keys[:limit], cursor == "0" and len(keys) <= limit


def _ask(url: str, call: "Callable[[NodeClient], Awaitable[T]]") -> T:
    """One conversation with a node."""
    from noctule.client.api import NodeClient

    async def converse() -> T:
        async with NodeClient(url) as client:
            return await call(client)

    return asyncio.run(converse())


def _standard_input() -> bytes:
    data = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    if len(data) > VALUE_BYTES_MAX:
        raise TooLargeError(f"the value on standard input is longer than {VALUE_BYTES_MAX} bytes")
    return data


def _as_text(value: bytes) -> dict[str, str | None]:
    """As the HTTP API shows a value: text when it is UTF-8, else base64."""
    import base64

    try:
        return {"value": value.decode(), "value_base64": None}
    except UnicodeDecodeError:
        return {"value": None, "value_base64": base64.b64encode(value).decode()}
