"""Services on real nodes: what renews itself, what nodes check, who watches, and what is left after faults."""

import asyncio
import json
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from checked_servers import CheckedHttp, grpc_server, tcp_server
from cluster_processes import CATCHES_UP_S_MAX, Door, NodeCluster, StartNodes, until, until_ready
from engines import free_port
from grpc_health.v1 import health_pb2
from mounted_disks import MountDisk
from up_process import command, environment

from noctule.adapters.certificates import CertificateAuthority
from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import NoctuleError, RequestError, StorageError, UnavailableError
from noctule.client.admin import AdminClient
from noctule.client.services import ServicesClient
from noctule.core.registry.objects import CheckStatus
from noctule.core.registry.views import CheckRegistration, ServiceRegistration, ServiceView
from noctule.embed.health_checker import HealthChecker, NodeHealth
from noctule.embed.service_discovery import ServiceDiscovery

pytest_plugins = ("cluster_processes", "mounted_disks")
pytestmark = pytest.mark.integration

PASSING, WARNING, CRITICAL = CheckStatus.PASSING, CheckStatus.WARNING, CheckStatus.CRITICAL
FAST = {"interval_s": 0.1, "timeout_s": 0.5}
NOTICED_S_MAX = 3.0
"""A killed node is critical everywhere by then, on a busy machine; a closed connection is noticed in milliseconds."""
MEMBERS_S_MAX = 10.0


def renewing(instance: str, name: str, ttl_s: float = 30.0, **fields: object) -> ServiceRegistration:
    return ServiceRegistration(name, id=instance, address="127.0.0.1", port=80, ttl_s=ttl_s, **fields)  # type: ignore[arg-type]


def checked(instance: str, name: str, **way: object) -> ServiceRegistration:
    """Kept by the node that is asked, with one check."""
    check = CheckRegistration(f"check:{instance}", **{**FAST, **way})  # type: ignore[arg-type]
    return ServiceRegistration(name, id=instance, port=80, checks=(check,))


@asynccontextmanager
async def client_of(*doors: Door) -> AsyncIterator[ServicesClient]:
    async with ServicesClient([door.url for door in doors]) as client:
        yield client


async def until_status(client: ServicesClient, instance: str, status: CheckStatus) -> ServiceView:
    """Return once it is so; gives the instance."""
    found: list[ServiceView] = []

    async def is_so() -> bool:
        found[:] = [each for each in (await client.services()).services if each.id == instance]
        return bool(found) and found[0].status is status

    await until(is_so, f"{instance} to be {status}")
    return found[0]


async def until_members(client: ServicesClient, door: Door) -> None:
    """Return once the registry knows the nodes, so that what they keep is in it at once."""

    async def is_known() -> bool:
        probe = ServiceRegistration("probe", id=f"probe-{door.id}")
        try:
            view = await client.register_service(probe)
        except NoctuleError:
            return False
        return view.modify_index > 0

    await until(is_known, f"node {door.id} to be in the registry", MEMBERS_S_MAX)
    await client.deregister_service(f"probe-{door.id}", node=f"node-{door.id}")


# What holds without faults -------------------------------------------------------------------------------------------


async def test_an_instance_that_is_not_renewed_is_critical_and_then_gone(doors: list[Door]) -> None:
    async with client_of(doors[0]) as client, client_of(doors[2]) as other:
        service = renewing("ttl-1", "ttl", ttl_s=1.0, remove_after_s=1.0)
        for _ in range(3):
            assert (await client.register_service(service)).status is PASSING
            await asyncio.sleep(0.5)
        begun = time.monotonic()
        await until_status(other, "ttl-1", CRITICAL)
        assert time.monotonic() - begun < 2.0

        async def is_gone() -> bool:
            return not (await other.services("ttl")).services

        await until(is_gone, "the instance to be removed")
        with pytest.raises(RequestError, match="no instance"):
            await other.service("ttl-1")


