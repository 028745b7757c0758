"""SLOWLOG and LATENCY, as clients and redis-cli ask for them: nothing is recorded here, and so they are empty.

What takes how long is told by /metrics.
"""

from collections.abc import Callable

from noctule.core.keyspace.failures import wrong_arity
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.servers.resp_client import Client, Door, Handler
from noctule.servers.resp_families import Subcommand, family

_COUNT = Failure(b"ERR count should be greater than or equal to -1")


def _always(reply: Callable[[], Reply]) -> Handler:
    return lambda _door, _client, _args: reply()


def _slowlog_get(_door: Door, _client: Client, args: list[bytes]) -> Reply:
    if len(args) > 3:
        return wrong_arity(b"slowlog|get")
    count = parse_int(args[2]) if len(args) == 3 else 10
    return _COUNT if count is None or count < -1 else []


def _latency_doctor(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    return b"Nothing is recorded here; ask /metrics of the node's HTTP port.\n"


def _latency_histogram(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    return {}


SLOWLOG = family(
    b"SLOWLOG",
    {
        b"GET": Subcommand(_slowlog_get, -2, b"GET [<count>]", b"Return nothing: no command is recorded."),
        b"LEN": Subcommand(_always(lambda: 0), 2, b"LEN", b"Return 0."),
        b"RESET": Subcommand(_always(lambda: OK), 2, b"RESET", b"Accepted."),
    },
)
"""The handler of SLOWLOG."""
LATENCY = family(
    b"LATENCY",
    {
        b"DOCTOR": Subcommand(_latency_doctor, 2, b"DOCTOR", b"Return where to look instead."),
        b"HISTOGRAM": Subcommand(_latency_histogram, -2, b"HISTOGRAM [COMMAND ...]", b"Return nothing."),
        b"HISTORY": Subcommand(_always(list), 3, b"HISTORY <event>", b"Return nothing: no event is recorded."),
        b"LATEST": Subcommand(_always(list), 2, b"LATEST", b"Return nothing: no event is recorded."),
        b"RESET": Subcommand(_always(lambda: 0), -2, b"RESET [<event> ...]", b"Return 0."),
    },
)
"""The handler of LATENCY."""
