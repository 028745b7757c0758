"""Shows who serves, as it changes, and asks one of them each second.

python -m examples.watch_service orders --registry http://127.0.0.1:7501
"""

import argparse
import asyncio

import aiohttp

from noctule.kits.discovery import Discovery
from noctule.kits.discovery.aiohttp_session import DiscoverySession


async def show_list(discovery: Discovery, service: str) -> None:
    """A line for each change."""
    async for endpoints in discovery.watch(service):
        print(f"{service}:", ", ".join(each.authority for each in endpoints) or "nobody", flush=True)


async def ask(discovery: Discovery, service: str, pause_s: float = 1.0) -> None:
    """A line for each answer."""
    async with DiscoverySession(discovery) as session:
        while True:
            try:
                async with session.get(f"noctule://{service}/") as response:
                    print(response.status, (await response.text())[:60], flush=True)
            except aiohttp.ClientError as error:
                print(f"no answer: {error}", flush=True)
            await asyncio.sleep(pause_s)


async def main() -> None:
    """Until it is interrupted."""
    parser = argparse.ArgumentParser(description="Watch a service.")
    parser.add_argument("service")
    parser.add_argument("--registry", default=None, help="URLs, joined by commas")
    arguments = parser.parse_args()
    async with Discovery(arguments.registry) as discovery, asyncio.TaskGroup() as tasks:
        tasks.create_task(show_list(discovery, arguments.service))
        tasks.create_task(ask(discovery, arguments.service))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
