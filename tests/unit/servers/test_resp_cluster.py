"""CLUSTER and SENTINEL as they stand before a view of three nodes, and what the cluster face says of itself."""

import pytest

from noctule.core.keyspace.reply import Reply
from noctule.core.wire.resp import encode_reply
from noctule.node.cluster_view import NOT_SERVED, ClusterMember, ClusterView, Endpoint, SlotRange
from noctule.servers.resp_cluster import CLUSTER
from noctule.servers.resp_connection import RespConnection
from noctule.servers.resp_sentinel import SENTINEL
from noctule.servers.resp_server import ClusterFace

from .resp_fakes import HandTransport, World, command


def member(node: int, *, is_alive: bool = True) -> ClusterMember:
    host = f"10.0.0.{node}"
    cluster, plain = Endpoint(f"{node}" * 40, host, 7_800 + node), Endpoint(f"{node + 3}" * 40, host, 7_400 + node)
    return ClusterMember(node, cluster, plain, 7_600 + node, is_alive)


class SketchedView(ClusterView):
    """Three nodes: 1 leads two ranges, 2 one; 3 is dead and leads nothing."""

    def __init__(self) -> None:
        self.is_whole = True

    @property
    def node_id(self) -> int:
        return 1

    @property
    def epoch(self) -> int:
        return 9

    @property
    def service_names(self) -> list[str]:
        return ["noctule", "colony"]

    def master(self) -> ClusterMember:
        return member(2)

    def members(self) -> list[ClusterMember]:
        return [member(1), member(2), member(3, is_alive=False)]

    def ranges(self) -> list[SlotRange]:
        found = [SlotRange(0, 99, 1, (2,)), SlotRange(100, 100, 1, ()), SlotRange(101, 16_382, 2, (1,))]
        return [*found, SlotRange(16_383, 16_383, 1, (2,), is_served=self.is_whole)]

    def count_keys(self, slot: int) -> int:
        return slot

    def keys(self, slot: int, count: int) -> list[bytes]:
        return [b"k"] * min(count, 2)


@pytest.fixture
def world() -> World:
    world = World()
    world.server._cluster_face = ClusterFace(world.store, 7_801, SketchedView())
    return world


def ask(world: World, *args: bytes) -> Reply:
    handler = {b"CLUSTER": CLUSTER, b"SENTINEL": SENTINEL}[args[0]]
    return handler(world.server, world.client, [*args])


def test_slots_name_the_leader_by_its_cluster_face_and_copies_by_their_plain_one(world: World) -> None:
    one, two = [b"10.0.0.1", 7_801, b"1" * 40, {}], [b"10.0.0.2", 7_802, b"2" * 40, {}]
    plain_one, plain_two = [b"10.0.0.1", 7_401, b"4" * 40, {}], [b"10.0.0.2", 7_402, b"5" * 40, {}]
    assert ask(world, b"CLUSTER", b"SLOTS") == [
        [0, 99, one, plain_two],
        [100, 100, one],
        [101, 16_382, two, plain_one],
        [16_383, 16_383, one, plain_two],
    ]


def test_nodes_are_masters_with_their_slots(world: World) -> None:
    text = ask(world, b"CLUSTER", b"NODES")
    assert isinstance(text, bytes)
    assert text.decode().splitlines() == [
        f"{'1' * 40} 10.0.0.1:7801@7601 myself,master - 0 0 9 connected 0-100 16383",
        f"{'2' * 40} 10.0.0.2:7802@7602 master - 0 0 9 connected 101-16382",
        f"{'3' * 40} 10.0.0.3:7803@7603 master,fail - 0 0 9 disconnected",
    ]


def test_shards_have_the_copies_of_all_their_slots(world: World) -> None:
    shards = ask(world, b"CLUSTER", b"SHARDS")
    assert isinstance(shards, list)
    described = [
        (shard[b"slots"], [(node[b"port"], node[b"role"], node[b"health"]) for node in shard[b"nodes"]])
        for shard in shards
    ]
    assert described == [
        ([0, 100, 16_383, 16_383], [(7_801, b"master", b"online")]),
        ([101, 16_382], [(7_802, b"master", b"online"), (7_401, b"replica", b"online")]),
        ([], [(7_803, b"master", b"fail")]),
    ]


