"""Evaluating leaves no trace, and carrying out the effects is as if the script's commands had been run."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from noctule.core.keyspace.effects import EVAL, ScriptCall, parse_call
from noctule.core.keyspace.evaluation import LATER, evaluating
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import MOVED, OK, Failure, Reply
from noctule.core.keyspace.scripting import (
    SCRIPT_EFFECTS_BYTES_MAX,
    Call,
    Outcome,
    script_digest,
    script_flags,
    script_text,
)
from noctule.core.keyspace.transactions import transaction

NOW_MS = 10_000
KEYS = [b"s", b"s2", b"z", b"a", b"b", b"h", b"{t}1"]
COMMANDS: list[list[bytes]] = [
    [b"SET", b"a", b"1"],
    [b"SET", b"a", b"2", b"PX", b"500"],
    [b"SET", b"b", b"x", b"NX"],
    [b"APPEND", b"a", b"y"],
    [b"INCR", b"a"],
    [b"INCRBYFLOAT", b"b", b"0.1"],
    [b"GET", b"a"],
    [b"DEL", b"a", b"b"],
    [b"DEL", b"h"],
    [b"HSET", b"h", b"f", b"1", b"g", b"2"],
    [b"HDEL", b"h", b"f"],
    [b"HINCRBY", b"h", b"g", b"3"],
    [b"HGETALL", b"h"],
    [b"PEXPIRE", b"a", b"100"],
    [b"PEXPIRE", b"h", b"-1"],
    [b"PERSIST", b"a"],
    [b"RENAME", b"a", b"b"],
    [b"COPY", b"h", b"b", b"REPLACE"],
    [b"MSETNX", b"a", b"1", b"{t}1", b"2"],
    [b"SADD", b"s", b"x", b"y", b"z"],
    [b"SPOP", b"s"],
    [b"SMOVE", b"s", b"s2", b"y"],
    [b"ZADD", b"z", b"1", b"x", b"2", b"y"],
    [b"ZINCRBY", b"z", b"0.5", b"x"],
    [b"ZPOPMIN", b"z"],
    [b"ZUNIONSTORE", b"z", b"2", b"z", b"s"],
    [b"KEYS", b"*"],
    [b"NOSUCH"],
    [b"GET"],
]
SEQUENCES = st.lists(st.sampled_from(COMMANDS), max_size=12)


class Recited:
    """An engine whose scripts are commands, one in a line; the reply is all of theirs. ``stop`` ends by overrun."""

    def compile(self, body: bytes) -> Failure | None:
        return None

    def run(self, body: bytes, keys: Sequence[bytes], arguments: Sequence[bytes], call: Call) -> Outcome:
        replies: list[Reply] = []
        for line in body.splitlines():
            if line == b"stop":
                return Outcome(Failure(b"ERR stopped"), is_overrun=True, instructions=1)
            replies.append(call(line.split()))
        return Outcome(replies, instructions=1)


def script(commands: Sequence[list[bytes]], *more: bytes) -> list[bytes]:
    return ScriptCall(b"a", b"", b"\n".join([*map(b" ".join, commands), *more]), [], []).command()


def keyspace_after(commands: Sequence[list[bytes]]) -> Keyspace:
    keyspace = Keyspace()
    for command in commands:
        keyspace.execute(command, NOW_MS - 200)
    return keyspace


def evaluated(keyspace: Keyspace, *batch: list[bytes]) -> list[list[bytes]]:
    with evaluating(keyspace, Recited(), NOW_MS) as evaluation:
        logged = evaluation.batch(batch)
    keyspace.check()
    return logged


@given(SEQUENCES, SEQUENCES)
def test_effects_do_what_the_commands_would_have_done(before: list[list[bytes]], commands: list[list[bytes]]) -> None:
    leader, follower, plain = keyspace_after(before), keyspace_after(before), keyspace_after(before)
    (logged,) = evaluated(leader, script(commands))
    assert leader.digest() == follower.digest()
    assert leader.key_count == follower.key_count
    assert leader.bytes_used == follower.bytes_used
    assert leader.execute(logged, NOW_MS) == follower.execute(logged, NOW_MS)
    for command in commands:
        plain.execute(command, NOW_MS)
    for keyspace in (leader, follower, plain):
        # A key that has expired is there until it is met; scripts that only look leave it to the purge.
        keyspace.execute([b"NOCTULE.PURGE", *KEYS], NOW_MS)
        keyspace.check()
    assert leader.digest() == follower.digest() == plain.digest()


@given(SEQUENCES, SEQUENCES, SEQUENCES)
def test_a_stopped_script_leaves_the_ones_before_and_behind_it(
    before: list[list[bytes]], commands: list[list[bytes]], others: list[list[bytes]]
) -> None:
    keyspace, plain = keyspace_after(before), keyspace_after(before)
    for command in evaluated(keyspace, script(commands), script(others, b"stop"), script(commands)):
        keyspace.execute(command, NOW_MS)
    for command in (*commands, *commands):
        plain.execute(command, NOW_MS)
    for each in (keyspace, plain):
        each.execute([b"NOCTULE.PURGE", *KEYS], NOW_MS)
    assert keyspace.digest() == plain.digest()


@given(SEQUENCES, SEQUENCES)
def test_a_transaction_with_scripts_is_as_its_commands(before: list[list[bytes]], commands: list[list[bytes]]) -> None:
    keyspace, plain = keyspace_after(before), keyspace_after(before)
    inside = [[b"SET", b"a", b"1"], script(commands), [b"GET", b"a"]]
    (logged,) = evaluated(keyspace, transaction([], inside, [b"a"], is_write=True, has_scripts=True))
    replies = keyspace.execute(logged, NOW_MS)
    expected = [plain.execute(command, NOW_MS) for command in ([b"SET", b"a", b"1"], *commands, [b"GET", b"a"])]
    assert isinstance(replies, list)
    assert [replies[0], replies[2]] == [expected[0], expected[-1]]
    for each in (keyspace, plain):
        each.execute([b"NOCTULE.PURGE", *KEYS], NOW_MS)
    assert keyspace.digest() == plain.digest()


def test_a_transaction_whose_script_is_stopped_does_nothing() -> None:
    keyspace = Keyspace()
    inside = [[b"SET", b"a", b"1"], script([[b"SET", b"b", b"1"]], b"stop")]
    (logged,) = evaluated(keyspace, transaction([], inside, [b"a"], is_write=True, has_scripts=True))
    assert keyspace.execute(logged, NOW_MS) == Failure(b"ERR stopped")
    assert keyspace.key_count == 0


def test_a_script_may_not_write_more_than_an_entry_holds() -> None:
    keyspace = Keyspace()
    value = b"x" * (SCRIPT_EFFECTS_BYTES_MAX // 2)
    (logged,) = evaluated(keyspace, script([[b"SET", b"a", value], [b"SET", b"b", value]]))
    reply = keyspace.execute(logged, NOW_MS)
    assert isinstance(reply, Failure)
    assert b"SCRIPT_EFFECTS_BYTES_MAX" in reply.text
    assert keyspace.key_count == 0


def test_what_a_script_publishes_is_told_once_and_only_if_it_is_applied() -> None:
    keyspace = Keyspace()
    told = [[b"PUBLISH", b"news", b"x"], [b"SPUBLISH", b"shard", b"y"]]
    kept, stopped = evaluated(keyspace, script([[b"SET", b"a", b"1"], *told]), script(told, b"stop"))
    assert keyspace.published == []
    assert keyspace.execute(kept, NOW_MS) == [OK, 0, 0]
    assert keyspace.published == [(False, b"news", b"x"), (True, b"shard", b"y")]
    assert keyspace.execute(stopped, NOW_MS) == Failure(b"ERR stopped")
    assert len(keyspace.published) == 2


def test_a_batch_of_large_effects_is_cut_and_the_rest_is_moved() -> None:
    """Each script may write as much; all of a batch stand in one entry."""
    keyspace = Keyspace()
    call = script([[b"SET", b"a", b"x" * (SCRIPT_EFFECTS_BYTES_MAX // 3)]])
    logged = evaluated(keyspace, *[call] * 10)
    assert len(logged) == 10
    assert sum(map(len, (argument for command in logged for argument in command))) < 2 * SCRIPT_EFFECTS_BYTES_MAX
    replies = [keyspace.execute(command, NOW_MS) for command in logged]
    done = replies.index(MOVED)
    assert done >= 1
    assert replies[done:] == [MOVED] * (10 - done)
    assert logged[-1] == LATER
    assert LATER[0] == EVAL


def test_calls_travel_as_they_are() -> None:
    for call in (
        ScriptCall(b"k", b"", b"return 1", [b"k", b"l"], [b"x"]),
        ScriptCall(b"{db:1}", b"{db:1}", b"return 1", [], [b"x", b"y"], is_read=True),
    ):
        assert parse_call(call.command()) == call
    assert isinstance(parse_call([EVAL, b"", b"", b"", b"2", b"k"]), Failure)
    assert isinstance(parse_call([EVAL, b"", b"", b"", b"x"]), Failure)


def test_a_script_says_in_its_first_line_what_it_does() -> None:
    assert script_flags(b"return 1") == frozenset()
    assert script_flags(b"#!lua flags=no-writes,allow-stale\nreturn 1") == {b"no-writes", b"allow-stale"}
    assert isinstance(script_flags(b"#!lua flags=nosuch\n"), Failure)
    assert script_text(b"#!lua\nreturn 1") == b"\nreturn 1"
    assert script_digest(b"return 1") == b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
