"""Scripts evaluated on a leader's state: what they answer and what they write, while the state stays as it is.

A batch is carried out as it will be when its entry is applied, with the state's journal on; each script runs, and what
it wrote is noted in its place. Then everything is taken back. The entry that is proposed at once, at the same stamp,
finds the state as it was met here: between them stands no other entry, or the entry itself is not in the log.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from noctule.core.keyspace.commands import find_command
from noctule.core.keyspace.effects import EVAL, TO_BE_EVALUATED, ScriptCall, effects_command, parse_call
from noctule.core.keyspace.failures import CROSS_SLOT
from noctule.core.keyspace.keyspace import MUST_LOG, Keyspace, ReadOutcome
from noctule.core.keyspace.publishing import channel_problem
from noctule.core.keyspace.reply import MOVED, NULL_ARRAY, OK, Failure, Reply, Status
from noctule.core.keyspace.scripting import (
    NO_ENGINE,
    SCRIPT_EFFECTS_BYTES_MAX,
    SCRIPT_INSTRUCTIONS_MAX,
    Outcome,
    ScriptEngine,
    script_flags,
)
from noctule.core.keyspace.spec import CommandSpec, Scope
from noctule.core.keyspace.transactions import (
    EXEC,
    EXEC_EVAL,
    EXEC_WATCHED,
    end_watches,
    parse_transaction,
    transaction,
)
from noctule.core.keyspace.within import within
from noctule.core.placement.slots import key_slot

UNKNOWN_COMMAND = Failure(b"ERR Unknown Redis command called from script")
WRONG_COUNT = Failure(b"ERR Wrong number of args calling Redis command from script")
NOT_ALLOWED = Failure(b"ERR This Redis command is not allowed from script")
NO_WRITES = Failure(b"ERR Write commands are not allowed from read-only scripts.")
NOT_LOCAL = Failure(b"ERR Script attempted to access a non local key in a cluster node")
TOO_MUCH = Failure(
    b"ERR script writes or answers too much, SCRIPT_EFFECTS_BYTES_MAX is %d; nothing of it was applied"
    % SCRIPT_EFFECTS_BYTES_MAX
)
TURN_INSTRUCTIONS_MAX = 2 * SCRIPT_INSTRUCTIONS_MAX
"""Instructions of all scripts evaluated in one turn of the loop, after which the next ones wait for another turn."""
LATER = [EVAL, b"", b"", b"", b"0"]
"""What stands in a log for a command that was not carried out: wherever it is applied, it is `MOVED`."""
_PONG = Status(b"PONG")


class Evaluation:
    """Batches on one state, between the beginning of a journal and its end; see `evaluating`."""

    def __init__(self, keyspace: Keyspace, engine: ScriptEngine | None, stamp_ms: int) -> None:
        self._keyspace = keyspace
        self._engine = engine
        self._stamp_ms = stamp_ms
        self._done: list[list[bytes]] = []
        """What was carried out so far, by which it can be done again after everything was taken back."""
        self._instructions = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether the scripts so far have taken as much as may be taken in one turn."""
        return self._instructions >= TURN_INSTRUCTIONS_MAX

    def batch(self, commands: Sequence[list[bytes]]) -> list[list[bytes]]:
        """As many commands as are to be logged, for the first so many of these, one at least.

        From the first that is `MOVED` on the batch is not carried out (`ClientSessions.apply`), and so it is from where
        the scripts have taken enough: what stands in those places is moved, so its router sends it once more.
        """
        logged: list[list[bytes]] = []
        size = 0
        for command in commands:
            size += sum(map(len, command))
            if logged and (size > SCRIPT_EFFECTS_BYTES_MAX or (self.is_exhausted and command[0] in TO_BE_EVALUATED)):
                break
            if command[0] in TO_BE_EVALUATED:
                evaluated = self._evaluated(command)
                if evaluated is None:
                    break
                size += sum(map(len, evaluated))
            else:
                evaluated = command
                if self._keyspace.execute(command, self._stamp_ms) is MOVED:
                    break
            logged.append(evaluated)
            self._done.append(evaluated)
        return [*logged, *[LATER] * (len(commands) - len(logged))]

    def _evaluated(self, command: list[bytes]) -> list[bytes] | None:
        """What is logged for a script, or for a transaction with scripts or watched keys; None when it is `MOVED`."""
        keyspace = self._keyspace
        if keyspace.is_moved(command):
            return None
        if command[0] == EXEC_WATCHED:
            return self._watched(command)
        done = self._transaction(command) if command[0] == EXEC_EVAL else self._script(command)
        home = command[2] if command[0] == EXEC_EVAL else command[1]
        if not done.is_overrun:
            logged = effects_command(home, done.reply, done.writes)
            if sum(map(len, logged)) <= SCRIPT_EFFECTS_BYTES_MAX:
                return logged
            done = _Done(TOO_MUCH)
        # All of it is taken back, and nothing but it.
        keyspace.roll_back()
        keyspace.begin_journal()
        for earlier in self._done:
            keyspace.execute(earlier, self._stamp_ms)
        return effects_command(home, done.reply, ())

    def _watched(self, command: list[bytes]) -> list[bytes]:
        """A transaction without scripts as it came, if nobody came between; else its null array."""
        payload = parse_transaction(command)
        if isinstance(payload, Failure):
            return effects_command(command[2], payload, ())
        if end_watches(self._keyspace, payload[0]):
            return effects_command(command[2], NULL_ARRAY, ())
        logged = [EXEC, *command[1:]]
        self._keyspace.execute(logged, self._stamp_ms)
        return logged

    def _script(self, command: list[bytes]) -> "_Done":
        call = parse_call(command)
        if isinstance(call, Failure):
            return _Done(call)
        run = _Run(self._keyspace, call, self._stamp_ms)
        outcome = run.outcome(self._engine)
        self._instructions += outcome.instructions
        if run.size_bytes > SCRIPT_EFFECTS_BYTES_MAX:
            return _Done(TOO_MUCH, is_overrun=True)
        return _Done(outcome.reply, run.writes, outcome.is_overrun)

    def _transaction(self, command: list[bytes]) -> "_Done":
        """A script that is stopped takes all of its transaction with it."""
        payload = parse_transaction(command)
        if isinstance(payload, Failure):
            return _Done(payload)
        watched, commands = payload
        if end_watches(self._keyspace, watched):
            return _Done(NULL_ARRAY)
        for_nothing = transaction(watched, (), command[2:], is_write=True)
        seen = self._keyspace.execute([EXEC, *for_nothing[1:]], self._stamp_ms)
        if not isinstance(seen, list):
            return _Done(seen)
        replies: list[Reply] = []
        writes: list[list[bytes]] = []
        for each in commands:
            if each[0] in TO_BE_EVALUATED:
                done = self._script(each)
                if done.is_overrun:
                    return done
                replies.append(done.reply)
                writes += done.writes
            else:
                reply = self._keyspace.execute(each, self._stamp_ms)
                spec = find_command(each[0])
                if spec is not None and spec.is_write and not isinstance(reply, Failure):
                    writes.append(each)
                replies.append(reply)
        return _Done(replies, writes)


