"""What COMMAND tells beyond the table of commands: groups, categories, tips and keys that stand elsewhere.

All of it is Redis 7.0's, word for word; an integration test compares it with a real one. Clients of Redis Cluster read
the tips to know which nodes to ask, and how to make one answer of theirs.
"""

from noctule.core.keyspace.spec import CommandSpec, Scope

_GROUPS: dict[str, str] = {
    "bitmap": "BITCOUNT BITFIELD BITFIELD_RO BITOP BITPOS GETBIT SETBIT",
    "cluster": "ASKING CLUSTER READONLY READWRITE",
    "connection": "AUTH CLIENT ECHO HELLO PING QUIT RESET SELECT",
    "generic": "COPY DEL DUMP EXISTS EXPIRE EXPIREAT EXPIRETIME KEYS MOVE OBJECT PERSIST PEXPIRE PEXPIREAT PEXPIRETIME "
    "PTTL RANDOMKEY RENAME RENAMENX RESTORE SCAN SORT SORT_RO TOUCH TTL TYPE UNLINK WAIT",
    "hash": "HDEL HEXISTS HGET HGETALL HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET HMSET HRANDFIELD HSCAN HSET HSETNX "
    "HSTRLEN HVALS",
    "hyperloglog": "PFADD PFCOUNT PFMERGE",
    "list": "BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH LINDEX LINSERT LLEN LMOVE LMPOP LPOP LPOS LPUSH LPUSHX LRANGE LREM "
    "LSET LTRIM RPOP RPOPLPUSH RPUSH RPUSHX",
    "pubsub": "PSUBSCRIBE PUBLISH PUBSUB PUNSUBSCRIBE SPUBLISH SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE",
    "scripting": "EVAL EVALSHA EVALSHA_RO EVAL_RO FCALL FCALL_RO FUNCTION SCRIPT",
    "server": "COMMAND CONFIG DBSIZE DEBUG FLUSHALL FLUSHDB INFO LATENCY MEMORY ROLE SLOWLOG SWAPDB TIME",
    "set": "SADD SCARD SDIFF SDIFFSTORE SINTER SINTERCARD SINTERSTORE SISMEMBER SMEMBERS SMISMEMBER SMOVE SPOP "
    "SRANDMEMBER SREM SSCAN SUNION SUNIONSTORE",
    "sorted-set": "BZMPOP BZPOPMAX BZPOPMIN ZADD ZCARD ZCOUNT ZDIFF ZDIFFSTORE ZINCRBY ZINTER ZINTERCARD ZINTERSTORE "
    "ZLEXCOUNT ZMPOP ZMSCORE ZPOPMAX ZPOPMIN ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANGESTORE ZRANK ZREM "
    "ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE "
    "ZUNION ZUNIONSTORE",
    "stream": "XACK XADD XAUTOCLAIM XCLAIM XDEL XGROUP XINFO XLEN XPENDING XRANGE XREAD XREADGROUP XREVRANGE XSETID "
    "XTRIM",
    "string": "APPEND DECR DECRBY GET GETDEL GETEX GETRANGE GETSET INCR INCRBY INCRBYFLOAT LCS MGET MSET MSETNX PSETEX "
    "SET SETEX SETNX SETRANGE STRLEN SUBSTR",
    "transactions": "DISCARD EXEC MULTI UNWATCH WATCH",
}
_GROUP_OF = {name.encode(): group.encode() for group, names in _GROUPS.items() for name in names.split()}