async def test_an_http_check_tells_2xx_from_429_from_the_rest(doors: list[Door]) -> None:
    checked_http = CheckedHttp()
    async with client_of(doors[1]) as client, checked_http.serving():
        way = {"http": checked_http.url, "method": "POST", "headers": {"X-Key": ("a", "b")}, "body": "ping"}
        view = await client.register_service(checked("http-1", "http", **way))
        assert view.node == "node-2"
        found = await until_status(client, "http-1", PASSING)
        assert next(check for check in found.checks if check.type == "http").output.endswith("200 OK Output: fine")
        method, headers, body = checked_http.asked[0]
        assert (method, headers["User-Agent"], body) == ("POST", "Noctule Health Check", "ping")
        checked_http.status = 429
        await until_status(client, "http-1", WARNING)
        picture = await doors[1].picture()
        assert picture is not None
        assert picture.counters["noctule_agent_attempts_total"] > 1
        assert picture.gauges["noctule_agent_checks"] >= 1
        assert picture.gauges["noctule_registry_nodes"] >= 3
        checked_http.status = 503
        await until_status(client, "http-1", CRITICAL)
        checked_http.status, checked_http.body = 204, ""
        await until_status(client, "http-1", PASSING)
        checked_http.is_silent = True
        silent = await until_status(client, "http-1", CRITICAL)
        assert "no answer within 0.5 s" in [check.output for check in silent.checks]
        assert await client.deregister_service("http-1")
        assert not await client.deregister_service("http-1")


async def test_what_a_server_says_is_cut_before_it_is_kept(doors: list[Door]) -> None:
    checked_http = CheckedHttp()
    checked_http.body = "x" * 1_000_000
    async with client_of(doors[1]) as client, checked_http.serving():
        await client.register_service(checked("long-1", "long", http=checked_http.url))
        found = await until_status(client, "long-1", PASSING)
        assert max(len(check.output) for check in found.checks) == 4096
        await client.deregister_service("long-1")


async def test_a_tcp_check_needs_somebody_who_listens(doors: list[Door]) -> None:
    async with client_of(doors[0]) as client, tcp_server() as (address, server):
        await client.register_service(checked("tcp-1", "tcp", tcp=address))
        await until_status(client, "tcp-1", PASSING)
        server.close()
        found = await until_status(client, "tcp-1", CRITICAL)
        assert any("refused" in check.output for check in found.checks)
        await client.deregister_service("tcp-1")


async def test_a_grpc_check_asks_the_standard_health_service(doors: list[Door]) -> None:
    serving = health_pb2.HealthCheckResponse
    async with client_of(doors[0]) as client, grpc_server() as (address, servicer):
        await servicer.set("orders", serving.SERVING)
        await client.register_service(checked("grpc-1", "grpc", grpc=f"{address}/orders"))
        await until_status(client, "grpc-1", PASSING)
        await servicer.set("orders", serving.NOT_SERVING)
        found = await until_status(client, "grpc-1", CRITICAL)
        assert any("NOT_SERVING" in check.output for check in found.checks)
        await client.register_service(checked("grpc-2", "grpc", grpc=f"{address}/unknown"))
        assert any("NOT_FOUND" in check.output for check in (await until_output(client, "grpc-2")).checks)
        for instance in ("grpc-1", "grpc-2"):
            await client.deregister_service(instance)


async def test_certificates_are_held_against_those_that_the_system_trusts(
    start_nodes: StartNodes, tmp_path: Path
) -> None:
    authority = CertificateAuthority("checked", datetime.now(UTC))
    certificate, key = authority.issue(["127.0.0.1"], datetime.now(UTC))
    for name, pem in (("ca", authority.certificate_pem), ("server", certificate + key)):
        (tmp_path / f"{name}.pem").write_bytes(pem)
    https = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    https.load_cert_chain(tmp_path / "server.pem")
    trusting = ["env", f"SSL_CERT_FILE={tmp_path}/ca.pem", f"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH={tmp_path}/ca.pem"]
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    cluster = start_nodes(partitions=1)
    lives = [cluster.start(1, prefix=trusting), cluster.start(2), cluster.start(3)]
    trusting_door, other, _ = [life.wait_serving() for life in lives]
    await until_ready(trusting_door, other)
    checked_http = CheckedHttp()
    async with (
        client_of(trusting_door) as client,
        client_of(other) as stranger,
        checked_http.serving(https),
        grpc_server(credentials) as (address, servicer),
    ):
        await until_members(client, trusting_door)
        await until_members(stranger, other)
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        for asked, of in ((client, "trusting"), (stranger, "stranger")):
            await asked.register_service(checked(f"https-{of}", "https", http=checked_http.url))
            await asked.register_service(checked(f"grpc-{of}", "grpcs", grpc=address, grpc_tls=True))
        skipping = checked("https-skipping", "https", http=checked_http.url, tls_skip_verify=True)
        await stranger.register_service(skipping)
        for instance in ("https-trusting", "grpc-trusting", "https-skipping"):
            await until_status(client, instance, PASSING)
        refused = await until_output(client, "https-stranger")
        assert refused.status is CRITICAL
        assert any("CERTIFICATE_VERIFY_FAILED" in check.output for check in refused.checks)
        assert (await until_output(client, "grpc-stranger")).status is CRITICAL


