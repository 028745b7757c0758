"""The commands about the connection and the server, which are answered here at once and never reach the store.

HANDLERS has a row for each row of scope CONNECTION in the table of commands; all others are the store's, which also
knows what is unknown. Error texts are Redis 7.0's.
Read resp_transactions.py for MULTI and EXEC, resp_databases.py for SELECT, resp_families.py for subcommands,
resp_info.py for INFO and CONFIG, resp_command_table.py for COMMAND, resp_pubsub.py for subscriptions, resp_noctule.py
for what is Noctule's own.
"""

from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.commands import COMMANDS, check_command
from noctule.core.keyspace.failures import NOT_AN_INTEGER, SYNTAX, until_zero, wrong_arity
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import OK, Failure, Reply, Status
from noctule.servers.resp_client import Client, Door, Handler
from noctule.servers.resp_client_commands import CLIENT, name_problem
from noctule.servers.resp_cluster import CLUSTER
from noctule.servers.resp_command_table import COMMAND
from noctule.servers.resp_databases import copy, move, select, swapdb
from noctule.servers.resp_errands import Errand
from noctule.servers.resp_info import COMPATIBLE_VERSION, CONFIG, info
from noctule.servers.resp_noctule import NOCTULE
from noctule.servers.resp_pubsub import PUBSUB_HANDLERS, ping_while_subscribed
from noctule.servers.resp_scripts import SCRIPT, eval_, evalsha
from noctule.servers.resp_sentinel import SENTINEL, role
from noctule.servers.resp_transactions import discard, exec_, multi, refuse, unwatch, watch
from noctule.servers.resp_watching import LATENCY, SLOWLOG

_PONG = Status(b"PONG")
_WRONG_PASS = Failure(b"WRONGPASS invalid username-password pair or user is disabled.")
_NO_PASSWORD = Failure(
    b"ERR AUTH <password> called without any password configured for the default user. "
    b"Are you sure your configuration is correct?"
)


def answer_command(handler: Handler, door: Door, client: Client, args: list[bytes]) -> Reply | Errand:
    """Check the number of arguments, run a handler of HANDLERS, and answer."""
    if args[0].upper() in COMMANDS:
        checked = check_command(args)
        if isinstance(checked, Failure):
            return refuse(client, args, checked)
    return handler(door, client, args)


def ping(_door: Door, client: Client, args: list[bytes]) -> Reply:
    """PING [message]."""
    if len(args) > 2:
        return wrong_arity(args[0])
    if client.subscriber.names and client.protocol == 2:
        return ping_while_subscribed(args)
    return args[1] if len(args) == 2 else _PONG


def echo(_door: Door, _client: Client, args: list[bytes]) -> Reply:
    """ECHO message."""
    return args[1]


def hello(door: Door, client: Client, args: list[bytes]) -> Reply:
    """HELLO [2|3 [AUTH user password] [SETNAME name]]. Nothing changes unless all of it is right."""
    version = client.protocol
    if len(args) > 1:
        number = parse_int(args[1])
        if number is None:
            return Failure(b"ERR Protocol version is not an integer or out of range")
        if number not in (2, 3):
            return Failure(b"NOPROTO unsupported protocol version")
        version = 3 if number == 3 else 2
    name = client.name
    position = 2
    while position < len(args):
        option, left = args[position].upper(), len(args) - position - 1
        if option == b"AUTH" and left >= 2:
            if args[position + 1] != b"default":
                return _WRONG_PASS
            position += 3
        elif option == b"SETNAME" and left >= 1:
            name = args[position + 1]
            problem = name_problem(b"Client names", name)
            if problem is not None:
                return problem
            position += 2
        else:
            return Failure(b"ERR Syntax error in HELLO option '%b'" % until_zero(args[position])[:128])
    client.protocol = version
    client.name = name
    return {
        b"server": b"noctule",
        b"version": COMPATIBLE_VERSION,
        b"proto": version,
        b"id": client.id,
        b"mode": b"cluster" if client.is_cluster else b"standalone",
        b"role": b"master",
        b"modules": [],
    }


