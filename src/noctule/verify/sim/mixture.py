"""Commands of all kinds on a few keys, for replicas to disagree about.

No model says what each is to be answered. That replicas do the same is judged by their digests, which a world compares
at equal applied index, so what counts here is that much can go apart: all types, also where another type is expected,
values that are longer than a sector of the disk, deadlines, several commands in one transaction or script, and clients
that wait.
"""

import random
from collections import deque
from typing import NamedTuple

from noctule.core.keyspace.effects import ScriptCall
from noctule.core.keyspace.transactions import transaction

TAGS = 3
"""Keys that a command may touch together have one of so many tags, and so one slot."""
KEYS_OF_A_FAMILY = 2
TOGETHER_MAX = 4
"""Commands in one transaction or script."""
IDS_KEPT = 8
"""Of the entries of streams, to be acknowledged, claimed or deleted by."""

COMMANDS = {
    "string": (
        "SET string number",
        "SET string value PX ms",
        "APPEND string value",
        "INCRBY string number",
        "SETRANGE string number value",
        "SETBIT string number 1",
        "GETEX string PX ms",
        "GETDEL string",
    ),
    "hash": ("HSET hash value value", "HSET hash value number", "HINCRBY hash value number", "HDEL hash value value"),
    "list": (
        "RPUSH list value value value",
        "LPUSH list value value",
        "LPOP list number",
        "RPOP list",
        "LSET list number value",
        "LREM list number value",
        "LTRIM list number -1",
        "LINSERT list BEFORE value value",
        "LMOVE list list LEFT RIGHT",
        "BLPOP list list wait",
        "BLMOVE list list RIGHT LEFT wait",
    ),
    "set": (
        "SADD set value value value",
        "SREM set value value",
        "SPOP set",
        "SPOP set number",
        "SMOVE set set value",
        "SDIFFSTORE set set set",
        "SUNIONSTORE set set set",
    ),
    "sorted set": (
        "ZADD zset number value number value",
        "ZADD zset GT CH number value",
        "ZINCRBY zset 0.1 value",
        "ZREM zset value",
        "ZPOPMIN zset",
        "ZREMRANGEBYRANK zset number number",
        "ZUNIONSTORE zset 2 zset set",
        "ZRANGESTORE zset zset 0 number",
        "BZPOPMIN zset zset wait",
    ),
    "stream": (
        "XADD stream MAXLEN 16 * value value",
        "XADD stream * value value value value",
        "XADD stream new value value",
        "XGROUP CREATE stream group 0 MKSTREAM",
        "XGROUP DELCONSUMER stream group consumer",
        "XGROUP SETID stream group id",
        "XREADGROUP GROUP group consumer COUNT 2 STREAMS stream >",
        "XREADGROUP GROUP group consumer COUNT 2 STREAMS stream >",
        "XACK stream group id id",
        "XCLAIM stream group consumer 0 id",
        "XAUTOCLAIM stream group consumer 0 0 COUNT 2",
        "XDEL stream id",
        "XTRIM stream MAXLEN number",
    ),
    "key": (
        "PEXPIRE key ms",
        "PERSIST key",
        "DEL key",
        "RENAME key key",
        "COPY key key REPLACE",
        "SORT list BY nosort STORE list",
    ),
}
"""Families, and commands of each. Of words in small letters each is drawn anew; see `_Words`."""
FAMILIES = tuple(COMMANDS)
FAMILIES_OF_KEYS = ("string", "hash", "list", "set", "zset", "stream")

SCRIPT = b"""
local at = 1
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  redis.pcall(unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
return #ARGV
"""
"""Runs commands; before each stands how many words it has."""


class Mixed(NamedTuple):
    """What a client sends, and what is counted if it is not refused."""

    args: list[bytes]
    whats: list[str]


class Mixture:
    """Of one world; all chance comes from whoever draws."""

    def __init__(self) -> None:
        self._ids: deque[bytes] = deque([b"1-1"], IDS_KEPT)
        self._last_id = 1

    def draw(self, chance: random.Random) -> Mixed:
        """One command, or several in a transaction or script."""
        tag = b"{mixed:%d}" % chance.randrange(TAGS)
        way = chance.random()
        if way < 0.6:
            family, args = self._command(tag, chance)
            return Mixed(args, [f"{family} used"])
        drawn = [self._command(tag, chance) for _ in range(chance.randint(1, TOGETHER_MAX))]
        commands = [args for _, args in drawn]
        keys = [_key(tag, family, number) for family in FAMILIES_OF_KEYS for number in range(KEYS_OF_A_FAMILY)]
        whats = [f"{family} used" for family, _ in drawn]
        if way < 0.8:
            return Mixed(transaction([], commands, keys, is_write=True), [*whats, "families mixed in a transaction"])
        arguments = [word for args in commands for word in (b"%d" % len(args), *args)]
        call = ScriptCall(keys[0], b"", SCRIPT, keys, arguments)
        return Mixed(call.command(), [*whats, "families mixed in a script"])

    def _command(self, tag: bytes, chance: random.Random) -> tuple[str, list[bytes]]:
        family = chance.choice(FAMILIES)
        words = chance.choice(COMMANDS[family]).split()
        return family, [self._word(word, tag, chance) if word.islower() else word.encode() for word in words]

    def _word(self, word: str, tag: bytes, chance: random.Random) -> bytes:
        if word == "key" or word in FAMILIES_OF_KEYS:
            # Now and then a key of another type.
            family = word if word != "key" and chance.random() < 0.95 else chance.choice(FAMILIES_OF_KEYS)
            return _key(tag, family, chance.randrange(KEYS_OF_A_FAMILY))
        match word:
            case "value":
                return b"%c" % chance.randrange(97, 105) * chance.choice((1, 1, 1, 2, 700))
            case "number":
                return b"%d" % chance.randrange(-2, 8)
            case "ms":
                return b"%d" % chance.randrange(1, 1_000)
            case "wait":
                return b"%.3f" % chance.uniform(0.01, 0.5)
            case "group" | "consumer":
                return b"%b-%d" % (word.encode(), chance.randrange(2))
            case "id":
                return chance.choice(self._ids)
            case "new":
                self._last_id += 1
                self._ids.append(b"%d-1" % self._last_id)
                return self._ids[-1]
        return word.encode()


def _key(tag: bytes, family: str, number: int) -> bytes:
    return b"%b%b:%d" % (tag, family.encode(), number)
