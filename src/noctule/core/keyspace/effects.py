"""How scripts travel: as what is to be evaluated, up to the leader, and as what came of it, from there on. ADR 0026.

``NOCTULE.EVAL home prefix body numkeys key… arg…`` goes to the partition of `home`. Its leader evaluates it
(`evaluation`) and logs ``NOCTULE.EFFECTS home reply commands`` in its place, which every replica carries out. So no
replica ever runs a script because of the log, and one that meets it there, unevaluated, does nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import MOVED, Failure, Reply
from noctule.core.keyspace.spec import GROW, NO_KEYS, ONE, READ, WRITE, CommandSpec, Scope, counted_keys, rows
from noctule.core.keyspace.state import State
from noctule.core.keyspace.transactions import BEHIND_THE_PAYLOAD, EXEC_EVAL, EXEC_WATCHED
from noctule.core.keyspace.values import decode_values, encode_values

EVAL = b"NOCTULE.EVAL"
EVAL_READ = b"NOCTULE.EVALREAD"
EFFECTS = b"NOCTULE.EFFECTS"

TO_BE_EVALUATED = frozenset((EVAL, EVAL_READ, EXEC_EVAL, EXEC_WATCHED))
"""Commands that only a leader that has applied everything can turn into what is logged."""

_BAD_CALL = Failure(b"ERR this is no call of a script")
_encoder = msgspec.msgpack.Encoder()
_commands_decoder = msgspec.msgpack.Decoder(list[list[bytes]])


class ScriptCall(NamedTuple):
    """A script with what it is called with. The prefix of its database stands before every key it touches; the
    script itself never sees it."""

    home: bytes
    """A key, or the beginning of all keys, in the slot of the partition where it runs."""
    prefix: bytes
    body: bytes
    keys: Sequence[bytes]
    """As the client named them, without the prefix."""
    arguments: Sequence[bytes]
    is_read: bool = False
    """Whether the script may not write."""

    def command(self) -> list[bytes]:
        """As it goes to the leader."""
        name = EVAL_READ if self.is_read else EVAL
        return [name, self.home, self.prefix, self.body, b"%d" % len(self.keys), *self.keys, *self.arguments]


def parse_call(args: Sequence[bytes]) -> ScriptCall | Failure:
    """The inverse of `ScriptCall.command`."""
    count = parse_int(args[4])
    if count is None or not 0 <= count <= len(args) - 5:
        return _BAD_CALL
    return ScriptCall(args[1], args[2], args[3], args[5 : 5 + count], args[5 + count :], args[0] == EVAL_READ)


def effects_command(home: bytes, reply: Reply, commands: Sequence[Sequence[bytes]]) -> list[bytes]:
    """What is logged in place of a script: its reply, and its writes in their order."""
    return [EFFECTS, home, encode_values([reply]), _encoder.encode(commands)]


def carry_out(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """NOCTULE.EFFECTS home reply commands: what was evaluated on the very state that is met here, at the same stamp."""
    for command in _commands_decoder.decode(args[3]):
        state.execute(command, now_ms)
    return decode_values(args[2])[0]


def unevaluated(_state: State, _args: Sequence[bytes], _now_ms: int) -> Reply:
    """A script that no leader has evaluated: nothing happens, and whoever asked is to ask again."""
    return MOVED


_CALLS = (b"noscript", b"stale", b"movablekeys")
_CALLS_READ = (b"readonly", *_CALLS)

COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.CONNECTION,
        ("EVAL", -3, _CALLS, NO_KEYS, None, "Runs a script on keys of one partition."),
        ("EVALSHA", -3, _CALLS, NO_KEYS, None, "Runs a script by its digest."),
        ("EVALSHA_RO", -3, _CALLS_READ, NO_KEYS, None, "Runs a script that may not write, by its digest."),
        ("EVAL_RO", -3, _CALLS_READ, NO_KEYS, None, "Runs a script that may not write."),
        find_keys=counted_keys(2),
    ),
    *rows(Scope.CONNECTION, ("SCRIPT", -2, (b"noscript",), NO_KEYS, None, "About scripts: LOAD, EXISTS, FLUSH.")),
    *rows(
        Scope.INTERNAL,
        ("NOCTULE.EVAL", -5, GROW, ONE, unevaluated, "Runs a script where its keys are."),
        ("NOCTULE.EVALREAD", -5, READ, ONE, unevaluated, "Runs a script that may not write."),
        ("NOCTULE.EXECEVAL", -2, GROW, BEHIND_THE_PAYLOAD, unevaluated, "Runs a transaction with scripts."),
        (
            "NOCTULE.EXECWATCHED",
            -2,
            WRITE,
            BEHIND_THE_PAYLOAD,
            unevaluated,
            "Runs a transaction if nobody came between.",
        ),
        ("NOCTULE.EFFECTS", 4, GROW, ONE, carry_out, "Does what a script did when it was evaluated."),
    ),
)
"""The rows of this file."""
