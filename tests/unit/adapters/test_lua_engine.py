"""The Lua engine: nothing gets out of it, nothing stays in it, and nothing holds it longer than it may."""

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.adapters.lua_engine import COMPILED_SCRIPTS_MAX, LuaEngine
from noctule.core.keyspace.reply import Failure, Members, Pairs, Reply, Status
from noctule.core.keyspace.scripting import (
    SCRIPT_BYTES_MAX,
    SCRIPT_CPU_MS_MAX,
    SCRIPT_INSTRUCTIONS_MAX,
    Outcome,
    script_digest,
)

Run = Callable[..., Outcome]
HELD_S_MAX = 20 * SCRIPT_CPU_MS_MAX / 1_000
"""How long a script may hold this thread, on a machine that may be twenty times as busy as it should be."""


@pytest.fixture(scope="module")
def engine() -> LuaEngine:
    return LuaEngine(chance=random.Random(1))


@pytest.fixture
def run(engine: LuaEngine) -> Run:
    """Runs a script, whose commands are answered with what they were called with."""

    def run(body: str | bytes, *arguments: bytes, reply: Reply = None) -> Outcome:
        text = body.encode() if isinstance(body, str) else body
        return engine.run(text, [b"k"], arguments, lambda args: reply if reply is not None else [*args])

    return run


# Ways out -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "os",
        "io",
        "debug",
        "package",
        "require",
        "module",
        "python",
        "dofile",
        "loadfile",
        "newproxy",
        "coroutine",
        "getfenv",
        "setfenv",
        "print",
        "jit",
        "arg",
    ],
)
def test_what_reaches_outside_has_no_name(run: Run, name: str) -> None:
    reply = run(f"return {name}").reply
    assert isinstance(reply, Failure)
    assert b"nonexistent global variable '%b'" % name.encode() in reply.text
    assert run(f"return rawget(_G, '{name}')").reply is None


@pytest.mark.parametrize(
    "body",
    [
        "return string.dump(function() end)",
        "return ('').dump(function() end)",
        "return loadstring('\\27Lua\\81\\0\\1\\4\\8\\4\\8\\0')()",
        "return load(function() return '\\27Lua' end)()",
        "return redis.call.__class__",
        "return redis.call['__class__']",
        "return getmetatable(redis.call).__index",
        "return getmetatable('').__index.rep",
        "getmetatable('').__index = nil",
        "setmetatable(_G, {})",
        "setmetatable(string, {})",
        "getmetatable(_G).__index.redis = nil",
        "string.rep = nil",
        "redis.call = nil",
        "x = 1",
        "_G.x = 1",
        "return math.randomseed.__globals__",
        "return tostring.nothing",
        "return cjson.decode(nil, nil)",
        "return cjson.encode(redis.call)",
    ],
)
def test_an_attempt_to_get_out_is_an_error(run: Run, body: str) -> None:
    outcome = run(body)
    assert isinstance(outcome.reply, Failure)
    assert not outcome.is_overrun


def test_no_value_of_the_host_can_be_held(run: Run) -> None:
    """Everything a script can reach, through tables and metatables, is Lua's own: a value of the host is userdata."""
    body = """
    local seen, found, queue = {}, {}, {_G, KEYS, ARGV, string, table, math, bit, redis, cjson,
      redis.call('x'), cjson.decode('[1,{"a":null}]')}
    while #queue > 0 do
      local value = table.remove(queue)
      if type(value) == 'userdata' then found[#found + 1] = tostring(value) end
      local meta = getmetatable(value)
      if meta then queue[#queue + 1] = meta end
      if type(value) == 'table' and not seen[value] then
        seen[value] = true
        for name, item in pairs(value) do queue[#queue + 1] = name queue[#queue + 1] = item end
      end
    end
    return found
    """
    assert run(body).reply == []


def test_nothing_stays_for_the_next_script(run: Run) -> None:
    for body in (
        "rawset(_G, 'left', 1)",
        "rawset(string, 'left', 1)",
        "table.insert(string, 'left')",
        "rawset(redis, 'left', 1)",
        "KEYS.left = 1",
        "string = nil",
        "math.randomseed(5)",
        "redis.setresp(3)",
        "table.insert(cjson, 'left')",
    ):
        run(body)
    reply = run("return {rawget(_G, 'left'), rawget(string, 'left'), string[1], redis.left, KEYS.left, cjson[1]}").reply
    assert reply == []
    assert run("return ('x'):rep(2)").reply == b"xx"


def test_the_same_script_has_other_globals_the_next_time(run: Run) -> None:
    body = "local before = rawget(_G, 'count') rawset(_G, 'count', 1) return before"
    assert run(body).reply is None
    assert run(body).reply is None


