"""The door of every kit to the store: a redis-py client for one URL that may name several hosts.

    redis://127.0.0.1:7401,127.0.0.1:7402/0         Noctule, by any of its nodes; or one plain Redis
    redis+sentinel://10.0.0.1,10.0.0.2/mymaster/0   the master that Sentinels watch over (port 26379 unless given)
    redis+cluster://10.0.0.1:6379,10.0.0.2:6379     Redis Cluster, or Noctule's cluster ports


Nothing is retried behind the caller's back: redis-py by itself repeats commands whose answer was lost, which counts
an INCR twice. Whoever knows that an operation may be repeated says so with `retrying_idempotent`.
`store_hosts.py` tells how the hosts are tried.
"""

import asyncio
import os
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast
from urllib.parse import unquote

from redis.asyncio import BlockingConnectionPool, Redis, UnixDomainSocketConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import TimeoutError as StoreTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from noctule.base.errors import ConfigError, OutcomeUnknownError, RequestError, UnavailableError
from noctule.kits.store_cluster import ClusterStore
from noctule.kits.store_hosts import NOT_SERVING, Address, Hosts, ManyHostsConnection, ManyHostsTLSConnection
from noctule.kits.store_sentinel import SentinelConnection, SentinelRedis, SentinelTLSConnection, WatchedMaster

T = TypeVar("T")

STORE_URL_DEFAULT = "redis://127.0.0.1:6379/0"
"""Where a Redis of the distribution listens."""

CONNECT_TIMEOUT_S = 1.0
"""For one host: TCP and greeting. A dead process refuses at once; a dead machine costs this once."""

ANSWER_TIMEOUT_S = 5.0
"""For one command on an open connection."""

CONNECTIONS_MAX = 64
"""Open connections of one client; a command beyond them waits up to `ANSWER_TIMEOUT_S` for a free one."""

RETRY_BUDGET_S = 5.0
"""All attempts of one idempotent operation together. Replacing a leader takes about half a second."""

_SCHEMES = (
    ("redis", ""),
    ("rediss", ""),
    ("unix", ""),
    ("redis", "sentinel"),
    ("rediss", "sentinel"),
    ("redis", "cluster"),
    ("rediss", "cluster"),
)

RETRY_ATTEMPTS_MAX = 30
_RETRY_PAUSE_S_FIRST = 0.02
_RETRY_PAUSE_S_MAX = 0.5


def connect(
    url: str | None = None,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    answer_timeout_s: float = ANSWER_TIMEOUT_S,
    connections_max: int = CONNECTIONS_MAX,
    decode_responses: bool = False,
) -> Redis:
    """Give a client of the store at `url`; it opens connections when they are needed and never here.

    The URL is ``redis://[[user]:password@]host[:port][,host[:port]…][/database][?option=value]`` or
    ``unix:///path/to.sock``, or one of the forms at the top of this file; ``rediss`` in place of ``redis`` is TLS.
    Options are redis-py's and win over the arguments. None means the environment's
    NOCTULE_STORE_URL, then `STORE_URL_DEFAULT`. The hosts of one URL must serve the same data. With
    `decode_responses` answers are str, else bytes. A command is sent once and never repeated; redis-py's exceptions
    come through unchanged. The caller closes the client with ``await client.aclose()``.

    A client of a Redis Cluster is a `RedisCluster`, which has the same commands: keys of one command, script or
    transaction must share a hash tag, which those of all kits do.

    Raises `ConfigError` for a URL that cannot be used; passwords do not appear in it.
    """
    if url is None:
        url = os.environ.get("NOCTULE_STORE_URL") or STORE_URL_DEFAULT
    try:
        target = _parse(url)
        options: dict[str, Any] = {
            "socket_connect_timeout": connect_timeout_s,
            "socket_timeout": answer_timeout_s,
            "max_connections": connections_max,
            "decode_responses": decode_responses,
            "retry": Retry(NoBackoff(), 0),
            # Both would cost a round trip for each new connection; the first also keeps redis-py from noticing
            # that an idle connection was closed by the other side.
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
            "driver_info": None,
            **target.options,
        }
        if target.mode == "cluster":
            return _cluster(target, options)
        if target.mode == "sentinel":
            passwords = {name: options[name] for name in ("username", "password") if name in options}
            options["master"] = WatchedMaster(target.addresses, target.master, **passwords)
        elif target.addresses:
            options["hosts"] = Hosts(target.addresses)
        pool = BlockingConnectionPool(timeout=answer_timeout_s, **options)
        # The options of a URL are checked by the connection's constructor, which opens nothing: better here than
        # at the first command.
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError) as error:
        raise ConfigError(f"store URL {_without_password(url)!r} cannot be used: {error}") from None
    return (SentinelRedis if target.mode == "sentinel" else Redis).from_pool(pool)


def _cluster(target: "_Target", options: dict[str, Any]) -> Redis:
    if options.pop("db", 0):
        raise ValueError("a Redis Cluster has database 0 only")
    nodes = [ClusterNode(host, port) for host, port in target.addresses]
    # A command whose answer was lost is not sent again behind the caller's back, redirections are followed.
    cluster = ClusterStore(startup_nodes=nodes, require_full_coverage=False, **options)
    # The two clients share their commands, but no class that says so.
    return cast("Redis", cluster)


