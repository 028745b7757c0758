"""A request's body on its way to an instance: bounded, streamed, and held back only where a retry may need it.

A small body of known length is read whole before an instance is chosen: it costs one buffer of 64 KiB, spares the
instance a slow client, and can be sent again. A chunked body is read ahead only for a method that may be repeated;
otherwise it may be one half of a conversation and passes piece by piece.
"""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import ClientError, web

from noctule.gateway.answers import RefusedError, bad_request, too_large, too_slow
from noctule.gateway.config import GatewayConfig

BUFFER_BYTES_MAX = 64 * 1024
"""The longest body that is held for a retry."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestBody:
    """The body of one request. Call `read_ahead` once, then `data` for each attempt."""

    def __init__(self, request: web.BaseRequest, config: GatewayConfig) -> None:
        self._request = request
        self._config = config
        self._taken_bytes = 0
        self._pieces: list[bytes] = []
        self._is_complete = not request.body_exists or request.content_length == 0
        self._patience: asyncio.Timeout | None = None
        self.is_repeatable = self._is_complete
        """Whether every attempt would send the same body: it is held whole. True or false once it was read ahead."""
        self.fault: RefusedError | None = None
        """What the client did wrong while its body was streamed; the HTTP library keeps it from being raised."""

    def check_declared(self) -> None:
        """Raise `RefusedError` (413) for a declared length over the bound, before anything of it is read."""
        length = self._request.content_length
        if length is not None and length > self._config.body_bytes_max:
            raise RefusedError(too_large(self._config.body_bytes_max))

    async def read_ahead(self, *, is_idempotent: bool) -> None:
        """Take in what may have to be sent again, after telling the client to go on if it asked to be told.

        `RefusedError` when the client stops (408), breaks the protocol (400), or goes over the bound (413).
        """
        if self._is_complete:
            return
        if self._request.headers.get("Expect", "").lower() == "100-continue":
            await self._request.writer.write(CONTINUE)
            # aiohttp takes bytes already written for the beginning of a response (as in its own expect handler).
            self._request.writer.output_size = 0
        length = self._request.content_length
        if length is None and not is_idempotent:
            return
        if length is not None and length > BUFFER_BYTES_MAX:
            return
        while not self._is_complete and self._taken_bytes <= BUFFER_BYTES_MAX:
            piece = await self._take()
            if piece:
                self._pieces.append(piece)
        self.is_repeatable = self._is_complete

    def data(self, patience: asyncio.Timeout) -> bytes | AsyncIterator[bytes] | None:
        """The body for one attempt; None when it has none.

        `patience` is moved along while the body is streamed: it runs while the instance is to take a piece or to
        answer, and rests while the client is waited for, which has a bound of its own. Call `let_go` before it ends.
        """
        if self._is_complete:
            return b"".join(self._pieces) or None
        self._patience = patience
        return self._stream()

    def let_go(self) -> None:
        """The attempt's patience has ended; what is still streamed is bounded by the idle timeout alone."""
        self._patience = None

    async def _stream(self) -> AsyncIterator[bytes]:
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            self._rest(is_resting=False)
            yield piece
        while not self._is_complete:
            self._rest(is_resting=True)
            try:
                piece = await self._take()
            except RefusedError as error:
                self.fault = error
                raise
            self._rest(is_resting=False)
            if piece:
                yield piece

    async def _take(self) -> bytes:
        """The next piece; empty when the body is complete."""
        content = self._request.content
        try:
            async with asyncio.timeout(self._config.idle_timeout_s):
                piece = await content.readany()
        except TimeoutError:
            raise RefusedError(too_slow(self._config.idle_timeout_s)) from None
        except (web.RequestPayloadError, ClientError) as error:
            raise RefusedError(bad_request("the request body is not what its headers announced")) from error
        self._is_complete = content.at_eof()
        self._taken_bytes += len(piece)
        if self._taken_bytes > self._config.body_bytes_max:
            raise RefusedError(too_large(self._config.body_bytes_max))
        return piece

    def _rest(self, *, is_resting: bool) -> None:
        if self._patience is None or self._patience.expired():
            return
        now = asyncio.get_running_loop().time()
        self._patience.reschedule(None if is_resting else now + self._config.response_timeout_s)
