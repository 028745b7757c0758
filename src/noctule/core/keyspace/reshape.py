"""The commands that change which slots a partition holds: splits, and both sides of a merge. Only leaders log them.

Each may come twice, or late: what is done already answers OK again, and what belongs to something that was taken back
is refused. None of them looks at the clock, and a refusal changes nothing.
"""

from collections.abc import Iterator, Sequence

from noctule.base.errors import RequestError, StorageError
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.keyspace.snapshot import KeyspacePicture
from noctule.core.keyspace.spec import NO_KEYS, WRITE, CommandSpec, Scope, rows
from noctule.core.keyspace.staging import MERGE_BYTES_MAX, Staging
from noctule.core.keyspace.state import State
from noctule.core.keyspace.territory import Territory, TerritoryPicture
from noctule.core.placement.slots import SLOT_COUNT

NO_TERRITORY = Failure(b"ERR this group has no slots of its own")
NOT_A_NUMBER = Failure(b"ERR a partition, merge, slot or chunk is named by a number above or equal to zero")
IN_A_MERGE = Failure(b"ERR the partition is part of a merge")
TAKEN_BACK = Failure(b"ERR the merge was taken back")
TAKEN_IN = Failure(b"ERR the merge is done")
INCOMPLETE = Failure(b"ERR not every chunk is there")


