"""FastAPI's dependencies behind a door that knows one token."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket

from noctule.kits.asgi import Message
from noctule.kits.jwt.claims import AccessToken
from noctule.kits.oauth2.fastapi import current_token, current_user, require_scopes, user_by

TOKEN = AccessToken("ada", "app", frozenset({"posts:read"}), ("api",), "i", "j", 0, 600, "f", "0-0")


async def load(subject: str) -> dict[str, str] | None:
    return {"ada": {"name": "Ada"}}.get(subject)


app = FastAPI()


@app.get("/me")
async def me(user: Annotated[str, Depends(current_user)]) -> str:
    return user


@app.get("/token")
async def token_id(token: Annotated[AccessToken, Depends(current_token)]) -> str:
    return token.id


@app.get("/loaded")
async def loaded(user: Annotated[dict[str, str], user_by(load)]) -> dict[str, str]:
    return user


@app.get("/read", dependencies=[require_scopes("posts:read")])
async def read() -> str:
    return "read"


@app.get("/write", dependencies=[require_scopes("posts:read", "posts:write")])
async def write() -> str:
    return "written"


@app.websocket("/ws")
async def socket(websocket: WebSocket, user: Annotated[str, Depends(current_user)]) -> None:
    await websocket.accept()
    await websocket.send_text(user)
    await websocket.close()


def client(token: AccessToken | None) -> httpx.AsyncClient:
    async def door(scope: Any, receive: Any, send: Any) -> None:
        scope["auth"] = token
        await app(scope, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://test")


async def test_routes_know_their_user_and_scopes() -> None:
    async with client(TOKEN) as api:
        assert [(await api.get(path)).json() for path in ("/me", "/token", "/loaded", "/read")] == [
            "ada", "j", {"name": "Ada"}, "read",
        ]  # fmt: skip
        refused = await api.get("/write")
        assert refused.status_code == 403
        assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
        assert 'scope="posts:read posts:write"' in refused.headers["www-authenticate"]


@pytest.mark.parametrize("path", ["/me", "/token", "/loaded", "/read"])
async def test_without_a_token_there_is_a_challenge(path: str) -> None:
    async with client(None) as api:
        refused = await api.get(path)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


async def test_a_client_that_is_called_like_a_user_is_none() -> None:
    own = AccessToken("ada", "ada", frozenset({"posts:read"}), ("api",), "i", "j", 0, 600, "", "0-0")
    async with client(own) as api:
        assert [(await api.get(path)).status_code for path in ("/me", "/loaded", "/read")] == [403, 403, 200]


async def test_a_user_who_is_gone_is_not_let_in() -> None:
    gone = AccessToken("bob", "app", frozenset(), ("api",), "i", "j", 0, 600, "f", "0-0")
    async with client(gone) as api:
        assert (await api.get("/loaded")).status_code == 401


@pytest.mark.parametrize(("token", "first"), [(TOKEN, "websocket.accept"), (None, "websocket.close")])
async def test_websocket_routes_take_the_same_ones(token: AccessToken | None, first: str) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {
        "type": "websocket", "path": "/ws", "headers": [], "query_string": b"", "auth": token, "subprotocols": [],
        "scheme": "ws", "server": ("test", 80), "client": ("test", 1), "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    assert sent[0]["type"] == first
