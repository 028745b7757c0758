"""The three faces of a node against clients that nobody here wrote: plain, Redis Cluster, Redis Sentinel.

Three real nodes serve all tests that do them no harm; each test that kills or stops some has nodes of its own.
"""

import asyncio
import itertools
import re
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis
import redis.asyncio
from cluster_processes import (
    CATCHES_UP_S_MAX,
    GOES_ON_S_MAX,
    SEGMENT_BYTES_MAX,
    Door,
    NodeCluster,
    StartNodes,
    until,
    until_open,
    until_ready,
    write_settings,
)
from engines import RedisServer, engine_or_skip, free_port, wait_until
from glide import (
    GlideClient,
    GlideClientConfiguration,
    GlideClusterClient,
    GlideClusterClientConfiguration,
    NodeAddress,
)
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, LoadBalancingStrategy, RedisCluster
from redis.sentinel import Sentinel

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("clients_leave_connections")]
pytest_plugins = ("cluster_processes",)

SLOTS = 16_384
PARTITIONS = 8
KEYS = [f"key:{number}" for number in range(200)]
LEADERS_SPREAD_S_MAX = 20.0
"""A node must be settled for three seconds before it is given what it should lead."""


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Door]]:
    directory: Path = tmp_path_factory.mktemp("faces")
    write_settings(directory, segment_bytes_max=SEGMENT_BYTES_MAX)
    cluster = NodeCluster(directory, cluster="colony", partitions=PARTITIONS)
    try:
        found = serve(cluster)
        asyncio.run(until_led_by_all(found))
        yield found
    finally:
        cluster.close()


def serve(cluster: NodeCluster) -> list[Door]:
    """The doors of three nodes, ready."""
    found = [life.wait_serving() for life in cluster.start_all().values()]
    asyncio.run(until_ready(*found))
    asyncio.run(until_open(*found))
    return found


async def until_led_by_all(doors: list[Door]) -> None:
    """Return once all nodes agree on who leads what, and each leads something."""

    async def is_spread() -> bool:
        views = [plain(door.cluster_port).execute_command("CLUSTER SLOTS") for door in doors]
        led = [{(first, last, leader[1]) for first, last, leader, *_ in view} for view in views]
        return all(each == led[0] for each in led) and len({port for *_, port in led[0]}) == len(doors)

    await until(is_spread, "each node to lead some slots", LEADERS_SPREAD_S_MAX)


def plain(port: int, *, protocol: int = 2) -> redis.Redis:
    """A client of one node that interprets nothing of CLUSTER."""
    client = redis.Redis(port=port, protocol=protocol, decode_responses=True, socket_timeout=10)
    for name in ("CLUSTER SLOTS", "CLUSTER NODES", "CLUSTER SHARDS", "CLUSTER INFO", "CLUSTER LINKS", "ROLE"):
        client.set_response_callback(name, lambda reply, **_: reply)
    return client


def end_of(program: str, *args: str | int) -> "subprocess.CompletedProcess[str]":
    """How a Redis program has ended."""
    return subprocess.run(
        [engine_or_skip(program), *map(str, args)], capture_output=True, text=True, timeout=60, check=False
    )


def run(program: str, *args: str | int) -> str:
    """What a Redis program prints; it must end well, and say nothing on stderr."""
    done = end_of(program, *args)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


# redis-cli and redis-benchmark ---------------------------------------------------------------------------------------


def test_redis_cli_finds_the_cluster_whole(doors: list[Door]) -> None:
    for door in doors:
        printed = run("redis-cli", "--cluster", "check", f"127.0.0.1:{door.cluster_port}")
        assert "[OK] All nodes agree about slots configuration." in printed
        assert "[OK] All 16384 slots covered." in printed
        assert "[ERR]" not in printed
        assert re.search(r"OK\] \d+ keys in 3 masters", printed)