def test_info_fails_while_a_slot_is_not_served(world: World) -> None:
    assert b"cluster_state:ok\r\n" in world.ask(b"CLUSTER", b"INFO")
    assert b"cluster_size:2\r\n" in world.ask(b"CLUSTER", b"INFO")
    view = world.server.cluster
    assert isinstance(view, SketchedView)
    view.is_whole = False
    assert b"cluster_state:fail\r\n" in world.ask(b"CLUSTER", b"INFO")
    assert b"cluster_slots_ok:16383\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:1\r\n" in world.ask(
        b"CLUSTER", b"INFO"
    )


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"CLUSTER MYID", b"$40\r\n" + b"1" * 40 + b"\r\n"),
        (b"CLUSTER KEYSLOT {a}b", b":15495\r\n"),
        (b"CLUSTER COUNTKEYSINSLOT 5", b":5\r\n"),
        (b"CLUSTER COUNTKEYSINSLOT 16384", b"-ERR Invalid slot\r\n"),
        (b"CLUSTER COUNTKEYSINSLOT x", b"-ERR value is not an integer or out of range\r\n"),
        (b"CLUSTER GETKEYSINSLOT 5 1", b"*1\r\n$1\r\nk\r\n"),
        (b"CLUSTER GETKEYSINSLOT 5 -1", b"-ERR Invalid slot or number of keys\r\n"),
        (b"CLUSTER REPLICAS " + b"2" * 40, b"*0\r\n"),
        (b"CLUSTER REPLICAS x", b"-ERR Unknown node x\r\n"),
        (b"CLUSTER COUNT-FAILURE-REPORTS " + b"2" * 40, b":0\r\n"),
        (b"CLUSTER NOPE", b"-ERR unknown subcommand 'NOPE'. Try CLUSTER HELP.\r\n"),
        (b"CLUSTER SLOTS x", b"-ERR wrong number of arguments for 'cluster|slots' command\r\n"),
        (b"SENTINEL GET-MASTER-ADDR-BY-NAME noctule", b"*2\r\n$8\r\n10.0.0.2\r\n$4\r\n7402\r\n"),
        (b"SENTINEL GET-MASTER-ADDR-BY-NAME x", b"$-1\r\n"),
        (b"SENTINEL MASTER x", b"-ERR No such master with that name\r\n"),
        (b"SENTINEL MYID", b"$40\r\n" + b"4" * 40 + b"\r\n"),
        (b"SENTINEL IS-MASTER-DOWN-BY-ADDR 10.0.0.3 7403 0 *", b"*3\r\n:1\r\n$1\r\n*\r\n:0\r\n"),
        (b"SENTINEL IS-MASTER-DOWN-BY-ADDR 10.0.0.2 7402 0 *", b"*3\r\n:0\r\n$1\r\n*\r\n:0\r\n"),
        (b"SENTINEL PENDING-SCRIPTS", b"*0\r\n"),
        (b"ROLE", b"*3\r\n$6\r\nmaster\r\n:0\r\n*1\r\n*3\r\n$8\r\n10.0.0.2\r\n$4\r\n7402\r\n$1\r\n0\r\n"),
    ],
)
def test_replies(world: World, line: bytes, reply: bytes) -> None:
    assert world.ask(*line.split()) == reply


@pytest.mark.parametrize("word", [b"RESET", b"FAILOVER", b"FLUSHSLOTS", b"SAVECONFIG", b"BUMPEPOCH"])
def test_what_changes_a_cluster_is_refused_with_what_does_it_here(world: World, word: bytes) -> None:
    assert world.ask(b"CLUSTER", word).startswith(b"-ERR Noctule moves slots by itself; ")


def test_masters_are_one_service_by_all_its_names(world: World) -> None:
    masters = ask(world, b"SENTINEL", b"MASTERS")
    assert isinstance(masters, list)
    names = [(each[b"name"], each[b"port"], each[b"num-slaves"], each[b"num-other-sentinels"]) for each in masters]
    assert names == [(b"noctule", b"7402", b"2", b"1"), (b"colony", b"7402", b"2", b"1")]


def test_a_dead_node_is_down_among_the_replicas(world: World) -> None:
    replicas = ask(world, b"SENTINEL", b"REPLICAS", b"colony")
    assert isinstance(replicas, list)
    assert [(each[b"port"], each[b"flags"]) for each in replicas] == [
        (b"7401", b"slave"),
        (b"7403", b"slave,s_down,o_down,disconnected"),
    ]
    assert ask(world, b"SENTINEL", b"CKQUORUM", b"colony") == (
        b"OK 2 usable Sentinels. Quorum and failover authorization can be reached"
    )


def test_the_cluster_face_says_so(world: World) -> None:
    transport = HandTransport()
    connection = RespConnection(world.server, world.store, world.loop, is_cluster=True)
    transport.protocol = connection
    connection.connection_made(transport)

    def answer(*args: bytes) -> bytes:
        transport.writes.clear()
        connection.data_received(command(*args))
        world.loop.turn()
        return b"".join(transport.writes)

    assert b"$4\r\nmode\r\n$7\r\ncluster\r\n" in answer(b"HELLO")
    assert answer(b"SELECT", b"0") == b"+OK\r\n"
    assert answer(b"SELECT", b"1") == b"-ERR SELECT is not allowed in cluster mode\r\n"
    assert answer(b"CONFIG", b"GET", b"cluster-enabled") == b"*2\r\n$15\r\ncluster-enabled\r\n$3\r\nyes\r\n"
    assert b"redis_mode:cluster\r\n" in answer(b"INFO", b"server")
    assert b"cluster_enabled:1\r\n" in answer(b"INFO", b"cluster")
    assert b"cluster_enabled:0\r\n" in world.ask(b"INFO", b"cluster")


def test_the_refusal_is_redis_own() -> None:
    assert encode_reply(NOT_SERVED, 2) == b"-CLUSTERDOWN Hash slot not served\r\n"
