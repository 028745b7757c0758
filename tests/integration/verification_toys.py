"""A small cluster with switches, to show that each check of ``noctule verify`` can fail.

The app, its instances, the balancer and the node's API are toys in this process; the store behind the sessions is a
real Redis. Every switch is one way in which a real cluster goes wrong.
"""

import hashlib
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from redis.asyncio import Redis

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass
class Switches:
    """What goes wrong; by default nothing."""

    instance_answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    """Instance and path to the status and JSON that it gives there."""
    balancer_answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """The same for what the balancer answers by itself."""
    unnamed: bool = False
    """Nobody says which instance answered."""
    forgetful: str = ""
    """The instance that does not know sessions."""
    private_counter: str = ""
    """The instance that counts visits for itself."""
    own_session: str = ""
    """The instance that gives the session another digest."""
    sign_in: tuple[int, bool] = (303, True)
    """Status of the sign-in, and whether it sets the cookie."""
    store: str = "hash"
    """hash: as it should be; none, string: nothing or a string is stored; frozen: the hash never changes."""


@dataclass
class _Session:
    name: str
    visits: int = 0


class ToyInstance:
    """One instance of an app with sessions, which all instances share in one dictionary and mirror into Redis."""

    def __init__(self, name: str, sessions: dict[str, _Session], redis: Any, switches: Switches) -> None:
        self.id = name
        self.address = ""
        self._sessions = sessions
        self._redis = redis
        self._switches = switches
        self._own_visits = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve any path."""
        response = await self._route(request)
        if not self._switches.unnamed:
            response.headers["X-Noctule-Instance"] = self.id
        return response

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        forced = self._switches.instance_answers.get((self.id, request.path))
        if forced:
            return web.json_response(forced[1], status=forced[0])
        match request.path:
            case "/health":
                return web.json_response({"status": "ok", "uptime_s": 1.5, **self._named()})
            case "/health/live":
                return web.json_response({"status": "ok"})
            case "/health/ready":
                return web.json_response({"status": "ok", "reason": ""})
            case "/health/backend":
                return web.json_response({"status": "ok", "checks": {"store": {"status": "ok"}}, **self._named()})
            case "/sign-in":
                return await self._sign_in(request)
            case "/api/whoami":
                return await self._who_am_i(request)
            case "/":
                return web.Response(text="<h1>Toy</h1>")
        return web.Response(status=404)

    def _named(self) -> dict[str, str]:
        return {} if self._switches.unnamed else {"instanceId": self.id}

    async def _sign_in(self, request: web.BaseRequest) -> web.StreamResponse:
        status, sets_cookie = self._switches.sign_in
        session_id = secrets.token_urlsafe(32)
        self._sessions[session_id] = _Session(str((await request.post())["name"]))
        response = web.Response(status=status, headers={"Location": "/"})
        if sets_cookie:
            response.set_cookie("session", session_id)
        return response

    async def _who_am_i(self, request: web.BaseRequest) -> web.StreamResponse:
        session_id = request.cookies.get("session", "")
        session = self._sessions.get(session_id)
        if session is None or self._switches.forgetful == self.id:
            return web.json_response({"name": None, "visits": 1, "session": None})
        session.visits += 1
        self._own_visits += 1
        digest = hashlib.sha256(session_id.encode()).hexdigest()
        await self._store(hashlib.sha256(session_id[:22].encode()).hexdigest(), session)
        visits = self._own_visits if self._switches.private_counter == self.id else session.visits
        shown = "00000000" if self._switches.own_session == self.id else digest[:8]
        return web.json_response({"name": session.name, "visits": visits, "session": shown})

    async def _store(self, handle: str, session: _Session) -> None:
        key = f"session:{{{handle}}}"
        match self._switches.store:
            case "hash":
                await self._redis.execute_command("HSET", key, "name", session.name, "visits", session.visits)
            case "frozen":
                await self._redis.execute_command("HSET", key, "name", session.name)
            case "string":
                await self._redis.execute_command("SET", key, session.name)


class ToyBalancer:
    """Takes turns over `upstreams`; a GET that finds nobody there is tried elsewhere."""

    def __init__(self, switches: Switches) -> None:
        self.upstreams: list[str] = []
        """host:port of each; one that is named several times gets that many turns."""
        self.retries = True
        self._switches = switches
        self._turns = itertools.count()
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        """Close the connections to the upstreams."""
        await self._http.close()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Pass a request on."""
        forced = self._switches.balancer_answers.get(request.path)
        if forced:
            return web.json_response(forced[1], status=forced[0])
        body = await request.read()
        attempts = len(self.upstreams) if self.retries and request.method == "GET" else 1
        for _ in range(attempts):
            upstream = self.upstreams[next(self._turns) % len(self.upstreams)]
            try:
                return await self._pass_on(request, upstream, body)
            except (aiohttp.ClientConnectionError, ConnectionError):
                continue
        return web.json_response({"error": {"code": "unavailable"}}, status=502)

    async def _pass_on(self, request: web.BaseRequest, upstream: str, body: bytes) -> web.StreamResponse:
        kept = {n: v for n, v in request.headers.items() if n in ("Cookie", "Content-Type")}
        url = f"http://{upstream}{request.path_qs}"
        async with self._http.request(request.method, url, data=body, headers=kept, allow_redirects=False) as answer:
            response = web.Response(status=answer.status, body=await answer.read())
            for name, value in answer.headers.items():
                if name in ("Content-Type", "Location", "Set-Cookie", "X-Noctule-Instance"):
                    response.headers[name] = value
            return response


