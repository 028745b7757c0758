"""Visitors of small apps with sessions, called in this process through ASGI.

PYTEST_DONT_REWRITE, as tests import names from here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from redis.asyncio import Redis

from noctule.kits.asgi import Message, Receive, Scope, Send, send_json
from noctule.kits.session_cookie import session_handle
from noctule.kits.sessions import Session, Sessions
from noctule.kits.store import connect

Handler = Callable[[Session], Awaitable[object]]


class Answer(msgspec.Struct):
    """One response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value.decode() for header, value in self.headers if header == name.encode()]
        assert len(values) <= 1, values
        return values[0] if values else None

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Visitor:
    """A browser with one cookie."""

    def __init__(self, cookie: str | None = None) -> None:
        self.cookie = cookie

    def scope(self, kind: str) -> Scope:
        headers = [(b"cookie", f"__Host-session={self.cookie}".encode())] if self.cookie else []
        headers.append((b"user-agent", b"Browser/1"))
        return {"type": kind, "method": "GET", "path": "/", "headers": headers, "client": ("192.0.2.7", 4711)}

    async def visit(self, instance: Sessions) -> Answer:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        await instance(self.scope("http"), nothing_to_receive, send)
        assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
        answer = Answer(sent[0]["status"], list(sent[0]["headers"]), sent[1]["body"])
        set_cookie = answer.header("set-cookie")
        if set_cookie is not None:
            self.cookie = set_cookie.partition("=")[2].partition(";")[0] or None
        return answer


async def nothing_to_receive() -> Message:
    raise AssertionError("these requests have no body")


def app_of(handler: Handler, **options: Any) -> Sessions:
    """An instance whose every page is the handler's result as JSON."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, await handler(scope["session"]), [(b"x-page", b"1")])

    return Sessions(app, **options)


async def show(session: Session) -> object:
    return dict(session)


def putting(**values: object) -> Handler:
    async def put(session: Session) -> object:
        session.update(values)
        return dict(session)

    return put


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Redis]:
    client = connect(url)
    try:
        yield client
    finally:
        await client.aclose()


def key_of(cookie: str | None) -> str:
    assert cookie is not None
    return f"session:{{{session_handle(cookie)}}}"


def signing_in(user: str, **values: object) -> Handler:
    async def sign_in(session: Session) -> object:
        session.sign_in(user)
        session.update(values)
        return session.handle

    return sign_in


async def who(session: Session) -> object:
    return session.user
