"""The reference page of the commands, from their table and from what is said of those that are not in it."""

from collections.abc import Iterable, Iterator

from noctule.core.keyspace.commands import COMMANDS, FAMILIES
from noctule.core.keyspace.compatibility import DEVIATIONS, NEVER, NOT_YET
from noctule.core.keyspace.spec import CommandSpec, Scope

_TITLES = {
    "keys": "Keys of any type",
    "scan": "All keys",
    "merging": "Values that can be joined (Noctule's own)",
    "connection": "The connection and the server",
}
"""Module to title, where its name alone would not do."""

_REACH = {
    Scope.KEY: "one partition",
    Scope.SPLIT: "any keys, atomic within each partition",
    Scope.ALL: "all partitions",
    Scope.CONNECTION: "–",
}

_HEAD = """\
# Commands

<!-- Rendered from the tables in core/keyspace by core/keyspace/reference.py; tests/docs holds it current. -->

What a client of the RESP door can send.
Replies and error texts are those of Redis 7.0, but for the [deviations](#deviations).
The [last section](#never) names every command of Redis 7.0 that is not here.
"""

_SUPPORTED = """\
## Supported

*Arity* counts the name; below zero it means at least as many.
"""

_DEVIATIONS = """\
## Deviations

A test sends random commands here and to a real redis-server and compares the replies byte for byte, in RESP2 and RESP3.
What differs on purpose is all here; each that one connection can see is proved by an example, too.
"""

_NEVER = """\
## Never

Commands of Redis 7.0 that there are not and will not be.
"""


def render_commands() -> str:
    """The text of docs/reference/commands.md."""
    deviations = ((_names(each.commands), each.difference, each.reason) for each in DEVIATIONS)
    never = ((_names(names), reason) for names, reason in NEVER.items())
    coming = [name for names in NOT_YET for name in names.split() if name.encode() not in COMMANDS]
    sections = [
        _HEAD,
        _SUPPORTED,
        *_supported(),
        _DEVIATIONS,
        _table(("commands", "what is different", "why"), deviations),
        _NEVER,
        _table(("commands", "why"), never),
    ]
    if coming:
        sections += ["## Not yet\n", f"{', '.join(sorted(coming))}.\n"]
    return "\n".join(sections)


def _supported() -> Iterator[str]:
    for family, specs in FAMILIES.items():
        shown = [_row(spec) for spec in sorted(specs, key=lambda spec: spec.name) if spec.scope is not Scope.INTERNAL]
        if shown:
            yield f"### {_TITLES.get(family, family.replace('_', ' ').capitalize())}\n"
            yield _table(("command", "arity", "kind", "reach", "what it does"), shown)


def _row(spec: CommandSpec) -> tuple[str, ...]:
    kind = "write" if spec.is_write else "read" if spec.handler else "–"
    return spec.name.decode(), str(spec.arity), kind, _REACH[spec.scope], spec.summary


def _names(names: str) -> str:
    return ", ".join(names.split())


def _table(titles: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    """A table with a line break behind it."""
    rule = "|" + "---|" * len(titles)
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join([f"| {' | '.join(titles)} |", rule, *(f"| {' | '.join(line)} |" for line in cells), ""])
