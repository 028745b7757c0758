"""What a journal takes back: everything that commands change, whatever they are and in whatever order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.transactions import FINGERPRINT, fingerprint, transaction

KEYS = [b"a", b"b", b"{a}c", b"{db:1}a"]
NOW_MS = 1_000


def commands() -> st.SearchStrategy[list[bytes]]:
    key = st.sampled_from(KEYS)
    word = st.sampled_from([b"", b"1", b"x", b"yy"])
    score = st.sampled_from([b"-1", b"0", b"2.5"])
    deadline = st.sampled_from([b"500", b"1500", b"2500"])
    return st.one_of(
        st.builds(lambda k, v: [b"SET", k, v], key, word),
        st.builds(lambda k: [b"DEL", k], key),
        st.builds(lambda k, f, v: [b"HSET", k, f, v], key, word, word),
        st.builds(lambda k, f: [b"HDEL", k, f], key, word),
        st.builds(lambda k, d: [b"PEXPIREAT", k, d], key, deadline),
        st.builds(lambda k: [b"PERSIST", k], key),
        st.builds(lambda k, j: [b"RENAME", k, j], key, key),
        st.builds(lambda k, j: [b"COPY", k, j, b"REPLACE"], key, key),
        st.builds(lambda k, v: [b"APPEND", k, v], key, word),
        st.builds(lambda k, m, n: [b"SADD", k, m, n], key, word, word),
        st.builds(lambda k, m: [b"SREM", k, m], key, word),
        st.builds(lambda k, j, m: [b"SMOVE", k, j, m], key, key, word),
        st.builds(lambda k: [b"SPOP", k, b"2"], key),
        st.builds(lambda k, j: [b"SUNIONSTORE", k, k, j], key, key),
        st.builds(lambda k, s, m, n: [b"ZADD", k, s, m, b"2", n], key, score, word, word),
        st.builds(lambda k, s, m: [b"ZINCRBY", k, s, m], key, score, word),
        st.builds(lambda k, m: [b"ZREM", k, m], key, word),
        st.builds(lambda k: [b"ZPOPMAX", k], key),
        st.builds(lambda k, s: [b"ZREMRANGEBYSCORE", k, s, b"2"], key, score),
        st.builds(lambda k, j: [b"ZUNIONSTORE", k, b"2", k, j], key, key),
        st.builds(lambda k, j: [b"SORT", k, b"ALPHA", b"STORE", j], key, key),
        st.just([b"NOCTULE.WRITEDATABASE", b"{db:1}", b"FLUSHDB"]),
        st.just([b"FLUSHALL"]),
        st.just([b"BUCKET.CREATE", b"hits", b"counter", b"here"]),
        st.builds(
            lambda k, j, v: transaction([], [[b"SET", k, v], [b"DEL", j]], [k, j], is_write=True), key, key, word
        ),
        *list_commands(key, word),
    )


def list_commands(
    key: st.SearchStrategy[bytes], word: st.SearchStrategy[bytes]
) -> list[st.SearchStrategy[list[bytes]]]:
    index = st.sampled_from([b"-2", b"-1", b"0", b"1", b"2"])
    side = st.sampled_from([b"LEFT", b"RIGHT"])
    return [
        st.builds(lambda c, k, v, w: [c, k, v, w], st.sampled_from([b"LPUSH", b"RPUSH"]), key, word, word),
        st.builds(lambda c, k, n: [c, k, n], st.sampled_from([b"LPOP", b"RPOP"]), key, st.sampled_from([b"1", b"3"])),
        st.builds(lambda k, i, v: [b"LSET", k, i, v], key, index, word),
        st.builds(lambda k, i, v: [b"LREM", k, i, v], key, index, word),
        st.builds(lambda k, i, j: [b"LTRIM", k, i, j], key, index, index),
        st.builds(lambda k, p, v: [b"LINSERT", k, b"AFTER", p, v], key, word, word),
        st.builds(lambda k, j, f, t: [b"LMOVE", k, j, f, t], key, key, side, side),
        st.builds(lambda k, j: [b"BLPOP", k, j, b"0"], key, key),
    ]


@settings(max_examples=300, deadline=None)
@given(st.lists(commands(), max_size=20), st.lists(commands(), max_size=20), st.booleans(), st.integers(0, 3_000))
def test_rolling_back_leaves_the_state_as_it_was(
    before: list[list[bytes]], noted: list[list[bytes]], shared: bool, now_ms: int
) -> None:
    keyspace = Keyspace()
    for command in before:
        keyspace.execute(command, NOW_MS)
    picture = keyspace.picture() if shared else None
    digest, size, count = keyspace.digest(), keyspace.bytes_used, keyspace.key_count
    keyspace.begin_journal()
    for command in noted:
        keyspace.execute(command, now_ms)
    keyspace.roll_back()
    keyspace.check()
    assert keyspace.digest() == digest
    assert (keyspace.bytes_used, keyspace.key_count) == (size, count)
    if picture is not None:
        assert Keyspace.load(picture.chunks()).digest() == digest


@given(st.lists(commands(), max_size=12), st.lists(commands(), max_size=12))
def test_a_change_ends_the_watches_of_its_keys_unless_it_is_taken_back(
    before: list[list[bytes]], between: list[list[bytes]]
) -> None:
    keyspace = Keyspace()
    for command in before:
        keyspace.execute(command, NOW_MS)
    seen = {key: keyspace.execute([FINGERPRINT, key, b"token"], NOW_MS) for key in KEYS}
    digest = keyspace.digest()
    keyspace.begin_journal()
    for command in between:
        keyspace.execute(command, NOW_MS)
    keyspace.roll_back()
    keyspace.check()
    assert keyspace.digest() == digest
    assert not any(keyspace.watches.is_broken(key, b"token") for key in KEYS)
    assert keyspace.watches.unbroken.keys() == set(KEYS)
    for command in between:
        keyspace.execute(command, NOW_MS)
        for key in KEYS:
            if fingerprint(keyspace, key) != seen[key]:
                assert keyspace.watches.is_broken(key, b"token"), command


def test_what_comes_after_a_roll_back_stays() -> None:
    keyspace = Keyspace()
    keyspace.begin_journal()
    keyspace.execute([b"SET", b"a", b"1"], NOW_MS)
    keyspace.roll_back()
    keyspace.execute([b"SET", b"b", b"2"], NOW_MS)
    assert keyspace.execute([b"MGET", b"a", b"b"], NOW_MS) == [None, b"2"]
