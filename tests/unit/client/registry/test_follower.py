"""How long a follower waits between two questions to a registry that is away."""

import asyncio
from random import Random
from types import SimpleNamespace
from typing import cast

import pytest
from tests.unit.hand_clock import HandClock

from noctule.base.errors import UnavailableError
from noctule.client.registry.endpoints import Endpoint, Instance
from noctule.client.registry.follower import PAUSE_S_MAX, PAUSE_S_MAX_EMPTY, Follower
from noctule.client.registry.registry_client import RegistryClient


class HighestChance(Random):
    def uniform(self, a: float, b: float) -> float:
        return b


class Registry:
    """Two URLs that answer with `instances` until these are None."""

    url_count = 2
    preferred_url = "http://127.0.0.1:1"

    def __init__(self, *addresses: str) -> None:
        self.instances: list[Instance] | None = [Instance(Endpoint(each, each, 80), True) for each in addresses]

    async def ask(self, *_: object) -> SimpleNamespace:
        if self.instances is None:
            raise UnavailableError("away")
        return SimpleNamespace(index=7, instances=self.instances)


@pytest.mark.parametrize(("addresses", "expected_s"), [(("10.0.0.1",), PAUSE_S_MAX), ((), PAUSE_S_MAX_EMPTY)])
async def test_a_follower_without_anybody_to_call_asks_more_often(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...], expected_s: float
) -> None:
    """After a stop of everything a gateway answered 503 for 15 s more than it had to."""
    registry = Registry(*addresses)
    client = cast("RegistryClient", registry)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            registry.instances = None
        if len(pauses) > 40:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    follower = Follower("web", "", client, None, 30.0, HandClock(), HighestChance())
    with pytest.raises(asyncio.CancelledError):
        await follower._follow()
    assert max(pauses[1:]) == expected_s
    assert 0.0 in pauses, "the other URL is asked at once"