def auth(_door: Door, _client: Client, args: list[bytes]) -> Reply:
    """AUTH [user] password. There is one user, ``default``, without a password, as in a Redis that was given none."""
    if len(args) > 3:
        return SYNTAX
    if len(args) == 2:
        return _NO_PASSWORD
    return OK if args[1] == b"default" else _WRONG_PASS


def quit_(_door: Door, client: Client, _args: list[bytes]) -> Reply:
    """QUIT: OK behind all earlier replies, then the connection is closed."""
    client.is_closing = True
    return OK


def reset(door: Door, client: Client, _args: list[bytes]) -> Reply:
    """RESET: RESP2, no name, no READONLY, no subscriptions, no transaction, database 0."""
    door.pubsub.subscriptions.forget(client.subscriber)
    client.reset()
    return Status(b"RESET")


def readonly(_door: Door, client: Client, _args: list[bytes]) -> Reply:
    """READONLY: reads of this connection are eventual from now on, answered by this node's own replicas."""
    client.consistency = ConsistencyLevel.EVENTUAL
    return OK


def readwrite(_door: Door, client: Client, _args: list[bytes]) -> Reply:
    """READWRITE: reads of this connection are linearizable again."""
    client.consistency = ConsistencyLevel.LINEARIZABLE
    return OK


def time(door: Door, _client: Client, _args: list[bytes]) -> Reply:
    """TIME: seconds and microseconds of this node's wall clock, which is read to the millisecond."""
    seconds, milliseconds = divmod(door.clock.wall_ms(), 1_000)
    return [b"%d" % seconds, b"%d" % (milliseconds * 1_000)]


def wait(door: Door, _client: Client, args: list[bytes]) -> Reply:
    """WAIT replicas timeout_ms: how many other nodes surely have the writes of this connection acknowledged so far.

    A write is acknowledged once a quorum has synced it, and replies keep their order, so this one comes behind them
    and the answer is always the quorum without its leader; nothing is gained by waiting for more, and more is never
    claimed. The timeout is checked and not needed. With `durability = leader` the leader may be the only one: 0.
    """
    if len(args) != 3:
        return wrong_arity(args[0])
    if parse_int(args[1]) is None:
        return NOT_AN_INTEGER
    timeout_ms = parse_int(args[2])
    if timeout_ms is None:
        return Failure(b"ERR timeout is not an integer or out of range")
    if timeout_ms < 0:
        return Failure(b"ERR timeout is negative")
    picture = door.picture()
    return len(picture.nodes) // 2 if picture.durability == "quorum" else 0


def asking(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    """ASKING: no slot is ever half moved, so there is nothing to ask for."""
    return OK


def not_http(_door: Door, client: Client, args: list[bytes]) -> Reply:
    """Close on a word of HTTP, so that a browser cannot be made to send commands in a request's body."""
    client.is_closing = True
    return Failure(b"ERR this is the RESP port; '%b' looks like HTTP, and the connection is closed" % args[0])


HANDLERS: dict[bytes, Handler] = {
    b"ASKING": asking,
    b"AUTH": auth,
    b"CLIENT": CLIENT,
    b"CLUSTER": CLUSTER,
    b"COMMAND": COMMAND,
    b"CONFIG": CONFIG,
    b"COPY": copy,
    b"DISCARD": discard,
    b"ECHO": echo,
    b"EVAL": eval_,
    b"EVALSHA": evalsha,
    b"EVALSHA_RO": evalsha,
    b"EVAL_RO": eval_,
    b"EXEC": exec_,
    b"HELLO": hello,
    b"HOST:": not_http,
    b"INFO": info,
    b"LATENCY": LATENCY,
    b"MOVE": move,
    b"MULTI": multi,
    b"NOCTULE": NOCTULE,
    b"PING": ping,
    b"POST": not_http,
    b"QUIT": quit_,
    b"READONLY": readonly,
    b"READWRITE": readwrite,
    b"RESET": reset,
    b"ROLE": role,
    b"SCRIPT": SCRIPT,
    b"SELECT": select,
    b"SENTINEL": SENTINEL,
    b"SLOWLOG": SLOWLOG,
    b"SWAPDB": swapdb,
    b"TIME": time,
    b"UNWATCH": unwatch,
    b"WAIT": wait,
    b"WATCH": watch,
    **PUBSUB_HANDLERS,
}
"""Upper-case name to handler."""