class _Done(NamedTuple):
    """What a script or a transaction came to."""

    reply: Reply
    writes: Sequence[list[bytes]] = ()
    is_overrun: bool = False


@contextmanager
def evaluating(keyspace: Keyspace, engine: ScriptEngine | None, stamp_ms: int) -> Iterator[Evaluation]:
    """Evaluate batches, one behind the other, at the stamp of their entry; at the end the state is as it was."""
    keyspace.begin_journal()
    try:
        yield Evaluation(keyspace, engine, stamp_ms)
    finally:
        keyspace.roll_back()


def read_script(
    keyspace: Keyspace, engine: ScriptEngine | None, args: Sequence[bytes], now_ms: int
) -> Reply | ReadOutcome:
    """A script that may not write, on the state as it is; `MUST_LOG` when it meets a key that has expired."""
    if keyspace.is_moved(args):
        return MOVED
    call = parse_call(args)
    if isinstance(call, Failure):
        return call
    run = _Run(keyspace, call, now_ms, logs=False)
    outcome = run.outcome(engine)
    return MUST_LOG if run.met_expired else outcome.reply


class _Run:
    """The commands of one script, which is running."""

    def __init__(self, keyspace: Keyspace, call: ScriptCall, now_ms: int, *, logs: bool = True) -> None:
        self.writes: list[list[bytes]] = []
        self.size_bytes = 0
        """Of the writes; over the bound no more are done."""
        self.met_expired = False
        self._keyspace = keyspace
        self._call = call
        self._now_ms = now_ms
        self._logs = logs
        self._is_read = call.is_read

    def outcome(self, engine: ScriptEngine | None) -> Outcome:
        """Run it; CROSSSLOT unless all keys that were named are here."""
        call = self._call
        if self._keyspace.territory is not None:
            for key in call.keys:
                if not self._keyspace.first_slot <= key_slot(call.prefix + key) <= self._keyspace.last_slot:
                    return Outcome(CROSS_SLOT)
        flags = script_flags(call.body)
        if isinstance(flags, Failure):
            return Outcome(flags)
        if engine is None:
            return Outcome(NO_ENGINE)
        self._is_read = call.is_read or b"no-writes" in flags
        return engine.run(call.body, call.keys, call.arguments, self._command)

    def _command(self, args: list[bytes]) -> Reply:
        """One command of the script, with names that it knows keys by."""
        if self.size_bytes > SCRIPT_EFFECTS_BYTES_MAX:
            return TOO_MUCH
        spec = find_command(args[0])
        if spec is None or spec.scope is Scope.INTERNAL:
            return UNKNOWN_COMMAND
        if spec.arity != len(args) and (spec.arity > 0 or len(args) < -spec.arity):
            return WRONG_COUNT
        if spec.scope is Scope.CONNECTION:
            return self._about_the_server(spec, args)
        if spec.is_write and self._is_read:
            return NO_WRITES
        if spec.scope is Scope.ALL:
            return self._about_all_keys(spec, args)
        if self._call.prefix:
            args = self._prefixed(spec, args)
        if self._keyspace.is_moved(args):
            return NOT_LOCAL
        reply = self._execute(args)
        if spec.is_write and not isinstance(reply, Failure):
            self._note(args)
        return reply

    def _execute(self, args: list[bytes]) -> Reply:
        if self._logs:
            return self._keyspace.execute(args, self._now_ms)
        reply = self._keyspace.read(args, self._now_ms)
        if isinstance(reply, ReadOutcome):
            self.met_expired = True
            return Failure(b"ERR a key has expired")
        return reply

    def _prefixed(self, spec: CommandSpec, args: list[bytes]) -> list[bytes]:
        places = set(spec.places(args))
        return [self._call.prefix + word if place in places else word for place, word in enumerate(args)]

    def _about_the_server(self, spec: CommandSpec, args: list[bytes]) -> Reply:
        match spec.name:
            case b"TIME":
                seconds, milliseconds = divmod(self._now_ms, 1_000)
                return [b"%d" % seconds, b"%d" % (1_000 * milliseconds)]
            case b"PING":
                return args[1] if len(args) == 2 else _PONG
            case b"ECHO":
                return args[1]
            case b"PUBLISH" | b"SPUBLISH":
                return self._publish(spec, args)
            case b"SELECT":
                return OK if args[1] == b"0" and not self._call.prefix else NOT_ALLOWED
        return NOT_ALLOWED

    def _publish(self, spec: CommandSpec, args: list[bytes]) -> Reply:
        """The message leaves once the effects are applied; who will hear it is not known yet, so the answer is 0."""
        if self._is_read:
            return NO_WRITES
        problem = channel_problem(args[1])
        if problem is None:
            self._note([b"NOCTULE.PUBLISH", b"1" if spec.name == b"SPUBLISH" else b"0", *args[1:]])
        return problem or 0

    def _note(self, write: list[bytes]) -> None:
        self.size_bytes += sum(map(len, write))
        if self.size_bytes <= SCRIPT_EFFECTS_BYTES_MAX:  # Else all of it is taken back.
            self.writes.append(write)

    def _about_all_keys(self, spec: CommandSpec, args: list[bytes]) -> Reply:
        """KEYS, SCAN and their like see the database where it is one partition, else what this partition holds."""
        if spec.is_write:
            return NOT_ALLOWED
        if self._call.prefix:
            return self._execute([b"NOCTULE.READDATABASE", self._call.prefix, *args])
        territory = self._keyspace.territory
        if territory is None:
            return self._execute(args)
        return self._execute(within(spec, territory.first, territory.last, args))