def test_redis_cli_follows_moved(doors: list[Door]) -> None:
    for door, key in itertools.product(doors, KEYS[:12]):
        assert answered_by_a_leader("-c", "-p", door.cluster_port, "SET", key, door.id) == "OK\n"
        assert answered_by_a_leader("-c", "-p", door.cluster_port, "GET", key) == f"{door.id}\n"

    def said_by_the_first() -> set[str]:
        return {answered_by_a_leader("-p", doors[0].cluster_port, "GET", key).split()[0] for key in KEYS[:12]}

    wait_until(
        lambda: said_by_the_first() == {str(doors[-1].id), "MOVED"},
        "the first node to lead some of these, and others the rest",
        LEADERS_SPREAD_S_MAX,
    )


def answered_by_a_leader(*args: str | int) -> str:
    """What redis-cli prints, once there is a leader: on a busy machine another may be elected meanwhile."""
    printed: list[str] = []

    def is_led() -> bool:
        printed.append(run("redis-cli", *args))
        return not printed[-1].startswith("CLUSTERDOWN")

    wait_until(is_led, "a leader", GOES_ON_S_MAX)
    return printed[-1]


def test_redis_benchmark_spreads_over_the_cluster(doors: list[Door]) -> None:
    options = ("-t", "set,get", "-n", 3_000, "-c", 12, "-r", 1_000, "-q")
    before: list[int] = []
    ended: list[subprocess.CompletedProcess[str]] = []

    def is_undisturbed() -> bool:
        before[:] = [plain(door.resp_port).info("stats")["total_commands_processed"] for door in doors]
        ended.append(end_of("redis-benchmark", "--cluster", "-p", doors[0].cluster_port, *options))
        return "CLUSTERDOWN" not in ended[-1].stderr

    wait_until(is_undisturbed, "a run in which nobody was elected, as on a busy machine", LEADERS_SPREAD_S_MAX)
    printed = ended[-1].stdout
    # A leader may still be handed over meanwhile, and then the benchmark asks again who has what.
    moved = "Cluster slots configuration changed"
    assert (ended[-1].returncode, [line for line in ended[-1].stderr.splitlines() if moved not in line]) == (0, [])
    assert re.findall(r"(SET|GET): [0-9.]+ requests per second", printed) == ["SET", "GET"]
    assert "rror" not in printed
    after = [plain(door.resp_port).info("stats")["total_commands_processed"] for door in doors]
    assert all(now - then > 300 for now, then in zip(after, before, strict=True)), "each node had its part"


# What CLUSTER answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["resp_port", "cluster_port"])
def test_both_ports_announce_the_cluster_ports(doors: list[Door], face: str) -> None:
    ports = {door.cluster_port: door.id for door in doors}
    plain_ports = {door.resp_port: door.id for door in doors}
    for door in doors:
        client = plain(getattr(door, face))
        covered: list[int] = []
        for first, last, leader, *replicas in client.execute_command("CLUSTER SLOTS"):
            covered += range(first, last + 1)
            assert leader[1] in ports
            assert len(leader[2]) == 40
            assert {plain_ports[each[1]] for each in replicas} == set(ports.values()) - {ports[leader[1]]}
        assert covered == list(range(SLOTS))
        lines = client.execute_command("CLUSTER NODES").splitlines()
        assert {int(re.search(r":(\d+)@", line)[1]) for line in lines} == set(ports)
        (myself,) = [line.split()[0] for line in lines if "myself" in line]
        assert client.execute_command("CLUSTER MYID") == myself
        facts = dict(line.split(":") for line in client.execute_command("CLUSTER INFO").split())
        assert (facts["cluster_state"], facts["cluster_slots_ok"], facts["cluster_size"]) == ("ok", "16384", "3")


def test_names_of_nodes_stay_and_differ(doors: list[Door]) -> None:
    views = [
        {tuple(line.split()[:2]) for line in plain(door.resp_port).execute_command("CLUSTER NODES").splitlines()}
        for door in doors
    ]
    assert views[0] == views[1] == views[2]
    assert len({name for name, _ in views[0]}) == 3


