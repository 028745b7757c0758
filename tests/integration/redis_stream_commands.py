"""Random commands on streams, bad ones among them, and what of their replies only tells the time or the tree."""

import re
from collections.abc import Callable
from random import Random

KEYS = [b"s", b"s", b"s", b"t", b"{u}", b"string", b"absent"]
GROUPS = [b"g", b"g", b"h", b"none"]
CONSUMERS = [b"alice", b"bob", b"carol"]
ENTRIES = [b"a", b"1", b"\xff\r\n", b""]
IDS = [
    *(b"%d-%d" % (ms, sequence) for ms in (1, 2, 3, 5) for sequence in (0, 1, 2)),
    b"0",
    b"2",
    b"4-18446744073709551615",
]
BAD_IDS = [
    b"",
    b"x",
    b"-1",
    b"1-",
    b"1-x",
    b"-",
    b"+",
    b"(1",
    b" 7",
    b"+3-1",
    b"01-02",
    b"18446744073709551616",
    b"1-1-1",
    b"1-*",
]
BOUNDS = [b"-", b"+", b"(1-1", b"(2", b"(", b"(-", b"(18446744073709551615-18446744073709551615", b"(0-0", *IDS]
COUNTS = [b"1", b"2", b"3", b"10", b"10", b"0", b"-1", b"-2", b"x"]
IDLES = [b"0", b"0", b"-5", b"100000", b"x"]


