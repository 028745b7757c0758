"""What coverage-guided fuzzing throws at the RESP door, and what must hold whatever the bytes are.

No fuzzer here: `run.py` gives these to atheris, and tests/unit/servers/test_resp_fuzz.py to Hypothesis and to the
inputs that once failed. Each target takes any bytes, and raises when a promise is broken.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

from noctule.base.bounds import ARGUMENTS_MAX, COMMAND_BYTES_MAX
from noctule.core.keyspace.commands import COMMANDS, check_command
from noctule.core.keyspace.keyspace import Keyspace, ReadOutcome
from noctule.core.keyspace.reply import Failure
from noctule.core.keyspace.spec import CommandSpec, Scope
from noctule.core.wire.resp import encode_reply
from noctule.servers.resp_parser import CommandParser, Received

Target: TypeAlias = Callable[[bytes], None]

NOW_MS = 1_700_000_000_000
COMMANDS_MAX = 12
ARGUMENTS_OF_ONE = 8

TOKENS = b"""
a b {t}1 {t}2 0 1 -1 2 7 -12 3.5 1e3 -0.5 inf -inf nan 9223372036854775807 -9223372036854775808 9223372036854775808
1700000100 1700000100000 NX XX GT LT CH INCR GET EX PX EXAT PXAT KEEPTTL PERSIST REPLACE MATCH COUNT TYPE ASYNC SYNC
DB LIMIT WITHSCORES WITHVALUES REV BYSCORE BYLEX WEIGHTS AGGREGATE SUM MIN MAX LEFT RIGHT BEFORE AFTER RANK MAXLEN
MINID NOMKSTREAM STREAMS GROUP CREATE MKSTREAM BLOCK NOACK IDLE JUSTID BIT BYTE AND OR XOR NOT OVERFLOW WRAP SAT FAIL
SET INCRBY u8 i64 #1 * ~ = $ > + - [a (a (1 1-1 0-0 [ ( return string hash list set zset stream lww counter orset
""".split()
"""What commands have meanings for, of every family; a byte of the input chooses one."""

_NAMES = [name for name, spec in COMMANDS.items() if spec.handler is not None and spec.scope is not Scope.INTERNAL]
_HOLD = [b"", b"\x00", b"\r\n", b"v" * 300, *TOKENS]


def parse(chunks: list[bytes]) -> tuple[list[Received], Failure | None]:
    """All commands of a stream that comes in these pieces, and why it ends."""
    parser = CommandParser()
    commands = [command for chunk in chunks for command in parser.feed(chunk)]
    return commands, parser.error


def parser(data: bytes) -> None:
    """A stream means the same however it is cut; what it means is within the bounds; what it holds is what came."""
    stream = data[2:]
    cuts = sorted(byte * len(stream) // 256 for byte in data[:2])
    places = [0, *cuts, len(stream)]
    whole = parse([stream])
    pieces = parse([stream[start:end] for start, end in pairwise(places)])
    assert whole == pieces, "a stream means the same however it is cut"
    for command in whole[0]:
        if not isinstance(command, Failure):
            assert 0 < len(command) <= ARGUMENTS_MAX
            assert sum(map(len, command)) <= min(COMMAND_BYTES_MAX, len(stream))


def commands_of(data: bytes) -> list[list[bytes]]:
    """Commands spelt by the bytes: for each a name, a number of arguments, and for each of these one choice."""
    found: list[list[bytes]] = []
    position = 0
    while position + 1 < len(data) and len(found) < COMMANDS_MAX:
        args = [_NAMES[data[position] % len(_NAMES)]]
        count = data[position + 1] % (ARGUMENTS_OF_ONE + 1)
        position += 2
        while count and position < len(data):
            choice = data[position]
            position += 1
            if choice < len(_HOLD):
                args.append(_HOLD[choice])
            else:
                size = choice - len(_HOLD)
                args.append(data[position : position + size])
                position += size
            count -= 1
        found.append(args)
    return found


def commands(data: bytes) -> None:
    """Every command answers what both protocols can spell, keeps the state sound, and does the same again elsewhere."""
    here, there = Keyspace(), Keyspace()
    for step, args in enumerate(commands_of(data)):
        now_ms = NOW_MS + step
        spec = check_command(args)
        if not isinstance(spec, CommandSpec):
            continue
        read = here.read(args, now_ms)
        before = b"" if isinstance(read, ReadOutcome) else here.digest()
        reply = here.execute(args, now_ms)
        again = there.execute(args, now_ms)
        for protocol in (2, 3):
            spelt = encode_reply(reply, protocol)
            assert spelt == encode_reply(again, protocol), "replicas answer the same"
            if not isinstance(read, ReadOutcome):
                assert spelt == encode_reply(read, protocol), "a read answers what the log would"
        assert isinstance(read, ReadOutcome) or here.digest() == before, "what is no write changes nothing"
        here.check()
        if step % 4 == 3:
            here.picture()  # From now on its slots are shared, and every write has to copy.
    assert here.digest() == there.digest(), "replicas hold the same"


TARGETS: dict[str, Target] = {"parser": parser, "commands": commands}
