"""What a command answers, as plain values that travel between nodes and are encoded for the client last.

Some kinds have no Python value of their own: a status line (``+OK``), an error line (``-ERR …``), a set, pairs, a map
whose keys may occur twice, and no array. They are slotted classes and not Structs, so that the wire's encoder can tell
them from lists.
"""

from typing import TypeAlias


class Status:
    """A simple string such as ``OK``; `text` without the leading ``+``."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Status) and other.text == self.text

    def __hash__(self) -> int:
        return hash((Status, self.text))

    def __repr__(self) -> str:
        return f"Status({self.text!r})"


class Failure:
    """An error line; `text` begins with its code, such as ``ERR`` or ``WRONGTYPE``, without the leading ``-``."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Failure) and other.text == self.text

    def __hash__(self) -> int:
        return hash((Failure, self.text))

    def __repr__(self) -> str:
        return f"Failure({self.text!r})"


class Moved(Failure):
    """Not for clients: a slot of the command is not, or no longer, in the partition that was asked; nothing happened.

    There is one instance, `MOVED`, also of what came over the wire; the router asks again by the map.
    """

    __slots__ = ()


class Members:
    """A set of replies in an order that all replicas have: a set in RESP3, an array in RESP2."""

    __slots__ = ("items",)

    def __init__(self, items: "list[Reply]") -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Members) and other.items == self.items

    def __hash__(self) -> int:
        return hash((Members, len(self.items)))

    def __repr__(self) -> str:
        return f"Members({self.items!r})"


class Pairs:
    """Replies two by two, such as members with scores: an array of pairs in RESP3, one flat array in RESP2."""

    __slots__ = ("items",)

    def __init__(self, items: "list[tuple[Reply, Reply]]") -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pairs) and other.items == self.items

    def __hash__(self) -> int:
        return hash((Pairs, len(self.items)))

    def __repr__(self) -> str:
        return f"Pairs({self.items!r})"


class Encoded:
    """Bytes for the client as they are, such as pushes; made by a server, never by a replica, and never sent to one."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Named:
    """Replies under names, such as entries by stream: a map in RESP3, where a name may come twice, and an array of
    pairs in RESP2."""

    __slots__ = ("items",)

    def __init__(self, items: "list[tuple[Reply, Reply]]") -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and other.items == self.items

    def __hash__(self) -> int:
        return hash((Named, len(self.items)))

    def __repr__(self) -> str:
        return f"Named({self.items!r})"


class NullArray:
    """No array, where one could have been: a null that RESP2 tells from the null of bulk strings.

    There is one instance, `NULL_ARRAY`, also of what came over the wire.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "NULL_ARRAY"


Reply: TypeAlias = (
    int
    | float
    | bytes
    | Status
    | Failure
    | Members
    | Pairs
    | Named
    | NullArray
    | Encoded
    | list["Reply"]
    | dict[bytes, "Reply"]
    | None
)
"""bytes: bulk string; dict: map (a flat array in RESP2); float: double (a bulk string in RESP2)."""

OK = Status(b"OK")
NULL_ARRAY = NullArray()
MOVED = Moved(b"CLUSTERDOWN another partition has this slot now; nothing was applied")