def test_each_face_says_what_it_is(doors: list[Door]) -> None:
    here, there = plain(doors[0].resp_port), plain(doors[0].cluster_port)
    assert (here.info()["redis_mode"], here.info()["cluster_enabled"]) == ("standalone", 0)
    assert (there.info()["redis_mode"], there.info()["cluster_enabled"]) == ("cluster", 1)
    assert there.config_get("cluster-enabled") == {"cluster-enabled": "yes"}
    assert there.info()["tcp_port"] == doors[0].cluster_port
    with pytest.raises(redis.ResponseError, match="SELECT is not allowed in cluster mode"):
        there.execute_command("SELECT", 1)
    for client in (here, there):
        role, _, replicas = client.execute_command("ROLE")
        assert role == "master"
        assert {int(each[1]) for each in replicas} == {door.resp_port for door in doors[1:]}
        assert client.info("replication")["role"] == "master"


def test_keys_of_a_slot(doors: list[Door]) -> None:
    client = plain(doors[0].resp_port)
    for number in range(3):
        client.set(f"{{tag}}:{number}", "v")
    slot = client.execute_command("CLUSTER KEYSLOT", "{tag}")
    asyncio.run(
        until(
            lambda: as_awaitable(
                all(plain(door.cluster_port).execute_command("CLUSTER COUNTKEYSINSLOT", slot) == 3 for door in doors)
            ),
            "each copy to have the keys",
        )
    )
    assert client.execute_command("CLUSTER GETKEYSINSLOT", slot, 2) == ["{tag}:0", "{tag}:1"]
    with pytest.raises(redis.ResponseError, match="Invalid slot"):
        client.execute_command("CLUSTER COUNTKEYSINSLOT", SLOTS)
    with pytest.raises(redis.ResponseError, match="noctule cluster"):
        client.execute_command("CLUSTER RESET")


async def as_awaitable(value: object) -> object:
    """For `until`."""
    return value


def test_only_what_is_led_here_is_answered_here(doors: list[Door]) -> None:
    """What each node says of all keys adds up to what the plain face says, as a cluster's client expects."""
    client = plain(doors[0].resp_port)
    client.flushall()
    client.mset(dict.fromkeys(KEYS, "v"))
    assert sum(plain(door.cluster_port).dbsize() for door in doors) == client.dbsize() == len(KEYS)
    assert sorted(key for door in doors for key in plain(door.cluster_port).keys("*")) == sorted(KEYS)
    scanned = [key for door in doors for key in plain(door.cluster_port).scan_iter(count=7)]
    assert sorted(scanned) == sorted(KEYS)
    plain(doors[1].cluster_port).flushall()
    assert 0 < client.dbsize() < len(KEYS)
    for name in ("MGET", "DEL", "EXISTS"):
        with pytest.raises(redis.exceptions.ClusterCrossSlotError):
            plain(doors[0].cluster_port).execute_command(name, "a", "b")
    assert client.mget("a", "b") == [None, None], "the plain face goes on with keys of any slots"


def test_a_copy_may_be_read_after_readonly(doors: list[Door]) -> None:
    plain(doors[0].resp_port).mset({key: key for key in KEYS})
    with redis.Redis(port=doors[0].cluster_port, single_connection_client=True, decode_responses=True) as client:
        moved = next(key for key in KEYS if refusal_of(client, "GET", key).startswith("MOVED"))
        client.execute_command("READONLY")
        asyncio.run(until(lambda: as_awaitable(client.get(moved) == moved), "the copy to have the key"))
        assert refusal_of(client, "SET", moved, "other").startswith("MOVED"), "writes belong to the leader"
        client.execute_command("READWRITE")
        assert refusal_of(client, "GET", moved).startswith("MOVED")
        assert client.execute_command("ASKING")


