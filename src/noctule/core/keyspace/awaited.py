"""Who waits for a key, as a replica remembers it, and whether a key is ready. Not replicated; nothing depends on it.

A node whose clients wait asks by a linearizable read, ``NOCTULE.AWAIT key node type [detail]``, whether there is what
they wait for. If not, the state in which the read found nothing notes the node, and what later puts a value of that
type there, or adds to it, makes the replica tell the node (`replica.Ready`). A note that gets lost, with its replica
or because there are too many, is made anew when the node asks again.
"""

from collections.abc import Callable, Sequence
from typing import Final

from noctule.core.keyspace.container import Container
from noctule.core.keyspace.failures import WRONG_TYPE
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.spec import ONE, READ, CommandSpec, Scope, rows
from noctule.core.keyspace.state import State, Value

AWAITED_MAX: Final = 100_000
"""Keys for which a replica remembers who waits; over it, the longest awaited one is forgotten."""
AWAITED_MS: Final = 10_000
"""How long it remembers, by its own stamps: several times as long as a node waits before it asks again."""

AWAIT: Final = b"NOCTULE.AWAIT"

Readiness = Callable[[Value | None, bytes], int | Failure]
"""How many commands can be served by a value, given the `detail` that was asked for; or why none will, as it is."""

READINESS: dict[bytes, Readiness] = {}
"""By the name of a type, where it is not simply each item of a container that can serve one."""


def await_(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """NOCTULE.AWAIT key node type [detail]: how many can be served; when 0 or WRONGTYPE, the node is noted."""
    key, kind = args[1], args[3]
    value = state.get(key)
    if kind in READINESS:
        ready = READINESS[kind](value, args[4] if len(args) > 4 else b"")
    elif value is None:
        ready = 0
    else:
        ready = len(value) if isinstance(value, Container) and value.type_name == kind else WRONG_TYPE
    if not ready or isinstance(ready, Failure):
        _note(state, key, (int(args[2]), kind), now_ms)
    return ready


def _note(state: State, key: bytes, who: tuple[int, bytes], now_ms: int) -> None:
    awaited = state.awaited
    nodes = awaited.pop(key, None) or {}
    nodes[who] = now_ms + AWAITED_MS
    awaited[key] = nodes  # At the end: the oldest stand in front.
    while True:
        oldest = next(iter(awaited))
        if len(awaited) <= AWAITED_MAX and max(awaited[oldest].values()) > now_ms:
            break
        del awaited[oldest]


COMMANDS: tuple[CommandSpec, ...] = rows(
    Scope.INTERNAL,
    ("NOCTULE.AWAIT", -4, READ, ONE, await_, "How many can be served by a key; if none, the node is told later."),
)
"""The rows of this file."""
