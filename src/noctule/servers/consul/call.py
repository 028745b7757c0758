"""One request on its way through a handler: what it says, and what a handler does with the registry."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from noctule.base.errors import RequestError
from noctule.core.registry.changes import Change
from noctule.core.registry.registry import Answered, Registry
from noctule.node.api import Agent, Node, RegistryDoor
from noctule.servers.consul.answers import Answers
from noctule.servers.consul.errors import ConsulError, refused
from noctule.servers.consul.filters import Names, Test, load_filter
from noctule.servers.consul.requests import Query, ReadOptions
from noctule.servers.consul.waiting import Waiting
from noctule.servers.http_route import JSON, Answer

JITTER = 1 / 16
"""The share of its wait by which a blocking query may wait longer: many that began together must not end together."""

NEVER_MS = 2**63 // 1_000_000
"""What is told of a leader that was never heard: Go's longest duration."""

_OF_KEYS = ("key", "prefix", "session", "sessions")
"""Topics of which Consul does not say how consistent an answer is."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked as far as all endpoints check theirs."""

    node: Node
    registry: RegistryDoor
    agent: Agent
    waiting: Waiting
    answers: Answers
    chance: random.Random
    datacenter: str
    path: str
    """Decoded."""
    query: Query
    options: ReadOptions
    value: str
    """What stood behind the path of the route, decoded; may be empty."""
    body: bytes
    is_gone: Callable[[], bool]
    """Whether the client has hung up."""

    @property
    def state(self) -> Registry:
        """The registry as this node has applied it."""
        return self.registry.view

    def json(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
        """The value as JSON, over several lines if `?pretty` asks for it."""
        body = msgspec.json.encode(value)
        if self.query.has("pretty"):
            body = msgspec.json.format(body, indent=4) + b"\n"
        return Answer(status, body, JSON, headers or {})

    def filter(self, names: Names) -> Test:
        """The test of `?filter`, which passes everything when there is none."""
        return load_filter(self.query.get("filter"), names) or (lambda _: True)

    async def change(self, *changes: Change, why: Callable[[Registry], str] = lambda _: "") -> list[Answered]:
        """Have all of them done, or none, as `RegistryDoor.change`.

        When they are refused, `why` may have Consul's sentence for it, by which its clients know what happened; it is
        asked of the registry as it stands then.
        """
        try:
            return await self.registry.change(changes)
        except RequestError as error:
            if sentence := why(self.state):
                raise refused(sentence) from error
            raise

    async def read(self, topic: str) -> Mapping[str, str]:
        """Make `state` fresh enough for this query, waiting for news of the topic if it asks for that.

        Returns the headers that tell of it. What is read from `state` until control goes back to the loop belongs to
        them. Raises `ConsulError`, `UnavailableError`, and `ConnectionError` once the client is gone.
        """
        options = self.options
        if options.index:
            wait_s = options.wait_s * (1 + self.chance.uniform(0, JITTER))
            await self.waiting.until(topic, options.index, wait_s, self.is_gone, self.refresh)
        else:
            await self.refresh()
        headers = {"X-Consul-Index": str(self.state.index_of(topic)), **self.leader_headers()}
        if topic.partition(":")[0] not in _OF_KEYS:
            headers["X-Consul-Effective-Consistency"] = options.consistency
        return headers

    async def answer(self, topic: str, render: Callable[[], object]) -> Answer:
        """Read as `read` does; the answer that `render` makes of `state`, or the same as made before.

        Only for what is a function of the topic and the query: it is not rendered anew while the topic has its index.
        """
        headers = await self.read(topic)
        index, key = int(headers["X-Consul-Index"]), (self.path, *self.query.selecting())
        body = self.answers.get(self.state, key, index)
        if body is not None:
            return Answer(200, body, JSON, headers)
        answer = self.json(render(), headers=headers)
        self.answers.put(key, index, answer.body)
        return answer

    async def refresh(self) -> None:
        """Make `state` as fresh as this query asks for."""
        options = self.options
        if options.is_stale:
            last_contact_ms = self.registry.last_contact_ms()
            is_recent = last_contact_ms is not None and last_contact_ms <= (options.max_stale_ms or 0)
            if options.max_stale_ms is None or is_recent:
                return
        await self.registry.catch_up()

    def leader_headers(self) -> dict[str, str]:
        """How sure an answer is that was read from `state` just now."""
        is_stale = self.options.is_stale
        last_contact_ms = self.registry.last_contact_ms() if is_stale else 0
        return {
            "X-Consul-KnownLeader": "true" if not is_stale or self.registry.leader_known() else "false",
            "X-Consul-LastContact": str(NEVER_MS if last_contact_ms is None else last_contact_ms),
        }

    def require(self, sentence: str) -> str:
        """The value; without one the answer is 400 with this sentence."""
        if not self.value:
            raise ConsulError(400, sentence)
        return self.value

    def check_datacenter(self, name: str) -> None:
        """Raise what Consul answers for a datacenter that it knows no way to."""
        if name and name.lower() != self.datacenter:
            raise refused("No path to datacenter")
