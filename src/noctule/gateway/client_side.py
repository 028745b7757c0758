"""What an exchange needs of the connection, or stream, that its request came on."""

import asyncio
from typing import Protocol

from noctule.gateway.heads import Header, ResponseHead


class ClientSide(Protocol):
    """The client, as an exchange sees it: a connection of HTTP/1.1 or a stream of HTTP/2."""

    peer: str
    scheme: bytes
    is_trusted: bool
    """Whether forwarding headers from this peer are believed."""

    def go_on(self) -> None:
        """100 Continue."""

    def interim(self, head: ResponseHead) -> None:
        """A 1xx response, if this client can take it."""

    def begin_response(
        self, status: int, reason: bytes, headers: list[Header], length: int | None, *, is_last: bool
    ) -> None:
        """The response's head; `is_last`: nothing else is answered on this connection."""

    def write(self, piece: bytes) -> None:
        """A piece of its body, not empty. Calls `Exchange.client_full` when enough waits, perhaps at once."""

    def flush(self) -> None:
        """Send what was given so far: nothing more comes for now."""

    def end_response(self) -> None:
        """It is whole; the exchange may be forgotten."""

    def cut(self) -> None:
        """It will not be whole, and the client must not take it for that."""

    def pause_body(self) -> None:
        """Let the client wait with the request's body."""

    def resume_body(self) -> None:
        """Let it go on."""

    def open_tunnel(self, head: list[Header]) -> tuple[asyncio.Transport, bytes]:
        """Answer 101 with these headers; what is read from now on is the caller's, beginning with these bytes."""