# Bounds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "while true do end",
        "repeat until false",
        "while true do pcall(function() while true do end end) end",
        "local function f() while true do pcall(f) end end f()",
        "local function f() pcall(f) return f() end while true do pcall(f) end",
        "xpcall(function() while true do end end, function() while true do end end)",
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
        "local t = setmetatable({}, {__index = function() while true do end end}) return t.x",
        "return {pcall(string.gsub, ('x'):rep(1000), 'x', function() while true do end end)}",
        "table.sort({1, 2, 3}, function() while true do end end)",
        "load(function() while true do end end)",
        "while true do redis.call('x') end",
        "while true do pcall(redis.call, 'x') end",
        "while true do loadstring('return 1') end",
        "local t = {} for i = 1, 200 do t[i] = ('x'):rep(i) end while true do table.concat(t) table.sort(t) end",
        "local s = ('x'):rep(1e6) while true do local t = s:upper() end",
        "local a, b = ('x'):rep(1e6) .. 'a', ('x'):rep(1e6) .. 'b' while true do local c = a < b end",
        "local x, t = ('x'):rep(1e6), {} for i = 1, 10000 do t[i] = i % 2 == 0 and x or x .. 'a' end table.sort(t)",
        "local t = {} for i = 1, 20 do t = {t, t} end return t",
        "local t = {} for i = 1, 40 do t = {t, t} end return cjson.encode(t)",
        "while true do redis.sha1hex(('x'):rep(1e5)) end",
        "local t = {} for i = 1, 1e5 do t[i] = i end while true do table.insert(t, 1, 0) end",
    ],
)
def test_a_script_without_an_end_is_stopped(run: Run, body: str) -> None:
    """Whatever it catches, and however much one of its instructions does."""
    started = time.thread_time()
    outcome = run(body)
    assert outcome.is_overrun
    assert isinstance(outcome.reply, Failure)
    assert outcome.reply.text.startswith((b"ERR script is over its budget", b"ERR script needs too much memory"))
    assert outcome.instructions == SCRIPT_INSTRUCTIONS_MAX
    assert time.thread_time() - started < HELD_S_MAX
    assert run("return 1").reply == 1


@pytest.mark.parametrize(
    "body",
    [
        "return ('x'):rep(1e9)",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} while true do t[#t + 1] = ('x'):rep(1e5) .. #t end",
        "local s = 'x' while true do pcall(function() while true do s = s .. s end end) end",
        "return redis.call(('x'):rep(1e9))",
        "return table.concat({('x'):rep(1e7), ('x'):rep(1e7), ('x'):rep(1e7), ('x'):rep(1e7)})",
        "return ('x'):rep(1e7):gsub('x', ('y'):rep(100))",
        "return cjson.encode(('x'):rep(3e7))",
    ],
)
def test_a_script_that_takes_too_much_memory_is_stopped(run: Run, body: str) -> None:
    started = time.thread_time()
    outcome = run(body)
    assert outcome.is_overrun, outcome.reply
    assert time.thread_time() - started < HELD_S_MAX
    assert run("return 1").reply == 1


def test_nothing_is_done_after_the_end_of_the_budget(engine: LuaEngine) -> None:
    """A script that catches its end must not write any more."""
    commands: list[list[bytes]] = []
    body = b"pcall(function() while true do end end) redis.call('set', 'a', 'b') return 1"

    def call(args: list[bytes]) -> Reply:
        commands.append(args)
        return None

    assert engine.run(body, [], [], call).is_overrun
    assert commands == []


@pytest.mark.parametrize(
    "body",
    [
        "return string.find(('a'):rep(30), ('a?'):rep(30) .. ('a'):rep(30))",
        "return string.match(('a'):rep(10000), '.-.-.-b')",
        "return string.gsub(('a'):rep(100000), '(.*)(.*)b', '')",
        "return string.find(('a'):rep(500000), ('a?'):rep(500000))",
        "return string.gmatch(('a'):rep(10000), 'a*a*a*b')()",
        "return string.gfind(('a'):rep(10000), 'a*a*a*b')()",
        "return ('a'):rep(1e6):find(('a'):rep(5e5) .. 'b', 1, true)",
    ],
)
def test_a_pattern_that_could_take_for_ever_is_refused(run: Run, body: str) -> None:
    """The matcher counts no instructions, and its depth is on the stack of the process: this one crashed Lua 5.1."""
    started = time.thread_time()
    outcome = run(body)
    assert isinstance(outcome.reply, Failure)
    assert b"too " in outcome.reply.text
    assert time.thread_time() - started < HELD_S_MAX


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        ("return {string.match('rate:limit:user:42', '^(.-):(.*):(%d+)$')}", [b"rate", b"limit:user", b"42"]),
        ("return {string.gsub(('a b '):rep(1000), '%s+', '')}", [b"ab" * 1000, 2000]),
        ("local t = {} for word in ('a,b,c'):gmatch('[^,]+') do t[#t + 1] = word end return t", [b"a", b"b", b"c"]),
        ("return {('x'):rep(20000):find('x+')}", [1, 20000]),
    ],
)
def test_ordinary_patterns_are_not(run: Run, body: str, reply: Reply) -> None:
    assert run(body).reply == reply