def is_transient(error: RedisError) -> bool:
    """Whether the same operation may succeed shortly: the store is away, starting, or choosing a leader."""
    if isinstance(error, AuthenticationError | AuthorizationError):
        return False
    if isinstance(error, (StoreConnectionError, StoreTimeoutError, TryAgainError, *NOT_SERVING)):
        return True
    # "UNKNOWN …" is Noctule's word for a write whose fate it cannot tell; redis-py knows no class for it.
    return str(error).split(" ", 1)[0] in ("UNKNOWN", "CLUSTERDOWN", "LOADING", "TRYAGAIN")


async def retrying_idempotent(
    operation: Callable[[], Awaitable[T]],
    *,
    writes: bool,
    budget_s: float = RETRY_BUDGET_S,
    attempts_max: int = RETRY_ATTEMPTS_MAX,
    chance: random.Random | None = None,
) -> T:
    """Run an operation that may be repeated until the store has answered it; give its result.

    Repeating must not change the outcome: reads, and writes of fixed values to fixed keys, never a counter. Attempts
    are separated by a random pause of up to 20 ms that doubles to 500 ms at most, and end after `budget_s` seconds.
    `writes` decides what is honest to raise when they do: `OutcomeUnknownError` for a write, as an attempt whose answer
    was lost may have been applied, else `UnavailableError`. An error that waiting cannot mend (wrong password, wrong
    type) is `RequestError` at once. The store's own words are in ``__cause__`` only, since they may quote arguments.
    """
    last_error: Exception | None = None
    try:
        async with asyncio.timeout(budget_s) as budget:
            for attempt in range(attempts_max):
                try:
                    return await operation()
                except RedisError as error:
                    if not is_transient(error):
                        raise RequestError(f"the store refused: {type(error).__name__}") from error
                    last_error = error
                chance = chance or random.Random()  # Only now: seeding one costs more than all else here.
                pause_s_max = min(_RETRY_PAUSE_S_MAX, _RETRY_PAUSE_S_FIRST * 2 ** min(attempt, 10))
                await asyncio.sleep(chance.uniform(0, pause_s_max))
    except TimeoutError:
        if not budget.expired():
            raise
    reason = type(last_error).__name__ if last_error else "no answer"
    if writes:
        raise OutcomeUnknownError(f"the store did not confirm within {budget_s:g} s: {reason}") from last_error
    raise UnavailableError(f"the store did not answer within {budget_s:g} s: {reason}") from last_error


@dataclass(frozen=True, slots=True)
class _Target:
    """What a URL says."""

    mode: Literal["hosts", "sentinel", "cluster"]
    addresses: list[Address]
    """Empty for a socket file; of the Sentinels where they are asked."""
    options: dict[str, Any]
    """redis-py's."""
    master: str = ""


_CONNECTIONS: dict[str, tuple[type, type]] = {
    "hosts": (ManyHostsConnection, ManyHostsTLSConnection),
    "sentinel": (SentinelConnection, SentinelTLSConnection),
}


def _parse(url: str) -> _Target:
    """Raises ValueError with the reason."""
    scheme, separator, rest = url.partition("://")
    scheme, _, mode = scheme.partition("+")
    if not separator or (scheme, mode) not in _SCHEMES:
        names = ", ".join(f"{name}+{kind}://" if kind else f"{name}://" for name, kind in _SCHEMES)
        raise ValueError(f"it must begin with one of {names}")
    if scheme == "unix":
        options: dict[str, Any] = dict(parse_url(url))
        if not options.get("path"):
            raise ValueError("it names no socket file, as in unix:///run/redis.sock")
        options["connection_class"] = UnixDomainSocketConnection
        return _Target("hosts", [], options)
    end = re.search(r"[/?#]|$", rest)
    authority, remainder = rest[: end.start() if end else None], rest[end.start() if end else len(rest) :]
    master = ""
    if mode == "sentinel":
        named = re.fullmatch(r"/([^/?#]+)(.*)", remainder)
        if named is None:
            raise ValueError("after the Sentinels comes the name of the master, as in /mymaster/0")
        master, remainder = unquote(named[1]), named[2]
    if not re.fullmatch(r"/?\d*", re.split(r"[?#]", remainder)[0]):
        raise ValueError("after the hosts comes the number of a database, as in /0")
    credentials, at, hosts = authority.rpartition("@")
    addresses = [_address(host, 26379 if mode == "sentinel" else 6379) for host in hosts.split(",")]
    options = dict(parse_url(f"{scheme}://{credentials}{at}localhost{remainder}"))
    options.pop("host", None)
    options.pop("connection_class", None)
    if mode == "cluster":
        options["ssl"] = scheme == "rediss"
        return _Target("cluster", addresses, options)
    kind: Literal["hosts", "sentinel"] = "sentinel" if mode else "hosts"
    options["connection_class"] = _CONNECTIONS[kind][scheme == "rediss"]
    return _Target(kind, addresses, options, master)


def _address(text: str, port_default: int) -> Address:
    if text.startswith("["):  # An IPv6 address, RFC 3986 3.2.2.
        name, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    else:
        name, _, port = text.partition(":")
    if not name:
        raise ValueError("a host is missing, as in redis://127.0.0.1:7401,127.0.0.1:7402/0")
    if not port:
        return name, port_default
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
        raise ValueError(f"the port of {name} must be a number from 1 to 65535")
    return name, int(port)


def _without_password(url: str) -> str:
    return re.sub(r"://.*@", "://…@", url)