def split(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """NOCTULE.SPLIT child at_slot: the slots from there on become a state of their own, in `split_off`.

    Costs a look at each key of the smaller half, and copies none.
    """
    match state.territory, _numbers(args[1:]):
        case None, _:
            return NO_TERRITORY
        case _, None:
            return NOT_A_NUMBER
        case Territory() as territory, [child, at_slot]:
            if child <= territory.newest_child:
                return OK
            if territory.fenced or state.staging is not None:
                return IN_A_MERGE
            if not territory.first < at_slot <= territory.last:
                return Failure(b"ERR slot %d leaves one side without slots" % at_slot)
            half = state.cut(at_slot)
            half.hold(Territory(at_slot, territory.last))
            territory.last, territory.newest_child = at_slot - 1, child
            state.hold(territory)
            state.split_off.append((child, half))
    return OK


def fence(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """NOCTULE.FENCE merge: from now on nothing is answered here, nothing changes, and so all of it can be copied."""
    territory, merge = state.territory, parse_int(args[1])
    if territory is None:
        return NO_TERRITORY
    if merge is None or merge < 1:
        return NOT_A_NUMBER
    if territory.fenced == merge:
        return OK
    if merge <= territory.fence_ended:
        return TAKEN_BACK
    if territory.fenced or state.staging is not None:
        return IN_A_MERGE
    territory.fenced = merge
    state.hold(territory)
    return OK


def unfence(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """NOCTULE.UNFENCE merge: the merge is taken back, here last: by ABSORB-DROP the left side has promised before
    never to take anything of it in. A FENCE of it that comes later is refused."""
    territory, merge = state.territory, parse_int(args[1])
    if territory is None:
        return NO_TERRITORY
    if merge is None or merge < 1:
        return NOT_A_NUMBER
    if territory.fenced not in (0, merge):
        return IN_A_MERGE
    territory.fenced, territory.fence_ended = 0, max(territory.fence_ended, merge)
    state.hold(territory)
    return OK


def absorb(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """NOCTULE.ABSORB merge number chunk: put the chunk aside. Chunks come in order; one that is there is not taken
    again; the first one of a newer merge drops what an older one left."""
    territory, numbers = state.territory, _numbers(args[1:3])
    if territory is None:
        return NO_TERRITORY
    if numbers is None:
        return NOT_A_NUMBER
    merge, number = numbers
    refusal = _refused(state, territory, merge)
    if refusal is not None:
        return refusal
    staging = state.staging
    if staging is None or staging.id < merge:
        staging = Staging(merge, type(state)())
    if number < len(staging.chunks):
        return OK
    if number > len(staging.chunks):
        return INCOMPLETE
    if staging.bytes + len(args[3]) > MERGE_BYTES_MAX:
        return Failure(b"ERR over MERGE_BYTES_MAX, %d bytes" % MERGE_BYTES_MAX)
    try:
        staging.take(args[3])
    except StorageError as error:
        state.staging = None  # It may hold part of the chunk; whoever copies begins again.
        return Failure(b"ERR " + str(error).encode())
    state.staging = staging
    return OK


def absorb_end(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """NOCTULE.ABSORB-END merge count first last digest: what was put aside is live, and `first`…`last` are held here.

    Refused unless all `count` chunks are there, have this `chain_digest`, hold keys of those slots only, and those
    follow the slots held so far. Moves dicts; nothing is decoded.
    """
    territory, numbers = state.territory, _numbers(args[1:5])
    if territory is None:
        return NO_TERRITORY
    if numbers is None:
        return NOT_A_NUMBER
    merge, count, first, last = numbers
    if merge == territory.absorbed:
        return OK
    refusal = _refused(state, territory, merge)
    if refusal is not None:
        return refusal
    staging = state.staging
    if staging is None or staging.id != merge or not staging.is_complete or len(staging.chunks) != count:
        return INCOMPLETE
    if staging.digest != args[5]:
        return Failure(b"ERR the chunks are not those that were sent")
    if first != territory.last + 1 or not first <= last < SLOT_COUNT:
        return Failure(b"ERR slots %d to %d do not follow slot %d" % (first, last, territory.last))
    if any(not first <= slot <= last for slot in staging.state.slots):
        return Failure(b"ERR a chunk holds a key of another slot")
    state.staging = None
    state.join(staging.state)
    territory.last, territory.absorbed, territory.absorb_ended = last, merge, merge
    state.hold(territory)
    return OK


def absorb_drop(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """NOCTULE.ABSORB-DROP merge: nothing of it is taken in, now or ever; refused when it was taken in already."""
    territory, merge = state.territory, parse_int(args[1])
    if territory is None:
        return NO_TERRITORY
    if merge is None or merge < 1:
        return NOT_A_NUMBER
    if merge == territory.absorbed:
        return TAKEN_IN
    territory.absorb_ended = max(territory.absorb_ended, merge)
    if state.staging is not None and state.staging.id <= merge:
        state.staging = None
    return OK


def dump_fenced(state: State, merge: int) -> Iterator[bytes]:
    """The data, fenced for `merge`, in chunks for ABSORB; each is made when it is asked for, since nothing changes.

    Raises `RequestError` when it is not fenced, is so no more, or is over `MERGE_BYTES_MAX`.
    """
    if state.bytes_used > MERGE_BYTES_MAX:
        raise RequestError(f"{state.bytes_used} bytes are too many for a merge: MERGE_BYTES_MAX is {MERGE_BYTES_MAX}")
    chunks = KeyspacePicture(state.slots, state.deadlines, state.buckets).chunks()
    while state.territory is not None and state.territory.fenced == merge:
        chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk
    raise RequestError(f"the partition is not fenced for merge {merge}")


def describe_territory(state: State) -> TerritoryPicture | None:
    """A picture of the slots held and of what is staged; None where every key is at home."""
    territory, staging = state.territory, state.staging
    if territory is None:
        return None
    staged = (0, 0, 0) if staging is None else (staging.id, len(staging.chunks), staging.bytes)
    held = (territory.first, territory.last, territory.newest_child, territory.fenced)
    return TerritoryPicture(*held, *staged, territory.absorbed, territory.fence_ended, territory.absorb_ended)


def _refused(state: State, territory: Territory, merge: int) -> Failure | None:
    """Why nothing of this merge may be put aside or taken in."""
    if merge == territory.absorbed:
        return TAKEN_IN
    if merge <= territory.absorb_ended or (state.staging is not None and merge < state.staging.id):
        return TAKEN_BACK
    return IN_A_MERGE if territory.fenced else None


def _numbers(args: Sequence[bytes]) -> list[int] | None:
    numbers = [parse_int(argument) for argument in args]
    found = [number for number in numbers if number is not None and number >= 0]
    return found if len(found) == len(args) else None


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.INTERNAL,
        ("NOCTULE.ABSORB", 4, WRITE, NO_KEYS, absorb, "Puts aside a chunk of a partition to be taken in."),
        ("NOCTULE.ABSORB-DROP", 2, WRITE, NO_KEYS, absorb_drop, "Forgets what was put aside."),
        ("NOCTULE.ABSORB-END", 6, WRITE, NO_KEYS, absorb_end, "Takes in what was put aside, with its slots."),
        ("NOCTULE.FENCE", 2, WRITE, NO_KEYS, fence, "Lets nothing be answered or changed, for a merge."),
        ("NOCTULE.SPLIT", 3, WRITE, NO_KEYS, split, "Makes a partition of the slots from one on."),
        ("NOCTULE.UNFENCE", 2, WRITE, NO_KEYS, unfence, "Takes a fence away, for the merge is taken back."),
    ),
)
"""The rows of this file."""