async def until_output(client: ServicesClient, instance: str) -> ServiceView:
    """Return once its own check has said something."""

    async def has_said() -> bool:
        return any(check.output and not check.of_node for check in (await client.service(instance)).checks)

    await until(has_said, f"the check of {instance} to say something")
    return await client.service(instance)


async def test_an_alias_repeats_the_health_of_another_nodes_service(doors: list[Door]) -> None:
    async with client_of(doors[0]) as one, client_of(doors[1]) as two, tcp_server() as (address, server):
        await one.register_service(checked("db-1", "db", tcp=address))
        alias = CheckRegistration("alias:front-1", alias_node="node-1", alias_service="db-1")
        await two.register_service(ServiceRegistration("front", id="front-1", port=80, checks=(alias,)))
        await until_status(two, "front-1", PASSING)
        server.close()
        await until_status(two, "front-1", CRITICAL)
        await one.deregister_service("db-1")
        found = await until_status(two, "front-1", CRITICAL)
        assert any(check.type == "alias" for check in found.checks)
        await two.deregister_service("front-1")


async def test_thresholds_hold_back_what_is_not_sure(doors: list[Door]) -> None:
    checked_http = CheckedHttp()
    async with client_of(doors[0]) as client, checked_http.serving():
        way = {"http": checked_http.url, "success_before_passing": 3, "failures_before_critical": 4}
        await client.register_service(checked("slow-1", "slow", **way))
        await until_status(client, "slow-1", PASSING)
        assert len(checked_http.asked) >= 3
        checked_http.status, asked = 500, len(checked_http.asked)
        await until_status(client, "slow-1", CRITICAL)
        assert len(checked_http.asked) - asked >= 4
        await client.deregister_service("slow-1")


async def test_programs_register_find_and_follow(doors: list[Door]) -> None:
    lists: list[list[str]] = []
    async with client_of(*doors) as client, client_of(doors[2]) as watcher:

        async def follow() -> None:
            async for found in ServiceDiscovery(watcher).watch("shop"):
                names = [each.id for each in found]
                lists.append(names)

        following = asyncio.create_task(follow())
        await until(lambda: _is(len(lists) > 0), "the first list")
        async with ServiceDiscovery(client) as discovery:
            await discovery.register(renewing("shop-1", "shop", ttl_s=1.0))
            await discovery.register(renewing("shop-2", "shop", ttl_s=1.0))
            await asyncio.sleep(2.5)
            assert [each.id for each in await discovery.discover("shop")] == ["shop-1", "shop-2"], "they are renewed"
            assert await discovery.unregister("shop-1")
            assert [each.id for each in await discovery.discover("shop")] == ["shop-2"]
        await until(lambda: _is(lists[-1] == []), "the end of the last one to be told")
        following.cancel()
        assert lists[0] == []
        assert ["shop-1", "shop-2"] in lists
        assert lists[-2:] == [["shop-2"], []]


async def _is(value: bool) -> bool:
    return value


async def test_a_list_is_waited_for(doors: list[Door]) -> None:
    async with client_of(doors[0]) as client, client_of(doors[1]) as other:
        before = await client.services("waited")
        begun = time.monotonic()
        same = await client.wait_services("waited", before.index, wait_s=0.4)
        assert time.monotonic() - begun >= 0.4
        assert same.services == ()
        waiting = asyncio.create_task(client.wait_services("waited", same.index, wait_s=20))
        await asyncio.sleep(0.1)
        await other.register_service(renewing("noise-1", "noise"))
        await asyncio.sleep(0.1)
        assert not waiting.done(), "another service is no news"
        await other.register_service(renewing("waited-1", "waited"))
        async with asyncio.timeout(2):
            assert [each.id for each in (await waiting).services] == ["waited-1"]
        assert (await client.wait_services("waited", 10**9, wait_s=20)).services, "an index of another life is void"


