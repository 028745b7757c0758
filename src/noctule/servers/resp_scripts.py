"""EVAL, EVALSHA, their read-only forms, and SCRIPT. Error texts are Redis 7.0's.

A script goes to the leader with its body: no leader needs to know digests, and none ever says NOSCRIPT. Each becomes
one command of the store (`core.keyspace.effects`), for the partition of its first key.
"""

from collections.abc import Callable
from dataclasses import dataclass

from noctule.core.keyspace.databases import database_prefix
from noctule.core.keyspace.effects import ScriptCall
from noctule.core.keyspace.failures import NOT_AN_INTEGER
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.scripting import NO_ENGINE, NO_SCRIPT, SCRIPT_BYTES_MAX, TOO_LONG
from noctule.node.api import Dialogue
from noctule.node.scripts import Scripts, Then, Told
from noctule.servers.resp_client import Client, Door, Handler
from noctule.servers.resp_errands import Errand
from noctule.servers.resp_families import Subcommand, family

_DIGEST_BYTES = 40
_TOO_MANY_KEYS = Failure(b"ERR Number of keys can't be greater than number of args")
_FEWER_THAN_NONE = Failure(b"ERR Number of keys can't be negative")
_NOT_BUSY = Failure(b"NOTBUSY No scripts in execution right now.")
_FLUSH_MODE = Failure(b"ERR SCRIPT FLUSH only support SYNC|ASYNC option")


@dataclass(frozen=True, slots=True)
class _Inquiry(Errand):
    """What needs *meta* first."""

    ask: Callable[[Then], None] = lambda then: then(NO_ENGINE)
    command: Callable[[bytes], list[bytes]] | None = None
    """What the store is to do with the body that was found; without it, what was found is the reply."""

    def run(self, door: Dialogue, done: Callable[[list[Reply]], None]) -> None:
        """Ask; then send the command, if there is one to be sent."""

        def found(reply: Reply) -> None:
            if self.command is not None and isinstance(reply, bytes):
                door.submit_own(self.command(reply), Told(lambda reply: done([reply])), self.consistency)
            else:
                done([reply])

        self.ask(found)


def _first(replies: list[Reply]) -> Reply:
    return replies[0]


def eval_(door: Door, client: Client, args: list[bytes]) -> Reply | Errand:
    """EVAL and EVAL_RO script numkeys key… arg…"""
    body, scripts = args[1], door.scripts
    if scripts is None:
        return NO_ENGINE
    if len(body) > SCRIPT_BYTES_MAX:
        return TOO_LONG
    call = _parse(client.database, args)
    if isinstance(call, Failure):
        return call
    scripts.see(body)
    return Errand([call(body)], _first, consistency=client.consistency)


def evalsha(door: Door, client: Client, args: list[bytes]) -> Reply | Errand:
    """EVALSHA and EVALSHA_RO digest numkeys key… arg…: NOSCRIPT only when no node has the script."""
    digest, scripts = args[1].lower(), door.scripts
    if scripts is None:
        return NO_ENGINE
    if len(digest) != _DIGEST_BYTES:
        return NO_SCRIPT
    call = _parse(client.database, args)
    if isinstance(call, Failure):
        return call
    body = scripts.get(digest)
    if body is not None:
        return Errand([call(body)], _first, consistency=client.consistency)

    def ask(then: Then) -> None:
        scripts.find(digest, then)

    return _Inquiry([], _first, holds=True, consistency=client.consistency, ask=ask, command=call)


def queued_script(door: Door, args: list[bytes], database: int) -> list[bytes] | Failure:
    """A script inside MULTI, as the store runs it. There is no time to ask *meta*: this node must have seen it, as it
    has when SCRIPT LOAD or SCRIPT EXISTS was sent here before."""
    body: bytes | None = args[1]
    if door.scripts is None:
        return NO_ENGINE
    if args[0].upper().startswith(b"EVALSHA"):
        body = door.scripts.get(args[1].lower())
    if body is None:
        return NO_SCRIPT
    if len(body) > SCRIPT_BYTES_MAX:
        return TOO_LONG
    call = _parse(database, args)
    return call if isinstance(call, Failure) else call(body)


def _parse(database: int, args: list[bytes]) -> Failure | Callable[[bytes], list[bytes]]:
    """The command that runs a body with these arguments."""
    count = parse_int(args[2])
    if count is None:
        return NOT_AN_INTEGER
    if count > len(args) - 3:
        return _TOO_MANY_KEYS
    if count < 0:
        return _FEWER_THAN_NONE
    keys, arguments = args[3 : 3 + count], args[3 + count :]
    prefix = database_prefix(database)
    home = prefix + keys[0] if keys else prefix
    is_read = args[0][-3:].upper() == b"_RO"
    return lambda body: ScriptCall(home, prefix, body, keys, arguments, is_read).command()


def _load(door: Door, _client: Client, args: list[bytes]) -> Reply | Errand:
    return _about(door, lambda scripts, then: scripts.load(args[2], then))


def _exists(door: Door, _client: Client, args: list[bytes]) -> Reply | Errand:
    return _about(door, lambda scripts, then: scripts.exists(args[2:], then))


def _flush(door: Door, _client: Client, args: list[bytes]) -> Reply | Errand:
    if len(args) > 3 or (len(args) == 3 and args[2].upper() not in (b"ASYNC", b"SYNC")):
        return _FLUSH_MODE
    return _about(door, Scripts.flush)


def _kill(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    """No script runs when a command is looked at: each ends in the turn in which it began."""
    return _NOT_BUSY


def _about(door: Door, ask: Callable[[Scripts, Then], None]) -> Reply | Errand:
    scripts = door.scripts
    if scripts is None:
        return NO_ENGINE
    return _Inquiry([], _first, holds=True, ask=lambda then: ask(scripts, then))


SCRIPT: Handler = family(
    b"SCRIPT",
    {
        b"EXISTS": Subcommand(
            _exists,
            -3,
            b"EXISTS <sha1> [<sha1> ...]",
            b"Return information about the existence of the scripts in the script cache.",
        ),
        b"FLUSH": Subcommand(_flush, -2, b"FLUSH [ASYNC|SYNC]", b"Forget all scripts."),
        b"KILL": Subcommand(_kill, 2, b"KILL", b"Kill the currently executing Lua script; there never is one."),
        b"LOAD": Subcommand(_load, 3, b"LOAD <script>", b"Load a script into the scripts cache without executing it."),
    },
)
"""The handler of SCRIPT."""
