"""Scripts against the real redis-server: the same bytes back, in both protocols, and the same data left behind."""

import socket
from collections.abc import Iterator
from pathlib import Path

import hiredis
import pytest
from engines import RedisServer

from noctule.adapters.lua_engine import LuaEngine
from noctule.core.keyspace.effects import ScriptCall
from noctule.core.keyspace.evaluation import evaluating
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import Reply
from noctule.core.wire.resp import Protocol, encode_reply

pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]
pytest_plugins = ("engines",)

NOW_MS = 1_700_000_000_123

SCRIPTS = [
    # What becomes of values.
    "return 1",
    "return 3.99",
    "return -3.99",
    "return 1e20",
    "return 0/0",
    "return 'text'",
    "return ''",
    "return true",
    "return false",
    "return nil",
    "return",
    "return {}",
    "return {1, 2, nil, 3}",
    "return {1, {2, {3, 'x'}}, false, true, 5.5}",
    "return {ok = 'FINE'}",
    "return {ok = 1}",
    "return {err = 'ERR mine'}",
    "return {err = 'mine'}",
    "return {double = 3.5}",
    "return {map = {a = 1}}",
    "return {set = {a = true}}",
    "return {'a', ok = 'b'}",
    "return redis.status_reply('FINE')",
    "return redis.error_reply('CODE text')",
    "return redis.error_reply('-CODE text')",
    "return redis.error_reply('text')",
    "return redis.error_reply()",
    "return function() end",
    "local t = {} t[1] = t return t[2]",
    # Keys, arguments, commands.
    "return KEYS",
    "return ARGV",
    "return {#KEYS, #ARGV, KEYS[1], ARGV[2]}",
    "return redis.call('set', KEYS[1], ARGV[1])",
    "return redis.call('SET', KEYS[1], 1.5)",
    "redis.call('set', KEYS[1], 0.1) return redis.call('get', KEYS[1])",
    "redis.call('set', KEYS[1], 3) return redis.call('incrby', KEYS[1], 2)",
    "return redis.call('get', 'absent')",
    "return type(redis.call('get', 'absent'))",
    "return type(redis.call('set', KEYS[1], 'x'))",
    "return redis.call('set', KEYS[1], 'x').ok",
    "return redis.call('mget', KEYS[1], 'absent', KEYS[2])",
    "redis.call('hset', KEYS[1], 'f', 'v') return redis.call('hgetall', KEYS[1])",
    "redis.call('hset', KEYS[1], 'f', 'v') redis.setresp(3) return redis.call('hgetall', KEYS[1])",
    "redis.setresp(3) return type(redis.call('get', 'absent'))",
    "redis.call('set', KEYS[1], 'x') redis.call('del', KEYS[1]) return redis.call('exists', KEYS[1])",
    "redis.call('set', KEYS[1], 'x', 'px', 100000) return redis.call('pttl', KEYS[1]) > 90000",
    "return redis.call('ping')",
    "return redis.call('echo', 'x')",
    "return #redis.call('time')",
    "return redis.call('type', KEYS[1])",
    "return tonumber(redis.call('incr', KEYS[2])) + 1",
    # Errors.
    "return x",
    "x = 1",
    "string.x = 1",
    "foo(",
    "error('boom')",
    "error('boom', 0)",
    "error()",
    "error({err = 'MY error'})",
    "\n\nerror('on line 3')",
    "local a = nil; return a.b",
    "return 1 + {}",
    "return redis.call()",
    "return redis.call({})",
    "return redis.call('set', KEYS[1], true)",
    "return redis.call('nosuch')",
    "return redis.call('get')",
    "return redis.call('multi')",
    "return redis.call('eval', 'return 1', 0)",
    "return redis.call('auth', 'x')",
    "return redis.pcall('nosuch')",
    "return redis.pcall('get')",
    "redis.call('set', KEYS[1], 'x') return redis.call('incr', KEYS[1])",
    "redis.call('set', KEYS[1], 'x') return redis.pcall('incr', KEYS[1])",
    "redis.call('set', KEYS[1], 'x') local r = redis.pcall('incr', KEYS[1]) return r.err",
    "redis.call('set', KEYS[1], 'x') local ok, e = pcall(redis.call, 'incr', KEYS[1]) return {type(e), e.err}",
    "redis.call('set', KEYS[1], 'kept') error('after')",
    "return redis.call('hget', KEYS[1], 'f')",
    "redis.call('set', KEYS[1], 'x') return {pcall(redis.call, 'hget', KEYS[1], 'f')}",
    "redis.call('set', KEYS[1], 'x') local e = redis.pcall('hget', KEYS[1], 'f') return {type(e), e.err, e.source}",
    "local e = redis.pcall('nosuch') error(e)",
    "return {pcall(error, {err = 'A b'})}",
    "return {pcall(error, {1, 2})}",
    "return redis.sha1hex()",
    "return redis.log(1)",
    "return redis.log(9, 'x')",
    "redis.setresp(4)",
    "return {pcall(error, 'x')}",
    "return {xpcall(function() error('x', 0) end, function(e) return 'seen ' .. e end)}",
    # Libraries.
    "return redis.sha1hex('')",
    "return {redis.REDIS_VERSION_NUM > 0, redis.LOG_WARNING}",
    "return {math.random() < 1, math.random(1), math.random(5, 5)}",
    "math.randomseed(7) return {math.random(1000), math.random(1000)}",
    "return {math.floor(2.5), math.max(1, 3), math.huge > 1}",
    "return {string.format('%5.2f|%d|%s|%q', 1.234, 7, 'x', 'a b'), ('x'):rep(3), ('aXb'):lower()}",
    "return {string.find('a=b', '='), string.match('key:12', '^(.-):(%d+)$'), string.gsub('a b c', ' ', '_')}",
    "local t = {3, 1, 2} table.sort(t) return t",
    "local t = {3, 1, 2} table.sort(t, function(a, b) return a > b end) return table.concat(t, ',')",
    "local t = {} table.insert(t, 'a') table.insert(t, 1, 'b') return {table.remove(t), #t, table.getn(t)}",
    "return {tostring(1), tostring(1.5), tostring(nil), tostring(1e20), tonumber('0x10'), tonumber('z', 36)}",
    "return {unpack({1, 2, 3}, 2)}",
    "return {select('#', 1, nil, 3), select(2, 'a', 'b')}",
    "return loadstring('return 7')()",
    "return cjson.encode({1, 'a', true, {x = 1.5}})",
    "return cjson.encode({})",
    "return cjson.encode('a/\"\\n')",
    "return cjson.decode('[1,2.5,\"x\",null,true]')[2]",
    'return cjson.decode(\'{"a":{"b":[1,2]}}\').a.b',
    "return {cjson.decode('[null]')[1] == cjson.null, cjson.encode(cjson.null)}",
    "return {bit.band(0xff, 15), bit.bor(1, 2, 4), bit.bxor(5, 1), bit.bnot(0), bit.lshift(1, 31)}",
    "return {bit.rshift(-1, 28), bit.arshift(-256, 4), bit.rol(0x12345678, 12), bit.ror(0x12345678, 12)}",
    "return {bit.tohex(255), bit.tohex(255, 4), bit.tohex(-1, -8), bit.tobit(0xffffffff), bit.bswap(0x12345678)}",
    "#!lua\nreturn 1",
    "#!lua flags=no-writes\nreturn redis.call('set', KEYS[1], 'x')",
    "#!lua flags=nosuch\nreturn 1",
    "#!lua",
    "#!ruby\nputs 1",
    "#!lua name=x\nreturn 1",
]
KEYS, ARGUMENTS = [b"a", b"b"], [b"x", b"\x00\r\n", b"3"]


