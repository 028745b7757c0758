"""Scripts in Lua 5.1, by `lupa`: the engine behind `core.keyspace.scripting`.

A script meets lua_prelude.lua and nothing else. What it may use up is bounded thrice: instructions and processor time,
which a hook counts out of its reach, and memory, which the Lua state itself refuses. After an overrun the state is
thrown away: it may be in the middle of anything. A new one takes a fraction of a millisecond, and scripts are compiled
anew when they come again.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any

import msgspec
from lupa import lua51

from noctule.core.keyspace.reply import Failure, Members, Pairs, Reply, Status
from noctule.core.keyspace.scripting import (
    SCRIPT_BYTES_MAX,
    SCRIPT_COMMAND_INSTRUCTIONS,
    SCRIPT_CPU_MS_MAX,
    SCRIPT_INSTRUCTIONS_MAX,
    SCRIPT_MEMORY_BYTES_MAX,
    TOO_LONG,
    Call,
    Outcome,
    script_digest,
    script_text,
)

COMPILED_SCRIPTS_MAX = 500
"""Compiled scripts kept in one Lua state, the one unused for the longest dropped first."""
PATTERN_BYTES_MAX = 256
"""The longest pattern: Lua's matcher recurses for each item of it, on the stack of the process."""
PATTERN_STEPS_MAX = 100_000_000
"""The most steps that a search might take, some 200 ms at the very worst; the matcher itself counts none."""
DEPTH_MAX = 128
"""How deeply the tables of a reply, or of JSON, may nest."""
COLLECT_BYTES = 4 * 1024 * 1024
"""Garbage above this is collected after a script, so that the next one does not pay for it."""

_NIL, _STRING, _INTEGER, _STATUS, _FAILURE, _DOUBLE, _ARRAY, _MAP, _SET, _BOOLEAN = range(10)
_EXACT_MAX = 1 << 53
_PRELUDE = files("noctule.adapters").joinpath("lua_prelude.lua").read_bytes()

_OVER_BUDGET = Failure(
    b"ERR script is over its budget: SCRIPT_INSTRUCTIONS_MAX is %d, SCRIPT_CPU_MS_MAX is %d; nothing of it was applied"
    % (SCRIPT_INSTRUCTIONS_MAX, SCRIPT_CPU_MS_MAX)
)
_OVER_MEMORY = Failure(
    b"ERR script needs too much memory: SCRIPT_MEMORY_BYTES_MAX is %d; nothing of it was applied"
    % SCRIPT_MEMORY_BYTES_MAX
)


class LuaEngine:
    """A `ScriptEngine`. One belongs to one thread; runs of several replicas may share it, since none is left open."""

    def __init__(
        self,
        instructions_max: int = SCRIPT_INSTRUCTIONS_MAX,
        cpu_ms_max: int = SCRIPT_CPU_MS_MAX,
        memory_bytes_max: int = SCRIPT_MEMORY_BYTES_MAX,
        chance: random.Random | None = None,
    ) -> None:
        """`chance` is what scripts draw their random numbers from: what they wrote is logged, not how it came about."""
        self._bounds = (instructions_max, cpu_ms_max, memory_bytes_max)
        self._chance = chance or random.SystemRandom()
        self._lua: _Lua | None = None

    def compile(self, body: bytes) -> Failure | None:
        """As `ScriptEngine.compile`."""
        if len(body) > SCRIPT_BYTES_MAX:
            return TOO_LONG
        try:
            compiled = self._state().compiled(body)
        except _OverrunError as overrun:
            self._lua = None
            return overrun.failure
        return compiled if isinstance(compiled, Failure) else None

    def run(self, body: bytes, keys: Sequence[bytes], arguments: Sequence[bytes], call: Call) -> Outcome:
        """As `ScriptEngine.run`."""
        if len(body) > SCRIPT_BYTES_MAX:
            return Outcome(TOO_LONG)
        try:
            reply, instructions = self._state().run(body, keys, arguments, call)
        except _OverrunError as overrun:
            self._lua = None
            return Outcome(overrun.failure, is_overrun=True, instructions=self._bounds[0])
        return Outcome(reply, instructions=instructions)

    def _state(self) -> "_Lua":
        if self._lua is None:
            self._lua = _Lua(*self._bounds, self._chance)
        return self._lua


