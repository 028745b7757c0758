"""``noctule gateway`` as operators use it: shares, switches under load, workers, configs that are bad, stopping."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from pathlib import Path

import pytest
from gateway_process import DEADLINE_S, Client, GatewayProcess, Toy, serving, toys, wait_until

pytestmark = pytest.mark.integration

PROBES = "check = { interval_s = 0.05 }"


def two_services(blue: Toy, green: Toy, *, top: str = "", route: str = "", shares: tuple[float, float]) -> str:
    return f"""
port = 0
{top}
[[services]]
name = "blue"
instances = ["{blue.address}"]
{PROBES}
[[services]]
name = "green"
instances = ["{green.address}"]
{PROBES}
[[routes]]
name = "main"
shares = [{{ service = "blue", percent = {shares[0]} }}, {{ service = "green", percent = {shares[1]} }}]
{route}
"""


def noctule(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "noctule", "gateway", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(noctule, *arguments)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_canary_gets_its_share_and_a_switch_loses_nothing(tmp_path: Path, workers: int) -> None:
    async with toys("blue", "green") as (blue, green):
        gateway = GatewayProcess(tmp_path)
        gateway.config.write_text(two_services(blue, green, top=f"workers = {workers}", shares=(100, 0)))
        async with serving(gateway) as client:
            await client.wait_healthy(2)
            assert {await client.get() for _ in range(20)} == {(200, "blue")}
            shared = await run("shares", "main", "blue=80", "green=20", "--url", gateway.url)
            assert (shared.returncode, shared.stdout) == (0, "main: blue 80 %, green 20 %\n"), shared.stderr
            assert "blue 80 %, green 20 %" in (await run("status", "--url", gateway.url)).stdout
            counts = Counter([(await client.get())[1] for _ in range(300)])
            assert 25 < counts["green"] < 100
            await _switch_under_load(client, green)
            _, found = await client.admin("GET", "status")
            assert found["workers"] == workers
            assert found["overridden_routes"] == ["main"]
            services = {one["name"]: one for one in found["traffic"]["services"]}
            assert services["blue"]["requests"] == len(blue.paths)
            assert services["green"]["requests"] == len(green.paths)
            assert found["traffic"]["failures"] == 0


async def _switch_under_load(client: Client, green: Toy) -> None:
    """Requests that take a while go on all the time; none fails, and those after the switch are all green's."""
    is_over = asyncio.Event()
    answers: Counter[tuple[int, str]] = Counter()

    async def load() -> None:
        while not is_over.is_set():
            answers[await client.get("/?s=0.02")] += 1

    loads = [asyncio.create_task(load()) for _ in range(8)]
    await wait_until(lambda: _is(answers[(200, "blue")] > 20))
    status, progress = await client.admin("POST", "api/switch", {"route": "main", "service": "green"})
    assert status in (200, 202)
    assert set(progress["in_flight"]) == {"blue"}
    after = [asyncio.create_task(client.get("/?s=0.02")) for _ in range(20)]
    assert set(await asyncio.gather(*after)) == {(200, "green")}

    async def is_drained() -> bool:
        _, found = await client.admin("GET", "status")
        return all(one["in_flight"] == 0 for one in found["traffic"]["services"] if one["name"] == "blue")

    await wait_until(is_drained)
    is_over.set()
    await asyncio.gather(*loads)
    assert {status for status, _ in answers} == {200}, answers


async def _is(value: bool) -> bool:
    return value


async def test_a_client_stays_with_its_share_by_a_header(tmp_path: Path) -> None:
    async with toys("blue", "green") as (blue, green):
        gateway = GatewayProcess(tmp_path)
        config = two_services(blue, green, route='split_on = "header:X-User"', shares=(50, 50))
        gateway.config.write_text(config)
        async with serving(gateway) as client:
            await client.wait_healthy(2)
            homes = {user: await client.get(**{"X-User": str(user)}) for user in range(40)}
            assert 5 < Counter(homes.values())[(200, "green")] < 35
            assert {user: await client.get(**{"X-User": str(user)}) for user in homes} == homes


