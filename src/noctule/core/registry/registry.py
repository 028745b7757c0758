"""The registry: what is there, what changed at which index, and how lists of changes are applied.

Deterministic: what is kept is a pure function of the changes and the leader's stamps. Read catalog.py, sessions.py and
kv.py for what each change does, topics.py for the indexes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from noctule.base.ensure import ensure
from noctule.base.errors import RequestError
from noctule.core.registry import changes as asked
from noctule.core.registry.bounds import CHANGES_MAX, require, require_fits
from noctule.core.registry.carry_out import carry_out, undone
from noctule.core.registry.catalog import Catalog, Name
from noctule.core.registry.changes import Change
from noctule.core.registry.kv import KeyValues
from noctule.core.registry.moment import Moment
from noctule.core.registry.objects import Check, KvEntry, LockDelay, Object, RegistryNode, ServiceInstance, Session
from noctule.core.registry.sessions import Sessions
from noctule.core.registry.tables import SortedMap
from noctule.core.registry.topics import Topics

Answered: TypeAlias = bool | int
"""What one change answers: whether it was done where that may be asked, else the registry's index."""


class Contents(Struct, frozen=True):
    """All that is kept of a registry."""

    index: int = 1
    nodes: tuple[RegistryNode, ...] = ()
    instances: tuple[ServiceInstance, ...] = ()
    checks: tuple[Check, ...] = ()
    sessions: tuple[Session, ...] = ()
    entries: tuple[KvEntry, ...] = ()
    delays: tuple[LockDelay, ...] = ()


class _Undoable(Protocol):
    """A table, whatever its rows."""

    def begin(self) -> None: ...
    def roll_back(self) -> None: ...
    def written(self) -> Iterable[tuple[type[Object], str, Object | None]]: ...