class _OverrunError(Exception):
    """A bound was reached; the Lua state is of no use any more."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class _Lua:
    """One Lua state with the scripts compiled in it."""

    def __init__(self, instructions_max: int, cpu_ms_max: int, memory_bytes_max: int, chance: random.Random) -> None:
        self._call: Call = _no_call
        self._is_over = False
        self._scripts: OrderedDict[bytes, Any] = OrderedDict()
        lua = lua51.LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_filter=_no_attributes,
            max_memory=memory_bytes_max,
        )
        self._lua = lua
        host = (self._host_call, self._host_overrun, _sha1_hex, self._decode_json, lambda: chance.getrandbits(31))
        bounds = (instructions_max, SCRIPT_COMMAND_INSTRUCTIONS, cpu_ms_max / 1_000)
        sizes = (SCRIPT_BYTES_MAX, PATTERN_BYTES_MAX, PATTERN_STEPS_MAX, DEPTH_MAX)
        self._compile, self._run, self._collect = lua.compile(_PRELUDE, name=b"@prelude")(*host, *bounds, *sizes)

    def compiled(self, body: bytes) -> Any:
        """The script as a Lua function; a `Failure` that says why it is none."""
        digest = script_digest(body)
        chunk = self._scripts.get(digest)
        if chunk is not None:
            self._scripts.move_to_end(digest)
            return chunk
        text = script_text(body)
        if text[:1] == b"\x1b":
            return Failure(b"ERR Error compiling script (new function): bytecode is not loaded")
        chunk, problem = self._guarded(self._compile, text)
        if not chunk:
            return Failure(b"ERR Error compiling script (new function): %b" % problem)
        if len(self._scripts) >= COMPILED_SCRIPTS_MAX:
            self._scripts.popitem(last=False)
        self._scripts[digest] = chunk
        return chunk

    def run(self, body: bytes, keys: Sequence[bytes], arguments: Sequence[bytes], call: Call) -> tuple[Reply, int]:
        """The script's reply, and how many instructions it took. Raises `_OverrunError`."""
        chunk = self.compiled(body)
        if isinstance(chunk, Failure):
            return chunk, 0
        self._call = call
        try:
            is_well, instructions, *rest = self._guarded(self._run_with, chunk, keys, arguments)
        finally:
            self._call = _no_call
        if not is_well:
            if not rest[0]:
                raise _OverrunError(_OVER_MEMORY)
            text, source, line = rest
            if not source:  # The script ended with a tail call, on its last line then.
                source, line = b"@user_script", body.rstrip().count(b"\n") + 1
            return Failure(text + b" script: %b, on %b:%d." % (script_digest(body), source, line)), int(instructions)
        (out,) = rest
        reply, _ = _read(out, 1)
        if self._lua.get_memory_used() > COLLECT_BYTES:
            self._guarded(self._collect)
        return reply, int(instructions)

    def _run_with(self, chunk: Any, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Any:
        return self._run(chunk, self._lua.table_from(keys), self._lua.table_from(arguments))

    def _guarded(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call into Lua. Every error that comes back is an overrun: those of scripts are caught inside."""
        try:
            return function(*arguments)
        except lua51.LuaMemoryError as error:
            raise _OverrunError(_OVER_MEMORY) from error
        except (lua51.LuaError, MemoryError) as error:
            if not self._is_over and b"not enough memory" in str(error).encode():
                raise _OverrunError(_OVER_MEMORY) from error
            raise _OverrunError(_OVER_BUDGET) from error

    # What Lua calls; none of these may raise --------------------------------------------------------------------------

    def _host_overrun(self) -> None:
        self._is_over = True

    def _host_call(self, resp: int, *words: bytes) -> Any:
        """(failure text or None, reply as a Lua value)."""
        if self._is_over:
            return b"ERR script is over its budget", None
        reply = self._call(list(words))
        if isinstance(reply, Failure):
            return reply.text, None
        return None, self._lua_value(reply, resp == 3)

    def _decode_json(self, text: bytes, null: Any) -> Any:
        try:
            value = msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            return b"Expected value but found invalid token: %b" % str(error).encode(), None
        try:
            return None, self._from_json(value, null, 1)
        except RecursionError:
            return b"Found too many nested data structures (%d)" % DEPTH_MAX, None

    def _from_json(self, value: Any, null: Any, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise RecursionError
        if isinstance(value, str):
            return value.encode()
        if value is None:
            return null
        if isinstance(value, list):
            return self._lua.table_from([self._from_json(item, null, depth + 1) for item in value])
        if isinstance(value, dict):
            return self._lua.table_from(
                {name.encode(): self._from_json(item, null, depth + 1) for name, item in value.items()}
            )
        if isinstance(value, int) and not isinstance(value, bool):
            return float(value) if abs(value) > _EXACT_MAX else value
        return value

    def _lua_value(self, reply: Reply, is_resp3: bool) -> Any:
        """A reply as Redis hands it to Lua."""
        table_of = self._lua.table_from
        match reply:
            case bytes():
                return reply
            case bool():
                return reply
            case int():
                return reply if -_EXACT_MAX <= reply <= _EXACT_MAX else float(reply)
            case None:
                return None if is_resp3 else False
            case Status():
                return table_of({b"ok": reply.text})
            case Failure():
                return table_of({b"err": reply.text})
            case list():
                return self._lua_list(reply, is_resp3)
            case dict():
                if is_resp3:
                    pairs = {key: self._lua_value(value, True) for key, value in reply.items()}
                    return table_of({b"map": table_of(pairs)})
                return self._lua_list([part for pair in reply.items() for part in pair], False)
            case Members():
                if is_resp3:
                    return table_of({b"set": table_of({self._lua_value(item, True): True for item in reply.items})})
                return self._lua_list(reply.items, False)
            case Pairs():
                if is_resp3:
                    return self._lua_list([list(pair) for pair in reply.items], True)
                return self._lua_list([part for pair in reply.items for part in pair], False)
            case float():
                return table_of({b"double": reply}) if is_resp3 else _double_text(reply)

    def _lua_list(self, replies: Sequence[Reply], is_resp3: bool) -> Any:
        values = [self._lua_value(reply, is_resp3) for reply in replies]
        if None in values:  # Only in RESP3, where nothing is nil in Lua, too.
            return self._lua.table_from({at: value for at, value in enumerate(values, 1) if value is not None})
        return self._lua.table_from(values)


def _no_attributes(_object: object, name: object, _is_setting: bool) -> object:
    raise AttributeError("values of the host have no attributes here", name)


def _no_call(_args: list[bytes]) -> Reply:
    return Failure(b"ERR no script runs")


def _sha1_hex(text: bytes) -> bytes:
    return sha1(text, usedforsecurity=False).hexdigest().encode()


def _double_text(number: float) -> bytes:
    return b"%d" % number if number.is_integer() and abs(number) < 1e17 else repr(number).encode()


_SCALARS: dict[int, Callable[[Any], Reply]] = {
    _NIL: lambda _value: None,
    _STRING: lambda value: value,
    _INTEGER: int,
    _STATUS: Status,
    _FAILURE: Failure,
    _DOUBLE: float,
    _BOOLEAN: int,
}


def _read(out: Any, at: int) -> tuple[Reply, int]:
    """The reply that begins at this place of the flat list, and where the next one does."""
    tag, value = out[at], out[at + 1]
    at += 2
    scalar = _SCALARS.get(tag)
    if scalar is not None:
        return scalar(value), at
    if tag == _MAP:
        pairs: dict[bytes, Reply] = {}
        for _ in range(value):
            name, at = _read(out, at)
            pairs[name if isinstance(name, bytes) else str(name).encode()], at = _read(out, at)
        return pairs, at
    items: list[Reply] = []
    for _ in range(value):
        item, at = _read(out, at)
        items.append(item)
    return Members(items) if tag == _SET else items, at
