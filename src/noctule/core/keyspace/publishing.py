"""Publishing and subscribing in the table of commands, and publishing from within the log.

What clients send is answered by the server (servers/resp_pubsub.py). NOCTULE.PUBLISH is for transactions and scripts,
whose messages are to leave if and when they apply. It changes no data: the leader that made the entry tells all nodes
once it has applied it (`core.replica.events.Publish`).
"""

from collections.abc import Sequence

from noctule.base.bounds import CHANNEL_BYTES_MAX
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.spec import MANY, NO_KEYS, ONE, WRITE, CommandSpec, Scope, rows
from noctule.core.keyspace.state import State


def publish(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """NOCTULE.PUBLISH 0|1 channel payload: 1 for a sharded channel. Answers 0: nobody has been told yet."""
    problem = channel_problem(args[2])
    if problem is not None:
        return problem
    state.publish(args[2], args[3], sharded=args[1] == b"1")
    return 0


def channel_problem(channel: bytes) -> Failure | None:
    """Why nothing can be published there; None when it can."""
    if len(channel) > CHANNEL_BYTES_MAX:
        return Failure(b"ERR channel of %d bytes, CHANNEL_BYTES_MAX is %d" % (len(channel), CHANNEL_BYTES_MAX))
    return None


_SUBSCRIBE = (b"pubsub", b"noscript", b"loading", b"stale")
_PUBLISH = (b"pubsub", b"loading", b"stale", b"fast")

COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.CONNECTION,
        ("PSUBSCRIBE", -2, _SUBSCRIBE, NO_KEYS, None, "Subscribes to all channels that match patterns."),
        ("PUBLISH", 3, _PUBLISH, NO_KEYS, None, "Tells a channel's subscribers on all nodes; how many on this one."),
        ("PUBSUB", -2, (), NO_KEYS, None, "About this node's subscriptions."),
        ("PUNSUBSCRIBE", -1, _SUBSCRIBE, NO_KEYS, None, "Ends subscriptions to patterns."),
        ("SPUBLISH", 3, _PUBLISH, ONE, None, "The same as PUBLISH for sharded channels, on any node."),
        ("SSUBSCRIBE", -2, _SUBSCRIBE, MANY, None, "Subscribes to sharded channels, on any node."),
        ("SUBSCRIBE", -2, _SUBSCRIBE, NO_KEYS, None, "Subscribes to channels."),
        ("SUNSUBSCRIBE", -1, _SUBSCRIBE, MANY, None, "Ends subscriptions to sharded channels."),
        ("UNSUBSCRIBE", -1, _SUBSCRIBE, NO_KEYS, None, "Ends subscriptions to channels."),
    ),
    *rows(
        Scope.INTERNAL,
        ("NOCTULE.PUBLISH", 4, WRITE, NO_KEYS, publish, "Tells a channel's subscribers, once it is applied."),
    ),
)
"""The rows of this file."""
