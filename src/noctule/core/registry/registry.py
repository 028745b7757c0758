"""The registry's state: what is there, what changed at which index, and the changes applied to it.

Deterministic: a pure function of the changes and the leader's stamps.
"""

from collections.abc import Sequence
from typing import TypeAlias

from noctule.core.registry.changes import Change
from noctule.core.registry.objects import Check, KvEntry, RegistryNode, ServiceInstance, Session

Answered: TypeAlias = bool | int | str
"""What one change answers: whether it was done where that may be asked, else the registry's index."""


class Registry:
    """For reading by anyone; only `apply` changes it."""

    def __init__(self) -> None:
        self.index = 1
        """Of the last change; what is X-Consul-Index at least."""
        self.nodes: dict[str, RegistryNode] = {}
        self.instances: dict[tuple[str, str], ServiceInstance] = {}
        """By (node, id)."""
        self.by_name: dict[str, dict[tuple[str, str], ServiceInstance]] = {}
        """By the service's name, in the order of (node, id)."""
        self.checks: dict[tuple[str, str], Check] = {}
        """By (node, id)."""
        self.sessions: dict[str, Session] = {}

    def checks_of(self, node: str, service_id: str = "") -> list[Check]:
        """Of an instance with those of its node, or of the node alone; by id."""
        raise NotImplementedError

    def key(self, key: str) -> KvEntry | None:
        """One key."""
        raise NotImplementedError

    def keys(self, prefix: str) -> Sequence[KvEntry]:
        """Those with the prefix, in order; costs what is found."""
        raise NotImplementedError

    def index_of(self, topic: str) -> int:
        """The index at which a topic last changed, for blocking queries; of one never touched the index of its kind.

        Topics: ``nodes``, ``node:<name>`` (its instances and checks too), ``services`` (which names and tags there
        are), ``service:<name>`` (instances and their health), ``checks`` (any), ``sessions``, ``key:<key>``,
        ``prefix:<prefix>``. Never falls, also when what it was about is deleted; never 0.
        """
        raise NotImplementedError

    def apply(self, changes: Sequence[Change], now_ms: int) -> list[Answered]:
        """All of them or, raising `RequestError` that tells which one (from 0) and why, none."""
        raise NotImplementedError
