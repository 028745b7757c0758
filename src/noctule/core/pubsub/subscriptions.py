"""The subscriptions of one node: who hears a message, counted and bounded.

A channel costs one look into a dict however many channels there are; every pattern is tried on every message, so there
is a bound on them. Nothing here knows of other nodes: each keeps its own, and every message comes to every node.
"""

from collections.abc import Callable, Collection, Iterable

from noctule.base.bounds import CHANNEL_BYTES_MAX
from noctule.base.ensure import ensure
from noctule.core.keyspace.glob import PATTERN_BYTES_MAX, glob_matcher
from noctule.core.pubsub.message import Kind, Message

SUBSCRIPTIONS_MAX = 10_000
"""Subscriptions of one connection, of all kinds together."""
PATTERNS_MAX = 10_000
"""Patterns of one node, each counted once: a message is tried on all of them, which takes 2 ms where they are plain."""
PATTERN_BYTES_TOTAL_MAX = 256 * 1024
"""All of them together. A byte of one may cost a nanosecond for each byte of a channel: 0.3 s at the very worst."""


_NOTHING: dict[bytes, None] = {}


class Subscriber:
    """One connection that has, or had, subscriptions. Only `Subscriptions` changes it."""

    __slots__ = ("hear", "names")

    def __init__(self, hear: Callable[[Message], None]) -> None:
        self.hear = hear
        """Called once for each subscription that fits a message, in the order published; must not raise."""
        self.names: dict[Kind, dict[bytes, None]] = {}
        """To what it is subscribed, oldest first; a kind of which there is nothing is absent."""

    def of(self, kind: Kind) -> dict[bytes, None]:
        """Its subscriptions of one kind, for reading."""
        return self.names.get(kind, _NOTHING)

    def count(self, kind: Kind) -> int:
        """As Redis tells it in confirmations: channels and patterns are counted together, sharded ones alone."""
        if kind is Kind.SHARD:
            return len(self.of(kind))
        return len(self.of(Kind.CHANNEL)) + len(self.of(Kind.PATTERN))


class Subscriptions:
    """Of all connections of one node."""

    __slots__ = ("_matchers", "_pattern_bytes", "_subscribers")

    def __init__(self) -> None:
        self._subscribers: dict[Kind, dict[bytes, dict[Subscriber, None]]] = {kind: {} for kind in Kind}
        self._matchers: dict[bytes, Callable[[bytes], bool]] = {}
        """For each pattern somebody is subscribed to."""
        self._pattern_bytes = 0
        """Of these."""

    def problem(self, subscriber: Subscriber, kind: Kind, names: Iterable[bytes]) -> str:
        """Why these must not all be subscribed to; empty when they may. Ask before `subscribe`."""
        names = dict.fromkeys(names)
        what, bound, bytes_max = "channel", "CHANNEL_BYTES_MAX", CHANNEL_BYTES_MAX
        if kind is Kind.PATTERN:
            what, bound, bytes_max = "pattern", "PATTERN_BYTES_MAX", PATTERN_BYTES_MAX
        longest = max(map(len, names), default=0)
        if longest > bytes_max:
            return f"{what} of {longest} bytes, {bound} is {bytes_max}"
        new = len(names.keys() - subscriber.of(kind).keys())
        if new + sum(map(len, subscriber.names.values())) > SUBSCRIPTIONS_MAX:
            return f"too many subscriptions on one connection, SUBSCRIPTIONS_MAX is {SUBSCRIPTIONS_MAX}"
        return self._problem_of_patterns(names.keys() - self._matchers.keys()) if kind is Kind.PATTERN else ""

    def _problem_of_patterns(self, patterns: Collection[bytes]) -> str:
        if len(self._matchers) + len(patterns) > PATTERNS_MAX:
            return f"too many patterns on one node, PATTERNS_MAX is {PATTERNS_MAX}"
        if self._pattern_bytes + sum(map(len, patterns)) > PATTERN_BYTES_TOTAL_MAX:
            return f"too long patterns on one node, PATTERN_BYTES_TOTAL_MAX is {PATTERN_BYTES_TOTAL_MAX}"
        return ""

    def subscribe(self, subscriber: Subscriber, kind: Kind, name: bytes) -> None:
        """From now on it hears what fits; once, however often it subscribes."""
        subscriber.names.setdefault(kind, {})[name] = None
        self._subscribers[kind].setdefault(name, {})[subscriber] = None
        if kind is Kind.PATTERN and name not in self._matchers:
            self._matchers[name] = glob_matcher(name)
            self._pattern_bytes += len(name)

    def unsubscribe(self, subscriber: Subscriber, kind: Kind, name: bytes) -> None:
        """Nothing happens when it is not subscribed."""
        own = subscriber.of(kind)
        if name not in own:
            return
        del own[name]
        if not own:
            del subscriber.names[kind]
        listeners = self._subscribers[kind][name]
        del listeners[subscriber]
        if not listeners:
            del self._subscribers[kind][name]
            if kind is Kind.PATTERN:
                del self._matchers[name]
                self._pattern_bytes -= len(name)

    def forget(self, subscriber: Subscriber) -> None:
        """End all of its subscriptions."""
        for kind in list(subscriber.names):
            for name in list(subscriber.of(kind)):
                self.unsubscribe(subscriber, kind, name)

    def publish(self, channel: bytes, payload: bytes, *, sharded: bool) -> int:
        """Tell everyone whose subscriptions fit, those to the channel first; returns how often somebody was told."""
        kind = Kind.SHARD if sharded else Kind.CHANNEL
        told = self._tell(self._subscribers[kind].get(channel), kind, channel, payload)
        if not sharded:
            for pattern in [pattern for pattern, matches in self._matchers.items() if matches(channel)]:
                told += self._tell(
                    self._subscribers[Kind.PATTERN].get(pattern), Kind.PATTERN, channel, payload, pattern
                )
        return told

    def _tell(
        self, listeners: dict[Subscriber, None] | None, kind: Kind, channel: bytes, payload: bytes, pattern: bytes = b""
    ) -> int:
        if not listeners:
            return 0
        message = Message(kind, channel, payload, pattern)
        for subscriber in listeners:
            subscriber.hear(message)
        return len(listeners)

    # What PUBSUB asks ------------------------------------------------------------------------------------------------

    def names(self, kind: Kind) -> Collection[bytes]:
        """The channels, or patterns, that have a subscriber; oldest first."""
        return self._subscribers[kind]

    def listeners(self, kind: Kind, name: bytes) -> int:
        """How many are subscribed to exactly this."""
        return len(self._subscribers[kind].get(name, ()))

    def check(self) -> None:
        """Raise `InternalError` when the two sides of the books differ."""
        for kind, table in self._subscribers.items():
            for name, listeners in table.items():
                ensure(bool(listeners), "a name without subscribers is forgotten", name=name)
                for subscriber in listeners:
                    ensure(name in subscriber.of(kind), "a listener knows of its subscription", name=name)
        patterns = self._subscribers[Kind.PATTERN]
        ensure(patterns.keys() == self._matchers.keys(), "each pattern has its matcher", patterns=len(patterns))
        ensure(
            sum(map(len, patterns)) == self._pattern_bytes, "bytes of patterns are counted", count=self._pattern_bytes
        )
