"""MULTI, EXEC, DISCARD, WATCH and UNWATCH: commands are gathered here, and go to the store as one at EXEC.

What the server itself answers (SELECT, PUBLISH, …) is run once the store has run the rest, and stands in its place in
the reply. Until then the connection begins nothing, since what comes later may depend on it. Texts are Redis 7.0's.
"""

from secrets import token_bytes
from typing import NamedTuple

from noctule.base.bounds import COMMAND_BYTES_MAX
from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.commands import check_command, find_command
from noctule.core.keyspace.databases import database_prefix
from noctule.core.keyspace.failures import CROSS_SLOT
from noctule.core.keyspace.reply import OK, Failure, Reply, Status
from noctule.core.keyspace.spec import CommandSpec, Scope
from noctule.core.keyspace.transactions import FINGERPRINT, Watched, transaction
from noctule.servers.resp_client import Client, Door, Handler
from noctule.servers.resp_databases import Leave, enter, leave_failure, leave_of, parse_database
from noctule.servers.resp_errands import Errand
from noctule.servers.resp_families import Family
from noctule.servers.resp_scripts import queued_script

TRANSACTION_COMMANDS_MAX = 16_384
"""Commands between MULTI and EXEC: all of them are applied in one go, which takes 50 ms for so many small ones."""
TRANSACTION_BYTES_MAX = COMMAND_BYTES_MAX
"""All their arguments together: they are one entry of the log."""
WATCHED_KEYS_MAX = 1_024
"""Keys watched by one connection."""
WATCHED_KEY_BYTES_MAX = 1024 * 1024
"""All their names together."""

TOKEN_BYTES = 12
"""By chance: no two WATCHes of a cluster may share one."""

AT_ONCE = frozenset((b"DISCARD", b"EXEC", b"HOST:", b"MULTI", b"POST", b"QUIT", b"RESET", b"WATCH"))
"""What is not queued inside MULTI."""

_QUEUED = Status(b"QUEUED")
_ABORTED = Failure(b"EXECABORT Transaction discarded because of previous errors.")
_CROSS_SLOT = Failure(
    CROSS_SLOT.text + b"; give the keys of a transaction a common {tag}, or SELECT a database from 1 to 15"
)
_NOT_INSIDE = b"ERR %b inside MULTI is not supported"
_SCRIPT_CALLS = frozenset((b"EVAL", b"EVALSHA", b"EVAL_RO", b"EVALSHA_RO"))
_ARGUMENT_COST_BYTES = 64
"""What one counts for beside its bytes: the payload's room for it, its prefix, and the time in which it is applied."""


class _Queued(NamedTuple):
    """One command of a transaction."""

    args: list[bytes]
    handler: Handler | None
    """Of what the server itself answers."""
    leave: Leave = leave_failure
    prefix: bytes = b""

    def answer(self, door: Door, client: Client) -> Reply:
        """The reply of the server itself."""
        reply = None if self.handler is None else self.handler(door, client, self.args)
        return reply if not isinstance(reply, Errand) else Failure(_NOT_INSIDE % self.args[0].upper())