async def test_the_graph_names_what_is_missing_and_what_goes_round(doors: list[Door]) -> None:
    async with client_of(doors[0]) as client:
        for name, calls in {"a": ("b",), "b": ("c", "gone"), "c": ("a",), "d": ("a",)}.items():
            await client.register_service(renewing(f"{name}-1", name, depends_on=calls))
        graph = await client.dependencies()
        known = {each.name: each for each in graph.services}
        assert known["a"].used_by == ("c", "d")
        assert (known["gone"].status, known["gone"].instances) == (CRITICAL, 0)
        assert "gone" in graph.missing
        assert ("a", "b", "c") in graph.cycles
        for name in "abcd":
            assert await client.deregister_service(f"{name}-1")


async def test_a_node_that_keeps_a_service_is_to_be_asked_to_remove_it(doors: list[Door]) -> None:
    async with client_of(doors[0]) as one, client_of(doors[1]) as two:
        await one.register_service(ServiceRegistration("kept", id="kept-1", port=80))
        with pytest.raises(RequestError, match="kept by node-1"):
            await two.deregister_service("kept-1")
        assert await one.deregister_service("kept-1")


async def test_the_command_line_tells_the_same(doors: list[Door]) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            command(*words, "--node", doors[0].url), env=environment(), capture_output=True, text=True, timeout=30
        )
        return done.returncode, done.stdout + done.stderr

    async def noctule(*words: str) -> tuple[int, str]:
        return await asyncio.to_thread(run, *words)

    words = ("--id", "cli-1", "--port", "81", "--tag", "blue", "--meta", "a=b", "--depends-on", "nobody")
    assert await noctule("services", "register", "cli", *words) == (0, "registered cli-1 of cli, kept by node-1\n")
    code, said = await noctule("services", "list", "cli", "--json")
    (found,) = json.loads(said)["services"]
    assert (code, found["id"], found["tags"], found["status"]) == (0, "cli-1", ["blue"], "passing")
    code, said = await noctule("services", "show", "cli-1")
    assert (code, "kept by: node-1" in said, "metadata: a=b" in said) == (0, True, True)
    code, said = await noctule("services", "checks", "cli")
    assert (code, "serfHealth" in said or "Serf Health Status" in said) == (0, True)
    code, said = await noctule("services", "dependencies")
    assert (code, "nobody is called and has no instance" in said) == (1, True)
    assert await noctule("services", "deregister", "cli-1") == (0, "deregistered cli-1\n")
    assert await noctule("services", "deregister", "cli-1") == (0, "there was no instance cli-1\n")
    code, said = await noctule("services", "show", "cli-1")
    assert (code, "error: " in said) == (4, True)
    code, said = await noctule("cluster", "health", "--json")
    assert (code, [each["healthy"] for each in json.loads(said)["nodes"]]) == (0, [True, True, True])


# Faults ---------------------------------------------------------------------------------------------------------------


async def test_a_restarted_node_repairs_what_the_registry_says_of_it(start_nodes: StartNodes) -> None:
    """Its files say what is so: what is gone from them is a stray in the registry, what is new in them is missing."""
    cluster = start_nodes(partitions=1)
    lives = cluster.start_all()
    one, two, three = [life.wait_serving() for life in lives.values()]
    await until_ready(one, two, three)
    async with client_of(one) as client, client_of(two) as other, tcp_server() as (address, _):
        await until_members(client, one)
        await client.register_service(checked("stays-1", "web", tcp=address))
        await client.register_service(ServiceRegistration("web", id="stray-1", port=80))
        await until_status(other, "stays-1", PASSING)
        lives[1].stop()
        folder = cluster.data_dir(1) / "agent"
        records = {path: path.read_text() for path in folder.iterdir()}
        stray = next(path for path, text in records.items() if "stray-1" in text)
        stray.rename(stray.with_name("service-new.json"))
        stray.with_name("service-new.json").write_text(records[stray].replace("stray-1", "new-1"))
        again = cluster.start(1).wait_serving()
        await until_ready(again)

        async def is_repaired() -> bool:
            found = {each.id: each.status for each in (await other.services("web")).services}
            return found == {"stays-1": PASSING, "new-1": PASSING}

        await until(is_repaired, "the registry to be repaired", CATCHES_UP_S_MAX)


