"""The cluster of one machine, started in order, kept running, stopped in order.

Start: nodes, all at once, until each says it is ready; instances; the gateway, until every instance is healthy there.
Stop: the gateway's door, what is in flight; the instances; the nodes. It must know nothing of signals, terminals or
what is on disk: see supervisor.py.
"""

import asyncio
import importlib.metadata
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import aiohttp
import msgspec

from noctule.base.addresses import join_address
from noctule.base.errors import NoctuleError, UnavailableError
from noctule.client.admin import AdminClient
from noctule.client.exchange import exchange, new_session
from noctule.client.pictures import Instance as RegisteredInstance
from noctule.client.pictures import InstanceState
from noctule.deploy.local.child import START_TIMEOUT_S, Child
from noctule.deploy.local.plan import TOKEN_VARIABLE, InstancePlan, NodePlan, Plan, gateway_url
from noctule.deploy.local.processes import Notice
from noctule.deploy.local.registrar import Registrar
from noctule.gateway.admin import AdminApi
from noctule.gateway.control import Control, FixedSource
from noctule.gateway.instances import Instance, Standing
from noctule.gateway.model import GatewayModel, Route, Service, Share, Sticky
from noctule.gateway.workers import OwnPlane

READY_POLL_S = 0.05
"""Between two questions to a node that is not ready yet."""
READY_ANSWER_S = 1.0
HEALTHY_TIMEOUT_S = 30.0
"""How long instances may take from serving to being ready."""
TOKEN_TTL_S = 300.0
"""How long a node may take to be let in."""
DRAIN_S = 30.0
"""How long requests in flight, and then an instance, may take to end."""
NODE_STOP_S = 10.0
"""How long a node may take to hand over and sync."""
ROTATE_S = 5.0
"""How often logs are measured."""

log = logging.getLogger("noctule.up")


