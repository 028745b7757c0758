"""What is at stake when a dead node is taken out by force: told before anyone does it. Pure."""

from msgspec import Struct

from noctule.core.placement.picture import ClusterPicture, is_living


class Risk(Struct, frozen=True):
    """What the removal of one node means for the partitions that have a replica there."""

    node: int
    held: tuple[int, ...]
    """The partitions that lose a replica."""
    living_replicas: dict[int, int]
    """How many of those keep 0, 1, 2, … living replicas."""
    fragile: tuple[int, ...]
    """They keep a majority, and would lose it with one more node: until they are restored, nothing else may fail."""
    without_majority: tuple[int, ...]
    """Living replicas are left, but no majority: they stop, and what the living ones lack is lost if they are made
    to go on alone. Bring another of their nodes back first."""
    without_copy: tuple[int, ...]
    """No living replica is left: if none of their nodes comes back, their data are gone."""
    bytes_at_risk: int
    """What the partitions without a majority or a copy hold, as they last said."""
    sentences: tuple[str, ...]
    """All of it for operators, the worst first."""

    @property
    def is_dangerous(self) -> bool:
        """Whether data may be lost by it."""
        return bool(self.without_majority or self.without_copy)


def estimate_risk(picture: ClusterPicture, node: int) -> Risk:
    """What removing this node for good means as things stand, whether or not it is alive itself."""
    living = {each.id for each in picture.nodes if is_living(each)}
    held, fragile, without_majority, without_copy = list[int](), list[int](), list[int](), list[int]()
    counts: dict[int, int] = {}
    bytes_at_risk = 0
    for partition in picture.partitions:
        if node not in partition.replicas:
            continue
        held.append(partition.id)
        left = sum(each in living and each != node for each in partition.replicas)
        counts[left] = counts.get(left, 0) + 1
        majority = len(partition.replicas) // 2 + 1
        if left < majority:
            (without_majority if left else without_copy).append(partition.id)
            bytes_at_risk += partition.bytes
        elif left == majority:
            fragile.append(partition.id)
    return Risk(
        node=node,
        held=tuple(held),
        living_replicas=dict(sorted(counts.items())),
        fragile=tuple(fragile),
        without_majority=tuple(without_majority),
        without_copy=tuple(without_copy),
        bytes_at_risk=bytes_at_risk,
        sentences=tuple(
            _sentences(
                node,
                is_alive=node in living,
                counts=(len(held), len(fragile), len(without_majority), len(without_copy)),
                bytes_at_risk=bytes_at_risk,
            )
        ),
    )


def _sentences(node: int, *, is_alive: bool, counts: tuple[int, int, int, int], bytes_at_risk: int) -> list[str]:
    held, fragile, without_majority, without_copy = counts
    sentences = []
    if without_copy:
        sentences.append(f"Partitions without any living replica: {without_copy}. Their data are lost for good.")
    if without_majority:
        sentences.append(
            f"Partitions without a majority: {without_majority}. They stop, and acknowledged writes may be lost: "
            "bring another of their nodes back first."
        )
    if bytes_at_risk:
        sentences.append(f"Data at risk: {bytes_at_risk / (1 << 20):.1f} MiB.")
    if fragile:
        sentences.append(f"Partitions that cannot lose another node until they are restored: {fragile}.")
    if is_alive:
        sentences.append(f"Node {node} is alive: drain it instead, which loses nothing.")
    sentences.append(
        f"Partitions with a replica on node {node}: {held}." if held else f"No partition has a replica on node {node}."
    )
    return sentences
