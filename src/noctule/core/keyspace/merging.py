"""The commands on values that can be joined, and on the buckets that hold them. See ADR 0021.

A *bucket* is every key that begins with its name and a colon. It is declared with a kind, and with the site under which
this copy of it changes; each partition keeps the declarations in its own state, so that replicas decide alike. The keys
of a bucket hold its kind or nothing: a string there could not be joined, and a key that is removed would forget which
numbers it has given, so `bucket_problem` refuses what would do either.
"""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from noctule.base.bounds import VALUE_BYTES_MAX
from noctule.core.keyspace.bucket import Bucket
from noctule.core.keyspace.crdt import (
    EMPTY,
    SITE_BYTES_MAX,
    Crdt,
    CrdtKind,
    CrdtValue,
    LwwRegister,
    ObservedSet,
    PnCounter,
    decode_crdt,
    encode_crdt,
    join,
    load_crdt,
)
from noctule.core.keyspace.failures import NOT_AN_INTEGER, OVERFLOW, WRONG_TYPE
from noctule.core.keyspace.numbers import INT_MAX, INT_MIN, parse_int
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.keyspace.spec import GROW, GROW_FAST, NO_KEYS, ONE, READ, READ_FAST, WRITE, CommandSpec, Scope, rows
from noctule.core.keyspace.state import State

BUCKETS_MAX = 1_000
"""Every partition keeps every declaration, and every snapshot holds them."""
STATE_BYTES_MAX = 256 << 10
"""Of a counter or a set. Each change reads and writes the whole of it: 7,000 members cost 4 ms, joining them 18 ms."""

NO_BUCKET = Failure(b"NOBUCKET the key is in no bucket of that kind; declare one by BUCKET.CREATE")
IN_BUCKET = Failure(b"WRONGTYPE the key is in a bucket, whose values can only be changed so that they can be joined")
TOO_LARGE = Failure(b"ERR the value would be over STATE_BYTES_MAX, %d bytes" % STATE_BYTES_MAX)

_NAME = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_C = TypeVar("_C", LwwRegister, PnCounter, ObservedSet)


