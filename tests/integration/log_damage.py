"""What a test may do to the log of a node that is down.

PYTEST_DONT_REWRITE, as tests also import names from here, which pytest would warn about.
"""

from pathlib import Path

from noctule.adapters.wal_format import (
    SEGMENT_HEADER_BYTES,
    FrameHeader,
    decode_segment_header,
    parse_segment_name,
    read_frame_header,
)


def newest_segment(wal_dir: Path) -> Path:
    """Of the log in this folder."""
    return max(path for path in wal_dir.iterdir() if parse_segment_name(path.name) is not None)


def frames_of(data: bytes) -> tuple[int, list[FrameHeader]]:
    """The salt of a segment, and its frames."""
    salt = decode_segment_header(data, "the segment").salt
    frames: list[FrameHeader] = []
    offset = SEGMENT_HEADER_BYTES
    while (frame := read_frame_header(data, offset, salt)) is not None:
        frames.append(frame)
        offset = frame.end
    return salt, frames


def flip_in_the_middle(path: Path) -> tuple[int, bytes]:
    """Change one bit of a frame that good ones follow; gives the byte where it begins, and the segment as it is now."""
    data = bytearray(path.read_bytes())
    _, frames = frames_of(bytes(data))
    middle = len(frames) // 2
    damaged = frames[middle]
    data[damaged.payload_offset + damaged.payload_bytes // 2] ^= 1
    path.write_bytes(data)
    return frames[middle - 1].end, bytes(data)
