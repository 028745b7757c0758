"""Publishing on one node: its own subscribers and the others, counted."""

from noctule.core.pubsub.message import Kind, Message
from noctule.core.pubsub.subscriptions import Subscriber
from noctule.core.wire.messages import Published
from noctule.node.pubsub import PubSub


def test_what_is_published_here_is_heard_here_and_sent_once() -> None:
    sent, heard = list[Published](), list[Message]()

    def broadcast(message: Published) -> int:
        sent.append(message)
        return 1  # One of the others is away.

    pubsub = PubSub(broadcast)
    subscriber = Subscriber(heard.append)
    pubsub.subscriptions.subscribe(subscriber, Kind.CHANNEL, b"c")
    pubsub.subscriptions.subscribe(subscriber, Kind.PATTERN, b"*")
    assert pubsub.publish(b"c", b"1", sharded=False) == 2
    assert pubsub.publish(b"c", b"2", sharded=True) == 0
    pubsub.publish_all([(False, b"c", b"3"), (True, b"c", b"4")])
    assert sent == [
        Published(False, b"c", b"1"),
        Published(True, b"c", b"2"),
        Published(False, b"c", b"3"),
        Published(True, b"c", b"4"),
    ]
    assert len(heard) == 4
    assert pubsub.counters() == {
        "noctule_pubsub_published_total": 4,
        "noctule_pubsub_delivered_total": 4,
        "noctule_pubsub_dropped_total": 4,
    }


def test_what_another_node_published_is_heard_and_not_sent_on() -> None:
    sent, heard = list[Published](), list[Message]()

    def broadcast(message: Published) -> int:
        sent.append(message)
        return 0

    pubsub = PubSub(broadcast)
    pubsub.subscriptions.subscribe(Subscriber(heard.append), Kind.SHARD, b"s")
    pubsub.published(Published(True, b"s", b"p"))
    assert ([message.encoded(2) for message in heard], sent) == (
        [b"*3\r\n$8\r\nsmessage\r\n$1\r\ns\r\n$1\r\np\r\n"],
        [],
    )
    assert pubsub.counters()["noctule_pubsub_published_total"] == 0
