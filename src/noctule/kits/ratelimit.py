"""Rate limits for any ASGI app, one limit for all its instances.

    app.add_middleware(
        RateLimits,
        rules=[
            Rule(AUTHENTICATION, paths=("/login",), methods=("POST",), by=("ip", "user")),
            Rule(API, paths=("/api",)),
        ],
    )

Each request that a rule names costs one script in the store for each subject. Who is refused is told when to come back
(429, Retry-After) and why; everybody is told what is left (RateLimit headers). See limiter.py for what is guaranteed.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from redis.asyncio import Redis

from noctule.base.errors import ConfigError
from noctule.core.limits.policy import ACCOUNT, API, AUTHENTICATION, UPLOAD, Policy
from noctule.kits.asgi import App, Message, Receive, Scope, Send, error_body, header_values, send_json
from noctule.kits.client_address import client_address, parse_networks, subject_of
from noctule.kits.limiter import SUBJECT_CHARACTERS_MAX, Decision, Limiter

__all__ = ["ACCOUNT", "API", "AUTHENTICATION", "UPLOAD", "Policy", "RateLimits", "Rule"]

By: TypeAlias = Literal["ip", "user", "token", "route"]
"""What is counted apart: addresses, what `identify` says, bearer tokens, or all requests of a rule together."""

_BY = ("ip", "user", "token", "route")


@dataclass(frozen=True, slots=True)
class Rule:
    """Which requests a policy is for."""

    policy: Policy
    paths: tuple[str, ...] = ("/",)
    """Prefixes by whole segments: /api is for /api and /api/x, not for /apix."""
    methods: tuple[str, ...] = ()
    """Empty: all."""
    by: tuple[By, ...] = ("ip", "user")
    """Each has a count of its own; a request passes when all admit it. One that is not known (nobody is signed in, no
    token) is passed over."""
    cost: int = 1

    def __post_init__(self) -> None:
        if not self.paths or not all(path.startswith("/") for path in self.paths):
            raise ConfigError(f"rate limit rule {self.policy.name!r}: paths must begin with /")
        if not self.by or not set(self.by) <= set(_BY):
            raise ConfigError(f"rate limit rule {self.policy.name!r}: by must be some of {', '.join(_BY)}")
        if not 1 <= self.cost <= self.policy.limit:
            raise ConfigError(f"rate limit rule {self.policy.name!r}: cost must be 1 to the limit")

    def is_for(self, method: str, path: str) -> bool:
        """Whether it holds for a request."""
        if self.methods and method not in self.methods:
            return False
        return any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in self.paths)


class RateLimits:
    """ASGI middleware. The first rule of each policy that a request meets counts it.

    `limiter`, or `store` as `Limiter` takes it. `identify` names the user of a request that is signed in, else None;
    put this middleware inside the one that knows. `trusted_proxies`: whose X-Forwarded-For is believed.
    A handshake of a WebSocket counts as a GET. Raises `ConfigError` for what cannot work.
    """

    def __init__(
        self,
        app: App,
        *,
        rules: Sequence[Rule],
        limiter: Limiter | None = None,
        store: Redis | str | None = None,
        identify: Callable[[Scope], str | None] = lambda _: None,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        if not rules:
            raise ConfigError("rate limits: there is no rule")
        self._app = app
        self._rules = tuple(rules)
        self._owns_limiter = limiter is None
        self._limiter = limiter if limiter is not None else Limiter(store)
        self._identify = identify
        self._trusted = parse_networks(trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            try:
                await self._app(scope, receive, send)
            finally:
                if self._owns_limiter:
                    await self._limiter.aclose()
            return
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        decision = await self._decide(scope)
        if decision is None:
            await self._app(scope, receive, send)
        elif decision.is_admitted:
            await self._app(scope, receive, _telling(send, decision))
        else:
            await _refuse(scope, send, decision)

    async def _decide(self, scope: Scope) -> Decision | None:
        """The tightest decision of all rules, or None when no rule is for this request. The first refusal ends it."""
        method, path = scope.get("method", "GET"), scope["path"]
        tightest: Decision | None = None
        seen: set[str] = set()
        for rule in self._rules:
            if rule.policy.name in seen or not rule.is_for(method, path):
                continue
            seen.add(rule.policy.name)
            subjects = self._subjects(rule, scope)
            if not subjects:
                continue
            decision = await self._limiter.hit([rule.policy], subjects, cost=rule.cost)
            if not decision.is_admitted:
                return decision
            if tightest is None or decision.remaining < tightest.remaining:
                tightest = decision
        return tightest

    def _subjects(self, rule: Rule, scope: Scope) -> list[str]:
        found = [self._subject(kind, rule, scope) for kind in rule.by]
        return [subject for subject in found if subject is not None]

    def _subject(self, kind: By, rule: Rule, scope: Scope) -> str | None:
        if kind == "route":
            return f"route:{rule.policy.name}"
        if kind == "ip":
            peer = scope.get("client")
            address = client_address(peer[0] if peer else None, scope["headers"], self._trusted)
            return None if address is None else subject_of(address)
        if kind == "user":
            user = self._identify(scope)
            return None if user is None else f"user:{_plain(user)}"
        for value in header_values(scope["headers"], b"authorization"):
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer" and token:
                # The store holds no token anybody could use.
                return f"token:{hashlib.sha256(token.strip()).hexdigest()[:32]}"
        return None


def _plain(user: str) -> str:
    """As it is where it fits into a key, else its hash."""
    if len(user) <= SUBJECT_CHARACTERS_MAX - 10 and not set("{}") & set(user) and user.isprintable() and user:
        return user
    return hashlib.sha256(user.encode(errors="surrogatepass")).hexdigest()


def _headers(decision: Decision) -> list[tuple[bytes, bytes]]:
    """draft-ietf-httpapi-ratelimit-headers-09, and the older names that many clients know."""
    name, limit = decision.policy.name, decision.limit
    reset_s = math.ceil(decision.reset_s)
    window_s = max(math.ceil(decision.policy.window_s), 1)
    return [
        (b"ratelimit-policy", f'"{name}";q={limit};w={window_s}'.encode()),
        (b"ratelimit", f'"{name}";r={decision.remaining};t={reset_s}'.encode()),
        (b"x-ratelimit-limit", str(limit).encode()),
        (b"x-ratelimit-remaining", str(decision.remaining).encode()),
        (b"x-ratelimit-reset", str(reset_s).encode()),
    ]


def _telling(send: Send, decision: Decision) -> Send:
    async def telling_send(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            message = {**message, "headers": [*message.get("headers", ()), *_headers(decision)]}
        await send(message)

    return telling_send


async def _refuse(scope: Scope, send: Send, decision: Decision) -> None:
    is_closed = decision.is_local and not decision.limit
    status, code = (503, "unavailable") if is_closed else (429, "rate_limited")
    body = error_body(code, decision.why, retryable=True, outcome="not_applied")
    headers = [(b"retry-after", str(max(math.ceil(decision.retry_after_s), 1)).encode()), *_headers(decision)]
    if scope["type"] == "http":
        await send_json(send, status, body, headers)
    elif "websocket.http.response" in scope.get("extensions", {}):
        await send_json(send, status, body, headers, kind="websocket.http")
    else:
        # RFC 6455 7.4.1 and its IANA registry: 1013 is "try again later".
        await send({"type": "websocket.close", "code": 1013, "reason": "rate limited"})
