"""The health endpoints of an app instance, and who answered: an ASGI app around the app.

`GET /health/live` says that the process runs; `/health/ready` whether it should get traffic; `/health` the same with
the uptime; `/health/backend` each dependency by itself. Everything else goes to the app. Whoever balances load asks
`/health/ready`: it turns 503 before the instance stops, so that no request meets a closed door.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.kits.asgi import App, Message, Receive, Scope, Send, error_body, send_json

Check: TypeAlias = Callable[[], Awaitable[object]]
"""A dependency: returns when it is well, raises when it is not; the message is shown to whoever asks."""

CHECK_TIMEOUT_S = 2.0
"""A check that takes longer has failed."""

CACHE_S = 1.0
"""Results are shared for this long, so that many probes cost the dependency one question."""

REASON_CHARACTERS_MAX = 200

log = logging.getLogger("noctule.kits.health")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check said."""

    reason: str
    """Why it failed, in one line; empty when it is well."""
    latency_ms: float


class Health:
    """An ASGI app that answers the health endpoints for `app`, and names the instance in every response.

    `checks` are the dependencies without which the instance should get no traffic.
    Not ready means: the app's lifespan has not started yet, `begin_draining` was called, or a check fails. An app that
    knows no lifespan is served all the same (ASGI lifespan, section "Scope").
    """

    def __init__(
        self,
        app: App,
        checks: Mapping[str, Check] | None = None,
        *,
        instance_id: str,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        self.startup_failure = ""
        """The app's own words, in one line, once its lifespan startup has failed."""
        self._app = app
        self._checks = _Checks(dict(checks or {}), clock)
        self._instance_id = instance_id
        self._clock = clock
        self._begun = clock.now()
        self._starting = False
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether the instance is on its way out."""
        return self._draining

    def begin_draining(self) -> None:
        """Be not ready from now on and close each connection with its next response; requests are still served."""
        self._draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            named_send = self._naming(send)
            if scope["path"] in ("/health", "/health/live", "/health/ready", "/health/backend"):
                await self._answer(scope, named_send)
            else:
                await self._app(scope, receive, named_send)
        else:
            await self._app(scope, receive, send)

    def _naming(self, send: Send) -> Send:
        async def named_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-noctule-instance", self._instance_id.encode("latin-1"))]
                if self._draining:
                    # A kept connection would otherwise be closed under the client's next request.
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        return named_send

    async def _answer(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            body = error_body("method_not_allowed", "use GET", retryable=False, outcome="not_applied")
            await send_json(send, 405, body, [(b"allow", b"GET, HEAD")])
            return
        path = scope["path"]
        if path == "/health/live":
            await send_json(send, 200, {"status": "ok"})
            return
        results = await self._checks.results()
        reason = self._reason_not_ready(results)
        body = {"status": "unavailable" if reason else "ok", "instanceId": self._instance_id}
        if path == "/health":
            body["uptime_s"] = round(self._clock.now() - self._begun, 3)
        elif path == "/health/ready":
            body["reason"] = reason
        else:
            body["checks"] = {
                name: {
                    "status": "failed" if result.reason else "ok",
                    "latency_ms": result.latency_ms,
                    "reason": result.reason,
                }
                for name, result in results.items()
            }
        await send_json(send, 503 if reason else 200, body)

    def _reason_not_ready(self, results: Mapping[str, CheckResult]) -> str:
        if self._draining:
            return "draining"
        if self._starting:
            return "starting"
        return "; ".join(f"{name}: {result.reason}" for name, result in results.items() if result.reason)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the lifespan to the app, and speak for an app that raises instead of taking part."""
        spoken: list[str] = []

        async def watching_send(message: Message) -> None:
            spoken.append(message["type"])
            if message["type"] == "lifespan.startup.complete":
                self._starting = False
            elif message["type"] == "lifespan.startup.failed":
                # Starlette sends the whole traceback; its last line is the error itself.
                lines = str(message.get("message", "")).strip().splitlines()
                self.startup_failure = _one_line(lines[-1]) if lines else "no reason given"
            await send(message)

        self._starting = True
        try:
            await self._app(scope, receive, watching_send)
        except Exception as error:
            if spoken:
                raise
            log.info("lifespan_not_supported", extra={"error": type(error).__name__})
        if not spoken:
            # The app may have taken the startup event before it gave up, so nothing is awaited for it here.
            await watching_send({"type": "lifespan.startup.complete"})
            while (await receive())["type"] != "lifespan.shutdown":
                pass
            await watching_send({"type": "lifespan.shutdown.complete"})


class _Checks:
    """Runs the checks side by side, at most once at a time, and keeps the results for `CACHE_S`."""

    def __init__(self, checks: dict[str, Check], clock: Clock) -> None:
        self._checks = checks
        self._clock = clock
        self._turn = asyncio.Lock()
        self._results: dict[str, CheckResult] = {}
        self._fresh_until = float("-inf")

    async def results(self) -> dict[str, CheckResult]:
        """The results by name, at most `CACHE_S` old; takes at most `CHECK_TIMEOUT_S` and the run before."""
        if not self._checks:
            return {}
        async with self._turn:
            # Whoever waited here finds the results of the one who ran.
            if self._clock.now() >= self._fresh_until:
                done = await asyncio.gather(*(self._run(check) for check in self._checks.values()))
                self._results = dict(zip(self._checks, done, strict=True))
                self._fresh_until = self._clock.now() + CACHE_S
            return self._results

    async def _run(self, check: Check) -> CheckResult:
        begun = self._clock.now()
        reason = ""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S) as limit:
                await check()
        except TimeoutError as error:
            reason = f"no answer within {CHECK_TIMEOUT_S:g} s" if limit.expired() else _reason_of(error)
        except Exception as error:
            # A check is the app's own code: whatever it raises means that the dependency is not well.
            reason = _reason_of(error)
        return CheckResult(reason, round((self._clock.now() - begun) * 1000, 1))


def _reason_of(error: Exception) -> str:
    return _one_line(f"{type(error).__name__}: {error}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:REASON_CHARACTERS_MAX]