_CATEGORY_OF = {
    b"generic": b"@keyspace",
    b"sorted-set": b"@sortedset",
    b"transactions": b"@transaction",
    b"cluster": b"@connection",
    **{each: b"@" + each for each in (b"bitmap", b"connection", b"hash", b"hyperloglog", b"list", b"pubsub")},
    **{each: b"@" + each for each in (b"scripting", b"set", b"stream", b"string")},
}
_OTHER_CATEGORIES: dict[bytes, tuple[bytes, ...]] = {
    b"COMMAND": (b"@connection",),
    b"DBSIZE": (b"@keyspace", b"@read"),
    b"DEBUG": (b"@admin", b"@dangerous"),
    b"FLUSHALL": (b"@dangerous", b"@keyspace", b"@write"),
    b"FLUSHDB": (b"@dangerous", b"@keyspace", b"@write"),
    b"INFO": (b"@dangerous",),
    b"KEYS": (b"@dangerous", b"@keyspace", b"@read"),
    b"RESTORE": (b"@dangerous", b"@keyspace", b"@write"),
    b"ROLE": (b"@admin", b"@dangerous"),
    b"MOVE": (b"@keyspace", b"@write"),
    b"SORT": (b"@dangerous", b"@list", b"@set", b"@sortedset", b"@write"),
    b"SORT_RO": (b"@dangerous", b"@list", b"@read", b"@set", b"@sortedset"),
    b"SWAPDB": (b"@dangerous", b"@keyspace", b"@write"),
    b"WAIT": (b"@connection",),
}
_FLAGS_BY_COMMAND = {
    "": "CLIENT CLUSTER CONFIG FUNCTION LATENCY MEMORY OBJECT SCRIPT SLOWLOG XGROUP XINFO",
    "admin loading noscript stale": "DEBUG",
    "allow_busy fast loading no_auth noscript stale": "AUTH HELLO QUIT RESET",
    "allow_busy fast loading noscript stale": "DISCARD MULTI UNWATCH WATCH",
    "fast": "ASKING PING",
    "fast loading noscript stale": "ROLE",
    "fast loading stale": "ECHO READONLY READWRITE SELECT TIME",
    "loading noscript skip_slowlog stale": "EXEC",
    "loading stale": "COMMAND INFO",
    "no_mandatory_keys noscript readonly skip_monitor stale": "EVALSHA_RO EVAL_RO",
    "no_mandatory_keys noscript skip_monitor stale": "EVAL EVALSHA",
    "noscript": "WAIT",
}
_FLAGS = {
    name.encode(): tuple(flag.encode() for flag in flags.split())
    for flags, names in _FLAGS_BY_COMMAND.items()
    for name in names.split()
}
"""Of commands whose rows have other flags: those about the connection one set for all, and those with subcommands the
flags of all of these."""
_MOVABLE = b"movablekeys"
"""Commands with this flag are those for whose keys clients ask COMMAND GETKEYS."""

_CONTAINERS = frozenset(
    b"CLIENT CLUSTER CONFIG FUNCTION LATENCY MEMORY OBJECT PUBSUB SCRIPT SLOWLOG XGROUP XINFO".split()
)
"""Redis gives these no category of their own, for their subcommands have them."""

_ANY_ORDER = b"nondeterministic_output_order"
_ANY_OUTPUT = b"nondeterministic_output"


def _ask(request: str, response: str = "", *others: bytes) -> tuple[bytes, ...]:
    tips = [b"request_policy:" + request.encode()]
    if response:
        tips.append(b"response_policy:" + response.encode())
    return (*tips, *others)


_TIPS: dict[bytes, tuple[bytes, ...]] = {
    b"CLIENT|INFO": (_ANY_OUTPUT,),
    b"CLIENT|LIST": (_ANY_OUTPUT,),
    b"CLUSTER|BUMPEPOCH": (_ANY_OUTPUT,),
    b"CLUSTER|COUNT-FAILURE-REPORTS": (_ANY_OUTPUT,),
    b"CLUSTER|GETKEYSINSLOT": (_ANY_OUTPUT,),
    b"CLUSTER|INFO": (_ANY_OUTPUT,),
    b"CLUSTER|LINKS": (_ANY_OUTPUT,),
    b"CLUSTER|NODES": (_ANY_OUTPUT,),
    b"CLUSTER|REPLICAS": (_ANY_OUTPUT,),
    b"CLUSTER|SHARDS": (_ANY_OUTPUT,),
    b"CLUSTER|SLAVES": (_ANY_OUTPUT,),
    b"CLUSTER|SLOTS": (_ANY_OUTPUT,),
    b"COMMAND": (_ANY_ORDER,),
    b"COMMAND|DOCS": (_ANY_ORDER,),
    b"COMMAND|INFO": (_ANY_ORDER,),
    b"COMMAND|LIST": (_ANY_ORDER,),
    b"CONFIG|SET": _ask("all_nodes", "all_succeeded"),
    b"DBSIZE": _ask("all_shards", "agg_sum"),
    b"DEL": _ask("multi_shard", "agg_sum"),
    b"DUMP": (_ANY_OUTPUT,),
    b"EXISTS": _ask("multi_shard", "agg_sum"),
    b"FLUSHALL": _ask("all_shards", "all_succeeded"),
    b"FLUSHDB": _ask("all_shards", "all_succeeded"),
    b"HGETALL": (_ANY_ORDER,),
    b"HKEYS": (_ANY_ORDER,),
    b"HRANDFIELD": (_ANY_OUTPUT,),
    b"HSCAN": (_ANY_OUTPUT,),
    b"HVALS": (_ANY_ORDER,),
    b"INFO": (_ANY_OUTPUT, *_ask("all_shards", "special")),
    b"KEYS": _ask("all_shards", "", _ANY_ORDER),
    b"LATENCY|DOCTOR": (_ANY_OUTPUT, *_ask("all_nodes", "special")),
    b"LATENCY|HISTOGRAM": (_ANY_OUTPUT, *_ask("all_nodes", "special")),
    b"LATENCY|LATEST": (_ANY_OUTPUT, *_ask("all_nodes", "special")),
    b"LATENCY|HISTORY": (_ANY_OUTPUT, *_ask("all_nodes", "special")),
    b"LATENCY|RESET": _ask("all_nodes", "all_succeeded"),
    b"MGET": _ask("multi_shard"),
    b"MSET": _ask("multi_shard", "all_succeeded"),
    b"MSETNX": _ask("multi_shard", "agg_min"),
    **dict.fromkeys((b"OBJECT|ENCODING", b"OBJECT|FREQ", b"OBJECT|IDLETIME", b"OBJECT|REFCOUNT"), (_ANY_OUTPUT,)),
    b"PING": _ask("all_shards", "all_succeeded"),
    b"PTTL": (_ANY_OUTPUT,),
    b"RANDOMKEY": _ask("all_shards", "", _ANY_OUTPUT),
    b"SCAN": (_ANY_OUTPUT, *_ask("special")),
    b"SCRIPT|EXISTS": _ask("all_shards", "agg_logical_and"),
    b"SCRIPT|FLUSH": _ask("all_nodes", "all_succeeded"),
    b"SCRIPT|KILL": _ask("all_shards", "one_succeeded"),
    b"SCRIPT|LOAD": _ask("all_nodes", "all_succeeded"),
    b"SDIFF": (_ANY_ORDER,),
    b"SINTER": (_ANY_ORDER,),
    b"SLOWLOG|GET": _ask("all_nodes", "", _ANY_OUTPUT),
    b"SLOWLOG|LEN": _ask("all_nodes", "agg_sum", _ANY_OUTPUT),
    b"SLOWLOG|RESET": _ask("all_nodes", "all_succeeded"),
    b"SMEMBERS": (_ANY_ORDER,),
    b"SPOP": (_ANY_OUTPUT,),
    b"SRANDMEMBER": (_ANY_OUTPUT,),
    b"SSCAN": (_ANY_OUTPUT,),
    b"SUNION": (_ANY_ORDER,),
    b"TIME": (_ANY_OUTPUT,),
    b"TOUCH": _ask("multi_shard", "agg_sum"),
    b"TTL": (_ANY_OUTPUT,),
    b"UNLINK": _ask("multi_shard", "agg_sum"),
    b"WAIT": _ask("all_shards", "agg_min"),
    b"XADD": (_ANY_OUTPUT,),
    b"XAUTOCLAIM": (_ANY_OUTPUT,),
    b"XCLAIM": (_ANY_OUTPUT,),
    b"XINFO|CONSUMERS": (_ANY_OUTPUT,),
    b"XPENDING": (_ANY_OUTPUT,),
    b"XTRIM": (_ANY_OUTPUT,),
    b"ZRANDMEMBER": (_ANY_OUTPUT,),
    b"ZSCAN": (_ANY_OUTPUT,),
}

