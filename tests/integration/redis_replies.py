"""Replies of two servers as trees that are equal when their bytes are, and when Redis promises no order, without it."""

from dataclasses import dataclass
from typing import TypeAlias

Tree: TypeAlias = "tuple[bytes, bytes | tuple[Tree, ...] | None]"
"""The sign a reply begins with, and its text, or None, or what it consists of; a map is its keys and values in turn."""

_LINES = b"+-:_#,("
_BULKS = b"$=!"
_AGGREGATES = b"*~>%|"


def read_reply(data: bytes, start: int = 0) -> tuple[Tree, int] | None:
    """The reply that begins there and where it ends; None when it is not whole."""
    end = data.find(b"\r\n", start)
    if end < 0:
        return None
    sign, line = data[start : start + 1], data[start + 1 : end]
    position = end + 2
    if sign in _LINES:
        return (sign, line), position
    assert sign in _BULKS + _AGGREGATES, f"no reply begins so: {data[start : start + 20]!r}"
    size = int(line)
    assert line == b"%d" % size, "a length has one spelling"
    if size < 0:
        return (sign, None), position
    if sign in _BULKS:
        if len(data) < position + size + 2:
            return None
        assert data[position + size : position + size + 2] == b"\r\n"
        return (sign, data[position : position + size]), position + size + 2
    items: list[Tree] = []
    for _ in range(size * (2 if sign in b"%|" else 1)):
        found = read_reply(data, position)
        if found is None:
            return None
        item, position = found
        items.append(item)
    return (sign, tuple(items)), position


TIMES = {b"TTL": 1_000, b"PTTL": 1, b"EXPIRETIME": 1_000, b"PEXPIRETIME": 1}
TIME_TOLERANCE_MS = 5_000
"""How much later one server may be asked than the other."""
ORDERLESS = {b"KEYS", b"HKEYS", b"HVALS", b"SMEMBERS", b"SUNION", b"SINTER", b"SDIFF", b"PUBSUB"}
ORDERLESS_PAIRS = {b"HGETALL"}
SCANS = {b"SCAN", b"HSCAN", b"SSCAN", b"ZSCAN"}
BY_CHANCE = {b"SPOP", b"SRANDMEMBER", b"HRANDFIELD", b"ZRANDMEMBER", b"RANDOMKEY"}
"""Compared by their shape; what they changed is to be made equal again."""


def same(name: bytes, ours: Tree, theirs: Tree) -> bool:
    """Whether two replies to a command of this name, in upper case, are the same, as far as Redis promises anything."""
    if ours == theirs:
        return True
    if ours[0] != theirs[0]:
        return False
    if name in TIMES and ours[0] == b":":
        mine, real = int(str(ours[1], "ascii")), int(str(theirs[1], "ascii"))  # type: ignore[arg-type]
        # Below zero are the answers "no deadline" and "no key".
        return min(mine, real) >= 0 and abs(mine - real) * TIMES[name] <= TIME_TOLERANCE_MS
    if name in BY_CHANCE:
        return _shape(ours) == _shape(theirs)
    return _ordered(name, ours) == _ordered(name, theirs)


def _shape(tree: Tree) -> object:
    sign, content = tree
    return (sign, tuple(map(_shape, content))) if isinstance(content, tuple) else (sign, content is None)


def _ordered(name: bytes, tree: Tree) -> object:
    sign, content = tree
    if not isinstance(content, tuple):
        return tree
    if name == b"XPENDING":
        return sign, [_without_idle_time(item) for item in content]
    if name in ORDERLESS:
        return sign, sorted(content, key=repr)
    if name in ORDERLESS_PAIRS:
        return sign, sorted(zip(content[::2], content[1::2], strict=True), key=repr)
    if name in SCANS and len(content) == 2 and isinstance(content[1][1], tuple):
        cursor, found = content
        step = 2 if name in (b"HSCAN", b"ZSCAN") else 1
        items = [found[1][place : place + step] for place in range(0, len(found[1]), step)]
        return sign, cursor, found[0], sorted(items, key=repr)
    return tree


def _without_idle_time(pending: Tree) -> object:
    """An entry of XPENDING: id, consumer, milliseconds since it was given, and how often."""
    sign, content = pending
    return (sign, content[:2], content[3:]) if isinstance(content, tuple) and len(content) == 4 else pending


@dataclass
class Transcript:
    """What was sent and answered, for a failure to be read."""

    args: list[bytes]
    ours: Tree
    theirs: Tree

    def __str__(self) -> str:
        return f"{self.args}\n  here:  {self.ours}\n  Redis: {self.theirs}"