def refusal_of(client: redis.Redis, *args: str) -> str:
    """What the server refuses a command with; empty when it does not."""
    try:
        client.execute_command(*args)
    except redis.exceptions.MovedError as error:
        return f"MOVED {error}"
    except redis.ResponseError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_have_the_shape_of_a_real_cluster(doors: list[Door], tmp_path: Path, protocol: int) -> None:
    real = RedisServer(tmp_path)
    real.start("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    try:
        theirs, ours = plain(real.port, protocol=protocol), plain(doors[0].cluster_port, protocol=protocol)
        theirs.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        wait_until(lambda: "cluster_state:ok" in theirs.execute_command("CLUSTER INFO"), "the real cluster to be whole")
        first, last, leader, *_ = ours.execute_command("CLUSTER SLOTS")[0]
        assert shape([[first, last, leader]]) == shape(theirs.execute_command("CLUSTER SLOTS"))
        mine, other = (client.execute_command("CLUSTER SHARDS")[0] for client in (ours, theirs))
        for shard in (mine, other):
            nodes = shard["nodes"] if protocol == 3 else shard[3]
            del nodes[1:]
            if protocol == 3:
                shard["slots"] = shard["slots"][:2]
            else:
                shard[1] = shard[1][:2]
        assert shape(mine) == shape(other)
        for line in ("CLUSTER INFO", "CLUSTER NODES", "CLUSTER MYID", "CLUSTER LINKS", "ROLE"):
            assert type(ours.execute_command(line)) is type(theirs.execute_command(line)), line
        for line in ("CLUSTER COUNTKEYSINSLOT 7", "CLUSTER GETKEYSINSLOT 7 3", "CLUSTER KEYSLOT a", "ASKING"):
            assert ours.execute_command(*line.split()) == theirs.execute_command(*line.split()), line
        here, there = (client.execute_command("CLUSTER NODES").splitlines()[0].split() for client in (ours, theirs))
        assert len(here) >= 9
        assert len(there) == 9
        names = [
            {row.partition(":")[0] for row in each.execute_command("CLUSTER INFO").split()} for each in (ours, theirs)
        ]
        assert {name for name in names[1] if "messages" not in name} <= names[0]
        for line in (
            "MGET a b",
            "SELECT 1",
            "CLUSTER NOPE",
            "CLUSTER KEYSLOT",
            "CLUSTER COUNTKEYSINSLOT x",
            "CLUSTER COUNTKEYSINSLOT 16384",
            "CLUSTER GETKEYSINSLOT x 1",
            "CLUSTER GETKEYSINSLOT 1 -1",
            "CLUSTER REPLICAS x",
            "CLUSTER COUNT-FAILURE-REPORTS x",
            "READONLY x",
        ):
            assert error_of(ours, line) == error_of(theirs, line), line
    finally:
        real.kill()


def shape(reply: object) -> object:
    """The kinds of what is in it, and the names of maps."""
    if isinstance(reply, dict):
        return {name: shape(value) for name, value in reply.items()}
    if isinstance(reply, list):
        return [shape(each) for each in reply]
    return type(reply).__name__


def error_of(client: redis.Redis, line: str) -> str:
    """The text of what is refused."""
    with pytest.raises(redis.ResponseError) as caught:
        client.execute_command(*line.split())
    return str(caught.value)


def test_strict_slots_make_the_plain_face_refuse_what_a_cluster_would(start_nodes: StartNodes) -> None:
    cluster = start_nodes(partitions=2, nodes=1)
    write_settings(cluster.directory, segment_bytes_max=SEGMENT_BYTES_MAX, resp_strict_slots=True)
    door = cluster.start(1).wait_serving()
    asyncio.run(until_ready(door))
    client = plain(door.resp_port)
    with pytest.raises(redis.exceptions.ClusterCrossSlotError):
        client.mget("a", "b")
    assert client.mset({"{a}1": "x", "{a}2": "y"})
    assert client.mget("{a}1", "{a}2") == ["x", "y"]


# redis-py and glide, unharmed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["resp_port", "cluster_port"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_cluster(doors: list[Door], face: str, protocol: int) -> None:
    port = getattr(doors[1], face)
    with RedisCluster(host="127.0.0.1", port=port, protocol=protocol, decode_responses=True) as client:
        assert {node.port for node in client.get_primaries()} == {door.cluster_port for door in doors}
        assert {node.port for node in client.get_replicas()} == {door.resp_port for door in doors}
        client.flushall()
        for key in KEYS:
            assert client.set(key, key)
        assert [client.get(key) for key in KEYS] == KEYS
        # Without target_nodes redis-py asks one node only, of a Redis Cluster, too.
        assert sum(client.dbsize(target_nodes=node) for node in client.get_primaries()) == len(KEYS)
        assert sorted(client.keys("*", target_nodes=RedisCluster.PRIMARIES)) == sorted(KEYS)
        # A leader that changes in the middle, as on a busy machine, takes keys behind or before a cursor.
        whole = lambda: as_awaitable(sorted(client.scan_iter(count=11)) == sorted(KEYS))  # noqa: E731
        asyncio.run(until(whole, "a scan of every key"))
        assert client.mget_nonatomic(KEYS[:20]) == KEYS[:20]
        assert client.delete(*KEYS[:20]) == 20
        assert client.exists(*KEYS) == len(KEYS) - 20
        pipeline = client.pipeline()
        for key in KEYS[20:60]:
            pipeline.get(key)
        assert pipeline.execute() == KEYS[20:60]
        with pytest.raises(redis.exceptions.RedisClusterException):
            client.mget("a", "b")
        assert client.ping(target_nodes=RedisCluster.ALL_NODES)


COPIES = LoadBalancingStrategy.RANDOM_REPLICA


def test_redis_py_cluster_reads_copies(doors: list[Door]) -> None:
    plain(doors[0].resp_port).mset(dict.fromkeys(KEYS, "v"))
    with RedisCluster(host="127.0.0.1", port=doors[0].cluster_port, load_balancing_strategy=COPIES) as client:
        asyncio.run(until(lambda: as_awaitable(all(client.get(key) == b"v" for key in KEYS)), "the copies to follow"))
        assert client.set(KEYS[0], "w")


def test_redis_py_asyncio_cluster(doors: list[Door]) -> None:
    async def scenario(port: int) -> None:
        client = AsyncRedisCluster(host="127.0.0.1", port=port, decode_responses=True)
        async with client:
            await client.initialize()
            await client.flushall()
            await asyncio.gather(*(client.set(key, key) for key in KEYS))
            assert await asyncio.gather(*(client.get(key) for key in KEYS)) == KEYS
            assert sum([await client.dbsize(target_nodes=node) for node in client.get_primaries()]) == len(KEYS)
            assert sorted([key async for key in client.scan_iter(count=9)]) == sorted(KEYS)
            assert await client.delete(*KEYS[:10]) == 10
            assert await client.exists(*KEYS) == len(KEYS) - 10
            pipeline = client.pipeline()
            for key in KEYS[10:30]:
                pipeline.get(key)
            assert await pipeline.execute() == KEYS[10:30]

    for port in (doors[0].cluster_port, doors[2].resp_port):
        asyncio.run(scenario(port))


def test_glide_cluster_and_standalone(doors: list[Door]) -> None:
    async def scenario() -> None:
        places = [NodeAddress("127.0.0.1", doors[0].cluster_port)]
        client: Any = await GlideClusterClient.create(GlideClusterClientConfiguration(places, request_timeout=5_000))
        try:
            await client.flushall()
            for key in KEYS:
                assert await client.set(key, key) == "OK"
            assert [await client.get(key) for key in KEYS] == [key.encode() for key in KEYS]
            assert await client.dbsize() == len(KEYS)
            assert await client.mget(KEYS[:30]) == [key.encode() for key in KEYS[:30]]
            assert await client.delete(KEYS[:30]) == 30
        finally:
            await client.close()
        places = [NodeAddress("127.0.0.1", doors[1].resp_port)]
        alone = await GlideClient.create(GlideClientConfiguration(places, request_timeout=5_000))
        try:
            assert await alone.mget([*KEYS[29:31]]) == [None, KEYS[30].encode()]
            assert b"role:master" in await alone.info()
        finally:
            await alone.close()

    asyncio.run(scenario())


# Sentinel ------------------------------------------------------------------------------------------------------------


def test_sentinel_names_one_master_by_every_node(doors: list[Door]) -> None:
    ports = {door.resp_port for door in doors}
    masters = set()
    for door, name in itertools.product(doors, ("noctule", "colony")):
        client = plain(door.resp_port)
        place = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
        masters.add((place[0], int(place[1])))
        state = client.sentinel_master(name)
        assert (state["num-slaves"], state["num-other-sentinels"], state["quorum"]) == (2, 2, 2)
        assert state["is_master"]
        assert not state["is_sdown"]
        replicas = {each["port"] for each in client.sentinel_slaves(name)}
        assert replicas == ports - {int(place[1])}
        assert {each["port"] for each in client.sentinel_sentinels(name)} == ports - {door.resp_port}
        assert client.execute_command("SENTINEL", "CKQUORUM", name).startswith("OK 3 usable Sentinels")
    assert len(masters) == 1
    client = plain(doors[0].resp_port)
    assert client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "other") is None
    for name in ("MASTER", "REPLICAS", "SENTINELS", "CKQUORUM"):
        with pytest.raises(redis.ResponseError, match="No such master with that name"):
            client.execute_command("SENTINEL", name, "other")
    assert client.execute_command("SENTINEL", "IS-MASTER-DOWN-BY-ADDR", *masters.pop(), 0, "*") == [0, "*", 0]


