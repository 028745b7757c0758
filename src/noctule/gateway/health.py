"""Active health: every instance is asked again and again whether it should get traffic."""

import asyncio
import logging

from noctule.gateway.config import GatewayConfig, Instance
from noctule.gateway.fleet import Fleet
from noctule.gateway.upstream import BrokenError, NotSentError, Upstream

log = logging.getLogger("noctule.gateway")


class Prober:
    """One task for each watched instance, all owned by `run`, so that a slow one delays no other's probes."""

    def __init__(self, config: GatewayConfig, fleet: Fleet, upstream: Upstream) -> None:
        self._config = config
        self._fleet = fleet
        self._upstream = upstream
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopped = asyncio.Event()

    async def run(self, started: asyncio.Event) -> None:
        """Own the probes until `stop`; `started` is set once `watch` may be called."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            started.set()
            await self._stopped.wait()
            for instance_id in list(self._tasks):
                self.forget(instance_id)
            self._group = None

    def watch(self, instance: Instance) -> None:
        """Probe an instance from now on; before `run` has started and after `stop` nothing is probed."""
        if self._group is not None:
            name = f"probe-{instance.id}"
            self._tasks[instance.id] = self._group.create_task(self._probe_forever(instance), name=name)

    def forget(self, instance_id: str) -> None:
        """Stop probing it."""
        task = self._tasks.pop(instance_id, None)
        if task is not None:
            task.cancel()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopped.set()

    async def _probe_forever(self, instance: Instance) -> None:
        while True:
            try:
                await self._probe(instance)
            except Exception:
                # The outermost loop of this task: an error here is ours, and must not end the probes of the others.
                log.exception("probe_error", extra={"instance": instance.id})
            await asyncio.sleep(self._config.health_interval_s)

    async def _probe(self, instance: Instance) -> None:
        path, timeout_s = self._config.health_path, self._config.health_timeout_s
        try:
            status = await self._upstream.probe(instance, path, timeout_s)
        except NotSentError as error:
            self._fleet.probed(instance, f"probe: {error}", is_good=False, is_gone=error.is_gone)
        except BrokenError as error:
            self._fleet.probed(instance, f"probe: {error}", is_good=False)
        except TimeoutError:
            self._fleet.probed(instance, f"probe: no answer within {timeout_s:g} s", is_good=False)
        else:
            self._fleet.probed(instance, f"probe: {path} answered {status}", is_good=200 <= status < 300)
