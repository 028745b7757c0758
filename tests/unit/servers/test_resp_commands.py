"""What the server answers by itself: Redis' replies and error texts, in both protocols."""

import pytest

from noctule.core.keyspace.commands import COMMANDS
from noctule.core.keyspace.spec import Scope
from noctule.servers.resp_client_commands import NAME_BYTES_MAX
from noctule.servers.resp_commands import HANDLERS

from .resp_fakes import HandTransport, World, command


@pytest.fixture
def world() -> World:
    return World()


def test_every_command_about_the_connection_has_a_handler_and_no_other_has() -> None:
    expected = {name for name, spec in COMMANDS.items() if spec.scope is Scope.CONNECTION}
    assert set(HANDLERS) - expected <= {b"COPY", b"POST", b"HOST:"}
    assert expected <= set(HANDLERS)


HELLO_FIELDS = (
    b"$6\r\nserver\r\n$7\r\nnoctule\r\n$7\r\nversion\r\n$5\r\n7.4.0\r\n$5\r\nproto\r\n:%d\r\n$2\r\nid\r\n:1\r\n"
    b"$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
)


def test_hello_speaks_both_protocols_and_keeps_the_last(world: World) -> None:
    assert world.ask(b"HELLO") == b"*14\r\n" + HELLO_FIELDS % 2
    assert world.ask(b"hello", b"3") == b"%7\r\n" + HELLO_FIELDS % 3
    assert world.ask(b"HELLO") == b"%7\r\n" + HELLO_FIELDS % 3
    assert world.ask(b"HELLO", b"2") == b"*14\r\n" + HELLO_FIELDS % 2


@pytest.mark.parametrize(
    "arguments", [b"4", b"x", b"3 AUTH bob p", b"3 SETNAME", b"3 FOO", b"3 SETNAME a AUTH bob p", b"3 SETNAME a FOO"]
)
def test_a_wrong_hello_changes_nothing(world: World, arguments: bytes) -> None:
    assert world.ask(b"HELLO", *arguments.split()).startswith(b"-")
    assert world.client.protocol == 2
    assert world.client.name == b""


