"""Nothing that signs anybody in, and nothing a visitor keeps, is logged: a run with every kind of trouble, scanned."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from app_processes import APP_SECRET, board_environment
from redis.exceptions import ResponseError
from session_visitors import Handler, Visitor, app_of, client_of, key_of, putting, show, signing_in

from noctule.base.errors import NoctuleError
from noctule.kits.asgi import Message, Receive, Scope, Send, send_json
from noctule.kits.csrf import csrf_token
from noctule.kits.ratelimit import API, RateLimits, Rule
from noctule.kits.sealed_sessions import SealedSessions
from noctule.kits.session_cookie import session_digest
from noctule.kits.session_seal import KeyRing
from noctule.kits.session_state import Session
from noctule.kits.session_users import UserSessions
from noctule.kits.store import connect, retrying_idempotent

if TYPE_CHECKING:
    from app_processes import StartInstance
    from engines import RedisServer

pytest_plugins = ("engines", "app_processes")
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

VALUE, USER, KEY = "kept-by-the-visitor", "ada@secret.example", "k" * 32
BEARER, PASSWORD = "bearer-token-of-somebody", "password-of-the-store"


def logged(records: list[logging.LogRecord]) -> str:
    """All that a handler could write of the records, arguments and tracebacks included."""
    render = logging.Formatter().format
    return "\n".join(render(record) + repr(record.__dict__) for record in records)


def scan(text: str, secrets: dict[str, str]) -> None:
    found = [what for what, secret in secrets.items() if secret and secret in text]
    assert found == [], f"logged: {', '.join(found)}"


async def test_the_kits_log_no_secret(redis_server: "RedisServer", caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = {"a value": VALUE, "a user": USER, "a key": KEY, "a bearer token": BEARER, "a password": PASSWORD}
    ring = KeyRing({"a": KEY.encode()}, "a")
    visitor, tokens = Visitor(), list[str]()

    async def form(session: Session) -> object:
        tokens.append(csrf_token(session))
        return None

    async with client_of(redis_server.url) as store:
        options: dict[str, Any] = {"store": store, "keys": ring, "patience_s": 0.2}

        async def visit(handler: Handler, **others: Any) -> int:
            secrets[f"session id {len(secrets)}"] = visitor.cookie or ""
            secrets[f"digest of an id {len(secrets)}"] = session_digest(visitor.cookie or "") if visitor.cookie else ""
            return (await visitor.visit(app_of(handler, **{**options, **others}))).status

        await visit(putting(a=VALUE))
        await visit(signing_in(USER))
        await visit(form)
        await visit(putting(**{f"k{n}": VALUE * 100 for n in range(40)}))  # Too much.
        await store.hset(key_of(visitor.cookie), "a", VALUE)  # Not sealed: unreadable.
        await visit(show)
        await UserSessions(store, keys=ring).end_all(USER)
        await visit(show)
        await visitor.visit(app_of(signing_in(USER), **options))
        await store.delete(key_of(visitor.cookie))
        await store.set(key_of(visitor.cookie), VALUE)  # The store refuses, and quotes.
        await visit(show)
        await limited(store)
        await sealed(ring, secrets)
        redis_server.kill()
        await visit(show)
        await visit(show, on_store_loss="anonymous")
        await Visitor().visit(app_of(putting(a=VALUE), **options))
    for number, token in enumerate(tokens):
        secrets[f"CSRF token {number}"] = token
    away = connect(f"redis://user:{PASSWORD}@127.0.0.1:1/0")
    with pytest.raises(NoctuleError) as refused:
        await retrying_idempotent(lambda: away.set("a", VALUE), writes=True, budget_s=0.1)
    await away.aclose()
    text = logged(caplog.records)
    events = ["session_unreadable", "session_load_failed", "session_save_failed", "session_degraded"]
    assert [event for event in events if event not in text] == [], "the run has to meet the trouble it is about"
    scan(text + str(refused.value), secrets)


async def limited(store: Any) -> None:
    """A rate limit by token."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, {})

    await call(
        RateLimits(app, rules=[Rule(API, by=("token",))], store=store), (b"authorization", b"Bearer " + BEARER.encode())
    )


async def sealed(ring: KeyRing, secrets: dict[str, str]) -> None:
    """A session in its cookie, which is then damaged."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = VALUE
        await send_json(send, 200, {})

    instance = SealedSessions(app, keys=ring, users=None)
    start = await call(instance)
    cookie = next(value.decode() for name, value in start["headers"] if name == b"set-cookie")
    secrets["a sealed session"] = cookie.partition("=")[2].partition(";")[0]
    await call(instance, (b"cookie", f"__Host-session={secrets['a sealed session'][:-3]}".encode()))


async def call(app: Callable[..., Awaitable[None]], *headers: tuple[bytes, bytes]) -> Message:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    await app({"type": "http", "method": "GET", "path": "/", "headers": list(headers), "client": None}, receive, send)
    return sent[0]


async def test_an_instance_of_the_board_logs_no_secret(
    redis_server: "RedisServer", start_instance: "StartInstance", tmp_path: Path
) -> None:
    environment = board_environment(redis_server.url, tmp_path)
    instance = start_instance(app="examples.board:app", environment=environment, drain_delay_ms=0)
    secrets = {"a name": USER, "an entry": VALUE, "a password": PASSWORD, "the secret of the app": APP_SECRET}
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:

        async def note_cookies() -> None:
            for cookie in session.cookie_jar:
                secrets[f"cookie {len(secrets)}"] = cookie.value

        async def post(path: str, **form: str) -> None:
            async with session.post(instance.url + path, data=form, allow_redirects=False):
                await note_cookies()

        await post("/sign-in", name=USER)
        await post("/guestbook", text=VALUE)
        await post("/guestbook", text=VALUE, token="forged", form_id="x")
        await post("/sign-in", name=USER, password=PASSWORD)
        await post("/register", name=USER, password=PASSWORD)
        redis_server.kill()
        await asyncio.wait_for(post("/guestbook", text=VALUE), 20)
    instance.stop()
    text = (instance.directory / "stderr").read_text() + (instance.directory / "stdout").read_text()
    assert "session_load_failed" in text
    assert len(secrets) > 7, "cookies before and after signing in"
    scan(text, secrets)


def test_the_scan_finds_what_is_logged_as_a_field_or_in_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("noctule.test")
    for write in (lambda: log.warning("event", extra={"reason": VALUE}), lambda: log.warning("%s", VALUE)):
        caplog.clear()
        write()
        with pytest.raises(AssertionError, match="a value"):
            scan(logged(caplog.records), {"a value": VALUE})
    caplog.clear()
    try:
        raise ResponseError(VALUE)
    except ResponseError:
        log.exception("event")
    with pytest.raises(AssertionError, match="a value"):
        scan(logged(caplog.records), {"a value": VALUE})
