"""Random commands on bits and on what is inside a key, bad ones among them."""

from collections.abc import Callable
from random import Random

KEYS = [b"a", b"b", b"c", b"", b"hash"]
OFFSETS = [b"0", b"1", b"7", b"8", b"13", b"100", b"-1", b"x", b"4294967295", b"4294967296", b"#1"]
INDICES = [b"0", b"1", b"2", b"5", b"9", b"40", b"-1", b"-2", b"-3", b"-9", b"-40", b"x"]
TYPES = [b"u1", b"u8", b"u5", b"u63", b"i1", b"i8", b"i13", b"i64", b"u64", b"i65", b"U8", b"u0", b"i", b""]
NUMBERS = [
    b"0",
    b"1",
    b"-1",
    b"127",
    b"-128",
    b"255",
    b"1000",
    b"-1000",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"x",
]
VALUES = [b"", b"\xff\xff", b"\x00\x00", b"foobar", b"\x00\x00\x01\x00", b"\xff" * 9 + b"\x0f", b"7", b"x" * 60]


class BitCommands:
    """Each kind of command with its shape; `next` damages one in fifteen."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        choose = chance.choice
        key: Callable[[], bytes] = lambda: choose(KEYS)  # noqa: E731
        # Most of them near: a string that is grown to 512 MB here and there is no comparison.
        offset: Callable[[], bytes] = lambda: choose(OFFSETS[:6] * 3 + OFFSETS[6:])  # noqa: E731
        near: Callable[[], bytes] = lambda: choose([*OFFSETS[:6] * 3, *OFFSETS[6:8], b"#0", b"#1", b"#3", b"#x"])  # noqa: E731
        index: Callable[[], bytes] = lambda: choose(INDICES)  # noqa: E731
        unit: Callable[[], bytes] = lambda: choose([b"BIT", b"bit", b"BYTE", b"bogus"])  # noqa: E731
        self.shapes: dict[bytes, Callable[[], list[bytes]]] = {
            b"SET": lambda: [choose(KEYS[:4]), choose(VALUES)],
            b"HSET": lambda: [b"hash", b"f", b"1"],
            b"DEL": lambda: [key()],
            b"PEXPIRE": lambda: [key(), b"1000000"],
            b"PERSIST": lambda: [key()],
            b"GET": lambda: [key()],
            b"SETBIT": lambda: [
                key(),
                choose([*OFFSETS[:8], b"4294967296"]),
                choose([b"0", b"1", b"1", b"2", b"x", b"01"]),
            ],
            b"GETBIT": lambda: [key(), offset()],
            b"BITCOUNT": lambda: [key(), *self.first([index(), index(), unit()])],
            b"BITPOS": lambda: [
                key(),
                choose([b"0", b"1", b"1", b"0", b"2", b"x"]),
                *self.first([index(), index(), unit()]),
            ],
            b"BITOP": lambda: [
                choose([b"AND", b"or", b"XOR", b"NOT", b"bogus"]),
                key(),
                *(key() for _ in range(chance.randint(1, 3))),
            ],
            b"BITFIELD": lambda: [
                key(),
                *(
                    word
                    for _ in range(chance.randint(0, 3))
                    for word in choose(
                        [
                            [b"GET", choose(TYPES), near()],
                            [b"SET", choose(TYPES[:8]), near(), choose(NUMBERS)],
                            [b"incrby", choose(TYPES[:8]), near(), choose(NUMBERS)],
                            [b"OVERFLOW", choose([b"SAT", b"FAIL", b"wrap", b"bogus"])],
                        ]
                    )
                ),
            ],
            b"BITFIELD_RO": lambda: [
                key(),
                *choose([[b"GET", choose(TYPES), near()], [], [b"SET", b"u8", b"0", b"1"]]),
            ],
            b"OBJECT": lambda: choose(
                [[b"REFCOUNT", b"hash"], [b"FREQ", key()], [b"ENCODING", b"none"], [b"HELP"], [b"bogus"]]
            ),
            b"MEMORY": lambda: [
                b"USAGE",
                b"none",
                *choose([[], [b"SAMPLES", index()], [b"SAMPLES"], [b"bogus", b"1"]]),
            ],
            b"HRANDFIELD": lambda: [
                key(),
                *self.first([choose(NUMBERS[:2] + NUMBERS[9:]), choose([b"withvalues", b"bogus"])]),
            ],
        }
        often = (b"BITFIELD", b"BITPOS", b"BITCOUNT")
        self.names = [name for name in self.shapes for _ in range(6 if name in often else 2)]

    def next(self) -> list[bytes]:
        name = self.chance.choice(self.names)
        args = [name, *self.shapes[name]()]
        if self.chance.random() < 1 / 15:
            args = args[:-1] if len(args) > 1 and self.chance.random() < 0.5 else [*args, b"1"]
        return args

    def first(self, words: list[bytes]) -> list[bytes]:
        return words[: self.chance.randint(0, len(words))]