def test_hello_with_everything(world: World) -> None:
    assert world.ask(b"HELLO", b"3", b"SETNAME", b"bob", b"AUTH", b"default", b"p").startswith(b"%7")
    assert world.ask(b"CLIENT", b"GETNAME") == b"$3\r\nbob\r\n"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"PING", b"+PONG\r\n"),
        (b"pInG", b"+PONG\r\n"),
        (b"PING hi", b"$2\r\nhi\r\n"),
        (b"PING a b", b"-ERR wrong number of arguments for 'ping' command\r\n"),
        (b"ECHO hi", b"$2\r\nhi\r\n"),
        (b"ECHO", b"-ERR wrong number of arguments for 'echo' command\r\n"),
        (b"SELECT 0", b"+OK\r\n"),
        (b"SELECT 15", b"+OK\r\n"),
        (b"SELECT 16", b"-ERR DB index is out of range\r\n"),
        (b"SELECT x", b"-ERR value is not an integer or out of range\r\n"),
        (b"AUTH default p", b"+OK\r\n"),
        (b"AUTH bob p", b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        (b"AUTH a b c", b"-ERR syntax error\r\n"),
        (b"TIME", b"*2\r\n$10\r\n1700000000\r\n$6\r\n123000\r\n"),
        (b"WAIT 5 100", b":1\r\n"),
        (b"WAIT x 1", b"-ERR value is not an integer or out of range\r\n"),
        (b"WAIT 1 x", b"-ERR timeout is not an integer or out of range\r\n"),
        (b"WAIT 1 -1", b"-ERR timeout is negative\r\n"),
        (b"WAIT 1", b"-ERR wrong number of arguments for 'wait' command\r\n"),
        (b"CLUSTER INFO", b"-ERR This instance has cluster support disabled\r\n"),
        (b"CLUSTER", b"-ERR wrong number of arguments for 'cluster' command\r\n"),
        (b"NOCTULE.PURGE a", b"-ERR unknown command 'NOCTULE.PURGE', with args beginning with: 'a' \r\n"),
        (b"CLIENT", b"-ERR wrong number of arguments for 'client' command\r\n"),
        (b"CLIENT NOPE", b"-ERR unknown subcommand 'NOPE'. Try CLIENT HELP.\r\n"),
        (b"CLIENT ID", b":1\r\n"),
        (b"client id x", b"-ERR wrong number of arguments for 'client|id' command\r\n"),
        (b"CLIENT GETNAME", b"$-1\r\n"),
        (b"CLIENT SETINFO lib-name redis-py", b"+OK\r\n"),
        (b"CLIENT SETINFO other x", b"-ERR Unrecognized option 'other'\r\n"),
        (b"CLIENT SETINFO lib-ver 'a b'", b"-ERR lib-ver cannot contain spaces, newlines or special characters.\r\n"),
        (b"CLIENT NO-EVICT ON", b"+OK\r\n"),
        (b"CLIENT NO-TOUCH x", b"-ERR syntax error\r\n"),
        (b"CLIENT LIST TYPE nope", b"-ERR Unknown client type 'nope'\r\n"),
        (b"CLIENT LIST TYPE pubsub", b"$0\r\n\r\n"),
        (b"CLIENT LIST ID", b"-ERR syntax error\r\n"),
        (b"CLIENT LIST ID x", b"-ERR Invalid client ID\r\n"),
        (b"CLIENT LIST ID 7", b"$0\r\n\r\n"),
        (b"COMMAND NOPE", b"-ERR unknown subcommand 'NOPE'. Try COMMAND HELP.\r\n"),
        (b"COMMAND GETKEYS MSET a 1 b 2", b"*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        (b"COMMAND GETKEYS PING a", b"-ERR The command has no key arguments\r\n"),
        (b"COMMAND GETKEYS NOPE a", b"-ERR Invalid command specified\r\n"),
        (b"COMMAND GETKEYS GET a b", b"-ERR Invalid number of arguments specified for command\r\n"),
        (b"COMMAND LIST FILTERBY PATTERN hget*", b"*2\r\n$4\r\nhget\r\n$7\r\nhgetall\r\n"),
        (b"COMMAND LIST FILTERBY MODULE json", b"*0\r\n"),
        (b"COMMAND LIST FILTERBY", b"-ERR syntax error\r\n"),
        (b"COMMAND INFO nope noctule.purge", b"*2\r\n$-1\r\n$-1\r\n"),
        (b"CONFIG GET save APPENDonly nope", b"*4\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        (b"CONFIG GET nope", b"*0\r\n"),
        (b"CONFIG REWRITE", b"-ERR The server is running without a config file\r\n"),
        (b"CONFIG RESETSTAT", b"+OK\r\n"),
        (b"ASKING", b"+OK\r\n"),
        (b"ROLE", b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
        (b"ROLE x", b"-ERR wrong number of arguments for 'role' command\r\n"),
        (b"SENTINEL MASTERS", b"-ERR This instance has cluster support disabled\r\n"),
        (b"SLOWLOG GET", b"*0\r\n"),
        (b"SLOWLOG GET -2", b"-ERR count should be greater than or equal to -1\r\n"),
        (b"SLOWLOG LEN", b":0\r\n"),
        (b"LATENCY LATEST", b"*0\r\n"),
        (b"CLIENT GETREDIR", b":-1\r\n"),
        (b"CLIENT REPLY ON", b"+OK\r\n"),
        (b"CLIENT REPLY x", b"-ERR syntax error\r\n"),
        (b"CLIENT KILL 1.2.3.4:5", b"-ERR No such client\r\n"),
        (b"CLIENT KILL ID 0", b"-ERR client-id should be greater than 0\r\n"),
        (b"CLIENT KILL ID 77", b":0\r\n"),
        (b"CLIENT KILL TYPE pubsub", b":0\r\n"),
        (b"CLIENT KILL TYPE x", b"-ERR Unknown client type 'x'\r\n"),
        (b"CLIENT KILL USER x", b"-ERR No such user 'x'\r\n"),
        (b"CLIENT KILL USER default", b":0\r\n"),
        (b"CLIENT KILL a b", b"-ERR syntax error\r\n"),
        (b"CLIENT KILL ID 1 ADDR", b"-ERR syntax error\r\n"),
        (b"COMMAND GETKEYSANDFLAGS GET a", b"*1\r\n*2\r\n$1\r\na\r\n*2\r\n+RO\r\n+access\r\n"),
        (b"INFO nope", b"$0\r\n\r\n"),
    ],
)
def test_replies(world: World, line: bytes, reply: bytes) -> None:
    world.send(line + b"\r\n")
    world.store.deliver_all()
    world.loop.turn()
    assert world.take() == reply
    assert world.ask(b"PING") == b"+PONG\r\n", "the connection lives"


@pytest.mark.parametrize("name", [b"a b", b"a\nb", b"\xff", b"n" * (NAME_BYTES_MAX + 1)])
def test_a_name_that_would_break_the_list_is_refused(world: World, name: bytes) -> None:
    assert world.ask(b"CLIENT", b"SETNAME", name).startswith(b"-ERR Client names cannot ")
    assert world.ask(b"HELLO", b"3", b"SETNAME", name).startswith(b"-ERR Client names cannot ")
    assert world.ask(b"CLIENT", b"GETNAME") == b"$-1\r\n"


def test_a_name_can_be_taken_back(world: World) -> None:
    assert world.ask(b"CLIENT", b"SETNAME", b"bob") == b"+OK\r\n"
    assert world.ask(b"CLIENT", b"SETNAME", b"") == b"+OK\r\n"
    assert world.ask(b"CLIENT", b"GETNAME") == b"$-1\r\n"


def test_reset_gives_the_state_of_a_new_connection(world: World) -> None:
    world.ask(b"HELLO", b"3", b"SETNAME", b"bob")
    world.ask(b"READONLY")
    assert world.ask(b"RESET") == b"+RESET\r\n"
    assert world.ask(b"CLIENT", b"GETNAME") == b"$-1\r\n"
    world.ask(b"GET", b"k")
    assert world.store.consistencies == ["linearizable"]


def test_client_info_tells_what_is_known(world: World) -> None:
    world.ask(b"CLIENT", b"SETNAME", b"bob")
    world.ask(b"CLIENT", b"SETINFO", b"LIB-NAME", b"lib")
    world.clock.seconds += 7
    world.ask(b"HELLO", b"3")
    world.clock.seconds += 2
    line = world.connection.client.line(world.clock.now()).decode()
    assert dict(field.split("=") for field in line.split()) == {
        "id": "1",
        "addr": "127.0.0.1:50000",
        "laddr": "127.0.0.1:7401",
        "name": "bob",
        "age": "9",
        "idle": "2",
        "flags": "N",
        "db": "0",
        "sub": "0",
        "psub": "0",
        "ssub": "0",
        "multi": "-1",
        "cmd": "hello",
        "user": "default",
        "resp": "3",
        "lib-name": "lib",
        "lib-ver": "",
        "consistency": "linearizable",
    }


def test_a_command_name_cannot_write_into_the_list_of_clients(world: World) -> None:
    world.ask(b"x\nid=99 addr=evil")
    assert world.client.line(world.clock.now()).count(b"id=") == 1


def test_help_lists_the_subcommands(world: World) -> None:
    for name in (b"CLIENT", b"COMMAND", b"CONFIG"):
        reply = world.ask(name, b"HELP")
        assert reply.startswith(b"*")
        assert b"+%b <subcommand>" % name in reply


def test_command_info_has_ten_elements_with_key_positions(world: World) -> None:
    assert world.ask(b"COMMAND", b"INFO", b"mset") == (
        b"*1\r\n*10\r\n$4\r\nmset\r\n:-3\r\n*2\r\n+write\r\n+denyoom\r\n:1\r\n:-1\r\n:2\r\n"
        b"*3\r\n+@string\r\n+@write\r\n+@slow\r\n"
        b"*2\r\n$26\r\nrequest_policy:multi_shard\r\n$29\r\nresponse_policy:all_succeeded\r\n"
        b"*1\r\n*6\r\n$5\r\nflags\r\n*2\r\n+RW\r\n+update\r\n$12\r\nbegin_search\r\n*4\r\n$4\r\ntype\r\n$5\r\nindex\r\n$4\r\nspec\r\n"
        b"*2\r\n$5\r\nindex\r\n:1\r\n$9\r\nfind_keys\r\n*4\r\n$4\r\ntype\r\n$5\r\nrange\r\n$4\r\nspec\r\n"
        b"*6\r\n$7\r\nlastkey\r\n:-1\r\n$7\r\nkeystep\r\n:2\r\n$5\r\nlimit\r\n:0\r\n*0\r\n"
    )


def test_command_and_its_count_and_its_list_agree(world: World) -> None:
    public = [name for name, spec in COMMANDS.items() if spec.scope is not Scope.INTERNAL]
    assert world.ask(b"COMMAND", b"COUNT") == b":%d\r\n" % len(public)
    assert world.ask(b"COMMAND").startswith(b"*%d\r\n*10\r\n" % len(public))
    assert world.ask(b"COMMAND", b"LIST").startswith(b"*%d\r\n" % len(public))
    assert world.ask(b"COMMAND", b"DOCS").startswith(b"*%d\r\n" % (2 * len(public)))
    assert world.ask(b"COMMAND", b"DOCS", b"GET", b"nope") == (
        b"*2\r\n$3\r\nget\r\n*4\r\n$7\r\nsummary\r\n$20\r\nThe string of a key.\r\n$5\r\ngroup\r\n$6\r\nstring\r\n"
    )


def test_info_is_true_of_the_node(world: World) -> None:
    world.ask(b"SET", b"k", b"v")
    text = world.ask(b"INFO").decode()
    for line in (
        "redis_version:7.4.0",
        "redis_mode:standalone",
        "uptime_in_seconds:90000",
        "uptime_in_days:1",
        "tcp_port:7401",
        "connected_clients:1",
        "maxclients:10000",
        "aof_last_write_status:ok",
        "total_connections_received:1",
        "role:master",
        "connected_slaves:2",
        "cluster_enabled:0",
        "db0:keys=1",
        "nodes_alive:3",
        "groups_led:2",
        "noctule_commands_total:3",
    ):
        assert f"{line}\r\n" in text, line


def test_info_gives_the_sections_asked_for(world: World) -> None:
    assert world.ask(b"INFO", b"CLUSTER", b"nope") == b"$30\r\n# Cluster\r\ncluster_enabled:0\r\n\r\n"
    assert world.ask(b"INFO", b"keyspace") == b"$12\r\n# Keyspace\r\n\r\n"
    assert world.ask(b"INFO", b"all").count(b"# ") == world.ask(b"INFO").count(b"# ") == 14


def test_info_shows_a_failed_disk_on_one_line(world: World) -> None:
    world.storage_failure = "no space left\r\nrole:evil"
    assert b"aof_last_write_status:err\r\n" in world.ask(b"INFO", b"persistence")
    assert b"storage_failure:no space left role:evil\r\n" in world.ask(b"INFO", b"noctule")


@pytest.mark.parametrize(
    "request_bytes", [b"POST /x HTTP/1.1\r\nHost: a\r\n\r\nSET k v\r\n", b"Host: a\r\nSET k v\r\n"]
)
def test_a_browser_cannot_be_made_to_send_commands(world: World, request_bytes: bytes) -> None:
    world.send(request_bytes)
    assert world.take().count(b"looks like HTTP") == 1
    assert world.transport.is_closing()
    assert world.store.keyspace.key_count == 0


def test_wait_answers_behind_the_writes_it_waits_for(world: World) -> None:
    world.send(command(b"SET", b"k", b"v") + command(b"WAIT", b"2", b"0"))
    assert world.take() == b""
    world.store.deliver_all()
    world.loop.turn()
    assert world.take() == b"+OK\r\n:1\r\n"


@pytest.mark.parametrize(("nodes", "others"), [(1, 0), (3, 1), (5, 2)])
def test_wait_promises_the_quorum_and_not_more(nodes: int, others: int) -> None:
    assert World(nodes=nodes).ask(b"WAIT", b"9", b"0") == b":%d\r\n" % others


def test_a_connection_says_how_fresh_its_reads_must_be(world: World) -> None:
    assert world.ask(b"NOCTULE", b"CONSISTENCY") == b"$12\r\nlinearizable\r\n"
    assert world.ask(b"NOCTULE", b"consistency", b"STRONG") == b"+OK\r\n"
    assert world.ask(b"NOCTULE", b"CONSISTENCY") == b"$6\r\nstrong\r\n"
    assert b" consistency=strong" in world.connection.client.line(world.clock.now())
    world.ask(b"GET", b"a")
    world.ask(b"READONLY")
    assert world.ask(b"NOCTULE", b"CONSISTENCY") == b"$8\r\neventual\r\n"
    world.ask(b"GET", b"a")
    assert [str(level) for level in world.store.consistencies] == ["strong", "eventual"]
    world.ask(b"RESET")
    assert world.ask(b"NOCTULE", b"CONSISTENCY") == b"$12\r\nlinearizable\r\n"


@pytest.mark.parametrize("words", [(b"CONSISTENCY", b"soon"), (b"CONSISTENCY", b"strong", b"x"), (b"STALENESS",)])
def test_what_noctule_does_not_know_changes_nothing(world: World, words: tuple[bytes, ...]) -> None:
    assert world.ask(b"NOCTULE", *words).startswith(b"-ERR ")
    assert world.ask(b"NOCTULE", b"CONSISTENCY") == b"$12\r\nlinearizable\r\n"


def test_staleness_of_a_key_is_told_in_milliseconds_or_as_unknown(world: World) -> None:
    assert world.ask(b"NOCTULE", b"STALENESS", b"k") == b":12\r\n"
    assert world.ask(b"NOCTULE", b"STALENESS", b"another") == b"$-1\r\n"


def test_config_set_says_where_settings_are_changed(world: World) -> None:
    assert b"noctule.toml" in world.ask(b"CONFIG", b"SET", b"maxmemory", b"1")


@pytest.mark.parametrize("word", [b"OFF", b"SKIP"])
def test_replies_cannot_be_switched_off(world: World, word: bytes) -> None:
    """A client that sent it reads this error where it expects nothing, which is better than a silent failure later."""
    assert world.ask(b"CLIENT", b"REPLY", word).startswith(b"-ERR CLIENT REPLY OFF and SKIP")


def test_a_client_may_close_another_and_itself(world: World) -> None:
    other = HandTransport()
    world.connect(other)
    assert world.ask(b"CLIENT", b"KILL", b"ID", b"2") == b":1\r\n"
    assert other.is_aborted
    assert world.ask(b"CLIENT", b"KILL", b"ID", b"1") == b":0\r\n", "whoever asks is spared unless it says otherwise"
    assert world.ask(b"CLIENT", b"KILL", b"ID", b"1", b"SKIPME", b"no") == b":1\r\n"
    assert world.transport.is_closing()
    assert not world.transport.is_aborted, "it got its answer"


def test_a_subcommand_is_described_with_its_tips(world: World) -> None:
    assert b"config|set\r\n:-4\r\n" in world.ask(b"COMMAND", b"INFO", b"CONFIG")
    assert b"$24\r\nrequest_policy:all_nodes\r\n" in world.ask(b"COMMAND", b"INFO", b"CONFIG")