class StreamCommands:
    """Each kind of command with its shape; `next` damages one in fifteen."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        choose, some = chance.choice, self.some
        key: Callable[[], bytes] = lambda: choose(KEYS)  # noqa: E731
        group: Callable[[], bytes] = lambda: choose(GROUPS)  # noqa: E731
        consumer: Callable[[], bytes] = lambda: choose(CONSUMERS)  # noqa: E731
        bound: Callable[[], bytes] = lambda: choose(BOUNDS * 3 + BAD_IDS)  # noqa: E731
        count: Callable[[], bytes] = lambda: choose(COUNTS)  # noqa: E731
        idle: Callable[[], bytes] = lambda: choose(IDLES)  # noqa: E731
        self.shapes: dict[bytes, Callable[[], list[bytes]]] = {
            b"XADD": lambda: [key(), *some([b"NOMKSTREAM"]), *some(self.trim()), self.new_id(), *self.fields()],
            b"XLEN": lambda: [key()],
            b"XRANGE": lambda: [key(), bound(), bound(), *some([b"COUNT", count()])],
            b"XREVRANGE": lambda: [key(), bound(), bound(), *some([b"COUNT", count()])],
            b"XDEL": lambda: [key(), *self.ids()],
            b"XTRIM": lambda: [key(), *self.trim()],
            b"XSETID": lambda: [
                key(),
                self.id_(),
                *some([b"ENTRIESADDED", choose([b"0", b"100", b"-1", b"x"])], 0.2),
                *some([b"MAXDELETEDID", self.id_()], 0.2),
            ],
            b"XREAD": lambda: [
                *some([b"COUNT", count()]),
                b"STREAMS",
                *self.several(key, lambda: choose([self.id_(), b"$", b">"])),
            ],
            b"XREADGROUP": lambda: [
                b"GROUP",
                group(),
                consumer(),
                *some([b"COUNT", count()]),
                *some([b"NOACK"], 0.2),
                b"STREAMS",
                *self.several(key, lambda: choose([b">", b">", b">", self.id_(), b"$"])),
            ],
            b"XGROUP": lambda: choose([self.create, self.create, self.set_id, self.less_common])(),
            b"XACK": lambda: [key(), group(), *self.ids()],
            b"XPENDING": lambda: [
                key(),
                group(),
                *some([*some([b"IDLE", idle()]), bound(), bound(), count(), *some([consumer()])], 0.7),
            ],
            b"XCLAIM": lambda: [
                key(),
                group(),
                consumer(),
                idle(),
                *self.ids(),
                *some([b"IDLE", idle()], 0.2),
                *some([b"TIME", choose([b"1", b"-3", b"x", b"99999999999999"])], 0.1),
                *some([b"RETRYCOUNT", count()], 0.3),
                *some([b"FORCE"]),
                *some([b"justid"], 0.3),
                *some([b"LASTID", self.id_()], 0.2),
            ],
            b"XAUTOCLAIM": lambda: [
                key(),
                group(),
                consumer(),
                idle(),
                bound(),
                *some([b"COUNT", count()]),
                *some([b"JUSTID"], 0.3),
            ],
            b"XINFO": lambda: choose(
                [
                    [b"STREAM", key()],
                    [b"STREAM", key(), b"FULL", *some([b"COUNT", count()])],
                    [b"GROUPS", key()],
                    [b"CONSUMERS", key(), group()],
                    [choose([b"HELP", b"bogus", b"STREAM", b"GROUPS", b"CONSUMERS"])],
                ]
            ),
            b"DEL": lambda: [key()],
            b"SET": lambda: [b"string", b"x"],
            b"COPY": lambda: [b"s", b"t", b"REPLACE"],
            b"TYPE": lambda: [key()],
        }
        rare = (b"DEL", b"SET", b"XSETID", b"XTRIM", b"COPY", b"TYPE")
        often = (b"XADD", b"XREADGROUP", b"XGROUP")
        self.names = [name for name in self.shapes for _ in range(1 if name in rare else 12 if name in often else 5)]

    def next(self) -> list[bytes]:
        name = self.chance.choice(self.names)
        args = [name, *self.shapes[name]()]
        if self.chance.random() < 1 / 15:
            match self.chance.randrange(3):
                case 0:
                    args.pop()
                case 1:
                    args.append(self.chance.choice([b"MKSTREAM", b"COUNT", b"1", b""]))
                case 2:
                    del args[self.chance.randrange(1, len(args) + 1) :]
        return args

    def some(self, words: list[bytes], probability: float = 0.4) -> list[bytes]:
        return words if self.chance.random() < probability else []

    def several(self, *kinds: Callable[[], bytes]) -> list[bytes]:
        count = self.chance.choice([1, 1, 2])
        return [kind() for kind in kinds for _ in range(count)]

    def id_(self) -> bytes:
        return self.chance.choice(IDS * 4 + BAD_IDS)

    def ids(self) -> list[bytes]:
        return [self.id_() for _ in range(self.chance.randint(1, 3))]

    def new_id(self) -> bytes:
        """Rising most of the time; never the clock's, which the two servers read at different moments."""
        rising = b"%d-%s" % (self.chance.randrange(10), self.chance.choice([b"*", b"1", b"7"]))
        return self.chance.choice([rising, rising, rising, self.id_(), b"0-0", b"0-*", b"3-1-*"])

    def fields(self) -> list[bytes]:
        count = self.chance.choice([2, 2, 2, 4, 3])
        return [self.chance.choice(ENTRIES) for _ in range(count)]

    def trim(self) -> list[bytes]:
        """Exact, for what ``~`` leaves is each server's own."""
        return self.chance.choice(
            [
                [b"MAXLEN", *self.some([b"="]), self.chance.choice([b"3", b"8", b"8", b"0", b"-1", b"x"])],
                [b"minid", *self.some([b"="]), self.id_()],
                [b"MAXLEN", b"5", b"LIMIT", self.chance.choice([b"1", b"-1", b"x", b"0"])],
                [b"LIMIT", b"4"],
                [b"MAXLEN", b"5", b"MINID", b"1"],
                [b"MAXLEN", b"~", b"1000"],
            ]
        )

    def create(self) -> list[bytes]:
        return [
            b"CREATE",
            self.chance.choice(KEYS),
            self.chance.choice(GROUPS),
            self.chance.choice([b"$", b"0", b"0", self.id_()]),
            *self.some([b"MKSTREAM"], 0.7),
            *self.some([b"ENTRIESREAD", self.chance.choice([b"0", b"2", b"-1", b"-2", b"x"])], 0.2),
        ]

    def set_id(self) -> list[bytes]:
        return [b"SETID", *self.create()[1:4], *self.some([b"ENTRIESREAD", self.chance.choice([b"3", b"x"])])]

    def less_common(self) -> list[bytes]:
        key, group = self.chance.choice(KEYS), self.chance.choice(GROUPS)
        consumer = self.chance.choice(CONSUMERS)
        return self.chance.choice(
            [
                [b"CREATECONSUMER", key, group, consumer],
                [b"DELCONSUMER", key, group, consumer],
                [b"DESTROY", key, group],
                [b"HELP"],
                [b"bogus", key],
            ]
        )


def timeless(args: list[bytes], reply: bytes) -> bytes:
    """The reply without what depends on the clock or on the shape of a radix tree."""
    name = args[0].upper()
    if name == b"XINFO":
        reply = re.sub(rb"(idle|seen-time|radix-tree-\w+)\r\n:\d+", rb"\1\r\n:", reply)
    if name in (b"XINFO", b"XPENDING"):
        # What was given out this second, or was said to have been given out long ago, by one tick or another.
        reply = re.sub(rb":\d{12,}\r\n", b":then\r\n", reply)
        reply = re.sub(rb"(\$\d+\r\n(?:alice|bob|carol)\r\n):\d+\r\n", rb"\1:idle\r\n", reply)
    return reply
