"""Active health: every instance is asked again and again whether it should get traffic."""

import asyncio
import logging
from typing import Protocol

from noctule.gateway.instances import Instance
from noctule.gateway.pool import Pool
from noctule.gateway.traffic import Traffic
from noctule.gateway.upstream import BrokenError, NotSentError

log = logging.getLogger("noctule.gateway")


class Asker(Protocol):
    """What can ask an instance."""

    async def probe(self, instance: Instance, path: str, timeout_s: float) -> int:
        """The status of a GET; `NotSentError`, `BrokenError`, or `TimeoutError`."""
        ...


class Prober:
    """One task for each instance, all owned by `run`, so that a slow one delays no other's probes."""

    def __init__(self, traffic: Traffic, asker: Asker) -> None:
        self._traffic = traffic
        self._asker = asker
        self._tasks: dict[tuple[str, str, str], asyncio.Task[None]] = {}
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Probe whoever the traffic has, until `stop`."""
        async with asyncio.TaskGroup() as group:
            self._traffic.on_instances = lambda: self._follow(group)
            self._follow(group)
            await self._stopped.wait()
            self._traffic.on_instances = _nothing
            for task in self._tasks.values():
                task.cancel()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopped.set()

    def _follow(self, group: asyncio.TaskGroup) -> None:
        wanted = {
            (pool.service.name, instance.id, instance.address): (pool, instance)
            for pool, instance in self._traffic.probes()
        }
        for key in self._tasks.keys() - wanted.keys():
            self._tasks.pop(key).cancel()
        for key, (pool, instance) in wanted.items():
            if key not in self._tasks:
                probing = self._probe_forever(pool, instance.id)
                self._tasks[key] = group.create_task(probing, name=f"probe-{instance.id}")

    async def _probe_forever(self, pool: Pool, instance_id: str) -> None:
        """The pool knows the instance as it is now: its weight may have changed."""
        while (instance := pool.instance(instance_id)) is not None:
            try:
                await self._probe(pool, instance)
            except Exception:
                # The outermost loop of this task: an error here is ours, and must not end the probes of the others.
                log.exception("probe_error", extra={"instance": instance.id})
            await asyncio.sleep(pool.service.check.interval_s)

    async def _probe(self, pool: Pool, instance: Instance) -> None:
        path, timeout_s = pool.service.check.path, pool.service.check.timeout_s
        try:
            status = await self._asker.probe(instance, path, timeout_s)
        except NotSentError as error:
            pool.probed(instance, f"probe: {error}", is_good=False, is_gone=error.is_gone)
        except BrokenError as error:
            pool.probed(instance, f"probe: {error}", is_good=False)
        except TimeoutError:
            pool.probed(instance, f"probe: no answer within {timeout_s:g} s", is_good=False)
        else:
            pool.probed(instance, f"probe: {path} answered {status}", is_good=200 <= status < 300)


def _nothing() -> None:
    pass
