"""XREAD and XREADGROUP: entries behind an id, of several streams at once, alone or shared out to a group.

Both answer at once, with a null when there is nothing, whether BLOCK was sent or not: who waits, and for what, is told
in blocking_streams.py, where their rows are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from noctule.core.keyspace.failures import NOT_AN_INTEGER, SYNTAX, until_zero
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Named, Reply
from noctule.core.keyspace.state import State
from noctule.core.keyspace.stream_ids import INVALID_ID, LARGEST_ID, format_id, parse_id
from noctule.core.keyspace.stream_lag import entries_read_after
from noctule.core.keyspace.stream_value import ConsumerGroup, Fields, Pending, StreamValue
from noctule.core.keyspace.streams import entries_reply

_UNBALANCED = Failure(b"ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.")
_NEW = None
"""In place of an id: ``>``, what no consumer of the group was given yet."""


@dataclass(slots=True)
class ReadOptions:
    """What the arguments of XREAD or XREADGROUP say."""

    block_ms: int | None = None
    """How long to wait when there is nothing, 0 for ever; None not to wait."""
    count: int | None = None
    group: bytes | None = None
    consumer: bytes = b""
    is_acknowledged: bool = False
    """NOACK: what is given out is not pending."""
    keys: Sequence[bytes] = ()
    ids: Sequence[bytes] = field(default=())


def find_stream_keys(args: Sequence[bytes]) -> Sequence[bytes]:
    """The first half of what follows STREAMS."""
    position = 1
    while position < len(args):
        word = args[position].upper()
        if word == b"STREAMS":
            count, odd = divmod(len(args) - position - 1, 2)
            return () if odd else args[position + 1 : position + 1 + count]
        if word not in _WORDS:
            break
        position += _WORDS[word]
    return ()


_WORDS = {b"BLOCK": 2, b"COUNT": 2, b"GROUP": 3, b"NOACK": 1}
"""Option to how many arguments it takes with itself."""


def xread(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XREAD [COUNT count] [BLOCK ms] STREAMS key… id…; null when no stream has anything behind its id."""
    options = parse_read(args)
    if isinstance(options, Failure):
        return options
    wanted: list[tuple[bytes, StreamValue, int]] = []
    for key, text in zip(options.keys, options.ids, strict=True):
        held = state.find(key, StreamValue)
        if isinstance(held, Failure):
            return held
        if text == b">":
            return Failure(
                b"ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option."
            )
        id_ = parse_id(text) if text != b"$" else 0 if held is None else held.last_id
        if id_ is None:
            return INVALID_ID
        if held is not None:
            wanted.append((key, held, id_))
    found: list[tuple[Reply, Reply]] = []
    for key, held, id_ in wanted:
        if (held.entries.last_id or 0) > id_:
            found.append((key, entries_reply(islice(held.entries.between(id_ + 1, LARGEST_ID), options.count))))
    return Named(found) if found else NULL_ARRAY


