"""What a blocking command waits for, as its arguments say it. Pure; who waits is a node's waiting room.

A row of the table with `blocking` names a function that reads the arguments and answers a `Wait`: for each key what
must become of it, and the command that is then tried. That command is an ordinary one, which never waits: it is the
same one by name, about that key alone, and answers null when somebody else was faster. So the handler of a blocking
command is at the same time what it does inside a transaction or a script.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import NamedTuple, TypeAlias

from noctule.core.keyspace.numbers import INT_MAX, is_infinite, parse_float
from noctule.core.keyspace.reply import Failure, Reply

_NEGATIVE = Failure(b"ERR timeout is negative")
_NOT_A_FLOAT = Failure(b"ERR timeout is not a float or out of range")


class Try(NamedTuple):
    """One of the keys of a blocking command."""

    key: bytes
    args: list[bytes]
    """What to run once the key is ready; null means that there was nothing."""
    detail: bytes = b""
    """What else the key must be, for kinds that ask."""


class Wait(NamedTuple):
    """What a blocking command waits for."""

    timeout_ms: int
    """0: for ever."""
    tries: list[Try]
    """In the order of preference."""
    kind: bytes
    """What a key must be to be ready, by the names of awaited.py."""
    takes: bool = True
    """Whether a try may leave nothing for the next: those who wait for a key are tried one after the other."""


class Question(NamedTuple):
    """What must be known before it can be said what a command waits for, such as where a stream ends now."""

    args: list[bytes]
    """An internal command that only reads."""
    then: Callable[[Reply], list[bytes] | Failure]
    """From its reply, the blocking command to go on with, which asks no more; or what is wrong."""


Blocking: TypeAlias = Callable[[list[bytes]], Wait | Question | Failure | None]
"""What a command with these arguments waits for; what is wrong with them; None when so written it does not wait."""


def parse_timeout(text: bytes) -> int | Failure:
    """Seconds with a fraction, as milliseconds, rounded up."""
    if text == b"0":
        return 0  # As whatever is tried says, on every replica.
    if is_infinite(text):
        return _NEGATIVE  # As it comes out in Redis, too.
    seconds = parse_float(text)
    if seconds is None:
        return _NOT_A_FLOAT
    timeout_ms = ceil(seconds * 1_000)
    return timeout_ms if 0 <= timeout_ms <= INT_MAX else _NEGATIVE


def wait_for_each(kind: bytes) -> Blocking:
    """``NAME key… timeout``: the first of the keys that is ready is tried alone."""

    def blocking(args: list[bytes]) -> Wait | Failure:
        timeout_ms = parse_timeout(args[-1])
        if isinstance(timeout_ms, Failure):
            return timeout_ms
        return Wait(timeout_ms, [Try(key, [args[0], key, b"0"]) for key in args[1:-1]], kind)

    return blocking


def wait_for_counted(kind: bytes, problem: Callable[[Sequence[bytes], int], Failure | None]) -> Blocking:
    """``NAME timeout numkeys key… option…``; `problem` tells what is wrong with what begins at a position."""

    def blocking(args: list[bytes]) -> Wait | Failure:
        failure = problem(args, 2)
        if failure is not None:
            return failure
        timeout_ms = parse_timeout(args[1])
        if isinstance(timeout_ms, Failure):
            return timeout_ms
        end = 3 + int(args[2])
        options = args[end:]
        return Wait(timeout_ms, [Try(key, [args[0], b"0", b"1", key, *options]) for key in args[3:end]], kind)

    return blocking


def wait_for_source(kind: bytes, problem: Callable[[Sequence[bytes]], Failure | None]) -> Blocking:
    """``NAME source destination option… timeout``: once the source is ready, the whole is tried."""

    def blocking(args: list[bytes]) -> Wait | Failure:
        failure = problem(args)
        if failure is not None:
            return failure
        timeout_ms = parse_timeout(args[-1])
        if isinstance(timeout_ms, Failure):
            return timeout_ms
        return Wait(timeout_ms, [Try(args[1], [*args[:-1], b"0"])], kind)

    return blocking
