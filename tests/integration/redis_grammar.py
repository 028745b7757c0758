"""What the commands of Redis 7.0 look like, as Hypothesis strategies: one line of usage for each command.

In a usage, words that are kinds (KINDS) stand for what is of that kind, others for themselves, in any case. ``(…)+`` is
given some times, ``n:(…)`` too, behind how often; ``{… | …}`` are options: some of them, in any order, also those that
exclude each other. One command in ten is then damaged: an argument is lost, doubled, swapped or replaced by junk.

Where scores differ, Redis leaves open what a range of members is; so the key lex is given the score 0 only.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from hypothesis import strategies as st

Args = list[bytes]

INTEGERS = [b"0", b"1", b"-1", b"7", b"-12", b"100", b"9223372036854775807", b"-9223372036854775808"]
NOT_INTEGERS = [b"", b"x", b"1.5", b"+1", b"01", b" 1", b"-0", b"1_0", b"9223372036854775808", b"1e3", b"1\x00"]
FLOATS = [b"0.1", b"3.0e3", b"-2.5", b"1e-7", b"10.50", b"123456789.123456789", b".5", b"5.", b"-0.0", b"1e17", b"+2"]
NOT_FLOATS = [b"", b"abc", b"1 ", b" 1", b"nan", b"1e", b"--1", b"1e99999", b"1e-99999", b"inf", b"-Infinity", b"0x10"]
JUNK = [b"", b"bogus", b"-1", b"\xff\x00\r\n", b"NX", b"EX", b"0", b"99999999999999999999", b"*", b"9" * 400]
# In the year 2100: the same in every run, so that two commands may mean the same moment.
MOMENTS = [b"4102444800", b"4102448400"]
NOT_MOMENTS = [b"1", b"-1", b"0", b"x", b"9223372036854775807", b"9223372036854775"]
# Far from each other and from the boundaries of rounding, so that a slow machine cannot change what wins.
PERIODS = [b"100", b"1000", b"50000"]
NOT_PERIODS = [b"0", b"-5", b"9223372036854775807", b"-9223372036854775808", b"x", b"9223372036854775", b"1.5", b""]
SCRIPTS = [
    b"return 1",
    b"return {1, 'two', {3, 4.7}, false, true, 'never seen'}",
    b"return {KEYS[1], KEYS[2], ARGV[1], ARGV[2]}",
    b"return redis.call('SET', KEYS[1], ARGV[1])",
    b"return redis.call('GET', KEYS[1])",
    b"return redis.pcall('INCR', KEYS[1])",
    b"return redis.call('INCR', KEYS[1])",
    b"return redis.error_reply('MINE of my own')",
    b"return redis.status_reply('FINE')",
    b"return {err = 'ERR table'}",
    b"return {ok = 'table'}",
    b"return redis.sha1hex(ARGV[1] or '')",
    b"return tostring(redis.call('GET', KEYS[1]))",
    b"return #redis.call('HGETALL', KEYS[1])",
    b"local a = redis.call('INCRBY', KEYS[1], 2) redis.call('PEXPIRE', KEYS[1], 1000000) return a",
    b"return redis.call('NOSUCH')",
    b"return redis.call('SET', KEYS[1])",
    b"return redis.call()",
    b"return nil",
    b"return",
    b"return 1e3",
    b"return unpack({1, 2})",
    b"this is not Lua",
]


def _among(*groups: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the first group in three of four draws."""
    usual, *others = groups
    rest = [each for group in others for each in group]
    return st.integers(0, 3).flatmap(lambda dice: st.sampled_from(rest if rest and dice == 3 else usual))


# Few, so that commands meet what others left.
_key = _among([b"a", b"b"], [b"c", b"{tag}1", b"\xff\x00", b""])
_value = _among([b"hello", b"5", b"1.5", b"v"], [*INTEGERS, *FLOATS, *NOT_FLOATS[:-1], b"\x00\xff\r\n", b"x" * 300])

