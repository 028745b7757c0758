"""What *meta* keeps beside its objects, and which of those it says have changed."""

from msgspec import Struct


class Admission(Struct, frozen=True):
    """By its nonce: which id a node was given, and by which token, so that its second try is told the same."""

    nonce: str
    token: str
    id: int


class Counters(Struct, frozen=True):
    """What is one of a kind: the cluster's name, what is opened for good, and the numbers that only rise."""

    cluster_id: str = ""
    version: int = 0
    epoch: int = 0
    features: tuple[str, ...] = ()
    member_id_next: int = 1
    partition_id_next: int = 1
    migration_id_next: int = 1
    merge_id_next: int = 1


class Changes(Struct, frozen=True):
    """Which objects changed, came or went since somebody last asked."""

    everything: bool = False
    """The state was loaded: whoever keeps something of it compares all. The ids below are then all there are."""
    partitions: frozenset[int] = frozenset()
    members: frozenset[int] = frozenset()
    migrations: frozenset[int] = frozenset()
    splits: frozenset[int] = frozenset()
    """By the child."""
    merges: frozenset[int] = frozenset()
    settings: bool = False
    features: bool = False
    registry: bool = False
    """What of it is told by `Registry.changed_since`."""

    def __bool__(self) -> bool:
        return self != _NO_CHANGES


_NO_CHANGES = Changes()