@pytest.mark.parametrize(
    "body",
    [
        "local function f() return 1 + f() end return f()",
        "local t = setmetatable({}, {__index = function(t, k) return t[k] end}) return t.x",
        "local function f() return (string.gsub('x', 'x', f)) end return f()",
        "return loadstring('return ' .. ('('):rep(300) .. '1' .. (')'):rep(300))()",
        "local t = {} for i = 1, 100000 do t = {t} end return t",
        "local t = {} for i = 1, 10000 do t = {t} end return cjson.encode(t)",
        "return cjson.decode(('['):rep(10000))",
        "return {unpack({}, 1, 1e7)}",
        "return string.byte(('x'):rep(1e6), 1, -1)",
    ],
)
def test_what_nests_too_deeply_is_an_error(run: Run, body: str) -> None:
    outcome = run(body)
    assert isinstance(outcome.reply, Failure)
    assert run("return 1").reply == 1


def test_a_script_that_is_too_long_is_not_looked_at(engine: LuaEngine) -> None:
    body = b"-" * (SCRIPT_BYTES_MAX + 1)
    problem = engine.compile(body)
    assert isinstance(problem, Failure)
    assert b"SCRIPT_BYTES_MAX" in problem.text
    assert engine.run(body, [], [], lambda _args: None) == Outcome(problem)


def test_many_scripts_are_compiled_and_some_forgotten() -> None:
    engine = LuaEngine()
    for number in range(COMPILED_SCRIPTS_MAX + 10):
        assert engine.run(b"return %d" % number, [], [], lambda _args: None).reply == number
    assert engine.run(b"return 0", [], [], lambda _args: None).reply == 0


def test_garbage_of_earlier_scripts_is_not_held_against_later_ones() -> None:
    """Lua 5.1 collects nothing when memory runs out: it fails."""
    engine = LuaEngine()
    for _ in range(50):
        outcome = engine.run(b"local s = ('x'):rep(5e6) return #s", [], [], lambda _args: None)
        assert outcome.reply == 5_000_000


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "second", "third"),
    [
        (b"x", b"string x", b"string x"),
        (7, b"number 7", b"number 7"),
        (Status(b"OK"), b"table ok", b"table ok"),
        ([1, None, 3], b"table 3", b"table 1"),  # What is nil ends it.
        ({b"a": b"1"}, b"table 2", b"table map"),
        (Members([b"a", b"b"]), b"table 2", b"table set"),
        (Pairs([(b"a", 1.5)]), b"table 2", b"table 1"),
        (1.5, b"string 1.5", b"table double"),
    ],
)
def test_replies_come_as_redis_hands_them_to_lua(run: Run, reply: Reply, second: bytes, third: bytes) -> None:
    body = """
    redis.setresp(tonumber(ARGV[1]))
    local r = redis.call('x')
    if type(r) ~= 'table' then return type(r) .. ' ' .. tostring(r) end
    for _, name in ipairs({'ok', 'map', 'set', 'double'}) do if r[name] then return 'table ' .. name end end
    return 'table ' .. #r
    """
    assert run(body, b"2", reply=reply).reply == second
    assert run(body, b"3", reply=reply).reply == third


def test_an_error_of_a_command_is_raised_or_given(run: Run) -> None:
    failure = Failure(b"CODE text")
    raised = run("redis.call('x')", reply=failure).reply
    assert raised == Failure(b"CODE text script: %b, on @user_script:1." % script_digest(b"redis.call('x')"))
    assert run("return redis.pcall('x')", reply=failure).reply == failure
    assert run("return redis.pcall('x').err", reply=failure).reply == b"CODE text"
    assert run("local ok, text = pcall(redis.call, 'x') return text", reply=failure).reply == b"CODE text"


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_bytes_go_through_as_they_are(arguments: list[bytes]) -> None:
    engine = _SHARED
    assert engine.run(b"return ARGV", [], arguments, lambda _args: None).reply == arguments
    assert engine.run(b"return redis.call('x', unpack(ARGV))", [], arguments, lambda args: [*args]).reply == [
        b"x",
        *arguments,
    ]


@given(st.integers(-(2**53), 2**53))
def test_whole_numbers_go_through_up_to_53_bits(number: int) -> None:
    assert _SHARED.run(b"return redis.call('x')", [], [], lambda _args: number).reply == number


@given(st.text(alphabet="()[]%.*+-?^$ab\\x00", max_size=12), st.text(alphabet="ab", max_size=30))
def test_no_pattern_breaks_the_engine(pattern: str, subject: str) -> None:
    arguments = [pattern.encode(), subject.encode()]
    body = b"return {pcall(string.find, ARGV[2], ARGV[1]), pcall(string.gsub, ARGV[2], ARGV[1], 'x')}"
    assert not _SHARED.run(body, [], arguments, lambda _args: None).is_overrun


@given(st.text(max_size=200))
def test_no_text_breaks_the_engine(body: str) -> None:
    """Bodies are anybody's; nothing but an outcome comes of them."""
    assert isinstance(_SHARED.run(body.encode("utf-8", "replace"), [], [], lambda _args: None), Outcome)


_SHARED = LuaEngine()