def bucket_create(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BUCKET.CREATE name kind [site]; again with the same kind changes nothing.

    The site is the cluster's own when it is left out, which the router sees to before the command is logged.
    """
    name, word, site = args[1], args[2].lower(), args[3] if len(args) == 4 else b""
    if len(args) > 4 or not _NAME.fullmatch(name) or not 0 < len(site) <= SITE_BYTES_MAX:
        return Failure(b"ERR a bucket has a name of 1 to 64 letters, digits, dots, dashes or _, a kind, and a site")
    if word.decode("ascii", "replace") not in set(CrdtKind):
        return Failure(b"ERR a bucket is of kind lww, counter or orset")
    held = state.buckets.get(name)
    if held is not None:
        return OK if held.kind.encode() == word else Failure(b"ERR the bucket is of kind %b" % held.kind.encode())
    if len(state.buckets) == BUCKETS_MAX:
        return Failure(b"ERR there are BUCKETS_MAX buckets, %d" % BUCKETS_MAX)
    state.declare_bucket(name, Bucket(CrdtKind(word.decode()), site))
    return OK


def bucket_list(state: State, _args: Sequence[bytes], _now_ms: int) -> Reply:
    """BUCKET.LIST: name to kind."""
    return {name: bucket.kind.encode() for name, bucket in sorted(state.buckets.items())}


def bucket_problem(state: State, keys: Sequence[bytes], *, may_create: bool) -> Failure | None:
    """Why an ordinary write may not touch these keys; None when it may.

    What was there before its bucket was declared may still go. `may_create`: whether the command could put a value.
    """
    for key in keys:
        if bucket_of(state, key) is not None and (may_create or isinstance(state.get(key), CrdtValue)):
            return IN_BUCKET
    return None


def bucket_of(state: State, key: bytes) -> Bucket | None:
    """The bucket that a key is in."""
    name, colon, _ = key.partition(b":")
    return state.buckets.get(name) if colon else None


def lww_set(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """LWW.SET key value."""
    return _change(state, args[1], LwwRegister, lambda value, site: value.change(site, args[2], now_ms))


def lww_del(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """LWW.DEL key: a deletion that wins over what was set before it, wherever that was."""
    return _change(state, args[1], LwwRegister, lambda value, site: value.change(site, None, now_ms))


def lww_get(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """LWW.GET key; nil without the key, and once it was deleted."""
    value = _value(state, args[1], LwwRegister)
    return value if isinstance(value, Failure) else value.text


def counter_add(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """COUNTER.ADD key amount; the value as far as it is known here."""
    amount = parse_int(args[2])
    if amount is None or amount == INT_MIN:
        return NOT_AN_INTEGER
    try:
        changed = _change(state, args[1], PnCounter, lambda value, site: value.change(site, amount))
    except OverflowError:
        return OVERFLOW
    return changed if isinstance(changed, Failure) else counter_get(state, args, 0)


def counter_get(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """COUNTER.GET key; 0 without the key."""
    value = _value(state, args[1], PnCounter)
    if isinstance(value, Failure):
        return value
    return value.value if INT_MIN <= value.value <= INT_MAX else OVERFLOW


def orset_add(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ORSET.ADD key member…; how many were not there. One that was is added anew, and so outlives removals elsewhere
    that do not know of this."""
    before = _value(state, args[1], ObservedSet)
    if isinstance(before, Failure):
        return before

    members = dict.fromkeys(args[2:])
    changed = _change(state, args[1], ObservedSet, lambda value, site: value.add(site, members))
    return changed if isinstance(changed, Failure) else len(members.keys() - before.members.keys())


def orset_rem(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ORSET.REM key member…; how many were there."""
    before = _value(state, args[1], ObservedSet)
    if isinstance(before, Failure):
        return before
    leaving = before.members.keys() & set(args[2:])
    changed = _change(state, args[1], ObservedSet, lambda value, _site: value.remove(leaving))
    return changed if isinstance(changed, Failure) else len(leaving)


def orset_members(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ORSET.MEMBERS key, sorted."""
    value = _value(state, args[1], ObservedSet)
    return value if isinstance(value, Failure) else list(value.members)


def orset_contains(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ORSET.CONTAINS key member."""
    value = _value(state, args[1], ObservedSet)
    return value if isinstance(value, Failure) else int(args[2] in value.members)


def crdt_state(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """CRDT.STATE key: the value as CRDT.MERGE takes it; nil without the key."""
    held = state.get(args[1])
    if held is None:
        return None
    return held.data if isinstance(held, CrdtValue) else WRONG_TYPE


def crdt_merge(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """CRDT.MERGE key state: join the value with one from elsewhere; how often and in which order does not matter."""
    try:
        other = load_crdt(args[2])
    except ValueError as error:
        return Failure(f"ERR not the state of a value that can be joined: {error}".encode())
    return _change(state, args[1], type(other), lambda value, _site: join(value, other))  # type: ignore[type-var]


def _value(state: State, key: bytes, kind: type[_C]) -> _C | Failure:
    """What a key holds, or the empty value of its kind."""
    held = state.get(key)
    value = _EMPTY[kind] if held is None else decode_crdt(held.data) if isinstance(held, CrdtValue) else None
    return value if isinstance(value, kind) else WRONG_TYPE


def _change(state: State, key: bytes, kind: type[_C], changed: Callable[[_C, bytes], _C]) -> Reply:
    """Replace a key's value by what `changed` makes of it and of the bucket's site; OK, or why not."""
    bucket = bucket_of(state, key)
    if bucket is None or _EMPTY[kind] is not EMPTY[bucket.kind]:
        return NO_BUCKET
    value = _value(state, key, kind)
    if isinstance(value, Failure):
        return value
    encoded = encode_crdt(changed(value, bucket.site))
    if len(encoded.data) > (VALUE_BYTES_MAX if kind is LwwRegister else STATE_BYTES_MAX):
        return TOO_LARGE
    state.put(key, encoded)
    return OK


_EMPTY: dict[type, Crdt] = {type(value): value for value in EMPTY.values()}

MERGING = frozenset((bucket_create, lww_set, lww_del, counter_add, orset_add, orset_rem, crdt_merge))
"""The writes that know of buckets themselves."""


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("COUNTER.ADD", 3, GROW, ONE, counter_add, "Adds a number to a counter; the sum as known here."),
        ("COUNTER.GET", 2, READ, ONE, counter_get, "The sum of a counter."),
        ("CRDT.MERGE", 3, GROW, ONE, crdt_merge, "Joins a value with a state from elsewhere."),
        ("CRDT.STATE", 2, READ_FAST, ONE, crdt_state, "The state of a value, for CRDT.MERGE."),
        ("LWW.DEL", 2, GROW_FAST, ONE, lww_del, "Deletes a register's text; the last writer wins."),
        ("LWW.GET", 2, READ_FAST, ONE, lww_get, "The text of a register."),
        ("LWW.SET", 3, GROW_FAST, ONE, lww_set, "Sets a register's text; the last writer wins."),
        ("ORSET.ADD", -3, GROW, ONE, orset_add, "Adds members to a set; adding wins over removing."),
        ("ORSET.CONTAINS", 3, READ, ONE, orset_contains, "Whether a set has a member."),
        ("ORSET.MEMBERS", 2, READ, ONE, orset_members, "The members of a set, sorted."),
        ("ORSET.REM", -3, WRITE, ONE, orset_rem, "Removes members from a set."),
    ),
    *rows(
        Scope.ALL,
        ("BUCKET.CREATE", -3, GROW, NO_KEYS, bucket_create, "Declares a bucket: lww, counter or orset; site."),
        ("BUCKET.LIST", 1, READ, NO_KEYS, bucket_list, "The declared buckets with their kinds."),
    ),
)
"""The rows of this file."""
