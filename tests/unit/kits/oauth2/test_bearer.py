"""Tokens at the door: who gets in, what others are told, and WebSockets that end with their token."""

from typing import Any

import msgspec
import pytest

from noctule.base.errors import ConfigError, UnavailableError
from noctule.base.ids import Instant, WallMs
from noctule.kits.asgi import App, Message, Receive, Scope, Send, send_json
from noctule.kits.jwt.claims import AccessToken
from noctule.kits.oauth2.bearer import BearerAuth
from noctule.kits.oauth2.checks import Checks
from noctule.kits.oauth2.errors import InvalidTokenError

TOKEN = AccessToken("ada", "app", frozenset({"a"}), ("api",), "i", "j", 0, 600, "f", "0-0")


class Door(Checks):
    """Knows one token, ``good``, until it is told otherwise."""

    def __init__(self) -> None:
        self.is_good: bool | None = True

    async def check(self, text: str) -> AccessToken:
        if text != "good" or not await self.is_alive(TOKEN):
            raise InvalidTokenError("bad")
        return TOKEN

    async def is_alive(self, token: AccessToken) -> bool:
        if self.is_good is None:
            raise UnavailableError("away")
        return self.is_good

    def start(self) -> None:
        pass


class Clock:
    at = 100.0

    def now(self) -> Instant:
        return Instant(self.at)

    def wall_ms(self) -> WallMs:
        return WallMs(int(self.at * 1000))


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(send, 200, {"subject": scope["auth"].subject if scope["auth"] else None})


async def ask(door: Door, path: str = "/api", *tokens: str) -> tuple[int, dict[str, str], Any]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody reads")

    headers = [(b"authorization", each.encode("latin-1")) for each in tokens]
    guarded = BearerAuth(app, door, public=("/health",), realm="api")
    await guarded({"type": "http", "method": "GET", "path": path, "headers": headers}, receive, send)
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, msgspec.json.decode(sent[1]["body"])


async def test_who_gets_in_and_what_others_are_told() -> None:
    door = Door()
    assert (await ask(door, "/api", "Bearer good"))[2] == {"subject": "ada"}
    assert (await ask(door, "/api", "bearer  good"))[0] == 200
    assert (await ask(door, "/health/live"))[2] == {"subject": None}
    assert (await ask(door, "/healthy"))[0] == 401
    status, headers, _ = await ask(door)
    assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="api"')
    status, headers, _ = await ask(door, "/health/live", "Bearer bad")
    assert (status, headers["www-authenticate"]) == (
        401, 'Bearer realm="api", error="invalid_token", error_description="bad"',
    )  # fmt: skip
    assert (await ask(door, "/api", "Bearer good", "Bearer good"))[0] == 400
    assert (await ask(door, "/api", "Basic x"))[0] == 401
    assert (await ask(door, "/api", "Bearer \xe9"))[0] == 401
    door.is_good = None
    status, headers, body = await ask(door, "/api", "Bearer good")
    assert (status, headers["retry-after"], body["error"]["outcome"]) == (503, "1", "not_applied")


@pytest.mark.parametrize(
    ("public", "path", "status"),
    [
        (["/"], "/", 200),
        (["/"], "/api", 401),
        (["/docs/"], "/docs", 200),
        (["/docs/"], "/docs/a", 200),
        (["/docs/"], "/docsy", 401),
        ([], "/", 401),
    ],
)
async def test_a_public_path_opens_no_others(public: list[str], path: str, status: int) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    await BearerAuth(app, Door(), public=public)(scope, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == status


@pytest.mark.parametrize("public", ["", "health"])
def test_a_public_path_begins_with_a_slash(public: str) -> None:
    with pytest.raises(ConfigError, match="slash"):
        BearerAuth(app, Door(), public=[public])


async def socket(
    door: Door, inner: App, *, clock: Clock | None = None, extensions: bool = True, **fields: Any
) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.receive", "text": "hello"}

    scope = {
        "type": "websocket", "path": "/ws", "headers": [], "subprotocols": [],
        "extensions": {"websocket.http.response": {}} if extensions else {},
    }  # fmt: skip
    await BearerAuth(inner, door, clock=clock or Clock())(scope | fields, receive, send)
    return sent


async def test_a_handshake_brings_its_token_in_a_header_or_as_a_subprotocol() -> None:
    seen: list[Any] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["auth"].subject, scope["subprotocols"]))
        await send({"type": "websocket.accept"})

    door = Door()
    assert (await socket(door, inner, headers=[(b"authorization", b"Bearer good")]))[0]["type"] == "websocket.accept"
    await socket(door, inner, subprotocols=["chat", "bearer.good"])
    assert seen == [("ada", []), ("ada", ["chat"])]
    assert (await socket(door, inner, subprotocols=["bearer.bad"]))[0]["status"] == 401
    assert (await socket(door, inner))[0]["status"] == 401
    assert (await socket(door, inner, extensions=False))[0] == {
        "type": "websocket.close", "code": 1008, "reason": "an access token is needed",
    }  # fmt: skip
    door.is_good = None
    assert (await socket(door, inner, extensions=False, subprotocols=["bearer.good"]))[0]["code"] == 1013


@pytest.mark.parametrize(("end", "code"), [("revoked", 1008), ("expired", 1008), ("unknown", 1013)])
async def test_a_socket_ends_with_its_token(end: str, code: int) -> None:
    door, clock = Door(), Clock()
    got: list[Message] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        got.append(await receive())
        await send({"type": "websocket.send", "text": "one"})
        if end == "expired":
            clock.at = 605.0
        else:
            door.is_good = False if end == "revoked" else None
        await send({"type": "websocket.send", "text": "two"})
        got.append(await receive())
        await send({"type": "websocket.close"})

    sent = await socket(door, inner, clock=clock, subprotocols=["bearer.good"])
    assert [each["type"] for each in got] == ["websocket.receive", "websocket.disconnect"]
    assert [each["type"] for each in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert sent[-1]["code"] == code