class ToyNode:
    """The two pages of a node's API that the verifier reads."""

    def __init__(self, store_address: str) -> None:
        self.instances: list[dict[str, Any]] = []
        self._store_address = store_address

    def register(self, name: str, address: str, pid: int, state: str = "healthy") -> None:
        """Add an instance, or replace the one of that id."""
        others = [instance for instance in self.instances if instance["id"] != name]
        new = {
            "id": name,
            "service": "toy",
            "address": address,
            "pid": pid,
            "state": state,
            "requests": 0,
            "ttl_s": 15.0,
        }
        self.instances = sorted([*others, new], key=lambda instance: str(instance["id"]))

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve /api/instances and /api/cluster."""
        if request.path == "/api/instances":
            return web.json_response({"instances": self.instances})
        member = {"id": 1, "alive": True, "peer": "", "resp": self._store_address, "http": "", "leads": 1}
        picture = {"node_id": 1, "cluster": "toy", "version": "0", "protocol_version": 1, "pid": 1, "uptime_s": 1.0}
        picture |= {"data_dir": "", "storage_failure": "", "draining": False, "groups": [], "counters": {}}
        picture |= {"gauges": {}, "instances": self.instances, "nodes": [{**member, "last_contact_ms": None}]}
        return web.json_response(picture)


@dataclass
class ToyCluster:
    """Everything, running. `instances` is empty when the test brings its own."""

    switches: Switches
    balancer: ToyBalancer
    node: ToyNode
    url: str
    node_url: str
    instances: list[ToyInstance]
    stop_instance: dict[str, Callable[[], Awaitable[None]]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """Serve on a free port of 127.0.0.1: host:port, and how to stop before the end."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"{host}:{port}", runner.cleanup
    finally:
        await runner.cleanup()


@asynccontextmanager
async def toy_cluster(redis_port: int, *, instances: int = 3) -> AsyncIterator[ToyCluster]:
    """A cluster in which nothing is wrong yet, with instances web-1, web-2, …"""
    switches = Switches()
    sessions: dict[str, _Session] = {}
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis(port=redis_port))
        balancer = ToyBalancer(switches)
        stack.push_async_callback(balancer.close)
        node = ToyNode(f"127.0.0.1:{redis_port}")
        balancer_address, _ = await stack.enter_async_context(serving(balancer.answer))
        node_address, _ = await stack.enter_async_context(serving(node.answer))
        cluster = ToyCluster(switches, balancer, node, f"http://{balancer_address}", f"http://{node_address}", [], {})
        for number in range(1, instances + 1):
            instance = ToyInstance(f"web-{number}", sessions, redis, switches)
            instance.address, stop = await stack.enter_async_context(serving(instance.answer))
            cluster.instances.append(instance)
            cluster.stop_instance[instance.id] = stop
            balancer.upstreams.append(instance.address)
            node.register(instance.id, instance.address, pid=1)
        yield cluster
