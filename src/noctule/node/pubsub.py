"""Publishing on one node: its own subscribers are told at once, the other nodes in this turn's frames.

Every message goes to every node, as in a Redis Cluster, and each knows its own subscribers only. A message is sent once
and never again: whoever is not connected, or too far behind, misses it.
"""

from collections.abc import Callable, Iterable

from noctule.core.pubsub.subscriptions import Subscriptions
from noctule.core.wire.messages import Published


class PubSub:
    """The subscribers of one node, and the way to those of the others."""

    def __init__(self, broadcast: Callable[[Published], int] = lambda _: 0) -> None:
        """`broadcast` puts a message on its way to all other nodes, and returns how many will miss it."""
        self.subscriptions = Subscriptions()
        self.published_total = 0
        """What was published through this node, by its clients and by the groups that it leads."""
        self.delivered_total = 0
        """How often a subscriber of this node was told something."""
        self.dropped_total = 0
        """How often something published here was not sent to a node, as it was away or too far behind."""
        self._broadcast = broadcast

    def publish(self, channel: bytes, payload: bytes, *, sharded: bool) -> int:
        """Tell everyone everywhere; returns how often a subscriber of this node was told.

        What one caller publishes comes to each subscriber in that order.
        """
        self.published_total += 1
        message = Published(sharded, channel, payload)
        self.dropped_total += self._broadcast(message)
        return self._tell(message)

    def publish_all(self, messages: Iterable[tuple[bool, bytes, bytes]]) -> None:
        """The same with what was published through the log: sharded or not, channel, payload."""
        for sharded, channel, payload in messages:
            self.publish(channel, payload, sharded=sharded)

    def published(self, message: Published) -> None:
        """Another node published this: tell the subscribers of this one."""
        self._tell(message)

    def _tell(self, message: Published) -> int:
        told = self.subscriptions.publish(message.channel, message.payload, sharded=message.sharded)
        self.delivered_total += told
        return told

    def counters(self) -> dict[str, int]:
        """Since the start, for `NodePicture.counters`: each only ever rises."""
        return {
            "noctule_pubsub_published_total": self.published_total,
            "noctule_pubsub_delivered_total": self.delivered_total,
            "noctule_pubsub_dropped_total": self.dropped_total,
        }