class Ours:
    """A keyspace whose leader evaluates and applies at once."""

    def __init__(self) -> None:
        self.keyspace = Keyspace()
        self.engine = LuaEngine()

    def run(self, body: bytes, protocol: Protocol) -> bytes:
        call = ScriptCall(b"a", b"", body, KEYS, ARGUMENTS)
        before = self.keyspace.digest()
        with evaluating(self.keyspace, self.engine, NOW_MS) as evaluation:
            (logged,) = evaluation.batch([call.command()])
        assert self.keyspace.digest() == before, "evaluating leaves no trace"
        return encode_reply(self.keyspace.execute(logged, NOW_MS), protocol)

    def data(self) -> dict[bytes, Reply]:
        keys = [key for values in self.keyspace.slots.values() for key in values]
        return {key: self.keyspace.execute([b"TYPE", key], NOW_MS) for key in keys}


class Theirs:
    """One connection to the real server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def raw(self, *args: bytes) -> bytes:
        """The bytes of the reply."""
        parts = [b"*%d\r\n" % len(args), *(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in args)]
        self.socket.sendall(b"".join(parts))
        reader = hiredis.Reader()
        data = b""
        while True:
            received = self.socket.recv(65_536)
            data += received
            reader.feed(received)
            if reader.gets() is not False:
                return data


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theirs]:
    server = RedisServer(Path(tmp_path_factory.mktemp("redis")))
    server.start()
    connection = Theirs(server.port)
    yield connection
    connection.socket.close()
    server.kill()


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_a_script_answers_what_redis_answers(theirs: Theirs, script: str, protocol: Protocol) -> None:
    body = script.encode()
    theirs.raw(b"HELLO", b"%d" % protocol)
    theirs.raw(b"FLUSHALL")
    ours = Ours()
    expected = theirs.raw(b"EVAL", body, b"%d" % len(KEYS), *KEYS, *ARGUMENTS)
    assert ours.run(body, protocol) == expected, script
    for key in KEYS:
        left = theirs.raw(b"TYPE", key)
        assert encode_reply(ours.keyspace.execute([b"TYPE", key], NOW_MS), 2) == left
