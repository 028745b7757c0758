"""The cluster under verification: what was given, and what the checks have found out so far.

Checks run in order and later ones build on what earlier ones put here. What is missing here is asked for by `need_…`,
which raises, so that a check that cannot be carried out fails with the reason.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass

from noctule.base.errors import NoctuleError, UnavailableError
from noctule.client.api import NodeClient
from noctule.verify.verification.options import Options
from noctule.verify.verification.visitor import Reply, Visitor


@dataclass(frozen=True, slots=True)
class KnownInstance:
    """An app instance that the cluster should consist of."""

    id: str
    url: str
    """Its own address, past the balancer."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The session that was created through the balancer."""

    name: str
    session: str
    """The first eight hexadecimal digits of the SHA-256 of its id, as the app says."""
    visits: int
    """The last count that was seen."""


@dataclass(frozen=True, slots=True)
class Drill:
    """What happened after one instance was killed."""

    killed: KnownInstance
    requests: int
    failures: list[str]
    """One sentence for each request that failed or saw another session."""
    returned_after_s: float | None
    """From the kill to the new process being healthy; None when it did not come."""
    new_pid: int | None
    why_not_returned: str


class Subject:
    """Everything that a check may look at. `url` is the balancer's, without a final slash."""

    def __init__(self, url: str, options: Options, node: NodeClient, stranger: Visitor, visitor: Visitor) -> None:
        self.url = url
        self.options = options
        self.node = node
        self.stranger = stranger
        """Brings no cookies."""
        self.visitor = visitor
        """Signs in."""
        self.instances: list[KnownInstance] = []
        self.traffic: Counter[str] = Counter()
        """Answers to the spread requests, by instance."""
        self.signed_in: SignedIn | None = None
        self.drill: Drill | None = None

    def need_instances(self) -> list[KnownInstance]:
        """The known instances, one or more; raises `UnavailableError`."""
        if not self.instances:
            raise UnavailableError("no instance is known, as the check instances-known tells")
        return self.instances

    def need_session(self) -> SignedIn:
        """The created session; raises `UnavailableError`."""
        if self.signed_in is None:
            raise UnavailableError("there is no session to look at, as the check session-created tells")
        return self.signed_in

    async def ask_each_instance(self, path: str) -> list[tuple[KnownInstance, Reply | NoctuleError]]:
        """Ask every known instance directly and side by side; a missing answer is its error."""
        instances = self.need_instances()
        replies = await asyncio.gather(*(self._ask(instance.url + path) for instance in instances))
        return list(zip(instances, replies, strict=True))

    async def _ask(self, url: str) -> Reply | NoctuleError:
        try:
            return await self.stranger.get(url)
        except NoctuleError as error:
            return error
