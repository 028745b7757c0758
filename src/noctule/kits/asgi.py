"""What the kits share of ASGI 3: its types, headers, and the JSON answers they give themselves."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

import msgspec

from noctule.base.errors import Outcome

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Iterable[tuple[bytes, bytes]]


def header_values(headers: Headers, name: bytes) -> list[bytes]:
    """All values of a header in the order received; `name` in lower case, as ASGI delivers it."""
    return [value for header, value in headers if header.lower() == name]


def error_body(code: str, message: str, *, retryable: bool, outcome: Outcome) -> dict[str, Any]:
    """The one shape of every JSON error of Noctule."""
    return {"error": {"code": code, "message": message, "retryable": retryable, "outcome": outcome}}


async def send_json(send: Send, status: int, body: object, headers: Headers = (), *, kind: str = "http") -> None:
    """Send one complete JSON response that no cache may keep.

    `kind` is ``websocket.http`` when it denies a WebSocket handshake (the ASGI extension of that name).
    """
    encoded = msgspec.json.encode(body)
    start_headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(encoded)).encode()),
        (b"cache-control", b"no-store"),
        *headers,
    ]
    await send({"type": f"{kind}.response.start", "status": status, "headers": start_headers})
    await send({"type": f"{kind}.response.body", "body": encoded})
