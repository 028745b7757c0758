"""Scripts as the keyspace knows them: what an engine must do, and what a script says of itself in its first line.

No engine lives in core: a Lua machine is an adapter, handed in. It runs on the leader only and decides nothing by
itself, since what goes into the log are the commands that a script made (`evaluation`), never the script.
"""

from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import NamedTuple, Protocol, TypeAlias

from noctule.core.keyspace.reply import Failure, Reply

SCRIPT_BYTES_MAX = 64 * 1024
"""The longest script: each is kept in *meta*, sent with every call, and compiled in one go."""
SCRIPT_INSTRUCTIONS_MAX = 5_000_000
"""Lua instructions of one run, some 40 ms of plain Lua; a command counts as SCRIPT_COMMAND_INSTRUCTIONS."""
SCRIPT_COMMAND_INSTRUCTIONS = 500
"""What one command of a script counts as: it takes some 5 us, as many instructions do."""
SCRIPT_CPU_MS_MAX = 100
"""Processor time of one run: the loop of the node waits for it, and so does everybody else."""
SCRIPT_MEMORY_BYTES_MAX = 32 * 1024 * 1024
"""What the engine holds at one time: all compiled scripts, and what the running one makes."""
SCRIPT_EFFECTS_BYTES_MAX = 8 * 1024 * 1024
"""The reply of a script and the arguments of its writes together: they must fit one log entry."""

NO_ENGINE = Failure(b"ERR this node cannot run scripts; nothing was applied")
NO_SCRIPT = Failure(b"NOSCRIPT No matching script. Please use EVAL.")
TOO_LONG = Failure(b"ERR script is too long, SCRIPT_BYTES_MAX is %d" % SCRIPT_BYTES_MAX)

Call: TypeAlias = Callable[[list[bytes]], Reply]
"""Runs one command of a script and answers it. Never raises what the script could cause."""


class Outcome(NamedTuple):
    """What came of a run."""

    reply: Reply
    is_overrun: bool = False
    """Whether a bound was reached: the reply says which, and what the script did must be taken back. An ordinary error
    of a script leaves what was written before it, as in Redis."""
    instructions: int = 0
    """About how many were counted."""


class ScriptEngine(Protocol):
    """Runs Lua 5.1 as Redis 7.0 does, without any way to clock, chance, files or the process around it."""

    def compile(self, body: bytes) -> Failure | None:
        """Why this is no script; None when it is one. Nothing of it runs."""
        ...

    def run(self, body: bytes, keys: Sequence[bytes], arguments: Sequence[bytes], call: Call) -> Outcome:
        """Run a script to its end, or to the first bound of those above."""
        ...


def script_digest(body: bytes) -> bytes:
    """The name of a script: 40 hex digits of its SHA-1, in lower case."""
    return sha1(body, usedforsecurity=False).hexdigest().encode()


def script_flags(body: bytes) -> frozenset[bytes] | Failure:
    """What a script says of itself in a first line such as ``#!lua flags=no-writes``; empty without one."""
    if not body.startswith(b"#!"):
        return frozenset()
    line = body.partition(b"\n")[0]
    if b"\n" not in body:
        return Failure(b"ERR Invalid script shebang")
    engine, *words = line.split() or [b""]
    if engine != b"#!lua":
        return Failure(b"ERR Unexpected engine in script shebang: %b" % engine)
    flags: set[bytes] = set()
    for word in words:
        if not word.startswith(b"flags="):
            return Failure(b"ERR Unknown lua shebang option: %b" % word)
        for flag in filter(None, word[6:].split(b",")):
            if flag not in _FLAGS:
                return Failure(b"ERR Unexpected flag in script shebang: %b" % flag)
            flags.add(flag)
    return frozenset(flags)


def script_text(body: bytes) -> bytes:
    """What is to be compiled: a first line that is not Lua becomes an empty one, so that lines keep their numbers."""
    return b"\n" + body.partition(b"\n")[2] if body.startswith(b"#!") else body


_FLAGS = frozenset((b"no-writes", b"allow-oom", b"allow-stale", b"no-cluster", b"allow-cross-slot-keys"))
