"""From a request to an answer, whatever carries them: route, check, ask, and turn what went wrong into an error.

Knows nothing of aiohttp or sockets; http_server.py is the shell around it.
"""

import logging
import random

from noctule.base.errors import InternalError, RequestError
from noctule.node.api import Node
from noctule.servers.consul.api import PREFIX as CONSUL
from noctule.servers.consul.api import ConsulApi
from noctule.servers.http_errors import MethodNotAllowedError, error_body, error_kind
from noctule.servers.http_request import Request
from noctule.servers.http_route import Answer, Call, json_answer, load_parameters, shown, wants_raw
from noctule.servers.http_routes import match_route

_RETRY_AFTER_S = "1"
_logger = logging.getLogger(__name__)


class HttpApi:
    """The routes of one node; `close` when it stops serving."""

    def __init__(self, node: Node, chance: random.Random | None = None) -> None:
        self._node = node
        self._consul = ConsulApi(node, chance or random.SystemRandom())

    @property
    def waiting(self) -> int:
        """How many requests wait for news, with nothing else to do; each may go on to at any time."""
        return self._consul.waiting.count

    async def close(self) -> None:
        """Let those that wait be answered at once."""
        await self._consul.close()

    async def answer(self, request: Request) -> Answer:
        """Answer one request; never raises but to cancel, and to pass on that the connection was lost."""
        try:
            return await self._answer(request)
        except ConnectionError:
            raise
        except Exception as error:
            return error_answer(error)

    async def _answer(self, request: Request) -> Answer:
        path, query = split_target(request.target)
        if path.startswith(CONSUL):
            return await self._consul.answer(request, path, query)
        match = match_route(request.method, path)
        values = load_parameters(match.route, match.path_value, query)
        body = b""
        if match.route.body is not None:
            # Compressed bytes would be stored as they are, and nobody reading them would know.
            if request.content_encoding.lower() not in ("", "identity"):
                coding = shown(request.content_encoding)
                raise RequestError(f"header Content-Encoding: {coding} is not understood; send the body as it is")
            body = await request.read_body()
        raw = match.route.raw_response and wants_raw(request.accept)
        return await match.route.handler(Call(self._node, values, body, raw))


def error_answer(error: Exception) -> Answer:
    """The answer for an exception, of ours or not. A bug is logged with its trace, which no client ever sees."""
    status, body = error_body(error)
    if error_kind(error) is InternalError:
        _logger.error("http_request_failed", exc_info=error)
    answer = json_answer(body, status)
    if isinstance(error, MethodNotAllowedError):
        return Answer(answer.status, answer.body, headers={"Allow": ", ".join(error.allowed)})
    if body.error.retryable:
        return Answer(answer.status, answer.body, headers={"Retry-After": _RETRY_AFTER_S})
    return answer


def split_target(target: str) -> tuple[str, str]:
    """Path and query of a request target, undecoded; `RequestError` for one that names neither (RFC 9112 3.2)."""
    if not target.startswith("/"):
        scheme, separator, rest = target.partition("://")
        if not separator or scheme.lower() not in ("http", "https"):
            raise RequestError(f"the request target {shown(target)} is neither a path nor an http URL")
        target = "/" + rest.partition("/")[2]
    if "#" in target:
        raise RequestError('the request target holds a "#"; write it as "%23"')
    path, _, query = target.partition("?")
    return path, query
