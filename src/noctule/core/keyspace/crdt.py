"""Values that copies in several places change on their own and join later: whatever the order, all end up the same.

Pure types without a key, a clock or a place: each is immutable, a change gives another one, and `join` is commutative,
associative and idempotent (Shapiro et al., "A comprehensive study of Convergent and Commutative Replicated Data
Types", 2011). A *site* is a place that changes its copy in one order only, as a cluster does by its log; two places
under one name break every law here. Equal values have equal bytes: all maps are kept in the order of their keys.

`CrdtValue` is how a value stands in the keyspace: its kind, and the rest as bytes that nobody else looks into.
Read merging.py next for the commands.
"""

from collections.abc import Container, Iterable
from enum import StrEnum
from typing import TypeAlias, TypeVar, assert_never

import msgspec
from msgspec import Struct

from noctule.base.errors import StorageError
from noctule.core.keyspace.numbers import INT_MAX

SITE_BYTES_MAX = 64
"""The longest name of a site; it stands in every counter and every member of a set that the site touched."""

NUMBER_MAX = 2**62
"""A greater stamp or dot is not taken from elsewhere: there is room above it for every change that will ever be."""

_Value = TypeVar("_Value")

Dots: TypeAlias = dict[bytes, int]
"""Site to a number of its own: which of its changes. Sorted by site."""


class CrdtKind(StrEnum):
    """What TYPE answers, and what a bucket is declared as."""

    LWW = "lww"
    COUNTER = "counter"
    ORSET = "orset"


class CrdtValue(Struct, array_like=True, frozen=True, gc=False):
    """A value of the keyspace that can be joined: never changed, only replaced."""

    kind: CrdtKind
    data: bytes
    """As `encode_crdt` makes it."""


class LwwRegister(Struct, array_like=True, frozen=True, tag="lww"):
    """The last writer wins: the one with the greater stamp, then the greater site, then the greater text."""

    stamp_ms: int
    """Rises with every change of this copy, whatever the clock does, so that what came later also wins."""
    site: bytes
    text: bytes | None
    """None once it was deleted; that is remembered, as an older text may still come from elsewhere."""

    def change(self, site: bytes, text: bytes | None, now_ms: int) -> "LwwRegister":
        """The register after a change here; it wins over every change that this copy has seen."""
        return LwwRegister(max(now_ms, self.stamp_ms + 1), site, text)

    def join(self, other: "LwwRegister") -> "LwwRegister":
        """The later of two."""
        return max(self, other, key=lambda each: (each.stamp_ms, each.site, each.text is not None, each.text or b""))


class PnCounter(Struct, array_like=True, frozen=True, tag="counter"):
    """A sum over all sites: each counts up what it added and what it took, and nobody else does."""

    added: Dots
    taken: Dots

    @property
    def value(self) -> int:
        """The sum."""
        return sum(self.added.values()) - sum(self.taken.values())

    def change(self, site: bytes, amount: int) -> "PnCounter":
        """The counter after `amount`, below 0 too, was added here. Raises `OverflowError` beyond 63 bits."""
        if not amount:
            return self
        added, taken = self.added, self.taken
        if amount > 0:
            added = _sorted({**added, site: added.get(site, 0) + amount})
        else:
            taken = _sorted({**taken, site: taken.get(site, 0) - amount})
        changed = PnCounter(added, taken)
        if max(sum(added.values()), sum(taken.values())) > INT_MAX:
            raise OverflowError
        return changed

    def join(self, other: "PnCounter") -> "PnCounter":
        """What each site counted, as far as either has heard."""
        return PnCounter(_greatest(self.added, other.added), _greatest(self.taken, other.taken))


