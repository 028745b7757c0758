"""How the tests are shared out among the workers of pytest-xdist: what is begun first, what never meets, and ports.

A module is one unit of work, for its tests share clusters. A worker is given the next unit when it is nearly done with
its last, so that who begins with the longest ends with the others.
"""

import gc
import os
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from noctule.deploy.local.checks import FREE_PORTS_VARIABLE

LONGEST = (
    "integration/test_cluster_faults.py",
    "integration/test_bench.py",
    "integration/test_up.py",
    "integration/test_patroni.py",
    "integration/test_failover_bench.py",
    "integration/test_healing.py",
    "integration/test_board.py",
    "integration/test_membership.py",
    "integration/test_services.py",
    "integration/test_redis_faces.py",
    "integration/test_service_clients.py",
    "integration/test_task_queues.py",
    "integration/test_gateway_contract.py",
    "integration/test_files.py",
    "integration/test_verification.py",
    "simulation/test_world.py",
)
"""Modules that take long, the longest first, and that is all faults; of the others the order does not matter."""

PORTS = range(10_000, 32_000)
"""From which the workers take theirs: below those of outgoing connections."""


class ByModule(LoadFileScheduling):
    """One module after the other, and all faults as if they were one.

    A cluster that is harmed needs processors to mend in time: two of them never meet.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "faults" if module.endswith("_faults.py") else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByModule:
    """The order is that of collection."""
    config.option.loadscopereorder = False
    return ByModule(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest modules; with one process, too, so that the order is always the same."""
    rank = {f"tests/{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


def ports_of(number: int, count: int) -> range:
    """Of a worker, one of so many; the port after the last is nobody's, for a test that takes the next one, too."""
    each = len(PORTS) // count
    return PORTS[number * each : (number + 1) * each - 1]


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker ports of its own, for itself and for what it starts: they stay with nodes that are down."""
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is not None:
        ports = ports_of(int(worker["workerid"].removeprefix("gw")), worker["workercount"])
        os.environ[FREE_PORTS_VARIABLE] = f"{ports[0]}-{ports[-1]}"


def pytest_collection_finish() -> None:
    """What was collected stays to the end: no collection of garbage looks at it again, which costs up to a second."""
    gc.collect()
    gc.freeze()