class LocalCluster:
    """All processes of a plan and the gateway. `start`, then `keep_running` until cancelled, then `stop` or `kill`."""

    def __init__(
        self,
        plan: Plan,
        notice: Notice,
        *,
        new: Collection[int] = (),
        on_left: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._plan = plan
        self._notice = notice
        self._new = new
        """The nodes that have not been let in yet."""
        self._on_left = on_left
        """Told of each node that has left the cluster for good."""
        self.nodes = {node.id: Child(node.process, plan.log_dir, notice) for node in plan.nodes}
        self.instances = {each.id: Child(each.process, plan.log_dir, notice) for each in plan.instances}
        self._serving = {each.id: Instance(each.id, each.host, each.port) for each in plan.instances}
        """What the gateway is told of each instance."""
        self._plane = OwnPlane()
        self._control = Control(
            model_of(plan), FixedSource("noctule up"), self._plane, importlib.metadata.version("noctule")
        )
        self._registrar = Registrar([node.url for node in plan.nodes], self._entries)

    @property
    def gateway_url(self) -> str | None:
        """Where the app is served; None without an app."""
        return gateway_url(self._plan.gateway_host, self._plane.port) if self._plane.port else None

    async def start(self) -> None:
        """Start everything; returns once the cluster takes requests.

        Raises what the first process that failed said was wrong. `stop` must follow in any case.
        """
        founders = [node for node in self._plan.nodes if not node.joins]
        others = [node for node in self._plan.nodes if node.joins]
        self._notice(f"starting {_count(len(self.nodes), 'node')}")
        # Those that are in already belong to the groups, and may be needed for a leader.
        await self._start_all(self.nodes[node.id] for node in self._plan.nodes if node.id not in self._new)
        await self._wait_ready([node for node in [*founders, *others] if node.id not in self._new])
        await self._let_in([node for node in others if node.id in self._new])
        if not self._plan.instances:
            return
        self._notice(f"starting {_count(len(self.instances), 'instance')} of {self._plan.service}")
        await self._start_all(self.instances.values())
        self._list_instances()
        await self._plane.start(self._control.orders, AdminApi(self._control))
        self._notice("waiting until the instances are healthy")
        healthy = self._plane.gateway.wait_healthy(len(self.instances), HEALTHY_TIMEOUT_S)
        await self._while_alive(healthy, self.instances.values())
        await self._registrar.tell()

    async def keep_running(self) -> None:
        """Start again what ends, keep the registry told and the logs short, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for node_id in self.nodes:
                group.create_task(self._keep_node(node_id), name=f"node-{node_id}")
            for plan in self._plan.instances:
                group.create_task(self._keep_instance(plan), name=plan.id)
            if self._plan.instances:
                group.create_task(self._registrar.run(), name="registrar")
            group.create_task(self._rotate_logs(), name="logs")

    async def stop(self) -> None:
        """Stop everything in order; nothing runs on return, however far `start` came."""
        try:
            if self._plane.port:
                self._notice("draining the gateway")
                await self._plane.stop(DRAIN_S)
                await self._registrar.leave()
            running = [child for child in self.instances.values() if child.pid]
            if running:
                self._notice(f"stopping {_count(len(running), 'instance')}")
                await _gather([child.stop(DRAIN_S) for child in running])
            self._notice(f"stopping {_count(len(self.nodes), 'node')}")
            await _gather([node.stop(NODE_STOP_S) for node in self.nodes.values()])
        finally:
            # Also when this task is cancelled because somebody is in a hurry, or the gateway has a bug.
            await asyncio.shield(self.kill())

    async def kill(self) -> None:
        """SIGKILL to every process; nothing runs on return."""
        await _gather([child.kill() for child in (*self.instances.values(), *self.nodes.values())])

    async def _start_all(self, children: Iterable[Child]) -> None:
        """Start them side by side; the first that fails ends the waiting for the others."""
        waiting = []
        for child in children:
            child.start()
            waiting.append(child.wait_serving())
        await _gather(waiting)

    async def _wait_ready(self, nodes: Sequence[NodePlan]) -> None:
        self._notice("waiting until every partition has a leader")
        async with new_session() as session:
            ready = _gather([self._node_ready(session, node) for node in nodes])
            await self._while_alive(ready, [self.nodes[node.id] for node in nodes])

    async def _let_in(self, nodes: Sequence[NodePlan]) -> None:
        """One after the other, so that they get their ids in the order of their numbers."""
        if not nodes:
            return
        async with AdminClient([node.url for node in self._plan.nodes if node.id not in self._new]) as client:
            for node in nodes:
                self._notice(f"node-{node.id} joins")
                token = await client.create_token(ttl_s=TOKEN_TTL_S, note=f"node-{node.id} of noctule up")
                child = self.nodes[node.id]
                child.plan = replace(child.plan, environment={TOKEN_VARIABLE: token.text})
                child.start()
                await child.wait_serving()
        await self._wait_ready(nodes)

    async def _keep_node(self, node_id: int) -> None:
        """Returns once the node has left the cluster for good."""
        await self.nodes[node_id].keep_running(on_end=_nothing, on_serving=_nothing)
        self._on_left(node_id)
        self._notice(f"node-{node_id} has left the cluster and is not started again")

    async def _node_ready(self, session: aiohttp.ClientSession, node: NodePlan) -> None:
        reason = "no answer"
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while True:
                    try:
                        answer = await exchange(session, "GET", f"{node.url}/health/ready", timeout_s=READY_ANSWER_S)
                    except NoctuleError as error:
                        reason = str(error)
                    else:
                        if answer.status == 200:
                            return
                        reason = _reason(answer.body)
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            raise UnavailableError(f"node-{node.id} is not ready after {START_TIMEOUT_S:g} s: {reason}") from None

    async def _while_alive(self, waiting: Coroutine[Any, Any, None], children: Iterable[Child]) -> None:
        """Await something that cannot come true once one of the processes has ended."""
        await _gather([waiting, *(child.raise_at_end() for child in children)], until=asyncio.FIRST_COMPLETED)

    async def _keep_instance(self, plan: InstancePlan) -> None:
        def on_end() -> None:
            # The process has ended: nobody is to wait for it, as they would for one that was only taken off the list.
            self._serving[plan.id] = Instance(plan.id, plan.host, plan.port, standing=Standing.CRITICAL)
            self._list_instances()

        def on_serving() -> None:
            self._serving[plan.id] = Instance(plan.id, plan.host, plan.port)
            self._list_instances()

        await self.instances[plan.id].keep_running(on_end=on_end, on_serving=on_serving)

    async def _rotate_logs(self) -> None:
        while True:
            for child in (*self.nodes.values(), *self.instances.values()):
                child.rotate_log()
            await asyncio.sleep(ROTATE_S)

    def _list_instances(self) -> None:
        """Tell the gateway who serves now."""
        self._control.set_listed({self._plan.service: tuple(self._serving.values())})

    def _entries(self) -> list[RegisteredInstance]:
        """What is registered of each instance now."""
        loads = {load.id: load for load in self._plane.gateway.picture().instances}
        entries = []
        for plan in self._plan.instances:
            load, child = loads.get(plan.id), self.instances[plan.id]
            state = load.state if load else "starting" if child.is_serving else "unhealthy"
            entries.append(
                RegisteredInstance(
                    id=plan.id,
                    service=self._plan.service,
                    address=join_address(plan.host, plan.port),
                    pid=child.pid,
                    state=cast("InstanceState", state),
                    requests=load.requests if load else 0,
                )
            )
        return entries


def model_of(plan: Plan) -> GatewayModel:
    """The gateway of a local cluster: one route to one service, whose instances the supervisor lists."""
    # Over plain HTTP, as here, browsers do not send a cookie back that is for TLS only.
    sticky = Sticky(secure=False) if plan.is_sticky else None
    return GatewayModel(
        host=plan.gateway_host,
        port=plan.gateway_port,
        services=(Service(name=plan.service, sticky=sticky, drain_s=DRAIN_S),),
        routes=(Route(name=plan.service, shares=(Share(plan.service),)),),
        access_log=False,
    )


async def _gather(coroutines: Iterable[Coroutine[Any, Any, None]], *, until: str = asyncio.FIRST_EXCEPTION) -> None:
    """Run them side by side until all are done or `until` says enough, end the others, and raise the first failure."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    if not tasks:
        return
    try:
        done, _ = await asyncio.wait(tasks, return_when=until)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if task in done:
            task.result()


def _reason(body: bytes) -> str:
    """Why a node says it is not ready."""
    try:
        return msgspec.json.decode(body, type=_Readiness).reason
    except msgspec.DecodeError:
        return "it answers without Noctule's health body"


class _Readiness(msgspec.Struct, frozen=True):
    reason: str


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def _nothing() -> None:
    """Nothing has to be done when a node comes or goes: whoever uses the store knows several."""
