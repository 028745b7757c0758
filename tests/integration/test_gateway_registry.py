"""A gateway that goes by the registry: instances that come, go and fail, a config under a key, and no registry."""

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from engines import free_port
from gateway_process import Client, GatewayProcess, Toy, serving, toys, wait_until
from own_node import OwnNode, own_node

from noctule.core.registry.objects import CheckStatus

pytestmark = pytest.mark.integration

CONFIG = """
port = 0
[[services]]
name = "shop"
registry = "shop"
check = { interval_s = 0.05 }
[[routes]]
name = "shop"
shares = [{ service = "shop" }]
"""


async def put_key(node: OwnNode, key: str, content: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{node.url}/v1/kv/{key}", data=content.encode()) as response,
    ):
        assert (response.status, await response.text()) == (200, "true")


async def answers(client: Client, count: int = 30) -> Counter[tuple[int, str]]:
    return Counter([await client.get() for _ in range(count)])


async def wait_answered_by(client: Client, *names: str) -> None:
    async def are_there() -> bool:
        found = await answers(client)
        return {text for status, text in found if status == 200} == set(names)

    await wait_until(are_there)


async def test_instances_come_go_and_fail_as_the_registry_says(tmp_path: Path) -> None:
    async with toys("a", "b", "c") as (a, b, c), own_node(tmp_path / "node") as node:
        await node.register("shop", a.port)
        gateway = GatewayProcess(tmp_path, "--config", str(tmp_path / "gateway.toml"), "--node", node.url)
        gateway.config.write_text(CONFIG)
        async with serving(gateway) as client:
            await client.wait_healthy(1)
            assert await answers(client) == {(200, "a"): 30}
            await node.register("shop", b.port)
            await wait_answered_by(client, "a", "b")
            # Critical in the registry, though it answers its probes.
            await node.tell(a.port, CheckStatus.CRITICAL)
            await wait_answered_by(client, "b")
            await node.tell(a.port, CheckStatus.PASSING)
            await wait_answered_by(client, "a", "b")
            await node.register("shop", c.port)
            for gone in (a, b):
                await node.deregister(gone.port)
            await wait_answered_by(client, "c")
            assert (await answers(client))[(200, "c")] == 30


async def test_blue_and_green_are_tags_of_one_service(tmp_path: Path) -> None:
    config = """
port = 0
[[services]]
name = "blue"
registry = "shop"
tag = "blue"
check = { interval_s = 0.05 }
[[services]]
name = "green"
registry = "shop"
tag = "green"
check = { interval_s = 0.05 }
[[routes]]
name = "shop"
shares = [{ service = "blue", percent = 100 }, { service = "green", percent = 0 }]
"""
    async with toys("a", "b") as (a, b), own_node(tmp_path / "node") as node:
        await node.register("shop", a.port, ["blue"])
        await node.register("shop", b.port, ["green"])
        gateway = GatewayProcess(tmp_path, "--config", str(tmp_path / "gateway.toml"), "--node", node.url)
        gateway.config.write_text(config)
        async with serving(gateway) as client:
            await client.wait_healthy(2)
            assert await answers(client) == {(200, "a"): 30}
            await client.admin("POST", "api/switch", {"route": "shop", "service": "green"})
            assert await answers(client) == {(200, "b"): 30}


async def test_without_the_registry_the_last_list_goes_on_also_over_a_start(tmp_path: Path) -> None:
    arguments = ("--config", str(tmp_path / "gateway.toml"), "--data-dir", str(tmp_path / "kept"))
    async with toys("a", "b") as (a, b):
        async with own_node(tmp_path / "node") as node:
            await node.register("shop", a.port)
            await node.register("shop", b.port)
            gateway = GatewayProcess(tmp_path, *arguments, "--node", node.url)
            gateway.config.write_text(CONFIG)
            async with serving(gateway) as client:
                await client.wait_healthy(2)
                await wait_until(lambda: _has_files(tmp_path / "kept"))
        # The registry has gone with its node.
        again = GatewayProcess(tmp_path, *arguments, "--node", node.url)
        async with serving(again) as client:
            await client.wait_healthy(2)
            assert set(await answers(client)) == {(200, "a"), (200, "b")}
            _, found = await client.admin("GET", "status")
            assert found["registry"][0]["source"] == "last-good"


async def test_a_start_without_registry_and_list_serves_what_it_can_until_the_registry_comes(tmp_path: Path) -> None:
    port = free_port()
    async with toys("a") as (a,):
        gateway = GatewayProcess(
            tmp_path, "--config", str(tmp_path / "gateway.toml"), "--node", f"http://127.0.0.1:{port}"
        )
        gateway.config.write_text(CONFIG)
        async with serving(gateway) as client:
            assert (await client.get())[0] == 503
            assert len(gateway.events("registry_list_missing")) == 1
            async with own_node(tmp_path / "node", http_port=port) as node:
                await node.register("shop", a.port)
                await wait_answered_by(client, "a")


async def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(each.suffix == ".json" for each in folder.iterdir())


def fixed(toy: Toy) -> str:
    return (
        f'port = 0\n[[services]]\nname = "app"\ninstances = ["{toy.address}"]\ncheck = {{ interval_s = 0.05 }}\n'
        '[[routes]]\nname = "app"\nshares = [{ service = "app" }]\n'
    )


async def test_a_config_in_the_registry_is_live_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    arguments = ("--config", "registry:edge", "--data-dir", str(tmp_path / "kept"))
    async with toys("a", "b") as (a, b):
        async with own_node(tmp_path / "node") as node:
            await put_key(node, "noctule/gateway/edge", fixed(a))
            gateway = GatewayProcess(tmp_path, *arguments, "--node", node.url)
            async with serving(gateway) as client:
                await client.wait_healthy(1)
                assert await client.get() == (200, "a")
                await put_key(node, "noctule/gateway/edge", "port = ")

                async def is_refused() -> bool:
                    _, found = await client.admin("GET", "status")
                    return "is not TOML" in found["config_error"]

                await wait_until(is_refused)
                assert await client.get() == (200, "a")
                await put_key(node, "noctule/gateway/edge", fixed(b))
                await wait_answered_by(client, "b")
                _, found = await client.admin("GET", "status")
                assert (found["config"], found["config_error"]) == ("registry:edge", "")
        again = GatewayProcess(tmp_path, *arguments, "--node", node.url)
        async with serving(again) as client:
            await client.wait_healthy(1)
            assert await client.get() == (200, "b")
            assert again.events("config_from_disk")


async def test_a_key_that_is_not_there_is_told(tmp_path: Path) -> None:
    async with own_node(tmp_path / "node") as node:
        gateway = GatewayProcess(tmp_path, "--config", "registry:edge", "--node", node.url)
        with pytest.raises(AssertionError, match="the registry has no key noctule/gateway/edge"):
            await gateway.start()
        assert await asyncio.wait_for(gateway.wait_end(), 10) == 2
