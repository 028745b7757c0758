"""Reading the body of a request within its bounds: bytes of one, bytes of all together, and time."""

import asyncio

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError, HttpVersion11

from noctule.base.bounds import HTTP_BODY_BYTES_MAX
from noctule.base.errors import RequestError, TooLargeError, UnavailableError

BODIES_BYTES_MAX = 256 * 1024 * 1024
"""Bodies of all running requests of a server together; the request that would need more is answered 503."""

BODY_READ_S_MAX = 30.0
"""How long a body may take to arrive."""


class BodyBudget:
    """The memory that the bodies of one server share."""

    def __init__(self, bytes_max: int = BODIES_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self.held_bytes = 0

    def take(self, count: int) -> None:
        """Hold `count` more bytes; raises `UnavailableError`, and holds none of them, when they do not fit."""
        if self.held_bytes + count > self._bytes_max:
            raise UnavailableError(
                f"this node holds {self.held_bytes} bytes of request bodies, of {self._bytes_max} at most; try again"
            )
        self.held_bytes += count

    def give_back(self, count: int) -> None:
        """Hold `count` bytes fewer."""
        self.held_bytes -= count


class BodyReader:
    """The body of one request; `release` when the request has been answered, read or not."""

    def __init__(self, request: web.BaseRequest, budget: BodyBudget, bytes_max: int = HTTP_BODY_BYTES_MAX) -> None:
        self._request = request
        self._budget = budget
        self._bytes_max = bytes_max
        self._held_bytes = 0

    def check_length(self) -> None:
        """Raise `TooLargeError` when the length that the request announces is over the bound."""
        announced = self._request.content_length
        if announced is not None and announced > self._bytes_max:
            raise TooLargeError(f"the body is {announced} bytes, and the limit is {self._bytes_max}")

    async def read(self) -> bytes:
        """The whole body. A client that waits to be asked for it (RFC 9110 10.1.1) is asked.

        Raises `TooLargeError`, `UnavailableError` (the budget), `RequestError` (malformed, or too slow), and
        `ConnectionError` when the client went away.
        """
        await self._ask_to_continue()
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_READ_S_MAX):
                async for chunk in self._request.content.iter_any():
                    self._hold(len(chunk))
                    chunks.append(chunk)
        except TimeoutError:
            raise RequestError(f"the body did not arrive within {BODY_READ_S_MAX:g} s") from None
        except (web.RequestPayloadError, HttpProcessingError) as error:
            raise RequestError("the body is malformed: its length or its chunks are not what the head says") from error
        return b"".join(chunks)

    def release(self) -> None:
        """Give the memory back."""
        self._budget.give_back(self._held_bytes)
        self._held_bytes = 0

    def _hold(self, count: int) -> None:
        if self._held_bytes + count > self._bytes_max:
            raise TooLargeError(f"the body is more than {self._bytes_max} bytes, which is the limit")
        self._budget.take(count)
        self._held_bytes += count

    async def _ask_to_continue(self) -> None:
        expectation = self._request.headers.get(hdrs.EXPECT, "")
        if not expectation or self._request.version < HttpVersion11:
            return
        if expectation.lower() != "100-continue":
            raise RequestError("header Expect: only 100-continue is understood")
        await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The writer counts bytes to know whether the answer has begun, and this was not the answer.
        self._request.writer.output_size = 0
