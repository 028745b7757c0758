"""Orders become what the driver is told, the newest at last, and a refusal reaches whoever waits."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from noctule.base.errors import ConfigError, UnavailableError
from noctule.gateway.engines import engine_plane
from noctule.gateway.engines.engine import EnginePicture, Instances
from noctule.gateway.engines.engine_plane import EnginePlane
from noctule.gateway.instances import Standing
from noctule.gateway.model import GatewayModel, Route, Service, Share
from noctule.gateway.orders import Orders

MODEL = GatewayModel(
    services=(Service(name="app", instances=("10.0.0.1:80", "10.0.0.2:80")),),
    routes=(Route(name="r", shares=(Share("app"),)),),
    status=False,
)


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_plane, "lacks", lambda engine, model: [])


class FakeDriver:
    """Notes what it is told; refuses models on port 1."""

    def __init__(self, folder: Path, access_log: Path | None) -> None:
        self.told: list[tuple[GatewayModel, Instances]] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.pid = 1

    async def start(self, model: GatewayModel, instances: Instances) -> None:
        await self.apply(model, instances)

    async def apply(self, model: GatewayModel, instances: Instances) -> None:
        await self.may_go_on.wait()
        if model.port == 1:
            raise ConfigError("fake refuses the config")
        self.told.append((model, instances))

    async def status(self) -> EnginePicture:
        return EnginePicture("fake", self.pid, 0, 0, "", ())

    async def stop(self, drain_s: float) -> None:
        pass


@pytest.fixture
async def plane(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EnginePlane:
    monkeypatch.setitem(engine_plane.DRIVERS, "fake", FakeDriver)
    return EnginePlane("fake", tmp_path)


async def admin(method: str, path: str, body: bytes) -> None:
    raise AssertionError("nobody asks")


def orders_of(version: int, **changes: object) -> Orders:
    return Orders(msgspec.structs.replace(MODEL, **changes), version=version)


async def test_drained_instances_get_nothing_new(plane: EnginePlane) -> None:
    await plane.start(orders_of(0), admin)
    plane.apply(msgspec.structs.replace(orders_of(1), drained=(("app", "10.0.0.2:80"),)))
    await plane.wait_applied(1)
    _, instances = plane._driver.told[-1]
    assert [each.standing for each in instances["app"]] == [Standing.SERVING, Standing.DRAINING]
    await plane.stop(0)


async def test_of_orders_that_come_meanwhile_the_newest_counts(plane: EnginePlane) -> None:
    await plane.start(orders_of(0), admin)
    driver = plane._driver
    driver.may_go_on.clear()
    plane.apply(orders_of(1))
    await asyncio.sleep(0)  # So that the first is under way.
    for version in range(2, 6):
        plane.apply(orders_of(version, port=1_000 + version))
    driver.may_go_on.set()
    await plane.wait_applied(5)
    assert [model.port for model, _ in driver.told] == [8080, 8080, 1_005]
    assert (await plane.pictures())[0].version == 5
    await plane.stop(0)


async def test_a_refusal_reaches_whoever_waits_and_the_next_orders_count(plane: EnginePlane) -> None:
    await plane.start(orders_of(0), admin)
    plane.apply(orders_of(1, port=1))
    with pytest.raises(ConfigError, match="fake refuses"):
        await plane.wait_applied(1)
    assert (await plane.pictures())[0].version == 0
    plane.apply(orders_of(2))
    await plane.wait_applied(2)
    await plane.stop(0)


async def test_a_port_that_the_system_chose_stays(plane: EnginePlane) -> None:
    await plane.start(orders_of(0, port=0), admin)
    plane.apply(orders_of(1, port=0))
    await plane.wait_applied(1)
    assert [model.port for model, _ in plane._driver.told] == [plane.port, plane.port]
    assert plane.port > 0
    await plane.stop(0)


async def test_an_engine_that_does_not_run_has_no_picture(plane: EnginePlane) -> None:
    await plane.start(orders_of(0), admin)
    plane._driver.pid = 0
    with pytest.raises(UnavailableError, match="does not run"):
        await plane.pictures()
    await plane.stop(0)