COUNTED_AT: dict[bytes, int] = {
    **dict.fromkeys(b"LMPOP SINTERCARD ZDIFF ZINTER ZINTERCARD ZMPOP ZUNION".split(), 1),
    **dict.fromkeys(b"BLMPOP BZMPOP EVAL EVALSHA EVALSHA_RO EVAL_RO FCALL FCALL_RO".split(), 2),
    **dict.fromkeys(b"ZDIFFSTORE ZINTERSTORE ZUNIONSTORE".split(), 2),
}
"""The position of the argument that says how many keys follow."""
STREAMS_FROM = {b"XREAD": 1, b"XREADGROUP": 4}
"""From which position on the word STREAMS is looked for, behind which the first half are keys."""


def flags_of(spec: CommandSpec) -> tuple[bytes, ...]:
    """As COMMAND shows them."""
    flags = _FLAGS.get(spec.name, spec.flags)
    is_movable = spec.find_keys is not None and spec.name not in _CONTAINERS
    return (*flags, _MOVABLE) if is_movable and _MOVABLE not in flags else flags


def group_of(spec: CommandSpec) -> bytes:
    """The group as COMMAND DOCS has it; ``noctule`` of what Redis does not know."""
    return _GROUP_OF.get(spec.name.partition(b"|")[0], b"noctule")


def categories_of(spec: CommandSpec) -> list[bytes]:
    """As ACL would name them."""
    flags = flags_of(spec)
    speed = b"@fast" if b"fast" in flags else b"@slow"
    if spec.name in _OTHER_CATEGORIES:
        return [*_OTHER_CATEGORIES[spec.name], speed]
    kinds = [] if spec.name in _CONTAINERS else [_CATEGORY_OF.get(group_of(spec), b"")]
    if spec.scope is not Scope.CONNECTION and spec.name not in _CONTAINERS and b"@scripting" not in kinds:
        kinds.append(b"@write" if spec.is_write else b"@read")
    if b"blocking" in flags:
        kinds.append(b"@blocking")
    return [kind for kind in [*kinds, speed] if kind]


def tips_of(name: bytes) -> tuple[bytes, ...]:
    """Of a command, or of a subcommand as ``SCRIPT|LOAD``."""
    return _TIPS.get(name, ())