async def test_what_is_on_a_killed_node_is_critical_at_once_and_passes_when_it_is_back(
    start_nodes: StartNodes,
) -> None:
    cluster = start_nodes(partitions=1)
    lives = cluster.start_all()
    one, two, three = [life.wait_serving() for life in lives.values()]
    await until_ready(one, two, three)
    async with client_of(three) as client, client_of(one, two) as watcher:
        await until_members(client, three)
        await client.register_service(ServiceRegistration("web", id="web-3", port=80))
        before = await watcher.services("web")
        assert before.services[0].status is PASSING
        waiting = asyncio.create_task(watcher.wait_services("web", before.index, wait_s=20))
        await asyncio.sleep(0.2)
        killed_at = time.monotonic()
        lives[3].kill()
        found = await waiting
        took_s = time.monotonic() - killed_at
        print(f"critical after {took_s * 1000:.0f} ms")
        assert found.services[0].status is CRITICAL
        assert took_s < NOTICED_S_MAX
        assert (await watcher.services("web", passing=True)).services == ()
        again = cluster.start(3).wait_serving()
        await until_ready(again)
        await until_status(watcher, "web-3", PASSING)


async def test_a_watch_goes_on_when_the_node_it_asks_is_killed(start_nodes: StartNodes) -> None:
    cluster = start_nodes(partitions=1)
    lives = cluster.start_all()
    one, two, three = [life.wait_serving() for life in lives.values()]
    await until_ready(one, two, three)
    lists: list[list[str]] = []

    async def follow() -> None:
        async with client_of(three, two) as watcher:
            async for found in ServiceDiscovery(watcher).watch("web"):
                names = [each.id for each in found]
                lists.append(names)

    async with client_of(one) as client:
        await client.register_service(renewing("web-1", "web"))
        following = asyncio.create_task(follow())
        await until(lambda: _is(lists == [["web-1"]]), "the first list")
        lives[3].kill()
        await until(lambda: _has_registered(client), "another instance", CATCHES_UP_S_MAX)
        await until(lambda: _is(lists[-1] == ["web-1", "web-2"]), "the list by another node", CATCHES_UP_S_MAX)
        following.cancel()
    assert lists == [["web-1"], ["web-1", "web-2"]], "nothing that was not so"


async def _has_registered(client: ServicesClient) -> bool:
    """While a new leader is elected nobody can."""
    try:
        await client.register_service(renewing("web-2", "web"))
    except NoctuleError:
        return False
    return True


async def leader_of_meta(doors: list[Door]) -> Door:
    for door in doors:
        picture = await door.picture()
        if picture is not None and (leader := next(each.leader for each in picture.groups if each.id == 0)):
            return next(each for each in doors if each.id == leader)
    raise AssertionError("nobody knows who leads meta")


async def test_nothing_that_was_acknowledged_is_lost_with_the_leader_of_meta(start_nodes: StartNodes) -> None:
    cluster = start_nodes(partitions=1)
    lives = cluster.start_all()
    doors = [life.wait_serving() for life in lives.values()]
    await until_ready(*doors)
    victim = await leader_of_meta(doors)
    survivors = [door for door in doors if door is not victim]
    kept: set[str] = set()
    renewed: set[str] = set()
    is_over = asyncio.Event()

    async def register(door: Door, number: int) -> None:
        async with client_of(door) as client:
            count = 0
            while not is_over.is_set():
                count += 1
                instance = f"w{number}-{count}"
                try:
                    await client.register_service(ServiceRegistration("kept", id=f"k{instance}", port=80))
                    kept.add(f"k{instance}")
                    await client.register_service(renewing(f"r{instance}", "renewed", ttl_s=600))
                    renewed.add(f"r{instance}")
                except NoctuleError:
                    await asyncio.sleep(0.05)

    async with client_of(*survivors) as client:
        for door in survivors:
            async with client_of(door) as own:
                await until_members(own, door)
        tasks = [asyncio.create_task(register(survivors[number % 2], number)) for number in range(4)]
        await until(lambda: _is(len(renewed) > 20), "registrations")
        lives[victim.id].kill()
        so_far = len(renewed)
        await until(lambda: _is(len(renewed) > so_far + 20), "registrations under another leader", CATCHES_UP_S_MAX)
        is_over.set()
        await asyncio.gather(*tasks)

        async def are_there() -> bool:
            found = {each.id for each in (await client.services()).services}
            assert renewed <= found, "acknowledged by the group itself"
            return kept <= found  # Acknowledged by their nodes, which push them.

        await until(are_there, "everything that was acknowledged")


