"""The table, and the door that checks a client's command."""

import pytest

from noctule.base.bounds import ARGUMENTS_MAX, COMMAND_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX
from noctule.core.keyspace.commands import COMMANDS, check_command
from noctule.core.keyspace.reply import Failure
from noctule.core.keyspace.spec import CommandSpec, Scope


@pytest.mark.parametrize("name", [b"GET", b"get", b"Get", b"gEt"])
def test_a_name_in_any_case(name: bytes) -> None:
    assert check_command([name, b"k"]) is COMMANDS[b"GET"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([b"get"], b"ERR wrong number of arguments for 'get' command"),
        ([b"GET", b"a", b"b"], b"ERR wrong number of arguments for 'get' command"),
        ([b"MSET", b"a"], b"ERR wrong number of arguments for 'mset' command"),
        ([b"foo", b"a", b"b"], b"ERR unknown command 'foo', with args beginning with: 'a' 'b' "),
        ([b"foo"], b"ERR unknown command 'foo', with args beginning with: "),
        ([b"GET" * 10_000], b"ERR unknown command '" + (b"GET" * 43)[:128] + b"', with args beginning with: "),
        ([b"noctule.purge", b"k"], b"ERR unknown command 'noctule.purge', with args beginning with: 'k' "),
        ([], b"ERR empty command"),
        ([b"GET", bytes(KEY_BYTES_MAX + 1)], b"ERR key of 65537 bytes, KEY_BYTES_MAX is 65536"),
        ([b"MSET", b"a", b"", bytes(KEY_BYTES_MAX + 1), b""], b"ERR key of 65537 bytes, KEY_BYTES_MAX is 65536"),
        ([b"SET", b"k", bytes(VALUE_BYTES_MAX + 1)], b"ERR argument of 8388609 bytes, VALUE_BYTES_MAX is 8388608"),
        (
            [b"MSET", b"a", bytes(VALUE_BYTES_MAX), b"b", bytes(VALUE_BYTES_MAX)],
            b"ERR command of 16777222 bytes, COMMAND_BYTES_MAX is %d" % COMMAND_BYTES_MAX,
        ),
        ([b"DEL"] + [b"k"] * ARGUMENTS_MAX, b"ERR too many arguments: 65537, ARGUMENTS_MAX is 65536"),
    ],
    ids=lambda value: value[:40].decode(errors="replace") if isinstance(value, bytes) else "args",
)
def test_refusals(args: list[bytes], text: bytes) -> None:
    assert check_command(args) == Failure(text)


def test_what_is_just_within_the_bounds() -> None:
    for args in (
        [b"SET", bytes(KEY_BYTES_MAX), bytes(VALUE_BYTES_MAX)],
        [b"DEL"] + [b"k"] * (ARGUMENTS_MAX - 1),
        [b"HSET", b"h", bytes(KEY_BYTES_MAX + 1), b""],
    ):
        assert isinstance(check_command(args), CommandSpec)


def test_keys_among_the_arguments() -> None:
    for line, expected in (
        ("MSET a 1 b 2", [b"a", b"b"]),
        ("DEL a b c", [b"a", b"b", b"c"]),
        ("RENAME a b", [b"a", b"b"]),
        ("COPY a b REPLACE", [b"a", b"b"]),
        ("SET a b EX 10", [b"a"]),
        ("DBSIZE", []),
    ):
        args = line.encode().split()
        assert list(COMMANDS[args[0]].keys(args)) == expected


def test_the_table_is_sound() -> None:
    for name, spec in COMMANDS.items():
        assert spec.name == name == name.upper()
        assert (spec.handler is None) == (spec.scope is Scope.CONNECTION)
        if spec.scope not in (Scope.INTERNAL, Scope.CONNECTION):  # WATCH and sharded channels name keys, too.
            has_keys = spec.first_key > 0 or spec.find_keys is not None
            assert has_keys == (spec.scope in (Scope.KEY, Scope.SPLIT))
        assert spec.is_write == (b"write" in spec.flags)
        assert spec.summary.endswith(".")
