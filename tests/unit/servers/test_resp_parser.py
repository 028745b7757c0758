"""Bytes to commands: however the stream is cut, whatever is in it, and never more memory than the bounds say."""

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.bounds import ARGUMENTS_MAX, COMMAND_BYTES_MAX, VALUE_BYTES_MAX
from noctule.core.keyspace.reply import Failure
from noctule.servers.resp_parser import ANNOUNCED_BYTES_MAX, LINE_BYTES_MAX, CommandParser, Received, split_inline

from .resp_fakes import command

PIPELINE = (
    command(b"SET", b"k", b"a\r\nb")
    + b"PING\r\n"
    + b"\r\n*0\r\n*-1\r\n"
    + b"ECHO 'x y'\n"
    + command(b"GET", b"")
    + command(b"MSET", b"*1\r\n$4\r\nPING\r\n", b"$1", b"v" * 1_200, b"\x00\xff")
    + b"*-10\r\n"
)
COMMANDS: list[Received] = [
    [b"SET", b"k", b"a\r\nb"],
    [b"PING"],
    [b"ECHO", b"x y"],
    [b"GET", b""],
    [b"MSET", b"*1\r\n$4\r\nPING\r\n", b"$1", b"v" * 1_200, b"\x00\xff"],
]


def parse(*chunks: bytes) -> tuple[list[Received], Failure | None]:
    parser = CommandParser()
    commands = [command for chunk in chunks for command in parser.feed(chunk)]
    return commands, parser.error


def test_a_whole_pipeline() -> None:
    assert parse(PIPELINE) == (COMMANDS, None)


def test_more_arguments_than_are_looked_up() -> None:
    args = [b"%d" % number for number in range(1_100)]
    assert parse(command(*args)) == ([args], None)


def test_a_pipeline_cut_once_at_every_byte() -> None:
    for cut in range(len(PIPELINE)):
        assert parse(PIPELINE[:cut], PIPELINE[cut:]) == (COMMANDS, None), cut


def test_a_pipeline_of_single_bytes() -> None:
    assert parse(*[PIPELINE[place : place + 1] for place in range(len(PIPELINE))]) == (COMMANDS, None)


@given(
    st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=5), max_size=8),
    st.lists(st.integers(0, 600), max_size=12),
)
def test_any_commands_cut_anywhere(commands: list[list[bytes]], cuts: list[int]) -> None:
    stream = b"".join(command(*args) for args in commands)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert parse(*[stream[a:b] for a, b in pairwise(places)]) == (commands, None)


@given(
    st.lists(
        st.sampled_from(
            [b"*1", b"*2", b"*02", b"*12345678", b"$0", b"$1", b"$2", b"$01", b"$", b"a", b"\r", b"", b"$1\r\na"]
        ),
        max_size=12,
    )
)
def test_what_is_nearly_a_command_means_the_same_whole_and_byte_by_byte(lines: list[bytes]) -> None:
    stream = b"\r\n".join(lines)
    assert parse(stream) == parse(*[stream[place : place + 1] for place in range(len(stream))])


GARBAGE = [
    (b"*x\r\n", b"invalid multibulk length"),
    (b"*\r\n", b"invalid multibulk length"),
    (b"*+1\r\n", b"invalid multibulk length"),
    (b"*01\r\n", b"invalid multibulk length"),
    (b"*1_0\r\n", b"invalid multibulk length"),
    (b"*1\rx\r\n", b"invalid multibulk length"),
    (b"*1048577\r\n", b"invalid multibulk length"),
    (b"*2147483647\r\n", b"invalid multibulk length"),
    (b"*99999999999999999999\r\n", b"invalid multibulk length"),
    (b"*1\r\n$-1\r\n", b"invalid bulk length"),
    (b"*1\r\n$x\r\n", b"invalid bulk length"),
    (b"*1\r\n$\r\n", b"invalid bulk length"),
    (b"*1\r\n$04\r\n", b"invalid bulk length"),
    (b"*1\r\n$4\rxPING\r\n", b"invalid bulk length"),
    (b"*1\r\n$%d\r\n" % (ANNOUNCED_BYTES_MAX + 1), b"invalid bulk length"),
    (b"*1\r\n+PING\r\n", b"expected '$', got '+'"),
    (b"*1\r\n:1\r\n", b"expected '$', got ':'"),
    (b"*1\r\n_\r\n", b"expected '$', got '_'"),
    (b"*1\r\n%1\r\n", b"expected '$', got '%'"),
    (b"*1\r\n*1\r\n$4\r\nPING\r\n", b"expected '$', got '*'"),
    (b"*1\r\n\r\n", b"expected '$', got ' '"),
    (b"*1\r\n\xff\r\n", b"expected '$', got '\xff'"),
    (b"*2\r\n$1\r\nabc\r\n$1\r\na\r\n", b"expected '$', got ' '"),
    (b'ECHO "a\r\n', b"unbalanced quotes in request"),
    (b"ECHO 'a\r\n", b"unbalanced quotes in request"),
    (b'ECHO "a"b\r\n', b"unbalanced quotes in request"),
    (b"A" * (LINE_BYTES_MAX + 1), b"too big inline request"),
    (b"*" + b"1" * LINE_BYTES_MAX, b"too big mbulk count string"),
    (b"*1\r\n$" + b"1" * LINE_BYTES_MAX, b"too big bulk count string"),
]