async def test_without_a_quorum_a_node_tells_what_it_knows_and_says_so(start_nodes: StartNodes) -> None:
    cluster = start_nodes(partitions=1)
    lives = cluster.start_all(request_deadline_s="1")
    doors = [life.wait_serving() for life in lives.values()]
    await until_ready(*doors)
    async with client_of(doors[0]) as client:
        await until_members(client, doors[0])
        await client.register_service(ServiceRegistration("web", id="web-1", port=80))
        for node in (2, 3):
            lives[node].process.send_signal(signal.SIGKILL)
        with pytest.raises(UnavailableError):
            await client.services("web")

        async def says_it_is_old() -> bool:  # Who led goes on believing so for an election timeout.
            found = await client.services("web", consistency=ConsistencyLevel.EVENTUAL)
            assert [each.id for each in found.services] == ["web-1"]
            return found.staleness_ms is None or found.staleness_ms > 0

        await until(says_it_is_old, "the list to be called old")
        # What this node keeps is taken in all the same, and follows once there is a leader.
        view = await client.register_service(ServiceRegistration("web", id="web-2", port=80))
        assert view.modify_index == 0
        again = cluster.start(2).wait_serving()

        async def has_followed() -> bool:
            try:
                async with client_of(again) as other:
                    return {each.id for each in (await other.services("web")).services} == {"web-1", "web-2"}
            except NoctuleError:
                return False

        await until(has_followed, "what was registered meanwhile", CATCHES_UP_S_MAX)


async def test_a_full_disk_refuses_registrations_and_nothing_else(
    start_nodes: StartNodes, mount_disk: MountDisk
) -> None:
    cluster: NodeCluster = start_nodes(nodes=1, partitions=1)
    disk = mount_disk(cluster.data_dir(1) / "agent", "size=1m")
    door = cluster.start(1, prefix=disk.prefix).wait_serving()
    await until_ready(door)
    async with client_of(door) as client:
        await until_members(client, door)
        await client.register_service(ServiceRegistration("web", id="web-1", port=80))
        disk.leave_room_for(0)
        with pytest.raises(StorageError, match="No space left on device"):
            await client.register_service(ServiceRegistration("web", id="web-2", port=80))
        assert [each.id for each in (await client.services("web")).services] == ["web-1"]
        status, said = await door.health("/ready")
        assert status == 200, said
        disk.make_room()
        await client.register_service(ServiceRegistration("web", id="web-2", port=80))
        assert len((await client.services("web")).services) == 2


async def change_of(node: int, changes: AsyncIterator[NodeHealth], *, healthy: bool) -> NodeHealth:
    """The next of this node to that; the others may lose sight of a leader for a moment."""
    while (change := await anext(changes)).node != node or change.healthy is not healthy:
        pass
    return change


async def test_the_health_of_nodes_is_followed(start_nodes: StartNodes) -> None:
    cluster = start_nodes(partitions=1)
    ports = {node: str(free_port()) for node in cluster.peers}
    lives = {node: cluster.start(node, http_port=port) for node, port in ports.items()}
    doors = [life.wait_serving() for life in lives.values()]
    await until_ready(*doors)
    async with AdminClient([doors[0].url, doors[1].url]) as admin:
        checker = HealthChecker(admin, interval_s=0.2)

        async def is_healthy() -> bool:
            return (await checker.check_health(3)).healthy

        await until(is_healthy, "node 3's address to be known, and what it says to be good")
        with pytest.raises(RequestError):
            await checker.check_health(9)
        await checker.start_health_checks()
        changes = checker.changes()
        async with asyncio.timeout(CATCHES_UP_S_MAX):
            well_known: set[int] = set()
            while well_known != lives.keys():
                told = await anext(changes)
                (well_known.add if told.healthy else well_known.discard)(told.node)
            lives[3].kill()
            ill = await change_of(3, changes, healthy=False)
            assert ill.backend is None
            assert "cannot connect" in ill.reason
            cluster.start(3, http_port=ports[3])
            well = await change_of(3, changes, healthy=True)
            assert well.backend is not None
        await checker.stop_health_checks()
        looked = checker.health
        await asyncio.sleep(0.5)
        assert checker.health is looked
