"""The commands of publishing and subscribing, and what a connection may still ask once it is subscribed.

Replies and error texts are Redis 7.0's. What is heard here, and how it travels, is told in node/pubsub.py; how messages
find their place among a connection's replies, in resp_connection.py.
"""

from collections.abc import Iterable

from noctule.core.keyspace.commands import check_command
from noctule.core.keyspace.glob import PATTERN_BYTES_MAX, glob_matcher
from noctule.core.keyspace.publishing import channel_problem
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.pubsub.message import Kind, confirmations
from noctule.servers.resp_client import Client, Door, Handler
from noctule.servers.resp_families import Family, Subcommand, family

_ALLOWED = frozenset(
    {b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE", b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE"}
    | {b"PING", b"QUIT", b"RESET"}
)


def refusal_while_subscribed(handler: Handler | None, args: list[bytes]) -> Failure | None:
    """Why a subscribed RESP2 connection cannot run this; None when it can.

    Its client could not tell a reply from a message.
    """
    spec = check_command(args)
    if isinstance(spec, Failure):
        return spec
    if spec.name in _ALLOWED:
        return None
    name = spec.name.lower()
    if isinstance(handler, Family):
        if (problem := handler.problem(args)) is not None:
            return problem
        name += b"|" + args[1].lower()
    return Failure(
        b"ERR Can't execute '%b': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET "
        b"are allowed in this context" % name
    )


def _subscribing(kind: Kind) -> Handler:
    def subscribe(door: Door, client: Client, args: list[bytes]) -> Reply:
        subscriptions, subscriber, names = door.pubsub.subscriptions, client.subscriber, args[1:]
        if problem := subscriptions.problem(subscriber, kind, names):
            return Failure(b"ERR " + problem.encode())
        counts: list[tuple[bytes | None, int]] = []
        for name in names:
            subscriptions.subscribe(subscriber, kind, name)
            counts.append((name, subscriber.count(kind)))
        return confirmations(kind.value + b"subscribe", counts, client.protocol)

    return subscribe


def _unsubscribing(kind: Kind) -> Handler:
    def unsubscribe(door: Door, client: Client, args: list[bytes]) -> Reply:
        subscriber = client.subscriber
        counts: list[tuple[bytes | None, int]] = []
        for name in args[1:] or list(subscriber.of(kind)):
            door.pubsub.subscriptions.unsubscribe(subscriber, kind, name)
            counts.append((name, subscriber.count(kind)))
        counts = counts or [(None, subscriber.count(kind))]
        return confirmations(kind.value + b"unsubscribe", counts, client.protocol)

    return unsubscribe


def ping_while_subscribed(args: list[bytes]) -> Reply:
    """What PING answers a subscribed RESP2 connection: an array, as messages are."""
    return [b"pong", args[1] if len(args) > 1 else b""]


def publish(door: Door, _client: Client, args: list[bytes]) -> Reply:
    """PUBLISH channel message: tells everyone on all nodes, and answers how many were told on this one."""
    return _publish(door, args, sharded=False)


def spublish(door: Door, _client: Client, args: list[bytes]) -> Reply:
    """SPUBLISH channel message: the same for a sharded channel, on any node."""
    return _publish(door, args, sharded=True)


def _publish(door: Door, args: list[bytes], *, sharded: bool) -> Reply:
    problem = channel_problem(args[1])
    return door.pubsub.publish(args[1], args[2], sharded=sharded) if problem is None else problem


def _listing(kind: Kind) -> Handler:
    def names(door: Door, _client: Client, args: list[bytes]) -> Reply:
        if len(args) > 3:
            return Failure(
                b"ERR unknown subcommand or wrong number of arguments for '%b'. Try PUBSUB HELP." % args[1][:128]
            )
        found: Iterable[bytes] = door.pubsub.subscriptions.names(kind)
        if len(args) == 3:
            if len(args[2]) > PATTERN_BYTES_MAX:
                return Failure(b"ERR pattern of %d bytes, PATTERN_BYTES_MAX is %d" % (len(args[2]), PATTERN_BYTES_MAX))
            found = filter(glob_matcher(args[2]), found)
        return [*found]

    return names


def _counting(kind: Kind) -> Handler:
    def counts(door: Door, _client: Client, args: list[bytes]) -> Reply:
        subscriptions, reply = door.pubsub.subscriptions, list[Reply]()
        for name in args[2:]:
            reply += [name, subscriptions.listeners(kind, name)]
        return reply

    return counts


def _numpat(door: Door, _client: Client, _args: list[bytes]) -> Reply:
    return len(door.pubsub.subscriptions.names(Kind.PATTERN))


PUBSUB = family(
    b"PUBSUB",
    {
        b"CHANNELS": Subcommand(
            _listing(Kind.CHANNEL),
            -2,
            b"CHANNELS [<pattern>]",
            b"Return the currently active channels matching a <pattern> (default: '*').",
        ),
        b"NUMPAT": Subcommand(_numpat, 2, b"NUMPAT", b"Return number of subscriptions to patterns."),
        b"NUMSUB": Subcommand(
            _counting(Kind.CHANNEL),
            -2,
            b"NUMSUB [<channel> ...]",
            b"Return the number of subscribers for the specified channels, excluding",
            b"pattern subscriptions(default: no channels).",
        ),
        b"SHARDCHANNELS": Subcommand(
            _listing(Kind.SHARD),
            -2,
            b"SHARDCHANNELS [<pattern>]",
            b"Return the currently active shard level channels matching a <pattern> (default: '*').",
        ),
        b"SHARDNUMSUB": Subcommand(
            _counting(Kind.SHARD),
            -2,
            b"SHARDNUMSUB [<shardchannel> ...]",
            b"Return the number of subscribers for the specified shard level channel(s)",
        ),
    },
)
"""The handler of PUBSUB; it tells of this node alone."""

PUBSUB_HANDLERS: dict[bytes, Handler] = {
    b"PSUBSCRIBE": _subscribing(Kind.PATTERN),
    b"PUBLISH": publish,
    b"PUBSUB": PUBSUB,
    b"PUNSUBSCRIBE": _unsubscribing(Kind.PATTERN),
    b"SPUBLISH": spublish,
    b"SSUBSCRIBE": _subscribing(Kind.SHARD),
    b"SUBSCRIBE": _subscribing(Kind.CHANNEL),
    b"SUNSUBSCRIBE": _unsubscribing(Kind.SHARD),
    b"UNSUBSCRIBE": _unsubscribing(Kind.CHANNEL),
}
"""Upper-case name to handler; a part of resp_commands.HANDLERS."""

BEHIND_EARLIER: frozenset[Handler] = frozenset({publish, spublish})
"""Handlers that must not run before the earlier commands of their connection are answered: whoever hears ``changed``
may look at once for what was sent before it."""