@pytest.mark.parametrize(("garbage", "text"), GARBAGE)
def test_garbage_ends_the_stream_behind_what_was_good(garbage: bytes, text: bytes) -> None:
    commands, error = parse(command(b"PING") + garbage, command(b"PING"))
    assert commands == [[b"PING"]]
    assert error is not None
    assert error.text.startswith(b"ERR Protocol error: " + text)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"  set  k\tv ", [b"set", b"k", b"v"]),
        (b'a "b c" "" d', [b"a", b"b c", b"", b"d"]),
        (b'"\\x41\\n\\r\\t\\b\\a\\\\\\"\\q\\xZ"', [b'A\n\r\t\b\a\\"qxZ']),
        (b"'it\\'s' '\\n'", [b"it's", b"\\n"]),
        (b'plain\\n half"and half"', [b"plain\\n", b"halfand half"]),
        (b"\xff\x00", [b"\xff\x00"]),
        (b"", []),
    ],
)
def test_inline_words(line: bytes, words: list[bytes]) -> None:
    assert split_inline(line) == words


CHUNK = 256 * 1024


def chunks_of(stream: bytes) -> list[bytes]:
    return [stream[place : place + CHUNK] for place in range(0, len(stream), CHUNK)]


def test_a_value_at_its_bound_and_one_over_it() -> None:
    """The command over the bound is refused, and the next one on the same connection is not."""
    value = b"v" * VALUE_BYTES_MAX
    over = value + b"v"
    commands, error = parse(*chunks_of(command(b"SET", b"k", value) + command(b"SET", over, b"x") + command(b"PING")))
    refusal = Failure(b"ERR argument of %d bytes, VALUE_BYTES_MAX is %d" % (len(over), VALUE_BYTES_MAX))
    assert commands == [[b"SET", b"k", value], refusal, [b"PING"]]
    assert error is None


@pytest.mark.parametrize("tail", [b"", b"$1\r\nx\r\n"])
def test_a_refused_command_cut_at_every_byte_around_its_end(tail: bytes) -> None:
    over = VALUE_BYTES_MAX + 1
    head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n" % (3 if tail else 2, over)
    stream = b"v" * 3 + b"\r\n" + tail + command(b"PING")
    for cut in range(len(stream) + 1):
        parser = CommandParser()
        assert parser.feed(head + b"v" * (over - 3)) == []
        commands = parser.feed(stream[:cut]) + parser.feed(stream[cut:])
        assert [type(item) for item in commands] == [Failure, list], cut
        assert commands[1] == [b"PING"]


def test_a_command_over_its_bound_in_many_arguments() -> None:
    """Chunks that end with an argument each show that the bound does not depend on one being cut."""
    parser = CommandParser()
    count = COMMAND_BYTES_MAX // CHUNK + 2
    assert parser.feed(b"*%d\r\n" % count) == []
    commands: list[Received] = []
    tracemalloc.start()
    for _ in range(count):
        assert not commands
        commands = parser.feed(b"$%d\r\n%b\r\n" % (CHUNK, b"v" * CHUNK))
    commands += parser.feed(command(b"PING"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(commands[0], Failure)
    assert b"COMMAND_BYTES_MAX" in commands[0].text
    assert commands[1:] == [[b"PING"]]
    assert peak < COMMAND_BYTES_MAX + 8 * CHUNK


def test_too_many_arguments_are_counted_and_not_kept() -> None:
    parser = CommandParser()
    count = ARGUMENTS_MAX + 1
    commands = parser.feed(b"*%d\r\n" % count + b"$1\r\na\r\n" * (count - 1)) + parser.feed(b"$1\r\na\r\n")
    assert commands == [Failure(b"ERR too many arguments: %d, ARGUMENTS_MAX is %d" % (count, ARGUMENTS_MAX))]
    assert parser.feed(command(b"PING")) == [[b"PING"]]


def test_an_announcement_costs_nothing() -> None:
    """hiredis.Reader allocates 16 GiB of pointers for such a line."""
    tracemalloc.start()
    for line in (b"*1000000\r\n", b"*1\r\n$%d\r\n" % ANNOUNCED_BYTES_MAX):
        assert CommandParser().feed(line) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 1024


def test_a_large_value_is_not_copied_for_each_chunk() -> None:
    """Chunks are joined when the value is whole: the work of all feeds is linear."""
    parser = CommandParser()
    value = b"v" * VALUE_BYTES_MAX
    stream = command(b"SET", b"k", value)
    for chunk in chunks_of(stream)[:-1]:
        assert parser.feed(chunk) == []
    held = parser._held
    assert len(held) == len(chunks_of(stream)) - 1, "the chunks are held as they came"
    assert parser.feed(chunks_of(stream)[-1]) == [[b"SET", b"k", value]]
