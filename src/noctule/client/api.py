"""The typed client of the nodes' HTTP API: any node serves every call, so several may be named.

What may be sent again is decided here and nowhere else. A node that was never reached, or that says it applied nothing,
is passed over by every call. After a lost answer only reads and registrations go on to the next node: a key that is
set or deleted a second time could undo what somebody else wrote in between.
"""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec

from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import ConfigError, NoctuleError, OutcomeUnknownError, ProtocolError, UnavailableError
from noctule.client.exchange import Answer, base_url, exchange, new_session
from noctule.client.failures import failure_of, is_not_found
from noctule.client.pictures import BackendHealth, Cluster, Entry, Instance, KeyPage

T = TypeVar("T")

DEADLINE_S = 10.0
"""For one call, all attempts together."""


class _Value(msgspec.Struct, frozen=True):
    key: str
    value: str | None
    value_base64: str | None
    ttl_ms: int | None
    staleness_ms: int | None = None
    """An earlier release does not say."""


class _Deleted(msgspec.Struct, frozen=True):
    deleted: bool


class _Stored(msgspec.Struct, frozen=True):
    ok: bool


class _Instances(msgspec.Struct, frozen=True):
    instances: list[Instance]


class NodeClient:
    """The HTTP API of a cluster by the URLs of one or more of its nodes; use it with ``async with``.

    Every call ends within `deadline_s` seconds. It begins with the node that served last. Every call raises
    `UnavailableError` when no node could serve and nothing was applied, `RequestError` when the request is wrong,
    `OutcomeUnknownError` for a write whose answer was lost, `ProtocolError` when what answers is no node.
    Raises `ConfigError` for a URL that cannot be used.
    """

    def __init__(self, urls: str | Sequence[str], *, deadline_s: float = DEADLINE_S) -> None:
        named = [urls] if isinstance(urls, str) else list(urls)
        if not named:
            raise ConfigError("no node URL was given; name one as in http://127.0.0.1:7501")
        self._urls = [base_url(url, what="node URL") for url in named]
        self._deadline_s = deadline_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = new_session()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def cluster(self) -> Cluster:
        """The cluster as the node that answers sees it."""
        return decode(await self._ask("GET", "/api/cluster"), Cluster)

    async def kv_get(
        self, key: str | bytes, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> Entry | None:
        """The value of a key, None when there is none; a key that holds no string is a `RequestError`."""
        answer = await self._send("GET", f"/api/kv/{quoted(key)}?consistency={consistency}", repeatable=True)
        if is_not_found(answer):
            return None
        found = decode(checked(answer), _Value)
        if found.value is not None:
            return Entry(found.key, found.value.encode(), found.ttl_ms, found.staleness_ms)
        try:
            value = base64.b64decode(found.value_base64 or "", validate=True)
        except ValueError as error:
            raise ProtocolError(f"GET {answer.url}: the value is not base64") from error
        return Entry(found.key, value, found.ttl_ms, found.staleness_ms)

    async def kv_set(self, key: str | bytes, value: bytes, *, ttl_s: float | None = None) -> None:
        """Set a key, for `ttl_s` seconds when given; acknowledged means that a quorum has it."""
        query = f"?ttl={ttl_s}" if ttl_s is not None else ""
        answer = checked(await self._send("PUT", f"/api/kv/{quoted(key)}{query}", repeatable=False, body=value))
        if not decode(answer, _Stored).ok:
            raise ProtocolError(f"PUT {answer.url}: neither stored nor refused")

    async def kv_delete(self, key: str | bytes) -> bool:
        """Delete a key; whether there was one."""
        answer = await self._send("DELETE", f"/api/kv/{quoted(key)}", repeatable=False)
        return decode(checked(answer), _Deleted).deleted

    async def kv_scan(self, prefix: str = "", *, cursor: str = "0", count: int = 100) -> KeyPage:
        """One page of keys that begin with `prefix`; about `count` of them, 10,000 at most."""
        query = urlencode({"prefix": prefix, "cursor": cursor, "count": count})
        return decode(await self._ask("GET", f"/api/kv?{query}"), KeyPage)

    async def health(self) -> BackendHealth:
        """What the node that answers says of itself, well or not."""
        answer = await self._send("GET", "/health/backend", repeatable=True)
        return decode(answer if answer.status == 503 else checked(answer), BackendHealth)

    async def instances(self) -> list[Instance]:
        """All registered app instances, sorted by id."""
        return decode(await self._ask("GET", "/api/instances"), _Instances).instances

    async def put_instance(self, instance: Instance) -> Instance:
        """Register an instance or renew it; it vanishes after its `ttl_s` otherwise. May be sent more than once."""
        path = f"/api/instances/{quoted(instance.id)}"
        headers = {"Content-Type": "application/json"}
        body = msgspec.json.encode(instance)
        return decode(await self._ask("PUT", path, body=body, headers=headers), Instance)

    async def delete_instance(self, id: str) -> bool:  # noqa: A002 - the API's own word
        """Take an instance out of the registry; whether it was there. False also when a repeated call finds it gone."""
        return decode(await self._ask("DELETE", f"/api/instances/{quoted(id)}"), _Deleted).deleted

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
    ) -> Answer:
        sent = self._send(method, path, repeatable=True, body=body, headers=headers, deadline_s=deadline_s)
        return checked(await sent)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
    ) -> Answer:
        """The first answer of a node that could serve; it may still tell of an error in the request."""
        if self._session is None:
            raise ConfigError("this NodeClient is not open; use it with async with")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (deadline_s or self._deadline_s)
        errors: list[NoctuleError] = []
        for turn, url in enumerate(list(self._urls)):
            remaining_s = deadline - loop.time()
            if remaining_s <= 0:
                break
            # A paused node takes the connection and never answers: it must leave time for the others.
            timeout_s = remaining_s / (len(self._urls) - turn) if repeatable else remaining_s
            try:
                answer = await exchange(
                    self._session, method, url + path, timeout_s=timeout_s, body=body, headers=headers
                )
                failure = failure_of(answer)
                if isinstance(failure, UnavailableError | OutcomeUnknownError):
                    raise failure
            except UnavailableError as error:
                errors.append(error)
            except OutcomeUnknownError as error:
                if not repeatable:
                    raise
                errors.append(error)
            else:
                self._prefer(url)
                return answer
        raise self._error_of_all(method, errors)

    def _error_of_all(self, method: str, errors: list[NoctuleError]) -> NoctuleError:
        sentence = str(errors[-1]) if errors else f"no answer within {self._deadline_s:g} s"
        if len(self._urls) > 1:
            sentence = f"none of {len(self._urls)} nodes could serve it; the last: {sentence}"
        # One lost answer among them is enough for a write that may have happened; a read never does anything.
        if method != "GET" and any(isinstance(error, OutcomeUnknownError) for error in errors):
            return OutcomeUnknownError(sentence)
        return UnavailableError(sentence)

    def _prefer(self, url: str) -> None:
        position = self._urls.index(url)
        self._urls = self._urls[position:] + self._urls[:position]


def checked(answer: Answer) -> Answer:
    """The answer, when it tells of no error; else that is raised."""
    failure = failure_of(answer)
    if failure is not None:
        raise failure
    return answer


def decode(answer: Answer, kind: type[T]) -> T:
    """What the answer holds; raises `ProtocolError` when it is something else."""
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"{answer.method} {answer.url}: not what a node answers: {error}") from error


def quoted(key: str | bytes) -> str:
    """A key or an id as one part of a path."""
    # RFC 3986 6.2.2.3: a segment of dots alone would be taken for a step in the path.
    return quote(key, safe="").replace(".", "%2E")
