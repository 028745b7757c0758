"""CLIENT and its subcommands. What is not here is unknown: nothing can be tracked or paused."""

from collections.abc import Callable
from typing import TypeAlias

from noctule.core.keyspace.failures import NOT_AN_INTEGER, SYNTAX
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import NULL_ARRAY, OK, Failure, Reply
from noctule.servers.resp_client import Client, Door
from noctule.servers.resp_families import Subcommand, family

NAME_BYTES_MAX = 1_024
"""The longest name of a client or its library: CLIENT LIST shows all of them."""

_Filter: TypeAlias = Callable[[Client], bool]

_UNBLOCKED = Failure(b"UNBLOCKED client unblocked via CLIENT UNBLOCK")
_CLIENT_TYPES = (b"NORMAL", b"MASTER", b"REPLICA", b"SLAVE", b"PUBSUB")


def name_problem(what: bytes, name: bytes) -> Failure | None:
    """Why this cannot be a name, with Redis' text; None when it can. `what` begins the sentence."""
    if any(not ord("!") <= symbol <= ord("~") for symbol in name):
        return Failure(b"ERR %b cannot contain spaces, newlines or special characters." % what)
    if len(name) > NAME_BYTES_MAX:
        return Failure(b"ERR %b cannot be longer than %d bytes." % (what, NAME_BYTES_MAX))
    return None


def _id(_door: Door, client: Client, _args: list[bytes]) -> Reply:
    return client.id


def _getname(_door: Door, client: Client, _args: list[bytes]) -> Reply:
    return client.name or None


def _setname(_door: Door, client: Client, args: list[bytes]) -> Reply:
    problem = name_problem(b"Client names", args[2])
    if problem is not None:
        return problem
    client.name = args[2]
    return OK


def _setinfo(_door: Door, client: Client, args: list[bytes]) -> Reply:
    option = args[2].lower()
    if option not in (b"lib-name", b"lib-ver"):
        return Failure(b"ERR Unrecognized option '%b'" % args[2][:128])
    problem = name_problem(option, args[3])
    if problem is not None:
        return problem
    if option == b"lib-name":
        client.library_name = args[3]
    else:
        client.library_version = args[3]
    return OK


def _info(door: Door, client: Client, _args: list[bytes]) -> Reply:
    return client.line(door.clock.now()) + b"\n"


def _list(door: Door, _client: Client, args: list[bytes]) -> Reply:
    clients = door.clients()
    if len(args) > 2:
        option = args[2].upper()
        if option == b"TYPE" and len(args) == 4:
            if args[3].upper() not in _CLIENT_TYPES:
                return Failure(b"ERR Unknown client type '%b'" % args[3][:128])
            kind = args[3].upper()
            is_wanted = kind == b"PUBSUB"
            clients = [client for client in clients if bool(client.subscriber.names) == is_wanted]
            clients = clients if kind in (b"NORMAL", b"PUBSUB") else []
        elif option == b"ID" and len(args) > 3:
            wanted = {parse_int(text) for text in args[3:]}
            if None in wanted:
                return Failure(b"ERR Invalid client ID")
            clients = [client for client in clients if client.id in wanted]
        else:
            return SYNTAX
    now = door.clock.now()
    return b"".join([client.line(now) + b"\n" for client in clients])


def _switch(_door: Door, _client: Client, args: list[bytes]) -> Reply:
    """NO-EVICT and NO-TOUCH: neither clients nor keys are ever evicted, so both are as they are."""
    return OK if args[2].upper() in (b"ON", b"OFF") else SYNTAX


