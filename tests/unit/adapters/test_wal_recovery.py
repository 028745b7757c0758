"""Damage: every byte of a small log is changed, files vanish and move, and nothing is ever misread."""

from collections.abc import Callable
from pathlib import Path

import pytest

from noctule.adapters.wal import Wal
from noctule.adapters.wal_format import SEGMENT_HEADER_BYTES, encode_frame, encode_records, read_frame_header
from noctule.adapters.wal_groups import RecoveredGroup
from noctule.adapters.wal_records import Entries, HardState, Record, SnapshotMark, Summary
from noctule.base.errors import DamagedLogError, StorageError
from noctule.verify.sim.memory_disk import MemoryDisk

from .wal_model import IDENTITY, Model

DIRECTORY = Path("/wal")
SEGMENT_BYTES = 640
Files = dict[Path, bytes]

BATCHES: list[list[Record]] = [
    [HardState(1, 1, 2, 0), Entries(1, 1, [(1, b"a" * 100)])],
    [Entries(1, 2, [(1, b"b" * 100)]), Entries(2, 1, [(1, b"")])],
    [SnapshotMark(2, 1, 1), Entries(1, 3, [(1, b"c" * 50)])],
    [Entries(1, 4, [(1, b"d" * 100), (1, b"e")])],
    [HardState(1, 2, 0, 3), Entries(1, 4, [(2, b"f" * 60)])],
    [HardState(1, 3, 1, 4)],
]


def read(files: Files) -> dict[int, RecoveredGroup]:
    wal, groups = Wal.open(DIRECTORY, IDENTITY, segment_bytes_max=SEGMENT_BYTES, files=MemoryDisk.of(files))
    wal.close()
    return groups


@pytest.fixture(scope="module")
def log() -> Files:
    """Two segments, six batches; the last three batches are in the newest."""
    disk = MemoryDisk()
    wal, _ = Wal.open(DIRECTORY, IDENTITY, segment_bytes_max=SEGMENT_BYTES, files=disk)
    for batch in BATCHES:
        wal.write(batch)
    wal.close()
    return {path: data for path, data in disk.files().items() if path.name.endswith(".log")}


def states() -> list[dict[int, RecoveredGroup]]:
    model = Model()
    found = [model.recovered()]
    for batch in BATCHES:
        model.write(batch)
        found.append(model.recovered())
    return found


def frames(data: bytes) -> list[int]:
    """Where each frame of a segment begins, and where the last one ends."""
    salt = int.from_bytes(data[24:32], "little")
    places = [SEGMENT_HEADER_BYTES]
    while (header := read_frame_header(data, places[-1], salt)) is not None:
        places.append(header.end)
    return places


def test_the_log_of_these_tests_is_as_described(log: Files) -> None:
    assert len(log) == 2
    assert [len(frames(log[path])) - 1 for path in sorted(log)] == [1 + 3, 1 + 3]
    assert read(log) == states()[-1]


@pytest.mark.parametrize("mask", [0x55, 0xFF])
def test_any_changed_byte_is_noticed_or_harmless(log: Files, mask: int) -> None:
    """Of single bits test_flipped_bits.py has more."""
    older, newest = sorted(log)
    last_frame, end = frames(log[newest])[-2:]
    *_, before_last, everything = states()
    for path, data in log.items():
        for place in range(len(data)):
            damaged = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
            if path == older or place < last_frame:
                with pytest.raises(StorageError, match="is damaged at byte"):
                    read({**log, path: damaged})
            else:  # the last frame is cut as torn; behind it there is nothing to damage
                assert read({**log, path: damaged}) == (before_last if place < end else everything)