class ObservedSet(Struct, array_like=True, frozen=True, tag="orset"):
    """A set in which adding wins over a removal that did not know of it.

    Every addition has a dot of its own, a site's number that is never given twice; a removal takes away the dots it
    saw. `seen` holds the newest dot known of each site, so a dot that is seen and not here was removed, and removals
    leave nothing behind (Bieniusa et al., "An optimized conflict-free replicated set", 2012).
    """

    seen: Dots
    members: dict[bytes, Dots]

    def add(self, site: bytes, added: Iterable[bytes]) -> "ObservedSet":
        """The set with members that were added here; the one new dot of each stands for those it had."""
        newest = self.seen.get(site, 0)
        members = dict(self.members)
        for member in added:
            newest += 1
            members[member] = {site: newest}
        return ObservedSet(_sorted({**self.seen, site: newest}), _sorted(members))

    def remove(self, removed: Container[bytes]) -> "ObservedSet":
        """The set without these members, as far as it is known here."""
        return ObservedSet(self.seen, {each: dots for each, dots in self.members.items() if each not in removed})

    def join(self, other: "ObservedSet") -> "ObservedSet":
        """Of each member the dots that both have, or that one has and the other never saw."""
        members: dict[bytes, Dots] = {}
        for member in sorted(self.members.keys() | other.members.keys()):
            mine, theirs = self.members.get(member, {}), other.members.get(member, {})
            kept = _unseen(mine, theirs, other.seen) | _unseen(theirs, mine, self.seen)
            if kept:
                members[member] = _sorted(kept)
        return ObservedSet(_greatest(self.seen, other.seen), members)


Crdt: TypeAlias = LwwRegister | PnCounter | ObservedSet

EMPTY: dict[CrdtKind, Crdt] = {
    CrdtKind.LWW: LwwRegister(0, b"", None),
    CrdtKind.COUNTER: PnCounter({}, {}),
    CrdtKind.ORSET: ObservedSet({}, {}),
}
"""What a key that is absent stands for: joining it changes nothing."""


def kind_of(value: Crdt) -> CrdtKind:
    """The kind of a value."""
    match value:
        case LwwRegister():
            return CrdtKind.LWW
        case PnCounter():
            return CrdtKind.COUNTER
        case ObservedSet():
            return CrdtKind.ORSET
        case _:
            assert_never(value)


def join(left: Crdt, right: Crdt) -> Crdt:
    """The join of two values of one kind. Raises `TypeError` when they are not."""
    match left, right:
        case (LwwRegister(), LwwRegister()):
            return left.join(right)
        case (PnCounter(), PnCounter()):
            return left.join(right)
        case (ObservedSet(), ObservedSet()):
            return left.join(right)
        case _:
            raise TypeError(f"a {kind_of(left)} cannot be joined with a {kind_of(right)}")


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Crdt)


def encode_crdt(value: Crdt) -> CrdtValue:
    """As it stands in the keyspace."""
    return CrdtValue(kind_of(value), _encoder.encode(value))


def decode_crdt(data: bytes) -> Crdt:
    """The inverse, of the data. Raises `StorageError`: what is in the keyspace was made by `encode_crdt`."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise StorageError(f"a value that can be joined cannot be read: {error}") from error


def load_crdt(data: bytes) -> Crdt:
    """A value from elsewhere. Raises `ValueError` for what no changes could have led to: it would break the laws."""
    try:
        value = _decoder.decode(data)
    except msgspec.MsgspecError:
        raise ValueError("it cannot be read") from None
    if _encoder.encode(value) != data or not _is_sound(value):
        raise ValueError("no changes lead to it")
    return value


def _is_sound(value: Crdt) -> bool:
    """Whether every number is in range, and no dot is there that was not seen; the order of maps is seen to already."""
    match value:
        case LwwRegister():
            return 0 <= value.stamp_ms <= NUMBER_MAX and len(value.site) <= SITE_BYTES_MAX
        case PnCounter():
            return all(_are_sound(dots, INT_MAX) for dots in (value.added, value.taken))
        case ObservedSet():
            seen = value.seen
            return (
                _are_sound(seen, NUMBER_MAX)
                and list(value.members) == sorted(value.members)
                and all(dots and _are_sound(dots, NUMBER_MAX) for dots in value.members.values())
                and all(seen.get(site, 0) >= dots[site] for dots in value.members.values() for site in dots)
            )
        case _:
            assert_never(value)


def _are_sound(dots: Dots, most: int) -> bool:
    return list(dots) == sorted(dots) and all(
        0 < number <= most and 0 < len(site) <= SITE_BYTES_MAX for site, number in dots.items()
    )


def _sorted(values: dict[bytes, _Value]) -> dict[bytes, _Value]:
    return dict(sorted(values.items()))


def _greatest(left: Dots, right: Dots) -> Dots:
    return _sorted({site: max(left.get(site, 0), right.get(site, 0)) for site in left.keys() | right.keys()})


def _unseen(mine: Dots, theirs: Dots, seen: Dots) -> Dots:
    """Those of my dots that they have too, or never saw."""
    return {site: number for site, number in mine.items() if theirs.get(site) == number or number > seen.get(site, 0)}
