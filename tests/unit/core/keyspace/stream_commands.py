"""Commands on one stream, for tests that send any of them in any order."""

from hypothesis import strategies as st

KEYS = st.sampled_from([b"s", b"{s}t"])
GROUP = st.sampled_from([b"g", b"h"])
CONSUMER = st.sampled_from([b"alice", b"bob"])
ID = st.builds(lambda ms, sequence: b"%d-%d" % (ms, sequence), st.integers(1, 2), st.integers(0, 1))


PRELUDE = [
    [b"XGROUP", b"CREATE", b"s", b"g", b"0", b"MKSTREAM"],
    [b"XADD", b"s", b"1-0", b"f", b"v"],
    [b"XADD", b"s", b"1-1", b"f", b"v"],
    [b"XREADGROUP", b"GROUP", b"g", b"alice", b"STREAMS", b"s", b">"],
]
"""Something that is pending, which chance alone seldom comes to."""


def stream_commands() -> st.SearchStrategy[list[bytes]]:
    """Any that changes a stream."""
    return st.one_of(
        st.builds(lambda k, i, v: [b"XADD", k, i, b"field", v], KEYS, ID, st.binary(max_size=3)),
        st.builds(lambda k, v: [b"XADD", k, b"*", b"field", v], KEYS, st.binary(max_size=3)),
        st.builds(lambda k, n: [b"XADD", k, b"MAXLEN", n, b"*", b"f", b"v"], KEYS, st.sampled_from([b"0", b"1", b"3"])),
        st.builds(lambda k, i: [b"XTRIM", k, b"MINID", i], KEYS, ID),
        st.builds(lambda k, i, j: [b"XDEL", k, i, j], KEYS, ID, ID),
        st.builds(lambda k, i: [b"XSETID", k, i], KEYS, ID),
        st.builds(lambda k, g, i: [b"XGROUP", b"CREATE", k, g, i, b"MKSTREAM"], KEYS, GROUP, ID | st.just(b"0")),
        st.builds(lambda k, g, i: [b"XGROUP", b"SETID", k, g, i], KEYS, GROUP, ID | st.just(b"0")),
        st.builds(lambda k, g: [b"XGROUP", b"DESTROY", k, g], KEYS, GROUP),
        st.builds(lambda k, g, c: [b"XGROUP", b"CREATECONSUMER", k, g, c], KEYS, GROUP, CONSUMER),
        st.builds(lambda k, g, c: [b"XGROUP", b"DELCONSUMER", k, g, c], KEYS, GROUP, CONSUMER),
        st.builds(
            lambda k, g, c, i: [b"XREADGROUP", b"GROUP", g, c, b"COUNT", b"2", b"STREAMS", k, i],
            KEYS,
            GROUP,
            CONSUMER,
            st.sampled_from([b">", b">", b"0"]),
        ),
        st.builds(lambda k, g, i, j: [b"XACK", k, g, i, j], KEYS, GROUP, ID, ID),
        st.builds(lambda k, g, c, i: [b"XCLAIM", k, g, c, b"0", i, b"FORCE"], KEYS, GROUP, CONSUMER, ID),
        st.builds(lambda k, g, c: [b"XAUTOCLAIM", k, g, c, b"0", b"0"], KEYS, GROUP, CONSUMER),
        st.builds(lambda k: [b"DEL", k], KEYS),
        st.just([b"RENAME", b"s", b"{s}t"]),
        st.just([b"COPY", b"s", b"{s}t", b"REPLACE"]),
    )
