"""Where a tunnel stands in a stream of WebSocket frames, however the bytes are cut."""

from hypothesis import given
from hypothesis import strategies as st

from noctule.gateway.tunnel import FrameBounds


def frame(opcode: int, payload: bytes, *, is_masked: bool) -> bytes:
    """RFC 6455 5.2."""
    length = len(payload)
    mask = 0x80 if is_masked else 0
    if length < 126:
        head = bytes([0x80 | opcode, mask | length])
    elif length < 65_536:
        head = bytes([0x80 | opcode, mask | 126]) + length.to_bytes(2)
    else:
        head = bytes([0x80 | opcode, mask | 127]) + length.to_bytes(8)
    return head + (b"key!" if is_masked else b"") + payload


FRAMES = st.builds(
    frame,
    st.sampled_from([0x0, 0x1, 0x2, 0x9, 0xA]),
    st.sampled_from([0, 1, 125, 126, 200, 65_535, 65_536]).map(bytes),
    is_masked=st.booleans(),
)


@given(st.lists(FRAMES, min_size=1, max_size=4), st.lists(st.integers(1, 70_000), max_size=20))
def test_the_end_of_a_frame_is_found_however_the_bytes_are_cut(frames: list[bytes], cuts: list[int]) -> None:
    data = b"".join(frames)
    ends = {sum(map(len, frames[: count + 1])) for count in range(len(frames))} | {0}
    bounds, position = FrameBounds(), 0
    for cut in [*cuts, len(data)]:
        bounds.add(data[position : position + cut])
        position = min(position + cut, len(data))
        assert bounds.is_between is (position in ends)
    assert not bounds.is_closed


@given(st.binary(max_size=100).map(lambda payload: frame(0x1, payload, is_masked=True)))
def test_byte_by_byte_is_no_different(data: bytes) -> None:
    bounds = FrameBounds()
    for position in range(len(data)):
        bounds.add(data[position : position + 1])
        assert bounds.is_between is (position == len(data) - 1)


def test_a_close_is_noticed() -> None:
    bounds = FrameBounds()
    bounds.add(frame(0x1, b"\x88\x02", is_masked=False))
    assert not bounds.is_closed
    bounds.add(frame(0x8, b"\x03\xe8", is_masked=False))
    assert bounds.is_closed
    assert bounds.is_between