def _unblock(door: Door, _client: Client, args: list[bytes]) -> Reply:
    """UNBLOCK id [TIMEOUT|ERROR]: what is being tried for the client may yet succeed, and then that is its answer."""
    reply: Reply = NULL_ARRAY
    if len(args) > 3:
        how = args[3].upper()
        if len(args) > 4 or how not in (b"TIMEOUT", b"ERROR"):
            return Failure(b"ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
        if how == b"ERROR":
            reply = _UNBLOCKED
    number = parse_int(args[2])
    if number is None:
        return NOT_AN_INTEGER
    client = next((client for client in door.clients() if client.id == number), None)
    return int(client is not None and client.conversation.unblock(reply))


def _tracking(_door: Door, _client: Client, args: list[bytes]) -> Reply:
    if args[2].upper() == b"OFF":
        return OK
    return Failure(b"ERR client tracking is not supported; cache for a time of your own choice instead")


def _caching(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    return Failure(
        b"ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"
    )


def _getredir(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    """-1: tracking is off, as always."""
    return -1


def _trackinginfo(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    return {b"flags": [b"off"], b"redirect": -1, b"prefixes": []}


def _reply(_door: Door, _client: Client, args: list[bytes]) -> Reply:
    """ON, as it always is: whoever switched replies off could not be told why a write failed."""
    word = args[2].upper()
    if word in (b"OFF", b"SKIP"):
        return Failure(b"ERR CLIENT REPLY OFF and SKIP are not supported: every command is answered")
    return OK if word == b"ON" else SYNTAX


def _kill(door: Door, client: Client, args: list[bytes]) -> Reply:
    """KILL address, or KILL with one or more of ID, ADDR, LADDR, TYPE, USER, SKIPME and their values."""
    if len(args) == 3:
        victim = next((each for each in door.clients() if each.address.encode() == args[2]), None)
        if victim is None:
            return Failure(b"ERR No such client")
        _close(door, client, victim)
        return OK
    filters = _kill_filters(args)
    if isinstance(filters, Failure):
        return filters
    keep, skips_me = filters
    victims = [each for each in door.clients() if all(keeps(each) for keeps in keep)]
    victims = [each for each in victims if each is not client or not skips_me]
    for victim in victims:
        _close(door, client, victim)
    return len(victims)


def _close(door: Door, client: Client, victim: Client) -> None:
    if victim is client:
        client.is_closing = True  # Behind the reply to this very command.
    else:
        door.disconnect(victim)


def _kill_filters(args: list[bytes]) -> tuple[list[_Filter], bool] | Failure:
    """What must hold of those to be closed, and whether whoever asks is spared."""
    if len(args) % 2:
        return SYNTAX
    keep: list[_Filter] = []
    skips_me = True
    for option, value in zip(args[2::2], args[3::2], strict=True):
        word = option.upper()
        if word == b"SKIPME" and value.lower() in (b"yes", b"no"):
            skips_me = value.lower() == b"yes"
            continue
        found = _kill_filter(word, value)
        if isinstance(found, Failure):
            return found
        keep.append(found)
    return keep, skips_me


def _kill_filter(word: bytes, value: bytes) -> _Filter | Failure:
    text = value.decode("utf-8", "replace")
    if word == b"ID":
        number = parse_int(value)
        if number is None or number < 1:
            return Failure(b"ERR client-id should be greater than 0")
        return lambda each: each.id == number
    if word == b"ADDR":
        return lambda each: each.address == text
    if word == b"LADDR":
        return lambda each: each.local_address == text
    if word == b"TYPE":
        if value.upper() not in _CLIENT_TYPES:
            return Failure(b"ERR Unknown client type '%b'" % value[:128])
        return lambda _each: value.upper() == b"NORMAL"
    if word == b"USER":
        return (lambda _each: True) if value == b"default" else Failure(b"ERR No such user '%b'" % value[:128])
    return SYNTAX


CLIENT = family(
    b"CLIENT",
    {
        b"CACHING": Subcommand(_caching, 3, b"CACHING (YES|NO)", b"Refused: tracking cannot be switched on."),
        b"GETNAME": Subcommand(_getname, 2, b"GETNAME", b"Return the name of the current connection."),
        b"GETREDIR": Subcommand(_getredir, 2, b"GETREDIR", b"Return -1: tracking is off."),
        b"ID": Subcommand(_id, 2, b"ID", b"Return the ID of the current connection."),
        b"INFO": Subcommand(_info, 2, b"INFO", b"Return information about the current client connection."),
        b"KILL": Subcommand(
            _kill,
            -3,
            b"KILL <address> | <option> <value> [<option> <value> ...]",
            b"Close connections: ID, ADDR, LADDR, TYPE, USER, SKIPME.",
        ),
        b"LIST": Subcommand(
            _list, -2, b"LIST [TYPE <type> | ID <id> ...]", b"Return information about this node's connections."
        ),
        b"NO-EVICT": Subcommand(_switch, 3, b"NO-EVICT (ON|OFF)", b"Accepted; clients are never evicted."),
        b"NO-TOUCH": Subcommand(_switch, 3, b"NO-TOUCH (ON|OFF)", b"Accepted; keys are never evicted."),
        b"REPLY": Subcommand(_reply, 3, b"REPLY ON", b"Accepted; replies cannot be switched off."),
        b"SETINFO": Subcommand(
            _setinfo, 4, b"SETINFO (LIB-NAME|LIB-VER) <value>", b"Tell the client library's name or version."
        ),
        b"SETNAME": Subcommand(_setname, 3, b"SETNAME <name>", b"Assign the name <name> to the current connection."),
        b"UNBLOCK": Subcommand(
            _unblock, -3, b"UNBLOCK <clientid> [TIMEOUT|ERROR]", b"Unblock the specified blocked client."
        ),
        b"TRACKING": Subcommand(_tracking, -3, b"TRACKING OFF", b"Accepted; tracking cannot be switched on."),
        b"TRACKINGINFO": Subcommand(_trackinginfo, 2, b"TRACKINGINFO", b"Return that tracking is off."),
    },
)
"""The handler of CLIENT."""