def test_damage_names_segment_and_byte(log: Files) -> None:
    """FAST '18, "Protocol-Aware Recovery": corruption in the middle was treated as a torn tail, and acknowledged
    entries behind it were dropped."""
    newest = max(log)
    place = frames(log[newest])[1]
    data = bytearray(log[newest])
    data[place + 40] ^= 1
    with pytest.raises(DamagedLogError) as caught:
        read({**log, newest: bytes(data)})
    sentence = str(caught.value)
    assert f"{newest} is damaged at byte {place}: frame 6 cannot be read, and a later one stands at byte" in sentence
    assert "must not vote or acknowledge" in sentence
    assert (caught.value.file, caught.value.byte) == (str(newest), place)


def test_damage_changes_nothing_on_the_disk(log: Files) -> None:
    newest = max(log)
    data = bytearray(log[newest])
    data[frames(log[newest])[1]] ^= 1
    disk = MemoryDisk.of({**log, newest: bytes(data)})
    with pytest.raises(StorageError):
        Wal.open(DIRECTORY, IDENTITY, segment_bytes_max=SEGMENT_BYTES, files=disk)
    assert disk.files() == {**log, newest: bytes(data)}


def test_a_later_header_proves_corruption_even_when_its_payload_is_torn(log: Files) -> None:
    """Frame 8 was begun only after frame 7 was durable, so a bad frame 7 is no tear."""
    newest = max(log)
    places = frames(log[newest])
    data = bytearray(log[newest])
    data[places[-3] + 40] ^= 1
    data[places[-2] + 33] ^= 1
    with pytest.raises(StorageError, match="a later one stands at byte"):
        read({**log, newest: bytes(data)})


def _drop_oldest(files: Files) -> None:
    del files[min(files)]


def _drop_newest_header(files: Files) -> None:
    files[max(files)] = bytes(len(files[max(files)]))


def _truncate_oldest(files: Files) -> None:
    files[min(files)] = files[min(files)][:-8]


def _truncate_newest(files: Files) -> None:
    files[max(files)] = files[max(files)][:-8]


def _empty_newest(files: Files) -> None:
    files[max(files)] = b""


def _rename_newest(files: Files) -> None:
    files[DIRECTORY / f"wal-{99:016x}.log"] = files.pop(max(files))


def _rename_the_only_one(files: Files) -> None:
    del files[max(files)]
    files[DIRECTORY / f"wal-{99:016x}.log"] = files.pop(min(files))


def _double_newest(files: Files) -> None:
    files[DIRECTORY / f"wal-{99:016x}.log"] = files[max(files)]


def _swap(files: Files) -> None:
    files[min(files)], files[max(files)] = files[max(files)], files[min(files)]


def _move_frame(files: Files) -> None:
    path = min(files)
    first, second, third = frames(files[path])[1:4]
    data = files[path]
    files[path] = data[:first] + data[second:third] + data[first:second] + data[third:]


def _zero_last_frame_of_oldest(files: Files) -> None:
    path = min(files)
    begin, end = frames(files[path])[-2:]
    files[path] = files[path][:begin] + bytes(end - begin) + files[path][end:]


@pytest.mark.parametrize(
    "damage",
    [
        _drop_oldest,
        _drop_newest_header,
        _truncate_oldest,
        _truncate_newest,
        _empty_newest,
        _rename_newest,
        _rename_the_only_one,
        _double_newest,
        _swap,
        _move_frame,
        _zero_last_frame_of_oldest,
    ],
)
def test_lost_and_misplaced_pieces_are_noticed(log: Files, damage: Callable[[Files], None]) -> None:
    """etcd-io/etcd#6378: pieces that reached the disk in another order were read as if they belonged together."""
    files = dict(log)
    damage(files)
    with pytest.raises(StorageError, match="is damaged at byte"):
        read(files)