# Failovers -----------------------------------------------------------------------------------------------------------


class Register(Protocol):
    """A client as `go_through` uses it: set and get of one key, with bytes for what was set."""

    async def set(self, key: str, value: str) -> object:
        """Return once it is acknowledged; raises whatever the library raises."""
        ...

    async def get(self, key: str) -> bytes | None:
        """Return what is there."""
        ...


@dataclass
class Report:
    """What a client saw while nodes were harmed."""

    errors: list[str] = field(default_factory=list)
    longest_gap_s: float = 0.0
    """Between two acknowledged writes of one key."""


async def go_through(client: Register, harm: Callable[[], Awaitable[None]]) -> Report:
    """Write and read every key before, while and after harm is done.

    A key has one writer, which writes ever larger numbers. A read gives the last one acknowledged, or one of those
    whose fate the client was not told: they may take effect at any time, for the client may have sent them more often.
    """
    report, is_over = Report(), False
    acknowledged = dict.fromkeys(KEYS[:30], 0)
    doubtful: dict[str, set[int]] = {key: set() for key in acknowledged}
    last_at = dict.fromkeys(acknowledged, time.monotonic())

    async def write_and_read(key: str, number: int) -> None:
        doubtful[key].add(number)
        await client.set(key, str(number))
        doubtful[key].remove(number)
        acknowledged[key] = number
        now = time.monotonic()
        report.longest_gap_s, last_at[key] = max(report.longest_gap_s, now - last_at[key]), now
        found = int(await client.get(key) or 0)
        assert found == number or found in doubtful[key], f"{key} is {found} after {number} was acknowledged"

    async def keep_on(keys: list[str]) -> None:
        for number in itertools.count(1):
            for key in keys:
                if is_over:
                    return
                try:
                    await write_and_read(key, number)
                except AssertionError:
                    raise
                except Exception as error:
                    report.errors.append(f"{type(error).__name__}: {error}")
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.01)  # The nodes have the machine's processors to share with the client.

    async def until_all_written() -> None:
        before = dict(acknowledged)
        what = "every key to be written once more"
        await until(
            lambda: as_awaitable(all(acknowledged[key] > before[key] for key in before)), what, CATCHES_UP_S_MAX
        )

    async with asyncio.TaskGroup() as group:
        for start in range(3):
            group.create_task(keep_on([*acknowledged][start::3]))
        try:
            await until_all_written()
            await harm()
            await until_all_written()
        finally:
            is_over = True
    return report


