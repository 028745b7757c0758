"""Fixtures that many of these tests share."""

import asyncio
import gc
import warnings
from collections.abc import Callable, Coroutine, Iterator, Mapping

import pytest
import uvloop
from gateway_world import make_world, world  # noqa: F401 - fixtures
from scenarios import SCENARIO_S, Run

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture
def clients_leave_connections() -> Iterator[None]:
    """For modules with clients of others, which drop connections to dead nodes without closing them: what they left is
    collected here, and does not fail whatever test happens to run when it is."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a scenario to its end; whatever the loop had to swallow on the way is an error, too."""

    def run_scenario(scenario: Coroutine[None, None, None]) -> None:
        swallowed: list[dict[str, object]] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: swallowed.append(context))
            runner.run(asyncio.wait_for(scenario, SCENARIO_S))
        # gRPC's one poller may have had news for the loop of a test before, which is closed; a node has one loop.
        assert [each for each in swallowed if "PollerCompletionQueue" not in str(each["message"])] == []

    return run_scenario


DATA_PLANE = {"test_gateway.py", "test_gateway_features.py", "test_gateway_hostile.py", "test_gateway_tls.py"}


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """The gateway's data plane runs on both loops: they differ in when transports pause, close and write."""
    if item.path.name not in DATA_PLANE:
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