def test_a_missing_segment_in_the_middle_is_noticed() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(DIRECTORY, IDENTITY, segment_bytes_max=512, files=disk)
    for index in range(1, 7):
        wal.write([Entries(1, index, [(1, bytes(200))])])
    wal.close()
    files = {path: data for path, data in disk.files().items() if path.name.endswith(".log")}
    assert len(files) >= 3
    for path in sorted(files)[:-1]:
        with pytest.raises(StorageError, match=r"missing|cannot be read"):
            read({other: data for other, data in files.items() if other != path})


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (Entries(1, 9, [(1, b"gap")]), "contradict each other: entries follow"),
        (HardState(1, 1, 0, 0), "contradict each other: a term never falls"),
        (Summary(1, 9, 9, 9, 9, 9, 9), "a summary inside a segment"),
    ],
)
def test_a_whole_frame_that_makes_no_sense_is_refused(log: Files, record: Record | Summary, sentence: str) -> None:
    newest = max(log)
    data = log[newest]
    salt = int.from_bytes(data[24:32], "little")
    place = frames(data)[-2]
    last = read_frame_header(data, place, salt)
    assert last is not None
    payload = encode_records([record])
    frame, _crc = encode_frame(payload, salt=salt, sequence=last.sequence, previous_crc=last.previous_crc)
    with pytest.raises(StorageError, match=sentence):
        read({**log, newest: data[:place] + frame + data[place + len(frame) :]})


def test_a_whole_frame_that_follows_another_frame_is_refused(log: Files) -> None:
    """A frame of this segment with the right number, written after something that is not there: a lost write."""
    newest = max(log)
    data = log[newest]
    salt = int.from_bytes(data[24:32], "little")
    place = frames(data)[-2]
    frame, _crc = encode_frame(encode_records(BATCHES[-1]), salt=salt, sequence=8, previous_crc=12345)
    with pytest.raises(StorageError, match="frame 8 does not continue the frame before it"):
        read({**log, newest: data[:place] + frame + data[place + len(frame) :]})


def test_a_summary_that_does_not_fit_the_older_segments_is_refused(log: Files) -> None:
    newest = max(log)
    data = log[newest]
    salt = int.from_bytes(data[24:32], "little")
    header = read_frame_header(data, SEGMENT_HEADER_BYTES, salt)
    assert header is not None
    payload = encode_records([Summary(1, 9, 9, 0, 0, 0, 3), Summary(2, 0, 0, 0, 1, 1, 1)])
    frame, _crc = encode_frame(payload, salt=salt, sequence=5, previous_crc=header.previous_crc)
    with pytest.raises(StorageError, match="its summary does not say what the segments before it say"):
        read({**log, newest: data[:SEGMENT_HEADER_BYTES] + frame + data[header.end :]})


def test_a_damaged_summary_is_no_torn_tail_even_when_it_is_the_last_frame(log: Files) -> None:
    newest = max(log)
    first, end = frames(log[newest])[:2]
    data = bytearray(log[newest][:end] + bytes(len(log[newest]) - end))
    data[first + 40] ^= 1
    with pytest.raises(StorageError, match="frame 5 cannot be read, and it was durable"):
        read({**log, newest: bytes(data)})


def test_a_damaged_end_of_an_older_segment_is_named(log: Files) -> None:
    older = min(log)
    place = frames(log[older])[-2]
    data = bytearray(log[older])
    data[place + 40] ^= 1
    with pytest.raises(StorageError, match=f"{older} is damaged at byte {place}: frame 4 .* it was durable"):
        read({**log, older: bytes(data)})


def test_a_torn_tail_is_zeroed_before_anything_follows(log: Files) -> None:
    newest = max(log)
    last_frame, end = frames(log[newest])[-2:]
    torn = log[newest][: end - 1] + b"\xff" + b"junk" + log[newest][end + 4 :]
    disk = MemoryDisk.of({**log, newest: torn})
    wal, groups = Wal.open(DIRECTORY, IDENTITY, segment_bytes_max=SEGMENT_BYTES, files=disk)
    assert groups == states()[-2]
    assert not any(disk.after_power_cut().read(newest)[last_frame:]), "zeros, durably"
    wal.write(BATCHES[-1])
    wal.close()
    assert read(disk.files()) == states()[-1]
