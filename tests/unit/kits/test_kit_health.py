"""The health endpoints of an instance, asked without a socket."""

import asyncio
from typing import Any

import msgspec
import pytest
from tests.unit.hand_clock import HandClock

from noctule.kits.asgi import Message, Receive, Scope, Send
from noctule.kits.health import CACHE_S, Check, Health


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"yes")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def ask(app: Health, path: str, method: str = "GET") -> tuple[int, dict[bytes, bytes], Any]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody reads the body")

    await app({"type": "http", "path": path, "method": method, "headers": []}, receive, send)
    body = b"".join(m.get("body", b"") for m in sent[1:])
    headers = dict(sent[0]["headers"])
    return sent[0]["status"], headers, msgspec.json.decode(body) if body.startswith(b"{") else body


def instance(**checks: Check) -> Health:
    return Health(hello, checks, instance_id="web-7", clock=HandClock())


async def works() -> None:
    pass


async def fails() -> None:
    raise ConnectionError("nobody\nlistens")


async def test_everything_else_goes_to_the_app_and_carries_the_instance() -> None:
    status, headers, body = await ask(instance(), "/healthy")
    assert (status, body) == (200, b"hello")
    assert headers == {b"x-app": b"yes", b"x-noctule-instance": b"web-7"}


async def test_a_well_instance() -> None:
    app = instance(store=works)
    assert (await ask(app, "/health"))[::2] == (200, {"status": "ok", "instanceId": "web-7", "uptime_s": 0.0})
    assert (await ask(app, "/health/live"))[0] == 200
    assert (await ask(app, "/health/ready"))[::2] == (200, {"status": "ok", "instanceId": "web-7", "reason": ""})
    status, headers, body = await ask(app, "/health/backend")
    assert (status, headers[b"x-noctule-instance"], headers[b"cache-control"]) == (200, b"web-7", b"no-store")
    assert body == {
        "status": "ok",
        "instanceId": "web-7",
        "checks": {"store": {"status": "ok", "latency_ms": 0.0, "reason": ""}},
    }


async def test_a_failing_dependency_is_named_and_the_process_stays_alive() -> None:
    app = instance(store=fails, files=works)
    assert (await ask(app, "/health/live"))[0] == 200
    assert (await ask(app, "/health"))[0] == 503
    status, _, body = await ask(app, "/health/ready")
    assert (status, body["reason"]) == (503, "store: ConnectionError: nobody listens")
    status, _, body = await ask(app, "/health/backend")
    assert (status, body["status"]) == (503, "unavailable")
    assert {name: check["status"] for name, check in body["checks"].items()} == {"store": "failed", "files": "ok"}


async def test_draining_is_not_ready_but_serves_and_closes_connections() -> None:
    app = instance()
    app.begin_draining()
    assert app.draining
    assert (await ask(app, "/health/ready"))[::2] == (
        503,
        {"status": "unavailable", "instanceId": "web-7", "reason": "draining"},
    )
    status, headers, _ = await ask(app, "/")
    assert (status, headers[b"connection"]) == (200, b"close")
    assert (await ask(app, "/health/live"))[0] == 200


async def test_other_methods_are_refused() -> None:
    status, headers, body = await ask(instance(), "/health", "POST")
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD")
    assert body["error"]["code"] == "method_not_allowed"


async def test_many_probes_at_once_run_a_check_once_and_its_result_is_kept_for_a_second() -> None:
    runs: list[int] = []

    async def slow() -> None:
        runs.append(1)
        await asyncio.sleep(0)

    clock = HandClock()
    app = Health(hello, {"store": slow}, instance_id="web-7", clock=clock)
    await asyncio.gather(*(ask(app, "/health/ready") for _ in range(20)))
    assert len(runs) == 1
    clock.seconds += CACHE_S
    await ask(app, "/health/ready")
    assert len(runs) == 2


async def test_a_check_that_hangs_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noctule.kits.health.CHECK_TIMEOUT_S", 0.01)

    async def hangs() -> None:
        await asyncio.Event().wait()

    _, _, body = await ask(instance(store=hangs), "/health/backend")
    assert body["checks"]["store"]["reason"] == "no answer within 0.01 s"


async def run_lifespan(health: Health, during: list[Any]) -> list[str]:
    """Drive the lifespan as a server does; `during` collects the readiness between startup and shutdown."""
    events: asyncio.Queue[Message] = asyncio.Queue()
    sent: list[str] = []

    async def send(message: Message) -> None:
        sent.append(message["type"])
        if message["type"] == "lifespan.startup.complete":
            during.append((await ask(health, "/health/ready"))[0])
            events.put_nowait({"type": "lifespan.shutdown"})

    events.put_nowait({"type": "lifespan.startup"})
    await health({"type": "lifespan"}, events.get, send)
    return sent


async def test_an_instance_is_not_ready_until_its_lifespan_has_started() -> None:
    during: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        during.append((await ask(health, "/health/ready"))[2]["reason"])
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    health = Health(app, instance_id="web-7")
    assert await run_lifespan(health, during) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert during == ["starting", 200]


async def test_an_app_without_lifespan_is_served_all_the_same() -> None:
    """The ASGI specification lets an app raise for a lifespan it does not know."""

    async def raises(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"

    async def returns(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    for app in (raises, returns):
        during: list[Any] = []
        sent = await run_lifespan(Health(app, instance_id="web-7"), during)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert during == [200]


async def test_a_failed_startup_is_kept_in_one_line() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.failed", "message": "Traceback\n  line\nValueError: no database"})
        raise ValueError("no database")

    health = Health(app, instance_id="web-7")
    with pytest.raises(ValueError, match="no database"):
        await run_lifespan(health, [])
    assert health.startup_failure == "ValueError: no database"


async def test_websockets_pass_through() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    await Health(app, instance_id="web-7")({"type": "websocket", "path": "/health"}, nothing, nothing)
    assert seen == ["websocket"]
