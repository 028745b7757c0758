"""How old a replica's own state may be: what an eventual read is told of its answer.

Read it as "at most so much older than what the leader knew when it last spoke". It does not know how long the leader's
words were on their way, nor that whom it hears was deposed a moment ago and has not learnt of it: that may go on for an
election timeout. A read that must not rest on this is linearizable.
"""

from noctule.base.ids import Instant

NEVER = Instant(float("-inf"))


def staleness_s(
    now: Instant, *, is_leader: bool, caught_up_at: Instant, leader_node_heard_at: Instant | None = None
) -> float | None:
    """Seconds since this replica is known to have had all that its leader had committed; None when that was never.

    `caught_up_at` is when it last heard its leader and had, then, applied what that said was committed. A group that is
    idle may sleep, and its leader then says nothing: while both sides keep to that, `leader_node_heard_at` is when the
    last frame came from the leader's node, which would have woken this replica first had there been any news; None
    while the group is awake.
    """
    if is_leader:
        return 0.0
    if caught_up_at == NEVER:
        return None
    return now - max(caught_up_at, NEVER if leader_node_heard_at is None else leader_node_heard_at)
