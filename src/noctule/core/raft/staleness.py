"""How old a replica's own state may be: what an eventual read is told of its answer.

Read it as "at most so much older than what the leader knew when it last spoke". It does not know how long words were on
their way, nor that a leader of the past, cut off with this replica, has not stepped down yet: that may go on for two
election timeouts. A read that must not rest on this is linearizable.
"""

from noctule.base.ids import Instant

NEVER = Instant(float("-inf"))


def staleness_s(now: Instant, *, fresh_at: Instant, asleep_heard_at: Instant | None = None) -> float | None:
    """Seconds since this replica is known to have had all that was committed; None when that was never.

    `fresh_at` is `RaftNode.fresh_at`: when a follower last heard its leader and had, then, committed all that
    the leader had; when a leader last heard a majority. A group that is idle may sleep, and nobody says anything in it:
    `asleep_heard_at` is then when the nodes concerned last heard each other (a follower the leader's node, a leader a
    majority of its followers' nodes), since any news would have come before that; None while the group is awake.
    """
    if fresh_at == NEVER:
        return None
    return now - max(fresh_at, NEVER if asleep_heard_at is None else asleep_heard_at)