async def test_a_bad_config_does_not_start_and_is_told_with_all_its_problems(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text('prot = 80\n[[services]]\nname = "a"\nfails_max = "x"\n')
    for arguments in (("--config", str(config)), ("--config", str(config), "--check")):
        ended = await run(*arguments)
        assert ended.returncode == 2
        assert ended.stdout == ""
        assert re.search(r"error: gateway: there is no setting prot; did you mean 'port'\?", ended.stderr)
        assert "services[0] (a).fails_max: expected `int`" in ended.stderr
        assert "Traceback" not in ended.stderr
    missing = await run("--config", str(tmp_path / "nowhere.toml"))
    assert (missing.returncode, "cannot read the gateway's config" in missing.stderr) == (2, True)


async def test_the_example_passes_its_own_check(tmp_path: Path) -> None:
    example = await run("example")
    (tmp_path / "gateway.toml").write_text(example.stdout)
    checked = await run("--config", str(tmp_path / "gateway.toml"), "--check")
    assert (checked.returncode, checked.stdout) == (0, f"{tmp_path / 'gateway.toml'} is right: 2 routes, 2 services\n")


async def test_a_bad_config_is_refused_while_it_runs_and_a_good_one_is_taken_in(tmp_path: Path) -> None:
    async with toys("blue", "green") as (blue, green):
        gateway = GatewayProcess(tmp_path)
        gateway.config.write_text(two_services(blue, green, shares=(100, 0)))
        async with serving(gateway) as client:
            await client.wait_healthy(2)
            gateway.config.write_text("port = [")
            gateway.signal(signal.SIGHUP)

            async def is_refused() -> bool:
                _, found = await client.admin("GET", "status")
                return "is not TOML" in found["config_error"]

            await wait_until(is_refused)
            assert len(gateway.events("config_refused")) == 1
            assert await client.get() == (200, "blue")
            reloaded = await run("reload", "--url", gateway.url)
            assert (reloaded.returncode, "is not TOML" in reloaded.stderr) == (2, True)
            gateway.config.write_text(two_services(blue, green, top="workers = 3", shares=(0, 100)))
            reloaded = await run("reload", "--url", gateway.url)
            assert (reloaded.returncode, reloaded.stdout) == (0, f"{gateway.config} is in force\n"), reloaded.stderr
            assert "from the next start on: workers" in reloaded.stderr
            assert {await client.get() for _ in range(10)} == {(200, "green")}
            _, found = await client.admin("GET", "status")
            assert (found["config_error"], found["configs_refused"]) == ("", 2)


async def test_draining_an_instance_waits_for_what_it_has(tmp_path: Path) -> None:
    async with toys("a", "b") as (a, b):
        gateway = GatewayProcess(tmp_path)
        gateway.config.write_text(
            f'port = 0\n[[services]]\nname = "app"\ninstances = ["{a.address}", "{b.address}"]\n{PROBES}\n'
            '[[routes]]\nname = "app"\nshares = [{ service = "app" }]\n'
        )
        async with serving(gateway) as client:
            await client.wait_healthy(2)
            slow = [asyncio.create_task(client.get("/held")) for _ in range(2)]
            await wait_until(lambda: _is(len(a.paths) + len(b.paths) == 2))
            command = [sys.executable, "-m", "noctule", "gateway", "drain", "app", a.address, "--url", gateway.url]
            draining = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
            assert draining.stderr is not None
            assert await asyncio.wait_for(draining.stderr.readline(), DEADLINE_S) == b"1 still in flight\n"
            for each in (a, b):
                each.gate.set()
            said, _ = await asyncio.wait_for(draining.communicate(), DEADLINE_S)
            assert (draining.returncode, said) == (0, b"done: nothing is in flight there\n")
            assert {await task for task in slow} == {(200, "a"), (200, "b")}
            assert {await client.get() for _ in range(10)} == {(200, "b")}
            assert (await run("undrain", "app", a.address, "--url", gateway.url)).returncode == 0
            assert {await client.get() for _ in range(10)} == {(200, "a"), (200, "b")}
            unknown = await run("drain", "app", "10.9.9.9:1", "--url", gateway.url)
            assert (unknown.returncode, "has no instance '10.9.9.9:1'" in unknown.stderr) == (4, True)


async def test_a_killed_worker_comes_back_and_does_as_the_others(tmp_path: Path) -> None:
    async with toys("blue", "green") as (blue, green):
        gateway = GatewayProcess(tmp_path)
        gateway.config.write_text(two_services(blue, green, top="workers = 2", shares=(100, 0)))
        async with serving(gateway) as client:
            await client.wait_healthy(2)
            await client.admin("POST", "api/switch", {"route": "main", "service": "green"})
            os.kill(_children(gateway)[0], signal.SIGKILL)
            await wait_until(lambda: _is(bool(gateway.events("worker_ended"))))

            async def are_both_back() -> bool:
                status, found = await client.admin("GET", "status")
                return status == 200 and found["workers"] == 2

            await wait_until(are_both_back)
            await client.wait_healthy(2)
            # A new worker has to ask the instances first how they are.
            await wait_until(lambda: _all_green(client))


async def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    async with toys("blue", "green") as (blue, green):
        gateway = GatewayProcess(tmp_path)
        gateway.config.write_text(two_services(blue, green, top="workers = 2", shares=(100, 0)))
        async with serving(gateway) as client:
            await client.wait_healthy(2)
            hung, other = _children(gateway)
            os.kill(hung, signal.SIGSTOP)
            await wait_until(lambda: _is(not Path(f"/proc/{hung}").exists()))
            assert [event["pid"] for event in gateway.events("worker_stuck")] == [hung]
            await wait_until(lambda: _is(len(_children(gateway)) == 2))
            assert other in _children(gateway)
            await client.wait_healthy(2)


async def _all_green(client: Client) -> bool:
    return {await client.get() for _ in range(40)} == {(200, "green")}


def _children(gateway: GatewayProcess) -> list[int]:
    pid = gateway.facts["pid"]
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("workers", [1, 2])
async def test_stopping_finishes_what_is_in_flight_and_leaves_nobody(tmp_path: Path, workers: int) -> None:
    async with toys("blue", "green") as (blue, green):
        gateway = GatewayProcess(tmp_path)
        gateway.config.write_text(two_services(blue, green, top=f"workers = {workers}", shares=(100, 0)))
        async with serving(gateway) as client:
            await client.wait_healthy(2)
            children = _children(gateway)
            slow = [asyncio.create_task(client.get("/?s=1")) for _ in range(4)]
            await wait_until(lambda: _is(len(blue.paths) == 4))
            gateway.signal(signal.SIGTERM)
            assert await asyncio.gather(*slow) == [(200, "blue")] * 4
            assert await gateway.wait_end() == 0
            assert len(children) == (workers if workers > 1 else 0)
            assert not any(Path(f"/proc/{child}").exists() for child in children)


async def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    async with toys("blue", "green") as (blue, green):
        gateway = GatewayProcess(tmp_path)
        gateway.config.write_text(two_services(blue, green, top="workers = 2", shares=(100, 0)))
        async with serving(gateway) as client:
            await client.wait_healthy(2)
            children = _children(gateway)
            gateway.signal(signal.SIGKILL)
            await gateway.wait_end()
            await wait_until(lambda: _is(not any(Path(f"/proc/{child}/fd").exists() for child in children)))


async def test_two_gateways_do_not_share_a_port_by_accident(tmp_path: Path) -> None:
    async with toys("blue", "green") as (blue, green):
        gateway = GatewayProcess(tmp_path)
        gateway.config.write_text(two_services(blue, green, top="workers = 2", shares=(100, 0)))
        async with serving(gateway):
            other = tmp_path / "other.toml"
            other.write_text(gateway.config.read_text().replace("port = 0", f"port = {gateway.facts['port']}"))
            ended = await run("--config", str(other))
            assert ended.returncode == 2
            assert f"cannot listen on 127.0.0.1:{gateway.facts['port']}" in ended.stderr


async def test_strangers_do_not_reach_the_gateways_own_paths(tmp_path: Path) -> None:
    async with toys("blue", "green") as (blue, green):
        gateway = GatewayProcess(tmp_path)
        gateway.config.write_text(two_services(blue, green, shares=(100, 0)))
        async with serving(gateway) as client:
            await client.wait_healthy(2)
            for header in ({"X-Forwarded-For": "10.0.0.1"}, {"Host": "evil.example.com"}, {"Origin": "http://x"}):
                status, text = await client.get("/__noctule/status", **header)
                assert status in (403, 404)
                assert "traffic" not in text
            assert blue.paths == green.paths == []