class Registry:
    """For reading by anyone; only `apply` changes it."""

    def __init__(self, contents: Contents | None = None) -> None:
        """As it was when these were its contents; without them as it is at first."""
        contents = contents or Contents()
        self.index = contents.index
        """Of the last change; what is X-Consul-Index at least."""
        self._topics = Topics(contents.index)
        self._kv = KeyValues(self._topics)
        self._sessions = Sessions(self._kv, self._topics)
        self._catalog = Catalog(self._sessions, self._topics)
        self._tables: tuple[_Undoable, ...] = (
            self._catalog.nodes,
            self._catalog.instances,
            self._catalog.checks,
            self._sessions,
            self._kv.entries,
            self._kv.delays,
        )
        self._catalog.nodes.load({each.name: each for each in contents.nodes})
        self._catalog.instances.load({(each.node, each.id): each for each in contents.instances})
        self._catalog.checks.load({(each.node, each.id): each for each in contents.checks})
        self._sessions.load({each.id: each for each in contents.sessions})
        self._kv.entries.load({each.key: each for each in contents.entries})
        self._kv.delays.load({each.key: each for each in contents.delays})

    # Reading ----------------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Mapping[str, RegistryNode]:
        """By name, in no particular order."""
        return self._catalog.nodes.rows

    @property
    def instances(self) -> Mapping[Name, ServiceInstance]:
        """By (node, id), in no particular order."""
        return self._catalog.instances.rows

    @property
    def by_name(self) -> Mapping[str, SortedMap[Name, ServiceInstance]]:
        """By the service's name, in the order of (node, id); names in no particular order."""
        return self._catalog.instances.by_name

    @property
    def checks(self) -> Mapping[Name, Check]:
        """By (node, id), in no particular order."""
        return self._catalog.checks.rows

    @property
    def sessions(self) -> Mapping[str, Session]:
        """By id, in no particular order."""
        return self._sessions.rows

    @property
    def key_count(self) -> int:
        """How many keys there are."""
        return len(self._kv.entries.rows)

    def instances_of(self, name: str) -> list[ServiceInstance]:
        """Of a service, by (node, id)."""
        instances = self.by_name.get(name)
        return [] if instances is None else instances.in_order()

    def instances_on(self, node: str) -> list[ServiceInstance]:
        """On a node, by id."""
        return self._catalog.instances_on(node)

    def checks_of(self, node: str, service_id: str = "") -> list[Check]:
        """Of an instance with those of its node, or of the node alone; by id."""
        checks = self._catalog.checks_of((node, ""))
        if service_id:
            checks = checks + self._catalog.checks_of((node, service_id))
            checks.sort(key=lambda check: check.id)
        return checks

    def checks_on(self, node: str) -> list[Check]:
        """Of a node and of all instances on it, by id."""
        checks = self._catalog.checks_of((node, ""))
        for instance in self._catalog.instances_on(node):
            checks = checks + self._catalog.checks_of((node, instance.id))
        return sorted(checks, key=lambda check: check.id)

    def sessions_of(self, node: str) -> list[Session]:
        """Those that rest on a node, by id."""
        return [self.sessions[each] for each in sorted(self._sessions.resting_on.get((node, ""), ()))]

    def key(self, key: str) -> KvEntry | None:
        """One key."""
        return self._kv.entries.get(key)

    def keys(self, prefix: str) -> Sequence[KvEntry]:
        """Those with the prefix, in order; costs what is found."""
        return self._kv.with_prefix(prefix)

    def lock_delay_ms(self, key: str, now_ms: int) -> int:
        """For how long nobody may acquire the key; 0: it has no lock-delay."""
        delay = self._kv.delays.get(key)
        return 0 if delay is None else max(0, delay.until_ms - now_ms)

    def index_of(self, topic: str) -> int:
        """The index at which a topic last changed, for blocking queries.

        Topics: ``nodes``, ``node:<name>`` (its instances and checks too), ``services`` (which names and tags there
        are), ``service:<name>`` (instances, their health, their nodes), ``checks`` (any), ``catalog`` (all of these),
        ``sessions``, ``session:<id>``, ``key:<key>``, ``prefix:<prefix>`` (costs what is found). Never falls while
        this object lives, also when what it was about is deleted; never 0. Of what was not touched for long it may be
        higher than the truth, up to the index at which this replica loaded a snapshot (topics.py).
        """
        kind, _, name = topic.partition(":")
        if kind == "key":
            return self._kv.index_of(name)
        if kind == "prefix":
            return self._kv.index_of_prefix(name)
        return self._topics.index_of(topic)

    def changed_since(self, index: int) -> Iterator[str] | None:
        """Which topics changed after that index, but for prefixes; costs what they are. None: too long ago, take it
        that all did. To be used up before the next `apply`."""
        return self._topics.since(index)

    def contents(self) -> Contents:
        """All that is kept, in an order that depends on nothing else."""
        catalog = self._catalog
        return Contents(
            index=self.index,
            nodes=tuple(catalog.nodes.rows[key] for key in sorted(catalog.nodes.rows)),
            instances=tuple(catalog.instances.rows[key] for key in sorted(catalog.instances.rows)),
            checks=tuple(catalog.checks.rows[key] for key in sorted(catalog.checks.rows)),
            sessions=tuple(self._sessions.rows[key] for key in sorted(self._sessions.rows)),
            entries=tuple(self._kv.entries.sorted.in_order()),
            delays=tuple(self._kv.delays.rows[key] for key in sorted(self._kv.delays.rows)),
        )

    # What is due ------------------------------------------------------------------------------------------------------

    def next_due_ms(self) -> int | None:
        """When the first TTL ends, of a session or a check, or an instance is to be removed; None: nothing ends."""
        checks = self._catalog.checks
        times = (checks.expiries.next_ms(), checks.removals.next_ms(), self._sessions.deadlines.next_ms())
        return min((each for each in times if each is not None), default=None)

    def due(self, now_ms: int, count_max: int = CHANGES_MAX) -> list[Change]:
        """What is to be asked for at this time by whoever leads *meta*; asking twice does no harm."""
        found: list[tuple[int, Change]] = []
        for when_ms, (node, check) in self._catalog.checks.expiries.due(now_ms, count_max):
            found.append((when_ms, asked.ExpireCheck(node, check, when_ms)))
        for when_ms, (node, check) in self._catalog.checks.removals.due(now_ms, count_max):
            since_ms = self.checks[node, check].critical_since_ms
            found.append((when_ms, asked.RemoveCritical(node, check, since_ms)))
        for when_ms, session in self._sessions.deadlines.due(now_ms, count_max):
            found.append((when_ms, asked.ExpireSession(session, when_ms)))
        found.sort(key=lambda each: each[0])
        return [change for _, change in found[:count_max]]

    # Changing ---------------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], now_ms: int, *, all_done: bool = False) -> list[Answered]:
        """All of them or, raising `RequestError` that tells which one (from 0) and why, none.

        The index rises by one if anything changed that somebody may wait for. With `all_done` a change that would
        answer False refuses the list. What is to be written is `written` afterwards.
        """
        at = Moment(self.index + 1, now_ms)
        for table in self._tables:
            table.begin()
        require(changes, "the list of changes is empty")
        require_fits(len(changes), CHANGES_MAX, "number of changes")
        answers: list[Answered | None] = []
        try:
            for change in changes:
                answer = carry_out(change, self._catalog, self._sessions, self._kv, at)
                if answer is False and all_done:
                    raise RequestError(undone(change))
                answers.append(answer)
        except RequestError as error:
            for table in self._tables:
                table.roll_back()
            self._topics.forget()
            raise type(error)(f"change {len(answers)}: {error}") from error
        self._kv.drop_passed_delays(at)
        if self._topics.is_touched:
            self.index = at.index
            self._kv.commit(at)
            self._topics.commit(at.index)
        return [self.index if answer is None else answer for answer in answers]

    def written(self) -> Iterator[tuple[type[Object], str, Object | None]]:
        """What the last list changed: which kind of object, its name, and what it is now, None if it is gone."""
        for table in self._tables:
            yield from table.written()

    def check(self) -> None:
        """Raise `InternalError` unless what is kept fits together. Costs everything."""
        derived, told = self._derived(), Registry(self.contents())._derived()
        for name, value in derived.items():
            ensure(value == told[name], "an index of the registry is what its rows say", index=name)
        catalog = self._catalog
        for node, instance_id in catalog.instances.rows:
            ensure(node in catalog.nodes.rows, "an instance has its node", node=node, instance=instance_id)
        for check in catalog.checks.rows.values():
            owner = (check.node, check.service_id)
            is_owned = owner in catalog.instances.rows if check.service_id else check.node in catalog.nodes.rows
            ensure(is_owned, "a check has what it is about", node=check.node, check=check.id)
        for session in self._sessions.rows.values():
            catalog.require_healthy(session)
        ensure(self._kv.entries.held.keys() <= self._sessions.rows.keys(), "who holds a key is there")

    def _derived(self) -> dict[str, object]:
        """What follows from the rows, and is kept beside them."""
        instances, checks, kv = self._catalog.instances, self._catalog.checks, self._kv
        return {
            "by_name": {name: list(rows.items()) for name, rows in instances.by_name.items()},
            "by_node": {name: list(rows.items()) for name, rows in instances.by_node.items()},
            "by_owner": {name: list(rows.items()) for name, rows in checks.by_owner.items()},
            "deadlines": [checks.expiries.at, checks.removals.at, self._sessions.deadlines.at, kv.delays.deadlines.at],
            "resting_on": self._sessions.resting_on,
            "held": kv.entries.held,
            "keys": list(kv.entries.sorted),
            "bytes_used": kv.entries.bytes_used,
        }
