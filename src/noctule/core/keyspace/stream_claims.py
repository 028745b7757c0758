"""XCLAIM and XAUTOCLAIM: entries that are pending with one consumer for too long are given to another."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from noctule.core.keyspace.failures import SYNTAX
from noctule.core.keyspace.numbers import INT_MAX, parse_int
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.spec import ONE, WRITE_FAST, CommandSpec, Scope, rows
from noctule.core.keyspace.state import State
from noctule.core.keyspace.stream_groups import no_group
from noctule.core.keyspace.stream_ids import INVALID_ID, LARGEST_ID, format_id, parse_id, parse_start
from noctule.core.keyspace.stream_value import ConsumerGroup, Pending, StreamValue
from noctule.core.keyspace.streams import entries_reply

_ATTEMPTS_PER_ENTRY = 10
"""XAUTOCLAIM looks at no more than so many entries for each that it may answer."""
_COUNT_MAX = INT_MAX // 16


@dataclass(slots=True)
class _Claim:
    """The options of both."""

    now_ms: int
    given_ms: int
    """When the entries are said to have been given out."""
    idle_ms_min: int = 0
    times_given: int | None = None
    is_forced: bool = False
    """Claim also what is pending with nobody."""
    ids_only: bool = False
    last_id: int = 0
    count: int = 100


def xclaim(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """XCLAIM key group consumer min-idle-ms id… [IDLE ms] [TIME ms] [RETRYCOUNT n] [FORCE] [JUSTID] [LASTID id]."""
    held = _find(state, args)
    if isinstance(held, Failure):
        return held
    ids: list[int] = []
    for text in args[5:]:
        id_ = parse_id(text)
        if id_ is None:
            break
        ids.append(id_)
    claim = _parse_claim(args, 5 + len(ids), now_ms)
    if isinstance(claim, Failure):
        return claim
    stream = state.change(args[1], held)
    group, consumer = stream.groups[args[2]], args[3]
    if claim.last_id > group.last_id:
        stream.set_group(group, claim.last_id, group.entries_read)
    if consumer in group.consumers:
        stream.see(group, consumer, now_ms)
    replies: list[Reply] = []
    for id_ in ids:
        if id_ not in stream.entries:
            stream.release(group, id_)
            continue
        before = _pending(group, id_)
        if before is None:
            if not claim.is_forced:
                continue
            before = Pending(now_ms, 1)
        elif claim.idle_ms_min > 0 and now_ms - before.given_ms < claim.idle_ms_min:
            continue
        replies.append(_give(stream, group, consumer, id_, before, claim))
    state.changed(args[1], stream)
    return replies


def xautoclaim(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """XAUTOCLAIM key group consumer min-idle-ms start [COUNT count] [JUSTID]: where to go on, what was claimed, and the
    ids of entries that are gone."""
    claim = _Claim(now_ms, now_ms)
    start = _parse_autoclaim(args, claim)
    if isinstance(start, Failure):
        return start
    held = _find(state, args)
    if isinstance(held, Failure):
        return held
    stream = state.change(args[1], held)
    group, consumer = stream.groups[args[2]], args[3]
    if consumer in group.consumers:
        stream.see(group, consumer, now_ms)
    claimed: list[Reply] = []
    gone: list[Reply] = []
    attempts = min(claim.count * _ATTEMPTS_PER_ENTRY, sys.maxsize - 1)
    looked_at = [id_ for id_, _ in islice(group.pending.between(start, LARGEST_ID), attempts + 1)]
    following = 0
    for attempt, id_ in enumerate(looked_at):
        if attempt == attempts or len(claimed) + len(gone) == claim.count:
            following = id_
            break
        before = _pending(group, id_)
        assert before is not None
        if id_ not in stream.entries:
            stream.release(group, id_)
            gone.append(format_id(id_))
        elif claim.idle_ms_min <= 0 or now_ms - before.given_ms >= claim.idle_ms_min:
            claimed.append(_give(stream, group, consumer, id_, before, claim))
    state.changed(args[1], stream)
    return [format_id(following), claimed, gone]


def _give(
    stream: StreamValue, group: ConsumerGroup, consumer: bytes, id_: int, before: Pending, claim: _Claim
) -> Reply:
    """Let the consumer, who may be new, have the entry, which is there; what is answered of it."""
    count = before.times + (not claim.ids_only) if claim.times_given is None else claim.times_given
    if consumer not in group.consumers:
        stream.see(group, consumer, claim.now_ms)
    stream.give(group, id_, consumer, Pending(claim.given_ms, count))
    fields = stream.entries.get(id_)
    assert fields is not None
    return format_id(id_) if claim.ids_only else entries_reply([(id_, fields)])[0]


def _pending(group: ConsumerGroup, id_: int) -> Pending | None:
    owner = group.pending.get(id_)
    return None if owner is None else group.consumers[owner].pending.get(id_)


def _find(state: State, args: Sequence[bytes]) -> StreamValue | Failure:
    """The stream, which has the group."""
    held = state.find(args[1], StreamValue)
    if isinstance(held, Failure):
        return held
    return no_group(args) if held is None or args[2] not in held.groups else held


def _parse_claim(args: Sequence[bytes], first: int, now_ms: int) -> _Claim | Failure:
    claim = _Claim(now_ms, now_ms)
    idle_ms_min = parse_int(args[4])
    if idle_ms_min is None:
        return Failure(b"ERR Invalid min-idle-time argument for XCLAIM")
    claim.idle_ms_min = idle_ms_min
    position = first
    while position < len(args):
        word = args[position].upper()
        has_more = position + 1 < len(args)
        if word == b"FORCE":
            claim.is_forced = True
        elif word == b"JUSTID":
            claim.ids_only = True
        elif word in (b"IDLE", b"TIME", b"RETRYCOUNT") and has_more:
            position += 1
            number = parse_int(args[position])
            if number is None:
                return Failure(b"ERR Invalid %b option argument for XCLAIM" % word)
            if word == b"RETRYCOUNT":
                claim.times_given = number if number >= 0 else None
            else:
                given_ms = now_ms - number if word == b"IDLE" else number
                # Somebody's clock may be ahead of ours.
                claim.given_ms = given_ms if 0 <= given_ms <= now_ms else now_ms
        elif word == b"LASTID" and has_more:
            position += 1
            last_id = parse_id(args[position])
            if last_id is None:
                return INVALID_ID
            claim.last_id = last_id
        else:
            return Failure(b"ERR Unrecognized XCLAIM option '%b'" % args[position])
        position += 1
    return claim


def _parse_autoclaim(args: Sequence[bytes], claim: _Claim) -> int | Failure:
    """Fill in the options; the id to start at."""
    idle_ms_min = parse_int(args[4])
    if idle_ms_min is None:
        return Failure(b"ERR Invalid min-idle-time argument for XAUTOCLAIM")
    claim.idle_ms_min = idle_ms_min
    start = parse_start(args[5])
    if isinstance(start, Failure):
        return start
    position = 6
    while position < len(args):
        word = args[position].upper()
        if word == b"COUNT" and position + 1 < len(args):
            position += 1
            count = parse_int(args[position])
            if count is None or not 1 <= count <= _COUNT_MAX:
                return Failure(b"ERR COUNT must be > 0")
            claim.count = count
        elif word == b"JUSTID":
            claim.ids_only = True
        else:
            return SYNTAX
        position += 1
    return start


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("XAUTOCLAIM", -6, WRITE_FAST, ONE, xautoclaim, "Claims what is pending for long: COUNT, JUSTID."),
        (
            "XCLAIM",
            -6,
            WRITE_FAST,
            ONE,
            xclaim,
            "Lets a consumer have what is pending with another: IDLE, TIME, RETRYCOUNT, FORCE, JUSTID, LASTID.",
        ),
    ),
)
"""The rows of this file."""
