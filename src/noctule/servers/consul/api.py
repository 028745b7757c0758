"""From a request under /v1 to an answer: which endpoint it means, what all of them check, and errors in Consul's words.

Knows nothing of aiohttp or sockets, as http_api.py, which hands these requests on.
"""

import posixpath
import random
from dataclasses import replace
from urllib.parse import quote, unquote_to_bytes

from noctule.node.api import Node
from noctule.servers.consul.answers import Answers
from noctule.servers.consul.call import Call
from noctule.servers.consul.errors import TEXT, bad_request, error_answer, text_answer
from noctule.servers.consul.requests import Query, load_read_options
from noctule.servers.consul.routes import ENDPOINTS, Endpoint
from noctule.servers.consul.waiting import Waiting
from noctule.servers.http_request import Request
from noctule.servers.http_route import Answer

DATACENTER = "dc1"
"""What Consul's API and names in DNS call the one datacenter that a cluster is."""

PREFIX = "/v1/"

_BY_PATH: dict[str, dict[str, Endpoint]] = {}
_BY_PREFIX: dict[str, dict[str, Endpoint]] = {}
for _endpoint in ENDPOINTS:
    _table = _BY_PREFIX if _endpoint.has_value else _BY_PATH
    _table.setdefault(_endpoint.prefix, {})[_endpoint.method] = _endpoint


class ConsulApi:
    """Consul's API of one node; `close` lets those go that wait."""

    def __init__(self, node: Node, chance: random.Random, datacenter: str = DATACENTER) -> None:
        self._node = node
        self._chance = chance
        self._datacenter = datacenter.lower()
        self._answers = Answers()
        self.waiting = Waiting(node.registry, node.cluster.watch)

    async def answer(self, request: Request, path: str, query: str) -> Answer:
        """Answer one request; never raises but to cancel, and to pass on that the connection was lost."""
        try:
            answer = await self._answer(request, path, query)
        except ConnectionError:
            raise
        except Exception as error:
            answer = error_answer(error)
        return replace(answer, headers={name: _in_header(value) for name, value in answer.headers.items()})

    async def close(self) -> None:
        """Let everybody who waits be answered at once."""
        await self.waiting.close()

    async def _answer(self, request: Request, raw_path: str, raw_query: str) -> Answer:
        path = _decoded(raw_path)
        if (clean := _cleaned(path)) != path:
            location = quote(clean) + (f"?{raw_query}" if raw_query else "")
            return Answer(301, b"", "text/html; charset=utf-8", {"Location": location})
        endpoints, value = _find(path)
        if not endpoints:
            return Answer(404, b"", TEXT)
        allow = {"Allow": ",".join(["OPTIONS", *endpoints])}
        if request.method == "OPTIONS":
            return Answer(200, b"", TEXT, allow)
        endpoint = endpoints.get(request.method)
        if endpoint is None:
            return text_answer(405, f"method {request.method} not allowed", allow)
        query = Query(raw_query)
        options = load_read_options(query)
        body = b""
        if endpoint.body is not None:
            if request.content_encoding.lower() not in ("", "identity"):
                raise bad_request("header Content-Encoding: a body is taken as it is, not compressed")
            body = await request.read_body()
        call = Call(
            node=self._node,
            registry=self._node.registry,
            agent=self._node.agent,
            waiting=self.waiting,
            answers=self._answers,
            chance=self._chance,
            datacenter=self._datacenter,
            path=path,
            query=query,
            options=options,
            value=value,
            body=body,
            is_gone=request.is_gone,
        )
        if endpoint.heeds_datacenter:
            call.check_datacenter(query.get("dc"))
        return await endpoint.handler(call)


def _in_header(text: str) -> str:
    """What a client has sent may come back in a header, where it must not end the line and be another one."""
    return text if text.isascii() and text.isprintable() else "".join(map(_or_dot, text))


def _or_dot(character: str) -> str:
    return character if character.isascii() and character.isprintable() else "."


def _find(path: str) -> tuple[dict[str, Endpoint], str]:
    """The endpoints of a path by method, and what stands in the place of their parameter."""
    if path in _BY_PATH:
        return _BY_PATH[path], ""
    end = path.rfind("/")
    while end > 0:
        prefix = path[: end + 1]
        if prefix in _BY_PREFIX:
            return _BY_PREFIX[prefix], path[end + 1 :]
        end = path.rfind("/", 0, end)
    return {}, ""


def _decoded(raw_path: str) -> str:
    try:
        path = unquote_to_bytes(raw_path.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError:
        raise bad_request("the path is not UTF-8") from None
    if "\x00" in path:
        raise bad_request("the path has a zero byte")
    return path


def _cleaned(path: str) -> str:
    """The path without empty parts and dots, to which Consul sends a client on; one of keys alone gets its slash."""
    if path + "/" in _BY_PREFIX and path not in _BY_PATH:
        return path + "/"
    clean = posixpath.normpath(path)
    clean = clean[1:] if clean.startswith("//") else clean
    return clean + "/" if path.endswith("/") and clean != "/" else clean