class Transaction:
    """What one connection has queued since MULTI."""

    def __init__(self, database: int) -> None:
        self.is_broken = False
        """Whether a command could not be queued, so that EXEC will refuse."""
        self._database = database
        """What is queued next is for."""
        self._queued: list[_Queued] = []
        self._commands: list[list[bytes]] = []
        """Those for the store."""
        self._keys: list[bytes] = []
        self._bytes = 0
        self._is_write = False
        self._has_scripts = False

    def __len__(self) -> int:
        """How many commands are queued."""
        return len(self._queued)

    def queue(self, args: list[bytes], handler: Handler | None, door: Door) -> Reply:
        """QUEUED; or what is wrong with the command, and then the transaction is broken.

        With the handler of what the server may answer by itself.
        """
        problem = self._take(args, handler, door)
        if problem is not None:
            self.is_broken = True
            self._queued, self._commands, self._keys = [], [], []
        return problem or _QUEUED

    def errand(self, door: Door, client: Client, watched: dict[bytes, Watched]) -> Reply | Errand:
        """EXEC: what to do for it, or the reply when nothing is needed of the store."""
        if not self._queued and not watched:
            return []
        answers_itself = len(self._commands) < len(self._queued)

        def finish(replies: list[Reply]) -> Reply:
            match replies:
                case [list(results)]:
                    return self._replies(door, client, results)
                case []:
                    return self._replies(door, client, [])
            return _CROSS_SLOT if replies[0] == CROSS_SLOT else replies[0]

        if not self._commands and not watched:
            return Errand([], finish, holds=True)
        command = transaction(
            list(watched.values()), self._commands, self._keys, is_write=self._is_write, has_scripts=self._has_scripts
        )
        consistency = ConsistencyLevel.LINEARIZABLE if watched else client.consistency
        return Errand([command], finish, answers_itself, consistency)

    def _replies(self, door: Door, client: Client, results: list[Reply]) -> Reply:
        left = iter(results)
        return [
            queued.answer(door, client) if queued.handler else queued.leave(queued.prefix, next(left))
            for queued in self._queued
        ]

    def _take(self, args: list[bytes], handler: Handler | None, door: Door) -> Failure | None:
        """Queue it, or tell why not."""
        spec = check_command(args)
        if isinstance(spec, Failure):
            return spec
        if isinstance(handler, Family) and (problem := handler.problem(args)) is not None:
            return problem
        self._bytes += sum(map(len, args)) + _ARGUMENT_COST_BYTES * len(args)
        if spec.name in _SCRIPT_CALLS:
            script = queued_script(door, args, self._database)
            if isinstance(script, Failure):
                return script
            self._has_scripts = True
            self._queue_for_store(script, spec)
            return self._over_bounds()
        if spec.scope is Scope.CONNECTION:
            self._queued.append(_Queued(args, handler))
            if spec.name == b"SELECT" and isinstance(number := parse_database(args[1]), int):
                self._database = number
            return self._over_bounds()
        entered = enter(self._database, args)
        if isinstance(entered, Failure):
            # COPY to a database that there is not; Redis, too, sees that when it runs it.
            self._queued.append(_Queued(args, lambda _door, _client, _args: entered))
            return self._over_bounds()
        entered_spec = find_command(entered[0]) or spec
        if entered_spec.scope is Scope.ALL:
            return Failure(b"ERR %b inside MULTI is about one partition: SELECT a database from 1 to 15" % spec.name)
        self._queue_for_store(entered, spec)
        return self._over_bounds()

    def _queue_for_store(self, entered: list[bytes], spec: CommandSpec) -> None:
        """With the row of the command as the client named it."""
        entered_spec = find_command(entered[0]) or spec
        keys = entered_spec.keys(entered)
        self._queued.append(_Queued(entered, None, leave_of(spec.name), database_prefix(self._database)))
        self._commands.append(entered)
        self._keys += keys
        self._bytes += sum(map(len, keys))
        self._is_write |= entered_spec.is_write

    def _over_bounds(self) -> Failure | None:
        if len(self._queued) > TRANSACTION_COMMANDS_MAX:
            return Failure(
                b"ERR over %d commands, TRANSACTION_COMMANDS_MAX, in a transaction" % TRANSACTION_COMMANDS_MAX
            )
        if self._bytes > TRANSACTION_BYTES_MAX:
            return Failure(b"ERR over %d bytes, TRANSACTION_BYTES_MAX, in a transaction" % TRANSACTION_BYTES_MAX)
        return None


def multi(_door: Door, client: Client, _args: list[bytes]) -> Reply:
    """MULTI."""
    if client.transaction is not None:
        return Failure(b"ERR MULTI calls can not be nested")
    client.transaction = Transaction(client.database)
    return OK


def exec_(door: Door, client: Client, _args: list[bytes]) -> Reply | Errand:
    """EXEC: runs what was queued as one command, or nothing of it."""
    queued, watched = client.transaction, client.watched
    if queued is None:
        return Failure(b"ERR EXEC without MULTI")
    is_broken = queued.is_broken or client.is_watch_broken
    client.leave_transaction()
    return _ABORTED if is_broken else queued.errand(door, client, watched)


def discard(_door: Door, client: Client, _args: list[bytes]) -> Reply:
    """DISCARD: forgets what was queued and what is watched."""
    if client.transaction is None:
        return Failure(b"ERR DISCARD without MULTI")
    client.leave_transaction()
    return OK


def watch(_door: Door, client: Client, args: list[bytes]) -> Reply | Errand:
    """WATCH key…: remembers what each key holds now, as the leader of its partition knows it."""
    if client.transaction is not None:
        return Failure(b"ERR WATCH inside MULTI is not allowed")
    prefix, watched = database_prefix(client.database), client.watched
    keys = [key for key in dict.fromkeys(prefix + key for key in args[1:]) if key not in watched]
    if len(watched) + len(keys) > WATCHED_KEYS_MAX:
        return Failure(b"ERR over %d keys, WATCHED_KEYS_MAX, are watched" % WATCHED_KEYS_MAX)
    if sum(map(len, watched)) + sum(map(len, keys)) > WATCHED_KEY_BYTES_MAX:
        return Failure(b"ERR watched keys are over %d bytes, WATCHED_KEY_BYTES_MAX" % WATCHED_KEY_BYTES_MAX)
    if not keys:
        return OK
    token = token_bytes(TOKEN_BYTES)

    def finish(replies: list[Reply]) -> Reply:
        for key, reply in zip(keys, replies, strict=True):
            if not isinstance(reply, bytes):
                # Nothing is known of the key: a transaction must not run as if it were watched.
                client.is_watch_broken = True
                return reply
            client.watched[key] = Watched(key, reply, token)
        return OK

    return Errand([[FINGERPRINT, key, token] for key in keys], finish, holds=True)


def unwatch(_door: Door, client: Client, _args: list[bytes]) -> Reply:
    """UNWATCH: forgets what is watched."""
    client.unwatch()
    return OK


def refuse(client: Client, args: list[bytes], failure: Failure) -> Failure:
    """The reply to a command with this failure, which breaks the transaction it is sent in; an EXEC forgets that."""
    if args[0].upper() == b"EXEC":
        client.leave_transaction()
        return Failure(b"EXECABORT Transaction discarded because of: " + failure.text.removeprefix(b"ERR "))
    if client.transaction is not None:
        client.transaction.is_broken = True
    return failure