def xreadgroup(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """XREADGROUP GROUP group consumer [COUNT count] [BLOCK ms] [NOACK] STREAMS key… id…

    ``>`` gives out what is new to the group; an id answers what is pending with the consumer behind it.
    """
    options = parse_read(args)
    if isinstance(options, Failure):
        return options
    if options.group is None:
        return Failure(b"ERR Missing GROUP option for XREADGROUP")
    wanted = _find_groups(state, options, options.group)
    if isinstance(wanted, Failure):
        return wanted
    found: list[tuple[Reply, Reply]] = []
    for key, id_ in wanted:
        held = state.find(key, StreamValue)
        assert isinstance(held, StreamValue)
        if id_ is _NEW and (held.entries.last_id or 0) <= held.groups[options.group].last_id:
            continue
        stream = state.change(key, held)
        group = stream.groups[options.group]
        stream.see(group, options.consumer, now_ms)
        if id_ is _NEW:
            found.append((key, _give_new(stream, group, options, now_ms)))
        else:
            found.append((key, _give_again(stream, group, options, id_, now_ms)))
        state.changed(key, stream)
    return Named(found) if found else NULL_ARRAY


def parse_read(args: Sequence[bytes]) -> ReadOptions | Failure:
    """The options of both, in the order in which Redis finds what is wrong; ids are looked at with their streams."""
    is_group_read = len(args[0]) == len(b"XREADGROUP")
    options = ReadOptions()
    position = 1
    while position < len(args):
        word = args[position].upper()
        more = len(args) - position - 1
        if word == b"BLOCK" and more:
            block_ms = parse_int(args[position + 1])
            if block_ms is None:
                return Failure(b"ERR timeout is not an integer or out of range")
            if block_ms < 0:
                return Failure(b"ERR timeout is negative")
            options.block_ms = block_ms
        elif word == b"COUNT" and more:
            count = parse_int(args[position + 1])
            if count is None:
                return NOT_AN_INTEGER
            options.count = count if count > 0 else None
        elif word == b"STREAMS" and more:
            count, odd = divmod(more, 2)
            if odd:
                return _UNBALANCED
            options.keys, options.ids = args[position + 1 : position + 1 + count], args[position + 1 + count :]
            return options
        elif (word == b"GROUP" and more >= 2) or word == b"NOACK":
            if not is_group_read:
                return Failure(b"ERR The %b option is only supported by XREADGROUP. You called XREAD instead." % word)
            if word == b"GROUP":
                options.group, options.consumer = args[position + 1], args[position + 2]
            else:
                options.is_acknowledged = True
        else:
            return SYNTAX
        position += _WORDS[word]
    return SYNTAX


def _find_groups(state: State, options: ReadOptions, name: bytes) -> list[tuple[bytes, int | None]] | Failure:
    """Each key, whose stream has the group, with the id behind which to read, or `_NEW`."""
    wanted: list[tuple[bytes, int | None]] = []
    for key, text in zip(options.keys, options.ids, strict=True):
        held = state.find(key, StreamValue)
        if isinstance(held, Failure):
            return held
        if held is None or name not in held.groups:
            return Failure(
                b"NOGROUP No such key '%b' or consumer group '%b' in XREADGROUP with GROUP option"
                % (until_zero(key), until_zero(name))
            )
        if text == b"$":
            return Failure(
                b"ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this "
                b"consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return "
                b"an empty result set."
            )
        id_ = _NEW if text == b">" else parse_id(text)
        if id_ is None and text != b">":
            return INVALID_ID
        wanted.append((key, _NEW if id_ == LARGEST_ID else id_))
    return wanted


def _give_new(stream: StreamValue, group: ConsumerGroup, options: ReadOptions, now_ms: int) -> list[Reply]:
    given: list[tuple[int, Fields]] = list(islice(stream.entries.between(group.last_id + 1, LARGEST_ID), options.count))
    entries_read = group.entries_read
    for id_, _ in given:
        entries_read = entries_read_after(stream, entries_read, id_)
        if not options.is_acknowledged:
            stream.give(group, id_, options.consumer, Pending(now_ms, 1))
    stream.set_group(group, given[-1][0], entries_read)
    return entries_reply(given)


def _give_again(
    stream: StreamValue, group: ConsumerGroup, options: ReadOptions, after: int, now_ms: int
) -> list[Reply]:
    """What is pending with the consumer; of an entry that is gone the id only."""
    replies: list[Reply] = []
    pending = group.consumers[options.consumer].pending
    for id_, before in list(islice(pending.between(after + 1, LARGEST_ID), options.count)):
        fields = stream.entries.get(id_)
        if fields is None:
            replies.append([format_id(id_), NULL_ARRAY])
        else:
            stream.give(group, id_, options.consumer, Pending(now_ms, before.times + 1))
            replies += entries_reply([(id_, fields)])
    return replies
