"""What is fuzzed for hours elsewhere, for a second here: the targets of tests/fuzz, and the parser against hiredis."""

from collections.abc import Sequence
from itertools import pairwise

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.servers.resp_parser import CommandParser, Received
from tests.fuzz import resp_targets

from .resp_fakes import command

PIECES = [
    *(b"*%d\r\n" % count for count in (-1, 0, 1, 2, 3, 1_025, 65_537, 1_048_577)),
    *(b"$%d\r\n" % size for size in (-1, 0, 1, 2, 4, 1_025, 8_388_609, 536_870_913)),
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"a",
        b"PING",
        b"PING\r\n",
        b"'",
        b'"',
        b"\\",
        b"\\x4",
        b" ",
        b"\x00",
        b"+",
        b"%1\r\n",
        b"v" * 1_200,
    ),
]
CUTS = st.lists(st.integers(0, 2_000), max_size=12)


@given(st.binary(min_size=2, max_size=2), st.lists(st.sampled_from(PIECES), max_size=20))
def test_a_stream_means_the_same_however_it_is_cut(cuts: bytes, pieces: list[bytes]) -> None:
    resp_targets.parser(cuts + b"".join(pieces))


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=60, max_size=400))
def test_any_commands_leave_the_state_sound_and_replicas_alike(data: bytes) -> None:
    resp_targets.commands(data)


@given(st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=6), max_size=12), CUTS, CUTS)
def test_hiredis_reads_the_same_commands(commands: list[list[bytes]], ours: list[int], theirs: list[int]) -> None:
    """It is made for replies, and yet all commands that are well-formed arrays are arrays to it as well."""
    stream = b"".join(command(*args) for args in commands)
    parser, reader = CommandParser(), hiredis.Reader()
    found: list[Received] = [each for chunk in chunks(stream, ours) for each in parser.feed(chunk)]
    read: list[Received] = []
    for chunk in chunks(stream, theirs):
        reader.feed(chunk)
        while (args := reader.gets()) is not False:
            read.append(args)
    assert found == read == commands
    assert parser.error is None


def chunks(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(places)]


@pytest.mark.parametrize("target", resp_targets.TARGETS.values())
@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 2, b"\x00" * 300, bytes(range(256))])
def test_targets_take_any_bytes(target: resp_targets.Target, data: bytes) -> None:
    target(data)


def test_a_target_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that forgets a byte at the end of a chunk is found out."""
    feed = CommandParser.feed

    def forgetful(parser: CommandParser, data: bytes) -> Sequence[Received]:
        return feed(parser, data[:-1] if data.endswith(b"G") else data)

    monkeypatch.setattr(CommandParser, "feed", forgetful)
    stream = command(b"PING")
    cut_behind_the_g = (stream.index(b"G") + 1) * 256 // len(stream) + 1
    with pytest.raises(AssertionError, match="however it is cut"):
        resp_targets.parser(bytes([cut_behind_the_g, 255]) + stream)
