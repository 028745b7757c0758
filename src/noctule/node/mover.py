"""What a leader does for the partitions it leads: migrations, splits and merges, one step after the other."""

from typing import TYPE_CHECKING

from noctule.base.ids import Instant
from noctule.core.meta.state import MetaState
from noctule.node.proposals import Proposals

if TYPE_CHECKING:
    from noctule.node.steward import Premises, Steward


class Mover:
    """One node's."""

    def __init__(self, node_id: int, steward: "Steward", premises: "Premises", proposals: Proposals) -> None:
        self._node_id = node_id

    def tick(self, meta: MetaState, now: Instant) -> None:
        """Look at what is led here."""