KINDS: dict[str, st.SearchStrategy[bytes]] = {
    "key": _key,
    "value": _value,
    "field": st.sampled_from([b"f", b"g", b"h", b"", b"\r\n", b"5"]),
    "member": st.sampled_from([b"m", b"n", b"o", b"", b"\xff", b"5", b"-7", b"1.5", b"long" * 30]),
    "element": st.sampled_from([b"e", b"f", b"", b"5", b"\r\n", b"x" * 100]),
    "int": _among(INTEGERS, NOT_INTEGERS),
    "float": _among(FLOATS, INTEGERS, NOT_FLOATS),
    "score": _among(
        [b"1", b"2", b"0.5", b"-3", b"1e3", b"inf", b"-inf"], [b"+inf", b"1e400", b"1.0", b"0.1", *NOT_FLOATS]
    ),
    "bound": _among([b"1", b"2", b"(1", b"-inf", b"+inf"], [b"(2.5", b"-3", b"inf", b"(", b"x", b"nan", b"(-inf", b""]),
    "lexbound": _among([b"-", b"+", b"[m", b"(m", b"[n"], [b"(", b"[", b"m", b"", b"+x", b"--"]),
    "index": _among([b"0", b"1", b"2", b"-1", b"-2"], [b"5", b"-3", b"-400", b"x", b"", b"9223372036854775807"]),
    "offset": _among([b"0", b"1", b"2", b"5", b"40"], [b"-1", b"-3", b"-400", b"x", b""]),
    "count": _among([b"1", b"2", b"5", b"0"], [b"-1", b"-3", b"100", b"x", b"", b"1.5"]),
    "seconds": _among(PERIODS, NOT_PERIODS),
    "milliseconds": _among([b"100000", b"1000000", b"50000000"], NOT_PERIODS),
    "unixseconds": _among(MOMENTS, NOT_MOMENTS),
    "unixmilliseconds": _among([moment + b"000" for moment in MOMENTS], NOT_MOMENTS),
    "pattern": st.sampled_from(
        [b"*", b"a*", b"?", b"[a-c]", b"[^a]", b"{tag}?", b"{tag}*", b"\\a", b"[b", b"[c-a]", b"*[0-9]", b"", b"**"]
    ),
    "type": st.sampled_from([b"string", b"hash", b"list", b"set", b"zset", b"stream", b"bogus"]),
    "side": _among([b"LEFT", b"RIGHT"], [b"left", b"up", b""]),
    "where": _among([b"BEFORE", b"AFTER"], [b"after", b"over"]),
    "bit": _among([b"0", b"1"], [b"2", b"-1", b"x", b""]),
    "bits": _among([b"u8", b"i16", b"u4", b"i64"], [b"u64", b"u63", b"i65", b"u0", b"x", b""]),
    "bitoffset": _among([b"0", b"1", b"7", b"8", b"#1", b"#2"], [b"100", b"-1", b"x", b"#", b"#-1", b"4294967296"]),
    "id": _among([b"1-1", b"2-1", b"3", b"2-5", b"7-0"], [b"0-0", b"0", b"x", b"1-", b"-1", b"18446744073709551616"]),
    "nextid": _among([b"1-1", b"2-1", b"3", b"4-*", b"5-2"], [b"0-0", b"x", b"5-", b"18446744073709551615-1"]),
    "from": _among([b"-", b"1", b"2-1", b"(1-1"], [b"+", b"(", b"x", b"(-"]),
    "to": _among([b"+", b"3", b"2-1", b"(7-0"], [b"-", b"(", b"x", b"(+"]),
    "group": st.sampled_from([b"g1", b"g2", b""]),
    "consumer": st.sampled_from([b"c1", b"c2", b""]),
    "script": st.sampled_from(SCRIPTS),
    "sha": st.sampled_from(
        [b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db", b"E0E1F9FABFC9D4800C877A703B823AC0578FF8DB", b"f" * 40, b"x"]
    ),
    "bitop": _among([b"AND", b"OR", b"XOR", b"NOT"], [b"nand", b""]),
}
"""Kind to what such an argument may be, right and wrong."""

FAMILIES: dict[str, str] = {
    "connection": """
        PING {value}
        ECHO value
        AUTH value {value}
        CLIENT SETNAME value
        CLIENT GETNAME
        CLIENT NO-EVICT bogus
        CLIENT LIST TYPE type
        CLIENT bogus {value}
        COMMAND GETKEYS SET key value
        COMMAND GETKEYS MSET (key value)+
        COMMAND GETKEYS value (value)+
        COMMAND bogus bogus
        CONFIG GET bogus
        CONFIG bogus {value}
        HELLO bogus value
        WAIT 0 bogus
        RESET
    """,
    "strings": """
        GET key
        SET key value {NX | XX | GET | KEEPTTL | EX seconds | PX milliseconds | PXAT unixmilliseconds}
        SET key value {EXAT unixseconds | XX | PXAT unixmilliseconds}
        SET key value KEEPTTL
        SET key value PXAT unixmilliseconds
        SETNX key value
        SETEX key seconds value
        PSETEX key milliseconds value
        GETSET key value
        GETDEL key
        GETEX key PERSIST
        GETEX key {PERSIST | EX seconds | PX milliseconds | EXAT unixseconds | PXAT unixmilliseconds}
        APPEND key value
        STRLEN key
        GETRANGE key offset offset
        SUBSTR key offset offset
        SETRANGE key offset value
        INCR key
        DECR key
        INCRBY key int
        DECRBY key int
        INCRBYFLOAT key float
        MGET (key)+
        MSET (key value)+
        MSETNX (key value)+
        LCS key key {LEN | IDX | WITHMATCHLEN | MINMATCHLEN int}
    """,
    "hashes": """
        HSET key (field value)+
        HMSET key (field value)+
        HSETNX key field value
        HGET key field
        HMGET key (field)+
        HDEL key (field)+
        HGETALL key
        HKEYS key
        HVALS key
        HLEN key
        HEXISTS key field
        HSTRLEN key field
        HINCRBY key field int
        HINCRBYFLOAT key field float
        HRANDFIELD key {count | WITHVALUES}
        HSCAN key 0 COUNT 100 {MATCH pattern}
    """,
    "keys": """
        DEL (key)+
        UNLINK (key)+
        EXISTS (key)+
        TOUCH (key)+
        TYPE key
        EXPIRE key seconds {NX | XX | GT | LT | bogus}
        PEXPIRE key milliseconds {NX | XX | GT | LT}
        EXPIREAT key unixseconds {NX | XX | GT | LT}
        EXPIREAT key unixseconds LT
        EXPIREAT key unixseconds GT
        PEXPIREAT key unixmilliseconds {NX | XX | GT | LT}
        TTL key
        PTTL key
        EXPIRETIME key
        PEXPIRETIME key
        PERSIST key
        RENAME key key
        RENAMENX key key
        COPY key key {REPLACE | DB 0}
        KEYS pattern
        SCAN 0 COUNT 100 {MATCH pattern | TYPE type}
        DBSIZE
        RANDOMKEY
        FLUSHALL {ASYNC | SYNC}
        FLUSHDB {ASYNC | SYNC}
        SORT key {LIMIT offset count | GET # | ASC | DESC | ALPHA | STORE key}
        SORT_RO key {LIMIT offset count | GET # | ASC | DESC | ALPHA}
    """,
    "lists": """
        LPUSH key (element)+
        RPUSH key (element)+
        LPUSHX key (element)+
        RPUSHX key (element)+
        LPOP key {count}
        RPOP key {count}
        LLEN key
        LRANGE key index index
        LINDEX key index
        LSET key index element
        LINSERT key where element element
        LREM key count element
        LTRIM key index index
        LPOS key element {RANK count | COUNT count | MAXLEN count}
        LMOVE key key side side
        RPOPLPUSH key key
        LMPOP n:(key) side {COUNT count}
    """,
    "sets": """
        SADD key (member)+
        SREM key (member)+
        SISMEMBER key member
        SMISMEMBER key (member)+
        SMEMBERS key
        SCARD key
        SMOVE key key member
        SPOP key {count}
        SRANDMEMBER key {count}
        SUNION (key)+
        SINTER (key)+
        SDIFF (key)+
        SUNIONSTORE key (key)+
        SINTERSTORE key (key)+
        SDIFFSTORE key (key)+
        SINTERCARD n:(key) {LIMIT count}
        SSCAN key 0 COUNT 100 {MATCH pattern}
    """,
    "sorted sets": """
        ZADD key (score member)+
        ZADD key {NX | XX | GT | LT | CH | INCR} score member
        ZADD lex 0 member 0 member
        ZINCRBY key score member
        ZREM key (member)+
        ZSCORE key member
        ZMSCORE key (member)+
        ZCARD key
        ZCOUNT key bound bound
        ZLEXCOUNT lex lexbound lexbound
        ZRANK key member
        ZREVRANK key member
        ZRANGE key index index {REV | WITHSCORES | BYSCORE | LIMIT offset count}
        ZRANGE key bound bound BYSCORE {REV | WITHSCORES | LIMIT offset count}
        ZRANGE lex lexbound lexbound BYLEX {REV | WITHSCORES | LIMIT offset count}
        ZRANGESTORE key key bound bound {REV | BYSCORE | LIMIT offset count}
        ZREVRANGE key index index {WITHSCORES}
        ZRANGEBYSCORE key bound bound {WITHSCORES | LIMIT offset count}
        ZREVRANGEBYSCORE key bound bound {WITHSCORES | LIMIT offset count}
        ZRANGEBYLEX lex lexbound lexbound {LIMIT offset count}
        ZREVRANGEBYLEX lex lexbound lexbound {LIMIT offset count}
        ZREMRANGEBYRANK key index index
        ZREMRANGEBYSCORE key bound bound
        ZREMRANGEBYLEX lex lexbound lexbound
        ZPOPMIN key {count}
        ZPOPMAX key {count}
        ZMPOP n:(key) MIN {COUNT count}
        ZRANDMEMBER key {count | WITHSCORES}
        ZUNION n:(key) {WITHSCORES | WEIGHTS float float | AGGREGATE SUM | AGGREGATE MAX}
        ZINTER n:(key) {WITHSCORES | WEIGHTS float float | AGGREGATE MIN}
        ZDIFF n:(key) {WITHSCORES}
        ZUNIONSTORE key n:(key) {WEIGHTS float float | AGGREGATE SUM | AGGREGATE bogus}
        ZINTERSTORE key n:(key) {WEIGHTS float float | AGGREGATE MAX}
        ZDIFFSTORE key n:(key)
        ZINTERCARD n:(key) {LIMIT count}
        ZSCAN key 0 COUNT 100 {MATCH pattern}
    """,
    "streams": """
        XADD key {NOMKSTREAM | MAXLEN count | MAXLEN = count | MINID id} nextid (field value)+
        XLEN key
        XRANGE key from to {COUNT count}
        XREVRANGE key to from {COUNT count}
        XDEL key (id)+
        XTRIM key MAXLEN {=} count
        XTRIM key MINID id
        XREAD {COUNT count} STREAMS key id
        XREAD STREAMS key key id id
        XGROUP CREATE key group id {MKSTREAM}
        XGROUP SETID key group id
        XGROUP DESTROY key group
        XGROUP CREATECONSUMER key group consumer
        XGROUP DELCONSUMER key group consumer
        XREADGROUP GROUP group consumer {COUNT count | NOACK} STREAMS key >
        XREADGROUP GROUP group consumer {COUNT count} STREAMS key id
        XACK key group (id)+
        XPENDING key group
        XPENDING key group from to count {consumer}
        XCLAIM key group consumer 0 (id)+ {JUSTID | FORCE | RETRYCOUNT count}
        XAUTOCLAIM key group consumer 0 id {COUNT count | JUSTID}
        XSETID key nextid
    """,
    "bits": """
        SETBIT key bitoffset bit
        SET key value
        GETBIT key bitoffset
        BITCOUNT key {offset offset | BYTE | BIT}
        BITPOS key bit {offset | offset | BIT}
        BITOP bitop key (key)+
        BITFIELD key {GET bits bitoffset | SET bits bitoffset int | OVERFLOW SAT | OVERFLOW FAIL}
        BITFIELD key {INCRBY bits bitoffset int | OVERFLOW SAT | OVERFLOW WRAP | OVERFLOW FAIL}
        BITFIELD_RO key {GET bits bitoffset | SET bits bitoffset int}
        PFADD key (element)+
        PFCOUNT (key)+
        PFMERGE key (key)+
    """,
    "transactions": """
        MULTI
        EXEC
        DISCARD
        WATCH (key)+
        UNWATCH
        SET key value
        GET key
        INCR key
        HSET key (field value)+
        LPUSH key (element)+
        DEL (key)+
        NOSUCH key
    """,
    "scripts": """
        EVAL script n:(key) (value)+
        EVAL_RO script n:(key) (value)+
        EVALSHA sha n:(key) (value)+
        SCRIPT LOAD script
        SCRIPT EXISTS (sha)+
        SET key value
        HSET key (field value)+
    """,
}
"""Family to the usages of its commands; the first of them tells whether a server has the family."""

# So that each family also meets values of the others, and keys with deadlines.
STRANGERS = """
    SET key value
    HSET key field value
    LPUSH key element
    SADD key member
    ZADD key score member
    XADD key 1-1 field value
    PEXPIRE key milliseconds
    PEXPIRETIME key
    DEL key
"""

_TOKEN = re.compile(r"n:\(|\)\+|[(){}|]|[^\s(){}|]+")


def usages(family: str) -> list[str]:
    """The usages of a family, one for each line of it, with those that bring strangers."""
    return [line.strip() for line in (FAMILIES[family] + STRANGERS).splitlines() if line.strip()]


def command(usage: str) -> st.SearchStrategy[Args]:
    """Commands of this usage, and damaged ones."""
    sound = _sequence(iter(_TOKEN.findall(usage)), "")
    return st.integers(0, 9).flatmap(lambda dice: sound if dice < 9 else sound.flatmap(_damaged).filter(_is_timeless))


def _sequence(tokens: Iterator[str], end: str) -> st.SearchStrategy[Args]:
    parts: list[st.SearchStrategy[Args]] = []
    for token in tokens:
        if token == end or (end == ")" and token == ")+"):
            break
        parts.append(_part(token, tokens))
    return st.tuples(*parts).map(lambda found: [argument for part in found for argument in part])


def _part(token: str, tokens: Iterator[str]) -> st.SearchStrategy[Args]:
    if token in ("(", "n:("):
        times = st.lists(_sequence(tokens, ")"), min_size=1, max_size=3)
        counted = st.sampled_from([0] * 12 + [1, -1, 100]) if token == "n:(" else st.none()
        return st.tuples(counted, times).map(_repeated)
    if token == "{":
        return _options(tokens)
    if token in KINDS:
        return KINDS[token].map(lambda argument: [argument])
    word = token.encode()
    return st.sampled_from([[word]] * 4 + [[word.lower()]])


def _repeated(drawn: tuple[int | None, list[Args]]) -> Args:
    wrong_by, groups = drawn
    given = [argument for group in groups for argument in group]
    return given if wrong_by is None else [b"%d" % (len(groups) + wrong_by), *given]


def _options(tokens: Iterator[str]) -> st.SearchStrategy[Args]:
    options: list[st.SearchStrategy[Args]] = []
    words: list[str] = []
    for token in tokens:
        if token in "|}":
            options.append(_sequence(iter(words), ""))
            words = []
        else:
            words.append(token)
        if token == "}":
            break
    chosen = st.lists(st.one_of(options), max_size=3)
    return chosen.map(lambda found: [word for option in found for word in option])


def _is_timeless(args: Args) -> bool:
    """Whether both servers answer the same at moments some milliseconds apart: no id of now, no least time pending."""
    name = args[0].upper()
    if name == b"XADD":
        return b"*" not in args
    is_claim = name in (b"XCLAIM", b"XAUTOCLAIM") and len(args) > 4
    return not (is_claim and args[4].isdigit() and args[4] != b"0")


@st.composite
def _damaged(draw: Callable[[st.SearchStrategy[object]], object], sound: Args) -> Args:
    # The name becomes no other word of the usage: SYNC, out of FLUSHALL SYNC, would make a replica of the connection.
    args = [*sound, draw(st.sampled_from(JUNK))]
    place = draw(st.integers(1, len(args) - 1))
    other = draw(st.integers(1, len(args) - 1))
    match draw(st.integers(0, 5)):
        case 0:
            args[place:] = args[place + 1 : -1]
        case 1:
            args[place], args[-1] = args[-1], args[place]
        case 2:
            args[place], args[other] = args[other], args[place]
            args.pop()
        case 3:
            args[-1] = args[place]
        case 4:
            junk = args.pop()
            args[place:] = [junk, *args[place + 1 :]]
        case _:
            args[0] += b"Q"
    return args