@asynccontextmanager
async def redis_py_cluster(door: Door) -> AsyncIterator[Register]:
    async with AsyncRedisCluster(
        startup_nodes=[AsyncClusterNode("127.0.0.1", door.cluster_port)], socket_timeout=5
    ) as client:
        await client.initialize()
        yield client


@asynccontextmanager
async def redis_py_sync_cluster(door: Door) -> AsyncIterator[Register]:
    with RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", door.cluster_port)], socket_timeout=5) as client:
        yield InThread(client)


@asynccontextmanager
async def glide_cluster(door: Door) -> AsyncIterator[Register]:
    places = [NodeAddress("127.0.0.1", door.cluster_port)]
    client: Any = await GlideClusterClient.create(GlideClusterClientConfiguration(places, request_timeout=3_000))
    try:
        yield client
    finally:
        await client.close()


class InThread:
    """A blocking client, which is used by one thread at a time for each call."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def set(self, key: str, value: str) -> object:
        return await asyncio.to_thread(self._client.set, key, value)

    async def get(self, key: str) -> bytes | None:
        found: bytes | None = await asyncio.to_thread(self._client.get, key)
        return found


CLUSTER_CLIENTS = [redis_py_cluster, redis_py_sync_cluster, glide_cluster]


@pytest.mark.parametrize("client_of", CLUSTER_CLIENTS)
def test_a_cluster_client_follows_leaders_handed_over_or_killed(start_nodes: StartNodes, client_of: Any) -> None:
    """A node is stopped in order, and so hands over what it leads; back again, it is given that back, and killed."""
    cluster = start_nodes(partitions=PARTITIONS)
    doors = serve(cluster)
    asyncio.run(until_led_by_all(doors))

    async def scenario() -> Report:
        async def harm() -> None:
            ports = {"resp_port": str(doors[0].resp_port), "resp_cluster_port": str(doors[0].cluster_port)}
            await asyncio.to_thread(cluster.life_of[1].stop)
            again = cluster.start(1, **ports)
            door = await asyncio.to_thread(again.wait_serving)
            await until_ready(door)
            await until_led_by_all([door, *doors[1:]])
            again.kill()

        async with client_of(doors[1]) as client:
            return await go_through(client, harm)

    report = asyncio.run(scenario())
    print(f"{client_of.__name__}: gap {report.longest_gap_s:.2f} s, {len(report.errors)} errors", report.errors[:3])
    assert report.longest_gap_s < GOES_ON_S_MAX
    found = {line.split()[2]: line for line in plain(doors[1].resp_port).execute_command("CLUSTER NODES").splitlines()}
    assert "master,fail" in found
    printed = run("redis-cli", "-p", doors[1].cluster_port, "CLUSTER", "INFO")
    assert "cluster_state:ok" in printed, "two of three nodes serve all slots"


def test_a_sentinel_client_follows_when_the_master_is_killed(start_nodes: StartNodes) -> None:
    cluster = start_nodes(cluster="colony", partitions=PARTITIONS)
    doors = serve(cluster)
    places = [("127.0.0.1", door.resp_port) for door in doors]

    async def scenario() -> tuple[Report, tuple[str, int], tuple[str, int]]:
        # By its defaults redis-py tries a Sentinel that is gone for up to ten seconds before it asks another one.
        sentinel = AsyncSentinel(places, sentinel_kwargs={"socket_timeout": 1, "retry": Retry(NoBackoff(), 0)})
        client = sentinel.master_for("colony", socket_timeout=5)
        before = await sentinel.discover_master("colony")

        async def harm() -> None:
            (victim,) = [door for door in doors if door.resp_port == before[1]]
            (survivor, *_) = [door for door in doors if door is not victim]
            async with survivor.client() as listener, listener.pubsub() as heard:
                await heard.subscribe("+switch-master")
                messages = heard.listen()
                assert (await anext(messages))["type"] == "subscribe"
                cluster.life_of[victim.id].kill()
                switched = await asyncio.wait_for(anext(messages), GOES_ON_S_MAX)
                await messages.aclose()
            name, host, port, *after = switched["data"].decode().split()
            assert (name, host, int(port)) == ("noctule", *before)
            assert (after[0], int(after[1])) in places

        report = await go_through(client, harm)
        after = await sentinel.discover_master("colony")
        assert len(await sentinel.discover_slaves("colony")) == 1
        for each in (client, *sentinel.sentinels):
            await each.aclose()
        return report, before, after

    report, before, after = asyncio.run(scenario())
    assert before != after
    assert after in places
    print(f"sentinel: gap {report.longest_gap_s:.2f} s, {len(report.errors)} errors", report.errors[:3])
    assert report.longest_gap_s < GOES_ON_S_MAX

    followed = Sentinel(places, socket_timeout=1)
    assert followed.discover_master("colony") == after
    assert int(followed.master_for("colony", socket_timeout=5).get(KEYS[0]) or 0) > 1
    assert followed.slave_for("colony", socket_timeout=5).ping()
