"""The declaration of a bucket whose values join."""

from msgspec import Struct

from noctule.core.keyspace.crdt import CrdtKind


class Bucket(Struct, array_like=True, frozen=True, gc=False):
    """What the keys of a bucket hold, and the site under which this copy of them changes."""

    kind: CrdtKind
    site: bytes
